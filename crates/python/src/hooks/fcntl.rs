//! `fcntl`: locks on files.
//!
//! Nothing tells when a lock of another process is free, and a thread that waited for it could not be called back: it would
//! take the lock for a tasklet that has been killed meanwhile. So a tasklet tries again and again, with growing delays.

use pyo3_ffi as ffi;

use super::backoff::Backoff;
use super::call::{Call, hook};
use super::slot::{Hook, Owner};
use super::socket::integer;
use crate::object::{Obj, PyResult, Raised, clear_error, error_matches};
use crate::runtime::deadline_in;
use crate::tasklet::Why;

const MODULE: Owner = Owner::Module(c"fcntl");

/// `flock(fd, operation)` and `lockf(fd, cmd, len=0, start=0, whence=0)`.
fn lock(call: &Call) -> PyResult<Obj> {
    let (Some(file), Some(operation)) = (call.arg(0), integer(call.arg(1), 0)) else { return call.original() };
    // SAFETY: a valid argument: an integer, or what has a method `fileno`.
    let fd = unsafe { ffi::PyObject_AsFileDescriptor(file) };
    if fd < 0 {
        clear_error();
        return call.original();
    }
    let at_once = operation & i64::from(libc::LOCK_NB | libc::LOCK_UN) != 0;
    if at_once {
        return call.original();
    }
    let operation = Obj::int(operation | i64::from(libc::LOCK_NB))?;
    let mut arguments: Vec<_> = (0..call.len()).filter_map(|index| call.arg(index)).collect();
    arguments[1] = operation.ptr();
    let mut delays = Backoff::new();
    loop {
        match call.original_with(&arguments) {
            // SAFETY: the interpreter keeps its exception classes for ever.
            Err(Raised) if error_matches(unsafe { ffi::PyExc_BlockingIOError }) => clear_error(),
            result => return result,
        }
        call.runtime.me().begin_wait();
        call.runtime.park(Why::FileLock(fd), Some(deadline_in(delays.next())))?;
    }
}

pub(super) fn table() -> Vec<Hook> {
    vec![hook!(MODULE, c"flock", lock), hook!(MODULE, c"lockf", lock)]
}
