//! Opening a ring: what the kernel has, what is used of it, and why there may be none.

use std::fmt;
use std::io;

use io_uring::{IoUring, Probe, opcode};

/// What a ring may use of newer kernels.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub struct Features {
    /// Linux 6.1: one thread submits, and completions are worked out when it asks
    /// (`IORING_SETUP_SINGLE_ISSUER`, `IORING_SETUP_DEFER_TASKRUN`). Ops that ask for many are carried.
    pub deferred: bool,
    /// Linux 5.19: completions are worked out at the thread's next system call, without interrupting it
    /// (`IORING_SETUP_COOP_TASKRUN`).
    pub cooperative: bool,
}

impl Features {
    /// All that this driver knows to use.
    #[must_use]
    pub const fn all() -> Features {
        Features { deferred: true, cooperative: true }
    }

    /// None: what Linux 5.15 has is enough.
    #[must_use]
    pub const fn none() -> Features {
        Features { deferred: false, cooperative: false }
    }
}

const AT_A_LIMIT: &str = "the system is at a limit";

/// Why there is no ring.
#[derive(Debug)]
pub struct Refused {
    what: &'static str,
    error: io::Error,
}

impl Refused {
    /// A system call beside the ring has failed: the system is at a limit.
    pub(crate) fn system(error: io::Error) -> Refused {
        Refused { what: AT_A_LIMIT, error }
    }

    fn setup(error: io::Error) -> Refused {
        let what = match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => AT_A_LIMIT,
            Some(libc::ENOSYS) => "this kernel does not have it",
            Some(libc::EPERM | libc::EACCES) => {
                "a sandbox (seccomp) or the setting kernel.io_uring_disabled forbids it"
            }
            Some(libc::ENOMEM) => "it may not lock memory; raise the limit RLIMIT_MEMLOCK",
            _ => "the kernel refuses it",
        };
        Refused { what, error }
    }

    fn too_old(what: &'static str) -> Refused {
        Refused { what, error: io::Error::from_raw_os_error(libc::ENOSYS) }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no io_uring: {} ({})", self.what, self.error)
    }
}

impl std::error::Error for Refused {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl From<Refused> for io::Error {
    /// A limit is reported as it is; of anything else the number would say less than the sentence.
    fn from(refused: Refused) -> io::Error {
        if refused.what == AT_A_LIMIT {
            return refused.error;
        }
        io::Error::new(refused.error.kind(), refused.to_string())
    }
}

/// Opens a ring with as many of `features` as the kernel has; returns which.
///
/// # Errors
/// [`Refused`].
pub(crate) fn open(entries: u32, features: Features) -> Result<(IoUring, Features), Refused> {
    let none = Features::none();
    let tries = [
        Features { deferred: features.deferred, cooperative: false },
        Features { deferred: false, cooperative: features.cooperative },
        none,
    ];
    let mut tries = tries.into_iter().filter(|&these| these != none).chain([none]);
    let (ring, features) = loop {
        let these = tries.next().expect("the last try ends the loop");
        match build(entries, these) {
            Ok(ring) => break (ring, these),
            // A flag that the kernel does not know.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && these != none => {}
            Err(error) => return Err(Refused::setup(error)),
        }
    };
    if !ring.params().is_feature_nodrop() {
        return Err(Refused::too_old("its kernel may lose completions; Linux 5.5 is needed"));
    }
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(Refused::setup)?;
    let needed = [
        opcode::Read::CODE,
        opcode::Write::CODE,
        opcode::Fsync::CODE,
        opcode::OpenAt::CODE,
        opcode::Statx::CODE,
        opcode::Connect::CODE,
        opcode::Accept::CODE,
        opcode::Recv::CODE,
        opcode::Send::CODE,
        opcode::RecvMsg::CODE,
        opcode::SendMsg::CODE,
        opcode::AsyncCancel::CODE,
    ];
    if needed.into_iter().all(|code| probe.is_supported(code)) {
        Ok((ring, features))
    } else {
        Err(Refused::too_old("its kernel lacks operations; Linux 5.6 is needed"))
    }
}

fn build(entries: u32, features: Features) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    if features.deferred {
        builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
    } else if features.cooperative {
        builder.setup_coop_taskrun().setup_taskrun_flag();
    }
    builder.build(entries)
}
