//! Name resolution: the C library's, in a blocking thread. Numeric hosts never leave the tasklet.

use std::net::IpAddr;

use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use super::call::{Call, hook};
use super::slot::{Hook, Owner};
use crate::jobs;
use crate::object::{Obj, PyResult, Raised, clear_error, utf8};

const MODULE: Owner = Owner::Module(c"_socket");

/// Whether resolving `host` asks nobody: nothing, or an address.
pub(super) fn is_numeric(host: *mut PyObject) -> bool {
    // SAFETY: valid arguments.
    unsafe {
        if host == ffi::Py_None() {
            return true;
        }
        let text = if ffi::PyUnicode_Check(host) != 0 {
            utf8(&Obj::borrowed(host))
        } else if ffi::PyBytes_Check(host) != 0 {
            let data = ffi::PyBytes_AsString(host).cast::<u8>();
            let bytes = std::slice::from_raw_parts(data, ffi::PyBytes_Size(host) as usize);
            Ok(String::from_utf8_lossy(bytes).into_owned())
        } else {
            // Wrong types raise in the original.
            return true;
        };
        let Ok(text) = text.map_err(|Raised| clear_error()) else { return true };
        text.is_empty()
            || text == "<broadcast>"
            || text.split('%').next().is_some_and(|host| host.parse::<IpAddr>().is_ok())
    }
}

/// Calls the function `name` of `_socket` in a blocking thread, where its hook lets it through.
fn in_pool(call: &Call, name: &std::ffi::CStr) -> PyResult<Obj> {
    let (args, kwargs) = call.packed()?;
    jobs::look_up(call.runtime, Obj::import(c"_socket")?.attr(name)?, args, kwargs)
}

fn getaddrinfo(call: &Call) -> PyResult<Obj> {
    match call.named(0, "host") {
        Some(host) if !is_numeric(host) => in_pool(call, c"getaddrinfo"),
        _ => call.original(),
    }
}

fn gethostbyname(call: &Call) -> PyResult<Obj> {
    match call.arg(0) {
        Some(host) if !is_numeric(host) => in_pool(call, c"gethostbyname"),
        _ => call.original(),
    }
}

fn gethostbyname_ex(call: &Call) -> PyResult<Obj> {
    in_pool(call, c"gethostbyname_ex")
}

fn gethostbyaddr(call: &Call) -> PyResult<Obj> {
    in_pool(call, c"gethostbyaddr")
}

fn getnameinfo(call: &Call) -> PyResult<Obj> {
    in_pool(call, c"getnameinfo")
}

/// The address that a host name stands for, as the socket methods would find it: `(host, port, ...)` with the first
/// element numeric; an address that needs no resolution is returned as it is.
pub(super) fn resolved(call: &Call, family: i32, address: *mut PyObject) -> PyResult<Obj> {
    let inet = matches!(family, libc::AF_INET | libc::AF_INET6);
    // SAFETY: valid arguments.
    if !inet || unsafe { ffi::PyTuple_Check(address) } == 0 {
        return Ok(Obj::borrowed(address));
    }
    // SAFETY: a tuple; borrowed items.
    let size = unsafe { ffi::PyTuple_Size(address) };
    // SAFETY: as above.
    if size < 2 || is_numeric(unsafe { ffi::PyTuple_GetItem(address, 0) }) {
        return Ok(Obj::borrowed(address));
    }
    // SAFETY: as above.
    let host = Obj::borrowed(unsafe { ffi::PyTuple_GetItem(address, 0) });
    let function = Obj::import(c"_socket")?.attr(c"getaddrinfo")?;
    let args = Obj::tuple([host, Obj::none(), Obj::int(i64::from(family))?])?;
    let found = jobs::look_up(call.runtime, function, args, None)?;
    // [(family, type, proto, canonname, (host, port, ...)), ...]
    // SAFETY: a non-empty list of tuples, as the function returns; items are borrowed.
    let numeric = unsafe {
        let first = ffi::PyList_GetItem(found.ptr(), 0);
        if first.is_null() {
            return Err(Raised);
        }
        Obj::borrowed(ffi::PyTuple_GetItem(ffi::PyTuple_GetItem(first, 4), 0))
    };
    // SAFETY: a slice of a tuple, extended at the front by concatenation.
    let rest = Obj::owned(unsafe { ffi::PyTuple_GetSlice(address, 1, size) })?;
    let head = Obj::tuple([numeric])?;
    // SAFETY: two tuples.
    Obj::owned(unsafe { ffi::PySequence_Concat(head.ptr(), rest.ptr()) })
}

pub(super) fn table() -> Vec<Hook> {
    vec![
        hook!(MODULE, c"getaddrinfo", getaddrinfo),
        hook!(MODULE, c"gethostbyname", gethostbyname),
        hook!(MODULE, c"gethostbyname_ex", gethostbyname_ex),
        hook!(MODULE, c"gethostbyaddr", gethostbyaddr),
        hook!(MODULE, c"getnameinfo", getnameinfo),
    ]
}
