//! `time.sleep`.

use pyo3_ffi as ffi;

use super::call::{Call, hook};
use super::slot::{Hook, Owner};
use crate::functions::sleep_until;
use crate::object::{Obj, PyResult, Raised, check, clear_error, error_is_set};
use crate::runtime::deadline_in;

unsafe extern "C" {
    /// `Include/cpython/sysmodule.h`.
    fn PySys_Audit(event: *const std::ffi::c_char, format: *const std::ffi::c_char, ...) -> std::ffi::c_int;
}

/// Longest sleep that is computed here; the original raises `OverflowError` for what it cannot represent.
const LONGEST: f64 = 9.0e9;

fn sleep(call: &Call) -> PyResult<Obj> {
    let Some(duration) = call.arg(0) else { return call.original() };
    let Some(seconds) = number(duration) else { return call.original() };
    if !(0.0..=LONGEST).contains(&seconds) {
        return call.original();
    }
    // SAFETY: one object, as the format says.
    check(unsafe { PySys_Audit(c"time.sleep".as_ptr(), c"O".as_ptr(), duration) })?;
    if seconds == 0.0 {
        call.runtime.schedule()?;
    } else {
        sleep_until(call.runtime, deadline_in((seconds * 1e9).ceil() as u64))?;
    }
    Ok(Obj::none())
}

/// A float or what has an index, as the original accepts.
fn number(object: *mut ffi::PyObject) -> Option<f64> {
    // SAFETY: a valid argument.
    unsafe {
        if ffi::PyFloat_Check(object) != 0 {
            return Some(ffi::PyFloat_AsDouble(object));
        }
        let index = Obj::owned(ffi::PyNumber_Index(object)).map_err(|Raised| clear_error()).ok()?;
        let value = ffi::PyLong_AsDouble(index.ptr());
        if error_is_set() {
            clear_error();
            return None;
        }
        Some(value)
    }
}

pub(super) fn table() -> Vec<Hook> {
    vec![hook!(Owner::Module(c"time"), c"sleep", sleep)]
}
