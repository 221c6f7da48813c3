//! Files on a disk: what is in the page cache is served in place, and only what is not makes the tasklet wait.
//!
//! Most of what a program reads is cached, and then a read is a copy in memory that no thread or ring could make cheaper. So
//! every read is tried with `RWF_NOWAIT` first, into the caller's own memory. What the kernel would have to fetch is read by
//! the driver (proactor) into memory of its own, because a tasklet may be killed while the kernel writes, and copied.
//!
//! * **D1**: the original makes every call that has an effect or an error to report, so results are its own.
//! * **D2**: nothing here trusts a descriptor to be the same file after a wait: reads go on by the number, as system calls of
//!   a thread would, and the driver has its own hold on the file of the operation it carries.

use std::ffi::c_void;
use std::os::fd::RawFd;

use lissom_proactor::Op;

use super::buffer::{Buffer, NewBytes};
use crate::object::{Obj, PyResult, Raised, clear_error, os_error, system_call_failed};
use crate::runtime::Runtime;
use crate::tasklet::Why;

/// How much the driver is asked for at a time: as much as the kernel reads ahead by default. It fetches what follows while
/// this is copied, so that the next look finds it; more than this comes through memory twice for nothing.
const PIECE: usize = 128 * 1024;

/// What a look at a descriptor without waiting has found.
pub(super) enum Look {
    /// As many bytes as there was room for.
    Full,
    /// Fewer: at the end of a file none; from a pipe what there is.
    Some(usize),
    /// Nothing that is in memory.
    Waits,
    /// The kernel cannot be asked this way, or has an error to report.
    Unknown,
}

/// Reads without waiting, at `offset` or the current position, whatever kind of file it is.
pub(super) fn look(fd: RawFd, data: *mut u8, length: usize, offset: Option<u64>) -> Look {
    let part = libc::iovec { iov_base: data.cast::<c_void>(), iov_len: length };
    let position = offset.map_or(-1, |at| at as libc::off_t);
    // SAFETY: writes at most `length` bytes to memory of the caller's.
    let got = unsafe { libc::preadv2(fd, &part, 1, position, libc::RWF_NOWAIT) };
    match got {
        0.. if got as usize == length => Look::Full,
        0.. => Look::Some(got as usize),
        _ if std::io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN) => Look::Waits,
        _ => Look::Unknown,
    }
}

/// Whether `fd` is a regular file: its reads are complete but for the end.
pub(super) fn is_regular(fd: RawFd) -> bool {
    // SAFETY: plain bytes, written by the call.
    let mut status: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: a plain system call; an error means a bad descriptor.
    unsafe { libc::fstat(fd, &mut status) == 0 && status.st_mode & libc::S_IFMT == libc::S_IFREG }
}

/// Goes on with the read of a regular file after a look that has found `done` bytes. Returns how many there are.
///
/// # Errors
/// `OSError` if nothing has been read, and what is thrown into the tasklet while it waits.
pub(super) fn read_on(
    runtime: &Runtime,
    fd: RawFd,
    data: *mut u8,
    length: usize,
    mut done: usize,
    offset: Option<u64>,
) -> PyResult<usize> {
    while done < length {
        let place = offset.map(|at| at + done as u64);
        // SAFETY: within the caller's memory.
        let rest = unsafe { data.add(done) };
        match look(fd, rest, length - done, place) {
            Look::Full => return Ok(length),
            Look::Some(0) => break,
            Look::Some(more) => {
                done += more;
                continue;
            }
            Look::Waits | Look::Unknown => {}
        }
        let buf = Vec::with_capacity(PIECE.min(length - done));
        let completion = runtime.carry(Op::Read { fd, buf, offset: place }, Why::Disk(fd))?;
        match (completion.result, completion.buf) {
            (Ok(0), _) => break,
            (Ok(_), Some(buf)) => {
                // SAFETY: no more than was asked for, into the caller's memory.
                unsafe { std::ptr::copy_nonoverlapping(buf.as_ptr(), rest, buf.len()) };
                done += buf.len();
            }
            (Err(errno), _) if done == 0 => return Err(os_error(errno.code())),
            _ => break,
        }
    }
    Ok(done)
}

/// Reads from a regular file, or what is there of anything else. `None` leaves the call to others: it has to wait for
/// readiness, or there is an error to report.
///
/// # Errors
/// As for [`read_on`].
pub(super) fn read(
    runtime: &Runtime,
    fd: RawFd,
    data: *mut u8,
    length: usize,
    offset: Option<u64>,
) -> PyResult<Option<usize>> {
    match look(fd, data, length, offset) {
        Look::Full => Ok(Some(length)),
        Look::Some(got) if got == 0 || !is_carried(fd) => Ok(Some(got)),
        Look::Some(got) => read_on(runtime, fd, data, length, got, offset).map(Some),
        Look::Waits if is_carried(fd) => read_on(runtime, fd, data, length, 0, offset).map(Some),
        Look::Waits | Look::Unknown => Ok(None),
    }
}

/// [`read`] into several pieces of memory, one after the other.
///
/// # Errors
/// As there.
pub(super) fn read_vectors(
    runtime: &Runtime,
    fd: RawFd,
    buffers: &[Buffer],
    offset: Option<u64>,
) -> PyResult<Option<usize>> {
    let mut done = 0;
    for buffer in buffers.iter().filter(|buffer| buffer.len() > 0) {
        let place = offset.map(|at| at + done as u64);
        match read(runtime, fd, buffer.ptr(), buffer.len(), place) {
            Ok(Some(got)) if got == buffer.len() => done += got,
            Ok(Some(got)) => return Ok(Some(done + got)),
            Ok(None) if done == 0 => return Ok(None),
            Ok(None) => break,
            // What has been read is reported; the error comes with the next call.
            Err(Raised) if done > 0 && system_call_failed() => {
                clear_error();
                break;
            }
            Err(Raised) => return Err(Raised),
        }
    }
    Ok(Some(done))
}

/// The mode of a descriptor; 0 for a bad one.
fn mode(fd: RawFd) -> i32 {
    // SAFETY: a plain system call.
    unsafe { libc::fcntl(fd, libc::F_GETFL) }.max(0)
}

/// Whether the driver can go on with a read: not with `O_DIRECT`, whose memory must be aligned as the device wants it.
fn is_carried(fd: RawFd) -> bool {
    is_regular(fd) && mode(fd) & libc::O_DIRECT == 0
}

/// Whether a write to this file, which never waits for readiness, returns only when the data is on the disk.
pub(super) fn writes_through(fd: RawFd) -> bool {
    // `O_SYNC` includes the bit of `O_DSYNC` (open(2)).
    mode(fd) & (libc::O_DSYNC | libc::O_DIRECT) != 0
}

/// File systems behind which there is a server or a process, by their numbers in statfs(2) and in `linux/magic.h`: 9P, AFS,
/// CIFS, Ceph, Coda, FUSE, GFS2, Lustre, NFS, OCFS2, SMB, SMB2.
const REMOTE: [u32; 12] = [
    0x0102_1997,
    0x5346_414F,
    0xFF53_4D42,
    0x00C3_6400,
    0x7375_7245,
    0x6573_5546,
    0x0116_1970,
    0x0BD0_0BD0,
    0x6969,
    0x7461_636F,
    0x517B,
    0xFE53_4D42,
];

/// Whether a read that `RWF_NOWAIT` cannot answer for may wait for long: on a file system that asks somebody else, or past
/// the page cache. Others that do not know the flag, such as tmpfs and proc, have all in memory.
pub(super) fn needs_thread(fd: RawFd) -> bool {
    if !is_regular(fd) {
        return false;
    }
    // SAFETY: plain bytes, written by the call.
    let mut status: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: a plain system call; an error leaves the number 0, which is none of these.
    unsafe { libc::fstatfs(fd, &mut status) };
    REMOTE.contains(&(status.f_type as u32)) || mode(fd) & libc::O_DIRECT != 0
}

/// [`read`] into a new `bytes`.
///
/// # Errors
/// As there, and `MemoryError`.
pub(super) fn read_bytes(runtime: &Runtime, fd: RawFd, length: usize, offset: Option<u64>) -> PyResult<Option<Obj>> {
    let bytes = NewBytes::with_room(length)?;
    match read(runtime, fd, bytes.data(), length, offset)? {
        Some(got) => bytes.finish(got).map(Some),
        None => Ok(None),
    }
}

/// Writes what the system keeps of a file to its disk.
///
/// # Errors
/// `OSError`, and what is thrown into the tasklet: the work goes on then.
pub(super) fn synchronise(runtime: &Runtime, fd: RawFd, data_only: bool) -> PyResult<()> {
    let completion = runtime.carry(Op::Fsync { fd, data_only }, Why::Disk(fd))?;
    completion.result.map(drop).map_err(|errno| os_error(errno.code()))
}
