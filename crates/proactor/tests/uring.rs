//! What only a ring can get wrong: buffers in the kernel's hands, completions that cross a cancel, full queues.

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use common::{complete, nothing_completes};
use lissom_proactor::driver::uring::{Features, Uring};
use lissom_proactor::{Errno, Op, Proactor};

/// Rings with all features and with those of old kernels, carrying sockets; none where the kernel refuses them.
fn rings(test: impl Fn(Proactor)) {
    for features in [Features::all(), Features { deferred: false, cooperative: true }, Features::none()] {
        match Uring::with_features(features) {
            Ok(ring) => test(Proactor::with_driver(Box::new(ring.with_sockets())).unwrap()),
            Err(refused) => eprintln!("not run: {refused}"),
        }
    }
}

fn recv(socket: &UnixStream, room: usize) -> Op {
    Op::Recv { fd: socket.as_raw_fd(), buf: Vec::with_capacity(room), flags: 0 }
}

#[test]
fn features_that_are_in_use_are_no_more_than_asked_for() {
    let all = [Features::all(), Features { deferred: false, cooperative: true }, Features::none()];
    for features in all {
        if let Ok(ring) = Uring::with_features(features) {
            let used = ring.features();
            assert!(features.deferred || !used.deferred);
            assert!(features.cooperative || !used.cooperative);
        }
    }
}

#[test]
fn op_goes_on_with_its_file_when_the_descriptor_is_closed() {
    rings(|mut proactor| {
        let (here, mut there) = UnixStream::pair().unwrap();
        proactor.submit(recv(&here, 16), 1);
        drop(here);
        there.write_all(b"late").unwrap();
        assert_eq!(complete(&mut proactor).buf.unwrap(), b"late");
    });
}

/// A watch by the ring itself would keep the file open, and no end would reach the peer.
#[test]
fn closing_a_descriptor_that_is_waited_for_ends_the_connection() {
    rings(|mut proactor| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut there = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (here, _) = listener.accept().unwrap();
        here.set_nonblocking(true).unwrap();
        proactor.submit(common::readable(&here), 1);
        nothing_completes(&mut proactor);
        drop(here); // without a word to the proactor
        there.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert_eq!(there.read(&mut [0; 1]).unwrap(), 0);
    });
}

/// Whichever comes first: the op completes once, and what it received is in its buffer or still in the socket.
#[test]
fn data_that_arrives_with_a_cancel_is_not_lost() {
    rings(|mut proactor| {
        let (here, mut there) = UnixStream::pair().unwrap();
        let mut received = Vec::new();
        for round in 0..500u32 {
            let key = proactor.submit(recv(&here, 4), 1);
            there.write_all(&round.to_be_bytes()).unwrap();
            proactor.cancel(key);
            let done = complete(&mut proactor);
            match done.result {
                Ok(_) => received.extend(done.buf.unwrap()),
                Err(errno) => {
                    assert_eq!(errno, Errno::CANCELED);
                    let mut buf = [0; 4];
                    (&here).read_exact(&mut buf).unwrap();
                    received.extend(buf);
                }
            }
            assert!(proactor.next().is_none(), "one completion for each op");
        }
        let expected: Vec<u8> = (0..500u32).flat_map(u32::to_be_bytes).collect();
        assert_eq!(received, expected);
    });
}

#[test]
fn data_that_arrives_at_the_deadline_is_not_lost() {
    rings(|mut proactor| {
        let (here, mut there) = UnixStream::pair().unwrap();
        for round in 0..100u8 {
            let deadline = Instant::now() + Duration::from_micros(u64::from(round) * 10);
            proactor.submit_by(recv(&here, 1), 1, deadline);
            if round % 2 == 0 {
                std::thread::sleep(Duration::from_micros(u64::from(round) * 10));
            }
            there.write_all(&[round]).unwrap();
            let done = complete(&mut proactor);
            let got = match done.result {
                Ok(_) => done.buf.unwrap()[0],
                Err(errno) => {
                    assert_eq!(errno, Errno::TIMED_OUT);
                    let mut buf = [0; 1];
                    (&here).read_exact(&mut buf).unwrap();
                    buf[0]
                }
            };
            assert_eq!(got, round);
        }
    });
}

/// More ops than either queue has room for, before anything is taken out.
#[test]
fn more_ops_than_the_queues_hold_all_complete() {
    const OPS: u64 = 10_000;
    rings(|mut proactor| {
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let pairs: Vec<_> = (0..64).map(|_| UnixStream::pair().unwrap()).collect();
        let mut submitted = 0;
        for number in 0..OPS {
            let (here, _) = &pairs[number as usize % pairs.len()];
            proactor.submit(recv(here, 1), number);
            submitted += 1;
        }
        let fd = file.as_raw_fd();
        proactor.submit(Op::Fsync { fd, data_only: true }, OPS);
        for round in 0..OPS {
            let (_, there) = &pairs[round as usize % pairs.len()];
            (&*there).write_all(b"x").unwrap();
        }
        let mut seen = vec![false; OPS as usize + 1];
        for _ in 0..=submitted {
            let done = complete(&mut proactor);
            assert!(!std::mem::replace(&mut seen[done.token as usize], true), "completed twice");
            assert!(done.token == OPS || done.result == Ok(1));
        }
        assert_eq!(proactor.pending(), 0);
    });
}

#[test]
fn dropping_ends_ops_before_their_buffers_are_freed() {
    rings(|mut proactor| {
        let pairs: Vec<_> = (0..100).map(|_| UnixStream::pair().unwrap()).collect();
        for (here, _) in &pairs {
            proactor.submit(recv(here, 1 << 16), 0);
        }
        let start = Instant::now();
        drop(proactor);
        assert!(start.elapsed() < Duration::from_secs(5), "the kernel was asked to end them");
        // What comes now is the socket's, and nobody's memory is written to.
        for (here, there) in &pairs {
            (&*there).write_all(b"mine").unwrap();
            let mut buf = [0; 4];
            (&*here).read_exact(&mut buf).unwrap();
            assert_eq!(&buf, b"mine");
        }
    });
}

#[test]
fn detached_op_frees_its_buffer_when_the_kernel_has_let_go() {
    rings(|mut proactor| {
        let (here, _there) = UnixStream::pair().unwrap();
        let key = proactor.submit(recv(&here, 1 << 20), 1);
        assert!(proactor.detach(key));
        let limit = Instant::now() + Duration::from_secs(10);
        while proactor.pending() > 0 {
            assert!(Instant::now() < limit);
            proactor.wait(Some(Duration::from_millis(100))).unwrap();
        }
        assert!(proactor.next().is_none());
    });
}

/// A ring for one issuer is of no use to another thread: its ops go to the pool.
#[test]
fn proactor_that_has_moved_to_another_thread_still_works() {
    rings(|mut proactor| {
        std::thread::spawn(move || {
            let file = std::fs::File::open("/proc/self/exe").unwrap();
            proactor.submit(Op::Fsync { fd: file.as_raw_fd(), data_only: false }, 1);
            let done = complete(&mut proactor);
            assert_eq!(done.token, 1);
            let (here, mut there) = UnixStream::pair().unwrap();
            proactor.submit(recv(&here, 8), 2);
            there.write_all(b"x").unwrap();
            assert_eq!(complete(&mut proactor).result, Ok(1));
            proactor.forget(here.as_raw_fd());
        })
        .join()
        .unwrap();
    });
}
