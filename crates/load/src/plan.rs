//! A run as asked for, checked and resolved.

use std::fs;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use crate::args::Args;
use crate::{http, limits};

/// What is sent and expected.
#[derive(Clone, Debug)]
pub enum Work {
    /// GET requests, in turn.
    Http {
        /// The bytes of each.
        requests: Vec<Vec<u8>>,
    },
    /// Bytes that are expected back.
    Echo {
        /// They.
        payload: Vec<u8>,
    },
}

impl Work {
    /// The bytes of request number `index`, counted round and round.
    #[must_use]
    pub fn request(&self, index: usize) -> &[u8] {
        match self {
            Work::Http { requests } => &requests[index % requests.len()],
            Work::Echo { payload } => payload,
        }
    }

    /// `http` or `echo`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Work::Http { .. } => "http",
            Work::Echo { .. } => "echo",
        }
    }
}

/// When measuring ends.
#[derive(Clone, Copy, Debug)]
pub enum Stop {
    /// After this time.
    After(Duration),
    /// With the answer to this many requests.
    Requests(u64),
}

/// A run: where to, what, how much. The fields are those of [`Args`], which describes them.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "described at Args, field by field")]
pub struct Plan {
    pub target: String,
    pub address: SocketAddr,
    pub sources: Vec<Option<IpAddr>>,
    pub work: Work,
    pub connections: usize,
    pub stop: Stop,
    pub rate: Option<f64>,
    pub warmup: Duration,
    pub settle: Duration,
    pub ramp: f64,
    pub pending: usize,
    pub prime: bool,
    pub quickack: bool,
    pub timeout: Duration,
    pub connect_timeout: Duration,
    pub cpu: Option<usize>,
    pub server_pid: Option<u32>,
    pub progress: Option<Duration>,
    /// What the user should know before the run.
    pub warnings: Vec<String>,
}

impl Plan {
    /// Checks the arguments and resolves the server's address.
    ///
    /// # Errors
    ///
    /// A message that names the argument and says what is expected.
    pub fn new(args: Args) -> Result<Self, String> {
        let Target { host, port, path } = Target::of(&args)?;
        for (name, number) in [("--ramp", Some(args.ramp)), ("--rate", args.rate)] {
            if number.is_some_and(|number| !(number.is_finite() && number > 0.0)) {
                return Err(format!("{name}: expected a number above 0"));
            }
        }
        let counts = [
            ("--connections", Some(args.connections)),
            ("--pending", args.pending),
            ("--echo", args.echo),
            ("--requests", args.requests.map(|count| usize::from(count > 0))),
        ];
        if let Some((name, _)) = counts.iter().find(|(_, count)| *count == Some(0)) {
            return Err(format!("{name}: expected a number above 0"));
        }
        let address = resolve(&host, port, args.allow_remote)?;
        let (sources, warning) = limits::sources(args.connections, address.ip(), limits::local_ports());
        let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        Ok(Self {
            work: work(&args, &authority, path)?,
            target: authority,
            address,
            sources,
            connections: args.connections,
            stop: match (args.duration, args.requests) {
                (_, Some(count)) => Stop::Requests(count),
                (time, None) => Stop::After(time.unwrap_or(Duration::from_secs(10))),
            },
            rate: args.rate,
            warmup: args.warmup,
            settle: args.settle,
            ramp: args.ramp,
            pending: args.pending.unwrap_or(usize::MAX),
            prime: args.prime,
            quickack: args.quickack,
            timeout: args.timeout,
            connect_timeout: args.connect_timeout,
            cpu: args.cpu,
            server_pid: args.server_pid,
            progress: args.progress,
            warnings: warning.into_iter().collect(),
        })
    }
}

/// Where the requests go.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    host: String,
    port: u16,
    path: Option<String>,
}

impl Target {
    fn of(args: &Args) -> Result<Self, String> {
        match (&args.target, args.port) {
            (Some(target), None) => Self::parse(target, args.echo.is_some()),
            (None, Some(port)) => Ok(Self { host: args.host.clone(), port, path: None }),
            (Some(_), Some(_)) => Err("give the server as TARGET or with --port, not both".into()),
            (None, None) => Err("no server: give http://HOST:PORT/PATH, or --port".into()),
        }
    }

    fn parse(target: &str, echo: bool) -> Result<Self, String> {
        if target.starts_with("https://") {
            return Err(format!("{target}: TLS is not supported, only http://"));
        }
        let rest = target.strip_prefix("http://").unwrap_or(target);
        let (authority, path) = match rest.find('/') {
            Some(slash) => (&rest[..slash], Some(rest[slash..].to_owned())),
            None => (rest, None),
        };
        if echo && path.is_some() {
            return Err(format!("{target}: an echo server has no paths, give HOST:PORT"));
        }
        // The last colon outside of an IPv6 address's brackets parts host and port.
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                let port = port.parse().map_err(|_| format!("{target}: bad port {port:?}"))?;
                (host, port)
            }
            _ if echo => return Err(format!("{target}: no port")),
            _ => (authority, 80),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(format!("{target}: no host"));
        }
        Ok(Self { host, port, path })
    }
}

/// The first address of `host`, which must be loopback unless `allow_remote`.
fn resolve(host: &str, port: u16, allow_remote: bool) -> Result<SocketAddr, String> {
    let addresses: Vec<SocketAddr> =
        (host, port).to_socket_addrs().map_err(|error| format!("{host}: {error}"))?.collect();
    // IPv4 first: `localhost` often has both, and most test servers listen on 127.0.0.1 only.
    let address = addresses.iter().find(|address| address.is_ipv4());
    let address = *address.or(addresses.first()).ok_or(format!("{host}: no address"))?;
    if !address.ip().is_loopback() && !allow_remote {
        return Err(format!(
            "{host} is {}, not a loopback address: load on other people's machines is an attack. \
             With --allow-remote you say that this server is yours",
            address.ip()
        ));
    }
    Ok(address)
}

/// The requests that the arguments ask for.
fn work(args: &Args, authority: &str, path: Option<String>) -> Result<Work, String> {
    if let Some(size) = args.echo {
        // Not constant, so that a shift by any number of bytes below 251 is noticed.
        let payload = (0..size).map(|index| (index % 251) as u8).collect();
        return Ok(Work::Echo { payload });
    }
    let mut paths: Vec<String> = path.into_iter().chain(args.paths.iter().cloned()).collect();
    if let Some(file) = &args.paths_from {
        let text = fs::read_to_string(file).map_err(|error| format!("--paths-from {}: {error}", file.display()))?;
        paths.extend(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned));
    }
    if paths.is_empty() {
        paths.push("/".to_owned());
    }
    let bad = |path: &&String| !path.starts_with('/') || path.bytes().any(|byte| byte <= b' ');
    if let Some(path) = paths.iter().find(bad) {
        return Err(format!("path {path:?}: expected one that starts with / and has no blanks"));
    }
    let requests = paths.iter().map(|path| http::get(authority, path)).collect();
    Ok(Work::Http { requests })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn plan(arguments: &[&str]) -> Result<Plan, String> {
        let arguments = std::iter::once(&"lissom-load").chain(arguments);
        Plan::new(Args::try_parse_from(arguments).map_err(|error| error.to_string())?)
    }

    #[test]
    fn targets_are_taken_apart() {
        let target = |text, echo| Target::parse(text, echo);
        let expect = |host: &str, port, path: Option<&str>| {
            let (host, path) = (host.to_owned(), path.map(str::to_owned));
            Ok(Target { host, port, path })
        };
        assert_eq!(target("http://localhost:81/a?b", false), expect("localhost", 81, Some("/a?b")));
        assert_eq!(target("127.0.0.1:7", true), expect("127.0.0.1", 7, None));
        assert_eq!(target("http://[::1]:8080/", false), expect("::1", 8080, Some("/")));
        assert_eq!(target("http://[::1]", false), expect("::1", 80, None));
        assert!(target("https://localhost/", false).is_err());
        assert!(target("localhost", true).is_err() && target("localhost:x", false).is_err());
    }

    #[test]
    fn remote_servers_are_refused_unless_allowed() {
        let error = plan(&["http://192.0.2.1:80/"]).expect_err("not loopback");
        assert!(error.contains("--allow-remote"), "{error}");
        assert!(plan(&["http://192.0.2.1:80/", "--allow-remote"]).is_ok());
        assert!(plan(&["http://127.8.9.10:80/"]).is_ok());
    }

    #[test]
    fn paths_are_requested_in_turn() {
        let plan = plan(&["--port", "1", "--path", "/a", "--path", "/b"]).expect("plan");
        let first_line = |index| String::from_utf8_lossy(plan.work.request(index))[..6].to_owned();
        assert_eq!([first_line(0), first_line(1), first_line(2)], ["GET /a", "GET /b", "GET /a"]);
    }

    #[test]
    fn bad_numbers_and_paths_are_named() {
        for (arguments, name) in [
            (["--port", "1", "--rate", "0"], "--rate"),
            (["--port", "1", "--ramp", "nan"], "--ramp"),
            (["--port", "1", "--echo", "0"], "--echo"),
            (["--port", "1", "--path", "a b"], "path"),
        ] {
            let error = plan(&arguments).expect_err(name);
            assert!(error.contains(name), "{error}");
        }
    }
}
