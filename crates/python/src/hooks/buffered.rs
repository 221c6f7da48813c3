//! `io.BufferedReader` and its kin: one tasklet at a time.
//!
//! A buffered object has a lock whose owner is a thread of the operating system. A second tasklet of that thread would be
//! taken for a reentrant call and refused, so it waits here until the first has left.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use super::call::{Call, hook};
use super::slot::{Hook, Owner};
use crate::object::{Obj, PyResult};
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

static TABLE: GilCell<Option<Table>> = GilCell::new(None);

/// Enters the object unless another tasklet is inside. One that is inside already is let in, to be judged by the original.
fn enter(object: usize, owner: usize) -> Option<()> {
    let mut table = TABLE.get();
    let inside = table.get_or_insert_default().entry(object).or_insert(Inside { owner, depth: 0 });
    if inside.owner != owner {
        return None;
    }
    inside.depth += 1;
    Some(())
}

fn leave(object: usize) {
    let mut table = TABLE.get();
    let table = table.get_or_insert_default();
    if let Some(inside) = table.get_mut(&object) {
        inside.depth -= 1;
        if inside.depth == 0 {
            table.remove(&object);
        }
    }
}

fn alone(call: &Call) -> PyResult<Obj> {
    let (object, owner) = (call.slf as usize, call.runtime.me().ptr() as usize);
    waiters::wait_for(call.runtime, call.slf, Why::Lock(object), None, || Ok(enter(object, owner)))?;
    let result = call.original();
    leave(object);
    waiters::wake_one(call.slf);
    result
}

/// After `fork`, in the child: nobody else is inside anything.
pub(super) fn after_fork(me: usize) {
    if let Some(table) = TABLE.get().as_mut() {
        table.retain(|_, inside| inside.owner == me);
    }
}

macro_rules! methods {
    ($kind:literal: $($name:literal)*) => {
        vec![$(hook!(Owner::Type(c"_io", $kind), $name, alone)),*]
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
