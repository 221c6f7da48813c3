//! Readiness: who waits on which descriptor, and what is known of it.
//!
//! Why no wake-up is lost. For a kept registration the kernel reports every edge, and `ready`
//! collects what has been reported since the caller last said `exhausted`. The caller says so
//! after its own system call found nothing and before the next `wait`. An edge before that call
//! was for data that the call would have found. An edge after it is still in the kernel, as only
//! `wait` fetches events: it sets `ready` later and completes whoever is parked by then. Between
//! `exhausted` and the submission of `Ready`, `ready` itself bridges the gap.
//!
//! A *short transfer* says less than `EAGAIN`: the queue was empty, yet an end-of-file or a reset
//! may stand behind it, whose edge may have come already, or it was not empty: a read stops at the
//! mark of urgent data. Hang-up, error, the peer's end of sending and urgent data therefore outlive
//! `exhausted`. They are not for ever (an error is taken by one call; a
//! FIFO gets a new writer), so a `Ready` that finds only them asks poll(2) whether they still hold,
//! rather than complete time and again or never.

use std::os::fd::RawFd;

use crate::attempt::{Attempt, attempt};
use crate::driver::Watch;
use crate::fds::{Entry, Mode};
use crate::life::Life;
use crate::ops::Work;
use crate::{Errno, Interest, Op, Proactor, Readiness, generation, sys};

impl Proactor {
    /// Notes that the caller has just seen `EAGAIN`, or a short transfer on a TCP socket, on `fd` in
    /// this direction. (Of others a short one says nothing: more datagrams may be queued, and a read
    /// from a Unix stream stops where descriptors or the credentials of the sender change.)
    ///
    /// Call it after the system call and before the next `wait`.
    pub fn exhausted(&mut self, fd: RawFd, interest: Interest) {
        if let Some(entry) = self.fds.get_mut(fd) {
            entry.ready = entry.ready.without(Readiness::from(interest));
        }
    }

    /// Whether a system call on `fd` in this direction may succeed. False only when `fd` is
    /// registered for it and nothing has been reported since `exhausted`: then skip the call and
    /// submit [`Op::Ready`] (with `keep: true`) at once.
    #[must_use]
    pub fn may_be_ready(&self, fd: RawFd, interest: Interest) -> bool {
        self.fds.get(fd).is_none_or(|entry| {
            entry.mode != Mode::Kept
                || !entry.armed.contains(interest)
                || entry.ready.intersects(Readiness::ending(interest) | Readiness::lasting(interest))
                || entry.generation != generation::current(fd)
        })
    }

    /// Notes that `fd` is about to be closed by its owner: ops that wait on it complete with
    /// [`Errno::CANCELED`], its registration ends, and every other thread's proactor is told (see
    /// [`closed`](crate::closed)). Ops that a pool thread works on go on, on a duplicate.
    ///
    /// Costs a system call only if `fd` was registered here.
    pub fn forget(&mut self, fd: RawFd) {
        if self.fds.get(fd).is_some_and(|entry| entry.mode != Mode::Absent) {
            // Not left to close(2): a duplicate, in a forked child for one, would keep the
            // registration alive, and this thread would be woken for it.
            self.driver.disarm(fd);
            self.void(fd, Errno::CANCELED);
        }
        generation::closed(fd);
    }

    /// Parks an op until `fd` is ready, or settles it at once.
    pub(crate) fn park(&mut self, index: u32, fd: RawFd, interest: Interest, keep: bool) {
        let is_ready_op = matches!(self.ops.slot(index).work, Work::Todo(Op::Ready { .. }));
        match self.enlist(fd, interest, keep) {
            Ok(None) => {
                self.ops.slot(index).life = Life::Parked;
                self.fds.entry(fd).waiters.push(&mut self.ops.slots, index);
            }
            Ok(Some(readiness)) if is_ready_op => self.complete_ready(index, readiness),
            // Ends: an attempt that would block clears what `enlist` returned.
            Ok(Some(_)) => self.attempt(index, true),
            // epoll_ctl(2): "does not support epoll", so it never blocks as poll(2) sees it.
            Err(errno) if errno.code() == libc::EPERM => {
                if is_ready_op {
                    self.complete_ready(index, interest.into());
                } else {
                    self.hand_over(index);
                }
            }
            Err(errno) => self.ops.finish(index, Err(errno)),
        }
    }

    /// An attempt has just seen `EAGAIN`: unlike a short transfer that settles everything.
    pub(crate) fn blocked(&mut self, fd: RawFd, interest: Interest) {
        if let Some(entry) = self.fds.get_mut(fd) {
            entry.ready = entry.ready.without(Readiness::ending(interest));
        }
    }

    fn complete_ready(&mut self, index: u32, readiness: Readiness) {
        self.ops.finish(index, Ok(i32::from(readiness.bits())));
    }

    /// Sees to it that the next event of `interest` on `fd` is reported. Returns what has been
    /// reported already.
    fn enlist(&mut self, fd: RawFd, interest: Interest, keep: bool) -> Result<Option<Readiness>, Errno> {
        if fd < 0 {
            return Err(Errno::BAD_FD);
        }
        let generation = generation::current(fd);
        let keep = keep && self.keeps && fd < generation::LIMIT;
        let (mut known, mut armed, mut kept) = (false, Interest::NONE, false);
        if let Some(entry) = self.fds.get_mut(fd) {
            if entry.mode != Mode::Absent && entry.generation != generation {
                self.void(fd, Errno::CANCELED);
            } else if keep && entry.mode == Mode::Kept && entry.armed.contains(interest) {
                return Ok(told(entry, fd, interest));
            } else {
                known = entry.mode != Mode::Absent;
                kept = entry.mode == Mode::Kept;
                if kept || !entry.waiters.is_empty() {
                    armed = entry.armed;
                }
            }
        }
        let interest = armed | interest;
        let keep = keep || kept;
        self.driver.arm(Watch { fd, generation, interest, keep, known })?;
        let entry = self.fds.entry(fd);
        entry.generation = generation;
        entry.armed = interest;
        if keep && !kept {
            entry.mode = Mode::Kept;
            entry.ready = Readiness::NONE;
        } else if !keep {
            entry.mode = Mode::Once;
        }
        Ok(None)
    }

    /// Drops what is known of `fd` and ends the waits on it.
    fn void(&mut self, fd: RawFd, why: Errno) {
        while let Some(index) = self.fds.entry(fd).waiters.first() {
            self.unpark(fd, index);
            self.ops.finish(index, Err(why));
        }
        self.fds.entry(fd).void();
    }

    /// Takes a parked op off its descriptor.
    pub(crate) fn unpark(&mut self, fd: RawFd, index: u32) {
        self.fds.entry(fd).waiters.unlink(&mut self.ops.slots, index);
    }

    /// Deals with an event: completes or retries every op that waits for it. All of them, as only
    /// they can tell who gets the data.
    pub(crate) fn report(&mut self, fd: RawFd, generation: u32, seen: Readiness) {
        let Some(entry) = self.fds.get_mut(fd) else {
            return;
        };
        if entry.mode == Mode::Absent || entry.generation != generation {
            return;
        }
        if generation != generation::current(fd) {
            // Closed by another thread; the event may even be another file's.
            self.void(fd, Errno::CANCELED);
            return;
        }
        let once = entry.mode == Mode::Once;
        if !once {
            entry.ready |= spread(seen);
        }
        let mut rest = Interest::NONE;
        let mut cursor = entry.waiters.first();
        while let Some(index) = cursor {
            let slot = self.ops.slot(index);
            cursor = Some(slot.next).filter(|&next| next != crate::list::NIL);
            let Some((_, interest)) = slot.waits_for() else {
                continue;
            };
            if !seen.intersects(Readiness::ending(interest)) || !self.serve(fd, index, seen) {
                rest |= interest;
            }
        }
        if once {
            self.arm_again(fd, rest);
        }
    }

    /// Completes or retries one parked op; false if it stays parked.
    fn serve(&mut self, fd: RawFd, index: u32, seen: Readiness) -> bool {
        let Work::Todo(op) = &mut self.ops.slot(index).work else {
            return false;
        };
        if matches!(op, Op::Ready { .. }) {
            self.unpark(fd, index);
            self.complete_ready(index, seen);
            return true;
        }
        let interest = op.waits_for().map_or(Interest::NONE, |(_, interest)| interest);
        match attempt(op, true) {
            Attempt::Blocks => {
                self.blocked(fd, interest);
                return false;
            }
            done => {
                self.unpark(fd, index);
                self.settle(index, done);
            }
        }
        true
    }

    /// One event has ended the registration; these directions are still waited for.
    fn arm_again(&mut self, fd: RawFd, interest: Interest) {
        let entry = self.fds.entry(fd);
        entry.armed = interest;
        if entry.waiters.is_empty() {
            return;
        }
        let generation = entry.generation;
        let watch = Watch { fd, generation, interest, keep: false, known: true };
        if let Err(errno) = self.driver.arm(watch) {
            self.void(fd, errno);
        }
    }
}

/// What has been reported on a kept registration and ends a wait for `interest`.
fn told(entry: &mut Entry, fd: RawFd, interest: Interest) -> Option<Readiness> {
    let ending = Readiness::ending(interest);
    if entry.ready.intersects(Readiness::from(interest)) {
        return Some(entry.ready & ending);
    }
    let lasting = Readiness::lasting(interest);
    if !entry.ready.intersects(lasting) {
        return None;
    }
    let now = sys::poll_now(fd, sys::poll_events(interest));
    // An error is told once: one that nobody's call takes (a socket's error queue) would
    // otherwise complete every wait at once.
    entry.ready = entry.ready.without(Readiness::ERROR);
    if now.is_empty() {
        // Whoever waits for urgent data itself has not been told yet.
        let asked = entry.armed.contains(Interest::PRIORITY);
        let gone = if asked { lasting.without(Readiness::PRIORITY) } else { lasting };
        entry.ready = entry.ready.without(gone);
        return None;
    }
    Some(now)
}

/// Hang-up and error make both directions worth a try; the peer's end of sending makes reading so.
fn spread(seen: Readiness) -> Readiness {
    let mut all = seen;
    if seen.intersects(Readiness::HANGUP | Readiness::ERROR) {
        all |= Readiness::READ | Readiness::WRITE;
    }
    if seen.contains(Readiness::READ_CLOSED) {
        all |= Readiness::READ;
    }
    all
}
