//! Random programs while the system calls under the proactor make trouble: short transfers, storms of `EAGAIN`, `EINTR`,
//! `ENOBUFS`.
//!
//! `recv` and `send` of the C library are replaced in this test program: its own symbols come first. Nothing in the crate
//! knows of it. Who is told `EAGAIN` although there is something is owed an event, as a kernel would send one (`Faulty`).

mod programs;

use std::cell::RefCell;

use libc::{c_int, c_long, c_void, size_t, ssize_t};
use lissom_proactor::driver::epoll::Epoll;
use lissom_proactor::driver::poll::Poll;
use lissom_proactor::driver::uring::Uring;
use lissom_proactor::{Proactor, Readiness};
use programs::faulty::{Faulty, OWED};
use programs::{Dice, Program};

thread_local! {
    static DICE: RefCell<Option<Dice>> = const { RefCell::new(None) };
    static STRUCK: RefCell<[u64; 4]> = const { RefCell::new([0; 4]) };
}

/// What happens to a transfer of `length` bytes: an error, or a length that may be smaller.
fn strike(fd: c_int, length: size_t, event: Readiness, errors: &[c_int]) -> Result<size_t, c_int> {
    DICE.with_borrow_mut(|dice| {
        let Some(dice) = dice.as_mut() else { return Ok(length) };
        let kind = match dice.below(100) {
            0..20 if length > 1 => {
                STRUCK.with_borrow_mut(|struck| struck[0] += 1);
                return Ok(1 + dice.below(length));
            }
            0..60 => return Ok(length),
            60..80 => 1,
            80..90 => 2,
            _ => 3,
        };
        let Some(&error) = errors.get(kind - 1) else { return Ok(length) };
        if error == libc::EAGAIN {
            OWED.with_borrow_mut(|owed| owed.push((fd, event)));
        }
        STRUCK.with_borrow_mut(|struck| struck[kind] += 1);
        Err(error)
    })
}

fn fail(error: c_int) -> ssize_t {
    // SAFETY: the calling thread's errno.
    unsafe { *libc::__errno_location() = error };
    -1
}

/// The system call itself. All of its words are whole registers: what a shorter one leaves is not defined.
///
/// # Safety
/// As for the call of this number, recvfrom(2) or sendto(2).
unsafe fn transfer(number: c_long, fd: c_int, place: *mut c_void, length: size_t, flags: c_int) -> ssize_t {
    // SAFETY: the caller's duty.
    unsafe { libc::syscall(number, c_long::from(fd), place, length, c_long::from(flags), 0_usize, 0_usize) as ssize_t }
}

/// # Safety
/// As for recv(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn recv(fd: c_int, place: *mut c_void, length: size_t, flags: c_int) -> ssize_t {
    match strike(fd, length, Readiness::READ, &[libc::EAGAIN, libc::EINTR]) {
        // SAFETY: the caller's duty; at most as many bytes.
        Ok(length) => unsafe { transfer(libc::SYS_recvfrom, fd, place, length, flags) },
        Err(error) => fail(error),
    }
}

/// # Safety
/// As for send(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn send(fd: c_int, place: *const c_void, length: size_t, flags: c_int) -> ssize_t {
    match strike(fd, length, Readiness::WRITE, &[libc::EAGAIN, libc::EINTR, libc::ENOBUFS]) {
        // SAFETY: as in `recv`.
        Ok(length) => unsafe { transfer(libc::SYS_sendto, fd, place.cast_mut(), length, flags) },
        Err(error) => fail(error),
    }
}

fn each_seed(carries: bool, make: impl Fn(u64) -> std::io::Result<Proactor>) {
    for seed in 0..60 {
        let proactor = match make(seed) {
            Ok(proactor) => proactor,
            Err(error) => return eprintln!("not run: {error}"),
        };
        eprintln!("seed {seed}");
        DICE.set(Some(Dice::new(seed ^ 0x5AB0)));
        Program::new(proactor, seed, carries).expecting_trouble().run(400);
        DICE.set(None);
        OWED.take();
    }
    let struck = STRUCK.take();
    assert!(struck.iter().all(|&times| times > 20), "every kind of trouble was made: {struck:?}");
}

#[test]
fn trouble_under_epoll_changes_nothing() {
    each_seed(false, |seed| Proactor::with_driver(Box::new(Faulty::new(Epoll::new()?, seed))));
}

#[test]
fn trouble_under_poll_changes_nothing() {
    each_seed(false, |seed| Proactor::with_driver(Box::new(Faulty::new(Poll::new(), seed))));
}

#[test]
fn trouble_under_uring_and_ops_that_it_gives_up_change_nothing() {
    each_seed(true, |seed| {
        let driver = Faulty::new(Uring::new()?.with_sockets(), seed).giving_up();
        Proactor::with_driver(Box::new(driver))
    });
}
