//! `os.read`, `os.write` and their kin, `os.fsync`, `os.sendfile`, and what closes descriptors.
//!
//! Reading and writing are tried with `RWF_NOWAIT`, which leaves the descriptor's mode alone. Where the kernel does not know
//! it for this kind of file, poll(2) tells whether the original would block; a write then is cut to what a ready pipe takes
//! for sure. Reads of regular files are in `disk.rs`. Writes to them are the original's, as they are copies in memory; those
//! that the program wants on the disk before they return (`O_SYNC`, `O_DSYNC`, `O_DIRECT`) are made in a blocking thread.

use lissom_proactor::Interest;
use pyo3_ffi as ffi;

use super::buffer::{Buffer, NewBytes};
use super::call::{Call, hook};
use super::disk;
use super::slot::{Hook, Owner};
use super::socket::{forget, integer, without_blocking};
use crate::jobs::{self, Lane};
use crate::object::{Obj, PyResult, Raised, check, clear_error, error_matches, os_error, system_call_failed};
use crate::runtime::Runtime;

const MODULE: Owner = Owner::Module(c"posix");

/// A descriptor argument, or `None` for the original to complain.
pub(super) fn descriptor(call: &Call, index: usize, name: &str) -> Option<i32> {
    i32::try_from(integer(Some(call.named(index, name)?), -1)?).ok().filter(|&fd| fd >= 0)
}

/// What kind of file a descriptor is, for the question whether it can block.
#[derive(PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing waits for it: a regular file, a directory, a block device, one in non-blocking mode, a bad descriptor.
    Plain,
    Socket,
    /// A pipe, a terminal, an event descriptor.
    Stream,
}

pub(super) fn kind(fd: i32) -> Kind {
    // SAFETY: plain bytes, written by the call.
    let mut status: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: a plain system call; an error means a bad descriptor.
    let known = unsafe { libc::fstat(fd, &mut status) == 0 };
    let format = status.st_mode & libc::S_IFMT;
    if !known || matches!(format, libc::S_IFREG | libc::S_IFDIR | libc::S_IFBLK) {
        return Kind::Plain;
    }
    // SAFETY: a plain system call.
    let mode = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    if mode < 0 || mode & libc::O_NONBLOCK != 0 {
        return Kind::Plain;
    }
    match format {
        libc::S_IFSOCK => Kind::Socket,
        _ => Kind::Stream,
    }
}

/// Repeats `attempt` until it neither would block nor is interrupted. `Ok(None)` if the kernel cannot be asked that way.
fn until_done(
    runtime: &Runtime,
    fd: i32,
    interest: Interest,
    mut attempt: impl FnMut() -> isize,
) -> PyResult<Option<usize>> {
    loop {
        let count = attempt();
        if count >= 0 {
            return Ok(Some(count as usize));
        }
        match std::io::Error::last_os_error().raw_os_error().unwrap_or(0) {
            libc::EAGAIN => {
                runtime.wait_ready(fd, interest, false, None)?;
            }
            libc::EINTR => {
                // SAFETY: the GIL is held.
                check(unsafe { ffi::PyErr_CheckSignals() })?;
            }
            libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL | libc::ESPIPE => return Ok(None),
            errno => return Err(os_error(errno)),
        }
    }
}

/// Whether poll(2) finds the condition, or an error that the original will report.
pub(super) fn is_ready(fd: i32, events: i16) -> bool {
    let mut poll = libc::pollfd { fd, events, revents: 0 };
    // SAFETY: one descriptor, no waiting.
    unsafe { libc::poll(&mut poll, 1, 0) != 0 }
}

/// At most `length` bytes from a descriptor that can block: what there is, empty at the end.
///
/// # Errors
/// `OSError`, and what is thrown into the tasklet while it waits.
pub(super) fn read_some(runtime: &Runtime, fd: i32, kind: &Kind, length: usize) -> PyResult<Obj> {
    let bytes = NewBytes::with_room(length)?;
    let data = bytes.data();
    let part = libc::iovec { iov_base: data.cast(), iov_len: length };
    let got = until_done(runtime, fd, Interest::READ, || match kind {
        // SAFETY: writes at most `length` bytes.
        Kind::Socket => unsafe { libc::recv(fd, data.cast(), length, libc::MSG_DONTWAIT) },
        // SAFETY: as above.
        _ => unsafe { libc::preadv2(fd, &part, 1, -1, libc::RWF_NOWAIT) },
    })?;
    if let Some(got) = got {
        return bytes.finish(got);
    }
    wait_readable(runtime, fd)?;
    // SAFETY: as above.
    let got = until_done(runtime, fd, Interest::READ, || unsafe { libc::read(fd, data.cast(), length) })?;
    bytes.finish(got.ok_or_else(|| os_error(libc::EINVAL))?)
}

/// Waits until poll(2) says that a read would not block.
///
/// # Errors
/// What is thrown into the tasklet.
pub(super) fn wait_readable(runtime: &Runtime, fd: i32) -> PyResult<()> {
    while !is_ready(fd, libc::POLLIN) {
        runtime.wait_ready(fd, Interest::READ, false, None)?;
    }
    Ok(())
}

/// `read(fd, length)`.
fn read(call: &Call) -> PyResult<Obj> {
    let (Some(fd), Some(length)) = (descriptor(call, 0, "fd"), integer(call.named(1, "length"), -1)) else {
        return call.original();
    };
    if length <= 0 {
        return call.original();
    }
    if let Some(bytes) = disk::read_bytes(call.runtime, fd, length as usize, None)? {
        return Ok(bytes);
    }
    let kind = kind(fd);
    if kind == Kind::Plain {
        return if disk::needs_thread(fd) { aside(call, Lane::Disk, c"read") } else { call.original() };
    }
    read_some(call.runtime, fd, &kind, length as usize)
}

/// `pread(fd, length, offset)`.
fn pread(call: &Call) -> PyResult<Obj> {
    let (length, offset) = (integer(call.arg(1), -1), integer(call.arg(2), -1));
    let (Some(fd), Some(length @ 1..), Some(offset @ 0..)) = (descriptor(call, 0, "fd"), length, offset) else {
        return call.original();
    };
    match disk::read_bytes(call.runtime, fd, length as usize, Some(offset as u64))? {
        Some(bytes) => Ok(bytes),
        None if disk::needs_thread(fd) => aside(call, Lane::Disk, c"pread"),
        None => call.original(),
    }
}

/// `readv(fd, buffers)`, and `preadv(fd, buffers, offset)` without flags.
fn readv(call: &Call) -> PyResult<Obj> {
    let offset = match call.arg(2) {
        None => None,
        Some(offset) => match integer(Some(offset), -1) {
            Some(offset @ 0..) => Some(offset as u64),
            _ => return call.original(),
        },
    };
    let (Some(fd), Some(list), None) = (descriptor(call, 0, "fd"), call.named(1, "buffers"), call.named(3, "flags"))
    else {
        return call.original();
    };
    let Some(buffers) = buffers(list) else { return call.original() };
    if let Some(got) = disk::read_vectors(call.runtime, fd, &buffers, offset)? {
        return Obj::int(got as i64);
    }
    drop(buffers);
    if kind(fd) != Kind::Plain && offset.is_none() {
        wait_readable(call.runtime, fd)?;
    } else if disk::needs_thread(fd) {
        return aside(call, Lane::Disk, if offset.is_some() { c"preadv" } else { c"readv" });
    }
    call.original()
}

/// The memory to read into; `None` for the original to complain, or if there is none.
fn buffers(list: *mut ffi::PyObject) -> Option<Vec<Buffer>> {
    let found = || -> PyResult<Vec<Buffer>> {
        // SAFETY: a valid reference.
        let count = unsafe { ffi::PySequence_Size(list) };
        check(if count < 0 { -1 } else { 0 })?;
        let item = |index| {
            // SAFETY: a valid reference; an error is a null that `owned` sees.
            let item = Obj::owned(unsafe { ffi::PySequence_GetItem(list, index) })?;
            Buffer::writable(item.ptr())
        };
        (0..count).map(item).collect()
    };
    found().map_err(|Raised| clear_error()).ok().filter(|found| found.iter().any(|buffer| buffer.len() > 0))
}

/// `eventfd_read(fd)`.
fn eventfd_read(call: &Call) -> PyResult<Obj> {
    if let Some(fd) = descriptor(call, 0, "fd").filter(|&fd| kind(fd) == Kind::Stream) {
        wait_readable(call.runtime, fd)?;
    }
    call.original()
}

/// `fsync(fd)`.
fn fsync(call: &Call) -> PyResult<Obj> {
    synchronise(call, false)
}

/// `fdatasync(fd)`.
fn fdatasync(call: &Call) -> PyResult<Obj> {
    synchronise(call, true)
}

fn synchronise(call: &Call, data_only: bool) -> PyResult<Obj> {
    let Some(file) = call.named(0, "fd") else { return call.original() };
    // SAFETY: a valid reference; objects with a `fileno` are taken, too.
    let fd = unsafe { ffi::PyObject_AsFileDescriptor(file) };
    if fd < 0 {
        clear_error();
        return call.original();
    }
    disk::synchronise(call.runtime, fd, data_only)?;
    Ok(Obj::none())
}

/// `sync()`: for all files.
fn sync(call: &Call) -> PyResult<Obj> {
    aside(call, Lane::Disk, c"sync")
}

/// `write(fd, data)`.
fn write(call: &Call) -> PyResult<Obj> {
    let Some(fd) = descriptor(call, 0, "fd") else { return call.original() };
    let Some(data) = call.named(1, "data") else { return call.original() };
    let kind = kind(fd);
    if kind == Kind::Plain {
        return written_aside(call, fd, c"write");
    }
    let Ok(buffer) = Buffer::readable(data) else {
        clear_error();
        return call.original();
    };
    Obj::int(write_all(call.runtime, fd, &kind, &buffer)? as i64)
}

/// The original, in a blocking thread if the descriptor's writes wait for the disk.
fn written_aside(call: &Call, fd: i32, name: &std::ffi::CStr) -> PyResult<Obj> {
    if disk::writes_through(fd) { aside(call, Lane::Disk, name) } else { call.original() }
}

/// `writev(fd, buffers)`.
fn writev(call: &Call) -> PyResult<Obj> {
    let (Some(fd), Some(list)) = (descriptor(call, 0, "fd"), call.named(1, "buffers")) else { return call.original() };
    let kind = kind(fd);
    if kind == Kind::Plain {
        return written_aside(call, fd, c"writev");
    }
    let joined = Obj::bytes(b"")?.attr(c"join")?.call([&Obj::borrowed(list)]);
    let Ok(buffer) = joined.as_ref().map_err(|_| Raised).and_then(|all| Buffer::readable(all.ptr())) else {
        clear_error();
        return call.original();
    };
    Obj::int(write_all(call.runtime, fd, &kind, &buffer)? as i64)
}

/// `pwrite(fd, data, offset)`.
fn pwrite(call: &Call) -> PyResult<Obj> {
    written_aside(call, descriptor(call, 0, "fd").unwrap_or(-1), c"pwrite")
}

/// `pwritev(fd, buffers, offset, flags=0)`; with flags it may wait for the disk, too.
fn pwritev(call: &Call) -> PyResult<Obj> {
    if call.named(3, "flags").is_some() {
        return aside(call, Lane::Disk, c"pwritev");
    }
    written_aside(call, descriptor(call, 0, "fd").unwrap_or(-1), c"pwritev")
}

/// Writes all there is, as a blocking write does, to a descriptor that can block. Returns how much was written.
///
/// # Errors
/// `OSError`, and what is thrown into the tasklet while it waits, if nothing has been written.
pub(super) fn write_all(runtime: &Runtime, fd: i32, kind: &Kind, buffer: &Buffer) -> PyResult<usize> {
    let mut written = 0;
    loop {
        // SAFETY: within the buffer.
        let (rest, len) = (unsafe { buffer.ptr().add(written) }, buffer.len() - written);
        match write_some(runtime, fd, kind, rest, len) {
            Ok(count) => {
                written += count;
                if written == buffer.len() || count == 0 {
                    return Ok(written);
                }
            }
            // What has been written is reported; the error comes with the next call, as in the kernel. What was thrown
            // into the tasklet is no error of the descriptor's and must not be lost.
            Err(Raised) if written > 0 && system_call_failed() => {
                clear_error();
                return Ok(written);
            }
            Err(Raised) => return Err(Raised),
        }
    }
}

fn write_some(runtime: &Runtime, fd: i32, kind: &Kind, data: *const u8, len: usize) -> PyResult<usize> {
    let part = libc::iovec { iov_base: data.cast_mut().cast(), iov_len: len };
    let sent = until_done(runtime, fd, Interest::WRITE, || match kind {
        // SAFETY: reads at most `len` bytes of an exported buffer.
        Kind::Socket => unsafe { libc::send(fd, data.cast(), len, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) },
        // SAFETY: as above.
        _ => unsafe { libc::pwritev2(fd, &part, 1, -1, libc::RWF_NOWAIT) },
    })?;
    if let Some(sent) = sent {
        return Ok(sent);
    }
    let sent = until_done(runtime, fd, Interest::WRITE, || {
        without_blocking(fd, || {
            // SAFETY: as above.
            unsafe { libc::write(fd, data.cast(), len) }
        })
    })?;
    sent.ok_or_else(|| os_error(libc::EINVAL))
}

/// `sendfile(out_fd, in_fd, offset, count)`: there is no flag for it, so the mode is changed for the time of the call.
fn sendfile(call: &Call) -> PyResult<Obj> {
    let Some(fd) = descriptor(call, 0, "out_fd") else { return call.original() };
    if disk::is_regular(fd) {
        return aside(call, Lane::Disk, c"sendfile");
    }
    if kind(fd) == Kind::Plain {
        return call.original();
    }
    loop {
        match without_blocking(fd, || call.original()) {
            // SAFETY: the interpreter keeps its exception classes for ever.
            Err(Raised) if error_matches(unsafe { ffi::PyExc_BlockingIOError }) => {
                clear_error();
                call.runtime.wait_ready(fd, Interest::WRITE, false, None)?;
            }
            result => return result,
        }
    }
}

/// `copy_file_range(src, dst, count, ...)`: for as long as the disk takes.
fn copy_file_range(call: &Call) -> PyResult<Obj> {
    aside(call, Lane::Disk, c"copy_file_range")
}

/// `splice(src, dst, count, offset_src=None, offset_dst=None, flags=0)`: one of the two is a pipe.
fn splice(call: &Call) -> PyResult<Obj> {
    let (Some(from), Some(to)) = (descriptor(call, 0, "src"), descriptor(call, 1, "dst")) else {
        return call.original();
    };
    let Some(flags) = integer(call.named(5, "flags"), 0) else { return call.original() };
    if flags & i64::from(libc::SPLICE_F_NONBLOCK) != 0 {
        return call.original();
    }
    let flags = Obj::int(flags | i64::from(libc::SPLICE_F_NONBLOCK))?;
    let arguments = [
        call.named(0, "src"),
        call.named(1, "dst"),
        call.named(2, "count"),
        call.named(3, "offset_src"),
        call.named(4, "offset_dst"),
    ];
    // SAFETY: the singleton always exists.
    let mut arguments = arguments.map(|argument| argument.unwrap_or(unsafe { ffi::Py_None() })).to_vec();
    arguments.push(flags.ptr());
    loop {
        match call.original_with(&arguments) {
            // SAFETY: the interpreter keeps its exception classes for ever.
            Err(Raised) if error_matches(unsafe { ffi::PyExc_BlockingIOError }) => clear_error(),
            result => return result,
        }
        let mut source = libc::pollfd { fd: from, events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid entry.
        let empty = unsafe { libc::poll(&raw mut source, 1, 0) } == 0;
        let (fd, interest) = if empty { (from, Interest::READ) } else { (to, Interest::WRITE) };
        if kind(fd) == Kind::Plain {
            // In non-blocking mode: that is what the program shall hear.
            return call.original();
        }
        call.runtime.wait_ready(fd, interest, false, None)?;
    }
}

/// Calls the function `name` of `posix` in a blocking thread, where its hook lets it through.
///
/// # Errors
/// What the function raises, and what is thrown into the tasklet: a call that has begun goes on then.
pub(super) fn aside(call: &Call, lane: Lane, name: &std::ffi::CStr) -> PyResult<Obj> {
    let (args, kwargs) = call.packed()?;
    jobs::call(call.runtime, lane, Obj::import(c"posix")?.attr(name)?, args, kwargs)
}

// ---- closing ---------------------------------------------------------------------------------------------------------

/// `close(fd)`.
fn close(call: &Call) -> PyResult<Obj> {
    forget(descriptor(call, 0, "fd").unwrap_or(-1));
    call.original()
}

/// The same on a thread without a scheduler.
fn closes(_: *mut ffi::PyObject, fd: *mut ffi::PyObject) {
    let fd = (!fd.is_null()).then(|| integer(Some(fd), -1)).flatten();
    forget(fd.and_then(|fd| i32::try_from(fd).ok()).unwrap_or(-1));
}

/// `dup2(fd, fd2, inheritable=True)` closes its target.
fn dup2(call: &Call) -> PyResult<Obj> {
    forget(descriptor(call, 1, "fd2").unwrap_or(-1));
    call.original()
}

/// `closerange(fd_low, fd_high)`.
fn closerange(call: &Call) -> PyResult<Obj> {
    let ends = (integer(call.arg(0), -1), integer(call.arg(1), -1));
    if let (Some(low), Some(high)) = ends {
        // Descriptors beyond the limit do not exist.
        // SAFETY: a plain call.
        let limit = unsafe { libc::sysconf(libc::_SC_OPEN_MAX) }.max(0);
        for fd in low.max(0)..high.min(limit) {
            forget(fd as i32);
        }
    }
    call.original()
}

/// Puts functions of `os` in their sets again: `supports_dir_fd` and its kin.
///
/// The hash of a built-in function is made of the pointer that a hook exchanges (`meth_hash` in `Objects/methodobject.c`), so a
/// function that was put in a set before is not found there after.
///
/// # Errors
/// What changing a set may raise.
pub(super) fn sort_sets() -> PyResult<()> {
    let os = Obj::import(c"os")?;
    for name in [c"supports_dir_fd", c"supports_effective_ids", c"supports_fd", c"supports_follow_symlinks"] {
        let set = os.attr(name)?;
        // SAFETY: a valid reference.
        let members = Obj::owned(unsafe { ffi::PySequence_List(set.ptr()) })?;
        set.attr(c"clear")?.call([])?;
        set.attr(c"update")?.call([&members])?;
    }
    Ok(())
}

pub(super) fn table() -> Vec<Hook> {
    vec![
        hook!(MODULE, c"read", read).costs(1),
        hook!(MODULE, c"write", write).costs(1),
        hook!(MODULE, c"pread", pread).costs(1),
        hook!(MODULE, c"readv", readv).costs(1),
        hook!(MODULE, c"preadv", readv).costs(1),
        hook!(MODULE, c"writev", writev).costs(1),
        hook!(MODULE, c"pwrite", pwrite).costs(1),
        hook!(MODULE, c"pwritev", pwritev).costs(1),
        hook!(MODULE, c"eventfd_read", eventfd_read).costs(1),
        hook!(MODULE, c"fsync", fsync),
        hook!(MODULE, c"fdatasync", fdatasync),
        hook!(MODULE, c"sync", sync),
        hook!(MODULE, c"sendfile", sendfile).costs(1),
        hook!(MODULE, c"copy_file_range", copy_file_range),
        hook!(MODULE, c"splice", splice),
    ]
}

/// As for sockets: these stay in place for good.
pub(super) fn lasting_table() -> Vec<Hook> {
    vec![
        hook!(MODULE, c"close", close).noticed_by(closes),
        hook!(MODULE, c"dup2", dup2),
        hook!(MODULE, c"closerange", closerange),
    ]
}
