//! `_imp`: the lock that the import system takes for a moment, to find the lock of a module among others.
//!
//! Its owner is an OS thread for the interpreter, which lets that thread in again and again: tasklets of one thread would
//! not be kept apart. Here a tasklet owns it, and a `fork` waits for it as it does for other threads.

use std::cell::Cell;

use pyo3_ffi as ffi;

use super::call::{Call, hook};
use super::slot::{Hook, Owner};
use crate::object::{Obj, PyResult};
use crate::tasklet::Why;
use crate::waiters;
use crate::world::GilCell;

const MODULE: Owner = Owner::Module(c"_imp");
const POSIX: Owner = Owner::Module(c"posix");

/// Which tasklet has the lock, by address, and how often; `None` if none of this process's.
static HELD: GilCell<Cell<Option<(usize, u32)>>> = GilCell::new(Cell::new(None));

/// The key under which is waited.
fn key() -> *mut ffi::PyObject {
    std::ptr::from_ref(&HELD).cast_mut().cast()
}

/// Waits until no other tasklet has the lock, and takes it.
fn take(call: &Call) -> PyResult<()> {
    let me = call.runtime.me().ptr() as usize;
    let attempt = || {
        let held = HELD.get().get();
        let count = match held {
            Some((owner, _)) if owner != me => return Ok(None),
            Some((_, count)) => count + 1,
            None => 1,
        };
        HELD.get().set(Some((me, count)));
        Ok(Some(()))
    };
    waiters::wait_for(call.runtime, key(), Why::Lock(key() as usize), None, attempt).map(drop)
}

/// Gives it back, if the tasklet has it.
fn give(call: &Call) {
    let me = call.runtime.me().ptr() as usize;
    let held = HELD.get().get();
    match held {
        Some((owner, count)) if owner == me && count > 1 => HELD.get().set(Some((me, count - 1))),
        Some((owner, _)) if owner == me => {
            HELD.get().set(None);
            waiters::wake_one(key());
        }
        _ => {}
    }
}

/// `acquire_lock()`.
fn acquire(call: &Call) -> PyResult<Obj> {
    take(call)?;
    let result = call.original();
    if result.is_err() {
        give(call);
    }
    result
}

/// `release_lock()`.
fn release(call: &Call) -> PyResult<Obj> {
    let result = call.original()?;
    give(call);
    Ok(result)
}

/// `fork()` and `forkpty()`: nobody is in the middle of an import then, in the child for ever.
fn fork(call: &Call) -> PyResult<Obj> {
    take(call)?;
    let result = call.original();
    give(call);
    result
}

/// After a `fork` that did not wait, in the child: nobody but `me` has it.
pub(super) fn after_fork(me: usize) {
    let held = HELD.get();
    held.set(held.get().filter(|&(owner, _)| owner == me));
}

pub(super) fn table() -> Vec<Hook> {
    vec![
        hook!(MODULE, c"acquire_lock", acquire),
        hook!(MODULE, c"release_lock", release),
        hook!(POSIX, c"fork", fork),
        hook!(POSIX, c"forkpty", fork),
    ]
}
