//! The run queue of a thread: queueing, pausing, parking.

use crate::world::{Node, State, TaskletId, ThreadId, World};

/// The thread of a tasklet that is about to be in its ring.
fn home(node: &Node) -> ThreadId {
    node.thread.expect("a tasklet whose thread has ended cannot be queued")
}

impl World {
    /// The tasklet that runs now or, when the running one has just left the ring, runs next.
    pub fn head(&self, thread: ThreadId) -> Option<TaskletId> {
        self.threads[thread.index()].ring.head
    }

    /// How many tasklets of `thread` can run, the running one included.
    pub fn runnable(&self, thread: ThreadId) -> usize {
        self.threads[thread.index()].ring.len
    }

    /// The successor of `tasklet` in its list: the ring, or a channel's waiters.
    pub fn next(&self, tasklet: TaskletId) -> TaskletId {
        self.nodes[tasklet.index()].next
    }

    /// The predecessor of `tasklet` in its list.
    pub fn prev(&self, tasklet: TaskletId) -> TaskletId {
        self.nodes[tasklet.index()].prev
    }

    /// Queues an idle or parked tasklet at the end; one that is queued keeps its place.
    ///
    /// # Panics
    /// If it is blocked on a channel: it has to be taken out first ([`World::remove`]). If its thread has ended.
    pub fn insert(&mut self, tasklet: TaskletId) {
        let node = &mut self.nodes[tasklet.index()];
        match node.state {
            State::Queued => {}
            State::Idle | State::Parked => {
                node.state = State::Queued;
                let thread = home(node).index();
                self.threads[thread].ring.push_back(&mut self.nodes, tasklet);
                self.end_selection(tasklet);
            }
            State::Blocked(..) => panic!("a blocked tasklet cannot be queued"),
        }
    }

    /// Queues an idle or parked tasklet right behind the running one.
    pub fn insert_next(&mut self, tasklet: TaskletId) {
        debug_assert!(
            matches!(self.state(tasklet), State::Idle | State::Parked),
            "only what is in no list can be queued"
        );
        let node = &mut self.nodes[tasklet.index()];
        node.state = State::Queued;
        let thread = home(node).index();
        self.threads[thread].ring.push_second(&mut self.nodes, tasklet);
    }

    /// Takes `tasklet` out of whatever list it is in and leaves it idle. A channel's balance is corrected.
    pub fn remove(&mut self, tasklet: TaskletId) {
        let node = &self.nodes[tasklet.index()];
        match node.state {
            State::Idle => {}
            State::Parked => self.end_selection(tasklet),
            State::Queued => {
                let thread = home(node).index();
                self.threads[thread].ring.unlink(&mut self.nodes, tasklet);
            }
            State::Blocked(channel, _) => {
                self.channels[channel.index()].waiters.unlink(&mut self.nodes, tasklet);
            }
        }
        self.nodes[tasklet.index()].state = State::Idle;
    }

    /// Takes the running tasklet out of the ring because it waits for something outside.
    pub fn park(&mut self, tasklet: TaskletId) {
        self.remove(tasklet);
        self.nodes[tasklet.index()].state = State::Parked;
    }

    /// Makes a parked tasklet runnable again, at the end. Returns whether it was parked.
    pub fn unpark(&mut self, tasklet: TaskletId) -> bool {
        if self.state(tasklet) != State::Parked {
            return false;
        }
        self.insert(tasklet);
        true
    }

    /// Lets the running tasklet yield: its successor becomes the head, it becomes the last.
    pub fn rotate(&mut self, thread: ThreadId) {
        let ring = &mut self.threads[thread.index()].ring;
        if let Some(head) = ring.head {
            ring.head = Some(self.nodes[head.index()].next);
        }
    }

    /// Makes `tasklet` the head where it stands: what is queued behind it runs before what stood before it.
    ///
    /// An idle or parked tasklet is queued at the end first, so the former head runs right after it.
    pub fn make_head(&mut self, tasklet: TaskletId) {
        self.insert(tasklet);
        let thread = home(&self.nodes[tasklet.index()]).index();
        self.threads[thread].ring.head = Some(tasklet);
    }

    /// The tasklets in the ring of `thread`, from the head on.
    pub fn ring(&self, thread: ThreadId) -> impl Iterator<Item = TaskletId> + '_ {
        let ring = self.threads[thread.index()].ring;
        let first = ring.head;
        std::iter::successors(first, |&tasklet| Some(self.next(tasklet))).take(ring.len)
    }
}
