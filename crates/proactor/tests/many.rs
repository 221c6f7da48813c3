//! Ops that complete several times: how often is the driver's business, what they bring is not.

mod common;

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use common::{complete, nothing_completes, on_every_driver};
use lissom_proactor::driver::uring::Uring;
use lissom_proactor::{Errno, Op, Proactor};

fn recv_many(socket: &UnixStream) -> Op {
    Op::RecvMany { fd: socket.as_raw_fd() }
}

/// A ring that goes on by itself, where the kernel has one.
fn going_on(test: impl Fn(Proactor)) {
    match Uring::new() {
        Ok(ring) if ring.features().deferred => test(Proactor::with_driver(Box::new(ring)).unwrap()),
        Ok(ring) => eprintln!("not run: {:?}", ring.features()),
        Err(refused) => eprintln!("not run: {refused}"),
    }
}

#[test]
fn accept_many_brings_each_connection_once() {
    const CONNECTIONS: usize = 100;
    on_every_driver(|mut proactor| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (fd, address) = (listener.as_raw_fd(), listener.local_addr().unwrap());
        let clients = thread::spawn(move || -> Vec<_> {
            let connect = |_| TcpStream::connect(address).unwrap();
            (0..CONNECTIONS).map(connect).collect()
        });
        let mut op = proactor.submit(Op::AcceptMany { fd }, 1);
        let mut peers = Vec::new();
        while peers.len() < CONNECTIONS {
            let done = complete(&mut proactor);
            let socket = TcpStream::from(done.fd.expect("a connection"));
            assert_eq!(done.result, Ok(socket.as_raw_fd()));
            peers.push(socket.peer_addr().unwrap());
            if !done.more {
                op = proactor.submit(Op::AcceptMany { fd }, 1);
            }
        }
        let mut expected: Vec<_> = clients.join().unwrap().iter().map(|client| client.local_addr().unwrap()).collect();
        expected.sort_unstable();
        peers.sort_unstable();
        assert_eq!(peers, expected);
        proactor.cancel(op);
        let last = complete(&mut proactor);
        assert_eq!((last.result, last.more), (Err(Errno::CANCELED), false));
        proactor.forget(fd);
    });
}

#[test]
fn recv_many_brings_every_byte_in_order_and_then_the_end() {
    const LENGTH: usize = 4 << 20;
    on_every_driver(|mut proactor| {
        let (here, mut there) = UnixStream::pair().unwrap();
        let byte = |at: usize| (at % 251) as u8;
        let sender = thread::spawn(move || {
            let all: Vec<u8> = (0..LENGTH).map(byte).collect();
            there.write_all(&all).unwrap();
        });
        let mut received = Vec::new();
        proactor.submit(recv_many(&here), 1);
        loop {
            let done = complete(&mut proactor);
            match done.result {
                Ok(0) => {
                    assert!(!done.more);
                    break;
                }
                Ok(count) => {
                    let buf = done.buf.unwrap();
                    assert_eq!(buf.len(), count as usize);
                    received.extend(buf);
                }
                Err(errno) => assert_eq!((errno.code(), done.more), (libc::ENOBUFS, false)),
            }
            if !done.more {
                proactor.submit(recv_many(&here), 1);
            }
        }
        sender.join().unwrap();
        assert_eq!(received.len(), LENGTH);
        assert!(received.iter().enumerate().all(|(at, &found)| found == byte(at)));
        assert_eq!(proactor.pending(), 0);
        proactor.forget(here.as_raw_fd());
    });
}

#[test]
fn data_that_arrives_with_a_cancel_is_delivered_or_stays_in_the_socket() {
    on_every_driver(|mut proactor| {
        let (here, mut there) = UnixStream::pair().unwrap();
        let mut received = Vec::new();
        for round in 0..200u32 {
            let op = proactor.submit(recv_many(&here), 1);
            there.write_all(&round.to_be_bytes()).unwrap();
            proactor.cancel(op);
            loop {
                let done = complete(&mut proactor);
                received.extend(done.buf.unwrap_or_default());
                if !done.more {
                    break;
                }
            }
            nothing_completes(&mut proactor);
            let mut rest = vec![0; (round as usize + 1) * 4 - received.len()];
            (&here).read_exact(&mut rest).unwrap();
            received.extend(rest);
        }
        let expected: Vec<u8> = (0..200u32).flat_map(u32::to_be_bytes).collect();
        assert_eq!(received, expected);
        proactor.forget(here.as_raw_fd());
    });
}

#[test]
fn ring_goes_on_after_each_piece_without_being_asked() {
    going_on(|mut proactor| {
        let (here, mut there) = UnixStream::pair().unwrap();
        let op = proactor.submit(recv_many(&here), 1);
        // More pieces than there are buffers: each is given back.
        for round in 0..500u32 {
            there.write_all(&round.to_be_bytes()).unwrap();
            let done = complete(&mut proactor);
            assert_eq!((done.result, done.more), (Ok(4), true));
            assert_eq!(done.buf.unwrap(), round.to_be_bytes());
        }
        proactor.cancel(op);
        let last = complete(&mut proactor);
        assert_eq!((last.result, last.more), (Err(Errno::CANCELED), false));
        // Nobody receives any more: what comes is left to the socket.
        there.write_all(b"rest").unwrap();
        nothing_completes(&mut proactor);
        let mut rest = [0; 4];
        (&here).read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"rest");
    });
}

/// More is there than the buffers hold when all are asked at once. Ops that get none say so, and go on when asked again.
#[test]
fn ops_without_a_buffer_end_with_enobufs_and_lose_nothing() {
    const SOCKETS: usize = 16;
    going_on(|mut proactor| {
        let pairs: Vec<_> = (0..SOCKETS).map(|_| UnixStream::pair().unwrap()).collect();
        let mut due = Vec::new();
        for (number, (_, there)) in pairs.iter().enumerate() {
            there.set_nonblocking(true).unwrap();
            let block = [number as u8; 4096];
            let mut sent = 0;
            while let Ok(count) = (&*there).write(&block) {
                sent += count;
            }
            due.push(sent);
        }
        assert!(due.iter().sum::<usize>() > 2 << 20, "too little to use the buffers up");
        let submit =
            |proactor: &mut Proactor, number: usize| proactor.submit(recv_many(&pairs[number].0), number as u64);
        let mut ops: Vec<_> = (0..SOCKETS).map(|number| submit(&mut proactor, number)).collect();
        let mut without = 0;
        while due.iter().any(|&rest| rest > 0) {
            let done = complete(&mut proactor);
            let number = done.token as usize;
            match done.result {
                Ok(count) => {
                    assert_eq!(done.buf.unwrap(), vec![number as u8; count as usize]);
                    due[number] -= count as usize;
                }
                Err(errno) => {
                    assert_eq!(errno.code(), libc::ENOBUFS);
                    without += 1;
                }
            }
            if !done.more {
                ops[number] = submit(&mut proactor, number);
            }
        }
        assert!(without > 0, "there were buffers for all");
        for op in ops {
            proactor.detach(op);
        }
    });
}

#[test]
fn dropping_a_ring_that_goes_on_ends_it_and_the_peers_see_it() {
    going_on(|mut proactor| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        proactor.submit(Op::AcceptMany { fd: listener.as_raw_fd() }, 1);
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (here, mut there) = UnixStream::pair().unwrap();
        proactor.submit(recv_many(&here), 2);
        there.write_all(b"unread").unwrap();
        drop(proactor);
        drop((listener, here));
        // Either end sees it, as an end or as a reset; not a timeout.
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        there.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let ended = |seen: io::Result<usize>| match seen {
            Ok(count) => count == 0,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        };
        assert!(ended(client.read(&mut [0; 1])));
        assert!(ended(there.read(&mut [0; 1])));
    });
}

/// Rule 11 of the contract of drivers, for ops that could go on for ever.
#[test]
fn busy_sender_does_not_starve_a_quiet_one() {
    on_every_driver(|mut proactor| {
        let (busy, mut sender) = UnixStream::pair().unwrap();
        let (quiet, mut whisper) = UnixStream::pair().unwrap();
        // Ends with EPIPE, when nobody is there to read.
        let sending = thread::spawn(move || while sender.write_all(&[0; 1 << 16]).is_ok() {});
        proactor.submit(recv_many(&quiet), 1);
        proactor.submit(recv_many(&busy), 2);
        let mut heard = false;
        // Whoever takes what there is and never waits hears of nothing else: one visit, then all that it has brought.
        for turn in 0..200 {
            proactor.wait(Some(Duration::from_secs(10))).unwrap();
            if turn == 100 {
                whisper.write_all(b"psst").unwrap();
            }
            for _ in 0..proactor.finished() {
                let done = proactor.next().unwrap();
                if done.token == 1 {
                    assert_eq!(done.buf.as_deref(), Some(&b"psst"[..]));
                    heard = true;
                } else if !done.more {
                    proactor.submit(recv_many(&busy), 2);
                }
            }
        }
        assert!(heard);
        proactor.forget(busy.as_raw_fd());
        proactor.forget(quiet.as_raw_fd());
        drop((proactor, busy));
        sending.join().unwrap();
    });
}
