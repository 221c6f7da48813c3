//! Switching: the loop on the main stack that resumes one tasklet after the other (R1, R2, R4, R5).

use lissom_fiber::{Fiber, Progress};
use pyo3_ffi as ffi;

use super::Runtime;
use crate::body;
use crate::callbacks;
use crate::object::{self, Obj, PyResult};
use crate::tasklet::{Carried, Phase, Tasklet};
use crate::tstate;
use crate::watchdog;
use crate::world::{self, Wake, world};

/// How much a tasklet whose calls never have to wait may do before others get their turn.
const TURN: u32 = 64;

impl Runtime {
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
        if callbacks::special() {
            self.before_switch(me);
        }
        let mut first = world().head(self.thread);
        if first == Some(me.id()) {
            // Alone, or first again: what would end the waits of others has to be seen all the same.
            self.tick();
            first = world().head(self.thread);
        }
        if first != Some(me.id()) {
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
    #[inline(never)]
    pub(super) fn end_turn(&self) -> PyResult<()> {
        self.turn.set(0);
        if callbacks::special() && self.check_trap().is_err() {
            // Nobody asked for this switch.
            object::clear_error();
            return Ok(());
        }
        self.look();
        let others = world().runnable(self.thread) > 1;
        if others { self.schedule() } else { Ok(()) }
    }

    /// What a tasklet does first when it goes on.
    #[inline]
    pub(super) fn resumed(&self, me: &Tasklet) -> PyResult<()> {
        self.turn.set(0);
        if !self.finished.borrow().is_empty() {
            self.collect_finished();
        }
        if callbacks::special() {
            watchdog::attach();
        }
        if me.signalled.get() {
            // A handler may wait itself.
            let wake = me.wake();
            crate::signals::handle(self, me)?;
            me.set_wake(wake);
        }
        match me.pending.take() {
            None => Ok(()),
            Some(exception) => {
                // The exception stands in the place of what the call would have returned.
                self.drop_later(match me.carried.replace(Carried::Nothing) {
                    Carried::Value(value) => Some(value),
                    Carried::Itself | Carried::Nothing => None,
                });
                Err(exception.restore())
            }
        }
    }

    /// Has a reference dropped by the tasklet that runs next.
    pub(crate) fn drop_later(&self, object: Option<Obj>) {
        self.finished.borrow_mut().extend(object);
    }

    /// Drops the scheduler's references to tasklets that have finished; their finalisers may run.
    #[inline(never)]
    pub(super) fn collect_finished(&self) {
        loop {
            let finished = self.finished.take();
            if finished.is_empty() {
                return;
            }
            drop(finished);
        }
    }

    #[inline(never)]
    pub(super) fn drive_from_main(&self) -> PyResult<()> {
        let Some(signals) = &self.signals else {
            self.drive();
            return Ok(());
        };
        // From here on every signal leaves a byte in the pipe, which ends any wait. Those that came before are handled
        // now (signals.rs explains why none is lost in between).
        let me = self.me();
        let wait = me.wait_serial();
        // SAFETY: the GIL is held.
        let handled = signals.install().and_then(|()| object::check(unsafe { ffi::PyErr_CheckSignals() }));
        // A handler that waited itself has ended the wait that was to begin here: its token is stale (R3).
        if handled.is_err() || me.wait_serial() != wait {
            me.set_wake(Wake::Event);
            signals.release();
            world::make_runnable(me);
            world().make_head(me.id());
            return handled;
        }
        self.drive();
        signals.release();
        Ok(())
    }

    /// Runs other tasklets until the main one is at the head of the ring. On the main stack (R2).
    pub(super) fn drive(&self) {
        let root = self.root();
        // SAFETY: T2: this thread's state; the main tasklet runs and is saved here.
        unsafe { tstate::save(self.tstate, &mut *root.saved()) };
        // The tasklet whose state the thread state holds, null after it finished.
        let mut loaded: *const Tasklet = std::ptr::null();
        // Who has run last; null after it has ended.
        let mut last: *const Tasklet = root;
        loop {
            self.tick();
            let head = world().head(self.thread);
            let Some(id) = head else {
                if self.glance() {
                    continue;
                }
                self.load(root, loaded);
                loaded = root;
                self.idle(last);
                // SAFETY: T2; main's state is loaded.
                unsafe { tstate::save(self.tstate, &mut *root.saved()) };
                continue;
            };
            let next = world::tasklet(id);
            if callbacks::special() && self.unannounced.borrow().is_some() {
                // Python code will run, so a state has to be loaded (R2).
                self.load(root, loaded);
                loaded = root;
                self.announce(next);
                // SAFETY: T2; main's state is loaded.
                unsafe { tstate::save(self.tstate, &mut *root.saved()) };
                continue;
            }
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
                last = next;
            } else {
                self.retire(next);
                loaded = std::ptr::null();
                last = std::ptr::null();
            }
        }
    }

    /// Makes `next` the tasklet whose state is loaded (R1).
    #[inline]
    pub(super) fn load(&self, next: &Tasklet, _loaded: *const Tasklet) {
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
    pub(super) fn run_errand(&self, errand: *mut dyn FnMut()) {
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
    pub(super) fn resume(&self, tasklet: &Tasklet) -> Progress {
        let fiber = tasklet.fiber.as_ptr();
        // SAFETY: the fiber stays in place while it runs: only this thread's `drive` takes it out, when it has finished.
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
    #[inline(never)]
    pub(super) fn start(&self, tasklet: &Tasklet, loaded: &mut *const Tasklet) -> bool {
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
            let mut fresh = tstate::Saved::fresh(self.tstate, stack.reserved(), low, high, context);
            if (*tasklet.saved()).is_traced() {
                fresh.inherit_tracers(&*tasklet.saved());
            }
            tasklet.saved().write(fresh);
        }
        let address = tasklet.ptr() as usize;
        // SAFETY: resumed on this thread only; the depth of Python code is limited by the bounds in `Saved`.
        let fiber = unsafe { Fiber::new(stack, move |link| body::enter(address, link)) };
        drop(tasklet.fiber.replace(Some(fiber)));
        tasklet.set_phase(Phase::Started);
        true
    }

    /// Takes back what a finished tasklet ran on.
    #[inline(never)]
    pub(super) fn retire(&self, tasklet: &Tasklet) {
        let fiber = tasklet.fiber.take();
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
}
