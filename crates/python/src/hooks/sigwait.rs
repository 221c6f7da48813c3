//! `_signal`: waiting for a signal, for its handler (`pause`) or in its place (`sigwait` and its kin).

use std::mem::MaybeUninit;

use lissom_proactor::Interest;
use pyo3_ffi as ffi;

use super::call::{Call, hook};
use super::signal::{handled, handled_key};
use super::slot::{Hook, Owner};
use crate::args::timeout;
use crate::object::{Obj, PyResult, Raised, clear_error, os_error};
use crate::runtime::{deadline_in, now};
use crate::tasklet::Why;
use crate::waiters;

const MODULE: Owner = Owner::Module(c"_signal");

/// `pause()`: until a handler has returned. Handlers run on the thread that the process began with.
fn pause(call: &Call) -> PyResult<Obj> {
    if call.runtime.signal_pipe().is_none() {
        return call.original();
    }
    let before = handled();
    let attempt = || Ok((handled() != before).then(Obj::none));
    let done = waiters::wait_for(call.runtime, handled_key(), Why::Signal, None, attempt)?;
    Ok(done.expect("a wait without a deadline ends by what it waits for"))
}

/// A descriptor that is readable while one of a set of signals is pending (signalfd(2)).
struct SignalFd(i32);

impl SignalFd {
    /// For a tuple of signal numbers, which the original has accepted.
    fn open(signals: &Obj) -> PyResult<SignalFd> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: the set is initialised by the call.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: a tuple; items are borrowed.
        for index in 0..unsafe { ffi::PyTuple_Size(signals.ptr()) } {
            // SAFETY: within the tuple.
            let signal = Obj::borrowed(unsafe { ffi::PyTuple_GetItem(signals.ptr(), index) }).to_i64()?;
            // SAFETY: an initialised set. A number that is no signal is left out, as by the original.
            unsafe { libc::sigaddset(set.as_mut_ptr(), signal as i32) };
        }
        // SAFETY: an initialised set.
        let fd = unsafe { libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(os_error(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EMFILE)));
        }
        Ok(SignalFd(fd))
    }
}

impl Drop for SignalFd {
    fn drop(&mut self) {
        super::socket::forget(self.0);
        // SAFETY: opened above, and known to nobody else.
        unsafe { libc::close(self.0) };
    }
}

/// Waits until one of the signals is pending, and takes it: a `struct_siginfo`, or `None` after the deadline.
fn take(call: &Call, signals: &Obj, deadline: Option<u64>) -> PyResult<Obj> {
    // SAFETY: a valid reference.
    let signals = Obj::owned(unsafe { ffi::PySequence_Tuple(signals.ptr()) })?;
    let look = Obj::import(c"_signal")?.attr(c"sigtimedwait")?;
    let zero = Obj::int(0)?;
    let mut pending = None;
    loop {
        let found = look.call([&signals, &zero])?;
        if found.ptr() != Obj::none().ptr() || deadline.is_some_and(|deadline| deadline <= now()) {
            return Ok(found);
        }
        let fd = match &pending {
            Some(SignalFd(fd)) => *fd,
            None => pending.insert(SignalFd::open(&signals)?).0,
        };
        call.runtime.wait_ready(fd, Interest::READ, false, deadline)?;
    }
}

/// `sigwait(sigset)`.
fn sigwait(call: &Call) -> PyResult<Obj> {
    let Some(signals) = call.arg(0) else { return call.original() };
    take(call, &Obj::borrowed(signals), None)?.attr(c"si_signo")
}

/// `sigwaitinfo(sigset)`.
fn sigwaitinfo(call: &Call) -> PyResult<Obj> {
    let Some(signals) = call.arg(0) else { return call.original() };
    take(call, &Obj::borrowed(signals), None)
}

/// `sigtimedwait(sigset, timeout)`.
fn sigtimedwait(call: &Call) -> PyResult<Obj> {
    let (Some(signals), Some(limit)) = (call.arg(0), call.arg(1)) else { return call.original() };
    match timeout(Some(limit)) {
        Ok(Some(limit)) if limit > 0 => take(call, &Obj::borrowed(signals), Some(deadline_in(limit))),
        Ok(_) => call.original(),
        Err(Raised) => {
            clear_error();
            call.original()
        }
    }
}

pub(super) fn table() -> Vec<Hook> {
    vec![
        hook!(MODULE, c"pause", pause),
        hook!(MODULE, c"sigwait", sigwait),
        hook!(MODULE, c"sigwaitinfo", sigwaitinfo),
        hook!(MODULE, c"sigtimedwait", sigtimedwait),
    ]
}
