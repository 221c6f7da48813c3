//! The server's CPU time and memory, read from `/proc/PID` while it runs.
//!
//! Seen from outside, so that every server is measured alike and does nothing for it. The CPU time
//! is the same that the server would get from getrusage(2), all threads included, to 10 ms.

use std::fs;
use std::io;

use serde::Serialize;

/// What `/proc/PID` said at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Sample {
    /// User and system time of all threads, also of those that have ended, in seconds.
    pub cpu_seconds: f64,
    /// The kernel's part of it.
    pub kernel_seconds: f64,
    /// Resident memory (`VmRSS`), in KiB.
    pub rss_kib: u64,
    /// Page tables (`VmPTE`), in KiB.
    pub page_tables_kib: u64,
    /// Threads.
    pub threads: u64,
    /// Context switches of the main thread, voluntary and not.
    pub context_switches: u64,
}

impl Sample {
    /// Resident memory and page tables, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        (self.rss_kib + self.page_tables_kib) * 1024
    }
}

/// Reads the CPU time and memory of process `pid`.
///
/// # Errors
///
/// `NotFound` when there is no such process, `InvalidData` when the files are not of proc(5)'s form.
pub fn sample(pid: u32) -> io::Result<Sample> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    parse(&stat, &status, ticks_per_second())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}")))
}

fn ticks_per_second() -> f64 {
    rustix::param::clock_ticks_per_second() as f64
}

fn parse(stat: &str, status: &str, ticks: f64) -> Option<Sample> {
    // The second field, the command, may contain blanks and parentheses.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let field = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').split_whitespace().next()?.parse().ok()
    };
    Some(Sample {
        cpu_seconds: (user + system) as f64 / ticks,
        kernel_seconds: system as f64 / ticks,
        rss_kib: field("VmRSS")?,
        page_tables_kib: field("VmPTE")?,
        threads: field("Threads")?,
        context_switches: field("voluntary_ctxt_switches")? + field("nonvoluntary_ctxt_switches")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_process_has_memory_and_threads() {
        let sample = sample(std::process::id()).expect("our own process");
        assert!(sample.rss_kib > 100 && sample.page_tables_kib > 0 && sample.threads > 0);
    }

    #[test]
    fn command_with_blanks_and_parentheses_is_skipped() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 1 2 3 4 150 50 0 0 20 0 9 0 0 0 0";
        let status = "Name:\ta) b\nVmRSS:\t  20 kB\nVmPTE:\t 4 kB\nThreads:\t9\n\
                      voluntary_ctxt_switches:\t1\nnonvoluntary_ctxt_switches:\t2\n";
        let sample = parse(stat, status, 100.0).expect("well formed");
        assert!((sample.cpu_seconds - 2.0).abs() < 1e-9 && (sample.kernel_seconds - 0.5).abs() < 1e-9);
        assert_eq!(sample.memory_bytes(), 24 * 1024);
        assert_eq!((sample.threads, sample.context_switches), (9, 3));
    }

    #[test]
    fn missing_process_is_not_found() {
        let error = sample(u32::MAX).expect_err("no such process");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
