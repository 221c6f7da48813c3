//! Growing delays between attempts, for what nobody tells of: CPython itself waits like this where `sem_timedwait` is
//! missing (`Modules/_multiprocessing/semaphore.c`).

/// In nanoseconds.
const FIRST: u64 = 100_000;
const LAST: u64 = 20_000_000;

/// The delay to come.
pub(super) struct Backoff(u64);

impl Backoff {
    pub(super) fn new() -> Backoff {
        Backoff(FIRST)
    }

    /// How long to wait now, in nanoseconds; the next time twice as long, up to a limit.
    pub(super) fn next(&mut self) -> u64 {
        let delay = self.0;
        self.0 = (delay * 2).min(LAST);
        delay
    }
}
