//! The call of ours in which a tasklet blocks or pauses.

use std::cell::Cell;
use std::ptr::{null, null_mut};

use pyo3_ffi::PyObject;

use crate::args::Args;

/// Who has called a function of ours.
#[derive(Clone, Copy)]
pub(crate) enum Caller<'a> {
    /// The interpreter, or C code, with these arguments.
    With(&'a Args),
    /// Whoever iterates: a `for` loop, perhaps.
    Iterating,
    /// Code of ours.
    Ours,
}

/// A call of ours that is under way: it proves what the caller's value stack holds (stack.rs).
#[cfg_attr(Py_3_14, expect(dead_code, reason = "from 3.14 on frames know how deep their value stacks are"))]
pub(crate) struct Site {
    /// What the function was called on; null if nothing is known of the call.
    pub(super) slf: *mut PyObject,
    /// The arguments, those with names included; null if it was called by iterating.
    pub(super) arguments: *const *mut PyObject,
    pub(super) count: usize,
    /// How deep the value stack is at the head of the calling loop: `None` until somebody asks, then 0 if it is no loop.
    pub(super) loop_depth: Cell<Option<usize>>,
}

impl Site {
    /// The call of a function of `slf`.
    pub(crate) fn new(slf: *mut PyObject, caller: Caller<'_>) -> Site {
        let (slf, arguments, count) = match caller {
            Caller::With(args) => (slf, args.values(), args.count()),
            Caller::Iterating => (slf, null(), 0),
            Caller::Ours => (null_mut(), null(), 0),
        };
        Site { slf, arguments, count, loop_depth: Cell::new(None) }
    }
}
