//! `io.FileIO`, the raw files below `open()`: pipes, terminals, FIFOs.
//!
//! The buffered and text layers reach these methods by name, so `p.stdout.readline()` and `sys.stdin` are served too.
//! Regular files never wait here: a read costs them one look with poll(2), which always finds them ready.

use pyo3_ffi as ffi;

use super::buffer::Buffer;
use super::call::{Call, hook};
use super::os::{Kind, is_ready, kind, read_some, wait_readable, write_all};
use super::slot::{Hook, Owner};
use crate::object::{Obj, PyResult, Raised, check, clear_error};

const FILE: Owner = Owner::Type(c"_io", c"FileIO");

/// How much `readall` asks for at a time.
const CHUNK: usize = 64 * 1024;

/// The descriptor; `None` for a closed file, of which the original complains.
fn descriptor(call: &Call) -> Option<i32> {
    let fd = Obj::borrowed(call.slf).attr(c"fileno").and_then(|fileno| fileno.call([])).and_then(|fd| fd.to_i64());
    fd.map_err(|Raised| clear_error()).ok().and_then(|fd| i32::try_from(fd).ok())
}

/// Whether the file was opened for reading or writing; if not, the original complains.
fn allows(call: &Call, question: &std::ffi::CStr) -> PyResult<bool> {
    FILE.object()?.attr(question)?.call([&Obj::borrowed(call.slf)])?.truth()
}

/// `read(size=-1)` and `readinto(buffer)`: the original takes what there is, once there is something.
fn read(call: &Call) -> PyResult<Obj> {
    if let Some(fd) = descriptor(call)
        && !is_ready(fd, libc::POLLIN)
        && kind(fd) != Kind::Plain
        && allows(call, c"readable")?
    {
        wait_readable(call.runtime, fd)?;
    }
    call.original()
}

/// `read(size=-1)`: without a size it is `readall`.
fn read_sized(call: &Call) -> PyResult<Obj> {
    let all = match call.arg(0) {
        None => true,
        // SAFETY: valid arguments.
        Some(size) => unsafe {
            size == ffi::Py_None() || (ffi::PyLong_Check(size) != 0 && ffi::PyLong_AsLong(size) < 0)
        },
    };
    clear_error();
    // The original of either method reads to the end by itself where nothing waits.
    if all { readall(call) } else { read(call) }
}

/// `readall()`: to the end of the stream.
fn readall(call: &Call) -> PyResult<Obj> {
    let Some(fd) = descriptor(call) else { return call.original() };
    let kind = kind(fd);
    if kind == Kind::Plain || !allows(call, c"readable")? {
        return call.original();
    }
    // SAFETY: the GIL is held.
    let parts = Obj::owned(unsafe { ffi::PyList_New(0) })?;
    loop {
        let part = read_some(call.runtime, fd, &kind, CHUNK)?;
        // SAFETY: a bytes object.
        if unsafe { ffi::PyBytes_Size(part.ptr()) } == 0 {
            return Obj::bytes(b"")?.attr(c"join")?.call([&parts]);
        }
        // SAFETY: valid references.
        check(unsafe { ffi::PyList_Append(parts.ptr(), part.ptr()) })?;
    }
}

/// `write(data)`.
fn write(call: &Call) -> PyResult<Obj> {
    let (Some(data), Some(fd)) = (call.arg(0), descriptor(call)) else { return call.original() };
    let kind = kind(fd);
    if kind == Kind::Plain || !allows(call, c"writable")? {
        return call.original();
    }
    let Ok(buffer) = Buffer::readable(data) else {
        clear_error();
        return call.original();
    };
    Obj::int(write_all(call.runtime, fd, &kind, &buffer)? as i64)
}

pub(super) fn table() -> Vec<Hook> {
    vec![
        hook!(FILE, c"read", read_sized),
        hook!(FILE, c"readinto", read),
        hook!(FILE, c"readall", readall),
        hook!(FILE, c"write", write),
    ]
}
