//! Counting instructions through a trace function with opcode events (CPython 3.11, which has no `sys.monitoring`).
//!
//! A trace function belongs to a tasklet, so it is attached to each one that goes on while the thread counts, and takes
//! itself off once the thread does not count any more. A tasklet that is traced by somebody else, a debugger say, keeps
//! that trace function and is not counted.

use std::ffi::c_int;
use std::ptr::null_mut;

use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use crate::object::{Obj, PyResult, Raised};
use crate::runtime::Runtime;
use crate::tstate;

unsafe extern "C" fn on_event(
    _: *mut PyObject,
    frame: *mut ffi::PyFrameObject,
    what: c_int,
    _: *mut PyObject,
) -> c_int {
    let counts = Runtime::current().is_some_and(|runtime| runtime.watch().active.get());
    if !counts {
        // SAFETY: takes this function off the running tasklet.
        unsafe { ffi::PyEval_SetTrace(None, null_mut()) };
        return 0;
    }
    match what {
        ffi::PyTrace_CALL => {
            let frame = Obj::borrowed(frame.cast());
            match want_opcodes(&frame) {
                Ok(()) => 0,
                Err(Raised) => -1,
            }
        }
        ffi::PyTrace_OPCODE => match super::count() {
            Ok(()) => 0,
            Err(Raised) => -1,
        },
        _ => 0,
    }
}

fn want_opcodes(frame: &Obj) -> PyResult<()> {
    frame.set_attr(c"f_trace_opcodes", &Obj::bool(true))?;
    frame.set_attr(c"f_trace_lines", &Obj::bool(false))
}

/// Attaches the count to the running tasklet and to every frame that it is in.
pub(crate) fn attach() {
    let Some(runtime) = Runtime::current() else { return };
    // SAFETY: T2: the runtime is that of the calling thread.
    if !runtime.watch().active.get() || unsafe { tstate::is_traced(runtime.tstate()) } {
        return;
    }
    // SAFETY: T2; a new reference or null.
    let mut frame = Obj::owned_or_none(unsafe { ffi::PyThreadState_GetFrame(runtime.tstate()) }.cast());
    while let Some(inner) = frame {
        if want_opcodes(&inner).is_err() {
            crate::object::write_unraisable(None);
            return;
        }
        // SAFETY: a frame; a new reference or null.
        frame = Obj::owned_or_none(unsafe { ffi::PyFrame_GetBack(inner.ptr().cast()) }.cast());
    }
    // SAFETY: a trace function that lives for ever, without an object.
    unsafe { ffi::PyEval_SetTrace(Some(on_event), null_mut()) };
}

/// Nothing to do: tasklets are attached to when they go on.
///
/// # Errors
/// None.
pub(super) fn switch_on() -> PyResult<()> {
    Ok(())
}

/// Nothing to do: the trace functions take themselves off.
pub(super) fn switch_off() {}
