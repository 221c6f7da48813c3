//! The Python type `bomb`: an exception as a value, which is raised when the tasklet that it is handed to goes on.

use std::ptr::null_mut;

use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use crate::args::{Args, make_type, method, table};
use crate::object::{Exc, Obj, PyResult, Raised, boundary, check, type_error};
use crate::world::GilCell;

/// The object behind `bomb`. The fields are owned references, never null once made.
#[repr(C)]
struct Bomb {
    ob_base: PyObject,
    kind: *mut PyObject,
    value: *mut PyObject,
    traceback: *mut PyObject,
}

static TYPE: GilCell<Option<Obj>> = GilCell::new(None);

fn type_object() -> *mut ffi::PyTypeObject {
    TYPE.get().as_ref().expect("made when the module was").ptr().cast()
}

fn of(slf: *mut PyObject) -> &'static Bomb {
    // SAFETY: the interpreter calls methods of the type with instances only; borrowed for the time of the call.
    unsafe { &*slf.cast::<Bomb>() }
}

/// Makes a bomb of three parts.
fn make(kind: Obj, value: Obj, traceback: Obj) -> PyResult<Obj> {
    // SAFETY: allocates a zeroed, tracked object of the type's size.
    let object = Obj::owned(unsafe { ffi::PyType_GenericAlloc(type_object(), 0) })?;
    // SAFETY: the fields of a fresh object; the references move in.
    unsafe {
        let bomb = object.ptr().cast::<Bomb>();
        (*bomb).kind = kind.into_ptr();
        (*bomb).value = value.into_ptr();
        (*bomb).traceback = traceback.into_ptr();
    }
    Ok(object)
}

/// The exception as a value.
///
/// # Errors
/// `MemoryError`.
pub(crate) fn wrap(exception: &Exc) -> PyResult<Obj> {
    let value = exception.0.clone();
    // SAFETY: an exception instance, which has a type and perhaps a traceback.
    let (kind, traceback) = unsafe {
        let traceback = ffi::PyException_GetTraceback(value.ptr());
        (Obj::borrowed(ffi::Py_TYPE(value.ptr()).cast()), Obj::owned_or_none(traceback))
    };
    make(kind, value, traceback.unwrap_or_else(Obj::none))
}

/// Whether `value` is a bomb.
fn is_bomb(value: &Obj) -> bool {
    // SAFETY: a valid reference. The type cannot be subclassed.
    unsafe { ffi::Py_TYPE(value.ptr()) == type_object() }
}

/// The value itself, or, if it is a bomb, the exception that it carries.
///
/// # Errors
/// That exception.
#[inline]
pub(crate) fn unwrap(value: Obj) -> PyResult<Obj> {
    if is_bomb(&value) { Err(exception(&value)?.restore()) } else { Ok(value) }
}

/// The exception that a bomb carries.
///
/// # Errors
/// `TypeError` if what it carries is no exception; what making an instance of its class raises.
fn exception(bomb: &Obj) -> PyResult<Exc> {
    let bomb = of(bomb.ptr());
    let (kind, value, traceback) = (Obj::borrowed(bomb.kind), Obj::borrowed(bomb.value), Obj::borrowed(bomb.traceback));
    instance(kind, Some(value), Some(traceback))
}

/// The exception of a class or instance, a value and a traceback, with the semantics of `throw`.
///
/// # Errors
/// `TypeError` in the words of Stackless; what calling the class raises.
pub(crate) fn instance(kind: Obj, value: Option<Obj>, traceback: Option<Obj>) -> PyResult<Exc> {
    let none = Obj::none();
    let value = value.filter(|value| value.ptr() != none.ptr());
    let traceback = traceback.filter(|traceback| traceback.ptr() != none.ptr());
    // SAFETY: valid references; the type of tracebacks exists for ever.
    let (is_traceback, is_instance, is_class) = unsafe {
        (
            traceback.as_ref().is_none_or(|tb| tb.is_instance(&raw mut ffi::PyTraceBack_Type)),
            ffi::PyExceptionInstance_Check(kind.ptr()) != 0,
            ffi::PyExceptionClass_Check(kind.ptr()) != 0,
        )
    };
    if !is_traceback {
        return Err(type_error("third argument must be a traceback object"));
    }
    if is_instance && value.is_some() {
        return Err(type_error("instance exception may not have a separate value"));
    }
    let exception = match value {
        // SAFETY: valid references.
        Some(value) if is_class => match unsafe { ffi::PyObject_IsInstance(value.ptr(), kind.ptr()) } {
            -1 => return Err(Raised),
            1 => Exc::instance(value)?,
            // SAFETY: a class, and a tuple or a single argument.
            _ if unsafe { ffi::PyTuple_Check(value.ptr()) } != 0 => {
                // SAFETY: as above.
                Exc::instance(Obj::owned(unsafe { ffi::PyObject_CallObject(kind.ptr(), value.ptr()) })?)?
            }
            _ => Exc::instance(kind.call([&value])?)?,
        },
        _ => Exc::instance(kind)?,
    };
    if let Some(traceback) = traceback {
        // SAFETY: an exception instance and a traceback.
        check(unsafe { ffi::PyException_SetTraceback(exception.0.ptr(), traceback.ptr()) })?;
    }
    Ok(exception)
}

// ---- the type --------------------------------------------------------------------------------------------------------

unsafe extern "C" fn slot_new(_: *mut ffi::PyTypeObject, args: *mut PyObject, kwargs: *mut PyObject) -> *mut PyObject {
    boundary(|| {
        // SAFETY: a tuple and a dict or null, as the slot's convention says; `bind` copies what it returns.
        let single = unsafe {
            let first = if ffi::PyTuple_Size(args) == 1 { ffi::PyTuple_GetItem(args, 0) } else { null_mut() };
            if !first.is_null() && ffi::PyTuple_Check(first) != 0 { first } else { args }
        };
        let names = [c"type", c"value", c"traceback"];
        let mut parts = [null_mut::<PyObject>(); 3];
        // SAFETY: a tuple; each item is borrowed while the tuple lives.
        let count = unsafe { ffi::PyTuple_Size(single) } as usize;
        if count > 3 {
            return Err(type_error(&format!("bomb() takes at most 3 arguments ({count} given)")));
        }
        for (index, part) in parts.iter_mut().enumerate() {
            // SAFETY: within the tuple; a dict and a name.
            *part = unsafe {
                if index < count {
                    ffi::PyTuple_GetItem(single, index as isize)
                } else if kwargs.is_null() {
                    null_mut()
                } else {
                    ffi::PyDict_GetItemString(kwargs, names[index].as_ptr())
                }
            };
        }
        let [kind, value, traceback] = parts.map(|part| if part.is_null() { Obj::none() } else { Obj::borrowed(part) });
        make(kind, value, traceback)
    })
}

unsafe extern "C" fn slot_traverse(
    slf: *mut PyObject,
    visit: ffi::visitproc,
    arg: *mut std::ffi::c_void,
) -> std::ffi::c_int {
    let bomb = of(slf);
    // SAFETY: a heap type's instances own a reference to it.
    let kind: *mut PyObject = unsafe { ffi::Py_TYPE(slf) }.cast();
    for object in [bomb.kind, bomb.value, bomb.traceback, kind] {
        // SAFETY: the collector's own function and argument, with a valid object.
        let status = if object.is_null() { 0 } else { unsafe { visit(object, arg) } };
        if status != 0 {
            return status;
        }
    }
    0
}

unsafe extern "C" fn slot_clear(slf: *mut PyObject) -> std::ffi::c_int {
    let bomb = slf.cast::<Bomb>();
    // SAFETY: the collector's protocol: the object's own references, taken out before they are dropped.
    let parts = unsafe {
        let fields = [&raw mut (*bomb).kind, &raw mut (*bomb).value, &raw mut (*bomb).traceback];
        fields.map(|field| std::mem::replace(&mut *field, null_mut()))
    };
    parts.into_iter().for_each(|part| drop(Obj::owned_or_none(part)));
    0
}

unsafe extern "C" fn slot_dealloc(slf: *mut PyObject) {
    // SAFETY: the interpreter's protocol for a collected heap type: untrack, drop the fields, free, drop the type.
    unsafe {
        ffi::PyObject_GC_UnTrack(slf.cast());
        slot_clear(slf);
        let kind = ffi::Py_TYPE(slf);
        if let Some(free) = (*kind).tp_free {
            free(slf.cast());
        }
        ffi::Py_DECREF(kind.cast());
    }
}

/// `__reduce__()`: a traceback cannot be pickled, so it is left out.
fn reduce(args: Args) -> PyResult<Obj> {
    args.none("__reduce__")?;
    let bomb = of(args.slf());
    let parts = Obj::tuple([Obj::borrowed(bomb.kind), Obj::borrowed(bomb.value)])?;
    Obj::tuple([Obj::borrowed(type_object().cast()), parts])
}

/// Makes the type.
///
/// # Errors
/// `MemoryError`.
pub(crate) fn define() -> PyResult<Obj> {
    let known = TYPE.get().clone();
    if let Some(known) = known {
        return Ok(known);
    }
    let methods = table(vec![method!(c"__reduce__", reduce, c"__reduce__($self)\n--\n\n")], ffi::PyMethodDef::zeroed());
    let member = |name: &'static std::ffi::CStr, offset: usize, doc: &'static std::ffi::CStr| ffi::PyMemberDef {
        name: name.as_ptr(),
        type_code: ffi::Py_T_OBJECT_EX,
        offset: offset as isize,
        flags: ffi::Py_READONLY,
        doc: doc.as_ptr(),
    };
    let members = table(
        vec![
            member(c"type", std::mem::offset_of!(Bomb, kind), c"The class of the exception, or None."),
            member(c"value", std::mem::offset_of!(Bomb, value), c"The exception, its argument, or None."),
            member(c"traceback", std::mem::offset_of!(Bomb, traceback), c"Its traceback, or None."),
        ],
        // SAFETY: the all-zero entry ends the table.
        unsafe { std::mem::zeroed() },
    );
    let doc = c"bomb(type=None, value=None, traceback=None)\n--\n\n\
        An exception as a value.\n\n\
        Handed to a tasklet as its ``tempval``, it is raised when the tasklet goes on; sent over a channel,\n\
        where it is received. A single tuple as argument stands for the three. The attributes are read-only.\n\
        Pickling leaves the traceback out. As in Stackless.";
    let slot = |slot: i32, pfunc: *mut std::ffi::c_void| ffi::PyType_Slot { slot, pfunc };
    let slots = vec![
        slot(ffi::Py_tp_new, slot_new as *mut _),
        slot(ffi::Py_tp_traverse, slot_traverse as *mut _),
        slot(ffi::Py_tp_clear, slot_clear as *mut _),
        slot(ffi::Py_tp_dealloc, slot_dealloc as *mut _),
        slot(ffi::Py_tp_methods, methods.cast()),
        slot(ffi::Py_tp_members, members.cast()),
        slot(ffi::Py_tp_doc, doc.as_ptr().cast_mut().cast()),
    ];
    let flags = ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_HAVE_GC;
    let kind = make_type(c"lissom.bomb", size_of::<Bomb>(), flags, slots)?;
    *TYPE.get() = Some(kind.clone());
    Ok(kind)
}
