//! The Python frames of a tasklet: how they are nested, and what they own.
//!
//! A parked tasklet's frames lie on its data stack, linked from the innermost outwards. The garbage collector must see what
//! they refer to, or a tasklet that only its own frames keep alive would never be found.
//!
//! ```text
//!   frame │ code  function  namespace  frame object │ local variables │ value stack ...... │ stale
//!         └───────────── owned (F2) ─────────────────────────────────┘ owned up to its top (F3)
//! ```
//!
//! # Invariants
//! * **F1**: a reference is visited only if the frame certainly owns it. To miss one only hides garbage; to visit one that
//!   is not owned would free an object in use.
//! * **F2**: of each frame on the data stack the function, the code, the namespace, the frame object and the local variables
//!   are owned: a frame is linked after they have been set and unlinked before they are dropped. (The frame object shows
//!   nothing of this while the frame is on the data stack.) Frames that stand for C code own nothing.
//! * **F4**: frames of generators are shown by the generators, but up to 3.13 without variables and value stack while they
//!   execute C code (`_PyFrame_Traverse` stops at a stack top of -1). Those are shown here: it is the tasklet that keeps the
//!   generator running.
//! * **F3**: the value stack is owned up to its top, where that is known. From 3.14 on the frame has it whenever code runs
//!   that could lead here, and what is borrowed has a tag. Up to 3.13 it is known
//!
//!   1. of a frame that has called another Python function, or is being traced: the interpreter has noted it;
//!   2. of the innermost frame, if its instruction has called us directly, or is the head of a `for` loop that has
//!      (stack.rs);
//!   3. of any other frame, as far as the block keeps it that surrounds its instruction (depth.rs).

use std::ffi::{c_int, c_void};
use std::ops::ControlFlow;
use std::ptr::null_mut;

use pyo3_ffi as ffi;
use pyo3_ffi::{PyObject, PyThreadState, visitproc};

use super::{Identity, Saved, Site, Word, current_frame, get, offset};

/// How many times C code has called into the evaluation loop below `frame`, the tasklet's own first call not counted.
unsafe fn nesting_level(frame: Word) -> usize {
    // SAFETY: frames of a tasklet, whose fields are where the headers say (T1).
    let entries = unsafe { chain(frame) }
        .filter(|frame| unsafe { frame.0.add(offset::FRAME_ENTRY).read() == offset::ENTRY })
        .count();
    entries.saturating_sub(1)
}

/// The nesting level of the running tasklet.
///
/// # Safety
/// T2.
pub(crate) unsafe fn running_nesting_level(ts: *mut PyThreadState) -> usize {
    // SAFETY: T2.
    unsafe { nesting_level(current_frame(ts)) }
}

/// How deep the Python calls of the running tasklet are nested.
///
/// # Safety
/// T2; `saved` is that of the running tasklet.
pub(crate) unsafe fn running_depth(ts: *mut PyThreadState, saved: &Saved) -> i32 {
    // SAFETY: T1, T2.
    unsafe {
        let limit: i32 = get(ts, offset::py_recursion_limit);
        limit.min(saved.depth_cap) - get::<i32>(ts, offset::py_recursion_remaining)
    }
}

/// What the collector calls for each reference.
#[derive(Clone, Copy)]
pub(crate) struct Visitor {
    visit: visitproc,
    arg: *mut c_void,
}

impl Visitor {
    /// # Safety
    /// The function and the argument that the collector has given to `tp_traverse`, for the time of that call.
    pub(crate) unsafe fn new(visit: visitproc, arg: *mut c_void) -> Visitor {
        Visitor { visit, arg }
    }

    /// Shows a reference, or null; breaks with what the collector says.
    ///
    /// # Safety
    /// The object whose `tp_traverse` runs owns it (F1).
    pub(crate) unsafe fn show(&self, object: *mut PyObject) -> ControlFlow<c_int> {
        if object.is_null() {
            return ControlFlow::Continue(());
        }
        // SAFETY: the collector's own function and argument, with a valid object.
        match unsafe { (self.visit)(object, self.arg) } {
            0 => ControlFlow::Continue(()),
            status => ControlFlow::Break(status),
        }
    }
}

impl Saved {
    /// The nesting level of a tasklet that does not run.
    ///
    /// # Safety
    /// The tasklet has started and has not ended.
    pub(crate) unsafe fn nesting_level(&self) -> usize {
        // SAFETY: its frames are kept.
        unsafe { nesting_level(self.frame()) }
    }

    /// The exception that a tasklet that does not run is handling, borrowed, or null.
    ///
    /// # Safety
    /// T2 for `ts`; the tasklet has started and has not ended.
    pub(crate) unsafe fn handled(&self, ts: *mut PyThreadState) -> *mut PyObject {
        // SAFETY: only compared: what lies there is that of whoever runs, and ours is in `exc_state` (T4).
        let own: *mut [Word; 2] = unsafe { ts.cast::<u8>().add(offset::exc_state) }.cast();
        let mut item: *mut [Word; 2] = self.exc_info.cast();
        while !item.is_null() {
            // SAFETY: an item of the stack of handled exceptions: {value, previous}, in a generator that is kept by a frame.
            let [value, previous] = if item == own { self.exc_state } else { unsafe { *item } };
            // SAFETY: a singleton.
            if !value.is_null() && value.cast() != unsafe { ffi::Py_None() } {
                return value.cast();
            }
            item = previous.cast();
        }
        null_mut()
    }

    /// How deep the Python calls of a tasklet that does not run are nested.
    pub(crate) fn depth(&self) -> i32 {
        self.depth
    }

    /// Replaces the context, owned or null; returns the one before.
    pub(crate) fn replace_context(&mut self, context: *mut PyObject) -> *mut PyObject {
        std::mem::replace(&mut self.context, context)
    }

    /// Shows every reference that a tasklet that does not run certainly owns in its state and its frames.
    ///
    /// # Safety
    /// The tasklet has started, has not ended, and does not run; `site` is that of the call in which it waits.
    pub(crate) unsafe fn traverse(&self, site: Option<&Site>, visitor: Visitor) -> ControlFlow<c_int> {
        for object in [self.context, self.exc_state[0].cast(), self.c_traceobj, self.c_profileobj] {
            // SAFETY: an owned reference or null.
            unsafe { visitor.show(object) }?;
        }
        let mut site = site;
        // SAFETY: frames of a tasklet that does not run.
        for frame in unsafe { chain(self.frame()) } {
            // Only the innermost frame can have called us.
            // SAFETY: as above.
            unsafe { frame.traverse(site.take(), visitor) }?;
        }
        ControlFlow::Continue(())
    }
}

impl Identity {
    /// Shows every reference of an identity that is not loaded.
    ///
    /// # Safety
    /// It belongs to the object whose `tp_traverse` runs, and is not loaded.
    pub(crate) unsafe fn traverse(&self, visitor: Visitor) -> ControlFlow<c_int> {
        let owned = [
            self.dict,
            self.async_gen_firstiter,
            self.async_gen_finalizer,
            #[cfg(Py_3_13)]
            self.threading_local_key,
            #[cfg(Py_3_13)]
            self.threading_local_sentinel,
            #[cfg(Py_3_13)]
            self.asyncio_running_loop,
            #[cfg(Py_3_14)]
            self.asyncio_running_task,
        ];
        // SAFETY: what `finish_identity` drops is owned.
        owned.into_iter().try_for_each(|object| unsafe { visitor.show(object) })
    }
}

/// The low bits of a word of a frame; no version before 3.14 uses them.
fn tags(word: usize) -> usize {
    #[cfg(Py_3_14)]
    return word & offset::STACK_REF_TAGS;
    #[cfg(not(Py_3_14))]
    {
        let _ = word;
        0
    }
}

/// The frames from `innermost` outwards.
///
/// # Safety
/// A frame of a tasklet, or null, whose callers stay where they are while the iterator is used.
unsafe fn chain(innermost: Word) -> impl Iterator<Item = Frame> {
    let present = |frame: *mut u8| (!frame.is_null()).then_some(Frame(frame));
    std::iter::successors(present(innermost.cast()), move |frame| {
        // SAFETY: T1.
        present(unsafe { frame.0.add(offset::FRAME_PREVIOUS).cast::<*mut u8>().read() })
    })
}

/// The code object of a frame.
#[derive(Clone, Copy)]
pub(super) struct Code(*mut PyObject);

impl Code {
    #[cfg(not(Py_3_14))]
    pub(super) fn object(self) -> *mut PyObject {
        self.0
    }

    /// # Safety
    /// A `c_int` lies there (T1).
    unsafe fn number(self, place: usize) -> usize {
        // SAFETY: the caller's duty.
        unsafe { self.0.cast::<u8>().add(place).cast::<c_int>().read() as usize }
    }

    /// How many local variables the frames have.
    pub(super) fn locals(self) -> usize {
        // SAFETY: a field of a code object (T1).
        unsafe { self.number(offset::CODE_NLOCALSPLUS) }
    }

    /// How many entries their value stacks have room for.
    pub(super) fn stack_size(self) -> usize {
        // SAFETY: a field of a code object (T1).
        unsafe { self.number(offset::CODE_STACKSIZE) }
    }
}

/// A frame of the interpreter.
#[derive(Clone, Copy)]
pub(super) struct Frame(*mut u8);

impl Frame {
    /// # Safety
    /// A word lies there (T1).
    pub(super) unsafe fn word(&self, place: usize) -> usize {
        // SAFETY: the caller's duty.
        unsafe { self.0.add(place).cast::<usize>().read() }
    }

    /// The object in a word, if the frame owns a reference to it: from 3.14 on a tag says that it does not.
    ///
    /// # Safety
    /// As for [`Frame::word`].
    unsafe fn owned(&self, place: usize) -> *mut PyObject {
        // SAFETY: the caller's duty.
        let word = unsafe { self.word(place) };
        if tags(word) == 0 { word as *mut PyObject } else { std::ptr::null_mut() }
    }

    /// The local variables and the value stack, one after the other.
    pub(super) fn slots(&self) -> *const *mut PyObject {
        // SAFETY: within the frame (T1).
        unsafe { self.0.add(offset::FRAME_SLOTS).cast() }
    }

    /// Its code, unless it stands for C code.
    ///
    /// # Safety
    /// T1.
    unsafe fn code(&self) -> Option<Code> {
        // SAFETY: a field of a frame (T1).
        let code = unsafe { self.word(offset::FRAME_CODE) };
        let code = (code - tags(code)) as *mut PyObject;
        // SAFETY: a code object or `None`.
        let is_code = !code.is_null() && unsafe { ffi::Py_TYPE(code) == &raw mut ffi::PyCode_Type };
        is_code.then_some(Code(code))
    }

    /// # Safety
    /// As for [`Saved::traverse`].
    unsafe fn traverse(&self, site: Option<&Site>, visitor: Visitor) -> ControlFlow<c_int> {
        // SAFETY: T1.
        let (owner, code) = unsafe { (self.0.add(offset::FRAME_OWNER).read(), self.code()) };
        let Some(code) = code else { return ControlFlow::Continue(()) };
        match owner {
            offset::FRAME_OWNED_BY_THREAD => {
                for place in [offset::FRAME_CODE, offset::FRAME_FUNC, offset::FRAME_LOCALS, offset::FRAME_OBJECT] {
                    // SAFETY: F2; the last two have no tags.
                    unsafe { visitor.show(self.owned(place)) }?;
                }
            }
            #[cfg(not(Py_3_14))]
            // SAFETY: as above.
            offset::FRAME_OWNED_BY_GENERATOR if unsafe { self.noted_top() }.is_none() => {}
            _ => return ControlFlow::Continue(()),
        }
        // SAFETY: F2, F3, F4.
        let count = unsafe { self.owned_slots(code, site) };
        (0..count).try_for_each(|index| {
            // SAFETY: F2, F3, F4.
            unsafe { visitor.show(self.owned(offset::FRAME_SLOTS + index * size_of::<usize>())) }
        })
    }

    /// How many slots, from the first local variable on, are certainly owned (F2, F3).
    ///
    /// # Safety
    /// As for [`Saved::traverse`]; `code` is the frame's.
    #[cfg(Py_3_14)]
    unsafe fn owned_slots(&self, code: Code, _: Option<&Site>) -> usize {
        // SAFETY: a field of a frame (T1).
        let top = unsafe { self.word(offset::FRAME_STACK_POINTER) };
        let count = top.wrapping_sub(self.slots() as usize) / size_of::<usize>();
        // Anything else is no stack pointer.
        if (code.locals()..=code.locals() + code.stack_size()).contains(&count) { count } else { 0 }
    }

    /// How many slots, from the first local variable on, are certainly owned (F2, F3).
    ///
    /// # Safety
    /// As for [`Saved::traverse`]; `code` is the frame's.
    #[cfg(not(Py_3_14))]
    unsafe fn owned_slots(&self, code: Code, site: Option<&Site>) -> usize {
        // SAFETY: T1.
        if let Some(top) = unsafe { self.noted_top() } {
            return top.min(code.locals() + code.stack_size());
        }
        // SAFETY: F3; the frame's own code.
        code.locals() + unsafe { self.stack_depth(code, site) }
    }

    /// How many slots are in use, where the interpreter has noted it.
    ///
    /// # Safety
    /// T1.
    #[cfg(not(Py_3_14))]
    unsafe fn noted_top(&self) -> Option<usize> {
        // SAFETY: a field of a frame (T1).
        usize::try_from(unsafe { self.0.add(offset::FRAME_STACK_TOP).cast::<c_int>().read() }).ok()
    }
}
