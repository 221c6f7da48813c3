//! Functions that take more of the machine stack than the interpreter's counters assume: the compiler, `marshal`, sorting.
//!
//! These hooks are in place as soon as the module is loaded: they keep deep recursion in a tasklet from ending in a crash.
//!
//! The parser allows 6,000 levels of its own, `marshal` 2,000, whatever stack they run on: up to a megabyte. On a tasklet's
//! stack that would end in the guard, so they run on the thread's own (`Runtime::on_main_stack`). A sort has five kilobytes of merge state in its
//! frame and counts as one level up to 3.13, so it looks how much stack is left before it begins. `select.select` has three
//! tables of FD_SETSIZE entries in its frame, 49 kilobytes.

use pyo3_ffi as ffi;

use super::call::{Call, hook};
use super::slot::{Hook, Owner};
use crate::object::{Obj, PyResult, recursion_error};

const BUILTINS: Owner = Owner::Module(c"builtins");
const MARSHAL: Owner = Owner::Module(c"marshal");

fn deep(call: &Call) -> PyResult<Obj> {
    call.runtime.on_main_stack(|| call.original())
}

/// What a sort needs for itself and for what its key function may call before that is counted.
const SORT_NEEDS: usize = 64 * 1024;

/// `list.sort()`, which `sorted()` calls, too.
fn sort(call: &Call) -> PyResult<Obj> {
    if call.runtime.headroom().is_some_and(|left| left < SORT_NEEDS) {
        return Err(recursion_error("maximum recursion depth exceeded while sorting"));
    }
    call.original()
}

/// `eval(source, ...)`: a source text is compiled on the main stack, and the code runs on the tasklet's own.
fn eval(call: &Call) -> PyResult<Obj> {
    compiled(call, "eval")
}

/// `exec(source, ...)`.
fn exec(call: &Call) -> PyResult<Obj> {
    compiled(call, "exec")
}

fn compiled(call: &Call, mode: &str) -> PyResult<Obj> {
    let Some(source) = call.arg(0).map(Obj::borrowed) else { return call.original() };
    // SAFETY: valid arguments.
    let is_text = unsafe { ffi::PyUnicode_Check(source.ptr()) != 0 || ffi::PyBytes_Check(source.ptr()) != 0 };
    if !is_text || call.runtime.on_main() {
        return call.original();
    }
    let source = if mode == "eval" { without_indent(source)? } else { source };
    // The caller's `from __future__` imports are inherited, as `eval` itself has it: the calling frame is the same.
    let code = Obj::import(c"builtins")?.attr(c"compile")?.call([&source, &Obj::str("<string>")?, &Obj::str(mode)?])?;
    let (args, kwargs) = call.packed()?;
    // SAFETY: a tuple and its size.
    let rest = Obj::owned(unsafe { ffi::PyTuple_GetSlice(args.ptr(), 1, ffi::PyTuple_Size(args.ptr())) })?;
    let first = Obj::tuple([code])?;
    // SAFETY: two tuples.
    let args = Obj::owned(unsafe { ffi::PySequence_Concat(first.ptr(), rest.ptr()) })?;
    call.original_packed(&args, kwargs.as_ref())
}

/// `eval` ignores blanks before the expression.
fn without_indent(source: Obj) -> PyResult<Obj> {
    // SAFETY: a valid reference.
    let blanks =
        if unsafe { ffi::PyUnicode_Check(source.ptr()) } != 0 { Obj::str(" \t")? } else { Obj::bytes(b" \t")? };
    source.attr(c"lstrip")?.call([&blanks])
}

pub(super) fn table() -> Vec<Hook> {
    vec![
        hook!(Owner::Module(c"select"), c"select", deep),
        hook!(BUILTINS, c"compile", deep),
        hook!(Owner::Type(c"builtins", c"list"), c"sort", sort),
        hook!(BUILTINS, c"eval", eval),
        hook!(BUILTINS, c"exec", exec),
        hook!(MARSHAL, c"loads", deep),
        hook!(MARSHAL, c"load", deep),
        hook!(MARSHAL, c"dumps", deep),
        hook!(MARSHAL, c"dump", deep),
    ]
}
