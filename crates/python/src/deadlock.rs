//! When nothing can run any more: is it the end, and if so, what does everybody wait for?

use lissom_sched::ThreadId;
use pyo3_ffi as ffi;

use crate::object::{self, Exc, Obj, Raised};
use crate::runtime::exception_of;
use crate::world::{self, world};
use crate::{hooks, tasklet_type};

/// Whether the interpreter has another thread: it could wake a tasklet at any time.
pub(crate) fn other_threads_exist() -> bool {
    // SAFETY: the GIL is held, so the list does not change while it is read.
    unsafe {
        let first = ffi::PyInterpreterState_ThreadHead(ffi::PyInterpreterState_Get());
        !first.is_null() && !ffi::PyThreadState_Next(first).is_null()
    }
}

/// Whether some tasklet of the thread waits for something that only a partner brings.
pub(crate) fn partner_may_come(thread: ThreadId) -> bool {
    world::tasklets_of(thread).iter().any(|tasklet| tasklet.why().needs_partner())
}

/// Whether the program has installed a signal handler, which could wake a tasklet.
pub(crate) fn signal_may_come(main_thread: bool) -> bool {
    main_thread && hooks::signal::handlers_installed()
}

/// The error that ends the main tasklet's wait, with a note for each waiting tasklet.
pub(crate) fn error(thread: ThreadId) -> Exc {
    let error = exception_of(|| object::runtime_error("Deadlock: the last runnable tasklet cannot be blocked."));
    if note(&error, "Nothing can run any more, and nothing that could change that is pending. Waiting:").is_err() {
        object::clear_error();
        return error;
    }
    for tasklet in world::tasklets_of(thread) {
        let state = world().state(tasklet.id());
        if matches!(state, lissom_sched::State::Parked | lissom_sched::State::Blocked(..)) {
            let line = format!("  {} waits for {}", tasklet_type::describe(tasklet), tasklet.why());
            if note(&error, &line).is_err() {
                object::clear_error();
            }
        }
    }
    error
}

fn note(error: &Exc, line: &str) -> Result<(), Raised> {
    let text = Obj::str(line)?;
    error.0.attr(c"add_note")?.call([&text]).map(drop)
}
