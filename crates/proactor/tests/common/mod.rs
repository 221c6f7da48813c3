//! The fixture: every test runs on every driver. A new driver joins by one line in `DRIVERS`.
#![allow(dead_code, reason = "each test file uses some of it")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use lissom_proactor::driver::epoll::Epoll;
use lissom_proactor::driver::uring::{Features, Uring};
use lissom_proactor::driver::{Driver, Event, Watch};
use lissom_proactor::{Completion, DriverKind, Errno, Interest, Op, Proactor, Wait};

type Make = fn() -> io::Result<Proactor>;

const DRIVERS: &[(&str, Make)] = &[
    ("epoll", || Proactor::new(DriverKind::Epoll)),
    ("epoll in milliseconds", || Proactor::with_driver(Box::new(Epoll::new()?.in_milliseconds()))),
    ("uring", || Proactor::new(DriverKind::Uring)),
    ("uring that carries sockets", || Proactor::with_driver(Box::new(Uring::new()?.with_sockets()))),
    ("uring of Linux 5.15", || Proactor::with_driver(Box::new(Uring::with_features(Features::none())?.with_sockets()))),
    ("poll", || Proactor::new(DriverKind::Poll)),
    ("epoll, single events", || Proactor::with_driver(Box::new(SingleEvents(Epoll::new()?)))),
];

/// Runs `test` on every driver.
pub(crate) fn on_every_driver(test: impl Fn(Proactor)) {
    for (name, make) in DRIVERS {
        match make() {
            Ok(proactor) => {
                eprintln!("driver: {name}");
                test(proactor);
            }
            // A sandbox may forbid rings, and nothing else.
            Err(error) if name.starts_with("uring") => eprintln!("not run: {name}: {error}"),
            Err(error) => panic!("{name}: {error}"),
        }
    }
}

/// A driver that keeps no registrations, as one made of poll(2) would.
pub(crate) struct SingleEvents(Epoll);

impl Driver for SingleEvents {
    fn name(&self) -> &'static str {
        "single events"
    }
    fn fresh(&self) -> io::Result<Box<dyn Driver>> {
        Ok(Box::new(SingleEvents(Epoll::new()?)))
    }
    fn attach(&mut self, bell: BorrowedFd<'_>) -> io::Result<()> {
        self.0.attach(bell)
    }
    fn keeps(&self) -> bool {
        false
    }
    fn arm(&mut self, watch: Watch) -> Result<(), Errno> {
        assert!(!watch.keep, "asked to keep, though it does not");
        self.0.arm(watch)
    }
    fn disarm(&mut self, fd: RawFd) {
        self.0.disarm(fd);
    }
    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        self.0.wait(timeout, events)
    }
}

/// Waits for one completion; a test that hangs fails after ten seconds.
pub(crate) fn complete(proactor: &mut Proactor) -> Completion {
    let limit = std::time::Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(done) = proactor.next() {
            return done;
        }
        assert!(std::time::Instant::now() < limit, "no completion: {proactor:?}");
        proactor.wait(Some(Duration::from_secs(10))).expect("wait");
    }
}

/// Looks at the system once; no completion may come of it.
#[track_caller]
pub(crate) fn nothing_completes(proactor: &mut Proactor) {
    assert_eq!(proactor.wait(Some(Duration::ZERO)).expect("wait"), Wait::TimedOut);
    assert!(proactor.next().is_none());
}

/// Waits until the timeout has passed; nothing may happen before. The end of the ring of an earlier driver may interrupt
/// the thread that used it.
#[track_caller]
pub(crate) fn nothing_happens_for(proactor: &mut Proactor, timeout: Duration) {
    let mut waited = proactor.wait(Some(timeout)).expect("wait");
    while waited == Wait::Interrupted {
        waited = proactor.wait(Some(timeout)).expect("wait");
    }
    assert_eq!(waited, Wait::TimedOut);
}

/// A pair of connected sockets in non-blocking mode.
pub(crate) fn pair() -> (UnixStream, UnixStream) {
    let (one, other) = UnixStream::pair().expect("socketpair");
    one.set_nonblocking(true).expect("non-blocking");
    other.set_nonblocking(true).expect("non-blocking");
    (one, other)
}

/// `Ready` for reading, with a kept registration.
pub(crate) fn readable(socket: &impl AsRawFd) -> Op {
    ready(socket.as_raw_fd(), Interest::READ, true)
}

pub(crate) fn ready(fd: RawFd, interest: Interest, keep: bool) -> Op {
    Op::Ready { fd, interest, keep }
}

/// Fills the socket until it takes no more.
pub(crate) fn stuff(socket: &UnixStream) {
    use std::io::Write;
    let block = [0; 4096];
    while (&*socket).write(&block).is_ok() {}
}

/// After a pool thread has reported on an op that is gone: its letter may end one look.
#[track_caller]
pub(crate) fn nothing_completes_but_a_stale_letter(proactor: &mut Proactor) {
    proactor.wait(Some(Duration::ZERO)).expect("wait");
    assert!(proactor.next().is_none());
}
