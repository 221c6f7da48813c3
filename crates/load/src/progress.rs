//! Progress as JSON lines on standard error, for a caller that draws it.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use serde::Serialize;

/// The phases of a run, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Connections are being opened.
    Open,
    /// All are open and idle.
    Settle,
    /// Load that is not measured.
    Warmup,
    /// Load that is measured.
    Measure,
    /// No new requests; answers to old ones are awaited.
    Drain,
    /// The run is over.
    Done,
}

/// One line of progress.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Line {
    /// Where the run is.
    pub phase: Phase,
    /// Seconds since its start.
    pub elapsed: f64,
    /// Connections open (and answered once, with `--prime`).
    pub open: usize,
    /// Connections wanted.
    pub connections: usize,
    /// Requests answered while measuring.
    pub completed: u64,
    /// Errors of all kinds so far.
    pub errors: u64,
    /// How much of the phase is done, 0 to 1.
    pub fraction: f64,
}

/// Writes lines at an interval, and at each change of phase.
#[derive(Debug)]
pub struct Progress {
    interval: Option<Duration>,
    due: Instant,
    last: Option<Phase>,
}

impl Progress {
    /// Writes nothing when `interval` is `None`.
    #[must_use]
    pub fn new(interval: Option<Duration>) -> Self {
        Self { interval, due: Instant::now(), last: None }
    }

    /// Whether a line is due at `now` in `phase`.
    #[must_use]
    pub fn is_due(&self, now: Instant, phase: Phase) -> bool {
        self.interval.is_some() && (now >= self.due || self.last != Some(phase))
    }

    /// Writes a line. A caller that no longer reads is no reason to end the run.
    pub fn write(&mut self, now: Instant, line: &Line) {
        let Some(interval) = self.interval else { return };
        self.due = now + interval;
        self.last = Some(line.phase);
        if let Ok(mut text) = serde_json::to_vec(line) {
            text.push(b'\n');
            let _ = io::stderr().write_all(&text);
        }
    }
}
