//! Every tasklet, thread and channel of the process.

use std::collections::BTreeMap;

use slab::Slab;

use crate::channel::{Channel, Direction};
use crate::list::List;
use crate::select::Selection;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(u32);

        impl $name {
            /// The number behind the id: small, and reused after removal.
            pub fn index(self) -> usize {
                self.0 as usize
            }

            pub(crate) fn from_index(index: usize) -> Self {
                Self(u32::try_from(index).expect("fewer than 2^32 scheduler objects"))
            }
        }
    };
}

id! {
    /// Names a tasklet in a [`World`]; valid until [`World::remove_tasklet`].
    TaskletId
}
id! {
    /// Names a thread in a [`World`]; valid until [`World::remove_thread`].
    ThreadId
}
id! {
    /// Names a channel in a [`World`]; valid until [`World::remove_channel`].
    ChannelId
}

impl TaskletId {
    /// The id whose [`TaskletId::index`] is `index`, for callers that carry ids through integers.
    pub fn with_index(index: usize) -> Self {
        Self::from_index(index)
    }
}

/// Where a tasklet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// In no list: not started, paused, or finished. The owner knows which.
    Idle,
    /// In its thread's ring; the running tasklet is its head.
    Queued,
    /// In the list of waiters of a channel.
    Blocked(ChannelId, Direction),
    /// Waits for something outside: input or output, time, a lock, another thread.
    Parked,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) next: TaskletId,
    pub(crate) prev: TaskletId,
    pub(crate) state: State,
    /// `None` once the thread has ended.
    pub(crate) thread: Option<ThreadId>,
    /// For a stand-in, the tasklet that selects.
    pub(crate) stands_for: Option<TaskletId>,
}

#[derive(Debug)]
pub(crate) struct Thread {
    pub(crate) ring: List,
    pub(crate) main: TaskletId,
}

/// The state of every scheduler of the process. See the crate's documentation.
///
/// # Panics
/// Methods panic when they are given an id that was removed: that is an error of the caller.
#[derive(Debug, Default)]
pub struct World {
    pub(crate) nodes: Slab<Node>,
    pub(crate) threads: Slab<Thread>,
    pub(crate) channels: Slab<Channel>,
    pub(crate) selections: BTreeMap<TaskletId, Selection>,
    /// What the last exchange has chosen from a selection.
    pub(crate) chosen: Option<(TaskletId, usize)>,
}

impl World {
    /// Makes a world without threads.
    pub const fn new() -> Self {
        Self {
            nodes: Slab::new(),
            threads: Slab::new(),
            channels: Slab::new(),
            selections: BTreeMap::new(),
            chosen: None,
        }
    }

    /// Adds a thread together with its main tasklet, which is queued: it runs now.
    pub fn add_thread(&mut self) -> (ThreadId, TaskletId) {
        let thread = ThreadId::from_index(self.threads.vacant_key());
        let main = self.add_tasklet(thread);
        self.threads.insert(Thread { ring: List::default(), main });
        self.insert(main);
        (thread, main)
    }

    /// Forgets a thread. Its tasklets, the main one among them, are left without a thread, in no list.
    pub fn remove_thread(&mut self, thread: ThreadId) {
        let orphans: Vec<usize> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.thread == Some(thread) && node.stands_for.is_none())
            .map(|(index, _)| index)
            .collect();
        for index in orphans {
            self.remove(TaskletId::from_index(index));
            self.nodes[index].thread = None;
        }
        self.threads.remove(thread.index());
    }

    /// Adds an idle tasklet that belongs to `thread`.
    pub fn add_tasklet(&mut self, thread: ThreadId) -> TaskletId {
        let id = TaskletId::from_index(self.nodes.vacant_key());
        self.nodes.insert(Node { next: id, prev: id, state: State::Idle, thread: Some(thread), stands_for: None });
        id
    }

    /// Forgets a tasklet, taking it out of whatever list it is in.
    pub fn remove_tasklet(&mut self, tasklet: TaskletId) {
        self.remove(tasklet);
        self.nodes.remove(tasklet.index());
    }

    /// Where `tasklet` is.
    pub fn state(&self, tasklet: TaskletId) -> State {
        self.nodes[tasklet.index()].state
    }

    /// The thread that `tasklet` belongs to, unless that has ended.
    pub fn thread_of(&self, tasklet: TaskletId) -> Option<ThreadId> {
        self.nodes[tasklet.index()].thread
    }

    /// Moves an idle tasklet to another thread.
    ///
    /// # Panics
    /// If it is in a list.
    pub fn set_thread(&mut self, tasklet: TaskletId, thread: ThreadId) {
        assert_eq!(self.state(tasklet), State::Idle, "only what is in no list can move");
        self.nodes[tasklet.index()].thread = Some(thread);
    }

    /// The main tasklet of `thread`.
    pub fn main(&self, thread: ThreadId) -> TaskletId {
        self.threads[thread.index()].main
    }

    /// Makes `tasklet` the main one of `thread`: what is left of a process after `fork` goes on from there.
    pub fn set_main(&mut self, thread: ThreadId, tasklet: TaskletId) {
        self.threads[thread.index()].main = tasklet;
    }
}
