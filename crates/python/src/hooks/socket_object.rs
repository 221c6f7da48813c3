//! The C struct behind `_socket.socket`: descriptor, family, type and timeout, read in place.
//!
//! Its layout (`PySocketSockObject` in `Modules/socketmodule.h`) is not in the installed headers and has been the same
//! since 3.5; [`self_check`] compares it with what the object itself says before anything is hooked.

use std::mem::size_of;

use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use crate::object::{Obj, PyResult, runtime_error};

/// The fields behind the object header.
#[repr(C)]
struct Fields {
    fd: libc::c_int,
    family: libc::c_int,
    kind: libc::c_int,
    proto: libc::c_int,
    errorhandler: *mut std::ffi::c_void,
    /// Nanoseconds; negative for none.
    timeout: i64,
}

/// A socket object, borrowed for the time of a call.
#[derive(Clone, Copy)]
pub(super) struct Socket(*mut Fields);

impl Socket {
    /// # Safety
    /// `object` is an instance of `_socket.socket`, alive as long as the result is used.
    #[inline]
    pub(super) unsafe fn of(object: *mut PyObject) -> Socket {
        // SAFETY: the fields follow the header, as `self_check` has verified.
        Socket(unsafe { object.cast::<u8>().add(size_of::<PyObject>()) }.cast())
    }

    /// The descriptor, -1 once closed.
    #[inline]
    pub(super) fn fd(self) -> i32 {
        // SAFETY: valid by the duty of `of`.
        unsafe { (*self.0).fd }
    }

    pub(super) fn family(self) -> i32 {
        // SAFETY: valid by the duty of `of`.
        unsafe { (*self.0).family }
    }

    /// `SOCK_STREAM`, `SOCK_DGRAM`, ...
    pub(super) fn kind(self) -> i32 {
        // SAFETY: valid by the duty of `of`.
        unsafe { (*self.0).kind }
    }

    /// Whether it is a TCP connection: a stream of bytes without any marks but that of urgent data.
    pub(super) fn is_tcp(self) -> bool {
        // SAFETY: valid by the duty of `of`.
        let Fields { family, kind, proto, .. } = unsafe { &*self.0 };
        matches!(*family, libc::AF_INET | libc::AF_INET6)
            && *kind == libc::SOCK_STREAM
            && matches!(*proto, 0 | libc::IPPROTO_TCP)
    }

    /// The timeout in nanoseconds: negative for none, 0 for a non-blocking socket.
    #[inline]
    pub(super) fn timeout(self) -> i64 {
        // SAFETY: valid by the duty of `of`.
        unsafe { (*self.0).timeout }
    }

    /// Sets the timeout field alone: the mode of the descriptor stays.
    pub(super) fn set_timeout(self, timeout: i64) {
        // SAFETY: valid by the duty of `of`; only the holder of the GIL touches it.
        unsafe { (*self.0).timeout = timeout }
    }
}

/// Compares the layout with what a socket object says of itself.
///
/// # Errors
/// `RuntimeError` if they differ; what making a socket may raise.
pub(super) fn self_check() -> PyResult<()> {
    let class = Obj::import(c"_socket")?.attr(c"socket")?;
    let object = class.call([&Obj::int(i64::from(libc::AF_UNIX))?, &Obj::int(i64::from(libc::SOCK_DGRAM))?])?;
    // SAFETY: a socket; if its layout differs, the comparison fails (the object is larger than what is read).
    let socket = unsafe { Socket::of(object.ptr()) };
    let size = class.attr(c"__basicsize__")?.to_i64()? as usize;
    let fits = size >= size_of::<PyObject>() + size_of::<Fields>();
    let fd = object.attr(c"fileno")?.call([])?.to_i64()?;
    // SAFETY: a valid reference.
    let timeout = Obj::owned(unsafe { ffi::PyFloat_FromDouble(1.5) })?;
    let set_timeout = object.attr(c"settimeout")?;
    let matches = fits
        && i64::from(socket.fd()) == fd
        && socket.family() == libc::AF_UNIX
        && socket.kind() == libc::SOCK_DGRAM
        && {
            set_timeout.call([&timeout])?;
            let timed = socket.timeout() == 1_500_000_000;
            set_timeout.call([&Obj::none()])?;
            timed && socket.timeout() < 0
        };
    object.attr(c"close")?.call([])?;
    if matches {
        return Ok(());
    }
    Err(runtime_error(
        "cannot hook: socket objects of this interpreter are laid out in a way that lissom does not know",
    ))
}
