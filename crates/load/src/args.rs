//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

/// Opens many connections to an HTTP/1.1 or echo server, keeps requests going on them, and reports
/// throughput, latency percentiles and errors.
///
/// Exits with 0 when all went well, 1 when there were errors (the report counts them by kind), 2 when
/// the run could not be made.
#[derive(Clone, Debug, Parser)]
#[command(name = "lissom-load", version, max_term_width = 100)]
pub struct Args {
    /// http://HOST:PORT/PATH or HOST:PORT, in place of --host, --port and --path
    pub target: Option<String>,

    /// Host name or address of the server
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,

    /// Port of the server
    #[arg(long)]
    pub port: Option<u16>,

    /// Path to GET; given several times, the paths are requested in turn
    #[arg(long = "path", value_name = "PATH")]
    pub paths: Vec<String>,

    /// File with one path to GET per line
    #[arg(long, value_name = "FILE")]
    pub paths_from: Option<PathBuf>,

    /// Send this many bytes and expect them back, in place of HTTP
    #[arg(long, value_name = "BYTES", conflicts_with_all = ["paths", "paths_from"])]
    pub echo: Option<usize>,

    /// Connections to open
    #[arg(short, long, default_value_t = 1, value_name = "N")]
    pub connections: usize,

    /// Seconds to measure [default: 10]
    #[arg(short, long, value_name = "SECONDS", value_parser = seconds, conflicts_with = "requests")]
    pub duration: Option<Duration>,

    /// Measure this many requests, in place of a time
    #[arg(short = 'n', long, value_name = "N")]
    pub requests: Option<u64>,

    /// Requests per second over all connections; latencies then count from the moment at which a
    /// request was due. Without it, each connection sends as soon as it has its answer
    #[arg(short, long, value_name = "PER_SECOND")]
    pub rate: Option<f64>,

    /// Seconds under load before measuring
    #[arg(long, default_value = "0", value_name = "SECONDS", value_parser = seconds)]
    pub warmup: Duration,

    /// Seconds to hold all connections open and idle before the load
    #[arg(long, default_value = "0", value_name = "SECONDS", value_parser = seconds)]
    pub settle: Duration,

    /// Connections to open per second
    #[arg(long, default_value_t = 10_000.0, value_name = "PER_SECOND")]
    pub ramp: f64,

    /// Connections being opened at one time [default: no limit]. A server that listens with a short
    /// queue (`http.server`: 5) loses those beyond it: the kernel then answers with SYN cookies, the
    /// connection looks open here, and the server may not come to know of it for minutes
    #[arg(long, value_name = "N")]
    pub pending: Option<usize>,

    /// Count a connection as open only when a first request on it, not measured, was answered: the
    /// kernel completes handshakes that the server has not accepted
    #[arg(long)]
    pub prime: bool,

    /// Seconds that a request may take from being sent
    #[arg(long, default_value = "30", value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Duration,

    /// Seconds that a handshake may take; a full accept queue costs at least one before the kernel
    /// sends the SYN again
    #[arg(long, default_value = "60", value_name = "SECONDS", value_parser = seconds)]
    pub connect_timeout: Duration,

    /// Acknowledge data at once (TCP_QUICKACK). Without it, a server that sends an answer in two small
    /// writes without TCP_NODELAY (`http.server`) waits 40 ms for the first to be acknowledged
    #[arg(long)]
    pub quickack: bool,

    /// Run on this CPU only
    #[arg(long, value_name = "N")]
    pub cpu: Option<usize>,

    /// Report CPU time and memory of this process, the server
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,

    /// Allow servers that are not on a loopback address
    #[arg(long)]
    pub allow_remote: bool,

    /// Write the report as JSON to FILE, or to standard output with "-"
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Write progress to standard error as JSON lines, every so many seconds
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "0.2",
          require_equals = true, value_parser = seconds)]
    pub progress: Option<Duration>,
}

/// Parses a number of seconds.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn seconds_must_be_finite_and_not_negative() {
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        assert!(seconds("-1").is_err() && seconds("inf").is_err() && seconds("x").is_err());
    }
}
