//! The private functions on which the Python part of the package builds its locks, queues and pools.

use pyo3_ffi as ffi;

use crate::args::{Args, timeout};
use crate::object::{Obj, PyResult, Raised, check, runtime_error, value_error};
use crate::runtime::{Runtime, deadline_in, now};
use crate::tasklet::{Tasklet, Why};
use crate::{tasklet_type, waiters, world};

/// `_wait(key, timeout=None)`: parks the caller until `_wake(key)` picks it.
pub(crate) fn wait(args: Args) -> PyResult<Obj> {
    let [key, limit] = args.bind("_wait", ["key", "timeout"], 1)?;
    // Kept for the time of the wait: the address is the key.
    let key = Obj::borrowed(key.expect("required"));
    let deadline = timeout(limit)?.map(deadline_in);
    waiters::wait_once(Runtime::get()?, key.ptr(), deadline, || ()).map(Obj::bool)
}

/// `_wake(key, count=1)`: how many were made runnable.
pub(crate) fn wake(args: Args) -> PyResult<Obj> {
    let [key, count] = args.bind("_wake", ["key", "count"], 1)?;
    let count = match count {
        None => 1,
        Some(count) => {
            usize::try_from(Obj::borrowed(count).to_i64()?).map_err(|_| value_error("count must not be negative"))?
        }
    };
    Obj::uint(waiters::wake_some(key.expect("required"), count) as u64)
}

/// The tasklets of a sequence, kept alive by it.
fn tasklets_of(sequence: &Obj) -> PyResult<Vec<Obj>> {
    // SAFETY: a valid reference and a text.
    let list = Obj::owned(unsafe { ffi::PySequence_List(sequence.ptr()) })?;
    // SAFETY: a list.
    let count = unsafe { ffi::PyList_Size(list.ptr()) };
    // SAFETY: within the list, which is ours alone; the items are borrowed.
    let items = (0..count).map(|index| Obj::borrowed(unsafe { ffi::PyList_GetItem(list.ptr(), index) }));
    let items: Vec<Obj> = items.collect();
    for item in &items {
        tasklet_type::from_object(item)?;
    }
    Ok(items)
}

/// `_join_any(tasklets, timeout=None)`: waits until at least one of them has ended.
pub(crate) fn join_any(args: Args) -> PyResult<Obj> {
    let [tasklets, limit] = args.bind("_join_any", ["tasklets", "timeout"], 1)?;
    let objects = tasklets_of(&Obj::borrowed(tasklets.expect("required")))?;
    let deadline = timeout(limit)?.map(deadline_in);
    let runtime = Runtime::get()?;
    let targets: Vec<&Tasklet> = objects.iter().map(tasklet_type::from_object).collect::<PyResult<_>>()?;
    if targets.iter().any(|target| std::ptr::eq(*target, runtime.me())) {
        return Err(runtime_error("a tasklet cannot join itself"));
    }
    loop {
        if targets.is_empty() || targets.iter().any(|target| !target.alive()) {
            return Ok(Obj::bool(true));
        }
        if deadline.is_some_and(|deadline| deadline <= now()) {
            return Ok(Obj::bool(false));
        }
        let token = runtime.me().begin_wait();
        targets.iter().for_each(|target| target.add_joiner(token));
        let waited = runtime.park(Why::JoinAny(targets.len()), deadline);
        targets.iter().for_each(|target| target.remove_joiner(token));
        waited?;
    }
}

/// `_tasklets()`: every live tasklet of the process, main tasklets included.
pub(crate) fn all_tasklets(args: Args) -> PyResult<Obj> {
    args.none("_tasklets")?;
    // SAFETY: the GIL is held.
    let list = Obj::owned(unsafe { ffi::PyList_New(0) })?;
    // References first: making the list may run the collector, which may free tasklets.
    let objects: Vec<Obj> = world::all_tasklets().into_iter().map(Tasklet::object).collect();
    for object in objects {
        let alive = object.attr(c"alive").and_then(|alive| alive.truth()).unwrap_or_else(|Raised| {
            crate::object::clear_error();
            false
        });
        if alive {
            // SAFETY: a list and a valid reference.
            check(unsafe { ffi::PyList_Append(list.ptr(), object.ptr()) })?;
        }
    }
    Ok(list)
}

/// `_throw_at(seconds, exception)`: the timer behind `lissom.timeout`; returns its key.
pub(crate) fn throw_at(args: Args) -> PyResult<Obj> {
    let [delay, exception] = args.bind("_throw_at", ["seconds", "exception"], 2)?;
    let delay = crate::args::seconds(&Obj::borrowed(delay.expect("required")))?;
    let exception = Obj::borrowed(exception.expect("required"));
    let runtime = Runtime::get()?;
    let key = runtime.throw_at(deadline_in(delay), runtime.me().object(), exception);
    Obj::uint(key.to_bits())
}

/// `_remove_timer(key)`: whether the timer had not fired.
pub(crate) fn remove_timer(args: Args) -> PyResult<Obj> {
    let [key] = args.bind("_remove_timer", ["key"], 1)?;
    let bits = Obj::borrowed(key.expect("required")).to_i64()? as u64;
    Ok(Obj::bool(Runtime::get()?.remove_timer(lissom_sched::TimerKey::from_bits(bits))))
}

/// `_driver()`: the name of the calling thread's driver, and why it is not the one that is preferred, or `None`.
pub(crate) fn driver(args: Args) -> PyResult<Obj> {
    args.none("_driver")?;
    let (name, note) = Runtime::get()?.proactor(|it| (it.driver_name(), it.driver_note().map(str::to_owned)));
    let note = note.map_or_else(|| Ok(Obj::none()), |note| Obj::str(&note))?;
    Obj::tuple([Obj::str(name)?, note])
}

/// `_stats()`: counters of the calling thread's scheduler.
pub(crate) fn stats(args: Args) -> PyResult<Obj> {
    args.none("_stats")?;
    let runtime = Runtime::get()?;
    let pools = runtime.stack_stats();
    let sum = |field: fn(&lissom_fiber::Stats) -> usize| pools.iter().map(|pool| field(pool) as u64).sum();
    let runnable = world::world().runnable(runtime.thread());
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
