//! Cancelling, detaching, deadlines, keys.

mod common;

use std::io::Write;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use common::{complete, nothing_completes, nothing_happens_for, on_every_driver, pair, readable};
use lissom_proactor::{Errno, Op, Wait};

#[test]
fn proactor_moves_between_threads_and_remote_is_shared_by_them() {
    fn moves<T: Send>() {}
    fn shared<T: Send + Sync + Clone>() {}
    moves::<lissom_proactor::Proactor>();
    shared::<lissom_proactor::Remote>();
    shared::<lissom_proactor::Pool>();
}

#[test]
fn nop_completes_at_once_and_wait_does_not_block() {
    on_every_driver(|mut proactor| {
        proactor.submit(Op::Nop, 5);
        assert_eq!((proactor.pending(), proactor.finished()), (0, 1));
        assert_eq!(proactor.wait(None).unwrap(), Wait::Finished);
        let done = proactor.next().unwrap();
        assert_eq!((done.token, done.result), (5, Ok(0)));
    });
}

#[test]
fn cancelled_op_completes_once_with_ecanceled_and_gives_its_buffer_back() {
    on_every_driver(|mut proactor| {
        let (here, _there) = pair();
        let buf = Vec::with_capacity(100);
        let key = proactor.submit(Op::Recv { fd: here.as_raw_fd(), buf, flags: 0 }, 1);
        assert!(proactor.cancel(key));
        assert!(proactor.cancel(key), "finished, not yet taken");
        let done = complete(&mut proactor);
        assert_eq!(done.result, Err(Errno::CANCELED));
        assert!(done.buf.unwrap().capacity() >= 100);
        assert!(!proactor.cancel(key), "stale");
        nothing_completes(&mut proactor);
        proactor.forget(here.as_raw_fd());
    });
}

#[test]
fn cancel_after_completion_keeps_the_result() {
    on_every_driver(|mut proactor| {
        let (here, mut there) = pair();
        let key = proactor.submit(readable(&here), 1);
        there.write_all(b"x").unwrap();
        assert_eq!(proactor.wait(None).unwrap(), Wait::Finished);
        assert!(proactor.cancel(key));
        assert!(proactor.next().unwrap().result.is_ok());
        assert!(proactor.next().is_none());
        proactor.forget(here.as_raw_fd());
    });
}

/// The event is in the kernel, not yet fetched: the cancel comes first, exactly once.
#[test]
fn cancel_with_an_event_pending_completes_once() {
    on_every_driver(|mut proactor| {
        let (here, mut there) = pair();
        let key = proactor.submit(readable(&here), 1);
        there.write_all(b"x").unwrap();
        assert!(proactor.cancel(key));
        assert_eq!(complete(&mut proactor).result, Err(Errno::CANCELED));
        nothing_completes(&mut proactor);
        // And the event is not lost to the next waiter.
        proactor.submit(readable(&here), 2);
        assert_eq!(complete(&mut proactor).token, 2);
        proactor.forget(here.as_raw_fd());
    });
}

#[test]
fn key_of_an_earlier_op_does_not_name_the_next_in_its_slot() {
    on_every_driver(|mut proactor| {
        let old = proactor.submit(Op::Timeout, 1);
        assert!(proactor.detach(old));
        let new = proactor.submit(Op::Timeout, 2);
        assert_ne!(old, new);
        assert!(!proactor.cancel(old) && !proactor.detach(old));
        assert_eq!(proactor.pending(), 1);
    });
}

#[test]
fn detached_op_is_never_delivered() {
    on_every_driver(|mut proactor| {
        let (here, mut there) = pair();
        let parked = proactor.submit(readable(&here), 1);
        let other = proactor.submit(readable(&here), 2);
        let nop = proactor.submit(Op::Nop, 3);
        let late = Instant::now() + Duration::from_secs(60);
        let timed = proactor.submit_by(readable(&here), 4, late);
        for key in [parked, nop, timed] {
            assert!(proactor.detach(key));
        }
        assert_eq!(proactor.nearest_deadline(), None);
        there.write_all(b"x").unwrap();
        assert_eq!(complete(&mut proactor).token, 2);
        assert!(!proactor.detach(other));
        nothing_completes(&mut proactor);
        assert_eq!(proactor.pending(), 0);
        proactor.forget(here.as_raw_fd());
    });
}

#[test]
fn detaching_an_accepted_connection_closes_it() {
    use std::io::Read;
    on_every_driver(|mut proactor| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut there = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let key = proactor.submit(Op::Accept { fd: listener.as_raw_fd() }, 1);
        proactor.wait(None).unwrap();
        assert_eq!(proactor.finished(), 1);
        assert!(proactor.detach(key));
        assert_eq!(there.read(&mut [0; 1]).unwrap(), 0);
        proactor.forget(listener.as_raw_fd());
    });
}

#[test]
fn timeout_ends_at_its_deadline_and_not_before() {
    on_every_driver(|mut proactor| {
        let start = Instant::now();
        let after = |micros| start + Duration::from_micros(micros);
        proactor.submit_by(Op::Timeout, 2, after(3_500));
        proactor.submit_by(Op::Timeout, 1, after(1_200));
        for (token, micros) in [(1, 1_200), (2, 3_500)] {
            let done = complete(&mut proactor);
            assert_eq!((done.token, done.result), (token, Err(Errno::TIMED_OUT)));
            assert!(Instant::now() >= after(micros));
        }
    });
}

#[test]
fn deadline_in_the_past_leaves_one_attempt() {
    on_every_driver(|mut proactor| {
        let (here, mut there) = pair();
        let past = Instant::now();
        let recv = || Op::Recv { fd: here.as_raw_fd(), buf: Vec::with_capacity(8), flags: 0 };
        proactor.submit_by(recv(), 1, past);
        let done = complete(&mut proactor);
        assert_eq!(done.result, Err(Errno::TIMED_OUT));
        assert!(done.buf.is_some());
        there.write_all(b"abc").unwrap();
        // The registration is kept and its event not fetched yet: fetched before deadlines count.
        proactor.submit_by(recv(), 2, past);
        assert_eq!(complete(&mut proactor).result, Ok(3));
        proactor.forget(here.as_raw_fd());
    });
}

#[test]
fn result_of_the_same_turn_comes_before_the_deadline() {
    on_every_driver(|mut proactor| {
        let (here, mut there) = pair();
        let soon = Instant::now() + Duration::from_micros(200);
        proactor.submit_by(readable(&here), 1, soon);
        there.write_all(b"x").unwrap();
        while Instant::now() < soon {}
        assert!(complete(&mut proactor).result.is_ok());
        nothing_completes(&mut proactor);
        proactor.forget(here.as_raw_fd());
    });
}

#[test]
fn wait_ends_after_its_timeout() {
    on_every_driver(|mut proactor| {
        let start = Instant::now();
        let timeout = Duration::from_micros(1_500);
        nothing_happens_for(&mut proactor, timeout);
        assert!(start.elapsed() >= timeout);
    });
}

#[test]
fn hundred_thousand_timeouts_come_in_order() {
    on_every_driver(|mut proactor| {
        let start = Instant::now();
        let micros = |n: u64| n * 7919 % 100_000;
        let keys: Vec<_> = (0..100_000)
            .map(|n| {
                let at = start + Duration::from_micros(micros(n));
                proactor.submit_by(Op::Timeout, n, at)
            })
            .collect();
        // Withdrawing leaves nothing behind.
        keys.iter().step_by(2).for_each(|&key| assert!(proactor.detach(key)));
        let tokens: Vec<u64> = (0..50_000).map(|_| complete(&mut proactor).token).collect();
        assert!(tokens.iter().all(|token| token % 2 == 1));
        assert!(tokens.is_sorted_by_key(|&token| micros(token)));
        assert_eq!(proactor.nearest_deadline(), None);
    });
}

#[test]
fn dropping_with_ops_in_flight_is_safe() {
    on_every_driver(|mut proactor| {
        let (here, mut there) = pair();
        let fd = here.as_raw_fd();
        let remote = proactor.remote();
        proactor.submit(Op::Recv { fd, buf: Vec::with_capacity(4096), flags: 0 }, 1);
        proactor.submit(readable(&here), 2);
        proactor.submit_by(Op::Timeout, 3, Instant::now() + Duration::from_secs(60));
        proactor.submit(Op::Nop, 4);
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let job = move || Ok(wait.recv().map_or(1, |()| 0));
        proactor.submit(Op::Blocking(Box::new(job)), 5);
        drop(proactor);
        there.write_all(b"too late").unwrap();
        remote.post(6, 0);
        remote.wake();
        drop(go);
        lissom_proactor::closed(fd);
    });
}
