//! What a run found, as JSON and as a table.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::engine::Outcome;
use crate::plan::Plan;
use crate::stats::Summary;
use crate::watch::Sample;

/// The result of a run. Times are in seconds, latencies in microseconds, memory in bytes unless the
/// name says otherwise.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The version of this tool.
    pub version: &'static str,
    /// `HOST:PORT`.
    pub target: String,
    /// `http` or `echo`.
    pub mode: &'static str,
    /// Requests per second asked for; none in a closed loop.
    pub rate: Option<f64>,
    /// Connections.
    pub connections: Connections,
    /// Requests.
    pub requests: Requests,
    /// From when a request was due (fixed rate) or sent (closed loop) to its answer.
    pub latency_us: Summary,
    /// From when it was sent to its answer.
    pub service_us: Summary,
    /// Errors by kind, kinds without errors left out.
    pub errors: BTreeMap<&'static str, u64>,
    /// Their sum.
    pub errors_total: u64,
    /// This tool's own CPU time while measuring.
    pub client_cpu_seconds: f64,
    /// The server's process, if it was named.
    pub server: Option<Server>,
    /// What the user should know before trusting the figures.
    pub warnings: Vec<String>,
}

/// Connections in a [`Report`].
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "described at Outcome, field by field")]
pub struct Connections {
    pub wanted: usize,
    pub opened: usize,
    pub open_seconds: f64,
    pub reopened: u64,
    pub closed_by_server: u64,
    pub connect_us: Summary,
}

/// Requests in a [`Report`].
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "described at Outcome, field by field")]
pub struct Requests {
    pub seconds: f64,
    pub completed: u64,
    pub per_second: f64,
    pub drained: u64,
    pub bytes: u64,
}

/// The server's process in a [`Report`].
#[derive(Clone, Debug, Serialize)]
pub struct Server {
    /// CPU time while measuring.
    pub cpu_seconds: f64,
    /// The same for each request that was answered.
    pub cpu_us_per_request: f64,
    /// The kernel's part of that.
    pub kernel_us_per_request: f64,
    /// What each open idle connection added to resident memory and page tables; 0 when none was opened.
    pub memory_per_connection: f64,
    /// Before the first connection.
    pub before: Sample,
    /// With all connections open and idle.
    pub open: Sample,
    /// At the start of measuring.
    pub start: Sample,
    /// At its end.
    pub end: Sample,
}

impl Report {
    /// Puts together what `plan` asked for and what came out.
    #[must_use]
    pub fn new(plan: &Plan, outcome: &Outcome) -> Self {
        let seconds = outcome.measured.as_secs_f64();
        let per = |amount: f64, count: f64| if count > 0.0 { amount / count } else { 0.0 };
        Self {
            version: env!("CARGO_PKG_VERSION"),
            target: plan.target.clone(),
            mode: plan.work.name(),
            rate: plan.rate,
            connections: Connections {
                wanted: plan.connections,
                opened: outcome.opened,
                open_seconds: outcome.open_time.as_secs_f64(),
                reopened: outcome.reopened,
                closed_by_server: outcome.closed_by_server,
                connect_us: outcome.connect.summary(),
            },
            requests: Requests {
                seconds,
                completed: outcome.completed,
                per_second: per(outcome.completed as f64, seconds),
                drained: outcome.drained,
                bytes: outcome.bytes,
            },
            latency_us: outcome.latency.summary(),
            service_us: outcome.service.summary(),
            errors: outcome.errors.seen().map(|(kind, count)| (kind.name(), count)).collect(),
            errors_total: outcome.errors.total(),
            client_cpu_seconds: outcome.own_cpu,
            server: outcome.server.map(|[before, open, start, end]| {
                let cpu_seconds = end.cpu_seconds - start.cpu_seconds;
                let memory = open.memory_bytes() as f64 - before.memory_bytes() as f64;
                Server {
                    cpu_seconds,
                    cpu_us_per_request: per(cpu_seconds * 1e6, outcome.completed as f64),
                    kernel_us_per_request: per(
                        (end.kernel_seconds - start.kernel_seconds) * 1e6,
                        outcome.completed as f64,
                    ),
                    memory_per_connection: per(memory, outcome.opened as f64),
                    before,
                    open,
                    start,
                    end,
                }
            }),
            warnings: plan.warnings.clone(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row = |name: &str, value: String| writeln!(f, "{name:<22} {value}");
        let connections = &self.connections;
        row(
            "connections",
            format!(
                "{} of {} open after {:.2} s, handshake p50 {} max {}",
                connections.opened,
                connections.wanted,
                connections.open_seconds,
                time(connections.connect_us.p50),
                time(connections.connect_us.max),
            ),
        )?;
        if connections.reopened + connections.closed_by_server > 0 {
            let (again, closed) = (connections.reopened, connections.closed_by_server);
            row("", format!("{again} opened again, {closed} closed by the server"))?;
        }
        let requests = &self.requests;
        row("requests", format!("{} in {:.2} s, {:.0}/s", requests.completed, requests.seconds, requests.per_second))?;
        let name = match self.rate {
            Some(_) => "latency (from due)",
            None => "latency (from sent)",
        };
        row(name, line(&self.latency_us))?;
        if self.rate.is_some() {
            row("latency (from sent)", line(&self.service_us))?;
        }
        if let Some(server) = &self.server {
            row(
                "server",
                format!(
                    "{:.1} µs CPU per request, {:.1} KiB memory per connection, {} threads",
                    server.cpu_us_per_request,
                    server.memory_per_connection / 1024.0,
                    server.open.threads,
                ),
            )?;
        }
        let kinds: Vec<_> = self.errors.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        row("errors", if kinds.is_empty() { "none".to_owned() } else { kinds.join(", ") })
    }
}

/// A distribution in one line.
fn line(summary: &Summary) -> String {
    let Summary { p50, p90, p99, p99_9, max, .. } = *summary;
    let [p50, p90, p99, p99_9, max] = [p50, p90, p99, p99_9, max].map(time);
    format!("p50 {p50}  p90 {p90}  p99 {p99}  p99.9 {p99_9}  max {max}")
}

/// Microseconds in the unit that suits them.
fn time(micros: f64) -> String {
    match micros {
        ..1e3 => format!("{micros:.1} µs"),
        1e3..1e6 => format!("{:.2} ms", micros / 1e3),
        _ => format!("{:.2} s", micros / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_in_the_unit_that_suits_them() {
        assert_eq!(time(12.34), "12.3 µs");
        assert_eq!(time(12_340.0), "12.34 ms");
        assert_eq!(time(12_340_000.0), "12.34 s");
    }
}
