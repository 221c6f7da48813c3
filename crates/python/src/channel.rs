//! The Python type `lissom.channel`.

use lissom_sched::{ChannelId, Direction, Exchange};
use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use crate::args::{Args, attribute, make_type, method, table};
use crate::object::{
    Exc, Obj, PyResult, Raised, boundary, clear_error, runtime_error, stop_iteration, type_error, value_error,
};
use crate::runtime::Runtime;
use crate::tasklet::{Carried, Tasklet, Why};
use crate::world::{self, world};

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

unsafe extern "C" fn slot_dealloc(slf: *mut PyObject) {
    // A waiter's frames refer to the channel, so none is left but those of a thread or process that is gone.
    let id = of(slf).id;
    let lost: Vec<_> = world().waiters(id).collect();
    for tasklet in lost {
        world().remove(tasklet);
    }
    world().remove_channel(id);
    // SAFETY: the interpreter's protocol for a heap type: weak references, free, type.
    unsafe {
        if !(*slf.cast::<Channel>()).weakrefs.is_null() {
            ffi::PyObject_ClearWeakRefs(slf);
        }
        let kind = ffi::Py_TYPE(slf);
        if let Some(free) = (*kind).tp_free {
            free(slf.cast());
        }
        ffi::Py_DECREF(kind.cast());
    }
}

/// What the caller brings to an exchange.
enum Offer {
    Value(Obj),
    Bomb(Exc),
}

impl Offer {
    fn carried(self) -> Carried {
        match self {
            Offer::Value(value) => Carried::Value(value),
            Offer::Bomb(exception) => Carried::Bomb(exception),
        }
    }
}

/// Performs one action on the channel: `Some` offer sends, `None` receives. Switches if it must.
fn act(channel: &Channel, slf: *mut PyObject, offer: Option<Offer>) -> PyResult<Obj> {
    let runtime = Runtime::get()?;
    let me = runtime.me();
    let direction = if offer.is_some() { Direction::Send } else { Direction::Receive };
    let exchange = world().exchange(channel.id, me.id(), direction);
    let (partner, switch) = match exchange {
        Exchange::WouldBlock => return block(runtime, channel, slf, offer, direction),
        Exchange::SwitchTo(partner) | Exchange::Yield(partner) => (partner, true),
        Exchange::Continue(partner) | Exchange::Remote(partner) => (partner, false),
    };
    let partner = world::tasklet(partner);
    let received = match offer {
        Some(offer) => {
            let old = partner.carried.replace(offer.carried());
            drop(old);
            Carried::Value(Obj::none())
        }
        None => partner.carried.replace(Carried::Nothing),
    };
    partner.set_wake(world::Wake::Event);
    partner.set_why(Why::Nothing);
    if matches!(exchange, Exchange::Remote(_)) {
        world::wake_thread_of(partner);
    }
    if switch {
        // What has been received is ours even if something is thrown into us now: the partner has gone on.
        runtime.switch()?;
    }
    deliver(received)
}

fn deliver(carried: Carried) -> PyResult<Obj> {
    match carried {
        Carried::Value(value) => Ok(value),
        Carried::Bomb(exception) => Err(exception.restore()),
        Carried::Nothing => Err(runtime_error("a channel delivered nothing: please report this")),
    }
}

fn block(
    runtime: &Runtime,
    channel: &Channel,
    slf: *mut PyObject,
    offer: Option<Offer>,
    direction: Direction,
) -> PyResult<Obj> {
    if world().closing(channel.id) {
        return Err(value_error("Send/receive operation on a closed channel"));
    }
    let me = runtime.me();
    let old = me.carried.replace(offer.map_or(Carried::Nothing, Offer::carried));
    drop(old);
    me.set_why(match direction {
        Direction::Send => Why::Send(slf as usize),
        Direction::Receive => Why::Receive(slf as usize),
    });
    me.set_since(runtime.clock());
    let result = loop {
        world().block(channel.id, me.id(), direction);
        let result = runtime.switch();
        // A partner has clearly come when the carried value has changed hands: a sender's is taken, a receiver's given.
        let met = matches!(&*me.carried.borrow(), Carried::Nothing) == (direction == Direction::Send);
        match result {
            Ok(()) if met => break Ok(()),
            // Woken early, by a signal whose handler returned normally: wait on.
            Ok(()) => match retry(runtime, channel, me, direction) {
                Some(result) => break result,
                None => continue,
            },
            Err(Raised) => break Err(Raised),
        }
    };
    me.set_why(Why::Nothing);
    let carried = me.carried.replace(Carried::Nothing);
    result?;
    match direction {
        Direction::Send => Ok(Obj::none()),
        Direction::Receive => deliver(carried),
    }
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
    match direction {
        Direction::Send => drop(partner.carried.replace(me.carried.replace(Carried::Nothing))),
        Direction::Receive => drop(me.carried.replace(partner.carried.replace(Carried::Nothing))),
    }
    partner.set_why(Why::Nothing);
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
        None => args.bind("send", ["value"], 1)?[0].expect("required"),
    };
    let value = Obj::borrowed(value);
    act(of(args.slf()), args.slf(), Some(Offer::Value(value)))
}

fn receive(args: Args) -> PyResult<Obj> {
    if !args.is_empty() {
        args.none("receive")?;
    }
    act(of(args.slf()), args.slf(), None)
}

fn send_exception(args: Args) -> PyResult<Obj> {
    let Some(class) = args.get(0) else {
        return Err(type_error("send_exception() takes at least 1 argument (0 given)"));
    };
    // SAFETY: a valid reference.
    if unsafe { ffi::PyExceptionClass_Check(class) } == 0 {
        return Err(type_error("channel.send_exception needs Exception or string subclass as first parameter"));
    }
    let (rest, _) = args.collect(1)?;
    // SAFETY: a class and a tuple.
    let exception = Obj::owned(unsafe { ffi::PyObject_CallObject(class, rest.ptr()) })?;
    act(of(args.slf()), args.slf(), Some(Offer::Bomb(Exc::instance(exception)?)))
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

unsafe extern "C" fn slot_iter(slf: *mut PyObject) -> *mut PyObject {
    boundary(|| Ok(Obj::borrowed(slf)))
}

unsafe extern "C" fn slot_next(slf: *mut PyObject) -> *mut PyObject {
    boundary(|| {
        let channel = of(slf);
        let ended = world().closing(channel.id) && world().balance(channel.id) <= 0;
        if ended {
            return Err(stop_iteration("the channel is closed"));
        }
        act(channel, slf, None)
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
    let methods = table(
        vec![
            method!(
                c"send",
                send,
                c"send($self, value)\n--\n\n\
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
        after an exchange.\n\n\
        Iterating receives until the channel is closed and no sender waits. It may be subclassed and\n\
        referred to weakly. As ``stackless.channel``; ``send_throw``, ``send_sequence`` and pickling are\n\
        not there yet.";
    let slot = |slot: i32, pfunc: *mut std::ffi::c_void| ffi::PyType_Slot { slot, pfunc };
    let slots = vec![
        slot(ffi::Py_tp_new, slot_new as *mut _),
        slot(ffi::Py_tp_dealloc, slot_dealloc as *mut _),
        slot(ffi::Py_tp_iter, slot_iter as *mut _),
        slot(ffi::Py_tp_iternext, slot_next as *mut _),
        slot(ffi::Py_tp_methods, methods.cast()),
        slot(ffi::Py_tp_getset, attributes.cast()),
        slot(ffi::Py_tp_members, members.cast()),
        slot(ffi::Py_tp_doc, doc.as_ptr().cast_mut().cast()),
    ];
    make_type(c"lissom.channel", size_of::<Channel>(), ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_BASETYPE, slots)
}
