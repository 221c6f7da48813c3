//! `_multiprocessing.SemLock`: the locks and semaphores of `multiprocessing`, shared with other processes.
//!
//! A POSIX semaphore has no descriptor, so a tasklet that cannot have it sleeps and tries again, with growing delays. A
//! release by a tasklet of this process wakes at once. The owner of a recursive lock is the OS thread for the original, so tasklets of one thread
//! are not kept apart by `multiprocessing.RLock`.

use pyo3_ffi as ffi;

use super::backoff::Backoff;
use super::call::{Call, hook};
use super::slot::{Hook, Owner};
use crate::args::{given, timeout};
use crate::object::{Obj, PyResult, Raised, clear_error};
use crate::runtime::{deadline_in, now};
use crate::tasklet::Why;
use crate::waiters;

const SEMLOCK: Owner = Owner::Type(c"_multiprocessing", c"SemLock");

/// `acquire(block=True, timeout=None)`.
fn acquire(call: &Call) -> PyResult<Obj> {
    let block = call.named(0, "block").map_or(Ok(true), |block| Obj::borrowed(block).truth())?;
    if !block {
        return call.original();
    }
    let Ok(limit) = timeout(given(call.named(1, "timeout")).as_ref().map(Obj::ptr)) else {
        clear_error();
        return call.original();
    };
    wait(call, limit.map(deadline_in))
}

/// `__enter__()`.
fn enter(call: &Call) -> PyResult<Obj> {
    wait(call, None)
}

fn wait(call: &Call, deadline: Option<u64>) -> PyResult<Obj> {
    let acquire = Obj::borrowed(call.slf).attr(c"acquire")?;
    let no = Obj::bool(false);
    let attempt = || Ok(acquire.call([&no])?.truth()?.then_some(()));
    let mut delays = Backoff::new();
    loop {
        let next = deadline_in(delays.next()).min(deadline.unwrap_or(u64::MAX));
        let why = Why::Lock(call.slf as usize);
        if waiters::wait_for(call.runtime, call.slf, why, Some(next), attempt)?.is_some() {
            return Ok(Obj::bool(true));
        }
        if deadline.is_some_and(|deadline| deadline <= now()) {
            return Ok(Obj::bool(false));
        }
    }
}

fn release(call: &Call) -> PyResult<Obj> {
    let result = call.original()?;
    waiters::wake_one(call.slf);
    Ok(result)
}

/// The part of the table for an interpreter with `_multiprocessing`.
pub(super) fn table() -> Vec<Hook> {
    // SAFETY: the GIL is held; a null-terminated name.
    if let Err(Raised) = Obj::owned(unsafe { ffi::PyImport_ImportModule(c"_multiprocessing".as_ptr()) }) {
        clear_error();
        return Vec::new();
    }
    vec![
        hook!(SEMLOCK, c"acquire", acquire),
        hook!(SEMLOCK, c"__enter__", enter),
        hook!(SEMLOCK, c"release", release).changes(waiters::wake_one),
        hook!(SEMLOCK, c"__exit__", release).changes(waiters::wake_one),
    ]
}
