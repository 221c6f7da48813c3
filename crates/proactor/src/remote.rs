//! The handle by which other threads reach a proactor.
//!
//! - I1: `EventBell::fd` is an open eventfd owned by the bell, or -1 after `hang_up`.
//! - I2: `hang_up` is called only in a forked child, whose one thread is the caller: no other
//!   thread can be between reading the number and using it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use crate::driver::Outcome;
use crate::mailbox::{Bell, Mailbox};
use crate::{OpKey, sys};

/// What comes from other threads.
pub(crate) enum Letter {
    /// `Remote::post`.
    Post { token: u64, result: i32 },
    /// A pool thread has finished an op.
    Done { key: OpKey, outcome: Outcome },
}

pub(crate) type Mail = Mailbox<Letter, EventBell>;

/// Makes a mailbox with an eventfd of its own.
pub(crate) fn mailbox() -> io::Result<Arc<Mail>> {
    Ok(Arc::new(Mailbox::new(EventBell::new()?)))
}

/// Reaches a [`Proactor`](crate::Proactor) from other threads. Cheap to clone; outlives the
/// proactor harmlessly.
///
/// # Examples
/// ```
/// # fn main() -> std::io::Result<()> {
/// use lissom_proactor::{DriverKind, Proactor};
/// let mut proactor = Proactor::new(DriverKind::Auto)?;
/// let remote = proactor.remote();
/// std::thread::spawn(move || remote.post(7, 42));
/// while proactor.finished() == 0 {
///     proactor.wait(None)?;
/// }
/// let done = proactor.next().unwrap();
/// assert_eq!((done.token, done.result), (7, Ok(42)));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Remote(pub(crate) Arc<Mail>);

impl Remote {
    /// Delivers a completion with `token` and wakes the proactor. A negative `result` is an error
    /// number with its sign changed, as in the kernel. Dropped if the proactor is gone.
    ///
    /// The completion appears in a later `wait`. Posts are coalesced: at most one system call for
    /// each `wait` of the proactor, none while it is not waiting.
    pub fn post(&self, token: u64, result: i32) {
        self.0.post(Letter::Post { token, result });
    }

    /// Makes the proactor's current `wait`, or else its next, return.
    ///
    /// Async-signal-safe: takes no lock, allocates nothing, preserves `errno`. (A signal handler
    /// that calls it closes the gap between the handler and a `wait` that is just being entered.)
    pub fn wake(&self) {
        self.0.wake();
    }
}

/// An eventfd. It is registered edge-triggered, where every write is an edge, so it is never read:
/// the counter would take 2^64 rings to overflow (eventfd(2)).
pub(crate) struct EventBell {
    fd: AtomicI32,
}

impl EventBell {
    fn new() -> io::Result<EventBell> {
        let fd = sys::eventfd()?;
        Ok(EventBell { fd: AtomicI32::new(fd.into_raw_fd()) })
    }

    /// The eventfd, of a bell that has not been hung up.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: open while the bell lives (I1), except after `hang_up`, which excludes other
        // users (I2) and after which only `ring` looks at the number.
        unsafe { BorrowedFd::borrow_raw(self.as_raw_fd()) }
    }

    /// In a forked child only (I2): closes the child's copy. Rings do nothing from now on; they
    /// would wake the parent.
    pub(crate) fn hang_up(&self) {
        drop(self.take());
    }

    fn take(&self) -> Option<OwnedFd> {
        let fd = self.fd.swap(-1, Ordering::AcqRel);
        // SAFETY: an open descriptor that this bell owned (I1) and has just given up.
        (fd >= 0).then(|| unsafe { sys::own(fd) })
    }
}

impl AsRawFd for EventBell {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.load(Ordering::Acquire)
    }
}

impl Bell for EventBell {
    fn ring(&self) {
        let fd = self.as_raw_fd();
        if fd >= 0 {
            sys::ring_eventfd(fd);
        }
    }
}

impl Drop for EventBell {
    fn drop(&mut self) {
        drop(self.take());
    }
}
