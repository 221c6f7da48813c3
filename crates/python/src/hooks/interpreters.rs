//! `_interpreters` and `_interpchannels`: other interpreters of the process, from 3.13 on.
//!
//! Their code knows nothing of tasklets: what waits in it would hold up the thread, and with it those that it waits for. So a
//! tasklet has it run on a thread of its own, which has the tasklet's name meanwhile.
//!
//! Not up to 3.12, where the module (`_xxsubinterpreters`) is nobody's but the interpreter's tests': there, an interpreter that
//! had threads cannot be ended by another thread than the one that it ran on.

use std::ffi::CStr;

use super::call::{Call, hook};
use super::slot::{Hook, Owner};
use super::thread_name;
use crate::jobs::{self, Lane};
use crate::object::{Obj, PyResult};

const MODULE: Owner = Owner::Module(c"_interpreters");
const CHANNELS: Owner = Owner::Module(c"_interpchannels");

fn aside(call: &Call, owner: Owner, name: &CStr) -> PyResult<Obj> {
    let (args, kwargs) = call.packed()?;
    let function = owner.object()?.attr(name)?;
    let own = thread_name::current(call.runtime);
    let (before, after) =
        (move || thread_name::name_thread(&own), || thread_name::name_thread(b"lissom-pool\0\0\0\0\0"));
    jobs::call_between(call.runtime, Lane::Others, function, args, kwargs, before, after)
}

fn run_string(call: &Call) -> PyResult<Obj> {
    aside(call, MODULE, c"run_string")
}

fn run_func(call: &Call) -> PyResult<Obj> {
    aside(call, MODULE, c"run_func")
}

fn exec(call: &Call) -> PyResult<Obj> {
    aside(call, MODULE, c"exec")
}

fn call_in(call: &Call) -> PyResult<Obj> {
    aside(call, MODULE, c"call")
}

/// Waits for the threads of the interpreter.
fn destroy(call: &Call) -> PyResult<Obj> {
    aside(call, MODULE, c"destroy")
}

/// `send(cid, obj, *, blocking=True, timeout=None)`: waits until another interpreter has received.
fn send(call: &Call) -> PyResult<Obj> {
    send_aside(call, c"send")
}

fn send_buffer(call: &Call) -> PyResult<Obj> {
    send_aside(call, c"send_buffer")
}

fn send_aside(call: &Call, name: &CStr) -> PyResult<Obj> {
    let waits = call.named(usize::MAX, "blocking").map_or(Ok(true), |blocking| Obj::borrowed(blocking).truth());
    if waits? { aside(call, CHANNELS, name) } else { call.original() }
}

pub(super) fn table() -> Vec<Hook> {
    vec![
        hook!(CHANNELS, c"send", send),
        hook!(CHANNELS, c"send_buffer", send_buffer),
        hook!(MODULE, c"run_string", run_string),
        hook!(MODULE, c"run_func", run_func),
        hook!(MODULE, c"exec", exec),
        hook!(MODULE, c"call", call_in),
        hook!(MODULE, c"destroy", destroy),
    ]
}
