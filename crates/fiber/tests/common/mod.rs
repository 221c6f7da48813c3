//! What the tests have in common.
//!
//! Under valgrind:
//!
//! ```sh
//! export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="valgrind -q --error-exitcode=9 \
//!     --child-silent-after-fork=yes --leak-check=full \
//!     --show-leak-kinds=definite,indirect --errors-for-leak-kinds=definite,indirect"
//! cargo test -p lissom-fiber --tests -- --test-threads=1
//! ```
//!
//! One thread, because in a child of `fork` what other threads' stacks refer to
//! counts as leaked. Processes of [`in_process`] run outside valgrind.
#![allow(dead_code)]

use std::hint::black_box;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

use lissom_fiber::{Fiber, Guard, Link, PoolSettings, Progress, Stack, StackPool};

/// Set in a process that is to crash or to run into a limit.
const CHILD: &str = "LISSOM_FIBER_TEST_CHILD";

pub(crate) const KIB: usize = 1024;

/// Settings like the interpreter's, with small stacks.
pub(crate) fn settings() -> PoolSettings {
    PoolSettings { stack_size: 64 * KIB, reserve: 1536, keep_warm: 16 }
}

/// A pool with [`settings`].
pub(crate) fn pool() -> StackPool {
    StackPool::new(settings()).expect("settings in range")
}

/// Every way of guarding that this kernel has.
pub(crate) fn guards() -> Vec<Guard> {
    let has_markers = StackPool::with_guard(settings(), Guard::Marker).and_then(|mut pool| pool.take()).is_ok();
    let marker = has_markers.then_some(Guard::Marker);
    [Guard::Auto, Guard::Page].into_iter().chain(marker).collect()
}

/// Puts `entry` on a stack of the pool.
pub(crate) fn fiber(pool: &mut StackPool, entry: impl FnOnce(Link) + 'static) -> Fiber {
    let stack = pool.take().expect("a stack");
    // SAFETY: the tests resume on one thread and stay within their stacks.
    unsafe { Fiber::new(stack, entry) }
}

/// Resumes a fiber on the thread that made it.
pub(crate) fn resume(fiber: &mut Fiber) -> Progress {
    // SAFETY: tests do not move fibers between threads.
    unsafe { fiber.resume() }
}

/// Suspends the fiber that calls it.
pub(crate) fn suspend(link: Link) {
    // SAFETY: tests call it on the fiber that the link is of.
    unsafe { Fiber::suspend(link) }
}

/// Which pages of the stack are resident, from the bottom up.
pub(crate) fn resident(stack: &Stack) -> Vec<bool> {
    let len = stack.top() as usize - stack.bottom() as usize;
    let mut pages = vec![0_u8; len / page_size()];
    // SAFETY: the stack is mapped and the vector has one byte for each page.
    let result = unsafe { libc::mincore(stack.bottom().cast(), len, pages.as_mut_ptr()) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    pages.iter().map(|page| page & 1 == 1).collect()
}

/// The number of resident pages of the stack.
pub(crate) fn resident_pages(stack: &Stack) -> usize {
    resident(stack).iter().filter(|&&there| there).count()
}

pub(crate) fn page_size() -> usize {
    // SAFETY: no preconditions.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) }.try_into().expect("a size")
}

/// Uses `bytes` of stack and not much more, writing to every page.
pub(crate) fn use_stack(bytes: usize) {
    let here = 0_u8;
    descend((&raw const here).addr().saturating_sub(bytes));
}

/// Calls itself until its frame lies below `floor`.
#[inline(never)]
fn descend(floor: usize) {
    let frame = black_box([0xA5_u8; 256]);
    if frame.as_ptr().addr() > floor {
        descend(floor);
    }
    black_box(&frame);
}

/// Says whether valgrind runs this, where large numbers take too long.
pub(crate) fn under_valgrind() -> bool {
    std::env::var("LD_PRELOAD").is_ok_and(|libraries| libraries.contains("vgpreload"))
}

/// Runs `body` in a process of its own and returns how that ended: for crashes
/// and for limits. `test` is the name of the calling test, its only caller.
pub(crate) fn in_process(test: &str, body: impl FnOnce()) -> Output {
    if std::env::var_os(CHILD).is_some() {
        body();
        std::process::exit(0);
    }
    Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .output()
        .expect("a process")
}

/// The signal that ended a process.
pub(crate) fn signal(output: &Output) -> Option<i32> {
    output.status.signal()
}

/// What a process wrote to its standard error.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
