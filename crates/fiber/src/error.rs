//! What can go wrong when a stack is asked for, in words that say what to do.

use std::fmt;
use std::fs::File;
use std::io::Read;

use crate::{MAX_STACK, MIN_STACK};

/// Why no stack could be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StackError {
    /// The settings ask for a size that cannot be served.
    BadSize {
        /// The setting: `stack_size` or `reserve`.
        setting: &'static str,
        /// What was asked for, in bytes.
        asked: usize,
        /// The smallest value allowed, in bytes.
        min: usize,
        /// The largest value allowed, in bytes.
        max: usize,
        /// The value must be a multiple of this many bytes.
        multiple_of: usize,
    },
    /// The process has as many memory mappings as the kernel allows it.
    TooManyMappings {
        /// The present value of `vm.max_map_count`, where it could be read.
        limit: Option<usize>,
    },
    /// The kernel refused address space or memory.
    OutOfMemory {
        /// The bytes asked for in the refused call.
        asked: usize,
        /// The limit on address space (`RLIMIT_AS`) in bytes, if there is one.
        address_space_limit: Option<u64>,
    },
    /// A system call failed in a way that is none of the above.
    Os {
        /// The system call.
        call: &'static str,
        /// Its `errno`.
        errno: i32,
    },
}

impl StackError {
    /// Names the cause of a failed `call` that asked for `asked` bytes.
    ///
    /// The kernel answers `ENOMEM` both for too many mappings and for too
    /// little memory (mmap(2), mprotect(2)); counting the mappings tells them
    /// apart. Does not allocate, for there may be nothing left to allocate.
    #[cold]
    pub(crate) fn from_errno(call: &'static str, errno: i32, asked: usize) -> Self {
        if errno != libc::ENOMEM {
            return Self::Os { call, errno };
        }
        let limit = max_map_count();
        // A split adds up to two mappings and `maps` lists one ([vsyscall])
        // that is not counted, hence the slack.
        let full = match (limit, count_mappings()) {
            (Some(limit), Some(count)) => count + 3 >= limit,
            // Without /proc, go by the call: mprotect(2) splits a mapping and
            // needs no memory to speak of.
            _ => call == "mprotect",
        };
        if full {
            Self::TooManyMappings { limit }
        } else {
            Self::OutOfMemory { asked, address_space_limit: address_space_limit() }
        }
    }
}

impl fmt::Display for StackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::BadSize { setting, asked, min, max, multiple_of } => write!(
                f,
                "{setting} is {asked} bytes, but must be between {min} and {max} bytes and a multiple of {multiple_of}"
            ),
            Self::TooManyMappings { limit } => {
                f.write_str("no stack: the process has as many memory mappings as vm.max_map_count allows (")?;
                match limit {
                    Some(limit) => write!(f, "now {limit}")?,
                    None => f.write_str("its value could not be read")?,
                }
                let raised = limit.map_or(1_048_576, |limit| limit.saturating_mul(4));
                write!(
                    f,
                    "); raise it with `sysctl -w vm.max_map_count={raised}`, or use Linux 6.13 or newer, where guards take no mapping"
                )
            }
            Self::OutOfMemory { asked, address_space_limit } => {
                write!(f, "no stack: the kernel refused {asked} bytes of address space; ")?;
                match address_space_limit {
                    Some(limit) => write!(
                        f,
                        "the limit on address space (RLIMIT_AS, `ulimit -v`) is {limit} bytes: raise it, or choose a smaller stack size"
                    ),
                    None => f.write_str(
                        "choose a smaller stack size, run fewer fibers at once, or see vm.overcommit_memory",
                    ),
                }
            }
            Self::Os { call, errno } => {
                write!(f, "no stack: {call} failed: {}", std::io::Error::from_raw_os_error(errno))
            }
        }
    }
}

impl std::error::Error for StackError {}

/// The checked range of `stack_size`, as an error about `asked`.
pub(crate) fn bad_stack_size(asked: usize, page: usize) -> StackError {
    StackError::BadSize {
        setting: "stack_size",
        asked,
        min: MIN_STACK.next_multiple_of(page),
        max: MAX_STACK,
        multiple_of: page,
    }
}

/// The value of `vm.max_map_count`.
fn max_map_count() -> Option<usize> {
    let mut text = [0_u8; 32];
    let len = File::open("/proc/sys/vm/max_map_count").and_then(|mut file| file.read(&mut text)).ok()?;
    std::str::from_utf8(&text[..len]).ok()?.trim().parse().ok()
}

/// The number of mappings of this process: lines of `/proc/self/maps`.
fn count_mappings() -> Option<usize> {
    let mut file = File::open("/proc/self/maps").ok()?;
    let mut text = [0_u8; 4096];
    let mut lines = 0;
    loop {
        match file.read(&mut text).ok()? {
            0 => return Some(lines),
            len => lines += text[..len].iter().filter(|&&byte| byte == b'\n').count(),
        }
    }
}

/// The limit on address space, if one is set.
fn address_space_limit() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit to write to (getrlimit(2)).
    let done = unsafe { libc::getrlimit(libc::RLIMIT_AS, &raw mut limit) } == 0;
    (done && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}
