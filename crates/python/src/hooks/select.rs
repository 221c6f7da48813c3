//! `select.select`, `select.poll` and `select.epoll`.
//!
//! Each is asked with a timeout of zero; if nothing is ready, the tasklet waits for one of the descriptors and asks again.
//! The originals' own look is level-triggered, and so is every wait here: descriptors are registered afresh each time,
//! as nobody says when they are closed.

use std::collections::HashSet;

use lissom_proactor::Interest;
use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use super::call::{Call, hook};
use super::slot::{Hook, Owner};
use crate::args::given;
use crate::object::{Obj, PyResult, Raised, check, clear_error, error_is_set, runtime_error};
use crate::runtime::{Runtime, deadline_in, now};
use crate::tasklet::Why;
use crate::world::{GilCell, Wake};

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
    // The originals count milliseconds in a C int, and raise beyond.
    (number > 0.0 && number * unit <= f64::from(i32::MAX) * 1e6)
        .then(|| Some(deadline_in((number * unit).ceil() as u64)))
}

fn is_negative(number: &Obj) -> bool {
    // SAFETY: a valid reference.
    let negative = unsafe { ffi::PyFloat_AsDouble(number.ptr()) } < 0.0;
    // What is no number is judged later.
    clear_error();
    negative
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

/// One list of `select`: the objects, and their descriptors.
struct Watched {
    objects: Vec<(Obj, i32)>,
    /// The same descriptors, as numbers that the original need not ask the objects for.
    numbers: Obj,
}

impl Watched {
    /// Walks the sequence as the original does: `fileno()` is called once per object and may change the list.
    fn of(list: *mut PyObject) -> PyResult<Option<Watched>> {
        // SAFETY: a valid argument and a text.
        let Ok(sequence) = Obj::owned(unsafe { ffi::PySequence_Fast(list, c"not a sequence".as_ptr()) }) else {
            clear_error();
            return Ok(None);
        };
        // SAFETY: the GIL is held.
        let numbers = Obj::owned(unsafe { ffi::PyList_New(0) })?;
        let mut objects = Vec::new();
        // SAFETY: a list or tuple, whose size is read again each time.
        while (objects.len() as isize) < unsafe { ffi::PySequence_Size(sequence.ptr()) } {
            // SAFETY: within the sequence, as just seen.
            let object = Obj::owned(unsafe { ffi::PySequence_GetItem(sequence.ptr(), objects.len() as isize) })?;
            // SAFETY: a valid reference.
            let fd = unsafe { ffi::PyObject_AsFileDescriptor(object.ptr()) };
            if fd < 0 {
                return Err(Raised);
            }
            let number = Obj::int(i64::from(fd))?;
            // SAFETY: valid references.
            check(unsafe { ffi::PyList_Append(numbers.ptr(), number.ptr()) })?;
            objects.push((object, fd));
        }
        Ok(Some(Watched { objects, numbers }))
    }

    /// The objects whose descriptors are in `ready`, a list of numbers in the order of the objects.
    fn among(&self, ready: *mut PyObject) -> PyResult<Obj> {
        // SAFETY: the GIL is held.
        let found = Obj::owned(unsafe { ffi::PyList_New(0) })?;
        let mut rest = self.objects.iter();
        // SAFETY: a list of numbers; borrowed items.
        for index in 0..unsafe { ffi::PyList_Size(ready) } {
            // SAFETY: as above.
            let fd = Obj::borrowed(unsafe { ffi::PyList_GetItem(ready, index) }).to_i64()?;
            if let Some((object, _)) = rest.find(|(_, own)| i64::from(*own) == fd) {
                // SAFETY: valid references.
                check(unsafe { ffi::PyList_Append(found.ptr(), object.ptr()) })?;
            }
        }
        Ok(found)
    }
}

/// `select(rlist, wlist, xlist, timeout=None)`.
fn select(call: &Call) -> PyResult<Obj> {
    let (Some(read), Some(write), Some(except)) = (call.arg(0), call.arg(1), call.arg(2)) else {
        return call.original();
    };
    if given(call.arg(3)).is_some_and(|timeout| is_negative(&timeout)) {
        return call.original();
    }
    let Some(deadline) = patience(call.arg(3), 1e9) else { return call.original() };
    let mut watched = Vec::with_capacity(3);
    let mut fds = Vec::new();
    for (list, interest) in [(read, Interest::READ), (write, Interest::WRITE), (except, Interest::PRIORITY)] {
        let Some(one) = Watched::of(list)? else { return call.original() };
        fds.extend(one.objects.iter().map(|&(_, fd)| (fd, interest)));
        watched.push(one);
    }
    let zero = Obj::int(0)?;
    let values = [watched[0].numbers.ptr(), watched[1].numbers.ptr(), watched[2].numbers.ptr(), zero.ptr()];
    // SAFETY: the original returns a tuple of three lists; borrowed.
    let part = |result: &Obj, index| unsafe { ffi::PyTuple_GetItem(result.ptr(), index) };
    let found = |result: &Obj| {
        let filled = |index| is_filled(&Obj::borrowed(part(result, index)));
        Ok(filled(0)? || filled(1)? || filled(2)?)
    };
    let result = until_found(call.runtime, deadline, &fds, || call.original_with(&values), found)?;
    Obj::tuple([
        watched[0].among(part(&result, 0))?,
        watched[1].among(part(&result, 1))?,
        watched[2].among(part(&result, 2))?,
    ])
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
    let is_dict = !before.is_null() && (before as usize).is_multiple_of(8) && unsafe { ffi::PyDict_Check(before) } != 0;
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

/// Poll objects in use: they serve one caller at a time, as the originals do.
static WAITED_ON: GilCell<Option<HashSet<usize>>> = GilCell::new(None);

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
    if !WAITED_ON.get().get_or_insert_default().insert(call.slf as usize) {
        return Err(runtime_error("concurrent poll() invocation"));
    }
    let result = until_found(call.runtime, deadline, &fds, || call.original_with(&[zero.ptr()]), is_filled);
    WAITED_ON.get().get_or_insert_default().remove(&(call.slf as usize));
    result
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
    vec![
        hook!(MODULE, c"select", select).costs(8),
        hook!(POLL, c"poll", poll).costs(8),
        hook!(EPOLL, c"poll", epoll).costs(8),
    ]
}
