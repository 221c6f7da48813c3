//! Functions in pools of blocking threads, waited for by a tasklet.
//!
//! Each kind of work has a pool of its own ([`Lane`]), so that a thousand look-ups of a name server that does not answer keep
//! neither a file nor a call of the user's waiting, and what waits for somebody else's deed never takes the thread that the
//! deed needs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use lissom_proactor::{Pool, PoolSettings};
use pyo3_ffi as ffi;

use crate::object::{Exc, Obj, PyResult, Raised, runtime_error};
use crate::runtime::Runtime;
use crate::tasklet::{Outcome, Why};
use crate::world::GilCell;

/// A kind of work, with threads of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Calls of `lissom.offload`.
    User,
    /// Name resolution: waits for servers, hardly computes.
    Names,
    /// What waits for a disk and is no operation of the driver's.
    Disk,
    /// What waits until another process, thread or tasklet does something. It ends when that is done and not before, so each
    /// call has a thread: with a limit, those that wait would keep the one out that they wait for.
    Others,
}

impl Lane {
    const COUNT: usize = 4;

    /// Threads at most.
    const fn max_threads(self) -> usize {
        match self {
            Lane::User | Lane::Disk => 16,
            Lane::Names => 32,
            Lane::Others => usize::MAX,
        }
    }
}

static POOLS: GilCell<[Option<Pool>; Lane::COUNT]> = GilCell::new([const { None }; Lane::COUNT]);

/// The process's pool for this work, made at first use.
fn pool(lane: Lane) -> Pool {
    let settings = || PoolSettings { max_threads: lane.max_threads(), ..PoolSettings::default() };
    POOLS.get()[lane as usize].get_or_insert_with(|| Pool::new(settings())).clone()
}

/// Ends the threads of the pools, waiting for those that are in the middle of something.
pub(crate) fn shutdown() {
    let pools = std::mem::replace(&mut *POOLS.get(), [const { None }; Lane::COUNT]);
    for pool in pools.into_iter().flatten() {
        crate::object::detached(|| pool.shutdown(true));
    }
}

/// After `fork`, in the child: the pools have no threads.
pub(crate) fn after_fork() {
    for pool in POOLS.get().iter_mut().flatten() {
        pool.after_fork_in_child();
    }
}

/// Where a job leaves its result, and whom it wakes.
struct Place<R> {
    value: Option<R>,
    token: u64,
}

fn lock<R>(place: &Mutex<Place<R>>) -> std::sync::MutexGuard<'_, Place<R>> {
    place.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `job`, which touches no Python object, in a blocking thread; other tasklets run meanwhile.
///
/// # Errors
/// `RuntimeError` if no thread can be had; what is thrown into the tasklet while it waits: the job goes on then, and its
/// result is dropped by the blocking thread.
pub(crate) fn run<R: Send + 'static>(
    runtime: &Runtime,
    lane: Lane,
    job: impl FnOnce() -> R + Send + 'static,
) -> PyResult<R> {
    let place = Arc::new(Mutex::new(Place { value: None, token: runtime.me().begin_wait().bits() }));
    let result = Arc::clone(&place);
    let remote = runtime.remote();
    let started = pool(lane).spawn(move || {
        let value = job();
        let mut place = lock(&result);
        place.value = Some(value);
        remote.post(place.token, 0);
    });
    if let Err(error) = started {
        return Err(runtime_error(&format!("no thread for a blocking call: {error}")));
    }
    runtime.count_job(1);
    let waited = wait(runtime, &place);
    runtime.count_job(-1);
    waited
}

fn wait<R>(runtime: &Runtime, place: &Mutex<Place<R>>) -> PyResult<R> {
    loop {
        {
            // Each wait has a token of its own (R3), so the job is told the one in force, under the lock that it takes
            // to report: it either finds this token or has left its value already.
            let mut place = lock(place);
            if let Some(value) = place.value.take() {
                return Ok(value);
            }
            place.token = runtime.me().begin_wait().bits();
        }
        runtime.park(Why::Job, None)?;
    }
}

/// A Python call to be made on another thread.
struct Call {
    func: Obj,
    args: Obj,
    kwargs: Option<Obj>,
}

impl Call {
    fn make(&self) -> Outcome {
        let kwargs = self.kwargs.as_ref().map_or(std::ptr::null_mut(), Obj::ptr);
        // SAFETY: a callable, a tuple, and a dict or null.
        let value = Obj::owned(unsafe { ffi::PyObject_Call(self.func.ptr(), self.args.ptr(), kwargs) });
        value.map_err(|Raised| Exc::take())
    }
}

/// Python objects on their way between threads; used and dropped only with the GIL held.
struct Carry<T>(T);

// SAFETY: whoever unpacks or drops it holds the GIL (object.rs, I2); see `call`.
unsafe impl<T> Send for Carry<T> {}

impl<T> Carry<T> {
    fn into_inner(self) -> T {
        self.0
    }
}

/// Calls `func(*args, **kwargs)` in a blocking thread that is a real Python thread meanwhile.
///
/// # Errors
/// What the function raises, and as for [`run`]. If something is thrown into the tasklet before a thread has begun with the
/// call, it is not made at all; but those of the user's are, as `lissom.offload` says.
pub(crate) fn call(runtime: &Runtime, lane: Lane, func: Obj, args: Obj, kwargs: Option<Obj>) -> PyResult<Obj> {
    call_between(runtime, lane, func, args, kwargs, || {}, || {})
}

/// [`call`], with something done on that thread before and after it.
///
/// # Errors
/// As there.
pub(crate) fn call_between(
    runtime: &Runtime,
    lane: Lane,
    func: Obj,
    args: Obj,
    kwargs: Option<Obj>,
    before: impl FnOnce() + Send + 'static,
    after: impl FnOnce() + Send + 'static,
) -> PyResult<Obj> {
    let call = Carry(Call { func, args, kwargs });
    let withdrawn = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&withdrawn);
    let place: Arc<Mutex<Carry<Option<Outcome>>>> = Arc::new(Mutex::new(Carry(None)));
    let result = Arc::clone(&place);
    let done = run(runtime, lane, move || {
        // SAFETY: this thread has no thread state, or one of an earlier call; the pair attaches and detaches it.
        let state = unsafe { ffi::PyGILState_Ensure() };
        let call = call.into_inner();
        if !flag.load(Ordering::Relaxed) {
            before();
            let outcome = call.make();
            after();
            *result.lock().unwrap_or_else(PoisonError::into_inner) = Carry(Some(outcome));
        }
        drop(call);
        // With the GIL: if the waiter has left, this drops the outcome.
        drop(result);
        // SAFETY: pairs with the call above.
        unsafe { ffi::PyGILState_Release(state) };
    });
    if done.is_err() && lane != Lane::User {
        withdrawn.store(true, Ordering::Relaxed);
    }
    done?;
    let outcome = std::mem::replace(&mut *place.lock().unwrap_or_else(PoisonError::into_inner), Carry(None));
    match outcome.into_inner() {
        Some(Ok(value)) => Ok(value),
        Some(Err(exception)) => Err(exception.restore()),
        None => Err(runtime_error("the call left no result: please report this")),
    }
}
