//! The functions of the module.

use pyo3_ffi as ffi;

use crate::args::{Args, given, method, seconds, table, timeout};
use crate::object::{Obj, PyResult, check, runtime_error, timeout_error, type_error, value_error};
use crate::runtime::{Runtime, deadline_in, now};
use crate::tasklet::Why;
use crate::world::{Wake, world};
use crate::{hooks, jobs, lifecycle, tasklet_type};

fn callable(args: &Args, function: &str) -> PyResult<Obj> {
    let Some(func) = args.get(0) else {
        return Err(type_error(&format!("{function}() needs a callable as its first argument")));
    };
    // SAFETY: a valid reference.
    if unsafe { ffi::PyCallable_Check(func) } == 0 {
        return Err(type_error(&format!("the first argument of {function}() must be callable")));
    }
    Ok(Obj::borrowed(func))
}

fn spawn(args: Args) -> PyResult<Obj> {
    let func = callable(&args, "spawn")?;
    let (positional, keywords) = args.collect(1)?;
    tasklet_type::spawn(Runtime::get()?, func, positional, keywords)
}

fn offload(args: Args) -> PyResult<Obj> {
    let func = callable(&args, "offload")?;
    let (positional, keywords) = args.collect(1)?;
    jobs::call(Runtime::get()?, func, positional, keywords)
}

fn schedule(args: Args) -> PyResult<Obj> {
    let value = if args.is_empty() { None } else { args.bind("schedule", ["retval"], 0)?[0] };
    let runtime = Runtime::get()?;
    let result = value.map_or_else(|| runtime.me().object(), Obj::borrowed);
    runtime.schedule()?;
    Ok(result)
}

fn schedule_remove(args: Args) -> PyResult<Obj> {
    let [value] = args.bind("schedule_remove", ["retval"], 0)?;
    let runtime = Runtime::get()?;
    let me = runtime.me();
    let value = value.map(Obj::borrowed);
    world().remove(me.id());
    // The scheduler's reference is dropped by whoever runs next. If it was the last one, the tasklet is finalised: killed.
    runtime.drop_later(me.release());
    runtime.switch()?;
    Ok(value.unwrap_or_else(|| me.object()))
}

fn run(args: Args) -> PyResult<Obj> {
    args.none("run")?;
    Runtime::get()?.run(None)?;
    Ok(Obj::none())
}

fn getcurrent(args: Args) -> PyResult<Obj> {
    args.none("getcurrent")?;
    Ok(Runtime::get()?.me().object())
}

fn getmain(args: Args) -> PyResult<Obj> {
    args.none("getmain")?;
    Ok(Runtime::get()?.chief().object())
}

fn getruncount(args: Args) -> PyResult<Obj> {
    args.none("getruncount")?;
    let runtime = Runtime::get()?;
    let count = world().runnable(runtime.thread());
    Obj::int(count.max(1) as i64)
}

/// Lets the running tasklet wait until `deadline`, others run meanwhile.
pub(crate) fn sleep_until(runtime: &Runtime, deadline: u64) -> PyResult<()> {
    loop {
        runtime.me().begin_wait();
        let wake = runtime.park(Why::Sleep, Some(deadline))?;
        if wake == Wake::Deadline || now() >= deadline {
            return Ok(());
        }
    }
}

fn sleep(args: Args) -> PyResult<Obj> {
    let [duration] = args.bind("sleep", ["seconds"], 1)?;
    let duration = given(duration).ok_or_else(|| type_error("sleep() needs a number of seconds"))?;
    // SAFETY: a valid reference.
    let negative = unsafe { ffi::PyFloat_AsDouble(duration.ptr()) } < 0.0;
    let duration = seconds(&duration)?;
    if negative {
        return Err(value_error("sleep length must be non-negative"));
    }
    let runtime = Runtime::get()?;
    if duration == 0 {
        runtime.schedule()?;
    } else {
        sleep_until(runtime, deadline_in(duration))?;
    }
    Ok(Obj::none())
}

fn join(args: Args) -> PyResult<Obj> {
    let [target, limit] = args.bind("join", ["tasklet", "timeout"], 1)?;
    let object = Obj::borrowed(target.expect("required"));
    let target = tasklet_type::from_object(&object)?;
    let deadline = timeout(limit)?.map(deadline_in);
    let runtime = Runtime::get()?;
    if std::ptr::eq(target, runtime.me()) {
        return Err(runtime_error("a tasklet cannot join itself"));
    }
    while target.alive() {
        if deadline.is_some_and(|deadline| deadline <= now()) {
            return Err(timeout_error("the tasklet has not ended in time"));
        }
        let token = runtime.me().begin_wait();
        target.joiners.borrow_mut().push(token);
        let waited = runtime.park(Why::Join(object.ptr() as usize), deadline);
        target.joiners.borrow_mut().retain(|&joiner| joiner != token);
        waited?;
    }
    match &*target.outcome.borrow() {
        Some(Ok(value)) => Ok(value.clone()),
        Some(Err(exception)) => Err(exception.clone().restore()),
        None => Ok(Obj::none()),
    }
}

/// `_throw_at(seconds, exception)`: the timer behind `lissom.timeout`; returns its key as two numbers.
fn throw_at(args: Args) -> PyResult<Obj> {
    let [delay, exception] = args.bind("_throw_at", ["seconds", "exception"], 2)?;
    let delay = seconds(&Obj::borrowed(delay.expect("required")))?;
    let exception = Obj::borrowed(exception.expect("required"));
    let runtime = Runtime::get()?;
    let key = runtime.throw_at(deadline_in(delay), runtime.me().object(), exception);
    Obj::uint(key.to_bits())
}

/// `_remove_timer(key)`: whether the timer had not fired.
fn remove_timer(args: Args) -> PyResult<Obj> {
    let [key] = args.bind("_remove_timer", ["key"], 1)?;
    let bits = Obj::borrowed(key.expect("required")).to_i64()? as u64;
    Ok(Obj::bool(Runtime::get()?.remove_timer(lissom_sched::TimerKey::from_bits(bits))))
}

fn hook(args: Args) -> PyResult<Obj> {
    let [threads] = args.bind("hook", ["threads"], 0)?;
    let threads = given(threads).map_or(Ok(true), |value| value.truth())?;
    Runtime::get()?;
    hooks::install(threads)?;
    Ok(Obj::none())
}

fn unhook(args: Args) -> PyResult<Obj> {
    args.none("unhook")?;
    hooks::remove();
    Ok(Obj::none())
}

fn is_hooked(args: Args) -> PyResult<Obj> {
    args.none("is_hooked")?;
    Ok(Obj::bool(hooks::installed()))
}

fn stats(args: Args) -> PyResult<Obj> {
    args.none("_stats")?;
    let runtime = Runtime::get()?;
    let pools = runtime.stack_stats();
    let sum = |field: fn(&lissom_fiber::Stats) -> usize| pools.iter().map(|pool| field(pool) as u64).sum();
    let runnable = world().runnable(runtime.thread());
    let numbers = [
        (c"switches", runtime.switches()),
        (c"runnable", runnable as u64),
        (c"stacks_in_use", sum(|pool| pool.in_use)),
        (c"stacks_pooled", sum(|pool| pool.pooled)),
        (c"stack_bytes_committed", sum(|pool| pool.committed_bytes)),
        (c"stack_bytes_reserved", sum(|pool| pool.reserved_bytes)),
    ];
    // SAFETY: the GIL is held.
    let dict = Obj::owned(unsafe { ffi::PyDict_New() })?;
    for (name, number) in numbers {
        let number = Obj::uint(number)?;
        // SAFETY: valid references.
        check(unsafe { ffi::PyDict_SetItemString(dict.ptr(), name.as_ptr(), number.ptr()) })?;
    }
    Ok(dict)
}

/// The table of the module's functions.
pub(crate) fn methods() -> *mut ffi::PyMethodDef {
    table(
        vec![
            method!(c"spawn", spawn, c"spawn(func, /, *args, **kwargs)\n--\n\nQueue a new tasklet that calls func(*args, **kwargs). Never switches. Returns the tasklet."),
            method!(c"join", join, c"join(tasklet, timeout=None)\n--\n\nWait for a tasklet to end; its result, or its exception raised."),
            method!(c"sleep", sleep, c"sleep(seconds)\n--\n\nLet others run for that long; sleep(0) lets each run once."),
            method!(c"schedule", schedule, c"schedule(retval=...)\n--\n\nLet the others run; go on when it is this tasklet's turn again."),
            method!(c"schedule_remove", schedule_remove, c"schedule_remove(retval=...)\n--\n\nLeave the queue and let the others run; go on when inserted again."),
            method!(c"run", run, c"run()\n--\n\nRun the other tasklets until none can run or waits for input, output, time or another thread."),
            method!(c"getcurrent", getcurrent, c"getcurrent()\n--\n\nThe running tasklet."),
            method!(c"getmain", getmain, c"getmain()\n--\n\nThe main tasklet of this thread."),
            method!(c"getruncount", getruncount, c"getruncount()\n--\n\nHow many tasklets can run, the caller included."),
            method!(c"offload", offload, c"offload(func, /, *args, **kwargs)\n--\n\nCall func in a real thread; only this tasklet waits. Its result, or its exception raised."),
            method!(c"hook", hook, c"hook(threads=True)\n--\n\nMake the standard library's blocking calls block only the calling tasklet, and its threads tasklets."),
            method!(c"unhook", unhook, c"unhook()\n--\n\nUndo hook()."),
            method!(c"is_hooked", is_hooked, c"is_hooked()\n--\n\nWhether hook() is in force."),
            method!(c"_throw_at", throw_at, c"_throw_at(seconds, exception)\n--\n\n"),
            method!(c"_remove_timer", remove_timer, c"_remove_timer(key)\n--\n\n"),
            method!(c"_stats", stats, c"_stats()\n--\n\n"),
            method!(c"_end", lifecycle::end, c"_end()\n--\n\n"),
            method!(c"_after_fork", lifecycle::after_fork, c"_after_fork()\n--\n\n"),
        ],
        ffi::PyMethodDef::zeroed(),
    )
}
