//! `_interpreters`: other interpreters of the process.
//!
//! Their code knows nothing of tasklets: what waits in it would hold up the thread, and with it those that it waits for. So a
//! tasklet has it run on a thread of its own, which has the tasklet's name meanwhile.

use super::call::{Call, hook};
use super::slot::{Hook, Owner};
use super::thread_name;
use crate::jobs::{self, Lane};
use crate::object::{Obj, PyResult};

const MODULE: Owner = Owner::Module(c"_interpreters");
/// Its name up to 3.12.
const OLD_MODULE: Owner = Owner::Module(c"_xxsubinterpreters");

fn aside(call: &Call, name: &std::ffi::CStr) -> PyResult<Obj> {
    let owner = if cfg!(Py_3_13) { MODULE } else { OLD_MODULE };
    let (args, kwargs) = call.packed()?;
    let function = owner.object()?.attr(name)?;
    let own = thread_name::current(call.runtime);
    let (before, after) =
        (move || thread_name::name_thread(&own), || thread_name::name_thread(b"lissom-pool\0\0\0\0\0"));
    jobs::call_between(call.runtime, Lane::Others, function, args, kwargs, before, after)
}

fn run_string(call: &Call) -> PyResult<Obj> {
    aside(call, c"run_string")
}

fn run_func(call: &Call) -> PyResult<Obj> {
    aside(call, c"run_func")
}

fn exec(call: &Call) -> PyResult<Obj> {
    aside(call, c"exec")
}

fn call_in(call: &Call) -> PyResult<Obj> {
    aside(call, c"call")
}

/// Waits for the threads of the interpreter.
fn destroy(call: &Call) -> PyResult<Obj> {
    aside(call, c"destroy")
}

pub(super) fn table() -> Vec<Hook> {
    vec![
        hook!(MODULE, c"run_string", run_string),
        hook!(MODULE, c"run_func", run_func),
        hook!(MODULE, c"exec", exec),
        hook!(MODULE, c"call", call_in),
        hook!(MODULE, c"destroy", destroy),
        hook!(OLD_MODULE, c"run_string", run_string),
        hook!(OLD_MODULE, c"destroy", destroy),
    ]
}
