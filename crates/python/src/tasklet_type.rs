//! The Python type `lissom.tasklet`.

use std::ptr::null_mut;

use lissom_sched::{State, TaskletId};
use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use crate::args::{Args, attribute, given, make_type, method, table};
use crate::body::tasklet_exit;
use crate::hooks;
use crate::object::{
    Exc, Obj, PyResult, Raised, boundary, clear_error, runtime_error, status_boundary, type_error, write_unraisable,
};
use crate::runtime::Runtime;
use crate::tasklet::{Carried, Phase, Tasklet};
use crate::tstate::{self, Identity, Saved};
use crate::world::{self, GilCell, world};

static TYPE: GilCell<Option<Obj>> = GilCell::new(None);

/// The type object.
pub(crate) fn type_object() -> *mut ffi::PyTypeObject {
    TYPE.get().as_ref().expect("made when the module was").ptr().cast()
}

/// The tasklet behind an object, which must be one.
///
/// # Errors
/// `TypeError`.
pub(crate) fn from_object(object: &Obj) -> PyResult<&'static Tasklet> {
    if !object.is_instance(type_object()) {
        // SAFETY: a valid object has a type with a name.
        let name = unsafe { std::ffi::CStr::from_ptr((*ffi::Py_TYPE(object.ptr())).tp_name) };
        return Err(type_error(&format!("a tasklet is needed, not {}", name.to_string_lossy())));
    }
    Ok(of(object.ptr()))
}

/// The tasklet behind the pointer of a method's own object.
fn of(slf: *mut PyObject) -> &'static Tasklet {
    // SAFETY: the interpreter calls methods of the type with instances only; borrowed for the time of the call.
    unsafe { &*slf.cast::<Tasklet>() }
}

// ---- making ----------------------------------------------------------------------------------------------------------

fn allocate(kind: *mut ffi::PyTypeObject, id: TaskletId, saved: Saved) -> PyResult<Obj> {
    // SAFETY: allocates a zeroed, tracked object of the type's size.
    let object = Obj::owned(unsafe { ffi::PyType_GenericAlloc(kind, 0) })?;
    let tasklet = object.ptr().cast::<Tasklet>();
    // SAFETY: the header that the allocator made is kept; the fields behind it are written once.
    unsafe { tasklet.write(Tasklet::fields(std::ptr::read(object.ptr()), id, saved)) };
    world::set_tasklet(id, tasklet);
    Ok(object)
}

/// The main tasklet of a thread: it runs, and has no function.
pub(crate) fn new_main(id: TaskletId) -> PyResult<Obj> {
    allocate(type_object(), id, Saved::running())
}

/// A new tasklet of `kind`, unbound, in the creator's context.
pub(crate) fn new(runtime: &Runtime, kind: *mut ffi::PyTypeObject) -> PyResult<Obj> {
    let id = world().add_tasklet(runtime.thread());
    let object = match allocate(kind, id, Saved::running()) {
        Ok(object) => object,
        Err(Raised) => {
            world().remove_tasklet(id);
            return Err(Raised);
        }
    };
    share_context(runtime, of(object.ptr()))?;
    if hooks::threads_are_tasklets() {
        of(object.ptr()).set_identity(Identity::new(next_identity()));
    }
    Ok(object)
}

/// Numbers for `PyThreadState.id`, far above those that the interpreter counts up to.
pub(crate) fn next_identity() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1 << 40);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// Gives `tasklet` the creator's context object itself, not a copy, as Stackless does.
fn share_context(runtime: &Runtime, tasklet: &Tasklet) -> PyResult<()> {
    // SAFETY: T2: the runtime is that of the calling thread.
    let context = Obj::owned(unsafe { tstate::current_context(runtime.tstate()) })?;
    set_context(tasklet, context.into_ptr());
    Ok(())
}

/// Replaces the context of a tasklet that has not started; null gives it an empty one when it first needs it.
pub(crate) fn set_context(tasklet: &Tasklet, context: *mut PyObject) {
    let saved = Saved::in_context(context);
    // SAFETY: it has not started, so nothing but the context is in the saved state (K2), and that is moved out.
    let old = unsafe { std::mem::replace(&mut *tasklet.saved(), saved) };
    drop(Obj::owned_or_none(old.context()));
}

/// Binds and queues in one step.
pub(crate) fn spawn(runtime: &Runtime, func: Obj, args: Obj, kwargs: Option<Obj>) -> PyResult<Obj> {
    let object = new(runtime, type_object())?;
    let tasklet = of(object.ptr());
    *tasklet.func.borrow_mut() = Some(func);
    *tasklet.args.borrow_mut() = Some(args);
    *tasklet.kwargs.borrow_mut() = kwargs;
    tasklet.set_phase(Phase::Ready);
    world().insert(tasklet.id());
    tasklet.hold();
    Ok(object)
}

/// A tasklet that stands for a thread: an identity of its own, an empty context, a thread's way with exceptions.
pub(crate) fn spawn_thread(runtime: &Runtime, func: Obj, args: Obj, kwargs: Option<Obj>) -> PyResult<Obj> {
    let object = spawn(runtime, func, args, kwargs)?;
    let tasklet = of(object.ptr());
    set_context(tasklet, null_mut());
    tasklet.thread.set(true);
    Ok(object)
}

unsafe extern "C" fn slot_new(kind: *mut ffi::PyTypeObject, _: *mut PyObject, _: *mut PyObject) -> *mut PyObject {
    boundary(|| new(Runtime::get()?, kind))
}

unsafe extern "C" fn slot_init(slf: *mut PyObject, args: *mut PyObject, kwargs: *mut PyObject) -> std::ffi::c_int {
    status_boundary(|| {
        // SAFETY: calls `bind` with the same arguments; `kwargs` may be null.
        let bind = Obj::borrowed(slf).attr(c"bind")?;
        // SAFETY: as above.
        Obj::owned(unsafe { ffi::PyObject_Call(bind.ptr(), args, kwargs) }).map(drop)
    })
}

// ---- garbage and death -----------------------------------------------------------------------------------------------

unsafe extern "C" fn slot_traverse(
    slf: *mut PyObject,
    visit: ffi::visitproc,
    arg: *mut std::ffi::c_void,
) -> std::ffi::c_int {
    let tasklet = of(slf);
    let visit_one = |object: *mut PyObject| {
        // SAFETY: the collector's own function and argument, with a valid object.
        if object.is_null() { 0 } else { unsafe { visit(object, arg) } }
    };
    let cells = [&tasklet.func, &tasklet.args, &tasklet.kwargs];
    let objects = cells.map(|cell| cell.try_borrow().ok().and_then(|object| object.as_ref().map(Obj::ptr)));
    let carried = match &*tasklet.carried.borrow() {
        Carried::Nothing => null_mut(),
        Carried::Value(value) => value.ptr(),
        Carried::Bomb(exception) => exception.0.ptr(),
    };
    let outcome = match &*tasklet.outcome.borrow() {
        None => null_mut(),
        Some(Ok(value)) => value.ptr(),
        Some(Err(exception)) => exception.0.ptr(),
    };
    let pending = tasklet.pending.borrow().as_ref().map_or(null_mut(), |exception| exception.0.ptr());
    // SAFETY: a heap type's instances own a reference to it.
    let kind: *mut PyObject = unsafe { ffi::Py_TYPE(slf) }.cast();
    for object in objects.into_iter().flatten().chain([carried, outcome, pending, kind]) {
        let status = visit_one(object);
        if status != 0 {
            return status;
        }
    }
    0
}

unsafe extern "C" fn slot_clear(slf: *mut PyObject) -> std::ffi::c_int {
    let tasklet = of(slf);
    tasklet.unbind();
    let rest = (tasklet.carried.replace(Carried::Nothing), tasklet.outcome.take(), tasklet.pending.take());
    drop(rest);
    0
}

/// PEP 442: a started tasklet that nobody refers to any more is killed, so that its `finally` blocks run.
unsafe extern "C" fn slot_finalize(slf: *mut PyObject) {
    let tasklet = of(slf);
    if tasklet.phase() != Phase::Started {
        return;
    }
    let must_wait = Runtime::current().is_some_and(Runtime::on_errand);
    // SAFETY: finalisers keep the exception that is being handled (PEP 442).
    let handled = unsafe { ffi::PyErr_Occurred() };
    let handled = (!handled.is_null()).then(Exc::take);
    let result = status_boundary(|| throw(tasklet, Exc::instance(Obj::borrowed(tasklet_exit()))?, must_wait));
    if result < 0 {
        write_unraisable(None);
    }
    if let Some(exception) = handled {
        exception.restore();
    }
}

unsafe extern "C" fn slot_dealloc(slf: *mut PyObject) {
    // SAFETY: the interpreter's protocol for a collected heap type with a finaliser: finalise (which may resurrect),
    // untrack, clear weak references, drop the fields, free, drop the type.
    unsafe {
        if ffi::PyObject_CallFinalizerFromDealloc(slf) != 0 {
            return;
        }
        ffi::PyObject_GC_UnTrack(slf.cast());
        let kind = ffi::Py_TYPE(slf);
        let tasklet = slf.cast::<Tasklet>();
        if !(*tasklet).weakrefs.is_null() {
            ffi::PyObject_ClearWeakRefs(slf);
        }
        let id = (*tasklet).id();
        if (*tasklet).phase() != Phase::Started {
            set_context(&*tasklet, null_mut());
        }
        world::forget(id, tasklet);
        std::ptr::drop_in_place(tasklet);
        if let Some(free) = (*kind).tp_free {
            free(slf.cast());
        }
        ffi::Py_DECREF(kind.cast());
    }
}

// ---- methods ---------------------------------------------------------------------------------------------------------

fn bind(args: Args) -> PyResult<Obj> {
    let tasklet = of(args.slf());
    let [func, arguments, keywords] = args.bind("bind", ["func", "args", "kwargs"], 0)?;
    let (func, arguments, keywords) = (given(func), given(arguments), given(keywords));
    check_rebind(tasklet)?;
    if let Some(func) = &func
        // SAFETY: a valid reference.
        && unsafe { ffi::PyCallable_Check(func.ptr()) } == 0
    {
        return Err(type_error("tasklet function must be a callable or None"));
    }
    let with_arguments = arguments.is_some() || keywords.is_some();
    if func.is_none() && !with_arguments {
        tasklet.unbind();
        tasklet.set_phase(Phase::Unbound);
        return Ok(tasklet.object());
    }
    if let Some(func) = func {
        *tasklet.carried.borrow_mut() = Carried::Value(func.clone());
        drop(tasklet.func.replace(Some(func)));
        tasklet.set_phase(Phase::Bound);
    } else if tasklet.func.borrow().is_none() {
        return Err(runtime_error("the tasklet was not bound to a function"));
    }
    if with_arguments {
        let tuple = match arguments {
            // SAFETY: a valid reference.
            Some(arguments) => Obj::owned(unsafe { ffi::PySequence_Tuple(arguments.ptr()) })?,
            None => Obj::tuple([])?,
        };
        set_arguments(tasklet, tuple, keywords);
    }
    Ok(tasklet.object())
}

fn check_rebind(tasklet: &Tasklet) -> PyResult<()> {
    if Runtime::current().is_some_and(|runtime| std::ptr::eq(runtime.me(), tasklet)) {
        return Err(runtime_error("can't (re)bind the current tasklet"));
    }
    if world().state(tasklet.id()) != State::Idle {
        return Err(runtime_error("tasklet is scheduled"));
    }
    if tasklet.phase() == Phase::Started {
        return Err(runtime_error("tasklet has C state on its stack"));
    }
    Ok(())
}

fn set_arguments(tasklet: &Tasklet, args: Obj, kwargs: Option<Obj>) {
    let old = (tasklet.args.replace(Some(args)), tasklet.kwargs.replace(kwargs));
    drop(old);
    drop(tasklet.outcome.take());
    tasklet.set_phase(Phase::Ready);
}

fn setup(args: Args) -> PyResult<Obj> {
    let tasklet = of(args.slf());
    if tasklet.alive() {
        return Err(runtime_error("tasklet is alive"));
    }
    if tasklet.func.borrow().is_none() {
        return Err(runtime_error("the tasklet was not bound to a function"));
    }
    let (positional, keywords) = args.collect(0)?;
    set_arguments(tasklet, positional, keywords);
    world::make_runnable(tasklet);
    Ok(tasklet.object())
}

unsafe extern "C" fn slot_call(slf: *mut PyObject, args: *mut PyObject, kwargs: *mut PyObject) -> *mut PyObject {
    boundary(|| {
        let setup = Obj::borrowed(slf).attr(c"setup")?;
        // SAFETY: the same arguments; `kwargs` may be null.
        Obj::owned(unsafe { ffi::PyObject_Call(setup.ptr(), args, kwargs) })
    })
}

fn check_runnable(tasklet: &Tasklet, action: &str) -> PyResult<()> {
    if matches!(world().state(tasklet.id()), State::Blocked(..)) {
        return Err(runtime_error(&format!("You cannot {action} a blocked tasklet")));
    }
    if tasklet.phase() == Phase::Lost || world().thread_of(tasklet.id()).is_none() {
        return Err(runtime_error("tasklet has no thread"));
    }
    let runs = Runtime::current().is_some_and(|runtime| std::ptr::eq(runtime.me(), tasklet));
    if !tasklet.alive() && !runs && !is_main(tasklet) {
        return Err(runtime_error(&format!("You cannot {action} an unbound(dead) tasklet")));
    }
    Ok(())
}

fn insert(args: Args) -> PyResult<Obj> {
    args.none("insert")?;
    let tasklet = of(args.slf());
    check_runnable(tasklet, "run")?;
    if world().state(tasklet.id()) == State::Idle {
        world::make_runnable(tasklet);
    }
    Ok(tasklet.object())
}

fn remove(args: Args) -> PyResult<Obj> {
    args.none("remove")?;
    let tasklet = of(args.slf());
    let runtime = Runtime::get()?;
    if std::ptr::eq(runtime.me(), tasklet) {
        return Err(runtime_error("The current tasklet cannot be removed."));
    }
    let state = world().state(tasklet.id());
    match state {
        State::Blocked(..) => return Err(runtime_error("You cannot remove a blocked tasklet.")),
        State::Parked => {
            return Err(runtime_error("You cannot remove a tasklet that waits for input, output or time."));
        }
        State::Idle => {}
        State::Queued => {
            world().remove(tasklet.id());
            let object = tasklet.object();
            drop(tasklet.release());
            return Ok(object);
        }
    }
    Ok(tasklet.object())
}

fn run(args: Args) -> PyResult<Obj> {
    args.none("run")?;
    let tasklet = of(args.slf());
    let runtime = Runtime::get()?;
    check_runnable(tasklet, "run")?;
    if world().state(tasklet.id()) == State::Parked {
        return Err(runtime_error("You cannot run a tasklet that waits for input, output or time"));
    }
    world::make_runnable(tasklet);
    if world().thread_of(tasklet.id()) == Some(runtime.thread()) {
        world().make_head(tasklet.id());
        runtime.switch()?;
    }
    Ok(Obj::none())
}

/// Raises `exception` in `tasklet`: now, or, if `pending`, when it next runs.
///
/// # Errors
/// The exception itself if the tasklet is the running one; what is thrown into the caller while others run.
pub(crate) fn throw(tasklet: &Tasklet, exception: Exc, pending: bool) -> PyResult<()> {
    let runtime = Runtime::get()?;
    if std::ptr::eq(runtime.me(), tasklet) && !pending {
        return Err(exception.restore());
    }
    if !tasklet.alive() && !is_main(tasklet) && !std::ptr::eq(runtime.me(), tasklet) {
        if exception.is(tasklet_exit()) {
            return Ok(());
        }
        return Err(runtime_error("You cannot throw to a dead tasklet"));
    }
    if world().thread_of(tasklet.id()).is_none() {
        if exception.is(tasklet_exit()) {
            tasklet.unbind();
            tasklet.set_phase(Phase::Unbound);
            return Ok(());
        }
        return Err(runtime_error("tasklet has no thread"));
    }
    let keep = tasklet.object();
    drop(tasklet.pending.replace(Some(exception)));
    world::make_runnable(tasklet);
    if !pending && world().thread_of(tasklet.id()) == Some(runtime.thread()) {
        world().make_head(tasklet.id());
        runtime.switch()?;
    }
    drop(keep);
    Ok(())
}

fn kill(args: Args) -> PyResult<Obj> {
    let [pending] = args.bind("kill", ["pending"], 0)?;
    let pending = given(pending).map_or(Ok(false), |value| value.truth())?;
    throw(of(args.slf()), Exc::instance(Obj::borrowed(tasklet_exit()))?, pending)?;
    Ok(Obj::none())
}

fn throw_method(args: Args) -> PyResult<Obj> {
    let [class, value, traceback, pending] = args.bind("throw", ["exc", "val", "tb", "pending"], 1)?;
    let pending = given(pending).map_or(Ok(false), |value| value.truth())?;
    let class = given(class).ok_or_else(|| type_error("exceptions must be classes, or instances, not NoneType"))?;
    let exception = match given(value) {
        None => Exc::instance(class)?,
        Some(value) => Exc::instance(class.call([&value])?)?,
    };
    if let Some(traceback) = given(traceback) {
        // SAFETY: an exception instance; the call checks the traceback's type.
        if unsafe { ffi::PyException_SetTraceback(exception.0.ptr(), traceback.ptr()) } != 0 {
            clear_error();
            return Err(type_error("third argument must be a traceback object"));
        }
    }
    throw(of(args.slf()), exception, pending)?;
    Ok(Obj::none())
}

fn raise_exception(args: Args) -> PyResult<Obj> {
    let Some(class) = args.get(0) else {
        return Err(type_error("raise_exception() takes at least 1 argument (0 given)"));
    };
    let (rest, _) = args.collect(1)?;
    // SAFETY: a callable, checked by the call, and a tuple.
    let exception = Obj::owned(unsafe { ffi::PyObject_CallObject(class, rest.ptr()) })?;
    throw(of(args.slf()), Exc::instance(exception)?, false)?;
    Ok(Obj::none())
}

// ---- attributes ------------------------------------------------------------------------------------------------------

fn is_main(tasklet: &Tasklet) -> bool {
    let world = world();
    world.thread_of(tasklet.id()).is_some_and(|thread| world.main(thread) == tasklet.id())
}

fn get_alive(slf: *mut PyObject) -> PyResult<Obj> {
    let tasklet = of(slf);
    let homeless = world().thread_of(tasklet.id()).is_none();
    Ok(Obj::bool(!homeless && (tasklet.alive() || (is_main(tasklet) && tasklet.phase() != Phase::Lost))))
}

fn get_blocked(slf: *mut PyObject) -> PyResult<Obj> {
    Ok(Obj::bool(matches!(world().state(of(slf).id()), State::Blocked(..) | State::Parked)))
}

fn get_scheduled(slf: *mut PyObject) -> PyResult<Obj> {
    Ok(Obj::bool(world().state(of(slf).id()) != State::Idle))
}

fn get_paused(slf: *mut PyObject) -> PyResult<Obj> {
    Ok(Obj::bool(of(slf).alive() && world().state(of(slf).id()) == State::Idle))
}

fn get_is_main(slf: *mut PyObject) -> PyResult<Obj> {
    Ok(Obj::bool(is_main(of(slf))))
}

fn get_is_current(slf: *mut PyObject) -> PyResult<Obj> {
    Ok(Obj::bool(runs(of(slf))))
}

fn runs(tasklet: &Tasklet) -> bool {
    let thread = world().thread_of(tasklet.id());
    thread.and_then(world::runtime_of).is_some_and(|runtime| std::ptr::eq(runtime.me(), tasklet))
}

fn get_frame(slf: *mut PyObject) -> PyResult<Obj> {
    let tasklet = of(slf);
    let Some(runtime) = Runtime::current() else { return Ok(Obj::none()) };
    // Bound first: the world must not be borrowed while the frame object is made.
    let own_thread = world().thread_of(tasklet.id()) == Some(runtime.thread());
    if !own_thread {
        return Ok(Obj::none());
    }
    if runs(tasklet) {
        // SAFETY: T2; a new reference or null.
        let frame = unsafe { ffi::PyThreadState_GetFrame(runtime.tstate()) };
        return Ok(Obj::owned_or_none(frame.cast()).unwrap_or_else(Obj::none));
    }
    if tasklet.phase() != Phase::Started && !is_main(tasklet) {
        return Ok(Obj::none());
    }
    // SAFETY: T2; the tasklet does not run and belongs to this thread.
    let frame = unsafe { tstate::parked_frame(runtime.tstate(), &*tasklet.saved()) };
    Ok(Obj::owned_or_none(frame).unwrap_or_else(Obj::none))
}

fn get_tempval(slf: *mut PyObject) -> PyResult<Obj> {
    if let Some(Ok(value)) = &*of(slf).outcome.borrow() {
        return Ok(value.clone());
    }
    match &*of(slf).carried.borrow() {
        Carried::Value(value) => Ok(value.clone()),
        Carried::Bomb(exception) => Ok(exception.0.clone()),
        Carried::Nothing => Ok(Obj::none()),
    }
}

fn set_tempval(slf: *mut PyObject, value: Obj) -> PyResult<()> {
    drop(of(slf).carried.replace(Carried::Value(value)));
    Ok(())
}

fn get_waits_for(slf: *mut PyObject) -> PyResult<Obj> {
    let state = world().state(of(slf).id());
    if !matches!(state, State::Blocked(..) | State::Parked) {
        return Ok(Obj::none());
    }
    Obj::str(&of(slf).why().to_string())
}

/// A line that names a tasklet to a person: its function, and where it stands.
pub(crate) fn describe(tasklet: &Tasklet) -> String {
    let mut text = repr_text(tasklet);
    if let Ok(frame) = get_frame(tasklet.ptr())
        && let (Ok(code), Ok(line)) = (frame.attr(c"f_code"), frame.attr(c"f_lineno"))
        && let (Ok(file), Ok(name)) = (code.attr(c"co_filename"), code.attr(c"co_name"))
    {
        text.push_str(&format!(" (in {}, {}:{})", name.to_text(), file.to_text(), line.to_text()));
    }
    clear_error();
    text
}

fn repr_text(tasklet: &Tasklet) -> String {
    let what = if is_main(tasklet) {
        "main".to_owned()
    } else {
        match (tasklet.phase(), runs(tasklet)) {
            (_, true) => "current",
            (Phase::Unbound, _) => "dead",
            (Phase::Bound, _) => "bound",
            (Phase::Ready, _) => "ready",
            (Phase::Started, _) => "started",
            (Phase::Lost, _) => "lost",
        }
        .to_owned()
    };
    format!("<lissom.tasklet {what} at {:p}>", tasklet.ptr())
}

unsafe extern "C" fn slot_repr(slf: *mut PyObject) -> *mut PyObject {
    boundary(|| Obj::str(&repr_text(of(slf))))
}

// ---- the type --------------------------------------------------------------------------------------------------------

/// Makes the type.
///
/// # Errors
/// `MemoryError`.
pub(crate) fn define() -> PyResult<Obj> {
    // A module that is imported again must not get another type: tasklets of the first may live.
    let known = TYPE.get().clone();
    if let Some(known) = known {
        return Ok(known);
    }
    let methods = table(
        vec![
            method!(
                c"bind",
                bind,
                c"bind($self, func=None, args=None, kwargs=None)\n--\n\n\
                Set the function, and with ``args`` or ``kwargs`` make the tasklet ready to run.\n\n\
                Never switches. ``func`` is a callable, or None to keep the one that is bound; ``args`` a\n\
                sequence, ``kwargs`` a dict. With nothing at all the tasklet is unbound.\n\n\
                Returns the tasklet. With arguments it is alive and paused: `insert` or `run` lets it go.\n\n\
                Raises TypeError for what is not callable; RuntimeError for the running tasklet, for one that is\n\
                queued, waits or has started, and for arguments without a function. The tasklet is then as\n\
                before. As in Stackless."
            ),
            method!(
                c"setup",
                setup,
                c"setup($self, *args, **kwargs)\n--\n\n\
                Set the arguments, and queue the tasklet at the end. The same as calling the tasklet.\n\n\
                Never switches. Returns the tasklet.\n\n\
                Raises RuntimeError if the tasklet is alive or has no function; it is then as before. As in\n\
                Stackless."
            ),
            method!(
                c"insert",
                insert,
                c"insert($self)\n--\n\n\
                Queue the tasklet at the end; one that is queued or waits for input, output or time stays where\n\
                it is.\n\n\
                Never switches. For a tasklet of another thread that thread is woken.\n\n\
                Returns the tasklet. Raises RuntimeError if it is blocked on a channel, not alive, or if its\n\
                thread has ended. As in Stackless."
            ),
            method!(
                c"remove",
                remove,
                c"remove($self)\n--\n\n\
                Take the tasklet out of the queue: it is paused, until `insert` or `run`.\n\n\
                Never switches. One that is in no queue is left as it is. The scheduler gives up its reference:\n\
                a started tasklet that nothing else refers to is killed.\n\n\
                Returns the tasklet. Raises RuntimeError for the running tasklet and for one that is blocked or\n\
                waits. As in Stackless."
            ),
            method!(
                c"run",
                run,
                c"run($self)\n--\n\n\
                Switch to the tasklet now; the caller stays in the queue.\n\n\
                Always switches, unless the tasklet is the running one or belongs to another thread; that one is\n\
                made runnable there. A queued tasklet keeps its place: those behind it run, too, before the\n\
                caller goes on.\n\n\
                Returns None. Raises RuntimeError if the tasklet is blocked on a channel, waits for input,\n\
                output or time, is not alive, or if its thread has ended; and what is thrown into the caller\n\
                meanwhile. As in Stackless."
            ),
            method!(
                c"kill",
                kill,
                c"kill($self, pending=False)\n--\n\n\
                Raise TaskletExit in the tasklet, wherever it waits, so that its ``finally`` blocks run and it\n\
                ends.\n\n\
                Switches to the tasklet at once, unless ``pending`` is true: then the exception is raised when\n\
                it next runs. Its wait is over either way: it has received nothing, and of a ``sendall`` a part\n\
                may have been sent. For a tasklet of another thread the call never switches.\n\n\
                Returns None, also for one that is not alive or whose thread has ended: nothing happens then.\n\
                For the running tasklet it raises TaskletExit; else only what is thrown into the caller\n\
                meanwhile.\n\n\
                The tasklet may catch TaskletExit and go on. One that has not run yet ends without having called\n\
                its function. As in Stackless, where TaskletExit is a subclass of SystemExit and in\n\
                ``builtins``, too."
            ),
            method!(
                c"throw",
                throw_method,
                c"throw($self, exc, val=None, tb=None, pending=False)\n--\n\n\
                Raise an exception in the tasklet, wherever it waits.\n\n\
                Switches to the tasklet at once, unless ``pending`` is true: then it is raised when it next\n\
                runs. For a tasklet of another thread the call never switches.\n\n\
                ``exc`` is an exception or a class of one, ``val`` the argument for a class, ``tb`` a traceback\n\
                to begin with.\n\n\
                Returns None. Raises TypeError for arguments of other types, RuntimeError if the tasklet is not\n\
                alive (TaskletExit: does nothing) or if its thread has ended; for the running tasklet the\n\
                exception itself, else only what is thrown into the caller meanwhile. An exception that was\n\
                pending is replaced.\n\n\
                As in Stackless."
            ),
            method!(
                c"raise_exception",
                raise_exception,
                c"raise_exception($self, exc_class, *args)\n--\n\n\
                Raise ``exc_class(*args)`` in the tasklet, wherever it waits.\n\n\
                Switches to the tasklet at once. Returns None. Raises what calling ``exc_class`` raises, and as\n\
                `throw` does. As in Stackless."
            ),
        ],
        ffi::PyMethodDef::zeroed(),
    );
    let attributes = table(
        vec![
            attribute!(
                c"alive",
                get_alive,
                c"Whether the tasklet can still run: it has arguments or has started, and has not ended. A bool."
            ),
            attribute!(
                c"blocked",
                get_blocked,
                c"Whether it waits on a channel, or for input, output, time, a lock, a thread. A bool. In\n\
                Stackless: on a channel."
            ),
            attribute!(
                c"scheduled",
                get_scheduled,
                c"Whether it is queued or waits. A bool, true for the running tasklet, as in Stackless."
            ),
            attribute!(c"paused", get_paused, c"Whether it is alive, but neither queued nor waiting. A bool."),
            attribute!(c"is_main", get_is_main, c"Whether it is the main tasklet of its thread. A bool."),
            attribute!(c"is_current", get_is_current, c"Whether it is the running tasklet of its thread. A bool."),
            attribute!(
                c"frame",
                get_frame,
                c"Its innermost Python frame, readable while it waits; None before it starts, after its end,\n\
                and on other threads."
            ),
            attribute!(
                c"tempval",
                get_tempval,
                set_tempval,
                c"What was last handed over: the function it was bound to, a channel's value, after the end\n\
                the result. May be set."
            ),
            attribute!(
                c"waits_for",
                get_waits_for,
                c"What it waits for, as a text for people (\"time\", \"the lock at 0x...\"), or None. Not in\n\
                Stackless."
            ),
        ],
        // SAFETY: the all-zero entry ends the table.
        unsafe { std::mem::zeroed() },
    );
    let members = table(
        vec![ffi::PyMemberDef {
            name: c"__weaklistoffset__".as_ptr(),
            type_code: ffi::Py_T_PYSSIZET,
            offset: std::mem::offset_of!(Tasklet, weakrefs) as isize,
            flags: ffi::Py_READONLY,
            doc: std::ptr::null(),
        }],
        // SAFETY: the all-zero entry ends the table.
        unsafe { std::mem::zeroed() },
    );
    let doc = c"tasklet(func=None, args=None, kwargs=None)\n--\n\n\
        A function that runs on a stack of its own, in turn with the other tasklets of its thread.\n\n\
        ``tasklet(func)`` is bound and has no arguments yet: call it, ``tasklet(func)(*args,\n\
        **kwargs)``, to queue it. With ``args`` or ``kwargs`` it is ready and paused, until `insert` or\n\
        `run`. `lissom.spawn` does all in one step.\n\n\
        A tasklet belongs to the thread that made it and never moves to another. It may be subclassed,\n\
        referred to weakly, and used again after its end. One that has started and that nothing refers\n\
        to any more is killed, so that its ``finally`` blocks run.\n\n\
        Raises as `bind` does. As ``stackless.tasklet``; pickling, ``switch``, ``bind_thread``,\n\
        ``atomic`` and ``block_trap`` are not there yet.";
    let slot = |slot: i32, pfunc: *mut std::ffi::c_void| ffi::PyType_Slot { slot, pfunc };
    let slots = vec![
        slot(ffi::Py_tp_new, slot_new as *mut _),
        slot(ffi::Py_tp_init, slot_init as *mut _),
        slot(ffi::Py_tp_call, slot_call as *mut _),
        slot(ffi::Py_tp_repr, slot_repr as *mut _),
        slot(ffi::Py_tp_traverse, slot_traverse as *mut _),
        slot(ffi::Py_tp_clear, slot_clear as *mut _),
        slot(ffi::Py_tp_finalize, slot_finalize as *mut _),
        slot(ffi::Py_tp_dealloc, slot_dealloc as *mut _),
        slot(ffi::Py_tp_methods, methods.cast()),
        slot(ffi::Py_tp_getset, attributes.cast()),
        slot(ffi::Py_tp_members, members.cast()),
        slot(ffi::Py_tp_doc, doc.as_ptr().cast_mut().cast()),
    ];
    let flags = ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_BASETYPE | ffi::Py_TPFLAGS_HAVE_GC;
    let kind = make_type(c"lissom.tasklet", size_of::<Tasklet>(), flags, slots)?;
    *TYPE.get() = Some(kind.clone());
    Ok(kind)
}
