//! Functions and threads of tasklets: `bind`, `setup`, `bind_thread`.

use lissom_sched::State;
use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use super::attributes::{is_main, running};
use super::methods::waits_in_run;
use super::{of, share_context};
use crate::args::{Args, given};
use crate::object::{Obj, PyResult, boundary, runtime_error, type_error, value_error};
use crate::runtime::Runtime;
use crate::tasklet::{Carried, Phase, Tasklet};
use crate::world::{self, world};

pub(super) fn bind(args: Args) -> PyResult<Obj> {
    let tasklet = of(args.slf());
    let [func, arguments, keywords] = args.bind("bind", ["func", "args", "kwargs"], 0)?;
    let (func, arguments, keywords) = (given(func), given(arguments), given(keywords));
    check_types(func.as_ref(), arguments.as_ref(), keywords.as_ref())?;
    let with_arguments = arguments.is_some() || keywords.is_some();
    check_rebind(tasklet, with_arguments)?;
    if func.is_some() {
        share_context(Runtime::get()?, tasklet)?;
    }
    if with_arguments && func.is_none() && !has_function(tasklet) {
        return Err(runtime_error("the tasklet was not bound to a function"));
    }
    tasklet.unbind();
    drop(tasklet.pending.take());
    if !with_arguments {
        tasklet.set_phase(if func.is_some() { Phase::Bound } else { Phase::Unbound });
        let old = tasklet.carried.replace(func.map_or(Carried::Nothing, Carried::Value));
        drop((old, tasklet.outcome.take()));
        return Ok(tasklet.object());
    }
    let before = func.map(|func| tasklet.carried.replace(Carried::Value(func)));
    let positional = arguments.map_or_else(|| Obj::tuple([]), Ok)?;
    let result = set_arguments(tasklet, positional, keywords);
    if let (Err(_), Some(before)) = (&result, before) {
        tasklet.carried.replace(before);
    }
    result?;
    Ok(tasklet.object())
}

/// Whether there is something in `tempval` that could be the function.
fn has_function(tasklet: &Tasklet) -> bool {
    let none = Obj::none();
    tasklet.carried.read(|carried| match carried {
        Carried::Nothing => false,
        Carried::Itself => true,
        Carried::Value(func) => func.ptr() != none.ptr(),
    })
}

fn check_types(func: Option<&Obj>, args: Option<&Obj>, kwargs: Option<&Obj>) -> PyResult<()> {
    // SAFETY: valid references.
    unsafe {
        if func.is_some_and(|func| ffi::PyCallable_Check(func.ptr()) == 0) {
            return Err(type_error("tasklet function must be a callable or None"));
        }
        if args.is_some_and(|args| ffi::PyTuple_Check(args.ptr()) == 0) {
            return Err(type_error("tasklet args must be a tuple or None"));
        }
        if kwargs.is_some_and(|kwargs| ffi::PyDict_Check(kwargs.ptr()) == 0) {
            return Err(type_error("tasklet kwargs must be a dictionary or None"));
        }
    }
    Ok(())
}

fn check_rebind(tasklet: &Tasklet, with_arguments: bool) -> PyResult<()> {
    if running(tasklet) {
        return Err(runtime_error("can't (re)bind the current tasklet"));
    }
    if world().state(tasklet.id()) != State::Idle && !waits_in_run(tasklet) {
        return Err(runtime_error("tasklet is scheduled"));
    }
    if matches!(tasklet.phase(), Phase::Started | Phase::Lost) {
        return Err(runtime_error("tasklet has C state on its stack"));
    }
    if is_main(tasklet) && !with_arguments {
        return Err(runtime_error("can't unbind the main tasklet"));
    }
    Ok(())
}

/// Makes the function in `tempval` ready to be called with these arguments.
fn set_arguments(tasklet: &Tasklet, args: Obj, kwargs: Option<Obj>) -> PyResult<()> {
    let none = Obj::none();
    let func = match tasklet.carried.replace(Carried::Nothing) {
        Carried::Value(func) if func.ptr() != none.ptr() => func,
        Carried::Itself => tasklet.object(),
        _ => return Err(runtime_error("the tasklet was not bound to a function")),
    };
    if world().thread_of(tasklet.id()).is_none() {
        tasklet.carried.replace(Carried::Value(func));
        return Err(runtime_error("tasklet has no thread"));
    }
    let old = (tasklet.func.replace(Some(func)), tasklet.args.replace(Some(args)), tasklet.kwargs.replace(kwargs));
    tasklet.set_phase(Phase::Ready);
    drop((old, tasklet.outcome.take()));
    Ok(())
}

pub(super) fn setup(args: Args) -> PyResult<Obj> {
    let tasklet = of(args.slf());
    if tasklet.alive() || is_main(tasklet) {
        return Err(runtime_error("tasklet is alive"));
    }
    let (positional, keywords) = args.collect(0)?;
    set_arguments(tasklet, positional, keywords)?;
    world::make_runnable(tasklet);
    Ok(tasklet.object())
}

pub(super) unsafe extern "C" fn slot_call(
    slf: *mut PyObject,
    args: *mut PyObject,
    kwargs: *mut PyObject,
) -> *mut PyObject {
    boundary(|| {
        let setup = Obj::borrowed(slf).attr(c"setup")?;
        // SAFETY: the same arguments; `kwargs` may be null.
        Obj::owned(unsafe { ffi::PyObject_Call(setup.ptr(), args, kwargs) })
    })
}

pub(super) fn bind_thread(args: Args) -> PyResult<Obj> {
    let tasklet = of(args.slf());
    let [target] = args.at_most("bind_thread")?;
    let target = match target.map(Obj::borrowed) {
        None => None,
        Some(target) => {
            // SAFETY: a valid reference.
            if unsafe { ffi::PyLong_Check(target.ptr()) } == 0 {
                return Err(type_error("bind_thread() needs a thread id, an int"));
            }
            // Idents use all 64 bits; -1 stands for the calling thread.
            // SAFETY: an int.
            let ident = unsafe { ffi::PyLong_AsUnsignedLongLongMask(target.ptr()) };
            (ident != u64::MAX).then_some(ident)
        }
    };
    let own = Runtime::get()?.thread();
    let home = world().thread_of(tasklet.id());
    if target.is_none() && home == Some(own) {
        return Ok(Obj::none());
    }
    let state = world().state(tasklet.id());
    if state == State::Queued {
        return Err(runtime_error("can't (re)bind a runnable tasklet"));
    }
    if matches!(tasklet.phase(), Phase::Started | Phase::Lost) || is_main(tasklet) {
        return Err(runtime_error("tasklet has C state on its stack"));
    }
    let thread = match target {
        None => Some(own),
        Some(ident) => world::thread_with(ident),
    };
    let thread = thread.ok_or_else(|| value_error("bad thread"))?;
    world().set_thread(tasklet.id(), thread);
    Ok(Obj::none())
}
