//! The trace and profile function of a tasklet.

use pyo3_ffi::{PyObject, PyThreadState};

use super::{Saved, Word, get, offset, set};

/// Which of the two functions that are called while a tasklet executes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Traces {
    /// That of `sys.settrace`.
    Trace,
    /// That of `sys.setprofile`.
    Profile,
}

impl Traces {
    fn places(self) -> [usize; 2] {
        match self {
            Traces::Trace => [offset::c_tracefunc, offset::c_traceobj],
            Traces::Profile => [offset::c_profilefunc, offset::c_profileobj],
        }
    }
}

/// The trace or profile function of the running tasklet, borrowed, or null.
///
/// # Safety
/// `ts` is the state of the tasklet's thread.
pub(crate) unsafe fn running_tracer(ts: *mut PyThreadState, which: Traces) -> *mut PyObject {
    // SAFETY: T1.
    unsafe { get(ts, which.places()[1]) }
}

impl Saved {
    /// The trace or profile function, borrowed, or null.
    pub(crate) fn tracer(&self, which: Traces) -> *mut PyObject {
        match which {
            Traces::Trace => self.c_traceobj,
            Traces::Profile => self.c_profileobj,
        }
    }

    /// Whether a trace or profile function is set.
    pub(crate) fn is_traced(&self) -> bool {
        !self.c_tracefunc.is_null() || !self.c_profilefunc.is_null()
    }

    /// Takes over the trace and profile functions that were set before the tasklet started.
    pub(crate) fn inherit_tracers(&mut self, before: &Saved) {
        (self.c_tracefunc, self.c_traceobj) = (before.c_tracefunc, before.c_traceobj);
        (self.c_profilefunc, self.c_profileobj) = (before.c_profilefunc, before.c_profileobj);
        self.note_tracing();
    }

    /// Has the frames of the tasklet look at its trace functions: 3.11 keeps a flag where its evaluation loop is.
    fn note_tracing(&mut self) {
        #[cfg(not(Py_3_12))]
        if !self.cframe.is_null() {
            let flag = if self.is_traced() { 255_u8 } else { 0 };
            // SAFETY: a saved C frame lies on the tasklet's stack, which is kept.
            unsafe { self.cframe.cast::<u8>().add(offset::CFRAME_USE_TRACING).write(flag) };
        }
    }
}

/// Runs `body`, which sets the trace or profile function of the thread, for a tasklet that does not run: its functions
/// stand in the thread state meanwhile.
///
/// # Safety
/// T2; `saved` is that of a tasklet that does not run.
pub(crate) unsafe fn with_tracers<R>(ts: *mut PyThreadState, saved: *mut Saved, body: impl FnOnce() -> R) -> R {
    // SAFETY: T1, T2; the words are exchanged and exchanged back. What `body` runs may be traced by them, no more.
    unsafe {
        exchange_tracers(ts, &mut *saved);
        let result = body();
        exchange_tracers(ts, &mut *saved);
        (*saved).note_tracing();
        #[cfg(not(Py_3_12))]
        {
            let traced = is_traced(ts) || !get::<Word>(ts, offset::c_profilefunc).is_null();
            let cframe: Word = get(ts, offset::cframe);
            cframe.cast::<u8>().add(offset::CFRAME_USE_TRACING).write(if traced { 255 } else { 0 });
        }
        result
    }
}

unsafe fn exchange_tracers(ts: *mut PyThreadState, saved: &mut Saved) {
    // SAFETY: T1, T2.
    unsafe {
        let own: [Word; 4] = [
            get(ts, offset::c_tracefunc),
            get(ts, offset::c_traceobj),
            get(ts, offset::c_profilefunc),
            get(ts, offset::c_profileobj),
        ];
        set(ts, offset::c_tracefunc, saved.c_tracefunc);
        set(ts, offset::c_traceobj, saved.c_traceobj);
        set(ts, offset::c_profilefunc, saved.c_profilefunc);
        set(ts, offset::c_profileobj, saved.c_profileobj);
        (saved.c_tracefunc, saved.c_traceobj) = (own[0], own[1].cast());
        (saved.c_profilefunc, saved.c_profileobj) = (own[2], own[3].cast());
    }
}

/// Whether the running tasklet has a trace function.
///
/// # Safety
/// T2.
#[cfg(not(Py_3_12))]
pub(crate) unsafe fn is_traced(ts: *mut PyThreadState) -> bool {
    // SAFETY: T1, T2.
    unsafe { !get::<Word>(ts, offset::c_tracefunc).is_null() }
}
