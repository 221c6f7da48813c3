//! `_thread.RLock`, whose owner is a thread of the operating system for the interpreter but must be a tasklet here.
//!
//! While a tasklet owns the lock, the C lock is held once by the thread, and the table below says which tasklet it is
//! and how often. A lock that the thread holds but the table does not know was acquired before hooking: it belongs to the
//! main tasklet.

use std::cell::Cell;
use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use super::call::{Call, hook, in_main_interpreter};
use super::dealloc::{Original, Watched};
use super::lock::{Patience, patience, try_original};
use super::slot::{Hook, Owner};
use super::thread;
use crate::object::{Obj, PyResult, Raised, boundary, clear_error, runtime_error, utf8};
use crate::runtime::Runtime;
use crate::tasklet::Why;
use crate::waiters::{self, AddressHasher};
use crate::world::GilCell;

/// Who owns a lock, and how often; a count of 0 says that it is known to be free for all the thread knows.
#[derive(Clone, Copy)]
struct Held {
    owner: usize,
    count: u64,
}

const FREE: Held = Held { owner: 0, count: 0 };

type Table = HashMap<usize, Held, BuildHasherDefault<AddressHasher>>;

static TABLE: GilCell<Option<Table>> = GilCell::new(None);
static ORIGINAL: Original = Original::new();

const RLOCK: Owner = Owner::Type(c"_thread", c"RLock");

/// A lock that dies while it is held must not leave its owner to the next object at its address.
pub(super) const WATCHED: Watched = Watched { owner: RLOCK, dealloc, original: &ORIGINAL };

unsafe extern "C" fn dealloc(slf: *mut PyObject) {
    with(|table| table.remove(&(slf as usize)));
    // SAFETY: called by the interpreter as the deallocator.
    unsafe { ORIGINAL.call(slf) }
}

fn with<R>(body: impl FnOnce(&mut Table) -> R) -> R {
    body(TABLE.get().get_or_insert_default())
}

fn set(call: &Call, held: Held) {
    with(|table| table.insert(call.slf as usize, held));
}

fn me(call: &Call) -> usize {
    call.runtime.me().ptr() as usize
}

/// What the table says. A lock seen for the first time may have been acquired by this thread before hooking: then the
/// main tasklet owns it, and nothing is noted until it has been released.
enum Owned {
    Nobody,
    ByMe(u64),
    ByAnother,
    /// By the main tasklet, from before: the original keeps count.
    Before,
}

fn owned(call: &Call) -> PyResult<Owned> {
    let known = with(|table| table.get(&(call.slf as usize)).copied());
    match known {
        Some(Held { count: 0, .. }) => Ok(Owned::Nobody),
        Some(held) if held.owner == me(call) => Ok(Owned::ByMe(held.count)),
        Some(_) => Ok(Owned::ByAnother),
        None => {
            ASKING.set(true);
            let answer = Obj::borrowed(call.slf).attr(c"_is_owned").and_then(|is_owned| is_owned.call([]));
            ASKING.set(false);
            if answer?.truth()? {
                return Ok(if call.runtime.on_main() { Owned::Before } else { Owned::ByAnother });
            }
            set(call, FREE);
            Ok(Owned::Nobody)
        }
    }
}

thread_local! {
    /// Lets `_is_owned` through to the original, which answers for the thread.
    static ASKING: Cell<bool> = const { Cell::new(false) };
}

/// Tries to become the owner; `None` if another one is.
fn attempt(call: &Call) -> PyResult<Option<()>> {
    match owned(call)? {
        Owned::ByMe(count) => {
            set(call, Held { owner: me(call), count: count + 1 });
            Ok(Some(()))
        }
        Owned::ByAnother => Ok(None),
        Owned::Before => Ok(try_original(call)?.then_some(())),
        Owned::Nobody if try_original(call)? => {
            set(call, Held { owner: me(call), count: 1 });
            Ok(Some(()))
        }
        Owned::Nobody => Ok(None),
    }
}

fn acquire(call: &Call) -> PyResult<Obj> {
    if GIVING_BACK.get() {
        return call.original();
    }
    let deadline = match patience(call) {
        Patience::None => {
            // `acquire(False)` must not enter a lock of another tasklet; wrong arguments raise in the original.
            if call.len() > 1 || call.named(1, "timeout").is_some() {
                return call.original();
            }
            return Ok(Obj::bool(attempt(call)?.is_some()));
        }
        Patience::Forever => None,
        Patience::Until(deadline) => Some(deadline),
    };
    let why = Why::Lock(call.slf as usize);
    let acquired = waiters::wait_for(call.runtime, call.slf, why, deadline, || attempt(call))?;
    Ok(Obj::bool(acquired.is_some()))
}

fn enter(call: &Call) -> PyResult<Obj> {
    if call.takes_arguments() { acquire(call) } else { Obj::borrowed(call.slf).attr(c"acquire")?.call([]) }
}

fn not_owner() -> Raised {
    runtime_error("cannot release un-acquired lock")
}

/// `release()` and `__exit__(*exc_info)`, whose originals ignore their arguments.
fn release(call: &Call) -> PyResult<Obj> {
    match owned(call)? {
        Owned::ByMe(count) if count > 1 => {
            set(call, Held { owner: me(call), count: count - 1 });
            return Ok(Obj::none());
        }
        Owned::ByMe(_) => set(call, FREE),
        Owned::Before => {}
        Owned::Nobody | Owned::ByAnother => return Err(not_owner()),
    }
    let result = call.original()?;
    waiters::wake_one(call.slf);
    Ok(result)
}

fn is_owned(call: &Call) -> PyResult<Obj> {
    if ASKING.get() {
        return call.original();
    }
    Ok(Obj::bool(matches!(owned(call)?, Owned::ByMe(_) | Owned::Before)))
}

fn recursion_count(call: &Call) -> PyResult<Obj> {
    match owned(call)? {
        Owned::ByMe(count) => Obj::uint(count),
        Owned::Before => call.original(),
        Owned::Nobody | Owned::ByAnother => Obj::int(0),
    }
}

/// `_release_save()`: gives the lock up entirely; `Condition.wait` calls it.
fn release_save(call: &Call) -> PyResult<Obj> {
    let state = match owned(call)? {
        // The C lock is held once, so its own state says 1: ours tells the true count.
        Owned::ByMe(count) => {
            set(call, FREE);
            call.original()?;
            Obj::tuple([Obj::uint(count)?, Obj::uint(me(call) as u64)?])?
        }
        Owned::Before => call.original()?,
        Owned::Nobody | Owned::ByAnother => return Err(not_owner()),
    };
    waiters::wake_one(call.slf);
    Ok(state)
}

/// `_acquire_restore(state)`: takes the lock back as `_release_save` left it.
fn acquire_restore(call: &Call) -> PyResult<Obj> {
    // SAFETY: a valid argument.
    let Some(state) = call.arg(0).filter(|&state| unsafe { ffi::PyTuple_Check(state) } != 0) else {
        return call.original();
    };
    // SAFETY: a tuple; the result is borrowed or null with an exception.
    let count = unsafe { ffi::PyTuple_GetItem(state, 0) };
    if count.is_null() {
        clear_error();
        return call.original();
    }
    let count = Obj::borrowed(count).to_i64()?.max(1) as u64;
    Obj::borrowed(call.slf).attr(c"acquire")?.call([])?;
    set(call, Held { owner: me(call), count });
    Ok(Obj::none())
}

fn at_fork_reinit(call: &Call) -> PyResult<Obj> {
    set(call, FREE);
    call.original()
}

/// Lets the C locks of the calling thread count as their owners do, before the hooks go.
///
/// # Errors
/// What `acquire` raises.
pub(super) fn give_back() -> PyResult<()> {
    let held = with(std::mem::take);
    let Some(runtime) = Runtime::current() else { return Ok(()) };
    GIVING_BACK.set(true);
    let mut result = Ok(());
    for (lock, Held { owner, count }) in held {
        // A lock of another tasklet keeps its single count: for the thread, whoever runs is the owner now.
        if count > 1 && owner == runtime.me().ptr() as usize {
            let lock = Obj::borrowed(lock as *mut PyObject);
            for _ in 1..count {
                result = result.and(lock.attr(c"acquire").and_then(|acquire| acquire.call([])).map(drop));
            }
        }
    }
    GIVING_BACK.set(false);
    result
}

static REPR: GilCell<Option<ffi::reprfunc>> = GilCell::new(None);

/// The original's text, with the owner and the count that the table knows.
unsafe extern "C" fn repr(slf: *mut PyObject) -> *mut PyObject {
    let original = REPR.get().expect("set before this function was put in place");
    // SAFETY: the original function, on its own object.
    let text = unsafe { original(slf) };
    let held = with(|table| table.get(&(slf as usize)).copied()).filter(|held| held.count > 0);
    let Some(held) = held.filter(|_| !text.is_null() && in_main_interpreter()) else { return text };
    boundary(|| {
        let text = Obj::owned(text)?;
        let words = utf8(&text)?;
        let (Some((before, _)), Some((_, after))) = (words.split_once("owner="), words.split_once(" at ")) else {
            return Ok(text);
        };
        Obj::str(&format!("{before}owner={} count={} at {after}", thread::ident_at(held.owner), held.count))
    })
}

/// Has locks tell who owns them. Once and for good: of locks that the table does not know the original tells.
pub(super) fn watch_repr() -> PyResult<()> {
    if REPR.get().is_none() {
        let kind = RLOCK.object()?.ptr().cast::<ffi::PyTypeObject>();
        // SAFETY: a type object that its module keeps; slots are plain pointers that are read at each use.
        unsafe {
            *REPR.get() = (*kind).tp_repr;
            (*kind).tp_repr = Some(repr);
        }
    }
    Ok(())
}

thread_local! {
    /// Lets `acquire` through to the original.
    static GIVING_BACK: Cell<bool> = const { Cell::new(false) };
}

pub(super) fn table() -> Vec<Hook> {
    vec![
        hook!(RLOCK, c"acquire", acquire),
        hook!(RLOCK, c"__enter__", enter),
        hook!(RLOCK, c"release", release).changes(waiters::wake_one),
        hook!(RLOCK, c"__exit__", release).changes(waiters::wake_one),
        hook!(RLOCK, c"_is_owned", is_owned),
        hook!(RLOCK, c"_recursion_count", recursion_count),
        hook!(RLOCK, c"_release_save", release_save).changes(waiters::wake_one),
        hook!(RLOCK, c"_acquire_restore", acquire_restore),
        hook!(RLOCK, c"_at_fork_reinit", at_fork_reinit),
    ]
}
