//! What a caller waits for on a descriptor, and what was reported of it.

use std::ops::{BitAnd, BitOr, BitOrAssign};

/// What to wait for on a descriptor: a set of directions.
///
/// # Examples
/// ```
/// use lissom_proactor::Interest;
/// let both = Interest::READ | Interest::WRITE;
/// assert!(both.contains(Interest::WRITE) && !both.contains(Interest::PRIORITY));
/// ```
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Interest(u8);

impl Interest {
    /// A read, receive or accept would not block (`POLLIN`).
    pub const READ: Interest = Interest(1);
    /// A write or send would not block; a connection is established (`POLLOUT`).
    pub const WRITE: Interest = Interest(2);
    /// Exceptional data, such as a TCP urgent byte (`POLLPRI`).
    pub const PRIORITY: Interest = Interest(4);
    /// Nothing. An op that waits for nothing is still completed by an error or a hang-up.
    pub const NONE: Interest = Interest(0);

    /// Whether every direction of `other` is in this set.
    #[must_use]
    pub const fn contains(self, other: Interest) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether no direction is in this set.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The set as bits: 1 read, 2 write, 4 priority.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }
}

impl BitOr for Interest {
    type Output = Interest;
    fn bitor(self, other: Interest) -> Interest {
        Interest(self.0 | other.0)
    }
}

impl BitOrAssign for Interest {
    fn bitor_assign(&mut self, other: Interest) {
        self.0 |= other.0;
    }
}

/// What the operating system reported of a descriptor: the result of
/// [`Op::Ready`](crate::Op::Ready), as a set of conditions.
///
/// A hint, not a promise: another reader may have been quicker, and an event may be older than
/// the caller's last system call. Try, and be ready to see `EAGAIN`.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Readiness(u8);

impl Readiness {
    /// Nothing reported.
    pub const NONE: Readiness = Readiness(0);
    /// Readable (`POLLIN`).
    pub const READ: Readiness = Readiness(1);
    /// Writable (`POLLOUT`).
    pub const WRITE: Readiness = Readiness(2);
    /// Exceptional data (`POLLPRI`).
    pub const PRIORITY: Readiness = Readiness(4);
    /// Both directions are over, or the other end of a pipe is gone (`POLLHUP`).
    pub const HANGUP: Readiness = Readiness(8);
    /// An error is pending (`POLLERR`).
    pub const ERROR: Readiness = Readiness(16);
    /// The peer will send no more (`POLLRDHUP`).
    pub const READ_CLOSED: Readiness = Readiness(32);

    /// The set as bits, as in the result of a completion.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// The set with the given bits; bits without a meaning are dropped.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Readiness {
        Readiness(bits & 63)
    }

    /// Whether every condition of `other` is in this set.
    #[must_use]
    pub const fn contains(self, other: Readiness) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether the two sets have a condition in common.
    #[must_use]
    pub const fn intersects(self, other: Readiness) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether nothing is in this set.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// This set without the conditions of `other`.
    #[must_use]
    pub const fn without(self, other: Readiness) -> Readiness {
        Readiness(self.0 & !other.0)
    }

    /// The conditions that end a wait for `interest`: the directions themselves, hang-up and
    /// error for every direction (poll(2) reports both unasked), and the peer's end of
    /// sending for readers.
    pub(crate) const fn ending(interest: Interest) -> Readiness {
        let closed = if interest.contains(Interest::READ) { Readiness::READ_CLOSED.0 } else { 0 };
        Readiness(interest.0 | Readiness::HANGUP.0 | Readiness::ERROR.0 | closed)
    }

    /// The conditions that outlive a transfer: a short read says that the queue was empty, not
    /// that no end-of-file stands behind it, nor data behind the mark of urgent data (tcp(7)).
    pub(crate) const fn lasting(interest: Interest) -> Readiness {
        let urgent = if interest.contains(Interest::READ) { Readiness::PRIORITY.0 } else { 0 };
        Readiness(Readiness::ending(interest).0 & !interest.0 | urgent)
    }
}

impl From<Interest> for Readiness {
    fn from(interest: Interest) -> Readiness {
        Readiness(interest.0)
    }
}

impl BitOr for Readiness {
    type Output = Readiness;
    fn bitor(self, other: Readiness) -> Readiness {
        Readiness(self.0 | other.0)
    }
}

impl BitOrAssign for Readiness {
    fn bitor_assign(&mut self, other: Readiness) {
        self.0 |= other.0;
    }
}

impl BitAnd for Readiness {
    type Output = Readiness;
    fn bitand(self, other: Readiness) -> Readiness {
        Readiness(self.0 & other.0)
    }
}
