//! When requests are to be sent.

use std::time::{Duration, Instant};

/// Hands out the instants at which requests are meant to start.
///
/// In a closed loop that is whenever a connection is free. At a fixed rate the instants are laid
/// out in advance, and a request that is sent late because the server keeps all connections busy
/// keeps its early start: its latency then contains the wait that a user would have had. Counting
/// from the moment of sending would leave those waits out ("coordinated omission", Gil Tene).
#[derive(Clone, Debug)]
pub struct Pace {
    start: Instant,
    rate: Option<f64>,
    given: u64,
    /// No request is meant to start at or after this.
    end: Option<Instant>,
    /// Requests that may still be handed out.
    left: u64,
}

impl Pace {
    /// Starts now, at `rate` requests per second or, with `None`, in a closed loop.
    #[must_use]
    pub fn new(rate: Option<f64>, start: Instant) -> Self {
        Self { start, rate, given: 0, end: None, left: u64::MAX }
    }

    /// Hands out at most `count` requests from now on.
    pub fn limit(&mut self, count: u64) {
        self.left = count;
    }

    /// Hands out no request that is meant to start at or after `end`.
    pub fn stop_at(&mut self, end: Instant) {
        self.end = Some(end);
    }

    /// Whether a fixed rate is asked for.
    #[must_use]
    pub fn is_fixed(&self) -> bool {
        self.rate.is_some()
    }

    /// When the next request is meant to start; `None` when there is no further one.
    #[must_use]
    pub fn next(&self, now: Instant) -> Option<Instant> {
        if self.left == 0 {
            return None;
        }
        let next = match self.rate {
            // From the count and not by adding intervals: rounding must not add up.
            Some(rate) => self.start + Duration::from_secs_f64(self.given as f64 / rate),
            None => now,
        };
        match self.end {
            Some(end) if next >= end => None,
            _ => Some(next),
        }
    }

    /// Takes the next request if it is due: the instant at which it is meant to start.
    pub fn take(&mut self, now: Instant) -> Option<Instant> {
        let next = self.next(now).filter(|&next| next <= now)?;
        self.given += 1;
        self.left -= 1;
        Some(next)
    }

    /// How many requests may still be handed out; `u64::MAX` when there is no limit.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left
    }

    /// How many requests were meant to start before now and have not been taken.
    #[must_use]
    pub fn overdue(&self, now: Instant) -> u64 {
        let Some(rate) = self.rate else { return 0 };
        let until = self.end.map_or(now, |end| end.min(now));
        let elapsed = until.saturating_duration_since(self.start).as_secs_f64();
        ((elapsed * rate).ceil() as u64).saturating_sub(self.given).min(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_rate_keeps_the_intended_starts_of_late_requests() {
        let start = Instant::now();
        let mut pace = Pace::new(Some(100.0), start);
        let late = start + Duration::from_millis(35);
        let taken: Vec<_> = std::iter::from_fn(|| pace.take(late)).collect();
        let millis = |n| start + Duration::from_millis(n);
        assert_eq!(taken, [millis(0), millis(10), millis(20), millis(30)]);
        assert_eq!(pace.next(late), Some(millis(40)));
    }

    #[test]
    fn overdue_counts_what_should_have_started() {
        let start = Instant::now();
        let mut pace = Pace::new(Some(10.0), start);
        pace.stop_at(start + Duration::from_secs(1));
        pace.take(start);
        assert_eq!(pace.overdue(start + Duration::from_millis(450)), 4);
        assert_eq!(pace.overdue(start + Duration::from_secs(60)), 9);
    }

    #[test]
    fn closed_loop_is_always_due_until_its_limit_or_end() {
        let start = Instant::now();
        let mut pace = Pace::new(None, start);
        pace.limit(2);
        assert_eq!(pace.take(start), Some(start));
        assert_eq!(pace.take(start), Some(start));
        assert_eq!(pace.take(start), None);
        pace.limit(2);
        pace.stop_at(start);
        assert_eq!(pace.take(start), None);
    }
}
