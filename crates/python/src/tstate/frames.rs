//! The Python frames of a tasklet: how they are nested, and what they own.
//!
//! A parked tasklet's frames lie on its data stack, linked from the innermost outwards. The garbage collector must see what
//! they refer to, or a tasklet that only its own frames keep alive would never be found.
//!
//! # Invariants
//! * **F1**: a reference is visited only if the frame certainly owns it. To miss one only hides garbage; to visit one that
//!   is not owned would free an object in use.
//! * **F2**: of each complete frame on the data stack the function, the code, the namespace, the frame object and the local
//!   variables are owned. Frames of generators are left to the generators, but for the slots that those do not show while the
//!   frame executes C code (up to 3.13: `_PyFrame_Traverse` stops at a stack top of -1); those of evaluation loops own nothing.
//! * **F3**: the value stack is owned up to its top, where that is known: from 3.14 on the frame has it whenever C code
//!   runs. Before, a frame has it only if it has called another Python function; else it is known for the innermost frame
//!   alone, and only if that frame's instruction has called us directly: then our arguments lie on its value stack
//!   ([`CallSite`]), and the instruction owns all that is below their end until we return.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicI32, Ordering};

use pyo3_ffi as ffi;
use pyo3_ffi::{PyObject, PyThreadState, visitproc};

use super::{Saved, Word, current_frame, get, offset};
use crate::object::{Obj, PyResult};

/// How the innermost frame has come to wait.
#[derive(Clone, Copy)]
#[cfg_attr(Py_3_14, expect(dead_code, reason = "from 3.14 on the frame itself knows its value stack"))]
pub(crate) enum CallSite {
    /// By a call whose arguments end at this address: the top of the value stack, if they lie there.
    Called(usize),
    /// Perhaps by the loop `for item in channel`, which keeps the channel on its value stack.
    Iterates(*mut PyObject),
}

impl CallSite {
    /// Nothing is known.
    const UNKNOWN: CallSite = CallSite::Called(0);
}

/// The opcode of a `for` loop's head, read from the interpreter's own table when the module is loaded.
static FOR_ITER: AtomicI32 = AtomicI32::new(-1);

/// Reads what is needed from the module `opcode`.
///
/// # Errors
/// What importing raises.
pub(crate) fn learn_opcodes() -> PyResult<()> {
    let table = Obj::import(c"opcode")?.attr(c"opmap")?;
    // SAFETY: valid references.
    let number = Obj::owned(unsafe { ffi::PyObject_GetItem(table.ptr(), Obj::str("FOR_ITER")?.ptr()) })?.to_i64()?;
    FOR_ITER.store(number as i32, Ordering::Relaxed);
    Ok(())
}

/// How many times C code has called into the evaluation loop below `frame`, the tasklet's own first call not counted.
unsafe fn nesting_level(frame: Word) -> usize {
    let mut frame = frame.cast::<u8>();
    let mut entries = 0_usize;
    while !frame.is_null() {
        // SAFETY: a frame of a tasklet, whose fields are where the headers say (T1).
        unsafe {
            entries += usize::from(frame.add(offset::FRAME_ENTRY).read() == offset::ENTRY);
            frame = frame.add(offset::FRAME_PREVIOUS).cast::<*mut u8>().read();
        }
    }
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

impl Saved {
    /// The nesting level of a tasklet that does not run.
    ///
    /// # Safety
    /// The tasklet has started and has not ended.
    pub(crate) unsafe fn nesting_level(&self) -> usize {
        // SAFETY: its frames are kept.
        unsafe { nesting_level(self.frame()) }
    }

    /// How deep the Python calls of a tasklet that does not run are nested.
    pub(crate) fn depth(&self) -> i32 {
        self.depth
    }

    /// Replaces the context, owned or null; returns the one before.
    pub(crate) fn replace_context(&mut self, context: *mut PyObject) -> *mut PyObject {
        std::mem::replace(&mut self.context, context)
    }

    /// Shows the collector every reference that a tasklet that does not run owns in its state and frames.
    ///
    /// # Safety
    /// The collector's own function and argument. The tasklet has started, has not ended, and does not run; `site` is that
    /// of the call in which it waits.
    pub(crate) unsafe fn traverse(&self, site: CallSite, visit: visitproc, arg: *mut c_void) -> c_int {
        let owned = [self.context, self.exc_state[0].cast(), self.c_traceobj, self.c_profileobj];
        for object in owned {
            // SAFETY: an owned reference or null.
            let status = unsafe { visit_one(object, visit, arg) };
            if status != 0 {
                return status;
            }
        }
        let mut site = site;
        let mut frame = self.frame().cast::<u8>();
        while !frame.is_null() {
            // SAFETY: a frame of a tasklet that does not run (T1).
            let status = unsafe { Frame(frame).traverse(site, visit, arg) };
            if status != 0 {
                return status;
            }
            // Only the innermost frame can have called us.
            site = CallSite::UNKNOWN;
            // SAFETY: T1.
            frame = unsafe { frame.add(offset::FRAME_PREVIOUS).cast::<*mut u8>().read() };
        }
        0
    }
}

/// # Safety
/// The collector's own function and argument; an owned reference or null.
unsafe fn visit_one(object: *mut PyObject, visit: visitproc, arg: *mut c_void) -> c_int {
    // SAFETY: the caller's duty.
    if object.is_null() { 0 } else { unsafe { visit(object, arg) } }
}

/// The object behind a word of a frame, if the frame owns a reference: from 3.14 on the low bits say so.
fn owned(word: usize) -> *mut PyObject {
    if tags(word) != 0 { std::ptr::null_mut() } else { word as *mut PyObject }
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

/// A frame of the interpreter.
struct Frame(*mut u8);

impl Frame {
    /// # Safety
    /// A word lies there (T1).
    unsafe fn word(&self, place: usize) -> usize {
        // SAFETY: the caller's duty.
        unsafe { self.0.add(place).cast::<usize>().read() }
    }

    /// # Safety
    /// As for [`Saved::traverse`].
    unsafe fn traverse(&self, site: CallSite, visit: visitproc, arg: *mut c_void) -> c_int {
        // SAFETY: fields of a frame (T1).
        let (owner, code) = unsafe { (self.0.add(offset::FRAME_OWNER).read(), self.word(offset::FRAME_CODE)) };
        let code_object = (code - tags(code)) as *mut PyObject;
        // SAFETY: a code object, or `None` for a frame that stands for C code.
        let is_code = !code_object.is_null() && unsafe { ffi::Py_TYPE(code_object) == &raw mut ffi::PyCode_Type };
        // SAFETY: as above.
        let whole = owner == offset::FRAME_OWNED_BY_THREAD;
        let slots_only = unsafe { self.is_left_to_us_by_a_generator(owner) };
        if !is_code || !(whole || slots_only) {
            return 0;
        }
        // SAFETY: F2; the size is a field of the code object (T1).
        let (fixed, locals) = unsafe {
            let fixed = [
                owned(code),
                owned(self.word(offset::FRAME_FUNC)),
                self.word(offset::FRAME_LOCALS) as *mut PyObject,
                self.word(offset::FRAME_OBJECT) as *mut PyObject,
            ];
            (fixed, code_object.cast::<u8>().add(offset::CODE_NLOCALSPLUS).cast::<c_int>().read() as usize)
        };
        for object in fixed.into_iter().filter(|_| whole) {
            // SAFETY: F2.
            let status = unsafe { visit_one(object, visit, arg) };
            if status != 0 {
                return status;
            }
        }
        // SAFETY: F3.
        let count = locals + unsafe { self.stack_depth(code_object, locals, site) };
        for index in 0..count {
            // SAFETY: within the frame: local variables, and the value stack below its top.
            let status =
                unsafe { visit_one(owned(self.word(offset::FRAME_SLOTS + index * size_of::<usize>())), visit, arg) };
            if status != 0 {
                return status;
            }
        }
        match site {
            // SAFETY: F3.
            CallSite::Iterates(channel) => unsafe { self.visit_iterated(code_object, locals, channel, visit, arg) },
            CallSite::Called(_) => 0,
        }
    }

    /// Visits the channel that a `for` loop keeps on its value stack.
    ///
    /// Its place there is not known, so it is searched for. What lies above the top may be stale, but only compared: the
    /// loop owns one reference to what it iterates. (Should that be an iterator in C that iterates the channel in turn, it
    /// keeps the channel, and is kept itself, as its own place is not visited.)
    ///
    /// # Safety
    /// As for [`Saved::traverse`].
    #[cfg(not(Py_3_14))]
    unsafe fn visit_iterated(
        &self,
        code: *mut PyObject,
        locals: usize,
        channel: *mut PyObject,
        visit: visitproc,
        arg: *mut c_void,
    ) -> c_int {
        // SAFETY: fields of a frame and of its code; the value stack has as many slots as the code says (T1).
        unsafe {
            let instruction = self.word(offset::FRAME_INSTRUCTION) as *const u8;
            if self.0.add(offset::FRAME_STACK_TOP).cast::<c_int>().read() >= 0
                || i32::from(instruction.read()) != FOR_ITER.load(Ordering::Relaxed)
            {
                return 0;
            }
            let size = code.cast::<u8>().add(offset::CODE_STACKSIZE).cast::<c_int>().read() as usize;
            let mut slots = (locals..locals + size).map(|index| offset::FRAME_SLOTS + index * size_of::<usize>());
            if slots.any(|place| self.word(place) == channel as usize) { visit_one(channel, visit, arg) } else { 0 }
        }
    }

    /// Nothing to do: the whole value stack is known.
    #[cfg(Py_3_14)]
    unsafe fn visit_iterated(
        &self,
        _: *mut PyObject,
        _: usize,
        _: *mut PyObject,
        _: visitproc,
        _: *mut c_void,
    ) -> c_int {
        0
    }

    /// Whether a generator owns the frame and does not show its slots: up to 3.13 while the frame executes C code.
    ///
    /// # Safety
    /// As for [`Saved::traverse`].
    unsafe fn is_left_to_us_by_a_generator(&self, owner: u8) -> bool {
        #[cfg(not(Py_3_14))]
        // SAFETY: a field of a frame (T1).
        let hidden = unsafe { self.0.add(offset::FRAME_STACK_TOP).cast::<c_int>().read() } < 0;
        #[cfg(Py_3_14)]
        let hidden = false;
        hidden && owner == offset::FRAME_OWNED_BY_GENERATOR
    }

    /// How many entries of the value stack are certainly there and owned (F3).
    ///
    /// # Safety
    /// As for [`Saved::traverse`]; `locals` is the number of the code's local variables.
    unsafe fn stack_depth(&self, code: *mut PyObject, locals: usize, site: CallSite) -> usize {
        let base = self.0 as usize + offset::FRAME_SLOTS + locals * size_of::<usize>();
        // SAFETY: a field of the code object (T1).
        let size = unsafe { code.cast::<u8>().add(offset::CODE_STACKSIZE).cast::<c_int>().read() } as usize;
        let entries = |top: usize| {
            let depth = top.wrapping_sub(base) / size_of::<usize>();
            if top >= base && depth <= size { depth } else { 0 }
        };
        #[cfg(Py_3_14)]
        {
            let _ = site;
            // SAFETY: a field of a frame (T1).
            entries(unsafe { self.word(offset::FRAME_STACK_POINTER) })
        }
        #[cfg(not(Py_3_14))]
        {
            // SAFETY: a field of a frame (T1).
            let top = unsafe { self.0.add(offset::FRAME_STACK_TOP).cast::<c_int>().read() };
            match usize::try_from(top) {
                Ok(top) => top.saturating_sub(locals).min(size),
                Err(_) => match site {
                    CallSite::Called(end) => entries(end),
                    CallSite::Iterates(_) => 0,
                },
            }
        }
    }
}
