//! A call that must not block, on a descriptor in blocking mode.
//!
//! accept(2), connect(2), and read(2) where `RWF_NOWAIT` is not supported have no flag for "do not
//! wait". For them `O_NONBLOCK` is set for the moment of the call. It belongs to the open file, so
//! others who share the file (other threads, forked processes) can see `EAGAIN` in that moment if
//! they call just then. Within this process such moments exclude each other: without that, one
//! thread would restore blocking mode between another's check and its call.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Errno, sys};

/// Held for three system calls that do not block. A spin lock, as a fork may catch it held by a
/// thread that the child does not have: the child just resets it.
static BUSY: AtomicBool = AtomicBool::new(false);

struct Moment;

impl Moment {
    fn begin() -> Moment {
        while BUSY.swap(true, Ordering::Acquire) {
            std::thread::yield_now();
        }
        Moment
    }
}

impl Drop for Moment {
    fn drop(&mut self) {
        BUSY.store(false, Ordering::Release);
    }
}

/// Runs `call` while `fd` is in non-blocking mode; then it is as before.
pub(crate) fn without_blocking<T>(fd: RawFd, call: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
    let moment = Moment::begin();
    let flags = sys::status_flags(fd)?;
    if flags & libc::O_NONBLOCK != 0 {
        drop(moment);
        return call();
    }
    sys::set_status_flags(fd, flags | libc::O_NONBLOCK)?;
    let result = call();
    sys::set_status_flags(fd, flags)?;
    result
}

/// In a forked child: whoever was in the moment is not here.
pub(crate) fn after_fork_in_child() {
    BUSY.store(false, Ordering::Release);
}
