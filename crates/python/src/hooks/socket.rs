//! `_socket.socket`: the operations of a connection, done here.
//!
//! A ready socket costs one system call and no switch: the operation is tried with `MSG_DONTWAIT`, whatever mode the
//! descriptor is in, so the mode stays as the program set it. Only what would block parks the tasklet, on edge-triggered
//! readiness that is registered once per descriptor. When the last receive of a TCP connection took less than it asked for,
//! the kernel has no more, and the next receive parks without a system call (epoll(7), question 9; the proactor knows when
//! a hang-up or urgent data has been seen and then says otherwise).
//!
//! Operations with ancillary data or addresses to be parsed go through the original (socket_fallback.rs).

use std::cell::RefCell;

use lissom_proactor::Interest;
use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use super::address::Address;
use super::buffer::{Buffer, NewBytes};
use super::call::{Call, hook};
use super::linger;
use super::slot::{Hook, Owner};
use super::socket_object::Socket;
use crate::object::{Obj, PyResult, Raised, check, clear_error, os_error, system_call_failed, timeout_error};
use crate::runtime::{Runtime, deadline_in};
use crate::world::{GilCell, Wake};

pub(super) const SOCKET: Owner = Owner::Type(c"_socket", c"socket");

/// Up to this size a receive goes through a buffer of the thread: the result is made at its final size, and a waiting
/// tasklet holds no memory for what may come.
const THROUGH_SCRATCH: usize = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A socket and how long an operation on it may still take.
pub(super) struct Operation<'a> {
    runtime: &'a Runtime,
    pub(super) socket: Socket,
    deadline: Option<u64>,
}

impl<'a> Operation<'a> {
    /// `None` for a socket on which nothing ever waits: the original serves it.
    #[inline]
    pub(super) fn begin(call: &'a Call) -> Option<Operation<'a>> {
        // SAFETY: a method of `_socket.socket` is called with an instance of it.
        let socket = unsafe { Socket::of(call.slf) };
        (socket.timeout() != 0).then_some(Operation { runtime: call.runtime, socket, deadline: None })
    }

    /// Waits until the socket may be ready.
    ///
    /// # Errors
    /// `TimeoutError` after the socket's timeout, counted from the first wait; what is thrown into the tasklet.
    pub(super) fn wait(&mut self, interest: Interest) -> PyResult<()> {
        self.wait_on(interest, true)
    }

    /// Like [`Operation::wait`], on the condition as it is now, whatever was seen of the descriptor before: an unconnected
    /// socket counts as hung up.
    ///
    /// # Errors
    /// As for [`Operation::wait`].
    pub(super) fn wait_afresh(&mut self, interest: Interest) -> PyResult<()> {
        self.wait_on(interest, false)
    }

    fn wait_on(&mut self, interest: Interest, keep: bool) -> PyResult<()> {
        if self.deadline.is_none() && self.socket.timeout() > 0 {
            self.deadline = Some(deadline_in(self.socket.timeout() as u64));
        }
        match self.runtime.wait_ready(self.socket.fd(), interest, keep, self.deadline)? {
            Wake::Deadline => Err(timeout_error("timed out")),
            Wake::Event | Wake::Signal | Wake::Met | Wake::Settled => Ok(()),
        }
    }

    /// Tries `attempt`, a system call that does not block, until it neither would block nor is interrupted.
    ///
    /// # Errors
    /// `OSError` for any other error, and as for [`Operation::wait`].
    pub(super) fn until_done(&mut self, interest: Interest, mut attempt: impl FnMut(i32) -> isize) -> PyResult<usize> {
        loop {
            let fd = self.socket.fd();
            if self.runtime.proactor(|proactor| proactor.may_be_ready(fd, interest)) {
                let count = attempt(fd);
                if count >= 0 {
                    return Ok(count as usize);
                }
                match std::io::Error::last_os_error().raw_os_error().unwrap_or(0) {
                    libc::EAGAIN => self.exhausted(interest),
                    libc::EINTR => {
                        // SAFETY: the GIL is held.
                        check(unsafe { ffi::PyErr_CheckSignals() })?;
                        continue;
                    }
                    errno => return Err(os_error(errno)),
                }
            }
            self.wait(interest)?;
        }
    }

    fn exhausted(&self, interest: Interest) {
        let fd = self.socket.fd();
        self.runtime.proactor(|proactor| proactor.exhausted(fd, interest));
    }

    /// A TCP connection that gave less than there was room for has no more for now. (Other streams stop at messages, or
    /// where descriptors were sent along, with more behind.)
    fn took(&self, count: usize, room: usize) {
        if count < room && count > 0 && self.socket.is_tcp() {
            self.exhausted(Interest::READ);
        }
    }
}

/// An optional integer argument; `None` if it is not one, for the original to complain.
pub(super) fn integer(argument: Option<*mut PyObject>, default: i64) -> Option<i64> {
    let Some(argument) = argument else { return Some(default) };
    // SAFETY: a valid argument.
    let number = Obj::owned(unsafe { ffi::PyNumber_Index(argument) });
    number.and_then(|number| number.to_i64()).map_err(|Raised| clear_error()).ok()
}

/// Flags with which a receive behaves in ways that the fast path does not know.
const UNUSUAL: i32 = libc::MSG_OOB | libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;

fn flags(argument: Option<*mut PyObject>) -> Option<i32> {
    let flags = i32::try_from(integer(argument, 0)?).ok()?;
    (flags & UNUSUAL == 0).then_some(flags)
}

// ---- receiving -------------------------------------------------------------------------------------------------------

/// Receives into `data`, all of it for `MSG_WAITALL`.
///
/// # Safety
/// `data` points to `room` bytes that may be written until the call returns.
unsafe fn receive(operation: &mut Operation<'_>, data: *mut u8, room: usize, flags: i32) -> PyResult<usize> {
    let all = flags & libc::MSG_WAITALL != 0 && flags & libc::MSG_PEEK == 0;
    let mut filled = 0;
    loop {
        let got = operation.until_done(Interest::READ, |fd| {
            // SAFETY: the caller's duty.
            unsafe { libc::recv(fd, data.add(filled).cast(), room - filled, flags | libc::MSG_DONTWAIT) }
        });
        match got {
            Ok(got) => {
                filled += got;
                if !all || got == 0 || filled == room {
                    return Ok(filled);
                }
            }
            // What has arrived is given out; the error comes with the next call, as in the kernel. What was thrown into the
            // tasklet is no error of the socket's and must not be lost.
            Err(Raised) if filled > 0 && system_call_failed() => {
                clear_error();
                return Ok(filled);
            }
            Err(Raised) => return Err(Raised),
        }
    }
}

/// `recv(bufsize[, flags])`.
fn recv(call: &Call) -> PyResult<Obj> {
    let Some(mut operation) = Operation::begin(call) else { return call.original() };
    let (Some(room), Some(flags)) = (call.arg(0).and_then(|room| integer(Some(room), 0)), flags(call.arg(1))) else {
        return call.original();
    };
    if room < 0 || call.len() > 2 {
        return call.original();
    }
    let room = room as usize;
    if room <= THROUGH_SCRATCH && flags == 0 {
        return recv_through_scratch(&mut operation, room);
    }
    let bytes = NewBytes::with_room(room)?;
    // SAFETY: nobody else knows the object.
    let got = unsafe { receive(&mut operation, bytes.data(), room, flags) }?;
    if flags == 0 {
        operation.took(got, room);
    }
    bytes.finish(got)
}

fn recv_through_scratch(operation: &mut Operation<'_>, room: usize) -> PyResult<Obj> {
    let data = SCRATCH.with_borrow_mut(|scratch| {
        if scratch.len() < THROUGH_SCRATCH {
            scratch.resize(THROUGH_SCRATCH, 0);
        }
        scratch.as_mut_ptr()
    });
    // SAFETY: the scratch buffer is never freed or resized again; between a successful `recv` and the copy below nothing
    // else runs on this thread.
    let got =
        operation.until_done(Interest::READ, |fd| unsafe { libc::recv(fd, data.cast(), room, libc::MSG_DONTWAIT) })?;
    operation.took(got, room);
    // SAFETY: that many bytes have been written.
    Obj::bytes(unsafe { std::slice::from_raw_parts(data, got) })
}

/// `recv_into(buffer[, nbytes[, flags]])`.
fn recv_into(call: &Call) -> PyResult<Obj> {
    let Some(mut operation) = Operation::begin(call) else { return call.original() };
    let Some(target) = call.named(0, "buffer") else { return call.original() };
    let (Some(wanted), Some(flags)) = (integer(call.named(1, "nbytes"), 0), flags(call.named(2, "flags"))) else {
        return call.original();
    };
    let Ok(buffer) = Buffer::writable(target) else {
        clear_error();
        return call.original();
    };
    if wanted < 0 || wanted as usize > buffer.len() {
        drop(buffer);
        return call.original();
    }
    let room = if wanted == 0 { buffer.len() } else { wanted as usize };
    // SAFETY: the exported buffer stays in place until it is dropped.
    let got = unsafe { receive(&mut operation, buffer.ptr(), room, flags) }?;
    if flags == 0 {
        operation.took(got, room);
    }
    Obj::int(got as i64)
}

// ---- sending ---------------------------------------------------------------------------------------------------------

fn send_once(operation: &mut Operation<'_>, data: *const u8, len: usize, flags: i32) -> PyResult<usize> {
    operation.until_done(Interest::WRITE, |fd| {
        // SAFETY: the callers' buffers are exported for the time of their calls.
        unsafe { libc::send(fd, data.cast(), len, flags | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) }
    })
}

/// What `send` and `sendall` are given; `None` for the original to complain.
fn outgoing(call: &Call) -> Option<(Buffer, i32)> {
    let data = call.arg(0).filter(|_| call.len() <= 2)?;
    let flags = flags(call.arg(1))?;
    let buffer = Buffer::readable(data).map_err(|Raised| clear_error()).ok()?;
    Some((buffer, flags))
}

/// `send(data[, flags])`.
fn send(call: &Call) -> PyResult<Obj> {
    let Some(mut operation) = Operation::begin(call) else { return call.original() };
    let Some((buffer, flags)) = outgoing(call) else { return call.original() };
    Obj::int(send_once(&mut operation, buffer.ptr(), buffer.len(), flags)? as i64)
}

/// `sendall(data[, flags])`: the timeout counts for the whole.
fn sendall(call: &Call) -> PyResult<Obj> {
    let Some(mut operation) = Operation::begin(call) else { return call.original() };
    let Some((buffer, flags)) = outgoing(call) else { return call.original() };
    let mut sent = 0;
    while sent < buffer.len() {
        // SAFETY: within the buffer.
        let rest = unsafe { buffer.ptr().add(sent) };
        sent += send_once(&mut operation, rest, buffer.len() - sent, flags)?;
    }
    Ok(Obj::none())
}

// ---- accepting -------------------------------------------------------------------------------------------------------

/// Runs `attempt` with `O_NONBLOCK` set, and puts the mode back at once.
///
/// There is no flag for `accept` and `connect`, so the mode of the open file is changed for the time of the call. Another
/// process that shares the file and calls in the same microseconds sees it.
pub(super) fn without_blocking<R>(fd: i32, attempt: impl FnOnce() -> R) -> R {
    // SAFETY: plain system calls on a descriptor; errors leave things as they are, and `attempt` will report them.
    let mode = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    let change = mode >= 0 && mode & libc::O_NONBLOCK == 0;
    if change {
        // SAFETY: as above.
        unsafe { libc::fcntl(fd, libc::F_SETFL, mode | libc::O_NONBLOCK) };
    }
    let result = attempt();
    if change {
        let error = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
        // SAFETY: as above; errno is that of `attempt` again afterwards.
        unsafe {
            libc::fcntl(fd, libc::F_SETFL, mode);
            *libc::__errno_location() = error;
        }
    }
    result
}

/// `_accept()`: a descriptor and an address.
fn accept(call: &Call) -> PyResult<Obj> {
    let Some(mut operation) = Operation::begin(call) else { return call.original() };
    if !matches!(operation.socket.family(), libc::AF_INET | libc::AF_INET6 | libc::AF_UNIX) {
        return super::socket_fallback::accept(call);
    }
    let mut address = Address::room();
    let accepted = operation.until_done(Interest::READ, |fd| {
        address = Address::room();
        let (storage, length) = address.parts();
        without_blocking(fd, || {
            // SAFETY: writes an address of at most the given length.
            unsafe { libc::accept4(fd, storage, length, libc::SOCK_CLOEXEC) as isize }
        })
    })?;
    let address = address.to_python().and_then(|address| Obj::tuple([Obj::int(accepted as i64)?, address]));
    if address.is_ok() {
        linger::inherit(operation.socket.fd(), accepted as i32);
    } else {
        // SAFETY: the descriptor that was just made, known to nobody.
        unsafe { libc::close(accepted as i32) };
    }
    address
}

// ---- closing ---------------------------------------------------------------------------------------------------------

/// A descriptor is about to be closed: who waits for it is woken, and nobody takes its number for the old file.
pub(super) fn forget(fd: i32) {
    if fd < 0 {
        return;
    }
    linger::forget(fd);
    match Runtime::current() {
        Some(runtime) => runtime.proactor(|proactor| proactor.forget(fd)),
        None => lissom_proactor::closed(fd),
    }
}

/// `close()`.
fn close(call: &Call) -> PyResult<Obj> {
    // SAFETY: a method of `_socket.socket` is called with an instance of it.
    let fd = unsafe { Socket::of(call.slf) }.fd();
    if linger::lingers(fd) && super::installed() {
        return linger::close(call);
    }
    forget(fd);
    call.original()
}

/// `detach()`.
fn detach(call: &Call) -> PyResult<Obj> {
    // SAFETY: as above.
    forget(unsafe { Socket::of(call.slf) }.fd());
    call.original()
}

/// The same on a thread without a scheduler.
fn closes(slf: *mut PyObject, _: *mut PyObject) {
    // SAFETY: as in `close`.
    forget(unsafe { Socket::of(slf) }.fd());
}

static FINALIZER: GilCell<Option<ffi::destructor>> = GilCell::new(None);

/// A socket object that dies open closes its descriptor, with a warning.
unsafe extern "C" fn finalize(slf: *mut PyObject) {
    // SAFETY: called by the interpreter with a socket.
    forget(unsafe { Socket::of(slf) }.fd());
    let original = FINALIZER.get().expect("set before this function was put in place");
    // SAFETY: the original finaliser, on its own object.
    unsafe { original(slf) }
}

/// Puts [`finalize`] before the finaliser of the type and of its subclasses, which inherited a copy. Once and for good.
///
/// # Errors
/// What looking at types may raise.
pub(super) fn watch_finalizers() -> PyResult<()> {
    let class = SOCKET.object()?;
    let original = {
        let mut known = FINALIZER.get();
        // SAFETY: a type object.
        *known.get_or_insert_with(|| unsafe {
            (*class.ptr().cast::<ffi::PyTypeObject>()).tp_finalize.expect("sockets have one")
        })
    };
    let mut classes = vec![class];
    while let Some(class) = classes.pop() {
        let kind = class.ptr().cast::<ffi::PyTypeObject>();
        // SAFETY: a type object that we hold; slots are plain pointers that are read at each use.
        unsafe {
            if (*kind).tp_finalize.is_some_and(|own| std::ptr::fn_addr_eq(own, original)) {
                (*kind).tp_finalize = Some(finalize);
            }
        }
        let subclasses = class.attr(c"__subclasses__")?.call([])?;
        // SAFETY: a list; items are borrowed.
        for index in 0..unsafe { ffi::PyList_Size(subclasses.ptr()) } {
            // SAFETY: within the list.
            classes.push(Obj::borrowed(unsafe { ffi::PyList_GetItem(subclasses.ptr(), index) }));
        }
    }
    Ok(())
}

pub(super) fn table() -> Vec<Hook> {
    vec![
        hook!(SOCKET, c"recv", recv).costs(1),
        hook!(SOCKET, c"recv_into", recv_into).costs(1),
        hook!(SOCKET, c"send", send).costs(1),
        hook!(SOCKET, c"sendall", sendall).costs(1),
        hook!(SOCKET, c"_accept", accept).costs(1),
    ]
}

/// What closes a descriptor has to be known also after `unhook()`: the next socket with its number, should the program hook
/// again, must not be taken for the old one.
pub(super) fn lasting_table() -> Vec<Hook> {
    vec![hook!(SOCKET, c"close", close).noticed_by(closes), hook!(SOCKET, c"detach", detach).noticed_by(closes)]
}
