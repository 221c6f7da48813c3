//! The data of a tasklet: what the type `lissom.tasklet` (tasklet_type.rs) and the loop of a thread (runtime.rs) share.
//!
//! # Life
//! ```text
//!   Unbound ──bind──► Bound ──setup──► Ready ──first run──► Started ──return──► Unbound
//!                                        └──────────── kill ───────────────────────▲
//!   Lost: it had started, and its thread or process (fork) is gone; its frames are never run again
//! ```
//!
//! # Invariants
//! * **K1**: whatever list of the scheduler holds the tasklet owns one reference to it (`held`), from `hold` to `release`.
//! * **K2**: `saved` is meaningful only while the tasklet does not run; `fiber` is `Some` exactly while it is `Started`.
//! * **K3**: fields are cells that only the holder of the GIL touches; a tasklet itself never moves.

use std::cell::{Cell, OnceCell, UnsafeCell};
use std::mem::ManuallyDrop;

use lissom_fiber::{Fiber, Link};
use lissom_sched::TaskletId;
use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use crate::bomb;
use crate::object::{Exc, Obj, PyResult};
use crate::select::Selecting;
use crate::tstate::{Caller, Identity, Saved, Site};
use crate::world::{Token, Wake};

/// Where a tasklet is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// No function: never bound, or finished.
    Unbound,
    /// A function without arguments.
    Bound,
    /// Function and arguments: it can be run.
    Ready,
    /// It has a stack.
    Started,
    /// It had started and can never go on.
    Lost,
}

/// What a waiting tasklet waits for, to be named in messages.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Why {
    /// It does not wait, or in a way that has no better name.
    Nothing,
    /// Time.
    Sleep,
    /// A descriptor to become readable.
    Readable(i32),
    /// A descriptor to become writable.
    Writable(i32),
    /// One of several descriptors.
    Descriptors(usize),
    /// A lock, by address.
    Lock(usize),
    /// An item in a queue, by address.
    Queue(usize),
    /// A wake-up through an object that the waiter keeps alive, by address.
    WakeUp(usize),
    /// A partner on one of several channels.
    Select(usize),
    /// The end of a tasklet, by address.
    Join(usize),
    /// The end of one of several tasklets.
    JoinAny(usize),
    /// A receiver on a channel, by address.
    Send(usize),
    /// A sender on a channel, by address.
    Receive(usize),
    /// A function in the pool of blocking threads.
    Job,
    /// The end of a process.
    Process(i32),
    /// A file on a disk, by descriptor.
    Disk(i32),
    /// A signal's handler to have run.
    Signal,
    /// A lock on a file, by descriptor.
    FileLock(i32),
    /// The disk, for a path.
    Path,
    /// The other tasklets, in `run()`.
    Run,
}

impl Why {
    /// Whether only another tasklet or thread can end the wait.
    pub(crate) fn needs_partner(self) -> bool {
        matches!(self, Why::Lock(_) | Why::Queue(_) | Why::WakeUp(_) | Why::Join(_) | Why::JoinAny(_))
    }
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Why::Nothing => write!(f, "nothing that could end its wait"),
            Why::Sleep => write!(f, "time"),
            Why::Readable(fd) => write!(f, "descriptor {fd} to become readable"),
            Why::Writable(fd) => write!(f, "descriptor {fd} to become writable"),
            Why::Descriptors(count) => write!(f, "one of {count} descriptors"),
            Why::Lock(address) => write!(f, "the lock at {address:#x}"),
            Why::Queue(address) => write!(f, "an item in the queue at {address:#x}"),
            Why::WakeUp(address) => write!(f, "the {} at {address:#x}", type_name(address)),
            Why::Select(count) => write!(f, "a partner on one of {count} channels"),
            Why::JoinAny(count) => write!(f, "the end of one of {count} tasklets"),
            Why::Join(address) => write!(f, "the end of the tasklet at {address:#x}"),
            Why::Send(address) => write!(f, "a receiver on the channel at {address:#x}"),
            Why::Receive(address) => write!(f, "a sender on the channel at {address:#x}"),
            Why::Job => write!(f, "a function in a blocking thread"),
            Why::Disk(fd) => write!(f, "the disk, for descriptor {fd}"),
            Why::Signal => write!(f, "a signal"),
            Why::FileLock(fd) => write!(f, "a lock on the file of descriptor {fd}"),
            Why::Path => write!(f, "the disk, for a path"),
            Why::Process(pid) => write!(f, "the end of process {pid}"),
            Why::Run => write!(f, "the other tasklets to finish"),
        }
    }
}

/// The name of the type of the object at `address`, which a waiting tasklet keeps alive.
fn type_name(address: usize) -> String {
    // SAFETY: the waiter holds a reference to the object for as long as it waits for it.
    let name = unsafe { std::ffi::CStr::from_ptr((*ffi::Py_TYPE(address as *mut PyObject)).tp_name) };
    let name = name.to_string_lossy();
    name.rsplit('.').next().unwrap_or(&name).to_owned()
}

/// What a tasklet left behind.
pub(crate) type Outcome = Result<Obj, Exc>;

/// What the call that the tasklet is in will return when it goes on: the attribute `tempval`.
///
/// Channels, `schedule` and `run` hand values over through it. A bomb among them is raised.
pub(crate) enum Carried {
    /// `None`.
    Nothing,
    /// The tasklet itself, without a reference.
    Itself,
    /// For a receiver the value received, for a sender the one offered, for one that is bound its function.
    Value(Obj),
}

/// Holds a [`Carried`], in one word: channels exchange them all the time.
pub(crate) struct Hand(Cell<usize>);

/// The word for [`Carried::Itself`]; no object lies there.
const ITSELF: usize = 1;

impl Hand {
    fn encode(carried: Carried) -> usize {
        match carried {
            Carried::Nothing => 0,
            Carried::Itself => ITSELF,
            Carried::Value(value) => value.into_ptr() as usize,
        }
    }

    /// The owned form of a word that is taken out of its cell, or only looked at and forgotten.
    fn decode(word: usize) -> Carried {
        match word {
            ITSELF => Carried::Itself,
            word => Obj::owned_or_none(word as *mut PyObject).map_or(Carried::Nothing, Carried::Value),
        }
    }

    /// Puts something else there; returns what was there, to be dropped where code may run.
    #[inline]
    pub(crate) fn replace(&self, carried: Carried) -> Carried {
        Self::decode(self.0.replace(Self::encode(carried)))
    }

    /// Exchanges what two tasklets carry.
    #[inline]
    pub(crate) fn swap(&self, other: &Hand) {
        self.0.swap(&other.0);
    }

    /// Looks at what is there; `look` runs no Python code.
    pub(crate) fn read<R>(&self, look: impl FnOnce(&Carried) -> R) -> R {
        look(&ManuallyDrop::new(Self::decode(self.0.get())))
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        drop(self.replace(Carried::Nothing));
    }
}

/// Who waits in `join`. Behind one pointer: most tasklets are never joined while they live.
type Joiners = Vec<Token>;

/// Something or nothing, without the flag of a `RefCell`.
pub(crate) struct Slot<T>(Cell<Option<T>>);

impl<T> Slot<T> {
    const fn empty() -> Slot<T> {
        Slot(Cell::new(None))
    }

    /// Whether there is something.
    #[inline]
    pub(crate) fn is_some(&self) -> bool {
        self.read(|thing| thing.is_some())
    }

    /// Looks at what is there; `look` neither runs Python code nor changes the slot.
    #[inline]
    pub(crate) fn read<R>(&self, look: impl FnOnce(Option<&T>) -> R) -> R {
        // SAFETY: nobody changes the slot meanwhile: only the holder of the GIL could (K3), and that is in `look`.
        look(unsafe { (*self.0.as_ptr()).as_ref() })
    }

    /// The place itself, for what stays there while other code runs.
    pub(crate) fn as_ptr(&self) -> *mut Option<T> {
        self.0.as_ptr()
    }

    /// Puts something else there; returns what was there, to be dropped where code may run.
    pub(crate) fn replace(&self, thing: Option<T>) -> Option<T> {
        self.0.replace(thing)
    }

    /// Takes out what is there.
    pub(crate) fn take(&self) -> Option<T> {
        self.0.take()
    }
}

impl Slot<Obj> {
    /// The object, borrowed: valid until the slot is changed.
    pub(crate) fn ptr(&self) -> Option<*mut PyObject> {
        self.read(|object| object.map(Obj::ptr))
    }

    /// A new reference.
    pub(crate) fn get(&self) -> Option<Obj> {
        self.ptr().map(Obj::borrowed)
    }
}

/// The object behind `lissom.tasklet`. Ten thousands of them are parked at a time, so its size counts.
#[repr(C)]
pub(crate) struct Tasklet {
    ob_base: PyObject,
    pub(crate) weakrefs: *mut PyObject,
    id: TaskletId,
    wait_serial: Cell<u32>,
    /// Milliseconds of the monotonic clock, wrapping.
    since: Cell<u32>,
    /// The last count of instructions that has seen its frames (3.12 and newer).
    pub(crate) counted: Cell<u32>,
    phase: Cell<Phase>,
    held: Cell<bool>,
    wake: Cell<Wake>,
    /// Whether it was started as a thread.
    pub(crate) thread: Cell<bool>,
    /// Whether it was made by `lissom.spawn`: what ends it goes to `lissom.excepthook`.
    pub(crate) spawned: Cell<bool>,
    /// The watchdog of `run()` does not interrupt it.
    pub(crate) atomic: Cell<bool>,
    /// The watchdog interrupts it also in code that C code has called.
    pub(crate) ignore_nesting: Cell<bool>,
    /// It may not block on a channel.
    pub(crate) block_trap: Cell<bool>,
    /// The watchdog wanted to interrupt it and could not.
    pub(crate) interrupt_pending: Cell<bool>,
    pub(crate) signalled: Cell<bool>,
    why: Cell<Why>,
    /// The call in which it blocks or pauses, which lies on its stack; null while it does neither.
    site: Cell<*const Site>,
    /// While it selects: what it offers, and what has come of it.
    pub(crate) selecting: Cell<*const Selecting>,
    link: Cell<Option<Link>>,
    pub(crate) func: Slot<Obj>,
    pub(crate) args: Slot<Obj>,
    pub(crate) kwargs: Slot<Obj>,
    pub(crate) carried: Hand,
    pub(crate) pending: Slot<Exc>,
    pub(crate) outcome: Slot<Outcome>,
    joiners: Cell<Option<Box<Joiners>>>,
    pub(crate) fiber: Slot<Fiber>,
    saved: UnsafeCell<Saved>,
    identity: OnceCell<Box<UnsafeCell<Identity>>>,
}

impl Tasklet {
    /// The initial state of a tasklet, to be written behind a freshly allocated object header.
    pub(crate) fn fields(ob_base: PyObject, id: TaskletId, saved: Saved) -> Tasklet {
        Tasklet {
            ob_base,
            weakrefs: std::ptr::null_mut(),
            id,
            wait_serial: Cell::new(0),
            phase: Cell::new(Phase::Unbound),
            held: Cell::new(false),
            wake: Cell::new(Wake::Event),
            thread: Cell::new(false),
            spawned: Cell::new(false),
            atomic: Cell::new(false),
            ignore_nesting: Cell::new(false),
            block_trap: Cell::new(false),
            interrupt_pending: Cell::new(false),
            counted: Cell::new(0),
            signalled: Cell::new(false),
            why: Cell::new(Why::Nothing),
            since: Cell::new(0),
            site: Cell::new(std::ptr::null()),
            selecting: Cell::new(std::ptr::null()),
            link: Cell::new(None),
            func: Slot::empty(),
            args: Slot::empty(),
            kwargs: Slot::empty(),
            carried: Hand(Cell::new(0)),
            pending: Slot::empty(),
            outcome: Slot::empty(),
            joiners: Cell::new(None),
            fiber: Slot::empty(),
            saved: UnsafeCell::new(saved),
            identity: OnceCell::new(),
        }
    }

    pub(crate) fn id(&self) -> TaskletId {
        self.id
    }

    /// The object's pointer, borrowed.
    pub(crate) fn ptr(&self) -> *mut PyObject {
        std::ptr::from_ref(self).cast_mut().cast()
    }

    /// A new reference.
    pub(crate) fn object(&self) -> Obj {
        Obj::borrowed(self.ptr())
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase.get()
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.phase.set(phase);
    }

    /// Whether it can still run.
    pub(crate) fn alive(&self) -> bool {
        matches!(self.phase(), Phase::Ready | Phase::Started)
    }

    /// Whether the scheduler has its reference (K1).
    pub(crate) fn held(&self) -> bool {
        self.held.get()
    }

    /// Takes the scheduler's reference, unless it has it (K1).
    pub(crate) fn hold(&self) {
        if !self.held.replace(true) {
            // SAFETY: the object is alive.
            unsafe { ffi::Py_INCREF(self.ptr()) };
        }
    }

    /// Gives the scheduler's reference to the caller (K1).
    pub(crate) fn release(&self) -> Option<Obj> {
        if !self.held.replace(false) {
            return None;
        }
        Obj::owned_or_none(self.ptr())
    }

    /// What the call that it was in returns, now that it goes on.
    ///
    /// # Errors
    /// What a bomb carries.
    #[inline]
    pub(crate) fn claim(&self) -> PyResult<Obj> {
        match self.carried.replace(Carried::Nothing) {
            Carried::Nothing => Ok(Obj::none()),
            Carried::Itself => Ok(self.object()),
            Carried::Value(value) => bomb::unwrap(value),
        }
    }

    /// Begins a wait: the token under which it will be woken.
    #[inline]
    pub(crate) fn begin_wait(&self) -> Token {
        self.wait_serial.set(self.wait_serial.get().wrapping_add(1));
        self.wake.set(Wake::Event);
        Token::new(self.id, self.wait_serial.get())
    }

    pub(crate) fn wait_serial(&self) -> u32 {
        self.wait_serial.get()
    }

    /// Why the last wait ended.
    pub(crate) fn wake(&self) -> Wake {
        self.wake.get()
    }

    pub(crate) fn set_wake(&self, wake: Wake) {
        self.wake.set(wake);
    }

    pub(crate) fn why(&self) -> Why {
        self.why.get()
    }

    pub(crate) fn set_why(&self, why: Why) {
        self.why.set(why);
    }

    /// For how many milliseconds it has waited at the instant `now`, in nanoseconds of the monotonic clock.
    pub(crate) fn waited(&self, now: u64) -> u32 {
        ((now / 1_000_000) as u32).wrapping_sub(self.since.get())
    }

    pub(crate) fn set_since(&self, since: u64) {
        self.since.set((since / 1_000_000) as u32);
    }

    /// Runs `wait`, which blocks or pauses this, the running tasklet, in a function of ours that was called on `slf`.
    #[inline]
    pub(crate) fn wait_in_call<R>(&self, slf: *mut PyObject, caller: Caller<'_>, wait: impl FnOnce() -> R) -> R {
        let site = Site::new(slf, caller);
        self.site.set(&site);
        let result = wait();
        self.site.set(std::ptr::null());
        result
    }

    /// The call in which it blocks or pauses.
    pub(crate) fn site(&self) -> Option<&Site> {
        // SAFETY: null, or on the stack of the tasklet, which is in `wait_in_call`.
        unsafe { self.site.get().as_ref() }
    }

    /// Notes that a wait is for the end of this tasklet.
    pub(crate) fn add_joiner(&self, joiner: Token) {
        let mut joiners = self.joiners.take().unwrap_or_default();
        joiners.push(joiner);
        self.joiners.set(Some(joiners));
    }

    /// Takes a wait back.
    pub(crate) fn remove_joiner(&self, joiner: Token) {
        let mut joiners = self.joiners.take().unwrap_or_default();
        joiners.retain(|&waiting| waiting != joiner);
        self.joiners.set(Some(joiners).filter(|joiners| !joiners.is_empty()));
    }

    /// The waits for the end of this tasklet, which has come.
    pub(crate) fn take_joiners(&self) -> Vec<Token> {
        self.joiners.take().map_or_else(Vec::new, |joiners| *joiners)
    }

    /// The way back to the loop of its thread, once it has started.
    pub(crate) fn link(&self) -> Option<Link> {
        self.link.get()
    }

    pub(crate) fn set_link(&self, link: Option<Link>) {
        self.link.set(link);
    }

    /// Its saved state; see K2 for when it means something.
    pub(crate) fn saved(&self) -> *mut Saved {
        self.saved.get()
    }

    /// Makes it a thread of its own for Python code, once.
    pub(crate) fn set_identity(&self, identity: Identity) {
        let fresh = self.identity.set(Box::new(UnsafeCell::new(identity))).is_ok();
        debug_assert!(fresh, "a tasklet stands for one thread");
    }

    /// Its own identity, if it stands for a thread.
    #[inline]
    pub(crate) fn identity(&self) -> Option<*mut Identity> {
        self.identity.get().map(|identity| identity.get())
    }

    /// Drops what it would have run.
    pub(crate) fn unbind(&self) {
        let func = self.func.take();
        let args = self.args.take();
        let kwargs = self.kwargs.take();
        drop((func, args, kwargs));
    }
}
