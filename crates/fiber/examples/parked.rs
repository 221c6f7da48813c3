//! Prints what a parked fiber costs in memory, for each stack size.
//!
//! ```sh
//! cargo run --release --example parked -p lissom-fiber -- 100000
//! ```
//!
//! The argument is the number of fibers. Figures are differences of `VmRSS` and
//! `VmPTE` of `/proc/self/status` (proc_pid_status(5)), divided by that number;
//! the second counts page tables, which no resident size includes. The heap
//! that holds the `Fiber` values is allocated and touched beforehand.

use std::hint::black_box;

use lissom_fiber::{Fiber, PoolSettings, Progress, StackPool};

/// What the interpreter keeps at the top of a stack: a data-stack chunk.
const RESERVE: usize = 1536;

/// A line of `/proc/self/status`, in bytes.
fn status(name: &str) -> Result<f64, Box<dyn std::error::Error>> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).ok_or("no such line")?;
    let kib: f64 = value.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024.0)
}

/// Parks `count` fibers and prints what each costs.
fn park(count: usize, stack_size: usize) -> Result<(), Box<dyn std::error::Error>> {
    let mut pool = StackPool::new(PoolSettings { stack_size, reserve: RESERVE, keep_warm: 64 })?;
    let mut fibers: Vec<Fiber> = Vec::with_capacity(count);
    // Touched now, so that the difference below is of stacks alone.
    let room = fibers.spare_capacity_mut();
    black_box(room).fill_with(std::mem::MaybeUninit::zeroed);
    let (rss, tables) = (status("VmRSS")?, status("VmPTE")?);
    for _ in 0..count {
        let stack = pool.take()?;
        // SAFETY: the reserve is the caller's.
        unsafe { stack.reserved().write_bytes(1, stack.reserve_len()) };
        // SAFETY: resumed on this thread; the entry needs a few words of stack.
        let mut fiber = unsafe {
            Fiber::new(stack, |link| {
                // SAFETY: this is the fiber that the link is of.
                Fiber::suspend(link);
            })
        };
        // SAFETY: the thread is the one that made the fiber.
        assert_eq!(unsafe { fiber.resume() }, Progress::Suspended);
        fibers.push(fiber);
    }
    let each = |total: f64| total / count as f64;
    let (rss, tables) = (each(status("VmRSS")? - rss), each(status("VmPTE")? - tables));
    let stats = pool.stats();
    println!(
        "{:>10} {rss:>14.0} {:>14.0} {tables:>14.0} {:>14.0} {:>12.1}",
        stack_size / 1024,
        each(stats.committed_bytes as f64),
        rss + tables,
        stats.reserved_bytes as f64 / f64::from(1 << 30),
    );
    for mut fiber in fibers {
        // SAFETY: as above.
        assert_eq!(unsafe { fiber.resume() }, Progress::Finished);
        pool.give(fiber.into_stack());
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let count = match std::env::args().nth(1) {
        Some(text) => text.parse()?,
        None => 1000,
    };
    println!("{count} parked fibers; bytes for each:");
    println!(
        "{:>10} {:>14} {:>14} {:>14} {:>14} {:>12}",
        "stack KiB", "resident", "of its stack", "page tables", "together", "space GiB"
    );
    for kib in [64, 128, 256, 512, 1024] {
        park(count, kib * 1024)?;
    }
    Ok(())
}
