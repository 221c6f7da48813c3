//! The Python type `atomic`: a `with` block that the watchdog of `run()` does not interrupt.

use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use crate::args::{Args, make_type, method, table};
use crate::object::{Obj, PyResult};
use crate::runtime::Runtime;
use crate::watchdog;

/// The object behind `atomic`; the allocator zeroes it.
#[repr(C)]
struct Atomic {
    ob_base: PyObject,
    before: std::cell::Cell<bool>,
}

fn of(slf: *mut PyObject) -> &'static Atomic {
    // SAFETY: the interpreter calls methods of the type with instances only; borrowed for the time of the call.
    unsafe { &*slf.cast::<Atomic>() }
}

fn enter(args: Args) -> PyResult<Obj> {
    args.none("__enter__")?;
    let me = Runtime::get()?.me();
    of(args.slf()).before.set(me.atomic.replace(true));
    Ok(Obj::none())
}

fn exit(args: Args) -> PyResult<Obj> {
    let runtime = Runtime::get()?;
    runtime.me().atomic.set(of(args.slf()).before.get());
    watchdog::catch_up(runtime, runtime.me());
    Ok(Obj::none())
}

/// Makes the type.
///
/// # Errors
/// `MemoryError`.
pub(crate) fn define() -> PyResult<Obj> {
    let methods = table(
        vec![
            method!(c"__enter__", enter, c"__enter__($self)\n--\n\nSet the flag. Never switches. Returns None."),
            method!(
                c"__exit__",
                exit,
                c"__exit__($self, *exc_info)\n--\n\nRestore the flag. A postponed interrupt comes now. Returns None."
            ),
        ],
        ffi::PyMethodDef::zeroed(),
    );
    let doc = c"atomic()\n--\n\n\
        A ``with`` block in which the running tasklet is not interrupted by the watchdog of `lissom.run`.\n\n\
        Sets the tasklet's flag ``atomic`` and restores it. An interrupt that came meanwhile is made up for\n\
        at the end of the block. Tasklets never lose the thread to each other without such a watchdog, and\n\
        the block keeps nobody from switching by a call. As in Stackless, except that other OS threads may\n\
        run meanwhile.";
    let slot = |slot: i32, pfunc: *mut std::ffi::c_void| ffi::PyType_Slot { slot, pfunc };
    let slots = vec![slot(ffi::Py_tp_methods, methods.cast()), slot(ffi::Py_tp_doc, doc.as_ptr().cast_mut().cast())];
    make_type(c"lissom.atomic", size_of::<Atomic>(), ffi::Py_TPFLAGS_DEFAULT, slots)
}
