//! One attempt at an op, which never blocks, whatever mode the descriptor is in.

use std::os::fd::{AsRawFd, RawFd};

use crate::driver::Cargo;
use crate::nonblock::without_blocking;
use crate::op::MANY_ROOM;
use crate::{Errno, Interest, Op, Readiness, message, sys};

/// How an attempt ended.
pub(crate) enum Attempt {
    /// The op is done; it gives back what it held.
    Done(Result<i32, Errno>),
    /// The op is done and has something else to give.
    DoneWith(Result<i32, Errno>, Cargo),
    /// It would block: wait for readiness.
    Blocks,
    /// It may block and nothing will say when not: for the driver to carry, or for the pool.
    Waits,
}

impl From<Result<i32, Errno>> for Attempt {
    fn from(result: Result<i32, Errno>) -> Attempt {
        match result {
            Err(errno) if errno.would_block() => Attempt::Blocks,
            result => Attempt::Done(result),
        }
    }
}

/// Tries `op`. `begun` says that it has been tried before and an event has come since.
/// `Ready` has nothing to try.
pub(crate) fn attempt(op: &mut Op, begun: bool) -> Attempt {
    match op {
        Op::Recv { fd, buf, flags } => sys::recv(*fd, buf, *flags).into(),
        Op::Send { fd, buf, flags } => sys::send(*fd, buf, *flags).into(),
        Op::RecvMsg { fd, message: into, flags } => message::receive(*fd, into, *flags).into(),
        Op::SendMsg { fd, message: from, flags } => message::send(*fd, from, *flags).into(),
        Op::Read { fd, buf, offset } => {
            let first = sys::read(*fd, buf, *offset, libc::RWF_NOWAIT);
            unless_unsupported(first, *fd, offset.is_some(), libc::POLLIN, || sys::read(*fd, buf, None, 0))
        }
        Op::Write { fd, buf, offset } => {
            let first = sys::write(*fd, buf, *offset, libc::RWF_NOWAIT);
            unless_unsupported(first, *fd, offset.is_some(), libc::POLLOUT, || sys::write(*fd, buf, None, 0))
        }
        Op::Accept { fd } | Op::AcceptMany { fd } => accept(*fd),
        Op::RecvMany { fd } => {
            let mut buf = Vec::with_capacity(MANY_ROOM);
            match sys::recv(*fd, &mut buf, 0) {
                Ok(got) => {
                    buf.shrink_to_fit();
                    Attempt::DoneWith(Ok(got), Cargo::Buf(buf))
                }
                failed => failed.into(),
            }
        }
        Op::Connect { fd, .. } if begun => connected(*fd),
        Op::Connect { fd, addr } => match without_blocking(*fd, || sys::connect(*fd, addr)) {
            // connect(2): when interrupted, the attempt goes on as if it had been non-blocking.
            Err(e) if matches!(e.code(), libc::EINPROGRESS | libc::EINTR) => Attempt::Blocks,
            // A Unix socket whose listener's backlog is full (unix(7)); no event tells when it
            // is not.
            Err(e) if e.would_block() => Attempt::Waits,
            result => Attempt::Done(result),
        },
        Op::Nop => Attempt::Done(Ok(0)),
        Op::Fsync { .. } | Op::Open { .. } | Op::Stat { .. } | Op::Blocking(_) => Attempt::Waits,
        Op::Ready { .. } | Op::Timeout => Attempt::Blocks,
    }
}

/// Judges a transfer with `RWF_NOWAIT`. Files that do not support the flag (`EOPNOTSUPP`: ttys;
/// pipes before Linux 6.4; `ENOSYS`: kernels before 4.14) are left to the pool if they are on disk
/// or read at an offset; the others are asked by poll(2) and then called without blocking.
fn unless_unsupported(
    first: Result<i32, Errno>,
    fd: RawFd,
    at_offset: bool,
    event: i16,
    plain: impl FnOnce() -> Result<i32, Errno>,
) -> Attempt {
    match first {
        Err(e) if matches!(e.code(), libc::EOPNOTSUPP | libc::ENOSYS) => {
            if at_offset || sys::on_disk(fd).unwrap_or(false) {
                Attempt::Waits
            } else if sys::poll_now(fd, event).is_empty() {
                Attempt::Blocks
            } else {
                without_blocking(fd, plain).into()
            }
        }
        result => result.into(),
    }
}

/// In blocking mode poll(2) is asked before the mode is touched, as most attempts find nobody.
fn accept(fd: RawFd) -> Attempt {
    let accepted = match sys::status_flags(fd) {
        Err(errno) => Err(errno),
        Ok(flags) if flags & libc::O_NONBLOCK != 0 => sys::accept(fd),
        Ok(_) if sys::poll_now(fd, libc::POLLIN).is_empty() => return Attempt::Blocks,
        Ok(_) => without_blocking(fd, || sys::accept(fd)),
    };
    match accepted {
        Ok((socket, peer)) => {
            let number = socket.as_raw_fd();
            Attempt::DoneWith(Ok(number), Cargo::Opened { fd: socket, peer: Some(peer) })
        }
        Err(errno) => Attempt::from(Err(errno)),
    }
}

/// connect(2), EINPROGRESS: once writable, `SO_ERROR` is the result. The event may be an older one,
/// so poll(2) decides whether the attempt is over.
fn connected(fd: RawFd) -> Attempt {
    let over = Readiness::ending(Interest::WRITE);
    if sys::poll_now(fd, libc::POLLOUT).intersects(over) {
        Attempt::Done(sys::socket_error(fd))
    } else {
        Attempt::Blocks
    }
}
