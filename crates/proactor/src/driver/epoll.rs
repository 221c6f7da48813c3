//! The epoll driver: edge-triggered readiness (epoll(7)).
//!
//! - I1: `epoll` is an open epoll descriptor that nothing else uses, except its copy in a forked
//!   child, which only closes it.
//! - I2: the kernel writes at most `batch.len()` events and returns how many; only those are read.
//!
//! A registration is keyed by (open file, number) in the kernel. It goes when the last descriptor
//! of the *file* is closed, so after a `dup` or a fork it may outlive the number: its events are
//! told apart by the generation in their data.
//!
//! ```text
//!   data = generation << 32 | fd          the bell: all ones, as no descriptor is -1
//! ```
//!
//! Kept registrations ask for the directions that were waited for, not for both at once: with
//! `EPOLLOUT` armed, a Unix socket or pipe reports an edge whenever its peer takes data
//! (`unix_write_space` in net/unix/af_unix.c), which would wake a reader for nothing.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::driver::{Driver, Event, Watch};
use crate::{Errno, Interest, Readiness, sys};

/// Events fetched by one system call. The kernel hands out its ready list in turn, so what is left
/// comes first next time. More would be cold again before the caller comes to serve them: with 10,000
/// connections that all speak, batches of 512 cost 4 % more per message.
const BATCH: usize = 64;

const BELL: u64 = u64::MAX;

/// Cleared for good when the kernel (before 5.11) or a sandbox refuses epoll_pwait2(2).
static HAS_PWAIT2: AtomicBool = AtomicBool::new(true);

/// See the module's documentation.
pub struct Epoll {
    epoll: OwnedFd,
    batch: Box<[libc::epoll_event]>,
    /// May use epoll_pwait2(2), if it is there.
    precise: bool,
    note: Option<String>,
}

impl Epoll {
    /// Opens an epoll descriptor, close-on-exec.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE` and `ENOMEM`, see epoll_create1(2).
    pub fn new() -> io::Result<Epoll> {
        // SAFETY: takes no pointers.
        let fd = sys::check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: fresh from the kernel.
        let epoll = unsafe { sys::own(fd) };
        let blank = libc::epoll_event { events: 0, u64: 0 };
        Ok(Epoll { epoll, batch: vec![blank; BATCH].into_boxed_slice(), precise: true, note: None })
    }

    /// Says why it is used instead of another driver.
    #[must_use]
    pub fn because(mut self, note: String) -> Epoll {
        self.note = Some(note);
        self
    }

    /// Waits in whole milliseconds, as on kernels before 5.11. For tests of that fallback.
    #[must_use]
    pub fn in_milliseconds(mut self) -> Epoll {
        self.precise = false;
        self
    }

    /// Has `wait` end whenever `fd`, an eventfd, is rung.
    pub(crate) fn listen(&self, fd: RawFd) -> Result<(), Errno> {
        self.control(libc::EPOLL_CTL_ADD, fd, (libc::EPOLLIN | libc::EPOLLET) as u32, BELL)
    }

    fn control(&self, action: i32, fd: RawFd, events: u32, data: u64) -> Result<(), Errno> {
        let mut event = libc::epoll_event { events, u64: data };
        // SAFETY: `event` lives through the call, which copies it.
        let result = unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), action, fd, &raw mut event) };
        sys::check(result).map(drop)
    }

    /// Fills the batch; how many events are in it. epoll_wait(2) counts in milliseconds, so
    /// epoll_pwait2(2) is used for what lies between 0 and for ever.
    fn fetch(&mut self, timeout: Option<Duration>) -> Result<usize, Errno> {
        let epoll = self.epoll.as_raw_fd();
        let (place, room) = (self.batch.as_mut_ptr(), self.batch.len() as i32);
        let millis = match timeout {
            None => -1,
            Some(Duration::ZERO) => 0,
            Some(timeout) => {
                if self.precise && HAS_PWAIT2.load(Ordering::Relaxed) {
                    match pwait2(epoll, place, room, timeout) {
                        Err(e) if matches!(e.code(), libc::ENOSYS | libc::EPERM) => {
                            HAS_PWAIT2.store(false, Ordering::Relaxed);
                        }
                        result => return result,
                    }
                }
                millis_rounded_up(timeout)
            }
        };
        // SAFETY: `place` is writable for `room` events (I2).
        let count = sys::check(unsafe { libc::epoll_wait(epoll, place, room, millis) })?;
        Ok(count as usize)
    }
}

/// epoll_pwait2(2), by number: C libraries before glibc 2.35 lack it.
fn pwait2(epoll: RawFd, place: *mut libc::epoll_event, room: i32, timeout: Duration) -> Result<usize, Errno> {
    let limit = libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    let no_mask = ptr::null::<libc::sigset_t>();
    let call = libc::SYS_epoll_pwait2;
    // SAFETY: `place` is writable for `room` events (I2), `limit` lives through the call; without
    // a mask its size is not looked at.
    let count = unsafe { libc::syscall(call, epoll, place, room, &raw const limit, no_mask, 0) };
    Ok(sys::transferred(count as isize)? as usize)
}

/// Rounded up, so that no wait ends before its deadline.
fn millis_rounded_up(timeout: Duration) -> i32 {
    i32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
}

fn mask(watch: &Watch) -> u32 {
    let mut events = if watch.keep { libc::EPOLLET } else { libc::EPOLLONESHOT };
    if watch.interest.contains(Interest::READ) {
        events |= libc::EPOLLIN | libc::EPOLLRDHUP;
        if watch.keep {
            // What a short read says of a kept registration does not hold with urgent data.
            events |= libc::EPOLLPRI;
        }
    }
    if watch.interest.contains(Interest::WRITE) {
        events |= libc::EPOLLOUT;
    }
    if watch.interest.contains(Interest::PRIORITY) {
        events |= libc::EPOLLPRI;
    }
    events as u32
}

fn readiness(events: u32) -> Readiness {
    let mut readiness = Readiness::NONE;
    for (event, condition) in [
        (libc::EPOLLIN, Readiness::READ),
        (libc::EPOLLOUT, Readiness::WRITE),
        (libc::EPOLLPRI, Readiness::PRIORITY),
        (libc::EPOLLHUP, Readiness::HANGUP),
        (libc::EPOLLERR, Readiness::ERROR),
        (libc::EPOLLRDHUP, Readiness::READ_CLOSED),
    ] {
        if events & event as u32 != 0 {
            readiness |= condition;
        }
    }
    readiness
}

impl Driver for Epoll {
    fn name(&self) -> &'static str {
        "epoll"
    }

    fn fresh(&self) -> io::Result<Box<dyn Driver>> {
        let (precise, note) = (self.precise, self.note.clone());
        Ok(Box::new(Epoll { precise, note, ..Epoll::new()? }))
    }

    fn attach(&mut self, bell: BorrowedFd<'_>) -> io::Result<()> {
        Ok(self.listen(bell.as_raw_fd())?)
    }

    fn keeps(&self) -> bool {
        true
    }

    fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    fn arm(&mut self, watch: Watch) -> Result<(), Errno> {
        let (add, change) = (libc::EPOLL_CTL_ADD, libc::EPOLL_CTL_MOD);
        let events = mask(&watch);
        let data = u64::from(watch.generation) << 32 | u64::from(watch.fd as u32);
        let (first, second, unlike) =
            if watch.known { (change, add, libc::ENOENT) } else { (add, change, libc::EEXIST) };
        match self.control(first, watch.fd, events, data) {
            Err(errno) if errno.code() == unlike => self.control(second, watch.fd, events, data),
            result => result,
        }
    }

    fn disarm(&mut self, fd: RawFd) {
        // ENOENT or EBADF: gone already.
        let _ = self.control(libc::EPOLL_CTL_DEL, fd, 0, 0);
    }

    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        let count = self.fetch(timeout)?;
        for event in &self.batch[..count] {
            // Copied out: the struct is packed on x86-64.
            let (bits, data) = (event.events, event.u64);
            if data != BELL {
                events.push(Event::Ready {
                    fd: data as u32 as RawFd,
                    generation: (data >> 32) as u32,
                    readiness: readiness(bits),
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_are_rounded_up_and_clamped() {
        assert_eq!(millis_rounded_up(Duration::from_nanos(1)), 1);
        assert_eq!(millis_rounded_up(Duration::from_millis(5)), 5);
        assert_eq!(millis_rounded_up(Duration::from_nanos(5_000_001)), 6);
        assert_eq!(millis_rounded_up(Duration::MAX), i32::MAX);
    }
}
