//! `os.read`, `os.write`, `os.waitpid` and its kin, and what closes descriptors.
//!
//! Reading and writing are tried with `RWF_NOWAIT`, which leaves the descriptor's mode alone. Where the kernel does not know
//! it for this kind of file, poll(2) tells whether the original would block; a write then is cut to what a ready pipe takes
//! for sure. Regular files are left to the original.

use lissom_proactor::Interest;
use pyo3_ffi as ffi;

use super::buffer::{Buffer, NewBytes};
use super::call::{Call, hook};
use super::slot::{Hook, Owner};
use super::socket::{forget, integer, without_blocking};
use super::{disk, fifo};
use crate::jobs;
use crate::object::{Obj, PyResult, Raised, check, clear_error, error_matches, os_error, system_call_failed};
use crate::runtime::Runtime;
use crate::tasklet::Why;

const MODULE: Owner = Owner::Module(c"posix");

/// A descriptor argument, or `None` for the original to complain.
fn descriptor(call: &Call, index: usize, name: &str) -> Option<i32> {
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
        return call.original();
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
        None => call.original(),
    }
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
    in_pool(call, c"sync")
}

// ---- paths -----------------------------------------------------------------------------------------------------------

/// Whether a path is relative to the current folder; else only the original knows what to.
fn is_simple(call: &Call) -> bool {
    call.named(usize::MAX, "dir_fd").is_none_or(|dir| dir == Obj::none().ptr())
}

/// `stat(path)`, `lstat`, `access`, `listdir`, `scandir`: the original finds in memory what it asks for.
fn with_path(call: &Call) -> PyResult<Obj> {
    if let Some(path) = call.named(0, "path").filter(|_| is_simple(call)).and_then(disk::path) {
        disk::warm(call.runtime, &path)?;
    }
    call.original()
}

/// `open(path, flags, mode)`: opening a FIFO waits for its other end.
fn open(call: &Call) -> PyResult<Obj> {
    let Some(path) = call.named(0, "path").filter(|_| is_simple(call)).and_then(disk::path) else {
        return call.original();
    };
    let flags = integer(call.named(1, "flags"), 0).unwrap_or(0) as i32;
    let at_once = libc::O_NONBLOCK | libc::O_PATH;
    if disk::warm(call.runtime, &path)? == disk::Found::Fifo && flags & at_once == 0 {
        return fifo::open(call, Obj::import(c"posix")?.attr(c"open")?, &path);
    }
    call.original()
}

/// `write(fd, data)`.
fn write(call: &Call) -> PyResult<Obj> {
    let Some(fd) = descriptor(call, 0, "fd") else { return call.original() };
    let Some(data) = call.named(1, "data") else { return call.original() };
    let kind = kind(fd);
    if kind == Kind::Plain {
        return call.original();
    }
    let Ok(buffer) = Buffer::readable(data) else {
        clear_error();
        return call.original();
    };
    Obj::int(write_all(call.runtime, fd, &kind, &buffer)? as i64)
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
        return in_pool(call, c"sendfile");
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
    in_pool(call, c"copy_file_range")
}

// ---- processes -------------------------------------------------------------------------------------------------------

/// `waitpid(pid, options)`.
fn waitpid(call: &Call) -> PyResult<Obj> {
    let (Some(pid), Some(options)) = (call.arg(0), integer(call.arg(1), 0)) else { return call.original() };
    let Some(number) = integer(Some(pid), 0) else { return call.original() };
    if options & i64::from(libc::WNOHANG) != 0 {
        return call.original();
    }
    if number <= 0 {
        return in_pool(call, c"waitpid");
    }
    // SAFETY: a plain system call (pidfd_open(2), Linux 5.3).
    let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, number, 0) } as i32;
    if pidfd < 0 {
        // Not a child, or an old kernel.
        return in_pool(call, c"waitpid");
    }
    let result = until_ended(call, pid, number, options, pidfd);
    // SAFETY: opened above.
    unsafe { libc::close(pidfd) };
    result
}

fn until_ended(call: &Call, pid: *mut ffi::PyObject, number: i64, options: i64, pidfd: i32) -> PyResult<Obj> {
    let options = Obj::int(options | i64::from(libc::WNOHANG))?;
    loop {
        let result = call.original_with(&[pid, options.ptr()])?;
        // SAFETY: a tuple of two; borrowed.
        let ended = Obj::borrowed(unsafe { ffi::PyTuple_GetItem(result.ptr(), 0) }).to_i64()?;
        if ended != 0 {
            return Ok(result);
        }
        call.runtime.wait_ready_for(pidfd, Interest::READ, Why::Process(number as i32))?;
    }
}

/// Calls the function `name` of `posix` in a blocking thread, where its hook lets it through.
fn in_pool(call: &Call, name: &std::ffi::CStr) -> PyResult<Obj> {
    let (args, kwargs) = call.packed()?;
    jobs::call(call.runtime, Obj::import(c"posix")?.attr(name)?, args, kwargs)
}

/// `system(command)`: the child gets the signal mask of the thread that starts it, and threads of the pool block all.
fn system(call: &Call) -> PyResult<Obj> {
    let mask = Mask::current();
    let (args, kwargs) = call.packed()?;
    let function = Obj::import(c"posix")?.attr(c"system")?;
    jobs::call_between(
        call.runtime,
        jobs::Crew::Calls,
        function,
        args,
        kwargs,
        move || mask.set(),
        || Mask::all().set(),
    )
}

/// A set of signals that a thread blocks.
struct Mask(libc::sigset_t);

impl Mask {
    fn current() -> Mask {
        // SAFETY: plain words, for which zero is a value.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: writes the set; changes nothing.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, std::ptr::null(), &mut set) };
        Mask(set)
    }

    fn all() -> Mask {
        // SAFETY: as above; the call fills it.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: a writable set.
        unsafe { libc::sigfillset(&mut set) };
        Mask(set)
    }

    fn set(&self) {
        // SAFETY: a valid set; the calling thread's mask.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, std::ptr::null_mut()) };
    }
}

fn wait(call: &Call) -> PyResult<Obj> {
    in_pool(call, c"wait")
}

fn wait3(call: &Call) -> PyResult<Obj> {
    in_pool(call, c"wait3")
}

fn wait4(call: &Call) -> PyResult<Obj> {
    in_pool(call, c"wait4")
}

fn waitid(call: &Call) -> PyResult<Obj> {
    in_pool(call, c"waitid")
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
        hook!(MODULE, c"eventfd_read", eventfd_read).costs(1),
        hook!(MODULE, c"fsync", fsync),
        hook!(MODULE, c"fdatasync", fdatasync),
        hook!(MODULE, c"sync", sync),
        hook!(MODULE, c"open", open),
        hook!(MODULE, c"stat", with_path),
        hook!(MODULE, c"lstat", with_path),
        hook!(MODULE, c"access", with_path),
        hook!(MODULE, c"listdir", with_path),
        hook!(MODULE, c"scandir", with_path),
        hook!(MODULE, c"sendfile", sendfile).costs(1),
        hook!(MODULE, c"copy_file_range", copy_file_range),
        hook!(MODULE, c"waitpid", waitpid).costs(1),
        hook!(MODULE, c"system", system),
        hook!(MODULE, c"wait", wait),
        hook!(MODULE, c"wait3", wait3),
        hook!(MODULE, c"wait4", wait4),
        hook!(MODULE, c"waitid", waitid),
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
