//! Doubly linked lists through the slots of ops: linking and unlinking allocate nothing.

use slab::Slab;

use crate::ops::Slot;

/// The index of no slot.
pub(crate) const NIL: u32 = u32::MAX;

/// First and last member, by index into the slab. A slot is on one list at a time, and whoever
/// unlinks it knows on which.
#[derive(Copy, Clone, Debug)]
pub(crate) struct List {
    head: u32,
    tail: u32,
}

impl List {
    pub(crate) const EMPTY: List = List { head: NIL, tail: NIL };

    pub(crate) fn is_empty(self) -> bool {
        self.head == NIL
    }

    pub(crate) fn first(self) -> Option<u32> {
        (self.head != NIL).then_some(self.head)
    }

    pub(crate) fn push(&mut self, slots: &mut Slab<Slot>, index: u32) {
        let slot = &mut slots[index as usize];
        slot.prev = self.tail;
        slot.next = NIL;
        match self.tail {
            NIL => self.head = index,
            last => slots[last as usize].next = index,
        }
        self.tail = index;
    }

    pub(crate) fn unlink(&mut self, slots: &mut Slab<Slot>, index: u32) {
        let slot = &mut slots[index as usize];
        let (prev, next) = (slot.prev, slot.next);
        (slot.prev, slot.next) = (NIL, NIL);
        match prev {
            NIL => self.head = next,
            prev => slots[prev as usize].next = next,
        }
        match next {
            NIL => self.tail = prev,
            next => slots[next as usize].prev = prev,
        }
    }
}
