//! Process-wide generations of descriptor numbers.
//!
//! A number such as 7 names one file now and another after `close` and `open`. Each number
//! therefore has a generation, bumped when its owner closes it. A registration remembers the
//! generation that it was made for and is void when the two differ. Every thread's proactor reads
//! the same table, so a close on one thread voids the registrations of all.
//!
//! The table is two-level: a fixed directory of pointers to chunks, each made when the first
//! descriptor in it is closed. No lock is taken, so a fork cannot catch one held.
//!
//! - I1: a directory slot is null or points to a chunk leaked from a `Box`; it is set once, by
//!   compare-and-swap from null, and never changes again. So a pointer read from it is valid for ever.
//! - I2: a number without a chunk has generation 0.
//!
//! ```text
//!   DIRECTORY [ null | * | null | ... ]      1024 slots
//!                      |
//!                      +--> [ g g g g ... ]  1024 generations, fds 1024..2047
//! ```

use std::os::fd::RawFd;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

/// Numbers from here on have no generation: their registrations are never kept.
pub(crate) const LIMIT: RawFd = 1 << 20;

const CHUNK: usize = 1 << 10;
const CHUNKS: usize = LIMIT as usize / CHUNK;

type Chunk = [AtomicU32; CHUNK];

static DIRECTORY: [AtomicPtr<Chunk>; CHUNKS] = [const { AtomicPtr::new(ptr::null_mut()) }; CHUNKS];

/// Tells every thread's proactor that descriptor `fd` is about to be closed by its owner, so that
/// none takes its old registration for the next file of that number.
///
/// Call it *before* close(2): afterwards another thread may already have been given the number.
/// [`Proactor::forget`](crate::Proactor::forget) includes it and also ends the waits of its own
/// proactor. Ops of *other* proactors that wait on `fd` end with [`Errno::CANCELED`] when their
/// proactor next meets the number; until then they wait, as a thread blocked in recv(2) does when
/// another closes its socket.
///
/// Takes no lock and may be called from any thread. Numbers that are negative or beyond 2^20 are
/// ignored: nothing is ever kept for them.
///
/// [`Errno::CANCELED`]: crate::Errno::CANCELED
pub fn closed(fd: RawFd) {
    if let Some((chunk, at)) = place(fd) {
        let chunk = load(chunk).unwrap_or_else(|| install(chunk));
        chunk[at].fetch_add(1, Ordering::AcqRel);
    }
}

/// The generation of `fd`; 0 for numbers that have none.
pub(crate) fn current(fd: RawFd) -> u32 {
    let Some((chunk, at)) = place(fd) else {
        return 0;
    };
    load(chunk).map_or(0, |chunk| chunk[at].load(Ordering::Acquire))
}

fn place(fd: RawFd) -> Option<(usize, usize)> {
    let number = usize::try_from(fd).ok()?;
    (fd < LIMIT).then_some((number / CHUNK, number % CHUNK))
}

fn load(chunk: usize) -> Option<&'static Chunk> {
    let found = DIRECTORY[chunk].load(Ordering::Acquire);
    // SAFETY: null or a leaked chunk (I1); the acquire load sees its initialised contents.
    unsafe { found.as_ref() }
}

fn install(chunk: usize) -> &'static Chunk {
    // Collected rather than written as an array, which would pass over a (maybe small) stack.
    let fresh: Box<[AtomicU32]> = (0..CHUNK).map(|_| AtomicU32::new(0)).collect();
    let fresh: Box<Chunk> = fresh.try_into().expect("CHUNK elements were collected");
    let fresh = Box::into_raw(fresh);
    let slot = &DIRECTORY[chunk];
    match slot.compare_exchange(ptr::null_mut(), fresh, Ordering::AcqRel, Ordering::Acquire) {
        // SAFETY: just leaked from a box, and from now on never freed (I1).
        Ok(_) => unsafe { &*fresh },
        Err(earlier) => {
            // SAFETY: the exchange failed, so `fresh` was not published and is ours alone.
            drop(unsafe { Box::from_raw(fresh) });
            // SAFETY: not null, hence a leaked chunk (I1).
            unsafe { &*earlier }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Numbers far above any descriptor that another test opens.
    #[test]
    fn closing_bumps_one_number_only() {
        let before = (current(900_000), current(900_001));
        closed(900_000);
        assert_eq!((current(900_000), current(900_001)), (before.0 + 1, before.1));
    }

    #[test]
    fn concurrent_closes_are_all_counted() {
        let before = current(950_000);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..250).for_each(|_| closed(950_000)));
            }
        });
        assert_eq!(current(950_000), before + 1000);
    }

    #[test]
    fn numbers_out_of_range_are_ignored() {
        for fd in [-1, RawFd::MIN, LIMIT, RawFd::MAX] {
            closed(fd);
            assert_eq!(current(fd), 0);
        }
    }
}
