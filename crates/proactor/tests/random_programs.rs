//! Random programs on every driver, and on drivers that make trouble; see `programs/mod.rs`.
//! For longer runs: `cargo run --release -p lissom-proactor --example fuzz -- --minutes 60`.

mod programs;

use lissom_proactor::driver::epoll::Epoll;
use lissom_proactor::driver::poll::Poll;
use lissom_proactor::driver::uring::{Features, Uring};
use lissom_proactor::{DriverKind, Proactor};
use programs::Program;
use programs::faulty::Faulty;

const PROGRAMS: u64 = 150;
const STEPS: usize = 400;

fn each_seed(carries: bool, make: impl Fn(u64) -> std::io::Result<Proactor>) {
    for seed in 0..PROGRAMS {
        match make(seed) {
            Ok(proactor) => {
                eprintln!("seed {seed}");
                Program::new(proactor, seed, carries).run(STEPS);
            }
            Err(error) => return eprintln!("not run: {error}"),
        }
    }
}

#[test]
fn epoll_keeps_to_the_model() {
    each_seed(false, |_| Proactor::new(DriverKind::Epoll));
}

#[test]
fn poll_keeps_to_the_model() {
    each_seed(false, |_| Proactor::new(DriverKind::Poll));
}

#[test]
fn uring_keeps_to_the_model() {
    each_seed(false, |_| Proactor::new(DriverKind::Uring));
}

#[test]
fn uring_that_carries_sockets_keeps_to_the_model() {
    each_seed(true, |_| Proactor::with_driver(Box::new(Uring::new()?.with_sockets())));
}

#[test]
fn uring_of_old_kernels_keeps_to_the_model() {
    each_seed(true, |_| Proactor::with_driver(Box::new(Uring::with_features(Features::none())?.with_sockets())));
}

#[test]
fn trouble_with_epoll_changes_nothing() {
    each_seed(false, |seed| Proactor::with_driver(Box::new(Faulty::new(Epoll::new()?, seed))));
}

#[test]
fn trouble_with_poll_changes_nothing() {
    each_seed(false, |seed| Proactor::with_driver(Box::new(Faulty::new(Poll::new(), seed))));
}

#[test]
fn trouble_with_uring_changes_nothing() {
    each_seed(true, |seed| Proactor::with_driver(Box::new(Faulty::new(Uring::new()?.with_sockets(), seed))));
}
