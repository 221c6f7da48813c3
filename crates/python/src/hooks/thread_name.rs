//! `_thread.set_name`: the name of a thread as the operating system knows it (3.14 and newer).
//!
//! A tasklet that stands for a thread has a name of its own, and leaves that of the thread it runs on alone. A blocking
//! thread that works for it can be given the name meanwhile.

use std::collections::HashMap;

use pyo3_ffi as ffi;

use super::call::{Call, hook};
use super::slot::{Hook, Owner};
use crate::object::{Obj, PyResult};
use crate::runtime::Runtime;
use crate::tasklet::Tasklet;
use crate::world::GilCell;

/// Of a thread, ended by a null byte (`PR_SET_NAME` in prctl(2)).
pub(super) type Name = [u8; 16];

/// The names of tasklets, by address.
static NAMES: GilCell<Option<HashMap<usize, Name>>> = GilCell::new(None);

fn name_of_thread() -> Name {
    let mut name: Name = [0; 16];
    // SAFETY: room for 16 bytes.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    name
}

/// Names the calling thread.
pub(super) fn name_thread(name: &Name) {
    // SAFETY: ended by a null byte.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// The name of the running tasklet, or else of its thread.
pub(super) fn current(runtime: &Runtime) -> Name {
    let known = NAMES.get().as_ref().and_then(|names| names.get(&(runtime.me().ptr() as usize)).copied());
    known.unwrap_or_else(name_of_thread)
}

/// Forgets a tasklet that has ended.
pub(super) fn forget(tasklet: &Tasklet) {
    if let Some(names) = NAMES.get().as_mut() {
        names.remove(&(tasklet.ptr() as usize));
    }
}

/// `set_name(name)`: the original cuts it to what the system takes.
fn set_name(call: &Call) -> PyResult<Obj> {
    let me = call.runtime.me();
    if me.identity().is_none() {
        return call.original();
    }
    let before = name_of_thread();
    let result = call.original()?;
    NAMES.get().get_or_insert_default().insert(me.ptr() as usize, name_of_thread());
    name_thread(&before);
    Ok(result)
}

/// `_get_name()`.
fn get_name(call: &Call) -> PyResult<Obj> {
    if call.runtime.me().identity().is_none() {
        return call.original();
    }
    let name = current(call.runtime);
    // SAFETY: ended by a null byte.
    Obj::owned(unsafe { ffi::PyUnicode_DecodeFSDefault(name.as_ptr().cast()) })
}

/// As long as there may be threads that are tasklets, and beyond.
pub(super) fn lasting_table() -> Vec<Hook> {
    const MODULE: Owner = Owner::Module(c"_thread");
    vec![hook!(MODULE, c"set_name", set_name), hook!(MODULE, c"_get_name", get_name)]
}
