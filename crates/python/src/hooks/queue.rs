//! `_queue.SimpleQueue`.

use pyo3_ffi as ffi;

use super::call::{Call, hook};
use super::slot::{Hook, Owner};
use crate::args::given;
use crate::object::{Obj, PyResult, clear_error, error_is_set};
use crate::runtime::deadline_in;
use crate::tasklet::Why;
use crate::waiters;

fn is_empty(queue: *mut ffi::PyObject) -> PyResult<bool> {
    Obj::borrowed(queue).attr(c"empty")?.call([])?.truth()
}

/// `get(block=True, timeout=None)`.
fn get(call: &Call) -> PyResult<Obj> {
    if !is_empty(call.slf)? {
        return call.original();
    }
    let block = call.named(0, "block").map_or(Ok(true), |value| Obj::borrowed(value).truth())?;
    if !block {
        return call.original();
    }
    let deadline = match given(call.named(1, "timeout")) {
        None => None,
        Some(timeout) => {
            // SAFETY: a valid argument.
            let seconds = unsafe { ffi::PyFloat_AsDouble(timeout.ptr()) };
            if error_is_set() {
                clear_error();
                return call.original();
            }
            if !(0.0..=9.0e9).contains(&seconds) {
                return call.original();
            }
            Some(deadline_in((seconds * 1e9).ceil() as u64))
        }
    };
    // SAFETY: the singletons always exist.
    let (no, none) = unsafe { (ffi::Py_False(), ffi::Py_None()) };
    let attempt = || if is_empty(call.slf)? { Ok(None) } else { call.original_with(&[no, none]).map(Some) };
    let item = waiters::wait_for(call.runtime, call.slf, Why::Queue(call.slf as usize), deadline, attempt)?;
    match item {
        Some(item) => Ok(item),
        // Raises `Empty`.
        None => call.original_with(&[no, none]),
    }
}

fn put(call: &Call) -> PyResult<Obj> {
    let result = call.original()?;
    waiters::wake_one(call.slf);
    Ok(result)
}

pub(super) fn table() -> Vec<Hook> {
    let queue = Owner::Type(c"_queue", c"SimpleQueue");
    vec![
        hook!(queue, c"get", get).costs(1),
        hook!(queue, c"put", put).changes(waiters::wake_one),
        hook!(queue, c"put_nowait", put).changes(waiters::wake_one),
    ]
}
