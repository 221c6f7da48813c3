//! The blocking pool: native threads for work that has no asynchronous form.
//!
//! Threads are started on demand, one for each job that finds no idle thread, up to the limit; they
//! end after a time without work. They block all signals, so that handlers run on the threads
//! that expect them.
//!
//! - I1: the only unsafe code is the change of the signal mask around the start of a thread; the
//!   mask of the starting thread is restored before anything else runs on it.
//!
//! ```text
//!   spawn: started --> working <--> idle --> ended (idle for too long, or shut down)
//! ```

use std::any::Any;
use std::collections::VecDeque;
use std::mem::{self, MaybeUninit};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{fmt, io, ptr};

type Job = Box<dyn FnOnce() + Send>;

/// How a [`Pool`] is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSettings {
    /// Threads at most; 0 counts as 1. Default: 16.
    pub max_threads: usize,
    /// For how long an idle thread waits for work before it ends. Default: 10 seconds.
    pub idle: Duration,
    /// Stack of each thread, in bytes; rounded up to what the system demands. Default: 1 MiB
    /// (name resolution through the C library's plug-ins needs a few hundred KiB).
    pub stack_size: usize,
}

impl Default for PoolSettings {
    fn default() -> PoolSettings {
        PoolSettings { max_threads: 16, idle: Duration::from_secs(10), stack_size: 1 << 20 }
    }
}

/// What a [`Pool`] is doing, and has done.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Threads alive.
    pub threads: usize,
    /// Threads without work.
    pub idle: usize,
    /// Jobs that wait for a thread.
    pub queued: usize,
    /// Threads ever started.
    pub started: u64,
    /// Jobs that have ended, panics included.
    pub finished: u64,
    /// Jobs that ended by a panic.
    pub panicked: u64,
}

/// Why a job was not taken.
#[derive(Debug)]
#[non_exhaustive]
pub enum PoolError {
    /// The pool has been shut down.
    Closed,
    /// The system refuses the pool's first thread (`EAGAIN`: a limit on threads or memory).
    Thread(io::Error),
}

impl fmt::Display for PoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PoolError::Closed => f.write_str("the blocking pool has been shut down"),
            PoolError::Thread(error) => {
                write!(f, "the blocking pool cannot start a thread: {error}")
            }
        }
    }
}

impl std::error::Error for PoolError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            PoolError::Closed => None,
            PoolError::Thread(error) => Some(error),
        }
    }
}

/// A pool of native threads. A handle: clones share the threads. When the last handle goes, the
/// pool shuts down without waiting.
///
/// # Examples
/// ```
/// use lissom_proactor::{Pool, PoolSettings};
/// let pool = Pool::new(PoolSettings::default());
/// let (tell, told) = std::sync::mpsc::channel();
/// pool.spawn(move || tell.send(6 * 7).unwrap()).unwrap();
/// assert_eq!(told.recv(), Ok(42));
/// pool.shutdown(true);
/// ```
#[derive(Clone)]
pub struct Pool {
    handle: Arc<Handle>,
}

/// What all clones of a `Pool` share, and the threads do not: its drop means "no handle is left".
struct Handle {
    shared: Arc<Shared>,
}

struct Shared {
    settings: PoolSettings,
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    threads: Vec<JoinHandle<()>>,
    closed: bool,
    stats: PoolStats,
}

impl Pool {
    /// Makes a pool; starts no thread yet.
    #[must_use]
    pub fn new(settings: PoolSettings) -> Pool {
        let state = Mutex::new(State::default());
        let shared = Arc::new(Shared { settings, state, work: Condvar::new() });
        Pool { handle: Arc::new(Handle { shared }) }
    }

    /// Runs `job` on a thread of the pool, when one is free. Jobs begin in order of submission.
    ///
    /// A panic in `job` ends the job only; it is reported by the panic hook and counted.
    ///
    /// # Errors
    /// [`PoolError`]; the job is then dropped.
    pub fn spawn(&self, job: impl FnOnce() + Send + 'static) -> Result<(), PoolError> {
        let shared = &self.handle.shared;
        let job: Job = Box::new(job);
        let mut state = shared.lock();
        if state.closed {
            drop(state); // before the job, whose drop is the caller's code
            return Err(PoolError::Closed);
        }
        state.queue.push_back(job);
        let enough = state.stats.idle >= state.queue.len() || state.stats.threads >= shared.settings.max_threads.max(1);
        if enough {
            shared.work.notify_one();
            return Ok(());
        }
        let Err(error) = shared.start_thread(&mut state) else {
            return Ok(());
        };
        if state.stats.threads > 0 {
            // The others will come to it.
            return Ok(());
        }
        let job = state.queue.pop_back();
        drop(state);
        drop(job);
        Err(PoolError::Thread(error))
    }

    /// What the pool is doing.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        let state = self.handle.shared.lock();
        PoolStats { queued: state.queue.len(), ..state.stats }
    }

    /// Shuts the pool down: nothing is taken any more. With `wait`, returns when all jobs, queued
    /// ones included, and all threads have ended (but does not wait for the calling thread, should
    /// that be one of the pool's). Without, queued jobs are dropped, and threads end after the job
    /// they are running.
    pub fn shutdown(&self, wait: bool) {
        self.handle.shared.shutdown(wait);
    }

    /// Makes this handle fit for use in the child of a fork(2), which has none of the pool's
    /// threads: gives it a new pool with the same settings. Queued and running jobs are the
    /// parent's; what they own stays allocated in the child. Other handles of the old pool must
    /// not be used in the child; the last of them not even dropped, as it would take a lock that a
    /// thread may have held at the fork. (This one is leaked for that reason.)
    pub fn after_fork_in_child(&mut self) {
        // The settings are outside of the lock, which a thread may have held at the fork.
        let fresh = Pool::new(self.handle.shared.settings.clone());
        mem::forget(mem::replace(self, fresh));
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("settings", &self.handle.shared.settings).finish()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.shutdown(false);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while holding it, jobs run outside.
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn start_thread(self: &Arc<Self>, state: &mut State) -> io::Result<()> {
        state.threads.retain(|thread| !thread.is_finished());
        let shared = Arc::clone(self);
        let builder = thread::Builder::new().name("lissom-pool".into()).stack_size(self.settings.stack_size);
        let thread = with_signals_blocked(|| builder.spawn(move || shared.work()))?;
        state.threads.push(thread);
        state.stats.threads += 1;
        state.stats.started += 1;
        Ok(())
    }

    /// The life of a thread.
    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.queue.pop_front() {
                drop(state);
                let ended = catch_unwind(AssertUnwindSafe(job));
                let panicked = u64::from(ended.is_err());
                drop_quietly(ended);
                state = self.lock();
                state.stats.finished += 1;
                state.stats.panicked += panicked;
                continue;
            }
            if state.closed {
                break;
            }
            state.stats.idle += 1;
            let (woken, waited) = match self.work.wait_timeout(state, self.settings.idle) {
                Ok(pair) => pair,
                Err(poisoned) => poisoned.into_inner(),
            };
            state = woken;
            state.stats.idle -= 1;
            if waited.timed_out() && state.queue.is_empty() {
                break;
            }
        }
        state.stats.threads -= 1;
    }

    fn shutdown(&self, wait: bool) {
        let mut state = self.lock();
        state.closed = true;
        let dropped = if wait { VecDeque::new() } else { mem::take(&mut state.queue) };
        let threads = mem::take(&mut state.threads);
        drop(state);
        self.work.notify_all();
        // Outside the lock: what a job owns may be anything.
        drop(dropped);
        if wait {
            let me = thread::current().id();
            for thread in threads.into_iter().filter(|thread| thread.thread().id() != me) {
                // Jobs' panics are caught; there is nothing to learn.
                let _ = thread.join();
            }
        }
    }
}

/// Drops what a job panicked with, which may itself panic.
fn drop_quietly(ended: Result<(), Box<dyn Any + Send>>) {
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(ended))) {
        mem::forget(again);
    }
}

/// Runs `start` with all signals blocked on this thread: a thread started meanwhile inherits that
/// (pthread_create(3)), so there is no moment in which a handler could run on it.
fn with_signals_blocked<T>(start: impl FnOnce() -> T) -> T {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: writable for one set.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: `all` was filled by sigfillset, which cannot fail for a valid pointer; `before` is
    // writable.
    let error = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) };
    let result = start();
    if error == 0 {
        // SAFETY: `before` was filled in by the call that succeeded.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut()) };
    }
    result
}
