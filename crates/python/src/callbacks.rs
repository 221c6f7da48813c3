//! The functions that a program may have called at switches, at channel operations and for uncaught exceptions.
//!
//! They are process-wide, as in Stackless. While none is set, and no switch is trapped or counted, [`special`] is false,
//! which is all that the switch and the channels look at.

use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use crate::args::Args;
use crate::object::{Exc, Obj, PyResult, Raised, runtime_error, type_error, write_unraisable};
use crate::runtime::Runtime;
use crate::tasklet::Tasklet;
use crate::world::GilCell;

static SPECIAL: AtomicUsize = AtomicUsize::new(0);

/// Whether anything is on that switches or channel operations have to look at more closely.
#[inline(always)]
pub(crate) fn special() -> bool {
    SPECIAL.load(Ordering::Relaxed) != 0
}

/// Counts one more thing, or one less, that makes switches special.
pub(crate) fn count_special(on: bool) {
    if on {
        SPECIAL.fetch_add(1, Ordering::Relaxed);
    } else {
        SPECIAL.fetch_sub(1, Ordering::Relaxed);
    }
}

static CHANNEL: GilCell<Option<Obj>> = GilCell::new(None);
static SCHEDULE: GilCell<Option<Obj>> = GilCell::new(None);
static ERROR: GilCell<Option<Obj>> = GilCell::new(None);

fn current(place: &GilCell<Option<Obj>>) -> Option<Obj> {
    place.get().clone()
}

/// Replaces a callback; returns the one before, or `None`.
fn replace(place: &GilCell<Option<Obj>>, new: Option<Obj>) -> Obj {
    let old = std::mem::replace(&mut *place.get(), new);
    old.unwrap_or_else(Obj::none)
}

fn callable_or_none(value: *mut PyObject, refusal: &str) -> PyResult<Option<Obj>> {
    let value = Obj::borrowed(value);
    if value.ptr() == Obj::none().ptr() {
        return Ok(None);
    }
    // SAFETY: a valid reference.
    if unsafe { ffi::PyCallable_Check(value.ptr()) } == 0 {
        return Err(type_error(refusal));
    }
    Ok(Some(value))
}

/// `set_channel_callback(callable)`.
pub(crate) fn set_channel_callback(args: Args) -> PyResult<Obj> {
    let new = callable_or_none(args.one("set_channel_callback")?, "channel callback must be callable")?;
    Ok(set_counted(&CHANNEL, new))
}

/// `get_channel_callback()`.
pub(crate) fn get_channel_callback(args: Args) -> PyResult<Obj> {
    args.none("get_channel_callback")?;
    Ok(current(&CHANNEL).unwrap_or_else(Obj::none))
}

/// `set_schedule_callback(callable)`.
pub(crate) fn set_schedule_callback(args: Args) -> PyResult<Obj> {
    let new = callable_or_none(args.one("set_schedule_callback")?, "schedule callback must be callable")?;
    Ok(set_counted(&SCHEDULE, new))
}

/// `get_schedule_callback()`.
pub(crate) fn get_schedule_callback(args: Args) -> PyResult<Obj> {
    args.none("get_schedule_callback")?;
    Ok(current(&SCHEDULE).unwrap_or_else(Obj::none))
}

fn set_counted(place: &GilCell<Option<Obj>>, new: Option<Obj>) -> Obj {
    let had = current(place).is_some();
    if had != new.is_some() {
        count_special(!had);
    }
    replace(place, new)
}

/// `set_error_handler(handler=None)`.
pub(crate) fn set_error_handler(args: Args) -> PyResult<Obj> {
    let [handler] = args.at_most("set_error_handler")?;
    let new = match handler {
        None => None,
        Some(handler) => callable_or_none(handler, "error handler must be callable")?,
    };
    Ok(replace(&ERROR, new))
}

/// Whether a schedule callback is set.
pub(crate) fn schedule_set() -> bool {
    SCHEDULE.get().is_some()
}

/// Tells the schedule callback, if there is one, that `next` runs after `previous`, which is the current tasklet.
///
/// What the callback raises is printed: a switch cannot fail.
pub(crate) fn notify_schedule(runtime: &Runtime, previous: &Tasklet, next: &Tasklet) {
    let Some(callback) = current(&SCHEDULE) else { return };
    let guard = runtime.forbid_switches();
    let result = callback.call([&previous.object(), &next.object()]);
    drop(guard);
    if result.is_err() {
        write_unraisable(Some(&callback));
    }
}

/// Tells the channel callback, if there is one, what `tasklet` is about to do.
///
/// # Errors
/// What the callback raises; `RuntimeError` inside a callback.
pub(crate) fn notify_channel(
    runtime: &Runtime,
    channel: &Obj,
    tasklet: &Tasklet,
    sending: bool,
    will_block: bool,
) -> PyResult<()> {
    let Some(callback) = current(&CHANNEL) else { return Ok(()) };
    if runtime.in_callback() {
        return Err(runtime_error("Recursive channel call due to callbacks!"));
    }
    let _guard = runtime.enter_callback();
    let arguments =
        [channel.clone(), tasklet.object(), Obj::int(i64::from(sending))?, Obj::int(i64::from(will_block))?];
    callback.call(arguments.each_ref()).map(drop)
}

/// Gives an uncaught exception to the error handler. Returns the exception that is left to be delivered, if any: the same
/// if there is no handler, another if the handler has failed.
pub(crate) fn handle_error(exception: Exc) -> Option<Exc> {
    let Some(handler) = current(&ERROR) else { return Some(exception) };
    // SAFETY: an exception instance has a type, and perhaps a traceback.
    let (kind, traceback) = unsafe {
        let traceback = ffi::PyException_GetTraceback(exception.0.ptr());
        (Obj::borrowed(ffi::Py_TYPE(exception.0.ptr()).cast()), Obj::owned_or_none(traceback))
    };
    match handler.call([&kind, &exception.0, &traceback.unwrap_or_else(Obj::none)]) {
        Ok(_) => None,
        Err(Raised) => Some(Exc::take()),
    }
}
