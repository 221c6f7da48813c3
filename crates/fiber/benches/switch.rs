//! What a switch costs, in nanoseconds: `cargo bench -p lissom-fiber`.
//!
//! Each line is the median and the fastest of 15 rounds. Without `--bench` (as
//! `cargo test --all-targets` runs it) each thing is done a few times only, to
//! see that it works.
//!
//! Instructions: run the program itself under
//! `valgrind --tool=callgrind --toggle-collect='*one_pair*'` with the argument
//! `pairs`, and divide by the number of pairs that it prints.

use std::cell::Cell;
use std::hint::black_box;
use std::rc::Rc;
use std::time::Instant;

use lissom_fiber::{Fiber, PoolSettings, Progress, StackPool};

const ROUNDS: usize = 15;

/// Prints the cost of one of the `each` steps of `work`.
fn measure(name: &str, each: usize, mut work: impl FnMut()) {
    let quick = !std::env::args().any(|arg| arg == "--bench");
    work();
    let rounds = if quick { 1 } else { ROUNDS };
    let mut figures: Vec<f64> = (0..rounds)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed().as_nanos() as f64 / each as f64
        })
        .collect();
    figures.sort_by(f64::total_cmp);
    let (median, fastest) = (figures[figures.len() / 2], figures[0]);
    println!("{name:<44} {median:>8.2} ns  (fastest {fastest:.2})");
}

/// A pool like the interpreter's.
fn pool(stack_size: usize) -> StackPool {
    StackPool::new(PoolSettings { stack_size, reserve: 1536, keep_warm: 1024 }).expect("the settings are in range")
}

/// A fiber that suspends itself until `stop` is set.
fn looper(pool: &mut StackPool, stop: &Rc<Cell<bool>>) -> Fiber {
    let stop = Rc::clone(stop);
    let stack = pool.take().expect("a stack");
    // SAFETY: resumed on this thread only; the entry needs a few words.
    unsafe {
        Fiber::new(stack, move |link| {
            while !stop.get() {
                // SAFETY: this is the fiber that the link is of.
                Fiber::suspend(link);
            }
        })
    }
}

/// One resume and one suspend.
#[inline(never)]
fn one_pair(fiber: &mut Fiber) -> Progress {
    // SAFETY: the thread is the one that made the fiber.
    unsafe { fiber.resume() }
}

/// Resumes `count` fibers in turn, as a scheduler would.
fn round_robin(count: usize, stack_size: usize) {
    let mut pool = pool(stack_size);
    let stop = Rc::new(Cell::new(false));
    let mut fibers: Vec<Fiber> = (0..count).map(|_| looper(&mut pool, &stop)).collect();
    let turns = (1_000_000 / count).max(1);
    let name = format!("pair, {count} fibers, {} KiB stacks", stack_size / 1024);
    measure(&name, turns * count, || {
        for _ in 0..turns {
            for fiber in &mut fibers {
                black_box(one_pair(fiber));
            }
        }
    });
    stop.set(true);
    for mut fiber in fibers {
        assert_eq!(one_pair(&mut fiber), Progress::Finished);
        pool.give(fiber.into_stack());
    }
}

/// Takes a stack, runs a function on it, gives it back.
fn spawn(name: &str, depth: usize) {
    let mut pool = pool(256 * 1024);
    measure(name, 100_000, || {
        for _ in 0..100_000 {
            let stack = pool.take().expect("a stack");
            // SAFETY: resumed on this thread only, and the stack is deep enough.
            let mut fiber = unsafe { Fiber::new(stack, move |_| go_down(depth)) };
            one_pair(&mut fiber);
            pool.give(fiber.into_stack());
        }
    });
}

/// Touches the stack down to `depth` bytes below the caller, in steps that
/// leave out no page.
#[inline(never)]
fn go_down(depth: usize) {
    let frame = black_box([1_u64; 32]);
    if depth > 1024 {
        go_down(depth - 1024);
    }
    black_box(&frame);
}

fn main() {
    if std::env::args().any(|arg| arg == "pairs") {
        let stop = Rc::new(Cell::new(false));
        let mut fiber = looper(&mut pool(64 * 1024), &stop);
        const PAIRS: usize = 1000;
        for _ in 0..PAIRS {
            black_box(one_pair(&mut fiber));
        }
        println!("{PAIRS} pairs");
        return;
    }
    for count in [1, 10, 100, 1_000, 10_000] {
        round_robin(count, 256 * 1024);
    }
    for stack_size in [64 * 1024, 1024 * 1024] {
        round_robin(10_000, stack_size);
    }
    spawn("spawn, run, finish: one page deep", 0);
    spawn("spawn, run, finish: a few pages deep", 16 * 1024);
    spawn("spawn, run, finish: deep enough to be trimmed", 128 * 1024);
}
