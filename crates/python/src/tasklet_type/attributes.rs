//! The attributes of a tasklet, and how it is described to people.

use lissom_sched::{State, TaskletId};
use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use super::context::{
    get_context_id, get_profile_function, get_trace_function, set_profile_function, set_trace_function,
};
use super::methods::waits_in_run;
use super::of;
use crate::args::{self, attribute};
use crate::bomb;
use crate::object::{Obj, PyResult, boundary, clear_error, type_error};
use crate::tasklet::{Carried, Phase, Tasklet, Why};
use crate::tstate;
use crate::world::{self, world};

pub(super) fn is_main(tasklet: &Tasklet) -> bool {
    let world = world();
    world.thread_of(tasklet.id()).is_some_and(|thread| world.main(thread) == tasklet.id())
}

fn get_alive(slf: *mut PyObject) -> PyResult<Obj> {
    let tasklet = of(slf);
    let homeless = world().thread_of(tasklet.id()).is_none();
    Ok(Obj::bool(!homeless && (tasklet.alive() || (is_main(tasklet) && tasklet.phase() != Phase::Lost))))
}

fn get_blocked(slf: *mut PyObject) -> PyResult<Obj> {
    let waits = matches!(world().state(of(slf).id()), State::Blocked(..) | State::Parked);
    Ok(Obj::bool(waits && !waits_in_run(of(slf))))
}

fn get_scheduled(slf: *mut PyObject) -> PyResult<Obj> {
    let scheduled = world().state(of(slf).id()) != State::Idle;
    Ok(Obj::bool(scheduled && !waits_in_run(of(slf))))
}

fn get_paused(slf: *mut PyObject) -> PyResult<Obj> {
    let tasklet = of(slf);
    let idle = world().state(tasklet.id()) == State::Idle;
    let homeless = world().thread_of(tasklet.id()).is_none();
    let alive = tasklet.alive() || (is_main(tasklet) && tasklet.phase() != Phase::Lost);
    Ok(Obj::bool(!homeless && alive && (idle || waits_in_run(tasklet))))
}

fn get_is_main(slf: *mut PyObject) -> PyResult<Obj> {
    Ok(Obj::bool(is_main(of(slf))))
}

fn get_is_current(slf: *mut PyObject) -> PyResult<Obj> {
    Ok(Obj::bool(running(of(slf))))
}

/// Whether it is the running tasklet of its thread.
pub(super) fn running(tasklet: &Tasklet) -> bool {
    let thread = world().thread_of(tasklet.id());
    thread.and_then(world::runtime_of).is_some_and(|runtime| std::ptr::eq(runtime.me(), tasklet))
}

fn get_frame(slf: *mut PyObject) -> PyResult<Obj> {
    let tasklet = of(slf);
    // Bound first: the world must not be borrowed while the frame object is made.
    let thread = world().thread_of(tasklet.id());
    let Some(runtime) = thread.and_then(world::runtime_of) else { return Ok(Obj::none()) };
    if running(tasklet) {
        // SAFETY: the state of a thread that has a runtime; it does not run, as the GIL is held, or is our own. A new
        // reference or null.
        let frame = unsafe { ffi::PyThreadState_GetFrame(runtime.tstate()) };
        return Ok(Obj::owned_or_none(frame.cast()).unwrap_or_else(Obj::none));
    }
    if tasklet.phase() != Phase::Started && !is_main(tasklet) {
        return Ok(Obj::none());
    }
    // SAFETY: T2; the tasklet does not run, and the GIL keeps it so.
    let frame = unsafe { tstate::parked_frame(ffi::PyThreadState_Get(), &*tasklet.saved()) };
    Ok(Obj::owned_or_none(frame).unwrap_or_else(Obj::none))
}

pub(super) fn get_tempval(slf: *mut PyObject) -> PyResult<Obj> {
    let tasklet = of(slf);
    let pending = tasklet.pending.read(|pending| pending.cloned());
    if let Some(exception) = pending {
        return bomb::wrap(&exception);
    }
    Ok(tasklet.carried.read(|carried| match carried {
        Carried::Value(value) => value.clone(),
        Carried::Itself => tasklet.object(),
        Carried::Nothing => Obj::none(),
    }))
}

fn set_tempval(slf: *mut PyObject, value: Obj) -> PyResult<()> {
    let tasklet = of(slf);
    // It replaces what was thrown and is pending, too.
    let old = (tasklet.carried.replace(Carried::Value(value)), tasklet.pending.take());
    drop(old);
    Ok(())
}

fn get_waits_for(slf: *mut PyObject) -> PyResult<Obj> {
    let state = world().state(of(slf).id());
    if !matches!(state, State::Blocked(..) | State::Parked) {
        return Ok(Obj::none());
    }
    Obj::str(&of(slf).why().to_string())
}

fn get_waits_since(slf: *mut PyObject) -> PyResult<Obj> {
    let state = world().state(of(slf).id());
    if !matches!(state, State::Blocked(..) | State::Parked) {
        return Ok(Obj::none());
    }
    let now = crate::runtime::now();
    let since = now as f64 / 1e9 - f64::from(of(slf).waited(now)) / 1e3;
    // SAFETY: the GIL is held.
    Obj::owned(unsafe { ffi::PyFloat_FromDouble(since) })
}

/// The tasklets before and behind a tasklet in its list: the ring is closed, the waiters of a channel have two ends.
fn neighbours(tasklet: &Tasklet) -> [Option<Obj>; 2] {
    let id = tasklet.id();
    let world = world();
    let (prev, next) = match world.state(id) {
        State::Idle | State::Parked => return [None, None],
        State::Queued => (Some(world.prev(id)), Some(world.next(id))),
        State::Blocked(channel, _) => {
            let first = world.first_waiter(channel);
            let last = first.map(|first| world.prev(first));
            let inside = |end: Option<TaskletId>, neighbour| (end != Some(id)).then_some(neighbour);
            (inside(first, world.prev(id)), inside(last, world.next(id)))
        }
    };
    drop(world);
    [prev, next].map(|neighbour| neighbour.map(|id| world::tasklet(id).object()))
}

fn get_prev(slf: *mut PyObject) -> PyResult<Obj> {
    let [prev, _] = neighbours(of(slf));
    Ok(prev.unwrap_or_else(Obj::none))
}

fn get_next(slf: *mut PyObject) -> PyResult<Obj> {
    let [_, next] = neighbours(of(slf));
    Ok(next.unwrap_or_else(Obj::none))
}

fn get_channel(slf: *mut PyObject) -> PyResult<Obj> {
    let blocked = matches!(world().state(of(slf).id()), State::Blocked(..));
    Ok(match of(slf).why() {
        // Whoever is blocked keeps the channel.
        Why::Send(address) | Why::Receive(address) if blocked => Obj::borrowed(address as *mut PyObject),
        _ => Obj::none(),
    })
}

fn get_thread_id(slf: *mut PyObject) -> PyResult<Obj> {
    let thread = world().thread_of(of(slf).id());
    match thread.and_then(world::runtime_of) {
        Some(runtime) => Obj::uint(runtime.ident()),
        None => Obj::int(-1),
    }
}

fn nesting_level(tasklet: &Tasklet) -> usize {
    let thread = world().thread_of(tasklet.id());
    let started = tasklet.phase() == Phase::Started || is_main(tasklet);
    match thread.and_then(world::runtime_of) {
        // SAFETY: the state of a thread that has a runtime, whose running tasklet is asked about.
        Some(runtime) if running(tasklet) => unsafe { tstate::running_nesting_level(runtime.tstate()) },
        // SAFETY: a tasklet that has started and does not run (K2).
        Some(_) if started => unsafe { (*tasklet.saved()).nesting_level() },
        _ => 0,
    }
}

fn get_nesting_level(slf: *mut PyObject) -> PyResult<Obj> {
    Obj::int(nesting_level(of(slf)) as i64)
}

fn get_restorable(slf: *mut PyObject) -> PyResult<Obj> {
    Ok(Obj::bool(nesting_level(of(slf)) == 0))
}

fn get_recursion_depth(slf: *mut PyObject) -> PyResult<Obj> {
    let tasklet = of(slf);
    let thread = world().thread_of(tasklet.id());
    let depth = match thread.and_then(world::runtime_of) {
        // SAFETY: as in `nesting_level`.
        Some(runtime) if running(tasklet) => unsafe { tstate::running_depth(runtime.tstate(), &*tasklet.saved()) },
        // SAFETY: the saved state of a tasklet that does not run (K2).
        _ => unsafe { (*tasklet.saved()).depth() },
    };
    Obj::int(i64::from(depth))
}

fn get_cstate(slf: *mut PyObject) -> PyResult<Obj> {
    let tasklet = of(slf);
    let size = tasklet.fiber.read(|fiber| {
        let stack = fiber?.stack();
        Some((stack.top() as usize - stack.bottom() as usize) / size_of::<usize>())
    });
    let namespace = Obj::import(c"types")?.attr(c"SimpleNamespace")?.call([])?;
    namespace.set_attr(c"size", &Obj::uint(size.unwrap_or(0) as u64)?)?;
    namespace.set_attr(c"nesting_level", &get_nesting_level(slf)?)?;
    namespace.set_attr(c"serial", &Obj::uint(tasklet.id().index() as u64)?)?;
    namespace.set_attr(c"task", &tasklet.object())?;
    namespace.set_attr(c"next", &Obj::none())?;
    namespace.set_attr(c"prev", &Obj::none())?;
    Ok(namespace)
}

fn get_atomic(slf: *mut PyObject) -> PyResult<Obj> {
    Ok(Obj::bool(of(slf).atomic.get()))
}

fn get_ignore_nesting(slf: *mut PyObject) -> PyResult<Obj> {
    Ok(Obj::bool(of(slf).ignore_nesting.get()))
}

fn get_block_trap(slf: *mut PyObject) -> PyResult<Obj> {
    Ok(Obj::bool(of(slf).block_trap.get()))
}

fn set_block_trap(slf: *mut PyObject, value: Obj) -> PyResult<()> {
    // SAFETY: a valid reference.
    if unsafe { ffi::PyLong_Check(value.ptr()) } == 0 {
        return Err(type_error("block_trap must be set to a bool or integer"));
    }
    of(slf).block_trap.set(value.truth()?);
    Ok(())
}

/// A line that names a tasklet to a person: its function, and where it stands.
pub(crate) fn describe(tasklet: &Tasklet) -> String {
    let mut text = repr_text(tasklet);
    if let Ok(frame) = get_frame(tasklet.ptr())
        && let (Ok(code), Ok(line)) = (frame.attr(c"f_code"), frame.attr(c"f_lineno"))
        && let (Ok(file), Ok(name)) = (code.attr(c"co_filename"), code.attr(c"co_name"))
    {
        text.push_str(&format!(" (in {}, {}:{})", name.to_text(), file.to_text(), line.to_text()));
    }
    clear_error();
    text
}

fn repr_text(tasklet: &Tasklet) -> String {
    let what = if is_main(tasklet) {
        "main".to_owned()
    } else {
        match (tasklet.phase(), running(tasklet)) {
            (_, true) => "current",
            (Phase::Unbound, _) => "dead",
            (Phase::Bound, _) => "bound",
            (Phase::Ready, _) => "ready",
            (Phase::Started, _) => "started",
            (Phase::Lost, _) => "lost",
        }
        .to_owned()
    };
    // SAFETY: a valid object has a type with a name.
    let name = unsafe { std::ffi::CStr::from_ptr((*ffi::Py_TYPE(tasklet.ptr())).tp_name) };
    format!("<{} {what} at {:p}>", name.to_string_lossy(), tasklet.ptr())
}

pub(super) unsafe extern "C" fn slot_repr(slf: *mut PyObject) -> *mut PyObject {
    boundary(|| Obj::str(&repr_text(of(slf))))
}

/// The table of attributes.
pub(super) fn table() -> *mut ffi::PyGetSetDef {
    args::table(
        vec![
            attribute!(
                c"alive",
                get_alive,
                c"Whether the tasklet can still run: it has arguments or has started, and has not ended. A bool."
            ),
            attribute!(
                c"blocked",
                get_blocked,
                c"Whether it waits on a channel, or for input, output, time, a lock, a thread. A bool. In\n\
                Stackless: on a channel."
            ),
            attribute!(
                c"scheduled",
                get_scheduled,
                c"Whether it is queued or waits. A bool, true for the running tasklet, as in Stackless."
            ),
            attribute!(c"paused", get_paused, c"Whether it is alive, but neither queued nor waiting. A bool."),
            attribute!(c"is_main", get_is_main, c"Whether it is the main tasklet of its thread. A bool."),
            attribute!(c"is_current", get_is_current, c"Whether it is the running tasklet of its thread. A bool."),
            attribute!(
                c"frame",
                get_frame,
                c"Its innermost Python frame, readable while it waits; None before it starts and after its end."
            ),
            attribute!(
                c"tempval",
                get_tempval,
                set_tempval,
                c"What the call that it is in will return: a channel's value, that of `schedule`. Before the\n\
                start the function it is bound to. May be set; a `bomb` is raised."
            ),
            attribute!(
                c"next",
                get_next,
                c"The tasklet behind it in the queue, which is a ring, or among a channel's waiters; else None."
            ),
            attribute!(
                c"prev",
                get_prev,
                c"The tasklet before it in the queue, which is a ring, or among a channel's waiters; else None."
            ),
            attribute!(c"_channel", get_channel, c"The channel that it is blocked on, or None."),
            attribute!(
                c"thread_id",
                get_thread_id,
                c"The ident of the OS thread that it belongs to, an int; -1 if that has ended."
            ),
            attribute!(
                c"nesting_level",
                get_nesting_level,
                c"How often C code has called back into Python code below what it executes: an int from 0."
            ),
            attribute!(
                c"restorable",
                get_restorable,
                c"Whether no C code is in the middle of its frames: `nesting_level` is 0. A bool."
            ),
            attribute!(
                c"recursion_depth",
                get_recursion_depth,
                c"How deep its calls are nested, as the interpreter counts for the recursion limit. An int."
            ),
            attribute!(
                c"cstate",
                get_cstate,
                c"Its machine stack, for debugging: a namespace with ``size`` in words, ``nesting_level``,\n\
                ``serial`` and ``task``."
            ),
            attribute!(
                c"atomic",
                get_atomic,
                c"Whether the watchdog of `lissom.run` leaves it alone; see `set_atomic`. A bool."
            ),
            attribute!(
                c"ignore_nesting",
                get_ignore_nesting,
                c"Whether the watchdog interrupts it at any nesting level; see `set_ignore_nesting`. A bool."
            ),
            attribute!(
                c"block_trap",
                get_block_trap,
                set_block_trap,
                c"Whether it may not block on a channel: a send or receive that would raises RuntimeError. A\n\
                bool, False by default. May be set to a bool or int."
            ),
            attribute!(
                c"trace_function",
                get_trace_function,
                set_trace_function,
                c"Its trace function or None: what ``sys.gettrace()`` returns in it. May be set."
            ),
            attribute!(
                c"profile_function",
                get_profile_function,
                set_profile_function,
                c"Its profile function or None: what ``sys.getprofile()`` returns in it. May be set."
            ),
            attribute!(c"context_id", get_context_id, c"The id of the ``contextvars.Context`` it runs in. An int."),
            attribute!(
                c"waits_for",
                get_waits_for,
                c"What it waits for, as a text for people (\"time\", \"the lock at 0x...\"), or None. Not in\n\
                Stackless."
            ),
            attribute!(
                c"waits_since",
                get_waits_since,
                c"Since when it waits, in seconds of ``time.monotonic()``, or None. Early by what was computed\n\
                since the scheduler last looked at the clock. Not in Stackless."
            ),
        ],
        // SAFETY: the all-zero entry ends the table.
        unsafe { std::mem::zeroed() },
    )
}
