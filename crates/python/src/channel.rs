//! The Python type `lissom.channel`.

mod garbage;

use lissom_sched::{ChannelId, Direction, Exchange};
use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use crate::args::{Args, attribute, make_type, method, table};
use crate::object::{
    Exc, Obj, PyResult, Raised, boundary, check, clear_error, error_is_set, runtime_error, type_error, value_error,
};
use crate::runtime::Runtime;
use crate::tasklet::{Carried, Tasklet, Why};
use crate::tasklet_type::made_of;
use crate::tstate::Caller;
use crate::world::{self, GilCell, Wake, world};
use crate::{bomb, callbacks, select};

static TYPE: GilCell<Option<Obj>> = GilCell::new(None);

/// The type object.
pub(crate) fn type_object() -> *mut ffi::PyTypeObject {
    TYPE.get().as_ref().expect("made when the module was").ptr().cast()
}

/// The object behind `lissom.channel`.
#[repr(C)]
struct Channel {
    ob_base: PyObject,
    weakrefs: *mut PyObject,
    id: ChannelId,
}

fn of(slf: *mut PyObject) -> &'static Channel {
    // SAFETY: the interpreter calls methods of the type with instances only; borrowed for the time of the call.
    unsafe { &*slf.cast::<Channel>() }
}

unsafe extern "C" fn slot_new(kind: *mut ffi::PyTypeObject, _: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    boundary(|| {
        // SAFETY: allocates a zeroed object of the type's size.
        let object = Obj::owned(unsafe { ffi::PyType_GenericAlloc(kind, 0) })?;
        let id = world().add_channel();
        // SAFETY: the field behind the header of a fresh object.
        unsafe { std::ptr::addr_of_mut!((*object.ptr().cast::<Channel>()).id).write(id) };
        Ok(object)
    })
}

/// Performs one action on the channel: `Some` offer sends, `None` receives. Switches if it must.
///
/// Values change hands through `carried`, the attribute `tempval`, on both sides.
fn act(channel: &Channel, slf: *mut PyObject, caller: Caller<'_>, offer: Option<Obj>) -> PyResult<Obj> {
    let runtime = Runtime::get()?;
    let me = runtime.me();
    let direction = if offer.is_some() { Direction::Send } else { Direction::Receive };
    let old = me.carried.replace(offer.map_or(Carried::Nothing, Carried::Value));
    if callbacks::special()
        && let Err(Raised) = before_action(runtime, channel, slf, direction)
    {
        return Err(undo(me, old));
    }
    let exchange = world().exchange(channel.id, me.id(), direction);
    let (partner, switch) = match exchange {
        Exchange::WouldBlock => return block(runtime, channel, slf, caller, direction, old),
        Exchange::SwitchTo(partner) | Exchange::Yield(partner) => (partner, true),
        Exchange::Continue(partner) | Exchange::Remote(partner) => (partner, false),
    };
    hand_over(me, world::tasklet(partner), direction);
    drop(old);
    if matches!(exchange, Exchange::Remote(_)) {
        world::wake_thread_of(world::tasklet(partner));
        if callbacks::special() {
            notify(runtime, slf, me, direction, false)?;
        }
    }
    if switch {
        if !matches!(exchange, Exchange::Yield(_)) {
            runtime.begin_exchange();
        }
        runtime.switch()?;
    }
    me.claim()
}

/// Exchanges the carried values with a partner, whose wait is over.
fn hand_over(me: &Tasklet, partner: &Tasklet, direction: Direction) {
    let choice = world().take_choice();
    match choice {
        None => me.carried.swap(&partner.carried),
        Some((_, case)) => select::chosen(me, partner, case, direction),
    }
    partner.set_wake(Wake::Met);
    partner.set_why(Why::Nothing);
}

/// The channel behind an object that selects one; `None` if it is no channel.
pub(crate) fn id_of(object: &Obj) -> Option<ChannelId> {
    object.is_instance(type_object()).then(|| of(object.ptr()).id)
}

/// One action on a channel, as `send` and `receive` do it.
///
/// # Errors
/// As for those.
pub(crate) fn perform(channel: &Obj, offer: Option<Obj>) -> PyResult<Obj> {
    act(of(channel.ptr()), channel.ptr(), Caller::Ours, offer)
}

/// What only a callback or a trap asks for. After an error nothing has happened on the channel.
#[cold]
#[inline(never)]
fn before_action(runtime: &Runtime, channel: &Channel, slf: *mut PyObject, direction: Direction) -> PyResult<()> {
    let me = runtime.me();
    let partner = world().partner(channel.id, direction);
    let remote = partner.is_some_and(|partner| world().thread_of(partner) != Some(runtime.thread()));
    // The callback of an exchange with another thread comes after it, as in Stackless.
    if !remote {
        notify(runtime, slf, me, direction, partner.is_none())?;
    }
    // The callback may have changed everything.
    let leaves = world().would_switch(channel.id, me.id(), direction);
    let partner = world().partner(channel.id, direction);
    if partner.is_none() {
        refusal(channel, me)?;
    }
    if leaves && (partner.is_some() || runtime.somebody_would_go_on()) { runtime.check_trap() } else { Ok(()) }
}

fn notify(runtime: &Runtime, slf: *mut PyObject, me: &Tasklet, direction: Direction, will_block: bool) -> PyResult<()> {
    callbacks::notify_channel(runtime, &Obj::borrowed(slf), me, direction == Direction::Send, will_block)
}

/// Nothing has happened on the channel: the tasklet has its `tempval` back. The exception stays set.
fn undo(me: &Tasklet, old: Carried) -> Raised {
    let raised = Exc::take();
    drop(me.carried.replace(old));
    raised.restore()
}

/// Refuses to let a tasklet block that may not.
fn refusal(channel: &Channel, me: &Tasklet) -> PyResult<()> {
    if me.block_trap.get() {
        return Err(runtime_error("this tasklet does not like to be blocked."));
    }
    if world().closing(channel.id) {
        return Err(value_error("Send/receive operation on a closed channel"));
    }
    Ok(())
}

fn block(
    runtime: &Runtime,
    channel: &Channel,
    slf: *mut PyObject,
    caller: Caller<'_>,
    direction: Direction,
    old: Carried,
) -> PyResult<Obj> {
    let me = runtime.me();
    if let Err(Raised) = refusal(channel, me) {
        return Err(undo(me, old));
    }
    drop(old);
    me.set_why(match direction {
        Direction::Send => Why::Send(slf as usize),
        Direction::Receive => Why::Receive(slf as usize),
    });
    me.set_since(runtime.clock());
    let result = me.wait_in_call(slf, caller, || {
        loop {
            me.set_wake(Wake::Event);
            world().block(channel.id, me.id(), direction);
            match runtime.switch() {
                // A partner has come; or what was thrown in has been replaced through `tempval` by what is to be returned.
                Ok(()) if me.wake() != Wake::Signal => break Ok(()),
                // Woken early, by a signal whose handler returned normally: wait on.
                Ok(()) => match retry(runtime, channel, me, direction) {
                    Some(result) => break result,
                    None => continue,
                },
                Err(Raised) => break Err(Raised),
            }
        }
    });
    me.set_why(Why::Nothing);
    if result.is_err() {
        let lost = me.carried.replace(Carried::Nothing);
        let raised = Exc::take();
        drop(lost);
        return Err(raised.restore());
    }
    me.claim()
}

/// A partner may have come to wait while the tasklet ran a signal handler: exchanges with it now.
fn retry(runtime: &Runtime, channel: &Channel, me: &Tasklet, direction: Direction) -> Option<PyResult<()>> {
    let exchange = world().exchange(channel.id, me.id(), direction);
    let partner = match exchange {
        Exchange::WouldBlock => return None,
        Exchange::SwitchTo(id) | Exchange::Yield(id) | Exchange::Continue(id) | Exchange::Remote(id) => {
            world::tasklet(id)
        }
    };
    hand_over(me, partner, direction);
    if matches!(exchange, Exchange::Remote(_)) {
        world::wake_thread_of(partner);
    }
    if matches!(exchange, Exchange::SwitchTo(_) | Exchange::Yield(_)) {
        return Some(runtime.switch());
    }
    Some(Ok(()))
}

// ---- methods ---------------------------------------------------------------------------------------------------------

fn send(args: Args) -> PyResult<Obj> {
    let value = match args.only() {
        Some(value) => value,
        None => args.one("send")?,
    };
    act(of(args.slf()), args.slf(), Caller::With(&args), Some(Obj::borrowed(value)))
}

fn receive(args: Args) -> PyResult<Obj> {
    if !args.is_empty() {
        args.none("receive")?;
    }
    act(of(args.slf()), args.slf(), Caller::With(&args), None)
}

/// Calls a method of the channel that a subclass may have replaced.
fn send_bomb(args: &Args, exception: Exc) -> PyResult<Obj> {
    let offer = bomb::wrap(&exception)?;
    // The collector does not see what this frame refers to.
    drop(exception);
    act(of(args.slf()), args.slf(), Caller::With(args), Some(offer))?;
    Ok(Obj::none())
}

fn send_exception(args: Args) -> PyResult<Obj> {
    let exception = made_of(&args, "send_exception", "channel.send_exception")?;
    send_bomb(&args, exception)
}

fn send_throw(args: Args) -> PyResult<Obj> {
    let [kind, value, traceback] = args.unpack("send_throw", 1)?;
    let [value, traceback] = [value, traceback].map(|part| part.map(Obj::borrowed));
    let exception = bomb::instance(Obj::borrowed(kind.expect("required")), value, traceback)?;
    send_bomb(&args, exception)
}

fn send_sequence(args: Args) -> PyResult<Obj> {
    let sequence = Obj::borrowed(args.one("send_sequence")?);
    // SAFETY: a valid reference.
    let items = Obj::owned(unsafe { ffi::PyObject_GetIter(sequence.ptr()) })?;
    let mut count = 0;
    loop {
        // SAFETY: an iterator; null at its end, with or without an exception.
        let Some(item) = Obj::owned_or_none(unsafe { ffi::PyIter_Next(items.ptr()) }) else {
            return if error_is_set() { Err(Raised) } else { Obj::int(count) };
        };
        act(of(args.slf()), args.slf(), Caller::With(&args), Some(item))?;
        count += 1;
    }
}

fn open(args: Args) -> PyResult<Obj> {
    args.none("open")?;
    world().set_closing(of(args.slf()).id, false);
    Ok(Obj::none())
}

fn close(args: Args) -> PyResult<Obj> {
    args.none("close")?;
    world().set_closing(of(args.slf()).id, true);
    Ok(Obj::none())
}

/// `__reduce__()`: the tasklets that wait go with the channel.
fn reduce(args: Args) -> PyResult<Obj> {
    args.none("__reduce__")?;
    let id = of(args.slf()).id;
    let (balance, flags, waiters) = {
        let world = world();
        let flags = i64::from(world.closing(id))
            | i64::from(world.preference(id) & 3) << 1
            | i64::from(world.schedule_all(id)) << 3;
        (world.balance(id), flags, world.waiters(id).collect::<Vec<_>>())
    };
    // SAFETY: the GIL is held.
    let list = Obj::owned(unsafe { ffi::PyList_New(0) })?;
    for waiter in waiters {
        // SAFETY: a list and a valid reference.
        check(unsafe { ffi::PyList_Append(list.ptr(), world::tasklet(waiter).ptr()) })?;
    }
    // SAFETY: the type of a valid object.
    let kind = Obj::borrowed(unsafe { ffi::Py_TYPE(args.slf()) }.cast());
    Obj::tuple([kind, Obj::tuple([])?, Obj::tuple([Obj::int(balance)?, Obj::int(flags)?, list])?])
}

/// `__setstate__(state)`.
fn set_state(args: Args) -> PyResult<Obj> {
    let state = Obj::borrowed(args.one("__setstate__")?);
    let wrong = || type_error("the state of a channel is a tuple of its balance, its flags and its tasklets");
    // SAFETY: valid references; the items of the checked tuple are borrowed.
    let flags = unsafe {
        if ffi::PyTuple_Check(state.ptr()) == 0 || ffi::PyTuple_Size(state.ptr()) != 3 {
            return Err(wrong());
        }
        let waiters = ffi::PyTuple_GetItem(state.ptr(), 2);
        if ffi::PyList_Check(waiters) == 0 || ffi::PyList_Size(waiters) != 0 {
            return Err(runtime_error("a channel with waiting tasklets cannot be restored yet"));
        }
        Obj::borrowed(ffi::PyTuple_GetItem(state.ptr(), 1)).to_i64()?
    };
    let id = of(args.slf()).id;
    let mut world = world();
    world.set_closing(id, flags & 1 != 0);
    world.set_preference(id, if flags >> 1 & 3 == 3 { -1 } else { (flags >> 1 & 3) as i32 });
    world.set_schedule_all(id, flags >> 3 & 1 != 0);
    drop(world);
    Ok(Obj::borrowed(args.slf()))
}

unsafe extern "C" fn slot_iter(slf: *mut PyObject) -> *mut PyObject {
    boundary(|| Ok(Obj::borrowed(slf)))
}

unsafe extern "C" fn slot_next(slf: *mut PyObject) -> *mut PyObject {
    boundary(|| {
        let channel = of(slf);
        let ended = world().closing(channel.id) && world().balance(channel.id) <= 0;
        if ended {
            // SAFETY: the interpreter keeps its exception classes for ever.
            unsafe { ffi::PyErr_SetNone(ffi::PyExc_StopIteration) };
            return Err(Raised);
        }
        // A subclass may have its own way to receive.
        // SAFETY: the type of a valid object.
        if unsafe { ffi::Py_TYPE(slf) } == type_object() {
            act(channel, slf, Caller::Iterating, None)
        } else {
            Obj::borrowed(slf).attr(c"receive")?.call([])
        }
    })
}

fn get_balance(slf: *mut PyObject) -> PyResult<Obj> {
    let balance = world().balance(of(slf).id);
    Obj::int(balance)
}

fn get_closing(slf: *mut PyObject) -> PyResult<Obj> {
    Ok(Obj::bool(world().closing(of(slf).id)))
}

fn get_closed(slf: *mut PyObject) -> PyResult<Obj> {
    let world = world();
    Ok(Obj::bool(world.closing(of(slf).id) && world.balance(of(slf).id) == 0))
}

fn get_queue(slf: *mut PyObject) -> PyResult<Obj> {
    let first = world().first_waiter(of(slf).id);
    Ok(first.map_or_else(Obj::none, |id| world::tasklet(id).object()))
}

fn get_preference(slf: *mut PyObject) -> PyResult<Obj> {
    let preference = world().preference(of(slf).id);
    Obj::int(i64::from(preference))
}

fn set_preference(slf: *mut PyObject, value: Obj) -> PyResult<()> {
    let value = value.to_i64().map_err(|Raised| {
        clear_error();
        type_error("preference must be set to an integer")
    })?;
    world().set_preference(of(slf).id, value.clamp(-1, 1) as i32);
    Ok(())
}

fn get_schedule_all(slf: *mut PyObject) -> PyResult<Obj> {
    let schedule_all = world().schedule_all(of(slf).id);
    Obj::int(i64::from(schedule_all))
}

fn set_schedule_all(slf: *mut PyObject, value: Obj) -> PyResult<()> {
    let value = value.to_i64().map_err(|Raised| {
        clear_error();
        type_error("preference must be set to a bool or integer")
    })?;
    world().set_schedule_all(of(slf).id, value != 0);
    Ok(())
}

// ---- the type --------------------------------------------------------------------------------------------------------

/// Makes the type.
///
/// # Errors
/// `MemoryError`.
pub(crate) fn define() -> PyResult<Obj> {
    let known = TYPE.get().clone();
    if let Some(known) = known {
        return Ok(known);
    }
    let methods = table(
        vec![
            method!(
                c"send",
                send,
                c"send($self, value, /)\n--\n\n\
                Give a value to a receiver.\n\n\
                Switches if no receiver waits, until one comes. If one waits, it is handed the value at once,\n\
                and with the default preference -1 it runs next, the caller last. A receiver of another thread\n\
                is woken there; the caller goes on.\n\n\
                Returns None. Raises ValueError if it would have to wait on a closed channel, RuntimeError (a\n\
                deadlock) in the main tasklet if nothing can run any more. In both cases nothing was given.\n\n\
                If the waiting caller is killed or a `lissom.timeout` ends its wait, it leaves the channel; the\n\
                value was not given unless a receiver had come just before. As in Stackless."
            ),
            method!(
                c"receive",
                receive,
                c"receive($self)\n--\n\n\
                Take a value from a sender.\n\n\
                Switches if no sender waits, until one comes. If one waits, its value is returned at once; with\n\
                the default preference -1 the sender is queued and the caller goes on. A sender of another\n\
                thread is woken there.\n\n\
                Returns the value. Raises the exception if that was sent, ValueError if it would have to wait on\n\
                a closed channel, RuntimeError (a deadlock) in the main tasklet if nothing can run any more.\n\n\
                If the waiting caller is killed or a `lissom.timeout` ends its wait, it leaves the channel. A\n\
                value that a sender had handed over just before is lost then. As in Stackless."
            ),
            method!(
                c"send_exception",
                send_exception,
                c"send_exception($self, exc_class, *args)\n--\n\n\
                Raise ``exc_class(*args)`` in a receiver.\n\n\
                Switches, returns and is ended as `send`. Raises TypeError if ``exc_class`` is no exception\n\
                class, and what calling it raises; nothing was sent then. As in Stackless."
            ),
            method!(
                c"send_throw",
                send_throw,
                c"send_throw($self, exc, val=None, tb=None, /)\n--\n\n\
                Raise an exception in a receiver, as ``raise`` would with these parts.\n\n\
                ``exc`` is an exception or a class of one, ``val`` the argument for a class (a tuple: all of\n\
                them), ``tb`` the traceback to begin with: the receiver's ends with it. Switches, returns and is\n\
                ended as `send`. Raises TypeError for anything else; nothing was sent then. As in Stackless."
            ),
            method!(
                c"send_sequence",
                send_sequence,
                c"send_sequence($self, seq, /)\n--\n\n\
                Send the items of an iterable, one after the other.\n\n\
                Switches as `send` does, for each. Returns how many were sent, an int. Raises what iterating or\n\
                sending raises; what was sent before stays sent. As in Stackless."
            ),
            method!(c"__reduce__", reduce, c"__reduce__($self)\n--\n\n"),
            method!(c"__setstate__", set_state, c"__setstate__($self, state, /)\n--\n\n"),
            method!(
                c"open",
                open,
                c"open($self)\n--\n\n\
                Reopen a closed channel. Never switches. Returns None. As in Stackless."
            ),
            method!(
                c"close",
                close,
                c"close($self)\n--\n\n\
                Let nobody wait on the channel from now on.\n\n\
                Never switches, and wakes nobody: whoever waits already is still served. What would have to wait\n\
                raises ValueError, and an iteration ends when no sender waits.\n\n\
                Returns None. As in Stackless, where a waiting receiver is usually sent StopIteration."
            ),
        ],
        ffi::PyMethodDef::zeroed(),
    );
    let attributes = table(
        vec![
            attribute!(
                c"balance",
                get_balance,
                c"How many senders wait, or, as a negative number, how many receivers. An int."
            ),
            attribute!(c"closing", get_closing, c"Whether `close` was called. A bool."),
            attribute!(c"closed", get_closed, c"Whether `close` was called and nobody waits any more. A bool."),
            attribute!(c"queue", get_queue, c"The tasklet that has waited longest, or None."),
            attribute!(
                c"preference",
                get_preference,
                set_preference,
                c"Who goes on after an exchange: -1 the receiver (the default), 1 the sender, 0 the caller.\n\
                Beyond that it is clamped."
            ),
            attribute!(
                c"schedule_all",
                get_schedule_all,
                set_schedule_all,
                c"Whether a third one runs after an exchange, both partners being queued: 0 (default) or 1.\n\
                Overrides `preference`."
            ),
        ],
        // SAFETY: the all-zero entry ends the table.
        unsafe { std::mem::zeroed() },
    );
    let members = table(
        vec![ffi::PyMemberDef {
            name: c"__weaklistoffset__".as_ptr(),
            type_code: ffi::Py_T_PYSSIZET,
            offset: std::mem::offset_of!(Channel, weakrefs) as isize,
            flags: ffi::Py_READONLY,
            doc: std::ptr::null(),
        }],
        // SAFETY: the all-zero entry ends the table.
        unsafe { std::mem::zeroed() },
    );
    let doc = c"channel()\n--\n\n\
        A meeting place for tasklets: a value passes when a sender and a receiver meet there.\n\n\
        There is no buffer. Whoever comes first waits, in order of arrival; `balance` tells how many.\n\
        The tasklets may belong to different threads. `preference` and `schedule_all` say who goes on\n\
        after an exchange. A `bomb` that is sent is raised where it is received.\n\n\
        Iterating receives until the channel is closed and no sender waits. It may be subclassed,\n\
        referred to weakly, and pickled while nobody waits. As ``stackless.channel``.";
    let slot = |slot: i32, pfunc: *mut std::ffi::c_void| ffi::PyType_Slot { slot, pfunc };
    let slots = vec![
        slot(ffi::Py_tp_new, slot_new as *mut _),
        slot(ffi::Py_tp_traverse, garbage::slot_traverse as *mut _),
        slot(ffi::Py_tp_clear, garbage::slot_clear as *mut _),
        slot(ffi::Py_tp_dealloc, garbage::slot_dealloc as *mut _),
        slot(ffi::Py_tp_iter, slot_iter as *mut _),
        slot(ffi::Py_tp_iternext, slot_next as *mut _),
        slot(ffi::Py_tp_methods, methods.cast()),
        slot(ffi::Py_tp_getset, attributes.cast()),
        slot(ffi::Py_tp_members, members.cast()),
        slot(ffi::Py_tp_doc, doc.as_ptr().cast_mut().cast()),
    ];
    let flags = ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_BASETYPE | ffi::Py_TPFLAGS_HAVE_GC;
    let kind = make_type(c"lissom.channel", size_of::<Channel>(), flags, slots)?;
    *TYPE.get() = Some(kind.clone());
    Ok(kind)
}
