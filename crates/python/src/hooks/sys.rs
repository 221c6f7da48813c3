//! `sys`: what debuggers, profilers and reports of crashes ask about all threads at once.
//!
//! The interpreter knows of each OS thread the tasklet that runs there. Here every tasklet that stands for a thread is
//! added, by its ident.

use pyo3_ffi as ffi;

use super::call::{Call, hook};
use super::slot::{Hook, Owner};
use super::thread::ident;
use crate::object::{Obj, PyResult, check, clear_error};
use crate::runtime::Runtime;
use crate::tasklet::{Phase, Tasklet};
use crate::tasklet_type;
use crate::tstate::{self, Traces};
use crate::world;

const MODULE: Owner = Owner::Module(c"sys");

/// The tasklets of all threads that have begun and do not run, the main ones among them.
fn waiting() -> Vec<(&'static Runtime, &'static Tasklet)> {
    let of_thread = |runtime: &'static Runtime| {
        let waits = move |tasklet: &&'static Tasklet| {
            !std::ptr::eq(*tasklet, runtime.me()) && (tasklet.phase() == Phase::Started || runtime.is_root(tasklet))
        };
        world::tasklets_of(runtime.thread()).into_iter().filter(waits).map(move |tasklet| (runtime, tasklet))
    };
    world::runtimes().into_iter().flat_map(of_thread).collect()
}

/// Corrects a dict by the ident of threads: what `of` says of each that waits is added, and what the original says of an OS
/// thread is that of the tasklet that runs there.
fn by_thread(call: &Call, of: impl Fn(&Tasklet) -> PyResult<Option<Obj>>) -> PyResult<Obj> {
    let dict = call.original()?;
    for runtime in world::runtimes() {
        let me = runtime.me();
        if me.identity().is_none() {
            continue;
        }
        let (system, own) = (Obj::uint(runtime.ident())?, Obj::uint(ident(me))?);
        // SAFETY: a dict and a key; borrowed or null, without an exception.
        let running = Obj::borrowed_or_none(unsafe { ffi::PyDict_GetItem(dict.ptr(), system.ptr()) });
        let Some(running) = running else { continue };
        // SAFETY: valid references.
        unsafe {
            check(ffi::PyDict_SetItem(dict.ptr(), own.ptr(), running.ptr()))?;
            check(ffi::PyDict_DelItem(dict.ptr(), system.ptr()))?;
        }
    }
    // Kept for the time: what is made here may set the collector off, which may free tasklets.
    let kept: Vec<_> = waiting().into_iter().map(|(runtime, tasklet)| (runtime, tasklet, tasklet.object())).collect();
    for (runtime, tasklet, _object) in &kept {
        let key = match tasklet.identity() {
            Some(_) => ident(tasklet),
            None if runtime.is_root(tasklet) && runtime.me().identity().is_some() => runtime.ident(),
            None => continue,
        };
        if let Some(value) = of(tasklet)? {
            let key = Obj::uint(key)?;
            // SAFETY: valid references.
            check(unsafe { ffi::PyDict_SetItem(dict.ptr(), key.ptr(), value.ptr()) })?;
        }
    }
    Ok(dict)
}

/// `_current_frames()`.
fn current_frames(call: &Call) -> PyResult<Obj> {
    // SAFETY: T2; a tasklet that does not run, and the GIL keeps it so.
    by_thread(call, |tasklet| unsafe {
        Ok(Obj::owned_or_none(tstate::parked_frame(ffi::PyThreadState_Get(), &*tasklet.saved())))
    })
}

/// `_current_exceptions()`: up to 3.11 a tuple as of `sys.exc_info`, then the exception.
fn current_exceptions(call: &Call) -> PyResult<Obj> {
    by_thread(call, |tasklet| {
        // SAFETY: T2; a tasklet that does not run, and the GIL keeps it so.
        let handled = unsafe { (*tasklet.saved()).handled(ffi::PyThreadState_Get()) };
        if cfg!(Py_3_12) {
            return Ok(Some(Obj::borrowed_or_none(handled).unwrap_or_else(Obj::none)));
        }
        let Some(exception) = Obj::borrowed_or_none(handled) else {
            return Obj::tuple([Obj::none(), Obj::none(), Obj::none()]).map(Some);
        };
        // SAFETY: an exception instance has a type, and perhaps a traceback.
        let (kind, traceback) = unsafe {
            let traceback = Obj::owned_or_none(ffi::PyException_GetTraceback(exception.ptr()));
            (Obj::borrowed(ffi::Py_TYPE(exception.ptr()).cast()), traceback)
        };
        Obj::tuple([kind, exception, traceback.unwrap_or_else(Obj::none)]).map(Some)
    })
}

/// Sets the function for the tasklets that wait, too.
fn set_for_all(call: &Call, which: Traces) -> PyResult<Obj> {
    let done = call.original()?;
    let Some(function) = call.arg(0).map(Obj::borrowed) else { return Ok(done) };
    let kept: Vec<Obj> = waiting().into_iter().map(|(_, tasklet)| tasklet.object()).collect();
    for tasklet in &kept {
        if tasklet_type::set_tracer(tasklet.ptr(), &function, which).is_err() {
            // It runs by now, on another thread: an audit hook has let that go on.
            clear_error();
        }
    }
    Ok(done)
}

/// `_settraceallthreads(function)`.
fn set_trace(call: &Call) -> PyResult<Obj> {
    set_for_all(call, Traces::Trace)
}

/// `_setprofileallthreads(function)`.
fn set_profile(call: &Call) -> PyResult<Obj> {
    set_for_all(call, Traces::Profile)
}

/// Like those of thread.rs these stay, as threads that are tasklets may outlive `unhook()`.
pub(super) fn lasting_table() -> Vec<Hook> {
    vec![
        hook!(MODULE, c"_current_frames", current_frames),
        hook!(MODULE, c"_current_exceptions", current_exceptions),
        hook!(MODULE, c"_settraceallthreads", set_trace),
        hook!(MODULE, c"_setprofileallthreads", set_profile),
    ]
}
