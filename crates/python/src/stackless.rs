//! The functions of Stackless Python: who runs, and what is known about it.

use pyo3_ffi as ffi;

use crate::args::{Args, method};
use crate::callbacks;
use crate::object::{Obj, PyResult, check, runtime_error, type_error, value_error};
use crate::runtime::{Run, Runtime};
use crate::tasklet::{Carried, Phase, Tasklet};
use crate::tstate::Caller;
use crate::world::{self, GilCell, world};
use crate::{tasklet_type, tstate};

fn set_result(me: &Tasklet, value: Option<*mut ffi::PyObject>) {
    let carried = value.map_or(Carried::Itself, |value| Carried::Value(Obj::borrowed(value)));
    drop(me.carried.replace(carried));
}

/// What a switching call returns: `tempval`, or the exception that was thrown, which replaces it.
fn finish(me: &Tasklet, switched: PyResult<()>) -> PyResult<Obj> {
    switched?;
    me.claim()
}

fn schedule(args: Args) -> PyResult<Obj> {
    let value = if args.is_empty() { None } else { args.bind("schedule", ["retval"], 0)?[0] };
    let runtime = Runtime::get()?;
    let me = runtime.me();
    if callbacks::special() && world().runnable(runtime.thread()) > 1 {
        runtime.check_trap()?;
    }
    set_result(me, value);
    finish(me, runtime.schedule())
}

fn schedule_remove(args: Args) -> PyResult<Obj> {
    let [value] = args.bind("schedule_remove", ["retval"], 0)?;
    let runtime = Runtime::get()?;
    let me = runtime.me();
    if callbacks::special() && runtime.somebody_would_go_on() {
        runtime.check_trap()?;
    }
    set_result(me, value);
    world().remove(me.id());
    // The scheduler's reference is dropped by whoever runs next. If it was the last one, the tasklet is finalised: killed.
    runtime.drop_later(me.release());
    let switched = me.wait_in_call(args.slf(), Caller::With(&args), || runtime.switch());
    finish(me, switched)
}

fn run(args: Args) -> PyResult<Obj> {
    let names = ["timeout", "threadblock", "soft", "ignore_nesting", "totaltimeout"];
    let given = args.bind("run", names, 0)?;
    let mut numbers = [0_i64; 5];
    for (number, value) in numbers.iter_mut().zip(given) {
        if let Some(value) = value {
            *number = Obj::borrowed(value).to_i64()?;
        }
    }
    let [timeout, threadblock, soft, ignore_nesting, totaltimeout] = numbers;
    let how = Run {
        timeout: timeout.max(0),
        threadblock: threadblock != 0,
        soft: soft != 0,
        ignore_nesting: ignore_nesting != 0,
        totaltimeout: totaltimeout != 0,
        deadline: None,
    };
    Ok(Runtime::get()?.run(how)?.unwrap_or_else(Obj::none))
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

fn getcurrentid(args: Args) -> PyResult<Obj> {
    args.none("getcurrentid")?;
    match Runtime::current() {
        Some(runtime) if !std::ptr::eq(runtime.me(), runtime.chief()) => Obj::uint(runtime.me().ptr() as u64),
        Some(runtime) => Obj::uint(runtime.ident()),
        // SAFETY: plain call.
        None => Obj::uint(unsafe { libc::pthread_self() }),
    }
}

const C_STACK_SERIALS: u64 = 1 << 30;
const WATCHDOGS: u64 = 1 << 31;

fn get_thread_info(args: Args) -> PyResult<Obj> {
    let [thread, flags] = args.at_most("get_thread_info")?;
    let flags = flags.map_or(Ok(0), |flags| Obj::borrowed(flags).to_i64())? as u64;
    let thread = thread.map(Obj::borrowed);
    // SAFETY: a valid reference.
    if thread.as_ref().is_some_and(|thread| unsafe { ffi::PyLong_Check(thread.ptr()) } == 0) {
        return Err(type_error("get_thread_info() needs a thread id, an int"));
    }
    let own = Runtime::get()?;
    // SAFETY: an int; all 64 bits may be used.
    let ident = thread.map_or(u64::MAX, |thread| unsafe { ffi::PyLong_AsUnsignedLongLongMask(thread.ptr()) });
    let runtime = if ident == u64::MAX {
        Some(own)
    } else if tstate::thread_idents().contains(&ident) {
        world::thread_with(ident).and_then(world::runtime_of)
    } else {
        return Err(runtime_error("Thread id not found"));
    };
    // SAFETY: the GIL is held.
    let list = Obj::owned(unsafe { ffi::PyList_New(0) })?;
    let mut items = match runtime {
        None => vec![Obj::none(), Obj::none(), Obj::int(0)?],
        Some(runtime) => {
            let count = world().runnable(runtime.thread());
            let head = world().head(runtime.thread());
            let current = match head {
                _ if !runtime.is_idle() && count > 0 => runtime.me().object(),
                Some(head) => world::tasklet(head).object(),
                None => Obj::none(),
            };
            vec![runtime.chief().object(), current, Obj::int(count as i64)?]
        }
    };
    if flags & C_STACK_SERIALS != 0 {
        items.push(Obj::int(0)?);
        items.push(Obj::uint(runtime.map_or(0, Runtime::switches))?);
    }
    if flags & WATCHDOGS != 0 {
        items.push(watchdogs(runtime)?);
    }
    for item in items {
        // SAFETY: a list and a valid reference.
        check(unsafe { ffi::PyList_Append(list.ptr(), item.ptr()) })?;
    }
    // SAFETY: a list.
    Obj::owned(unsafe { ffi::PyList_AsTuple(list.ptr()) })
}

/// The list of watchdogs; `None` if there has never been one.
fn watchdogs(runtime: Option<&Runtime>) -> PyResult<Obj> {
    let Some(runtime) = runtime else { return Ok(Obj::none()) };
    // SAFETY: the GIL is held.
    let list = Obj::owned(unsafe { ffi::PyList_New(0) })?;
    for item in runtime.watchdog_list() {
        // SAFETY: a list and a valid reference.
        check(unsafe { ffi::PyList_Append(list.ptr(), item.ptr()) })?;
    }
    Ok(list)
}

fn getthreads(args: Args) -> PyResult<Obj> {
    args.none("getthreads")?;
    // SAFETY: the GIL is held.
    let list = Obj::owned(unsafe { ffi::PyList_New(0) })?;
    for ident in tstate::thread_idents() {
        let ident = Obj::uint(ident)?;
        // SAFETY: a list and a valid reference.
        check(unsafe { ffi::PyList_Append(list.ptr(), ident.ptr()) })?;
    }
    Ok(list)
}

fn switch_trap(args: Args) -> PyResult<Obj> {
    let [change] = args.at_most("switch_trap")?;
    let change = change.map_or(Ok(0), |change| Obj::borrowed(change).to_i64())?;
    Obj::int(i64::from(Runtime::get()?.change_switch_trap(change as i32)))
}

/// Soft switching does not exist here; the flag is kept for those who ask.
fn enable_softswitch(args: Args) -> PyResult<Obj> {
    static ENABLED: GilCell<bool> = GilCell::new(true);
    let flag = Obj::borrowed(args.one("enable_softswitch")?);
    let before = *ENABLED.get();
    if flag.ptr() != Obj::none().ptr() {
        let new = flag.truth()?;
        *ENABLED.get() = new;
    }
    Ok(Obj::bool(before))
}

fn getuncollectables(args: Args) -> PyResult<Obj> {
    args.none("getuncollectables")?;
    // SAFETY: the GIL is held.
    let list = Obj::owned(unsafe { ffi::PyList_New(0) })?;
    let current = Runtime::current().map(|runtime| runtime.me().ptr());
    let started = |tasklet: &&Tasklet| tasklet.phase() == Phase::Started && Some(tasklet.ptr()) != current;
    let objects: Vec<Obj> = world::all_tasklets().into_iter().filter(started).map(Tasklet::object).collect();
    for object in objects {
        // SAFETY: a list and a valid reference.
        check(unsafe { ffi::PyList_Append(list.ptr(), object.ptr()) })?;
    }
    Ok(list)
}

fn getdebug(args: Args) -> PyResult<Obj> {
    args.none("getdebug")?;
    Ok(Obj::bool(cfg!(py_sys_config = "Py_DEBUG")))
}

/// The flags of pickling: tracing state, two for finalizers of asynchronous generators, context.
const PICKLE_FLAGS: i64 = 0b1111;

static PICKLE_DEFAULT: GilCell<i64> = GilCell::new(0);

fn flags_and_mask(args: &Args, function: &str, name: &str) -> PyResult<(i64, i64)> {
    let [new, mask] = args.bind(function, [name, "mask"], 0)?;
    let number = |value: Option<*mut ffi::PyObject>| value.map_or(Ok(-1), |value| Obj::borrowed(value).to_i64());
    let (new, mask) = (number(new)?, number(mask)?);
    if new != -1 && new & mask & !PICKLE_FLAGS != 0 {
        return Err(value_error("you must not set an undefined pickle-flag"));
    }
    Ok((new, mask))
}

fn changed(old: i64, new: i64, mask: i64) -> i64 {
    if new == -1 { old } else { (old & !mask | new & mask) & PICKLE_FLAGS }
}

fn pickle_flags(args: Args) -> PyResult<Obj> {
    let (new, mask) = flags_and_mask(&args, "pickle_flags", "new_flags")?;
    let runtime = Runtime::get()?;
    let old = runtime.pickle_flags.get();
    runtime.pickle_flags.set(changed(old, new, mask));
    Obj::int(old)
}

fn pickle_flags_default(args: Args) -> PyResult<Obj> {
    let (new, mask) = flags_and_mask(&args, "pickle_flags_default", "new_default")?;
    let old = *PICKLE_DEFAULT.get();
    *PICKLE_DEFAULT.get() = changed(old, new, mask);
    Obj::int(old)
}

/// The flags with which a thread begins.
pub(crate) fn default_pickle_flags() -> i64 {
    *PICKLE_DEFAULT.get()
}

/// `_tasklet_get_unpicklable_state(tasklet)`: what `__reduce__` leaves out.
fn unpicklable_state(args: Args) -> PyResult<Obj> {
    let tasklet = Obj::borrowed(args.one("_tasklet_get_unpicklable_state")?);
    let context = tasklet_type::context_of(tasklet_type::from_object(&tasklet)?)?;
    // SAFETY: the GIL is held.
    let dict = Obj::owned(unsafe { ffi::PyDict_New() })?;
    // SAFETY: valid references.
    check(unsafe { ffi::PyDict_SetItemString(dict.ptr(), c"context".as_ptr(), context.ptr()) })?;
    Ok(dict)
}

/// The entries of the module's table.
pub(crate) fn methods() -> Vec<ffi::PyMethodDef> {
    vec![
        method!(
            c"schedule",
            schedule,
            c"schedule(retval=...)\n--\n\n\
                Let the other tasklets run, and go on when it is the caller's turn again.\n\n\
                Switches if another tasklet of the thread can run: the caller goes to the end of the queue.\n\n\
                Returns ``retval``, by default the calling tasklet. Raises only what is thrown into the caller\n\
                meanwhile.\n\n\
                As ``stackless.schedule``."
        ),
        method!(
            c"schedule_remove",
            schedule_remove,
            c"schedule_remove(retval=...)\n--\n\n\
                Leave the queue and let the others run, until somebody inserts the calling tasklet again.\n\n\
                Always switches. The caller is paused: `lissom.tasklet.insert` or `lissom.tasklet.run` lets it\n\
                go on.\n\n\
                Returns ``retval``, by default the calling tasklet. Raises what is thrown into the caller\n\
                meanwhile, and in the main tasklet RuntimeError (a deadlock) when nothing can run any more.\n\n\
                The scheduler keeps no reference to a paused tasklet: when the last one is dropped, the tasklet\n\
                is killed.\n\n\
                As ``stackless.schedule_remove``."
        ),
        method!(
            c"run",
            run,
            c"run(timeout=0, threadblock=False, soft=False, ignore_nesting=False, totaltimeout=False)\n--\n\n\
                Let the other tasklets of the thread run until none of them can go on by itself.\n\n\
                Switches, unless there are no others. May be called in any tasklet, also inside another\n\
                ``run()``.\n\n\
                Returns None when no other tasklet can run or waits for input, output, time, `lissom.offload`,\n\
                or, as long as there are other threads in the process, for a lock, a queue or a join that such a\n\
                thread could end. Those that are blocked on a channel, paused, or wait for each other are left\n\
                as they are.\n\n\
                With a ``timeout``, a number of bytecode instructions from 1, a tasklet that executes so many\n\
                without a switch is interrupted between two of them, taken out of the queue and returned: insert\n\
                it to let it go on. Nothing is waited for then; None is returned when nobody can run at the\n\
                moment. With ``soft`` nobody is interrupted: None is returned at the first switch after that\n\
                time. With ``totaltimeout`` the number counts for the whole call, not for each tasklet. Code\n\
                that C code has called is not interrupted unless ``ignore_nesting`` is true or the tasklet says\n\
                so, and a tasklet that is `atomic` never. In a call that is nested in another one with a\n\
                timeout, the inner timeout is ignored. Counting uses ``sys.monitoring`` (a trace function on\n\
                3.11), so code that is counted is several times slower.\n\n\
                With ``threadblock`` the call waits for other threads when nothing can run.\n\n\
                Raises what is thrown into the caller, and what has ended a tasklet that was made as\n\
                ``tasklet(func)``, unless an error handler takes it; the others stay where they are.\n\n\
                As ``stackless.run``, which does not know of waits for input, output and time. What ends a\n\
                tasklet of `lissom.spawn` goes to `lissom.excepthook`."
        ),
        method!(
            c"getcurrent",
            getcurrent,
            c"getcurrent()\n--\n\n\
                Return the running tasklet.\n\n\
                Never switches. A thread that has no scheduler gets one, and its main tasklet is returned."
        ),
        method!(
            c"getmain",
            getmain,
            c"getmain()\n--\n\n\
                Return the main tasklet of the calling thread: the one that runs on the thread's own stack.\n\n\
                Never switches. A thread that has no scheduler gets one. In the child of a fork it is the\n\
                tasklet that forked."
        ),
        method!(
            c"getruncount",
            getruncount,
            c"getruncount()\n--\n\n\
                Return how many tasklets of the calling thread can run, as an int from 1.\n\n\
                Never switches. The caller counts; those that wait or are paused do not. As\n\
                ``stackless.getruncount``."
        ),
        method!(
            c"getcurrentid",
            getcurrentid,
            c"getcurrentid()\n--\n\n\
                Return an int that names the running tasklet; for a main tasklet the ident of its thread.\n\n\
                Never switches, and makes no scheduler for a thread that has none. As in Stackless."
        ),
        method!(
            c"get_thread_info",
            get_thread_info,
            c"get_thread_info(thread_id=-1, flags=0, /)\n--\n\n\
                Return ``(main, current, runcount)`` of a thread, by default of the calling one.\n\n\
                Never switches. The first two are tasklets, or None for a thread without a scheduler or without\n\
                a tasklet that can run. Raises RuntimeError for an id that is no thread's. With bit 31 in\n\
                ``flags`` the callers of `lissom.run` are added, as in Stackless."
        ),
        method!(
            c"getthreads",
            getthreads,
            c"getthreads()\n--\n\n\
                Return the idents of all OS threads that run Python code, a list, the main thread first.\n\n\
                Never switches. As in Stackless."
        ),
        method!(
            c"set_channel_callback",
            callbacks::set_channel_callback,
            c"set_channel_callback(callback, /)\n--\n\n\
                Have ``callback(channel, tasklet, sending, willblock)`` called before each channel operation.\n\n\
                Never switches. Process-wide; None takes it off. ``sending`` and ``willblock`` are 0 or 1; the\n\
                value is in ``tasklet.tempval``. For a partner in another thread the call comes after the\n\
                exchange. What the callback raises is raised by the operation, which has not happened then;\n\
                channel operations inside raise RuntimeError.\n\n\
                Returns the callback before, or None. Raises TypeError for what is not callable. As in Stackless."
        ),
        method!(
            c"get_channel_callback",
            callbacks::get_channel_callback,
            c"get_channel_callback()\n--\n\n\
                Return what `set_channel_callback` has set, or None. Never switches."
        ),
        method!(
            c"set_schedule_callback",
            callbacks::set_schedule_callback,
            c"set_schedule_callback(callback, /)\n--\n\n\
                Have ``callback(previous, next)`` called at each switch, before it, in the tasklet ``previous``.\n\n\
                Never switches. Process-wide; None takes it off. Where it is not known yet who is next, as\n\
                everybody waits, the call comes when it is. What the callback raises is printed; it must not\n\
                switch.\n\n\
                Returns the callback before, or None. Raises TypeError for what is not callable. As in Stackless."
        ),
        method!(
            c"get_schedule_callback",
            callbacks::get_schedule_callback,
            c"get_schedule_callback()\n--\n\n\
                Return what `set_schedule_callback` has set, or None. Never switches."
        ),
        method!(
            c"set_error_handler",
            callbacks::set_error_handler,
            c"set_error_handler(handler=None, /)\n--\n\n\
                Have ``handler(type, value, traceback)`` called for what ends a tasklet as an exception.\n\n\
                Never switches. Process-wide; None takes it off. Called in the dying tasklet, for those made as\n\
                ``tasklet(func)``; without a handler the exception is raised in the innermost `lissom.run` or in the\n\
                main tasklet, and so is what the handler raises itself.\n\n\
                Returns the handler before, or None. Raises TypeError for what is not callable. As in Stackless."
        ),
        method!(
            c"switch_trap",
            switch_trap,
            c"switch_trap(change=0, /)\n--\n\n\
                Add to the level of the calling thread's switch trap, and return the level before, an int.\n\n\
                Never switches. While the level is not 0, whatever would switch tasklets in this thread raises\n\
                RuntimeError instead and leaves everything as it was; so do calls that would wait for input,\n\
                output, time or a lock. As in Stackless."
        ),
        method!(
            c"enable_softswitch",
            enable_softswitch,
            c"enable_softswitch(flag, /)\n--\n\n\
                Set a flag, and return its value before, a bool; None only asks.\n\n\
                Never switches. Without effect: there is one way to switch here. As in Stackless."
        ),
        method!(
            c"getuncollectables",
            getuncollectables,
            c"getuncollectables()\n--\n\n\
                Return all tasklets that have a machine stack but the running one, a list.\n\n\
                Never switches. In Stackless the garbage collector cannot see what such tasklets refer to; here\n\
                it can."
        ),
        method!(
            c"getdebug",
            getdebug,
            c"getdebug()\n--\n\n\
                Return whether the interpreter is a debug build, a bool. Never switches."
        ),
        method!(
            c"pickle_flags",
            pickle_flags,
            c"pickle_flags(new_flags=-1, mask=-1)\n--\n\n\
                Set the pickling flags of the calling thread, and return those before; -1 leaves them.\n\n\
                Never switches. ``mask`` says which bits are set. Raises ValueError for undefined bits. As in\n\
                Stackless; as long as only tasklets that have not started are pickled, the flags have no effect."
        ),
        method!(
            c"pickle_flags_default",
            pickle_flags_default,
            c"pickle_flags_default(new_default=-1, mask=-1)\n--\n\n\
                Set the pickling flags that threads begin with, and return those before. As `pickle_flags`."
        ),
        method!(
            c"_tasklet_get_unpicklable_state",
            unpicklable_state,
            c"_tasklet_get_unpicklable_state(tasklet, /)\n--\n\n"
        ),
    ]
}
