//! The order of running after exchanges, as Stackless Python defines it.

use lissom_sched::{ChannelId, Direction, Exchange, State, TaskletId, ThreadId, World};

struct Fixture {
    world: World,
    thread: ThreadId,
    main: TaskletId,
    channel: ChannelId,
}

fn fixture() -> Fixture {
    let mut world = World::new();
    let (thread, main) = world.add_thread();
    let channel = world.add_channel();
    Fixture { world, thread, main, channel }
}

impl Fixture {
    fn queued(&mut self) -> TaskletId {
        let tasklet = self.world.add_tasklet(self.thread);
        self.world.insert(tasklet);
        tasklet
    }

    fn ring(&self) -> Vec<TaskletId> {
        self.world.ring(self.thread).collect()
    }
}

#[test]
fn send_to_waiting_receiver_switches_and_leaves_the_sender_last() {
    let mut f = fixture();
    let (a, b) = (f.queued(), f.queued());
    f.world.rotate(f.thread); // a runs
    f.world.block(f.channel, a, Direction::Receive);
    assert_eq!(f.ring(), [b, f.main]);
    assert_eq!(f.world.exchange(f.channel, b, Direction::Send), Exchange::SwitchTo(a));
    assert_eq!(f.ring(), [a, f.main, b]);
}

#[test]
fn receive_from_waiting_sender_continues_by_default() {
    let mut f = fixture();
    let a = f.queued();
    f.world.rotate(f.thread);
    f.world.block(f.channel, a, Direction::Send);
    assert_eq!(f.world.balance(f.channel), 1);
    assert_eq!(f.world.exchange(f.channel, f.main, Direction::Receive), Exchange::Continue(a));
    assert_eq!(f.ring(), [f.main, a]);
    assert_eq!(f.world.balance(f.channel), 0);
}

#[test]
fn preference_one_prefers_the_sender() {
    let mut f = fixture();
    f.world.set_preference(f.channel, 7);
    assert_eq!(f.world.preference(f.channel), 1);
    let a = f.queued();
    f.world.rotate(f.thread);
    f.world.block(f.channel, a, Direction::Send);
    assert_eq!(f.world.exchange(f.channel, f.main, Direction::Receive), Exchange::SwitchTo(a));
}

#[test]
fn schedule_all_runs_a_third_one() {
    let mut f = fixture();
    f.world.set_schedule_all(f.channel, true);
    let a = f.queued();
    let b = f.queued();
    f.world.rotate(f.thread);
    f.world.block(f.channel, a, Direction::Receive);
    assert_eq!(f.ring(), [b, f.main]);
    f.world.rotate(f.thread);
    assert_eq!(f.world.exchange(f.channel, f.main, Direction::Send), Exchange::Yield(a));
    assert_eq!(f.ring(), [b, a, f.main]);
}

#[test]
fn partner_of_another_thread_is_queued_there() {
    let mut f = fixture();
    let (other, other_main) = f.world.add_thread();
    f.world.block(f.channel, other_main, Direction::Receive);
    assert_eq!(f.world.runnable(other), 0);
    assert_eq!(f.world.exchange(f.channel, f.main, Direction::Send), Exchange::Remote(other_main));
    assert_eq!(f.world.head(other), Some(other_main));
    assert_eq!(f.ring(), [f.main]);
}

#[test]
fn waiters_are_served_in_order_of_arrival() {
    let mut f = fixture();
    let tasklets: Vec<_> = (0..3).map(|_| f.world.add_tasklet(f.thread)).collect();
    for &tasklet in &tasklets {
        f.world.make_head(tasklet);
        f.world.block(f.channel, tasklet, Direction::Receive);
    }
    assert_eq!(f.world.balance(f.channel), -3);
    assert_eq!(f.world.waiters(f.channel).collect::<Vec<_>>(), tasklets);
    f.world.remove(tasklets[1]);
    assert_eq!(f.world.balance(f.channel), -2);
    f.world.set_preference(f.channel, 0);
    assert_eq!(f.world.exchange(f.channel, f.main, Direction::Send), Exchange::Continue(tasklets[0]));
    assert_eq!(f.world.exchange(f.channel, f.main, Direction::Send), Exchange::Continue(tasklets[2]));
    assert_eq!(f.world.exchange(f.channel, f.main, Direction::Send), Exchange::WouldBlock);
}

#[test]
fn a_channel_changes_its_direction_once_it_is_empty() {
    let mut f = fixture();
    let a = f.queued();
    f.world.rotate(f.thread);
    f.world.block(f.channel, a, Direction::Send);
    f.world.remove(a);
    f.world.insert(a);
    f.world.make_head(a);
    f.world.block(f.channel, a, Direction::Receive);
    assert_eq!(f.world.balance(f.channel), -1);
    assert_eq!(f.world.state(a), State::Blocked(f.channel, Direction::Receive));
}
