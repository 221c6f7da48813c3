//! What a proactor asks of the operating system: the contract of drivers.
//!
//! A driver reports *readiness* (epoll, poll), or *carries* whole ops out (rings), or both.
//! `tests/contract.rs` asks each driver for rules 2 to 6 and 9 to 11, `tests/uring.rs` the one that carries for the others,
//! and `tests/random_programs.rs` and `tests/sabotage.rs` the proactor on top of them, also when everything goes wrong that
//! these rules allow.
//!
//! 1. A driver belongs to one proactor and is called from one thread at a time.
//! 2. **Never blocks** except in `wait`, and there no longer than told. `wait` allocates nothing but buffers of parts in
//!    steady state and runs no code of the caller's.
//! 3. `arm` makes the driver report readiness of a descriptor. If a condition of the interest
//!    already holds when `arm` is called, it is reported too (by a later `wait`). With `keep`,
//!    every later change for the better is reported as well (an *edge*); without, one event ends
//!    the registration. Arming again replaces interest, generation and mode.
//! 4. Errors and hang-ups are reported whatever the interest is; the peer's end of sending is, with
//!    interest in reading.
//! 5. An event carries the generation of the latest `arm` for its registration, never an earlier
//!    one's. The proactor drops events of registrations that are void.
//! 6. `arm` fails with `EPERM` for descriptors that have no readiness (regular files); with any
//!    other error the registration is as before.
//! 7. `carry` takes an op, or gives it back at once. One that it takes is the driver's, buffers
//!    included, until it hands them over in exactly one [`Event::Done`]. `cancel` only hastens
//!    that event. Before it there may be any number of [`Event::Part`] for ops that ask for many.
//! 8. Dropping a driver ends all carried ops *before* their buffers are freed. In a forked child
//!    dropping must only give back the child's copies (close, unmap): no call may change what the
//!    parent shares, which epoll_ctl(2) on an inherited epoll descriptor would.
//! 9. A ring of the bell (an eventfd, see `attach`) makes the current or the next `wait` return.
//!    Whether it must be read for that is the driver's business.
//! 10. Descriptors made by a driver are close-on-exec.
//! 11. A batch of events is bounded; what does not fit is reported by the next `wait`, and no
//!     descriptor is starved by the others.
//! 12. **Nothing that has happened is unsaid.** Whatever ends an op early (a cancel; a deadline, which is the proactor's and
//!     comes as a cancel), its event tells what it has done: with the data that the kernel has given up for it, or with
//!     `ECANCELED` if it has done nothing. `ECANCELED` may also come unasked.
//! 13. A carried op goes on with the file that its descriptor stood for when it was taken, whatever becomes of the number.
//!     What is reported of a number that has gone to another file carries the generation of its own `arm`.
//! 14. A signal ends `wait` with [`Interrupted`](io::ErrorKind::Interrupted). Events that were fetched before are delivered
//!     all the same; the others come with the next `wait`.
//! 15. No queue is full for the proactor: a driver that has no room for an op makes some or gives the op back, and completions
//!     for which there is no room come later.

use std::fmt;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::str::FromStr;
use std::time::Duration;

use crate::{Errno, Interest, Message, Op, OpKey, Readiness, SockAddr};

pub mod epoll;
pub mod poll;
pub mod uring;

/// Which driver a [`Proactor`](crate::Proactor) uses.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum DriverKind {
    /// The best that the system offers: `Uring`, or else `Epoll`.
    #[default]
    Auto,
    /// io_uring(7) for files and epoll(7) for readiness. Linux 5.6 and newer, where nothing forbids it.
    Uring,
    /// epoll(7). Linux.
    Epoll,
    /// poll(2). Everywhere; each wait costs as much as there are descriptors waited for.
    Poll,
}

impl DriverKind {
    const NAMES: [(&str, DriverKind); 4] = [
        ("auto", DriverKind::Auto),
        ("uring", DriverKind::Uring),
        ("epoll", DriverKind::Epoll),
        ("poll", DriverKind::Poll),
    ];

    /// Opens a driver of this kind.
    ///
    /// # Errors
    /// What the operating system says: too many open files, for one; for `Uring` why there is none. `Auto` takes the next
    /// best instead, and has it say so: [`Driver::note`].
    pub fn open(self) -> io::Result<Box<dyn Driver>> {
        match self {
            DriverKind::Auto => match uring::Uring::new() {
                Ok(uring) => Ok(Box::new(uring)),
                Err(refused) => Ok(Box::new(epoll::Epoll::new()?.because(refused.to_string()))),
            },
            DriverKind::Uring => Ok(Box::new(uring::Uring::new()?)),
            DriverKind::Epoll => Ok(Box::new(epoll::Epoll::new()?)),
            DriverKind::Poll => Ok(Box::new(poll::Poll::new())),
        }
    }
}

impl FromStr for DriverKind {
    type Err = UnknownDriver;

    /// The kind with this name, in lower case.
    fn from_str(name: &str) -> Result<DriverKind, UnknownDriver> {
        let known = DriverKind::NAMES.iter().find(|(known, _)| *known == name);
        known.map(|&(_, kind)| kind).ok_or(UnknownDriver)
    }
}

/// There is no driver with this name.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct UnknownDriver;

impl fmt::Display for UnknownDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("choose auto, uring, epoll or poll")
    }
}

impl std::error::Error for UnknownDriver {}

/// A request to report the readiness of a descriptor.
#[derive(Copy, Clone, Debug)]
pub struct Watch {
    /// The descriptor.
    pub fd: RawFd,
    /// Comes back with the event.
    pub generation: u32,
    /// Directions.
    pub interest: Interest,
    /// Report every edge rather than one event.
    pub keep: bool,
    /// The proactor believes that the driver knows this descriptor already. May be wrong: a
    /// closed descriptor loses its registration without notice.
    pub known: bool,
}

/// What a carried or pooled op gives back beside its result.
#[derive(Debug)]
pub enum Cargo {
    /// Nothing.
    None,
    /// Its buffer.
    Buf(Vec<u8>),
    /// An accepted connection or an opened file.
    Opened {
        /// The descriptor.
        fd: OwnedFd,
        /// The connection's peer.
        peer: Option<SockAddr>,
    },
    /// What was asked about a file.
    Stat(Box<libc::statx>),
    /// Its message.
    Message(Box<Message>),
}

impl Cargo {
    /// What `op` gives back if it ends now.
    #[must_use]
    pub fn of(op: Op) -> Cargo {
        match op {
            Op::Recv { buf, .. } | Op::Send { buf, .. } | Op::Read { buf, .. } | Op::Write { buf, .. } => {
                Cargo::Buf(buf)
            }
            Op::RecvMsg { message, .. } | Op::SendMsg { message, .. } => Cargo::Message(message),
            _ => Cargo::None,
        }
    }
}

/// How a carried op ended.
#[derive(Debug)]
pub struct Outcome {
    /// Its result.
    pub result: Result<i32, Errno>,
    /// What it gives back.
    pub cargo: Cargo,
}

/// What a driver reports.
#[derive(Debug)]
pub enum Event {
    /// A descriptor became ready.
    Ready {
        /// The descriptor.
        fd: RawFd,
        /// As given to `arm`.
        generation: u32,
        /// All that holds now.
        readiness: Readiness,
    },
    /// A carried op that asks for many has one, and goes on.
    Part {
        /// As given to `carry`.
        key: OpKey,
        /// The one.
        outcome: Outcome,
    },
    /// A carried op ended.
    Done {
        /// As given to `carry`.
        key: OpKey,
        /// How.
        outcome: Outcome,
    },
}

/// A backend; see the numbered contract at the head of [this module](self).
///
/// Called through `dyn`: each call makes a system call, beside which the indirection is lost.
pub trait Driver: Send {
    /// Its name, for messages: `"epoll"`.
    fn name(&self) -> &'static str;

    /// A new driver of the same kind that shares nothing with this one (for a forked child).
    ///
    /// # Errors
    /// As [`DriverKind::open`].
    fn fresh(&self) -> io::Result<Box<dyn Driver>>;

    /// Makes rings of `bell`, an eventfd, end `wait` (rule 9). Called once, before all else.
    ///
    /// # Errors
    /// What the operating system says.
    fn attach(&mut self, bell: BorrowedFd<'_>) -> io::Result<()>;

    /// Whether `Watch::keep` is honoured; a driver that only knows the present says no and is
    /// always asked for single events.
    fn keeps(&self) -> bool;

    /// Reports readiness of a descriptor from now on (rules 3 to 6).
    ///
    /// # Errors
    /// `EBADF` for a descriptor that is not open; `EPERM` for one without readiness; `ENOSPC` and
    /// `ENOMEM` at the system's limits.
    fn arm(&mut self, watch: Watch) -> Result<(), Errno>;

    /// Ends reports on a descriptor that is still open. Unknown ones are ignored.
    fn disarm(&mut self, fd: RawFd);

    /// Whether `op` is worth offering to `carry`. `waits` says that an attempt at it would wait where no readiness tells
    /// when it would not: a thread of the pool would have to wait for it. Before an attempt it is false.
    fn carries(&self, op: &Op, waits: bool) -> bool {
        let _ = (op, waits);
        false
    }

    /// Why this is not the driver that was asked for first, as a sentence for people.
    fn note(&self) -> Option<&str> {
        None
    }

    /// Offers an op to be carried out (rule 7).
    ///
    /// # Errors
    /// Gives the op back if the driver cannot take it: the proactor then tries it and waits for
    /// readiness.
    fn carry(&mut self, key: OpKey, op: Op) -> Result<(), Op> {
        let _ = key;
        Err(op)
    }

    /// Asks for an early end of a carried op (rule 7).
    fn cancel(&mut self, key: OpKey) {
        let _ = key;
    }

    /// Blocks until there is something to report, the bell rings, `timeout` has passed (`None`:
    /// never) or a signal handler has run; appends what happened to `events`.
    ///
    /// # Errors
    /// [`io::ErrorKind::Interrupted`] after a signal; any other error is a defect or the end.
    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()>;
}

impl fmt::Debug for dyn Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Driver({})", self.name())
    }
}
