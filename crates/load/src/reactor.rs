//! Epoll, edge-triggered, with a timer finer than its millisecond timeout.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};

/// The token of the timer; connections have their index.
const TIMER: u64 = u64::MAX;
/// Events taken in one call.
const BATCH: usize = 256;

/// What became possible on a connection.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// The token given when it was added.
    pub token: usize,
    /// The peer has closed its side, or the connection has failed: no further edge will come for
    /// that, so the reader must go on until the end of the data.
    pub hung_up: bool,
}

/// An epoll instance and a timer in it.
#[allow(missing_debug_implementations, reason = "events are a union without Debug")]
pub struct Reactor {
    epoll: OwnedFd,
    timer: OwnedFd,
    armed: bool,
    events: Vec<epoll::Event>,
}

impl Reactor {
    /// Makes an empty one.
    ///
    /// # Errors
    ///
    /// Those of epoll_create(2), timerfd_create(2) and epoll_ctl(2): limits on file descriptors.
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let event = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, &timer, epoll::EventData::new_u64(TIMER), event)?;
        Ok(Self { epoll, timer, armed: false, events: Vec::with_capacity(BATCH) })
    }

    /// Watches a socket, once and for all, in both directions; closing it ends that.
    ///
    /// # Errors
    ///
    /// Those of epoll_ctl(2).
    pub fn add(&self, socket: impl AsFd, token: usize) -> io::Result<()> {
        use epoll::EventFlags as Flags;
        let flags = Flags::IN | Flags::OUT | Flags::RDHUP | Flags::ET;
        let data = epoll::EventData::new_u64(token as u64);
        Ok(epoll::add(&self.epoll, socket, data, flags)?)
    }

    /// Waits for events until `until` (to the next millisecond) or `precise` (to the timer's
    /// resolution), whichever is earlier, and puts them into `ready` in place of what was there.
    ///
    /// # Errors
    ///
    /// Those of epoll_wait(2) and timerfd_settime(2); an interruption by a signal is none.
    pub fn wait(&mut self, until: Instant, precise: Option<Instant>, ready: &mut Vec<Ready>) -> io::Result<()> {
        ready.clear();
        let now = Instant::now();
        let mut timeout = until.saturating_duration_since(now);
        if let Some(precise) = precise.filter(|&precise| precise < until) {
            let left = precise.saturating_duration_since(now);
            if left.is_zero() {
                timeout = Duration::ZERO;
            } else {
                self.arm(left)?;
            }
        }
        let timeout = Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        self.events.clear();
        let spare = rustix::buffer::spare_capacity(&mut self.events);
        match epoll::wait(&self.epoll, spare, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &self.events {
            // Copies: the kernel's struct is packed on x86-64.
            let (flags, data) = (event.flags, event.data);
            if data.u64() == TIMER {
                self.armed = false;
                continue;
            }
            use epoll::EventFlags as Flags;
            ready.push(Ready {
                token: data.u64() as usize,
                hung_up: flags.intersects(Flags::RDHUP | Flags::HUP | Flags::ERR),
            });
        }
        if self.armed {
            // A timer left to expire would end a later wait for nothing.
            self.arm(Duration::ZERO)?;
        }
        Ok(())
    }

    /// Lets the timer expire after `left`; zero disarms it (timerfd_settime(2)).
    fn arm(&mut self, left: Duration) -> io::Result<()> {
        let value =
            Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
        let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        let setting = Itimerspec { it_interval, it_value: value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &setting)?;
        self.armed = !left.is_zero();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_ends_at_the_precise_instant_before_the_coarse_one() {
        let mut reactor = Reactor::new().expect("epoll");
        let start = Instant::now();
        let mut ready = Vec::new();
        let precise = start + Duration::from_micros(300);
        let until = start + Duration::from_secs(20);
        reactor.wait(until, Some(precise), &mut ready).expect("wait");
        assert!(ready.is_empty() && Instant::now() >= precise);
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn hang_up_is_reported_with_the_token() {
        let (here, there) = std::os::unix::net::UnixStream::pair().expect("socketpair");
        let mut reactor = Reactor::new().expect("epoll");
        reactor.add(&here, 7).expect("add");
        drop(there);
        let mut ready = Vec::new();
        let until = Instant::now() + Duration::from_secs(20);
        reactor.wait(until, None, &mut ready).expect("wait");
        assert!(ready[0].token == 7 && ready[0].hung_up);
    }
}
