//! Time slices for threads that became tasklets.
//!
//! A tasklet runs until it waits: that is the contract of `lissom.spawn`. A thread has no such contract. Programs poll
//! (`while not flag: pass`), or compute for seconds in one thread while others serve connections, and the interpreter makes
//! that work by handing its lock on every `sys.getswitchinterval()`. So threads that became tasklets get time slices, too.
//!
//! A POSIX timer on the CPU time of the main thread sends it `SIGURG`, which is ignored by default (Go uses it for the same
//! purpose). Nothing happens while the thread waits, as it uses no CPU time then. The handler only asks the interpreter to
//! call the dispatcher of signal.rs between two instructions of whatever Python code runs, and that calls [`slice_over`]. It
//! switches if nobody has switched since the last slice, and only away from a thread or, if there are threads, from the
//! main tasklet; code started by `lissom.spawn` is never interrupted.

use std::cell::Cell;
use std::ffi::c_int;

use crate::hooks::thread;
use crate::object::{Obj, PyResult};
use crate::runtime::Runtime;
use crate::world::world;

/// The signal that ends a slice.
pub(crate) const SIGNAL: c_int = libc::SIGURG;

thread_local! {
    static TIMER: Cell<Option<libc::timer_t>> = const { Cell::new(None) };
    static LAST: Cell<u64> = const { Cell::new(0) };
}

unsafe extern "C" {
    /// `Include/pyerrors.h`; may be called from a signal handler (its documentation says so).
    fn PyErr_SetInterruptEx(signum: c_int) -> c_int;
}

extern "C" fn on_signal(signum: c_int) {
    // SAFETY: async-signal-safe, and errno is put back.
    unsafe {
        let errno = *libc::__errno_location();
        PyErr_SetInterruptEx(signum);
        *libc::__errno_location() = errno;
    }
}

/// Starts slicing the time of the calling thread, which handles signals. The interpreter's own handler for [`SIGNAL`] must
/// be the dispatcher already.
///
/// Where the timer cannot be had (an old container's seccomp profile), threads simply are not sliced.
pub(super) fn arm() -> PyResult<()> {
    disarm();
    let interval = Obj::import(c"sys")?.attr(c"getswitchinterval")?.call([])?;
    let nanoseconds = crate::args::seconds(&interval)?.clamp(1_000_000, 1_000_000_000) as i64;
    let slice = libc::timespec { tv_sec: nanoseconds / 1_000_000_000, tv_nsec: nanoseconds % 1_000_000_000 };
    // SAFETY: plain structs, filled in before use; the handler is async-signal-safe and restarts system calls.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as *const () as usize;
        action.sa_flags = libc::SA_RESTART;
        let mut event: libc::sigevent = std::mem::zeroed();
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = SIGNAL;
        event.sigev_notify_thread_id = libc::gettid();
        let mut timer: libc::timer_t = std::ptr::null_mut();
        if libc::sigaction(SIGNAL, &action, std::ptr::null_mut()) == 0
            && libc::timer_create(libc::CLOCK_THREAD_CPUTIME_ID, &mut event, &mut timer) == 0
        {
            TIMER.set(Some(timer));
            let period = libc::itimerspec { it_interval: slice, it_value: slice };
            libc::timer_settime(timer, 0, &period, std::ptr::null_mut());
        }
    }
    Ok(())
}

/// Stops slicing.
pub(super) fn disarm() {
    if let Some(timer) = TIMER.take() {
        // SAFETY: made by `arm` on this thread, deleted once.
        unsafe { libc::timer_delete(timer) };
    }
}

/// Whether slicing is on.
pub(super) fn armed() -> bool {
    TIMER.get().is_some()
}

/// In the child of a `fork`, which inherits no timer.
pub(super) fn after_fork() {
    if TIMER.take().is_some() && arm().is_err() {
        crate::object::clear_error();
    }
}

/// A slice is over: lets others run if the running tasklet has had all of it.
///
/// # Errors
/// What is thrown into the tasklet.
pub(super) fn slice_over(runtime: &Runtime) -> PyResult<()> {
    let switches = runtime.switches();
    if LAST.replace(switches) != switches {
        return Ok(());
    }
    if runtime.on_errand() {
        return Ok(());
    }
    let sliced = runtime.me().thread.get() || (runtime.on_main() && thread::any());
    if !sliced {
        return Ok(());
    }
    // Somebody's deadline or descriptor may be due.
    runtime.look();
    let others = world().runnable(runtime.thread()) > 1;
    if others { runtime.schedule() } else { Ok(()) }
}
