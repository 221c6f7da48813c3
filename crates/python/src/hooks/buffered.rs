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

/// Who is inside which object.
#[derive(Default)]
struct Places {
    /// The one that came when nobody was inside anything: the object and its owner, or zeros. Most calls end before another
    /// one begins, and need no table.
    alone: (usize, usize),
    table: Table,
}

static PLACES: GilCell<Option<Places>> = GilCell::new(None);

/// Enters the object at once if nobody is inside any.
#[inline]
fn enter_alone(object: usize, owner: usize) -> bool {
    let mut places = PLACES.get();
    let places = places.get_or_insert_default();
    let free = places.alone.0 == 0 && places.table.is_empty();
    if free {
        places.alone = (object, owner);
    }
    free
}

/// Enters the object unless another tasklet is inside. One that is inside already is let in, to be judged by the original.
fn enter(object: usize, owner: usize) -> Option<()> {
    let mut places = PLACES.get();
    let places = places.get_or_insert_default();
    let (first, its_owner) = std::mem::take(&mut places.alone);
    if first != 0 {
        places.table.insert(first, Inside { owner: its_owner, depth: 1 });
    }
    let inside = places.table.entry(object).or_insert(Inside { owner, depth: 0 });
    if inside.owner != owner {
        return None;
    }
    inside.depth += 1;
    Some(())
}

#[inline]
fn leave(object: usize) {
    let mut places = PLACES.get();
    let places = places.get_or_insert_default();
    if places.alone.0 == object {
        places.alone = (0, 0);
        return;
    }
    if let Some(inside) = places.table.get_mut(&object) {
        inside.depth -= 1;
        if inside.depth == 0 {
            places.table.remove(&object);
        }
    }
}

fn alone(call: &Call) -> PyResult<Obj> {
    let (object, owner) = (call.slf as usize, call.runtime.me().ptr() as usize);
    if !enter_alone(object, owner) {
        waiters::wait_for(call.runtime, call.slf, Why::Lock(object), None, || Ok(enter(object, owner)))?;
    }
    let result = call.original();
    leave(object);
    waiters::wake_one(call.slf);
    result
}

/// After `fork`, in the child: nobody else is inside anything.
pub(super) fn after_fork(me: usize) {
    if let Some(places) = PLACES.get().as_mut() {
        if places.alone.1 != me {
            places.alone = (0, 0);
        }
        places.table.retain(|_, inside| inside.owner == me);
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
