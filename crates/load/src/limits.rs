//! The limits of the system that a run with many connections meets.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};

/// Descriptors that the tool needs beside its connections.
const SPARE_FILES: u64 = 32;
/// How much of the range of local ports one source address may use: ports that linger in
/// TIME_WAIT and other programs need the rest.
const PORT_SHARE: f64 = 0.7;

/// Raises the soft limit on open files so that `connections` fit; it never lowers it.
///
/// # Errors
///
/// A message that says what to do when the hard limit is too low and may not be raised.
pub fn raise_open_files(connections: usize) -> Result<(), String> {
    let needed = connections as u64 + SPARE_FILES;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let wanted = Rlimit { current: Some(needed), maximum: maximum.map(|maximum| maximum.max(needed)) };
    setrlimit(Resource::Nofile, wanted).map_err(|error| {
        let hard = maximum.map_or("unlimited".to_owned(), |maximum| maximum.to_string());
        format!(
            "{connections} connections need {needed} open files, but the hard limit is {hard} \
             ({error}); raise it with `ulimit -Hn {needed}` as root, LimitNOFILE= (systemd) or \
             /etc/security/limits.conf, and if that is refused, `sysctl fs.nr_open` too"
        )
    })
}

/// Runs the calling thread on one CPU only.
///
/// # Errors
///
/// A message when there is no such CPU or this process may not use it.
pub fn pin_to_cpu(cpu: usize) -> Result<(), String> {
    if cpu >= CpuSet::MAX_CPU {
        return Err(format!("--cpu {cpu}: CPUs are numbered from 0 to {}", CpuSet::MAX_CPU - 1));
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set)
        .map_err(|error| format!("--cpu {cpu}: {error}; see `taskset -p $$` for those allowed"))
}

/// How many local ports one source address has for connections to one destination.
#[must_use]
pub fn local_ports() -> usize {
    fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|text| parse_range(&text))
        // The kernel's default, 32768 to 60999 (ip(7)).
        .unwrap_or(28_232)
}

fn parse_range(text: &str) -> Option<usize> {
    let mut numbers = text.split_whitespace().map(str::parse::<usize>);
    let low = numbers.next()?.ok()?;
    let high = numbers.next()?.ok()?;
    (high + 1).checked_sub(low)
}

/// The source addresses to spread `connections` over, and a warning if that is not possible.
///
/// To one destination, a source address has as many connections as there are local ports. The
/// whole of 127.0.0.0/8 is local, so to IPv4 loopback 127.0.0.1, 127.0.0.2, ... are used as
/// needed. `[None]` means: let the kernel choose.
#[must_use]
pub fn sources(connections: usize, to: IpAddr, ports: usize) -> (Vec<Option<IpAddr>>, Option<String>) {
    let share = ((ports as f64 * PORT_SHARE) as usize).max(1);
    let wanted = connections.div_ceil(share).max(1);
    if wanted == 1 {
        return (vec![None], None);
    }
    if !matches!(to, IpAddr::V4(to) if to.is_loopback()) {
        let warning = (connections > share).then(|| {
            format!(
                "{connections} connections from one address to one port, with {ports} local \
                 ports: widen `sysctl net.ipv4.ip_local_port_range`"
            )
        });
        return (vec![None], warning);
    }
    let address = |index: usize| {
        let [high, low] = u16::try_from(index + 1).unwrap_or(u16::MAX).to_be_bytes();
        Some(IpAddr::V4(Ipv4Addr::new(127, 0, high, low)))
    };
    ((0..wanted).map(address).collect(), None)
}

/// The CPU time that this process has used so far, in seconds.
#[must_use]
pub fn own_cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Whether an error is the lack of a file descriptor, of the process or the system.
#[must_use]
pub fn is_out_of_files(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_connections_leave_the_source_to_the_kernel() {
        let to = IpAddr::V4(Ipv4Addr::LOCALHOST);
        assert_eq!(sources(10_000, to, 28_232), (vec![None], None));
    }

    #[test]
    fn many_connections_to_loopback_are_spread() {
        let to = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let (sources, warning) = sources(50_000, to, 28_232);
        assert_eq!(sources.len(), 3);
        assert_eq!(sources[2], Some(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3))));
        assert_eq!(warning, None);
    }

    #[test]
    fn many_connections_elsewhere_are_warned_of() {
        let to = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
        let (sources, warning) = sources(50_000, to, 28_232);
        assert_eq!(sources, [None]);
        assert!(warning.is_some_and(|text| text.contains("ip_local_port_range")));
    }

    #[test]
    fn port_range_is_inclusive() {
        assert_eq!(parse_range("32768\t60999\n"), Some(28_232));
        assert_eq!(parse_range("nonsense"), None);
    }

    #[test]
    fn files_beyond_the_kernel_maximum_are_refused_with_advice() {
        let error = raise_open_files(usize::MAX / 2).expect_err("beyond fs.nr_open");
        assert!(error.contains("ulimit -Hn"), "{error}");
    }
}
