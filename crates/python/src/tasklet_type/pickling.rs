//! Pickling of tasklets that have not started, or have ended.

use lissom_sched::State;
use pyo3_ffi as ffi;

use super::attributes::{is_main, running};
use super::of;
use crate::args::Args;
use crate::object::{Obj, PyResult, runtime_error, type_error};
use crate::runtime::Runtime;
use crate::tasklet::{Carried, Phase, Slot, Tasklet};
use crate::world::world;

const ATOMIC: i64 = 1;
const IGNORE_NESTING: i64 = 2;
const BLOCK_TRAP: i64 = 4;

fn flags_of(tasklet: &Tasklet) -> i64 {
    let flags =
        [(&tasklet.atomic, ATOMIC), (&tasklet.ignore_nesting, IGNORE_NESTING), (&tasklet.block_trap, BLOCK_TRAP)];
    flags.into_iter().filter(|(flag, _)| flag.get()).map(|(_, bit)| bit).sum()
}

pub(super) fn reduce(args: Args) -> PyResult<Obj> {
    args.none("__reduce__")?;
    let tasklet = of(args.slf());
    if running(tasklet) {
        return Err(runtime_error("You cannot __reduce__ the tasklet which is current."));
    }
    if matches!(tasklet.phase(), Phase::Started | Phase::Lost) || is_main(tasklet) {
        return Err(runtime_error(
            "a tasklet that has started cannot be pickled: only one that has not run yet, or has ended, can",
        ));
    }
    // SAFETY: the GIL is held.
    let frames = Obj::owned(unsafe { ffi::PyList_New(0) })?;
    if tasklet.phase() == Phase::Ready {
        let part = |slot: &Slot<Obj>| slot.get().unwrap_or_else(Obj::none);
        let call = Obj::tuple([part(&tasklet.func), part(&tasklet.args), part(&tasklet.kwargs)])?;
        // SAFETY: a list and a valid reference.
        crate::object::check(unsafe { ffi::PyList_Append(frames.ptr(), call.ptr()) })?;
    }
    let tempval = super::attributes::get_tempval(args.slf())?;
    let none = Obj::none;
    let state =
        Obj::tuple([Obj::int(flags_of(tasklet))?, tempval, Obj::int(0)?, frames, none(), none(), none(), none()])?;
    // SAFETY: the type of a valid object.
    let kind = Obj::borrowed(unsafe { ffi::Py_TYPE(args.slf()) }.cast());
    Obj::tuple([kind, Obj::tuple([])?, state])
}

pub(super) fn reduce_ex(args: Args) -> PyResult<Obj> {
    let protocol = args.one("__reduce_ex__")?;
    // SAFETY: a valid reference.
    if unsafe { ffi::PyLong_Check(protocol) } == 0 {
        return Err(type_error("__reduce_ex__ argument should be an integer"));
    }
    Obj::borrowed(args.slf()).attr(c"__reduce__")?.call([])
}

/// An item of a tuple or list, which keeps it.
fn item(sequence: &Obj, index: isize) -> PyResult<Obj> {
    // SAFETY: a valid reference; raises if the index is out of range.
    Obj::owned(unsafe { ffi::PySequence_GetItem(sequence.ptr(), index) })
}

pub(super) fn set_state(args: Args) -> PyResult<Obj> {
    let tasklet = of(args.slf());
    let state = Obj::borrowed(args.one("__setstate__")?);
    if tasklet.alive() || running(tasklet) {
        return Err(runtime_error("tasklet is alive"));
    }
    // SAFETY: valid references.
    let frames = unsafe {
        if ffi::PyTuple_Check(state.ptr()) == 0 || !(8..=9).contains(&ffi::PyTuple_Size(state.ptr())) {
            return Err(type_error("the state of a tasklet is a tuple of 8 or 9 items, as __reduce__ makes it"));
        }
        let frames = item(&state, 3)?;
        if ffi::PyList_Check(frames.ptr()) == 0 || ffi::PyList_Size(frames.ptr()) > 1 {
            return Err(type_error("a tasklet's state holds at most one call: frames cannot be restored"));
        }
        frames
    };
    debug_assert!(world().state(tasklet.id()) == State::Idle);
    let flags = item(&state, 0)?.to_i64()?;
    tasklet.atomic.set(flags & ATOMIC != 0);
    tasklet.ignore_nesting.set(flags & IGNORE_NESTING != 0);
    tasklet.block_trap.set(flags & BLOCK_TRAP != 0);
    let tempval = item(&state, 1)?;
    let none = Obj::none();
    let bound = tempval.ptr() != none.ptr();
    drop(tasklet.carried.replace(if bound { Carried::Value(tempval) } else { Carried::Nothing }));
    tasklet.unbind();
    tasklet.set_phase(if bound { Phase::Bound } else { Phase::Unbound });
    // SAFETY: a list.
    if unsafe { ffi::PyList_Size(frames.ptr()) } == 1 {
        restore_call(tasklet, &item(&frames, 0)?)?;
    }
    super::share_context(Runtime::get()?, tasklet)?;
    Ok(tasklet.object())
}

fn restore_call(tasklet: &Tasklet, call: &Obj) -> PyResult<()> {
    let (func, args, kwargs) = (item(call, 0)?, item(call, 1)?, item(call, 2)?);
    let none = Obj::none();
    let kwargs = (kwargs.ptr() != none.ptr()).then_some(kwargs);
    // SAFETY: valid references.
    let valid = unsafe {
        ffi::PyCallable_Check(func.ptr()) != 0
            && ffi::PyTuple_Check(args.ptr()) != 0
            && kwargs.as_ref().is_none_or(|kwargs| ffi::PyDict_Check(kwargs.ptr()) != 0)
    };
    if !valid {
        return Err(type_error("a tasklet's call is a callable, a tuple and a dict or None"));
    }
    let old = (tasklet.func.replace(Some(func)), tasklet.args.replace(Some(args)), tasklet.kwargs.replace(kwargs));
    tasklet.set_phase(Phase::Ready);
    drop(old);
    Ok(())
}
