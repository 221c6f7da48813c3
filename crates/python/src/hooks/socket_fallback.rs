//! The other operations of `_socket.socket`: parsed and done by the original, asked not to block.
//!
//! The original waits by itself for a socket with a timeout, so the timeout field is zero while it runs; for a socket
//! without one, `MSG_DONTWAIT` is added to its flags (or the mode changed for `connect`). When it answers
//! `BlockingIOError`, the tasklet waits and asks again.

use lissom_proactor::Interest;
use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use super::call::{Call, hook};
use super::resolve;
use super::slot::Hook;
use super::socket::{Operation, SOCKET, integer, without_blocking};
use crate::jobs::{self, Lane};
use crate::object::{Exc, Obj, PyResult, Raised, clear_error, error_matches, os_error};

/// Runs `attempt` with the timeout field zero; `None` if it would block.
fn asked_not_to_block(operation: &Operation<'_>, attempt: impl FnOnce() -> PyResult<Obj>) -> PyResult<Option<Obj>> {
    let socket = operation.socket;
    let timeout = socket.timeout();
    socket.set_timeout(0);
    let result = attempt();
    socket.set_timeout(timeout);
    match result {
        Ok(value) => Ok(Some(value)),
        // SAFETY: the interpreter keeps its exception classes for ever.
        Err(Raised) if error_matches(unsafe { ffi::PyExc_BlockingIOError }) => {
            clear_error();
            Ok(None)
        }
        Err(Raised) => Err(Raised),
    }
}

/// Whether the program itself asks not to wait. (With a timeout the original waits all the same.)
fn asked_by_program(operation: &Operation<'_>, flags: i64) -> bool {
    flags & i64::from(libc::MSG_DONTWAIT) != 0 && operation.socket.timeout() < 0
}

/// Repeats the original with `MSG_DONTWAIT` added to its flags, which are argument number `place`; arguments before it
/// that are missing get `defaults`.
fn with_flags(call: &Call, interest: Interest, place: usize, name: &str, defaults: &[&Obj]) -> PyResult<Obj> {
    let Some(mut operation) = Operation::begin(call) else { return call.original() };
    let Some(flags) = integer(call.named(place, name), 0) else { return call.original() };
    if asked_by_program(&operation, flags) {
        return call.original();
    }
    let flags = Obj::int(flags | i64::from(libc::MSG_DONTWAIT))?;
    let names = ["buffer", "nbytes"];
    let mut values: Vec<*mut PyObject> = Vec::with_capacity(call.len().max(place + 1));
    for index in 0..place {
        let keyword = names.get(index).copied().unwrap_or("");
        match call.named(index, keyword).or_else(|| index.checked_sub(1).and_then(|i| defaults.get(i)).map(|d| d.ptr()))
        {
            Some(value) => values.push(value),
            None => return call.original(),
        }
    }
    values.push(flags.ptr());
    values.extend((place + 1..call.len()).filter_map(|index| call.arg(index)));
    loop {
        if let Some(value) = asked_not_to_block(&operation, || call.original_with(&values))? {
            return Ok(value);
        }
        operation.wait(interest)?;
    }
}

fn recvfrom(call: &Call) -> PyResult<Obj> {
    with_flags(call, Interest::READ, 1, "flags", &[])
}

fn recvfrom_into(call: &Call) -> PyResult<Obj> {
    with_flags(call, Interest::READ, 2, "flags", &[&Obj::int(0)?])
}

/// `recvmsg(bufsize[, ancbufsize[, flags]])` and `recvmsg_into(buffers[, ancbufsize[, flags]])`.
fn recvmsg(call: &Call) -> PyResult<Obj> {
    with_flags(call, Interest::READ, 2, "flags", &[&Obj::int(0)?])
}

/// `sendmsg(buffers[, ancdata[, flags[, address]]])`.
fn sendmsg(call: &Call) -> PyResult<Obj> {
    with_flags(call, Interest::WRITE, 2, "flags", &[&Obj::tuple([])?])
}

/// `sendto(data, [flags,] address)`.
fn sendto(call: &Call) -> PyResult<Obj> {
    let Some(mut operation) = Operation::begin(call) else { return call.original() };
    let (data, flags, address) = match (call.len(), call.arg(0), call.arg(1), call.arg(2)) {
        (2, Some(data), Some(address), None) => (data, Some(0), address),
        (3, Some(data), flags, Some(address)) => (data, integer(flags, 0), address),
        _ => return call.original(),
    };
    let Some(flags) = flags else { return call.original() };
    if asked_by_program(&operation, flags) {
        return call.original();
    }
    let address = resolve::resolved(call, operation.socket.family(), address)?;
    let flags = Obj::int(flags | i64::from(libc::MSG_DONTWAIT))?;
    let values = [data, flags.ptr(), address.ptr()];
    loop {
        if let Some(value) = asked_not_to_block(&operation, || call.original_with(&values))? {
            return Ok(value);
        }
        operation.wait(Interest::WRITE)?;
    }
}

/// `_accept()` on families whose addresses are not made here.
pub(super) fn accept(call: &Call) -> PyResult<Obj> {
    let Some(mut operation) = Operation::begin(call) else { return call.original() };
    loop {
        let fd = operation.socket.fd();
        if let Some(value) = asked_not_to_block(&operation, || without_blocking(fd, || call.original()))? {
            return Ok(value);
        }
        operation.wait(Interest::READ)?;
    }
}

// ---- connecting ------------------------------------------------------------------------------------------------------

/// How an attempt to connect ended.
enum Connected {
    Done,
    /// The error number that the connection ended with.
    Failed(i32),
}

/// Connects, waiting as long as the socket's timeout allows.
///
/// # Errors
/// `TimeoutError`, what parsing the address raises, what is thrown into the tasklet. Errors of the connection itself are
/// in the result.
fn establish(call: &Call, operation: &mut Operation<'_>, address: &Obj) -> PyResult<Connected> {
    let fd = operation.socket.fd();
    let socket = Obj::borrowed(call.slf);
    let attempt = || without_blocking(fd, || call.original_with(&[address.ptr()]));
    match asked_not_to_block(operation, attempt) {
        // `connect` returns None, `connect_ex` a number.
        Ok(Some(value)) => {
            // SAFETY: a valid reference.
            let errno = if unsafe { ffi::PyLong_Check(value.ptr()) } != 0 { value.to_i64()? as i32 } else { 0 };
            match errno {
                0 => return Ok(Connected::Done),
                libc::EINPROGRESS => {}
                libc::EAGAIN => return in_a_blocking_thread(call, fd, &socket),
                errno => return Ok(Connected::Failed(errno)),
            }
        }
        Ok(None) if operation.socket.family() == libc::AF_UNIX => return in_a_blocking_thread(call, fd, &socket),
        Ok(None) => {}
        Err(Raised) => return Err(Raised),
    }
    operation.wait_afresh(Interest::WRITE)?;
    Ok(match pending_error(operation.socket.fd()) {
        0 => {
            complete(operation.socket.fd());
            Connected::Done
        }
        errno => Connected::Failed(errno),
    })
}

/// Leaves the socket as a blocking `connect` does: after one that did not block, Linux counts it as connecting until
/// connect(2) is called again, and the program's next call would succeed instead of raising `EISCONN`.
fn complete(fd: i32) {
    let mut peer = super::address::Address::room();
    let (address, length) = peer.parts();
    // SAFETY: room for any address; connecting to the peer that the socket has does nothing else.
    unsafe {
        if libc::getpeername(fd, address, length) == 0 {
            libc::connect(fd, address, *length);
        }
    }
}

fn pending_error(fd: i32) -> i32 {
    let mut errno: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: writes one integer.
    let status = unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_ERROR, std::ptr::addr_of_mut!(errno).cast(), &mut length)
    };
    if status != 0 { std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO) } else { errno }
}

/// A Unix socket whose listener's queue is full gives no event when there is room again (connect(2), EAGAIN): only a
/// blocking call waits for that. It is made on the original's own terms in a blocking thread.
fn in_a_blocking_thread(call: &Call, _fd: i32, socket: &Obj) -> PyResult<Connected> {
    let (args, kwargs) = call.packed()?;
    let connect = socket.attr(c"connect")?;
    match jobs::call(call.runtime, Lane::Others, connect, args, kwargs) {
        Ok(_) => Ok(Connected::Done),
        Err(Raised) => {
            let error = Exc::take();
            // SAFETY: the interpreter keeps its exception classes for ever.
            let timed_out = unsafe { error.is(ffi::PyExc_TimeoutError) };
            match error.0.attr(c"errno").and_then(|errno| errno.to_i64()) {
                Ok(errno) if !timed_out => Ok(Connected::Failed(errno as i32)),
                _ => {
                    clear_error();
                    Err(error.restore())
                }
            }
        }
    }
}

fn connect(call: &Call) -> PyResult<Obj> {
    let Some(mut operation) = Operation::begin(call) else { return call.original() };
    let Some(address) = call.arg(0) else { return call.original() };
    let address = resolve::resolved(call, operation.socket.family(), address)?;
    match establish(call, &mut operation, &address)? {
        Connected::Done => Ok(Obj::none()),
        Connected::Failed(errno) => Err(os_error(errno)),
    }
}

fn connect_ex(call: &Call) -> PyResult<Obj> {
    let Some(mut operation) = Operation::begin(call) else { return call.original() };
    let Some(address) = call.arg(0) else { return call.original() };
    let address = resolve::resolved(call, operation.socket.family(), address)?;
    match establish(call, &mut operation, &address) {
        Ok(Connected::Done) => Obj::int(0),
        Ok(Connected::Failed(errno)) => Obj::int(i64::from(errno)),
        // The original answers a timeout with a number.
        // SAFETY: the interpreter keeps its exception classes for ever.
        Err(Raised) if error_matches(unsafe { ffi::PyExc_TimeoutError }) => {
            clear_error();
            Obj::int(i64::from(libc::EAGAIN))
        }
        Err(Raised) => Err(Raised),
    }
}

pub(super) fn table() -> Vec<Hook> {
    vec![
        hook!(SOCKET, c"recvfrom", recvfrom).costs(1),
        hook!(SOCKET, c"recvfrom_into", recvfrom_into).costs(1),
        hook!(SOCKET, c"recvmsg", recvmsg).costs(1),
        hook!(SOCKET, c"recvmsg_into", recvmsg).costs(1),
        hook!(SOCKET, c"sendmsg", sendmsg).costs(1),
        hook!(SOCKET, c"sendto", sendto).costs(1),
        hook!(SOCKET, c"connect", connect).costs(1),
        hook!(SOCKET, c"connect_ex", connect_ex).costs(1),
    ]
}
