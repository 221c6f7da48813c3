//! `_thread`: threads that are tasklets.
//!
//! With `hook(threads=True)`, starting a thread on an OS thread that has a scheduler starts a tasklet with an identity of
//! its own: ident, thread-locals, an empty context. `threading` runs on top unmodified. Up to 3.12 it learns of the end of
//! a thread through a lock (`_set_sentinel`), from 3.13 on through a handle (`_ThreadHandle`); both are served here.

use std::collections::HashMap;

use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use super::call::{Call, hook, in_main_interpreter};
use super::dealloc::{Original, Watched};
use super::slot::{Hook, Owner};
use super::{lock, signal, thread_name};
use crate::args::{given, timeout};
use crate::body::tasklet_exit;
use crate::jobs::Lane;
use crate::object::{Obj, PyResult, Raised, boundary, clear_error, runtime_error};
use crate::runtime::{Runtime, deadline_in, now};
use crate::tasklet::{Tasklet, Why};
use crate::world::{self, GilCell, Token, Wake};
use crate::{jobs, tasklet_type};

/// What `threading` holds of a tasklet that stands for a thread.
#[derive(Default)]
pub(crate) struct ThreadEnds {
    /// The lock to be released at the end (up to 3.12).
    sentinel: Option<Obj>,
    /// The handle to be marked done (from 3.13 on).
    handle: Option<Obj>,
}

/// A handle of a tasklet, by its address.
struct Handle {
    ident: u64,
    done: bool,
    daemon: bool,
    waiters: Vec<Token>,
}

static HANDLES: GilCell<Option<HashMap<usize, Handle>>> = GilCell::new(None);
static ENDS: GilCell<Option<HashMap<usize, ThreadEnds>>> = GilCell::new(None);
static ORIGINAL: Original = Original::new();
const HANDLE: Owner = Owner::Type(c"_thread", c"_ThreadHandle");
const MODULE: Owner = Owner::Module(c"_thread");

/// The entry of a handle goes with it.
pub(super) const WATCHED: Watched = Watched { owner: HANDLE, dealloc, original: &ORIGINAL };

unsafe extern "C" fn dealloc(slf: *mut PyObject) {
    let entry = HANDLES.get().as_mut().and_then(|handles| handles.remove(&(slf as usize)));
    drop(entry);
    // SAFETY: called by the interpreter as the deallocator.
    unsafe { ORIGINAL.call(slf) }
}

fn with_handle<R>(handle: *mut PyObject, body: impl FnOnce(&mut Handle) -> R) -> Option<R> {
    HANDLES.get().as_mut().and_then(|handles| handles.get_mut(&(handle as usize)).map(body))
}

/// The ident of a tasklet that stands for a thread: its address, unique as long as it lives, as that of a real thread.
pub(super) fn ident(tasklet: &Tasklet) -> u64 {
    tasklet.ptr() as u64
}

/// The ident of the thread that the tasklet at this address, which lives, stands for or belongs to.
pub(super) fn ident_at(address: usize) -> u64 {
    let known = world::all_tasklets().into_iter().find(|tasklet| tasklet.ptr() as usize == address);
    let bare = known.filter(|tasklet| tasklet.identity().is_none());
    let thread = bare.and_then(|tasklet| world::world().thread_of(tasklet.id()));
    thread.and_then(world::runtime_of).map_or(address as u64, Runtime::ident)
}

// ---- starting --------------------------------------------------------------------------------------------------------

fn start(call: &Call, func: *mut PyObject, args: Obj, kwargs: Option<Obj>, handle: Option<Obj>) -> PyResult<u64> {
    let object = tasklet_type::spawn_thread(call.runtime, Obj::borrowed(func), args, kwargs)?;
    let tasklet = tasklet_type::from_object(&object)?;
    ENDS.get().get_or_insert_default().insert(tasklet.ptr() as usize, ThreadEnds { sentinel: None, handle });
    Ok(ident(tasklet))
}

/// `start_new_thread(function, args[, kwargs])`.
fn start_new_thread(call: &Call) -> PyResult<Obj> {
    if !super::threads_are_tasklets() {
        return call.original();
    }
    let (Some(func), Some(args)) = (call.arg(0), call.arg(1)) else { return call.original() };
    let kwargs = call.arg(2);
    // SAFETY: valid arguments. What is not as it should be raises in the original, before it starts anything.
    let valid = unsafe {
        ffi::PyCallable_Check(func) != 0
            && ffi::PyTuple_Check(args) != 0
            && kwargs.is_none_or(|kwargs| ffi::PyDict_Check(kwargs) != 0)
    };
    if !valid {
        return call.original();
    }
    Obj::uint(start(call, func, Obj::borrowed(args), kwargs.map(Obj::borrowed), None)?)
}

/// `start_joinable_thread(function, handle=None, daemon=True)`.
fn start_joinable_thread(call: &Call) -> PyResult<Obj> {
    if !super::threads_are_tasklets() {
        return call.original();
    }
    let Some(func) = call.named(0, "function") else { return call.original() };
    // SAFETY: a valid argument.
    if unsafe { ffi::PyCallable_Check(func) } == 0 {
        return call.original();
    }
    let handle = match given(call.named(1, "handle")) {
        Some(handle) => handle,
        None => HANDLE.object()?.call([])?,
    };
    if with_handle(handle.ptr(), |_| ()).is_some() {
        return Err(runtime_error("thread already started"));
    }
    let daemon = call.named(2, "daemon").map_or(Ok(true), |daemon| Obj::borrowed(daemon).truth())?;
    let ident = start(call, func, Obj::tuple([])?, None, Some(handle.clone()))?;
    let entry = Handle { ident, done: false, daemon, waiters: Vec::new() };
    HANDLES.get().get_or_insert_default().insert(handle.ptr() as usize, entry);
    Ok(handle)
}

// ---- ending ----------------------------------------------------------------------------------------------------------

/// Tells `threading` that the thread for which `tasklet` stands has ended. Called on the tasklet, last of all.
pub(crate) fn ended(tasklet: &Tasklet) {
    signal::forget_mask(tasklet.ptr() as usize);
    thread_name::forget(tasklet);
    let ends = ENDS.get().as_mut().and_then(|ends| ends.remove(&(tasklet.ptr() as usize)));
    let Some(ThreadEnds { sentinel, handle }) = ends else { return };
    if let Some(sentinel) = sentinel {
        lock::release_if_locked(&sentinel);
    }
    if let Some(handle) = handle {
        mark_done(handle.ptr());
    }
}

fn mark_done(handle: *mut PyObject) {
    let waiters = with_handle(handle, |entry| {
        entry.done = true;
        std::mem::take(&mut entry.waiters)
    });
    for waiter in waiters.into_iter().flatten() {
        waiter.unpark(Wake::Event);
    }
}

/// `_set_sentinel()`: a lock that is released when the calling thread ends.
fn set_sentinel(call: &Call) -> PyResult<Obj> {
    let me = call.runtime.me();
    if me.identity().is_none() {
        return call.original();
    }
    let sentinel = Obj::import(c"_thread")?.attr(c"allocate_lock")?.call([])?;
    let old = {
        let mut ends = ENDS.get();
        let ends = ends.get_or_insert_default().entry(me.ptr() as usize).or_default();
        ends.sentinel.replace(sentinel.clone())
    };
    drop(old);
    Ok(sentinel)
}

/// `_ThreadHandle.join(timeout=None)`.
fn join(call: &Call) -> PyResult<Obj> {
    let Some(ident_of_handle) = with_handle(call.slf, |entry| entry.ident) else {
        // The hook stays in place for tasklets; real threads are none of its business when nothing is hooked.
        return if super::installed() { join_real(call) } else { call.original() };
    };
    let limit = given(call.named(0, "timeout"));
    let deadline = match &limit {
        // As for a lock: negative is for ever.
        Some(limit) if limit.to_i64().map_err(|Raised| clear_error()).is_ok_and(|limit| limit < 0) => None,
        Some(limit) => timeout(Some(limit.ptr()))?.map(deadline_in),
        None => None,
    };
    let me = call.runtime.me();
    if ident(me) == ident_of_handle && with_handle(call.slf, |entry| entry.done) == Some(false) {
        return Err(runtime_error("Cannot join current thread"));
    }
    while with_handle(call.slf, |entry| entry.done) == Some(false) {
        if deadline.is_some_and(|deadline| deadline <= now()) {
            break;
        }
        let token = me.begin_wait();
        with_handle(call.slf, |entry| entry.waiters.push(token));
        let result = call.runtime.park(Why::Join(ident_of_handle as usize), deadline);
        with_handle(call.slf, |entry| entry.waiters.retain(|&waiter| waiter != token));
        result?;
    }
    Ok(Obj::none())
}

/// Joins a real thread, in a blocking thread.
fn join_real(call: &Call) -> PyResult<Obj> {
    let done = Obj::borrowed(call.slf).attr(c"is_done")?.call([])?.truth()?;
    let own = Obj::borrowed(call.slf).attr(c"ident")?;
    // SAFETY: plain call.
    let current = unsafe { libc::pthread_self() };
    let joins_itself = own.to_i64().map_err(|Raised| clear_error()).is_ok_and(|own| own as u64 == current);
    if done || joins_itself {
        return call.original();
    }
    let (args, kwargs) = call.packed()?;
    jobs::call(call.runtime, Lane::Others, Obj::borrowed(call.slf).attr(c"join")?, args, kwargs)
}

fn is_done(call: &Call) -> PyResult<Obj> {
    with_handle(call.slf, |entry| entry.done).map_or_else(|| call.original(), |done| Ok(Obj::bool(done)))
}

fn set_done(call: &Call) -> PyResult<Obj> {
    if with_handle(call.slf, |_| ()).is_none() {
        return call.original();
    }
    mark_done(call.slf);
    Ok(Obj::none())
}

/// `_thread._shutdown()`, at the end of the program: waits for the threads that are not daemons.
fn shutdown(call: &Call) -> PyResult<Obj> {
    loop {
        let token = call.runtime.me().begin_wait();
        let waits = HANDLES.get().as_mut().is_some_and(|handles| {
            let next = handles.values_mut().find(|handle| !handle.done && !handle.daemon);
            next.is_some_and(|handle| {
                handle.waiters.push(token);
                true
            })
        });
        if !waits {
            return call.original();
        }
        call.runtime.park(Why::Join(0), None)?;
    }
}

/// After `fork`, in the child: every other thread has ended.
pub(super) fn after_fork() {
    let me = Runtime::current().map_or(0, |runtime| ident(runtime.me()));
    if let Some(handles) = HANDLES.get().as_mut() {
        for handle in handles.values_mut() {
            handle.done |= handle.ident != me;
            handle.waiters.clear();
        }
    }
    let lost = ENDS.get().as_mut().map(|ends| {
        let kept = ends.remove(&(me as usize));
        let lost = std::mem::take(ends);
        ends.extend(kept.map(|kept| (me as usize, kept)));
        lost
    });
    // The frames of the lost tasklets refer to these still.
    std::mem::forget(lost);
}

// ---- identity --------------------------------------------------------------------------------------------------------

fn get_ident(call: &Call) -> PyResult<Obj> {
    let me = call.runtime.me();
    if me.identity().is_none() { call.original() } else { Obj::uint(ident(me)) }
}

/// No thread of the operating system has a number from here on (`PID_MAX_LIMIT`, linux/threads.h).
const NO_OS_THREAD: u64 = 4 << 20;

/// `get_native_id()`: one number for each thread, not used again soon, and none that the system could take for another
/// thread.
fn get_native_id(call: &Call) -> PyResult<Obj> {
    if call.runtime.me().identity().is_none() || call.runtime.on_main() {
        return call.original();
    }
    // SAFETY: the state of this thread. The number of the identity that is loaded counts up.
    let number = unsafe { ffi::PyThreadState_GetID(call.runtime.tstate()) } as u64;
    // A `pid_t` has 31 bits.
    Obj::uint(NO_OS_THREAD + number % (1 << 30))
}

/// The getter of `_ThreadHandle.ident`, where there is one.
static IDENT_GETTER: GilCell<Option<ffi::getter>> = GilCell::new(None);

unsafe extern "C" fn get_handle_ident(slf: *mut PyObject, closure: *mut std::ffi::c_void) -> *mut PyObject {
    if in_main_interpreter()
        && let Some(ident) = with_handle(slf, |entry| entry.ident)
    {
        return boundary(|| Obj::uint(ident));
    }
    let getter = IDENT_GETTER.get().expect("set before this function was put in place");
    // SAFETY: the original getter with its own arguments.
    unsafe { getter(slf, closure) }
}

/// Lets handles of tasklets tell their ident. Once and for good: other handles answer as before.
pub(super) fn watch_ident() -> PyResult<()> {
    if IDENT_GETTER.get().is_some() {
        return Ok(());
    }
    let descriptor = HANDLE.object().and_then(|kind| {
        let namespace = kind.attr(c"__dict__")?;
        let name = Obj::str("ident")?;
        // SAFETY: valid references.
        Obj::owned(unsafe { ffi::PyObject_GetItem(namespace.ptr(), name.ptr()) })
    });
    let Ok(descriptor) = descriptor else {
        clear_error();
        return Ok(());
    };
    // SAFETY: the cast follows the checked type; the definition lies in the module's writable data.
    unsafe {
        if ffi::Py_TYPE(descriptor.ptr()) == &raw mut ffi::PyGetSetDescr_Type {
            let definition = (*descriptor.ptr().cast::<ffi::PyGetSetDescrObject>()).d_getset;
            *IDENT_GETTER.get() = (*definition).get;
            (*definition).get = Some(get_handle_ident);
        }
    }
    Ok(())
}

/// `_get_main_thread_ident()`: in the child of a fork, the tasklet that goes on stands for the main thread.
fn get_main_thread_ident(call: &Call) -> PyResult<Obj> {
    let chief = call.runtime.chief();
    if chief.identity().is_none() { call.original() } else { Obj::uint(ident(chief)) }
}

/// The system's ident of the thread that a tasklet with this ident runs on; `None` if it is no tasklet's.
pub(super) fn os_thread(runtime: &Runtime, object: *mut PyObject) -> PyResult<Option<Obj>> {
    let Some(number) = super::socket::integer(Some(object), 0) else { return Ok(None) };
    let known = |tasklet: &&Tasklet| tasklet.identity().is_some() && ident(tasklet) == number as u64;
    if !world::tasklets_of(runtime.thread()).iter().any(known) {
        return Ok(None);
    }
    // SAFETY: plain call.
    Obj::uint(unsafe { libc::pthread_self() }).map(Some)
}

/// Whether threads that became tasklets live.
pub(super) fn any() -> bool {
    ENDS.get().as_ref().is_some_and(|ends| !ends.is_empty())
}

/// `_count()`: how many threads run besides the main one.
fn count(call: &Call) -> PyResult<Obj> {
    let real = call.original()?.to_i64()?;
    let tasklets = ENDS.get().as_ref().map_or(0, HashMap::len);
    Obj::int(real + tasklets as i64)
}

/// `threading.excepthook`: a tasklet that is ended at the end of the program ends silently.
fn excepthook(call: &Call) -> PyResult<Obj> {
    if let Some(args) = call.arg(0)
        && Obj::borrowed(args).attr(c"exc_type")?.ptr() == tasklet_exit()
    {
        return Ok(Obj::none());
    }
    call.original()
}

/// The hooks that serve threads that were started as tasklets: they stay in place for good, as such threads may outlive
/// `unhook()`, and let everything else through.
pub(super) fn lasting_table() -> Vec<Hook> {
    vec![
        hook!(MODULE, c"_shutdown", shutdown),
        hook!(MODULE, c"get_ident", get_ident),
        hook!(MODULE, c"get_native_id", get_native_id),
        hook!(MODULE, c"_get_main_thread_ident", get_main_thread_ident),
        hook!(MODULE, c"_set_sentinel", set_sentinel).observed_by(lock::note_sentinel),
        hook!(MODULE, c"_excepthook", excepthook),
        hook!(HANDLE, c"join", join),
        hook!(HANDLE, c"is_done", is_done),
        hook!(HANDLE, c"_set_done", set_done),
    ]
}

pub(super) fn table() -> Vec<Hook> {
    vec![
        hook!(MODULE, c"start_new_thread", start_new_thread),
        hook!(MODULE, c"start_new", start_new_thread),
        hook!(MODULE, c"start_joinable_thread", start_joinable_thread),
        hook!(MODULE, c"_count", count),
    ]
}
