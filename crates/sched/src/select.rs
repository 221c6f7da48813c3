//! Waiting on several channels at once.
//!
//! A tasklet is linked in one list at a time, so one that selects is parked, and for each case a *stand-in* waits in the
//! channel. Whoever meets a stand-in meets the tasklet: all its stand-ins leave their channels, and the case is noted.

use crate::channel::Direction;
use crate::world::{ChannelId, Node, State, TaskletId, World};

/// The stand-ins of a tasklet that selects, in the order of its cases.
#[derive(Debug, Default)]
pub(crate) struct Selection {
    stand_ins: Vec<TaskletId>,
}

impl World {
    /// Lets `tasklet`, which has been parked, wait for the first of these actions that a partner makes possible.
    ///
    /// It stays parked until then, or until it is unparked or removed.
    pub fn select(&mut self, tasklet: TaskletId, cases: &[(ChannelId, Direction)]) {
        debug_assert_eq!(self.state(tasklet), State::Parked);
        let mut selection = Selection::default();
        for &(channel, direction) in cases {
            let thread = self.thread_of(tasklet);
            let id = TaskletId::from_index(self.nodes.vacant_key());
            let state = State::Blocked(channel, direction);
            self.nodes.insert(Node { next: id, prev: id, state, thread, stands_for: Some(tasklet) });
            let place = &mut self.channels[channel.index()];
            place.direction = Some(direction);
            place.waiters.push_back(&mut self.nodes, id);
            selection.stand_ins.push(id);
        }
        self.selections.insert(tasklet, selection);
    }

    /// The tasklet itself, or the one that a stand-in stands for.
    pub(crate) fn in_person(&self, id: TaskletId) -> TaskletId {
        self.nodes[id.index()].stands_for.unwrap_or(id)
    }

    /// Ends the selection of `tasklet`, if it is in one, without a choice.
    pub(crate) fn end_selection(&mut self, tasklet: TaskletId) {
        if self.selections.is_empty() {
            return;
        }
        let Some(selection) = self.selections.remove(&tasklet) else { return };
        for stand_in in selection.stand_ins {
            if let State::Blocked(channel, _) = self.nodes[stand_in.index()].state {
                self.channels[channel.index()].waiters.unlink(&mut self.nodes, stand_in);
            }
            self.nodes.remove(stand_in.index());
        }
    }

    /// A partner has met `stand_in`: the selection ends with this case. Returns the tasklet and the number of the case.
    pub(crate) fn choose(&mut self, stand_in: TaskletId) -> (TaskletId, usize) {
        let tasklet = self.in_person(stand_in);
        let selection = &self.selections[&tasklet];
        let case = selection.stand_ins.iter().position(|&id| id == stand_in).expect("a stand-in has a case");
        self.end_selection(tasklet);
        (tasklet, case)
    }
}
