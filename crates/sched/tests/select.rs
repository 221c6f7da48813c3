//! Waiting on several channels at once.

use lissom_sched::{ChannelId, Direction, Exchange, State, TaskletId, ThreadId, World};

fn world_with(channels: usize) -> (World, ThreadId, TaskletId, TaskletId, Vec<ChannelId>) {
    let mut world = World::new();
    let (thread, main) = world.add_thread();
    let worker = world.add_tasklet(thread);
    world.insert(worker);
    let channels = (0..channels).map(|_| world.add_channel()).collect();
    (world, thread, main, worker, channels)
}

fn select(world: &mut World, tasklet: TaskletId, cases: &[(ChannelId, Direction)]) {
    world.park(tasklet);
    world.select(tasklet, cases);
}

#[test]
fn select_counts_on_every_channel_and_is_met_once() {
    let (mut world, thread, main, worker, channels) = world_with(2);
    select(&mut world, main, &[(channels[0], Direction::Receive), (channels[1], Direction::Send)]);
    assert_eq!((world.balance(channels[0]), world.balance(channels[1])), (-1, 1));
    assert_eq!(world.first_waiter(channels[1]), Some(main));
    assert_eq!(world.head(thread), Some(worker));

    assert_eq!(world.exchange(channels[1], worker, Direction::Receive), Exchange::Continue(main));
    assert_eq!(world.take_choice(), Some((main, 1)));
    assert_eq!(world.take_choice(), None);
    assert_eq!((world.balance(channels[0]), world.balance(channels[1])), (0, 0));
    assert_eq!(world.state(main), State::Queued);
    assert_eq!(world.exchange(channels[0], worker, Direction::Send), Exchange::WouldBlock);
}

#[test]
fn preference_counts_for_who_selects() {
    let (mut world, thread, main, worker, channels) = world_with(1);
    select(&mut world, main, &[(channels[0], Direction::Receive)]);
    assert_eq!(world.exchange(channels[0], worker, Direction::Send), Exchange::SwitchTo(main));
    assert_eq!(world.head(thread), Some(main));
}

#[test]
fn unpark_and_remove_end_the_selection() {
    let (mut world, _, main, worker, channels) = world_with(2);
    let cases = [(channels[0], Direction::Receive), (channels[1], Direction::Receive)];
    select(&mut world, main, &cases);
    assert!(world.unpark(main));
    assert_eq!((world.balance(channels[0]), world.balance(channels[1])), (0, 0));
    world.rotate(world.thread_of(main).expect("it has a thread"));
    select(&mut world, main, &cases);
    world.remove(main);
    assert_eq!((world.balance(channels[0]), world.balance(channels[1])), (0, 0));
    assert_eq!(world.exchange(channels[0], worker, Direction::Send), Exchange::WouldBlock);
}

#[test]
fn waiters_of_both_kinds_are_served_in_their_order() {
    let (mut world, thread, main, worker, channels) = world_with(1);
    let third = world.add_tasklet(thread);
    world.insert(third);
    select(&mut world, worker, &[(channels[0], Direction::Receive)]);
    world.block(channels[0], third, Direction::Receive);
    assert_eq!(world.waiters(channels[0]).collect::<Vec<_>>(), [worker, third]);
    world.set_preference(channels[0], 0);
    assert_eq!(world.exchange(channels[0], main, Direction::Send), Exchange::Continue(worker));
    assert_eq!(world.take_choice(), Some((worker, 0)));
    assert_eq!(world.exchange(channels[0], main, Direction::Send), Exchange::Continue(third));
    assert_eq!(world.take_choice(), None);
}

#[test]
fn end_of_a_thread_ends_its_selections() {
    let (mut world, _, _, _, channels) = world_with(1);
    let (other, its_main) = world.add_thread();
    select(&mut world, its_main, &[(channels[0], Direction::Send)]);
    world.remove_thread(other);
    assert_eq!(world.balance(channels[0]), 0);
    assert_eq!(world.thread_of(its_main), None);
}
