//! The Python type `lissom.tasklet`.

mod attributes;
mod binding;
mod context;
mod garbage;
mod methods;
mod pickling;
mod throwing;

use std::ptr::null_mut;

use lissom_sched::TaskletId;
use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

pub(crate) use self::attributes::describe;
pub(crate) use self::context::{context_of, set_tracer};
pub(crate) use self::throwing::{made_of, throw};
use crate::args::{make_type, table};
use crate::hooks;
use crate::object::{Obj, PyResult, Raised, boundary, status_boundary, type_error};
use crate::runtime::Runtime;
use crate::tasklet::{Phase, Tasklet};
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
pub(super) fn of(slf: *mut PyObject) -> &'static Tasklet {
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

/// A new tasklet of `kind`, unbound, without a context.
pub(crate) fn new(runtime: &Runtime, kind: *mut ffi::PyTypeObject) -> PyResult<Obj> {
    let id = world().add_tasklet(runtime.thread());
    let object = match allocate(kind, id, Saved::running()) {
        Ok(object) => object,
        Err(Raised) => {
            world().remove_tasklet(id);
            return Err(Raised);
        }
    };
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
    share_context(runtime, tasklet)?;
    // A fresh tasklet: there is nothing to drop.
    tasklet.func.replace(Some(func));
    tasklet.args.replace(Some(args));
    tasklet.kwargs.replace(kwargs);
    tasklet.spawned.set(true);
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
    let (methods, attributes) = (methods::table(), attributes::table());
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
        What leaves the function as an exception is raised where `lissom.run` was called last, or in the\n\
        main tasklet, unless a handler is set with ``stackless.set_error_handler``.\n\n\
        Raises as `bind` does. As ``stackless.tasklet``; one that has started cannot be pickled.";
    let slot = |slot: i32, pfunc: *mut std::ffi::c_void| ffi::PyType_Slot { slot, pfunc };
    let slots = vec![
        slot(ffi::Py_tp_new, slot_new as *mut _),
        slot(ffi::Py_tp_init, slot_init as *mut _),
        slot(ffi::Py_tp_call, binding::slot_call as *mut _),
        slot(ffi::Py_tp_repr, attributes::slot_repr as *mut _),
        slot(ffi::Py_tp_traverse, garbage::slot_traverse as *mut _),
        slot(ffi::Py_tp_clear, garbage::slot_clear as *mut _),
        slot(ffi::Py_tp_finalize, garbage::slot_finalize as *mut _),
        slot(ffi::Py_tp_dealloc, garbage::slot_dealloc as *mut _),
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
