//! The state that all threads of the process share: the scheduler's data and the objects behind its ids.
//!
//! It is guarded by the GIL. A borrow lasts for one call and never spans code that could run Python, release the GIL or
//! switch; breaking that rule panics in the `RefCell` instead of corrupting memory.

use std::cell::{RefCell, RefMut};

use lissom_sched::{State, TaskletId, ThreadId, World};

use crate::runtime::Runtime;
use crate::tasklet::Tasklet;

/// A value that only the holder of the GIL touches.
pub(crate) struct GilCell<T>(RefCell<T>);

// SAFETY: the GIL serialises every access (object.rs, I1); free-threaded builds are refused at build time.
unsafe impl<T> Sync for GilCell<T> {}

impl<T> GilCell<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(RefCell::new(value))
    }

    /// Borrows the value. See the module's rule.
    #[inline]
    pub(crate) fn get(&self) -> RefMut<'_, T> {
        self.0.borrow_mut()
    }
}

static WORLD: GilCell<World> = GilCell::new(World::new());
static TASKLETS: GilCell<Vec<*mut Tasklet>> = GilCell::new(Vec::new());
static RUNTIMES: GilCell<Vec<*const Runtime>> = GilCell::new(Vec::new());

/// The scheduler's data.
#[inline]
pub(crate) fn world() -> RefMut<'static, World> {
    WORLD.get()
}

/// Says which object `id` stands for; null takes it back.
pub(crate) fn set_tasklet(id: TaskletId, tasklet: *mut Tasklet) {
    let mut tasklets = TASKLETS.get();
    if tasklets.len() <= id.index() {
        tasklets.resize(id.index() + 1, std::ptr::null_mut());
    }
    tasklets[id.index()] = tasklet;
}

/// Forgets a tasklet whose object is being freed, unless its thread has taken it back before.
pub(crate) fn forget(id: TaskletId, tasklet: *mut Tasklet) {
    let known = {
        let mut tasklets = TASKLETS.get();
        std::ptr::eq(tasklets[id.index()], tasklet) && {
            tasklets[id.index()] = std::ptr::null_mut();
            true
        }
    };
    if known {
        world().remove_tasklet(id);
    }
}

/// The tasklet with this id.
#[inline]
pub(crate) fn tasklet(id: TaskletId) -> &'static Tasklet {
    let tasklet = TASKLETS.get()[id.index()];
    assert!(!tasklet.is_null(), "a tasklet id outlived its tasklet");
    // SAFETY: entries are taken back before their object is freed (Tasklet's dealloc).
    unsafe { &*tasklet }
}

/// All tasklets of the process.
pub(crate) fn all_tasklets() -> Vec<&'static Tasklet> {
    let all: Vec<*mut Tasklet> = TASKLETS.get().iter().copied().filter(|tasklet| !tasklet.is_null()).collect();
    // SAFETY: as in `tasklet`.
    all.into_iter().map(|tasklet| unsafe { &*tasklet }).collect()
}

/// All tasklets of a thread.
pub(crate) fn tasklets_of(thread: ThreadId) -> Vec<&'static Tasklet> {
    let all = all_tasklets();
    let world = world();
    all.into_iter().filter(|tasklet| world.thread_of(tasklet.id()) == Some(thread)).collect()
}

/// Says which runtime drives `thread`; null takes it back.
pub(crate) fn set_runtime(thread: ThreadId, runtime: *const Runtime) {
    let mut runtimes = RUNTIMES.get();
    if runtimes.len() <= thread.index() {
        runtimes.resize(thread.index() + 1, std::ptr::null());
    }
    runtimes[thread.index()] = runtime;
}

/// The runtime that drives `thread`, unless the thread has ended.
pub(crate) fn runtime_of(thread: ThreadId) -> Option<&'static Runtime> {
    let runtime = *RUNTIMES.get().get(thread.index())?;
    // SAFETY: entries are taken back before the runtime is freed.
    unsafe { runtime.as_ref() }
}

/// The runtimes of all threads.
pub(crate) fn runtimes() -> Vec<&'static Runtime> {
    // SAFETY: as in `runtime_of`.
    RUNTIMES.get().iter().filter_map(|runtime| unsafe { runtime.as_ref() }).collect()
}

/// The thread with this ident, if it has a scheduler.
pub(crate) fn thread_with(ident: u64) -> Option<ThreadId> {
    let runtimes = RUNTIMES.get();
    // SAFETY: as in `runtime_of`.
    let mut runtimes = runtimes.iter().filter_map(|runtime| unsafe { runtime.as_ref() });
    runtimes.find(|runtime| runtime.ident() == ident).map(Runtime::thread)
}

/// Why a parked tasklet goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    /// What it waits for may have happened: it has to look.
    Event,
    /// A signal has come in, and its handler has returned: it has to look.
    Signal,
    /// A partner on a channel has come.
    Met,
    /// Its deadline has passed.
    Deadline,
    /// It waits in `run()`, and nothing is left to run or to wait for.
    Settled,
}

/// Names one wait of one tasklet: later waits of the same tasklet have other tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Token(u64);

impl Token {
    pub(crate) fn new(id: TaskletId, serial: u32) -> Token {
        Token(u64::from(serial) << 32 | id.index() as u64)
    }

    pub(crate) fn from_bits(bits: u64) -> Token {
        Token(bits)
    }

    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    /// The tasklet, if this wait is still the one it is in.
    fn waiter(self) -> Option<&'static Tasklet> {
        let index = (self.0 & u64::from(u32::MAX)) as usize;
        let tasklet = *TASKLETS.get().get(index)?;
        // SAFETY: as in `tasklet`.
        let tasklet = unsafe { tasklet.as_ref() }?;
        (tasklet.wait_serial() == (self.0 >> 32) as u32).then_some(tasklet)
    }

    /// Makes the tasklet runnable if it still is in this wait. Returns whether it was.
    ///
    /// Works from any thread; the thread of the tasklet is woken if it waits.
    pub(crate) fn unpark(self, wake: Wake) -> bool {
        let Some(tasklet) = self.waiter() else { return false };
        if !world().unpark(tasklet.id()) {
            return false;
        }
        tasklet.set_wake(wake);
        wake_thread_of(tasklet);
        true
    }
}

/// Wakes the thread of `tasklet` if it is another one than the caller's: its queue has changed.
pub(crate) fn wake_thread_of(tasklet: &Tasklet) {
    let Some(thread) = world().thread_of(tasklet.id()) else { return };
    if Runtime::current().is_some_and(|runtime| runtime.thread() == thread) {
        return;
    }
    if let Some(runtime) = runtime_of(thread) {
        runtime.wake();
    }
}

/// Takes a waiting or paused tasklet out of where it is and queues it; one whose thread has ended stays as it is.
pub(crate) fn make_runnable(tasklet: &Tasklet) {
    {
        let mut world = world();
        if world.state(tasklet.id()) == State::Queued || world.thread_of(tasklet.id()).is_none() {
            return;
        }
        world.remove(tasklet.id());
        world.insert(tasklet.id());
    }
    tasklet.hold();
    wake_thread_of(tasklet);
}
