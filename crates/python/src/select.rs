//! `lissom.select`: the first of several channel operations that can take place.

use std::cell::{Cell, RefCell};

use lissom_sched::{ChannelId, Direction};
use pyo3_ffi as ffi;

use crate::args::{Args, seconds};
use crate::channel;
use crate::object::{Obj, PyResult, type_error, utf8, value_error};
use crate::runtime::{Runtime, deadline_in, now};
use crate::tasklet::{Carried, Tasklet, Why};
use crate::world::{Wake, world};

/// One case: receive from a channel, or send a value to it.
struct Case {
    channel: Obj,
    id: ChannelId,
    offer: Option<Obj>,
}

impl Case {
    fn direction(&self) -> Direction {
        if self.offer.is_some() { Direction::Send } else { Direction::Receive }
    }
}

/// What a selecting tasklet offers in each case, and which case took place. It lies in the frame that waits.
pub(crate) struct Selecting {
    offers: RefCell<Vec<Option<Obj>>>,
    chosen: Cell<Option<usize>>,
}

/// `me` has met a selecting partner, on whose case the values change hands.
pub(crate) fn chosen(me: &Tasklet, partner: &Tasklet, case: usize, direction: Direction) {
    // SAFETY: set for as long as the partner waits, and it has not run since it was met.
    let selecting = unsafe { &*partner.selecting.get() };
    selecting.chosen.set(Some(case));
    match direction {
        Direction::Send => {
            let value = me.carried.replace(Carried::Nothing);
            partner.carried.replace(value);
        }
        Direction::Receive => {
            let offer = selecting.offers.borrow_mut()[case].take();
            me.carried.replace(offer.map_or(Carried::Nothing, Carried::Value));
        }
    }
}

fn case_of(object: Obj) -> PyResult<Case> {
    if let Some(id) = channel::id_of(&object) {
        return Ok(Case { channel: object, id, offer: None });
    }
    let wrong =
        || type_error("each case of select() is a channel, to receive from, or a tuple (channel, value), to send");
    // SAFETY: valid references; the items of the checked tuple are borrowed.
    let (channel, value) = unsafe {
        if ffi::PyTuple_Check(object.ptr()) == 0 || ffi::PyTuple_Size(object.ptr()) != 2 {
            return Err(wrong());
        }
        let item = |index| Obj::borrowed(ffi::PyTuple_GetItem(object.ptr(), index));
        (item(0), item(1))
    };
    let id = channel::id_of(&channel).ok_or_else(wrong)?;
    Ok(Case { channel, id, offer: Some(value) })
}

/// `select(*cases, timeout=None, block=True)`.
pub(crate) fn select(args: Args) -> PyResult<Obj> {
    let (positional, keywords) = args.collect(0)?;
    let (timeout, block) = options(keywords)?;
    // SAFETY: a tuple; its items are borrowed.
    let objects = unsafe {
        (0..ffi::PyTuple_Size(positional.ptr())).map(|i| Obj::borrowed(ffi::PyTuple_GetItem(positional.ptr(), i)))
    };
    let cases: Vec<Case> = objects.map(case_of).collect::<PyResult<_>>()?;
    if cases.is_empty() && block && timeout.is_none() {
        return Err(value_error("select() without cases would wait for ever: give channels, or a timeout"));
    }
    let runtime = Runtime::get()?;
    let deadline = timeout.map(deadline_in);
    loop {
        for (index, case) in cases.iter().enumerate() {
            let ready = world().partner(case.id, case.direction()).is_some();
            if ready || world().closing(case.id) {
                // On a closed channel nobody waits for ever: the operation itself raises.
                let value = channel::perform(&case.channel, case.offer.clone())?;
                return Obj::tuple([Obj::int(index as i64)?, value]);
            }
        }
        if !block || deadline.is_some_and(|deadline| deadline <= now()) {
            return Ok(Obj::none());
        }
        if let Some(result) = wait(runtime, &cases, deadline)? {
            return Ok(result);
        }
    }
}

fn options(keywords: Option<Obj>) -> PyResult<(Option<u64>, bool)> {
    let (mut timeout, mut block) = (None, true);
    let Some(keywords) = keywords else { return Ok((timeout, block)) };
    let (mut place, mut key, mut value) = (0, std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: a dict that nobody else has; the places are written.
    while unsafe { ffi::PyDict_Next(keywords.ptr(), &mut place, &mut key, &mut value) } != 0 {
        let value = Obj::borrowed(value);
        match utf8(&Obj::borrowed(key))?.as_str() {
            "timeout" if value.ptr() == Obj::none().ptr() => timeout = None,
            "timeout" => timeout = Some(seconds(&value)?),
            "block" => block = value.truth()?,
            other => {
                return Err(type_error(&format!("select() got an unexpected keyword argument '{other}'")));
            }
        }
    }
    Ok((timeout, block))
}

/// Waits until a case takes place; `None` if something else has ended the wait.
fn wait(runtime: &Runtime, cases: &[Case], deadline: Option<u64>) -> PyResult<Option<Obj>> {
    runtime.check_trap()?;
    let me = runtime.me();
    let places: Vec<(ChannelId, Direction)> = cases.iter().map(|case| (case.id, case.direction())).collect();
    let offers = RefCell::new(cases.iter().map(|case| case.offer.clone()).collect());
    let selecting = Selecting { offers, chosen: Cell::new(None) };
    drop(me.carried.replace(Carried::Nothing));
    me.begin_wait();
    me.selecting.set(&selecting);
    let woken = runtime.park_selecting(Why::Select(cases.len()), deadline, &places);
    me.selecting.set(std::ptr::null());
    if woken? != Wake::Met {
        return Ok(None);
    }
    let Some(case) = selecting.chosen.get() else { return Ok(None) };
    let value = me.claim()?;
    Obj::tuple([Obj::int(case as i64)?, value]).map(Some)
}
