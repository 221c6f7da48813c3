//! `io.BufferedReader` and its kin: one tasklet at a time.
//!
//! A buffered object has a lock whose owner is a thread of the operating system. A second tasklet of that thread would be
//! taken for a reentrant call and refused, so it waits here until the first has left.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use super::call::{self, Call, Raw, Wrapper, hook};
use super::slot::{Hook, Owner, Slot};
use crate::object::{Obj, PyResult, boundary};
use crate::tasklet::Why;
use crate::waiters::{self, AddressHasher};
use crate::world::GilCell;

/// Who is inside an object, and how deep.
#[derive(Clone, Copy)]
struct Inside {
    owner: usize,
    depth: usize,
}

type Table = HashMap<usize, Inside, BuildHasherDefault<AddressHasher>>;

/// The address of no object.
const NOTHING: usize = 0;

/// What says that the table is in use, in the place of an object.
const CROWD: usize = 1;

/// The object that somebody is inside of, alone of all objects: almost every call leaves before anybody else enters, and a
/// line that is in the buffer already is read in less time than the table takes. Else [`NOTHING`], or [`CROWD`].
///
/// It and its owner are touched by the holder of the GIL only.
static ONLY: AtomicUsize = AtomicUsize::new(NOTHING);
static ONLY_OWNER: AtomicUsize = AtomicUsize::new(0);

/// All objects that somebody is inside of, while there is a [`CROWD`]: then the table is not empty.
static TABLE: GilCell<Option<Table>> = GilCell::new(None);

/// Enters the object if nobody is inside of any.
#[inline(always)]
fn enter_alone(object: usize, owner: usize) -> bool {
    let alone = ONLY.load(Relaxed) == NOTHING;
    if alone {
        ONLY.store(object, Relaxed);
        ONLY_OWNER.store(owner, Relaxed);
    }
    alone
}

/// Leaves the object if nobody has tried to enter any since [`enter_alone`]. Nobody waits for it then: who does is in the
/// table, or was woken and will find the object free or its owner in the table.
#[inline(always)]
fn leave_alone(object: usize) -> bool {
    let alone = ONLY.load(Relaxed) == object;
    if alone {
        ONLY.store(NOTHING, Relaxed);
    }
    alone
}

/// Enters the object unless another tasklet is inside. One that is inside already is let in, to be judged by the original.
fn enter(object: usize, owner: usize) -> Option<()> {
    let mut table = TABLE.get();
    let table = table.get_or_insert_default();
    let only = ONLY.swap(CROWD, Relaxed);
    if only != NOTHING && only != CROWD {
        table.insert(only, Inside { owner: ONLY_OWNER.load(Relaxed), depth: 1 });
    }
    let inside = table.entry(object).or_insert(Inside { owner, depth: 0 });
    if inside.owner != owner {
        return None;
    }
    inside.depth += 1;
    Some(())
}

/// Leaves the object; who waits for it may try.
#[inline(never)]
fn leave(object: *mut PyObject) {
    if !leave_alone(object as usize) {
        let mut table = TABLE.get();
        let table = table.get_or_insert_default();
        if let Some(inside) = table.get_mut(&(object as usize)) {
            inside.depth -= 1;
            if inside.depth == 0 {
                table.remove(&(object as usize));
            }
        }
        if table.is_empty() {
            ONLY.store(NOTHING, Relaxed);
        }
    }
    waiters::wake_one(object);
}

/// Calls the original when nobody else is inside.
fn by_turns(call: &Call) -> PyResult<Obj> {
    let (object, owner) = (call.slf as usize, call.runtime.me().ptr() as usize);
    if enter(object, owner).is_none() {
        waiters::wait_for(call.runtime, call.slf, Why::Lock(object), None, || Ok(enter(object, owner)))?;
    }
    let result = call.original();
    leave(call.slf);
    result
}

/// What stands between the interpreter and [`by_turns`]: calls the original at once when nobody is inside of anything.
///
/// # Safety
/// As for [`call::dispatch`].
#[inline(always)]
unsafe fn quickly(slot: &'static Slot, wrapper: Wrapper, slf: *mut PyObject, raw: Raw) -> *mut PyObject {
    let entered = call::runtime().is_some_and(|runtime| enter_alone(slf as usize, runtime.me().ptr() as usize));
    if !entered {
        // SAFETY: passed on to the caller.
        return unsafe { call::dispatch(slot, wrapper, slf, raw) };
    }
    // SAFETY: passed on to the caller.
    let result = unsafe { call::original(slot, slf, raw) };
    if !leave_alone(slf as usize) {
        leave(slf);
    }
    result
}

// ---- iterating -------------------------------------------------------------------------------------------------------

const READERS: [Owner; 2] = [Owner::Type(c"_io", c"BufferedReader"), Owner::Type(c"_io", c"BufferedRandom")];

/// What stood in `tp_iternext` of both types.
static NEXT: GilCell<Option<ffi::iternextfunc>> = GilCell::new(None);

/// The next line of a `for` loop: by turns, as the methods.
unsafe extern "C" fn next(slf: *mut PyObject) -> *mut PyObject {
    let original = NEXT.get().expect("set before this function was put in place");
    let runtime = call::runtime().filter(|runtime| super::installed() && !runtime.on_errand());
    let Some(runtime) = runtime else {
        // SAFETY: the original function, on its own object.
        return unsafe { original(slf) };
    };
    let owner = runtime.me().ptr() as usize;
    if !enter_alone(slf as usize, owner) && enter(slf as usize, owner).is_none() {
        let entered = boundary(|| {
            let enter = || Ok(enter(slf as usize, owner));
            waiters::wait_for(runtime, slf, Why::Lock(slf as usize), None, enter).map(|_| Obj::none())
        });
        if entered.is_null() {
            return entered;
        }
        drop(Obj::owned_or_none(entered));
    }
    // SAFETY: as above; null without an exception is the end.
    let line = unsafe { original(slf) };
    if !leave_alone(slf as usize) {
        leave(slf);
    }
    line
}

/// Whether `for` loops call the method `readline`, which is hooked, as 3.13.0 does.
fn iterates_by_name() -> PyResult<bool> {
    let io = Obj::import(c"_io")?;
    let file = io.attr(c"BufferedReader")?.call([&io.attr(c"BytesIO")?.call([&Obj::bytes(b"a line")?])?])?;
    file.set_attr(c"readline", &Obj::bytes(b"by name")?.attr(c"upper")?)?;
    // SAFETY: a valid reference.
    let line = Obj::owned(unsafe { ffi::PyIter_Next(file.ptr()) })?;
    // SAFETY: bytes, as both ways return them.
    Ok(unsafe { ffi::PyBytes_Size(line.ptr()) } == 7)
}

/// Has `for` loops take turns. Once and for good: without hooks they go on as before.
///
/// # Errors
/// What making a file may raise.
pub(super) fn watch_iteration() -> PyResult<()> {
    if NEXT.get().is_some() || iterates_by_name()? {
        return Ok(());
    }
    for owner in READERS {
        let kind = owner.object()?.ptr().cast::<ffi::PyTypeObject>();
        // SAFETY: a type object that its module keeps; slots are plain pointers that are read at each use.
        unsafe {
            let known = NEXT.get().or((*kind).tp_iternext);
            let address = |function: Option<ffi::iternextfunc>| function.map(|function| function as usize);
            if known.is_some() && address((*kind).tp_iternext) == address(known) {
                *NEXT.get() = known;
                (*kind).tp_iternext = Some(next);
            }
        }
    }
    Ok(())
}

/// After `fork`, in the child: nobody else is inside anything.
pub(super) fn after_fork(me: usize) {
    let mut table = TABLE.get();
    let table = table.get_or_insert_default();
    table.retain(|_, inside| inside.owner == me);
    match ONLY.load(Relaxed) {
        CROWD if !table.is_empty() => {}
        CROWD => ONLY.store(NOTHING, Relaxed),
        _ if ONLY_OWNER.load(Relaxed) == me => {}
        _ => ONLY.store(NOTHING, Relaxed),
    }
}

macro_rules! methods {
    ($kind:literal: $($name:literal)*) => {
        vec![$(hook!(Owner::Type(c"_io", $kind), $name, by_turns, by $crate::hooks::buffered::quickly)),*]
    };
}

pub(super) fn table() -> Vec<Hook> {
    let mut rows = methods!(c"BufferedReader": c"read" c"read1" c"readinto" c"readinto1" c"readline" c"peek" c"seek" c"tell"
        c"truncate" c"flush" c"close" c"detach");
    rows.extend(methods!(c"BufferedWriter": c"write" c"flush" c"seek" c"tell" c"truncate" c"close" c"detach"));
    rows.extend(
        methods!(c"BufferedRandom": c"read" c"read1" c"readinto" c"readinto1" c"readline" c"peek" c"write" c"flush"
        c"seek" c"tell" c"truncate" c"close" c"detach"),
    );
    rows
}
