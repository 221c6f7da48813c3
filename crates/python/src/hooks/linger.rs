//! Sockets whose `close` waits until the peer has what was sent to it: `SO_LINGER` with a time (socket(7)).
//!
//! Whatever mode they are in. A blocking thread closes them, so that only the tasklet waits.

use std::collections::HashSet;

use super::call::{Call, hook};
use super::slot::Hook;
use super::socket::{SOCKET, integer};
use super::socket_object::Socket;
use crate::jobs::{self, Lane};
use crate::object::{Obj, PyResult, os_error};
use crate::world::GilCell;

/// Descriptors of sockets that may linger: set to do so, or accepted by one that is.
static LINGERING: GilCell<Option<HashSet<i32>>> = GilCell::new(None);

/// Whether the socket of `fd` lingers, as far as is known.
pub(super) fn lingers(fd: i32) -> bool {
    LINGERING.get().as_ref().is_some_and(|known| known.contains(&fd))
}

/// An accepted socket has the options of its listener.
pub(super) fn inherit(listener: i32, accepted: i32) {
    if lingers(listener) {
        LINGERING.get().get_or_insert_default().insert(accepted);
    }
}

/// The number is about to name nothing, or another file.
pub(super) fn forget(fd: i32) {
    if let Some(known) = LINGERING.get().as_mut() {
        known.remove(&fd);
    }
}

/// `setsockopt(level, option, value)`.
fn setsockopt(call: &Call) -> PyResult<Obj> {
    let done = call.original()?;
    if integer(call.arg(1), 0) != Some(i64::from(libc::SO_LINGER))
        || integer(call.arg(0), 0) != Some(i64::from(libc::SOL_SOCKET))
    {
        return Ok(done);
    }
    // SAFETY: a method of `_socket.socket` is called with an instance of it.
    let fd = unsafe { Socket::of(call.slf) }.fd();
    let mut linger = libc::linger { l_onoff: 0, l_linger: 0 };
    let mut length = size_of::<libc::linger>() as libc::socklen_t;
    // SAFETY: the place is writable for that length.
    unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, (&raw mut linger).cast(), &raw mut length);
    }
    // With a time of 0 the connection is reset, at once.
    if linger.l_onoff != 0 && linger.l_linger > 0 {
        LINGERING.get().get_or_insert_default().insert(fd);
    } else {
        forget(fd);
    }
    Ok(done)
}

/// Closes the socket of a call of `close()` in a blocking thread.
///
/// # Errors
/// As the original: `OSError`, but not for a connection that was reset. What is thrown into the tasklet: the socket is being
/// closed then.
pub(super) fn close(call: &Call) -> PyResult<Obj> {
    // The object is closed from here on, for everybody.
    let fd = Obj::borrowed(call.slf).attr(c"detach")?.call([])?.to_i64()? as i32;
    let failed = jobs::run(call.runtime, Lane::Others, move || {
        // SAFETY: the object has given the descriptor up, and nobody else owns it.
        let closed = unsafe { libc::close(fd) };
        (closed < 0).then(|| std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
    })?;
    match failed {
        Some(errno) if errno != libc::ECONNRESET => Err(os_error(errno)),
        _ => Ok(Obj::none()),
    }
}

pub(super) fn table() -> Vec<Hook> {
    vec![hook!(SOCKET, c"setsockopt", setsockopt)]
}
