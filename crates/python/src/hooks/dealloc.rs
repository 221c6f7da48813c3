//! Learning of the death of objects of the interpreter's own types, for tables that are keyed by their address.

use std::cell::Cell;

use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use super::slot::Owner;
use crate::object::{PyResult, Raised, clear_error};

/// A type to be watched: who it is, our deallocator, and where the original one is kept.
pub(super) struct Watched {
    pub(super) owner: Owner,
    pub(super) dealloc: unsafe extern "C" fn(*mut PyObject),
    pub(super) original: &'static Original,
}

/// The deallocator that stood there before.
pub(super) struct Original(Cell<Option<ffi::destructor>>);

// SAFETY: only the holder of the GIL touches it.
unsafe impl Sync for Original {}

impl Original {
    pub(super) const fn new() -> Original {
        Original(Cell::new(None))
    }

    /// Frees the object.
    ///
    /// # Safety
    /// As for any deallocator: called once, by ours.
    pub(super) unsafe fn call(&self, object: *mut PyObject) {
        let original = self.0.get().expect("watched types have an original deallocator");
        // SAFETY: the caller's duty.
        unsafe { original(object) }
    }
}

/// Puts our deallocators before those of the types, once and for good: they only tidy a table.
///
/// A type that this interpreter does not have is left out.
///
/// # Errors
/// None so far.
pub(super) fn watch(watched: &[Watched]) -> PyResult<()> {
    for one in watched {
        let kind = match one.owner.object() {
            Ok(kind) => kind,
            Err(Raised) => {
                clear_error();
                continue;
            }
        };
        if one.original.0.get().is_none() {
            let kind = kind.ptr().cast::<ffi::PyTypeObject>();
            // SAFETY: a type object that its module keeps; slots are plain pointers that are read at each use. Instances
            // of subclasses end in the base's deallocator, which is read from the base.
            unsafe {
                one.original.0.set((*kind).tp_dealloc);
                (*kind).tp_dealloc = Some(one.dealloc);
            }
        }
    }
    Ok(())
}
