//! Owned references and raised exceptions: the thin layer between Rust and the C API.
//!
//! # Invariants
//! * **I1 (attached)**: every function of this crate runs on a thread that holds the GIL, but for the closures given to
//!   [`detached`] and the jobs of the blocking pool, which touch no Python object. So methods of [`Obj`] are safe.
//! * **I2 (owned)**: an [`Obj`] owns one reference. It never leaves its process's interpreter; it may be dropped on
//!   another thread only with the GIL held.
//! * **I3 (raised)**: a function that returns `Err(Raised)` has set an exception in the thread state, and one that
//!   returns `Ok` has not.

use std::ffi::{CStr, CString};
use std::ptr::{NonNull, null_mut};

use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

/// An owned reference to a Python object.
#[repr(transparent)]
pub(crate) struct Obj(NonNull<PyObject>);

/// Says that an exception is set in the thread state (I3).
#[derive(Debug)]
pub(crate) struct Raised;

/// The result of something that may raise.
pub(crate) type PyResult<T> = Result<T, Raised>;

impl Obj {
    /// Takes over a new reference, or the exception that a null pointer stands for.
    pub(crate) fn owned(ptr: *mut PyObject) -> PyResult<Obj> {
        NonNull::new(ptr).map(Obj).ok_or(Raised)
    }

    /// Takes over a reference that may be missing without an exception.
    pub(crate) fn owned_or_none(ptr: *mut PyObject) -> Option<Obj> {
        NonNull::new(ptr).map(Obj)
    }

    /// Adds a reference to an object that somebody else keeps alive.
    pub(crate) fn borrowed(ptr: *mut PyObject) -> Obj {
        let object = NonNull::new(ptr).expect("a borrowed reference is never null");
        // SAFETY: the caller's reference keeps it alive; the GIL is held (I1).
        unsafe { ffi::Py_INCREF(ptr) };
        Obj(object)
    }

    /// As [`Obj::borrowed`], where the reference may be missing without an exception.
    pub(crate) fn borrowed_or_none(ptr: *mut PyObject) -> Option<Obj> {
        (!ptr.is_null()).then(|| Obj::borrowed(ptr))
    }

    /// `None`.
    pub(crate) fn none() -> Obj {
        // SAFETY: the singleton always exists.
        Obj::borrowed(unsafe { ffi::Py_None() })
    }

    /// `True` or `False`.
    pub(crate) fn bool(value: bool) -> Obj {
        // SAFETY: the singletons always exist.
        Obj::borrowed(unsafe { if value { ffi::Py_True() } else { ffi::Py_False() } })
    }

    /// An `int`.
    pub(crate) fn int(value: i64) -> PyResult<Obj> {
        // SAFETY: the GIL is held (I1).
        Obj::owned(unsafe { ffi::PyLong_FromLongLong(value) })
    }

    /// An `int`.
    pub(crate) fn uint(value: u64) -> PyResult<Obj> {
        // SAFETY: the GIL is held (I1).
        Obj::owned(unsafe { ffi::PyLong_FromUnsignedLongLong(value) })
    }

    /// A `str`.
    pub(crate) fn str(text: &str) -> PyResult<Obj> {
        // SAFETY: pointer and length describe valid UTF-8.
        Obj::owned(unsafe { ffi::PyUnicode_FromStringAndSize(text.as_ptr().cast(), text.len() as isize) })
    }

    /// A `bytes` with a copy of `data`.
    pub(crate) fn bytes(data: &[u8]) -> PyResult<Obj> {
        // SAFETY: pointer and length describe readable memory.
        Obj::owned(unsafe { ffi::PyBytes_FromStringAndSize(data.as_ptr().cast(), data.len() as isize) })
    }

    /// A tuple of these objects.
    pub(crate) fn tuple<const N: usize>(items: [Obj; N]) -> PyResult<Obj> {
        // SAFETY: the GIL is held (I1).
        let tuple = Obj::owned(unsafe { ffi::PyTuple_New(N as isize) })?;
        for (index, item) in items.into_iter().enumerate() {
            // SAFETY: a fresh tuple, each place set once; the reference moves in.
            unsafe { ffi::PyTuple_SetItem(tuple.ptr(), index as isize, item.into_ptr()) };
        }
        Ok(tuple)
    }

    /// Imports a module.
    pub(crate) fn import(name: &CStr) -> PyResult<Obj> {
        // SAFETY: a null-terminated name.
        Obj::owned(unsafe { ffi::PyImport_ImportModule(name.as_ptr()) })
    }

    /// The pointer, still owned by `self`.
    pub(crate) fn ptr(&self) -> *mut PyObject {
        self.0.as_ptr()
    }

    /// Gives the reference away.
    pub(crate) fn into_ptr(self) -> *mut PyObject {
        let ptr = self.0.as_ptr();
        std::mem::forget(self);
        ptr
    }

    /// An attribute.
    pub(crate) fn attr(&self, name: &CStr) -> PyResult<Obj> {
        // SAFETY: both pointers are valid (I2).
        Obj::owned(unsafe { ffi::PyObject_GetAttrString(self.ptr(), name.as_ptr()) })
    }

    /// Sets an attribute.
    pub(crate) fn set_attr(&self, name: &CStr, value: &Obj) -> PyResult<()> {
        // SAFETY: all pointers are valid (I2).
        check(unsafe { ffi::PyObject_SetAttrString(self.ptr(), name.as_ptr(), value.ptr()) })
    }

    /// Calls it with positional arguments.
    pub(crate) fn call<const N: usize>(&self, arguments: [&Obj; N]) -> PyResult<Obj> {
        let pointers = arguments.map(Obj::ptr);
        // SAFETY: `pointers` holds N valid references for the time of the call.
        Obj::owned(unsafe { ffi::PyObject_Vectorcall(self.ptr(), pointers.as_ptr(), N, null_mut()) })
    }

    /// Whether it is an instance of the built-in or heap type `kind`.
    pub(crate) fn is_instance(&self, kind: *mut ffi::PyTypeObject) -> bool {
        // SAFETY: both pointers are valid (I2).
        unsafe { ffi::PyObject_TypeCheck(self.ptr(), kind) != 0 }
    }

    /// Its truth value.
    pub(crate) fn truth(&self) -> PyResult<bool> {
        // SAFETY: a valid reference (I2).
        match unsafe { ffi::PyObject_IsTrue(self.ptr()) } {
            -1 => Err(Raised),
            value => Ok(value == 1),
        }
    }

    /// `str(self)` as UTF-8, or a placeholder if that fails: for messages.
    pub(crate) fn to_text(&self) -> String {
        // SAFETY: a valid reference (I2).
        let text = Obj::owned(unsafe { ffi::PyObject_Str(self.ptr()) });
        text.and_then(|text| utf8(&text)).unwrap_or_else(|Raised| {
            clear_error();
            String::from("?")
        })
    }

    /// Its value as `i64`.
    pub(crate) fn to_i64(&self) -> PyResult<i64> {
        // SAFETY: a valid reference (I2).
        let value = unsafe { ffi::PyLong_AsLongLong(self.ptr()) };
        if value == -1 && error_is_set() { Err(Raised) } else { Ok(value) }
    }
}

impl Clone for Obj {
    fn clone(&self) -> Self {
        Obj::borrowed(self.ptr())
    }
}

impl Drop for Obj {
    fn drop(&mut self) {
        // SAFETY: gives back the one reference that is owned (I2), with the GIL held (I1).
        unsafe { ffi::Py_DECREF(self.ptr()) }
    }
}

/// The text of a `str`.
pub(crate) fn utf8(text: &Obj) -> PyResult<String> {
    let mut length = 0;
    // SAFETY: a valid reference; `length` is written.
    let data = unsafe { ffi::PyUnicode_AsUTF8AndSize(text.ptr(), &mut length) };
    if data.is_null() {
        return Err(Raised);
    }
    // SAFETY: the interpreter keeps that many bytes with the object.
    let bytes = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), length as usize) };
    Ok(String::from_utf8_lossy(bytes).into_owned())
}

/// Maps the C API's `-1` to the exception that was raised.
pub(crate) fn check(status: std::ffi::c_int) -> PyResult<()> {
    if status < 0 { Err(Raised) } else { Ok(()) }
}

/// Whether an exception is set.
pub(crate) fn error_is_set() -> bool {
    // SAFETY: the GIL is held (I1).
    unsafe { !ffi::PyErr_Occurred().is_null() }
}

/// Forgets the exception that is set.
pub(crate) fn clear_error() {
    // SAFETY: the GIL is held (I1).
    unsafe { ffi::PyErr_Clear() }
}

/// Whether the exception that is set is an instance of `kind`.
pub(crate) fn error_matches(kind: *mut PyObject) -> bool {
    // SAFETY: an exception is set, which the call requires; `kind` is an exception class.
    unsafe { ffi::PyErr_ExceptionMatches(kind) != 0 }
}

/// Whether the exception that is set is an `OSError` that carries an error number: one that a system call has failed with,
/// not a `TimeoutError` thrown into the tasklet.
pub(crate) fn system_call_failed() -> bool {
    let error = Exc::take();
    // SAFETY: the interpreter keeps its exception classes for ever.
    let is_os_error = unsafe { error.is(ffi::PyExc_OSError) };
    let errno = if is_os_error { error.0.attr(c"errno").and_then(|errno| errno.to_i64()) } else { Err(Raised) };
    clear_error();
    error.restore();
    errno.is_ok()
}

/// Raises `kind` with a message.
pub(crate) fn raise(kind: *mut PyObject, message: &str) -> Raised {
    let text = CString::new(message.replace('\0', "?")).expect("no null byte is left");
    // SAFETY: an exception class and a null-terminated text.
    unsafe { ffi::PyErr_SetString(kind, text.as_ptr()) };
    Raised
}

macro_rules! raisers {
    ($($name:ident => $class:ident),* $(,)?) => {
        $(
            #[doc = concat!("Raises ", stringify!($class), ".")]
            pub(crate) fn $name(message: &str) -> Raised {
                // SAFETY: the interpreter keeps its exception classes for ever.
                raise(unsafe { ffi::$class }, message)
            }
        )*
    };
}

raisers! {
    runtime_error => PyExc_RuntimeError,
    type_error => PyExc_TypeError,
    value_error => PyExc_ValueError,
    timeout_error => PyExc_TimeoutError,
    system_error => PyExc_SystemError,
    memory_error => PyExc_MemoryError,
    recursion_error => PyExc_RecursionError,
}

/// Raises `OSError` for an error number, as the subclass that belongs to it.
pub(crate) fn os_error(errno: i32) -> Raised {
    // SAFETY: errno is this thread's; the class exists for ever.
    unsafe {
        *libc::__errno_location() = errno;
        ffi::PyErr_SetFromErrno(ffi::PyExc_OSError);
    }
    Raised
}

/// Raises `OSError` for a Rust error.
pub(crate) fn io_error(error: &std::io::Error) -> Raised {
    match error.raw_os_error() {
        Some(errno) => os_error(errno),
        // SAFETY: the class exists for ever.
        None => raise(unsafe { ffi::PyExc_OSError }, &error.to_string()),
    }
}

/// An exception taken out of the thread state, with its traceback.
#[derive(Clone)]
pub(crate) struct Exc(pub(crate) Obj);

impl Exc {
    /// Takes the exception that is set.
    ///
    /// # Panics
    /// If none is set, which breaks I3.
    #[cfg(Py_3_12)]
    pub(crate) fn take() -> Exc {
        // SAFETY: the GIL is held (I1).
        Exc(Obj::owned_or_none(unsafe { ffi::PyErr_GetRaisedException() }).expect("Err(Raised) without an exception"))
    }

    /// Takes the exception that is set.
    ///
    /// # Panics
    /// If none is set, which breaks I3.
    #[cfg(not(Py_3_12))]
    pub(crate) fn take() -> Exc {
        let (mut kind, mut value, mut traceback) = (null_mut(), null_mut(), null_mut());
        // SAFETY: the three places are written with owned references or null.
        unsafe {
            ffi::PyErr_Fetch(&mut kind, &mut value, &mut traceback);
            ffi::PyErr_NormalizeException(&mut kind, &mut value, &mut traceback);
        }
        drop(Obj::owned_or_none(kind));
        let value = Obj::owned_or_none(value).expect("Err(Raised) without an exception");
        if let Some(traceback) = Obj::owned_or_none(traceback) {
            // SAFETY: a normalised exception and its traceback.
            unsafe { ffi::PyException_SetTraceback(value.ptr(), traceback.ptr()) };
        }
        Exc(value)
    }

    /// Makes an instance of `class` without arguments, or keeps an instance as it is.
    pub(crate) fn instance(class_or_instance: Obj) -> PyResult<Exc> {
        // SAFETY: a valid reference.
        if unsafe { ffi::PyExceptionInstance_Check(class_or_instance.ptr()) } != 0 {
            return Ok(Exc(class_or_instance));
        }
        // SAFETY: a valid reference, whose type has a name.
        let (is_class, name) = unsafe {
            let object = class_or_instance.ptr();
            (ffi::PyExceptionClass_Check(object) != 0, CStr::from_ptr((*ffi::Py_TYPE(object)).tp_name))
        };
        if !is_class {
            let name = name.to_string_lossy();
            return Err(type_error(&format!("exceptions must be classes, or instances, not {name}")));
        }
        class_or_instance.call([]).map(Exc)
    }

    /// Sets it in the thread state again.
    #[cfg(Py_3_12)]
    pub(crate) fn restore(self) -> Raised {
        // SAFETY: the reference moves into the thread state.
        unsafe { ffi::PyErr_SetRaisedException(self.0.into_ptr()) };
        Raised
    }

    /// Sets it in the thread state again.
    #[cfg(not(Py_3_12))]
    pub(crate) fn restore(self) -> Raised {
        // SAFETY: all three references move into the thread state; the traceback may be null.
        unsafe {
            let traceback = ffi::PyException_GetTraceback(self.0.ptr());
            let kind = Obj::borrowed(ffi::Py_TYPE(self.0.ptr()).cast());
            ffi::PyErr_Restore(kind.into_ptr(), self.0.into_ptr(), traceback);
        }
        Raised
    }

    /// Whether it is an instance of the exception class `kind`.
    pub(crate) fn is(&self, kind: *mut PyObject) -> bool {
        // SAFETY: valid references.
        unsafe { ffi::PyErr_GivenExceptionMatches(self.0.ptr(), kind) != 0 }
    }
}

/// Prints the exception that is set through `sys.unraisablehook`.
pub(crate) fn write_unraisable(context: Option<&Obj>) {
    // SAFETY: an exception is set; the context may be null.
    unsafe { ffi::PyErr_WriteUnraisable(context.map_or(null_mut(), Obj::ptr)) }
}

/// Runs `body` without the GIL. It must not touch Python objects (I1).
pub(crate) fn detached<R>(body: impl FnOnce() -> R) -> R {
    struct Attach(*mut ffi::PyThreadState);
    impl Drop for Attach {
        fn drop(&mut self) {
            // SAFETY: the thread state that was detached by this thread.
            unsafe { ffi::PyEval_RestoreThread(self.0) }
        }
    }
    // SAFETY: the GIL is held (I1).
    let _attach = Attach(unsafe { ffi::PyEval_SaveThread() });
    body()
}

/// The edge between C and Rust: turns a result into what the C API expects, and a panic into `SystemError`.
pub(crate) fn boundary(body: impl FnOnce() -> PyResult<Obj>) -> *mut PyObject {
    match guarded(body) {
        Ok(object) => object.into_ptr(),
        Err(Raised) => null_mut(),
    }
}

/// Like [`boundary`] for slots that return a status: 0, or -1 with an exception.
pub(crate) fn status_boundary(body: impl FnOnce() -> PyResult<()>) -> std::ffi::c_int {
    match guarded(body) {
        Ok(()) => 0,
        Err(Raised) => -1,
    }
}

fn guarded<T>(body: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)) {
        Ok(result) => result,
        Err(payload) => {
            let text = payload.downcast_ref::<&str>().map(|s| (*s).to_owned());
            let text = text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default();
            Err(system_error(&format!("error inside lissom, please report it: {text}")))
        }
    }
}
