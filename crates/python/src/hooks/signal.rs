//! `signal.signal` and its kin: Python's handlers run in the main tasklet, whichever tasklet the signal interrupts.
//!
//! The interpreter runs a handler wherever its eval loop notices the signal. So a dispatcher of ours is what the
//! interpreter knows as the handler; the program's own is kept here and reported by `getsignal`. In the main tasklet the
//! dispatcher calls it at once. In any other it notes the signal, makes the main tasklet the next to run, and switches.

use std::cell::Cell;
use std::collections::BTreeMap;

use pyo3_ffi as ffi;

use super::call::{Call, hook};
use super::preempt;
use super::slot::{Hook, Owner};
use super::thread;
use crate::args::{Args, method};
use crate::object::{Obj, PyResult, Raised, check, clear_error, error_is_set, os_error, value_error};
use crate::runtime::Runtime;
use crate::signals;
use crate::waiters;
use crate::world::{self, GilCell, world};

/// The program's handlers by signal number, for those that are callable.
static HANDLERS: GilCell<BTreeMap<i64, Obj>> = GilCell::new(BTreeMap::new());
static HANDLED: GilCell<u64> = GilCell::new(0);
static NOTED: GilCell<Vec<i64>> = GilCell::new(Vec::new());
static DISPATCHER: GilCell<Option<Obj>> = GilCell::new(None);

/// What the interpreter calls: `dispatcher(signum, frame)`.
fn dispatch(args: Args) -> PyResult<Obj> {
    let [signum, frame] = args.bind("handler", ["signum", "frame"], 1)?;
    let signum = Obj::borrowed(signum.expect("required")).to_i64()?;
    match Runtime::current() {
        Some(runtime) if signum == i64::from(preempt::SIGNAL) && preempt::armed() => {
            preempt::slice_over(runtime)?;
            Ok(Obj::none())
        }
        Some(runtime) if !runtime.on_main() => {
            NOTED.get().push(signum);
            let main = runtime.chief();
            main.signalled.set(true);
            let queued = world().state(main.id()) == lissom_sched::State::Queued;
            if !queued {
                main.set_wake(world::Wake::Signal);
            }
            world::make_runnable(main);
            if !runtime.on_errand() {
                world().make_head(main.id());
                runtime.switch()?;
            }
            Ok(Obj::none())
        }
        _ => call_handler(signum, frame.map_or_else(Obj::none, Obj::borrowed)),
    }
}

fn call_handler(signum: i64, frame: Obj) -> PyResult<Obj> {
    let handler = HANDLERS.get().get(&signum).cloned();
    let Some(handler) = handler else { return Ok(Obj::none()) };
    let result = handler.call([&Obj::int(signum)?, &frame]);
    *HANDLED.get() += 1;
    waiters::wake_some(handled_key(), usize::MAX);
    result
}

/// How many times handlers have been called.
pub(super) fn handled() -> u64 {
    *HANDLED.get()
}

/// The key under which `signal.pause` waits.
pub(super) fn handled_key() -> *mut ffi::PyObject {
    std::ptr::from_ref(&HANDLED).cast_mut().cast()
}

/// Runs the handlers of signals that other tasklets have noticed, in the main tasklet.
///
/// # Errors
/// What a handler raises; those behind it stay noted.
pub(crate) fn run_noted() -> PyResult<()> {
    loop {
        let next = {
            let mut noted = NOTED.get();
            if noted.is_empty() {
                return Ok(());
            }
            noted.remove(0)
        };
        // SAFETY: the GIL is held; a new reference or null.
        let frame = Obj::owned_or_none(unsafe { ffi::PyEval_GetFrame() }.cast());
        // PyEval_GetFrame lends the frame.
        let frame = frame.map_or_else(Obj::none, |frame| Obj::borrowed(frame.into_ptr()));
        call_handler(next, frame)?;
    }
}

/// Whether the program has a handler of its own: one that does more than raise `KeyboardInterrupt`.
pub(crate) fn handlers_installed() -> bool {
    let default = Obj::import(c"_signal").and_then(|module| module.attr(c"default_int_handler"));
    match default {
        Ok(default) => HANDLERS.get().values().any(|handler| handler.ptr() != default.ptr()),
        // The interpreter ends: no handler will run.
        Err(Raised) => {
            clear_error();
            false
        }
    }
}

fn is_callable(handler: &Obj) -> bool {
    // SIG_DFL and SIG_IGN are integers, also as members of an enum.
    // SAFETY: a valid reference.
    unsafe { ffi::PyCallable_Check(handler.ptr()) != 0 && ffi::PyLong_Check(handler.ptr()) == 0 }
}

fn dispatcher() -> PyResult<Obj> {
    let known = DISPATCHER.get().clone();
    if let Some(dispatcher) = known {
        return Ok(dispatcher);
    }
    let definition = Box::leak(Box::new(method!(
        c"signal_dispatcher",
        dispatch,
        c"Runs the program's handler in the main tasklet."
    )));
    // SAFETY: a definition that lives for ever.
    let dispatcher = Obj::owned(unsafe { ffi::PyCFunction_New(definition, std::ptr::null_mut()) })?;
    *DISPATCHER.get() = Some(dispatcher.clone());
    Ok(dispatcher)
}

fn is_dispatcher(handler: &Obj) -> bool {
    DISPATCHER.get().as_ref().is_some_and(|dispatcher| dispatcher.ptr() == handler.ptr())
}

/// `previous`, as the program may see it: for the signal of time slices, which the program has not touched, the default.
fn unmasked(previous: Obj, known: Option<Obj>) -> PyResult<Obj> {
    match known {
        _ if !is_dispatcher(&previous) => Ok(previous),
        Some(known) => Ok(known),
        None => Obj::int(libc::SIG_DFL as i64),
    }
}

/// Gives threads that became tasklets time slices, unless the program uses the signal itself. On the thread that may.
///
/// # Errors
/// What `signal.signal` may raise.
pub(super) fn start_slicing() -> PyResult<()> {
    let is_main = Runtime::current().is_some_and(|runtime| runtime.signal_pipe().is_some());
    if !is_main || preempt::armed() {
        return Ok(());
    }
    let module = Obj::import(c"_signal")?;
    let signum = Obj::int(i64::from(preempt::SIGNAL))?;
    let current = module.attr(c"getsignal")?.call([&signum])?;
    // SAFETY: valid references.
    let is_default = unsafe { ffi::PyLong_Check(current.ptr()) } != 0 && current.to_i64()? == libc::SIG_DFL as i64;
    if !is_default {
        return Ok(());
    }
    OWN_CALL.set(true);
    let set = dispatcher().and_then(|dispatcher| module.attr(c"signal")?.call([&signum, &dispatcher]));
    OWN_CALL.set(false);
    set?;
    preempt::arm()
}

/// Undoes [`start_slicing`].
///
/// # Errors
/// What `signal.signal` may raise.
pub(super) fn stop_slicing() -> PyResult<()> {
    if !preempt::armed() {
        return Ok(());
    }
    preempt::disarm();
    OWN_CALL.set(true);
    let default = Obj::int(libc::SIG_DFL as i64);
    let set = default.and_then(|default| {
        let signum = Obj::int(i64::from(preempt::SIGNAL))?;
        Obj::import(c"_signal")?.attr(c"signal")?.call([&signum, &default])
    });
    OWN_CALL.set(false);
    set.map(drop)
}

thread_local! {
    /// Lets `signal.signal` through to the original.
    static OWN_CALL: Cell<bool> = const { Cell::new(false) };
}

fn signal(call: &Call) -> PyResult<Obj> {
    if OWN_CALL.get() {
        return call.original();
    }
    main_thread_only(call, "signal")?;
    let (Some(signum), Some(handler)) = (call.arg(0), call.arg(1)) else { return call.original() };
    let handler = Obj::borrowed(handler);
    let masked = if is_callable(&handler) { dispatcher()? } else { handler.clone() };
    let previous = call.original_with(&[signum, masked.ptr()])?;
    let signum = Obj::borrowed(signum).to_i64()?;
    let known =
        if is_callable(&handler) { HANDLERS.get().insert(signum, handler) } else { HANDLERS.get().remove(&signum) };
    unmasked(previous, known)
}

fn getsignal(call: &Call) -> PyResult<Obj> {
    let handler = call.original()?;
    let Some(signum) = call.arg(0) else { return Ok(handler) };
    let signum = Obj::borrowed(signum).to_i64()?;
    let known = HANDLERS.get().get(&signum).cloned();
    unmasked(handler, known)
}

/// In a tasklet that was started as a thread, as in any thread but the main one.
fn main_thread_only(call: &Call, function: &str) -> PyResult<()> {
    if call.runtime.me().thread.get() && !call.runtime.on_main() {
        return Err(value_error(&format!("{function} only works in main thread of the main interpreter")));
    }
    Ok(())
}

fn set_wakeup_fd(call: &Call) -> PyResult<Obj> {
    if !signals::internal_call() {
        main_thread_only(call, "set_wakeup_fd")?;
    }
    let previous = call.original()?;
    let Some(pipe) = call.runtime.signal_pipe().filter(|_| !signals::internal_call()) else { return Ok(previous) };
    let warns = match call.named(usize::MAX, "warn_on_full_buffer") {
        Some(value) => Obj::borrowed(value).truth()?,
        None => true,
    };
    let previous = pipe.replaced(warns, previous.to_i64()? as i32);
    Obj::int(i64::from(previous))
}

/// Takes over the handlers that are set already. On the thread that may do so.
pub(super) fn take_over() -> PyResult<()> {
    exchange(|function, signum, handler| {
        if is_callable(&handler) && handler.ptr() != dispatcher()?.ptr() {
            HANDLERS.get().insert(signum, handler);
            function.call([&Obj::int(signum)?, &dispatcher()?])?;
        }
        Ok(())
    })
}

/// Gives the handlers back to the interpreter.
pub(super) fn give_back() -> PyResult<()> {
    let handlers = std::mem::take(&mut *HANDLERS.get());
    exchange(|function, signum, handler| {
        if let Some(own) = handlers.get(&signum).filter(|_| is_dispatcher(&handler)) {
            function.call([&Obj::int(signum)?, own])?;
        }
        Ok(())
    })
}

/// Visits every signal: `visit(signal.signal, number, handler)`. The hooks of this file must not be in place.
fn exchange(mut visit: impl FnMut(&Obj, i64, Obj) -> PyResult<()>) -> PyResult<()> {
    let is_main = Runtime::current().is_some_and(|runtime| runtime.signal_pipe().is_some());
    if !is_main {
        return Ok(());
    }
    let module = Obj::import(c"_signal")?;
    let (get, set) = (module.attr(c"getsignal")?, module.attr(c"signal")?);
    for signum in 1..libc::SIGRTMAX() {
        match get.call([&Obj::int(i64::from(signum))?]) {
            Ok(handler) => visit(&set, i64::from(signum), handler)?,
            Err(Raised) => clear_error(),
        }
    }
    Ok(())
}

/// `pthread_kill(thread_id, signalnum)`: the ident of a tasklet is that of its OS thread for the system.
fn pthread_kill(call: &Call) -> PyResult<Obj> {
    let (Some(ident), Some(signum)) = (call.arg(0), call.arg(1)) else { return call.original() };
    match thread::os_thread(call.runtime, ident)? {
        None => call.original(),
        Some(os_thread) => call.original_with(&[os_thread.ptr(), signum]),
    }
}

/// `time.pthread_getcpuclockid(thread_id)`.
fn pthread_getcpuclockid(call: &Call) -> PyResult<Obj> {
    let Some(ident) = call.arg(0) else { return call.original() };
    match thread::os_thread(call.runtime, ident)? {
        None => call.original(),
        Some(os_thread) => call.original_with(&[os_thread.ptr()]),
    }
}

// ---- masks -----------------------------------------------------------------------------------------------------------

/// The signals that threads which are tasklets have blocked: bit `n - 1` for signal `n`. Those that never asked are missing.
static MASKS: GilCell<BTreeMap<usize, u64>> = GilCell::new(BTreeMap::new());

/// A thread that was a tasklet has ended.
pub(super) fn forget_mask(tasklet: usize) {
    MASKS.get().remove(&tasklet);
}

/// `pthread_sigmask(how, mask)`: a mask belongs to a thread, and that of the OS thread is the main tasklet's. Other threads
/// that are tasklets have one of their own, which only they can see: no signal is handled in them anyway.
fn pthread_sigmask(call: &Call) -> PyResult<Obj> {
    let me = call.runtime.me();
    let (Some(_), Some(how), Some(signals)) = (me.identity(), call.arg(0), call.arg(1)) else { return call.original() };
    if call.runtime.on_main() {
        return call.original();
    }
    let how = Obj::borrowed(how).to_i64()?;
    let wanted = bits_of(signals)?;
    let key = me.ptr() as usize;
    let before = MASKS.get().get(&key).copied().unwrap_or(0);
    let after = match how as i32 {
        libc::SIG_BLOCK => before | wanted,
        libc::SIG_UNBLOCK => before & !wanted,
        libc::SIG_SETMASK => wanted,
        _ => return Err(os_error(libc::EINVAL)),
    };
    MASKS.get().insert(key, after);
    // SAFETY: the GIL is held.
    let set = Obj::owned(unsafe { ffi::PySet_New(std::ptr::null_mut()) })?;
    for signal in (1..=64).filter(|signal| before >> (signal - 1) & 1 != 0) {
        // SAFETY: a set and a valid reference.
        check(unsafe { ffi::PySet_Add(set.ptr(), Obj::int(signal)?.ptr()) })?;
    }
    Ok(set)
}

/// The signals of an iterable.
fn bits_of(signals: *mut ffi::PyObject) -> PyResult<u64> {
    // SAFETY: a valid reference.
    let items = Obj::owned(unsafe { ffi::PyObject_GetIter(signals) })?;
    let mut bits = 0;
    // SAFETY: an iterator; null at its end, with or without an exception.
    while let Some(item) = Obj::owned_or_none(unsafe { ffi::PyIter_Next(items.ptr()) }) {
        match item.to_i64()? {
            signal @ 1..=64 => bits |= 1 << (signal - 1),
            signal => return Err(value_error(&format!("signal number {signal} out of range [1; 64]"))),
        }
    }
    // Nobody can block these, and nobody is told.
    let never = 1 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1);
    if error_is_set() { Err(Raised) } else { Ok(bits & !never) }
}

pub(super) fn table() -> Vec<Hook> {
    let module = Owner::Module(c"_signal");
    vec![
        hook!(module, c"signal", signal),
        hook!(module, c"getsignal", getsignal),
        hook!(module, c"set_wakeup_fd", set_wakeup_fd),
        hook!(module, c"pthread_kill", pthread_kill),
        hook!(module, c"pthread_sigmask", pthread_sigmask),
        hook!(Owner::Module(c"time"), c"pthread_getcpuclockid", pthread_getcpuclockid),
    ]
}
