//! The run: phases, and the loop that carries them out.
//!
//! ```text
//!  Open ──▶ Settle ──▶ Warmup ──▶ Measure ──▶ Drain ──▶ Done
//! ```
//!
//! A request belongs to the latency figures if it was meant to start while measuring, whenever its
//! answer comes: leaving out those unanswered at the end would leave out the slow ones. It belongs to
//! the throughput if its answer came while measuring. The server's CPU time is read at the same two
//! moments.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use crate::conn::{Conn, State, Step};
use crate::limits::{is_out_of_files, own_cpu_seconds};
use crate::pace::Pace;
use crate::plan::{Plan, Stop};
use crate::progress::{Line, Phase, Progress};
use crate::reactor::{Reactor, Ready};
use crate::stats::{ErrorKind, Errors, Latencies};
use crate::watch::{self, Sample};

/// Between two looks at deadlines, and before a lost connection is opened again.
const TICK: Duration = Duration::from_millis(100);
/// Between two looks at the ramp while connections are being opened.
const RAMP_TICK: Duration = Duration::from_millis(1);
/// Connections or requests started before the loop looks at events again.
const BURST: usize = 64;
/// Room for one read. Larger than most answers, so that one read and no second one is the rule.
const SCRATCH: usize = 128 * 1024;

/// What a run counted.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Connections that were open at the end of the first phase.
    pub opened: usize,
    /// How long that phase took.
    pub open_time: Duration,
    /// Connections opened again after they were lost or ended by the server.
    pub reopened: u64,
    /// Connections that the server closed between two requests.
    pub closed_by_server: u64,
    /// Handshakes, from connect(2) to established.
    pub connect: Latencies,
    /// How long was measured.
    pub measured: Duration,
    /// Answers that came while measuring.
    pub completed: u64,
    /// Answers to measured requests that came after it.
    pub drained: u64,
    /// Bytes of the answers that came while measuring.
    pub bytes: u64,
    /// From when a request was due (fixed rate) or sent (closed loop) to its answer.
    pub latency: Latencies,
    /// From when a request was sent to its answer.
    pub service: Latencies,
    /// Everything that went wrong, in all phases.
    pub errors: Errors,
    /// The tool's own CPU time while measuring, in seconds.
    pub own_cpu: f64,
    /// The server before the first connection, with all of them open and idle, at the start and at
    /// the end of measuring.
    pub server: Option<[Sample; 4]>,
}

/// Makes the run that `plan` describes.
///
/// # Errors
///
/// Those of epoll and, with `server_pid`, of reading `/proc`; what happens to connections is counted
/// in the outcome.
pub fn run(plan: &Plan) -> io::Result<Outcome> {
    let mut engine = Engine::new(plan)?;
    let mut ready = Vec::new();
    engine.sample(0)?;
    while engine.phase != Phase::Done {
        let now = Instant::now();
        engine.advance(now)?;
        let (until, precise) = engine.next_wake(now);
        engine.reactor.wait(until, precise, &mut ready)?;
        for event in &ready {
            engine.on_ready(*event);
        }
        engine.dispatch();
    }
    engine.report_progress(Instant::now());
    Ok(engine.outcome)
}

/// A connection and what the engine knows of it.
#[derive(Debug, Default)]
struct Slot {
    conn: Conn,
    /// It counts as open.
    open: bool,
    /// The request under way is the one of `--prime`.
    priming: bool,
}

struct Engine<'a> {
    plan: &'a Plan,
    reactor: Reactor,
    slots: Vec<Slot>,
    /// Connections to start a request on, longest idle first; may name some that no longer are idle.
    idle: VecDeque<usize>,
    pace: Pace,
    progress: Progress,
    outcome: Outcome,
    scratch: Vec<u8>,
    started: Instant,
    phase: Phase,
    phase_start: Instant,
    /// When the phase ends, if a time ends it.
    phase_end: Option<Instant>,
    measure_start: Instant,
    next_tick: Instant,
    last_answer: Instant,
    attempted: usize,
    failed_to_open: usize,
    open: usize,
    waiting: usize,
    next_request: usize,
}

impl<'a> Engine<'a> {
    fn new(plan: &'a Plan) -> io::Result<Self> {
        let now = Instant::now();
        let server = plan.server_pid.map(|_| [Sample::default(); 4]);
        Ok(Self {
            plan,
            reactor: Reactor::new()?,
            slots: (0..plan.connections).map(|_| Slot::default()).collect(),
            idle: VecDeque::new(),
            pace: Pace::new(plan.rate, now),
            progress: Progress::new(plan.progress),
            outcome: Outcome { server, ..Outcome::default() },
            scratch: vec![0; SCRATCH],
            started: now,
            phase: Phase::Open,
            phase_start: now,
            phase_end: None,
            measure_start: now,
            next_tick: now,
            last_answer: now,
            attempted: 0,
            failed_to_open: 0,
            open: 0,
            waiting: 0,
            next_request: 0,
        })
    }

    // Phases.

    /// Does what is due by time: phases, the ramp, deadlines, progress.
    fn advance(&mut self, now: Instant) -> io::Result<()> {
        if self.phase == Phase::Open {
            self.ramp(now);
        }
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            self.check_deadlines(now);
        }
        while self.is_phase_over(now) {
            self.enter_next(now)?;
        }
        if self.progress.is_due(now, self.phase) {
            self.report_progress(now);
        }
        Ok(())
    }

    fn is_phase_over(&self, now: Instant) -> bool {
        let timed_out = self.phase_end.is_some_and(|end| now >= end);
        match self.phase {
            Phase::Open => self.open + self.failed_to_open == self.slots.len(),
            Phase::Settle | Phase::Warmup => timed_out,
            Phase::Measure => {
                // Without an end in time, the last answer is the end, or that none has come for long.
                let done = self.waiting == 0 && self.pace.next(now).is_none();
                let patience = self.plan.timeout.max(self.plan.connect_timeout);
                let given_up = now > self.last_answer + patience;
                timed_out || (self.phase_end.is_none() && (done || given_up))
            }
            Phase::Drain => timed_out || (self.waiting == 0 && self.pace.overdue(now) == 0) || self.open == 0,
            Phase::Done => false,
        }
    }

    fn enter_next(&mut self, now: Instant) -> io::Result<()> {
        let (phase, time) = match self.phase {
            Phase::Open => {
                self.outcome.opened = self.open;
                self.outcome.open_time = now - self.phase_start;
                match self.open {
                    0 => (Phase::Done, None),
                    _ => (Phase::Settle, Some(self.plan.settle)),
                }
            }
            Phase::Settle => {
                self.sample(1)?;
                self.pace = Pace::new(self.plan.rate, now);
                (Phase::Warmup, Some(self.plan.warmup))
            }
            Phase::Warmup => {
                self.sample(2)?;
                self.measure_start = now;
                self.last_answer = now;
                self.outcome.own_cpu = own_cpu_seconds();
                match self.plan.stop {
                    Stop::After(time) => {
                        self.pace.stop_at(now + time);
                        (Phase::Measure, Some(time))
                    }
                    Stop::Requests(count) => {
                        self.pace.limit(count);
                        (Phase::Measure, None)
                    }
                }
            }
            Phase::Measure => {
                self.outcome.measured = now - self.measure_start;
                self.outcome.own_cpu = own_cpu_seconds() - self.outcome.own_cpu;
                self.sample(3)?;
                (Phase::Drain, Some(self.plan.timeout))
            }
            Phase::Drain | Phase::Done => {
                let unsent = match self.plan.stop {
                    Stop::After(_) => self.pace.overdue(now),
                    Stop::Requests(_) => self.pace.left(),
                };
                self.outcome.errors.add(ErrorKind::Unsent, unsent);
                self.outcome.errors.add(ErrorKind::Timeout, self.waiting as u64);
                (Phase::Done, None)
            }
        };
        self.phase = phase;
        self.phase_start = now;
        self.phase_end = time.map(|time| now + time);
        Ok(())
    }

    fn sample(&mut self, index: usize) -> io::Result<()> {
        if let (Some(pid), Some(samples)) = (self.plan.server_pid, &mut self.outcome.server) {
            samples[index] = watch::sample(pid)
                .map_err(|error| io::Error::new(error.kind(), format!("server process {pid}: {error}")))?;
        }
        Ok(())
    }

    /// When to wake at the latest, and when to wake exactly.
    fn next_wake(&self, now: Instant) -> (Instant, Option<Instant>) {
        let mut until = self.next_tick;
        if let Some(end) = self.phase_end {
            until = until.min(end);
        }
        if self.phase == Phase::Open && self.attempted < self.slots.len() {
            until = until.min(now + RAMP_TICK);
        }
        if self.phase == Phase::Done {
            until = now;
        }
        let sending = matches!(self.phase, Phase::Warmup | Phase::Measure | Phase::Drain);
        let precise = match self.idle.is_empty() {
            false if sending => self.pace.next(now),
            _ => None,
        };
        (until, precise)
    }

    fn report_progress(&mut self, now: Instant) {
        let share = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
        let fraction = match (self.phase, self.phase_end, self.plan.stop) {
            (Phase::Open, ..) => share(self.open as u64, self.slots.len() as u64),
            (Phase::Measure, _, Stop::Requests(count)) => share(self.outcome.completed, count),
            (_, Some(end), _) if end > self.phase_start => {
                (now - self.phase_start).as_secs_f64() / (end - self.phase_start).as_secs_f64()
            }
            _ => 1.0,
        };
        let line = Line {
            phase: self.phase,
            elapsed: (now - self.started).as_secs_f64(),
            open: self.open,
            connections: self.slots.len(),
            completed: self.outcome.completed,
            errors: self.outcome.errors.total(),
            fraction: fraction.min(1.0),
        };
        self.progress.write(now, &line);
    }

    // Connections.

    /// Opens the connections that the ramp has come to.
    fn ramp(&mut self, now: Instant) {
        let elapsed = (now - self.phase_start).as_secs_f64();
        let due = (elapsed * self.plan.ramp) as usize + 1;
        let due = due.min(self.slots.len()).min(self.attempted + BURST);
        while self.attempted < due && self.attempted - self.open - self.failed_to_open < self.plan.pending {
            let token = self.attempted;
            self.attempted += 1;
            self.open(token);
        }
    }

    fn open(&mut self, token: usize) {
        let source = self.plan.sources[token % self.plan.sources.len()];
        let conn = &mut self.slots[token].conn;
        let result = conn.open(self.plan.address, source).and_then(|stream| {
            self.reactor.add(stream, token)?;
            Ok(())
        });
        match result {
            Ok(()) => conn.deadline = Some(conn.started + self.plan.connect_timeout),
            Err(error) if is_out_of_files(&error) => self.fail(token, ErrorKind::NoFile),
            Err(error) => self.fail(token, ErrorKind::from(&error)),
        }
    }

    /// Ends requests and handshakes that take too long, and opens lost connections again.
    fn check_deadlines(&mut self, now: Instant) {
        for token in 0..self.attempted {
            let conn = &self.slots[token].conn;
            if conn.deadline.is_none_or(|deadline| now < deadline) {
                continue;
            }
            match conn.state {
                State::Waiting => self.fail(token, ErrorKind::Timeout),
                State::Connecting => self.fail(token, ErrorKind::ConnectTimeout),
                State::Closed => self.reopen(token),
                State::Idle => {}
            }
        }
    }

    fn reopen(&mut self, token: usize) {
        if matches!(self.phase, Phase::Settle | Phase::Warmup | Phase::Measure) {
            self.outcome.reopened += 1;
            self.open(token);
        }
    }

    /// Closes a connection; unless the first phase is still on, it is tried again later.
    fn close(&mut self, token: usize) {
        let slot = &mut self.slots[token];
        if slot.open {
            slot.open = false;
            self.open -= 1;
        }
        slot.conn.close();
        if self.phase == Phase::Open {
            self.failed_to_open += 1;
        } else {
            slot.conn.deadline = Some(Instant::now() + TICK);
        }
    }

    fn fail(&mut self, token: usize, kind: ErrorKind) {
        self.outcome.errors.add(kind, 1);
        if self.slots[token].conn.state == State::Waiting {
            self.waiting -= 1;
        }
        self.close(token);
    }

    // Requests.

    /// Starts the requests that are due on the connections that are free.
    fn dispatch(&mut self) {
        if !matches!(self.phase, Phase::Warmup | Phase::Measure | Phase::Drain) {
            return;
        }
        let now = Instant::now();
        for _ in 0..BURST {
            let Some(&token) = self.idle.front() else { return };
            if self.slots[token].conn.state != State::Idle {
                self.idle.pop_front();
                continue;
            }
            let Some(intended) = self.pace.take(now) else { return };
            self.idle.pop_front();
            // In a closed loop a request is due when it is sent.
            let intended = if self.pace.is_fixed() { intended } else { Instant::now() };
            self.start(token, intended);
        }
    }

    fn start(&mut self, token: usize, intended: Instant) {
        let request = self.next_request;
        self.next_request += 1;
        self.waiting += 1;
        let conn = &mut self.slots[token].conn;
        let step = conn.start(&self.plan.work, request, intended, self.plan.quickack);
        conn.deadline = Some(conn.started + self.plan.timeout);
        if let Step::Failed(kind) = step {
            self.fail(token, kind);
        }
    }

    fn on_ready(&mut self, ready: Ready) {
        let Ready { token, hung_up } = ready;
        let slot = &mut self.slots[token];
        match slot.conn.step(&self.plan.work, hung_up, &mut self.scratch) {
            Step::Pending => {}
            Step::Connected => self.on_connected(token),
            Step::Answered { good, keep } => {
                self.on_answered(token, good);
                if keep {
                    self.idle.push_back(token);
                } else if self.phase == Phase::Open {
                    // It was to stay open.
                    self.fail(token, ErrorKind::Eof);
                } else {
                    self.close(token);
                    self.reopen(token);
                }
                // One at a time: in a closed loop this connection is the one that is free.
                self.dispatch();
            }
            Step::ClosedByServer if self.phase == Phase::Open => self.fail(token, ErrorKind::Eof),
            Step::ClosedByServer => {
                self.outcome.closed_by_server += 1;
                self.close(token);
            }
            Step::Failed(kind) => self.fail(token, kind),
        }
    }

    fn on_connected(&mut self, token: usize) {
        let slot = &mut self.slots[token];
        self.outcome.connect.record(slot.conn.started.elapsed());
        slot.conn.deadline = None;
        if self.phase == Phase::Open && self.plan.prime {
            slot.priming = true;
            let intended = slot.conn.started;
            self.start(token, intended);
        } else {
            slot.open = true;
            self.open += 1;
            self.idle.push_back(token);
        }
    }

    fn on_answered(&mut self, token: usize, good: bool) {
        let now = Instant::now();
        self.waiting -= 1;
        self.last_answer = now;
        let slot = &mut self.slots[token];
        slot.conn.deadline = None;
        if std::mem::take(&mut slot.priming) {
            slot.open = true;
            self.open += 1;
        } else if good && matches!(self.phase, Phase::Measure | Phase::Drain) {
            let conn = &slot.conn;
            if self.phase == Phase::Measure {
                self.outcome.completed += 1;
                self.outcome.bytes += conn.received;
            }
            if conn.intended >= self.measure_start {
                self.outcome.latency.record(now.saturating_duration_since(conn.intended));
                self.outcome.service.record(now.saturating_duration_since(conn.started));
                self.outcome.drained += u64::from(self.phase == Phase::Drain);
            }
        }
        if !good {
            self.outcome.errors.add(ErrorKind::Status, 1);
        }
    }
}
