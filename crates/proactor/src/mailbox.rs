//! The queue through which other threads reach a proactor, without lost wake-ups.
//!
//! One consumer (the proactor's thread), any number of producers. A letter is pushed under a mutex
//! (held for one push or one swap of vectors); whether the consumer must be woken is decided by
//! one atomic word of flags:
//!
//! ```text
//!   ASLEEP   the consumer is in the operating system, or about to enter it
//!   POSTED   something came since the consumer last took the flags
//!   CALLED   ... and it was a bare wake-up
//!   CLOSED   the consumer is gone
//! ```
//!
//! Producer: (P1) push the letter; (P2) `flags |= POSTED`; (P3) if the flags before P2 were ASLEEP
//! without POSTED, ring the bell. Consumer: (C1) `flags |= ASLEEP`; (C2) if POSTED was set before
//! C1, look without blocking, else block until the bell or an event; (C3) take and clear the
//! flags; (C4) if POSTED was set, take the letters.
//!
//! **No wake-up is lost.** P2, C1 and C3 modify the same word, so they have one total order.
//! - P2 before C1, no C3 between: C1 sees POSTED, the consumer does not block.
//! - P2 between C1 and C3: the first such producer sees ASLEEP without POSTED and rings; later
//!   ones see POSTED and rely on that ring. The bell makes a blocked or later blocking call return.
//! - P2 after C3: as the first case, with the next C1.
//! - C4 sees the letter: P1 precedes P2 in the producer, P2 releases, C3 acquires. A letter whose
//!   P2 comes after C3 may be taken early; the POSTED left behind costs one look too many.
//!
//! **At most one ring per sleep**: only the first P2 after C1 finds POSTED clear.
//!
//! A ring may arrive late, when the consumer was woken by something else: then a later sleep ends
//! early, once.
//!
//! Checked with loom: `RUSTFLAGS="--cfg loom" cargo test -p lissom-proactor --test loom --release`
//! (that test includes this file; `crate::sync` names loom's types there and std's here).

use crate::sync::{AtomicU32, Mutex, Ordering};

const POSTED: u32 = 1;
const ASLEEP: u32 = 2;
const CALLED: u32 = 4;
const CLOSED: u32 = 8;

/// Wakes the consumer out of the operating system.
pub(crate) trait Bell {
    /// Makes the consumer's current or next blocking call return. Must be async-signal-safe.
    fn ring(&self);
}

/// What the consumer found on waking.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// There may be letters: take them.
    pub(crate) letters: bool,
    /// `wake` was called.
    pub(crate) called: bool,
}

/// See the module's documentation.
pub(crate) struct Mailbox<T, B> {
    flags: AtomicU32,
    letters: Mutex<Vec<T>>,
    bell: B,
}

impl<T, B: Bell> Mailbox<T, B> {
    pub(crate) fn new(bell: B) -> Self {
        Mailbox { flags: AtomicU32::new(0), letters: Mutex::new(Vec::new()), bell }
    }

    pub(crate) fn bell(&self) -> &B {
        &self.bell
    }

    /// Producer: delivers `letter`; drops it when the mailbox is closed.
    pub(crate) fn post(&self, letter: T) {
        // Looked at before the lock as well: in a forked child the lock may be held for ever.
        if self.is_closed() {
            return;
        }
        {
            let mut letters = self.letters.lock().unwrap_or_else(|e| e.into_inner());
            if self.is_closed() {
                drop(letters);
                return;
            }
            letters.push(letter);
        }
        self.notify(POSTED);
    }

    /// Producer: wakes without a letter. Takes no lock: async-signal-safe.
    pub(crate) fn wake(&self) {
        self.notify(POSTED | CALLED);
    }

    fn notify(&self, bits: u32) {
        let before = self.flags.fetch_or(bits, Ordering::AcqRel);
        if before & (ASLEEP | POSTED | CLOSED) == ASLEEP {
            self.bell.ring();
        }
    }

    /// Consumer, before blocking (C1): false if it must not block.
    pub(crate) fn may_sleep(&self) -> bool {
        self.flags.fetch_or(ASLEEP, Ordering::AcqRel) & POSTED == 0
    }

    /// Consumer, after the operating system (C3).
    pub(crate) fn awake(&self) -> Found {
        let mut before = self.flags.load(Ordering::Relaxed);
        // A plain look in between, with nothing posted, needs no write to the shared word. A
        // producer that comes just after is seen by the next C1.
        if before & !CLOSED != 0 {
            before = self.flags.fetch_and(CLOSED, Ordering::AcqRel);
        }
        Found { letters: before & POSTED != 0, called: before & CALLED != 0 }
    }

    /// Consumer (C4): swaps the letters with `empty`, so that both vectors keep their capacity.
    pub(crate) fn take(&self, empty: &mut Vec<T>) {
        debug_assert!(empty.is_empty());
        let mut letters = self.letters.lock().unwrap_or_else(|e| e.into_inner());
        std::mem::swap(&mut *letters, empty);
    }

    /// Consumer, at its end: drops what is there and whatever comes.
    pub(crate) fn close(&self) {
        if self.flags.fetch_or(CLOSED, Ordering::AcqRel) & CLOSED != 0 {
            // By `close_in_child`, after which the lock must be left alone.
            return;
        }
        let letters = std::mem::take(&mut *self.letters.lock().unwrap_or_else(|e| e.into_inner()));
        // Outside the lock: what a letter owns may be anything.
        drop(letters);
    }

    /// In a forked child: closes without touching the lock. False if another thread held the lock
    /// at the fork, in which case the letters must never be touched again, not even dropped.
    pub(crate) fn close_in_child(&self) -> bool {
        self.flags.fetch_or(CLOSED, Ordering::AcqRel);
        self.letters.try_lock().is_ok()
    }

    fn is_closed(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & CLOSED != 0
    }
}
