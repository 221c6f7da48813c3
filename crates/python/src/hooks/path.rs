//! Functions of `os` that take a path: the disk is asked for what is not in memory before the original is called (disk.rs).

use super::call::{Call, hook};
use super::slot::{Hook, Owner};
use super::socket::integer;
use super::{disk, fifo};
use crate::object::{Obj, PyResult};

const MODULE: Owner = Owner::Module(c"posix");

/// Whether a path is relative to the current folder; else only the original knows what to.
fn is_simple(call: &Call, dir_fd: &str) -> bool {
    call.named(usize::MAX, dir_fd).is_none_or(|dir| dir == Obj::none().ptr())
}

/// `stat(path)` and its kin: the original finds in memory what it asks for.
fn with_path(call: &Call) -> PyResult<Obj> {
    if let Some(path) = call.named(0, "path").filter(|_| is_simple(call, "dir_fd")).and_then(disk::path) {
        disk::warm(call.runtime, &path)?;
    }
    call.original()
}

/// `rename(src, dst)` and its kin.
fn with_two_paths(call: &Call) -> PyResult<Obj> {
    for (index, name, dir_fd) in [(0, "src", "src_dir_fd"), (1, "dst", "dst_dir_fd")] {
        if let Some(path) = call.named(index, name).filter(|_| is_simple(call, dir_fd)).and_then(disk::path) {
            disk::warm(call.runtime, &path)?;
        }
    }
    call.original()
}

/// `listdir(path)`, `scandir(path)`.
fn with_folder(call: &Call) -> PyResult<Obj> {
    if let Some(path) = call.named(0, "path").and_then(disk::path) {
        disk::warm_folder(call.runtime, &path)?;
    }
    call.original()
}

/// `open(path, flags, mode)`: opening a FIFO waits for its other end.
fn open(call: &Call) -> PyResult<Obj> {
    let Some(path) = call.named(0, "path").filter(|_| is_simple(call, "dir_fd")).and_then(disk::path) else {
        return call.original();
    };
    let flags = integer(call.named(1, "flags"), 0).unwrap_or(0) as i32;
    let at_once = libc::O_NONBLOCK | libc::O_PATH;
    if disk::warm(call.runtime, &path)? == disk::Found::Fifo && flags & at_once == 0 {
        return fifo::open(call, Obj::import(c"posix")?.attr(c"open")?, &path);
    }
    call.original()
}

pub(super) fn table() -> Vec<Hook> {
    vec![
        hook!(MODULE, c"open", open),
        hook!(MODULE, c"stat", with_path),
        hook!(MODULE, c"lstat", with_path),
        hook!(MODULE, c"access", with_path),
        hook!(MODULE, c"statvfs", with_path),
        hook!(MODULE, c"readlink", with_path),
        hook!(MODULE, c"unlink", with_path),
        hook!(MODULE, c"remove", with_path),
        hook!(MODULE, c"rmdir", with_path),
        hook!(MODULE, c"mkdir", with_path),
        hook!(MODULE, c"truncate", with_path),
        hook!(MODULE, c"chmod", with_path),
        hook!(MODULE, c"utime", with_path),
        hook!(MODULE, c"rename", with_two_paths),
        hook!(MODULE, c"replace", with_two_paths),
        hook!(MODULE, c"link", with_two_paths),
        hook!(MODULE, c"listdir", with_folder),
        hook!(MODULE, c"scandir", with_folder),
    ]
}
