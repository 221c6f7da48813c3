//! Other threads: posts, wake-ups, blocking jobs, signals.

mod common;

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use common::{complete, nothing_happens_for, on_every_driver};
use lissom_proactor::{Errno, Op, Pool, PoolSettings, Wait};

#[test]
fn post_from_another_thread_ends_a_wait() {
    on_every_driver(|mut proactor| {
        let remote = proactor.remote();
        let poster = std::thread::spawn(move || {
            remote.post(1, 17);
            remote.post(2, -libc::EPIPE);
        });
        let first = complete(&mut proactor);
        assert_eq!((first.token, first.result), (1, Ok(17)));
        let second = complete(&mut proactor);
        assert_eq!((second.token, second.result), (2, Err(Errno::from_code(libc::EPIPE))));
        poster.join().unwrap();
    });
}

#[test]
fn wake_before_a_wait_ends_that_wait_and_no_other() {
    on_every_driver(|mut proactor| {
        let remote = proactor.remote();
        remote.wake();
        remote.wake();
        assert_eq!(proactor.wait(None).unwrap(), Wait::Woken);
        nothing_happens_for(&mut proactor, Duration::from_millis(2));
    });
}

#[test]
fn posts_of_many_threads_all_arrive_each_threads_in_order() {
    const THREADS: u64 = 4;
    const POSTS: i32 = 2_000;
    on_every_driver(|mut proactor| {
        let posters: Vec<_> = (0..THREADS)
            .map(|thread| {
                let remote = proactor.remote();
                std::thread::spawn(move || (0..POSTS).for_each(|n| remote.post(thread, n)))
            })
            .collect();
        let mut next = [0; THREADS as usize];
        for _ in 0..THREADS * POSTS as u64 {
            let done = complete(&mut proactor);
            let expected = &mut next[done.token as usize];
            assert_eq!(done.result, Ok(*expected));
            *expected += 1;
        }
        posters.into_iter().for_each(|poster| poster.join().unwrap());
    });
}

/// Every answer depends on the wake-up before it: one lost and the test hangs.
#[test]
fn ping_pong_between_two_threads_loses_no_wake_up() {
    on_every_driver(|mut proactor| {
        let remote = proactor.remote();
        let (ping, pings) = mpsc::channel::<i32>();
        let echo = std::thread::spawn(move || pings.iter().for_each(|n| remote.post(0, n)));
        for n in 0..5_000 {
            ping.send(n).unwrap();
            assert_eq!(complete(&mut proactor).result, Ok(n));
        }
        drop(ping);
        echo.join().unwrap();
    });
}

#[test]
fn blocking_job_returns_its_result_or_error() {
    on_every_driver(|mut proactor| {
        let refuse = || Err(io::Error::from_raw_os_error(libc::EACCES));
        let other = || Err(io::Error::other("no number"));
        let jobs: [lissom_proactor::Job; 4] =
            [Box::new(|| Ok(3)), Box::new(refuse), Box::new(other), Box::new(|| panic!("job"))];
        let expected = [Ok(3), Err(Errno::from_code(libc::EACCES)), Err(Errno::IO), Err(Errno::IO)];
        for (job, expected) in jobs.into_iter().zip(expected) {
            proactor.submit(Op::Blocking(job), 1);
            assert_eq!(proactor.pending(), 1);
            assert_eq!(complete(&mut proactor).result, expected);
        }
    });
}

#[test]
fn cancelled_job_completes_now_and_does_not_begin_if_it_had_not() {
    on_every_driver(|mut proactor| {
        let one = PoolSettings { max_threads: 1, ..PoolSettings::default() };
        let pool = Pool::new(one);
        proactor.set_pool(pool.clone());
        let (go, wait) = mpsc::channel::<()>();
        let (begun, begins) = mpsc::channel();
        let first = Op::Blocking(Box::new(move || {
            begun.send(()).unwrap();
            wait.recv().unwrap();
            Ok(1)
        }));
        let ran = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&ran);
        let second = Op::Blocking(Box::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
            Ok(2)
        }));
        let running = proactor.submit(first, 1);
        begins.recv().unwrap();
        let soon = Instant::now() + Duration::from_millis(1);
        let queued = proactor.submit_by(second, 2, soon);
        assert_eq!(complete(&mut proactor).result, Err(Errno::TIMED_OUT));
        assert!(proactor.cancel(running) && !proactor.cancel(queued));
        assert_eq!(complete(&mut proactor).result, Err(Errno::CANCELED));
        go.send(()).unwrap();
        pool.shutdown(true);
        assert_eq!(ran.load(Ordering::SeqCst), 0);
        common::nothing_completes_but_a_stale_letter(&mut proactor);
        // And a pool that is shut down takes nothing.
        proactor.submit(Op::Blocking(Box::new(|| Ok(0))), 3);
        assert_eq!(complete(&mut proactor).result, Err(Errno::CANCELED));
    });
}

extern "C" fn nothing(_: libc::c_int) {}

#[test]
fn signal_ends_a_wait_as_interrupted() {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: zeroes are a valid `sigaction`: no flags (SA_RESTART among them), an empty mask.
    let action = unsafe { action.assume_init_mut() };
    action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as usize;
    // SAFETY: the handler does nothing; SIGUSR1 is used by this test alone.
    let set = unsafe { libc::sigaction(libc::SIGUSR1, action, std::ptr::null_mut()) };
    assert_eq!(set, 0);
    on_every_driver(|mut proactor| {
        // SAFETY: takes nothing.
        let waiter = unsafe { libc::pthread_self() };
        let (stop, stopped) = mpsc::channel::<()>();
        // Signals until told to stop: one alone may come just before the wait begins.
        let sender = std::thread::spawn(move || {
            while stopped.recv_timeout(Duration::from_millis(1)).is_err() {
                // SAFETY: the waiter joins this thread, so it is alive.
                unsafe { libc::pthread_kill(waiter, libc::SIGUSR1) };
            }
        });
        assert_eq!(proactor.wait(None).unwrap(), Wait::Interrupted);
        stop.send(()).unwrap();
        sender.join().unwrap();
    });
}
