//! One stack: where its parts lie, and the way home to its pool.
//!
//! # Invariants
//!
//! - I1. A [`Stack`] owns its usable range: no other `Stack` covers any of it,
//!   and only the pool that it was taken from (its home) hands it out again.
//! - I2. The usable range of a `Stack` stays mapped, readable and writable, as
//!   long as the `Stack` exists, and for good once it was leaked.
//! - I3. Every page of the guard below the usable range faults on every access.
//! - I4. `base`, and so the header above it, is aligned to 16 bytes.
//!
//! ```text
//!             take                     Fiber::new
//!   pooled ─────────► owned (Stack) ◄────────────► under a Fiber
//!     ▲                 │   │        into_stack         │
//!     │ give            │   │ drop                      │ abandon, or drop
//!     ├─────────────────┘   ▼                           ▼ while suspended
//!     └───────────────── returned                     leaked
//!       next take
//! ```

use std::mem::ManuallyDrop;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use corosensei::stack::valgrind::ValgrindStackRegistration;
use corosensei::stack::{STACK_ALIGNMENT, StackPointer};

use crate::fiber::Link;

/// The sizes that all stacks of a pool have in common, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    pub(crate) page: usize,
    /// The usable part, above the guard.
    pub(crate) size: usize,
    pub(crate) guard: usize,
    /// The caller's part, at the very top.
    pub(crate) reserve: usize,
}

/// Guards are at least this long, so that a frame of a function compiled
/// without stack probes (CPython has some with a path buffer of 4 KiB) does not
/// step over one. Guard pages take address space only.
const GUARD: usize = 12 * 1024;

/// What a simple fiber needs beside the reserve: if less than this is left of
/// the top page, the page below counts as one that is always kept too.
const FIRST_FRAMES: usize = 1024;

impl Geometry {
    pub(crate) fn new(page: usize, size: usize, reserve: usize) -> Self {
        let guard = GUARD.next_multiple_of(page);
        // An odd number of pages from stack to stack spreads the top pages,
        // which are the ones in use, over all sets of the translation caches
        // (they are indexed by the low bits of the page number).
        let even = (size + guard).is_multiple_of(2 * page);
        let guard = if even { guard + page } else { guard };
        Self { page, size, guard, reserve }
    }

    /// From one stack to the next.
    pub(crate) fn stride(&self) -> usize {
        self.guard + self.size
    }

    /// The part at the top that every fiber uses: whole pages.
    pub(crate) fn head(&self) -> usize {
        let used = self.reserve + size_of::<Header>() + FIRST_FRAMES;
        used.next_multiple_of(self.page).min(self.size)
    }
}

/// What lies between the caller's reserve and the first frame.
#[repr(C, align(16))]
pub(crate) struct Header {
    /// The fiber's way back to its resumer: `None` before it first runs.
    pub(crate) link: Option<Link>,
    /// The next stack in the list of returned ones.
    next: *mut Header,
}

const _: () = assert!(size_of::<Header>().is_multiple_of(STACK_ALIGNMENT));

/// What the stacks of a pool share with it, and what outlives the pool while
/// any of them is still out.
#[derive(Debug)]
pub(crate) struct Home {
    pub(crate) geometry: Geometry,
    /// Stacks dropped rather than given, linked through their headers. Only
    /// ever emptied as a whole, so a compare-and-swap cannot mistake one list
    /// for another; no lock, so a child of `fork` cannot find one held.
    returned: AtomicPtr<Header>,
    pending: AtomicUsize,
    abandoned: AtomicUsize,
}

impl Home {
    pub(crate) fn new(geometry: Geometry) -> Self {
        Self {
            geometry,
            returned: AtomicPtr::new(ptr::null_mut()),
            pending: AtomicUsize::new(0),
            abandoned: AtomicUsize::new(0),
        }
    }

    /// Stacks in the list of returned ones.
    pub(crate) fn pending(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }

    /// Stacks leaked for good.
    pub(crate) fn abandoned(&self) -> usize {
        self.abandoned.load(Ordering::Relaxed)
    }

    /// Takes all returned stacks.
    pub(crate) fn collect(self: &Arc<Self>) -> Vec<Stack> {
        let mut stacks = Vec::new();
        // Acquire: pairs with the Release in `Stack::drop`, so the links are
        // visible here.
        let mut header = self.returned.swap(ptr::null_mut(), Ordering::Acquire);
        while let Some(node) = NonNull::new(header) {
            // SAFETY: a header in the list belongs to a stack without owner,
            // which stays mapped (I2); only this call has the list now.
            header = unsafe { (*node.as_ptr()).next };
            // SAFETY: the top lies one header and one reserve above, in the
            // same stack.
            let top = unsafe { node.cast::<u8>().add(size_of::<Header>() + self.geometry.reserve) };
            // SAFETY: dropping a stack left it without owner (I1).
            stacks.push(unsafe { Stack::from_top(top, Arc::clone(self)) });
        }
        self.pending.fetch_sub(stacks.len(), Ordering::Relaxed);
        stacks
    }
}

/// An owned machine stack, from [`StackPool::take`](crate::StackPool::take).
///
/// Give it back with [`StackPool::give`](crate::StackPool::give). One that is
/// dropped instead, on whatever thread, finds its way back too: its pool picks
/// it up when it has no other.
#[derive(Debug)]
pub struct Stack {
    top: NonNull<u8>,
    home: Arc<Home>,
    valgrind: ValgrindStackRegistration,
}

// SAFETY: a stack is memory with one owner (I1); what it shares with its pool
// is atomic. Memory that is not in use has no tie to a thread.
unsafe impl Send for Stack {}

impl Stack {
    /// Makes the owner of the stack that ends at `top`.
    ///
    /// # Safety
    /// The stack must be one of `home`'s, guarded, and without owner.
    pub(crate) unsafe fn from_top(top: NonNull<u8>, home: Arc<Home>) -> Self {
        let size = home.geometry.size;
        // SAFETY: the usable part reaches `size` bytes below the top (I2).
        let bottom = unsafe { top.sub(size) };
        Self { top, home, valgrind: ValgrindStackRegistration::new(bottom.as_ptr(), size) }
    }

    /// Returns the highest address, one past the last usable byte; page-aligned.
    #[must_use]
    pub fn top(&self) -> *mut u8 {
        self.top.as_ptr()
    }

    /// Returns the lowest usable address, just above the guard; page-aligned.
    #[must_use]
    pub fn bottom(&self) -> *mut u8 {
        // SAFETY: the usable part reaches `size` bytes below the top (I2).
        unsafe { self.top.as_ptr().sub(self.home.geometry.size) }
    }

    /// Returns the start of the bytes left to the caller, aligned to 16 bytes.
    ///
    /// They are the topmost [`reserve_len`](Self::reserve_len) bytes and share
    /// a page with the fiber's first frames. No fiber and no pool touches them
    /// between `take` and `give`. What they hold at first is unspecified.
    #[must_use]
    pub fn reserved(&self) -> *mut u8 {
        // SAFETY: `reserve` is checked to be smaller than the stack.
        unsafe { self.top.as_ptr().sub(self.home.geometry.reserve) }
    }

    /// Returns the length of the caller's part in bytes: the setting `reserve`
    /// rounded up to a multiple of 16.
    #[must_use]
    pub fn reserve_len(&self) -> usize {
        self.home.geometry.reserve
    }

    pub(crate) fn header(&self) -> NonNull<Header> {
        let below = self.home.geometry.reserve + size_of::<Header>();
        // SAFETY: the header lies right below the reserve, inside the stack.
        unsafe { self.top.sub(below).cast() }
    }

    pub(crate) fn home(&self) -> &Arc<Home> {
        &self.home
    }

    /// Gives up the stack without giving it back: it is never used again.
    pub(crate) fn abandon(self) {
        self.home.abandoned.fetch_add(1, Ordering::Relaxed);
        self.dismantle();
    }

    /// Forgets the stack, for a pool that unmaps it.
    pub(crate) fn dismantle(self) {
        let this = ManuallyDrop::new(self);
        // SAFETY: `this` is never used again, so the field is moved out once.
        drop(unsafe { ptr::read(&raw const this.home) });
        // SAFETY: as above.
        drop(unsafe { ptr::read(&raw const this.valgrind) });
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        let header = self.header().as_ptr();
        let returned = &self.home.returned;
        self.home.pending.fetch_add(1, Ordering::Relaxed);
        let mut first = returned.load(Ordering::Relaxed);
        loop {
            // SAFETY: the header is in this stack's own memory (I1, I2), and no
            // fiber runs on a stack that can be dropped.
            unsafe { (*header).next = first };
            // Release: the link must be visible to whoever takes the list.
            match returned.compare_exchange_weak(first, header, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(other) => first = other,
            }
        }
    }
}

// SAFETY: the guard below the usable part catches overflows (I3), the size is
// at least MIN_STACK, and base and limit are aligned (I4).
unsafe impl corosensei::stack::Stack for Stack {
    #[inline]
    fn base(&self) -> StackPointer {
        self.header().cast::<u8>().addr()
    }

    #[inline]
    fn limit(&self) -> StackPointer {
        let below = self.home.geometry.stride();
        // SAFETY: the guard lies below the usable part, in the same mapping.
        unsafe { self.top.sub(below) }.addr()
    }
}

/// The bounds of a stack that is under a fiber, as corosensei wants them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    base: StackPointer,
    limit: StackPointer,
}

impl Bounds {
    pub(crate) fn of(stack: &Stack) -> Self {
        use corosensei::stack::Stack as _;
        Self { base: stack.base(), limit: stack.limit() }
    }
}

// SAFETY: as for `Stack`, which the fiber holds beside this.
unsafe impl corosensei::stack::Stack for Bounds {
    #[inline]
    fn base(&self) -> StackPointer {
        self.base
    }

    #[inline]
    fn limit(&self) -> StackPointer {
        self.limit
    }
}
