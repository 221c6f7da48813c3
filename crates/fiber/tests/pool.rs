//! Taking and giving back stacks: order, memory, figures.

mod common;

use std::cell::Cell;
use std::rc::Rc;
use std::thread;

use common::{
    KIB, fiber, guards, page_size, pool, resident, resident_pages, resume, settings, suspend, under_valgrind, use_stack,
};
use lissom_fiber::{Fiber, MAX_STACK, MIN_STACK, PoolSettings, Progress, StackError, StackPool, Stats};

/// The error of a pool with this size.
fn refused(stack_size: usize, reserve: usize) -> String {
    let settings = PoolSettings { stack_size, reserve, keep_warm: 1 };
    let error = StackPool::new(settings).expect_err("out of range");
    assert!(matches!(error, StackError::BadSize { asked, .. } if asked == stack_size || asked == reserve));
    error.to_string()
}

#[test]
fn sizes_out_of_range_are_refused_with_the_range() {
    let text = refused(MIN_STACK - page_size(), 0);
    assert!(text.contains("stack_size is 12288 bytes"), "{text}");
    assert!(text.contains("between 16384 and 1073741824 bytes"), "{text}");
    refused(MAX_STACK + page_size(), 0);
    let text = refused(MIN_STACK + 1, 0);
    assert!(text.contains("a multiple of 4096"), "{text}");
    let text = refused(MIN_STACK, MIN_STACK / 2 + 1);
    assert!(text.contains("reserve is 8193 bytes"), "{text}");
    refused(0, 0);
    refused(usize::MAX, 0);
}

#[test]
fn every_size_in_range_works() {
    for stack_size in [MIN_STACK, 20 * KIB, 256 * KIB, 1 << 20, MAX_STACK] {
        for reserve in [0, 1, 1536, MIN_STACK / 2] {
            let mut pool = StackPool::new(PoolSettings { stack_size, reserve, keep_warm: 1 }).expect("in range");
            let mut fiber = fiber(&mut pool, suspend);
            let stack = fiber.stack();
            assert_eq!(stack.top() as usize - stack.bottom() as usize, stack_size);
            assert_eq!(stack.reserve_len(), reserve.next_multiple_of(16));
            assert_eq!(stack.reserved() as usize % 16, 0);
            assert_eq!(stack.reserved() as usize + stack.reserve_len(), stack.top() as usize);
            assert_eq!(resume(&mut fiber), Progress::Suspended);
            assert_eq!(resume(&mut fiber), Progress::Finished);
            pool.give(fiber.into_stack());
        }
    }
}

#[test]
fn stack_given_back_last_is_taken_first() {
    let mut pool = pool();
    let stacks: Vec<_> = (0..3).map(|_| pool.take().expect("a stack")).collect();
    let tops: Vec<_> = stacks.iter().map(|stack| stack.top()).collect();
    stacks.into_iter().for_each(|stack| pool.give(stack));
    let again: Vec<_> = (0..3).map(|_| pool.take().expect("a stack")).collect();
    let order: Vec<_> = again.iter().map(|stack| stack.top()).collect();
    assert_eq!(order, [tops[2], tops[1], tops[0]]);
}

#[test]
fn stacks_do_not_overlap_and_have_guards_between() {
    for guard in guards() {
        let mut pool = StackPool::with_guard(settings(), guard).expect("settings in range");
        let mut stacks: Vec<_> = (0..500).map(|_| pool.take().expect("a stack")).collect();
        stacks.sort_by_key(|stack| stack.top());
        for pair in stacks.windows(2) {
            let gap = pair[1].bottom() as usize - pair[0].top() as usize;
            assert!(gap >= page_size(), "{guard:?}: {gap}");
        }
    }
}

#[test]
fn parked_simple_fiber_keeps_one_page() {
    for guard in guards() {
        let mut pool = StackPool::with_guard(settings(), guard).expect("settings in range");
        let mut fiber = fiber(&mut pool, suspend);
        // SAFETY: the reserve is the caller's.
        unsafe {
            let stack = fiber.stack();
            stack.reserved().write_bytes(0xAB, stack.reserve_len());
        }
        assert_eq!(resume(&mut fiber), Progress::Suspended);
        let pages = resident(fiber.stack());
        assert_eq!(pages.iter().filter(|&&there| there).count(), 1, "{guard:?}");
        assert_eq!(pages.last(), Some(&true));
        assert_eq!(pool.stats().committed_bytes, page_size());
        resume(&mut fiber);
        pool.give(fiber.into_stack());
    }
}

#[test]
fn reserve_is_left_alone_by_fiber_and_pool() {
    let mut pool = pool();
    let mut fiber = fiber(&mut pool, |link| {
        use_stack(8 * KIB);
        suspend(link);
    });
    let (start, len) = (fiber.stack().reserved(), fiber.stack().reserve_len());
    // SAFETY: the reserve is the caller's.
    unsafe { start.write_bytes(0xAB, len) };
    resume(&mut fiber);
    resume(&mut fiber);
    // SAFETY: as above, and it was written.
    let bytes = unsafe { std::slice::from_raw_parts(start, len) };
    assert!(bytes.iter().all(|&byte| byte == 0xAB));
    pool.give(fiber.into_stack());
}

/// Runs a fiber that uses `depth` bytes and gives its stack back.
fn use_and_give(pool: &mut StackPool, depth: usize) {
    let mut fiber = fiber(pool, move |_| use_stack(depth));
    assert_eq!(resume(&mut fiber), Progress::Finished);
    pool.give(fiber.into_stack());
}

#[test]
fn deep_use_is_trimmed_when_the_stack_is_given_back() {
    let mut pool = StackPool::new(PoolSettings { stack_size: 1 << 20, ..settings() }).expect("settings in range");
    for _ in 0..3 {
        let mut fiber = fiber(&mut pool, |_| use_stack(256 * KIB));
        resume(&mut fiber);
        assert!(resident_pages(fiber.stack()) * page_size() >= 256 * KIB);
        pool.give(fiber.into_stack());
        let stack = pool.take().expect("the same stack");
        assert_eq!(resident_pages(&stack) * page_size(), 32 * KIB);
        pool.give(stack);
    }
}

#[test]
fn stacks_beyond_keep_warm_hold_no_memory() {
    let mut pool = pool();
    let keep_warm = settings().keep_warm;
    let mut fibers: Vec<Fiber> = (0..2 * keep_warm).map(|_| fiber(&mut pool, suspend)).collect();
    for fiber in &mut fibers {
        resume(fiber);
    }
    assert_eq!(pool.stats().committed_bytes, 2 * keep_warm * page_size());
    for mut fiber in fibers {
        resume(&mut fiber);
        pool.give(fiber.into_stack());
    }
    assert_eq!(pool.stats().pooled, 2 * keep_warm);
    assert_eq!(pool.stats().committed_bytes, keep_warm * page_size());
    // Warm ones are taken first.
    let warm = pool.take().expect("a stack");
    assert_eq!(resident_pages(&warm), 1);
    pool.give(warm);
}

#[test]
fn trim_unmaps_what_is_idle_and_keeps_what_is_in_use() {
    let mut pool = pool();
    let mut kept = fiber(&mut pool, suspend);
    resume(&mut kept);
    let slab = pool.stats().reserved_bytes;
    let stacks: Vec<_> = (0..1000).map(|_| pool.take().expect("a stack")).collect();
    assert!(pool.stats().reserved_bytes > 8 * slab);
    stacks.into_iter().for_each(|stack| pool.give(stack));
    use_and_give(&mut pool, 40 * KIB);
    pool.trim();
    let stats = pool.stats();
    assert_eq!(stats.reserved_bytes, slab);
    assert_eq!(stats.committed_bytes, page_size());
    assert_eq!((stats.in_use, stats.pooled), (1, 63));
    // The pool grows again.
    let stacks: Vec<_> = (0..1000).map(|_| pool.take().expect("a stack")).collect();
    assert_eq!(pool.in_use(), 1001);
    stacks.into_iter().for_each(|stack| pool.give(stack));
    assert_eq!(resume(&mut kept), Progress::Finished);
    pool.give(kept.into_stack());
    pool.trim();
    let empty = Stats { peak_in_use: 1001, ..Stats::default() };
    assert_eq!(pool.stats(), empty);
}

#[test]
fn stats_follow_the_stacks() {
    let mut pool = pool();
    assert_eq!(pool.stats(), Stats::default());
    let (first, second) = (pool.take().expect("a stack"), pool.take().expect("a stack"));
    let stats = pool.stats();
    assert_eq!((stats.in_use, stats.pooled, stats.peak_in_use), (2, 0, 2));
    assert_eq!(stats.committed_bytes, 0);
    assert!(stats.reserved_bytes > 64 * settings().stack_size);
    pool.give(first);
    let stats = pool.stats();
    assert_eq!((stats.in_use, stats.pooled, stats.peak_in_use), (1, 1, 2));
    drop(second);
    let stats = pool.stats();
    assert_eq!((stats.in_use, stats.pooled, stats.peak_in_use), (0, 2, 2));
}

#[test]
fn stack_dropped_on_another_thread_comes_back() {
    let mut pool = pool();
    let stacks: Vec<_> = (0..64).map(|_| pool.take().expect("a stack")).collect();
    let tops: Vec<_> = stacks.iter().map(|stack| stack.top() as usize).collect();
    let mut stacks = stacks.into_iter();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let mine: Vec<_> = stacks.by_ref().take(16).collect();
            thread::spawn(move || drop(mine))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    assert_eq!(pool.in_use(), 0);
    assert_eq!(pool.stats().pooled, 64);
    let again: Vec<_> = (0..64).map(|_| pool.take().expect("a stack")).collect();
    for stack in &again {
        assert!(tops.contains(&(stack.top() as usize)));
    }
    assert_eq!((pool.in_use(), pool.stats().pooled), (64, 0));
}

#[test]
fn stack_given_to_another_pool_goes_home() {
    let (mut home, mut other) = (pool(), pool());
    let stack = home.take().expect("a stack");
    other.give(stack);
    assert_eq!(other.stats().pooled, 0);
    assert_eq!((home.in_use(), home.stats().pooled), (0, 1));
}

#[test]
fn fiber_outlives_its_pool() {
    let mut pool = pool();
    let ended = Rc::new(Cell::new(false));
    let seen = Rc::clone(&ended);
    let mut fiber = fiber(&mut pool, move |link| {
        suspend(link);
        seen.set(true);
    });
    resume(&mut fiber);
    let idle = pool.take().expect("a stack");
    pool.give(idle);
    drop(pool);
    assert_eq!(resume(&mut fiber), Progress::Finished);
    assert!(ended.get());
    drop(fiber);
}

#[test]
fn hundred_thousand_fibers_park_on_one_page_each() {
    let count = if under_valgrind() { 300 } else { 100_000 };
    let mut pool = pool();
    let woken = Rc::new(Cell::new(0));
    let mut fibers: Vec<Fiber> = (0..count)
        .map(|_| {
            let woken = Rc::clone(&woken);
            fiber(&mut pool, move |link| {
                suspend(link);
                woken.set(woken.get() + 1);
            })
        })
        .collect();
    for fiber in &mut fibers {
        assert_eq!(resume(fiber), Progress::Suspended);
    }
    let stats = pool.stats();
    assert_eq!(stats.in_use, count);
    assert_eq!(stats.committed_bytes, count * page_size());
    for mut fiber in fibers {
        assert_eq!(resume(&mut fiber), Progress::Finished);
        pool.give(fiber.into_stack());
    }
    assert_eq!(woken.get(), count);
    assert_eq!(pool.stats().committed_bytes, settings().keep_warm * page_size());
    pool.trim();
    assert_eq!(pool.stats().reserved_bytes, 0);
}
