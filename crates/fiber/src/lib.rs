//! Machine stacks, and switching between them.
//!
//! A *fiber* is a function that runs on a stack of its own and can stop in the
//! middle of whatever it called, to be resumed there later. The switch itself
//! is that of [`corosensei`]; this crate adds where the stacks come from, what
//! happens at their limits, and rules that make a fiber safe to fill with the
//! frames of a foreign interpreter: it is never unwound.
//!
//! | file | what is in it |
//! | --- | --- |
//! | `pool.rs` | [`StackPool`]: slabs, reuse, giving memory back, figures |
//! | `stack.rs` | [`Stack`]: where its parts lie, the way back to its pool |
//! | `fiber.rs` | [`Fiber`] and [`Link`]: start, resume, suspend, abandon |
//! | `sys.rs` | the system calls, one function each |
//! | `error.rs` | [`StackError`], and what causes an `ENOMEM` |
//! | `valgrind.rs` | what memcheck must be told |
//!
//! ```
//! use lissom_fiber::{Fiber, PoolSettings, Progress, StackPool};
//!
//! let mut pool = StackPool::new(PoolSettings::default())?;
//! let stack = pool.take()?;
//! // SAFETY: resumed on this thread only; the entry needs little stack.
//! let mut fiber = unsafe {
//!     Fiber::new(stack, |link| {
//!         println!("one");
//!         // SAFETY: this code runs on the fiber that the link is of.
//!         Fiber::suspend(link);
//!         println!("three");
//!     })
//! };
//! // SAFETY: the thread is the one that made the fiber, here and below.
//! assert_eq!(unsafe { fiber.resume() }, Progress::Suspended);
//! println!("two");
//! assert_eq!(unsafe { fiber.resume() }, Progress::Finished);
//! pool.give(fiber.into_stack());
//! # Ok::<(), lissom_fiber::StackError>(())
//! ```
//!
//! # A stack
//!
//! ```text
//!  higher addresses                                     a parked simple fiber
//!  ┌──────────────────────────┐ ◄ top ──────────────────────────────────┐
//!  │ the caller's reserve     │   the interpreter's first frames,       │
//!  │                          │   say 1.5 KiB                           │ one
//!  ├──────────────────────────┤ ◄ reserved(), 16-byte aligned           │ page,
//!  │ header, 16 bytes         │   link to the resumer; list of returned │ resi-
//!  ├──────────────────────────┤ ◄ base: corosensei's stack begins       │ dent
//!  │ entry, parent link       │   the Link points to the parent link    │
//!  │ frames, growing down     │                                         │
//!  │        │                 │ ────────────────────────────────────────┘
//!  │        ▼                 │   committed by touching
//!  ├ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─┤   top - 32 KiB: below this a stack that is
//!  │                          │   given back keeps no memory
//!  │                          │
//!  ├──────────────────────────┤ ◄ bottom()
//!  │ guard, 12 or 16 KiB      │   every access faults
//!  └──────────────────────────┘   the top of the next stack
//!  lower addresses
//! ```
//!
//! Stacks are cut, one close to the next, out of *slabs*: mappings of 64 stacks
//! at first and 1024 later, which reserve address space and nothing else
//! (`MAP_NORESERVE`, no huge pages). The distance from stack to stack is an odd
//! number of pages, so that the top pages, the ones in use, do not all compete
//! for a few sets of the translation caches: 8 % of a switch among 10,000 fibers.
//!
//! The guard is `MADV_GUARD_INSTALL` where the kernel has it (6.13), which costs
//! no mapping, else `PROT_NONE` pages, of which `vm.max_map_count` allows about
//! 32,000. Beyond that [`StackPool::take`] fails, with an error that says so:
//! there is never a stack without a guard.
//!
//! # What a parked fiber costs
//!
//! The page, and a share of page tables: a page of these (4 KiB) serves 2 MiB of
//! addresses, so the farther stacks lie apart, the fewer share one. With 100,000
//! parked fibers and a reserve of 1.5 KiB (Linux 6.18, x86-64,
//! `examples/parked.rs`; bytes per fiber):
//!
//! | stack size | resident (`VmRSS`) | page tables (`VmPTE`) | together | address space |
//! | ---: | ---: | ---: | ---: | ---: |
//! | 64 KiB | 4096 | 152 | 4248 | 7 GiB |
//! | 128 KiB | 4096 | 281 | 4377 | 13 GiB |
//! | 256 KiB | 4096 | 537 | 4633 | 26 GiB |
//! | 512 KiB | 4096 | 1050 | 5146 | 50 GiB |
//! | 1 MiB | 4096 | 2076 | 6172 | 99 GiB |
//!
//! # The life of a fiber
//!
//! ```text
//!             resume            suspend
//!   New ───────────────► Running ───────► Suspended
//!    │                    │   ▲              │   │
//!    │ drop, into_stack   │   └── resume ────┘   │ drop, abandon
//!    ▼                    ▼ entry returns        ▼
//!   stack back        Finished ──► stack back   abandoned: frames stay as they
//!                      drop, into_stack         are, stack leaked and counted
//! ```
//!
//! # Invariants
//!
//! - I1. A [`Stack`] owns its usable range; only its pool hands it out again.
//! - I2. That range stays mapped as long as the `Stack` exists, and for good if
//!   it was abandoned.
//! - I3. Every page of the guard faults on every access, also in a child of
//!   `fork` and after memory was given back.
//! - I4. The base of a stack is aligned to 16 bytes.
//! - I5. A fiber that has started and not finished is never unwound, and its
//!   stack is used for nothing else.
//! - I6. No panic leaves the bottom of a fiber: it aborts the process.
//! - I7. A [`Link`] is valid from the start of its fiber's entry to its return,
//!   and only for code that runs on that fiber.
//!
//! # What a switch keeps
//!
//! The callee-saved integer registers and the stack pointer. Not the control
//! bits of the floating-point unit (rounding mode, exception masks), which, like
//! the signal mask, belong to the thread: code that changes them must restore
//! them before it suspends. Backtraces and the unwinder walk from a running
//! fiber on to its resumer.
//!
//! # `fork`
//!
//! The child goes on running the fiber that forked, and may suspend and resume
//! all fibers of the forking thread, its memory being a copy; those that it will
//! not run again are abandoned. Fibers of other threads are lost with these.
//!
//! # Platform
//!
//! Linux, x86-64 and AArch64.

#[cfg(not(target_os = "linux"))]
compile_error!("lissom-fiber supports Linux only");

mod error;
mod fiber;
mod pool;
mod stack;
mod sys;
mod valgrind;

pub use error::StackError;
pub use fiber::{Fiber, Link, Progress, State};
pub use pool::{PoolSettings, StackPool, Stats};
pub use stack::Stack;
pub use sys::Guard;

/// The smallest stack, in bytes.
///
/// It leaves room for the frame that the kernel puts there for a signal
/// handler: 3.5 KiB with AVX-512, 11 KiB with AMX (`getauxval(AT_MINSIGSTKSZ)`).
pub const MIN_STACK: usize = 16 * 1024;

/// The largest stack, in bytes: 1 GiB.
pub const MAX_STACK: usize = 1 << 30;
