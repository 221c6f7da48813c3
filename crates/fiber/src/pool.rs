//! The pool that stacks come from and go back to.
//!
//! # Why one per thread
//!
//! A fiber stays on the thread that first ran it, so its stack is wanted again
//! there. A pool of the thread's own needs no lock, hands out the stack that is
//! warmest in this core's cache, and can unmap everything when the thread ends.
//! What another thread frees (the last reference to a finished fiber may die
//! anywhere) comes back through a lock-free list: see [`Stack`].
//!
//! # How a freed stack is kept
//!
//! ```text
//!   give ──► warm (at most keep_warm): up to 32 KiB from the top stay committed
//!     │        last in, first out: the next take gets the hottest one
//!     └────► cold: nothing committed, only address space and its guard
//!   take:  warm, else cold, else returned, else a new one off a slab
//! ```

use std::ptr::NonNull;
use std::sync::Arc;

use crate::error::bad_stack_size;
use crate::stack::{Geometry, Home};
use crate::sys::{self, Guard};
use crate::{MAX_STACK, MIN_STACK, Stack, StackError, valgrind};

/// Stacks in the first slab, and in the largest; each slab doubles the last.
const FIRST_SLAB: usize = 64;
const LARGEST_SLAB: usize = 1024;

/// No slab is longer than this, in bytes, unless one stack is.
const SLAB_BYTES: usize = 1 << 30;

/// What a warm stack keeps committed at most, in bytes from its top. Deeper
/// memory goes back when the stack does: one deep recursion must not pin it.
/// Every page that goes back costs its next user a fault, 1-3 us, so this is
/// deep enough for ordinary request handlers.
const WARM_DEPTH: usize = 32 * 1024;

/// The length of a tide mark in bytes: see [`flooded`].
const TIDE_MARK: usize = 128;

/// How a pool's stacks are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolSettings {
    /// The usable size of a stack in bytes, the guard not counted: a multiple
    /// of the page size from [`MIN_STACK`] to [`MAX_STACK`].
    pub stack_size: usize,
    /// The bytes at the top of every stack left to the caller (see
    /// [`Stack::reserved`]), at most half of the stack; rounded up to a
    /// multiple of 16.
    pub reserve: usize,
    /// How many freed stacks stay committed.
    pub keep_warm: usize,
}

impl Default for PoolSettings {
    /// 256 KiB, no reserve, 64 warm stacks.
    fn default() -> Self {
        Self { stack_size: 256 * 1024, reserve: 0, keep_warm: 64 }
    }
}

/// The state of a pool, from [`StackPool::stats`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Stacks taken and neither given back, dropped nor abandoned.
    pub in_use: usize,
    /// Stacks ready to be taken again.
    pub pooled: usize,
    /// Bytes of memory that the stacks hold, in use or not, by mincore(2):
    /// pages swapped out do not count.
    pub committed_bytes: usize,
    /// Bytes of address space that the pool holds, guards included.
    pub reserved_bytes: usize,
    /// The largest `in_use` so far.
    pub peak_in_use: usize,
    /// Stacks lost for good under abandoned fibers.
    pub abandoned: usize,
}

/// A mapping that stacks are cut from, in order of address.
#[derive(Debug)]
struct Slab {
    start: NonNull<u8>,
    /// How many stacks fit.
    room: usize,
    /// How many of them have been cut, and so guarded.
    cut: usize,
}

/// A source of stacks for the fibers of one thread.
///
/// Dropping it unmaps what is not in use. Where a stack is still out, its slab
/// stays mapped for good.
#[derive(Debug)]
pub struct StackPool {
    home: Arc<Home>,
    keep_warm: usize,
    guard: Guard,
    /// Sorted by address.
    slabs: Vec<Slab>,
    /// The index of the slab cut last: where to look first.
    current: usize,
    warm: Vec<Stack>,
    cold: Vec<Stack>,
    /// Taken and not given, counting those returned or abandoned meanwhile.
    out: usize,
    peak: usize,
}

// SAFETY: the pool owns its mappings, and what it shares with its stacks is
// atomic. It may move with the thread that it serves.
unsafe impl Send for StackPool {}

impl StackPool {
    /// Makes an empty pool; nothing is mapped yet.
    ///
    /// # Errors
    /// [`StackError::BadSize`] where a setting is out of its range.
    pub fn new(settings: PoolSettings) -> Result<Self, StackError> {
        Self::with_guard(settings, Guard::Auto)
    }

    /// Makes an empty pool that guards its stacks in one certain way.
    ///
    /// # Errors
    /// As for [`StackPool::new`].
    pub fn with_guard(settings: PoolSettings, guard: Guard) -> Result<Self, StackError> {
        let page = sys::page_size();
        let size = settings.stack_size;
        if !(MIN_STACK..=MAX_STACK).contains(&size) || !size.is_multiple_of(page) {
            return Err(bad_stack_size(size, page));
        }
        if settings.reserve > size / 2 {
            return Err(StackError::BadSize {
                setting: "reserve",
                asked: settings.reserve,
                min: 0,
                max: size / 2,
                multiple_of: 1,
            });
        }
        let reserve = settings.reserve.next_multiple_of(16);
        Ok(Self {
            home: Arc::new(Home::new(Geometry::new(page, size, reserve))),
            keep_warm: settings.keep_warm,
            guard,
            slabs: Vec::new(),
            current: 0,
            warm: Vec::new(),
            cold: Vec::new(),
            out: 0,
            peak: 0,
        })
    }

    /// Takes a stack: the one given back last, else a new one.
    ///
    /// # Errors
    /// [`StackError::TooManyMappings`] and [`StackError::OutOfMemory`] at the
    /// limits of the system, [`StackError::Os`] for anything else. The pool
    /// stays as it was, and a later call may succeed.
    #[inline]
    pub fn take(&mut self) -> Result<Stack, StackError> {
        let stack = match self.warm.pop() {
            Some(stack) => stack,
            None => self.take_slow()?,
        };
        self.out += 1;
        self.peak = self.peak.max(self.in_use());
        Ok(stack)
    }

    /// Gives a stack back.
    ///
    /// Its memory goes back to the system where more than `keep_warm` stacks
    /// are free, and the part that only a deep recursion needs in any case. A
    /// stack of another pool goes to that pool.
    #[inline]
    pub fn give(&mut self, stack: Stack) {
        if Arc::ptr_eq(stack.home(), &self.home) {
            self.out -= 1;
            self.shelve(stack);
        }
    }

    /// Returns the number of stacks in use: cheap, unlike [`StackPool::stats`].
    #[must_use]
    #[inline]
    pub fn in_use(&self) -> usize {
        // Another thread may be returning a stack between the two reads.
        self.out.saturating_sub(self.home.abandoned() + self.home.pending())
    }

    /// Returns the state of the pool.
    ///
    /// Asks the kernel which pages are resident, at a cost that grows with the
    /// address space of the stacks that have been in use: not for a hot path.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let stride = self.home.geometry.stride();
        Stats {
            in_use: self.in_use(),
            pooled: self.warm.len() + self.cold.len() + self.home.pending(),
            committed_bytes: self.slabs.iter().map(|slab| self.committed(slab)).sum(),
            reserved_bytes: self.slabs.iter().map(|slab| slab.room * stride).sum(),
            peak_in_use: self.peak,
            abandoned: self.home.abandoned(),
        }
    }

    /// Gives back all memory of stacks that are not in use.
    ///
    /// Slabs without any stack in use are unmapped, and with them their page
    /// tables, which nothing else frees.
    pub fn trim(&mut self) {
        self.collect();
        for stack in &self.warm {
            self.decommit(stack, self.home.geometry.size);
        }
        self.cold.append(&mut self.warm);
        self.unmap_idle();
    }
}

impl StackPool {
    #[cold]
    fn take_slow(&mut self) -> Result<Stack, StackError> {
        if let Some(stack) = self.cold.pop() {
            return Ok(stack);
        }
        if self.home.pending() > 0 {
            self.collect();
            if let Some(stack) = self.warm.pop().or_else(|| self.cold.pop()) {
                return Ok(stack);
            }
        }
        self.cut()
    }

    /// Puts the stacks that were dropped rather than given back on the shelf.
    fn collect(&mut self) {
        for stack in self.home.collect() {
            self.out -= 1;
            self.shelve(stack);
        }
    }

    /// Puts a free stack away, and returns to the system what need not be kept.
    #[inline]
    fn shelve(&mut self, stack: Stack) {
        let Geometry { size, .. } = self.home.geometry;
        valgrind::make_defined(stack.bottom(), size);
        if self.warm.len() >= self.keep_warm {
            self.decommit(&stack, size);
            self.cold.push(stack);
            return;
        }
        let head = self.home.geometry.head();
        let kept = WARM_DEPTH.max(head);
        // The second mark may be on a page never touched, which reading would
        // map: look at it only where frames went below the head.
        if kept < size && flooded(&stack, head) && flooded(&stack, kept) {
            self.decommit(&stack, size - kept);
        }
        self.warm.push(stack);
    }

    /// Returns the lowest `len` bytes of a free stack to the system.
    fn decommit(&self, stack: &Stack, len: usize) {
        debug_assert_eq!(len % self.home.geometry.page, 0);
        if let Some(bottom) = NonNull::new(stack.bottom()) {
            // SAFETY: the bytes are the stack's, which is idle; `len` is whole
            // pages, being a difference of such.
            unsafe { sys::decommit(bottom, len) };
        }
    }

    /// Cuts a new stack off the current slab, or off a new one.
    fn cut(&mut self) -> Result<Stack, StackError> {
        let geometry = self.home.geometry;
        let has_room = |slab: &Slab| slab.cut < slab.room;
        let index = match self.slabs.get(self.current) {
            Some(slab) if has_room(slab) => self.current,
            _ => match self.slabs.iter().rposition(has_room) {
                Some(index) => index,
                None => self.grow()?,
            },
        };
        self.current = index;
        let slab = &mut self.slabs[index];
        // SAFETY: fewer stacks are cut than there is room for.
        let low = unsafe { slab.start.add(slab.cut * geometry.stride()) };
        // SAFETY: the range is the guard of a stack that nobody has seen yet.
        unsafe { sys::guard(low, geometry.guard, self.guard) }
            .map_err(|failed| StackError::from_errno(failed.call, failed.errno, geometry.guard))?;
        slab.cut += 1;
        // SAFETY: the stack lies between its guard and the next one's.
        let top = unsafe { low.add(geometry.stride()) };
        // SAFETY: it was just cut, and guarded.
        Ok(unsafe { Stack::from_top(top, Arc::clone(&self.home)) })
    }

    /// Maps a new slab, twice as large as the largest so far, or as large as
    /// the limits allow; returns its index.
    fn grow(&mut self) -> Result<usize, StackError> {
        let stride = self.home.geometry.stride();
        let most = (SLAB_BYTES / stride).clamp(1, LARGEST_SLAB);
        let largest = self.slabs.iter().map(|slab| slab.room).max();
        let mut room = largest.map_or(FIRST_SLAB, |room| room * 2).min(most);
        let start = loop {
            match sys::reserve(room * stride) {
                Ok(start) => break start,
                // Near a limit a smaller slab may still fit.
                Err(failed) if failed.errno == libc::ENOMEM && room > 1 => room /= 2,
                Err(failed) => {
                    return Err(StackError::from_errno(failed.call, failed.errno, room * stride));
                }
            }
        };
        let index = self.slabs.partition_point(|slab| slab.start < start);
        self.slabs.insert(index, Slab { start, room, cut: 0 });
        Ok(index)
    }

    /// Unmaps the slabs all of whose stacks are shelved.
    fn unmap_idle(&mut self) {
        let stride = self.home.geometry.stride();
        let mut shelved = vec![0; self.slabs.len()];
        for stack in self.warm.iter().chain(&self.cold) {
            shelved[self.slab_of(stack)] += 1;
        }
        let busy = |index: usize| self.slabs[index].cut > shelved[index];
        let (warm, cold) = (std::mem::take(&mut self.warm), std::mem::take(&mut self.cold));
        let keep = |shelf: Vec<Stack>| -> Vec<Stack> {
            let (kept, idle) = shelf.into_iter().partition(|stack| busy(self.slab_of(stack)));
            Vec::into_iter(idle).for_each(Stack::dismantle);
            kept
        };
        let (warm, cold) = (keep(warm), keep(cold));
        (self.warm, self.cold) = (warm, cold);

        let mut index = 0;
        self.slabs.retain_mut(|slab| {
            let idle = slab.cut <= shelved[index];
            index += 1;
            // SAFETY: no stack of an idle slab is out, and those that were
            // shelved have been dismantled, so nobody uses it.
            if idle && unsafe { sys::release(slab.start, slab.room * stride) } {
                return false;
            }
            if idle {
                // Still mapped, by the limit on mappings: to be cut afresh.
                slab.cut = 0;
            }
            true
        });
    }

    /// The index of the slab that `stack` was cut from.
    fn slab_of(&self, stack: &Stack) -> usize {
        let bottom = stack.bottom();
        let above = |slab: &Slab| slab.start.as_ptr() <= bottom;
        self.slabs.partition_point(above) - 1
    }

    /// The resident bytes of a slab's stacks.
    fn committed(&self, slab: &Slab) -> usize {
        let geometry = self.home.geometry;
        let page = geometry.page;
        let (stride, guard) = (geometry.stride() / page, geometry.guard / page);
        let mut pages = [0_u8; 2048];
        let mut resident = 0;
        let end = slab.cut * stride;
        for first in (0..end).step_by(pages.len()) {
            let pages = &mut pages[..(end - first).min(2048)];
            // SAFETY: fewer pages than the slab is long.
            let start = unsafe { slab.start.add(first * page) };
            // SAFETY: the pages are those of the slab, which is mapped.
            unsafe { sys::resident(start, pages, page) };
            // Kernels differ in whether a guard marker counts as resident.
            let usable = |at: usize| (first + at) % stride >= guard;
            resident += (0..pages.len()).filter(|&at| usable(at) && pages[at] & 1 == 1).count();
        }
        resident * page
    }
}

/// Says whether frames of an idle stack went deeper than `depth` bytes, whole
/// pages, and forgets it.
///
/// Looks at the tide mark: zero in fresh memory, and stepped on by whatever
/// grows past it. Asking the kernel instead would be exact, but a call to
/// mincore(2) costs 700 ns, twenty times the life of a small fiber. Frames that
/// leave all of the mark untouched keep memory until the stack is used again,
/// goes cold or is trimmed.
#[inline]
fn flooded(stack: &Stack, depth: usize) -> bool {
    // SAFETY: depths asked for are inside the stack.
    let mark = unsafe { stack.top().sub(depth) }.cast::<[u64; TIDE_MARK / 8]>();
    // SAFETY: the stack is owned and idle (stack.rs, I1); the mark lies in it,
    // is page-aligned, and any bytes make integers.
    let mark = unsafe { &mut *mark };
    let flooded = mark.iter().fold(0, |all, word| all | word) != 0;
    if flooded {
        mark.fill(0);
    }
    flooded
}

impl Drop for StackPool {
    fn drop(&mut self) {
        self.collect();
        self.unmap_idle();
        for stack in self.warm.drain(..).chain(self.cold.drain(..)) {
            // Its slab stays mapped, with the stack that is still out.
            stack.dismantle();
        }
    }
}
