//! The deadlines of ops: a heap that knows where each of its members is.
//!
//! Most deadlines are withdrawn (the answer came in time), so withdrawal must not leave dead
//! entries behind: the owner keeps each member's position, and `placed` tells it of every move.
//! Four children per node: fewer levels and one cache line of comparisons per level.
//! Equal deadlines come out in order of submission.

use std::time::Instant;

/// The position of what is not in the heap.
pub(crate) const NOWHERE: u32 = u32::MAX;

const CHILDREN: usize = 4;

#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at: Instant,
    serial: u64,
    index: u32,
}

/// A min-heap over (deadline, serial).
#[derive(Default)]
pub(crate) struct Deadlines {
    heap: Vec<Due>,
}

impl Deadlines {
    /// The nearest deadline.
    pub(crate) fn nearest(&self) -> Option<Instant> {
        self.heap.first().map(|due| due.at)
    }

    pub(crate) fn insert(&mut self, at: Instant, serial: u64, index: u32, placed: &mut impl FnMut(u32, u32)) {
        self.heap.push(Due { at, serial, index });
        self.rise(self.heap.len() - 1, placed);
    }

    /// Removes the member at `position`.
    pub(crate) fn remove(&mut self, position: u32, placed: &mut impl FnMut(u32, u32)) {
        let position = position as usize;
        let gone = self.heap.swap_remove(position);
        placed(gone.index, NOWHERE);
        if position < self.heap.len() {
            let settled = self.rise(position, placed);
            self.sink(settled, placed);
        }
    }

    /// Removes and returns the first member whose deadline is not after `now`.
    pub(crate) fn pop_due(&mut self, now: Instant, placed: &mut impl FnMut(u32, u32)) -> Option<u32> {
        let first = *self.heap.first().filter(|due| due.at <= now)?;
        self.remove(0, placed);
        Some(first.index)
    }

    fn rise(&mut self, mut at: usize, placed: &mut impl FnMut(u32, u32)) -> usize {
        let moving = self.heap[at];
        while at > 0 {
            let parent = (at - 1) / CHILDREN;
            if self.heap[parent] <= moving {
                break;
            }
            self.heap[at] = self.heap[parent];
            placed(self.heap[at].index, at as u32);
            at = parent;
        }
        self.heap[at] = moving;
        placed(moving.index, at as u32);
        at
    }

    fn sink(&mut self, mut at: usize, placed: &mut impl FnMut(u32, u32)) {
        let moving = self.heap[at];
        loop {
            let first = at * CHILDREN + 1;
            let last = (first + CHILDREN).min(self.heap.len());
            let Some(least) = (first..last).min_by_key(|&child| self.heap[child]) else {
                break;
            };
            if moving <= self.heap[least] {
                break;
            }
            self.heap[at] = self.heap[least];
            placed(self.heap[at].index, at as u32);
            at = least;
        }
        self.heap[at] = moving;
        placed(moving.index, at as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// A heap with the positions that an owner would keep.
    struct Owner {
        deadlines: Deadlines,
        places: Vec<u32>,
        start: Instant,
    }

    impl Owner {
        fn new(members: usize) -> Owner {
            let places = vec![NOWHERE; members];
            Owner { deadlines: Deadlines::default(), places, start: Instant::now() }
        }

        fn insert(&mut self, index: u32, micros: u64) {
            let at = self.start + Duration::from_micros(micros);
            let places = &mut self.places;
            let mut placed = |i: u32, p| places[i as usize] = p;
            self.deadlines.insert(at, u64::from(index), index, &mut placed);
        }

        fn remove(&mut self, index: u32) {
            let places = &mut self.places;
            let position = places[index as usize];
            let mut placed = |i: u32, p| places[i as usize] = p;
            self.deadlines.remove(position, &mut placed);
        }

        fn pop(&mut self, micros: u64) -> Option<u32> {
            let now = self.start + Duration::from_micros(micros);
            let places = &mut self.places;
            self.deadlines.pop_due(now, &mut |i: u32, p| places[i as usize] = p)
        }
    }

    #[test]
    fn come_out_in_order_and_equal_ones_in_order_of_submission() {
        let mut owner = Owner::new(4);
        for (index, micros) in [(0, 30), (1, 10), (2, 30), (3, 20)] {
            owner.insert(index, micros);
        }
        assert_eq!(owner.pop(9), None);
        let order: Vec<_> = std::iter::from_fn(|| owner.pop(30)).collect();
        assert_eq!(order, [1, 3, 0, 2]);
        assert!(owner.places.iter().all(|&place| place == NOWHERE));
    }

    #[test]
    fn any_member_can_be_withdrawn() {
        let mut owner = Owner::new(1000);
        let micros = |index: u32| u64::from(index) * 7919 % 1000;
        (0..1000).for_each(|index| owner.insert(index, micros(index)));
        (0..1000).filter(|index| index % 3 == 0).for_each(|index| owner.remove(index));
        let mut expected: Vec<u32> = (0..1000).filter(|index| index % 3 != 0).collect();
        expected.sort_by_key(|&index| micros(index));
        let order: Vec<_> = std::iter::from_fn(|| owner.pop(1000)).collect();
        assert_eq!(order, expected);
    }
}
