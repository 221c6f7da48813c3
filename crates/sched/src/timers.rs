//! Deadlines, ordered: an indexed four-ary heap.
//!
//! Nearly every timeout is cancelled before it fires and lies later than those already there, so insertion at the
//! bottom and removal near it are the common case; both then touch one or two nodes. The slab maps a key to its place in
//! the heap, which makes removal O(log n) without tombstones.

use slab::Slab;

const ARITY: usize = 4;

/// Names a timer in [`Timers`]; stale after it fired or was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerKey {
    slot: u32,
    serial: u32,
}

impl TimerKey {
    /// The key as a number, for callers that carry it through foreign code.
    pub fn to_bits(self) -> u64 {
        u64::from(self.serial) << 32 | u64::from(self.slot)
    }

    /// The key that [`TimerKey::to_bits`] gave.
    pub fn from_bits(bits: u64) -> TimerKey {
        TimerKey { slot: bits as u32, serial: (bits >> 32) as u32 }
    }
}

#[derive(Debug)]
struct Entry<T> {
    place: usize,
    serial: u32,
    value: T,
}

/// Values with deadlines in nanoseconds of a monotonic clock that the caller reads.
#[derive(Debug)]
pub struct Timers<T> {
    heap: Vec<(u64, u32)>,
    entries: Slab<Entry<T>>,
    serial: u32,
}

impl<T> Default for Timers<T> {
    fn default() -> Self {
        Self { heap: Vec::new(), entries: Slab::new(), serial: 0 }
    }
}

impl<T> Timers<T> {
    /// Makes an empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many timers are set.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether no timer is set.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// The earliest deadline.
    pub fn next_deadline(&self) -> Option<u64> {
        self.heap.first().map(|&(deadline, _)| deadline)
    }

    /// Sets a timer.
    pub fn insert(&mut self, deadline: u64, value: T) -> TimerKey {
        self.serial = self.serial.wrapping_add(1);
        let place = self.heap.len();
        let serial = self.serial;
        let slot = u32::try_from(self.entries.insert(Entry { place, serial, value })).expect("fewer than 2^32 timers");
        self.heap.push((deadline, slot));
        self.sift_up(place);
        TimerKey { slot, serial }
    }

    /// Removes a timer; `None` if it has fired or was removed before.
    pub fn remove(&mut self, key: TimerKey) -> Option<T> {
        let entry = self.entries.get(key.slot as usize)?;
        if entry.serial != key.serial {
            return None;
        }
        Some(self.remove_place(entry.place))
    }

    /// Takes out one timer whose deadline is at or before `now`, the earliest first.
    pub fn pop_expired(&mut self, now: u64) -> Option<T> {
        let &(deadline, _) = self.heap.first()?;
        (deadline <= now).then(|| self.remove_place(0))
    }

    /// Takes all timers out, in no order.
    pub fn clear(&mut self) {
        self.heap.clear();
        self.entries.clear();
    }

    fn remove_place(&mut self, place: usize) -> T {
        let (_, slot) = self.heap.swap_remove(place);
        if place < self.heap.len() {
            self.settle(place);
            self.sift_up(place);
            self.sift_down(place);
        }
        self.entries.remove(slot as usize).value
    }

    fn settle(&mut self, place: usize) {
        let slot = self.heap[place].1 as usize;
        self.entries[slot].place = place;
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        self.settle(a);
        self.settle(b);
    }

    fn sift_up(&mut self, mut place: usize) {
        while place > 0 {
            let parent = (place - 1) / ARITY;
            if self.heap[parent].0 <= self.heap[place].0 {
                break;
            }
            self.swap(parent, place);
            place = parent;
        }
    }

    fn sift_down(&mut self, mut place: usize) {
        loop {
            let first = place * ARITY + 1;
            let children = first..(first + ARITY).min(self.heap.len());
            match children.min_by_key(|&child| self.heap[child].0) {
                Some(child) if self.heap[child].0 < self.heap[place].0 => {
                    self.swap(child, place);
                    place = child;
                }
                _ => break,
            }
        }
    }
}
