//! What a run counts: errors by kind, latencies in histograms.

use std::io;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Why a connection or a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The connection was refused: nothing listens there.
    Refused,
    /// The connection was not established in time.
    ConnectTimeout,
    /// No local port was free.
    NoPort,
    /// No file descriptor was free.
    NoFile,
    /// The server reset the connection.
    Reset,
    /// No whole answer in time.
    Timeout,
    /// An HTTP status other than 2xx and 304.
    Status,
    /// The connection ended within an answer.
    ShortBody,
    /// The connection ended where an answer was due.
    Eof,
    /// Bytes that are not an answer.
    Protocol,
    /// An echo that differs from what was sent.
    Mismatch,
    /// At a fixed rate: not sent, because no connection became free in time.
    Unsent,
    /// Any other error of the operating system.
    Other,
}

impl ErrorKind {
    /// Every kind, in the order of declaration.
    pub const ALL: [ErrorKind; 13] = [
        ErrorKind::Refused,
        ErrorKind::ConnectTimeout,
        ErrorKind::NoPort,
        ErrorKind::NoFile,
        ErrorKind::Reset,
        ErrorKind::Timeout,
        ErrorKind::Status,
        ErrorKind::ShortBody,
        ErrorKind::Eof,
        ErrorKind::Protocol,
        ErrorKind::Mismatch,
        ErrorKind::Unsent,
        ErrorKind::Other,
    ];

    /// The name used in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ErrorKind::Refused => "refused",
            ErrorKind::ConnectTimeout => "connect_timeout",
            ErrorKind::NoPort => "no_port",
            ErrorKind::NoFile => "no_file",
            ErrorKind::Reset => "reset",
            ErrorKind::Timeout => "timeout",
            ErrorKind::Status => "bad_status",
            ErrorKind::ShortBody => "short_body",
            ErrorKind::Eof => "eof",
            ErrorKind::Protocol => "protocol",
            ErrorKind::Mismatch => "mismatch",
            ErrorKind::Unsent => "unsent",
            ErrorKind::Other => "other",
        }
    }
}

impl From<&io::Error> for ErrorKind {
    fn from(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => ErrorKind::Refused,
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
                ErrorKind::Reset
            }
            io::ErrorKind::TimedOut => ErrorKind::ConnectTimeout,
            io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse => ErrorKind::NoPort,
            _ if error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) => ErrorKind::NoFile,
            _ => ErrorKind::Other,
        }
    }
}

/// Errors counted by kind.
#[derive(Clone, Debug, Default)]
pub struct Errors {
    counts: [u64; ErrorKind::ALL.len()],
}

impl Errors {
    /// Counts `count` errors of one kind.
    pub fn add(&mut self, kind: ErrorKind, count: u64) {
        self.counts[kind as usize] += count;
    }

    /// How many errors of one kind.
    #[must_use]
    pub fn get(&self, kind: ErrorKind) -> u64 {
        self.counts[kind as usize]
    }

    /// How many errors of all kinds.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The kinds that occurred, with their counts.
    pub fn seen(&self) -> impl Iterator<Item = (ErrorKind, u64)> + '_ {
        ErrorKind::ALL.into_iter().map(|kind| (kind, self.get(kind))).filter(|&(_, count)| count > 0)
    }
}

/// A distribution of durations: nanoseconds, three significant digits, up to an hour.
#[derive(Clone, Debug)]
pub struct Latencies {
    histogram: Histogram<u64>,
}

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

impl Latencies {
    const HIGHEST: u64 = 3600 * 1_000_000_000;

    /// An empty distribution.
    ///
    /// # Panics
    ///
    /// Never: the bounds are constants that the histogram accepts.
    #[must_use]
    pub fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, Self::HIGHEST, 3).expect("constant bounds");
        Self { histogram }
    }

    /// Adds one duration; one above an hour counts as an hour.
    pub fn record(&mut self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.histogram.saturating_record(nanos);
    }

    /// The figures that reports show.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let micros = |nanos: u64| nanos as f64 / 1000.0;
        let quantile = |q| micros(self.histogram.value_at_quantile(q));
        Summary {
            count: self.histogram.len(),
            min: micros(self.histogram.min()),
            mean: self.histogram.mean() / 1000.0,
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            p99_9: quantile(0.999),
            max: micros(self.histogram.max()),
        }
    }
}

/// A distribution in figures, in microseconds; all 0 when `count` is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// How many durations were recorded.
    pub count: u64,
    /// The smallest.
    pub min: f64,
    /// Their mean.
    pub mean: f64,
    /// The median.
    pub p50: f64,
    /// 90 % are at most this.
    pub p90: f64,
    /// 99 % are at most this.
    pub p99: f64,
    /// 99.9 % are at most this.
    pub p99_9: f64,
    /// The largest.
    pub max: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_apart_by_what_the_system_says() {
        let kind = |errno: rustix::io::Errno| ErrorKind::from(&io::Error::from(errno));
        use rustix::io::Errno;
        assert_eq!(kind(Errno::CONNREFUSED), ErrorKind::Refused);
        assert_eq!(kind(Errno::CONNRESET), ErrorKind::Reset);
        assert_eq!(kind(Errno::PIPE), ErrorKind::Reset);
        assert_eq!(kind(Errno::ADDRNOTAVAIL), ErrorKind::NoPort);
        assert_eq!(kind(Errno::MFILE), ErrorKind::NoFile);
        assert_eq!(kind(Errno::NETDOWN), ErrorKind::Other);
    }

    #[test]
    fn every_kind_has_a_name_and_a_place_of_its_own() {
        let mut errors = Errors::default();
        for (index, kind) in ErrorKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, index);
            errors.add(kind, 1);
        }
        let names: std::collections::HashSet<_> = errors.seen().map(|(k, _)| k.name()).collect();
        assert_eq!(names.len(), ErrorKind::ALL.len());
    }

    #[test]
    fn summary_is_in_microseconds() {
        let mut latencies = Latencies::new();
        for millis in 1..=100 {
            latencies.record(Duration::from_millis(millis));
        }
        let summary = latencies.summary();
        assert_eq!(summary.count, 100);
        assert!((summary.p50 / 50_000.0 - 1.0).abs() < 0.01, "{summary:?}");
        assert!((summary.p99 / 99_000.0 - 1.0).abs() < 0.01, "{summary:?}");
    }
}
