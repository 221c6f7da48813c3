//! One connection and the exchange on it.

use std::io::{self, ErrorKind as IoKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Instant;

use rustix::net::sockopt;
use socket2::{Domain, Protocol, Socket, Type};

use crate::http::Response;
use crate::plan::Work;
use crate::stats::ErrorKind;

/// The life of a connection.
///
/// ```text
///            open                 step              start
///  Closed ────────▶ Connecting ────────▶ Idle ◀──────────▶ Waiting
///     ▲                  │                 │     answered     │
///     └──────────────────┴─── close ───────┴──────────────────┘
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No socket.
    Closed,
    /// The handshake is under way.
    Connecting,
    /// Connected, no request outstanding.
    Idle,
    /// A request is being sent or its answer awaited.
    Waiting,
}

/// What a readiness event led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing yet: more events are to come.
    Pending,
    /// The handshake is done.
    Connected,
    /// The answer is complete; `good` unless its status says otherwise, `keep` when the
    /// connection takes another request.
    Answered {
        /// The status is 2xx or 304, or the exchange is an echo.
        good: bool,
        /// The connection can be used again.
        keep: bool,
    },
    /// The server closed the connection between two exchanges.
    ClosedByServer,
    /// The connection is of no more use.
    Failed(ErrorKind),
}

/// One connection: its socket, its state, and the times of the exchange under way.
#[derive(Debug)]
pub struct Conn {
    stream: Option<TcpStream>,
    /// Where in its life it is.
    pub state: State,
    /// When the current state times out; in `Closed`, when to try again.
    pub deadline: Option<Instant>,
    /// When the handshake or the request under way was meant to start.
    pub intended: Instant,
    /// When it did.
    pub started: Instant,
    /// Bytes received in the exchange under way.
    pub received: u64,
    request: usize,
    written: usize,
    response: Response,
    hung_up: bool,
}

impl Conn {
    /// A connection that is not open.
    #[must_use]
    pub fn new() -> Self {
        let now = Instant::now();
        Self {
            stream: None,
            state: State::Closed,
            deadline: None,
            intended: now,
            started: now,
            received: 0,
            request: 0,
            written: 0,
            response: Response::new(),
            hung_up: false,
        }
    }

    /// Starts the handshake with `to`, from the source address `from` if one is given.
    ///
    /// # Errors
    ///
    /// What the system says; the connection then stays closed.
    pub fn open(&mut self, to: SocketAddr, from: Option<IpAddr>) -> io::Result<&TcpStream> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if let Some(from) = from {
            socket.bind(&SocketAddr::new(from, 0).into())?;
        }
        match socket.connect(&to.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(IN_PROGRESS) => {}
            Err(error) => return Err(error),
        }
        self.started = Instant::now();
        self.intended = self.started;
        self.state = State::Connecting;
        self.hung_up = false;
        Ok(self.stream.insert(socket.into()))
    }

    /// Closes the socket, if there is one.
    pub fn close(&mut self) {
        self.stream = None;
        self.state = State::Closed;
        self.deadline = None;
    }

    /// Sends request number `request` of `work`, as far as the socket takes it.
    ///
    /// With `quickack`, what the server sends in answer is acknowledged at once.
    pub fn start(&mut self, work: &Work, request: usize, intended: Instant, quickack: bool) -> Step {
        self.state = State::Waiting;
        self.intended = intended;
        self.started = Instant::now();
        self.request = request;
        self.written = 0;
        self.received = 0;
        self.response.reset();
        let sent = self.write(work).and_then(|()| match &self.stream {
            // After sending, which ends this mode; it is not permanent (tcp(7)).
            Some(stream) if quickack => Ok(sockopt::set_tcp_quickack(stream, true)?),
            _ => Ok(()),
        });
        match sent {
            Ok(()) => Step::Pending,
            Err(error) => Step::Failed(ErrorKind::from(&error)),
        }
    }

    /// Goes on after a readiness event; `scratch` is room for what is read.
    pub fn step(&mut self, work: &Work, hung_up: bool, scratch: &mut [u8]) -> Step {
        self.hung_up |= hung_up;
        let result = match self.state {
            State::Closed => Ok(Step::Pending),
            State::Connecting => self.finish_connect(),
            State::Idle => self.read_idle(scratch),
            State::Waiting => self.exchange(work, scratch),
        };
        result.unwrap_or_else(|error| Step::Failed(ErrorKind::from(&error)))
    }

    fn finish_connect(&mut self) -> io::Result<Step> {
        let Some(stream) = &self.stream else {
            return Ok(Step::Pending);
        };
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        match stream.peer_addr() {
            Ok(_) => {
                self.state = State::Idle;
                Ok(Step::Connected)
            }
            // An event of a socket that is not connected yet.
            Err(error) if error.kind() == IoKind::NotConnected => Ok(Step::Pending),
            Err(error) => Err(error),
        }
    }

    fn read_idle(&mut self, scratch: &mut [u8]) -> io::Result<Step> {
        match self.read(scratch)? {
            None => Ok(Step::Pending),
            Some(0) => Ok(Step::ClosedByServer),
            Some(_) => Ok(Step::Failed(ErrorKind::Protocol)),
        }
    }

    fn exchange(&mut self, work: &Work, scratch: &mut [u8]) -> io::Result<Step> {
        self.write(work)?;
        loop {
            let Some(count) = self.read(scratch)? else {
                return Ok(Step::Pending);
            };
            let bytes = &scratch[..count];
            let step = match work {
                Work::Http { .. } => self.take_http(bytes),
                Work::Echo { payload } => self.take_echo(bytes, payload),
            };
            match step {
                // A short read empties the socket, and an edge will tell of more (epoll(7),
                // question 9), unless the peer has hung up: that edge has been already.
                Ok(Step::Pending) if count < scratch.len() && !self.hung_up => {
                    return Ok(Step::Pending);
                }
                Ok(Step::Pending) => {}
                Ok(step) => return Ok(step),
                Err(kind) => return Ok(Step::Failed(kind)),
            }
        }
    }

    fn take_http(&mut self, bytes: &[u8]) -> Result<Step, ErrorKind> {
        if bytes.is_empty() {
            self.response.end_of_stream()?;
        } else {
            self.received += bytes.len() as u64;
            if self.response.feed(bytes)? < bytes.len() {
                return Err(ErrorKind::Protocol);
            }
        }
        if !self.response.is_done() {
            return Ok(Step::Pending);
        }
        self.state = State::Idle;
        Ok(Step::Answered {
            good: matches!(self.response.status(), 200..=299 | 304),
            keep: self.response.keep_alive() && !self.hung_up,
        })
    }

    fn take_echo(&mut self, bytes: &[u8], payload: &[u8]) -> Result<Step, ErrorKind> {
        let at = self.received as usize;
        match bytes.len() {
            0 if at == 0 => return Err(ErrorKind::Eof),
            0 => return Err(ErrorKind::ShortBody),
            count if payload.get(at..at + count) != Some(bytes) => return Err(ErrorKind::Mismatch),
            count => self.received += count as u64,
        }
        if self.received < payload.len() as u64 {
            return Ok(Step::Pending);
        }
        self.state = State::Idle;
        Ok(Step::Answered { good: true, keep: !self.hung_up })
    }

    /// Writes what is left of the request until the socket takes no more.
    fn write(&mut self, work: &Work) -> io::Result<()> {
        let request = work.request(self.request);
        let Some(stream) = &mut self.stream else {
            return Ok(());
        };
        while self.written < request.len() {
            match stream.write(&request[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == IoKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == IoKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads once; `None` when there is nothing to read yet.
    fn read(&mut self, scratch: &mut [u8]) -> io::Result<Option<usize>> {
        let Some(stream) = &mut self.stream else {
            return Ok(None);
        };
        loop {
            match stream.read(scratch) {
                Ok(count) => return Ok(Some(count)),
                Err(error) if error.kind() == IoKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == IoKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Default for Conn {
    fn default() -> Self {
        Self::new()
    }
}

const IN_PROGRESS: i32 = rustix::io::Errno::INPROGRESS.raw_os_error();
