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
//! * **R5**: during an errand nobody switches: the tasklet's own stack is suspended below what runs.
//! * **R4**: no borrow of a cell is held across [`Runtime::switch`].

use std::cell::{Cell, RefCell};
use std::time::Duration;

use lissom_fiber::{Fiber, PoolSettings, Progress, StackPool};
use lissom_proactor::{DriverKind, Interest, Op, OpKey, Proactor, Remote};
use lissom_sched::{ThreadId, TimerKey, Timers};
use pyo3_ffi as ffi;

use crate::object::{self, Exc, Obj, PyResult, Raised};
use crate::signals::SignalPipe;
use crate::tasklet::{Phase, Tasklet, Why};
use crate::tstate::{self, Identity};
use crate::world::{self, Token, Wake, world};
use crate::{body, deadlock, settings, tasklet_type};

/// How many resumptions may pass before input and output and timers are looked at although tasklets can run.
const LOOK_EVERY: u32 = 64;

/// How much a tasklet whose calls never have to wait may do before others get their turn.
const TURN: u32 = 64;

/// How often to see whether other threads still exist, when only they could end the waits.
const LOOK_FOR_THREADS: Duration = Duration::from_millis(500);

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
    timers: RefCell<Timers<Timer>>,
    stacks: RefCell<StackPool>,
    thread_stacks: RefCell<StackPool>,
    finished: RefCell<Vec<Obj>>,
    runners: RefCell<Vec<Token>>,
    jobs: Cell<usize>,
    ticks: Cell<u32>,
    turn: Cell<u32>,
    errand: Cell<Option<*mut dyn FnMut()>>,
    on_errand: Cell<bool>,
    switches: Cell<u64>,
    signals: Option<SignalPipe>,
}

thread_local! {
    static RUNTIME: Cell<*const Runtime> = const { Cell::new(std::ptr::null()) };
}

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

    /// The runtime of the calling thread, made at first use.
    pub(crate) fn get() -> PyResult<&'static Runtime> {
        match Runtime::current() {
            Some(runtime) => Ok(runtime),
            None => Runtime::create(),
        }
    }

    fn create() -> PyResult<&'static Runtime> {
        let settings = settings::get();
        let stacks = pool_of(settings.stack_size)?;
        let thread_stacks = pool_of(settings.thread_stack_size)?;
        let proactor = Proactor::new(DriverKind::Auto).map_err(|error| object::io_error(&error))?;
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
            timers: RefCell::new(Timers::new()),
            stacks: RefCell::new(stacks),
            thread_stacks: RefCell::new(thread_stacks),
            finished: RefCell::default(),
            runners: RefCell::default(),
            jobs: Cell::new(0),
            ticks: Cell::new(0),
            turn: Cell::new(0),
            errand: Cell::new(None),
            on_errand: Cell::new(false),
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
        world::set_runtime(self.thread, std::ptr::null());
        self.collect_finished();
        world::set_tasklet(self.root().id(), std::ptr::null_mut());
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

    // ---- waiting -----------------------------------------------------------------------------------------------------

    /// Parks the running tasklet in the wait that [`Tasklet::begin_wait`] has begun, until its token is woken.
    ///
    /// May return [`Wake::Event`] early (R3).
    ///
    /// # Errors
    /// An exception thrown into the tasklet, or raised by a signal handler in the main one.
    pub(crate) fn park(&self, why: Why, deadline: Option<u64>) -> PyResult<Wake> {
        let me = self.me();
        let timer = deadline.map(|deadline| {
            let token = Token::new(me.id(), me.wait_serial());
            self.timers.borrow_mut().insert(deadline, Timer::Wake(token))
        });
        me.set_why(why);
        world().park(me.id());
        let result = self.switch();
        me.set_why(Why::Nothing);
        if let Some(key) = timer {
            self.timers.borrow_mut().remove(key);
        }
        result.map(|()| me.wake())
    }

    /// Waits until `fd` may be ready; see [`Op::Ready`] for `keep`.
    ///
    /// # Errors
    /// As for [`Runtime::park`]. That a descriptor is bad is not reported: the caller's own operation will say so.
    pub(crate) fn wait_ready(&self, fd: i32, interest: Interest, keep: bool, deadline: Option<u64>) -> PyResult<Wake> {
        let why = if interest.contains(Interest::WRITE) { Why::Writable(fd) } else { Why::Readable(fd) };
        self.wait_op(Op::Ready { fd, interest, keep }, why, deadline)
    }

    /// Waits until `fd`, which stands for something with a better name, may be ready.
    ///
    /// # Errors
    /// As for [`Runtime::park`].
    pub(crate) fn wait_ready_for(&self, fd: i32, interest: Interest, why: Why) -> PyResult<Wake> {
        self.wait_op(Op::Ready { fd, interest, keep: false }, why, None)
    }

    fn wait_op(&self, op: Op, why: Why, deadline: Option<u64>) -> PyResult<Wake> {
        let token = self.me().begin_wait();
        let key = self.proactor.borrow_mut().submit(op, token.bits());
        let result = self.park(why, deadline);
        self.proactor.borrow_mut().detach(key);
        result
    }

    /// Waits until one of several descriptors may be ready.
    ///
    /// # Errors
    /// As for [`Runtime::park`].
    pub(crate) fn wait_any(&self, fds: &[(i32, Interest)], deadline: Option<u64>) -> PyResult<Wake> {
        let token = self.me().begin_wait();
        let keys: Vec<OpKey> = {
            let mut proactor = self.proactor.borrow_mut();
            let submit = |&(fd, interest): &_| proactor.submit(Op::Ready { fd, interest, keep: false }, token.bits());
            fds.iter().map(submit).collect()
        };
        let result = self.park(Why::Descriptors(fds.len()), deadline);
        let mut proactor = self.proactor.borrow_mut();
        for key in keys {
            proactor.detach(key);
        }
        result
    }

    /// Gives access to the proactor for bookkeeping that neither waits nor runs Python.
    #[inline]
    pub(crate) fn proactor<R>(&self, body: impl FnOnce(&mut Proactor) -> R) -> R {
        body(&mut self.proactor.borrow_mut())
    }

    /// Throws `exception` into `tasklet` at `deadline`, unless the timer is removed before.
    pub(crate) fn throw_at(&self, deadline: u64, tasklet: Obj, exception: Obj) -> TimerKey {
        self.timers.borrow_mut().insert(deadline, Timer::Throw { tasklet, exception })
    }

    /// Removes a timer of [`Runtime::throw_at`]. Returns whether it had not fired yet.
    pub(crate) fn remove_timer(&self, key: TimerKey) -> bool {
        let timer = self.timers.borrow_mut().remove(key);
        timer.is_some()
    }

    // ---- switching ---------------------------------------------------------------------------------------------------

    /// Lets whoever is at the head of the ring run; returns when the running tasklet is resumed.
    ///
    /// # Errors
    /// An exception thrown into the tasklet, or raised by a signal handler in the main one.
    #[inline]
    pub(crate) fn switch(&self) -> PyResult<()> {
        if self.on_errand.get() {
            return Err(object::runtime_error(
                "a tasklet cannot wait or switch in code that the compiler or marshal calls",
            ));
        }
        let me = self.me();
        if world().head(self.thread) == Some(me.id()) {
            // Alone, or first again: what would end the waits of others has to be seen all the same.
            self.tick();
        }
        if world().head(self.thread) != Some(me.id()) {
            match me.link() {
                // SAFETY: the link is that of the running tasklet, and this code runs on its stack.
                Some(link) => unsafe { Fiber::suspend(link) },
                None => self.drive_from_main()?,
            }
        }
        self.resumed(me)
    }

    /// Counts work that did not have to wait. Who floods an always ready socket, or polls, must not starve the others.
    ///
    /// # Errors
    /// As for [`Runtime::park`].
    #[inline]
    pub(crate) fn take_turn(&self, cost: u32) -> PyResult<()> {
        let turn = self.turn.get() + cost;
        self.turn.set(turn);
        if turn <= TURN { Ok(()) } else { self.end_turn() }
    }

    #[cold]
    fn end_turn(&self) -> PyResult<()> {
        self.turn.set(0);
        self.look();
        let others = world().runnable(self.thread) > 1;
        if others { self.schedule() } else { Ok(()) }
    }

    /// What a tasklet does first when it goes on.
    #[inline]
    fn resumed(&self, me: &Tasklet) -> PyResult<()> {
        self.turn.set(0);
        if !self.finished.borrow().is_empty() {
            self.collect_finished();
        }
        if me.signalled.get() {
            crate::signals::handle(self, me)?;
        }
        // Bound apart from the test: restoring runs no code, but the borrow must end first (R4).
        let pending = if me.pending.borrow().is_some() { me.pending.take() } else { None };
        match pending {
            None => Ok(()),
            Some(exception) => Err(exception.restore()),
        }
    }

    /// Has a reference dropped by the tasklet that runs next.
    pub(crate) fn drop_later(&self, object: Option<Obj>) {
        self.finished.borrow_mut().extend(object);
    }

    /// Drops the scheduler's references to tasklets that have finished; their finalisers may run.
    fn collect_finished(&self) {
        loop {
            let finished = self.finished.take();
            if finished.is_empty() {
                return;
            }
            drop(finished);
        }
    }

    fn drive_from_main(&self) -> PyResult<()> {
        let Some(signals) = &self.signals else {
            self.drive();
            return Ok(());
        };
        // From here on every signal leaves a byte in the pipe, which ends any wait. Those that came before are handled
        // now (signals.rs explains why none is lost in between).
        // SAFETY: the GIL is held.
        let handled = signals.install().and_then(|()| object::check(unsafe { ffi::PyErr_CheckSignals() }));
        if handled.is_err() {
            signals.release();
            let me = self.me();
            world::make_runnable(me);
            world().make_head(me.id());
            return handled;
        }
        self.drive();
        signals.release();
        Ok(())
    }

    /// Runs other tasklets until the main one is at the head of the ring. On the main stack (R2).
    fn drive(&self) {
        let root = self.root();
        // SAFETY: T2: this thread's state; the main tasklet runs and is saved here.
        unsafe { tstate::save(self.tstate, &mut *root.saved()) };
        // The tasklet whose state the thread state holds, null after it finished.
        let mut loaded: *const Tasklet = std::ptr::null();
        loop {
            self.tick();
            let head = world().head(self.thread);
            let Some(id) = head else {
                self.load(root, loaded);
                loaded = root;
                self.idle();
                // SAFETY: T2; main's state is loaded.
                unsafe { tstate::save(self.tstate, &mut *root.saved()) };
                continue;
            };
            let next = world::tasklet(id);
            if std::ptr::eq(next, root) {
                self.load(root, loaded);
                return;
            }
            if next.phase() == Phase::Ready && !self.start(next, &mut loaded) {
                continue;
            }
            self.load(next, loaded);
            loaded = next;
            self.switches.set(self.switches.get() + 1);
            if self.resume(next) == Progress::Suspended {
                // SAFETY: T2; `next` ran until now.
                unsafe { tstate::save(self.tstate, &mut *next.saved()) };
            } else {
                self.retire(next);
                loaded = std::ptr::null();
            }
        }
    }

    /// Makes `next` the tasklet whose state is loaded (R1).
    #[inline]
    fn load(&self, next: &Tasklet, _loaded: *const Tasklet) {
        let identity = next.identity().unwrap_or(self.main_identity.get());
        let from = self.identity.get();
        if identity != from {
            // SAFETY: T2; both identities are alive: a tasklet is kept until another one's has been loaded (`retire`).
            unsafe { tstate::exchange_identity(self.tstate, &mut *from, &*identity) };
            self.identity.set(identity);
        }
        // SAFETY: T2; the state of a tasklet that does not run (K2).
        unsafe { tstate::load(self.tstate, &*next.saved()) };
        self.current.set(next);
    }

    /// Runs `body` on the main stack, with the running tasklet's state; on the main stack itself, at once.
    pub(crate) fn on_main_stack<R>(&self, body: impl FnOnce() -> R) -> R {
        let Some(link) = self.me().link().filter(|_| !self.on_errand.get()) else { return body() };
        let mut body = Some(body);
        let mut result = None;
        let mut errand = || result = body.take().map(|body| body());
        let errand: *mut dyn FnMut() = &mut errand;
        // SAFETY: only the lifetime changes; `drive` runs the errand while this frame is suspended below, and forgets it.
        self.errand.set(Some(unsafe { std::mem::transmute::<*mut dyn FnMut(), *mut (dyn FnMut() + 'static)>(errand) }));
        // SAFETY: the link of the running tasklet, on its own stack.
        unsafe { Fiber::suspend(link) };
        result.expect("drive has run the errand")
    }

    /// Whether the running code is an errand (R5).
    #[inline]
    pub(crate) fn on_errand(&self) -> bool {
        self.on_errand.get()
    }

    #[cold]
    fn run_errand(&self, errand: *mut dyn FnMut()) {
        // SAFETY: T2; the main tasklet does not run, and this code is on its stack.
        let bounds = unsafe { tstate::exchange_bounds(self.tstate, (*self.root().saved()).bounds()) };
        self.on_errand.set(true);
        // SAFETY: the closure lives in the suspended frame of `on_main_stack`.
        unsafe { (*errand)() };
        self.on_errand.set(false);
        // SAFETY: T2; the tasklet is resumed next.
        unsafe { tstate::exchange_bounds(self.tstate, bounds) };
    }

    #[inline]
    fn resume(&self, tasklet: &Tasklet) -> Progress {
        let fiber = tasklet.fiber.as_ptr();
        // SAFETY: the fiber stays in place while it runs: only this thread's `drive` takes it out, when it has finished.
        // A `RefCell` borrow would span the switch (R4).
        let fiber = unsafe { (*fiber).as_mut() }.expect("a started tasklet has a fiber (K2)");
        loop {
            // SAFETY: resumed on the thread it started on; what it refers to is kept by its frames.
            let progress = unsafe { fiber.resume() };
            match self.errand.take() {
                None => return progress,
                Some(errand) => self.run_errand(errand),
            }
        }
    }

    /// Gives a ready tasklet a stack. Returns false if there is none: the tasklet has failed then.
    fn start(&self, tasklet: &Tasklet, loaded: &mut *const Tasklet) -> bool {
        let stack = self.stacks_for(tasklet).borrow_mut().take();
        let stack = match stack {
            Ok(stack) => stack,
            Err(error) => {
                // Python code will run, so a state has to be loaded (R2).
                let root = self.root();
                self.load(root, *loaded);
                *loaded = root;
                body::fail(self, tasklet, &error.to_string());
                // SAFETY: T2; main's state is loaded.
                unsafe { tstate::save(self.tstate, &mut *root.saved()) };
                return false;
            }
        };
        let (low, high) = (stack.bottom() as usize, stack.top() as usize);
        // SAFETY: the saved state of a tasklet that does not run holds its context until now (K2); the reserve belongs
        // to the stack, which lives until the tasklet has finished.
        unsafe {
            let context = (*tasklet.saved()).context();
            let fresh = tstate::Saved::fresh(self.tstate, stack.reserved(), low, high, context);
            tasklet.saved().write(fresh);
        }
        let address = tasklet.ptr() as usize;
        // SAFETY: resumed on this thread only; the depth of Python code is limited by the bounds in `Saved`.
        let fiber = unsafe { Fiber::new(stack, move |link| body::enter(address, link)) };
        *tasklet.fiber.borrow_mut() = Some(fiber);
        tasklet.set_phase(Phase::Started);
        true
    }

    /// Takes back what a finished tasklet ran on.
    fn retire(&self, tasklet: &Tasklet) {
        let fiber = tasklet.fiber.borrow_mut().take();
        if let Some(fiber) = fiber {
            self.stacks_for(tasklet).borrow_mut().give(fiber.into_stack());
        }
        tasklet.set_link(None);
        // SAFETY: what it owned was dropped at its end (`tstate::finish`), so the saved words are stale.
        unsafe { tasklet.saved().write(tstate::Saved::running()) };
        if let Some(object) = tasklet.release() {
            self.finished.borrow_mut().push(object);
        }
        if !std::ptr::eq(self.root(), self.chief()) && std::ptr::eq(tasklet, self.chief()) {
            // The child of a fork has run its only tasklet to the end, as the only thread of a process does.
            // SAFETY: ends the process at once.
            unsafe { libc::_exit(0) };
        }
    }

    // ---- idling ------------------------------------------------------------------------------------------------------

    /// Waits, without the GIL, until somebody can run. Main's state is loaded.
    fn idle(&self) {
        let chief = self.chief();
        let wait = if self.timers.borrow().is_empty() && self.nothing_pending() {
            match self.settle() {
                Some(wait) => wait,
                None => return,
            }
        } else {
            self.until_next_timer()
        };
        let result = {
            let mut proactor = self.proactor.borrow_mut();
            object::detached(|| proactor.wait(wait))
        };
        if let Err(error) = result {
            *chief.pending.borrow_mut() = Some(exception_of(|| object::io_error(&error)));
            world::make_runnable(chief);
        } else if matches!(result, Ok(lissom_proactor::Wait::Interrupted)) && self.signals.is_some() {
            self.signalled();
        }
        self.harvest();
    }

    /// Whether no operation is under way that could wake somebody by itself.
    fn nothing_pending(&self) -> bool {
        let own = usize::from(self.signals.is_some());
        let proactor = self.proactor.borrow();
        proactor.pending() <= own && proactor.finished() == 0 && self.jobs.get() == 0
    }

    fn until_next_timer(&self) -> Option<Duration> {
        let next = self.timers.borrow().next_deadline();
        next.map(|deadline| Duration::from_nanos(deadline.saturating_sub(now())))
    }

    /// Nobody can run and nothing is pending: ends a `run()`, reports a deadlock, or says how long to wait for others.
    fn settle(&self) -> Option<Option<Duration>> {
        let others = deadlock::other_threads_exist();
        let runner = self.runners.borrow().last().copied();
        if let Some(runner) = runner
            && !(others && deadlock::partner_may_come(self.thread))
        {
            runner.unpark(Wake::Settled);
            return None;
        }
        if others {
            // The last of them may end without a word.
            return Some(Some(LOOK_FOR_THREADS));
        }
        if deadlock::signal_may_come(self.signals.is_some()) {
            return Some(None);
        }
        let chief = self.chief();
        *chief.pending.borrow_mut() = Some(deadlock::error(self.thread, chief));
        world::make_runnable(chief);
        None
    }

    /// Counts a switch; every so often looks at input, output and timers.
    #[inline]
    fn tick(&self) {
        let ticks = self.ticks.get().wrapping_add(1);
        self.ticks.set(ticks);
        if ticks.is_multiple_of(LOOK_EVERY) {
            self.look();
        }
    }

    /// Looks at input, output and timers without waiting, because tasklets can run.
    pub(crate) fn look(&self) {
        if !self.nothing_pending() || self.signals.is_some() {
            // An error here will come again when the thread waits.
            let _ = self.proactor.borrow_mut().wait(Some(Duration::ZERO));
        }
        self.harvest();
    }

    /// Unparks those whose operations have finished or whose deadlines have passed.
    fn harvest(&self) {
        loop {
            let next = self.proactor.borrow_mut().next();
            let Some(completion) = next else { break };
            match &self.signals {
                Some(signals) if completion.token == SignalPipe::TOKEN => {
                    if signals.drain(&mut self.proactor.borrow_mut()) {
                        self.signalled();
                    }
                }
                _ => {
                    Token::from_bits(completion.token).unpark(Wake::Event);
                }
            }
        }
        if self.timers.borrow().is_empty() {
            return;
        }
        let now = now();
        loop {
            let expired = self.timers.borrow_mut().pop_expired(now);
            match expired {
                None => break,
                Some(Timer::Wake(token)) => {
                    token.unpark(Wake::Deadline);
                }
                Some(Timer::Throw { tasklet, exception }) => self.expire(tasklet, exception),
            }
        }
    }

    fn expire(&self, tasklet: Obj, exception: Obj) {
        // SAFETY: `throw_at` is only given tasklets.
        let target = unsafe { &*tasklet.ptr().cast::<Tasklet>() };
        if target.alive() || std::ptr::eq(target, self.root()) {
            let replaced = target.pending.replace(Some(Exc(exception)));
            world::make_runnable(target);
            // Dropped where Python code may run.
            self.finished.borrow_mut().extend(replaced.map(|exception| exception.0));
        } else {
            self.finished.borrow_mut().push(exception);
        }
        self.finished.borrow_mut().push(tasklet);
    }

    /// A signal has arrived: the main tasklet runs the handlers, whatever it waits for.
    fn signalled(&self) {
        let chief = self.chief();
        chief.signalled.set(true);
        world::make_runnable(chief);
    }

    // ---- public operations -------------------------------------------------------------------------------------------

    /// Runs the other tasklets until none can run or waits for input, output, time or another thread, or the deadline has
    /// passed.
    ///
    /// # Errors
    /// As for [`Runtime::park`].
    pub(crate) fn run(&self, deadline: Option<u64>) -> PyResult<()> {
        loop {
            let token = self.me().begin_wait();
            self.runners.borrow_mut().push(token);
            let result = self.park(Why::Run, deadline);
            self.runners.borrow_mut().retain(|&runner| runner != token);
            if result? != Wake::Event {
                return Ok(());
            }
        }
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
