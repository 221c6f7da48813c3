//! The extension module `lissom._core`: tasklets and channels as Python objects, the loop of a thread, and the hooks.
//!
//! ```text
//!   functions  tasklet_type  channel          what Python calls
//!   hooks/*                                    what stands behind the standard library's functions
//!        └──────────┬───────────┘
//!   runtime  body  lifecycle  signals  deadlock  jobs      the loop of a thread and its edges
//!        └──────────┬───────────┘
//!   world  tasklet        shared data        tstate        the interpreter's internals: that file alone
//!   object  args                             the C API, thinly wrapped
//! ```
//!
//! Everything here runs with the GIL held unless it says otherwise (object.rs, I1).

#[cfg(Py_GIL_DISABLED)]
compile_error!("free-threaded builds of CPython are not supported");
#[cfg(not(Py_3_11))]
compile_error!("lissom needs CPython 3.11 or newer");

mod args;
mod atomic;
mod body;
mod bomb;
mod callbacks;
mod channel;
mod deadlock;
mod functions;
mod hooks;
mod jobs;
mod lifecycle;
mod lock;
mod monitor;
mod object;
mod primitives;
mod runtime;
mod select;
mod settings;
mod signals;
mod stackless;
mod tasklet;
mod tasklet_type;
mod tstate;
mod waiters;
mod watchdog;
mod world;

use object::{Obj, PyResult, raise};
use pyo3_ffi as ffi;

/// Describes the module; called by the import system.
#[allow(non_snake_case, missing_docs)]
#[unsafe(no_mangle)]
pub extern "C" fn PyInit__core() -> *mut ffi::PyObject {
    let slots = vec![
        ffi::PyModuleDef_Slot { slot: ffi::Py_mod_exec, value: execute as *mut _ },
        #[cfg(Py_3_12)]
        ffi::PyModuleDef_Slot {
            slot: ffi::Py_mod_multiple_interpreters,
            value: ffi::Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED,
        },
    ];
    let definition = Box::leak(Box::new(ffi::PyModuleDef {
        m_base: ffi::PyModuleDef_HEAD_INIT,
        m_name: c"lissom._core".as_ptr(),
        m_doc: c"The native part of lissom.".as_ptr(),
        m_size: 0,
        m_methods: functions::methods(),
        m_slots: args::table(slots, ffi::PyModuleDef_Slot { slot: 0, value: std::ptr::null_mut() }),
        m_traverse: None,
        m_clear: None,
        m_free: None,
    }));
    // SAFETY: a complete definition that lives for ever.
    unsafe { ffi::PyModuleDef_Init(definition) }
}

unsafe extern "C" fn execute(module: *mut ffi::PyObject) -> std::ffi::c_int {
    object::status_boundary(|| init(&Obj::borrowed(module)))
}

fn init(module: &Obj) -> PyResult<()> {
    let supported = if hooks::call::in_main_interpreter() {
        tstate::self_check().and_then(|()| settings::load())
    } else {
        Err("lissom works in the main interpreter only, and this is a sub-interpreter".to_owned())
    };
    supported.map_err(|sentence| {
        // SAFETY: the interpreter keeps its exception classes for ever.
        raise(unsafe { ffi::PyExc_ImportError }, &sentence)
    })?;
    module.set_attr(c"TaskletExit", &body::define_tasklet_exit()?)?;
    module.set_attr(c"tasklet", &tasklet_type::define()?)?;
    module.set_attr(c"channel", &channel::define()?)?;
    module.set_attr(c"bomb", &bomb::define()?)?;
    module.set_attr(c"Lock", &lock::define()?)?;
    module.set_attr(c"atomic", &atomic::define()?)?;
    hooks::install_lasting()?;
    lifecycle::register(module)
}
