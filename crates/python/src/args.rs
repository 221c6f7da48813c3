//! Arguments of functions that C code calls, and the tables that describe such functions.

use std::ptr::null_mut;

use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use crate::object::{Obj, PyResult, Raised, check, type_error, utf8};

/// The arguments of one call by the fast-call convention with keywords; borrowed for the time of the call.
#[derive(Clone, Copy)]
pub(crate) struct Args {
    slf: *mut PyObject,
    values: *const *mut PyObject,
    positional: usize,
    kwnames: *mut PyObject,
}

impl Args {
    /// # Safety
    /// The arguments of a function declared `METH_FASTCALL | METH_KEYWORDS`, during its call.
    pub(crate) unsafe fn new(
        slf: *mut PyObject,
        values: *const *mut PyObject,
        positional: ffi::Py_ssize_t,
        kwnames: *mut PyObject,
    ) -> Args {
        Args { slf, values, positional: positional as usize, kwnames }
    }

    /// Whether the call has no arguments at all.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.positional == 0 && self.kwnames.is_null()
    }

    /// The argument of a call with a single positional one, without looking at names.
    #[inline]
    pub(crate) fn only(&self) -> Option<*mut PyObject> {
        if self.kwnames.is_null() && self.positional == 1 { self.get(0) } else { None }
    }

    /// The arguments, those with names last.
    pub(crate) fn values(&self) -> *const *mut PyObject {
        self.values
    }

    /// How many arguments there are, those with names included.
    pub(crate) fn count(&self) -> usize {
        self.positional + self.keywords()
    }

    /// The object that the method was called on.
    pub(crate) fn slf(&self) -> *mut PyObject {
        self.slf
    }

    fn keywords(&self) -> usize {
        // SAFETY: a tuple or null, as the convention says.
        if self.kwnames.is_null() { 0 } else { unsafe { ffi::PyTuple_Size(self.kwnames) as usize } }
    }

    /// A positional argument, borrowed.
    pub(crate) fn get(&self, index: usize) -> Option<*mut PyObject> {
        // SAFETY: within the vector, as checked.
        (index < self.positional).then(|| unsafe { *self.values.add(index) })
    }

    /// Keyword number `index`: name and value.
    fn keyword(&self, index: usize) -> (Obj, *mut PyObject) {
        // SAFETY: within the tuple and the vector; names are strings.
        unsafe {
            let name = Obj::borrowed(ffi::PyTuple_GetItem(self.kwnames, index as isize));
            (name, *self.values.add(self.positional + index))
        }
    }

    /// Matches the arguments with `names`, of which the first `required` must be given.
    ///
    /// # Errors
    /// `TypeError` in the interpreter's words.
    pub(crate) fn bind<const N: usize>(
        &self,
        function: &str,
        names: [&str; N],
        required: usize,
    ) -> PyResult<[Option<*mut PyObject>; N]> {
        if self.positional > N {
            let (given, plural) = (self.positional, if N == 1 { "" } else { "s" });
            return Err(type_error(&format!("{function}() takes at most {N} argument{plural} ({given} given)")));
        }
        let mut bound = [None; N];
        for (index, slot) in bound.iter_mut().enumerate() {
            *slot = self.get(index);
        }
        for index in 0..self.keywords() {
            let (name, value) = self.keyword(index);
            let name = utf8(&name)?;
            let Some(place) = names.iter().position(|&known| known == name) else {
                return Err(type_error(&format!("{function}() got an unexpected keyword argument '{name}'")));
            };
            if bound[place].replace(value).is_some() {
                return Err(type_error(&format!("{function}() got multiple values for argument '{name}'")));
            }
        }
        if let Some(missing) = bound.iter().take(required).position(Option::is_none) {
            return Err(type_error(&format!(
                "{function}() missing required argument '{}' (pos {})",
                names[missing],
                missing + 1
            )));
        }
        Ok(bound)
    }

    /// Checks that there are no arguments.
    ///
    /// # Errors
    /// `TypeError` in the interpreter's words.
    pub(crate) fn none(&self, function: &str) -> PyResult<()> {
        self.no_keywords(function)?;
        match self.positional {
            0 => Ok(()),
            given => Err(type_error(&format!("{function}() takes no arguments ({given} given)"))),
        }
    }

    /// Checks that there is one argument, without a name.
    ///
    /// # Errors
    /// `TypeError` in the interpreter's words.
    pub(crate) fn one(&self, function: &str) -> PyResult<*mut PyObject> {
        self.no_keywords(function)?;
        match self.get(0) {
            Some(value) if self.positional == 1 => Ok(value),
            _ => {
                let given = self.positional;
                Err(type_error(&format!("{function}() takes exactly one argument ({given} given)")))
            }
        }
    }

    /// Checks that there are between `least` and `N` arguments, without names.
    ///
    /// # Errors
    /// `TypeError` in the words of `PyArg_UnpackTuple`.
    pub(crate) fn unpack<const N: usize>(&self, function: &str, least: usize) -> PyResult<[Option<*mut PyObject>; N]> {
        self.no_keywords(function)?;
        let given = self.positional;
        let (bound, limit) = if given < least { ("least", least) } else { ("most", N) };
        if given < least || given > N {
            let plural = if limit == 1 { "" } else { "s" };
            return Err(type_error(&format!("{function} expected at {bound} {limit} argument{plural}, got {given}")));
        }
        Ok(std::array::from_fn(|index| self.get(index)))
    }

    /// Checks that there are at most `N` arguments, without names.
    ///
    /// # Errors
    /// `TypeError` in the words of `PyArg_ParseTuple`.
    pub(crate) fn at_most<const N: usize>(&self, function: &str) -> PyResult<[Option<*mut PyObject>; N]> {
        self.no_keywords(function)?;
        self.bind(function, [""; N], 0)
    }

    /// Checks that nothing is given by name.
    ///
    /// # Errors
    /// `TypeError` in the interpreter's words.
    pub(crate) fn no_keywords(&self, function: &str) -> PyResult<()> {
        if self.keywords() == 0 { Ok(()) } else { Err(type_error(&format!("{function}() takes no keyword arguments"))) }
    }

    /// The positional arguments from `start` on as a tuple, and the keywords as a dict if there are any.
    ///
    /// # Errors
    /// `MemoryError`.
    pub(crate) fn collect(&self, start: usize) -> PyResult<(Obj, Option<Obj>)> {
        let count = self.positional.saturating_sub(start);
        // SAFETY: the GIL is held.
        let tuple = Obj::owned(unsafe { ffi::PyTuple_New(count as isize) })?;
        for index in 0..count {
            let value = Obj::borrowed(self.get(start + index).expect("counted"));
            // SAFETY: a fresh tuple; the reference moves in.
            unsafe { ffi::PyTuple_SetItem(tuple.ptr(), index as isize, value.into_ptr()) };
        }
        if self.keywords() == 0 {
            return Ok((tuple, None));
        }
        // SAFETY: the GIL is held.
        let dict = Obj::owned(unsafe { ffi::PyDict_New() })?;
        for index in 0..self.keywords() {
            let (name, value) = self.keyword(index);
            // SAFETY: valid references.
            check(unsafe { ffi::PyDict_SetItem(dict.ptr(), name.ptr(), value) })?;
        }
        Ok((tuple, Some(dict)))
    }
}

/// Whether an optional argument is missing or `None`.
pub(crate) fn given(argument: Option<*mut PyObject>) -> Option<Obj> {
    // SAFETY: the singleton always exists.
    let none = unsafe { ffi::Py_None() };
    argument.filter(|&value| value != none).map(Obj::borrowed)
}

/// A timeout in seconds, `None` for ever, as nanoseconds.
///
/// # Errors
/// `TypeError` if it is no number, `ValueError` if it is NaN. Negative counts as zero.
pub(crate) fn timeout(argument: Option<*mut PyObject>) -> PyResult<Option<u64>> {
    match given(argument) {
        None => Ok(None),
        Some(value) => seconds(&value).map(Some),
    }
}

/// Seconds as nanoseconds.
///
/// # Errors
/// `TypeError` if it is no number, `ValueError` if it is NaN. Negative counts as zero.
pub(crate) fn seconds(value: &Obj) -> PyResult<u64> {
    // SAFETY: a valid reference.
    let number = unsafe { ffi::PyFloat_AsDouble(value.ptr()) };
    if number == -1.0 && crate::object::error_is_set() {
        return Err(Raised);
    }
    if number.is_nan() {
        return Err(crate::object::value_error("a timeout must be a number of seconds, not NaN"));
    }
    // Casting saturates; 584 years are for ever.
    Ok((number * 1e9).ceil() as u64)
}

/// An entry of a method table for a Rust function `fn(Args) -> PyResult<Obj>`.
macro_rules! method {
    ($name:literal, $function:path, $doc:literal) => {{
        unsafe extern "C" fn call(
            slf: *mut pyo3_ffi::PyObject,
            values: *const *mut pyo3_ffi::PyObject,
            count: pyo3_ffi::Py_ssize_t,
            kwnames: *mut pyo3_ffi::PyObject,
        ) -> *mut pyo3_ffi::PyObject {
            // SAFETY: called by the interpreter by this convention.
            let args = unsafe { $crate::args::Args::new(slf, values, count, kwnames) };
            $crate::object::boundary(|| $function(args))
        }
        pyo3_ffi::PyMethodDef {
            ml_name: $name.as_ptr(),
            ml_meth: pyo3_ffi::PyMethodDefPointer { PyCFunctionFastWithKeywords: call },
            ml_flags: pyo3_ffi::METH_FASTCALL | pyo3_ffi::METH_KEYWORDS,
            ml_doc: $doc.as_ptr(),
        }
    }};
}
pub(crate) use method;

/// An attribute that is computed by `fn(*mut PyObject) -> PyResult<Obj>`, and set by `fn(*mut PyObject, Obj) -> PyResult<()>`.
macro_rules! attribute {
    ($name:literal, $get:path, $doc:literal) => {
        attribute!(@ $name, $get, None, $doc)
    };
    ($name:literal, $get:path, $set:path, $doc:literal) => {{
        unsafe extern "C" fn set(
            slf: *mut pyo3_ffi::PyObject,
            value: *mut pyo3_ffi::PyObject,
            _: *mut std::ffi::c_void,
        ) -> std::ffi::c_int {
            $crate::object::status_boundary(|| {
                if value.is_null() {
                    return Err($crate::object::type_error("this attribute cannot be deleted"));
                }
                $set(slf, $crate::object::Obj::borrowed(value))
            })
        }
        attribute!(@ $name, $get, Some(set), $doc)
    }};
    (@ $name:literal, $get:path, $set:expr, $doc:literal) => {{
        unsafe extern "C" fn get(
            slf: *mut pyo3_ffi::PyObject,
            _: *mut std::ffi::c_void,
        ) -> *mut pyo3_ffi::PyObject {
            $crate::object::boundary(|| $get(slf))
        }
        pyo3_ffi::PyGetSetDef {
            name: $name.as_ptr(),
            get: Some(get),
            set: $set,
            doc: $doc.as_ptr(),
            closure: std::ptr::null_mut(),
        }
    }};
}
pub(crate) use attribute;

/// Makes a heap type from slots; the tables must live for ever.
pub(crate) fn make_type(
    name: &'static std::ffi::CStr,
    size: usize,
    flags: std::ffi::c_ulong,
    slots: Vec<ffi::PyType_Slot>,
) -> PyResult<Obj> {
    let mut slots = slots;
    slots.push(ffi::PyType_Slot { slot: 0, pfunc: null_mut() });
    let mut spec = ffi::PyType_Spec {
        name: name.as_ptr(),
        basicsize: size as i32,
        itemsize: 0,
        flags: flags as u32,
        slots: slots.as_mut_ptr(),
    };
    // SAFETY: a complete description; the interpreter copies the slots and keeps pointers into the tables only.
    Obj::owned(unsafe { ffi::PyType_FromSpec(&mut spec) })
}

/// Lets a table live for ever, ended by an empty entry as the C API expects.
pub(crate) fn table<T>(mut entries: Vec<T>, end: T) -> *mut T {
    entries.push(end);
    Box::leak(entries.into_boxed_slice()).as_mut_ptr()
}
