//! The uring driver: whole ops by io_uring(7), readiness by epoll(7).
//!
//! Readiness stays with epoll, by measurement and by need. The two are level in cost (a ready socket takes one system call
//! and no op at all), and a poll request of the ring holds the *file*: a socket that is closed while the ring watches it
//! sends no FIN until the watch has ended. An epoll registration holds nothing. The ring does what readiness cannot: files
//! on a disk, opening, synchronising, and calls on sockets in blocking mode. An op that asks for many stays in it and holds
//! its file, which is why callers have to ask for it and to cancel it before they close.
//!
//! ```text
//!   arm, disarm ──► epoll ◄── bell                      carry ──► submission queue ──► kernel
//!                     ▲                                                                  │
//!                     └── eventfd ◄── "something is done" ── completion queue ◄──────────┘
//!   wait: epoll_pwait2, then the completion queue
//! ```
//!
//! - I1: what the kernel may still write to is owned by a `Carried` and stays where it is until the op's last completion
//!   has been taken out of the queue. Buffers lie behind pointers, so moving a `Carried` does not move them.
//! - I2: an op is submitted at once, unless the kernel has no room: later, its descriptor could be another file's.
//! - I3: the ring of a forked child is the parent's: the child neither submits nor takes anything, it only unmaps.
//!
//! Which features of the kernel are used, and what happens without them, is in docs/drivers.rst.

mod buffers;
mod entry;
mod setup;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use io_uring::{IoUring, cqueue, opcode, squeue};
use slab::Slab;

pub use self::setup::{Features, Refused};

use self::buffers::Buffers;
use self::entry::Carried;
use crate::driver::epoll::Epoll;
use crate::driver::{Driver, Event, Watch};
use crate::{Errno, Op, OpKey, sys};

/// Entries of the submission queue. Ops are submitted one by one (I2), so it is hardly ever used up.
const ENTRIES: u32 = 64;

/// The user data of requests whose completion tells nothing.
const NOBODY: u64 = u64::MAX;

/// After so many events `reap` leaves the rest to the next wait: an op that asks for many could keep it busy for ever.
const BATCH: usize = 512;

/// For how long a driver that is dropped waits for the ops that it carries. A file on a server that does not answer cannot be
/// cancelled; its buffer is then leaked rather than freed under the kernel's hands.
const PATIENCE: Duration = Duration::from_secs(1);

/// See the module's documentation.
pub struct Uring {
    epoll: Epoll,
    ring: IoUring,
    /// Made for the first op that asks for many pieces of data. After the ring, hence dropped after it.
    buffers: Option<Buffers>,
    /// Rung by the kernel when the ring has something to tell; never read, as epoll reports each ring of it.
    done: OwnedFd,
    carried: Slab<Carried>,
    places: HashMap<OpKey, usize>,
    features: Features,
    sockets: bool,
    /// The process and the thread that made the ring.
    process: u32,
    thread: ThreadId,
}

impl Uring {
    /// Opens a ring with the best that the kernel has.
    ///
    /// # Errors
    /// [`Refused`], which says what is missing.
    pub fn new() -> Result<Uring, Refused> {
        Uring::with_features(Features::all())
    }

    /// Opens a ring that uses no more than these features, as on an older kernel.
    ///
    /// # Errors
    /// As [`Uring::new`].
    pub fn with_features(features: Features) -> Result<Uring, Refused> {
        let (ring, features) = setup::open(ENTRIES, features)?;
        let done = sys::eventfd().map_err(Refused::system)?;
        ring.submitter().register_eventfd(done.as_raw_fd()).map_err(Refused::system)?;
        let epoll = Epoll::new().map_err(Refused::system)?;
        epoll.listen(done.as_raw_fd()).map_err(|errno| Refused::system(errno.into()))?;
        Ok(Uring {
            epoll,
            ring,
            buffers: None,
            done,
            carried: Slab::new(),
            places: HashMap::new(),
            features,
            sockets: false,
            process: std::process::id(),
            thread: thread::current().id(),
        })
    }

    /// Carries transfers of sockets in blocking mode, too, which readiness serves as well. For measurements and tests.
    #[must_use]
    pub fn with_sockets(mut self) -> Uring {
        self.sockets = true;
        self
    }

    /// The features in use.
    #[must_use]
    pub fn features(&self) -> Features {
        self.features
    }

    /// Whether the ring is this thread's to use: one that was made for a single issuer refuses every other (I3).
    fn is_ours(&self) -> bool {
        let owner = thread::current().id() == self.thread || !self.features.deferred;
        owner && std::process::id() == self.process
    }

    /// Hands one request to the kernel.
    ///
    /// # Safety
    /// What it points to stays valid until its completion has been taken (I1).
    unsafe fn push(&mut self, entry: &squeue::Entry) -> Result<(), Errno> {
        // SAFETY: the caller's duty.
        if unsafe { self.ring.submission().push(entry) }.is_err() {
            self.submit()?;
            // SAFETY: as above.
            unsafe { self.ring.submission().push(entry) }.map_err(|_| Errno::from_code(libc::EBUSY))?;
        }
        self.submit()
    }

    /// Has the kernel take what is in the submission queue and finish what waits for a visit.
    fn submit(&mut self) -> Result<(), Errno> {
        match self.ring.submit() {
            Ok(_) => Ok(()),
            // The kernel has no room for completions until some are taken: `wait` goes on with it.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EAGAIN | libc::EINTR)) => Ok(()),
            Err(error) => Err(Errno::from(&error)),
        }
    }

    /// Takes completions out of the queue.
    fn reap(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        let limit = events.len() + BATCH;
        while !self.carried.is_empty() && events.len() < limit {
            let visit = {
                let queue = self.ring.submission();
                queue.taskrun() || queue.cq_overflow() || !queue.is_empty()
            };
            if visit {
                self.submit()?;
            }
            let before = events.len();
            let queue = self.ring.completion();
            for completion in queue {
                // A request to cancel answers, too, but its op has the last word.
                let place = usize::try_from(completion.user_data()).unwrap_or(usize::MAX);
                let result = completion.result();
                let piece = match (&mut self.buffers, cqueue::buffer_select(completion.flags())) {
                    (Some(buffers), Some(id)) => Some(buffers.take(id, result)),
                    _ => None,
                };
                if cqueue::more(completion.flags()) {
                    events.extend(self.carried.get(place).map(|carried| carried.part(result, piece)));
                } else if let Some(carried) = self.carried.try_remove(place) {
                    self.places.remove(&carried.key());
                    events.push(carried.finish(result, piece));
                }
            }
            if events.len() == before {
                break;
            }
        }
        Ok(())
    }

    /// Ends all ops before their buffers are freed (rule 8). Those that do not end are leaked.
    fn end_all(&mut self) {
        let limit = Instant::now() + PATIENCE;
        for place in self.carried.iter().map(|(place, _)| place).collect::<Vec<_>>() {
            let entry = opcode::AsyncCancel::new(place as u64).build().user_data(NOBODY);
            // SAFETY: it points to nothing.
            let _ = unsafe { self.push(&entry) };
        }
        let mut events = Vec::new();
        while !self.carried.is_empty() && self.reap(&mut events).is_ok() {
            let rest = limit.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                break;
            }
            // The eventfd rings when the next one ends. Descriptors are of no interest any more.
            if !self.carried.is_empty() {
                sys::poll_for(self.done.as_raw_fd(), rest);
                sys::quiet_eventfd(self.done.as_raw_fd());
            }
        }
    }
}

impl Driver for Uring {
    fn name(&self) -> &'static str {
        "uring"
    }

    fn fresh(&self) -> io::Result<Box<dyn Driver>> {
        let mut fresh = Uring::with_features(self.features)?;
        fresh.sockets = self.sockets;
        Ok(Box::new(fresh))
    }

    fn attach(&mut self, bell: BorrowedFd<'_>) -> io::Result<()> {
        self.epoll.attach(bell)
    }

    fn keeps(&self) -> bool {
        self.epoll.keeps()
    }

    fn arm(&mut self, watch: Watch) -> Result<(), Errno> {
        self.epoll.arm(watch)
    }

    fn disarm(&mut self, fd: RawFd) {
        self.epoll.disarm(fd);
    }

    fn carries(&self, op: &Op, waits: bool) -> bool {
        let suits = match *op {
            Op::Read { .. } | Op::Write { .. } | Op::Fsync { .. } | Op::Open { .. } | Op::Stat { .. } => waits,
            Op::Connect { .. } => waits,
            Op::Recv { fd, .. } | Op::Send { fd, .. } | Op::Accept { fd } => self.sockets && !waits && blocks(fd),
            Op::RecvMsg { fd, .. } | Op::SendMsg { fd, .. } => self.sockets && !waits && blocks(fd),
            // A kernel that defers work (6.1) has multishot accept (5.19) and recv (6.0), too.
            Op::AcceptMany { fd } | Op::RecvMany { fd } => self.features.deferred && !waits && blocks(fd),
            _ => false,
        };
        suits && self.is_ours()
    }

    fn carry(&mut self, key: OpKey, op: Op) -> Result<(), Op> {
        if matches!(op, Op::RecvMany { .. }) && self.buffers.is_none() {
            // SAFETY: dropped after the ring, or leaked with the ops that do not end.
            match unsafe { Buffers::register(&self.ring) } {
                Ok(buffers) => self.buffers = Some(buffers),
                Err(_) => return Err(op),
            }
        }
        let place = self.carried.insert(Carried::new(key, op));
        let entry = self.carried[place].entry().user_data(place as u64);
        self.places.insert(key, place);
        // SAFETY: what it points to is in `carried`, behind pointers, until its completion (I1).
        match unsafe { self.push(&entry) } {
            Ok(()) => Ok(()),
            Err(_) => {
                self.places.remove(&key);
                Err(self.carried.remove(place).into_op())
            }
        }
    }

    fn cancel(&mut self, key: OpKey) {
        if let Some(&place) = self.places.get(&key)
            && self.is_ours()
        {
            let entry = opcode::AsyncCancel::new(place as u64).build().user_data(NOBODY);
            // SAFETY: it points to nothing. If the queue is full for good, the op ends by itself.
            let _ = unsafe { self.push(&entry) };
        }
    }

    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        self.reap(events)?;
        let timeout = if events.is_empty() { timeout } else { Some(Duration::ZERO) };
        let waited = self.epoll.wait(timeout, events);
        // Also after a signal: the kernel interrupts the wait to finish ops, too.
        self.reap(events)?;
        waited
    }
}

/// Whether calls on `fd` wait in the kernel; on others the ring reports `EAGAIN` as they do.
fn blocks(fd: RawFd) -> bool {
    sys::status_flags(fd).is_ok_and(|flags| flags & libc::O_NONBLOCK == 0)
}

impl Drop for Uring {
    fn drop(&mut self) {
        if !self.carried.is_empty() && self.is_ours() {
            self.end_all();
        }
        if !self.carried.is_empty() && self.process == std::process::id() {
            // Still in the kernel's hands, or another thread's to end (I1).
            mem::forget(mem::take(&mut self.carried));
            mem::forget(self.buffers.take());
        }
    }
}

impl fmt::Debug for Uring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uring")
            .field("features", &self.features)
            .field("carried", &self.carried.len())
            .finish_non_exhaustive()
    }
}
