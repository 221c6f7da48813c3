//! Many sockets, random traffic, numbers that come and go: a wake-up that is lost shows as a hang,
//! which `complete` turns into a failure.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;

use common::{complete, on_every_driver, pair, readable};
use lissom_proactor::{Interest, Op, Proactor};

const SLOTS: u64 = 16;
const SOCKETS: u64 = 2_000;

/// xorshift64: the same traffic in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Writes random blocks to each socket that it is given, a few at a time, and closes it.
fn write_all(sockets: &mpsc::Receiver<(UnixStream, usize)>) {
    let mut random = Random(42);
    let mut open: Vec<(UnixStream, usize)> = Vec::new();
    loop {
        if open.is_empty() {
            let Ok(next) = sockets.recv() else { return };
            open.push(next);
        }
        open.extend(sockets.try_iter());
        let at = random.below(open.len() as u64) as usize;
        let (socket, left) = &mut open[at];
        let block = (*left).min(1 + random.below(900) as usize);
        socket.write_all(&[7; 900][..block]).expect("write");
        *left -= block;
        if *left == 0 {
            open.swap_remove(at);
        }
    }
}

/// Reads until it would block, by the rules for callers who do their own transfers; true at the
/// end of the stream.
fn read_some(proactor: &mut Proactor, mut socket: &UnixStream, got: &mut usize) -> bool {
    let (fd, mut buf) = (socket.as_raw_fd(), [0; 256]);
    while proactor.may_be_ready(fd, Interest::READ) {
        match socket.read(&mut buf) {
            Ok(0) => return true,
            Ok(count) => {
                *got += count;
                if count < buf.len() {
                    proactor.exhausted(fd, Interest::READ);
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                proactor.exhausted(fd, Interest::READ);
                break;
            }
            Err(error) => panic!("{error}"),
        }
    }
    false
}

#[test]
fn every_byte_and_every_end_of_file_arrives() {
    on_every_driver(|mut proactor| {
        let (give, sockets) = mpsc::channel();
        let writer = std::thread::spawn(move || write_all(&sockets));
        let mut random = Random(1);
        let mut open: Vec<Option<(UnixStream, usize, usize)>> = (0..SLOTS).map(|_| None).collect();
        let (mut started, mut ended) = (0, 0);
        while ended < SOCKETS {
            for (token, slot) in open.iter_mut().enumerate() {
                if slot.is_none() && started < SOCKETS {
                    let (here, there) = pair();
                    there.set_nonblocking(false).unwrap();
                    let expected = 1 + random.below(20_000) as usize;
                    give.send((there, expected)).unwrap();
                    proactor.submit(readable(&here), token as u64);
                    *slot = Some((here, 0, expected));
                    started += 1;
                }
            }
            let token = complete(&mut proactor).token;
            let slot = &mut open[token as usize];
            let (here, got, expected) = slot.as_mut().expect("a waiter's socket is open");
            if read_some(&mut proactor, here, got) {
                assert_eq!(got, expected);
                proactor.forget(here.as_raw_fd());
                *slot = None;
                ended += 1;
                continue;
            }
            let op = readable(here);
            if random.below(4) == 0 {
                // A waiter that gives up must not take the event with it.
                let key = proactor.submit(op, token);
                assert!(proactor.detach(key));
                let (fd, interest) = (here.as_raw_fd(), Interest::READ);
                proactor.submit(Op::Ready { fd, interest, keep: true }, token);
            } else {
                proactor.submit(op, token);
            }
        }
        drop(give);
        writer.join().unwrap();
        assert_eq!(proactor.pending(), 0);
    });
}
