//! The loop of a thread: who runs, on which stack, and what happens when nobody can.
//!
//! ```text
//!   main tasklet's stack             tasklet's stack
//!   ────────────────────             ───────────────
//!   park() ─► switch() ─► drive():
//!                load B, resume ───►  B runs ... park() ─► switch(): suspend
//!                save B         ◄───
//!                head is main: load main, return
//!                ring is empty: idle(): wait without the GIL, unpark who can go on
//! ```
//!
//! The main tasklet is the thread's own stack. Whenever it waits or yields it runs `drive`, which resumes the others one
//! after the other; there is no hub tasklet, so a wait costs one hop.
//!
//! Some C code goes deep without counting: the parser, `marshal`. It runs as an *errand* on the main stack, which has the
//! room that CPython was made for, while its tasklet is suspended and its state stays loaded.
//!
//! # Invariants
//! * **R1**: `current` is the tasklet whose state is loaded, while Python code can run.
//! * **R2**: `drive` runs on the main stack only; it runs no Python code unless main's state is loaded, or, in an errand,
//!   that of the errand's tasklet.
//! * **R3**: every wait may end early (a signal, a wake-up meant for an earlier condition): callers of [`Runtime::park`]
//!   check their condition again.
//! * **R4**: no borrow of a cell is held across [`Runtime::switch`].
//! * **R5**: during an errand nobody switches: the tasklet's own stack is suspended below what runs.
//!
//! This file has the data and its accessors; wait.rs waiting, drive.rs switching, idle.rs what happens in between.

mod drive;
mod idle;
mod run;
mod wait;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

use lissom_fiber::{PoolSettings, StackPool};
use lissom_proactor::{Completion, Proactor, Remote};
use lissom_sched::{ThreadId, Timers};
use pyo3_ffi as ffi;

use crate::object::{self, Exc, Obj, PyResult, Raised};
use crate::signals::SignalPipe;
use crate::tasklet::{Phase, Tasklet};
use crate::tstate::{self, Identity};
use crate::watchdog::Watch;
use crate::world::{self, Token, world};
use crate::{settings, tasklet_type};

pub(crate) use self::run::{Run, Runner};

/// What a timer does.
enum Timer {
    Wake(Token),
    Throw { tasklet: Obj, exception: Obj },
}

/// The scheduler of one OS thread.
pub(crate) struct Runtime {
    thread: ThreadId,
    tstate: *mut ffi::PyThreadState,
    main: Obj,
    /// The tasklet that goes on as main: `main`, or after a `fork` in another tasklet that one.
    chief: Cell<*const Tasklet>,
    current: Cell<*const Tasklet>,
    main_identity: std::cell::UnsafeCell<Identity>,
    identity: Cell<*mut Identity>,
    proactor: RefCell<Proactor>,
    remote: RefCell<Remote>,
    /// What operations that tasklets wait for have had to say, by token; `None` until then.
    answers: RefCell<HashMap<u64, Option<Completion>>>,
    timers: RefCell<Timers<Timer>>,
    stacks: RefCell<StackPool>,
    thread_stacks: RefCell<StackPool>,
    finished: RefCell<Vec<Obj>>,
    runners: RefCell<Vec<Runner>>,
    /// How many `run()` have begun.
    runs: Cell<u64>,
    /// The tasklet that the watchdog has interrupted.
    interrupted: RefCell<Option<Obj>>,
    /// Who goes on first when the running tasklet has ended: it gets that one's exception.
    runs_next: Cell<*const Tasklet>,
    /// Who has switched away when nobody could run: the schedule callback has not been told yet.
    unannounced: RefCell<Option<Obj>>,
    switch_trap: Cell<i32>,
    no_switch: Cell<bool>,
    callback: Cell<bool>,
    /// The switch to come is part of a channel's exchange.
    exchange: Cell<bool>,
    watch: Watch,
    /// The flags of `pickle_flags`.
    pub(crate) pickle_flags: Cell<i64>,
    ident: u64,
    jobs: Cell<usize>,
    ticks: Cell<u32>,
    turn: Cell<u32>,
    clock: Cell<u64>,
    errand: Cell<Option<*mut dyn FnMut()>>,
    on_errand: Cell<bool>,
    idle: Cell<bool>,
    switches: Cell<u64>,
    signals: Option<SignalPipe>,
}

thread_local! {
    static RUNTIME: Cell<*const Runtime> = const { Cell::new(std::ptr::null()) };
}

/// The thread state that was asked for last, and its runtime: nearly every call of a hook comes from the thread of the one
/// before, and a thread-local of a shared library costs a call.
///
/// Both are changed by holders of the GIL of the main interpreter only. Others (in an interpreter with a GIL of its own)
/// read the first, and find that it is not theirs: it is taken back before that state is freed.
static LAST_STATE: AtomicPtr<ffi::PyThreadState> = AtomicPtr::new(std::ptr::null_mut());
static LAST_RUNTIME: AtomicPtr<Runtime> = AtomicPtr::new(std::ptr::null_mut());

/// Nanoseconds of the monotonic clock.
pub(crate) fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is written; the clock always exists (clock_gettime(2)).
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn pool_of(stack_size: usize) -> PyResult<StackPool> {
    let settings = PoolSettings { stack_size, reserve: tstate::RESERVE, ..PoolSettings::default() };
    StackPool::new(settings).map_err(|error| object::memory_error(&error.to_string()))
}

/// The instant `timeout` nanoseconds from now.
pub(crate) fn deadline_in(timeout: u64) -> u64 {
    now().saturating_add(timeout)
}

impl Runtime {
    /// The runtime of the calling thread, if it has one.
    #[inline]
    pub(crate) fn current() -> Option<&'static Runtime> {
        // SAFETY: set by `get`, cleared by `destroy`; both on this thread.
        unsafe { RUNTIME.get().as_ref() }
    }

    /// The runtime of the calling thread, whose state is `ts`; `None` if it belongs to another state, too.
    #[inline]
    pub(crate) fn with_state(ts: *mut ffi::PyThreadState) -> Option<&'static Runtime> {
        if LAST_STATE.load(Relaxed) == ts {
            // SAFETY: the runtime of this state, which is the caller's, so nobody else frees it.
            return unsafe { LAST_RUNTIME.load(Relaxed).as_ref() };
        }
        Runtime::find(ts)
    }

    #[cold]
    #[inline(never)]
    fn find(ts: *mut ffi::PyThreadState) -> Option<&'static Runtime> {
        let runtime = Runtime::current().filter(|runtime| runtime.tstate == ts)?;
        LAST_RUNTIME.store(std::ptr::from_ref(runtime).cast_mut(), Relaxed);
        LAST_STATE.store(ts, Relaxed);
        Some(runtime)
    }

    /// Forgets who was asked for last: a thread ends, or is not in the child of a `fork`.
    pub(crate) fn forget_last() {
        LAST_STATE.store(std::ptr::null_mut(), Relaxed);
        LAST_RUNTIME.store(std::ptr::null_mut(), Relaxed);
    }

    /// The runtime of the calling thread, made at first use.
    pub(crate) fn get() -> PyResult<&'static Runtime> {
        match Runtime::current() {
            Some(runtime) => Ok(runtime),
            None => Runtime::create(),
        }
    }

    // Not inlined: its frame is large, and `get` runs on stacks that should not touch another page.
    #[cold]
    #[inline(never)]
    fn create() -> PyResult<&'static Runtime> {
        let settings = settings::get();
        let stacks = pool_of(settings.stack_size)?;
        let thread_stacks = pool_of(settings.thread_stack_size)?;
        let proactor = Proactor::new(settings.driver).map_err(|error| object::io_error(&error))?;
        let (thread, main_id) = world().add_thread();
        let main = tasklet_type::new_main(main_id)?;
        // SAFETY: the GIL is held, so the thread has a state.
        let ts = unsafe { ffi::PyThreadState_Get() };
        let remote = RefCell::new(proactor.remote());
        let runtime = Box::new(Runtime {
            thread,
            tstate: ts,
            chief: Cell::new(main.ptr().cast()),
            current: Cell::new(main.ptr().cast()),
            main,
            main_identity: std::cell::UnsafeCell::new(Identity::new(0)),
            identity: Cell::new(std::ptr::null_mut()),
            proactor: RefCell::new(proactor),
            remote,
            answers: RefCell::default(),
            timers: RefCell::new(Timers::new()),
            stacks: RefCell::new(stacks),
            thread_stacks: RefCell::new(thread_stacks),
            finished: RefCell::default(),
            runners: RefCell::default(),
            runs: Cell::new(0),
            interrupted: RefCell::default(),
            runs_next: Cell::new(std::ptr::null()),
            unannounced: RefCell::default(),
            switch_trap: Cell::new(0),
            no_switch: Cell::new(false),
            callback: Cell::new(false),
            exchange: Cell::new(false),
            watch: Watch::default(),
            pickle_flags: Cell::new(crate::stackless::default_pickle_flags()),
            // SAFETY: plain call.
            ident: unsafe { libc::pthread_self() },
            jobs: Cell::new(0),
            ticks: Cell::new(0),
            turn: Cell::new(0),
            clock: Cell::new(now()),
            errand: Cell::new(None),
            on_errand: Cell::new(false),
            idle: Cell::new(false),
            switches: Cell::new(0),
            signals: SignalPipe::for_this_thread().map_err(|error| object::io_error(&error))?,
        });
        runtime.identity.set(runtime.main_identity.get());
        if let Some(signals) = &runtime.signals {
            signals.watch(&mut runtime.proactor.borrow_mut());
        }
        let runtime: &'static Runtime = Box::leak(runtime);
        RUNTIME.set(runtime);
        world::set_runtime(thread, runtime);
        crate::lifecycle::end_with_thread()?;
        Ok(runtime)
    }

    /// Frees the runtime of the calling thread, whose tasklets have ended.
    pub(crate) fn destroy(&'static self) {
        RUNTIME.set(std::ptr::null());
        Runtime::forget_last();
        world::set_runtime(self.thread, std::ptr::null());
        self.collect_finished();
        // SAFETY: it runs, so what is saved of it is stale, and must not be taken for its own (K2).
        unsafe { self.root().saved().write(tstate::Saved::running()) };
        world().remove_thread(self.thread);
        // SAFETY: leaked from a box in `create`; no other reference is used after this (RUNTIME, RUNTIMES are cleared).
        drop(unsafe { Box::from_raw(std::ptr::from_ref(self).cast_mut()) });
    }

    pub(crate) fn thread(&self) -> ThreadId {
        self.thread
    }

    pub(crate) fn tstate(&self) -> *mut ffi::PyThreadState {
        self.tstate
    }

    /// The running tasklet (R1).
    #[inline]
    pub(crate) fn me(&self) -> &'static Tasklet {
        // SAFETY: never null; the running tasklet is kept alive by the scheduler (K1) or, if it removed itself, by its
        // own frames' caller in `drive`.
        unsafe { &*self.current.get() }
    }

    /// The main tasklet: the one that signals and uncaught exits are delivered to.
    #[inline]
    pub(crate) fn chief(&self) -> &'static Tasklet {
        // SAFETY: never null; owned by `main`, or the survivor of a fork, which runs until the process ends.
        unsafe { &*self.chief.get() }
    }

    /// The tasklet of the thread's own stack.
    #[inline]
    fn root(&self) -> &'static Tasklet {
        // SAFETY: owned by `self.main`.
        unsafe { &*self.main.ptr().cast::<Tasklet>() }
    }

    /// Whether it is the tasklet of the thread's own stack.
    pub(crate) fn is_root(&self, tasklet: &Tasklet) -> bool {
        std::ptr::eq(tasklet, self.root())
    }

    /// Whether the running tasklet is the main one.
    #[inline]
    pub(crate) fn on_main(&self) -> bool {
        std::ptr::eq(self.current.get(), self.chief.get())
    }

    /// Statistics of the stacks of bare tasklets and of those that stand for threads.
    pub(crate) fn stack_stats(&self) -> [lissom_fiber::Stats; 2] {
        [self.stacks.borrow().stats(), self.thread_stacks.borrow().stats()]
    }

    fn stacks_for(&self, tasklet: &Tasklet) -> &RefCell<StackPool> {
        if tasklet.thread.get() { &self.thread_stacks } else { &self.stacks }
    }

    /// How many bytes of machine stack are left to the running code; `None` on the main stack.
    pub(crate) fn headroom(&self) -> Option<usize> {
        let me = self.me();
        if me.link().is_none() || self.on_errand.get() {
            return None;
        }
        let here = 0_u8;
        // SAFETY: as in `resume`: the fiber stays in place, and only its constant bounds are read.
        let bottom = unsafe { (*me.fiber.as_ptr()).as_ref() }.map(|fiber| fiber.stack().bottom() as usize)?;
        Some((std::ptr::from_ref(&here) as usize).saturating_sub(bottom))
    }

    /// The time when the scheduler last looked at the clock: a cheap stamp for what begins now, late by what has been
    /// computed since the last wait or the last 64 switches.
    #[inline]
    pub(crate) fn clock(&self) -> u64 {
        self.clock.get()
    }

    pub(crate) fn switches(&self) -> u64 {
        self.switches.get()
    }

    /// The pipe that signals write to, on the thread that handles them.
    pub(crate) fn signal_pipe(&self) -> Option<&SignalPipe> {
        self.signals.as_ref()
    }

    /// Wakes the thread if it waits in the OS. From any thread.
    pub(crate) fn wake(&self) {
        self.remote.borrow().wake();
    }

    /// The handle through which blocking threads report.
    pub(crate) fn remote(&self) -> Remote {
        self.remote.borrow().clone()
    }

    /// Counts functions that run in blocking threads for this thread's tasklets.
    pub(crate) fn count_job(&self, change: isize) {
        self.jobs.set(self.jobs.get().checked_add_signed(change).expect("jobs are counted in pairs"));
    }

    /// The system's ident of the thread, as `threading.get_ident` gives it for real threads.
    pub(crate) fn ident(&self) -> u64 {
        self.ident
    }

    /// The count of instructions of this thread.
    #[inline]
    pub(crate) fn watch(&self) -> &Watch {
        &self.watch
    }

    /// Notes whom the watchdog has interrupted.
    pub(crate) fn note_interrupted(&self, tasklet: &Tasklet) {
        self.drop_later(self.interrupted.replace(Some(tasklet.object())));
    }

    /// Says that the switch to come is part of a channel's exchange: a soft interrupt does not touch its order.
    pub(crate) fn begin_exchange(&self) {
        self.exchange.set(true);
    }

    /// Whether it is, once.
    pub(crate) fn no_soft_interrupt(&self) -> bool {
        self.exchange.replace(false)
    }

    /// Whether the thread waits in the operating system.
    pub(crate) fn is_idle(&self) -> bool {
        self.idle.get()
    }

    /// Lets the others run once.
    ///
    /// # Errors
    /// As for [`Runtime::park`].
    #[inline]
    pub(crate) fn schedule(&self) -> PyResult<()> {
        world().rotate(self.thread);
        self.switch()
    }

    /// After `fork`, in the child: the running tasklet takes the place of the main one.
    pub(crate) fn promote(&self) {
        self.chief.set(self.me());
    }

    /// After `fork`, in the child: only the calling tasklet goes on.
    pub(crate) fn after_fork(&self) {
        let me = self.me();
        let old: Vec<Timer> = {
            let mut timers = self.timers.borrow_mut();
            let far = std::iter::from_fn(|| timers.pop_expired(u64::MAX)).collect();
            timers.clear();
            far
        };
        // Their exceptions and tasklets belong to waits that are no more.
        std::mem::forget(old);
        self.jobs.set(0);
        self.answers.borrow_mut().clear();
        self.runners.borrow_mut().clear();
        for tasklet in world::tasklets_of(self.thread) {
            if !std::ptr::eq(tasklet, me) {
                world().remove(tasklet.id());
                if tasklet.phase() == Phase::Started || std::ptr::eq(tasklet, self.root()) {
                    tasklet.set_phase(Phase::Lost);
                }
            }
        }
        if let Err(error) = self.proactor.borrow_mut().after_fork_in_child() {
            eprintln!("lissom: the child of a fork cannot wait: {error}");
        }
        *self.remote.borrow_mut() = self.proactor.borrow().remote();
        if let Some(signals) = &self.signals {
            signals.after_fork(&mut self.proactor.borrow_mut());
        }
    }
}

/// The exception that `raise` raises.
pub(crate) fn exception_of(raise: impl FnOnce() -> Raised) -> Exc {
    let Raised = raise();
    Exc::take()
}
