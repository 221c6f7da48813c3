//! Idling: what happens when nobody can run, and what is looked at while somebody can.

use std::time::Duration;

use lissom_proactor::Completion;
use lissom_sched::State;

use super::{Runtime, Timer, exception_of, now};
use crate::deadlock;
use crate::object::{self, Exc, Obj};
use crate::signals::SignalPipe;
use crate::tasklet::Tasklet;
use crate::world::{self, Token, Wake, world};

/// How many resumptions may pass before input and output and timers are looked at although tasklets can run.
const LOOK_EVERY: u32 = 64;

/// How often to see whether other threads still exist, when only they could end the waits.
const LOOK_FOR_THREADS: Duration = Duration::from_millis(500);

impl Runtime {
    /// Waits, without the GIL, until somebody can run. Main's state is loaded.
    #[inline(never)]
    pub(super) fn idle(&self, last: *const Tasklet) {
        let chief = self.chief();
        if self.innermost_runner().is_some_and(|runner| runner.impatient) {
            return self.end_impatient_run();
        }
        let wait = if self.timers.borrow().is_empty() && self.nothing_pending() {
            match self.settle(last) {
                Some(wait) => wait,
                None => return,
            }
        } else {
            self.until_next_timer()
        };
        let result = {
            let mut proactor = self.proactor.borrow_mut();
            self.idle.set(true);
            let result = object::detached(|| proactor.wait(wait));
            self.idle.set(false);
            result
        };
        if let Err(error) = result {
            self.drop_later(chief.pending.replace(Some(exception_of(|| object::io_error(&error)))).map(|old| old.0));
            world::make_runnable(chief);
        } else if matches!(result, Ok(lissom_proactor::Wait::Interrupted)) && self.signals.is_some() {
            self.signalled();
        }
        self.harvest();
    }

    /// Whether no operation is under way that could wake somebody by itself.
    pub(super) fn nothing_pending(&self) -> bool {
        let own = usize::from(self.signals.is_some());
        let proactor = self.proactor.borrow();
        proactor.pending() <= own && proactor.finished() == 0 && self.jobs.get() == 0
    }

    pub(super) fn until_next_timer(&self) -> Option<Duration> {
        let next = self.timers.borrow().next_deadline();
        next.map(|deadline| Duration::from_nanos(deadline.saturating_sub(now())))
    }

    /// Nobody can run at this moment: a `run()` with a time limit does not wait for what is pending.
    #[cold]
    fn end_impatient_run(&self) {
        self.look();
        let nobody = world().head(self.thread).is_none();
        if nobody && let Some(runner) = self.innermost_runner() {
            runner.wake();
        }
    }

    /// Nobody can run and nothing is pending: ends a `run()`, reports a deadlock, or says how long to wait for others.
    ///
    /// `last` is who has run last, null after it has ended: then a `run()` does not wait for other threads.
    #[inline(never)]
    pub(super) fn settle(&self, last: *const Tasklet) -> Option<Option<Duration>> {
        let others = deadlock::other_threads_exist(self.tstate);
        if let Some(runner) = self.innermost_runner()
            && !(others && (runner.threadblock && !last.is_null() || deadlock::partner_may_come(self.thread)))
        {
            runner.wake();
            return None;
        }
        let chief = self.chief();
        let paused = world().state(chief.id()) == State::Idle;
        if paused {
            // It has left the queue by itself and is what is left of the thread.
            world::make_runnable(chief);
            return None;
        }
        if others {
            // The last of them may end without a word.
            return Some(Some(LOOK_FOR_THREADS));
        }
        if deadlock::signal_may_come(self.thread, self.signals.is_some()) {
            return Some(None);
        }
        // SAFETY: a tasklet that has run last and has not ended is kept by whatever list it is in, or by its paused
        // state's owner; it was not freed, as nothing has run since.
        let last = unsafe { last.as_ref() };
        let (target, error) = deadlock::error(self.thread, chief, last);
        self.drop_later(target.pending.replace(Some(error)).map(|old| old.0));
        world::make_runnable(target);
        None
    }

    /// Counts a switch; every so often looks at input, output and timers.
    #[inline]
    pub(super) fn tick(&self) {
        let ticks = self.ticks.get().wrapping_add(1);
        self.ticks.set(ticks);
        if ticks.is_multiple_of(LOOK_EVERY) {
            self.look();
        }
    }

    /// Looks at input, output and timers without waiting, because tasklets can run.
    #[inline(never)]
    pub(crate) fn look(&self) {
        // The interpreter itself notices signals while Python code runs.
        if !self.nothing_pending() {
            // An error here will come again when the thread waits.
            let _ = self.proactor.borrow_mut().wait(Some(Duration::ZERO));
        }
        self.harvest();
    }

    /// Nobody can run: looks whether an operation has finished already, before the thread gets ready to wait and gives the
    /// GIL away. Returns whether somebody can run now.
    ///
    /// Not while other threads may want the GIL: a busy loop would keep it from them.
    #[inline(never)]
    pub(super) fn glance(&self) -> bool {
        if self.nothing_pending() || self.jobs.get() > 0 || deadlock::other_threads_exist(self.tstate) {
            return false;
        }
        self.look();
        world().head(self.thread).is_some()
    }

    /// Unparks those whose operations have finished or whose deadlines have passed.
    #[inline(never)]
    pub(super) fn harvest(&self) {
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
                    let token = completion.token;
                    self.answer(completion);
                    Token::from_bits(token).unpark(Wake::Event);
                }
            }
        }
        let now = now();
        self.clock.set(now);
        if self.timers.borrow().is_empty() {
            return;
        }
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

    /// Keeps what an operation has to say for the tasklet that carries it out, if one does.
    #[inline]
    fn answer(&self, completion: Completion) {
        let mut answers = self.answers.borrow_mut();
        if answers.is_empty() {
            return;
        }
        if let Some(answer) = answers.get_mut(&completion.token) {
            *answer = Some(completion);
        }
    }

    #[inline(never)]
    pub(super) fn expire(&self, tasklet: Obj, exception: Obj) {
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
    pub(super) fn signalled(&self) {
        let chief = self.chief();
        chief.signalled.set(true);
        let queued = world().state(chief.id()) == State::Queued;
        if !queued {
            chief.set_wake(Wake::Signal);
        }
        world::make_runnable(chief);
    }
}
