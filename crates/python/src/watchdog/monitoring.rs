//! Counting instructions through `sys.monitoring` (PEP 669, CPython 3.12 and newer).

use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use crate::object::{Obj, PyResult, Raised, clear_error, runtime_error};
use crate::runtime::Runtime;
use crate::world::GilCell;

/// The tool that is registered with `sys.monitoring`, while one is.
static TOOL: GilCell<Option<i64>> = GilCell::new(None);

/// The code that is counted by itself, because it was being executed by a parked tasklet when the count began.
static CODES: GilCell<Vec<Obj>> = GilCell::new(Vec::new());

/// Which count this is: a tasklet's frames are looked at once in each.
static EPOCH: GilCell<u32> = GilCell::new(0);

/// The ids without a fixed meaning come first, the interpreter's own suggestions for others last.
const TOOLS: [i64; 5] = [4, 3, 2, 1, 0];

fn monitoring() -> PyResult<Obj> {
    Obj::import(c"sys")?.attr(c"monitoring")
}

unsafe extern "C" fn on_instruction(_: *mut PyObject, _: *mut *mut PyObject, _: ffi::Py_ssize_t) -> *mut PyObject {
    match super::count() {
        Ok(()) => Obj::none().into_ptr(),
        Err(Raised) => std::ptr::null_mut(),
    }
}

fn callback() -> PyResult<Obj> {
    static DEFINITION: GilCell<Option<usize>> = GilCell::new(None);
    let definition = *DEFINITION.get().get_or_insert_with(|| {
        let definition = ffi::PyMethodDef {
            ml_name: c"_on_instruction".as_ptr(),
            ml_meth: ffi::PyMethodDefPointer { PyCFunctionFast: on_instruction },
            ml_flags: ffi::METH_FASTCALL,
            ml_doc: std::ptr::null(),
        };
        Box::leak(Box::new(definition)) as *mut ffi::PyMethodDef as usize
    });
    // SAFETY: a definition that lives for ever.
    Obj::owned(unsafe { ffi::PyCFunction_NewEx(definition as *mut _, std::ptr::null_mut(), std::ptr::null_mut()) })
}

/// Has the interpreter call [`super::count`] before each instruction.
///
/// # Errors
/// `RuntimeError` if every tool id is taken.
pub(super) fn switch_on() -> PyResult<()> {
    *EPOCH.get() += 1;
    let monitoring = monitoring()?;
    let name = Obj::str("lissom.run")?;
    let tool = TOOLS.into_iter().find_map(|tool| {
        let taken = Obj::int(tool).and_then(|id| monitoring.attr(c"use_tool_id")?.call([&id, &name]));
        taken.map(|_| tool).map_err(|Raised| clear_error()).ok()
    });
    let Some(tool) = tool else {
        return Err(runtime_error(
            "run() with a timeout needs a tool id of sys.monitoring, and all are taken by debuggers, profilers or the like",
        ));
    };
    *TOOL.get() = Some(tool);
    let result = watch_instructions(&monitoring, tool);
    if result.is_err() {
        let raised = crate::object::Exc::take();
        switch_off();
        return Err(raised.restore());
    }
    Ok(())
}

fn watch_instructions(monitoring: &Obj, tool: i64) -> PyResult<()> {
    let event = monitoring.attr(c"events")?.attr(c"INSTRUCTION")?;
    let tool = Obj::int(tool)?;
    monitoring.attr(c"register_callback")?.call([&tool, &event, &callback()?])?;
    monitoring.attr(c"set_events")?.call([&tool, &event]).map(drop)
}

/// Ends that.
pub(super) fn switch_off() {
    let Some(tool) = TOOL.get().take() else { return };
    let result = monitoring().and_then(|monitoring| {
        let tool = Obj::int(tool)?;
        let event = monitoring.attr(c"events")?.attr(c"INSTRUCTION")?;
        let codes = std::mem::take(&mut *CODES.get());
        for code in codes {
            monitoring.attr(c"set_local_events")?.call([&tool, &code, &Obj::int(0)?])?;
        }
        monitoring.attr(c"set_events")?.call([&tool, &Obj::int(0)?])?;
        monitoring.attr(c"register_callback")?.call([&tool, &event, &Obj::none()])?;
        monitoring.attr(c"free_tool_id")?.call([&tool]).map(drop)
    });
    if result.is_err() {
        crate::object::write_unraisable(None);
    }
}

/// Has the code of the running tasklet counted, which goes on in the middle of its functions.
///
/// When the events are switched on, the interpreter rewrites the code that is being executed; it finds it by the frames of
/// its threads, so not that of parked tasklets. All other code is rewritten when it is next called.
pub(crate) fn attach() {
    let Some(runtime) = Runtime::current() else { return };
    let epoch = *EPOCH.get();
    if !runtime.watch().active.get() || runtime.me().counted.replace(epoch) == epoch {
        return;
    }
    if count_frames_of(runtime).is_err() {
        crate::object::write_unraisable(None);
    }
}

fn count_frames_of(runtime: &Runtime) -> PyResult<()> {
    let tool = *TOOL.get();
    let Some(tool) = tool else { return Ok(()) };
    let monitoring = monitoring()?;
    let event = monitoring.attr(c"events")?.attr(c"INSTRUCTION")?;
    // SAFETY: T2: the runtime is that of the calling thread; a new reference or null.
    let mut frame = Obj::owned_or_none(unsafe { ffi::PyThreadState_GetFrame(runtime.tstate()) }.cast());
    while let Some(inner) = frame {
        let code = inner.attr(c"f_code")?;
        let known = CODES.get().iter().any(|known| known.ptr() == code.ptr());
        if !known {
            monitoring.attr(c"set_local_events")?.call([&Obj::int(tool)?, &code, &event])?;
            CODES.get().push(code);
        }
        // SAFETY: a frame; a new reference or null.
        frame = Obj::owned_or_none(unsafe { ffi::PyFrame_GetBack(inner.ptr().cast()) }.cast());
    }
    Ok(())
}
