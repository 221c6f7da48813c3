//! The life of one op.
//!
//! ```text
//!                       submit
//!                         |
//!     done at once        |  would block        no descriptor     driver or pool does it
//!        +----------------+-----------+-----------------+-----------------+
//!        |                            v                 v                 v
//!        |          tried again +- Parked             Idle             Carried
//!        |          in vain     +-> |  |                |               |   |
//!        |                          |  +----------------+---------------+   | cancel, deadline,
//!        |      ready, cancel,      |  deadline, cancel,         result     | detach: driver
//!        |      deadline, forget    |  withdrawn from the pool              v
//!        v                          v                                    Leaving
//!     Finished <--------------------+---------------------------------------+
//!        |                                               last word; freed if detached
//!        +--- next() or detach(): freed
//! ```
//!
//! An op is on at most one list: its descriptor's waiters while Parked, the finished ones while
//! Finished. It is in the heap of deadlines only while Parked, Idle or Carried.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::Errno;

/// Where an op is in its life; see the module's drawing.
pub(crate) enum Life {
    /// On the list of its descriptor's waiters.
    Parked,
    /// Waits for its deadline or for `cancel` only.
    Idle,
    /// Someone else has the op, buffer and all.
    Carried(Carrier),
    /// The driver has been asked to end it and still owns its buffer.
    Leaving {
        /// What to report if the driver did end it.
        why: Errno,
        /// False once detached.
        deliver: bool,
    },
    /// Has its result, waits for `next`.
    Finished(Result<i32, Errno>),
}

/// Who carries an op.
pub(crate) enum Carrier {
    /// The driver: one last event will come.
    Driver,
    /// A pool thread: one letter will come. Set the flag to withdraw the job if it has not begun.
    Pool(Arc<AtomicBool>),
}
