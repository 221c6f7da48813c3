//! Opening a FIFO waits until somebody opens its other end (fifo(7)), and nothing tells when: a thread waits, one for
//! each opening, as the other end may be opened by a tasklet of the same process.

use std::ffi::CString;

use super::call::Call;
use super::lookup::Place;
use crate::jobs::{self, Lane};
use crate::object::{Obj, PyResult};

/// Calls `function`, which opens the FIFO at `place`, in a blocking thread.
///
/// # Errors
/// What it raises. If something is thrown into the tasklet, the thread is released: both ends are opened for a moment, which
/// another process that waits for a partner takes for one that has come and gone.
pub(super) fn open(call: &Call, function: Obj, place: Place) -> PyResult<Obj> {
    let (args, kwargs) = call.packed()?;
    let mut release = Release { path: place.into_path(), opened: false };
    let file = jobs::call(call.runtime, Lane::Others, function, args, kwargs);
    release.opened = file.is_ok();
    file
}

struct Release {
    path: CString,
    opened: bool,
}

impl Drop for Release {
    fn drop(&mut self) {
        if self.opened {
            return;
        }
        let flags = libc::O_RDWR | libc::O_NONBLOCK | libc::O_CLOEXEC;
        // SAFETY: plain system calls. A FIFO opened for reading and writing waits for nobody (fifo(7)).
        unsafe {
            let fd = libc::open(self.path.as_ptr(), flags);
            if fd >= 0 {
                libc::close(fd);
            }
        }
    }
}
