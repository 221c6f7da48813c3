//! Channels: the rendezvous of a sender and a receiver.
//!
//! The rule is that of Stackless Python (`generic_channel_action` in its `channelobject.c`): when a partner waits, the
//! exchange happens at once, and *preference* says who goes on. `-1` prefers the receiver, `1` the sender, `0` nobody;
//! `schedule_all` overrides it: both are queued and a third one runs.

use crate::list::List;
use crate::world::{ChannelId, State, TaskletId, World};

/// What a tasklet does on a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// It gives a value; counts as 1.
    Send,
    /// It takes a value; counts as -1.
    Receive,
}

impl Direction {
    /// `1` for a sender, `-1` for a receiver: the unit of [`World::balance`].
    pub fn sign(self) -> i32 {
        match self {
            Direction::Send => 1,
            Direction::Receive => -1,
        }
    }
}

/// What follows from an attempt to exchange a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exchange {
    /// Nobody waits on the other side: the caller may [`World::block`].
    WouldBlock,
    /// The partner has been queued; the caller goes on.
    Continue(TaskletId),
    /// The partner has been queued and is the head of the ring: switch to the head.
    SwitchTo(TaskletId),
    /// The partner has been queued at the end and the caller yields: switch to the head.
    Yield(TaskletId),
    /// The partner belongs to another thread and has been queued there: wake that thread; the caller goes on.
    Remote(TaskletId),
}

#[derive(Debug, Default)]
pub(crate) struct Channel {
    pub(crate) waiters: List,
    pub(crate) direction: Option<Direction>,
    preference: i32,
    schedule_all: bool,
    closing: bool,
}

impl World {
    /// Adds an open channel with the default preference `-1`.
    pub fn add_channel(&mut self) -> ChannelId {
        ChannelId::from_index(self.channels.insert(Channel { preference: -1, ..Channel::default() }))
    }

    /// Forgets a channel.
    ///
    /// # Panics
    /// If tasklets are still blocked on it.
    pub fn remove_channel(&mut self, channel: ChannelId) {
        let removed = self.channels.remove(channel.index());
        assert_eq!(removed.waiters.len, 0, "a channel was removed before its waiters");
    }

    /// How many senders wait, as a positive number, or how many receivers, as a negative one.
    pub fn balance(&self, channel: ChannelId) -> i64 {
        let channel = &self.channels[channel.index()];
        let sign = channel.direction.map_or(0, Direction::sign);
        i64::from(sign) * i64::try_from(channel.waiters.len).expect("fewer than 2^63 tasklets")
    }

    /// The tasklet that has waited longest.
    pub fn first_waiter(&self, channel: ChannelId) -> Option<TaskletId> {
        self.channels[channel.index()].waiters.head.map(|first| self.in_person(first))
    }

    /// Who goes on after an exchange: `-1` the receiver, `1` the sender, `0` the caller.
    pub fn preference(&self, channel: ChannelId) -> i32 {
        self.channels[channel.index()].preference
    }

    /// Sets [`World::preference`], clamped to -1..=1.
    pub fn set_preference(&mut self, channel: ChannelId, preference: i32) {
        self.channels[channel.index()].preference = preference.clamp(-1, 1);
    }

    /// Whether both partners are queued after an exchange.
    pub fn schedule_all(&self, channel: ChannelId) -> bool {
        self.channels[channel.index()].schedule_all
    }

    /// Sets [`World::schedule_all`].
    pub fn set_schedule_all(&mut self, channel: ChannelId, schedule_all: bool) {
        self.channels[channel.index()].schedule_all = schedule_all;
    }

    /// Whether [`World::set_closing`] was called: nobody may block on the channel any more.
    pub fn closing(&self, channel: ChannelId) -> bool {
        self.channels[channel.index()].closing
    }

    /// Closes or reopens the channel. Waiting tasklets stay where they are.
    pub fn set_closing(&mut self, channel: ChannelId, closing: bool) {
        self.channels[channel.index()].closing = closing;
    }

    /// The partner that an action in `direction` would meet.
    pub fn partner(&self, channel: ChannelId, direction: Direction) -> Option<TaskletId> {
        let channel = &self.channels[channel.index()];
        let first = if channel.direction == Some(direction) { None } else { channel.waiters.head };
        first.map(|first| self.in_person(first))
    }

    /// Whether an action would take the thread away from `caller`: it would block, or somebody else would go on.
    pub fn would_switch(&self, channel: ChannelId, caller: TaskletId, direction: Direction) -> bool {
        let place = &self.channels[channel.index()];
        match self.partner(channel, direction) {
            None => true,
            Some(partner) if self.thread_of(partner) != self.thread_of(caller) => false,
            Some(_) => place.schedule_all || place.preference == -direction.sign(),
        }
    }

    /// Meets the longest waiting partner, if there is one, and settles who runs next.
    ///
    /// `caller` must be running. The value itself is the caller's business: hand it over before switching.
    pub fn exchange(&mut self, channel: ChannelId, caller: TaskletId, direction: Direction) -> Exchange {
        let place = &mut self.channels[channel.index()];
        let Some(partner) = place.waiters.head.filter(|_| place.direction != Some(direction)) else {
            return Exchange::WouldBlock;
        };
        let (preference, schedule_all) = (place.preference, place.schedule_all);
        let partner = if self.nodes[partner.index()].stands_for.is_some() {
            let (selecting, case) = self.choose(partner);
            self.chosen = Some((selecting, case));
            selecting
        } else {
            place.waiters.unlink(&mut self.nodes, partner);
            partner
        };
        let node = &mut self.nodes[partner.index()];
        node.state = State::Queued;
        let home = node.thread;
        let thread = self.nodes[caller.index()].thread;
        let ring = &mut self.threads[home.expect("a waiter has a thread").index()].ring;
        if home != thread {
            ring.push_back(&mut self.nodes, partner);
            Exchange::Remote(partner)
        } else if schedule_all {
            ring.push_back(&mut self.nodes, partner);
            self.rotate(thread.expect("a running tasklet has a thread"));
            Exchange::Yield(partner)
        } else if preference == -direction.sign() {
            ring.push_second(&mut self.nodes, partner);
            ring.head = Some(partner);
            Exchange::SwitchTo(partner)
        } else {
            ring.push_back(&mut self.nodes, partner);
            Exchange::Continue(partner)
        }
    }

    /// Takes the running `caller` out of the ring and queues it on the channel.
    ///
    /// No partner may wait on the other side: [`World::exchange`] comes first.
    pub fn block(&mut self, channel: ChannelId, caller: TaskletId, direction: Direction) {
        debug_assert!(self.partner(channel, direction).is_none(), "blocked although a partner waits");
        self.remove(caller);
        let place = &mut self.channels[channel.index()];
        place.direction = Some(direction);
        place.waiters.push_back(&mut self.nodes, caller);
        self.nodes[caller.index()].state = State::Blocked(channel, direction);
    }

    /// The tasklets that wait on `channel`, longest first.
    pub fn waiters(&self, channel: ChannelId) -> impl Iterator<Item = TaskletId> + '_ {
        let waiters = self.channels[channel.index()].waiters;
        let first = waiters.head;
        let waiters = std::iter::successors(first, |&tasklet| Some(self.next(tasklet))).take(waiters.len);
        waiters.map(|tasklet| self.in_person(tasklet))
    }

    /// The case that the partner of the last [`World::exchange`] has chosen, if that was selecting; once.
    #[inline]
    pub fn take_choice(&mut self) -> Option<(TaskletId, usize)> {
        self.chosen.take()
    }
}
