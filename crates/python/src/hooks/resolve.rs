//! Name resolution: the C library's, in a blocking thread. Numeric hosts never leave the tasklet.

use std::ffi::CString;
use std::net::Ipv6Addr;

use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use super::call::{Call, hook};
use super::slot::{Hook, Owner};
use super::socket::integer;
use crate::jobs::{self, Lane};
use crate::object::{Obj, PyResult, Raised, clear_error, utf8};

const MODULE: Owner = Owner::Module(c"_socket");

/// The text of a host or service; `None` for other types, which raise in the original, and for none at all.
fn text(argument: *mut PyObject) -> Option<String> {
    // SAFETY: valid references; the memory is copied at once.
    unsafe {
        if ffi::PyUnicode_Check(argument) != 0 {
            return utf8(&Obj::borrowed(argument)).map_err(|Raised| clear_error()).ok();
        }
        let (data, size) = if ffi::PyBytes_Check(argument) != 0 {
            (ffi::PyBytes_AsString(argument), ffi::PyBytes_Size(argument))
        } else if ffi::PyByteArray_Check(argument) != 0 {
            (ffi::PyByteArray_AsString(argument), ffi::PyByteArray_Size(argument))
        } else {
            return None;
        };
        let bytes = std::slice::from_raw_parts(data.cast::<u8>(), size as usize);
        Some(String::from_utf8_lossy(bytes).into_owned())
    }
}

/// Whether this is an address as the C library reads them: `127.0.0.1`, but also `127.1`, `0x7f000001` and `2130706433`
/// (inet_aton(3)); IPv6, also with a scope, which is the name of an interface of this machine.
fn is_address(host: &str) -> bool {
    if host.split('%').next().is_some_and(|host| host.parse::<Ipv6Addr>().is_ok()) {
        return true;
    }
    // inet_aton(3) stops at a space, and getaddrinfo(3) does not.
    if !host.starts_with(|first: char| first.is_ascii_digit()) || host.contains(char::is_whitespace) {
        return false;
    }
    let Ok(host) = CString::new(host) else { return false };
    let mut address = libc::in_addr { s_addr: 0 };
    // SAFETY: a null-terminated string, and room for the result.
    unsafe { inet_aton(host.as_ptr(), &mut address) != 0 }
}

unsafe extern "C" {
    /// inet_aton(3), which the crate `libc` does not declare.
    fn inet_aton(text: *const std::ffi::c_char, address: *mut libc::in_addr) -> std::ffi::c_int;
}

/// Whether resolving `host` asks nobody: nothing, or an address.
pub(super) fn is_numeric(host: *mut PyObject) -> bool {
    text(host).is_none_or(|host| host.is_empty() || host == "<broadcast>" || is_address(&host))
}

/// Whether finding the port of `service` asks nobody: nothing, or a number.
fn is_port(service: *mut PyObject) -> bool {
    text(service).is_none_or(|service| service.bytes().all(|digit| digit.is_ascii_digit()))
}

/// Calls the function `name` of `_socket` in a blocking thread, where its hook lets it through.
fn in_pool(call: &Call, name: &std::ffi::CStr) -> PyResult<Obj> {
    let (args, kwargs) = call.packed()?;
    jobs::call(call.runtime, Lane::Names, Obj::import(c"_socket")?.attr(name)?, args, kwargs)
}

fn getaddrinfo(call: &Call) -> PyResult<Obj> {
    let flags = integer(call.named(5, "flags"), 0).unwrap_or(0) as i32;
    // The empty name is looked up, in contrast to that of the other functions.
    let asks_host = flags & libc::AI_NUMERICHOST == 0
        && call.named(0, "host").and_then(text).is_some_and(|host| !is_address(&host));
    let asks_service =
        flags & libc::AI_NUMERICSERV == 0 && call.named(1, "port").is_some_and(|service| !is_port(service));
    if asks_host || asks_service { in_pool(call, c"getaddrinfo") } else { call.original() }
}

fn gethostbyname(call: &Call) -> PyResult<Obj> {
    match call.arg(0) {
        Some(host) if !is_numeric(host) => in_pool(call, c"gethostbyname"),
        _ => call.original(),
    }
}

fn gethostbyname_ex(call: &Call) -> PyResult<Obj> {
    match call.arg(0).and_then(text) {
        Some(host) if is_address(&host) => call.original(),
        _ => in_pool(call, c"gethostbyname_ex"),
    }
}

fn gethostbyaddr(call: &Call) -> PyResult<Obj> {
    in_pool(call, c"gethostbyaddr")
}

/// `getnameinfo(address, flags)`: the address is numeric, so nobody is asked if numbers are all that is wanted.
fn getnameinfo(call: &Call) -> PyResult<Obj> {
    let numbers = i64::from(libc::NI_NUMERICHOST | libc::NI_NUMERICSERV);
    if integer(call.arg(1), 0).is_none_or(|flags| flags & numbers == numbers) {
        return call.original();
    }
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
    let found = jobs::call(call.runtime, Lane::Names, function, args, None)?;
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
