//! Ops on the blocking pool.
//!
//! A job owns all that it touches: the op with its buffer, and a duplicate of the descriptor, so
//! that it works on the file that was meant even if the number is closed and used again while it
//! waits for a thread. The result comes back as a letter. A job that never says anything (it
//! panicked, or the pool dropped it) still does: its `Errand` does so when dropped.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::driver::{Cargo, Outcome};
use crate::remote::{Letter, Mail};
use crate::{Errno, Op, OpKey, Pool, PoolError, sys};

/// The duty to report on one op.
struct Errand {
    key: OpKey,
    mail: Arc<Mail>,
    reported: bool,
}

impl Errand {
    fn report(mut self, result: Result<i32, Errno>, cargo: Cargo) {
        self.reported = true;
        self.post(result, cargo);
    }

    fn post(&self, result: Result<i32, Errno>, cargo: Cargo) {
        let outcome = Outcome { result, cargo };
        self.mail.post(Letter::Done { key: self.key, outcome });
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        if !self.reported {
            let panicked = std::thread::panicking();
            let why = if panicked { Errno::IO } else { Errno::CANCELED };
            self.post(Err(why), Cargo::None);
        }
    }
}

/// Hands `op` to the pool; the flag withdraws it while it has not begun. On failure the op is
/// dropped (buffer included) and its error returned.
pub(crate) fn send_to_pool(pool: &Pool, mail: &Arc<Mail>, key: OpKey, op: Op) -> Result<Arc<AtomicBool>, Errno> {
    let file = op.works_on().map(sys::duplicate).transpose()?;
    let withdrawn = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&withdrawn);
    let errand = Errand { key, mail: Arc::clone(mail), reported: false };
    let job = move || {
        if !flag.load(Ordering::Relaxed) {
            let (result, cargo) = run(op, file);
            errand.report(result, cargo);
        }
    };
    match pool.spawn(job) {
        Ok(()) => Ok(withdrawn),
        Err(PoolError::Closed) => Err(Errno::CANCELED),
        Err(PoolError::Thread(error)) => Err(Errno::from(&error)),
    }
}

/// On a pool thread: may block.
fn run(op: Op, file: Option<OwnedFd>) -> (Result<i32, Errno>, Cargo) {
    let fd: RawFd = file.as_ref().map_or(libc::AT_FDCWD, AsRawFd::as_raw_fd);
    match op {
        Op::Blocking(job) => {
            let result = job().map_err(|error: io::Error| Errno::from(&error));
            (result, Cargo::None)
        }
        Op::Read { mut buf, offset, .. } => {
            let result = sys::read(fd, &mut buf, offset, 0);
            (result, Cargo::Buf(buf))
        }
        Op::Write { buf, offset, .. } => {
            let result = sys::write(fd, &buf, offset, 0);
            (result, Cargo::Buf(buf))
        }
        Op::Fsync { data_only, .. } => (sys::fsync(fd, data_only), Cargo::None),
        Op::Open { path, flags, mode, .. } => match sys::open_at(fd, &path, flags, mode) {
            Ok(opened) => (Ok(opened.as_raw_fd()), Cargo::Opened { fd: opened, peer: None }),
            Err(errno) => (Err(errno), Cargo::None),
        },
        Op::Stat { path, flags, mask, .. } => match sys::stat_at(fd, &path, flags, mask) {
            Ok(stat) => (Ok(0), Cargo::Stat(stat)),
            Err(errno) => (Err(errno), Cargo::None),
        },
        Op::Connect { addr, .. } => (sys::connect(fd, &addr), Cargo::None),
        other => (Err(Errno::from_code(libc::ENOSYS)), Cargo::of(other)),
    }
}
