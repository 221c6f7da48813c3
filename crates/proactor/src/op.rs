//! Ops and completions: what goes in and what comes out.

use std::ffi::CString;
use std::fmt;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::{OwnedFd, RawFd};

use crate::{Errno, Interest, Message, Readiness, SockAddr};

/// Work for the blocking pool: runs on a native thread, may block.
pub type Job = Box<dyn FnOnce() -> io::Result<i32> + Send>;

/// How much an [`Op::RecvMany`] receives at a time, in bytes.
pub(crate) const MANY_ROOM: usize = 8 << 10;

/// Something to be carried out, completed exactly once (`AcceptMany` and `RecvMany`: once finally).
///
/// **Descriptors.** An op borrows its descriptor by number. All ops but `Ready { keep: false }`
/// rely on the promise that [`Proactor::forget`](crate::Proactor::forget) or
/// [`closed`](crate::closed) is called *before* the descriptor is closed. Whatever mode the
/// descriptor is in (`O_NONBLOCK` or not), submitting does not block.
///
/// **Buffers** belong to the op from submission until its completion gives them back
/// (`Completion::buf`). Reading ops append to the buffer: they fill its spare capacity, once, as
/// one `recv` would. Writing ops send the whole of it, once, as one `send` would: both may be
/// short.
#[non_exhaustive]
pub enum Op {
    /// Wait until `fd` is ready for one of `interest`.
    /// Result: the bits of a [`Readiness`], see [`Completion::readiness`].
    ///
    /// With `keep: true` the caller has just seen `EAGAIN` (and has said so by
    /// [`exhausted`](crate::Proactor::exhausted)) or knows that
    /// [`may_be_ready`](crate::Proactor::may_be_ready) is false; the op completes at the next
    /// edge, or at once if an event has come in since. With `keep: false`, for descriptors whose
    /// closing nobody reports, a condition that already holds completes the op; each costs one
    /// more system call. Whoever passes the answer on (as select(2) does) asks poll(2) once more:
    /// the event may be of a file that had the number before.
    ///
    /// A descriptor that cannot be waited for (a regular file) is always ready.
    Ready {
        /// The descriptor.
        fd: RawFd,
        /// Directions to wait for.
        interest: Interest,
        /// Whether its closing is reported, so that its registration can be kept.
        keep: bool,
    },
    /// Receive from a socket, as `recv(fd, buf, flags)`. Result: bytes received; 0 is the end.
    Recv {
        /// The socket.
        fd: RawFd,
        /// Filled from `len()` to `capacity()`.
        buf: Vec<u8>,
        /// `MSG_*` flags of recv(2).
        flags: i32,
    },
    /// Send to a socket, as `send(fd, buf, flags)`. Result: bytes sent, which may be fewer than
    /// given. `SIGPIPE` is not raised.
    Send {
        /// The socket.
        fd: RawFd,
        /// What to send.
        buf: Vec<u8>,
        /// `MSG_*` flags of send(2).
        flags: i32,
    },
    /// Receive a message with its address and ancillary data, as `recvmsg(fd, message, flags)`. Result: bytes received. The
    /// message is in [`Completion::message`]; descriptors in it are close-on-exec.
    RecvMsg {
        /// The socket.
        fd: RawFd,
        /// Filled in its spare room.
        message: Box<Message>,
        /// `MSG_*` flags of recvmsg(2).
        flags: i32,
    },
    /// Send a message, as `sendmsg(fd, message, flags)`. Result: bytes sent. `SIGPIPE` is not raised.
    SendMsg {
        /// The socket.
        fd: RawFd,
        /// What to send, and to whom. Descriptors in it stay the caller's, and open until the completion.
        message: Box<Message>,
        /// `MSG_*` flags of sendmsg(2).
        flags: i32,
    },
    /// Read from any descriptor, as read(2) or pread(2). Result: bytes read; 0 is the end.
    Read {
        /// The descriptor.
        fd: RawFd,
        /// Filled from `len()` to `capacity()`.
        buf: Vec<u8>,
        /// Where in the file; `None` is the current position.
        offset: Option<u64>,
    },
    /// Write to any descriptor, as write(2) or pwrite(2). Result: bytes written.
    Write {
        /// The descriptor.
        fd: RawFd,
        /// What to write.
        buf: Vec<u8>,
        /// Where in the file; `None` is the current position.
        offset: Option<u64>,
    },
    /// Write what the system keeps of a file to its disk, as fsync(2). Result: 0.
    Fsync {
        /// The file.
        fd: RawFd,
        /// Only what is needed to read the data back, as fdatasync(2).
        data_only: bool,
    },
    /// Open a file, as openat(2) with `O_CLOEXEC`. Result: the number of the descriptor that is in [`Completion::fd`].
    Open {
        /// The folder that a relative path starts from; `AT_FDCWD` for the current one.
        dir: RawFd,
        /// The path.
        path: CString,
        /// `O_*` flags.
        flags: i32,
        /// Permissions of a file that is made.
        mode: u32,
    },
    /// Ask about a file, as statx(2). Result: 0; the answer is in [`Completion::stat`].
    Stat {
        /// As for `Open`; with `AT_EMPTY_PATH` and an empty path the file itself.
        dir: RawFd,
        /// The path.
        path: CString,
        /// `AT_*` flags.
        flags: i32,
        /// `STATX_*`: what to ask for.
        mask: u32,
    },
    /// Accept a connection (`SOCK_CLOEXEC`, blocking mode). Result: the number of the descriptor
    /// that is in [`Completion::fd`]; the peer's address is in [`Completion::peer`].
    ///
    /// On a listening socket in blocking mode the epoll driver sets `O_NONBLOCK` for the moment
    /// of the call, which other processes that share the socket can see.
    Accept {
        /// The listening socket.
        fd: RawFd,
    },
    /// Accept connections (`SOCK_CLOEXEC`, blocking mode), as long as the driver can go on: each completes as `Accept` does,
    /// [`Completion::more`] set on all but the last. Submit it again after the last, or do not while there are enough:
    /// the rest waits in the backlog.
    ///
    /// The uring driver goes on until it is told to end, for listeners in blocking mode, and does not tell the peer's
    /// address (getpeername(2) does). Others end with the first connection.
    AcceptMany {
        /// The listening socket.
        fd: RawFd,
    },
    /// Receive from a stream socket, as long as the driver can go on: each completion brings up to 8 KiB in a buffer of its own,
    /// [`Completion::more`] set on all but the last. Result: bytes received; 0 is the end. While nothing arrives, it
    /// holds no buffer. Submit it again after the last completion unless that says the end; do not while there is
    /// enough: the rest stays in the socket.
    ///
    /// `ENOBUFS` says that the driver had no buffer left just then. Nothing is lost: submit it again.
    ///
    /// The uring driver goes on until it is told to end, for sockets in blocking mode, and receives ahead of the caller
    /// meanwhile. It holds the *file*: cancel the op and wait for its last completion before you close the socket, or the
    /// peer sees no end. Others end with the first completion.
    RecvMany {
        /// The socket.
        fd: RawFd,
    },
    /// Connect a socket. Result: 0. For blocking mode see `Accept`.
    ///
    /// After a cancelled or timed-out connect the socket may still become connected: close it.
    Connect {
        /// The socket.
        fd: RawFd,
        /// Where to.
        addr: SockAddr,
    },
    /// Wait for the deadline of [`submit_by`](crate::Proactor::submit_by), which completes it with
    /// [`Errno::TIMED_OUT`]; without a deadline, for `cancel`.
    Timeout,
    /// Complete at once with 0.
    Nop,
    /// Run on a thread of the [`Pool`](crate::Pool). Result: what the job returned; `EIO` if it
    /// panicked. A cancelled job that runs already runs on, its result is dropped.
    Blocking(Job),
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Ready { fd, interest, keep } => {
                write!(f, "Ready({fd}, {interest:?}, keep: {keep})")
            }
            Op::Recv { fd, .. } => write!(f, "Recv({fd})"),
            Op::Send { fd, buf, .. } => write!(f, "Send({fd}, {} bytes)", buf.len()),
            Op::RecvMsg { fd, .. } => write!(f, "RecvMsg({fd})"),
            Op::SendMsg { fd, message, .. } => write!(f, "SendMsg({fd}, {} bytes)", message.data.len()),
            Op::Read { fd, offset, .. } => write!(f, "Read({fd}, at {offset:?})"),
            Op::Write { fd, offset, .. } => write!(f, "Write({fd}, at {offset:?})"),
            Op::Fsync { fd, data_only } => write!(f, "Fsync({fd}, data only: {data_only})"),
            Op::Open { path, .. } => write!(f, "Open({path:?})"),
            Op::Stat { path, .. } => write!(f, "Stat({path:?})"),
            Op::Accept { fd } => write!(f, "Accept({fd})"),
            Op::AcceptMany { fd } => write!(f, "AcceptMany({fd})"),
            Op::RecvMany { fd } => write!(f, "RecvMany({fd})"),
            Op::Connect { fd, addr } => write!(f, "Connect({fd}, {addr:?})"),
            Op::Timeout => f.write_str("Timeout"),
            Op::Nop => f.write_str("Nop"),
            Op::Blocking(_) => f.write_str("Blocking"),
        }
    }
}

/// Names one submitted op. A key outlives its op harmlessly: it is then stale and names nothing.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub struct OpKey {
    /// Counts submissions and is never reused.
    pub(crate) serial: NonZeroU64,
    pub(crate) index: u32,
}

/// The result of one op, or of one [`Remote::post`](crate::Remote::post).
#[derive(Debug)]
#[non_exhaustive]
pub struct Completion {
    /// The token given at submission.
    pub token: u64,
    /// What the op returned, see [`Op`].
    pub result: Result<i32, Errno>,
    /// The op's buffer; `None` for ops without one, and for a cancelled op whose buffer a pool
    /// thread is still using.
    pub buf: Option<Vec<u8>>,
    /// The accepted connection or opened file. Closed when dropped.
    pub fd: Option<OwnedFd>,
    /// The accepted connection's peer.
    pub peer: Option<SockAddr>,
    /// What was asked about a file.
    pub stat: Option<Box<libc::statx>>,
    /// The message of `RecvMsg` and `SendMsg`.
    pub message: Option<Box<Message>>,
    /// The op goes on, and completes at least once more with this token. If it is detached, those completions that have
    /// come already are still to be taken.
    pub more: bool,
}

impl Completion {
    /// The result of a finished [`Op::Ready`] as a set; empty for an error.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        Readiness::from_bits(self.result.map_or(0, |bits| bits as u8))
    }
}
