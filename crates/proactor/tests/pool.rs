//! The blocking pool.

use std::sync::mpsc;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use lissom_proactor::{Pool, PoolError, PoolSettings};

fn pool(max_threads: usize, idle: Duration) -> Pool {
    Pool::new(PoolSettings { max_threads, idle, ..PoolSettings::default() })
}

const LONG: Duration = Duration::from_secs(60);

#[test]
fn jobs_that_wait_for_each_other_get_a_thread_each() {
    let pool = pool(4, LONG);
    let barrier = Arc::new(Barrier::new(5));
    for _ in 0..4 {
        let barrier = Arc::clone(&barrier);
        pool.spawn(move || _ = barrier.wait()).unwrap();
    }
    barrier.wait();
    assert_eq!(pool.stats().threads, 4);
    pool.shutdown(true);
    assert_eq!(pool.stats().finished, 4);
}

#[test]
fn jobs_beyond_the_limit_wait_for_a_thread_and_run_in_order() {
    let pool = pool(1, LONG);
    let (tell, told) = mpsc::channel();
    for n in 0..100 {
        let tell = tell.clone();
        pool.spawn(move || tell.send(n).unwrap()).unwrap();
    }
    drop(tell);
    assert!(told.iter().eq(0..100));
    assert_eq!(pool.stats().started, 1);
}

#[test]
fn panic_in_a_job_leaves_the_pool_working() {
    let pool = pool(1, LONG);
    pool.spawn(|| panic!("a job panics, as this test wants")).unwrap();
    let (tell, told) = mpsc::channel();
    pool.spawn(move || tell.send(()).unwrap()).unwrap();
    told.recv().unwrap();
    pool.shutdown(true);
    let stats = pool.stats();
    assert_eq!((stats.started, stats.finished, stats.panicked), (1, 2, 1));
}

#[test]
fn idle_threads_end_and_new_ones_start() {
    let pool = pool(2, Duration::from_millis(1));
    for round in 1..=2 {
        let (tell, told) = mpsc::channel();
        pool.spawn(move || tell.send(()).unwrap()).unwrap();
        told.recv().unwrap();
        while pool.stats().threads > 0 {
            std::thread::yield_now();
        }
        assert_eq!(pool.stats().started, round);
    }
}

#[test]
fn threads_block_all_signals() {
    let pool = pool(1, LONG);
    let (tell, told) = mpsc::channel();
    pool.spawn(move || {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("SigBlk:")).unwrap().to_owned();
        tell.send(line).unwrap();
    })
    .unwrap();
    let line = told.recv().unwrap();
    let mask = u64::from_str_radix(line["SigBlk:".len()..].trim(), 16).unwrap();
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGUSR1, libc::SIGALRM, libc::SIGCHLD] {
        assert_ne!(mask & 1 << (signal - 1), 0, "signal {signal} is not blocked: {line}");
    }
}

#[test]
fn shutdown_that_waits_runs_what_is_queued() {
    let pool = pool(1, LONG);
    let (tell, told) = mpsc::channel();
    for n in 0..10 {
        let tell = tell.clone();
        pool.spawn(move || tell.send(n).unwrap()).unwrap();
    }
    pool.shutdown(true);
    drop(tell);
    assert_eq!(told.iter().count(), 10);
    assert_eq!(pool.stats().threads, 0);
    assert!(matches!(pool.spawn(|| ()), Err(PoolError::Closed)));
}

#[test]
fn shutdown_that_does_not_wait_drops_what_is_queued() {
    let pool = pool(1, LONG);
    let (go, wait) = mpsc::channel::<()>();
    let (tell, told) = mpsc::channel();
    let first = tell.clone();
    pool.spawn(move || {
        first.send(1).unwrap();
        let _ = wait.recv();
    })
    .unwrap();
    assert_eq!(told.recv(), Ok(1));
    pool.spawn(move || tell.send(2).unwrap()).unwrap();
    pool.shutdown(false);
    drop(go);
    assert!(told.recv().is_err(), "dropped, not run");
}

#[test]
fn shutdown_from_a_job_does_not_wait_for_itself() {
    let pool = pool(1, LONG);
    let own = pool.clone();
    let (tell, told) = mpsc::channel();
    pool.spawn(move || {
        own.shutdown(true);
        tell.send(()).unwrap();
    })
    .unwrap();
    told.recv().unwrap();
}
