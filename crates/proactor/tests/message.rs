//! Messages with addresses and ancillary data.

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::mem;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::net::{UnixDatagram, UnixStream};

use common::{complete, nothing_completes, on_every_driver};
use lissom_proactor::{Errno, Message, Op, Proactor};

fn room(data: usize, control: usize) -> Box<Message> {
    let (data, control) = (Vec::with_capacity(data), Vec::with_capacity(control));
    Box::new(Message { data, control, ..Message::default() })
}

fn receive(proactor: &mut Proactor, socket: &impl AsRawFd, message: Box<Message>) {
    proactor.submit(Op::RecvMsg { fd: socket.as_raw_fd(), message, flags: 0 }, 1);
}

fn send(proactor: &mut Proactor, socket: &impl AsRawFd, message: Message) {
    proactor.submit(Op::SendMsg { fd: socket.as_raw_fd(), message: Box::new(message), flags: 0 }, 2);
}

/// One descriptor as ancillary data: the header of cmsg(3), padded, and the number.
fn rights(fd: RawFd) -> Vec<u8> {
    const HEAD: usize = mem::size_of::<libc::cmsghdr>();
    let mut control = Vec::new();
    control.extend((HEAD + mem::size_of::<RawFd>()).to_ne_bytes());
    control.extend(libc::SOL_SOCKET.to_ne_bytes());
    control.extend(libc::SCM_RIGHTS.to_ne_bytes());
    control.extend(fd.to_ne_bytes());
    control.resize(HEAD + 8, 0);
    control
}

#[test]
fn datagram_comes_with_its_senders_address_and_is_answered_there() {
    on_every_driver(|mut proactor| {
        let here = UdpSocket::bind("127.0.0.1:0").unwrap();
        let there = UdpSocket::bind("127.0.0.1:0").unwrap();
        receive(&mut proactor, &here, room(16, 0));
        nothing_completes(&mut proactor);
        there.send_to(b"question", here.local_addr().unwrap()).unwrap();
        let done = complete(&mut proactor);
        assert_eq!(done.result, Ok(8));
        let question = done.message.unwrap();
        assert_eq!((&question.data[..], question.flags), (&b"question"[..], 0));
        let answer = Message { data: b"answer".to_vec(), peer: question.peer, ..Message::default() };
        send(&mut proactor, &here, answer);
        assert_eq!(complete(&mut proactor).result, Ok(6));
        let mut buf = [0; 16];
        let (count, from) = there.recv_from(&mut buf).unwrap();
        assert_eq!((&buf[..count], from), (&b"answer"[..], here.local_addr().unwrap()));
        proactor.forget(here.as_raw_fd());
    });
}

#[test]
fn descriptor_that_is_sent_arrives_open_and_close_on_exec() {
    on_every_driver(|mut proactor| {
        let (here, there) = UnixStream::pair().unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        receive(&mut proactor, &here, room(4, 64));
        let message = Message { data: b"x".to_vec(), control: rights(writer.as_raw_fd()), ..Message::default() };
        send(&mut proactor, &there, message);
        let (one, other) = (complete(&mut proactor), complete(&mut proactor));
        let (received, sent) = if one.token == 1 { (one, other) } else { (other, one) };
        assert_eq!((received.result, sent.result), (Ok(1), Ok(1)));
        let control = received.message.unwrap().control;
        let head = mem::size_of::<libc::cmsghdr>();
        let fd = RawFd::from_ne_bytes(control[head..head + 4].try_into().unwrap());
        assert_ne!(fd, writer.as_raw_fd());
        // SAFETY: fresh from the kernel, and nobody else's.
        let mut copy = unsafe { File::from_raw_fd(fd) };
        // SAFETY: takes no pointers.
        assert_eq!(unsafe { libc::fcntl(fd, libc::F_GETFD) } & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
        drop(writer);
        copy.write_all(b"through").unwrap();
        drop(copy);
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        assert_eq!(all, b"through");
        proactor.forget(here.as_raw_fd());
        proactor.forget(there.as_raw_fd());
    });
}

#[test]
fn message_that_is_longer_than_its_room_says_so() {
    on_every_driver(|mut proactor| {
        let (here, there) = UnixDatagram::pair().unwrap();
        there.send(b"longer").unwrap();
        let message = room(4, 0);
        let room = message.data.capacity();
        assert!(room < 6);
        proactor.submit(Op::RecvMsg { fd: here.as_raw_fd(), message, flags: libc::MSG_TRUNC }, 1);
        let done = complete(&mut proactor);
        assert_eq!(done.result, Ok(6));
        let message = done.message.unwrap();
        assert_eq!(message.data, &b"longer"[..room]);
        assert_eq!(message.flags & libc::MSG_TRUNC, libc::MSG_TRUNC);
        assert!(message.peer.is_none(), "a socket without a name");
        proactor.forget(here.as_raw_fd());
    });
}

#[test]
fn cancelled_receiving_gives_its_message_back() {
    on_every_driver(|mut proactor| {
        let (here, _there) = UnixDatagram::pair().unwrap();
        let op = Op::RecvMsg { fd: here.as_raw_fd(), message: room(100, 10), flags: 0 };
        let key = proactor.submit(op, 1);
        assert!(proactor.cancel(key));
        let done = complete(&mut proactor);
        assert_eq!(done.result, Err(Errno::CANCELED));
        let message = done.message.unwrap();
        assert!(message.data.is_empty() && message.data.capacity() >= 100);
        proactor.forget(here.as_raw_fd());
    });
}
