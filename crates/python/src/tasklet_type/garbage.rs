//! What the garbage collector sees of a tasklet, and how a tasklet dies that nobody refers to any more.

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;

use lissom_sched::State;
use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use super::attributes::running;
use super::{context, of, set_context, throwing};
use crate::body::tasklet_exit;
use crate::object::{Exc, Obj, PyResult, Raised, clear_error, write_unraisable};
use crate::runtime::Runtime;
use crate::tasklet::{Carried, Phase, Slot, Tasklet, Why};
use crate::tstate::CallSite;
use crate::world::{self, world};

/// How often a tasklet that survives is killed again, as in Stackless.
const ATTEMPTS: usize = 10;

pub(super) unsafe extern "C" fn slot_traverse(slf: *mut PyObject, visit: ffi::visitproc, arg: *mut c_void) -> c_int {
    let tasklet = of(slf);
    let cells = [&tasklet.func, &tasklet.args, &tasklet.kwargs];
    let objects = cells.map(Slot::ptr);
    let carried = match &*tasklet.carried.borrow() {
        Carried::Nothing | Carried::Itself => null_mut(),
        Carried::Value(value) => value.ptr(),
    };
    let outcome = match &*tasklet.outcome.borrow() {
        None => null_mut(),
        Some(Ok(value)) => value.ptr(),
        Some(Err(exception)) => exception.0.ptr(),
    };
    let pending = tasklet.pending.borrow().as_ref().map_or(null_mut(), |exception| exception.0.ptr());
    // SAFETY: a heap type's instances own a reference to it.
    let kind: *mut PyObject = unsafe { ffi::Py_TYPE(slf) }.cast();
    for object in objects.into_iter().flatten().chain([carried, outcome, pending, kind]) {
        // SAFETY: the collector's own function and argument, with a valid object.
        let status = if object.is_null() { 0 } else { unsafe { visit(object, arg) } };
        if status != 0 {
            return status;
        }
    }
    if !is_left_alone(tasklet) {
        return 0;
    }
    // SAFETY: it has started, has not ended, and does not run.
    unsafe { (*tasklet.saved()).traverse(call_site(tasklet), visit, arg) }
}

fn call_site(tasklet: &Tasklet) -> CallSite {
    match tasklet.why() {
        Why::Receive(channel) if tasklet.site.get() == 0 => CallSite::Iterates(channel as *mut PyObject),
        _ => CallSite::Called(tasklet.site.get()),
    }
}

/// Whether only those who refer to it can let the tasklet go on: it is paused, or blocked on a channel. All others are kept
/// by the scheduler, so what they refer to is no garbage either.
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
    // The frames of a started one borrow what they were called with.
    if tasklet.phase() != Phase::Started {
        tasklet.unbind();
    }
    let rest = (tasklet.carried.replace(Carried::Nothing), tasklet.outcome.take(), tasklet.pending.take());
    drop(rest);
    0
}

/// PEP 442: a started tasklet that nobody refers to any more is killed, so that its `finally` blocks run.
///
/// One that pauses again and again is kept in `gc.garbage`.
pub(super) unsafe extern "C" fn slot_finalize(slf: *mut PyObject) {
    let tasklet = of(slf);
    if tasklet.phase() != Phase::Started {
        return;
    }
    // SAFETY: finalisers keep the exception that is being handled (PEP 442).
    let handled = unsafe { ffi::PyErr_Occurred() };
    let handled = (!handled.is_null()).then(Exc::take);
    for _ in 0..ATTEMPTS {
        if kill(tasklet).is_err() {
            write_unraisable(None);
        }
        // What waits for something else, or is queued, is kept by the scheduler.
        if !is_left_alone(tasklet) {
            break;
        }
    }
    if is_left_alone(tasklet) && keep(tasklet).is_err() {
        write_unraisable(Some(&tasklet.object()));
    }
    if let Some(exception) = handled {
        exception.restore();
    }
}

fn kill(tasklet: &Tasklet) -> PyResult<()> {
    let runtime = Runtime::current();
    let must_wait = runtime.is_some_and(|runtime| {
        let trapped = runtime.check_trap().map_err(|Raised| clear_error()).is_err();
        trapped || runtime.on_errand()
    });
    throwing::throw(tasklet, Exc::instance(Obj::borrowed(tasklet_exit()))?, must_wait).map(drop)
}

fn keep(tasklet: &Tasklet) -> PyResult<()> {
    let garbage = Obj::import(c"gc")?.attr(c"garbage")?;
    // SAFETY: a list, unless the program has replaced it, and a valid reference.
    crate::object::check(unsafe { ffi::PyList_Append(garbage.ptr(), tasklet.ptr()) })
}

pub(super) unsafe extern "C" fn slot_dealloc(slf: *mut PyObject) {
    // SAFETY: the interpreter's protocol for a collected heap type with a finaliser: finalise (which may resurrect),
    // untrack, clear weak references, drop the fields, free, drop the type.
    unsafe {
        if ffi::PyObject_CallFinalizerFromDealloc(slf) != 0 {
            return;
        }
        ffi::PyObject_GC_UnTrack(slf.cast());
        let kind = ffi::Py_TYPE(slf);
        let tasklet = slf.cast::<Tasklet>();
        if !(*tasklet).weakrefs.is_null() {
            ffi::PyObject_ClearWeakRefs(slf);
        }
        let id = (*tasklet).id();
        if (*tasklet).phase() != Phase::Started {
            context::forget_tracers(&*tasklet);
            set_context(&*tasklet, null_mut());
        }
        world::forget(id, tasklet);
        std::ptr::drop_in_place(tasklet);
        if let Some(free) = (*kind).tp_free {
            free(slf.cast());
        }
        ffi::Py_DECREF(kind.cast());
    }
}
