//! What the garbage collector sees of a channel, and the end of one.
//!
//! The scheduler's reference to a tasklet that is blocked counts as the channel's: a partner can come only through the
//! channel. So the collector finds a channel that nobody but its waiters knows, and the waiters with it, and finalises them:
//! they are killed and leave. A tasklet that selects among several channels is kept by none of them.

use std::ffi::{c_int, c_void};
use std::ops::ControlFlow;

use lissom_sched::State;
use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use super::{Channel, of};
use crate::tstate::Visitor;
use crate::world::{self, world};

pub(super) unsafe extern "C" fn slot_traverse(slf: *mut PyObject, visit: ffi::visitproc, arg: *mut c_void) -> c_int {
    // SAFETY: the collector's own function and argument.
    match traverse(slf, unsafe { Visitor::new(visit, arg) }) {
        ControlFlow::Continue(()) => 0,
        ControlFlow::Break(status) => status,
    }
}

fn traverse(slf: *mut PyObject, visitor: Visitor) -> ControlFlow<c_int> {
    // SAFETY: a heap type's instances own a reference to it.
    unsafe { visitor.show(ffi::Py_TYPE(slf).cast()) }?;
    let world = world();
    for waiter in world.waiters(of(slf).id) {
        let blocked = matches!(world.state(waiter), State::Blocked(..));
        let waiter = world::tasklet(waiter);
        if blocked && waiter.held() {
            // SAFETY: K1; the reference counts as the channel's while the tasklet is blocked on it.
            unsafe { visitor.show(waiter.ptr()) }?;
        }
    }
    ControlFlow::Continue(())
}

/// Nothing to clear: its waiters are ended by their own finalisers, and leave then.
pub(super) unsafe extern "C" fn slot_clear(_: *mut PyObject) -> c_int {
    0
}

pub(super) unsafe extern "C" fn slot_dealloc(slf: *mut PyObject) {
    // SAFETY: the interpreter's protocol for a collected heap type: untrack first.
    unsafe { ffi::PyObject_GC_UnTrack(slf.cast()) };
    // A waiter's frames refer to the channel, so none is left but those of a thread or process that is gone.
    let id = of(slf).id;
    let lost: Vec<_> = world().waiters(id).collect();
    for tasklet in lost {
        world().remove(tasklet);
    }
    world().remove_channel(id);
    // SAFETY: the interpreter's protocol for a heap type: weak references, free, type.
    unsafe {
        if !(*slf.cast::<Channel>()).weakrefs.is_null() {
            ffi::PyObject_ClearWeakRefs(slf);
        }
        let kind = ffi::Py_TYPE(slf);
        if let Some(free) = (*kind).tp_free {
            free(slf.cast());
        }
        ffi::Py_DECREF(kind.cast());
    }
}
