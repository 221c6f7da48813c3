//! When nothing can run any more: is it the end, and if so, what does everybody wait for?

use lissom_sched::{State, ThreadId};
use pyo3_ffi as ffi;

use crate::object::{self, Exc, Obj, Raised};
use crate::runtime::exception_of;
use crate::tasklet::{Tasklet, Why};
use crate::world::{self, world};
use crate::{hooks, tasklet_type};

/// Whether the interpreter has another thread than that of `ts`: it could wake a tasklet at any time.
pub(crate) fn other_threads_exist(ts: *mut ffi::PyThreadState) -> bool {
    // SAFETY: a live thread state; the GIL is held, so the list does not change while it is read.
    unsafe {
        let first = ffi::PyInterpreterState_ThreadHead(ffi::PyThreadState_GetInterpreter(ts));
        !first.is_null() && !ffi::PyThreadState_Next(first).is_null()
    }
}

/// Whether some tasklet of the thread waits for something that only a partner brings.
pub(crate) fn partner_may_come(thread: ThreadId) -> bool {
    world::tasklets_of(thread).iter().any(|tasklet| tasklet.why().needs_partner())
}

/// Whether the program has installed a signal handler, which could wake a tasklet, or waits for a signal outright.
pub(crate) fn signal_may_come(thread: ThreadId, main_thread: bool) -> bool {
    let waits = || world::tasklets_of(thread).iter().any(|tasklet| matches!(tasklet.why(), Why::Signal));
    main_thread && (hooks::signal::handlers_installed() || waits())
}

/// The text of Stackless Python for a tasklet that blocks when nothing else can run.
const TEXT: &str = "Deadlock: the last runnable tasklet cannot be blocked.";

/// Who is told, and what.
///
/// In a program that only uses channels it is as in Stackless: who blocked last, or the main tasklet if `last`, who ran
/// last, has ended (null). Waits that Stackless does not know are the main tasklet's affair. The error names what each
/// tasklet waits for: in its text, or, where that is the text of Stackless, in its notes (PEP 678).
pub(crate) fn error(
    thread: ThreadId,
    main: &'static Tasklet,
    last: Option<&'static Tasklet>,
) -> (&'static Tasklet, Exc) {
    let mut lines =
        vec!["Nothing can run any more, and nothing that could change that is pending. Waiting:".to_owned()];
    // Kept for the time: describing them makes objects, so the collector may run and free tasklets.
    let kept: Vec<Obj> = world::tasklets_of(thread).into_iter().map(Tasklet::object).collect();
    for tasklet in &kept {
        let Ok(tasklet) = tasklet_type::from_object(tasklet) else { continue };
        let known = world().thread_of(tasklet.id()) == Some(thread);
        let state = world().state(tasklet.id());
        if known && matches!(state, State::Parked | State::Blocked(..)) {
            lines.push(format!("  {} waits for {}", tasklet_type::describe(tasklet), tasklet.why()));
        }
    }
    let (target, text) = match (main.why(), last) {
        (Why::Send(_) | Why::Receive(_), Some(last)) if has_left(last) => (last, TEXT),
        (Why::Send(_), None) => (main, "the main tasklet is sending without a receiver available."),
        (Why::Receive(_), None) => (main, "the main tasklet is receiving without a sender available."),
        (Why::Send(_) | Why::Receive(_), Some(_)) => (main, TEXT),
        _ => {
            let text = format!("{TEXT}\n{}", lines.join("\n"));
            return (main, exception_of(|| object::runtime_error(&text)));
        }
    };
    let error = exception_of(|| object::runtime_error(text));
    for line in lines {
        if note(&error, &line).is_err() {
            object::clear_error();
        }
    }
    (target, error)
}

/// Whether a tasklet is blocked on a channel or paused.
fn has_left(tasklet: &Tasklet) -> bool {
    matches!(world().state(tasklet.id()), State::Blocked(..) | State::Idle)
}

fn note(error: &Exc, line: &str) -> Result<(), Raised> {
    let text = Obj::str(line)?;
    error.0.attr(c"add_note")?.call([&text]).map(drop)
}
