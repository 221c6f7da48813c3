//! Functions of `os` that take a path: the disk is asked for what is not in memory before the original is called (lookup.rs).

use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use super::call::{Call, hook};
use super::fifo;
use super::lookup::{self, Place, Use};
use super::slot::{Hook, Owner};
use super::socket::integer;
use crate::object::{Obj, PyResult};

const MODULE: Owner = Owner::Module(c"posix");

/// The path in argument number `index`, relative to the folder in the argument `dir_fd`.
fn place(call: &Call, index: usize, name: &str, dir_fd: &str) -> Option<Place> {
    Place::of(call.named(index, name)?, call.named(usize::MAX, dir_fd))
}

/// `stat(path)` and its kin: the original finds in memory what it asks for.
fn with_path(call: &Call) -> PyResult<Obj> {
    // SAFETY: the interpreter keeps the object for ever.
    let stays = call.named(usize::MAX, "follow_symlinks").is_some_and(|follow| follow == unsafe { ffi::Py_False() });
    warmed(call, if stays { Use::Link } else { Use::Target })
}

/// `lstat(path)` and its kin, which do not follow a link at the end.
fn with_link(call: &Call) -> PyResult<Obj> {
    warmed(call, Use::Link)
}

fn warmed(call: &Call, purpose: Use) -> PyResult<Obj> {
    if let Some(place) = place(call, 0, "path", "dir_fd") {
        lookup::warm(call.runtime, &place, purpose)?;
    }
    call.original()
}

/// `DirEntry.stat(follow_symlinks=True)`.
fn entry_stat(call: &Call) -> PyResult<Obj> {
    // SAFETY: the interpreter keeps the object for ever.
    let stays = call.named(usize::MAX, "follow_symlinks").is_some_and(|follow| follow == unsafe { ffi::Py_False() });
    let path = Obj::borrowed(call.slf).attr(c"path")?;
    if let Some(place) = Place::of(path.ptr(), None) {
        lookup::warm(call.runtime, &place, if stays { Use::Link } else { Use::Target })?;
    }
    call.original()
}

/// `rename(src, dst)` and its kin.
fn with_two_paths(call: &Call) -> PyResult<Obj> {
    for (index, name, dir_fd) in [(0, "src", "src_dir_fd"), (1, "dst", "dst_dir_fd")] {
        if let Some(place) = place(call, index, name, dir_fd) {
            lookup::warm(call.runtime, &place, Use::Link)?;
        }
    }
    lookup::forget_paths();
    call.original()
}

/// What changes where paths lead to.
fn changing(call: &Call) -> PyResult<Obj> {
    lookup::forget_paths();
    call.original()
}

/// The same on a thread without a scheduler.
fn changes(_: *mut PyObject, _: *mut PyObject) {
    lookup::forget_paths();
}

/// `listdir(path)`, `scandir(path)`.
fn with_folder(call: &Call) -> PyResult<Obj> {
    if let Some(place) = call.named(0, "path").and_then(|path| Place::of(path, None)) {
        lookup::warm_folder(call.runtime, place)?;
    }
    call.original()
}

/// `open(path, flags, mode)`: opening a FIFO waits for its other end.
fn open(call: &Call) -> PyResult<Obj> {
    let Some(place) = place(call, 0, "path", "dir_fd") else { return call.original() };
    let flags = integer(call.named(1, "flags"), 0).unwrap_or(0) as i32;
    let at_once = libc::O_NONBLOCK | libc::O_PATH;
    if lookup::warm(call.runtime, &place, Use::Open)? == lookup::Found::Fifo && flags & at_once == 0 {
        return fifo::open(call, Obj::import(c"posix")?.attr(c"open")?, place);
    }
    call.original()
}

pub(super) fn table() -> Vec<Hook> {
    vec![
        hook!(MODULE, c"open", open),
        hook!(MODULE, c"stat", with_path),
        hook!(MODULE, c"lstat", with_link),
        hook!(MODULE, c"access", with_path),
        hook!(MODULE, c"statvfs", with_path),
        hook!(MODULE, c"readlink", with_link),
        hook!(MODULE, c"unlink", with_link),
        hook!(MODULE, c"remove", with_link),
        hook!(MODULE, c"rmdir", with_link),
        hook!(MODULE, c"mkdir", with_link),
        hook!(MODULE, c"truncate", with_path),
        hook!(MODULE, c"chmod", with_path),
        hook!(MODULE, c"utime", with_path),
        hook!(MODULE, c"rename", with_two_paths).noticed_by(changes),
        hook!(MODULE, c"replace", with_two_paths).noticed_by(changes),
        hook!(MODULE, c"link", with_two_paths).noticed_by(changes),
        hook!(MODULE, c"symlink", changing).noticed_by(changes),
        hook!(MODULE, c"mkfifo", changing).noticed_by(changes),
        hook!(MODULE, c"mknod", changing).noticed_by(changes),
        hook!(MODULE, c"chdir", changing).noticed_by(changes),
        hook!(MODULE, c"fchdir", changing).noticed_by(changes),
        hook!(MODULE, c"listdir", with_folder),
        hook!(MODULE, c"scandir", with_folder),
        hook!(Owner::Type(c"posix", c"DirEntry"), c"stat", entry_stat),
    ]
}
