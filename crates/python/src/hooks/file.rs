//! `io.FileIO`, the raw files below `open()`, and `open()` itself.
//!
//! The buffered and text layers reach these methods by name, so `p.stdout.readline()` and `sys.stdin` are served too. A read
//! of what is in memory is one system call, as it is without hooks.

use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use super::buffer::Buffer;
use super::call::{Call, hook, tuple_of};
use super::lookup::{self, Place, Use};
use super::os::{Kind, kind, read_some, wait_readable, write_all};
use super::slot::{Hook, Owner};
use super::{disk, fifo};
use crate::jobs::{self, Lane};
use crate::object::{Obj, PyResult, check, clear_error, runtime_error};

const FILE: Owner = Owner::Type(c"_io", c"FileIO");

/// How much `readall` asks for at a time.
const CHUNK: usize = 64 * 1024;

/// The descriptor, -1 for a closed file, of which the original complains.
///
/// It is the first field of the C struct behind `FileIO` (`fileio` in `Modules/_io/fileio.c`), as [`self_check`] makes sure.
fn descriptor(file: *mut PyObject) -> i32 {
    // SAFETY: a method of `FileIO` is called with an instance of it, whose first field follows the header.
    unsafe { file.cast::<u8>().add(std::mem::size_of::<PyObject>()).cast::<i32>().read() }
}

/// Compares the place of the descriptor with what a file says of itself.
///
/// # Errors
/// `RuntimeError` if they differ; what opening a file may raise.
pub(super) fn self_check() -> PyResult<()> {
    let file = FILE.object()?.call([&Obj::str("/dev/null")?])?;
    let known = file.attr(c"fileno")?.call([])?.to_i64()?;
    let fits = FILE.object()?.attr(c"__basicsize__")?.to_i64()? as usize >= std::mem::size_of::<PyObject>() + 4;
    let matches = fits && i64::from(descriptor(file.ptr())) == known;
    file.attr(c"close")?.call([])?;
    let closed = descriptor(file.ptr()) == -1;
    if matches && closed {
        return Ok(());
    }
    Err(runtime_error("cannot hook: file objects of this interpreter are laid out in a way that lissom does not know"))
}

/// Whether the file was opened for reading or writing; if not, the original complains.
fn allows(call: &Call, question: &std::ffi::CStr) -> PyResult<bool> {
    FILE.object()?.attr(question)?.call([&Obj::borrowed(call.slf)])?.truth()
}

/// What the original takes at once, once there is something; at most `length` bytes.
fn once_readable(call: &Call, name: &std::ffi::CStr) -> PyResult<Obj> {
    let fd = descriptor(call.slf);
    if kind(fd) == Kind::Plain {
        return if disk::needs_thread(fd) { aside(call, name) } else { call.original() };
    }
    if allows(call, c"readable")? {
        wait_readable(call.runtime, fd)?;
    }
    call.original()
}

/// Calls the method `name` of `FileIO`, not of a class derived from it, in a blocking thread.
fn aside(call: &Call, name: &std::ffi::CStr) -> PyResult<Obj> {
    let (args, kwargs) = call.packed()?;
    // SAFETY: two tuples.
    let args = Obj::owned(unsafe { ffi::PySequence_Concat(tuple_of(&[call.slf])?.ptr(), args.ptr()) })?;
    jobs::call(call.runtime, Lane::Disk, FILE.object()?.attr(name)?, args, kwargs)
}

/// `readinto(buffer)`.
fn readinto(call: &Call) -> PyResult<Obj> {
    let fd = descriptor(call.slf);
    let (0.., Some(target)) = (fd, call.arg(0)) else { return call.original() };
    let Ok(buffer) = Buffer::writable(target) else {
        clear_error();
        return call.original();
    };
    if buffer.len() == 0 {
        drop(buffer);
        return call.original();
    }
    match disk::read(call.runtime, fd, buffer.ptr(), buffer.len(), None)? {
        Some(got) => Obj::int(got as i64),
        None => {
            drop(buffer);
            once_readable(call, c"readinto")
        }
    }
}

/// `read(size=-1)`: without a size it is `readall`.
fn read(call: &Call) -> PyResult<Obj> {
    let size = match call.arg(0) {
        None => -1,
        // SAFETY: valid references.
        Some(size) if unsafe { size == ffi::Py_None() } => -1,
        // SAFETY: as above.
        Some(size) if unsafe { ffi::PyLong_Check(size) != 0 } => unsafe { ffi::PyLong_AsLongLong(size) },
        Some(_) => 0,
    };
    clear_error();
    let fd = descriptor(call.slf);
    match size {
        _ if fd < 0 => call.original(),
        ..0 => readall(call),
        0 => call.original(),
        _ => match disk::read_bytes(call.runtime, fd, size as usize, None)? {
            Some(bytes) => Ok(bytes),
            None => once_readable(call, c"read"),
        },
    }
}

/// How much there is from the current position of a regular file to its end, at this moment.
fn rest_of(fd: i32) -> usize {
    // SAFETY: plain bytes, written by the call.
    let mut status: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: plain system calls; errors mean nothing is known.
    let (known, position) = unsafe { (libc::fstat(fd, &mut status) == 0, libc::lseek(fd, 0, libc::SEEK_CUR)) };
    let rest = if known && position >= 0 { status.st_size - position } else { 0 };
    usize::try_from(rest).unwrap_or(0)
}

/// `readall()`: to the end of the stream.
fn readall(call: &Call) -> PyResult<Obj> {
    let fd = descriptor(call.slf);
    if fd < 0 || !allows(call, c"readable")? {
        return call.original();
    }
    if disk::is_regular(fd) {
        return rest_of_file(call, fd);
    }
    let kind = kind(fd);
    if kind == Kind::Plain {
        return call.original();
    }
    join(|| read_some(call.runtime, fd, &kind, CHUNK))
}

/// All of a regular file, which may grow meanwhile: one piece that takes what there is and sees the end, then more.
fn rest_of_file(call: &Call, fd: i32) -> PyResult<Obj> {
    let expected = rest_of(fd);
    let Some(first) = disk::read_bytes(call.runtime, fd, expected + 1, None)? else {
        return if disk::needs_thread(fd) { aside(call, c"readall") } else { call.original() };
    };
    // SAFETY: a bytes object.
    if unsafe { ffi::PyBytes_Size(first.ptr()) } as usize <= expected {
        return Ok(first);
    }
    let mut first = Some(first);
    join(|| match first.take() {
        Some(first) => Ok(first),
        None => disk::read_bytes(call.runtime, fd, CHUNK, None)?.map_or_else(|| Obj::bytes(b""), Ok),
    })
}

/// Joins the pieces that come until there are no more.
fn join(mut next: impl FnMut() -> PyResult<Obj>) -> PyResult<Obj> {
    // SAFETY: the GIL is held.
    let parts = Obj::owned(unsafe { ffi::PyList_New(0) })?;
    loop {
        let part = next()?;
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
    let fd = descriptor(call.slf);
    let (0.., Some(data)) = (fd, call.arg(0)) else { return call.original() };
    let kind = kind(fd);
    if kind == Kind::Plain {
        return if disk::writes_through(fd) { aside(call, c"write") } else { call.original() };
    }
    if !allows(call, c"writable")? {
        return call.original();
    }
    let Ok(buffer) = Buffer::readable(data) else {
        clear_error();
        return call.original();
    };
    Obj::int(write_all(call.runtime, fd, &kind, &buffer)? as i64)
}

/// `open(file, ...)`: the path is asked for before the original opens it; a FIFO waits for its other end.
fn open(call: &Call) -> PyResult<Obj> {
    if let Some(place) = call.named(0, "file").and_then(|path| Place::of(path, None))
        && lookup::warm(call.runtime, &place, Use::Open)? == lookup::Found::Fifo
    {
        return fifo::open(call, Obj::import(c"_io")?.attr(c"open")?, place);
    }
    call.original()
}

pub(super) fn table() -> Vec<Hook> {
    vec![
        hook!(FILE, c"read", read).costs(1),
        hook!(FILE, c"readinto", readinto).costs(1),
        hook!(FILE, c"readall", readall).costs(1),
        hook!(FILE, c"write", write).costs(1),
        hook!(Owner::Module(c"_io"), c"open", open),
    ]
}
