//! Waiting for descriptors: edges, kept registrations, descriptors that go and come back.

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use common::{complete, nothing_completes, on_every_driver, pair, readable, ready, stuff};
use lissom_proactor::{DriverKind, Errno, Interest, Proactor, Readiness, closed};

/// What a caller does that finds its queue empty.
fn read_until_blocked(proactor: &mut Proactor, mut socket: &UnixStream) -> usize {
    let (mut total, mut buf) = (0, [0; 64]);
    loop {
        match socket.read(&mut buf) {
            Ok(0) => return total,
            Ok(n) => total += n,
            Err(_) => {
                proactor.exhausted(socket.as_raw_fd(), Interest::READ);
                return total;
            }
        }
    }
}

#[test]
fn ready_completes_when_data_arrives_and_only_then() {
    on_every_driver(|mut proactor| {
        let (here, mut there) = pair();
        proactor.submit(readable(&here), 7);
        nothing_completes(&mut proactor);
        assert_eq!(proactor.pending(), 1);
        there.write_all(b"x").unwrap();
        let done = complete(&mut proactor);
        assert_eq!(done.token, 7);
        assert!(done.readiness().contains(Readiness::READ));
        assert_eq!(proactor.pending(), 0);
        proactor.forget(here.as_raw_fd());
    });
}

#[test]
fn data_that_is_there_before_the_first_ready_is_reported() {
    for keep in [true, false] {
        on_every_driver(|mut proactor| {
            let (here, mut there) = pair();
            there.write_all(b"x").unwrap();
            proactor.submit(ready(here.as_raw_fd(), Interest::READ, keep), 1);
            assert!(complete(&mut proactor).readiness().contains(Readiness::READ));
            proactor.forget(here.as_raw_fd());
        });
    }
}

#[test]
fn data_behind_urgent_data_is_reported_after_a_short_read() {
    on_every_driver(|mut proactor| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut there = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut here, _) = listener.accept().unwrap();
        let fd = here.as_raw_fd();
        proactor.submit(ready(fd, Interest::READ, true), 1);
        nothing_completes(&mut proactor);
        there.write_all(b"abc").unwrap();
        // SAFETY: one readable byte.
        assert_eq!(unsafe { libc::send(there.as_raw_fd(), b"!".as_ptr().cast(), 1, libc::MSG_OOB) }, 1);
        there.write_all(b"def").unwrap();
        complete(&mut proactor);
        let mut buf = [0; 100];
        // Up to the mark: fewer than there is room for, and more behind.
        assert_eq!(here.read(&mut buf).unwrap(), 3);
        proactor.exhausted(fd, Interest::READ);
        assert!(proactor.may_be_ready(fd, Interest::READ));
        proactor.submit(ready(fd, Interest::READ, true), 2);
        assert_eq!(complete(&mut proactor).token, 2);
        assert_eq!(here.read(&mut buf).unwrap(), 3);
        proactor.exhausted(fd, Interest::READ);
        // The byte itself has not been taken. That alone ends no wait.
        proactor.submit(ready(fd, Interest::READ, true), 3);
        nothing_completes(&mut proactor);
        there.write_all(b"g").unwrap();
        assert_eq!(complete(&mut proactor).token, 3);
        proactor.forget(fd);
    });
}

#[test]
fn event_between_exhausted_and_ready_completes_at_once() {
    let mut proactor = Proactor::new(DriverKind::Epoll).unwrap();
    let (here, mut there) = pair();
    let fd = here.as_raw_fd();
    proactor.submit(readable(&here), 1);
    there.write_all(b"x").unwrap();
    complete(&mut proactor);
    read_until_blocked(&mut proactor, &here);
    assert!(!proactor.may_be_ready(fd, Interest::READ));
    there.write_all(b"y").unwrap();
    // The event is in the kernel: not known yet, and not lost.
    assert!(!proactor.may_be_ready(fd, Interest::READ));
    nothing_completes(&mut proactor);
    assert!(proactor.may_be_ready(fd, Interest::READ));
    proactor.submit(readable(&here), 2);
    assert_eq!(proactor.finished(), 1);
    assert_eq!(proactor.next().unwrap().token, 2);
    proactor.forget(fd);
}

#[test]
fn may_be_ready_is_true_for_whatever_is_not_known() {
    let mut proactor = Proactor::new(DriverKind::Epoll).unwrap();
    let (here, _there) = pair();
    let fd = here.as_raw_fd();
    assert!(proactor.may_be_ready(fd, Interest::READ));
    assert!(proactor.may_be_ready(-1, Interest::READ));
    proactor.submit(readable(&here), 1);
    assert!(!proactor.may_be_ready(fd, Interest::READ));
    assert!(proactor.may_be_ready(fd, Interest::WRITE), "nobody asked for this direction");
    closed(fd);
    assert!(proactor.may_be_ready(fd, Interest::READ), "the registration is void");
    proactor.forget(fd);
}

#[test]
fn every_waiter_on_a_descriptor_is_completed() {
    on_every_driver(|mut proactor| {
        let (here, mut there) = pair();
        (0..100).for_each(|token| {
            proactor.submit(readable(&here), token);
        });
        there.write_all(b"x").unwrap();
        let tokens: Vec<u64> = (0..100).map(|_| complete(&mut proactor).token).collect();
        assert!(tokens.into_iter().eq(0..100), "in order of submission");
        proactor.forget(here.as_raw_fd());
    });
}

#[test]
fn reader_and_writer_wait_independently_on_one_descriptor() {
    for keep in [true, false] {
        on_every_driver(|mut proactor| {
            let (here, there) = pair();
            let fd = here.as_raw_fd();
            stuff(&here);
            proactor.submit(ready(fd, Interest::READ, keep), 1);
            proactor.submit(ready(fd, Interest::WRITE, keep), 2);
            nothing_completes(&mut proactor);
            read_until_blocked(&mut Proactor::new(DriverKind::Epoll).unwrap(), &there);
            let done = complete(&mut proactor);
            assert_eq!(done.token, 2);
            assert!(done.readiness().contains(Readiness::WRITE));
            nothing_completes(&mut proactor);
            (&there).write_all(b"x").unwrap();
            assert_eq!(complete(&mut proactor).token, 1);
            proactor.forget(fd);
        });
    }
}

#[test]
fn hang_up_wakes_both_directions() {
    on_every_driver(|mut proactor| {
        let (here, there) = pair();
        stuff(&here);
        proactor.submit(ready(here.as_raw_fd(), Interest::READ, true), 1);
        proactor.submit(ready(here.as_raw_fd(), Interest::WRITE, true), 2);
        drop(there);
        assert_eq!((complete(&mut proactor).token, complete(&mut proactor).token), (1, 2));
        proactor.forget(here.as_raw_fd());
    });
}

/// The peer's data and FIN are one event; the short read says "empty", the FIN is behind it.
#[test]
fn end_of_file_behind_a_short_read_is_not_lost() {
    on_every_driver(|mut proactor| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut there = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut here, _) = listener.accept().unwrap();
        here.set_nonblocking(true).unwrap();
        proactor.submit(readable(&here), 1);
        there.write_all(b"last words").unwrap();
        there.shutdown(Shutdown::Write).unwrap();
        complete(&mut proactor);
        let mut buf = [0; 64];
        assert_eq!(here.read(&mut buf).unwrap(), 10);
        proactor.exhausted(here.as_raw_fd(), Interest::READ);
        proactor.submit(readable(&here), 2);
        assert_eq!(complete(&mut proactor).token, 2);
        assert_eq!(here.read(&mut buf).unwrap(), 0);
        proactor.forget(here.as_raw_fd());
    });
}

/// A datagram socket's error is gone once reported; it must not make every later wait end at once.
#[test]
fn pending_error_is_told_once() {
    on_every_driver(|mut proactor| {
        let nobody = UdpSocket::bind("127.0.0.1:0").unwrap();
        let here = UdpSocket::bind("127.0.0.1:0").unwrap();
        here.set_nonblocking(true).unwrap();
        here.connect(nobody.local_addr().unwrap()).unwrap();
        drop(nobody);
        proactor.submit(readable(&here), 1);
        here.send(b"anyone?").unwrap();
        complete(&mut proactor);
        let mut buf = [0; 8];
        let error = here.recv(&mut buf).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));
        assert!(here.recv(&mut buf).is_err());
        proactor.exhausted(here.as_raw_fd(), Interest::READ);
        proactor.submit(readable(&here), 2);
        nothing_completes(&mut proactor);
        proactor.forget(here.as_raw_fd());
        assert_eq!(complete(&mut proactor).result, Err(Errno::CANCELED));
    });
}

/// With IP_RECVERR the error queue keeps POLLERR up until somebody reads it (ip(7)); a reader who
/// does not must not spin. (Only registrations that are kept can tell old from new.)
#[test]
fn error_queue_that_nobody_reads_does_not_complete_every_wait() {
    let mut proactor = Proactor::new(DriverKind::Epoll).unwrap();
    let nobody = UdpSocket::bind("127.0.0.1:0").unwrap();
    let here = UdpSocket::bind("127.0.0.1:0").unwrap();
    here.set_nonblocking(true).unwrap();
    let (fd, on) = (here.as_raw_fd(), 1);
    let (value, size) = ((&raw const on).cast(), size_of::<libc::c_int>() as libc::socklen_t);
    // SAFETY: readable for `size` bytes.
    let set = unsafe { libc::setsockopt(fd, libc::IPPROTO_IP, libc::IP_RECVERR, value, size) };
    assert_eq!(set, 0);
    here.connect(nobody.local_addr().unwrap()).unwrap();
    drop(nobody);
    proactor.submit(readable(&here), 1);
    here.send(b"anyone?").unwrap();
    assert!(complete(&mut proactor).readiness().contains(Readiness::ERROR));
    let waits = (0..5).take_while(|_| {
        while here.recv(&mut [0; 8]).unwrap_err().kind() != std::io::ErrorKind::WouldBlock {}
        proactor.exhausted(fd, Interest::READ);
        proactor.submit(readable(&here), 2);
        proactor.next().is_some()
    });
    assert!(waits.count() <= 1);
    nothing_completes(&mut proactor);
    proactor.forget(fd);
}

#[test]
fn priority_data_is_reported_to_those_who_ask() {
    on_every_driver(|mut proactor| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (here, _) = listener.accept().unwrap();
        proactor.submit(readable(&here), 1);
        proactor.submit(ready(here.as_raw_fd(), Interest::PRIORITY, true), 2);
        let urgent = b"!";
        // SAFETY: one readable byte.
        let sent = unsafe { libc::send(there.as_raw_fd(), urgent.as_ptr().cast(), 1, libc::MSG_OOB) };
        assert_eq!(sent, 1);
        let done = complete(&mut proactor);
        assert_eq!(done.token, 2);
        assert!(done.readiness().contains(Readiness::PRIORITY));
        proactor.forget(here.as_raw_fd());
    });
}

#[test]
fn regular_file_is_always_ready() {
    on_every_driver(|mut proactor| {
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        proactor.submit(readable(&file), 1);
        assert_eq!(complete(&mut proactor).readiness(), Readiness::READ);
    });
}

#[test]
fn descriptor_that_is_not_open_completes_with_ebadf() {
    on_every_driver(|mut proactor| {
        for fd in [-1, 1_000_000, 1 << 30] {
            proactor.submit(ready(fd, Interest::READ, true), 1);
            assert_eq!(complete(&mut proactor).result, Err(Errno::BAD_FD));
        }
    });
}

#[test]
fn forget_completes_waiters_with_ecanceled() {
    on_every_driver(|mut proactor| {
        let (here, _there) = pair();
        (0..3).for_each(|token| {
            proactor.submit(readable(&here), token);
        });
        proactor.forget(here.as_raw_fd());
        for token in 0..3 {
            let done = complete(&mut proactor);
            assert_eq!((done.token, done.result), (token, Err(Errno::CANCELED)));
        }
        assert_eq!(proactor.pending(), 0);
    });
}

/// Moves `socket` to exactly the number `fd`, closing what was there.
fn put_at(socket: UnixStream, fd: i32) -> UnixStream {
    // SAFETY: takes no pointers.
    assert_eq!(unsafe { libc::dup2(socket.as_raw_fd(), fd) }, fd);
    // SAFETY: the number is this test's own, see `number`.
    UnixStream::from(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A descriptor number that no other test of this process is given meanwhile.
fn number() -> i32 {
    static NEXT: std::sync::atomic::AtomicI32 = std::sync::atomic::AtomicI32::new(700);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

#[test]
fn number_that_is_used_again_is_registered_again() {
    on_every_driver(|mut proactor| {
        let fd = number();
        for round in 0..4 {
            let (one, mut there) = pair();
            let here = put_at(one, fd);
            proactor.submit(readable(&here), round);
            nothing_completes(&mut proactor);
            there.write_all(b"x").unwrap();
            assert_eq!(complete(&mut proactor).token, round);
            match round % 2 {
                0 => proactor.forget(fd),
                _ => std::thread::spawn(move || closed(fd)).join().unwrap(),
            }
            drop(here);
        }
    });
}

/// A duplicate keeps the old file's registration alive in the kernel.
#[test]
fn events_of_the_file_that_had_the_number_before_are_ignored() {
    on_every_driver(|mut proactor| {
        let fd = number();
        let (one, mut old_there) = pair();
        let old = put_at(one, fd);
        let duplicate = old.try_clone().unwrap();
        proactor.submit(readable(&old), 1);
        closed(fd);
        drop(old);
        let (two, mut new_there) = pair();
        let new = put_at(two, fd);
        proactor.submit(readable(&new), 2);
        let stale = complete(&mut proactor);
        assert_eq!((stale.token, stale.result), (1, Err(Errno::CANCELED)));
        old_there.write_all(b"for the old file").unwrap();
        nothing_completes(&mut proactor);
        new_there.write_all(b"x").unwrap();
        assert_eq!(complete(&mut proactor).token, 2);
        proactor.forget(fd);
        drop(duplicate);
    });
}

/// Whether an epoll descriptor of this process has `fd` registered (proc(5), fdinfo).
fn is_registered(fd: i32) -> bool {
    let entries = std::fs::read_dir("/proc/self/fdinfo").unwrap();
    // Descriptors of other tests may go while this looks.
    let infos = entries.filter_map(|entry| std::fs::read_to_string(entry.ok()?.path()).ok());
    let is_it = |line: &str| {
        let mut words = line.split_whitespace();
        words.next() == Some("tfd:") && words.next() == Some(&fd.to_string())
    };
    infos.into_iter().any(|info| info.lines().any(is_it))
}

#[test]
fn forget_ends_the_registration_even_if_a_duplicate_lives() {
    on_every_driver(|mut proactor| {
        let fd = number();
        let (one, _there) = pair();
        let here = put_at(one, fd);
        let duplicate = here.try_clone().unwrap();
        proactor.submit(readable(&here), 1);
        assert_eq!(is_registered(fd), proactor.driver_name() != "poll");
        proactor.forget(fd);
        assert!(!is_registered(fd));
        drop((here, duplicate));
    });
}

#[test]
fn waiter_learns_of_a_close_elsewhere_by_the_next_event() {
    on_every_driver(|mut proactor| {
        let (here, mut there) = pair();
        proactor.submit(readable(&here), 1);
        closed(here.as_raw_fd());
        there.write_all(b"x").unwrap();
        assert_eq!(complete(&mut proactor).result, Err(Errno::CANCELED));
    });
}

/// `keep: false`: nobody says when the number changes hands.
#[test]
fn unannounced_reuse_is_found_when_nothing_is_kept() {
    on_every_driver(|mut proactor| {
        let fd = number();
        for round in 0..4 {
            let (one, mut there) = pair();
            let here = put_at(one, fd);
            proactor.submit(ready(fd, Interest::READ, false), round);
            nothing_completes(&mut proactor);
            there.write_all(b"x").unwrap();
            assert_eq!(complete(&mut proactor).token, round);
            // Still readable: the next wait must say so again.
            proactor.submit(ready(fd, Interest::READ, false), 99);
            assert_eq!(complete(&mut proactor).token, 99);
            drop(here);
        }
    });
}

#[test]
fn numbers_beyond_the_table_work() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writable for one `rlimit`.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    let fd = (1 << 20) + 5;
    let wanted = libc::rlimit { rlim_cur: fd as u64 + 1, rlim_max: limit.rlim_max.max(fd as u64 + 1) };
    // SAFETY: readable for one `rlimit`.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const wanted) } != 0 {
        eprintln!("not run: this system does not allow {fd} open files");
        return;
    }
    on_every_driver(|mut proactor| {
        let (one, mut there) = pair();
        let here = put_at(one, fd);
        for round in 0..2 {
            proactor.submit(readable(&here), round);
            nothing_completes(&mut proactor);
            there.write_all(b"x").unwrap();
            assert_eq!(complete(&mut proactor).token, round);
            read_until_blocked(&mut proactor, &here);
            assert!(proactor.may_be_ready(fd, Interest::READ));
        }
        proactor.forget(fd);
    });
}
