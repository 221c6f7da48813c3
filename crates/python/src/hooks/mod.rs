//! The hooks: what stands behind the standard library's blocking functions while `lissom.hook()` is in force.
//!
//! Each file serves one module of the standard library and ends in its part of the table. A wrapper tries the operation
//! without blocking; if it would block, it parks the tasklet and tries again. On a thread without a scheduler, and once
//! the program ends, every hook calls the original.

use std::cell::Cell;

use crate::object::{PyResult, Raised, write_unraisable};
use crate::runtime::Runtime;
use crate::waiters;
use crate::world::GilCell;

mod address;
mod backoff;
mod buffer;
mod buffered;
pub(crate) mod call;
mod dealloc;
mod deep;
mod disk;
mod fcntl;
mod fifo;
mod file;
mod imp;
mod interpreters;
mod linger;
mod lock;
mod lookup;
mod os;
mod path;
pub(crate) mod preempt;
mod process;
mod queue;
mod resolve;
mod rlock;
mod select;
mod semaphore;
pub(crate) mod signal;
mod sigwait;
mod slot;
mod socket;
mod socket_fallback;
mod socket_object;
mod ssl;
mod sys;
pub(crate) mod thread;
mod thread_name;
mod time;

use slot::Hook;

struct State {
    installed: Cell<bool>,
    threads: Cell<bool>,
}

static STATE: GilCell<State> = GilCell::new(State { installed: Cell::new(false), threads: Cell::new(false) });
static TABLE: GilCell<Option<&'static [Hook]>> = GilCell::new(None);

/// The rows in force: those for threads only if threads become tasklets.
fn table() -> &'static [Hook] {
    TABLE.get().get_or_insert_with(|| {
        let rows = [
            time::table(),
            socket::table(),
            socket_fallback::table(),
            linger::table(),
            resolve::table(),
            select::table(),
            lock::table(),
            rlock::table(),
            queue::table(),
            os::table(),
            path::table(),
            process::table(),
            file::table(),
            fcntl::table(),
            imp::table(),
            interpreters::table(),
            buffered::table(),
            ssl::table(),
            semaphore::table(),
            signal::table(),
            sigwait::table(),
            thread::table(),
        ];
        Box::leak(rows.into_iter().flatten().collect::<Vec<_>>().into_boxed_slice())
    })
}

/// The rows that are never taken out again.
fn lasting() -> &'static [Hook] {
    static LASTING: GilCell<Option<&'static [Hook]>> = GilCell::new(None);
    LASTING.get().get_or_insert_with(|| {
        let rows = [
            thread::lasting_table(),
            thread_name::lasting_table(),
            sys::lasting_table(),
            socket::lasting_table(),
            os::lasting_table(),
            deep::table(),
        ];
        Box::leak(rows.into_iter().flatten().collect::<Vec<_>>().into_boxed_slice())
    })
}

/// Puts the rows in place that are never taken out again: when the module is loaded.
///
/// # Errors
/// As for [`install`].
pub(crate) fn install_lasting() -> PyResult<()> {
    lasting().iter().try_for_each(Hook::install)
}

/// Whether hooks are in force.
pub(crate) fn installed() -> bool {
    STATE.get().installed.get()
}

/// Whether new tasklets are threads of their own for Python: idents, thread-locals.
#[inline]
pub(crate) fn threads_are_tasklets() -> bool {
    STATE.get().threads.get()
}

/// Puts every hook in place.
///
/// # Errors
/// `RuntimeError` if this interpreter's objects are not what the hooks expect; nothing is hooked then.
pub(crate) fn install(threads: bool) -> PyResult<()> {
    if installed() {
        STATE.get().threads.set(threads);
        return if threads { signal::start_slicing() } else { signal::stop_slicing() };
    }
    let result = prepare().and_then(|()| table().iter().try_for_each(Hook::install)).and_then(|()| os::sort_sets());
    if let Err(Raised) = result {
        table().iter().for_each(Hook::remove);
        return Err(Raised);
    }
    {
        let state = STATE.get();
        state.installed.set(true);
        state.threads.set(threads);
    }
    if threads { signal::start_slicing() } else { Ok(()) }
}

fn prepare() -> PyResult<()> {
    socket_object::self_check()?;
    select::self_check()?;
    file::self_check()?;
    // Up to 3.12 a lock tells of the end of a thread, later a handle.
    dealloc::watch(&[rlock::WATCHED, if cfg!(Py_3_13) { thread::WATCHED } else { lock::WATCHED }])?;
    thread::watch_ident()?;
    rlock::watch_repr()?;
    buffered::watch_iteration()?;
    socket::watch_finalizers()?;
    signal::take_over()
}

/// Puts every original back.
///
/// While threads that were started as tasklets live, locks and queues stay hooked: they are what such threads and the
/// program wait for each other with, and an original would block the OS thread that both run on, for ever.
pub(crate) fn remove() {
    if !STATE.get().installed.replace(false) {
        return;
    }
    STATE.get().threads.set(false);
    let keep_locks = thread::any();
    let given_back = if keep_locks { Ok(()) } else { rlock::give_back() };
    if given_back.and_then(|()| signal::stop_slicing()).is_err() {
        write_unraisable(None);
    }
    table().iter().filter(|hook| !(keep_locks && hook.joins_tasklets())).for_each(Hook::remove);
    if os::sort_sets().is_err() {
        write_unraisable(None);
    }
    if signal::give_back().is_err() {
        write_unraisable(None);
    }
}

/// In the child of a `fork`, before any Python code: nobody else waits any more, every other thread has ended.
pub(crate) fn forked() {
    Runtime::forget_last();
    if let Some(runtime) = Runtime::current() {
        runtime.promote();
    }
    waiters::clear();
    let me = Runtime::current().map_or(0, |runtime| runtime.me().ptr() as usize);
    buffered::after_fork(me);
    imp::after_fork(me);
    thread::after_fork();
}

/// In the child of a `fork`, as soon as Python code can run.
pub(crate) fn after_fork() {
    preempt::after_fork();
}
