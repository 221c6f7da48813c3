//! A driver that carries ops out itself, as a ring would: the parts of the contract that epoll does
//! not use. Its ops end when the test says so.

mod common;

use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{complete, nothing_completes};
use lissom_proactor::driver::{Cargo, Driver, Event, Outcome, Watch};
use lissom_proactor::{Errno, Op, OpKey, Proactor};

#[derive(Default)]
struct Ring {
    carried: HashMap<OpKey, Op>,
    cancelled: Vec<OpKey>,
    ends: Vec<(OpKey, Result<i32, Errno>)>,
    full: bool,
}

#[derive(Clone, Default)]
struct Carrying(Arc<Mutex<Ring>>);

impl Carrying {
    fn end(&self, key: OpKey, result: Result<i32, Errno>) {
        self.0.lock().unwrap().ends.push((key, result));
    }
}

impl Driver for Carrying {
    fn name(&self) -> &'static str {
        "carrying"
    }
    fn fresh(&self) -> io::Result<Box<dyn Driver>> {
        Ok(Box::new(Carrying::default()))
    }
    fn attach(&mut self, _: BorrowedFd<'_>) -> io::Result<()> {
        Ok(())
    }
    fn keeps(&self) -> bool {
        false
    }
    fn arm(&mut self, _: Watch) -> Result<(), Errno> {
        Ok(())
    }
    fn disarm(&mut self, _: i32) {}
    fn carries(&self, op: &Op, _waits: bool) -> bool {
        matches!(op, Op::Recv { .. })
    }
    fn carry(&mut self, key: OpKey, op: Op) -> Result<(), Op> {
        let mut ring = self.0.lock().unwrap();
        if ring.full {
            return Err(op);
        }
        ring.carried.insert(key, op);
        Ok(())
    }
    fn cancel(&mut self, key: OpKey) {
        self.0.lock().unwrap().cancelled.push(key);
    }
    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        let mut ring = self.0.lock().unwrap();
        for (key, result) in std::mem::take(&mut ring.ends) {
            let cargo = Cargo::of(ring.carried.remove(&key).expect("carried"));
            events.push(Event::Done { key, outcome: Outcome { result, cargo } });
        }
        if events.is_empty() {
            std::thread::sleep(timeout.expect("these tests do not wait for ever"));
        }
        Ok(())
    }
}

fn setup() -> (Carrying, Proactor, OpKey) {
    let driver = Carrying::default();
    let mut proactor = Proactor::with_driver(Box::new(driver.clone())).unwrap();
    let key = proactor.submit(Op::Recv { fd: 0, buf: vec![1, 2], flags: 0 }, 1);
    assert_eq!(driver.0.lock().unwrap().carried.len(), 1);
    (driver, proactor, key)
}

const GONE: Result<i32, Errno> = Err(Errno::CANCELED);

#[test]
fn carried_op_returns_result_and_buffer() {
    let (driver, mut proactor, key) = setup();
    nothing_completes(&mut proactor);
    driver.end(key, Ok(2));
    let done = complete(&mut proactor);
    assert_eq!((done.result, done.buf), (Ok(2), Some(vec![1, 2])));
}

#[test]
fn cancelled_op_completes_only_when_the_driver_lets_go() {
    let (driver, mut proactor, key) = setup();
    assert!(proactor.cancel(key));
    nothing_completes(&mut proactor);
    assert_eq!(driver.0.lock().unwrap().cancelled, [key]);
    driver.end(key, GONE);
    let done = complete(&mut proactor);
    assert_eq!((done.result, done.buf), (GONE, Some(vec![1, 2])));
}

#[test]
fn real_result_that_comes_before_the_cancel_wins() {
    let (driver, mut proactor, key) = setup();
    driver.end(key, Ok(2));
    assert!(proactor.cancel(key));
    assert_eq!(complete(&mut proactor).result, Ok(2));
    assert!(!proactor.cancel(key));
}

#[test]
fn deadline_asks_the_driver_and_reports_etimedout() {
    let driver = Carrying::default();
    let mut proactor = Proactor::with_driver(Box::new(driver.clone())).unwrap();
    let soon = Instant::now() + Duration::from_micros(100);
    let key = proactor.submit_by(Op::Recv { fd: 0, buf: vec![], flags: 0 }, 1, soon);
    while Instant::now() < soon {}
    nothing_completes(&mut proactor);
    assert_eq!(driver.0.lock().unwrap().cancelled, [key]);
    assert!(proactor.cancel(key), "a later cancel changes nothing");
    driver.end(key, GONE);
    assert_eq!(complete(&mut proactor).result, Err(Errno::TIMED_OUT));
}

#[test]
fn detached_op_counts_until_the_driver_lets_go_and_is_not_delivered() {
    let (driver, mut proactor, key) = setup();
    assert!(proactor.detach(key));
    assert_eq!(proactor.pending(), 1);
    driver.end(key, Ok(1));
    nothing_completes(&mut proactor);
    assert_eq!(proactor.pending(), 0);
}

#[test]
fn op_that_a_full_driver_gives_back_is_tried_by_the_proactor() {
    let (driver, mut proactor, _) = setup();
    driver.0.lock().unwrap().full = true;
    proactor.submit(Op::Recv { fd: -1, buf: vec![7], flags: 0 }, 2);
    let done = complete(&mut proactor);
    assert_eq!((done.result, done.buf), (Err(Errno::BAD_FD), Some(vec![7])));
}
