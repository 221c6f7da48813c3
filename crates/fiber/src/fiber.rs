//! A function running on a stack of its own.
//!
//! # Invariants
//!
//! - I5. A fiber that has started and not finished is never unwound and its
//!   stack is never used for anything else: its frames may belong to a foreign
//!   interpreter (design, D7).
//! - I6. No panic leaves the bottom of a fiber: it ends the process.
//! - I7. A [`Link`] is valid from the start of its fiber's entry function until
//!   that returns, and only for code that runs on that fiber.

use std::any::Any;
use std::io::Write;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::abort;
use std::ptr::NonNull;

use corosensei::{Coroutine, CoroutineResult, Yielder};

use crate::Stack;
use crate::stack::Bounds;

/// What a fiber did when it was resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It suspended itself and can be resumed.
    Suspended,
    /// Its entry function returned; [`Fiber::into_stack`] has the stack.
    Finished,
}

/// Where a fiber is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Never resumed.
    New,
    /// Between a resume and the suspension or end that follows: on it now, or
    /// on a fiber that it resumed.
    Running,
    /// Suspended, to be resumed.
    Suspended,
    /// Its entry function returned.
    Finished,
}

/// The way from inside a fiber back to whoever resumed it.
///
/// One word, the same from the fiber's start to its end, so that code deep
/// inside foreign frames can keep it wherever it keeps what is current.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Link(NonNull<Yielder<(), ()>>);

impl Link {
    /// Suspends the fiber whose link this is; returns when it is resumed.
    ///
    /// # Safety
    /// As for [`Fiber::suspend`].
    #[inline]
    pub unsafe fn suspend(self) {
        // SAFETY: the fiber is running, by the caller's duty, so its yielder is
        // alive near the base of its stack (I7).
        unsafe { self.0.as_ref() }.suspend(());
    }

    /// Returns the link as a pointer, to be kept in foreign structures.
    #[must_use]
    #[inline]
    pub fn into_raw(self) -> NonNull<std::ffi::c_void> {
        self.0.cast()
    }

    /// Makes a link of a pointer again.
    ///
    /// # Safety
    /// The pointer must come from [`Link::into_raw`].
    #[must_use]
    #[inline]
    pub unsafe fn from_raw(raw: NonNull<std::ffi::c_void>) -> Self {
        Self(raw.cast())
    }
}

/// A function running on a [`Stack`].
///
/// Dropping one that is suspended does not unwind it: see [`Fiber::abandon`].
/// A fiber cannot be sent to another thread.
pub struct Fiber {
    /// Never dropped while started and unfinished (I5): that would unwind.
    coroutine: ManuallyDrop<Coroutine<(), (), (), Bounds>>,
    stack: ManuallyDrop<Stack>,
    finished: bool,
}

/// The largest entry closure, in bytes: it lies in the top page.
const MAX_ENTRY: usize = 256;

impl Fiber {
    /// Puts `entry` on `stack`, to run when first resumed.
    ///
    /// `entry` gets the [`Link`] with which to suspend. It may be at most 256
    /// bytes large, which is checked when compiling: it lies on the stack.
    /// A panic that reaches the end of `entry` prints a message and aborts the
    /// process.
    ///
    /// # Safety
    /// - The fiber must be resumed on one thread only.
    /// - Nothing may rely on destructors of values on its stack being run: when
    ///   the fiber is abandoned, or dropped while suspended, they are not.
    /// - Everything that runs on it must fit into the stack or check its depth;
    ///   what overflows hits the guard and dies by SIGSEGV.
    #[must_use]
    pub unsafe fn new<F>(stack: Stack, entry: F) -> Self
    where
        F: FnOnce(Link) + 'static,
    {
        const {
            assert!(size_of::<F>() <= MAX_ENTRY, "entry closure too large");
            assert!(align_of::<F>() <= 16, "entry closure aligned too strictly");
        }
        let header = stack.header();
        // SAFETY: the header is in the stack's own memory (stack.rs, I1 and I2).
        unsafe { (*header.as_ptr()).link = None };
        let bounds = Bounds::of(&stack);
        let coroutine = Coroutine::with_stack(bounds, move |yielder: &Yielder<(), ()>, ()| {
            let link = Link(NonNull::from(yielder));
            // SAFETY: the header is above the first frame, and the fiber owns
            // the stack while it runs.
            unsafe { (*header.as_ptr()).link = Some(link) };
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| entry(link))) {
                die_of_panic(&*payload);
            }
        });
        Self { coroutine: ManuallyDrop::new(coroutine), stack: ManuallyDrop::new(stack), finished: false }
    }

    /// Runs the fiber until it suspends itself or finishes.
    ///
    /// The caller may be on the thread's own stack or on another fiber.
    ///
    /// # Panics
    /// If the fiber has finished, or is running already.
    ///
    /// # Safety
    /// - The calling thread must be the one of the first resume.
    /// - What the fiber refers to must be alive.
    #[inline]
    pub unsafe fn resume(&mut self) -> Progress {
        match self.coroutine.resume(()) {
            CoroutineResult::Yield(()) => Progress::Suspended,
            CoroutineResult::Return(()) => {
                self.finished = true;
                Progress::Finished
            }
        }
    }

    /// Suspends the fiber whose `link` this is, from inside it; returns when it
    /// is resumed.
    ///
    /// # Safety
    /// The calling code must run on the fiber that `link` was made for, not on
    /// one that it resumed and not on another thread.
    #[inline]
    pub unsafe fn suspend(link: Link) {
        // SAFETY: passed on to the caller.
        unsafe { link.suspend() };
    }

    /// Returns the fiber's link, once it has started.
    #[must_use]
    pub fn link(&self) -> Option<Link> {
        // SAFETY: the header is in the fiber's own stack, which is mapped.
        unsafe { (*self.stack.header().as_ptr()).link }
    }

    /// Returns where the fiber is in its life.
    #[must_use]
    pub fn state(&self) -> State {
        if self.finished {
            State::Finished
        } else if self.coroutine.done() {
            // corosensei clears its stack pointer for the time of a resume.
            State::Running
        } else if self.coroutine.started() {
            State::Suspended
        } else {
            State::New
        }
    }

    /// Returns the stack that the fiber is on: for its bounds and its reserve.
    #[must_use]
    pub fn stack(&self) -> &Stack {
        &self.stack
    }

    /// Takes the stack of a fiber that has finished, or never started.
    ///
    /// In the latter case the entry closure is dropped.
    ///
    /// # Panics
    /// If the fiber is suspended or running. It is abandoned then.
    #[must_use]
    pub fn into_stack(self) -> Stack {
        let state = self.state();
        assert!(
            matches!(state, State::Finished | State::New),
            "the stack of a fiber can be taken when it has finished, not while {state:?}"
        );
        let mut this = ManuallyDrop::new(self);
        // SAFETY: dropped once, `this` being forgotten; in these states it drops
        // the entry closure or nothing, and unwinds nothing.
        unsafe { ManuallyDrop::drop(&mut this.coroutine) };
        // SAFETY: moved out once, `this` being forgotten.
        unsafe { ManuallyDrop::take(&mut this.stack) }
    }

    /// Forgets the fiber without unwinding it.
    ///
    /// For a fiber that can never run again: in the child of a `fork`, at the
    /// end of a process. No destructor on it runs; its stack stays mapped and is
    /// never used again, a leak that
    /// [`Stats::abandoned`](crate::Stats::abandoned) counts. A fiber that has
    /// finished or never started loses nothing: its stack goes back.
    pub fn abandon(self) {
        drop(self);
    }
}

impl Drop for Fiber {
    fn drop(&mut self) {
        let state = self.state();
        // SAFETY: a fiber is dropped once.
        let stack = unsafe { ManuallyDrop::take(&mut self.stack) };
        match state {
            State::New | State::Finished => {
                // SAFETY: dropped once; drops the entry closure or nothing.
                unsafe { ManuallyDrop::drop(&mut self.coroutine) };
                drop(stack);
            }
            // The frames stay as they are, for good (I5).
            State::Suspended | State::Running => stack.abandon(),
        }
    }
}

impl std::fmt::Debug for Fiber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fiber")
            .field("state", &self.state())
            .field("bottom", &self.stack.bottom())
            .field("top", &self.stack.top())
            .finish()
    }
}

/// Ends the process, because a panic has nowhere to go (I6).
#[cold]
fn die_of_panic(payload: &(dyn Any + Send)) -> ! {
    let text = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a value that is not a string");
    // Failure to print must not keep the process from ending.
    let _ = writeln!(
        std::io::stderr(),
        "lissom: fatal: a panic reached the bottom of a fiber ({text}); \
         it cannot cross the frames of the resumer, so the process is aborted"
    );
    abort();
}
