//! System calls, one thin function each.
//!
//! - I1: pointers handed to the kernel come from references that live through the call; none is
//!   kept by the kernel beyond it.
//! - I2: a descriptor passed as number may be closed or wrong: the call then fails with `EBADF`
//!   (or acts on another file of the caller's), which is not a matter of memory safety.

use std::ffi::CStr;
use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use crate::{Errno, Interest, Readiness, SockAddr};

/// The kernel transfers at most this much per call (read(2), send(2)): the result fits an `i32`.
pub(crate) const TRANSFER: usize = 0x7fff_f000;

/// Turns the -1 of a system call into its error.
pub(crate) fn check(result: libc::c_int) -> Result<i32, Errno> {
    if result < 0 { Err(Errno::last()) } else { Ok(result) }
}

/// Turns the -1 of a transfer into its error.
pub(crate) fn transferred(result: isize) -> Result<i32, Errno> {
    if result < 0 { Err(Errno::last()) } else { Ok(i32::try_from(result).unwrap_or(i32::MAX)) }
}

/// # Safety
/// `fd` is open and nothing else owns it.
pub(crate) unsafe fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: the caller's duty.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

pub(crate) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers.
    let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
    // SAFETY: fresh from the kernel.
    Ok(unsafe { own(fd) })
}

/// Waits until `fd` is readable, a signal comes or the time is up.
pub(crate) fn poll_for(fd: RawFd, limit: Duration) {
    let mut entry = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let millis = i32::try_from(limit.as_millis().max(1)).unwrap_or(i32::MAX);
    // SAFETY: one valid entry (I1).
    unsafe { libc::poll(&raw mut entry, 1, millis) };
}

/// Adds 1 to an eventfd. Async-signal-safe; `errno` is as before.
pub(crate) fn ring_eventfd(fd: RawFd) {
    let one = 1u64;
    // SAFETY: the calling thread's errno, valid for its life.
    let errno = unsafe { &mut *libc::__errno_location() };
    let saved = *errno;
    // SAFETY: eight readable bytes (I1).
    unsafe { libc::write(fd, (&raw const one).cast(), mem::size_of::<u64>()) };
    *errno = saved;
}

/// Takes all rings of an eventfd back, so that it is not readable any more.
pub(crate) fn quiet_eventfd(fd: RawFd) {
    let mut count = 0u64;
    // SAFETY: eight writable bytes (I1). It is non-blocking.
    unsafe { libc::read(fd, (&raw mut count).cast(), mem::size_of::<u64>()) };
}

/// What poll(2) is asked for by somebody with this interest.
pub(crate) fn poll_events(interest: Interest) -> i16 {
    let mut events = 0;
    for (direction, event) in [
        (Interest::READ, libc::POLLIN | libc::POLLRDHUP),
        (Interest::WRITE, libc::POLLOUT),
        (Interest::PRIORITY, libc::POLLPRI),
    ] {
        if interest.contains(direction) {
            events |= event;
        }
    }
    events
}

/// What poll(2) has seen. A number that is no open descriptor counts as an error: whoever waits tries, and sees.
pub(crate) fn poll_readiness(seen: i16) -> Readiness {
    let mut readiness = Readiness::NONE;
    for (event, condition) in [
        (libc::POLLIN, Readiness::READ),
        (libc::POLLOUT, Readiness::WRITE),
        (libc::POLLPRI, Readiness::PRIORITY),
        (libc::POLLHUP, Readiness::HANGUP),
        (libc::POLLERR | libc::POLLNVAL, Readiness::ERROR),
        (libc::POLLRDHUP, Readiness::READ_CLOSED),
    ] {
        if seen & event != 0 {
            readiness |= condition;
        }
    }
    readiness
}

/// Looks without waiting at what poll(2) reports of `fd`; empty when the call fails.
pub(crate) fn poll_now(fd: RawFd, events: i16) -> Readiness {
    let mut entry = libc::pollfd { fd, events, revents: 0 };
    // SAFETY: one valid entry (I1).
    let count = unsafe { libc::poll(&raw mut entry, 1, 0) };
    if count <= 0 { Readiness::NONE } else { poll_readiness(entry.revents) }
}

/// Appends what `call` writes to the spare room of `buf`.
///
/// # Safety
/// `call(start, length)` returns a negative number, or has initialised that many bytes (or all
/// `length`, if it returns more) from `start` on.
unsafe fn fill(buf: &mut Vec<u8>, call: impl FnOnce(*mut libc::c_void, usize) -> isize) -> Result<i32, Errno> {
    let room = buf.spare_capacity_mut();
    let length = room.len().min(TRANSFER);
    let got = transferred(call(room.as_mut_ptr().cast(), length))?;
    let filled = buf.len() + length.min(got as usize);
    // SAFETY: within the capacity, and initialised by `call` (the caller's duty).
    unsafe { buf.set_len(filled) };
    Ok(got)
}

/// recv(2) with `MSG_DONTWAIT`, appending to `buf`.
pub(crate) fn recv(fd: RawFd, buf: &mut Vec<u8>, flags: i32) -> Result<i32, Errno> {
    if flags & libc::MSG_TRUNC != 0 {
        // tcp(7): with MSG_TRUNC bytes are counted but not written.
        for byte in buf.spare_capacity_mut() {
            byte.write(0);
        }
    }
    let flags = flags | libc::MSG_DONTWAIT;
    // SAFETY: recv writes at most `length` bytes and returns how many; where it returns more than
    // it wrote (MSG_TRUNC) the room has been initialised above.
    again(|| unsafe { fill(buf, |start, length| libc::recv(fd, start, length, flags)) })
}

/// send(2) with `MSG_DONTWAIT | MSG_NOSIGNAL`.
pub(crate) fn send(fd: RawFd, buf: &[u8], flags: i32) -> Result<i32, Errno> {
    let flags = flags | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: `buf` is readable for its length (I1).
    again(|| transferred(unsafe { libc::send(fd, buf.as_ptr().cast(), buf.len(), flags) }))
}

/// Reads, appending to `buf`; at `offset` or the current position. `flags` are `RWF_*`; 0 is plain
/// read(2) or pread(2), which every kernel has.
pub(crate) fn read(fd: RawFd, buf: &mut Vec<u8>, offset: Option<u64>, flags: i32) -> Result<i32, Errno> {
    let position = position(offset)?;
    again(|| {
        let call = |start, length| {
            let part = libc::iovec { iov_base: start, iov_len: length };
            match (flags, offset) {
                // SAFETY: `part` describes the room given by `fill` (I1).
                (1.., _) => unsafe { libc::preadv2(fd, &raw const part, 1, position, flags) },
                // SAFETY: as above.
                (_, Some(_)) => unsafe { libc::pread(fd, start, length, position) },
                // SAFETY: as above.
                (_, None) => unsafe { libc::read(fd, start, length) },
            }
        };
        // SAFETY: each of the calls initialises as many bytes as it returns.
        unsafe { fill(buf, call) }
    })
}

/// Writes `buf`; see `read`.
pub(crate) fn write(fd: RawFd, buf: &[u8], offset: Option<u64>, flags: i32) -> Result<i32, Errno> {
    let position = position(offset)?;
    let (start, length) = (buf.as_ptr().cast_mut().cast(), buf.len());
    let part = libc::iovec { iov_base: start, iov_len: length };
    again(|| {
        transferred(match (flags, offset) {
            // SAFETY: `part` describes `buf`, which these calls only read (I1).
            (1.., _) => unsafe { libc::pwritev2(fd, &raw const part, 1, position, flags) },
            // SAFETY: as above.
            (_, Some(_)) => unsafe { libc::pwrite(fd, start, length, position) },
            // SAFETY: as above.
            (_, None) => unsafe { libc::write(fd, start, length) },
        })
    })
}

/// preadv2(2): -1 stands for the current position.
fn position(offset: Option<u64>) -> Result<libc::off_t, Errno> {
    offset.map_or(Ok(-1), |at| libc::off_t::try_from(at).map_err(|_| Errno::from_code(libc::EINVAL)))
}

/// fsync(2), or fdatasync(2).
pub(crate) fn fsync(fd: RawFd, data_only: bool) -> Result<i32, Errno> {
    // SAFETY: takes no pointers.
    check(unsafe { if data_only { libc::fdatasync(fd) } else { libc::fsync(fd) } })
}

/// openat(2), close-on-exec.
pub(crate) fn open_at(dir: RawFd, path: &CStr, flags: i32, mode: u32) -> Result<OwnedFd, Errno> {
    let flags = flags | libc::O_CLOEXEC;
    // SAFETY: a null-terminated string (I1).
    let fd = again(|| check(unsafe { libc::openat(dir, path.as_ptr(), flags, mode) }))?;
    // SAFETY: fresh from the kernel.
    Ok(unsafe { own(fd) })
}

/// statx(2).
pub(crate) fn stat_at(dir: RawFd, path: &CStr, flags: i32, mask: u32) -> Result<Box<libc::statx>, Errno> {
    let mut place = Box::new(MaybeUninit::<libc::statx>::zeroed());
    // SAFETY: a null-terminated string and a writable place (I1).
    check(unsafe { libc::statx(dir, path.as_ptr(), flags, mask, place.as_mut_ptr()) })?;
    // SAFETY: zeroed, then filled in; every bit pattern is a valid `statx`.
    Ok(unsafe { place.assume_init() })
}

/// accept4(2) with `SOCK_CLOEXEC`; blocks if the descriptor does.
pub(crate) fn accept(fd: RawFd) -> Result<(OwnedFd, SockAddr), Errno> {
    let mut storage = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut length = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    let (place, room) = (storage.as_mut_ptr(), &raw mut length);
    // SAFETY: `place` is writable for `length` bytes, `length` itself is too (I1).
    let fd = again(|| check(unsafe { libc::accept4(fd, place.cast(), room, libc::SOCK_CLOEXEC) }))?;
    // SAFETY: fresh from the kernel.
    let socket = unsafe { own(fd) };
    let length = (length as usize).min(mem::size_of::<libc::sockaddr_storage>());
    // SAFETY: all of the storage was zeroed, then partly overwritten by the kernel.
    let bytes = unsafe { std::slice::from_raw_parts(storage.as_ptr().cast::<u8>(), length) };
    Ok((socket, SockAddr::from_bytes(bytes)))
}

/// connect(2); blocks if the descriptor does. Not repeated on `EINTR`: the attempt goes on
/// (connect(2)).
pub(crate) fn connect(fd: RawFd, to: &SockAddr) -> Result<i32, Errno> {
    let bytes = to.as_bytes();
    let length = libc::socklen_t::try_from(bytes.len()).unwrap_or(libc::socklen_t::MAX);
    // SAFETY: readable for its length (I1); connect copies it and needs no alignment.
    check(unsafe { libc::connect(fd, bytes.as_ptr().cast(), length) })
}

/// Takes the pending error of a socket (`SO_ERROR`).
pub(crate) fn socket_error(fd: RawFd) -> Result<i32, Errno> {
    let mut error: libc::c_int = 0;
    let mut length = mem::size_of::<libc::c_int>() as libc::socklen_t;
    let place = (&raw mut error).cast();
    // SAFETY: `place` is writable for `length` bytes (I1).
    check(unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_ERROR, place, &raw mut length) })?;
    if error == 0 { Ok(0) } else { Err(Errno::from_code(error)) }
}

/// The flags of the open file (`F_GETFL`).
pub(crate) fn status_flags(fd: RawFd) -> Result<i32, Errno> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::fcntl(fd, libc::F_GETFL) })
}

/// Sets the flags of the open file (`F_SETFL`).
pub(crate) fn set_status_flags(fd: RawFd, flags: i32) -> Result<i32, Errno> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::fcntl(fd, libc::F_SETFL, flags) })
}

/// Whether `fd` is a regular file, directory or block device: always ready for poll(2), and yet
/// its reads wait for the disk.
pub(crate) fn on_disk(fd: RawFd) -> Result<bool, Errno> {
    let mut stat = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: writable for one `stat` (I1).
    check(unsafe { libc::fstat(fd, stat.as_mut_ptr()) })?;
    // SAFETY: zeroed, then filled in; every bit pattern is a valid `stat`.
    let kind = unsafe { stat.assume_init() }.st_mode & libc::S_IFMT;
    Ok(matches!(kind, libc::S_IFREG | libc::S_IFDIR | libc::S_IFBLK))
}

/// A second descriptor for the same open file, close-on-exec.
pub(crate) fn duplicate(fd: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: takes no pointers.
    let copy = check(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) })?;
    // SAFETY: fresh from the kernel.
    Ok(unsafe { own(copy) })
}

/// Repeats `call` while a signal interrupts it.
pub(crate) fn again<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(errno) if errno.code() == libc::EINTR => {}
            result => return result,
        }
    }
}
