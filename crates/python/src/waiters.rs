//! Tasklets that wait for an object to change: a lock to be released, a queue to be filled.
//!
//! The object's address is the key; whoever waits keeps the object alive through its arguments. A wake-up is handed to
//! one waiter. If that one cannot use it (it was killed, or timed out, at the same moment) it passes it on.

use std::collections::{HashMap, VecDeque};

use pyo3_ffi::PyObject;

use crate::object::PyResult;
use crate::runtime::{Runtime, now};
use crate::tasklet::Why;
use crate::world::{GilCell, Token, Wake};

type Waiters = HashMap<usize, VecDeque<Token>, std::hash::BuildHasherDefault<AddressHasher>>;

static WAITERS: GilCell<Option<Waiters>> = GilCell::new(None);

/// Addresses are spread well enough by one multiplication.
#[derive(Default)]
pub(crate) struct AddressHasher(u64);

impl std::hash::Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only addresses are hashed");
    }

    fn write_usize(&mut self, address: usize) {
        self.0 = (address as u64 >> 4).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

fn with<R>(body: impl FnOnce(&mut Waiters) -> R) -> R {
    body(WAITERS.get().get_or_insert_default())
}

/// Wakes the tasklet that has waited longest for `object`, if any.
#[inline]
pub(crate) fn wake_one(object: *mut PyObject) {
    let nobody = WAITERS.get().as_ref().is_none_or(HashMap::is_empty);
    if !nobody {
        wake(object as usize);
    }
}

/// Hands a wake-up to the first waiter that still waits. Returns whether there was one.
fn wake(key: usize) -> bool {
    loop {
        let token = with(|waiters| {
            let queue = waiters.get_mut(&key)?;
            let token = queue.pop_front();
            if queue.is_empty() {
                waiters.remove(&key);
            }
            token
        });
        match token {
            None => return false,
            Some(token) if token.unpark(Wake::Event) => return true,
            Some(_) => {}
        }
    }
}

/// Wakes up to `count` of the tasklets that wait for `object`, in the order in which they came. Returns how many.
pub(crate) fn wake_some(object: *mut PyObject, count: usize) -> usize {
    (0..count).take_while(|_| wake(object as usize)).count()
}

/// Takes a waiter out. Returns false if it had been woken already.
fn leave(key: usize, token: Token) -> bool {
    with(|waiters| {
        let Some(queue) = waiters.get_mut(&key) else { return false };
        let Some(place) = queue.iter().position(|&waiter| waiter == token) else { return false };
        queue.remove(place);
        if queue.is_empty() {
            waiters.remove(&key);
        }
        true
    })
}

/// Parks the running tasklet until `attempt` succeeds: tried now, after each wake-up, and once more at the deadline.
///
/// Returns `None` when the deadline has passed.
///
/// # Errors
/// What `attempt` raises, and what is thrown into the tasklet.
pub(crate) fn wait_for<T>(
    runtime: &Runtime,
    object: *mut PyObject,
    why: Why,
    deadline: Option<u64>,
    mut attempt: impl FnMut() -> PyResult<Option<T>>,
) -> PyResult<Option<T>> {
    let key = object as usize;
    let mut served = false;
    loop {
        if let Some(value) = attempt()? {
            return Ok(Some(value));
        }
        if deadline.is_some_and(|deadline| deadline <= now()) {
            return Ok(None);
        }
        let token = runtime.me().begin_wait();
        with(|waiters| {
            let queue = waiters.entry(key).or_default();
            // Who was woken and found the object taken by a newcomer keeps its turn.
            if served { queue.push_front(token) } else { queue.push_back(token) }
        });
        let result = runtime.park(why, deadline);
        served = !leave(key, token);
        if result.is_err() && served {
            wake(key);
        }
        result?;
    }
}

/// Parks the running tasklet until `object` hands it a wake-up. Returns false when the deadline has passed instead.
///
/// A wake-up that comes in the same moment as an exception goes to the next waiter; if there is none, `lost` is called.
///
/// # Errors
/// What is thrown into the tasklet.
pub(crate) fn wait_once(
    runtime: &Runtime,
    object: *mut PyObject,
    deadline: Option<u64>,
    lost: impl FnOnce(),
) -> PyResult<bool> {
    let key = object as usize;
    let mut early = false;
    loop {
        let token = runtime.me().begin_wait();
        with(|waiters| {
            let queue = waiters.entry(key).or_default();
            // Whom a signal woke keeps its turn.
            if early { queue.push_front(token) } else { queue.push_back(token) }
        });
        let result = runtime.park(Why::WakeUp(key), deadline);
        let served = !leave(key, token);
        if result.is_err() && served && !wake(key) {
            lost();
            return result.map(|_| false);
        }
        result?;
        if served || deadline.is_some_and(|deadline| deadline <= now()) {
            return Ok(served);
        }
        early = true;
    }
}

/// Forgets every waiter.
pub(crate) fn clear() {
    *WAITERS.get() = None;
}
