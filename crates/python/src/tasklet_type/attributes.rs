//! The attributes of a tasklet, and how it is described to people.

use lissom_sched::State;
use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use super::of;
use crate::args::{self, attribute};
use crate::object::{Obj, PyResult, boundary, clear_error};
use crate::tasklet::{Carried, Phase, Tasklet};
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
    Ok(Obj::bool(matches!(world().state(of(slf).id()), State::Blocked(..) | State::Parked)))
}

fn get_scheduled(slf: *mut PyObject) -> PyResult<Obj> {
    Ok(Obj::bool(world().state(of(slf).id()) != State::Idle))
}

fn get_paused(slf: *mut PyObject) -> PyResult<Obj> {
    Ok(Obj::bool(of(slf).alive() && world().state(of(slf).id()) == State::Idle))
}

fn get_is_main(slf: *mut PyObject) -> PyResult<Obj> {
    Ok(Obj::bool(is_main(of(slf))))
}

fn get_is_current(slf: *mut PyObject) -> PyResult<Obj> {
    Ok(Obj::bool(runs(of(slf))))
}

fn runs(tasklet: &Tasklet) -> bool {
    let thread = world().thread_of(tasklet.id());
    thread.and_then(world::runtime_of).is_some_and(|runtime| std::ptr::eq(runtime.me(), tasklet))
}

fn get_frame(slf: *mut PyObject) -> PyResult<Obj> {
    let tasklet = of(slf);
    // Bound first: the world must not be borrowed while the frame object is made.
    let thread = world().thread_of(tasklet.id());
    let Some(runtime) = thread.and_then(world::runtime_of) else { return Ok(Obj::none()) };
    if runs(tasklet) {
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

fn get_tempval(slf: *mut PyObject) -> PyResult<Obj> {
    if let Some(Ok(value)) = &*of(slf).outcome.borrow() {
        return Ok(value.clone());
    }
    match &*of(slf).carried.borrow() {
        Carried::Value(value) => Ok(value.clone()),
        Carried::Bomb(exception) => Ok(exception.0.clone()),
        Carried::Nothing => Ok(Obj::none()),
    }
}

fn set_tempval(slf: *mut PyObject, value: Obj) -> PyResult<()> {
    drop(of(slf).carried.replace(Carried::Value(value)));
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
    // SAFETY: the GIL is held.
    Obj::owned(unsafe { ffi::PyFloat_FromDouble(of(slf).since() as f64 / 1e9) })
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
        match (tasklet.phase(), runs(tasklet)) {
            (_, true) => "current",
            (Phase::Unbound, _) => "dead",
            (Phase::Bound, _) => "bound",
            (Phase::Ready, _) => "ready",
            (Phase::Started, _) => "started",
            (Phase::Lost, _) => "lost",
        }
        .to_owned()
    };
    format!("<lissom.tasklet {what} at {:p}>", tasklet.ptr())
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
                c"What was last handed over: the function it was bound to, a channel's value, after the end\n\
                the result. May be set."
            ),
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
