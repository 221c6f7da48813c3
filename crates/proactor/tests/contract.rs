//! The contract at the head of `driver.rs`, rule by rule, asked of the drivers themselves: no proactor stands between.

mod common;

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use common::{pair, stuff};
use lissom_proactor::driver::epoll::Epoll;
use lissom_proactor::driver::poll::Poll;
use lissom_proactor::driver::uring::Uring;
use lissom_proactor::driver::{Driver, Event, Watch};
use lissom_proactor::{Interest, Readiness};

type Make = fn() -> io::Result<Box<dyn Driver>>;

const DRIVERS: [(&str, Make); 3] = [
    ("epoll", || Ok(Box::new(Epoll::new()?))),
    ("poll", || Ok(Box::new(Poll::new()))),
    ("uring", || Ok(Box::new(Uring::new()?))),
];

fn bell() -> OwnedFd {
    // SAFETY: no memory is passed; the descriptor that comes back is owned by nobody else.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    assert!(fd >= 0, "eventfd");
    // SAFETY: open, and just made for us.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Runs `test` on every driver, attached to a bell.
fn on_every_driver(test: impl Fn(&mut dyn Driver, &OwnedFd)) {
    for (name, make) in DRIVERS {
        match make() {
            Ok(mut driver) => {
                eprintln!("driver: {name}");
                let bell = bell();
                driver.attach(bell.as_fd()).expect("attach");
                test(&mut *driver, &bell);
            }
            // A sandbox may forbid rings, and nothing else.
            Err(error) if name == "uring" => eprintln!("not run: {name}: {error}"),
            Err(error) => panic!("{name}: {error}"),
        }
    }
}

fn once(fd: RawFd, generation: u32, interest: Interest) -> Watch {
    Watch { fd, generation, interest, keep: false, known: false }
}

/// What one look reports: descriptor, generation, readiness.
fn look(driver: &mut dyn Driver) -> Vec<(RawFd, u32, Readiness)> {
    let mut events = Vec::new();
    match driver.wait(Some(Duration::ZERO), &mut events) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => return look(driver),
        waited => waited.expect("wait"),
    }
    let seen = events.into_iter().map(|event| match event {
        Event::Ready { fd, generation, readiness } => (fd, generation, readiness),
        Event::Part { .. } | Event::Done { .. } => panic!("nothing is carried"),
    });
    seen.collect()
}

/// Rule 2.
#[test]
fn wait_ends_after_its_timeout_and_not_before() {
    on_every_driver(|driver, _| {
        let (begin, limit) = (Instant::now(), Duration::from_millis(5));
        while begin.elapsed() < limit {
            let rest = limit.saturating_sub(begin.elapsed());
            match driver.wait(Some(rest), &mut Vec::new()) {
                // The end of an earlier ring interrupts the thread that used it.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                waited => {
                    waited.expect("wait");
                    break;
                }
            }
        }
        assert!(begin.elapsed() >= limit);
    });
}

/// Rule 3.
#[test]
fn condition_that_holds_already_is_reported_once() {
    on_every_driver(|driver, _| {
        let (here, mut there) = pair();
        there.write_all(b"x").unwrap();
        driver.arm(once(here.as_raw_fd(), 7, Interest::READ)).unwrap();
        let seen = look(driver);
        assert_eq!(seen.len(), 1);
        assert_eq!((seen[0].0, seen[0].1), (here.as_raw_fd(), 7));
        assert!(seen[0].2.contains(Readiness::READ));
        there.write_all(b"y").unwrap();
        assert_eq!(look(driver), [], "one event ends the registration");
        driver.disarm(here.as_raw_fd());
    });
}

/// Rule 4.
#[test]
fn hang_up_is_reported_to_those_who_asked_for_nothing() {
    on_every_driver(|driver, _| {
        let (here, there) = pair();
        driver.arm(once(here.as_raw_fd(), 1, Interest::NONE)).unwrap();
        assert_eq!(look(driver), []);
        drop(there);
        let seen = look(driver);
        assert_eq!(seen.len(), 1);
        assert!(seen[0].2.contains(Readiness::HANGUP));
        driver.disarm(here.as_raw_fd());
    });
}

/// Rules 3 and 5.
#[test]
fn arming_again_replaces_interest_and_generation() {
    on_every_driver(|driver, _| {
        let (here, mut there) = pair();
        stuff(&here);
        driver.arm(once(here.as_raw_fd(), 1, Interest::READ)).unwrap();
        driver.arm(Watch { known: true, ..once(here.as_raw_fd(), 2, Interest::WRITE) }).unwrap();
        there.write_all(b"x").unwrap();
        assert_eq!(look(driver), [], "nobody asks for reading any more");
        driver.arm(Watch { known: true, ..once(here.as_raw_fd(), 3, Interest::READ) }).unwrap();
        let seen = look(driver);
        assert_eq!(seen.iter().map(|event| event.1).collect::<Vec<_>>(), [3]);
        driver.disarm(here.as_raw_fd());
    });
}

/// Rule 5: also where the driver never heard that the first file was closed.
#[test]
fn number_that_is_used_again_is_reported_with_its_own_generation() {
    on_every_driver(|driver, _| {
        let (here, there) = pair();
        let number = here.as_raw_fd();
        driver.arm(once(number, 1, Interest::READ)).unwrap();
        let (next, mut peer) = pair();
        // SAFETY: both numbers are open and this test's own; the first socket's only reference goes.
        assert_eq!(unsafe { libc::dup2(next.as_raw_fd(), number) }, number);
        drop(there);
        driver.arm(Watch { known: true, ..once(number, 2, Interest::READ) }).unwrap();
        assert_eq!(look(driver), []);
        peer.write_all(b"x").unwrap();
        let seen = look(driver);
        assert_eq!(seen.iter().map(|event| (event.0, event.1)).collect::<Vec<_>>(), [(number, 2)]);
        driver.disarm(number);
    });
}

/// Rule 6.
#[test]
fn what_has_no_readiness_is_refused_and_leaves_the_driver_as_it_was() {
    on_every_driver(|driver, _| {
        let file = File::open("/proc/self/exe").unwrap();
        let refused = driver.arm(once(file.as_raw_fd(), 1, Interest::READ)).unwrap_err();
        assert_eq!(refused.code(), libc::EPERM);
        let refused = driver.arm(once(file.as_raw_fd() + 100_000, 1, Interest::READ)).unwrap_err();
        assert_eq!(refused.code(), libc::EBADF, "no such descriptor");
        assert_eq!(look(driver), []);
    });
}

/// Rule 9: a ring before the wait counts, and it counts once.
#[test]
fn ring_ends_one_wait() {
    on_every_driver(|driver, bell| {
        let one = 1_u64.to_ne_bytes();
        // SAFETY: eight readable bytes, as an eventfd takes them.
        assert_eq!(unsafe { libc::write(bell.as_raw_fd(), one.as_ptr().cast(), 8) }, 8);
        let begin = Instant::now();
        let mut events = Vec::new();
        driver.wait(Some(Duration::from_secs(10)), &mut events).expect("wait");
        assert!(begin.elapsed() < Duration::from_secs(10) && events.is_empty());
        let (begin, limit) = (Instant::now(), Duration::from_millis(2));
        driver.wait(Some(limit), &mut events).expect("wait");
        assert!(begin.elapsed() >= limit && events.is_empty(), "the ring was taken");
    });
}

/// Rule 10.
#[test]
fn descriptors_of_drivers_do_not_outlive_exec() {
    let open = || -> HashSet<RawFd> {
        let entries = std::fs::read_dir("/proc/self/fd").unwrap();
        entries.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok()).collect()
    };
    for (name, make) in DRIVERS {
        let before = open();
        let Ok(_driver) = make() else { continue };
        let made: Vec<RawFd> = open().difference(&before).copied().collect();
        assert!(name == "poll" || !made.is_empty(), "{name} has a descriptor of its own");
        for fd in made {
            // SAFETY: takes no pointers. (One that another test has closed meanwhile has no flags.)
            let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
            assert!(flags < 0 || flags & libc::FD_CLOEXEC != 0, "{name}: descriptor {fd}");
        }
    }
}

/// Rules 2, 3 and 11, with a hundred thousand descriptors, or as many as the system allows.
#[test]
fn hundred_thousand_descriptors_are_armed() {
    let count = (raise_the_limit(100_200) - 200).min(100_000) as u32;
    eprintln!("{count} descriptors");
    let bells: Vec<OwnedFd> = (0..count).map(|_| bell()).collect();
    on_every_driver(|driver, _| {
        for (number, bell) in bells.iter().enumerate() {
            let keep = driver.keeps() && number % 2 == 0;
            driver.arm(Watch { keep, ..once(bell.as_raw_fd(), number as u32, Interest::READ) }).unwrap();
        }
        assert_eq!(look(driver), []);
        let rung: HashSet<u32> = (0..count).step_by(97).collect();
        for &number in &rung {
            File::from(bells[number as usize].try_clone().unwrap()).write_all(&1_u64.to_ne_bytes()).unwrap();
        }
        let mut seen = HashSet::new();
        while seen.len() < rung.len() {
            let batch = look(driver);
            assert!(!batch.is_empty(), "{} of {} were reported", seen.len(), rung.len());
            for (fd, number, readiness) in batch {
                assert_eq!((bells[number as usize].as_raw_fd(), readiness), (fd, Readiness::READ));
                assert!(seen.insert(number), "reported twice");
            }
        }
        assert_eq!(seen, rung);
        assert_eq!(look(driver), []);
        for number in rung {
            File::from(bells[number as usize].try_clone().unwrap()).read_exact(&mut [0; 8]).unwrap();
        }
        for bell in &bells {
            driver.disarm(bell.as_raw_fd());
        }
    });
}

/// Rule 11: whoever is armed again at once does not keep the others from their turn.
#[test]
fn busy_descriptors_starve_nobody() {
    const PAIRS: usize = 1200;
    raise_the_limit(4 * PAIRS as u64);
    on_every_driver(|driver, _| {
        let pairs: Vec<_> = (0..PAIRS).map(|_| pair()).collect();
        for (here, there) in &pairs {
            (&*there).write_all(b"x").unwrap();
            driver.arm(once(here.as_raw_fd(), 1, Interest::READ)).unwrap();
        }
        let (mut seen, mut reported) = (HashSet::new(), 0);
        while reported < 2 * PAIRS {
            let batch = look(driver);
            assert!((1..PAIRS).contains(&batch.len()), "a batch is bounded");
            reported += batch.len();
            for (fd, ..) in batch {
                seen.insert(fd);
                driver.arm(Watch { known: true, ..once(fd, 1, Interest::READ) }).unwrap();
            }
        }
        assert_eq!(seen.len(), PAIRS);
    });
}

/// Raises the limit on open files as far as wanted and allowed; returns what it is then.
fn raise_the_limit(wanted: u64) -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writable for one limit.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }, 0);
    let more = libc::rlimit { rlim_cur: limit.rlim_cur.max(wanted), rlim_max: limit.rlim_max.max(wanted) };
    limit.rlim_cur = limit.rlim_cur.max(wanted.min(limit.rlim_max));
    for wanted in [more, limit] {
        // SAFETY: readable for one limit.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const wanted) } == 0 {
            return wanted.rlim_cur;
        }
    }
    panic!("setrlimit: {}", io::Error::last_os_error());
}
