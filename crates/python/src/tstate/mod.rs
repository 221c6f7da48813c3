//! What a tasklet owns of the interpreter's thread state, and how it is exchanged.
//!
//! CPython keeps the execution of Python code in `PyThreadState`: the current frame, the chunk of the data stack that
//! frames are pushed on, the exception being handled, recursion counters and so on. A tasklet is exactly the set of
//! these fields plus a machine stack. Switching saves them for one tasklet and loads them for another; the thread state
//! itself, its lock and its identity towards the operating system stay the same.
//!
//! ```text
//!            save                        load
//!   tstate ────────► Saved of A     Saved of B ────────► tstate
//!
//!   Saved     = frame, data stack, handled exceptions, recursion, context, trash can, tracing, stack bounds
//!   Identity  = what makes a thread a thread for Python: its dict, id, asyncio and thread-local hooks;
//!               exchanged only between tasklets that stand for different threads
//! ```
//!
//! # Invariants
//! * **T1**: offsets come from `build.rs`, which asks the headers; [`self_check`] compares their version with the running
//!   interpreter's before anything else is done. This is the only file that uses them.
//! * **T2**: a pointer to a thread state given to a function here is the current one of the calling thread.
//! * **T3**: between [`save`] of one tasklet and [`load`] of the next no Python code runs.
//! * **T4**: the base exception item (`exc_state`) and the list heads that live *inside* the thread state are exchanged by
//!   content: pointers to them from generators and frames stay valid because their address never changes.
//!
//! `asyncio_tasks_head` (3.14) is deliberately left alone: it is the head of an intrusive list whose nodes point back to
//! it, and a task may be removed while another tasklet runs. `asyncio.all_tasks` filters that list by loop anyway.

#[cfg(not(Py_3_14))]
mod depth;
mod frames;
mod site;
#[cfg(not(Py_3_14))]
mod stack;
mod tracing;

use std::mem::size_of;
use std::ptr::null_mut;

use pyo3_ffi as ffi;
use pyo3_ffi::{PyObject, PyThreadState};

pub(crate) use self::frames::{Visitor, running_depth, running_nesting_level};
pub(crate) use self::site::{Caller, Site};
#[cfg(not(Py_3_12))]
pub(crate) use self::tracing::is_traced;
pub(crate) use self::tracing::{Traces, running_tracer, with_tracers};

#[allow(non_upper_case_globals, unused)]
mod offset {
    include!(concat!(env!("OUT_DIR"), "/offsets.rs"));
}

/// Bytes at the top of a tasklet's machine stack that hold its first data-stack chunk (and its root C frame up to 3.12).
///
/// The machine stack grows down from the low end of the reserve, the chunk up from it, so both begin in one page:
/// [`FIRST_PAGE`] bytes of it hold the frames of a simple tasklet, the rest the machine frames of a call that waits. The
/// pages above are committed when deeper calls need them. They are there because a chunk of the interpreter's own costs an
/// `mmap` and a `munmap` each time the depth of calls crosses its start: seven pairs per request of `http.server`.
pub(crate) const RESERVE: usize = FIRST_PAGE + 4 * 4096;

/// The part of the reserve that shares a page with the first machine frames.
const FIRST_PAGE: usize = 1536;

/// A word of the thread state.
type Word = *mut std::ffi::c_void;

/// Checks that the running interpreter is the one whose headers were used.
///
/// # Errors
/// A sentence for the user.
pub(crate) fn self_check() -> Result<(), String> {
    // SAFETY: a constant of the interpreter.
    let running = unsafe { ffi::Py_Version } as u32;
    if running >> 16 != offset::HEADER_VERSION >> 16 {
        return Err(format!(
            "this build of lissom is for CPython {}.{}, and this is {}.{}: install the build for it",
            offset::HEADER_VERSION >> 24,
            offset::HEADER_VERSION >> 16 & 0xff,
            running >> 24,
            running >> 16 & 0xff
        ));
    }
    // SAFETY: the current thread state (T2) and its public accessors.
    let consistent = unsafe {
        let ts = ffi::PyThreadState_Get();
        let frame = ffi::PyThreadState_GetFrame(ts);
        let frame_matches = frame.is_null() == current_frame(ts).is_null();
        ffi::Py_XDECREF(frame.cast());
        let interp: Word = get(ts, offset::interp);
        let id: u64 = get(ts, offset::id);
        let thread_id: libc::c_ulong = get(ts, offset::thread_id);
        let dict: *mut PyObject = get(ts, offset::dict);
        interp == ffi::PyThreadState_GetInterpreter(ts).cast()
            && id == ffi::PyThreadState_GetID(ts) as u64
            && thread_id == libc::pthread_self()
            && (dict.is_null() || dict == ffi::PyThreadState_GetDict())
            && frame_matches
    };
    if !consistent {
        return Err("the thread state of this interpreter is laid out differently from its headers: \
                    rebuild lissom with the headers of this very interpreter"
            .to_owned());
    }
    Ok(())
}

/// # Safety
/// `ts` is a thread state (T2) and a `T` lies at `offset`.
#[inline(always)]
unsafe fn get<T: Copy>(ts: *mut PyThreadState, offset: usize) -> T {
    // SAFETY: the caller's duty; the offset comes from the headers (T1).
    unsafe { ts.cast::<u8>().add(offset).cast::<T>().read() }
}

/// # Safety
/// As for [`get`].
#[inline(always)]
unsafe fn set<T: Copy>(ts: *mut PyThreadState, offset: usize, value: T) {
    // SAFETY: the caller's duty; the offset comes from the headers (T1).
    unsafe { ts.cast::<u8>().add(offset).cast::<T>().write(value) }
}

/// Declares a struct whose fields are copied from and to the thread state word by word.
macro_rules! fields {
    ($(#[$doc:meta])* $name:ident { $($(#[$attr:meta])* $field:ident: $kind:ty,)* } + { $($(#[$extra_doc:meta])* $extra:ident: $extra_kind:ty,)* }) => {
        $(#[$doc])*
        pub(crate) struct $name {
            $($(#[$attr])* $field: $kind,)*
            $($(#[$extra_doc])* $extra: $extra_kind,)*
        }

        impl $name {
            /// # Safety
            /// T2.
            #[inline(always)]
            unsafe fn copy_from(&mut self, ts: *mut PyThreadState) {
                $(
                    $(#[$attr])*
                    // SAFETY: T1, T2.
                    { self.$field = unsafe { get(ts, offset::$field) }; }
                )*
            }

            /// # Safety
            /// T2.
            #[inline(always)]
            unsafe fn copy_to(&self, ts: *mut PyThreadState) {
                $(
                    $(#[$attr])*
                    // SAFETY: T1, T2.
                    unsafe { set(ts, offset::$field, self.$field) };
                )*
            }
        }
    };
}

fields! {
    /// The execution state of a tasklet that is not running.
    Saved {
        #[cfg(Py_3_13)] current_frame: Word,
        #[cfg(not(Py_3_13))] cframe: Word,
        #[cfg(Py_3_14)] current_executor: Word,
        datastack_chunk: Word,
        datastack_top: Word,
        datastack_limit: Word,
        exc_info: Word,
        exc_state: [Word; 2],
        context: *mut PyObject,
        delete_later: *mut PyObject,
        #[cfg(not(Py_3_13))] trash_nesting: i32,
        tracing: i32,
        what_event: i32,
        c_profilefunc: Word,
        c_tracefunc: Word,
        c_profileobj: *mut PyObject,
        c_traceobj: *mut PyObject,
        #[cfg(all(Py_3_12, not(Py_3_14)))] c_recursion_remaining: i32,
        #[cfg(Py_3_14)] c_stack_top: usize,
        #[cfg(Py_3_14)] c_stack_soft_limit: usize,
        #[cfg(Py_3_14)] c_stack_hard_limit: usize,
    } + {
        /// How many levels of Python calls are in use; the limit may change while the tasklet waits.
        depth: i32,
        /// The most levels that this tasklet's stack carries, whatever the recursion limit says (3.11 only: there the
        /// counter is shared by Python and C calls).
        depth_cap: i32,
    }
}

fields! {
    /// What makes a tasklet a thread of its own for Python code.
    Identity {
        dict: *mut PyObject,
        id: u64,
        async_gen_firstiter: *mut PyObject,
        async_gen_finalizer: *mut PyObject,
        coroutine_origin_tracking_depth: i32,
        #[cfg(Py_3_13)] threading_local_key: *mut PyObject,
        #[cfg(Py_3_13)] threading_local_sentinel: *mut PyObject,
        #[cfg(Py_3_13)] asyncio_running_loop: *mut PyObject,
        #[cfg(Py_3_14)] asyncio_running_task: *mut PyObject,
    } + {}
}

/// Bytes of machine stack that one counted level of recursion may take (3.11 to 3.13, which count instead of looking at
/// the stack pointer). The worst of a hundred shapes of recursion through C took 882 on 3.12 and 3.13, 1,361 on 3.11;
/// sorting and compiling, which take more, are seen to by hooks/deep.rs.
const BYTES_PER_LEVEL: usize = if cfg!(Py_3_12) { 900 } else { 1400 };

/// Machine stack that counted recursion must leave for what is not counted: the dynamic linker, TLS handshakes and the like
/// take up to 60 KB. (`select.select` with its frame of 49 KB runs on the main stack: hooks/select.rs.)
const UNCOUNTED: usize = 64 * 1024;

fn levels(stack_size: usize) -> i32 {
    (stack_size.saturating_sub(UNCOUNTED) / BYTES_PER_LEVEL).clamp(50, 100_000) as i32
}

impl Saved {
    /// The state of a main tasklet, which runs: nothing is saved yet.
    pub(crate) fn running() -> Saved {
        // SAFETY: all fields are plain words, for which zero is a value; they are written by `save` before being read.
        let mut saved: Saved = unsafe { std::mem::zeroed() };
        saved.depth_cap = i32::MAX;
        saved
    }

    /// The state of a tasklet that has not started: nothing but its context, an owned reference or null.
    pub(crate) fn in_context(context: *mut PyObject) -> Saved {
        let mut saved = Saved::running();
        saved.context = context;
        saved
    }

    /// The state in which a new tasklet starts on the stack `low..high`, whose top [`RESERVE`] bytes are at `reserved`.
    ///
    /// # Safety
    /// `reserved` points to [`RESERVE`] writable bytes, aligned to 16, that live as long as the tasklet runs. `context` is
    /// an owned reference or null and moves in. T2 for `ts`.
    pub(crate) unsafe fn fresh(
        ts: *mut PyThreadState,
        reserved: *mut u8,
        low: usize,
        high: usize,
        context: *mut PyObject,
    ) -> Saved {
        let mut saved = Saved::running();
        saved.depth_cap = if cfg!(Py_3_12) { i32::MAX } else { levels(high - low) };
        saved.context = context;
        // SAFETY: `exc_state` lies inside the thread state; the pointer is only stored (T4).
        saved.exc_info = unsafe { ts.cast::<u8>().add(offset::exc_state) }.cast();
        #[cfg(Py_3_13)]
        let chunk = reserved;
        #[cfg(not(Py_3_13))]
        let chunk = {
            saved.cframe = reserved.cast();
            // SAFETY: the root C frame is all zero: no current frame, no tracing, nothing before it.
            unsafe { reserved.write_bytes(0, offset::CFRAME_SIZE) };
            // SAFETY: within the reserve; 16-aligned.
            unsafe { reserved.add(offset::CFRAME_SIZE.next_multiple_of(16)) }
        };
        let size = reserved as usize + RESERVE - chunk as usize;
        // SAFETY: the chunk's header is {previous, size, top}, then data; it lies within the reserve.
        unsafe {
            chunk.cast::<usize>().write(0);
            chunk.cast::<usize>().add(1).write(size);
            chunk.cast::<usize>().add(2).write(0);
        }
        saved.datastack_chunk = chunk.cast();
        // The interpreter never frees a root chunk because its frames start at the second word (push_chunk, pystate.c).
        // SAFETY: within the reserve.
        saved.datastack_top = unsafe { chunk.add(offset::CHUNK_HEADER + size_of::<Word>()) }.cast();
        // SAFETY: one past the reserve.
        saved.datastack_limit = unsafe { chunk.add(size) }.cast();
        #[cfg(all(Py_3_12, not(Py_3_14)))]
        {
            saved.c_recursion_remaining = levels(high - low).min(offset::C_RECURSION_LIMIT);
        }
        #[cfg(Py_3_14)]
        {
            saved.c_stack_top = high;
            saved.c_stack_hard_limit = low + offset::STACK_MARGIN;
            saved.c_stack_soft_limit = low + 2 * offset::STACK_MARGIN;
        }
        saved
    }

    /// The innermost Python frame, or null. Only for a tasklet that is not running.
    fn frame(&self) -> Word {
        #[cfg(Py_3_13)]
        return self.current_frame;
        #[cfg(not(Py_3_13))]
        // SAFETY: a saved C frame lies on the tasklet's stack, which is kept.
        unsafe {
            if self.cframe.is_null() {
                null_mut()
            } else {
                self.cframe.cast::<u8>().add(offset::CFRAME_FRAME).cast::<Word>().read()
            }
        }
    }

    /// The context, borrowed; null if there is none.
    pub(crate) fn context(&self) -> *mut PyObject {
        self.context
    }
}

impl Identity {
    /// A fresh identity, as that of a new thread.
    pub(crate) fn new(id: u64) -> Identity {
        // SAFETY: all fields are plain words, for which zero is a value: no dict, no hooks.
        let mut identity: Identity = unsafe { std::mem::zeroed() };
        identity.id = id;
        identity
    }
}

/// Saves what the running tasklet owns.
///
/// # Safety
/// T2, T3.
#[inline(always)]
pub(crate) unsafe fn save(ts: *mut PyThreadState, saved: &mut Saved) {
    // SAFETY: T1, T2.
    unsafe {
        saved.copy_from(ts);
        let remaining: i32 = get(ts, offset::py_recursion_remaining);
        let limit: i32 = get(ts, offset::py_recursion_limit);
        saved.depth = limit.min(saved.depth_cap) - remaining;
    }
}

/// Loads what the next tasklet owns.
///
/// # Safety
/// T2, T3; `saved` belongs to this thread.
#[inline(always)]
pub(crate) unsafe fn load(ts: *mut PyThreadState, saved: &Saved) {
    // SAFETY: T1, T2.
    unsafe {
        saved.copy_to(ts);
        let limit: i32 = get(ts, offset::py_recursion_limit);
        set(ts, offset::py_recursion_remaining, limit.min(saved.depth_cap) - saved.depth);
        // Context variables are cached by this number (contextvar_get, context.c).
        let version: u64 = get(ts, offset::context_ver);
        set(ts, offset::context_ver, version + 1);
    }
}

/// How deep C code may still go: what belongs to the machine stack in use rather than to the tasklet.
#[derive(Clone, Copy)]
pub(crate) struct StackBounds {
    #[cfg(all(Py_3_12, not(Py_3_14)))]
    c_recursion_remaining: i32,
    #[cfg(Py_3_14)]
    words: [usize; 3],
}

impl Saved {
    /// The bounds of the stack that a tasklet that does not run was saved on.
    pub(crate) fn bounds(&self) -> StackBounds {
        StackBounds {
            #[cfg(all(Py_3_12, not(Py_3_14)))]
            c_recursion_remaining: self.c_recursion_remaining,
            #[cfg(Py_3_14)]
            words: [self.c_stack_top, self.c_stack_soft_limit, self.c_stack_hard_limit],
        }
    }
}

/// Puts other bounds in force; returns those before.
///
/// # Safety
/// T2; the running code is on the stack of these bounds, or leaves for it before it calls anything.
#[cfg(Py_3_12)]
pub(crate) unsafe fn exchange_bounds(ts: *mut PyThreadState, bounds: StackBounds) -> StackBounds {
    #[cfg(not(Py_3_14))]
    // SAFETY: T1, T2.
    unsafe {
        let before = StackBounds { c_recursion_remaining: get(ts, offset::c_recursion_remaining) };
        set(ts, offset::c_recursion_remaining, bounds.c_recursion_remaining);
        before
    }
    #[cfg(Py_3_14)]
    // SAFETY: T1, T2.
    unsafe {
        let places = [offset::c_stack_top, offset::c_stack_soft_limit, offset::c_stack_hard_limit];
        let before = StackBounds { words: places.map(|place| get(ts, place)) };
        for (place, word) in places.into_iter().zip(bounds.words) {
            set(ts, place, word);
        }
        before
    }
}

/// On 3.11 the one counter belongs to the tasklet.
///
/// # Safety
/// None to keep.
#[cfg(not(Py_3_12))]
pub(crate) unsafe fn exchange_bounds(_: *mut PyThreadState, bounds: StackBounds) -> StackBounds {
    bounds
}

/// Saves an identity, and loads another.
///
/// # Safety
/// T2, T3.
pub(crate) unsafe fn exchange_identity(ts: *mut PyThreadState, from: &mut Identity, to: &Identity) {
    // SAFETY: T1, T2.
    unsafe {
        from.copy_from(ts);
        to.copy_to(ts);
    }
}

/// The innermost Python frame of the running tasklet.
unsafe fn current_frame(ts: *mut PyThreadState) -> Word {
    #[cfg(Py_3_13)]
    // SAFETY: T1, T2.
    unsafe {
        get(ts, offset::current_frame)
    }
    #[cfg(not(Py_3_13))]
    // SAFETY: T1, T2; the C frame of a running thread is never null.
    unsafe {
        get::<Word>(ts, offset::cframe).cast::<u8>().add(offset::CFRAME_FRAME).cast::<Word>().read()
    }
}

/// # Safety
/// T2; `frame` is a frame of a tasklet of this thread, or null.
unsafe fn set_current_frame(ts: *mut PyThreadState, frame: Word) {
    #[cfg(Py_3_13)]
    // SAFETY: T1, T2.
    unsafe {
        set(ts, offset::current_frame, frame);
    }
    #[cfg(not(Py_3_13))]
    // SAFETY: T1, T2.
    unsafe {
        get::<Word>(ts, offset::cframe).cast::<u8>().add(offset::CFRAME_FRAME).cast::<Word>().write(frame);
    }
}

/// The frame object of a parked tasklet: a new reference, or null if it has no Python frame.
///
/// The frame is made by the interpreter itself, which is shown the parked frame as the current one for the time of the
/// call (`PyThreadState_GetFrame` also skips frames that are not complete).
///
/// # Safety
/// T2; the tasklet of `saved` is not running and belongs to this thread.
pub(crate) unsafe fn parked_frame(ts: *mut PyThreadState, saved: &Saved) -> *mut PyObject {
    let parked = saved.frame();
    if parked.is_null() {
        return null_mut();
    }
    // SAFETY: T2; the current frame is put back before any Python code can run.
    unsafe {
        let own = current_frame(ts);
        set_current_frame(ts, parked);
        let frame = ffi::PyThreadState_GetFrame(ts);
        set_current_frame(ts, own);
        frame.cast()
    }
}

/// Ends the Python side of a tasklet, in its own state: tracing off, no exception handled, no context.
///
/// # Safety
/// T2; called on the tasklet, whose frames are all gone.
pub(crate) unsafe fn finish(ts: *mut PyThreadState) {
    // SAFETY: T1, T2; each reference is taken out before it is dropped, as dropping may run code.
    unsafe {
        let (profile, trace): (Word, Word) = (get(ts, offset::c_profilefunc), get(ts, offset::c_tracefunc));
        if !trace.is_null() {
            ffi::PyEval_SetTrace(None, null_mut());
        }
        if !profile.is_null() {
            ffi::PyEval_SetProfile(None, null_mut());
        }
        for place in [offset::exc_state, offset::context] {
            let object: *mut PyObject = get(ts, place);
            set::<*mut PyObject>(ts, place, null_mut());
            ffi::Py_XDECREF(object);
        }
    }
}

/// Drops what a thread-like tasklet's identity owns, while it is loaded: thread-locals, hooks.
///
/// # Safety
/// T2; called on the tasklet at its end.
pub(crate) unsafe fn finish_identity(ts: *mut PyThreadState) {
    let places = [
        #[cfg(Py_3_14)]
        offset::asyncio_running_task,
        #[cfg(Py_3_13)]
        offset::asyncio_running_loop,
        // As PyThreadState_Clear does: first the dict, then the key and the sentinel of threading.local.
        offset::dict,
        #[cfg(Py_3_13)]
        offset::threading_local_key,
        #[cfg(Py_3_13)]
        offset::threading_local_sentinel,
        offset::async_gen_firstiter,
        offset::async_gen_finalizer,
    ];
    for place in places {
        // SAFETY: T1, T2; taken out before it is dropped.
        unsafe {
            let object: *mut PyObject = get(ts, place);
            set::<*mut PyObject>(ts, place, null_mut());
            ffi::Py_XDECREF(object);
        }
    }
}

/// The context object of the running tasklet, made if there is none: a new reference.
///
/// # Safety
/// T2.
pub(crate) unsafe fn current_context(ts: *mut PyThreadState) -> *mut PyObject {
    // SAFETY: T1, T2.
    unsafe {
        let context: *mut PyObject = get(ts, offset::context);
        if !context.is_null() {
            ffi::Py_INCREF(context);
            return context;
        }
        let context = ffi::PyContext_New();
        if !context.is_null() {
            ffi::Py_INCREF(context);
            set(ts, offset::context, context);
        }
        context
    }
}

/// Puts `context`, an owned reference or null, in force for the running tasklet; returns the one before, owned.
///
/// # Safety
/// T2.
pub(crate) unsafe fn exchange_context(ts: *mut PyThreadState, context: *mut PyObject) -> *mut PyObject {
    // SAFETY: T1, T2.
    unsafe {
        let before = get(ts, offset::context);
        set(ts, offset::context, context);
        let version: u64 = get(ts, offset::context_ver);
        set(ts, offset::context_ver, version + 1);
        before
    }
}

/// The idents of all threads that the interpreter knows, the first one first.
pub(crate) fn thread_idents() -> Vec<u64> {
    let mut idents = Vec::new();
    // SAFETY: the GIL is held, so the list does not change; each state has its fields where the headers say (T1).
    unsafe {
        let mut ts = ffi::PyInterpreterState_ThreadHead(ffi::PyInterpreterState_Get());
        while !ts.is_null() {
            idents.push(get::<libc::c_ulong>(ts, offset::thread_id));
            ts = ffi::PyThreadState_Next(ts);
        }
    }
    idents.reverse();
    idents
}
