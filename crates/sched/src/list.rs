//! Doubly linked circular lists threaded through the slab of tasklets.
//!
//! A list is only its head; the links live in the nodes, so moving a tasklet from a ring to a channel allocates
//! nothing and removing it from the middle takes constant time.

use slab::Slab;

use crate::world::{Node, TaskletId};

/// The head of a circular list of tasklets, with its length.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct List {
    pub(crate) head: Option<TaskletId>,
    pub(crate) len: usize,
}

impl List {
    /// Links `node` just before the head: at the end of the list.
    pub(crate) fn push_back(&mut self, nodes: &mut Slab<Node>, node: TaskletId) {
        match self.head {
            None => {
                nodes[node.index()].next = node;
                nodes[node.index()].prev = node;
                self.head = Some(node);
            }
            Some(head) => link_before(nodes, head, node),
        }
        self.len += 1;
    }

    /// Links `node` just behind the head.
    pub(crate) fn push_second(&mut self, nodes: &mut Slab<Node>, node: TaskletId) {
        match self.head {
            None => return self.push_back(nodes, node),
            Some(head) => {
                let second = nodes[head.index()].next;
                link_before(nodes, second, node);
            }
        }
        self.len += 1;
    }

    /// Takes `node` out; if it was the head, its successor becomes the head.
    pub(crate) fn unlink(&mut self, nodes: &mut Slab<Node>, node: TaskletId) {
        let (next, prev) = (nodes[node.index()].next, nodes[node.index()].prev);
        if next == node {
            self.head = None;
        } else {
            nodes[prev.index()].next = next;
            nodes[next.index()].prev = prev;
            if self.head == Some(node) {
                self.head = Some(next);
            }
        }
        self.len -= 1;
    }
}

fn link_before(nodes: &mut Slab<Node>, place: TaskletId, node: TaskletId) {
    let prev = nodes[place.index()].prev;
    nodes[node.index()].next = place;
    nodes[node.index()].prev = prev;
    nodes[prev.index()].next = node;
    nodes[place.index()].prev = node;
}
