//! `_ssl._SSLSocket`: TLS over a socket, below the standard library's `ssl.SSLSocket`.
//!
//! OpenSSL reads and writes the descriptor itself, so the originals are asked not to block: the socket's timeout field is
//! zero and the descriptor in non-blocking mode for the time of the call. `SSLWantReadError` and `SSLWantWriteError` then
//! say what to wait for. An object on memory buffers (`SSLObject`) never blocks and is left to the original.

use lissom_proactor::Interest;
use pyo3_ffi as ffi;

use super::call::{Call, hook};
use super::slot::{Hook, Owner};
use super::socket::{SOCKET, without_blocking};
use super::socket_object::Socket;
use crate::object::{Obj, PyResult, Raised, clear_error, error_matches, timeout_error};
use crate::runtime::deadline_in;
use crate::world::{GilCell, Wake};

const TLS: Owner = Owner::Type(c"_ssl", c"_SSLSocket");

/// The classes `_socket.socket`, `SSLWantReadError` and `SSLWantWriteError`.
struct Classes {
    socket: Obj,
    want_read: Obj,
    want_write: Obj,
}

static CLASSES: GilCell<Option<&'static Classes>> = GilCell::new(None);

fn classes() -> PyResult<&'static Classes> {
    let known = *CLASSES.get();
    if let Some(known) = known {
        return Ok(known);
    }
    let module = Obj::import(c"_ssl")?;
    let found = Classes {
        socket: SOCKET.object()?,
        want_read: module.attr(c"SSLWantReadError")?,
        want_write: module.attr(c"SSLWantWriteError")?,
    };
    let found = &*Box::leak(Box::new(found));
    *CLASSES.get() = Some(found);
    Ok(found)
}

/// Repeats the original until it need not wait.
///
/// # Errors
/// `TimeoutError` with `message` after the socket's timeout; what the original raises; what is thrown into the tasklet.
fn patiently(call: &Call, message: &str) -> PyResult<Obj> {
    let classes = classes()?;
    let owner = Obj::borrowed(call.slf).attr(c"owner")?;
    if !owner.is_instance(classes.socket.ptr().cast()) {
        return call.original();
    }
    // SAFETY: an instance of `_socket.socket`, as just checked, that `owner` keeps.
    let socket = unsafe { Socket::of(owner.ptr()) };
    let timeout = socket.timeout();
    if timeout == 0 {
        return call.original();
    }
    let mut deadline = None;
    loop {
        socket.set_timeout(0);
        let result = without_blocking(socket.fd(), || call.original());
        socket.set_timeout(timeout);
        let interest = match result {
            Ok(value) => return Ok(value),
            Err(Raised) if error_matches(classes.want_read.ptr()) => Interest::READ,
            Err(Raised) if error_matches(classes.want_write.ptr()) => Interest::WRITE,
            Err(Raised) => return Err(Raised),
        };
        clear_error();
        if deadline.is_none() && timeout > 0 {
            deadline = Some(deadline_in(timeout as u64));
        }
        // OpenSSL does not say how much it took, so the condition is looked at afresh.
        match call.runtime.wait_ready(socket.fd(), interest, false, deadline)? {
            Wake::Deadline => return Err(timeout_error(message)),
            Wake::Event | Wake::Signal | Wake::Met | Wake::Settled => {}
        }
    }
}

fn do_handshake(call: &Call) -> PyResult<Obj> {
    patiently(call, "_ssl.c: The handshake operation timed out")
}

fn read(call: &Call) -> PyResult<Obj> {
    patiently(call, "The read operation timed out")
}

fn write(call: &Call) -> PyResult<Obj> {
    patiently(call, "The write operation timed out")
}

fn shutdown(call: &Call) -> PyResult<Obj> {
    patiently(call, "The read operation timed out")
}

/// The part of the table for an interpreter built with TLS; importing `_ssl` is left to the program.
pub(super) fn table() -> Vec<Hook> {
    // SAFETY: the GIL is held; a null-terminated name.
    let known = Obj::owned(unsafe { ffi::PyImport_ImportModule(c"_ssl".as_ptr()) });
    if known.is_err() {
        clear_error();
        return Vec::new();
    }
    vec![
        hook!(TLS, c"do_handshake", do_handshake),
        hook!(TLS, c"read", read).costs(1),
        hook!(TLS, c"write", write).costs(1),
        hook!(TLS, c"shutdown", shutdown),
    ]
}
