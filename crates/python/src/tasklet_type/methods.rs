//! The methods of a tasklet: where it is queued, who runs next.

use lissom_sched::State;
use pyo3_ffi as ffi;

use super::attributes::{is_main, running};
use super::binding::{bind, bind_thread, setup};
use super::context::{context_run, set_context};
use super::of;
use super::pickling::{reduce, reduce_ex, set_state};
use super::throwing::{kill, raise_exception, throw_method};
use crate::args::{self, Args, method};
use crate::object::{Obj, PyResult, Raised, clear_error, runtime_error, type_error};
use crate::runtime::Runtime;
use crate::tasklet::{Tasklet, Why};
use crate::tstate::Caller;
use crate::watchdog;
use crate::world::{self, Wake, world};

/// Whether the tasklet waits in `run()`.
pub(super) fn waits_in_run(tasklet: &Tasklet) -> bool {
    matches!(tasklet.why(), Why::Run) && world().state(tasklet.id()) == State::Parked
}

/// Queues a tasklet that is paused, at the end; one that is queued keeps its place.
fn make_queued(tasklet: &Tasklet) -> PyResult<()> {
    let state = world().state(tasklet.id());
    let thread = world().thread_of(tasklet.id());
    match state {
        State::Queued => return Ok(()),
        State::Blocked(..) => return Err(runtime_error("You cannot run a blocked tasklet")),
        State::Parked if waits_in_run(tasklet) => tasklet.set_wake(Wake::Settled),
        State::Parked => {
            return Err(runtime_error("You cannot run a tasklet that waits for input, output, time or a lock"));
        }
        State::Idle => {}
    }
    if thread.is_none() {
        return Err(runtime_error("Target thread isn't initialized"));
    }
    if !tasklet.alive() && !running(tasklet) && !is_main(tasklet) {
        return Err(runtime_error("You cannot run an unbound(dead) tasklet"));
    }
    world::make_runnable(tasklet);
    Ok(())
}

fn insert(args: Args) -> PyResult<Obj> {
    args.none("insert")?;
    let tasklet = of(args.slf());
    make_queued(tasklet)?;
    Ok(tasklet.object())
}

fn remove(args: Args) -> PyResult<Obj> {
    args.none("remove")?;
    let tasklet = of(args.slf());
    let state = world().state(tasklet.id());
    let thread = world().thread_of(tasklet.id());
    let object = tasklet.object();
    if thread.is_none() {
        return Ok(object);
    }
    match state {
        State::Blocked(..) => return Err(runtime_error("You cannot remove a blocked tasklet.")),
        _ if running(tasklet) => return Err(runtime_error("The current tasklet cannot be removed.")),
        State::Parked if !waits_in_run(tasklet) => {
            return Err(runtime_error("You cannot remove a tasklet that waits for input, output, time or a lock."));
        }
        State::Parked | State::Idle => {}
        State::Queued => {
            world().remove(tasklet.id());
            drop(tasklet.release());
        }
    }
    Ok(object)
}

fn run(args: Args) -> PyResult<Obj> {
    args.none("run")?;
    run_or_switch(args, false)
}

fn switch(args: Args) -> PyResult<Obj> {
    args.none("switch")?;
    run_or_switch(args, true)
}

/// Lets the tasklet go on now; the caller stays in the queue, or leaves it.
fn run_or_switch(args: Args, leave: bool) -> PyResult<Obj> {
    let tasklet = of(args.slf());
    let runtime = Runtime::get()?;
    let me = runtime.me();
    let thread = world().thread_of(tasklet.id());
    if thread != Some(runtime.thread()) {
        run_elsewhere(tasklet, leave)?;
        return Ok(Obj::none());
    }
    let itself = std::ptr::eq(me, tasklet);
    if !itself {
        let state = world().state(tasklet.id());
        if matches!(state, State::Queued | State::Idle) || waits_in_run(tasklet) {
            // What cannot run raises that, whatever is trapped.
            runtime.check_trap().or_else(|Raised| {
                let runnable = tasklet.alive() || is_main(tasklet);
                if runnable {
                    return Err(Raised);
                }
                clear_error();
                Ok(())
            })?;
        }
    }
    make_queued(tasklet)?;
    if leave && !itself {
        world().remove(me.id());
        // The scheduler's reference is dropped by whoever runs next.
        runtime.drop_later(me.release());
    } else if leave {
        // It would only wait for itself.
        return me.claim();
    }
    world().make_head(tasklet.id());
    me.wait_in_call(args.slf(), Caller::With(&args), || runtime.switch())?;
    me.claim()
}

/// The tasklet of another thread goes first there if that thread waits, else next; the caller goes on.
fn run_elsewhere(tasklet: &Tasklet, leave: bool) -> PyResult<()> {
    let target = world().thread_of(tasklet.id()).and_then(world::runtime_of);
    let Some(target) = target else { return Err(runtime_error("tasklet has no thread")) };
    if leave {
        return Err(runtime_error("can't switch to a different thread."));
    }
    let queued = world().state(tasklet.id()) == State::Queued;
    make_queued(tasklet)?;
    if target.is_idle() {
        world().make_head(tasklet.id());
    } else if !queued && world().head(target.thread()) != Some(tasklet.id()) {
        let mut world = world();
        world.remove(tasklet.id());
        world.insert_next(tasklet.id());
    }
    Ok(())
}

/// Sets a flag; returns its old value.
fn set_flag(
    args: Args,
    name: &str,
    flag: impl FnOnce(&'static Tasklet) -> &'static std::cell::Cell<bool>,
) -> PyResult<Obj> {
    let refusal = || type_error(&format!("{name} needs exactly one bool or integer"));
    let value = args.one(name)?;
    // SAFETY: a valid reference.
    if unsafe { ffi::PyLong_Check(value) } == 0 {
        return Err(refusal());
    }
    let tasklet = of(args.slf());
    let before = flag(tasklet).replace(Obj::borrowed(value).truth()?);
    if let Some(runtime) = Runtime::current() {
        watchdog::catch_up(runtime, tasklet);
    }
    Ok(Obj::bool(before))
}

fn set_atomic(args: Args) -> PyResult<Obj> {
    set_flag(args, "set_atomic", |tasklet| &tasklet.atomic)
}

fn set_ignore_nesting(args: Args) -> PyResult<Obj> {
    set_flag(args, "set_ignore_nesting", |tasklet| &tasklet.ignore_nesting)
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
                tuple, ``kwargs`` a dict. With nothing at all the tasklet is unbound.\n\n\
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
                Returns the caller's ``tempval``: None unless somebody has set it meanwhile. Raises RuntimeError\n\
                if the tasklet is blocked on a channel, waits for input, output or time, is not alive, or if its\n\
                thread has ended; and what is thrown into the caller meanwhile. For a tasklet of another thread\n\
                the call never switches: it runs first there if that thread waits, else next. As in Stackless."
            ),
            method!(
                c"switch",
                switch,
                c"switch($self)\n--\n\n\
                Switch to the tasklet now; the caller leaves the queue.\n\n\
                The caller is paused, as after `lissom.schedule_remove`, until somebody inserts or runs it.\n\n\
                Returns and raises as `run` does, and RuntimeError if the tasklet belongs to another thread. As\n\
                in Stackless."
            ),
            method!(
                c"set_atomic",
                set_atomic,
                c"set_atomic($self, flag, /)\n--\n\n\
                Set whether the watchdog of `lissom.run` leaves the tasklet alone.\n\n\
                Never switches by itself; an interrupt that was postponed comes at the next instruction.\n\n\
                Returns the flag's value before, a bool. Raises TypeError for what is no bool or int. As in\n\
                Stackless, except that other OS threads may run meanwhile."
            ),
            method!(
                c"set_ignore_nesting",
                set_ignore_nesting,
                c"set_ignore_nesting($self, flag, /)\n--\n\n\
                Set whether the watchdog interrupts the tasklet also in code that C code has called.\n\n\
                Returns the flag's value before, a bool. Raises TypeError for what is no bool or int. As in\n\
                Stackless."
            ),
            method!(
                c"bind_thread",
                bind_thread,
                c"bind_thread($self, thread_id=-1, /)\n--\n\n\
                Move a tasklet that has not started to the calling thread, or to the one with this id.\n\n\
                Never switches. Returns None. Raises RuntimeError if the tasklet is queued or has started,\n\
                ValueError for a thread without a scheduler, TypeError for what is no int. A tasklet whose\n\
                thread has ended can be run again this way. As in Stackless."
            ),
            method!(
                c"set_context",
                set_context,
                c"set_context($self, context, /)\n--\n\n\
                Set the ``contextvars.Context`` in which the tasklet runs.\n\n\
                Never switches. Returns the tasklet. Raises TypeError for what is no context, RuntimeError if\n\
                the tasklet is in ``Context.run`` or runs in another thread. As in Stackless."
            ),
            method!(
                c"context_run",
                context_run,
                c"context_run($self, func, /, *args, **kwargs)\n--\n\n\
                Call ``func(*args, **kwargs)`` in the tasklet's context, on the calling tasklet.\n\n\
                Switches if the function does. Returns and raises what it does. Unlike ``Context.run`` it may\n\
                be nested. As in Stackless."
            ),
            method!(c"__reduce__", reduce, c"__reduce__($self)\n--\n\n"),
            method!(c"__reduce_ex__", reduce_ex, c"__reduce_ex__($self, protocol, /)\n--\n\n"),
            method!(c"__setstate__", set_state, c"__setstate__($self, state, /)\n--\n\n"),
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
