//! Paths: `openat2` with `RESOLVE_CACHED` says whether the kernel would have to ask the disk for a part of one. If so, the
//! driver asks first, and the original then finds all of it in memory.

use std::ffi::CString;
use std::hash::{DefaultHasher, Hasher};
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStringExt;
use std::sync::atomic::{AtomicBool, Ordering};

use lissom_proactor::Op;
use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use super::socket::integer;
use crate::jobs::{self, Lane};
use crate::object::{Obj, PyResult, clear_error};
use crate::runtime::Runtime;
use crate::tasklet::Why;
use crate::world::GilCell;

/// Cleared for good when the kernel (before 5.12) or a sandbox refuses `openat2` with `RESOLVE_CACHED`.
static KNOWS_CACHED: AtomicBool = AtomicBool::new(true);

/// What a path leads to, as far as memory tells.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Fifo,
    Other,
    /// An error.
    Nothing,
    /// The disk has to be asked.
    Cold,
}

/// What a call will do with a path.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// Ask about or change what it leads to.
    Target,
    /// The same without following a symbolic link at its end, whose target nobody must wait for.
    Link,
    /// Open it, which with a FIFO waits.
    Open,
}

/// A path, and the folder that it is relative to unless it is absolute.
pub(super) struct Place {
    folder: RawFd,
    path: CString,
}

impl Place {
    /// A path in an argument, relative to the folder in another; `None` for a descriptor, and for what the original will
    /// complain of.
    pub(super) fn of(path: *mut PyObject, folder: Option<*mut PyObject>) -> Option<Place> {
        let none = Obj::none();
        let folder = match folder.filter(|&folder| folder != none.ptr()) {
            None => libc::AT_FDCWD,
            Some(folder) => i32::try_from(integer(Some(folder), -1)?).ok()?,
        };
        Some(Place { folder, path: self::path(path)? })
    }

    /// A path from the current folder that leads there, as long as the descriptor is open.
    pub(super) fn into_path(self) -> CString {
        if self.folder == libc::AT_FDCWD || self.path.as_bytes().starts_with(b"/") {
            return self.path;
        }
        let mut path = format!("/proc/self/fd/{}/", self.folder).into_bytes();
        path.extend_from_slice(self.path.as_bytes());
        CString::new(path).expect("made of two strings without null bytes")
    }
}

/// How many paths are remembered, in a table without chains: a newer one takes the place.
const REMEMBERED: usize = 256;

/// For how long, in milliseconds.
const FRESH: i64 = 100;

/// Hashes of paths that were in memory and led to no FIFO, and when. A look costs as much as the
/// call that it is for, and what was in memory a moment ago is. Another process may put a FIFO there in that time; opening that blocks
/// the thread. What this process does to paths empties the table ([`forget_paths`]).
static SEEN: GilCell<[(u64, i64); REMEMBERED]> = GilCell::new([(0, i64::MIN / 2); REMEMBERED]);

fn milliseconds() -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: written by the call, which makes no system call for this clock (vdso(7)).
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &mut time) };
    time.tv_sec * 1000 + time.tv_nsec / 1_000_000
}

fn hash(place: &Place, purpose: Use) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write_u8(purpose as u8);
    hasher.write(place.path.as_bytes());
    hasher.finish()
}

/// Forgets what paths lead to, as the process changes that, or the folder that relative ones begin at.
pub(super) fn forget_paths() {
    *SEEN.get() = [(0, i64::MIN / 2); REMEMBERED];
}

/// As [`look_up`], unless this path was there a moment ago. Of folders by their descriptors, whose numbers are used again,
/// nothing is remembered.
fn find(place: &Place, purpose: Use) -> Found {
    if !KNOWS_CACHED.load(Ordering::Relaxed) {
        return if purpose == Use::Open { kind_of(place) } else { Found::Nothing };
    }
    if place.folder != libc::AT_FDCWD {
        return look_up(place, purpose);
    }
    let (hash, now) = (hash(place, purpose), milliseconds());
    let row = hash as usize % REMEMBERED;
    let (seen, when) = SEEN.get()[row];
    if seen == hash && now - when < FRESH {
        return Found::Other;
    }
    let found = look_up(place, purpose);
    if found == Found::Other {
        SEEN.get()[row] = (hash, now);
    }
    found
}

/// Asks the kernel what it has in memory of a path.
fn look_up(place: &Place, purpose: Use) -> Found {
    // SAFETY: plain words, for which zero is a value.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    // What is no folder fails with ENOTDIR once it is found: no descriptor to be closed.
    how.flags = (libc::O_PATH
        | libc::O_CLOEXEC
        | match purpose {
            Use::Target => libc::O_DIRECTORY,
            Use::Link => libc::O_DIRECTORY | libc::O_NOFOLLOW,
            Use::Open => 0,
        }) as u64;
    how.resolve = libc::RESOLVE_CACHED;
    let size = std::mem::size_of::<libc::open_how>();
    // SAFETY: a null-terminated path and a description of the given size.
    let fd = unsafe { libc::syscall(libc::SYS_openat2, place.folder, place.path.as_ptr(), &how, size) } as RawFd;
    if fd < 0 {
        return match std::io::Error::last_os_error().raw_os_error() {
            Some(libc::EAGAIN) => Found::Cold,
            Some(libc::ENOTDIR) if purpose != Use::Open => Found::Other,
            Some(libc::ENOSYS | libc::EINVAL | libc::EPERM) => {
                KNOWS_CACHED.store(false, Ordering::Relaxed);
                find(place, purpose)
            }
            // The original will say so.
            _ => Found::Nothing,
        };
    }
    // SAFETY: plain bytes, written by the call.
    let mut status: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: a plain system call on the descriptor that was just made.
    let known = purpose == Use::Open && unsafe { libc::fstat(fd, &mut status) == 0 };
    // SAFETY: nobody else knows the descriptor.
    unsafe { libc::close(fd) };
    if known && status.st_mode & libc::S_IFMT == libc::S_IFIFO { Found::Fifo } else { Found::Other }
}

/// What a path leads to, where nothing says whether the disk has to be asked: stat(2), for as long as it takes.
fn kind_of(place: &Place) -> Found {
    // SAFETY: plain bytes, written by the call.
    let mut status: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: a null-terminated path, and room for the result.
    let known = unsafe { libc::fstatat(place.folder, place.path.as_ptr(), &mut status, 0) == 0 };
    if known && status.st_mode & libc::S_IFMT == libc::S_IFIFO { Found::Fifo } else { Found::Nothing }
}

/// The path in an argument; `None` for a descriptor, and for what the original will complain of.
fn path(argument: *mut PyObject) -> Option<CString> {
    // SAFETY: valid references; the converter makes a new one.
    unsafe {
        if ffi::PyLong_Check(argument) != 0 {
            return None;
        }
        let mut bytes: *mut PyObject = std::ptr::null_mut();
        if ffi::PyUnicode_FSConverter(argument, (&raw mut bytes).cast()) == 0 {
            clear_error();
            return None;
        }
        let bytes = Obj::owned_or_none(bytes)?;
        let start = ffi::PyBytes_AsString(bytes.ptr());
        Some(std::ffi::CStr::from_ptr(start).to_owned())
    }
}

/// Has the disk asked for a folder and its entries if it is not in memory. The entries of one that is are not looked at:
/// nothing tells whether they are there, too, without reading them.
///
/// # Errors
/// What is thrown into the tasklet while it waits.
pub(super) fn warm_folder(runtime: &Runtime, place: Place) -> PyResult<()> {
    if find(&place, Use::Target) != Found::Cold {
        return Ok(());
    }
    let path = std::ffi::OsString::from_vec(place.path.into_bytes());
    // Errors are for the original to find.
    jobs::run(runtime, Lane::Disk, move || drop(std::fs::read_dir(path).map(Iterator::count)))
}

/// Has the disk asked for a path that is not in memory, so that the original need not wait for it.
///
/// # Errors
/// What is thrown into the tasklet while it waits.
pub(super) fn warm(runtime: &Runtime, place: &Place, purpose: Use) -> PyResult<Found> {
    let found = find(place, purpose);
    if found != Found::Cold {
        return Ok(found);
    }
    let flags = if purpose == Use::Link { libc::AT_SYMLINK_NOFOLLOW } else { 0 };
    let op = Op::Stat { dir: place.folder, path: place.path.clone(), flags, mask: libc::STATX_TYPE };
    let completion = runtime.carry(op, Why::Path)?;
    let mode = completion.stat.map_or(0, |stat| u32::from(stat.stx_mode));
    Ok(if mode & libc::S_IFMT == libc::S_IFIFO { Found::Fifo } else { Found::Other })
}
