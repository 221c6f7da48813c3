//! A per-thread proactor: submit *ops*, reap *completions*.
//!
//! Ops are tried at once where that cannot block; what would block waits in the operating system
//! until a descriptor is ready, a deadline passes, another thread posts a result or a pool thread
//! has done the work. Completions are then taken in batches. There are no callbacks and no
//! futures, so that whoever calls [`Proactor::wait`] may give up a lock (an interpreter's, say)
//! for just that call.
//!
//! ```text
//!            submit, cancel, detach                 Remote::post, wake (any thread)
//!                    |                                        |
//!    +---------------v----------------------------------------v-------------+
//!    |  Proactor     ops (slab)   fds (waiters, what is known)   mailbox     |
//!    |               deadlines (heap)   finished (list)             ^        |
//!    +-------|---------------------------------|-----------------------|-----+
//!            | arm, carry, wait                 | next()                | results
//!        Driver: epoll ...                 completions          Pool of threads
//! ```
//!
//! # Two ways of use
//! Let ops do the transfers:
//! ```
//! use lissom_proactor::{DriverKind, Op, Proactor};
//! use std::os::fd::AsRawFd;
//! use std::os::unix::net::UnixStream;
//!
//! # fn main() -> std::io::Result<()> {
//! let (here, there) = UnixStream::pair()?;
//! let mut proactor = Proactor::new(DriverKind::Auto)?;
//! let buf = Vec::with_capacity(64);
//! proactor.submit(Op::Recv { fd: here.as_raw_fd(), buf, flags: 0 }, 1);
//! proactor.submit(Op::Send { fd: there.as_raw_fd(), buf: b"hello".to_vec(), flags: 0 }, 2);
//! while proactor.pending() > 0 {
//!     proactor.wait(None)?;
//! }
//! while let Some(done) = proactor.next() {
//!     assert_eq!(done.result, Ok(5));
//!     assert_eq!(done.buf.as_deref(), Some(&b"hello"[..]));
//! }
//! // Say so before a descriptor is closed: its number will be another file's.
//! proactor.forget(here.as_raw_fd());
//! proactor.forget(there.as_raw_fd());
//! # Ok(())
//! # }
//! ```
//! Or do them yourself and wait only when they would block:
//! ```
//! use lissom_proactor::{DriverKind, Interest, Op, Proactor};
//! use std::io::{ErrorKind, Read};
//! use std::os::fd::AsRawFd;
//! # use std::os::unix::net::UnixStream;
//!
//! fn read(proactor: &mut Proactor, socket: &mut UnixStream, buf: &mut [u8]) -> std::io::Result<usize> {
//!     let fd = socket.as_raw_fd();
//!     loop {
//!         if proactor.may_be_ready(fd, Interest::READ) {
//!             match socket.read(buf) {
//!                 Err(error) if error.kind() == ErrorKind::WouldBlock => {
//!                     proactor.exhausted(fd, Interest::READ);
//!                 }
//!                 result => return result,
//!             }
//!         }
//!         proactor.submit(Op::Ready { fd, interest: Interest::READ, keep: true }, 0);
//!         while proactor.next().is_none() {
//!             proactor.wait(None)?;
//!         }
//!     }
//! }
//! # fn main() -> std::io::Result<()> {
//! # let (mut here, there) = UnixStream::pair()?;
//! # here.set_nonblocking(true)?;
//! # let mut proactor = Proactor::new(DriverKind::Auto)?;
//! # std::thread::spawn(move || std::io::Write::write_all(&mut &there, b"x"));
//! # assert_eq!(read(&mut proactor, &mut here, &mut [0; 8])?, 1);
//! # proactor.forget(here.as_raw_fd());
//! # Ok(())
//! # }
//! ```
//!
//! # Descriptors
//! Registrations are kept, so a descriptor must be announced before it is closed:
//! [`Proactor::forget`] on the thread that waits on it, or [`closed`] from any other. Where nobody
//! announces anything, use [`Op::Ready`] with `keep: false`.
//!
//! # Panics
//! Nothing here panics on what the operating system or a peer does.
//!
//! # Platform
//! Linux, 64 bits.

mod addr;
mod attempt;
mod carry;
mod deadlines;
pub mod driver;
mod errno;
mod fds;
mod generation;
mod interest;
mod life;
mod list;
mod mailbox;
mod message;
mod nonblock;
mod op;
mod ops;
mod pool;
mod proactor;
mod readiness;
mod remote;
mod sys;

/// The types that the mailbox synchronises with; the loom test has others under this name.
mod sync {
    pub(crate) use std::sync::Mutex;
    pub(crate) use std::sync::atomic::{AtomicU32, Ordering};
}

pub use addr::SockAddr;
pub use driver::DriverKind;
pub use errno::Errno;
pub use generation::closed;
pub use interest::{Interest, Readiness};
pub use message::Message;
pub use op::{Completion, Job, Op, OpKey};
pub use pool::{Pool, PoolError, PoolSettings, PoolStats};
pub use proactor::{Proactor, Wait};
pub use remote::Remote;
