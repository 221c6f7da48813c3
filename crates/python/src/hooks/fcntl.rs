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
    match integer(call.arg(1), 0) {
        Some(operation) if operation & i64::from(libc::LOCK_NB | libc::LOCK_UN) == 0 => {
            until_free(call, operation | i64::from(libc::LOCK_NB))
        }
        _ => call.original(),
    }
}

/// `fcntl(fd, cmd, arg=0)`.
fn fcntl(call: &Call) -> PyResult<Obj> {
    match integer(call.arg(1), 0).and_then(|command| i32::try_from(command).ok()) {
        Some(libc::F_SETLKW) => until_free(call, libc::F_SETLK.into()),
        Some(libc::F_OFD_SETLKW) => until_free(call, libc::F_OFD_SETLK.into()),
        _ => call.original(),
    }
}

/// Repeats the original with `operation`, which does not wait, in the place of its second argument.
fn until_free(call: &Call, operation: i64) -> PyResult<Obj> {
    let Some(file) = call.arg(0) else { return call.original() };
    // SAFETY: a valid argument: an integer, or what has a method `fileno`.
    let fd = unsafe { ffi::PyObject_AsFileDescriptor(file) };
    if fd < 0 {
        clear_error();
        return call.original();
    }
    let operation = Obj::int(operation)?;
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
    vec![hook!(MODULE, c"flock", lock), hook!(MODULE, c"lockf", lock), hook!(MODULE, c"fcntl", fcntl)]
}
