//! The methods of a tasklet.

use lissom_sched::State;
use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use super::attributes::is_main;
use super::of;
use crate::args::{self, Args, given, method};
use crate::body::tasklet_exit;
use crate::object::{Exc, Obj, PyResult, boundary, clear_error, runtime_error, type_error};
use crate::runtime::Runtime;
use crate::tasklet::{Carried, Phase, Tasklet};
use crate::world::{self, world};

fn bind(args: Args) -> PyResult<Obj> {
    let tasklet = of(args.slf());
    let [func, arguments, keywords] = args.bind("bind", ["func", "args", "kwargs"], 0)?;
    let (func, arguments, keywords) = (given(func), given(arguments), given(keywords));
    check_rebind(tasklet)?;
    if let Some(func) = &func
        // SAFETY: a valid reference.
        && unsafe { ffi::PyCallable_Check(func.ptr()) } == 0
    {
        return Err(type_error("tasklet function must be a callable or None"));
    }
    let with_arguments = arguments.is_some() || keywords.is_some();
    if func.is_none() && !with_arguments {
        tasklet.unbind();
        tasklet.set_phase(Phase::Unbound);
        return Ok(tasklet.object());
    }
    if let Some(func) = func {
        *tasklet.carried.borrow_mut() = Carried::Value(func.clone());
        drop(tasklet.func.replace(Some(func)));
        tasklet.set_phase(Phase::Bound);
    } else if tasklet.func.borrow().is_none() {
        return Err(runtime_error("the tasklet was not bound to a function"));
    }
    if with_arguments {
        let tuple = match arguments {
            // SAFETY: a valid reference.
            Some(arguments) => Obj::owned(unsafe { ffi::PySequence_Tuple(arguments.ptr()) })?,
            None => Obj::tuple([])?,
        };
        set_arguments(tasklet, tuple, keywords);
    }
    Ok(tasklet.object())
}

fn check_rebind(tasklet: &Tasklet) -> PyResult<()> {
    if Runtime::current().is_some_and(|runtime| std::ptr::eq(runtime.me(), tasklet)) {
        return Err(runtime_error("can't (re)bind the current tasklet"));
    }
    if world().state(tasklet.id()) != State::Idle {
        return Err(runtime_error("tasklet is scheduled"));
    }
    if tasklet.phase() == Phase::Started {
        return Err(runtime_error("tasklet has C state on its stack"));
    }
    Ok(())
}

fn set_arguments(tasklet: &Tasklet, args: Obj, kwargs: Option<Obj>) {
    let old = (tasklet.args.replace(Some(args)), tasklet.kwargs.replace(kwargs));
    drop(old);
    drop(tasklet.outcome.take());
    tasklet.set_phase(Phase::Ready);
}

fn setup(args: Args) -> PyResult<Obj> {
    let tasklet = of(args.slf());
    if tasklet.alive() {
        return Err(runtime_error("tasklet is alive"));
    }
    if tasklet.func.borrow().is_none() {
        return Err(runtime_error("the tasklet was not bound to a function"));
    }
    let (positional, keywords) = args.collect(0)?;
    set_arguments(tasklet, positional, keywords);
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

fn check_runnable(tasklet: &Tasklet, action: &str) -> PyResult<()> {
    if matches!(world().state(tasklet.id()), State::Blocked(..)) {
        return Err(runtime_error(&format!("You cannot {action} a blocked tasklet")));
    }
    if tasklet.phase() == Phase::Lost || world().thread_of(tasklet.id()).is_none() {
        return Err(runtime_error("tasklet has no thread"));
    }
    let runs = Runtime::current().is_some_and(|runtime| std::ptr::eq(runtime.me(), tasklet));
    if !tasklet.alive() && !runs && !is_main(tasklet) {
        return Err(runtime_error(&format!("You cannot {action} an unbound(dead) tasklet")));
    }
    Ok(())
}

fn insert(args: Args) -> PyResult<Obj> {
    args.none("insert")?;
    let tasklet = of(args.slf());
    check_runnable(tasklet, "run")?;
    if world().state(tasklet.id()) == State::Idle {
        world::make_runnable(tasklet);
    }
    Ok(tasklet.object())
}

fn remove(args: Args) -> PyResult<Obj> {
    args.none("remove")?;
    let tasklet = of(args.slf());
    let runtime = Runtime::get()?;
    if std::ptr::eq(runtime.me(), tasklet) {
        return Err(runtime_error("The current tasklet cannot be removed."));
    }
    let state = world().state(tasklet.id());
    match state {
        State::Blocked(..) => return Err(runtime_error("You cannot remove a blocked tasklet.")),
        State::Parked => {
            return Err(runtime_error("You cannot remove a tasklet that waits for input, output or time."));
        }
        State::Idle => {}
        State::Queued => {
            world().remove(tasklet.id());
            let object = tasklet.object();
            drop(tasklet.release());
            return Ok(object);
        }
    }
    Ok(tasklet.object())
}

fn run(args: Args) -> PyResult<Obj> {
    args.none("run")?;
    let tasklet = of(args.slf());
    let runtime = Runtime::get()?;
    check_runnable(tasklet, "run")?;
    if world().state(tasklet.id()) == State::Parked {
        return Err(runtime_error("You cannot run a tasklet that waits for input, output or time"));
    }
    world::make_runnable(tasklet);
    if world().thread_of(tasklet.id()) == Some(runtime.thread()) {
        world().make_head(tasklet.id());
        runtime.switch()?;
    }
    Ok(Obj::none())
}

/// Raises `exception` in `tasklet`: now, or, if `pending`, when it next runs.
///
/// # Errors
/// The exception itself if the tasklet is the running one; what is thrown into the caller while others run.
pub(crate) fn throw(tasklet: &Tasklet, exception: Exc, pending: bool) -> PyResult<()> {
    let runtime = Runtime::get()?;
    if std::ptr::eq(runtime.me(), tasklet) && !pending {
        return Err(exception.restore());
    }
    if !tasklet.alive() && !is_main(tasklet) && !std::ptr::eq(runtime.me(), tasklet) {
        if exception.is(tasklet_exit()) {
            return Ok(());
        }
        return Err(runtime_error("You cannot throw to a dead tasklet"));
    }
    if world().thread_of(tasklet.id()).is_none() {
        if exception.is(tasklet_exit()) {
            tasklet.unbind();
            tasklet.set_phase(Phase::Unbound);
            return Ok(());
        }
        return Err(runtime_error("tasklet has no thread"));
    }
    let keep = tasklet.object();
    drop(tasklet.pending.replace(Some(exception)));
    world::make_runnable(tasklet);
    if !pending && world().thread_of(tasklet.id()) == Some(runtime.thread()) {
        world().make_head(tasklet.id());
        runtime.switch()?;
    }
    drop(keep);
    Ok(())
}

fn kill(args: Args) -> PyResult<Obj> {
    let [pending] = args.bind("kill", ["pending"], 0)?;
    let pending = given(pending).map_or(Ok(false), |value| value.truth())?;
    throw(of(args.slf()), Exc::instance(Obj::borrowed(tasklet_exit()))?, pending)?;
    Ok(Obj::none())
}

fn throw_method(args: Args) -> PyResult<Obj> {
    let [class, value, traceback, pending] = args.bind("throw", ["exc", "val", "tb", "pending"], 1)?;
    let pending = given(pending).map_or(Ok(false), |value| value.truth())?;
    let class = given(class).ok_or_else(|| type_error("exceptions must be classes, or instances, not NoneType"))?;
    let exception = match given(value) {
        None => Exc::instance(class)?,
        Some(value) => Exc::instance(class.call([&value])?)?,
    };
    if let Some(traceback) = given(traceback) {
        // SAFETY: an exception instance; the call checks the traceback's type.
        if unsafe { ffi::PyException_SetTraceback(exception.0.ptr(), traceback.ptr()) } != 0 {
            clear_error();
            return Err(type_error("third argument must be a traceback object"));
        }
    }
    throw(of(args.slf()), exception, pending)?;
    Ok(Obj::none())
}

fn raise_exception(args: Args) -> PyResult<Obj> {
    let Some(class) = args.get(0) else {
        return Err(type_error("raise_exception() takes at least 1 argument (0 given)"));
    };
    let (rest, _) = args.collect(1)?;
    // SAFETY: a callable, checked by the call, and a tuple.
    let exception = Obj::owned(unsafe { ffi::PyObject_CallObject(class, rest.ptr()) })?;
    throw(of(args.slf()), Exc::instance(exception)?, false)?;
    Ok(Obj::none())
}

/// The table of methods.
pub(super) fn table() -> *mut ffi::PyMethodDef {
    args::table(
        vec![
            method!(
                c"bind",
                bind,
                c"bind($self, func=None, args=None, kwargs=None)\n--\n\n\
                Set the function, and with ``args`` or ``kwargs`` make the tasklet ready to run.\n\n\
                Never switches. ``func`` is a callable, or None to keep the one that is bound; ``args`` a\n\
                sequence, ``kwargs`` a dict. With nothing at all the tasklet is unbound.\n\n\
                Returns the tasklet. With arguments it is alive and paused: `insert` or `run` lets it go.\n\n\
                Raises TypeError for what is not callable; RuntimeError for the running tasklet, for one that is\n\
                queued, waits or has started, and for arguments without a function. The tasklet is then as\n\
                before. As in Stackless."
            ),
            method!(
                c"setup",
                setup,
                c"setup($self, *args, **kwargs)\n--\n\n\
                Set the arguments, and queue the tasklet at the end. The same as calling the tasklet.\n\n\
                Never switches. Returns the tasklet.\n\n\
                Raises RuntimeError if the tasklet is alive or has no function; it is then as before. As in\n\
                Stackless."
            ),
            method!(
                c"insert",
                insert,
                c"insert($self)\n--\n\n\
                Queue the tasklet at the end; one that is queued or waits for input, output or time stays where\n\
                it is.\n\n\
                Never switches. For a tasklet of another thread that thread is woken.\n\n\
                Returns the tasklet. Raises RuntimeError if it is blocked on a channel, not alive, or if its\n\
                thread has ended. As in Stackless."
            ),
            method!(
                c"remove",
                remove,
                c"remove($self)\n--\n\n\
                Take the tasklet out of the queue: it is paused, until `insert` or `run`.\n\n\
                Never switches. One that is in no queue is left as it is. The scheduler gives up its reference:\n\
                a started tasklet that nothing else refers to is killed.\n\n\
                Returns the tasklet. Raises RuntimeError for the running tasklet and for one that is blocked or\n\
                waits. As in Stackless."
            ),
            method!(
                c"run",
                run,
                c"run($self)\n--\n\n\
                Switch to the tasklet now; the caller stays in the queue.\n\n\
                Always switches, unless the tasklet is the running one or belongs to another thread; that one is\n\
                made runnable there. A queued tasklet keeps its place: those behind it run, too, before the\n\
                caller goes on.\n\n\
                Returns None. Raises RuntimeError if the tasklet is blocked on a channel, waits for input,\n\
                output or time, is not alive, or if its thread has ended; and what is thrown into the caller\n\
                meanwhile. As in Stackless."
            ),
            method!(
                c"kill",
                kill,
                c"kill($self, pending=False)\n--\n\n\
                Raise TaskletExit in the tasklet, wherever it waits, so that its ``finally`` blocks run and it\n\
                ends.\n\n\
                Switches to the tasklet at once, unless ``pending`` is true: then the exception is raised when\n\
                it next runs. Its wait is over either way: it has received nothing, and of a ``sendall`` a part\n\
                may have been sent. For a tasklet of another thread the call never switches.\n\n\
                Returns None, also for one that is not alive or whose thread has ended: nothing happens then.\n\
                For the running tasklet it raises TaskletExit; else only what is thrown into the caller\n\
                meanwhile.\n\n\
                The tasklet may catch TaskletExit and go on. One that has not run yet ends without having called\n\
                its function. As in Stackless, where TaskletExit is a subclass of SystemExit and in\n\
                ``builtins``, too."
            ),
            method!(
                c"throw",
                throw_method,
                c"throw($self, exc, val=None, tb=None, pending=False)\n--\n\n\
                Raise an exception in the tasklet, wherever it waits.\n\n\
                Switches to the tasklet at once, unless ``pending`` is true: then it is raised when it next\n\
                runs. For a tasklet of another thread the call never switches.\n\n\
                ``exc`` is an exception or a class of one, ``val`` the argument for a class, ``tb`` a traceback\n\
                to begin with.\n\n\
                Returns None. Raises TypeError for arguments of other types, RuntimeError if the tasklet is not\n\
                alive (TaskletExit: does nothing) or if its thread has ended; for the running tasklet the\n\
                exception itself, else only what is thrown into the caller meanwhile. An exception that was\n\
                pending is replaced.\n\n\
                As in Stackless."
            ),
            method!(
                c"raise_exception",
                raise_exception,
                c"raise_exception($self, exc_class, *args)\n--\n\n\
                Raise ``exc_class(*args)`` in the tasklet, wherever it waits.\n\n\
                Switches to the tasklet at once. Returns None. Raises what calling ``exc_class`` raises, and as\n\
                `throw` does. As in Stackless."
            ),
        ],
        ffi::PyMethodDef::zeroed(),
    )
}
