//! An echo server: `cargo run --release --example echo [port]`, then `nc 127.0.0.1 <port>`.
//!
//! One thread, one proactor, ops that do the transfers. Each connection has at most one op in
//! flight, and its buffer travels with it. Bound to loopback; ends with Ctrl-C.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use lissom_proactor::{Completion, DriverKind, Errno, Op, Proactor};

const LISTENER: u64 = u64::MAX;
const IDLE: Duration = Duration::from_secs(60);

struct Connection {
    socket: OwnedFd,
    /// Its op in flight sends; else it receives.
    sending: bool,
}

struct Server {
    proactor: Proactor,
    listener: TcpListener,
    /// By descriptor number, which is also the op's token.
    connections: Vec<Option<Connection>>,
}

impl Server {
    fn accept(&mut self) {
        let fd = self.listener.as_raw_fd();
        self.proactor.submit(Op::Accept { fd }, LISTENER);
    }

    fn receive(&mut self, fd: RawFd, mut buf: Vec<u8>) {
        buf.clear();
        let deadline = Instant::now() + IDLE;
        self.proactor.submit_by(Op::Recv { fd, buf, flags: 0 }, fd as u64, deadline);
    }

    fn accepted(&mut self, done: Completion) {
        match done.fd {
            Some(socket) => {
                let fd = socket.as_raw_fd();
                let at = fd as usize;
                if at >= self.connections.len() {
                    self.connections.resize_with(at + 1, || None);
                }
                self.connections[at] = Some(Connection { socket, sending: false });
                self.receive(fd, Vec::with_capacity(16 << 10));
            }
            None => eprintln!("accept: {:?}", done.result),
        }
        self.accept();
    }

    fn advance(&mut self, done: Completion) {
        let at = done.token as usize;
        let (Some(connection), Some(mut buf)) = (&mut self.connections[at], done.buf) else {
            return;
        };
        let fd = connection.socket.as_raw_fd();
        match (done.result, connection.sending) {
            (Ok(0), false) | (Err(_), _) => {
                self.proactor.forget(fd);
                self.connections[at] = None;
                match done.result {
                    Ok(_) | Err(Errno::TIMED_OUT) => {}
                    Err(errno) => eprintln!("connection {fd}: {errno}"),
                }
            }
            (Ok(count), true) if count as usize == buf.len() => {
                connection.sending = false;
                self.receive(fd, buf);
            }
            (Ok(count), sending) => {
                // All of what came, or what a short send left.
                if sending {
                    buf.drain(..count as usize);
                }
                connection.sending = true;
                let deadline = Instant::now() + IDLE;
                self.proactor.submit_by(Op::Send { fd, buf, flags: 0 }, fd as u64, deadline);
            }
        }
    }

    fn run(&mut self) -> io::Result<()> {
        self.accept();
        loop {
            self.proactor.wait(None)?;
            while let Some(done) = self.proactor.next() {
                match done.token {
                    LISTENER => self.accepted(done),
                    _ => self.advance(done),
                }
            }
        }
    }
}

fn main() -> io::Result<()> {
    let port = std::env::args().nth(1).map_or(Ok(7007), |port| port.parse());
    let port = port.map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    println!("echo on {}", listener.local_addr()?);
    let proactor = Proactor::new(DriverKind::Auto)?;
    Server { proactor, listener, connections: Vec::new() }.run()
}
