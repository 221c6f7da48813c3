//! A driver that does everything that the contract allows and that real ones seldom do: it holds events back and lets later
//! ones overtake them, reports readiness that is none, twice, or bare of details, refuses to carry ops, or gives them up
//! unasked.

use std::cell::RefCell;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::time::Duration;

use lissom_proactor::driver::{Cargo, Driver, Event, Outcome, Watch};
use lissom_proactor::{Errno, Op, OpKey, Readiness};

use super::Dice;

thread_local! {
    /// Events that are owed for system calls that were made to fail although there was something.
    pub(crate) static OWED: RefCell<Vec<(RawFd, Readiness)>> = const { RefCell::new(Vec::new()) };
}

pub(crate) struct Faulty<D> {
    driver: D,
    dice: Dice,
    /// Whether there are events that tell what is not so. They also hide an event that was lost.
    lies: bool,
    held: Vec<Event>,
    armed: Vec<Watch>,
    /// Whether ops that are carried may be given up.
    gives_up: bool,
}

impl<D: Driver> Faulty<D> {
    pub(crate) fn new(driver: D, seed: u64) -> Faulty<D> {
        Faulty {
            driver,
            dice: Dice::new(seed),
            lies: seed % 2 == 1,
            held: Vec::new(),
            armed: Vec::new(),
            gives_up: false,
        }
    }

    /// Some of the ops that are carried end by `ECANCELED`, cancelled by nobody.
    pub(crate) fn giving_up(mut self) -> Faulty<D> {
        self.gives_up = true;
        self
    }

    /// The events that are owed, of descriptors that are armed still.
    fn owed(&mut self) -> Vec<Event> {
        let event = |(fd, readiness)| {
            let watch = self.armed.iter().find(|watch| watch.fd == fd)?;
            Some(Event::Ready { fd, generation: watch.generation, readiness })
        };
        OWED.take().into_iter().filter_map(event).collect()
    }

    /// An event that tells what is not so: whoever waits tries in vain, and waits on.
    fn spurious(&mut self) -> Option<Event> {
        if self.armed.is_empty() {
            return None;
        }
        let watch = self.armed[self.dice.below(self.armed.len())];
        Some(Event::Ready { fd: watch.fd, generation: watch.generation, readiness: Readiness::READ })
    }
}

impl<D: Driver + 'static> Driver for Faulty<D> {
    fn name(&self) -> &'static str {
        self.driver.name()
    }

    fn fresh(&self) -> io::Result<Box<dyn Driver>> {
        self.driver.fresh()
    }

    fn attach(&mut self, bell: BorrowedFd<'_>) -> io::Result<()> {
        self.driver.attach(bell)
    }

    fn keeps(&self) -> bool {
        self.driver.keeps()
    }

    fn arm(&mut self, watch: Watch) -> Result<(), Errno> {
        self.driver.arm(watch)?;
        self.armed.retain(|other| other.fd != watch.fd);
        self.armed.push(watch);
        Ok(())
    }

    fn disarm(&mut self, fd: RawFd) {
        self.driver.disarm(fd);
        self.armed.retain(|other| other.fd != fd);
    }

    fn carries(&self, op: &Op, waits: bool) -> bool {
        self.driver.carries(op, waits)
    }

    fn carry(&mut self, key: OpKey, op: Op) -> Result<(), Op> {
        if self.dice.chance(30) {
            return Err(op);
        }
        if self.gives_up && self.dice.chance(10) {
            self.held
                .push(Event::Done { key, outcome: Outcome { result: Err(Errno::CANCELED), cargo: Cargo::of(op) } });
            return Ok(());
        }
        self.driver.carry(key, op)
    }

    fn cancel(&mut self, key: OpKey) {
        self.driver.cancel(key);
    }

    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        if self.dice.chance(5) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let owed = self.owed();
        let timeout = if self.held.is_empty() && owed.is_empty() { timeout } else { Some(Duration::ZERO) };
        self.held.extend(owed);
        let mut fetched = std::mem::take(&mut self.held);
        let waited = self.driver.wait(timeout, &mut fetched);
        fetched.extend((self.lies && self.dice.chance(20)).then(|| self.spurious()).flatten());
        while !fetched.is_empty() {
            let event = fetched.swap_remove(self.dice.below(fetched.len()));
            if self.dice.chance(25) {
                self.held.push(event);
                continue;
            }
            if let Event::Ready { fd, generation, readiness } = event
                && self.dice.chance(10)
                && self.driver.keeps()
            {
                events.push(Event::Ready { fd, generation, readiness });
            }
            events.push(event);
        }
        waited
    }
}
