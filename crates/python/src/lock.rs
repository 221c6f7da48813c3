//! The Python type `lissom.Lock`: a lock that only the calling tasklet waits for, hooked or not.

use std::cell::Cell;

use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use crate::args::{Args, make_type, method, table};
use crate::object::{Obj, PyResult, Raised, boundary, error_is_set, runtime_error, value_error};
use crate::runtime::{Runtime, deadline_in};
use crate::waiters;

/// The object behind `Lock`; the allocator zeroes it.
#[repr(C)]
struct Lock {
    ob_base: PyObject,
    weakrefs: *mut PyObject,
    locked: Cell<bool>,
}

/// The longest timeout, in seconds, as for `threading.Lock`.
const LONGEST: f64 = 9_223_372_036.0;

fn of(slf: *mut PyObject) -> &'static Lock {
    // SAFETY: the interpreter calls methods of the type with instances only; borrowed for the time of the call.
    unsafe { &*slf.cast::<Lock>() }
}

/// Reads `acquire(blocking=True, timeout=-1)`: `None` for not at all, `Some(None)` for ever.
fn patience(args: &Args) -> PyResult<Option<Option<u64>>> {
    let [blocking, timeout] = args.bind("acquire", ["blocking", "timeout"], 0)?;
    let blocking = blocking.map_or(Ok(true), |blocking| Obj::borrowed(blocking).truth())?;
    // SAFETY: a valid argument.
    let timeout = timeout.map_or(-1.0, |timeout| unsafe { ffi::PyFloat_AsDouble(timeout) });
    if error_is_set() {
        return Err(Raised);
    }
    match (blocking, timeout) {
        (false, -1.0) => Ok(None),
        (false, _) => Err(value_error("can't specify a timeout for a non-blocking call")),
        (true, -1.0) => Ok(Some(None)),
        (true, timeout) if timeout.is_nan() || timeout < 0.0 => {
            Err(value_error("timeout value must be a non-negative number"))
        }
        (true, timeout) if timeout > LONGEST => {
            // SAFETY: the interpreter keeps its exception classes for ever.
            Err(crate::object::raise(unsafe { ffi::PyExc_OverflowError }, "timeout value is too large"))
        }
        (true, timeout) => Ok(Some(Some((timeout * 1e9).ceil() as u64))),
    }
}

fn take(slf: *mut PyObject, patience: Option<Option<u64>>) -> PyResult<bool> {
    let lock = of(slf);
    if !lock.locked.replace(true) {
        return Ok(true);
    }
    let Some(timeout) = patience else { return Ok(false) };
    if timeout == Some(0) {
        return Ok(false);
    }
    // Whoever releases hands the lock over: it stays locked, and nobody can come in between.
    waiters::wait_once(Runtime::get()?, slf, timeout.map(deadline_in), || lock.locked.set(false))
}

fn acquire(args: Args) -> PyResult<Obj> {
    take(args.slf(), patience(&args)?).map(Obj::bool)
}

fn give(slf: *mut PyObject) -> PyResult<Obj> {
    if !of(slf).locked.get() {
        return Err(runtime_error("release unlocked lock"));
    }
    if waiters::wake_some(slf, 1) == 0 {
        of(slf).locked.set(false);
    }
    Ok(Obj::none())
}

fn release(args: Args) -> PyResult<Obj> {
    args.none("release")?;
    give(args.slf())
}

fn locked(args: Args) -> PyResult<Obj> {
    args.none("locked")?;
    Ok(Obj::bool(of(args.slf()).locked.get()))
}

fn enter(args: Args) -> PyResult<Obj> {
    args.none("__enter__")?;
    take(args.slf(), Some(None)).map(Obj::bool)
}

fn exit(args: Args) -> PyResult<Obj> {
    give(args.slf())
}

fn reinit(args: Args) -> PyResult<Obj> {
    args.none("_at_fork_reinit")?;
    of(args.slf()).locked.set(false);
    Ok(Obj::none())
}

unsafe extern "C" fn slot_repr(slf: *mut PyObject) -> *mut PyObject {
    let state = if of(slf).locked.get() { "locked" } else { "unlocked" };
    boundary(|| Obj::str(&format!("<{state} lissom.Lock object at {slf:p}>")))
}

unsafe extern "C" fn slot_dealloc(slf: *mut PyObject) {
    // SAFETY: the interpreter's protocol for a heap type: weak references, free, type.
    unsafe {
        if !(*slf.cast::<Lock>()).weakrefs.is_null() {
            ffi::PyObject_ClearWeakRefs(slf);
        }
        let kind = ffi::Py_TYPE(slf);
        if let Some(free) = (*kind).tp_free {
            free(slf.cast());
        }
        ffi::Py_DECREF(kind.cast());
    }
}

/// Makes the type.
///
/// # Errors
/// `MemoryError`.
pub(crate) fn define() -> PyResult<Obj> {
    let methods = table(
        vec![
            method!(
                c"acquire",
                acquire,
                c"acquire($self, blocking=True, timeout=-1)\n--\n\n\
                Take the lock; wait for it if need be, at most ``timeout`` seconds, -1 for ever.\n\n\
                Switches if it waits. Those who wait get the lock in the order in which they came.\n\n\
                Returns whether the lock was taken, a bool. Raises ValueError or OverflowError for a timeout\n\
                out of range or with ``blocking=False``. If an exception is thrown into the waiting caller, the\n\
                lock is not taken. As ``threading.Lock``."
            ),
            method!(
                c"release",
                release,
                c"release($self)\n--\n\n\
                Give the lock to whoever waits longest, or leave it free.\n\n\
                Never switches. Any tasklet may call it, of any thread. Returns None. Raises RuntimeError if the\n\
                lock is free. As ``threading.Lock``."
            ),
            method!(c"locked", locked, c"locked($self)\n--\n\nReturn whether the lock is taken, a bool."),
            method!(c"__enter__", enter, c"__enter__($self)\n--\n\nTake the lock. As `acquire`."),
            method!(c"__exit__", exit, c"__exit__($self, *exc_info)\n--\n\nGive the lock back. As `release`."),
            method!(c"_at_fork_reinit", reinit, c"_at_fork_reinit($self)\n--\n\n"),
        ],
        ffi::PyMethodDef::zeroed(),
    );
    let members = table(
        vec![ffi::PyMemberDef {
            name: c"__weaklistoffset__".as_ptr(),
            type_code: ffi::Py_T_PYSSIZET,
            offset: std::mem::offset_of!(Lock, weakrefs) as isize,
            flags: ffi::Py_READONLY,
            doc: std::ptr::null(),
        }],
        // SAFETY: the all-zero entry ends the table.
        unsafe { std::mem::zeroed() },
    );
    let doc = c"Lock()\n--\n\n\
        A lock that only the calling tasklet waits for, whether the standard library is hooked or not.\n\n\
        It works between tasklets of several OS threads. Used and documented as ``threading.Lock``, with one\n\
        promise more: first come, first served.";
    let slot = |slot: i32, pfunc: *mut std::ffi::c_void| ffi::PyType_Slot { slot, pfunc };
    let slots = vec![
        slot(ffi::Py_tp_dealloc, slot_dealloc as *mut _),
        slot(ffi::Py_tp_repr, slot_repr as *mut _),
        slot(ffi::Py_tp_methods, methods.cast()),
        slot(ffi::Py_tp_members, members.cast()),
        slot(ffi::Py_tp_doc, doc.as_ptr().cast_mut().cast()),
    ];
    make_type(c"lissom.Lock", size_of::<Lock>(), ffi::Py_TPFLAGS_DEFAULT, slots)
}
