//! Waiting: for a wake-up, a descriptor, a deadline.

use lissom_proactor::{Completion, Interest, Op, OpKey, Proactor};
use lissom_sched::{ChannelId, Direction, TimerKey};

use super::{Runtime, Timer};
use crate::object::{Obj, PyResult};
use crate::tasklet::Why;
use crate::world::{Token, Wake, world};

impl Runtime {
    /// Parks the running tasklet in the wait that [`Tasklet::begin_wait`] has begun, until its token is woken.
    ///
    /// May return [`Wake::Event`] early (R3).
    ///
    /// # Errors
    /// An exception thrown into the tasklet, or raised by a signal handler in the main one.
    pub(crate) fn park(&self, why: Why, deadline: Option<u64>) -> PyResult<Wake> {
        self.check_trap()?;
        self.park_untrapped(why, deadline)
    }

    /// As [`Runtime::park`], for callers that have looked at the switch trap themselves.
    ///
    /// # Errors
    /// As for [`Runtime::park`].
    pub(super) fn park_untrapped(&self, why: Why, deadline: Option<u64>) -> PyResult<Wake> {
        self.park_selecting(why, deadline, &[])
    }

    /// As [`Runtime::park`]; a partner on one of these channels ends the wait, too.
    ///
    /// # Errors
    /// As for [`Runtime::park`].
    #[inline]
    pub(crate) fn park_selecting(
        &self,
        why: Why,
        deadline: Option<u64>,
        cases: &[(ChannelId, Direction)],
    ) -> PyResult<Wake> {
        let me = self.me();
        let timer = deadline.map(|deadline| {
            let token = Token::new(me.id(), me.wait_serial());
            self.timers.borrow_mut().insert(deadline, Timer::Wake(token))
        });
        me.set_why(why);
        me.set_since(self.clock());
        world().park(me.id());
        if !cases.is_empty() {
            world().select(me.id(), cases);
        }
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

    pub(super) fn wait_op(&self, op: Op, why: Why, deadline: Option<u64>) -> PyResult<Wake> {
        let token = self.me().begin_wait();
        let key = self.proactor.borrow_mut().submit(op, token.bits());
        let result = self.park(why, deadline);
        self.proactor.borrow_mut().detach(key);
        result
    }

    /// Waits until an operation is done, and returns all it has to say.
    ///
    /// # Errors
    /// What is thrown into the tasklet: the operation is cancelled then, and what it holds is freed when nobody uses it.
    pub(crate) fn carry(&self, op: Op, why: Why) -> PyResult<Completion> {
        self.check_trap()?;
        let me = self.me();
        let token = me.begin_wait().bits();
        self.answers.borrow_mut().insert(token, None);
        let key = self.proactor.borrow_mut().submit(op, token);
        loop {
            if self.proactor.borrow().finished() > 0 {
                self.harvest();
            }
            if matches!(self.answers.borrow().get(&token), Some(Some(_))) {
                break;
            }
            // The token stays the same when the wait ends early (R3): the operation knows it.
            me.set_wake(Wake::Event);
            if let Err(raised) = self.park_untrapped(why, None) {
                self.answers.borrow_mut().remove(&token);
                self.proactor.borrow_mut().detach(key);
                return Err(raised);
            }
        }
        let answer = self.answers.borrow_mut().remove(&token).flatten();
        Ok(answer.expect("the loop has found it"))
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
}
