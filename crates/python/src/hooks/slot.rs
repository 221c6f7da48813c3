//! Where a hook goes: behind an existing C function or method object.
//!
//! The interpreter calls a built-in function through the pointer in its `PyMethodDef`, at every call, also when the call
//! has been specialised. Exchanging that pointer hooks the function for everybody who ever got hold of it, and keeps the
//! object itself, its type and its flags.

use std::cell::Cell;
use std::ffi::{CStr, c_int, c_void};
use std::ptr::null_mut;

use pyo3_ffi as ffi;

use super::call::Entries;
use crate::object::{Obj, PyResult, Raised, clear_error, runtime_error};

/// Who has the function.
#[derive(Clone, Copy)]
pub(crate) enum Owner {
    /// A module.
    Module(&'static CStr),
    /// A type, named by an attribute of a module.
    Type(&'static CStr, &'static CStr),
    /// A type that is only reached through an instance: the result of calling an attribute of a module.
    TypeOf(&'static CStr, &'static CStr),
}

impl Owner {
    /// The module or type itself.
    ///
    /// # Errors
    /// `ImportError`, `AttributeError`: this interpreter has no such thing.
    pub(crate) fn object(self) -> PyResult<Obj> {
        match self {
            Owner::Module(module) => Obj::import(module),
            Owner::Type(module, name) => Obj::import(module)?.attr(name),
            Owner::TypeOf(module, name) => {
                let instance = Obj::import(module)?.attr(name)?.call([])?;
                // SAFETY: a valid object has a type.
                Ok(Obj::borrowed(unsafe { ffi::Py_TYPE(instance.ptr()) }.cast()))
            }
        }
    }
}

/// The place of one hook: where the pointer lies, and what it was.
pub(crate) struct Slot {
    definition: Cell<*mut ffi::PyMethodDef>,
    original: Cell<*mut c_void>,
    flags: Cell<c_int>,
    observer: Cell<Option<fn(*mut ffi::PyObject)>>,
    change: Cell<Option<fn(*mut ffi::PyObject)>>,
    notice: Cell<Option<Notice>>,
    cost: Cell<u32>,
}

/// Who is told of a call before it happens: with the object, and the first argument or null.
pub(crate) type Notice = fn(*mut ffi::PyObject, *mut ffi::PyObject);

// SAFETY: only the holder of the GIL touches it.
unsafe impl Sync for Slot {}

impl Slot {
    pub(crate) const fn new() -> Slot {
        Slot {
            definition: Cell::new(null_mut()),
            original: Cell::new(null_mut()),
            flags: Cell::new(0),
            observer: Cell::new(None),
            change: Cell::new(None),
            notice: Cell::new(None),
            cost: Cell::new(0),
        }
    }

    /// The function that stood here before the hook.
    #[inline]
    pub(crate) fn original(&self) -> *mut c_void {
        self.original.get()
    }

    /// What a call counts towards the turn of a tasklet whose calls never wait.
    #[inline]
    pub(crate) fn cost(&self) -> u32 {
        self.cost.get()
    }

    /// Before the original is called on a thread without a scheduler: tells those who asked to know.
    pub(crate) fn about_to_call(&self, slf: *mut ffi::PyObject, first: *mut ffi::PyObject) {
        if let Some(notice) = self.notice.get() {
            notice(slf, first);
        }
    }

    /// After the original was called on a thread without a scheduler: tells those who asked to know.
    pub(crate) fn called(&self, slf: *mut ffi::PyObject, result: *mut ffi::PyObject) {
        if result.is_null() {
            return;
        }
        if let Some(observer) = self.observer.get() {
            observer(result);
        }
        if let Some(change) = self.change.get() {
            change(slf);
        }
    }

    /// How it is called.
    #[inline]
    pub(crate) fn flags(&self) -> c_int {
        self.flags.get()
    }
}

/// A row of the table of hooks.
pub(crate) struct Hook {
    pub(crate) owner: Owner,
    pub(crate) name: &'static CStr,
    pub(crate) slot: &'static Slot,
    pub(crate) entries: Entries,
}

impl Hook {
    /// Has results on threads without a scheduler shown to `observer`.
    pub(crate) fn observed_by(self, observer: fn(*mut ffi::PyObject)) -> Hook {
        self.slot.observer.set(Some(observer));
        self
    }

    /// Has `change` called with the object after calls on threads without a scheduler: tasklets may wait for it.
    pub(crate) fn changes(self, change: fn(*mut ffi::PyObject)) -> Hook {
        self.slot.change.set(Some(change));
        self
    }

    /// Has calls count towards the tasklet's turn: when it is used up, others run before the call.
    pub(crate) fn costs(self, cost: u32) -> Hook {
        self.slot.cost.set(cost);
        self
    }

    /// Has `notice` called before calls on threads without a scheduler.
    pub(crate) fn noticed_by(self, notice: Notice) -> Hook {
        self.slot.notice.set(Some(notice));
        self
    }

    /// Whether tasklets wait for each other with it: locks and queues.
    pub(crate) fn joins_tasklets(&self) -> bool {
        matches!(self.owner, Owner::Type(module, _) if module == c"_thread" || module == c"_queue")
    }

    /// Puts the hook in place. A function that this interpreter does not have is left out.
    ///
    /// # Errors
    /// `RuntimeError` if the function is called in a way that no entry fits.
    pub(crate) fn install(&self) -> PyResult<()> {
        if !self.slot.definition.get().is_null() {
            return Ok(());
        }
        let Some(definition) = self.find() else { return Ok(()) };
        // SAFETY: the definition lives as long as its module or type, which the interpreter keeps.
        let flags = unsafe { (*definition).ml_flags };
        let entry = self.entries.fitting(flags);
        if entry.is_null() {
            let name = self.name.to_string_lossy();
            return Err(runtime_error(&format!(
                "cannot hook {name}: its calling convention ({flags:#x}) is not known"
            )));
        }
        // SAFETY: as above; the pointer has the size of a function pointer.
        let place = unsafe { std::ptr::addr_of_mut!((*definition).ml_meth) }.cast::<*mut c_void>();
        // SAFETY: definitions lie in writable data; the flags say that the entry has the right signature.
        unsafe {
            self.slot.original.set(*place);
            self.slot.flags.set(flags);
            *place = entry;
        }
        self.slot.definition.set(definition);
        Ok(())
    }

    /// Puts the original back. Calls that are under way still find it in the slot.
    pub(crate) fn remove(&self) {
        let definition = self.slot.definition.replace(null_mut());
        if !definition.is_null() {
            // SAFETY: as in `install`.
            unsafe { *std::ptr::addr_of_mut!((*definition).ml_meth).cast::<*mut c_void>() = self.slot.original.get() };
        }
    }

    /// The method definition behind the function object, if there is one of that name.
    fn find(&self) -> Option<*mut ffi::PyMethodDef> {
        let function = self.owner.object().and_then(|owner| match self.owner {
            Owner::Module(_) => owner.attr(self.name),
            _ => {
                let name = Obj::str(&self.name.to_string_lossy())?;
                let namespace = owner.attr(c"__dict__")?;
                // SAFETY: valid references.
                Obj::owned(unsafe { ffi::PyObject_GetItem(namespace.ptr(), name.ptr()) })
            }
        });
        let function = match function {
            Ok(function) => function,
            Err(Raised) => {
                clear_error();
                return None;
            }
        };
        // SAFETY: the casts follow the checked type.
        unsafe {
            if ffi::PyCFunction_Check(function.ptr()) != 0 {
                Some((*function.ptr().cast::<ffi::PyCFunctionObject>()).m_ml)
            } else if ffi::Py_TYPE(function.ptr()) == &raw mut ffi::PyMethodDescr_Type {
                Some((*function.ptr().cast::<ffi::PyMethodDescrObject>()).d_method)
            } else {
                None
            }
        }
    }
}
