//! Error numbers of the operating system, as results of ops.

use std::{fmt, io};

/// An error number of the operating system (`errno`).
///
/// Unlike [`io::Error`] it is `Copy` and comparable; `io::Error::from(errno)` converts.
///
/// # Examples
/// ```
/// use lissom_proactor::Errno;
/// let gone = Errno::from_code(104);
/// assert_eq!(std::io::Error::from(gone).kind(), std::io::ErrorKind::ConnectionReset);
/// ```
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Errno(i32);

impl Errno {
    /// `ECANCELED`: the op was cancelled, or its descriptor was forgotten.
    pub const CANCELED: Errno = Errno(libc::ECANCELED);
    /// `ETIMEDOUT`: the op's deadline came first. (The kernel reports the same number for a
    /// connection that timed out by itself.)
    pub const TIMED_OUT: Errno = Errno(libc::ETIMEDOUT);
    /// `EBADF`: the descriptor is not open.
    pub const BAD_FD: Errno = Errno(libc::EBADF);
    /// `EIO`: an error without a number of its own: a job that panicked or failed with an
    /// `io::Error` that did not come from the operating system.
    pub const IO: Errno = Errno(libc::EIO);

    /// The error with the number `code`, as found in `errno`.
    #[must_use]
    pub const fn from_code(code: i32) -> Errno {
        Errno(code)
    }

    /// The error number, positive.
    #[must_use]
    pub const fn code(self) -> i32 {
        self.0
    }

    /// The calling thread's current `errno`.
    pub(crate) fn last() -> Errno {
        Errno::from(&io::Error::last_os_error())
    }

    /// Whether this is what a call that would block reports.
    pub(crate) fn would_block(self) -> bool {
        // EWOULDBLOCK is the same number as EAGAIN on Linux (errno(3)).
        self.0 == libc::EAGAIN
    }
}

impl From<&io::Error> for Errno {
    /// The error's number; [`Errno::IO`] when it has none.
    fn from(error: &io::Error) -> Errno {
        error.raw_os_error().map_or(Errno::IO, Errno)
    }
}

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> io::Error {
        io::Error::from_raw_os_error(errno.0)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        io::Error::from(*self).fmt(f)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Errno({}: {})", self.0, io::Error::from(*self))
    }
}

impl std::error::Error for Errno {}
