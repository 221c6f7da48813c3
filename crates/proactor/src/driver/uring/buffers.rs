//! Buffers that the kernel chooses from when something has arrived (`IORING_REGISTER_PBUF_RING`, Linux 5.19).
//!
//! A connection that waits holds no buffer; what arrives is copied out and its buffer given back at once. So the pool
//! bounds what one visit to the kernel may bring, not how many connections there are: when it is used up, ops end with
//! `ENOBUFS`, which loses nothing, as the data stays in the socket.
//!
//! ```text
//!   start: | entry 0 | entry 1 | ... | entry COUNT-1 | buffer 0 | ... | buffer COUNT-1 |
//!             └ its last two bytes are the tail: how many entries have ever been filled
//! ```
//!
//! - I1: the mapping lives from before its registration until after the ring's last op has ended.
//! - I2: a buffer is the kernel's from the store to the tail until a completion names it, ours from there to the next
//!   store. A completion names a buffer once.
//! - I3: each buffer stands in one entry at most, so that the entries never overtake the kernel: there are as many.

use std::io;
use std::mem;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

use crate::op::MANY_ROOM;

/// How many buffers; a power of two.
const COUNT: u16 = 128;

/// The only group of buffers of a ring.
pub(super) const GROUP: u16 = 0;

const ENTRIES: usize = COUNT as usize * mem::size_of::<BufRingEntry>();
const LENGTH: usize = ENTRIES + COUNT as usize * MANY_ROOM;

/// See the module's documentation.
pub(super) struct Buffers {
    start: NonNull<u8>,
    tail: u16,
}

// SAFETY: the mapping belongs to the value alone, and to the kernel by I2, whichever thread uses it.
unsafe impl Send for Buffers {}

impl Buffers {
    /// Makes the buffers and hands them to the kernel.
    ///
    /// # Errors
    /// `EINVAL` before Linux 5.19; `ENOMEM`.
    ///
    /// # Safety
    /// They are dropped after the ring's last op has ended (I1).
    pub(super) unsafe fn register(ring: &IoUring) -> io::Result<Buffers> {
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping, where the kernel likes.
        let start = unsafe { libc::mmap(ptr::null_mut(), LENGTH, prot, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let mut buffers = Buffers { start, tail: 0 };
        let place = buffers.start.as_ptr() as u64;
        // SAFETY: on a page boundary, long enough, zeroed: no entry is filled. It lives on by the caller's duty.
        unsafe { ring.submitter().register_buf_ring_with_flags(place, COUNT, GROUP, 0) }?;
        for id in 0..COUNT {
            buffers.give(id);
        }
        Ok(buffers)
    }

    /// Copies out what a completion says to be in buffer `id`, and gives the buffer back.
    pub(super) fn take(&mut self, id: u16, length: i32) -> Vec<u8> {
        let length = usize::try_from(length).unwrap_or(0).min(MANY_ROOM);
        // SAFETY: `length` bytes of a buffer that is ours since its completion (I2); zeroed by mmap, then written to.
        let bytes = unsafe { std::slice::from_raw_parts(self.buffer(id), length) }.to_vec();
        self.give(id);
        bytes
    }

    /// Where buffer `id` begins.
    fn buffer(&self, id: u16) -> *const u8 {
        // SAFETY: within the mapping, as the remainder is less than COUNT.
        unsafe { self.start.as_ptr().add(ENTRIES + usize::from(id % COUNT) * MANY_ROOM) }
    }

    /// Hands buffer `id` to the kernel.
    fn give(&mut self, id: u16) {
        let first = self.start.as_ptr().cast::<BufRingEntry>();
        // SAFETY: within the mapping.
        let entry = unsafe { first.add(usize::from(self.tail % COUNT)) };
        // SAFETY: aligned, and zeroes are a valid entry. The kernel reads none beyond the tail (I3), and of this one at
        // most the tail itself, which is not written to here.
        let entry = unsafe { &mut *entry };
        entry.set_addr(self.buffer(id) as u64);
        entry.set_len(MANY_ROOM as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the first entry is initialised.
        let tail = unsafe { BufRingEntry::tail(first) }.cast_mut();
        // SAFETY: aligned, lives as long as the mapping, and others (the kernel) only read it.
        let tail = unsafe { AtomicU16::from_ptr(tail) };
        // The kernel must see the entry before it sees that there is one.
        tail.store(self.tail, Ordering::Release);
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: the mapping made above, which no op uses any more (I1). The kernel holds the pages of the entries itself.
        unsafe { libc::munmap(self.start.as_ptr().cast(), LENGTH) };
    }
}
