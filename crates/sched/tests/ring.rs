//! Order in the run queue.

use lissom_sched::{State, TaskletId, ThreadId, World};

fn world_with(count: usize) -> (World, ThreadId, TaskletId, Vec<TaskletId>) {
    let mut world = World::new();
    let (thread, main) = world.add_thread();
    let tasklets: Vec<_> = (0..count).map(|_| world.add_tasklet(thread)).collect();
    for &tasklet in &tasklets {
        world.insert(tasklet);
    }
    (world, thread, main, tasklets)
}

fn ring(world: &World, thread: ThreadId) -> Vec<TaskletId> {
    world.ring(thread).collect()
}

#[test]
fn insert_of_a_queued_tasklet_keeps_its_place() {
    let (mut world, thread, main, t) = world_with(3);
    world.insert(t[0]);
    assert_eq!(ring(&world, thread), [main, t[0], t[1], t[2]]);
}

#[test]
fn make_head_of_a_queued_tasklet_runs_its_successors_before_the_caller() {
    let (mut world, thread, main, t) = world_with(3);
    world.make_head(t[1]);
    assert_eq!(ring(&world, thread), [t[1], t[2], main, t[0]]);
}

#[test]
fn make_head_of_an_idle_tasklet_runs_the_caller_right_after_it() {
    let (mut world, thread, main, t) = world_with(2);
    let idle = world.add_tasklet(thread);
    world.make_head(idle);
    assert_eq!(ring(&world, thread), [idle, main, t[0], t[1]]);
}

#[test]
fn parked_tasklet_comes_back_at_the_end() {
    let (mut world, thread, main, t) = world_with(2);
    world.park(main);
    assert_eq!(world.state(main), State::Parked);
    assert_eq!(ring(&world, thread), [t[0], t[1]]);
    assert!(world.unpark(main));
    assert!(!world.unpark(main));
    assert_eq!(ring(&world, thread), [t[0], t[1], main]);
}

#[test]
fn the_last_one_to_park_empties_the_ring() {
    let (mut world, thread, main, _) = world_with(0);
    world.park(main);
    assert_eq!(world.head(thread), None);
    assert_eq!(world.runnable(thread), 0);
}

#[test]
fn removed_tasklet_leaves_the_ring_closed() {
    let (mut world, thread, main, t) = world_with(3);
    world.remove_tasklet(t[1]);
    assert_eq!(ring(&world, thread), [main, t[0], t[2]]);
    assert_eq!(world.prev(main), t[2]);
}

#[test]
fn the_end_of_a_thread_leaves_its_tasklets_idle_and_homeless() {
    let (mut world, thread, _, t) = world_with(2);
    let channel = world.add_channel();
    world.make_head(t[1]);
    world.block(channel, t[1], lissom_sched::Direction::Send);
    world.remove_thread(thread);
    assert_eq!(world.balance(channel), 0);
    assert_eq!(t.iter().map(|&t| (world.state(t), world.thread_of(t))).collect::<Vec<_>>(), [(State::Idle, None); 2]);
    let (again, main) = world.add_thread();
    assert_eq!((again, world.ring(again).collect::<Vec<_>>()), (thread, vec![main]));
    world.remove_tasklet(t[0]);
}
