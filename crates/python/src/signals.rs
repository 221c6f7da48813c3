//! Signals: they end every wait, and Python's handlers run in the main tasklet.
//!
//! The C part of CPython's signal handler notes the signal and writes a byte to the descriptor set by
//! `signal.set_wakeup_fd`. While the main tasklet of the main thread is in `drive`, that descriptor is a pipe of ours,
//! which the proactor watches. (The C function `PySignal_SetWakeupFd` is exported only since 3.13, so the Python one is
//! called; it is left in place between waits as long as the program has set none of its own.) So:
//!
//! * a signal before [`SignalPipe::install`] is found by the `PyErr_CheckSignals` right behind it;
//! * a signal after it leaves a byte, and the next wait returns at once;
//! * a signal while a tasklet is busy is seen by the interpreter's own loop there; the handler installed by the hook of
//!   `signal.signal` (hooks/signal.rs) then notes it here and switches to the main tasklet.
//!
//! The descriptor that the program itself has set is put back when `drive` returns, and gets the bytes that came in the
//! meantime, so an asyncio loop in the main tasklet works as usual.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use lissom_proactor::{Interest, Op, Proactor};
use pyo3_ffi as ffi;

use crate::hooks;
use crate::object::{Obj, PyResult, Raised, clear_error};
use crate::runtime::Runtime;
use crate::tasklet::Tasklet;

/// A pipe that wakes the main thread.
pub(crate) struct SignalPipe {
    read: OwnedFd,
    write: OwnedFd,
    installed: Cell<bool>,
    /// The program's own descriptor, -1 for none, and whether it wants warnings about a full buffer.
    own: Cell<libc::c_int>,
    own_warns: Cell<bool>,
}

thread_local! {
    /// Set while this file calls `signal.set_wakeup_fd` itself: the hook lets the call through.
    static INTERNAL: Cell<bool> = const { Cell::new(false) };
}

/// Whether a call of `signal.set_wakeup_fd` comes from here.
pub(crate) fn internal_call() -> bool {
    INTERNAL.get()
}

/// Sets the wake-up descriptor; returns the one before.
fn set_wakeup_fd(fd: libc::c_int, warn: bool) -> PyResult<libc::c_int> {
    let function = Obj::import(c"_signal")?.attr(c"set_wakeup_fd")?;
    let arguments = [Obj::int(i64::from(fd))?, Obj::bool(warn)];
    let names = Obj::tuple([Obj::str("warn_on_full_buffer")?])?;
    let pointers = arguments.each_ref().map(Obj::ptr);
    INTERNAL.set(true);
    // SAFETY: one positional argument and one keyword, alive for the time of the call.
    let previous = Obj::owned(unsafe { ffi::PyObject_Vectorcall(function.ptr(), pointers.as_ptr(), 1, names.ptr()) });
    INTERNAL.set(false);
    Ok(previous?.to_i64()? as libc::c_int)
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: `fds` takes two descriptors (pipe2(2)).
    if unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fresh descriptors, owned by nobody else.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

impl SignalPipe {
    /// The token of the pipe's readiness: no tasklet has it, as ids are small.
    pub(crate) const TOKEN: u64 = u64::MAX;

    /// A pipe if this is the thread that handles signals: the one that the process began with.
    pub(crate) fn for_this_thread() -> io::Result<Option<SignalPipe>> {
        // SAFETY: plain system calls.
        if unsafe { libc::getpid() != libc::gettid() } {
            return Ok(None);
        }
        let (read, write) = pipe()?;
        Ok(Some(SignalPipe {
            read,
            write,
            installed: Cell::new(false),
            own: Cell::new(-1),
            own_warns: Cell::new(true),
        }))
    }

    /// Asks the proactor to watch the pipe.
    pub(crate) fn watch(&self, proactor: &mut Proactor) {
        let op = Op::Ready { fd: self.read.as_raw_fd(), interest: Interest::READ, keep: true };
        proactor.submit(op, SignalPipe::TOKEN);
    }

    /// Makes signals write here.
    ///
    /// # Errors
    /// What `signal.set_wakeup_fd` may raise.
    pub(crate) fn install(&self) -> PyResult<()> {
        if self.installed.get() {
            return Ok(());
        }
        let previous = set_wakeup_fd(self.write.as_raw_fd(), false)?;
        if previous != self.write.as_raw_fd() {
            self.own.set(previous);
        }
        self.installed.set(true);
        Ok(())
    }

    /// Puts the program's own descriptor back, if it has one.
    pub(crate) fn release(&self) {
        if self.own.get() >= 0 && self.installed.get() {
            self.installed.set(false);
            if set_wakeup_fd(self.own.get(), self.own_warns.get()).is_err() {
                // The program has closed it: it would have been told at the next signal.
                clear_error();
                self.own.set(-1);
            }
        }
    }

    /// The program has set a descriptor of its own. Returns what it must see as the one before.
    pub(crate) fn replaced(&self, warns: bool, previous: libc::c_int) -> libc::c_int {
        // Signals that came before are none of the new descriptor's business.
        self.discard();
        self.installed.set(false);
        self.own_warns.set(warns);
        if previous == self.write.as_raw_fd() { self.own.replace(-1) } else { previous }
    }

    /// Empties the pipe. The signals themselves are noted by the interpreter.
    fn discard(&self) {
        let mut bytes = [0_u8; 256];
        // SAFETY: reads into `bytes`; the pipe does not block.
        while unsafe { libc::read(self.read.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len()) } > 0 {}
    }

    /// Empties the pipe, passing the bytes on to the program's descriptor, and watches it again.
    ///
    /// Returns whether there were other signals than the one that ends time slices, which nobody waits for.
    pub(crate) fn drain(&self, proactor: &mut Proactor) -> bool {
        let mut bytes = [0_u8; 256];
        let mut others = false;
        loop {
            // SAFETY: reads into `bytes`; the pipe does not block.
            let count = unsafe { libc::read(self.read.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len()) };
            if count <= 0 {
                break;
            }
            if bytes[..count as usize].iter().all(|&byte| i32::from(byte) == hooks::preempt::SIGNAL) {
                continue;
            }
            others = true;
            if self.own.get() >= 0 {
                // A full or closed descriptor of the program's is its own affair, as it is for the interpreter.
                // SAFETY: writes from `bytes`.
                unsafe { libc::write(self.own.get(), bytes.as_ptr().cast(), count as usize) };
            }
        }
        proactor.exhausted(self.read.as_raw_fd(), Interest::READ);
        self.watch(proactor);
        others
    }

    /// After `fork`, in the child: watches the pipe with the child's own proactor.
    ///
    /// The pipe itself is still shared with the parent, so it is replaced in place.
    pub(crate) fn after_fork(&self, proactor: &mut Proactor) {
        if let Ok((read, write)) = pipe() {
            // SAFETY: replaces both descriptors under their numbers; the new ones are closed when dropped.
            unsafe {
                libc::dup3(read.as_raw_fd(), self.read.as_raw_fd(), libc::O_CLOEXEC);
                libc::dup3(write.as_raw_fd(), self.write.as_raw_fd(), libc::O_CLOEXEC);
            }
        }
        self.watch(proactor);
    }
}

/// Runs Python's signal handlers in the main tasklet, which has just been resumed.
///
/// # Errors
/// What a handler raises.
pub(crate) fn handle(runtime: &Runtime, main: &Tasklet) -> PyResult<()> {
    main.signalled.set(false);
    debug_assert!(runtime.on_main());
    crate::hooks::signal::run_noted()?;
    // SAFETY: the GIL is held.
    if unsafe { ffi::PyErr_CheckSignals() } != 0 { Err(Raised) } else { Ok(()) }
}
