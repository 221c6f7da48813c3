//! Ends: of a program, of a thread, and of everything but the caller in the child of a `fork`.

use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use crate::args::Args;
use crate::body::{ENDING, tasklet_exit};
use crate::object::{Exc, Obj, PyResult, Raised, check, clear_error, write_unraisable};
use crate::runtime::{Run, Runtime, deadline_in};
use crate::tasklet::{Phase, Tasklet};
use crate::world;
use crate::{hooks, jobs, monitor, tasklet_type};

/// How often a tasklet that survives `TaskletExit` is killed again, as in Stackless.
const ATTEMPTS: usize = 10;

/// How long, in nanoseconds, tasklets get to come to their end before they are killed again.
const FIRST_PATIENCE: u64 = 1_000_000_000;
const PATIENCE: u64 = 50_000_000;

/// Ends every tasklet of the calling thread: `TaskletExit` is raised in each, so that `finally` blocks run.
fn kill_all(runtime: &Runtime) {
    for attempt in 0..ATTEMPTS {
        let alive: Vec<Obj> = living(runtime).into_iter().map(Tasklet::object).collect();
        if alive.is_empty() {
            return;
        }
        for tasklet in alive {
            kill(&tasklet);
        }
        // A `finally` block may have to wait: for a last message to be sent, a lock.
        let patience = if attempt == 0 { FIRST_PATIENCE } else { PATIENCE };
        if !living(runtime).is_empty()
            && runtime.run(Run { deadline: Some(deadline_in(patience)), ..Run::default() }).is_err()
        {
            write_unraisable(None);
        }
    }
    for tasklet in living(runtime) {
        tasklet.set_phase(Phase::Lost);
    }
}

/// Drops the scheduler's references to tasklets that were queued and never started.
fn release_unstarted(runtime: &Runtime) {
    for tasklet in world::tasklets_of(runtime.thread()) {
        if tasklet.phase() == Phase::Ready {
            world::world().remove(tasklet.id());
            drop(tasklet.release());
        }
    }
}

fn living(runtime: &Runtime) -> Vec<&'static Tasklet> {
    let others = |tasklet: &&Tasklet| tasklet.phase() == Phase::Started && !std::ptr::eq(*tasklet, runtime.me());
    world::tasklets_of(runtime.thread()).into_iter().filter(others).collect()
}

fn kill(tasklet: &Obj) {
    let Ok(target) = tasklet_type::from_object(tasklet) else { return clear_error() };
    if !target.alive() {
        return;
    }
    let exit = Exc::instance(Obj::borrowed(tasklet_exit()));
    if exit.and_then(|exit| tasklet_type::throw(target, exit, false)).is_err() {
        write_unraisable(Some(tasklet));
    }
}

/// `_core._end()`: at the end of the program, called by `atexit`.
///
/// # Errors
/// None.
pub(crate) fn end(args: Args) -> PyResult<Obj> {
    args.none("_end")?;
    ENDING.set(true);
    if let Some(runtime) = Runtime::current() {
        kill_all(runtime);
        release_unstarted(runtime);
    }
    hooks::remove();
    jobs::shutdown();
    monitor::shutdown();
    Ok(Obj::none())
}

/// `_core._after_fork()`: in the child, called by `os.fork` through `os.register_at_fork`.
///
/// # Errors
/// None.
pub(crate) fn after_fork(args: Args) -> PyResult<Obj> {
    args.none("_after_fork")?;
    hooks::after_fork();
    if let Some(runtime) = Runtime::current() {
        runtime.after_fork();
    }
    Ok(Obj::none())
}

const CAPSULE: &std::ffi::CStr = c"lissom.thread";

unsafe extern "C" fn thread_ends(_capsule: *mut PyObject) {
    // Runs on the thread itself, while its state is cleared (PyThreadState_Clear drops the dict).
    Runtime::forget_last();
    let Some(runtime) = Runtime::current() else { return };
    if std::ptr::eq(runtime.me(), runtime.chief()) {
        kill_all(runtime);
        release_unstarted(runtime);
        runtime.destroy();
    }
}

/// Arranges that the runtime of the calling thread is destroyed when the thread ends.
///
/// # Errors
/// `MemoryError`.
pub(crate) fn end_with_thread() -> PyResult<()> {
    // SAFETY: borrowed from the thread state; null only without memory.
    let dict = unsafe { ffi::PyThreadState_GetDict() };
    if dict.is_null() {
        return Err(Raised);
    }
    // The pointer only has to differ from null.
    // SAFETY: a name that lives for ever, and a destructor of the right type.
    let capsule = Obj::owned(unsafe {
        ffi::PyCapsule_New(CAPSULE.as_ptr().cast_mut().cast(), CAPSULE.as_ptr(), Some(thread_ends))
    })?;
    // SAFETY: valid references.
    check(unsafe { ffi::PyDict_SetItemString(dict, CAPSULE.as_ptr(), capsule.ptr()) })
}

extern "C" fn forked() {
    jobs::after_fork();
    monitor::after_fork();
    hooks::forked();
}

/// Registers [`end`], to run after what `multiprocessing` has registered, whose queues count on their threads at the end. In
/// a child that it has spawned it was there first, and what is registered first runs last.
fn end_after_queues(end: &Obj) -> PyResult<()> {
    let atexit = Obj::import(c"atexit")?;
    // SAFETY: the name lives for ever; the result is borrowed or null without an exception.
    let util = unsafe { ffi::PyDict_GetItemString(ffi::PyImport_GetModuleDict(), c"multiprocessing.util".as_ptr()) };
    let util = (!util.is_null()).then(|| Obj::borrowed(util));
    let theirs = util.and_then(|util| util.attr(c"_exit_function").map_err(|Raised| clear_error()).ok());
    if let Some(theirs) = &theirs {
        atexit.attr(c"unregister")?.call([theirs])?;
    }
    let register = atexit.attr(c"register")?;
    register.call([end])?;
    theirs.map_or(Ok(()), |theirs| register.call([&theirs]).map(drop))
}

/// Has the interpreter call [`end`] and [`after_fork`].
///
/// # Errors
/// What importing and calling may raise.
pub(crate) fn register(module: &Obj) -> PyResult<()> {
    // Python's own callbacks, such as those of `threading`, run in an order that depends on imports, and ask our tables; so
    // the tables are put right before all of them.
    // SAFETY: a function that lives for ever, as the extension is never unloaded; it touches only our own memory, with the
    // GIL held by the thread that forks.
    unsafe { libc::pthread_atfork(None, None, Some(forked)) };
    end_after_queues(&module.attr(c"_end")?)?;
    let register = Obj::import(c"os")?.attr(c"register_at_fork")?;
    let after_fork = module.attr(c"_after_fork")?;
    // SAFETY: a dict with one keyword.
    let keywords = Obj::owned(unsafe { ffi::PyDict_New() })?;
    // SAFETY: valid references.
    check(unsafe { ffi::PyDict_SetItemString(keywords.ptr(), c"after_in_child".as_ptr(), after_fork.ptr()) })?;
    let none = Obj::tuple([])?;
    // SAFETY: a callable, a tuple, a dict.
    Obj::owned(unsafe { ffi::PyObject_Call(register.ptr(), none.ptr(), keywords.ptr()) }).map(drop)
}
