//! An echo server on plain epoll: one thread, no runtime, the limit that other servers are compared
//! with.
//!
//! Listens on a free port of 127.0.0.1 (or on the port given as the argument), prints the port on a
//! line, and sends back what it receives until it is ended by a signal.

#![forbid(unsafe_code)]

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use lissom_load::limits;
use rustix::event::epoll::{self, EventData, EventFlags};
use socket2::{Domain, Protocol, Socket, Type};

const LISTENER: u64 = u64::MAX;
const BATCH: usize = 256;
/// The kernel cuts this to `net.core.somaxconn`.
const BACKLOG: i32 = 65_535;
/// Descriptors to ask for; each connection needs one.
const FILES: usize = 60_000;

/// A client and what of its data could not be sent back yet.
struct Client {
    stream: TcpStream,
    unsent: Vec<u8>,
}

/// The clients by their epoll token, and the tokens that are free again.
#[derive(Default)]
struct Clients {
    slots: Vec<Option<Client>>,
    free: Vec<usize>,
}

fn main() -> ExitCode {
    let port = std::env::args().nth(1).map_or(Ok(0), |text| text.parse());
    let Ok(port) = port else {
        eprintln!("usage: native-echo [PORT]");
        return ExitCode::from(2);
    };
    match serve(port) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("native-echo: {error}");
            ExitCode::from(1)
        }
    }
}

fn serve(port: u16) -> io::Result<()> {
    // As many as are allowed will do when the hard limit is lower.
    let _ = (1..=6).map(|share| FILES / share).find(|&n| limits::raise_open_files(n).is_ok());
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], port)).into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from(socket);
    println!("{}", listener.local_addr()?.port());

    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut clients = Clients::default();
    let mut events: Vec<epoll::Event> = Vec::with_capacity(BATCH);
    let mut room = vec![0; 64 * 1024];
    loop {
        events.clear();
        match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            let (flags, data) = (event.flags, event.data);
            if data.u64() == LISTENER {
                accept(&listener, &epoll, &mut clients)?;
                continue;
            }
            let index = data.u64() as usize;
            let Some(client) = &mut clients.slots[index] else { continue };
            if !client.echo(&epoll, data, flags, &mut room).unwrap_or(false) {
                clients.slots[index] = None;
                clients.free.push(index);
            }
        }
    }
}

fn accept(listener: &TcpListener, epoll: &OwnedFd, clients: &mut Clients) -> io::Result<()> {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            // The client has gone already (accept(2)).
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
            Err(error) => return Err(error),
        };
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let index = clients.free.pop().unwrap_or(clients.slots.len());
        epoll::add(epoll, &stream, EventData::new_u64(index as u64), EventFlags::IN)?;
        let client = Client { stream, unsent: Vec::new() };
        match clients.slots.get_mut(index) {
            Some(slot) => *slot = Some(client),
            None => clients.slots.push(Some(client)),
        }
    }
}

impl Client {
    /// Sends back what has come, level-triggered: one read for each event. Returns whether the
    /// client is still there.
    fn echo(&mut self, epoll: &OwnedFd, token: EventData, flags: EventFlags, room: &mut [u8]) -> io::Result<bool> {
        if !self.unsent.is_empty() {
            let sent = send(&mut self.stream, &self.unsent)?;
            self.unsent.drain(..sent);
            if self.unsent.is_empty() {
                epoll::modify(epoll, &self.stream, token, EventFlags::IN)?;
            }
            return Ok(!flags.contains(EventFlags::ERR));
        }
        let count = match self.stream.read(room) {
            Ok(0) => return Ok(false),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
            Err(error) => return Err(error),
        };
        let sent = send(&mut self.stream, &room[..count])?;
        if sent < count {
            // Read no more before the client has taken this.
            self.unsent.extend_from_slice(&room[sent..count]);
            epoll::modify(epoll, &self.stream, token, EventFlags::OUT)?;
        }
        Ok(true)
    }
}

/// Writes what the socket takes at once.
fn send(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut sent = 0;
    while sent < bytes.len() {
        match stream.write(&bytes[sent..]) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}
