//! `select.select`, `select.poll` and `select.epoll`.
//!
//! Each is asked with a timeout of zero; if nothing is ready, the tasklet waits for one of the descriptors and asks again.
//! The originals' own look is level-triggered, and so is every wait here: descriptors are registered afresh each time,
//! as nobody says when they are closed.

use lissom_proactor::Interest;
use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use super::call::{Call, hook};
use super::slot::{Hook, Owner};
use crate::args::given;
use crate::object::{Obj, PyResult, Raised, clear_error, error_is_set, runtime_error};
use crate::runtime::{Runtime, deadline_in, now};
use crate::tasklet::Why;
use crate::world::Wake;

const MODULE: Owner = Owner::Module(c"select");
const POLL: Owner = Owner::TypeOf(c"select", c"poll");
const EPOLL: Owner = Owner::Type(c"select", c"epoll");

/// How long a call may wait: `None` for ever. The outer `None` is for what the original has to judge: not at all, or
/// no valid number.
fn patience(timeout: Option<*mut PyObject>, unit: f64) -> Option<Option<u64>> {
    let Some(timeout) = given(timeout) else { return Some(None) };
    // SAFETY: a valid reference.
    let number = unsafe { ffi::PyFloat_AsDouble(timeout.ptr()) };
    if error_is_set() {
        clear_error();
        return None;
    }
    if number < 0.0 {
        return Some(None);
    }
    (number > 0.0 && number * unit <= 9.0e18).then(|| Some(deadline_in((number * unit).ceil() as u64)))
}

/// Repeats `attempt`, which looks without waiting, until it has found something or the time is over.
fn until_found(
    runtime: &Runtime,
    deadline: Option<u64>,
    fds: &[(i32, Interest)],
    mut attempt: impl FnMut() -> PyResult<Obj>,
    found: impl Fn(&Obj) -> PyResult<bool>,
) -> PyResult<Obj> {
    loop {
        let result = attempt()?;
        if found(&result)? || deadline.is_some_and(|deadline| deadline <= now()) {
            return Ok(result);
        }
        drop(result);
        let wake = if fds.is_empty() {
            runtime.me().begin_wait();
            runtime.park(Why::Sleep, deadline)?
        } else {
            runtime.wait_any(fds, deadline)?
        };
        if wake == Wake::Deadline {
            return attempt();
        }
    }
}

fn is_filled(list: &Obj) -> PyResult<bool> {
    // SAFETY: a list.
    Ok(unsafe { ffi::PyList_Size(list.ptr()) } > 0)
}

/// `select(rlist, wlist, xlist, timeout=None)`.
fn select(call: &Call) -> PyResult<Obj> {
    let (Some(read), Some(write), Some(except)) = (call.arg(0), call.arg(1), call.arg(2)) else { return call.original() };
    let Some(deadline) = patience(call.arg(3), 1e9) else { return call.original() };
    // The sequences are taken apart once: they may be iterators.
    let mut lists = Vec::new();
    let mut fds = Vec::new();
    for (list, interest) in [(read, Interest::READ), (write, Interest::WRITE), (except, Interest::PRIORITY)] {
        // SAFETY: a valid argument.
        let Ok(sequence) = Obj::owned(unsafe { ffi::PySequence_List(list) }) else {
            clear_error();
            return call.original();
        };
        // SAFETY: a list; items are borrowed while it is held.
        for index in 0..unsafe { ffi::PyList_Size(sequence.ptr()) } {
            // SAFETY: within the list.
            let fd = unsafe { ffi::PyObject_AsFileDescriptor(ffi::PyList_GetItem(sequence.ptr(), index)) };
            if fd < 0 {
                return Err(Raised);
            }
            fds.push((fd, interest));
        }
        lists.push(sequence);
    }
    let zero = Obj::int(0)?;
    let values = [lists[0].ptr(), lists[1].ptr(), lists[2].ptr(), zero.ptr()];
    let found = |result: &Obj| {
        for index in 0..3 {
            // SAFETY: a tuple of three lists.
            if is_filled(&Obj::borrowed(unsafe { ffi::PyTuple_GetItem(result.ptr(), index) }))? {
                return Ok(true);
            }
        }
        Ok(false)
    };
    until_found(call.runtime, deadline, &fds, || call.original_with(&values), found)
}

/// The dict of a poll object, descriptor to events: the first field behind the object header.
///
/// # Safety
/// `poll` is a `select.poll` object.
unsafe fn registered(poll: *mut PyObject) -> *mut PyObject {
    // SAFETY: `self_check` has verified the place.
    unsafe { poll.cast::<u8>().add(size_of::<PyObject>()).cast::<*mut PyObject>().read() }
}

/// Checks where poll objects keep their descriptors.
///
/// # Errors
/// `RuntimeError` if it is not where it was in all versions so far.
pub(super) fn self_check() -> PyResult<()> {
    let poll = Obj::import(c"select")?.attr(c"poll")?.call([])?;
    // SAFETY: a poll object has at least one field; whatever lies there is compared with what must be there.
    let before = unsafe { registered(poll.ptr()) };
    // SAFETY: if it is an object at all, it is a dict: the pointer is compared with the heap's alignment first.
    let is_dict = !before.is_null() && before as usize % 8 == 0 && unsafe { ffi::PyDict_Check(before) } != 0;
    if is_dict {
        poll.attr(c"register")?.call([&Obj::int(0)?])?;
        // SAFETY: a dict, as just checked.
        if unsafe { ffi::PyDict_Size(before) } == 1 {
            return Ok(());
        }
    }
    Err(runtime_error("cannot hook: poll objects of this interpreter are laid out in a way that lissom does not know"))
}

fn interest_of(events: i64) -> Interest {
    let readable = events & i64::from(libc::POLLIN | libc::POLLRDNORM | libc::POLLRDHUP) != 0;
    let writable = events & i64::from(libc::POLLOUT | libc::POLLWRNORM) != 0;
    match (readable, writable) {
        (true, true) => Interest::READ | Interest::WRITE,
        (true, false) => Interest::READ,
        (false, true) => Interest::WRITE,
        // Errors and hang-ups alone.
        (false, false) => Interest::PRIORITY,
    }
}

/// `poll.poll(timeout=None)`, in milliseconds.
fn poll(call: &Call) -> PyResult<Obj> {
    let Some(deadline) = patience(call.arg(0), 1e6) else { return call.original() };
    let mut fds = Vec::new();
    let (mut place, mut key, mut value) = (0, std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: a poll object and its dict of integers; borrowed items, read before anything else runs.
    unsafe {
        let dict = registered(call.slf);
        while ffi::PyDict_Next(dict, &mut place, &mut key, &mut value) != 0 {
            let (fd, events) = (ffi::PyLong_AsLong(key), ffi::PyLong_AsLong(value));
            fds.push((fd as i32, interest_of(events)));
        }
    }
    let zero = Obj::int(0)?;
    until_found(call.runtime, deadline, &fds, || call.original_with(&[zero.ptr()]), is_filled)
}

/// `epoll.poll(timeout=None, maxevents=-1)`, in seconds.
fn epoll(call: &Call) -> PyResult<Obj> {
    let Some(deadline) = patience(call.named(0, "timeout"), 1e9) else { return call.original() };
    let fileno = Obj::borrowed(call.slf).attr(c"fileno")?.call([]);
    let Ok(fd) = fileno.and_then(|fd| fd.to_i64()) else {
        clear_error();
        return call.original();
    };
    let zero = Obj::int(0)?;
    let limit = call.named(1, "maxevents").map_or_else(|| Obj::int(-1), |limit| Ok(Obj::borrowed(limit)))?;
    let fds = [(fd as i32, Interest::READ)];
    until_found(call.runtime, deadline, &fds, || call.original_with(&[zero.ptr(), limit.ptr()]), is_filled)
}

pub(super) fn table() -> Vec<Hook> {
    vec![hook!(MODULE, c"select", select), hook!(POLL, c"poll", poll), hook!(EPOLL, c"poll", epoll)]
}
