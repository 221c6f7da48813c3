//! All ops of a proactor: slots, keys, the finished ones, the deadlines.

use std::num::NonZeroU64;
use std::os::fd::RawFd;
use std::time::Instant;

use slab::Slab;

use crate::deadlines::{Deadlines, NOWHERE};
use crate::driver::Cargo;
use crate::life::Life;
use crate::list::{List, NIL};
use crate::{Completion, Errno, Interest, Op, OpKey};

/// One op from submission until its completion is taken.
pub(crate) struct Slot {
    serial: NonZeroU64,
    token: u64,
    pub(crate) life: Life,
    pub(crate) work: Work,
    pub(crate) prev: u32,
    pub(crate) next: u32,
    /// Position in the heap of deadlines.
    due: u32,
    /// A part of an op that goes on elsewhere.
    more: bool,
}

/// What a slot holds.
pub(crate) enum Work {
    /// The op, yet to be done.
    Todo(Op),
    /// The op is with its carrier, or done: what is to be given back.
    Done(Cargo),
}

impl Slot {
    /// What a parked op waits for.
    pub(crate) fn waits_for(&self) -> Option<(RawFd, Interest)> {
        match &self.work {
            Work::Todo(op) => op.waits_for(),
            Work::Done(_) => None,
        }
    }
}

impl Op {
    /// The descriptor and the direction for which this op waits when it would block.
    pub(crate) fn waits_for(&self) -> Option<(RawFd, Interest)> {
        match *self {
            Op::Ready { fd, interest, .. } => Some((fd, interest)),
            Op::Recv { fd, .. } | Op::Read { fd, .. } | Op::Accept { fd } => Some((fd, Interest::READ)),
            Op::AcceptMany { fd } | Op::RecvMany { fd } | Op::RecvMsg { fd, .. } => Some((fd, Interest::READ)),
            Op::Send { fd, .. } | Op::Write { fd, .. } | Op::Connect { fd, .. } => Some((fd, Interest::WRITE)),
            Op::SendMsg { fd, .. } => Some((fd, Interest::WRITE)),
            Op::Fsync { .. } | Op::Open { .. } | Op::Stat { .. } => None,
            Op::Timeout | Op::Nop | Op::Blocking(_) => None,
        }
    }

    /// The descriptor that this op works on, if it names one.
    pub(crate) fn works_on(&self) -> Option<RawFd> {
        match *self {
            Op::Fsync { fd, .. } => Some(fd),
            Op::Open { dir, .. } | Op::Stat { dir, .. } => Some(dir).filter(|&dir| dir != libc::AT_FDCWD),
            _ => self.waits_for().map(|(fd, _)| fd),
        }
    }
}

/// See the module's documentation.
pub(crate) struct Ops {
    pub(crate) slots: Slab<Slot>,
    finished: List,
    finished_count: usize,
    deadlines: Deadlines,
    last_serial: NonZeroU64,
}

impl Ops {
    pub(crate) fn new() -> Ops {
        Ops {
            slots: Slab::new(),
            finished: List::EMPTY,
            finished_count: 0,
            deadlines: Deadlines::default(),
            last_serial: NonZeroU64::MIN,
        }
    }

    /// A new op, alive as `life`.
    pub(crate) fn insert(&mut self, op: Op, token: u64, life: Life) -> OpKey {
        // 2^64 submissions are centuries away.
        let serial = self.last_serial.saturating_add(1);
        self.last_serial = serial;
        let work = Work::Todo(op);
        let slot = Slot { serial, token, life, work, prev: NIL, next: NIL, due: NOWHERE, more: false };
        let index = self.slots.insert(slot);
        // A slot takes more than 64 bytes: 2^32 of them do not fit where this runs.
        OpKey { serial, index: index as u32 }
    }

    /// The slot that `key` names, if it is still there.
    pub(crate) fn find(&self, key: OpKey) -> Option<u32> {
        let slot = self.slots.get(key.index as usize)?;
        (slot.serial == key.serial).then_some(key.index)
    }

    pub(crate) fn slot(&mut self, index: u32) -> &mut Slot {
        &mut self.slots[index as usize]
    }

    pub(crate) fn key(&self, index: u32) -> OpKey {
        OpKey { serial: self.slots[index as usize].serial, index }
    }

    /// Gives the op a deadline.
    pub(crate) fn set_deadline(&mut self, index: u32, at: Instant) {
        let serial = self.slots[index as usize].serial.get();
        let slots = &mut self.slots;
        let mut placed = |index: u32, place| slots[index as usize].due = place;
        self.deadlines.insert(at, serial, index, &mut placed);
    }

    pub(crate) fn nearest_deadline(&self) -> Option<Instant> {
        self.deadlines.nearest()
    }

    /// Takes one op whose deadline has come out of the heap.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<u32> {
        let slots = &mut self.slots;
        let mut placed = |index: u32, place| slots[index as usize].due = place;
        self.deadlines.pop_due(now, &mut placed)
    }

    /// Takes an op out of the heap, if it is there.
    pub(crate) fn clear_deadline(&mut self, index: u32) {
        let due = self.slots[index as usize].due;
        if due != NOWHERE {
            let slots = &mut self.slots;
            let mut placed = |index: u32, place| slots[index as usize].due = place;
            self.deadlines.remove(due, &mut placed);
        }
    }

    /// Gives an op, which is on no list, its result. What it holds goes back to the caller.
    pub(crate) fn finish(&mut self, index: u32, result: Result<i32, Errno>) {
        self.clear_deadline(index);
        let slot = &mut self.slots[index as usize];
        slot.life = Life::Finished(result);
        self.finished.push(&mut self.slots, index);
        self.finished_count += 1;
    }

    /// `finish` with something else to give back.
    pub(crate) fn finish_with(&mut self, index: u32, result: Result<i32, Errno>, cargo: Cargo) {
        self.slots[index as usize].work = Work::Done(cargo);
        self.finish(index, result);
    }

    /// Completes a part of an op that goes on.
    pub(crate) fn finish_part(&mut self, index: u32, result: Result<i32, Errno>, cargo: Cargo) {
        let token = self.slots[index as usize].token;
        let part = self.insert(Op::Nop, token, Life::Idle).index;
        self.slots[part as usize].more = true;
        self.finish_with(part, result, cargo);
    }

    /// Frees an op that is on no list, with all it holds.
    pub(crate) fn free(&mut self, index: u32) {
        self.clear_deadline(index);
        self.slots.remove(index as usize);
    }

    /// Frees a finished op.
    pub(crate) fn discard_finished(&mut self, index: u32) {
        self.finished.unlink(&mut self.slots, index);
        self.finished_count -= 1;
        self.free(index);
    }

    /// Takes the first completion.
    pub(crate) fn pop_finished(&mut self) -> Option<Completion> {
        let index = self.finished.first()?;
        self.finished.unlink(&mut self.slots, index);
        self.finished_count -= 1;
        let slot = self.slots.remove(index as usize);
        let Life::Finished(result) = slot.life else {
            unreachable!("only finished ops are on the list of the finished");
        };
        let cargo = match slot.work {
            Work::Todo(op) => Cargo::of(op),
            Work::Done(cargo) => cargo,
        };
        let Slot { token, more, .. } = slot;
        let mut done = Completion { token, result, buf: None, fd: None, peer: None, stat: None, message: None, more };
        match cargo {
            Cargo::None => {}
            Cargo::Buf(buf) => done.buf = Some(buf),
            Cargo::Opened { fd, peer } => (done.fd, done.peer) = (Some(fd), peer),
            Cargo::Stat(stat) => done.stat = Some(stat),
            Cargo::Message(message) => done.message = Some(message),
        }
        Some(done)
    }

    pub(crate) fn last_serial(&self) -> NonZeroU64 {
        self.last_serial
    }

    /// Makes keys of earlier ops, of another `Ops`, stale here.
    pub(crate) fn continue_after(&mut self, serial: NonZeroU64) {
        self.last_serial = serial;
    }

    pub(crate) fn finished(&self) -> usize {
        self.finished_count
    }

    pub(crate) fn pending(&self) -> usize {
        self.slots.len() - self.finished_count
    }
}
