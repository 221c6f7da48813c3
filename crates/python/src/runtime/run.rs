//! `run()`: who waits in it, what wakes it, and where errors of tasklets go.
//!
//! Every `run()` pushes its caller on a stack and takes it from the queue. When the queue is empty the innermost goes on;
//! errors go to the innermost, too. One that goes on while deeper ones still wait re-queues those. At most one of them, the
//! first with a time limit, is the *watchdog*: the tasklet that an interrupt wakes.

use lissom_sched::State;

use super::Runtime;
use crate::callbacks;
use crate::object::{Exc, Obj, PyResult, Raised};
use crate::tasklet::{Tasklet, Why};
use crate::tstate;
use crate::watchdog;
use crate::world::{self, Token, Wake, world};

/// How to run the others.
#[derive(Clone, Copy, Default)]
pub(crate) struct Run {
    /// Bytecode instructions after which a tasklet is interrupted; 0 for never.
    pub(crate) timeout: i64,
    /// When nothing can run, wait for other threads.
    pub(crate) threadblock: bool,
    /// Do not interrupt: return at the first switch after the time.
    pub(crate) soft: bool,
    /// Interrupt also code that C code has called.
    pub(crate) ignore_nesting: bool,
    /// The timeout counts for the whole run.
    pub(crate) totaltimeout: bool,
    /// An instant at which to return in any case.
    pub(crate) deadline: Option<u64>,
}

/// One caller of `run()`.
#[derive(Clone, Copy)]
pub(crate) struct Runner {
    serial: u64,
    tasklet: *const Tasklet,
    token: Token,
    /// Whether an interrupt wakes it.
    pub(crate) watchdog: bool,
    /// Whether it waits for other threads when nothing can run.
    pub(crate) threadblock: bool,
    /// Whether it returns rather than wait for input, output or time.
    pub(crate) impatient: bool,
}

impl Runner {
    /// The tasklet that waits.
    pub(crate) fn tasklet(&self) -> &'static Tasklet {
        // SAFETY: it waits in `Runtime::run`, whose frame keeps it, and leaves the stack of runners on its way out.
        unsafe { &*self.tasklet }
    }

    /// Whether it waits still: nobody has woken it.
    pub(crate) fn waits(&self) -> bool {
        matches!(world().state(self.tasklet().id()), State::Parked | State::Idle)
    }

    /// Lets it go on.
    pub(crate) fn wake(&self) {
        // Somebody may have inserted it, and somebody else have removed it again: it is paused then.
        if !self.token.unpark(Wake::Settled) && self.waits() {
            self.tasklet().set_wake(Wake::Settled);
            world::make_runnable(self.tasklet());
        }
    }
}

impl Runtime {
    /// Runs the other tasklets; see [`Run`]. Returns the tasklet that was interrupted, if one was.
    ///
    /// # Errors
    /// What ended a tasklet; as for [`Runtime::park`].
    pub(crate) fn run(&self, how: Run) -> PyResult<Option<Obj>> {
        if world().runnable(self.thread) > 1 {
            self.check_trap()?;
        }
        let me = self.me();
        let _keep = me.object();
        let serial = self.runs.get();
        self.runs.set(serial + 1);
        let watchdog = how.timeout > 0 && !self.runners.borrow().iter().any(|runner| runner.watchdog);
        if watchdog {
            watchdog::start(self, &how)?;
        }
        let (threadblock, impatient) = (how.threadblock, how.timeout > 0 && !how.threadblock);
        let runner = Runner { serial, tasklet: me, token: me.begin_wait(), watchdog, threadblock, impatient };
        self.runners.borrow_mut().push(runner);
        // Taken out of the thread state: to end the count calls the interpreter.
        let result = self.wait_in_run(me, serial, how.deadline).map_err(|Raised| Exc::take());
        self.requeue_deeper(serial);
        if watchdog {
            watchdog::stop(self);
        }
        result.map_err(Exc::restore)?;
        // A bomb that somebody has put there is raised; anything else is of no interest.
        drop(me.claim()?);
        let victim = self.interrupted.take();
        if how.soft || victim.is_none() {
            return Ok(None);
        }
        if let Some(victim) = victim.as_ref() {
            // SAFETY: only tasklets are noted as interrupted.
            let tasklet = unsafe { &*victim.ptr().cast::<Tasklet>() };
            world().remove(tasklet.id());
            drop(tasklet.release());
        }
        Ok(victim)
    }

    fn wait_in_run(&self, me: &Tasklet, serial: u64, deadline: Option<u64>) -> PyResult<()> {
        loop {
            // The wait was begun before, so that its token is known.
            let wake = self.park_untrapped(Why::Run, deadline)?;
            let on_stack = self.runners.borrow().iter().any(|runner| runner.serial == serial);
            if wake != Wake::Signal || !on_stack {
                return Ok(());
            }
            // A signal: its handler returned.
            let token = me.begin_wait();
            if let Some(runner) = self.runners.borrow_mut().iter_mut().find(|runner| runner.serial == serial) {
                runner.token = token;
            }
        }
    }

    /// Takes the caller's entry off the stack, and those above it, whose waits end, too.
    fn requeue_deeper(&self, serial: u64) {
        let above = {
            let mut runners = self.runners.borrow_mut();
            let Some(place) = runners.iter().position(|runner| runner.serial == serial) else { return };
            runners.split_off(place)
        };
        above.iter().skip(1).rev().for_each(Runner::wake);
    }

    /// The innermost `run()` that waits.
    pub(crate) fn innermost_runner(&self) -> Option<Runner> {
        self.runners.borrow().last().copied()
    }

    /// The `run()` that an interrupt wakes.
    pub(crate) fn watchdog_runner(&self) -> Option<Runner> {
        self.runners.borrow().iter().copied().find(|runner| runner.watchdog)
    }

    /// The watchdogs as Stackless lists them: the tasklet that an interrupt wakes, or `None`, then all callers of `run()`.
    pub(crate) fn watchdog_list(&self) -> Vec<Obj> {
        let runners = self.runners.borrow();
        let first = runners.iter().find(|runner| runner.watchdog).map_or_else(Obj::none, |r| r.tasklet().object());
        std::iter::once(first).chain(runners.iter().map(|runner| runner.tasklet().object())).collect()
    }

    /// Raises what has ended a tasklet in the innermost `run()`, or else in the main tasklet, which runs next.
    pub(crate) fn deliver(&self, exception: Exc) {
        let target = self.innermost_runner().map_or_else(|| self.chief(), |runner| runner.tasklet());
        let old = target.pending.replace(Some(exception));
        self.drop_later(old.map(|exception| exception.0));
        world::make_runnable(target);
        self.runs_next.set(target);
    }

    /// Whether somebody would run if the running tasklet left the queue: another one that can, or the caller of a `run()`, or
    /// the main tasklet if it is paused.
    pub(crate) fn somebody_would_go_on(&self) -> bool {
        let chief = self.chief();
        let chief_is_paused = !self.on_main() && world().state(chief.id()) == State::Idle;
        chief_is_paused || world().runnable(self.thread) > 1 || self.innermost_runner().is_some()
    }

    /// Puts whom [`Runtime::deliver`] has named at the head of the queue.
    pub(crate) fn promote_next(&self) {
        let next = self.runs_next.replace(std::ptr::null());
        // SAFETY: null, or a tasklet that waits in `run()` or is the main one, and nothing has run since.
        if let Some(next) = unsafe { next.as_ref() } {
            world().make_head(next.id());
        }
    }

    /// Tells of a switch that has begun before it was known who would be next.
    #[cold]
    #[inline(never)]
    pub(super) fn announce(&self, next: &Tasklet) {
        let Some(previous) = self.unannounced.take() else { return };
        // SAFETY: only tasklets are noted.
        let tasklet = unsafe { &*previous.ptr().cast::<Tasklet>() };
        if !std::ptr::eq(tasklet, next) {
            let current = self.current.replace(tasklet);
            callbacks::notify_schedule(self, tasklet, next);
            self.current.set(current);
        }
        self.drop_later(Some(previous));
    }

    /// What precedes a switch while something special is on: the watchdog's count, a soft interrupt, the callback.
    #[cold]
    #[inline(never)]
    pub(super) fn before_switch(&self, me: &Tasklet) {
        watchdog::before_switch(self, me);
        if callbacks::schedule_set() {
            let head = world().head(self.thread);
            match head {
                Some(next) if next == me.id() => {}
                Some(next) => callbacks::notify_schedule(self, me, world::tasklet(next)),
                None => self.drop_later(self.unannounced.replace(Some(me.object()))),
            }
        }
    }

    /// As [`Runtime::before_switch`] for a tasklet that has ended and left the queue.
    #[cold]
    #[inline(never)]
    pub(crate) fn before_end(&self, tasklet: &Tasklet) {
        self.before_switch(tasklet);
        // The callback may have used the thread state of the tasklet once more.
        // SAFETY: T2; every frame of the tasklet is gone.
        unsafe { tstate::finish(self.tstate) };
    }

    /// Refuses what would switch while switches are trapped.
    ///
    /// # Errors
    /// `RuntimeError`.
    #[inline]
    pub(crate) fn check_trap(&self) -> PyResult<()> {
        if callbacks::special() { self.check_trap_slowly() } else { Ok(()) }
    }

    #[cold]
    #[inline(never)]
    fn check_trap_slowly(&self) -> PyResult<()> {
        if self.no_switch.get() {
            return Err(crate::object::runtime_error("a schedule callback must not switch"));
        }
        if self.switch_trap.get() != 0 {
            return Err(crate::object::runtime_error("switch_trap"));
        }
        Ok(())
    }

    /// Changes the level of the switch trap; returns the one before.
    pub(crate) fn change_switch_trap(&self, change: i32) -> i32 {
        let old = self.switch_trap.get();
        let new = old.wrapping_add(change);
        self.switch_trap.set(new);
        if (old == 0) != (new == 0) {
            callbacks::count_special(new != 0);
        }
        old
    }

    /// Until the guard is dropped, what would switch raises.
    pub(crate) fn forbid_switches(&self) -> Guard<'_> {
        Guard { flag: &self.no_switch, before: self.no_switch.replace(true) }
    }

    /// Until the guard is dropped, a channel callback runs.
    pub(crate) fn enter_callback(&self) -> Guard<'_> {
        Guard { flag: &self.callback, before: self.callback.replace(true) }
    }

    /// Whether a channel callback runs.
    pub(crate) fn in_callback(&self) -> bool {
        self.callback.get()
    }
}

/// Restores a flag when it is dropped.
pub(crate) struct Guard<'a> {
    flag: &'a std::cell::Cell<bool>,
    before: bool,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.flag.set(self.before);
    }
}
