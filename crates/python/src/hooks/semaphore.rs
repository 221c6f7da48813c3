//! `_multiprocessing.SemLock`: the locks and semaphores of `multiprocessing`, shared with other processes.
//!
//! A POSIX semaphore has no descriptor, so a tasklet that cannot have it sleeps and tries again, with growing delays. A
//! release by a tasklet of this process wakes at once.
//!
//! Whose a lock is the original tells of the thread of the operating system that had it last; the table below says which
//! tasklet of that thread it was. A lock that the table does not know was acquired before hooking, by the main tasklet.

use std::cell::Cell;
use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use pyo3_ffi as ffi;

use super::backoff::Backoff;
use super::call::{Call, hook};
use super::slot::{Hook, Owner};
use crate::args::{given, timeout};
use crate::object::{Obj, PyResult, Raised, clear_error, raise};
use crate::runtime::{deadline_in, now};
use crate::tasklet::Why;
use crate::waiters::{self, AddressHasher};
use crate::world::GilCell;

const SEMLOCK: Owner = Owner::Type(c"_multiprocessing", c"SemLock");

/// `RECURSIVE_MUTEX` in `Modules/_multiprocessing/semaphore.c`.
const RECURSIVE: i64 = 0;

/// Who had a lock last, by its address: a tasklet, by its address.
static OWNERS: GilCell<Option<HashMap<usize, usize, BuildHasherDefault<AddressHasher>>>> = GilCell::new(None);

thread_local! {
    /// Lets calls through to the original, which answers for the thread.
    static ASKING: Cell<bool> = const { Cell::new(false) };
}

fn asking<R>(question: impl FnOnce() -> R) -> R {
    ASKING.set(true);
    let answer = question();
    ASKING.set(false);
    answer
}

/// Whether a tasklet of this thread has the lock, and whether it is the running one.
fn held(call: &Call) -> PyResult<(bool, bool)> {
    let lock = Obj::borrowed(call.slf);
    if !asking(|| lock.attr(c"_is_mine")?.call([]))?.truth()? {
        return Ok((false, false));
    }
    let owner = OWNERS.get().get_or_insert_default().get(&(call.slf as usize)).copied();
    Ok((true, owner.map_or(call.runtime.on_main(), |owner| owner == call.runtime.me().ptr() as usize)))
}

fn is_recursive(call: &Call) -> PyResult<bool> {
    Ok(Obj::borrowed(call.slf).attr(c"kind")?.to_i64()? == RECURSIVE)
}

/// Tries to acquire the lock without waiting. Returns whether it is the caller's now.
fn attempt(call: &Call) -> PyResult<bool> {
    if is_recursive(call)? && held(call)? == (true, false) {
        return Ok(false);
    }
    let acquire = Obj::borrowed(call.slf).attr(c"acquire")?;
    let acquired = asking(|| acquire.call([&Obj::bool(false)]))?.truth()?;
    if acquired {
        OWNERS.get().get_or_insert_default().insert(call.slf as usize, call.runtime.me().ptr() as usize);
    }
    Ok(acquired)
}

/// `acquire(block=True, timeout=None)`.
fn acquire(call: &Call) -> PyResult<Obj> {
    if ASKING.get() || call.len() > 2 {
        return call.original();
    }
    let block = call.named(0, "block").map_or(Ok(true), |block| Obj::borrowed(block).truth())?;
    if !block {
        return attempt(call).map(Obj::bool);
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
    let attempt = || Ok(attempt(call)?.then_some(()));
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

/// `release()` and `__exit__(*exc_info)`.
fn release(call: &Call) -> PyResult<Obj> {
    if is_recursive(call)? && held(call)? == (true, false) {
        let text = "attempt to release recursive lock not owned by thread";
        // SAFETY: the interpreter keeps its exception classes for ever.
        return Err(raise(unsafe { ffi::PyExc_AssertionError }, text));
    }
    let result = call.original()?;
    waiters::wake_one(call.slf);
    Ok(result)
}

/// `_is_mine()`.
fn is_mine(call: &Call) -> PyResult<Obj> {
    if ASKING.get() {
        return call.original();
    }
    held(call).map(|(_, mine)| Obj::bool(mine))
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
        hook!(SEMLOCK, c"_is_mine", is_mine),
    ]
}
