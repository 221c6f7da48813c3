//! What the value stack of a frame that has called C code certainly holds, up to 3.13 (frames.rs, F3).
//!
//! Such a frame does not say how deep its stack is. But the interpreter passes arguments where they lie on that stack: whoever
//! is given them knows its depth, and that the call is still under way. So a function of ours in which tasklets block or
//! pause notes its [`Site`] for as long as they do.

use std::ptr::null_mut;

use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use super::frames::{Code, Frame};
use super::site::Site;
use super::{depth, offset};

unsafe extern "C" {
    /// `Include/cpython/code.h`.
    fn PyCode_GetCode(code: *mut ffi::PyCodeObject) -> *mut PyObject;
}

impl Frame {
    /// How many entries of the value stack are certainly owned.
    ///
    /// # Safety
    /// As for [`super::Saved::traverse`]; `code` is the frame's, which has called C code.
    pub(super) unsafe fn stack_depth(&self, code: Code, site: Option<&Site>) -> usize {
        // SAFETY: the caller's duty.
        let proven = site.and_then(|site| unsafe { self.called(code, site).or_else(|| self.iterates(code, site)) });
        // SAFETY: as above.
        proven.unwrap_or_else(|| unsafe { self.kept(code) })
    }

    /// The instruction that is being executed: its opcode as it stands in memory, and its argument.
    ///
    /// # Safety
    /// T1.
    unsafe fn instruction(&self) -> *const [u8; 2] {
        // SAFETY: a field of a frame (T1).
        unsafe { self.word(offset::FRAME_INSTRUCTION) as *const [u8; 2] }
    }

    /// Where in the code the instruction is, in code units; `None` before the first.
    ///
    /// # Safety
    /// T1; `code` is the frame's.
    unsafe fn place(&self, code: Code) -> Option<usize> {
        // SAFETY: the caller's duty.
        let (start, instruction) = unsafe { (code.units() as usize, self.instruction() as usize) };
        instruction.checked_sub(start).map(|bytes| bytes / size_of::<[u8; 2]>())
    }

    /// How deep the stack is if the instruction has called our function at `site` directly.
    ///
    /// The arguments lie on the stack then, above the function and what it is called on, and are as many as the instruction
    /// says. Nothing stands between it and us that could have lent out an entry, as bound methods do (`method_vectorcall` in
    /// classobject.c): all up to the last argument is owned until we return.
    ///
    /// # Safety
    /// As for [`Frame::stack_depth`]; the call at `site` is under way.
    unsafe fn called(&self, code: Code, site: &Site) -> Option<usize> {
        let base = self.slots().wrapping_add(code.locals());
        let first = (site.arguments as usize).wrapping_sub(base as usize) / size_of::<usize>();
        let depth = first.checked_add(site.count)?;
        if site.arguments.is_null() || first < 2 || depth > code.stack_size() {
            return None;
        }
        // SAFETY: below the arguments of a call that is under way.
        let entry = |below: usize| if below > first { null_mut() } else { unsafe { *base.add(first - below) } };
        let is_method = |function: *mut PyObject| {
            // SAFETY: alive until the call returns.
            !function.is_null() && unsafe { ffi::Py_TYPE(function) == &raw mut ffi::PyMethodDescr_Type }
        };
        let is_function = |function: *mut PyObject| {
            // SAFETY: as above.
            !function.is_null()
                && unsafe { ffi::PyCFunction_Check(function) != 0 && ffi::PyCFunction_GetSelf(function) == site.slf }
        };
        // A function that is called on nothing stands, until 3.12, above the empty entry, and since then below it.
        let (empty, full) = if cfg!(Py_3_13) { (1, 2) } else { (2, 1) };
        // SAFETY: the instruction that is being executed.
        let [_, says] = unsafe { self.instruction().read() };
        let direct = match usize::from(says).checked_sub(site.count) {
            // `ch.receive()` as a call of a method; of a function that the attribute gave.
            Some(0) => {
                (is_method(entry(2)) && entry(1) == site.slf) || (is_function(entry(full)) && entry(empty).is_null())
            }
            // `channel.receive(ch)`: what it is called on is the first argument.
            Some(1) => entry(1) == site.slf && is_method(entry(full + 1)) && entry(empty + 1).is_null(),
            _ => false,
        };
        direct.then_some(depth)
    }

    /// How deep the stack is if the instruction is the head of a loop over what `site` was called on.
    ///
    /// That is on top then, and nobody else can be iterating it from this instruction: what C code iterates that the loop
    /// steps has that code's object above it, and what the loop has just let go is no more.
    ///
    /// # Safety
    /// As for [`Frame::called`].
    unsafe fn iterates(&self, code: Code, site: &Site) -> Option<usize> {
        if !site.arguments.is_null() || site.slf.is_null() {
            return None;
        }
        let depth = site.loop_depth.get().unwrap_or_else(|| {
            // SAFETY: the caller's duty.
            let depth = unsafe { self.place(code).and_then(|place| code.depth_at_loop(place)) };
            depth.filter(|&depth| depth <= code.stack_size()).unwrap_or(0)
        });
        site.loop_depth.set(Some(depth));
        let top = self.slots().wrapping_add(code.locals() + depth).wrapping_sub(1);
        // SAFETY: within the frame; only compared.
        (depth > 0 && unsafe { *top } == site.slf).then_some(depth)
    }

    /// How many entries a block keeps that surrounds the instruction, whatever that is doing.
    ///
    /// # Safety
    /// As for [`Frame::stack_depth`].
    unsafe fn kept(&self, code: Code) -> usize {
        // SAFETY: the caller's duty.
        let Some(place) = (unsafe { self.place(code) }) else { return 0 };
        // SAFETY: within the code.
        let [opcode, _] = unsafe { self.instruction().read() };
        // The second of two instructions in one may stand behind the end of the block.
        if offset::TWO_STORES == Some(opcode) {
            return 0;
        }
        // SAFETY: the frame's own code.
        depth::kept_by_block(unsafe { code.handlers() }, place).min(code.stack_size())
    }
}

impl Code {
    /// The instructions as they are executed.
    ///
    /// # Safety
    /// A code object.
    unsafe fn units(self) -> *const u8 {
        // SAFETY: within a code object (T1).
        unsafe { self.object().cast::<u8>().add(offset::CODE_UNITS) }
    }

    /// The exception table.
    ///
    /// # Safety
    /// A code object, which is kept.
    unsafe fn handlers<'a>(self) -> &'a [u8] {
        // SAFETY: a field of a code object (T1), which owns the bytes.
        unsafe { bytes(self.object().cast::<u8>().add(offset::CODE_HANDLERS).cast::<*mut PyObject>().read()) }
    }

    /// See [`depth::depth_at_loop`].
    ///
    /// # Safety
    /// A code object.
    unsafe fn depth_at_loop(self, place: usize) -> Option<usize> {
        // SAFETY: a new reference to the code as the compiler made it; the collector does not track `bytes`.
        let code = unsafe { PyCode_GetCode(self.object().cast()) };
        if code.is_null() {
            // SAFETY: there is no memory for it; the collector calls without an exception set.
            unsafe { ffi::PyErr_Clear() };
            return None;
        }
        // SAFETY: the bytes are kept until the reference is given back.
        unsafe {
            let depth = depth::depth_at_loop(bytes(code), self.handlers(), place);
            ffi::Py_DECREF(code);
            depth
        }
    }
}

/// # Safety
/// A `bytes` object that is kept.
unsafe fn bytes<'a>(object: *mut PyObject) -> &'a [u8] {
    // SAFETY: the caller's duty; its data lie in one piece, as long as its size says.
    unsafe { std::slice::from_raw_parts(ffi::PyBytes_AsString(object).cast(), ffi::PyBytes_Size(object) as usize) }
}
