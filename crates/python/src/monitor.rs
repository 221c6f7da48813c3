//! Native threads that look at the program from outside: the detector of tasklets that hold a thread, and the socket that
//! `python -m lissom.top` reads.
//!
//! They have no thread state but while they look, so that to the scheduler they are no threads that could wake anybody. What
//! they do with the GIL is in Python: `lissom.inspect`.

use std::io::Write;
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pyo3_ffi as ffi;

use crate::args::Args;
use crate::object::{Obj, PyResult, Raised, detached, io_error, runtime_error, write_unraisable};
use crate::world::{self, GilCell, world};

/// How often a thread that serves looks whether it has to end.
const LOOK: Duration = Duration::from_millis(200);

/// How long a reader may take to read a snapshot.
const PATIENCE: Duration = Duration::from_secs(5);

/// Tells the threads that the program ends.
type Stop = Arc<(Mutex<bool>, Condvar)>;

struct Watcher {
    stop: Stop,
    thread: JoinHandle<()>,
}

static WATCHERS: GilCell<Vec<Watcher>> = GilCell::new(Vec::new());

fn start(body: impl FnOnce(&Stop) + Send + 'static) -> PyResult<()> {
    let stop = Stop::default();
    let inner = Arc::clone(&stop);
    let thread = std::thread::Builder::new().name("lissom-monitor".to_owned()).spawn(move || body(&inner));
    let thread = thread.map_err(|error| runtime_error(&format!("no thread to watch the program with: {error}")))?;
    WATCHERS.get().push(Watcher { stop, thread });
    Ok(())
}

/// Ends the threads, before the interpreter does.
pub(crate) fn shutdown() {
    let watchers = std::mem::take(&mut *WATCHERS.get());
    for watcher in watchers {
        *watcher.stop.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        watcher.stop.1.notify_all();
        // It may be waiting for the GIL. A panic of it has been printed.
        let _ = detached(|| watcher.thread.join());
    }
}

/// After `fork`, in the child: the threads are gone, and what they share with this one may be in any state.
pub(crate) fn after_fork() {
    std::mem::forget(std::mem::take(&mut *WATCHERS.get()));
}

/// Waits; returns whether to end.
fn pause(stop: &Stop, time: Duration) -> bool {
    let ended = stop.0.lock().unwrap_or_else(PoisonError::into_inner);
    let waited = stop.1.wait_timeout_while(ended, time, |ended| !*ended);
    let (ended, _) = waited.unwrap_or_else(PoisonError::into_inner);
    *ended
}

/// Runs `body` with the GIL; what it raises is printed.
fn with_gil<R>(body: impl FnOnce() -> PyResult<R>) -> Option<R> {
    // SAFETY: this thread has no thread state; the pair makes one and takes it away. The interpreter lives: `shutdown` waits
    // for this thread.
    let state = unsafe { ffi::PyGILState_Ensure() };
    let result = body().map_err(|Raised| write_unraisable(None)).ok();
    // SAFETY: pairs with the call above.
    unsafe { ffi::PyGILState_Release(state) };
    result
}

/// What was seen of one scheduler.
struct Seen {
    ident: u64,
    /// How many switches there had been, and the address of the tasklet that ran.
    position: (u64, usize),
    since: Instant,
    reported: bool,
}

/// `_watch_blocked(milliseconds)`: reports, through `lissom.inspect`, tasklets that hold their thread for longer.
pub(crate) fn watch_blocked(args: Args) -> PyResult<Obj> {
    let [limit] = args.bind("_watch_blocked", ["milliseconds"], 1)?;
    let limit = Obj::borrowed(limit.expect("required")).to_i64()?.clamp(1, 1 << 31) as u64;
    let limit = Duration::from_millis(limit);
    start(move |stop| {
        let mut seen: Vec<Seen> = Vec::new();
        while !pause(stop, limit / 2) {
            let asked = Instant::now();
            with_gil(|| look(&mut seen, limit, asked.elapsed()));
        }
    })?;
    Ok(Obj::none())
}

fn look(seen: &mut Vec<Seen>, limit: Duration, waited_for_gil: Duration) -> PyResult<()> {
    let now = Instant::now();
    for runtime in world::runtimes() {
        let ident = runtime.ident();
        let position = (runtime.switches(), runtime.me().ptr() as usize);
        // A thread that waits in the system, or has one tasklet only, holds up nobody.
        let others = world().runnable(runtime.thread()) > 1 || world::tasklets_of(runtime.thread()).len() > 1;
        let place = seen.iter().position(|seen| seen.ident == ident);
        if runtime.is_idle() || !others {
            if let Some(place) = place {
                let ended = seen.swap_remove(place);
                tell_end(&ended, now)?;
            }
            continue;
        }
        let Some(place) = place else {
            seen.push(Seen { ident, position, since: now, reported: false });
            continue;
        };
        if seen[place].position != position {
            let ended = std::mem::replace(&mut seen[place], Seen { ident, position, since: now, reported: false });
            tell_end(&ended, now)?;
        } else if !seen[place].reported && now - seen[place].since >= limit {
            seen[place].reported = true;
            let seconds = (now - seen[place].since).as_secs_f64();
            report(&runtime.me().object(), seconds, waited_for_gil >= limit)?;
        }
    }
    Ok(())
}

fn float(value: f64) -> PyResult<Obj> {
    // SAFETY: the GIL is held.
    Obj::owned(unsafe { ffi::PyFloat_FromDouble(value) })
}

fn report(tasklet: &Obj, seconds: f64, late: bool) -> PyResult<()> {
    let hook = Obj::import(c"lissom.inspect")?.attr(c"_blocked")?;
    hook.call([tasklet, &float(seconds)?, &Obj::bool(late)]).map(drop)
}

fn tell_end(ended: &Seen, now: Instant) -> PyResult<()> {
    if !ended.reported {
        return Ok(());
    }
    let hook = Obj::import(c"lissom.inspect")?.attr(c"_blocked_no_more")?;
    hook.call([&Obj::uint(ended.ident)?, &float((now - ended.since).as_secs_f64())?]).map(drop)
}

/// `_serve(path)`: answers everybody who connects to this Unix socket with a snapshot of the program.
pub(crate) fn serve(args: Args) -> PyResult<Obj> {
    let [path] = args.bind("_serve", ["path"], 1)?;
    let path = crate::object::utf8(&Obj::borrowed(path.expect("required")))?;
    let listener = UnixListener::bind(&path).map_err(|error| io_error(&error))?;
    listener.set_nonblocking(true).map_err(|error| io_error(&error))?;
    start(move |stop| {
        loop {
            match listener.accept() {
                Ok((mut stream, _)) => {
                    let Some(text) = with_gil(snapshot) else { continue };
                    // A reader that has gone or does not read is its own affair.
                    let _ = stream
                        .set_nonblocking(false)
                        .and_then(|()| stream.set_write_timeout(Some(PATIENCE)))
                        .and_then(|()| stream.write_all(text.as_bytes()));
                }
                Err(_) if pause(stop, LOOK) => break,
                Err(_) => {}
            }
        }
        // The program may have removed it already.
        let _ = std::fs::remove_file(&path);
    })?;
    Ok(Obj::none())
}

fn snapshot() -> PyResult<String> {
    let text = Obj::import(c"lissom.inspect")?.attr(c"_snapshot")?.call([])?;
    crate::object::utf8(&text)
}
