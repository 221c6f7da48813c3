//! What a proactor knows of each descriptor number.

use std::collections::HashMap;
use std::os::fd::RawFd;

use crate::generation::LIMIT;
use crate::list::List;
use crate::{Interest, Readiness};

/// How a descriptor is registered with the driver.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Not at all, as far as is known.
    Absent,
    /// For one event; or for none any more, the event having come.
    Once,
    /// For every edge, until it is forgotten.
    Kept,
}

/// One descriptor number.
pub(crate) struct Entry {
    /// The generation for which it was registered.
    pub(crate) generation: u32,
    pub(crate) mode: Mode,
    /// Directions of the registration.
    pub(crate) armed: Interest,
    /// What has been reported since the caller last said `exhausted`. Means something only in
    /// mode `Kept`.
    pub(crate) ready: Readiness,
    /// The ops that are parked here, in order of submission.
    pub(crate) waiters: List,
}

impl Entry {
    const ABSENT: Entry = Entry {
        generation: 0,
        mode: Mode::Absent,
        armed: Interest::NONE,
        ready: Readiness::NONE,
        waiters: List::EMPTY,
    };

    /// Forgets the registration; the waiters stay.
    pub(crate) fn void(&mut self) {
        *self = Entry { waiters: self.waiters, ..Entry::ABSENT };
    }
}

/// Entries by descriptor number: a vector, as the kernel hands out the lowest free number. The few
/// beyond the limit of the vector are hashed.
#[derive(Default)]
pub(crate) struct FdTable {
    low: Vec<Entry>,
    high: HashMap<RawFd, Entry>,
}

impl FdTable {
    pub(crate) fn get(&self, fd: RawFd) -> Option<&Entry> {
        if fd < LIMIT { self.low.get(usize::try_from(fd).ok()?) } else { self.high.get(&fd) }
    }

    pub(crate) fn get_mut(&mut self, fd: RawFd) -> Option<&mut Entry> {
        if fd < LIMIT { self.low.get_mut(usize::try_from(fd).ok()?) } else { self.high.get_mut(&fd) }
    }

    /// The entry of `fd`, which is not negative, made if need be.
    pub(crate) fn entry(&mut self, fd: RawFd) -> &mut Entry {
        if fd >= LIMIT {
            return self.high.entry(fd).or_insert(Entry::ABSENT);
        }
        let at = fd as usize;
        if at >= self.low.len() {
            let length = (at + 1).next_power_of_two().max(64);
            self.low.resize_with(length, || Entry::ABSENT);
        }
        &mut self.low[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_on_both_sides_of_the_limit_have_entries() {
        let mut table = FdTable::default();
        for fd in [0, 63, 64, LIMIT - 1, LIMIT, RawFd::MAX] {
            assert!(table.get(fd).is_none_or(|entry| entry.mode == Mode::Absent));
            table.entry(fd).mode = Mode::Once;
            assert_eq!(table.get(fd).map(|entry| entry.mode), Some(Mode::Once));
            assert!(table.get_mut(fd).is_some());
        }
        assert!(table.get(-1).is_none() && table.get_mut(RawFd::MIN).is_none());
    }
}
