//! What ends the process, and what happens at the limits of the system: each in
//! a process of its own.

mod common;

use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{KIB, fiber, guards, in_process, pool, resume, settings, signal, stderr, suspend, use_stack};
use lissom_fiber::{Guard, PoolSettings, Progress, Stack, StackError, StackPool};

/// Overflows a stack that has another one in use right below it.
fn overflow(guard: Guard, before: impl FnOnce(&Stack, &Stack)) {
    let mut pool = StackPool::with_guard(settings(), guard).expect("settings in range");
    let mut below = fiber(&mut pool, suspend);
    resume(&mut below);
    let mut above = fiber(&mut pool, |_| use_stack(usize::MAX));
    before(below.stack(), above.stack());
    resume(&mut above);
}

#[test]
fn overflow_dies_by_sigsegv() {
    let output = in_process("overflow_dies_by_sigsegv", || {
        overflow(Guard::Auto, |_, _| ());
    });
    assert_eq!(signal(&output), Some(libc::SIGSEGV), "{}", stderr(&output));
}

/// The guard that is to be hit.
static GUARD: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];

/// Leaves with 42 if the fault was in the guard.
extern "C" fn on_fault(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes the information that SA_SIGINFO asks for.
    let address = unsafe { (*info).si_addr() } as usize;
    let [low, high] = [&GUARD[0], &GUARD[1]].map(|end| end.load(Ordering::Relaxed));
    // SAFETY: no preconditions.
    unsafe { libc::_exit(if (low..high).contains(&address) { 42 } else { 43 }) }
}

/// Installs `on_fault` for the guard between two stacks.
fn expect_fault_between(below: &Stack, above: &Stack) {
    assert!(below.top() < above.bottom(), "cut in order");
    GUARD[0].store(below.top() as usize, Ordering::Relaxed);
    GUARD[1].store(above.bottom() as usize, Ordering::Relaxed);
    // SAFETY: zeros make a sigaction.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_fault as *const () as usize;
    // The standard library gave this thread a stack for signals.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: `action` is valid and its handler is safe in a signal.
    let result = unsafe { libc::sigaction(libc::SIGSEGV, &raw const action, ptr::null_mut()) };
    assert_eq!(result, 0);
}

#[test]
fn overflow_faults_in_the_guard_before_it_reaches_the_neighbour() {
    let name = "overflow_faults_in_the_guard_before_it_reaches_the_neighbour";
    let output = in_process(name, || {
        overflow(Guard::Auto, expect_fault_between);
    });
    assert_eq!(output.status.code(), Some(42), "{}", stderr(&output));
}

#[test]
fn overflow_faults_in_a_guard_page_too() {
    let output = in_process("overflow_faults_in_a_guard_page_too", || {
        overflow(Guard::Page, expect_fault_between);
    });
    assert_eq!(output.status.code(), Some(42), "{}", stderr(&output));
}

/// Reads every guard page of a stack in turn, each in a child of `fork`, after
/// the memory above was given back: every one must fault.
#[test]
fn every_guard_page_faults_also_after_trim_and_fork() {
    for guard in guards() {
        let mut pool = StackPool::with_guard(settings(), guard).expect("settings in range");
        let (first, second) = (pool.take().expect("a stack"), pool.take().expect("a stack"));
        let gap = second.bottom() as usize - first.top() as usize;
        let bottom = second.bottom();
        pool.give(second);
        pool.trim();
        for page in 1..=gap / common::page_size() {
            // SAFETY: the child only reads one byte and leaves.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                // SAFETY: setting the default action needs nothing.
                unsafe { libc::signal(libc::SIGSEGV, libc::SIG_DFL) };
                // SAFETY: a guard page: the fault is what is tested.
                let byte = unsafe { bottom.sub(page * common::page_size()).read_volatile() };
                // SAFETY: no preconditions.
                unsafe { libc::_exit(i32::from(byte)) };
            }
            let mut status = 0;
            // SAFETY: `status` is valid for writing.
            unsafe { libc::waitpid(pid, &raw mut status, 0) };
            assert!(libc::WIFSIGNALED(status), "{guard:?}, page {page}: {status:#x}");
            assert_eq!(libc::WTERMSIG(status), libc::SIGSEGV);
        }
        drop(first);
    }
}

#[test]
fn panic_at_the_bottom_of_a_fiber_aborts_with_its_message() {
    let output = in_process("panic_at_the_bottom_of_a_fiber_aborts_with_its_message", || {
        let mut pool = pool();
        let mut fiber = fiber(&mut pool, |link| {
            suspend(link);
            panic!("sprocket {} is loose", 3);
        });
        assert_eq!(resume(&mut fiber), Progress::Suspended);
        resume(&mut fiber);
        eprintln!("not reached");
    });
    let text = stderr(&output);
    assert_eq!(signal(&output), Some(libc::SIGABRT), "{text}");
    assert!(text.contains("a panic reached the bottom of a fiber (sprocket 3 is loose)"), "{text}");
    assert!(!text.contains("not reached"), "{text}");
}

/// Takes stacks until there are none, and returns why.
fn exhaust(pool: &mut StackPool, most: usize) -> (usize, Option<StackError>) {
    for count in 0..most {
        match pool.take() {
            Ok(stack) => std::mem::forget(stack),
            Err(error) => return (count, Some(error)),
        }
    }
    (most, None)
}

#[test]
fn limit_on_mappings_is_named_and_leaves_the_pool_usable() {
    let output = in_process("limit_on_mappings_is_named_and_leaves_the_pool_usable", || {
        let limit: usize =
            std::fs::read_to_string("/proc/sys/vm/max_map_count").expect("/proc").trim().parse().expect("a number");
        if limit > 1_000_000 {
            eprintln!("skipped: vm.max_map_count is {limit}, which takes too long to reach");
            return;
        }
        let settings = PoolSettings { stack_size: 16 * KIB, ..settings() };
        let mut pool = StackPool::with_guard(settings, Guard::Page).expect("settings in range");
        let last = pool.take().expect("a stack");
        let (count, error) = exhaust(&mut pool, limit);
        assert!(count > limit / 3, "only {count} stacks");
        assert_eq!(error, Some(StackError::TooManyMappings { limit: Some(limit) }));
        let text = error.map(|error| error.to_string()).unwrap_or_default();
        assert!(text.contains("vm.max_map_count"), "{text}");
        assert!(text.contains(&limit.to_string()), "{text}");
        assert!(text.contains("sysctl -w vm.max_map_count="), "{text}");
        // What is there can still be used.
        pool.give(last);
        let stack = pool.take().expect("the stack given back");
        assert!(matches!(pool.take(), Err(StackError::TooManyMappings { .. })));
        // SAFETY: this thread, and a few words of stack.
        let mut fiber = unsafe { lissom_fiber::Fiber::new(stack, suspend) };
        assert_eq!(resume(&mut fiber), Progress::Suspended);
    });
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn limit_on_address_space_is_named_after_smaller_slabs_were_tried() {
    let output = in_process("limit_on_address_space_is_named_after_smaller_slabs_were_tried", || {
        let limit = libc::rlimit { rlim_cur: 1 << 30, rlim_max: 1 << 30 };
        // SAFETY: `limit` is valid for reading.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) }, 0);
        let stack_size = 4 << 20;
        let mut pool = StackPool::new(PoolSettings { stack_size, ..settings() }).expect("settings in range");
        let (count, error) = exhaust(&mut pool, 1 << 20);
        // All but what the program itself takes; without smaller slabs at the
        // end it would be 768 MiB.
        assert!(count * stack_size > 800 << 20, "only {count} stacks");
        let Some(StackError::OutOfMemory { address_space_limit, .. }) = error else {
            panic!("{error:?}");
        };
        assert_eq!(address_space_limit, Some(1 << 30));
        let text = error.map(|error| error.to_string()).unwrap_or_default();
        assert!(text.contains("RLIMIT_AS") && text.contains("1073741824"), "{text}");
    });
    assert!(output.status.success(), "{}", stderr(&output));
}
