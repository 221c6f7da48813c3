//! One op in the ring: the request made of it, and the outcome made of its completion.

use std::mem::{self, MaybeUninit};
use std::os::fd::RawFd;

use io_uring::types::{self, Fd};
use io_uring::{opcode, squeue};

use super::buffers::GROUP;
use crate::driver::{Cargo, Event, Outcome};
use crate::message::Header;
use crate::{Errno, Op, OpKey, SockAddr, sys};

/// The kernel's "current position" of a file.
const CURRENT: u64 = u64::MAX;

/// Where the kernel puts what is no buffer of the op's.
enum Room {
    None,
    Address(Box<(MaybeUninit<libc::sockaddr_storage>, libc::socklen_t)>),
    Stat(Box<MaybeUninit<libc::statx>>),
    Header(Box<Header>),
}

/// An op with all that the kernel reads and writes for it (I1 of the driver).
pub(super) struct Carried {
    key: OpKey,
    op: Op,
    room: Room,
}

impl Carried {
    pub(super) fn new(key: OpKey, mut op: Op) -> Carried {
        let room = match &mut op {
            Op::Accept { .. } => {
                let length = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
                Room::Address(Box::new((MaybeUninit::zeroed(), length)))
            }
            Op::RecvMsg { .. } | Op::SendMsg { .. } => Room::Header(Box::new(Header::new())),
            Op::Stat { .. } => Room::Stat(Box::new(MaybeUninit::zeroed())),
            // tcp(7), MSG_TRUNC: bytes are counted but not written.
            Op::Recv { buf, flags, .. } if *flags & libc::MSG_TRUNC != 0 => blank(buf),
            // Valgrind does not see what the kernel writes for a ring.
            Op::Recv { buf, .. } | Op::Read { buf, .. } if cfg!(debug_assertions) => blank(buf),
            _ => Room::None,
        };
        Carried { key, op, room }
    }

    pub(super) fn key(&self) -> OpKey {
        self.key
    }

    pub(super) fn into_op(self) -> Op {
        self.op
    }

    /// The request for the op.
    pub(super) fn entry(&mut self) -> squeue::Entry {
        match (&mut self.op, &mut self.room) {
            (Op::Read { fd, buf, offset }, _) => {
                let (start, length) = spare(buf);
                opcode::Read::new(Fd(*fd), start, length).offset(offset.unwrap_or(CURRENT)).build()
            }
            (Op::Write { fd, buf, offset }, _) => {
                let (start, length) = (buf.as_ptr(), clamp(buf.len()));
                opcode::Write::new(Fd(*fd), start, length).offset(offset.unwrap_or(CURRENT)).build()
            }
            (Op::Recv { fd, buf, flags }, _) => {
                let (start, length) = spare(buf);
                opcode::Recv::new(Fd(*fd), start, length).flags(*flags).build()
            }
            (Op::Send { fd, buf, flags }, _) => {
                let (start, length) = (buf.as_ptr(), clamp(buf.len()));
                opcode::Send::new(Fd(*fd), start, length).flags(*flags | libc::MSG_NOSIGNAL).build()
            }
            (Op::RecvMsg { fd, message, flags }, Room::Header(header)) => {
                let flags = *flags | libc::MSG_CMSG_CLOEXEC;
                opcode::RecvMsg::new(Fd(*fd), header.aim_to_receive(message)).flags(flags as u32).build()
            }
            (Op::SendMsg { fd, message, flags }, Room::Header(header)) => {
                let flags = *flags | libc::MSG_NOSIGNAL;
                opcode::SendMsg::new(Fd(*fd), header.aim_to_send(message)).flags(flags as u32).build()
            }
            (Op::Fsync { fd, data_only }, _) => {
                let flags = if *data_only { types::FsyncFlags::DATASYNC } else { types::FsyncFlags::empty() };
                opcode::Fsync::new(Fd(*fd)).flags(flags).build()
            }
            (Op::Open { dir, path, flags, mode }, _) => {
                opcode::OpenAt::new(Fd(*dir), path.as_ptr()).flags(*flags | libc::O_CLOEXEC).mode(*mode).build()
            }
            (Op::Stat { dir, path, flags, mask }, Room::Stat(place)) => {
                let place = place.as_mut_ptr().cast::<types::statx>();
                opcode::Statx::new(Fd(*dir), path.as_ptr(), place).flags(*flags).mask(*mask).build()
            }
            (Op::Accept { fd }, Room::Address(room)) => {
                let (place, length) = (room.0.as_mut_ptr().cast(), &raw mut room.1);
                opcode::Accept::new(Fd(*fd), place, length).flags(libc::SOCK_CLOEXEC).build()
            }
            (Op::AcceptMany { fd }, _) => opcode::AcceptMulti::new(Fd(*fd)).flags(libc::SOCK_CLOEXEC).build(),
            (Op::RecvMany { fd }, _) => opcode::RecvMulti::new(Fd(*fd), GROUP).build(),
            (Op::Connect { fd, addr }, _) => {
                let bytes = addr.as_bytes();
                let length = libc::socklen_t::try_from(bytes.len()).unwrap_or(libc::socklen_t::MAX);
                opcode::Connect::new(Fd(*fd), bytes.as_ptr().cast(), length).build()
            }
            _ => opcode::Nop::new().build(),
        }
    }

    /// The event for a completion after which the op goes on; `piece` is what it has received.
    pub(super) fn part(&self, result: i32, piece: Option<Vec<u8>>) -> Event {
        let result = judge(result);
        Event::Part { key: self.key, outcome: Outcome { result, cargo: many(&self.op, result, piece) } }
    }

    /// The event for the op's last completion.
    pub(super) fn finish(self, result: i32, piece: Option<Vec<u8>>) -> Event {
        let Carried { key, op, room } = self;
        let result = judge(result);
        let cargo = match (op, room, result) {
            (Op::Read { mut buf, .. } | Op::Recv { mut buf, .. }, _, Ok(got)) => {
                // What MSG_TRUNC counts beyond the buffer is not in it.
                let filled = (buf.len() + got as usize).min(buf.capacity());
                // SAFETY: within the capacity; the kernel has written these bytes.
                unsafe { buf.set_len(filled) };
                Cargo::Buf(buf)
            }
            (Op::RecvMsg { mut message, .. }, Room::Header(header), Ok(got)) => {
                // SAFETY: aimed at this message by `entry`, and the kernel has done with both.
                unsafe { header.received(&mut message, got) };
                Cargo::Message(message)
            }
            (Op::Open { .. }, _, Ok(number)) => Cargo::Opened { fd: taken(number), peer: None },
            (Op::Accept { .. }, Room::Address(room), Ok(number)) => {
                let length = (room.1 as usize).min(mem::size_of::<libc::sockaddr_storage>());
                // SAFETY: zeroed, then partly overwritten by the kernel.
                let bytes = unsafe { std::slice::from_raw_parts(room.0.as_ptr().cast::<u8>(), length) };
                Cargo::Opened { fd: taken(number), peer: Some(SockAddr::from_bytes(bytes)) }
            }
            // SAFETY: zeroed, then written by the kernel; every bit pattern is a valid `statx`.
            (Op::Stat { .. }, Room::Stat(place), Ok(_)) => Cargo::Stat(unsafe { place.assume_init() }),
            (op @ (Op::AcceptMany { .. } | Op::RecvMany { .. }), _, _) => many(&op, result, piece),
            (op, _, _) => Cargo::of(op),
        };
        Event::Done { key, outcome: Outcome { result, cargo } }
    }
}

fn judge(result: i32) -> Result<i32, Errno> {
    if result < 0 { Err(Errno::from_code(result.saturating_neg())) } else { Ok(result) }
}

/// What one completion of an op that asks for many brings.
fn many(op: &Op, result: Result<i32, Errno>, piece: Option<Vec<u8>>) -> Cargo {
    match (op, result) {
        (Op::AcceptMany { .. }, Ok(number)) => Cargo::Opened { fd: taken(number), peer: None },
        (Op::RecvMany { .. }, Ok(_)) => Cargo::Buf(piece.unwrap_or_default()),
        _ => Cargo::None,
    }
}

fn taken(number: RawFd) -> std::os::fd::OwnedFd {
    // SAFETY: fresh from the kernel.
    unsafe { sys::own(number) }
}

/// Fills the spare room of a buffer with zeros.
fn blank(buf: &mut Vec<u8>) -> Room {
    buf.spare_capacity_mut().fill(MaybeUninit::new(0));
    Room::None
}

fn clamp(length: usize) -> u32 {
    length.min(sys::TRANSFER) as u32
}

/// The spare room of a buffer, which the op owns until its completion.
fn spare(buf: &mut Vec<u8>) -> (*mut u8, u32) {
    let room = buf.spare_capacity_mut();
    (room.as_mut_ptr().cast(), clamp(room.len()))
}
