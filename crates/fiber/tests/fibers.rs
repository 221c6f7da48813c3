//! Running, suspending, ending and forgetting fibers.

mod common;

use std::cell::{Cell, RefCell};
use std::hint::black_box;
use std::rc::Rc;
use std::thread;

use common::{fiber, pool, resume, suspend};
use lissom_fiber::{Fiber, Link, Progress, State};

/// Sets its flag when dropped.
struct Flag(Rc<Cell<bool>>);

impl Drop for Flag {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

#[test]
fn entry_runs_only_when_resumed() {
    let mut pool = pool();
    let ran = Rc::new(Cell::new(false));
    let seen = Rc::clone(&ran);
    let mut fiber = fiber(&mut pool, move |_| seen.set(true));
    assert!(!ran.get());
    assert_eq!(resume(&mut fiber), Progress::Finished);
    assert!(ran.get());
    pool.give(fiber.into_stack());
}

#[test]
fn locals_survive_suspension() {
    let mut pool = pool();
    let sums = Rc::new(RefCell::new(Vec::new()));
    let out = Rc::clone(&sums);
    let mut fiber = fiber(&mut pool, move |link| {
        let (mut sum, factor) = (0_u64, 1.5_f64);
        for step in 1..=3 {
            sum += step;
            suspend(link);
            out.borrow_mut().push(sum as f64 * factor);
        }
    });
    for _ in 0..3 {
        assert_eq!(resume(&mut fiber), Progress::Suspended);
    }
    assert_eq!(resume(&mut fiber), Progress::Finished);
    assert_eq!(*sums.borrow(), [1.5, 4.5, 9.0]);
    pool.give(fiber.into_stack());
}

#[test]
fn state_follows_the_fiber() {
    let mut pool = pool();
    let mut fiber = fiber(&mut pool, suspend);
    assert_eq!(fiber.state(), State::New);
    assert_eq!(fiber.link(), None);
    resume(&mut fiber);
    assert_eq!(fiber.state(), State::Suspended);
    assert!(fiber.link().is_some());
    resume(&mut fiber);
    assert_eq!(fiber.state(), State::Finished);
    pool.give(fiber.into_stack());
}

#[test]
fn link_stays_the_same_and_survives_as_a_pointer() {
    let mut pool = pool();
    let links = Rc::new(RefCell::new(Vec::new()));
    let out = Rc::clone(&links);
    let mut fiber = fiber(&mut pool, move |link| {
        out.borrow_mut().push(link);
        // SAFETY: the pointer is a link's.
        let same = unsafe { Link::from_raw(link.into_raw()) };
        suspend(same);
        out.borrow_mut().push(same);
    });
    resume(&mut fiber);
    assert_eq!(fiber.link(), Some(links.borrow()[0]));
    resume(&mut fiber);
    assert_eq!(links.borrow()[0], links.borrow()[1]);
    pool.give(fiber.into_stack());
}

/// Suspends `depth` calls down.
fn descend_and_suspend(link: Link, depth: u32) -> u32 {
    if depth == 0 {
        suspend(link);
        return 0;
    }
    descend_and_suspend(link, depth - 1) + 1
}

#[test]
fn suspend_from_deep_frames_returns_into_them() {
    let mut pool = pool();
    let depth = Rc::new(Cell::new(0));
    let out = Rc::clone(&depth);
    let mut fiber = fiber(&mut pool, move |link| out.set(descend_and_suspend(link, 100)));
    assert_eq!(resume(&mut fiber), Progress::Suspended);
    assert_eq!(resume(&mut fiber), Progress::Finished);
    assert_eq!(depth.get(), 100);
    pool.give(fiber.into_stack());
}

#[test]
fn fiber_resumed_from_a_fiber_suspends_to_it() {
    let mut pool = pool();
    let log = Rc::new(RefCell::new(Vec::new()));
    let (outer_log, inner_log) = (Rc::clone(&log), Rc::clone(&log));
    let mut inner = fiber(&mut pool, move |link| {
        inner_log.borrow_mut().push("inner starts");
        suspend(link);
        inner_log.borrow_mut().push("inner ends");
    });
    let mut outer = fiber(&mut pool, move |link| {
        assert_eq!(resume(&mut inner), Progress::Suspended);
        outer_log.borrow_mut().push("outer again");
        suspend(link);
        assert_eq!(resume(&mut inner), Progress::Finished);
    });
    assert_eq!(resume(&mut outer), Progress::Suspended);
    log.borrow_mut().push("thread");
    assert_eq!(resume(&mut outer), Progress::Finished);
    let order = ["inner starts", "outer again", "thread", "inner ends"];
    assert_eq!(*log.borrow(), order);
    pool.give(outer.into_stack());
    // `inner` died with the closure of `outer`; its stack came back by itself.
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn fiber_can_be_resumed_from_different_stacks_in_turn() {
    let mut pool = pool();
    let mut shared = fiber(&mut pool, |link| {
        suspend(link);
        suspend(link);
    });
    assert_eq!(resume(&mut shared), Progress::Suspended);
    let kept = Rc::new(RefCell::new(None));
    let back = Rc::clone(&kept);
    let mut other = fiber(&mut pool, move |_| {
        assert_eq!(resume(&mut shared), Progress::Suspended);
        *back.borrow_mut() = Some(shared);
    });
    assert_eq!(resume(&mut other), Progress::Finished);
    let mut shared = kept.take().expect("put there by the other fiber");
    assert_eq!(resume(&mut shared), Progress::Finished);
    pool.give(other.into_stack());
    pool.give(shared.into_stack());
}

#[test]
fn dropping_a_suspended_fiber_runs_no_destructor_and_is_counted() {
    let mut pool = pool();
    let dropped = Rc::new(Cell::new(false));
    let flag = Flag(Rc::clone(&dropped));
    let mut fiber = fiber(&mut pool, move |link| {
        let _flag = flag;
        suspend(link);
    });
    resume(&mut fiber);
    let (bottom, top) = (fiber.stack().bottom(), fiber.stack().top());
    drop(fiber);
    assert!(!dropped.get());
    assert_eq!(pool.stats().abandoned, 1);
    assert_eq!(pool.in_use(), 0);
    // Its memory stays mapped, and nobody gets it again.
    let others: Vec<_> = (0..200).map(|_| pool.take().expect("a stack")).collect();
    for stack in &others {
        assert!(stack.top() <= bottom || stack.bottom() >= top);
    }
    drop(others);
    drop(pool);
    // SAFETY: abandoned stacks stay mapped, for good.
    unsafe { top.sub(1).write_volatile(1) };
}

#[test]
fn abandon_is_dropping_while_suspended() {
    let mut pool = pool();
    let mut fiber = fiber(&mut pool, suspend);
    resume(&mut fiber);
    fiber.abandon();
    assert_eq!(pool.stats().abandoned, 1);
}

#[test]
fn dropping_a_new_fiber_drops_its_entry_and_returns_the_stack() {
    let mut pool = pool();
    let dropped = Rc::new(Cell::new(false));
    let flag = Flag(Rc::clone(&dropped));
    drop(fiber(&mut pool, move |_| drop(flag)));
    assert!(dropped.get());
    assert_eq!(pool.in_use(), 0);
    assert_eq!(pool.stats().pooled, 1);
    assert_eq!(pool.stats().abandoned, 0);
}

#[test]
fn into_stack_of_a_new_fiber_drops_its_entry() {
    let mut pool = pool();
    let dropped = Rc::new(Cell::new(false));
    let flag = Flag(Rc::clone(&dropped));
    let stack = fiber(&mut pool, move |_| drop(flag)).into_stack();
    assert!(dropped.get());
    pool.give(stack);
}

#[test]
fn into_stack_of_a_suspended_fiber_panics_and_abandons_it() {
    let mut pool = pool();
    let mut fiber = fiber(&mut pool, suspend);
    resume(&mut fiber);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        drop(fiber.into_stack());
    }));
    assert!(result.is_err());
    assert_eq!(pool.stats().abandoned, 1);
}

#[test]
#[should_panic(expected = "completed")]
fn resuming_a_finished_fiber_panics() {
    let mut pool = pool();
    let mut fiber = fiber(&mut pool, |_| ());
    resume(&mut fiber);
    resume(&mut fiber);
}

#[test]
fn threads_have_fibers_of_their_own() {
    let threads: Vec<_> = (0..4_u64)
        .map(|seed| {
            thread::spawn(move || {
                let mut pool = pool();
                let sum = Rc::new(Cell::new(0));
                let mut fibers: Vec<Fiber> = (0..50)
                    .map(|_| {
                        let sum = Rc::clone(&sum);
                        fiber(&mut pool, move |link| {
                            for _ in 0..10 {
                                sum.set(sum.get() + seed);
                                suspend(link);
                            }
                        })
                    })
                    .collect();
                for _ in 0..11 {
                    fibers.iter_mut().for_each(|fiber| {
                        resume(fiber);
                    });
                }
                for fiber in fibers {
                    pool.give(fiber.into_stack());
                }
                sum.get()
            })
        })
        .collect();
    for (seed, thread) in (0..).zip(threads) {
        assert_eq!(thread.join().expect("no panic"), seed * 500);
    }
}

/// Calls itself until less than `left` bytes remain above `bottom`.
#[inline(never)]
fn approach(bottom: usize, left: usize) -> usize {
    let frame = black_box([1_u8; 128]);
    let here = frame.as_ptr() as usize;
    let lowest = if here - bottom > left { approach(bottom, left) } else { here };
    black_box(&frame);
    lowest
}

#[test]
fn stack_is_usable_down_to_its_last_page() {
    let mut pool = pool();
    let stack = pool.take().expect("a stack");
    let bottom = stack.bottom() as usize;
    let lowest = Rc::new(Cell::new(0));
    let out = Rc::clone(&lowest);
    // SAFETY: resumed on this thread; `approach` stops above the bottom.
    let mut fiber = unsafe { Fiber::new(stack, move |_| out.set(approach(bottom, 4096))) };
    assert_eq!(resume(&mut fiber), Progress::Finished);
    assert!(lowest.get() - bottom <= 4096);
    pool.give(fiber.into_stack());
}

#[test]
fn fibers_switched_in_random_order_keep_their_state() {
    let mut pool = pool();
    let count = 64;
    let steps = Rc::new(RefCell::new(vec![0_u32; count]));
    let mut fibers: Vec<Fiber> = (0..count)
        .map(|me| {
            let steps = Rc::clone(&steps);
            fiber(&mut pool, move |link| {
                for step in 1.. {
                    steps.borrow_mut()[me] = step;
                    suspend(link);
                }
            })
        })
        .collect();
    let mut expected = vec![0; count];
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    for _ in 0..20_000 {
        // Xorshift (Marsaglia 2003): the same order in every run.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let index = usize::try_from(random % count as u64).expect("small");
        if random & (0xFF << 32) == 0 {
            // Now and then one goes, and another takes its place in the pool.
            let me = index;
            let steps = Rc::clone(&steps);
            let fresh = fiber(&mut pool, move |link| {
                for step in 1.. {
                    steps.borrow_mut()[me] = step;
                    suspend(link);
                }
            });
            std::mem::replace(&mut fibers[index], fresh).abandon();
            expected[index] = 0;
            continue;
        }
        assert_eq!(resume(&mut fibers[index]), Progress::Suspended);
        expected[index] += 1;
        assert_eq!(steps.borrow()[index], expected[index]);
    }
}

/// Ends a child of `fork` without running what belongs to its parent.
fn leave(code: i32) -> ! {
    // SAFETY: no preconditions.
    unsafe { libc::_exit(code) }
}

#[test]
fn child_of_a_fork_in_a_fiber_goes_on_running_it() {
    let mut pool = pool();
    let mut other = fiber(&mut pool, suspend);
    resume(&mut other);
    let pid = Rc::new(Cell::new(-1));
    let forked = Rc::clone(&pid);
    let mut forker = fiber(&mut pool, move |link| {
        // SAFETY: the child uses only its own memory, and ends by _exit.
        forked.set(unsafe { libc::fork() });
        suspend(link);
    });
    assert_eq!(resume(&mut forker), Progress::Suspended);
    if pid.get() == 0 {
        // Back on the thread's own stack, in the child.
        let finished = resume(&mut forker) == Progress::Finished;
        other.abandon();
        pool.give(forker.into_stack());
        let mut fresh = fiber(&mut pool, suspend);
        let suspended = resume(&mut fresh) == Progress::Suspended;
        let counted = pool.stats().abandoned == 1 && pool.in_use() == 1;
        leave(if finished && suspended && counted { 7 } else { 1 });
    }
    assert!(pid.get() > 0);
    let mut status = 0;
    // SAFETY: `status` is valid for writing.
    unsafe { libc::waitpid(pid.get(), &raw mut status, 0) };
    assert!(libc::WIFEXITED(status), "status {status:#x}");
    assert_eq!(libc::WEXITSTATUS(status), 7);
    for mut fiber in [other, forker] {
        assert_eq!(resume(&mut fiber), Progress::Finished);
        pool.give(fiber.into_stack());
    }
}
