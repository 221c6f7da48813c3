//! Random programs for as long as one likes: `cargo run --release --example fuzz -- [--minutes 60] [--seed 0]`.
//!
//! Prints the seed of each hundredth program and of one that fails, which `tests/random_programs.rs` runs again.

#[path = "../tests/programs/mod.rs"]
mod programs;

use std::time::{Duration, Instant};

use lissom_proactor::driver::epoll::Epoll;
use lissom_proactor::driver::poll::Poll;
use lissom_proactor::driver::uring::Uring;
use lissom_proactor::{DriverKind, Proactor};
use programs::Program;
use programs::faulty::Faulty;

fn number(name: &str, default: u64) -> u64 {
    let mut words = std::env::args().skip_while(|word| word != name).skip(1);
    words.next().map_or(default, |word| word.parse().expect("a number"))
}

fn main() -> std::io::Result<()> {
    let end = Instant::now() + Duration::from_secs(60 * number("--minutes", 60));
    let mut seed = number("--seed", 0);
    while Instant::now() < end {
        if seed.is_multiple_of(100) {
            println!("seed {seed}");
        }
        let run = |carries, proactor| Program::new(proactor, seed, carries).run(1000);
        run(false, Proactor::new(DriverKind::Epoll)?);
        run(false, Proactor::new(DriverKind::Poll)?);
        run(true, Proactor::with_driver(Box::new(Uring::new()?.with_sockets()))?);
        run(false, Proactor::with_driver(Box::new(Faulty::new(Epoll::new()?, seed)))?);
        run(false, Proactor::with_driver(Box::new(Faulty::new(Poll::new(), seed)))?);
        run(true, Proactor::with_driver(Box::new(Faulty::new(Uring::new()?.with_sockets(), seed)))?);
        seed += 1;
    }
    Ok(())
}
