//! One call of a hooked function, whatever its calling convention.
//!
//! CPython's functions are declared with one of five signatures, and which one differs between versions. A hook has an
//! entry for each; at installation the entry that fits the function's flags is put in place (slot.rs), and all of them
//! hand the wrapper the same [`Call`].

use std::ffi::c_int;
use std::ptr::null_mut;

use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use super::slot::Slot;
use crate::object::{Obj, PyResult, boundary, utf8};
use crate::runtime::Runtime;

/// Arguments as they came in.
#[derive(Clone, Copy)]
pub(super) enum Raw {
    /// `METH_NOARGS`, `METH_O`, `METH_VARARGS`: one pointer, whose meaning the flags tell.
    One(*mut PyObject),
    /// `METH_VARARGS | METH_KEYWORDS`: a tuple, a dict or null.
    Keywords(*mut PyObject, *mut PyObject),
    /// `METH_FASTCALL`.
    Fast(*const *mut PyObject, ffi::Py_ssize_t),
    /// `METH_FASTCALL | METH_KEYWORDS`.
    FastKeywords(*const *mut PyObject, ffi::Py_ssize_t, *mut PyObject),
    /// `METH_METHOD | METH_FASTCALL | METH_KEYWORDS`.
    Method(*mut PyObject, *const *mut PyObject, ffi::Py_ssize_t, *mut PyObject),
}

/// One call of a hooked function. Borrows its arguments from the caller.
pub(crate) struct Call {
    pub(crate) slf: *mut PyObject,
    raw: Raw,
    slot: &'static Slot,
    pub(crate) runtime: &'static Runtime,
}

/// What a hook does with a call.
pub(crate) type Wrapper = fn(&Call) -> PyResult<Obj>;

type Cfunction = unsafe extern "C" fn(*mut PyObject, *mut PyObject) -> *mut PyObject;
type WithKeywords = unsafe extern "C" fn(*mut PyObject, *mut PyObject, *mut PyObject) -> *mut PyObject;
type Fast = unsafe extern "C" fn(*mut PyObject, *const *mut PyObject, ffi::Py_ssize_t) -> *mut PyObject;
type FastKeywords =
    unsafe extern "C" fn(*mut PyObject, *const *mut PyObject, ffi::Py_ssize_t, *mut PyObject) -> *mut PyObject;
type Method = unsafe extern "C" fn(
    *mut PyObject,
    *mut PyObject,
    *const *mut PyObject,
    ffi::Py_ssize_t,
    *mut PyObject,
) -> *mut PyObject;

/// Calls the original with the arguments as they came.
///
/// # Safety
/// `raw` came in through the entry that fits the slot's flags.
#[inline(always)]
pub(super) unsafe fn original(slot: &Slot, slf: *mut PyObject, raw: Raw) -> *mut PyObject {
    let function = slot.original();
    // SAFETY: the pointer was read from a method definition whose flags choose the signature, and those flags chose the
    // entry that made `raw`.
    unsafe {
        match raw {
            Raw::One(arg) => std::mem::transmute::<*mut std::ffi::c_void, Cfunction>(function)(slf, arg),
            Raw::Keywords(args, kwargs) => {
                std::mem::transmute::<*mut std::ffi::c_void, WithKeywords>(function)(slf, args, kwargs)
            }
            Raw::Fast(values, count) => {
                std::mem::transmute::<*mut std::ffi::c_void, Fast>(function)(slf, values, count)
            }
            Raw::FastKeywords(values, count, names) => {
                std::mem::transmute::<*mut std::ffi::c_void, FastKeywords>(function)(slf, values, count, names)
            }
            Raw::Method(class, values, count, names) => {
                std::mem::transmute::<*mut std::ffi::c_void, Method>(function)(slf, class, values, count, names)
            }
        }
    }
}

unsafe extern "C" {
    /// `Include/cpython/pystate.h`: the thread state in use, or null. Renamed in 3.13.
    #[cfg_attr(not(Py_3_13), link_name = "_PyThreadState_UncheckedGet")]
    fn PyThreadState_GetUnchecked() -> *mut ffi::PyThreadState;
}

/// The scheduler of the calling thread.
///
/// Method definitions are shared by all interpreters of the process, but a scheduler belongs to one thread state.
#[inline(always)]
pub(super) fn runtime() -> Option<&'static Runtime> {
    // SAFETY: reads a thread-local.
    Runtime::with_state(unsafe { PyThreadState_GetUnchecked() })
}

/// On a thread without a scheduler the original is called; else the wrapper decides.
///
/// # Safety
/// Called by the interpreter through the entry that fits the slot's flags, with what it was given.
pub(super) unsafe fn dispatch(slot: &'static Slot, wrapper: Wrapper, slf: *mut PyObject, raw: Raw) -> *mut PyObject {
    match runtime() {
        Some(runtime) if !runtime.on_errand() => boundary(|| {
            if slot.cost() > 0 {
                runtime.take_turn(slot.cost())?;
            }
            wrapper(&Call { slf, raw, slot, runtime })
        }),
        _ => {
            let ours = in_main_interpreter();
            if ours {
                slot.about_to_call(slf, first(slot, raw));
            }
            // SAFETY: the entry that was called is the one that fits.
            let result = unsafe { original(slot, slf, raw) };
            if ours {
                slot.called(slf, result);
            }
            result
        }
    }
}

/// The first positional argument, or null.
fn first(slot: &Slot, raw: Raw) -> *mut PyObject {
    match raw {
        Raw::One(arg) if slot.flags() & ffi::METH_O != 0 => arg,
        Raw::One(_) if slot.flags() & ffi::METH_NOARGS != 0 => null_mut(),
        // SAFETY: a tuple by this convention; its first item is borrowed.
        Raw::One(tuple) | Raw::Keywords(tuple, _) => unsafe {
            if ffi::PyTuple_Size(tuple) > 0 { ffi::PyTuple_GetItem(tuple, 0) } else { null_mut() }
        },
        Raw::Fast(values, count) | Raw::FastKeywords(values, count, _) | Raw::Method(_, values, count, _) => {
            // SAFETY: within the vector.
            if count > 0 { unsafe { *values } } else { null_mut() }
        }
    }
}

/// Whether the caller runs in the interpreter whose lock guards our tables.
pub(crate) fn in_main_interpreter() -> bool {
    // SAFETY: the GIL of some interpreter is held.
    unsafe { ffi::PyInterpreterState_Get() == ffi::PyInterpreterState_Main() }
}

/// The entries of one hook, one for each signature.
pub(crate) struct Entries {
    pub(crate) one: Cfunction,
    pub(crate) keywords: WithKeywords,
    pub(crate) fast: Fast,
    pub(crate) fast_keywords: FastKeywords,
    pub(crate) method: Method,
}

impl Entries {
    /// The entry for a function with these flags, or null for a convention that is not known.
    pub(crate) fn fitting(&self, flags: c_int) -> *mut std::ffi::c_void {
        let conventions = ffi::METH_VARARGS
            | ffi::METH_FASTCALL
            | ffi::METH_NOARGS
            | ffi::METH_O
            | ffi::METH_KEYWORDS
            | ffi::METH_METHOD;
        match flags & conventions {
            f if f == ffi::METH_NOARGS || f == ffi::METH_O || f == ffi::METH_VARARGS => self.one as *mut _,
            f if f == ffi::METH_VARARGS | ffi::METH_KEYWORDS => self.keywords as *mut _,
            f if f == ffi::METH_FASTCALL => self.fast as *mut _,
            f if f == ffi::METH_FASTCALL | ffi::METH_KEYWORDS => self.fast_keywords as *mut _,
            f if f == ffi::METH_METHOD | ffi::METH_FASTCALL | ffi::METH_KEYWORDS => self.method as *mut _,
            _ => null_mut(),
        }
    }
}

/// Builds a [`Hook`](super::slot::Hook): its own slot, and an entry for each signature. Calls go by way of [`dispatch`],
/// or of another function like it.
macro_rules! hook {
    ($owner:expr, $name:literal, $wrapper:path) => {
        $crate::hooks::call::hook!($owner, $name, $wrapper, by $crate::hooks::call::dispatch)
    };
    ($owner:expr, $name:literal, $wrapper:path, by $dispatch:path) => {{
        use pyo3_ffi::{Py_ssize_t, PyObject};
        use $crate::hooks::{call, call::Raw, slot};
        static SLOT: slot::Slot = slot::Slot::new();
        // SAFETY (all five): the interpreter calls the entry whose signature fits the function's flags.
        unsafe extern "C" fn one(slf: *mut PyObject, arg: *mut PyObject) -> *mut PyObject {
            // SAFETY: see above.
            unsafe { $dispatch(&SLOT, $wrapper, slf, Raw::One(arg)) }
        }
        unsafe extern "C" fn keywords(slf: *mut PyObject, args: *mut PyObject, kwargs: *mut PyObject) -> *mut PyObject {
            // SAFETY: see above.
            unsafe { $dispatch(&SLOT, $wrapper, slf, Raw::Keywords(args, kwargs)) }
        }
        unsafe extern "C" fn fast(
            slf: *mut PyObject,
            values: *const *mut PyObject,
            count: Py_ssize_t,
        ) -> *mut PyObject {
            // SAFETY: see above.
            unsafe { $dispatch(&SLOT, $wrapper, slf, Raw::Fast(values, count)) }
        }
        unsafe extern "C" fn fast_keywords(
            slf: *mut PyObject,
            values: *const *mut PyObject,
            count: Py_ssize_t,
            names: *mut PyObject,
        ) -> *mut PyObject {
            // SAFETY: see above.
            unsafe { $dispatch(&SLOT, $wrapper, slf, Raw::FastKeywords(values, count, names)) }
        }
        unsafe extern "C" fn method(
            slf: *mut PyObject,
            class: *mut PyObject,
            values: *const *mut PyObject,
            count: Py_ssize_t,
            names: *mut PyObject,
        ) -> *mut PyObject {
            // SAFETY: see above.
            unsafe { $dispatch(&SLOT, $wrapper, slf, Raw::Method(class, values, count, names)) }
        }
        slot::Hook {
            owner: $owner,
            name: $name,
            slot: &SLOT,
            entries: call::Entries { one, keywords, fast, fast_keywords, method },
        }
    }};
}
pub(crate) use hook;

impl Call {
    /// Calls the original with the arguments as they came.
    pub(crate) fn original(&self) -> PyResult<Obj> {
        // SAFETY: `dispatch` made `raw` for this slot.
        Obj::owned(unsafe { original(self.slot, self.slf, self.raw) })
    }

    /// Calls the original with other positional arguments and no keywords.
    pub(crate) fn original_with(&self, values: &[*mut PyObject]) -> PyResult<Obj> {
        let count = values.len() as ffi::Py_ssize_t;
        let raw = match self.raw {
            Raw::One(_) if self.slot.flags() & ffi::METH_O != 0 => Raw::One(values[0]),
            Raw::One(_) if self.slot.flags() & ffi::METH_NOARGS != 0 => Raw::One(null_mut()),
            Raw::One(_) | Raw::Keywords(..) => {
                let tuple = tuple_of(values)?;
                let raw = if matches!(self.raw, Raw::One(_)) {
                    Raw::One(tuple.ptr())
                } else {
                    Raw::Keywords(tuple.ptr(), null_mut())
                };
                // SAFETY: the same signature as the call that came in; the tuple lives until it returns.
                return Obj::owned(unsafe { original(self.slot, self.slf, raw) });
            }
            Raw::Fast(..) => Raw::Fast(values.as_ptr(), count),
            Raw::FastKeywords(..) => Raw::FastKeywords(values.as_ptr(), count, null_mut()),
            Raw::Method(class, ..) => Raw::Method(class, values.as_ptr(), count, null_mut()),
        };
        // SAFETY: as above.
        Obj::owned(unsafe { original(self.slot, self.slf, raw) })
    }

    /// Calls the original with other positional arguments, a tuple, and keywords.
    pub(crate) fn original_packed(&self, args: &Obj, kwargs: Option<&Obj>) -> PyResult<Obj> {
        // SAFETY: a tuple and its size.
        let count = unsafe { ffi::PyTuple_Size(args.ptr()) } as usize;
        // SAFETY: within the tuple; items are borrowed while it is held.
        let mut values: Vec<_> = (0..count).map(|i| unsafe { ffi::PyTuple_GetItem(args.ptr(), i as isize) }).collect();
        let Some(kwargs) = kwargs else { return self.original_with(&values) };
        let (mut names, mut place) = (Vec::new(), 0);
        let (mut key, mut value) = (null_mut(), null_mut());
        // SAFETY: a dict that nobody changes meanwhile; items are borrowed.
        while unsafe { ffi::PyDict_Next(kwargs.ptr(), &mut place, &mut key, &mut value) } != 0 {
            names.push(key);
            values.push(value);
        }
        let names = tuple_of(&names)?;
        let positional = count as ffi::Py_ssize_t;
        let raw = match self.raw {
            Raw::Keywords(..) => Raw::Keywords(args.ptr(), kwargs.ptr()),
            Raw::FastKeywords(..) => Raw::FastKeywords(values.as_ptr(), positional, names.ptr()),
            Raw::Method(class, ..) => Raw::Method(class, values.as_ptr(), positional, names.ptr()),
            // Without keywords in its convention the call could not have brought any.
            Raw::One(_) | Raw::Fast(..) => return self.original_with(&values[..count]),
        };
        // SAFETY: the same signature as the call that came in; all references live until it returns.
        Obj::owned(unsafe { original(self.slot, self.slf, raw) })
    }

    /// Whether the function is declared to take arguments.
    pub(crate) fn takes_arguments(&self) -> bool {
        self.slot.flags() & ffi::METH_NOARGS == 0
    }

    /// How many positional arguments there are.
    pub(crate) fn len(&self) -> usize {
        match self.raw {
            Raw::One(_) if self.slot.flags() & ffi::METH_NOARGS != 0 => 0,
            Raw::One(_) if self.slot.flags() & ffi::METH_O != 0 => 1,
            // SAFETY: a tuple by this convention.
            Raw::One(tuple) | Raw::Keywords(tuple, _) => unsafe { ffi::PyTuple_Size(tuple) as usize },
            Raw::Fast(_, count) | Raw::FastKeywords(_, count, _) | Raw::Method(_, _, count, _) => count as usize,
        }
    }

    /// A positional argument, borrowed.
    #[inline]
    pub(crate) fn arg(&self, index: usize) -> Option<*mut PyObject> {
        if index >= self.len() {
            return None;
        }
        Some(match self.raw {
            Raw::One(arg) if self.slot.flags() & ffi::METH_O != 0 => arg,
            // SAFETY: within the tuple.
            Raw::One(tuple) | Raw::Keywords(tuple, _) => unsafe { ffi::PyTuple_GetItem(tuple, index as isize) },
            // SAFETY: within the vector.
            Raw::Fast(values, _) | Raw::FastKeywords(values, ..) | Raw::Method(_, values, ..) => unsafe {
                *values.add(index)
            },
        })
    }

    /// The argument that is number `index` or has this name, borrowed.
    pub(crate) fn named(&self, index: usize, name: &str) -> Option<*mut PyObject> {
        self.arg(index).or_else(|| self.keyword(name))
    }

    fn keyword(&self, name: &str) -> Option<*mut PyObject> {
        match self.raw {
            Raw::Keywords(_, kwargs) if !kwargs.is_null() => {
                let key = Obj::str(name).ok()?;
                // SAFETY: a dict; the result is borrowed or null, without an exception.
                let value = unsafe { ffi::PyDict_GetItem(kwargs, key.ptr()) };
                (!value.is_null()).then_some(value)
            }
            Raw::FastKeywords(values, count, names) | Raw::Method(_, values, count, names) if !names.is_null() => {
                // SAFETY: a tuple.
                let known = unsafe { ffi::PyTuple_Size(names) };
                (0..known).find_map(|index| {
                    // SAFETY: within the tuple; names are strings.
                    let known = Obj::borrowed(unsafe { ffi::PyTuple_GetItem(names, index) });
                    // SAFETY: the values of keywords follow the positional ones.
                    (utf8(&known).ok()? == name).then(|| unsafe { *values.add((count + index) as usize) })
                })
            }
            _ => None,
        }
    }

    /// The positional arguments as a tuple and the keywords as a dict or nothing.
    pub(crate) fn packed(&self) -> PyResult<(Obj, Option<Obj>)> {
        let values: Vec<_> = (0..self.len()).filter_map(|index| self.arg(index)).collect();
        let tuple = tuple_of(&values)?;
        let keywords = match self.raw {
            Raw::Keywords(_, kwargs) if !kwargs.is_null() => Some(Obj::borrowed(kwargs)),
            Raw::FastKeywords(values, count, names) | Raw::Method(_, values, count, names) if !names.is_null() => {
                // SAFETY: the GIL is held.
                let dict = Obj::owned(unsafe { ffi::PyDict_New() })?;
                // SAFETY: within tuple and vector.
                for index in 0..unsafe { ffi::PyTuple_Size(names) } {
                    // SAFETY: as above.
                    unsafe {
                        let name = ffi::PyTuple_GetItem(names, index);
                        crate::object::check(ffi::PyDict_SetItem(
                            dict.ptr(),
                            name,
                            *values.add((count + index) as usize),
                        ))?;
                    }
                }
                Some(dict)
            }
            _ => None,
        };
        Ok((tuple, keywords))
    }
}

/// A tuple of borrowed objects.
pub(crate) fn tuple_of(values: &[*mut PyObject]) -> PyResult<Obj> {
    // SAFETY: the GIL is held.
    let tuple = Obj::owned(unsafe { ffi::PyTuple_New(values.len() as isize) })?;
    for (index, &value) in values.iter().enumerate() {
        // SAFETY: a fresh tuple; the new reference moves in.
        unsafe { ffi::PyTuple_SetItem(tuple.ptr(), index as isize, Obj::borrowed(value).into_ptr()) };
    }
    Ok(tuple)
}
