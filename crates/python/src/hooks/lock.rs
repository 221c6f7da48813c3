//! `_thread.lock`: `threading.Lock`, and through it conditions, events, semaphores, barriers and queues.
//!
//! The lock stays the interpreter's own; a tasklet that cannot have it waits here instead of in the C library, and every
//! release looks for such waiters. A lock that only C code releases (the one that a thread of the operating system
//! releases at its end, up to 3.12) is waited for in a blocking thread.

use std::collections::HashSet;

use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use super::call::{Call, hook};
use super::dealloc::{Original, Watched};
use super::slot::{Hook, Owner};
use crate::jobs::{self, Lane};
use crate::object::{Obj, PyResult, Raised, clear_error, error_is_set};
use crate::runtime::deadline_in;
use crate::tasklet::Why;
use crate::waiters;
use crate::world::GilCell;

const LOCK: Owner = Owner::Type(c"_thread", c"LockType");

/// Locks that real threads release at their end, from C.
static SENTINELS: GilCell<Option<HashSet<usize>>> = GilCell::new(None);

/// Longest timeout that is computed here, in seconds; the original raises for what it cannot represent.
const LONGEST: f64 = 9.0e9;

/// How long an `acquire` may wait.
pub(super) enum Patience {
    /// Not at all, or the arguments are wrong: the original decides.
    None,
    Forever,
    Until(u64),
}

/// Reads `acquire(blocking=True, timeout=-1)`.
pub(super) fn patience(call: &Call) -> Patience {
    let blocking = match call.named(0, "blocking") {
        None => true,
        // SAFETY: a valid argument.
        Some(value) => match unsafe { ffi::PyObject_IsTrue(value) } {
            -1 => {
                clear_error();
                return Patience::None;
            }
            truth => truth == 1,
        },
    };
    if !blocking {
        return Patience::None;
    }
    let Some(timeout) = call.named(1, "timeout") else { return Patience::Forever };
    // SAFETY: a valid argument.
    let seconds = unsafe { ffi::PyFloat_AsDouble(timeout) };
    if error_is_set() {
        clear_error();
        return Patience::None;
    }
    if seconds == -1.0 {
        Patience::Forever
    } else if (0.0..=LONGEST).contains(&seconds) {
        Patience::Until(deadline_in((seconds * 1e9).ceil() as u64))
    } else {
        Patience::None
    }
}

/// `acquire(False)` of the original.
pub(super) fn try_original(call: &Call) -> PyResult<bool> {
    // SAFETY: the singleton always exists.
    let result = call.original_with(&[unsafe { ffi::Py_False() }])?;
    result.truth()
}

fn acquire(call: &Call) -> PyResult<Obj> {
    let patience = patience(call);
    let deadline = match patience {
        Patience::None => return call.original(),
        Patience::Forever => None,
        Patience::Until(deadline) => Some(deadline),
    };
    if try_original(call)? {
        return Ok(Obj::bool(true));
    }
    if is_sentinel(call.slf) {
        let acquire = Obj::borrowed(call.slf).attr(c"acquire")?;
        let (args, kwargs) = call.packed()?;
        return jobs::call(call.runtime, Lane::Others, acquire, args, kwargs);
    }
    wait(call, deadline)
}

fn wait(call: &Call, deadline: Option<u64>) -> PyResult<Obj> {
    let attempt = || Ok(try_original(call)?.then_some(()));
    let acquired = waiters::wait_for(call.runtime, call.slf, Why::Lock(call.slf as usize), deadline, attempt)?;
    Ok(Obj::bool(acquired.is_some()))
}

/// `__enter__`: the same C function as `acquire` wherever it takes arguments, so it can be asked not to block.
fn enter(call: &Call) -> PyResult<Obj> {
    if call.takes_arguments() { acquire(call) } else { Obj::borrowed(call.slf).attr(c"acquire")?.call([]) }
}

fn release(call: &Call) -> PyResult<Obj> {
    let result = call.original()?;
    waiters::wake_one(call.slf);
    Ok(result)
}

fn is_sentinel(lock: *mut PyObject) -> bool {
    SENTINELS.get().as_ref().is_some_and(|sentinels| sentinels.contains(&(lock as usize)))
}

static ORIGINAL: Original = Original::new();

/// A sentinel's address may be reused by any other lock.
pub(super) const WATCHED: Watched = Watched { owner: LOCK, dealloc, original: &ORIGINAL };

unsafe extern "C" fn dealloc(slf: *mut PyObject) {
    if let Some(sentinels) = SENTINELS.get().as_mut() {
        sentinels.remove(&(slf as usize));
    }
    // SAFETY: called by the interpreter as the deallocator.
    unsafe { ORIGINAL.call(slf) }
}

/// Notes a lock that C code will release.
pub(super) fn note_sentinel(lock: *mut PyObject) {
    SENTINELS.get().get_or_insert_default().insert(lock as usize);
}

/// Releases a lock as the program would, if it is locked.
pub(super) fn release_if_locked(lock: &Obj) {
    let released = lock.attr(c"release").and_then(|release| release.call([]));
    if let Err(Raised) = released {
        clear_error();
    }
}

pub(super) fn table() -> Vec<Hook> {
    vec![
        hook!(LOCK, c"acquire", acquire),
        hook!(LOCK, c"acquire_lock", acquire),
        hook!(LOCK, c"__enter__", enter),
        hook!(LOCK, c"release", release).changes(waiters::wake_one),
        hook!(LOCK, c"release_lock", release).changes(waiters::wake_one),
        hook!(LOCK, c"__exit__", release).changes(waiters::wake_one),
    ]
}
