//! What a tasklet executes from its first instruction to its last.

use std::cell::Cell;
use std::ptr::null_mut;

use lissom_fiber::Link;
use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use crate::callbacks;
use crate::hooks;
use crate::object::{self, Exc, Obj, PyResult, Raised};
use crate::runtime::{Runtime, exception_of};
use crate::tasklet::{Carried, Outcome, Phase, Tasklet};
use crate::tstate;
use crate::watchdog;
use crate::world::{self, Wake, world};

thread_local! {
    /// Set while the process ends: uncaught exceptions are still reported, but no longer delivered to the main tasklet.
    pub(crate) static ENDING: Cell<bool> = const { Cell::new(false) };
}

/// The entry of a tasklet's stack.
pub(crate) fn enter(address: usize, link: Link) {
    // SAFETY: `Runtime::start` gave the address of a tasklet that the scheduler keeps (K1) until it is retired.
    let tasklet = unsafe { &*(address as *const Tasklet) };
    tasklet.set_link(Some(link));
    let runtime = Runtime::current().expect("a tasklet is started by its thread's runtime");
    if callbacks::special() {
        watchdog::attach();
    }
    let outcome = execute(tasklet);
    finish(runtime, tasklet, outcome);
    if tasklet.identity().is_some() {
        // SAFETY: T2: this thread's state, with the tasklet's identity loaded.
        unsafe { tstate::finish_identity(runtime.tstate()) };
        hooks::thread::ended(tasklet);
    }
    // SAFETY: T2; every frame of the tasklet is gone.
    unsafe { tstate::finish(runtime.tstate()) };
    leave(runtime, tasklet);
}

/// Takes a tasklet out of the scheduler for good; its last reference there is dropped by [`Runtime`].
fn leave(runtime: &Runtime, tasklet: &Tasklet) {
    tasklet.set_phase(Phase::Unbound);
    tasklet.interrupt_pending.set(false);
    if let Carried::Value(value) = tasklet.carried.replace(Carried::Nothing) {
        runtime.drop_later(Some(value));
    }
    // Those who have come while what ended it was reported, which may wait itself.
    for joiner in tasklet.take_joiners() {
        joiner.unpark(Wake::Event);
    }
    world().remove(tasklet.id());
    runtime.promote_next();
    if callbacks::special() {
        runtime.before_end(tasklet);
    }
}

fn execute(tasklet: &Tasklet) -> Outcome {
    let mut pending = tasklet.pending.take();
    if let Err(Raised) = tasklet.claim() {
        pending = Some(Exc::take());
    }
    if let Some(exception) = pending {
        tasklet.unbind();
        return Err(exception);
    }
    // The cells keep what is called with, where the collector sees it; nobody replaces it while the tasklet is alive.
    let (func, args, kwargs) = (tasklet.func.ptr(), tasklet.args.ptr(), tasklet.kwargs.ptr());
    let (Some(func), Some(args)) = (func, args) else {
        return Err(exception_of(|| object::runtime_error("the tasklet was not bound to a function")));
    };
    // SAFETY: a callable, a tuple, and a dict or null.
    let result = Obj::owned(unsafe { ffi::PyObject_Call(func, args, kwargs.unwrap_or(null_mut())) });
    let outcome = result.map_err(|Raised| Exc::take());
    // In the report of what has ended a thread its function is named.
    let func = tasklet.func.take().filter(|_| tasklet.thread.get() && outcome.is_err());
    tasklet.unbind();
    drop(tasklet.func.replace(func));
    outcome
}

/// Ends a tasklet that could not be given a stack. Main's state is loaded.
pub(crate) fn fail(runtime: &Runtime, tasklet: &Tasklet, message: &str) {
    let error = exception_of(|| object::memory_error(message));
    tasklet.unbind();
    finish(runtime, tasklet, Err(error));
    leave(runtime, tasklet);
    drop(tasklet.release());
}

/// Records the outcome, wakes who joins, and reports an exception that nobody waits for.
fn finish(runtime: &Runtime, tasklet: &Tasklet, outcome: Outcome) {
    let outcome = match outcome {
        Err(exception) if exception.is(tasklet_exit()) => Ok(Obj::none()),
        other => other,
    };
    let joiners = tasklet.take_joiners();
    let uncaught = outcome.as_ref().err().cloned();
    let old = tasklet.outcome.replace(Some(outcome));
    drop(old);
    let mut joined = false;
    for joiner in joiners {
        joined |= joiner.unpark(Wake::Event);
    }
    if let Some(exception) = uncaught
        && !joined
    {
        report(runtime, tasklet, exception);
    }
}

/// Where the exception goes that has ended a tasklet.
///
/// `SystemExit` ends the program: it goes on in the main tasklet. What `lissom.spawn` has started reports to
/// `lissom.excepthook`; else it is as in Stackless: the error handler, then the innermost `run()` or the main tasklet.
fn report(runtime: &Runtime, tasklet: &Tasklet, exception: Exc) {
    if tasklet.thread.get() {
        return report_thread(tasklet, exception);
    }
    let alone = std::ptr::eq(runtime.chief(), tasklet);
    // SAFETY: the interpreter keeps its exception classes for ever.
    let (exits, interrupts) =
        unsafe { (exception.is(ffi::PyExc_SystemExit), exception.is(ffi::PyExc_KeyboardInterrupt)) };
    if exits && runtime.signal_pipe().is_none() {
        // As for any thread but the first.
        return;
    }
    if (exits || (interrupts && tasklet.spawned.get())) && !ENDING.get() && !alone {
        let main = runtime.chief();
        let old = main.pending.replace(Some(exception));
        drop(old);
        world::make_runnable(main);
        return;
    }
    if !tasklet.spawned.get() && !alone && !exits {
        if let Some(exception) = callbacks::handle_error(exception) {
            runtime.deliver(exception);
        }
        return;
    }
    // SAFETY: as above.
    if std::ptr::eq(runtime.chief(), tasklet) && unsafe { exception.is(ffi::PyExc_SystemExit) } {
        // The only tasklet of a forked child asks to exit.
        exception.restore();
        // SAFETY: an exception is set; for `SystemExit` this ends the process with its code.
        unsafe { ffi::PyErr_Print() };
        return;
    }
    let hook = Obj::import(c"lissom").and_then(|module| module.attr(c"excepthook"));
    let result = hook.and_then(|hook| hook.call([&tasklet.object(), &exception.0]));
    if result.is_err() {
        // The hook failed: report both.
        object::write_unraisable(None);
        exception.restore();
        object::write_unraisable(Some(&tasklet.object()));
    }
}

/// As `_thread` does for a thread: `SystemExit` ends it silently, all else goes to `sys.unraisablehook`.
fn report_thread(tasklet: &Tasklet, exception: Exc) {
    // SAFETY: the interpreter keeps its exception classes for ever.
    if unsafe { exception.is(ffi::PyExc_SystemExit) } {
        return;
    }
    exception.restore();
    let func = tasklet.func.take();
    write_thread_unraisable(func.as_ref());
}

/// "Exception ignored in thread started by ...", in the words of the running version.
#[cfg(Py_3_13)]
fn write_thread_unraisable(func: Option<&Obj>) {
    unsafe extern "C" {
        /// `Include/cpython/pyerrors.h`.
        fn PyErr_FormatUnraisable(format: *const std::ffi::c_char, ...);
    }
    match func {
        // SAFETY: one object, as the format says.
        Some(func) => unsafe {
            PyErr_FormatUnraisable(c"Exception ignored in thread started by %R".as_ptr(), func.ptr())
        },
        None => object::write_unraisable(None),
    }
}

/// "Exception ignored in thread started by ...", in the words of the running version.
#[cfg(not(Py_3_13))]
fn write_thread_unraisable(func: Option<&Obj>) {
    unsafe extern "C" {
        /// `Include/internal/pycore_pyerrors.h`, exported up to 3.12.
        fn _PyErr_WriteUnraisableMsg(message: *const std::ffi::c_char, object: *mut PyObject);
    }
    // SAFETY: a text, and an object or null.
    unsafe { _PyErr_WriteUnraisableMsg(c"in thread started by".as_ptr(), func.map_or(null_mut(), Obj::ptr)) }
}

/// The class `TaskletExit`: a builtin, as in Stackless.
pub(crate) fn tasklet_exit() -> *mut PyObject {
    TASKLET_EXIT.get().as_ref().map_or_else(system_exit, Obj::ptr)
}

fn system_exit() -> *mut PyObject {
    // SAFETY: the interpreter keeps its exception classes for ever.
    unsafe { ffi::PyExc_SystemExit }
}

static TASKLET_EXIT: world::GilCell<Option<Obj>> = world::GilCell::new(None);

/// Makes `TaskletExit` and puts it into `builtins`, unless it is there already.
///
/// # Errors
/// What making a class may raise.
pub(crate) fn define_tasklet_exit() -> PyResult<Obj> {
    let builtins = Obj::import(c"builtins")?;
    let class = match builtins.attr(c"TaskletExit") {
        Ok(class) => class,
        Err(Raised) => {
            object::clear_error();
            // SAFETY: a null-terminated name and documentation, and a base class.
            let class = Obj::owned(unsafe {
                ffi::PyErr_NewExceptionWithDoc(
                    c"builtins.TaskletExit".as_ptr(),
                    c"Ends the tasklet in which it is raised, silently.".as_ptr(),
                    ffi::PyExc_SystemExit,
                    null_mut(),
                )
            })?;
            builtins.set_attr(c"TaskletExit", &class)?;
            class
        }
    };
    *TASKLET_EXIT.get() = Some(class.clone());
    Ok(class)
}
