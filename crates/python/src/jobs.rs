//! Functions in the pool of blocking threads, waited for by a tasklet.

use std::sync::{Arc, Mutex, PoisonError};

use lissom_proactor::{Pool, PoolSettings};
use pyo3_ffi as ffi;

use crate::object::{Exc, Obj, PyResult, Raised, runtime_error};
use crate::runtime::Runtime;
use crate::tasklet::{Outcome, Why};
use crate::world::GilCell;

/// Who makes a call: each has threads of its own, so that look-ups that get no answer hold up nothing else.
#[derive(Clone, Copy)]
pub(crate) enum Crew {
    /// Name resolution.
    Names,
    /// `lissom.offload` and whatever else has no asynchronous form.
    Calls,
}

/// The process's pools, by crew, each made at first use.
static POOLS: GilCell<[Option<Pool>; 2]> = GilCell::new([None, None]);

fn pool(crew: Crew) -> Pool {
    POOLS.get()[crew as usize].get_or_insert_with(|| Pool::new(PoolSettings::default())).clone()
}

/// Ends the threads of the pool, waiting for those that are in the middle of something.
pub(crate) fn shutdown() {
    let pools = std::mem::take(&mut *POOLS.get());
    for pool in pools.into_iter().flatten() {
        crate::object::detached(|| pool.shutdown(true));
    }
}

/// After `fork`, in the child: the pool has no threads.
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
    crew: Crew,
    job: impl FnOnce() -> R + Send + 'static,
) -> PyResult<R> {
    let place = Arc::new(Mutex::new(Place { value: None, token: runtime.me().begin_wait().bits() }));
    let result = Arc::clone(&place);
    let remote = runtime.remote();
    let started = pool(crew).spawn(move || {
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
/// What the function raises, and as for [`run`].
pub(crate) fn call(runtime: &Runtime, func: Obj, args: Obj, kwargs: Option<Obj>) -> PyResult<Obj> {
    call_between(runtime, Crew::Calls, func, args, kwargs, || {}, || {})
}

/// Calls `func(*args, **kwargs)`, which resolves a name, as [`call`] does.
///
/// # Errors
/// As there.
pub(crate) fn look_up(runtime: &Runtime, func: Obj, args: Obj, kwargs: Option<Obj>) -> PyResult<Obj> {
    call_between(runtime, Crew::Names, func, args, kwargs, || {}, || {})
}

/// [`call`], with something done on that thread before and after it.
///
/// # Errors
/// As there.
pub(crate) fn call_between(
    runtime: &Runtime,
    crew: Crew,
    func: Obj,
    args: Obj,
    kwargs: Option<Obj>,
    before: impl FnOnce() + Send + 'static,
    after: impl FnOnce() + Send + 'static,
) -> PyResult<Obj> {
    let call = Carry(Call { func, args, kwargs });
    let place: Arc<Mutex<Carry<Option<Outcome>>>> = Arc::new(Mutex::new(Carry(None)));
    let result = Arc::clone(&place);
    run(runtime, crew, move || {
        // SAFETY: this thread has no thread state, or one of an earlier call; the pair attaches and detaches it.
        let state = unsafe { ffi::PyGILState_Ensure() };
        let Call { func, args, kwargs } = call.into_inner();
        let kwargs_ptr = kwargs.as_ref().map_or(std::ptr::null_mut(), Obj::ptr);
        before();
        // SAFETY: a callable, a tuple, and a dict or null.
        let value = Obj::owned(unsafe { ffi::PyObject_Call(func.ptr(), args.ptr(), kwargs_ptr) });
        after();
        let outcome = value.map_err(|Raised| Exc::take());
        drop((func, args, kwargs));
        *result.lock().unwrap_or_else(PoisonError::into_inner) = Carry(Some(outcome));
        // With the GIL: if the waiter has left, this drops the outcome.
        drop(result);
        // SAFETY: pairs with the call above.
        unsafe { ffi::PyGILState_Release(state) };
    })?;
    let outcome = std::mem::replace(&mut *place.lock().unwrap_or_else(PoisonError::into_inner), Carry(None));
    match outcome.into_inner() {
        Some(Ok(value)) => Ok(value),
        Some(Err(exception)) => Err(exception.restore()),
        None => Err(runtime_error("the call left no result: please report this")),
    }
}
