//! The functions of the module.

use pyo3_ffi as ffi;

use crate::args::{Args, given, method, seconds, table, timeout};
use crate::jobs::Lane;
use crate::object::{Obj, PyResult, runtime_error, timeout_error, type_error, value_error};
use crate::runtime::{Runtime, deadline_in, now};
use crate::tasklet::Why;
use crate::world::Wake;
use crate::{hooks, jobs, lifecycle, monitor, primitives, select, stackless, tasklet_type};

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
    jobs::call(Runtime::get()?, Lane::User, func, positional, keywords)
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
        target.add_joiner(token);
        let waited = runtime.park(Why::Join(object.ptr() as usize), deadline);
        target.remove_joiner(token);
        waited?;
    }
    match target.outcome.read(|outcome| outcome.cloned()) {
        Some(Ok(value)) => Ok(value),
        Some(Err(exception)) => Err(exception.restore()),
        None => Ok(Obj::none()),
    }
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

/// The table of the module's functions.
pub(crate) fn methods() -> *mut ffi::PyMethodDef {
    let mut entries = stackless::methods();
    entries.extend(own_methods());
    table(entries, ffi::PyMethodDef::zeroed())
}

fn own_methods() -> Vec<ffi::PyMethodDef> {
    vec![
        method!(
            c"spawn",
            spawn,
            c"spawn(func, /, *args, **kwargs)\n--\n\n\
                Queue a new tasklet that calls ``func(*args, **kwargs)``.\n\n\
                Never switches: the tasklet first runs when the caller waits, yields or ends.\n\n\
                The tasklet shares the caller's ``contextvars`` context (the object itself, as in Stackless\n\
                3.7). While ``hook(threads=True)`` is in force it has an ident and thread-locals of its own.\n\n\
                Returns the tasklet, a `lissom.tasklet`. What ``func`` returns or raises is had by\n\
                `lissom.join`; an exception that nobody joins for goes to `lissom.excepthook`.\n\n\
                Raises TypeError if ``func`` is missing or not callable; nothing is queued then. Whether there\n\
                is memory for a stack shows when the tasklet first runs: if not, it ends with MemoryError.\n\n\
                A tasklet that is killed before it has run never calls ``func``.\n\n\
                Stackless: ``tasklet(func)(*args, **kwargs)``, which works here, too."
        ),
        method!(
            c"join",
            join,
            c"join(tasklet, timeout=None)\n--\n\n\
                Wait until a tasklet has ended, and return what its function returned.\n\n\
                Switches, unless the tasklet has ended already.\n\n\
                ``tasklet`` may belong to another thread. ``timeout`` is in seconds; None waits for ever, less\n\
                than 0 counts as 0.\n\n\
                Returns the function's result; None if the tasklet was killed. One that is not alive because it\n\
                has no arguments yet, and a main tasklet, count as ended: None, at once.\n\n\
                Raises the exception that ended the tasklet (the same object for everyone who joins; who is\n\
                waiting when it is raised keeps it from `lissom.excepthook`), TimeoutError after the timeout,\n\
                RuntimeError for the calling tasklet itself, TypeError or ValueError for what is no tasklet or\n\
                no number. The tasklet goes on in all of these cases.\n\n\
                If the caller is killed or a `lissom.timeout` ends its wait, the tasklet that it waits for goes\n\
                on.\n\n\
                Stackless has no such function; of ``threading.Thread.join`` it differs in that the outcome is\n\
                handed over and that a timeout raises."
        ),
        method!(
            c"sleep",
            sleep,
            c"sleep(seconds)\n--\n\n\
                Let the calling tasklet wait for some time while others run.\n\n\
                Switches if another tasklet can run; else the thread waits in the kernel, without the GIL.\n\n\
                ``seconds`` is a number from 0; ``sleep(0)`` lets every tasklet that can run do so once, as\n\
                `lissom.schedule`. The clock is the monotonic one, in nanoseconds; the wait is never shorter.\n\n\
                Returns None. Raises TypeError for what is no number, ValueError if it is negative or NaN.\n\n\
                What is thrown into the tasklet ends the sleep early. A signal does not, unless its handler\n\
                raises (PEP 475).\n\n\
                Like ``time.sleep``, but it needs no `lissom.hook`."
        ),
        method!(
            c"select",
            select::select,
            c"select(*cases, timeout=None, block=True)\n--\n\n\
            Perform the first of several channel operations that can take place.\n\n\
            Each case is a channel, to receive from it, or a tuple ``(channel, value)``, to send to it. The\n\
            first case in order for which a partner waits is performed at once; else the caller waits until\n\
            a partner comes for any of them, at most ``timeout`` seconds, or not at all with ``block=False``.\n\
            Switches if it waits, and as the operation does. The caller waits in line with the others on each\n\
            channel; ``balance`` counts it once for each case.\n\n\
            Returns ``(index, value)``: the number of the case from 0, and what was received, None for a\n\
            send. None if none took place.\n\n\
            Raises what was sent as an exception, TypeError for what is no case, ValueError for a closed\n\
            channel on which nobody waits, or if there is nothing to wait for. Exactly one operation takes\n\
            place, or none if an exception is thrown into the waiting caller.\n\n\
            As ``select`` in Go, which chooses at random among several that are ready. Channel callbacks are\n\
            not called for the side that waits here. Not in Stackless."
        ),
        method!(
            c"offload",
            offload,
            c"offload(func, /, *args, **kwargs)\n--\n\n\
                Call ``func(*args, **kwargs)`` in a real thread; only the calling tasklet waits.\n\n\
                Switches. The thread is one of a pool of at most 16; when all are busy, the call waits its turn.\n\n\
                For calls that block inside a C library, and for long computations in C that release the GIL.\n\
                There is no scheduler in that thread, so hooked functions block it as ever, and threads started\n\
                there are real ones. The function runs in an empty ``contextvars`` context.\n\n\
                Returns what ``func`` returns. Raises what it raises, with its traceback; TypeError if it is\n\
                missing or not callable; RuntimeError if no thread can be started.\n\n\
                If the caller is killed or a `lissom.timeout` ends its wait, it goes on at once; ``func`` runs\n\
                to its end, and what it returns or raises is dropped. The program does not end before it has.\n\n\
                Like ``asyncio.to_thread``, which copies the context."
        ),
        method!(
            c"hook",
            hook,
            c"hook(threads=True)\n--\n\n\
                Make the standard library's blocking calls block only the calling tasklet.\n\n\
                Never switches. In force for the whole process, on every thread that has a scheduler (the\n\
                calling thread gets one), and for functions, sockets and locks that were imported or made\n\
                before. Call it in the main thread: signal handlers that are set already can only be taken over\n\
                there.\n\n\
                ``threads``: whether a ``threading.Thread`` that is started on a thread with a scheduler becomes\n\
                a tasklet. Threads that run already stay what they are. Calling the function again only changes\n\
                this.\n\n\
                Returns None. Raises RuntimeError if this interpreter's objects are not what the hooks expect;\n\
                nothing is hooked then.\n\n\
                Unlike ``gevent.monkey.patch_all`` it replaces no module, class or function:\n\
                ``docs/how-it-works.rst``."
        ),
        method!(
            c"unhook",
            unhook,
            c"unhook()\n--\n\n\
                Give the standard library its own functions back.\n\n\
                Never switches. Tasklets that wait in a hooked call finish it, but a release of a lock or a\n\
                ``put`` that is made after this does not wake those that wait for it. Threads that have become\n\
                tasklets go on as tasklets.\n\n\
                Returns None, also when nothing is hooked."
        ),
        method!(
            c"is_hooked",
            is_hooked,
            c"is_hooked()\n--\n\n\
                Return whether `lissom.hook` is in force, as a bool. Never switches."
        ),
        method!(c"_throw_at", primitives::throw_at, c"_throw_at(seconds, exception)\n--\n\n"),
        method!(c"_remove_timer", primitives::remove_timer, c"_remove_timer(key)\n--\n\n"),
        method!(c"_wait", primitives::wait, c"_wait(key, timeout=None)\n--\n\n"),
        method!(c"_wake", primitives::wake, c"_wake(key, count=1)\n--\n\n"),
        method!(c"_join_any", primitives::join_any, c"_join_any(tasklets, timeout=None)\n--\n\n"),
        method!(c"_tasklets", primitives::all_tasklets, c"_tasklets()\n--\n\n"),
        method!(c"_watch_blocked", monitor::watch_blocked, c"_watch_blocked(milliseconds)\n--\n\n"),
        method!(c"_serve", monitor::serve, c"_serve(path)\n--\n\n"),
        method!(c"_driver", primitives::driver, c"_driver()\n--\n\n"),
        method!(c"_stats", primitives::stats, c"_stats()\n--\n\n"),
        method!(c"_end", lifecycle::end, c"_end()\n--\n\n"),
        method!(c"_after_fork", lifecycle::after_fork, c"_after_fork()\n--\n\n"),
    ]
}
