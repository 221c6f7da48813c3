//! `os.waitpid` and its kin: a child's end is waited for by its pidfd (pidfd_open(2), Linux 5.3), which is readable from then
//! on. Nothing tells of a child that stops or goes on, of "any child", or of a child on an older kernel: there a thread waits.

use lissom_proactor::Interest;
use pyo3_ffi as ffi;

use super::call::{Call, hook};
use super::os::aside;
use super::slot::{Hook, Owner};
use super::socket::integer;
use crate::jobs::{self, Lane};
use crate::object::{Obj, PyResult};
use crate::tasklet::Why;

const MODULE: Owner = Owner::Module(c"posix");

/// A descriptor that stands for a process.
struct PidFd(i32);

impl PidFd {
    /// `None` if there is no such process, or an old kernel.
    fn open(process: i64) -> Option<PidFd> {
        // SAFETY: a plain system call.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, process, 0) } as i32;
        (fd >= 0).then_some(PidFd(fd))
    }
}

impl Drop for PidFd {
    fn drop(&mut self) {
        // SAFETY: opened above, and known to nobody else.
        unsafe { libc::close(self.0) };
    }
}

/// `waitpid(pid, options)` and `wait4`: the result begins with 0 while the child runs.
fn wait_for_pid(call: &Call, name: &std::ffi::CStr) -> PyResult<Obj> {
    let (Some(pid), Some(options)) = (call.named(0, "pid"), integer(call.named(1, "options"), 0)) else {
        return call.original();
    };
    let Some(number) = integer(Some(pid), 0) else { return call.original() };
    if options & i64::from(libc::WNOHANG) != 0 {
        return call.original();
    }
    let ends_only = options & i64::from(libc::WUNTRACED | libc::WCONTINUED) == 0;
    let Some(process) = (number > 0 && ends_only).then(|| PidFd::open(number)).flatten() else {
        return aside(call, Lane::Others, name);
    };
    let options = Obj::int(options | i64::from(libc::WNOHANG))?;
    loop {
        let result = call.original_with(&[pid, options.ptr()])?;
        // SAFETY: a tuple of two or three; borrowed.
        let ended = Obj::borrowed(unsafe { ffi::PyTuple_GetItem(result.ptr(), 0) }).to_i64()?;
        if ended != 0 {
            return Ok(result);
        }
        call.runtime.wait_ready_for(process.0, Interest::READ, Why::Process(number as i32))?;
    }
}

fn waitpid(call: &Call) -> PyResult<Obj> {
    wait_for_pid(call, c"waitpid")
}

fn wait4(call: &Call) -> PyResult<Obj> {
    wait_for_pid(call, c"wait4")
}

/// `waitid(idtype, id, options)`: `None` while the child runs, if told not to hang.
fn waitid(call: &Call) -> PyResult<Obj> {
    let integers = (integer(call.arg(0), -1), integer(call.arg(1), -1), integer(call.arg(2), 0));
    let (Some(kind), Some(id), Some(options)) = integers else { return call.original() };
    if options & i64::from(libc::WNOHANG) != 0 {
        return call.original();
    }
    let ends_only = options & i64::from(libc::WSTOPPED | libc::WCONTINUED) == 0;
    let opened = (kind == i64::from(libc::P_PID) && ends_only).then(|| PidFd::open(id)).flatten();
    let given = i32::try_from(id).ok().filter(|&fd| kind == i64::from(libc::P_PIDFD) && ends_only && blocks(fd));
    let Some(fd) = opened.as_ref().map(|process| process.0).or(given) else {
        return aside(call, Lane::Others, c"waitid");
    };
    let (Some(kind), Some(id)) = (call.arg(0), call.arg(1)) else { return call.original() };
    let options = Obj::int(options | i64::from(libc::WNOHANG))?;
    loop {
        let result = call.original_with(&[kind, id, options.ptr()])?;
        if result.ptr() != Obj::none().ptr() {
            return Ok(result);
        }
        call.runtime.wait_ready_for(fd, Interest::READ, Why::Readable(fd))?;
    }
}

/// Whether a descriptor is open and in blocking mode; waitid(2) fails with `EAGAIN` on a pidfd that is not.
fn blocks(fd: i32) -> bool {
    // SAFETY: a plain system call.
    let mode = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    mode >= 0 && mode & libc::O_NONBLOCK == 0
}

fn wait(call: &Call) -> PyResult<Obj> {
    aside(call, Lane::Others, c"wait")
}

fn wait3(call: &Call) -> PyResult<Obj> {
    aside(call, Lane::Others, c"wait3")
}

/// `system(command)`: the child gets the signal mask of the thread that starts it, and threads of the pool block all.
fn system(call: &Call) -> PyResult<Obj> {
    let mask = Mask::current();
    let (args, kwargs) = call.packed()?;
    let function = Obj::import(c"posix")?.attr(c"system")?;
    jobs::call_between(call.runtime, Lane::Others, function, args, kwargs, move || mask.set(), || Mask::all().set())
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

pub(super) fn table() -> Vec<Hook> {
    vec![
        hook!(MODULE, c"waitpid", waitpid).costs(1),
        hook!(MODULE, c"wait4", wait4).costs(1),
        hook!(MODULE, c"waitid", waitid).costs(1),
        hook!(MODULE, c"wait", wait),
        hook!(MODULE, c"wait3", wait3),
        hook!(MODULE, c"system", system),
    ]
}
