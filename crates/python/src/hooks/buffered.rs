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

/// All objects that somebody is inside of. The one that was entered last stands apart, as almost every call leaves before
/// anybody else enters: a line that is in the buffer already is read in less time than the table takes.
struct Entered {
    last: usize,
    inside: Inside,
    others: Option<Table>,
}

/// The address of no object.
const NOTHING: usize = 0;

static ENTERED: GilCell<Entered> =
    GilCell::new(Entered { last: NOTHING, inside: Inside { owner: 0, depth: 0 }, others: None });

/// Enters the object unless another tasklet is inside. One that is inside already is let in, to be judged by the original.
#[inline]
fn enter(object: usize, owner: usize) -> Option<()> {
    let entered = &mut *ENTERED.get();
    if entered.last == NOTHING && entered.others.as_ref().is_none_or(HashMap::is_empty) {
        entered.last = object;
        entered.inside = Inside { owner, depth: 1 };
        return Some(());
    }
    enter_among(entered, object, owner)
}

#[inline(never)]
fn enter_among(entered: &mut Entered, object: usize, owner: usize) -> Option<()> {
    if entered.last != object {
        let others = entered.others.get_or_insert_default();
        let inside = others.remove(&object).unwrap_or(Inside { owner, depth: 0 });
        if entered.last != NOTHING {
            others.insert(entered.last, entered.inside);
        }
        entered.last = object;
        entered.inside = inside;
    }
    if entered.inside.owner != owner {
        return None;
    }
    entered.inside.depth += 1;
    Some(())
}

#[inline]
fn leave(object: usize) {
    let entered = &mut *ENTERED.get();
    if entered.last == object {
        entered.inside.depth -= 1;
        if entered.inside.depth == 0 {
            entered.last = NOTHING;
        }
        return;
    }
    let Some(others) = &mut entered.others else { return };
    if let Some(inside) = others.get_mut(&object) {
        inside.depth -= 1;
        if inside.depth == 0 {
            others.remove(&object);
        }
    }
}

fn alone(call: &Call) -> PyResult<Obj> {
    let (object, owner) = (call.slf as usize, call.runtime.me().ptr() as usize);
    if enter(object, owner).is_none() {
        waiters::wait_for(call.runtime, call.slf, Why::Lock(object), None, || Ok(enter(object, owner)))?;
    }
    let result = call.original();
    leave(object);
    waiters::wake_one(call.slf);
    result
}

/// After `fork`, in the child: nobody else is inside anything.
pub(super) fn after_fork(me: usize) {
    let entered = &mut *ENTERED.get();
    if entered.inside.owner != me {
        entered.last = NOTHING;
    }
    if let Some(others) = &mut entered.others {
        others.retain(|_, inside| inside.owner == me);
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
