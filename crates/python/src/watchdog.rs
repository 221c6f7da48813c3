//! The watchdog of `run(timeout)`: interrupts a tasklet after a number of bytecode instructions.
//!
//! CPython can call a function before each instruction: from 3.12 on through `sys.monitoring`, in 3.11 through a trace
//! function with opcode events (watchdog/opcodes.rs). That is switched on when a `run` with a timeout begins and off when
//! the last one ends, so programs that never use a timeout pay nothing, and the count is exact.
//!
//! The interrupt happens in the callback, on the stack of the tasklet that is interrupted, between two instructions: it
//! switches to the caller of `run`, and the tasklet goes on there whenever it is run again. It is postponed
//! (`interrupt_pending`) while the tasklet is atomic, while it executes code that C code has called (unless nesting is
//! ignored), while switches are trapped, and in soft mode, in which the next switch goes to the caller of `run` instead.

use std::cell::Cell;

use crate::callbacks;
use crate::object::{PyResult, Raised, clear_error};
use crate::runtime::{Run, Runtime};
use crate::tasklet::Tasklet;
use crate::tstate;
use crate::world::{GilCell, world};

#[cfg_attr(Py_3_12, path = "watchdog/monitoring.rs")]
#[cfg_attr(not(Py_3_12), path = "watchdog/opcodes.rs")]
mod counting;

pub(crate) use counting::attach;

/// The count of one thread.
#[derive(Default)]
pub(crate) struct Watch {
    active: Cell<bool>,
    soft: Cell<bool>,
    ignore_nesting: Cell<bool>,
    total: Cell<bool>,
    interval: Cell<i64>,
    left: Cell<i64>,
}

/// How many threads count.
static ACTIVE: GilCell<usize> = GilCell::new(0);

/// Begins to count on the calling thread.
///
/// # Errors
/// `RuntimeError` if the interpreter's monitoring is not to be had.
pub(crate) fn start(runtime: &Runtime, how: &Run) -> PyResult<()> {
    if *ACTIVE.get() == 0 {
        counting::switch_on()?;
    }
    *ACTIVE.get() += 1;
    callbacks::count_special(true);
    let watch = runtime.watch();
    watch.soft.set(how.soft);
    watch.ignore_nesting.set(how.ignore_nesting);
    watch.total.set(how.totaltimeout);
    watch.interval.set(how.timeout);
    watch.left.set(how.timeout);
    watch.active.set(true);
    Ok(())
}

/// Ends the count of the calling thread.
pub(crate) fn stop(runtime: &Runtime) {
    runtime.watch().active.set(false);
    callbacks::count_special(false);
    let last = {
        let mut active = ACTIVE.get();
        *active -= 1;
        *active == 0
    };
    if last {
        counting::switch_off();
    }
}

/// Counts one instruction of the running tasklet; called by the interpreter before it.
///
/// # Errors
/// What is thrown into the tasklet while it is interrupted.
#[inline]
fn count() -> PyResult<()> {
    let Some(runtime) = Runtime::current() else { return Ok(()) };
    let watch = runtime.watch();
    if !watch.active.get() {
        return Ok(());
    }
    let left = watch.left.get() - 1;
    watch.left.set(left);
    if left < 0 { time_is_up(runtime) } else { Ok(()) }
}

/// Whether the tasklet executes code that may be interrupted as far as nesting goes.
fn nesting_allows(runtime: &Runtime, tasklet: &Tasklet) -> bool {
    // SAFETY: T2: the runtime is that of the calling thread, whose current tasklet is asked about.
    tasklet.ignore_nesting.get()
        || runtime.watch().ignore_nesting.get()
        || unsafe { tstate::running_nesting_level(runtime.tstate()) } == 0
}

#[cold]
#[inline(never)]
fn time_is_up(runtime: &Runtime) -> PyResult<()> {
    let (watch, me) = (runtime.watch(), runtime.me());
    let Some(runner) = runtime.watchdog_runner() else { return Ok(()) };
    if std::ptr::eq(runner.tasklet(), me) || !runner.waits() {
        return Ok(());
    }
    let postponed = watch.soft.get()
        || me.atomic.get()
        || runtime.in_callback()
        || runtime.on_errand()
        || runtime.check_trap().map_err(|Raised| clear_error()).is_err()
        || !nesting_allows(runtime, me);
    if postponed {
        watch.left.set(watch.interval.get());
        me.interrupt_pending.set(true);
        return Ok(());
    }
    me.interrupt_pending.set(false);
    watch.left.set(watch.interval.get());
    runtime.note_interrupted(me);
    runner.wake();
    world().make_head(runner.tasklet().id());
    runtime.switch()
}

/// Makes up for an interrupt that was postponed, if nothing forbids it any more: at the next instruction.
pub(crate) fn catch_up(runtime: &Runtime, tasklet: &Tasklet) {
    let current = std::ptr::eq(runtime.me(), tasklet);
    if tasklet.interrupt_pending.get() && current && !tasklet.atomic.get() {
        runtime.watch().left.set(0);
    }
}

/// A switch away from `me` is about to happen: the next tasklet gets a full slice, and a soft interrupt comes now.
pub(crate) fn before_switch(runtime: &Runtime, me: &Tasklet) {
    let watch = runtime.watch();
    let exchange = runtime.no_soft_interrupt();
    if !watch.active.get() {
        return;
    }
    if me.interrupt_pending.get() && watch.soft.get() {
        soft_interrupt(runtime, me, exchange);
    }
    let goes_on = world().head(runtime.thread()) == Some(me.id());
    if !watch.total.get() && !goes_on {
        watch.left.set(watch.interval.get());
    }
}

/// Lets the caller of `run` run before the one who would be next, unless this switch is part of a channel's exchange.
fn soft_interrupt(runtime: &Runtime, me: &Tasklet, exchange: bool) {
    let head = world().head(runtime.thread());
    let (Some(runner), Some(head)) = (runtime.watchdog_runner(), head) else { return };
    me.interrupt_pending.set(false);
    let next = crate::world::tasklet(head);
    if !runner.waits() || std::ptr::eq(runner.tasklet(), me) || std::ptr::eq(runner.tasklet(), next) {
        return;
    }
    if exchange || !nesting_allows(runtime, me) {
        next.interrupt_pending.set(true);
        return;
    }
    runtime.note_interrupted(next);
    runner.wake();
    world().make_head(runner.tasklet().id());
}
