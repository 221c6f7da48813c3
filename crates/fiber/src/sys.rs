//! The system calls behind the stacks: one function per call, errors as `errno`.
//!
//! Nothing here knows what the memory is used for.

use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU8, Ordering};

/// `madvise` advice that makes pages fault for good without a mapping of their
/// own: Linux 6.13, madvise(2); not yet in `libc`.
const MADV_GUARD_INSTALL: libc::c_int = 102;

/// `prctl` option and sub-option that name an anonymous mapping: Linux 5.17,
/// PR_SET_VMA(2const).
const PR_SET_VMA: libc::c_int = 0x5356_4d41;
const PR_SET_VMA_ANON_NAME: libc::c_ulong = 0;

/// A failed call: its name and `errno`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failed {
    pub(crate) call: &'static str,
    pub(crate) errno: i32,
}

impl Failed {
    fn last(call: &'static str) -> Self {
        let errno = std::io::Error::last_os_error().raw_os_error();
        Self { call, errno: errno.unwrap_or(0) }
    }
}

/// How the low end of a stack is guarded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Guard {
    /// [`Guard::Marker`] where the kernel has it, else [`Guard::Page`].
    #[default]
    Auto,
    /// `MADV_GUARD_INSTALL` (Linux 6.13): marks in the page table. Takes no
    /// mapping, so the number of stacks has no limit but memory.
    Marker,
    /// `PROT_NONE` pages by `mprotect`: works on every kernel, takes two
    /// mappings for each stack out of `vm.max_map_count`.
    Page,
}

/// The size of a page, in bytes.
pub(crate) fn page_size() -> usize {
    // SAFETY: sysconf(3) has no preconditions.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    // POSIX demands an answer for _SC_PAGESIZE; 4096 is every target's minimum.
    usize::try_from(size).unwrap_or(4096)
}

/// Reserves `len` bytes of address space; memory is committed by touching it.
///
/// No huge pages: one would commit 2 MiB for a stack that uses 4 KiB.
pub(crate) fn reserve(len: usize) -> Result<NonNull<u8>, Failed> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_STACK;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice
    // touches no existing memory (mmap(2)).
    let start = unsafe { libc::mmap(ptr::null_mut(), len, protection, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(Failed::last("mmap"));
    }
    // SAFETY: the range is the mapping just made. A kernel without huge pages
    // answers EINVAL, which is as good.
    unsafe { libc::madvise(start, len, libc::MADV_NOHUGEPAGE) };
    // SAFETY: the range is ours and the name a C string without the characters
    // that the kernel refuses; failure (old kernel) only loses the name.
    unsafe { libc::prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, start, len, c"lissom stacks".as_ptr()) };
    NonNull::new(start.cast()).ok_or(Failed { call: "mmap", errno: libc::EFAULT })
}

/// Unmaps `len` bytes at `start`; says whether it succeeded.
///
/// It can fail: next to a merged neighbour, unmapping splits a mapping, which
/// the limit on mappings may forbid (munmap(2), ENOMEM).
///
/// # Safety
/// The range must be whole pages from [`reserve`] that nobody uses.
pub(crate) unsafe fn release(start: NonNull<u8>, len: usize) -> bool {
    // SAFETY: by the caller's duty nobody uses the range.
    unsafe { libc::munmap(start.as_ptr().cast(), len) == 0 }
}

/// Gives the memory of a range back to the system; it reads as zeros after.
///
/// `MADV_DONTNEED` rather than `MADV_FREE`: the latter returns pages only under
/// memory pressure, so resident sizes, which people and memory cgroups watch,
/// would never fall. Guard markers survive it (madvise(2)).
///
/// # Safety
/// The range must be whole pages from [`reserve`] whose contents nobody needs.
pub(crate) unsafe fn decommit(start: NonNull<u8>, len: usize) {
    // SAFETY: by the caller's duty the contents are not needed. Failure (EINVAL
    // on memory locked by mlockall(2)) leaves the pages resident: correct, if
    // not thrifty.
    unsafe { libc::madvise(start.as_ptr().cast(), len, libc::MADV_DONTNEED) };
}

/// What is known of guard markers on this kernel.
const UNKNOWN: u8 = 0;
const PRESENT: u8 = 1;
const ABSENT: u8 = 2;
static MARKERS: AtomicU8 = AtomicU8::new(UNKNOWN);

/// Makes every access to a range fault, for good.
///
/// # Safety
/// The range must be whole pages from [`reserve`] that nobody uses.
pub(crate) unsafe fn guard(start: NonNull<u8>, len: usize, kind: Guard) -> Result<(), Failed> {
    let try_marker = match kind {
        Guard::Page => false,
        Guard::Marker => true,
        Guard::Auto => MARKERS.load(Ordering::Relaxed) != ABSENT,
    };
    if try_marker {
        // SAFETY: by the caller's duty nobody uses the range.
        let result = unsafe { libc::madvise(start.as_ptr().cast(), len, MADV_GUARD_INSTALL) };
        if result == 0 {
            MARKERS.store(PRESENT, Ordering::Relaxed);
            return Ok(());
        }
        let failed = Failed::last("madvise");
        // EINVAL: a kernel before 6.13, or, on one that has markers, a range
        // locked by mlockall(2). Either way a page does the work.
        if kind == Guard::Marker || failed.errno != libc::EINVAL {
            return Err(failed);
        }
        // Only the first answer is about the kernel.
        let _ = MARKERS.compare_exchange(UNKNOWN, ABSENT, Ordering::Relaxed, Ordering::Relaxed);
    }
    // SAFETY: by the caller's duty nobody uses the range.
    if unsafe { libc::mprotect(start.as_ptr().cast(), len, libc::PROT_NONE) } == 0 {
        Ok(())
    } else {
        Err(Failed::last("mprotect"))
    }
}

/// Fills `pages` with one byte per page from `start` on, bit 0 saying that the
/// page is resident.
///
/// Where the call is refused, every page counts as resident: an upper bound.
///
/// # Safety
/// The range of `pages.len()` pages must be mapped.
pub(crate) unsafe fn resident(start: NonNull<u8>, pages: &mut [u8], page: usize) {
    let len = pages.len() * page;
    // SAFETY: `pages` holds one byte for each page of the mapped range
    // (mincore(2)).
    let result = unsafe { libc::mincore(start.as_ptr().cast(), len, pages.as_mut_ptr()) };
    if result != 0 {
        pages.fill(1);
    }
}
