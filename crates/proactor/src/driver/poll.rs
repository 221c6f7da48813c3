//! The poll driver: single events by poll(2), for systems and sandboxes that have nothing better.
//!
//! - I1: the kernel reads and writes `entries` for the time of one call, in which nothing else uses them.
//! - I2: a descriptor that is not watched, or whose event has come, stands there as a negative number, which poll(2) skips.
//!   It keeps its place: most descriptors are watched again at once.
//!
//! Every wait costs as much as there are descriptors. The kernel takes as many entries as the process may have
//! descriptors open (`RLIMIT_NOFILE`); as each has one entry, only a limit that was lowered meanwhile is exceeded. Then
//! the entries that watch nothing are given up. A process that lowers its limit below what it waits for at that moment
//! has `wait` fail with `EINVAL`.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr;
use std::time::Duration;

use crate::driver::{Driver, Event, Watch};
use crate::{Errno, sys};

/// Events reported by one wait (rule 11).
const BATCH: usize = 512;

/// The place of the bell among the entries.
const BELL: usize = 0;

/// See the module's documentation.
#[derive(Default)]
pub struct Poll {
    /// The bell, then the descriptors in the order in which they were first watched.
    entries: Vec<libc::pollfd>,
    /// The generation of each entry.
    generations: Vec<u32>,
    /// Where each descriptor stands.
    places: HashMap<RawFd, usize>,
    /// Where the next batch begins, so that nobody starves behind a full one.
    cursor: usize,
}

impl Poll {
    /// Makes a driver; takes nothing of the system.
    #[must_use]
    pub fn new() -> Poll {
        Poll::default()
    }

    /// How many entries have an event, after the system has been asked.
    fn fetch(&mut self, timeout: Option<Duration>) -> Result<usize, Errno> {
        match self.ask(timeout) {
            Err(errno) if errno.code() == libc::EINVAL => {
                self.give_up_unwatched();
                self.ask(timeout)
            }
            asked => asked,
        }
    }

    /// Frees the places of descriptors that are not watched now (I2).
    fn give_up_unwatched(&mut self) {
        let unwatched: Vec<RawFd> = self.entries.iter().filter(|entry| entry.fd < 0).map(|entry| !entry.fd).collect();
        for fd in unwatched {
            self.disarm(fd);
        }
    }

    fn ask(&mut self, timeout: Option<Duration>) -> Result<usize, Errno> {
        let limit = timeout.map(|timeout| libc::timespec {
            tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let limit = limit.as_ref().map_or(ptr::null(), ptr::from_ref);
        let (place, count) = (self.entries.as_mut_ptr(), self.entries.len() as libc::nfds_t);
        // SAFETY: `place` is readable and writable for `count` entries (I1); `limit` is null or lives through the call.
        let found = sys::check(unsafe { libc::ppoll(place, count, limit, ptr::null()) })?;
        Ok(found as usize)
    }

    fn watch(&mut self, watch: &Watch) -> Result<(), Errno> {
        let entry = libc::pollfd { fd: watch.fd, events: sys::poll_events(watch.interest), revents: 0 };
        match self.places.get(&watch.fd) {
            Some(&place) => {
                self.entries[place] = entry;
                self.generations[place] = watch.generation;
            }
            None => {
                self.places.insert(watch.fd, self.entries.len());
                self.entries.push(entry);
                self.generations.push(watch.generation);
            }
        }
        Ok(())
    }
}

impl Driver for Poll {
    fn name(&self) -> &'static str {
        "poll"
    }

    fn fresh(&self) -> io::Result<Box<dyn Driver>> {
        Ok(Box::new(Poll::new()))
    }

    fn attach(&mut self, bell: BorrowedFd<'_>) -> io::Result<()> {
        self.entries.push(libc::pollfd { fd: bell.as_raw_fd(), events: libc::POLLIN, revents: 0 });
        self.generations.push(0);
        self.cursor = BELL + 1;
        Ok(())
    }

    fn keeps(&self) -> bool {
        false
    }

    fn arm(&mut self, watch: Watch) -> Result<(), Errno> {
        // poll(2) calls files on a disk ready at all times.
        if sys::on_disk(watch.fd)? {
            return Err(Errno::from_code(libc::EPERM));
        }
        self.watch(&watch)
    }

    fn disarm(&mut self, fd: RawFd) {
        let Some(place) = self.places.remove(&fd) else {
            return;
        };
        self.entries.swap_remove(place);
        self.generations.swap_remove(place);
        // A negative entry stands for the complement of its number (I2).
        if let Some(moved) = self.entries.get(place) {
            self.places.insert(if moved.fd < 0 { !moved.fd } else { moved.fd }, place);
        }
    }

    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        let mut found = self.fetch(timeout)?;
        if found > 0 && self.entries[BELL].revents != 0 {
            sys::quiet_eventfd(self.entries[BELL].fd);
            found -= 1;
        }
        let rest = self.entries.len() - 1;
        let mut place = self.cursor;
        for _ in 0..rest {
            if found == 0 || events.len() == BATCH {
                break;
            }
            if place >= self.entries.len() {
                place = BELL + 1;
            }
            let entry = &mut self.entries[place];
            if entry.fd >= 0 && entry.revents != 0 {
                let (fd, seen) = (entry.fd, entry.revents);
                entry.fd = !fd;
                let generation = self.generations[place];
                events.push(Event::Ready { fd, generation, readiness: sys::poll_readiness(seen) });
                found -= 1;
            }
            place += 1;
        }
        self.cursor = place;
        Ok(())
    }
}
