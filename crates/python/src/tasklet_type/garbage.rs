//! What the garbage collector sees of a tasklet, and how a tasklet dies that nobody refers to any more.
//!
//! # Invariants
//! * **G1**: the frames of a started tasklet are shown while only those who refer to it can let it go on, and not while it
//!   runs. All others are kept by the scheduler, so nothing that they refer to is garbage.
//! * **G2**: they are shown only until the tasklet has been finalised. So the collector never comes to clear what frames refer
//!   to that may still run: when it finds them to be garbage, the finaliser ends them, or gives the tasklet to others to keep.
//! * **G3**: what a started tasklet was called with is not cleared: its frames borrow it.

use std::ffi::{c_int, c_void};
use std::ops::ControlFlow;
use std::ptr::null_mut;

use lissom_sched::State;
use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use super::attributes::{is_main, running};
use super::{context, of, set_context, throwing};
use crate::body::tasklet_exit;
use crate::object::{Exc, Obj, PyResult, Raised, check, clear_error, write_unraisable};
use crate::runtime::Runtime;
use crate::tasklet::{Carried, Phase, Tasklet};
use crate::tstate::Visitor;
use crate::world::{self, world};

/// How often a tasklet that survives is killed again, as in Stackless.
const ATTEMPTS: usize = 10;

pub(super) unsafe extern "C" fn slot_traverse(slf: *mut PyObject, visit: ffi::visitproc, arg: *mut c_void) -> c_int {
    // SAFETY: the collector's own function and argument.
    match traverse(of(slf), unsafe { Visitor::new(visit, arg) }) {
        ControlFlow::Continue(()) => 0,
        ControlFlow::Break(status) => status,
    }
}

fn traverse(tasklet: &Tasklet, visitor: Visitor) -> ControlFlow<c_int> {
    let cells = [&tasklet.func, &tasklet.args, &tasklet.kwargs];
    let called = cells.map(|slot| slot.ptr().unwrap_or(null_mut()));
    let carried = tasklet.carried.read(|carried| match carried {
        Carried::Nothing | Carried::Itself => null_mut(),
        Carried::Value(value) => value.ptr(),
    });
    let outcome = tasklet.outcome.read(|outcome| match outcome {
        None => null_mut(),
        Some(Ok(value)) => value.ptr(),
        Some(Err(exception)) => exception.0.ptr(),
    });
    let pending = tasklet.pending.read(|pending| pending.map_or(null_mut(), |exception| exception.0.ptr()));
    // SAFETY: a heap type's instances own a reference to it.
    let kind: *mut PyObject = unsafe { ffi::Py_TYPE(tasklet.ptr()) }.cast();
    for object in called.into_iter().chain([carried, outcome, pending, kind]) {
        // SAFETY: what the cells hold is owned.
        unsafe { visitor.show(object) }?;
    }
    if !shows_state(tasklet) {
        return ControlFlow::Continue(());
    }
    if let Some(identity) = tasklet.identity() {
        // SAFETY: it is loaded only while the tasklet runs.
        unsafe { (*identity).traverse(visitor) }?;
    }
    // SAFETY: it does not run, and has not ended.
    unsafe { (*tasklet.saved()).traverse(tasklet.site(), visitor) }
}

/// Whether the saved state and the frames may be shown (G1, G2).
fn shows_state(tasklet: &Tasklet) -> bool {
    match tasklet.phase() {
        // It has not started: there is a context and perhaps a trace function.
        Phase::Bound | Phase::Ready => !is_main(tasklet) && !running(tasklet),
        // SAFETY: a valid object of a collected type.
        Phase::Started => is_left_alone(tasklet) && unsafe { ffi::PyObject_GC_IsFinalized(tasklet.ptr()) } == 0,
        Phase::Unbound | Phase::Lost => false,
    }
}

/// Whether only those who refer to it can let a started tasklet go on: it is paused, or blocked on a channel.
fn is_left_alone(tasklet: &Tasklet) -> bool {
    if tasklet.phase() != Phase::Started {
        return false;
    }
    // A callback may run in it after it has left the queue.
    let idle = matches!(world().state(tasklet.id()), State::Idle | State::Blocked(..));
    idle && !running(tasklet)
}

pub(super) unsafe extern "C" fn slot_clear(slf: *mut PyObject) -> c_int {
    let tasklet = of(slf);
    if tasklet.phase() == Phase::Started {
        return 0; // G3
    }
    if shows_state(tasklet) {
        context::forget_tracers(tasklet);
        set_context(tasklet, null_mut());
    }
    tasklet.unbind();
    let rest = (tasklet.carried.replace(Carried::Nothing), tasklet.outcome.take(), tasklet.pending.take());
    drop(rest);
    0
}

/// PEP 442: a started tasklet that nobody refers to any more is killed, so that its `finally` blocks run.
pub(super) unsafe extern "C" fn slot_finalize(slf: *mut PyObject) {
    if of(slf).phase() == Phase::Started {
        end(of(slf));
    }
}

/// Kills a tasklet that nobody refers to. One that blocks or pauses again and again is kept in `gc.garbage`.
///
/// The running tasklet may be in the middle of anything: the exception that it handles and its `tempval` stay as they are,
/// and what is thrown into it while others run is raised when it next switches.
fn end(tasklet: &Tasklet) {
    // SAFETY: finalisers keep the exception that is set (PEP 442).
    let handled = unsafe { ffi::PyErr_Occurred() };
    let handled = (!handled.is_null()).then(Exc::take);
    let me = Runtime::current().map(Runtime::me);
    let carried = me.map(|me| me.carried.replace(Carried::Nothing));
    for _ in 0..ATTEMPTS {
        if kill(tasklet).is_err() {
            postpone(me);
        }
        // What waits for something else, or is queued, is kept by the scheduler.
        if !is_left_alone(tasklet) {
            break;
        }
    }
    if is_left_alone(tasklet) && keep(tasklet).is_err() {
        write_unraisable(Some(&tasklet.object()));
    }
    if let (Some(me), Some(carried)) = (me, carried) {
        drop(me.carried.replace(carried));
    }
    if let Some(exception) = handled {
        exception.restore();
    }
}

fn kill(tasklet: &Tasklet) -> PyResult<()> {
    let exit = Exc::instance(Obj::borrowed(tasklet_exit()))?;
    let Some(runtime) = Runtime::current() else {
        // It belongs to another thread. No reason to give this one a scheduler.
        let old = (tasklet.pending.replace(Some(exit)), tasklet.carried.replace(Carried::Nothing));
        world::make_runnable(tasklet);
        drop(old);
        return Ok(());
    };
    let trapped = runtime.check_trap().map_err(|Raised| clear_error()).is_err();
    throwing::throw(tasklet, exit, trapped || runtime.on_errand()).map(drop)
}

/// Has the exception that is set raised in the running tasklet when it next switches.
fn postpone(me: Option<&Tasklet>) {
    match me {
        Some(me) if !me.pending.is_some() => drop(me.pending.replace(Some(Exc::take()))),
        _ => write_unraisable(None),
    }
}

fn keep(tasklet: &Tasklet) -> PyResult<()> {
    let garbage = Obj::import(c"gc")?.attr(c"garbage")?;
    // SAFETY: a list, unless the program has replaced it, and a valid reference.
    check(unsafe { ffi::PyList_Append(garbage.ptr(), tasklet.ptr()) })
}

pub(super) unsafe extern "C" fn slot_dealloc(slf: *mut PyObject) {
    // SAFETY: the interpreter's protocol for a collected heap type with a finaliser: finalise (which may resurrect),
    // untrack, clear weak references, drop the fields, free, drop the type.
    unsafe {
        if ffi::PyObject_CallFinalizerFromDealloc(slf) != 0 {
            return;
        }
        if of(slf).phase() == Phase::Started {
            return end_again(slf);
        }
        ffi::PyObject_GC_UnTrack(slf.cast());
        let kind = ffi::Py_TYPE(slf);
        let tasklet = slf.cast::<Tasklet>();
        if !(*tasklet).weakrefs.is_null() {
            ffi::PyObject_ClearWeakRefs(slf);
        }
        context::forget_tracers(&*tasklet);
        set_context(&*tasklet, null_mut());
        world::forget((*tasklet).id(), tasklet);
        std::ptr::drop_in_place(tasklet);
        if let Some(free) = (*kind).tp_free {
            free(slf.cast());
        }
        ffi::Py_DECREF(kind.cast());
    }
}

/// Kills a tasklet that has survived its finaliser, which is called but once, and has been lost again.
///
/// # Safety
/// Called by `tp_dealloc`, with its object, whose last reference is gone.
unsafe fn end_again(slf: *mut PyObject) {
    // SAFETY: brought back to life with a reference of ours. A subclass has untracked it.
    unsafe {
        ffi::Py_INCREF(slf);
        if ffi::PyObject_GC_IsTracked(slf) == 0 {
            ffi::PyObject_GC_Track(slf.cast());
        }
    }
    end(of(slf));
    // If not even `gc.garbage` keeps it, the reference does.
    // SAFETY: the object is alive; giving the last reference back calls `tp_dealloc` again.
    unsafe {
        if of(slf).phase() != Phase::Started || ffi::Py_REFCNT(slf) > 1 {
            ffi::Py_DECREF(slf);
        }
    }
}
