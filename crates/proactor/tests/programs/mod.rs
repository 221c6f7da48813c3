//! Random programs against a proactor, with all that must hold written down as a model: slow, obvious, without the system.
//!
//! The model knows what each peer has sent and what each op may still do. After every step, whatever the driver did:
//!
//! - an op completes exactly once, and never after it was detached;
//! - what is received from a socket, in order of completion, is what its peer has sent, from the first byte on: nothing lost,
//!   nothing twice, nothing of another socket (descriptor numbers are reused all the time);
//! - what the peer receives is what completed sends say that they have sent;
//! - an op ends by `TIMED_OUT` only if it had a deadline and that has passed, by `CANCELED` only if it was cancelled or its
//!   socket forgotten;
//! - an op that waits for bytes gets them when they are there;
//! - at the end nothing is pending, and what was not received is still in the sockets.

#![allow(dead_code, reason = "each of the programs that include this uses some of it")]

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use lissom_proactor::{Completion, Errno, Interest, Op, OpKey, Proactor};

pub(crate) mod faulty;

/// Pseudo-random numbers (xorshift64*), the same for the same seed everywhere.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % limit
    }

    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// One connection: this end, the peer's, and how far it has come.
struct Link {
    here: UnixStream,
    there: Option<UnixStream>,
    /// Where the peer's stream of bytes begins: another place for each connection.
    origin: u64,
    sent: u64,
    received: u64,
    /// Ops that wait to receive.
    waiting: usize,
    /// Bytes that went the other way: taken by sends that have completed, and received by the peer.
    taken: u64,
    arrived: u64,
    /// Whether a send is under way: only one at a time has an order.
    sending: bool,
}

impl Link {
    fn byte(&self, place: u64) -> u8 {
        ((self.origin + place).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
    }

    /// What the peer has of what was sent to it: the beginning of the same stream, and no more than may have been taken.
    fn arrive(&mut self, most: usize) {
        let mut buf = vec![0; most];
        let Some(Ok(count)) = self.there.as_ref().map(|there| plain(there).read(&mut buf)) else { return };
        for byte in &buf[..count] {
            assert_eq!(*byte, self.byte(self.arrived), "lost, twice, or of another connection on its way to the peer");
            self.arrived += 1;
        }
        assert!(self.sending || self.arrived <= self.taken, "the peer has more than was sent to it");
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Does {
    Receive,
    Send,
    Wait,
}

struct Pending {
    key: OpKey,
    link: Option<usize>,
    does: Does,
    deadline: Option<Instant>,
    may_be_cancelled: bool,
}

/// A program under way.
pub(crate) struct Program {
    proactor: Proactor,
    dice: Dice,
    links: Vec<Link>,
    pending: HashMap<u64, Pending>,
    next_token: u64,
    /// The driver may receive for an op that is being detached: its data is gone then, as it would be with recv(2).
    carries: bool,
    /// The driver may cancel what nobody has cancelled, and sends may fail for want of buffers.
    troubled: bool,
    serial: u64,
}

const LINKS: usize = 6;
/// Ops that wait for one socket. A ring may serve several in any order.
const WAITING: usize = 3;

impl Program {
    pub(crate) fn new(proactor: Proactor, seed: u64, carries: bool) -> Program {
        let dice = Dice::new(seed);
        let mut program = Program {
            proactor,
            dice,
            links: Vec::new(),
            pending: HashMap::new(),
            next_token: 1,
            carries,
            troubled: false,
            serial: 0,
        };
        for _ in 0..LINKS {
            let link = program.fresh_link();
            program.links.push(link);
        }
        program
    }

    /// Expects ops to fail in ways that only trouble brings about.
    pub(crate) fn expecting_trouble(mut self) -> Program {
        self.troubled = true;
        self
    }

    fn fresh_link(&mut self) -> Link {
        let (here, there) = UnixStream::pair().expect("socketpair");
        // Rings report EAGAIN for sockets in non-blocking mode as system calls do.
        here.set_nonblocking(!self.carries).expect("mode");
        there.set_nonblocking(true).expect("mode");
        self.serial += 1;
        Link {
            here,
            there: Some(there),
            origin: self.serial << 32,
            sent: 0,
            received: 0,
            waiting: 0,
            taken: 0,
            arrived: 0,
            sending: false,
        }
    }

    /// Runs `steps` steps, then ends all that is under way.
    pub(crate) fn run(mut self, steps: usize) {
        for _ in 0..steps {
            self.step();
        }
        self.finish();
    }

    fn step(&mut self) {
        let link = self.dice.below(LINKS);
        match self.dice.below(100) {
            0..20 => self.receive(link),
            20..28 => self.send(link),
            28..35 => self.wait_for_readiness(link),
            35..40 => self.sleep(),
            40..57 => self.stuff(link),
            57..62 => {
                let most = 1 + self.dice.below(20_000);
                self.links[link].arrive(most);
            }
            62..70 => self.cancel(),
            70..75 => self.detach(),
            75..78 => self.reconnect(link),
            78..80 => drop(self.links[link].there.take()),
            80..90 => self.look(Duration::ZERO),
            90..92 => self.settle(),
            _ => self.look(Duration::from_micros(200)),
        }
    }

    fn submit(&mut self, op: Op, link: Option<usize>, does: Does) {
        let token = self.next_token;
        self.next_token += 1;
        let deadline =
            self.dice.chance(30).then(|| Instant::now() + Duration::from_micros(self.dice.below(400) as u64));
        let key = match deadline {
            Some(at) => self.proactor.submit_by(op, token, at),
            None => self.proactor.submit(op, token),
        };
        self.pending.insert(token, Pending { key, link, does, deadline, may_be_cancelled: self.troubled });
    }

    fn receive(&mut self, link: usize) {
        let most = if self.carries { 1 } else { WAITING };
        if self.links[link].waiting == most {
            return;
        }
        self.links[link].waiting += 1;
        let buf = Vec::with_capacity(1 + self.dice.below(300));
        self.submit(Op::Recv { fd: self.links[link].here.as_raw_fd(), buf, flags: 0 }, Some(link), Does::Receive);
    }

    fn wait_for_readiness(&mut self, link: usize) {
        let keep = self.dice.chance(50);
        let fd = self.links[link].here.as_raw_fd();
        self.submit(Op::Ready { fd, interest: Interest::READ, keep }, Some(link), Does::Wait);
    }

    fn sleep(&mut self) {
        self.submit(Op::Timeout, None, Does::Wait);
    }

    /// Sends to the peer through the proactor; often more than there is room for.
    fn send(&mut self, index: usize) {
        let most = if self.dice.chance(10) { 300_000 } else { 3_000 };
        let size = 1 + self.dice.below(most) as u64;
        let link = &mut self.links[index];
        if link.sending || link.there.is_none() {
            return;
        }
        link.sending = true;
        let buf: Vec<u8> = (link.taken..link.taken + size).map(|place| link.byte(place)).collect();
        let fd = link.here.as_raw_fd();
        self.submit(Op::Send { fd, buf, flags: 0 }, Some(index), Does::Send);
    }

    /// The peer sends.
    fn stuff(&mut self, link: usize) {
        let size = 1 + self.dice.below(500) as u64;
        let link = &mut self.links[link];
        let data: Vec<u8> = (link.sent..link.sent + size).map(|place| link.byte(place)).collect();
        if let Some(there) = &link.there
            && let Ok(count) = plain(there).write(&data)
        {
            link.sent += count as u64;
        }
    }

    fn any_token(&mut self) -> Option<u64> {
        let mut tokens: Vec<u64> = self.pending.keys().copied().collect();
        tokens.sort_unstable();
        (!tokens.is_empty()).then(|| tokens[self.dice.below(tokens.len())])
    }

    fn cancel(&mut self) {
        if let Some(token) = self.any_token() {
            let pending = self.pending.get_mut(&token).expect("listed");
            pending.may_be_cancelled = true;
            assert!(self.proactor.cancel(pending.key), "an op that has not been taken has a key");
        }
    }

    fn detach(&mut self) {
        if let Some(token) = self.any_token() {
            if self.pending[&token].does != Does::Wait {
                // One that has finished has moved data.
                return self.cancel();
            }
            let pending = self.pending.remove(&token).expect("listed");
            assert!(self.proactor.detach(pending.key));
        }
    }

    /// Closes a connection and puts another one at its number.
    fn reconnect(&mut self, index: usize) {
        if self.carries && (self.links[index].waiting > 0 || self.links[index].sending) {
            // A carried op goes on with the file that it was begun on.
            return;
        }
        let fd = self.links[index].here.as_raw_fd();
        for pending in self.pending.values_mut().filter(|pending| pending.link == Some(index)) {
            pending.may_be_cancelled = true;
            pending.link = None;
        }
        self.proactor.forget(fd);
        // Those that have finished and were not taken yet may hold data of the old connection; they are of no interest.
        let fresh = self.fresh_link();
        let fresh = Link { here: put_at(fresh.here, fd), ..fresh };
        let old = std::mem::replace(&mut self.links[index], fresh);
        // Its descriptor has been closed, and the number is the new one's.
        let _ = old.here.into_raw_fd();
    }

    fn look(&mut self, timeout: Duration) {
        self.proactor.wait(Some(timeout)).expect("wait");
        while let Some(done) = self.proactor.next() {
            self.completed(done);
        }
    }

    /// Waits until nobody waits for bytes that are there: no wake-up is lost.
    fn settle(&mut self) {
        let limit = Instant::now() + Duration::from_secs(20);
        while self.links.iter().any(|link| link.waiting > 0 && link.received < link.sent) {
            assert!(Instant::now() < limit, "bytes are there, and an op waits for them for ever");
            self.look(Duration::from_millis(1));
        }
    }

    fn completed(&mut self, done: Completion) {
        let pending = self.pending.remove(&done.token).expect("completed twice, or after it was detached");
        assert!(!self.proactor.cancel(pending.key), "its key is stale");
        match done.result {
            Err(Errno::TIMED_OUT) => {
                let deadline = pending.deadline.expect("timed out without a deadline");
                assert!(Instant::now() >= deadline, "timed out early");
            }
            Err(Errno::CANCELED) => assert!(pending.may_be_cancelled, "cancelled by nobody"),
            Err(errno) if self.troubled && errno.code() == libc::ENOBUFS && pending.does == Does::Send => {}
            // Its peer is gone.
            Err(errno) if pending.does == Does::Send && matches!(errno.code(), libc::EPIPE | libc::ECONNRESET) => {}
            Err(errno) if pending.does == Does::Receive && errno.code() == libc::ECONNRESET => {
                // It has left without receiving all that was sent to it.
                let there = pending.link.and_then(|link| self.links[link].there.as_ref());
                assert!(there.is_none(), "reset by nobody");
            }
            Err(errno) => panic!("{errno:?}"),
            Ok(_) => {}
        }
        let Some(index) = pending.link else { return };
        let link = &mut self.links[index];
        match pending.does {
            Does::Receive => link.waiting -= 1,
            Does::Send => {
                link.sending = false;
                link.taken += done.result.map_or(0, |count| count as u64);
                assert!(link.there.is_none() || link.arrived <= link.taken, "the peer has more than was sent to it");
            }
            Does::Wait => {}
        }
        if let (Does::Receive, Ok(count), Some(buf)) = (pending.does, done.result, done.buf) {
            assert_eq!(buf.len(), count as usize);
            for byte in buf {
                assert!(link.received < link.sent, "received more than was sent");
                assert_eq!(byte, link.byte(link.received), "lost, twice, or of another connection");
                link.received += 1;
            }
            assert!(count > 0 || link.there.is_none(), "an end that nobody has made");
        }
    }

    /// Ends everything; what is left in the sockets is what has not been received.
    fn finish(mut self) {
        let tokens: Vec<u64> = self.pending.keys().copied().collect();
        for token in tokens {
            let pending = self.pending.get_mut(&token).expect("listed");
            pending.may_be_cancelled = true;
            self.proactor.cancel(pending.key);
        }
        let limit = Instant::now() + Duration::from_secs(20);
        while !self.pending.is_empty() || self.proactor.pending() > 0 {
            assert!(Instant::now() < limit, "an op has not completed: {:?}", self.pending.keys());
            self.look(Duration::from_millis(10));
        }
        for mut link in std::mem::take(&mut self.links) {
            while link.there.is_some() && link.arrived < link.taken {
                let before = link.arrived;
                link.arrive(1 << 20);
                assert!(link.arrived > before, "bytes are missing at the peer");
            }
            link.here.set_nonblocking(true).expect("mode");
            let mut rest = Vec::new();
            let mut buf = [0; 4096];
            while let Ok(count @ 1..) = plain(&link.here).read(&mut buf) {
                rest.extend_from_slice(&buf[..count]);
            }
            assert_eq!(link.received + rest.len() as u64, link.sent, "bytes are missing");
            for (place, byte) in (link.received..).zip(rest) {
                assert_eq!(byte, link.byte(place));
            }
            self.proactor.forget(link.here.as_raw_fd());
        }
    }
}

/// The socket for read(2) and write(2), which no test replaces.
fn plain(socket: &UnixStream) -> ManuallyDrop<File> {
    // SAFETY: open, and borrowed for as long as the result is used: it is not closed.
    ManuallyDrop::new(unsafe { File::from_raw_fd(socket.as_raw_fd()) })
}

/// Moves a socket to a descriptor number of the caller's choice, closing what was there.
fn put_at(socket: UnixStream, number: RawFd) -> UnixStream {
    let old = socket.into_raw_fd();
    // SAFETY: plain system calls; `old` is owned here, and `number` belongs to a stream that is being replaced.
    unsafe {
        assert_eq!(libc::dup2(old, number), number);
        libc::close(old);
        UnixStream::from(OwnedFd::from_raw_fd(number))
    }
}
