//! Exceptions thrown into tasklets: `throw`, `kill`, `raise_exception`.

use pyo3_ffi as ffi;

use super::attributes::{is_main, running};
use super::of;
use crate::args::{Args, given};
use crate::body::tasklet_exit;
use crate::bomb;
use crate::object::{Exc, Obj, PyResult, runtime_error, type_error};
use crate::runtime::Runtime;
use crate::tasklet::{Carried, Phase, Tasklet};
use crate::world::{self, world};

/// Raises `exception` in `tasklet`: now, or, if `pending`, when it next runs.
///
/// # Errors
/// The exception itself if the tasklet is the running one; what is thrown into the caller while others run.
pub(crate) fn throw(tasklet: &Tasklet, exception: Exc, pending: bool) -> PyResult<Obj> {
    let runtime = Runtime::get()?;
    if std::ptr::eq(runtime.me(), tasklet) {
        return Err(exception.restore());
    }
    let thread = world().thread_of(tasklet.id());
    let alive = tasklet.alive() || is_main(tasklet) || running(tasklet);
    if thread.is_none() && tasklet.alive() {
        return Err(runtime_error("tasklet has no thread"));
    }
    if thread.is_none() || !alive {
        return refuse_dead(tasklet, &exception);
    }
    let local = thread == Some(runtime.thread());
    if local && !pending {
        runtime.check_trap()?;
    }
    let keep = tasklet.object();
    let old = (tasklet.pending.replace(Some(exception)), tasklet.carried.replace(Carried::Nothing));
    world::make_runnable(tasklet);
    drop(old);
    if local && !pending {
        world().make_head(tasklet.id());
        runtime.switch()?;
    }
    drop(keep);
    if pending { Ok(Obj::none()) } else { runtime.me().claim() }
}

/// A tasklet that will never run again: only ending it is no error.
fn refuse_dead(tasklet: &Tasklet, exception: &Exc) -> PyResult<Obj> {
    if !exception.is(tasklet_exit()) {
        let no_thread = world().thread_of(tasklet.id()).is_none();
        let text = if no_thread { "tasklet has no thread" } else { "You cannot throw to a dead tasklet" };
        return Err(runtime_error(text));
    }
    Ok(Obj::none())
}

/// Ends a tasklet whose thread has ended before it could start.
fn drop_call(tasklet: &Tasklet) {
    if tasklet.phase() == Phase::Ready {
        tasklet.unbind();
        tasklet.set_phase(Phase::Unbound);
    }
}

pub(super) fn kill(args: Args) -> PyResult<Obj> {
    let [pending] = args.bind("kill", ["pending"], 0)?;
    let pending = given(pending).map_or(Ok(false), |value| value.truth())?;
    let homeless = world().thread_of(of(args.slf()).id()).is_none();
    if homeless {
        drop_call(of(args.slf()));
        return Ok(Obj::none());
    }
    throw(of(args.slf()), Exc::instance(Obj::borrowed(tasklet_exit()))?, pending)
}

pub(super) fn throw_method(args: Args) -> PyResult<Obj> {
    let [class, value, traceback, pending] = args.bind("throw", ["exc", "val", "tb", "pending"], 1)?;
    let pending = given(pending).map_or(Ok(false), |value| value.truth())?;
    let [value, traceback] = [value, traceback].map(|part| part.map(Obj::borrowed));
    let exception = bomb::instance(Obj::borrowed(class.expect("required")), value, traceback)?;
    throw(of(args.slf()), exception, pending)
}

/// The exception of `f(exc_class, *args)`.
///
/// # Errors
/// `TypeError` in the words of Stackless if the first argument is no exception class; what calling it raises.
pub(crate) fn made_of(args: &Args, function: &str, full_name: &str) -> PyResult<Exc> {
    args.no_keywords(function)?;
    let Some(class) = args.get(0) else {
        return Err(type_error(&format!("{function}() takes at least 1 argument")));
    };
    // SAFETY: a valid reference.
    if unsafe { ffi::PyExceptionClass_Check(class) } == 0 {
        return Err(type_error(&format!("{full_name} needs Exception or string subclass as first parameter")));
    }
    let (rest, _) = args.collect(1)?;
    // SAFETY: a class and a tuple.
    Exc::instance(Obj::owned(unsafe { ffi::PyObject_CallObject(class, rest.ptr()) })?)
}

pub(super) fn raise_exception(args: Args) -> PyResult<Obj> {
    let exception = made_of(&args, "raise_exception", "tasklet.raise_exception")?;
    throw(of(args.slf()), exception, false)
}
