//! Borrowed memory of Python objects.

use std::mem::MaybeUninit;

use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use crate::object::{Obj, PyResult, check};

/// The contiguous bytes of an object, exported until dropped: the object cannot resize them meanwhile.
pub(super) struct Buffer(Box<ffi::Py_buffer>);

impl Buffer {
    /// Bytes to be read.
    ///
    /// # Errors
    /// `TypeError` if the object has none.
    pub(super) fn readable(object: *mut PyObject) -> PyResult<Buffer> {
        Buffer::new(object, ffi::PyBUF_SIMPLE)
    }

    /// Bytes to be written.
    ///
    /// # Errors
    /// `TypeError`, `BufferError` if the object has none that may be written.
    pub(super) fn writable(object: *mut PyObject) -> PyResult<Buffer> {
        Buffer::new(object, ffi::PyBUF_WRITABLE)
    }

    fn new(object: *mut PyObject, flags: std::ffi::c_int) -> PyResult<Buffer> {
        let mut view = Box::new(MaybeUninit::<ffi::Py_buffer>::uninit());
        // SAFETY: `view` is written on success; it is boxed because the interpreter may point into it.
        check(unsafe { ffi::PyObject_GetBuffer(object, view.as_mut_ptr(), flags) })?;
        // SAFETY: initialised by the call above.
        Ok(Buffer(unsafe { Box::from_raw(Box::into_raw(view).cast()) }))
    }

    pub(super) fn ptr(&self) -> *mut u8 {
        self.0.buf.cast()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len as usize
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: exported once, released once, with the GIL held.
        unsafe { ffi::PyBuffer_Release(&mut *self.0) }
    }
}

unsafe extern "C" {
    /// `Include/cpython/bytesobject.h`; pyo3-ffi keeps it to itself.
    fn _PyBytes_Resize(bytes: *mut *mut PyObject, size: ffi::Py_ssize_t) -> std::ffi::c_int;
}

/// A `bytes` object that is being filled: nobody else knows it until [`NewBytes::finish`].
pub(super) struct NewBytes(*mut PyObject);

impl NewBytes {
    /// # Errors
    /// `MemoryError`.
    pub(super) fn with_room(room: usize) -> PyResult<NewBytes> {
        // SAFETY: the GIL is held; a null source leaves the contents open.
        let object = unsafe { ffi::PyBytes_FromStringAndSize(std::ptr::null(), room as isize) };
        Obj::owned(object).map(|object| NewBytes(object.into_ptr()))
    }

    /// Where to write.
    pub(super) fn data(&self) -> *mut u8 {
        // SAFETY: a bytes object that is owned.
        unsafe { ffi::PyBytes_AsString(self.0).cast() }
    }

    /// Cuts the object to the `length` bytes that have been written.
    ///
    /// # Errors
    /// `MemoryError`.
    pub(super) fn finish(mut self, length: usize) -> PyResult<Obj> {
        // SAFETY: the only reference; on failure it is freed and set to null.
        check(unsafe { _PyBytes_Resize(&mut self.0, length as isize) })?;
        Obj::owned(std::mem::replace(&mut self.0, std::ptr::null_mut()))
    }
}

impl Drop for NewBytes {
    fn drop(&mut self) {
        drop(Obj::owned_or_none(self.0));
    }
}
