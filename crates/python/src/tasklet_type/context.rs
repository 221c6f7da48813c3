//! The contextvars context and the trace functions of a tasklet.

use std::ptr::null_mut;

use lissom_sched::State;
use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use super::attributes::running;
use super::of;
use crate::args::Args;
use crate::object::{Obj, PyResult, clear_error, runtime_error, type_error};
use crate::runtime::Runtime;
use crate::tasklet::Tasklet;
use crate::tstate::{self, Traces};
use crate::world::world;

/// The context of a tasklet; made if it has none yet.
pub(crate) fn context_of(tasklet: &Tasklet) -> PyResult<Obj> {
    let runtime = Runtime::get()?;
    if std::ptr::eq(runtime.me(), tasklet) {
        // SAFETY: T2: the runtime is that of the calling thread.
        return Obj::owned(unsafe { tstate::current_context(runtime.tstate()) });
    }
    if running(tasklet) {
        return Err(runtime_error("The tasklet has no context and you can't set one from a foreign thread."));
    }
    // SAFETY: the saved state of a tasklet that does not run (K2); nothing runs in between.
    let saved = unsafe { &mut *tasklet.saved() };
    if saved.context().is_null() {
        // SAFETY: the GIL is held.
        let fresh = Obj::owned(unsafe { ffi::PyContext_New() })?;
        saved.replace_context(fresh.into_ptr());
    }
    Ok(Obj::borrowed(saved.context()))
}

/// Whether somebody is in `context.run()`.
fn entered(context: *mut PyObject) -> bool {
    if context.is_null() {
        return false;
    }
    // SAFETY: a context; entering fails exactly if it has been entered, and is undone at once.
    unsafe {
        if ffi::PyContext_Enter(context) != 0 {
            clear_error();
            return true;
        }
        ffi::PyContext_Exit(context);
    }
    false
}

pub(super) fn set_context(args: Args) -> PyResult<Obj> {
    let context = Obj::borrowed(args.one("set_context")?);
    // SAFETY: a valid reference; the type exists for ever.
    if !context.is_instance(&raw mut ffi::PyContext_Type) {
        // SAFETY: a valid object has a type with a name.
        let name = unsafe { std::ffi::CStr::from_ptr((*ffi::Py_TYPE(context.ptr())).tp_name) };
        let name = name.to_string_lossy();
        return Err(type_error(&format!("set_context() argument must be Context, not {name}")));
    }
    let tasklet = of(args.slf());
    let runtime = Runtime::get()?;
    let foreign = world().thread_of(tasklet.id()) != Some(runtime.thread());
    let scheduled = world().state(tasklet.id()) == State::Queued;
    if foreign && (running(tasklet) || scheduled) {
        return Err(runtime_error("tasklet belongs to a different thread"));
    }
    let current = std::ptr::eq(runtime.me(), tasklet);
    let before = context_of(tasklet)?;
    if entered(before.ptr()) {
        return Err(runtime_error("the current context of the tasklet has been entered."));
    }
    // SAFETY: T2; or the saved state of a tasklet that does not run (K2).
    let old = unsafe {
        if current {
            tstate::exchange_context(runtime.tstate(), context.into_ptr())
        } else {
            (*tasklet.saved()).replace_context(context.into_ptr())
        }
    };
    drop(Obj::owned_or_none(old));
    Ok(tasklet.object())
}

pub(super) fn context_run(args: Args) -> PyResult<Obj> {
    let Some(func) = args.get(0).map(Obj::borrowed) else {
        return Err(type_error("run() missing 1 required positional argument"));
    };
    let (positional, keywords) = args.collect(1)?;
    let runtime = Runtime::get()?;
    let context = context_of(of(args.slf()))?;
    // SAFETY: T2: the runtime is that of the calling thread; the reference before is kept here and put back.
    let before = unsafe { tstate::exchange_context(runtime.tstate(), context.into_ptr()) };
    let keywords = keywords.as_ref().map_or(null_mut(), Obj::ptr);
    // SAFETY: a callable, a tuple, and a dict or null.
    let result = Obj::owned(unsafe { ffi::PyObject_Call(func.ptr(), positional.ptr(), keywords) });
    // SAFETY: as above.
    let context = unsafe { tstate::exchange_context(runtime.tstate(), before) };
    drop(Obj::owned_or_none(context));
    result
}

pub(super) fn get_context_id(slf: *mut PyObject) -> PyResult<Obj> {
    let context = context_of(of(slf))?;
    Obj::uint(context.ptr() as u64)
}

// ---- tracing ---------------------------------------------------------------------------------------------------------

fn tracer(slf: *mut PyObject, which: Traces) -> PyResult<Obj> {
    let tasklet = of(slf);
    let thread = world().thread_of(tasklet.id());
    let function = match thread.and_then(crate::world::runtime_of) {
        // SAFETY: the state of a thread that has a runtime.
        Some(runtime) if running(tasklet) => unsafe { tstate::running_tracer(runtime.tstate(), which) },
        // SAFETY: the saved state of a tasklet that does not run (K2).
        _ => unsafe { (*tasklet.saved()).tracer(which) },
    };
    Ok(if function.is_null() { Obj::none() } else { Obj::borrowed(function) })
}

/// Sets the trace or profile function of a tasklet.
///
/// # Errors
/// `RuntimeError` for one that runs on another thread; what an audit hook raises.
pub(crate) fn set_tracer(slf: *mut PyObject, value: &Obj, which: Traces) -> PyResult<()> {
    let tasklet = of(slf);
    let runtime = Runtime::get()?;
    let (setter, word) = match which {
        Traces::Trace => (c"settrace", "trace"),
        Traces::Profile => (c"setprofile", "profile"),
    };
    let setter = Obj::import(c"sys")?.attr(setter)?;
    if std::ptr::eq(runtime.me(), tasklet) {
        return setter.call([value]).map(drop);
    }
    if running(tasklet) {
        return Err(runtime_error(&format!(
            "You cannot set the {word} function of the current tasklet of another thread"
        )));
    }
    // SAFETY: T2; the tasklet does not run.
    unsafe { tstate::with_tracers(runtime.tstate(), tasklet.saved(), || setter.call([value])) }.map(drop)
}

pub(super) fn get_trace_function(slf: *mut PyObject) -> PyResult<Obj> {
    tracer(slf, Traces::Trace)
}

pub(super) fn set_trace_function(slf: *mut PyObject, value: Obj) -> PyResult<()> {
    set_tracer(slf, &value, Traces::Trace)
}

pub(super) fn get_profile_function(slf: *mut PyObject) -> PyResult<Obj> {
    tracer(slf, Traces::Profile)
}

pub(super) fn set_profile_function(slf: *mut PyObject, value: Obj) -> PyResult<()> {
    set_tracer(slf, &value, Traces::Profile)
}

/// Takes the trace functions off a tasklet that has not started and never will.
pub(super) fn forget_tracers(tasklet: &Tasklet) {
    // SAFETY: the saved state of a tasklet that does not run (K2).
    if !unsafe { (*tasklet.saved()).is_traced() } {
        return;
    }
    for which in [Traces::Trace, Traces::Profile] {
        if set_tracer(tasklet.ptr(), &Obj::none(), which).is_err() {
            clear_error();
        }
    }
}
