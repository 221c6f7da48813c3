//! What each driver costs: `cargo run --release --example driver_costs [connections...]`.
//!
//! Each row is one kind of work, each column a way to do it; figures are CPU time of the process (both ends, kernel
//! included) per operation, least of five runs in turn, and the ratio to epoll. Traffic stays on loopback.
//! 10,000 connections need 20,000 descriptors and some: raise the limit of open files (`prlimit --nofile=30000 ...`).
//!
//! *uring* is the driver as it is chosen; *ring ops* has it carry transfers of sockets, too, which it does not do by
//! itself; *many* uses `AcceptMany` and `RecvMany`. Each run has a proactor of its own, so nothing need be forgotten.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use lissom_proactor::driver::uring::Uring;
use lissom_proactor::{Completion, DriverKind, Op, Proactor};

const RUNS: usize = 5;
const MESSAGES: usize = 20_000;

/// A way to do the work: a driver, and whether ops ask for many.
#[derive(Copy, Clone)]
struct Way {
    name: &'static str,
    make: fn() -> io::Result<Proactor>,
    many: bool,
}

const WAYS: [Way; 4] = [
    Way { name: "epoll", make: || Proactor::new(DriverKind::Epoll), many: false },
    Way { name: "uring", make: || Proactor::new(DriverKind::Uring), many: false },
    Way { name: "ring ops", make: || Proactor::with_driver(Box::new(Uring::new()?.with_sockets())), many: false },
    Way { name: "many", make: || Proactor::new(DriverKind::Uring), many: true },
];

/// CPU time of this process.
fn cpu() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is writable for the time of the call.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut now) };
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

fn next(proactor: &mut Proactor) -> io::Result<Completion> {
    loop {
        if let Some(done) = proactor.next() {
            return Ok(done);
        }
        proactor.wait(None)?;
    }
}

fn receive(proactor: &mut Proactor, way: Way, fd: i32, token: u64) {
    let buf = || Vec::with_capacity(64);
    let op = if way.many { Op::RecvMany { fd } } else { Op::Recv { fd, buf: buf(), flags: 0 } };
    proactor.submit(op, token);
}

/// Messages that are there already when they are asked for.
fn ready(way: Way, proactor: &mut Proactor) -> io::Result<usize> {
    let (here, mut there) = UnixStream::pair()?;
    for round in 0..MESSAGES {
        there.write_all(b"ping")?;
        if round == 0 || !way.many {
            receive(proactor, way, here.as_raw_fd(), 0);
        }
        next(proactor)?.result?;
    }
    Ok(MESSAGES)
}

/// An echo server with this many connections, of which 64 talk at a time.
fn echo(way: Way, proactor: &mut Proactor, connections: usize) -> io::Result<usize> {
    let pairs = (0..connections).map(|_| UnixStream::pair()).collect::<io::Result<Vec<_>>>()?;
    for (token, (here, _)) in pairs.iter().enumerate() {
        receive(proactor, way, here.as_raw_fd(), token as u64);
    }
    let talking = connections.min(64);
    let mut answer = [0; 4];
    for round in 0..MESSAGES / talking {
        let first = round * talking;
        let turn = move |at: usize| (first + at) % connections;
        for at in 0..talking {
            (&pairs[turn(at)].1).write_all(b"ping")?;
        }
        for _ in 0..talking {
            let done = next(proactor)?;
            done.result?;
            let (here, _) = &pairs[done.token as usize];
            (&*here).write_all(done.buf.as_deref().unwrap_or_default())?;
            if !done.more {
                receive(proactor, way, here.as_raw_fd(), done.token);
            }
        }
        for at in 0..talking {
            (&pairs[turn(at)].1).read_exact(&mut answer)?;
        }
    }
    Ok(MESSAGES / talking * talking)
}

/// Connections that come in bursts of 64 and are closed at once.
fn accepts(way: Way, proactor: &mut Proactor) -> io::Result<usize> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let (fd, address) = (listener.as_raw_fd(), listener.local_addr()?);
    let op = || if way.many { Op::AcceptMany { fd } } else { Op::Accept { fd } };
    proactor.submit(op(), 0);
    for _ in 0..30 {
        let clients = (0..64).map(|_| TcpStream::connect(address)).collect::<io::Result<Vec<_>>>()?;
        for _ in &clients {
            let done = next(proactor)?;
            done.result?;
            if !done.more {
                proactor.submit(op(), 0);
            }
        }
    }
    Ok(30 * 64)
}

/// Reads of 64 KiB all over a file of 32 MiB; `cold` has the page cache forget it before, and read nothing ahead.
fn file(proactor: &mut Proactor, cold: bool) -> io::Result<usize> {
    const PIECE: usize = 64 << 10;
    const PIECES: usize = 512;
    let path = std::env::temp_dir().join(format!("driver-costs-{}", std::process::id()));
    std::fs::write(&path, vec![1; PIECE * PIECES])?;
    let opened = File::open(&path)?;
    std::fs::remove_file(&path)?;
    if cold {
        opened.sync_all()?;
        // SAFETY: takes no pointers.
        unsafe { libc::posix_fadvise(opened.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        // SAFETY: as above.
        unsafe { libc::posix_fadvise(opened.as_raw_fd(), 0, 0, libc::POSIX_FADV_RANDOM) };
    }
    let fd = opened.as_raw_fd();
    let before = cpu();
    let mut buf = Vec::with_capacity(PIECE);
    for round in 0..PIECES {
        let piece = round * 197 % PIECES;
        buf.clear();
        proactor.submit(Op::Read { fd, buf, offset: Some((piece * PIECE) as u64) }, 0);
        let done = next(proactor)?;
        done.result?;
        buf = done.buf.unwrap_or_default();
    }
    SPENT.set(Some(cpu() - before));
    Ok(PIECES)
}

thread_local! {
    /// What a work has measured itself, without its preparation.
    static SPENT: std::cell::Cell<Option<Duration>> = const { std::cell::Cell::new(None) };
}

fn row(name: &str, work: impl Fn(Way, &mut Proactor) -> io::Result<usize>) -> io::Result<()> {
    let mut least = [f64::INFINITY; WAYS.len()];
    for _ in 0..RUNS {
        for (way, least) in WAYS.into_iter().zip(&mut least) {
            let mut proactor = (way.make)()?;
            let before = cpu();
            let count = work(way, &mut proactor)?;
            let spent = SPENT.take().unwrap_or_else(|| cpu() - before);
            *least = least.min(spent.as_secs_f64() * 1e6 / count as f64);
        }
    }
    print!("{name:<22}");
    for micros in least {
        print!("{micros:9.2} µs {:5.2}", micros / least[0]);
    }
    println!();
    Ok(())
}

fn main() -> io::Result<()> {
    let mut connections: Vec<usize> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    if connections.is_empty() {
        connections = vec![64, 10_000];
    }
    print!("{:<22}", "CPU per operation");
    for way in WAYS {
        print!("{:>18}", way.name);
    }
    println!();
    row("ready messages", ready)?;
    for count in connections {
        row(&format!("echo, {count} connections"), |way, proactor| echo(way, proactor, count))?;
    }
    row("accept and close", accepts)?;
    row("file, cached", |_, proactor| file(proactor, false))?;
    row("file, not cached", |_, proactor| file(proactor, true))
}
