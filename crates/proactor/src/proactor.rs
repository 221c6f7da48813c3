//! The proactor: submit, wait, next.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::attempt::{Attempt, attempt};
use crate::carry;
use crate::driver::{Cargo, Driver, DriverKind, Event, Outcome};
use crate::fds::FdTable;
use crate::life::{Carrier, Life};
use crate::ops::{Ops, Work};
use crate::remote::{self, Letter, Mail};
use crate::{Completion, Errno, Op, OpKey, Pool, PoolSettings, Remote, nonblock};

/// How a [`Proactor::wait`] ended.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Wait {
    /// [`Proactor::next`] has at least one completion.
    Finished,
    /// [`Remote::wake`] was called; there is no completion.
    Woken,
    /// The timeout passed; there is no completion.
    TimedOut,
    /// A signal handler ran during the wait, or the kernel had other business with the thread (the end of a ring). There
    /// may be completions as well.
    Interrupted,
}

/// Carries ops out for one thread: submit them, wait, take completions.
///
/// One per OS thread. It may move to another thread, but is used by one at a time; others reach
/// it through a [`Remote`]. Completions come out in the order in which their ops finished.
///
/// Dropping it with ops in flight is safe: none completes any more, their buffers are freed once
/// nobody uses them, and jobs that run in the pool run on.
///
/// # Examples
/// See the [crate's documentation](crate).
pub struct Proactor {
    // First, hence dropped first: rule 8 of the contract of drivers.
    pub(crate) driver: Box<dyn Driver>,
    pub(crate) keeps: bool,
    pub(crate) ops: Ops,
    pub(crate) fds: FdTable,
    mail: Arc<Mail>,
    pool: Option<Pool>,
    events: Vec<Event>,
    letters: Vec<Letter>,
    /// Not `Sync`.
    one_thread: PhantomData<Cell<()>>,
}

impl Proactor {
    /// Makes a proactor with a driver of the given kind.
    ///
    /// # Errors
    /// What the operating system says when it refuses a descriptor (`EMFILE`, `ENFILE`, `ENOMEM`).
    pub fn new(kind: DriverKind) -> io::Result<Proactor> {
        Proactor::with_driver(kind.open()?)
    }

    /// Makes a proactor with a driver of the caller's own.
    ///
    /// # Errors
    /// As [`Proactor::new`].
    pub fn with_driver(mut driver: Box<dyn Driver>) -> io::Result<Proactor> {
        let mail = remote::mailbox()?;
        driver.attach(mail.bell().fd())?;
        Ok(Proactor {
            keeps: driver.keeps(),
            driver,
            ops: Ops::new(),
            fds: FdTable::default(),
            mail,
            pool: None,
            events: Vec::new(),
            letters: Vec::new(),
            one_thread: PhantomData,
        })
    }

    /// Uses `pool` for [`Op::Blocking`] and for files from now on. Without it the proactor makes a
    /// pool of its own when it first needs one.
    pub fn set_pool(&mut self, pool: Pool) {
        self.pool = Some(pool);
    }

    /// Submits an op. Never blocks: the op is tried at once where that cannot block, so it may be
    /// finished on return. Errors are reported by its completion, which carries `token`.
    pub fn submit(&mut self, op: Op, token: u64) -> OpKey {
        let key = self.ops.insert(op, token, Life::Idle);
        self.begin(key);
        key
    }

    /// Submits an op that ends at `deadline`: it then completes with [`Errno::TIMED_OUT`] unless
    /// it has finished before. A deadline in the past still leaves it one attempt.
    pub fn submit_by(&mut self, op: Op, token: u64, deadline: Instant) -> OpKey {
        let key = self.submit(op, token);
        if !matches!(self.ops.slot(key.index).life, Life::Finished(_)) {
            self.ops.set_deadline(key.index, deadline);
        }
        key
    }

    /// Asks for the end of an op. It still completes exactly once: with [`Errno::CANCELED`], or
    /// with its real result if that came first. False if the key is stale.
    ///
    /// A job that runs in the pool runs on; its op completes now, and without its buffer.
    pub fn cancel(&mut self, key: OpKey) -> bool {
        let Some(index) = self.ops.find(key) else {
            return false;
        };
        self.end(index, Errno::CANCELED);
        true
    }

    /// Ends an op without a completion, finished or not; what it holds is freed as soon as nobody
    /// uses it. False if the key is stale.
    ///
    /// Constant time and without a system call for an op that waits for readiness. (One with a
    /// deadline also leaves the heap of deadlines: logarithmic at worst.)
    pub fn detach(&mut self, key: OpKey) -> bool {
        let Some(index) = self.ops.find(key) else {
            return false;
        };
        match &mut self.ops.slot(index).life {
            Life::Parked => {
                self.leave_descriptor(index);
                self.ops.free(index);
            }
            Life::Idle => self.ops.free(index),
            Life::Carried(Carrier::Pool(withdrawn)) => {
                withdrawn.store(true, Ordering::Relaxed);
                self.ops.free(index);
            }
            Life::Carried(Carrier::Driver) => {
                self.leave_driver(index, Errno::CANCELED, false);
            }
            Life::Leaving { deliver, .. } => *deliver = false,
            Life::Finished(_) => self.ops.discard_finished(index),
        }
        true
    }

    /// Takes the first completion.
    #[allow(clippy::should_implement_trait, reason = "not an iterator: more may come later")]
    pub fn next(&mut self) -> Option<Completion> {
        self.ops.pop_finished()
    }

    /// Ops in flight: submitted and not finished. Those that were detached while their driver
    /// still owned their buffer count until it has let go.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.ops.pending()
    }

    /// Completions that `next` would return now.
    #[must_use]
    pub fn finished(&self) -> usize {
        self.ops.finished()
    }

    /// The nearest deadline of an op in flight.
    #[must_use]
    pub fn nearest_deadline(&self) -> Option<Instant> {
        self.ops.nearest_deadline()
    }

    /// A handle by which other threads reach this proactor.
    #[must_use]
    pub fn remote(&self) -> Remote {
        Remote(Arc::clone(&self.mail))
    }

    /// The name of the driver in use.
    #[must_use]
    pub fn driver_name(&self) -> &'static str {
        self.driver.name()
    }

    /// Why it is not the driver that [`DriverKind::Auto`] would rather have, if it is not.
    #[must_use]
    pub fn driver_note(&self) -> Option<&str> {
        self.driver.note()
    }

    /// Waits in the operating system until an op finishes, [`Remote::wake`] is called, a signal
    /// handler runs or `timeout` passes (`None`: never; zero: only look). With completions to be
    /// had already it only looks for more.
    ///
    /// Runs no code of the caller's and, in steady state, allocates nothing. Events that finish no
    /// op do not end the wait.
    ///
    /// # Errors
    /// Only what no program can cause: an invalid driver descriptor, for one. A signal is not an
    /// error.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<Wait> {
        let look_only = timeout == Some(Duration::ZERO);
        let limit = timeout.filter(|_| !look_only).and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let (interrupted, called) = self.turn(look_only, limit)?;
            if interrupted {
                return Ok(Wait::Interrupted);
            }
            if self.ops.finished() > 0 {
                return Ok(Wait::Finished);
            }
            if called {
                return Ok(Wait::Woken);
            }
            if look_only || limit.is_some_and(|limit| Instant::now() >= limit) {
                return Ok(Wait::TimedOut);
            }
        }
    }

    /// One visit to the operating system: whether a signal interrupted it, whether it was woken.
    fn turn(&mut self, look_only: bool, limit: Option<Instant>) -> io::Result<(bool, bool)> {
        let mut nap = self.nap(look_only, limit);
        if nap != Some(Duration::ZERO) && !self.mail.may_sleep() {
            nap = Some(Duration::ZERO);
        }
        let mut events = mem::take(&mut self.events);
        let waited = self.driver.wait(nap, &mut events);
        let found = self.mail.awake();
        for event in events.drain(..) {
            match event {
                Event::Ready { fd, generation, readiness } => {
                    self.report(fd, generation, readiness);
                }
                Event::Part { key, outcome } => self.carried_in_part(key, outcome),
                Event::Done { key, outcome } => self.carried_out(key, outcome),
            }
        }
        self.events = events;
        if found.letters {
            self.read_letters();
        }
        // After the events: a result that came in the same turn comes before its deadline.
        if self.ops.nearest_deadline().is_some() {
            self.expire(Instant::now());
        }
        match waited {
            Ok(()) => Ok((false, found.called)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok((true, found.called)),
            Err(error) => Err(error),
        }
    }

    /// How long the driver may block.
    fn nap(&self, look_only: bool, limit: Option<Instant>) -> Option<Duration> {
        if look_only || self.ops.finished() > 0 {
            return Some(Duration::ZERO);
        }
        let deadline = self.ops.nearest_deadline();
        let end = match (deadline, limit) {
            (Some(deadline), Some(limit)) => Some(deadline.min(limit)),
            (one, other) => one.or(other),
        };
        end.map(|end| end.saturating_duration_since(Instant::now()))
    }

    fn read_letters(&mut self) {
        let mut letters = mem::take(&mut self.letters);
        self.mail.take(&mut letters);
        for letter in letters.drain(..) {
            match letter {
                Letter::Post { token, result } => {
                    let key = self.ops.insert(Op::Nop, token, Life::Idle);
                    let failed = Errno::from_code(result.saturating_neg());
                    let result = if result < 0 { Err(failed) } else { Ok(result) };
                    self.ops.finish(key.index, result);
                }
                Letter::Done { key, outcome } => self.pool_is_done(key, outcome),
            }
        }
        self.letters = letters;
    }

    fn expire(&mut self, now: Instant) {
        while let Some(index) = self.ops.pop_due(now) {
            self.end(index, Errno::TIMED_OUT);
        }
    }

    /// Starts a new op.
    fn begin(&mut self, key: OpKey) {
        let index = key.index;
        let Work::Todo(op) = &self.ops.slot(index).work else {
            return;
        };
        match *op {
            Op::Ready { fd, interest, keep } => self.park(index, fd, interest, keep),
            Op::Timeout => {}
            Op::Connect { .. } => {
                if !self.offer(key, false) {
                    self.attempt(index, false);
                }
            }
            ref op => {
                let waits_for = op.waits_for();
                if self.offer(key, false) {
                    return;
                }
                match waits_for {
                    // Known to be empty: spare the call.
                    Some((fd, interest)) if !self.may_be_ready(fd, interest) => {
                        self.park(index, fd, interest, true);
                    }
                    _ => self.attempt(index, false),
                }
            }
        }
    }

    /// Offers an op to the driver; false if it is still the proactor's.
    fn offer(&mut self, key: OpKey, waits: bool) -> bool {
        let work = &mut self.ops.slots[key.index as usize].work;
        match work {
            Work::Todo(op) if self.driver.carries(op, waits) => {}
            _ => return false,
        }
        let Work::Todo(op) = mem::replace(work, Work::Done(Cargo::None)) else {
            return false;
        };
        let slot = self.ops.slot(key.index);
        match self.driver.carry(key, op) {
            Ok(()) => slot.life = Life::Carried(Carrier::Driver),
            Err(op) => slot.work = Work::Todo(op),
        }
        matches!(slot.life, Life::Carried(_))
    }

    /// Tries an op that is on no list.
    pub(crate) fn attempt(&mut self, index: u32, begun: bool) {
        let Work::Todo(op) = &mut self.ops.slot(index).work else {
            return;
        };
        let tried = attempt(op, begun);
        self.settle(index, tried);
    }

    /// Draws the consequences of an attempt at an op that is on no list.
    pub(crate) fn settle(&mut self, index: u32, tried: Attempt) {
        match tried {
            Attempt::Done(result) => self.ops.finish(index, result),
            Attempt::DoneWith(result, cargo) => self.ops.finish_with(index, result, cargo),
            Attempt::Waits => self.hand_over(index),
            Attempt::Blocks => {
                if let Some((fd, interest)) = self.ops.slot(index).waits_for() {
                    self.blocked(fd, interest);
                    self.park(index, fd, interest, true);
                }
            }
        }
    }

    /// Has an op that has to wait somewhere carried by the driver or by a thread of the pool.
    pub(crate) fn hand_over(&mut self, index: u32) {
        let key = self.ops.key(index);
        if self.offer(key, true) {
            return;
        }
        let work = &mut self.ops.slot(index).work;
        let Work::Todo(op) = mem::replace(work, Work::Done(Cargo::None)) else {
            return;
        };
        let pool = self.pool.get_or_insert_with(|| Pool::new(PoolSettings::default()));
        match carry::send_to_pool(pool, &self.mail, key, op) {
            Ok(withdrawn) => self.ops.slot(index).life = Life::Carried(Carrier::Pool(withdrawn)),
            Err(errno) => self.ops.finish(index, Err(errno)),
        }
    }

    fn pool_is_done(&mut self, key: OpKey, outcome: Outcome) {
        let Some(index) = self.ops.find(key) else {
            return;
        };
        // Anything else: cancelled in the meantime, and finished by that.
        if matches!(self.ops.slot(index).life, Life::Carried(Carrier::Pool(_))) {
            self.ops.finish_with(index, outcome.result, outcome.cargo);
        }
    }

    /// The driver has done a part of an op and goes on. What has arrived is delivered also after a cancel.
    fn carried_in_part(&mut self, key: OpKey, outcome: Outcome) {
        if let Some(index) = self.ops.find(key)
            && !matches!(self.ops.slot(index).life, Life::Leaving { deliver: false, .. })
        {
            self.ops.finish_part(index, outcome.result, outcome.cargo);
        }
    }

    /// The driver's last word on an op.
    fn carried_out(&mut self, key: OpKey, outcome: Outcome) {
        let Some(index) = self.ops.find(key) else {
            return;
        };
        let result = match self.ops.slot(index).life {
            Life::Leaving { deliver: false, .. } => return self.ops.free(index),
            Life::Leaving { why, .. } if outcome.result == Err(Errno::CANCELED) => Err(why),
            Life::Leaving { .. } | Life::Carried(Carrier::Driver) => outcome.result,
            _ => return,
        };
        self.ops.finish_with(index, result, outcome.cargo);
    }

    /// Ends an op early, if it is not finished.
    fn end(&mut self, index: u32, why: Errno) {
        match &self.ops.slot(index).life {
            Life::Parked => {
                self.leave_descriptor(index);
                self.ops.finish(index, Err(why));
            }
            Life::Idle => self.ops.finish(index, Err(why)),
            Life::Carried(Carrier::Pool(withdrawn)) => {
                withdrawn.store(true, Ordering::Relaxed);
                self.ops.finish(index, Err(why));
            }
            Life::Carried(Carrier::Driver) => self.leave_driver(index, why, true),
            Life::Leaving { .. } | Life::Finished(_) => {}
        }
    }

    fn leave_descriptor(&mut self, index: u32) {
        if let Some((fd, _)) = self.ops.slot(index).waits_for() {
            self.unpark(fd, index);
        }
    }

    fn leave_driver(&mut self, index: u32, why: Errno, deliver: bool) {
        self.ops.clear_deadline(index);
        self.ops.slot(index).life = Life::Leaving { why, deliver };
        let key = self.ops.key(index);
        self.driver.cancel(key);
    }

    /// Makes this proactor fit for use in the child of a fork(2), where it is a copy of the
    /// parent's: gives it operating system objects of its own. The parent's are not disturbed.
    ///
    /// All ops and completions of the copy are dropped (they are the parent's), its keys become
    /// stale, its pool is given up (see [`Pool::after_fork_in_child`] and
    /// [`set_pool`](Self::set_pool)), and `Remote`s made before do nothing in the child. Call it
    /// on the thread that forked, before any other use. Proactors of *other* threads must not be
    /// touched in the child, not even dropped.
    ///
    /// # Errors
    /// As [`Proactor::new`]. The proactor must then only be dropped, in this process for good.
    pub fn after_fork_in_child(&mut self) -> io::Result<()> {
        nonblock::after_fork_in_child();
        self.mail.bell().hang_up();
        if !self.mail.close_in_child() {
            // A thread that is not here held the lock: the queue may be half written.
            mem::forget(Arc::clone(&self.mail));
        }
        // Its threads are not here; its lock may be held by one of them.
        mem::forget(self.pool.take());
        let driver = self.driver.fresh()?;
        let serial = self.ops.last_serial();
        *self = Proactor::with_driver(driver)?;
        self.ops.continue_after(serial);
        Ok(())
    }
}

impl Drop for Proactor {
    fn drop(&mut self) {
        // Nobody will read letters any more. After a fork the mailbox is closed already and its
        // lock must be left alone.
        self.mail.close();
    }
}

impl fmt::Debug for Proactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proactor")
            .field("driver", &self.driver)
            .field("pending", &self.pending())
            .field("finished", &self.finished())
            .finish_non_exhaustive()
    }
}
