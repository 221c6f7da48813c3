/* Prints, as Rust constants, where the fields of the thread state lie in the interpreter whose headers are used.
 * A field that this version does not have is not printed; src/tstate/ names it only under the same condition. */
#include <Python.h>
#include <stddef.h>
#include <stdio.h>
#if PY_VERSION_HEX >= 0x030d0000
#include "internal/pycore_tstate.h"
#endif
#if PY_VERSION_HEX >= 0x030e0000
#include "internal/pycore_pythonrun.h"
#include "internal/pycore_interpframe.h"
#else
#include "internal/pycore_frame.h"
#include <opcode.h>
#endif

#ifdef Py_GIL_DISABLED
#error "free-threaded builds of CPython are not supported"
#endif

#define FIELD(name) FIELD_AS(name, name)
#define FIELD_AS(rust, field) printf("pub(super) const %s: usize = %zu;\n", #rust, offsetof(PyThreadState, field));
#define IMPL(name) printf("pub(super) const %s: usize = %zu;\n", #name, offsetof(_PyThreadStateImpl, name));

#if PY_VERSION_HEX < 0x030e0000
/* How each opcode moves on. */
enum { FORWARD = 1, BACK = 2, ENDS = 4 };
static const unsigned char flow[256] = {
    [FOR_ITER] = FORWARD, [SEND] = FORWARD, [JUMP_FORWARD] = FORWARD | ENDS,
    [JUMP_BACKWARD] = BACK | ENDS, [JUMP_BACKWARD_NO_INTERRUPT] = BACK | ENDS,
    [RETURN_VALUE] = ENDS, [RAISE_VARARGS] = ENDS, [RERAISE] = ENDS,
#if PY_VERSION_HEX < 0x030c0000
    [POP_JUMP_FORWARD_IF_FALSE] = FORWARD, [POP_JUMP_FORWARD_IF_TRUE] = FORWARD,
    [POP_JUMP_FORWARD_IF_NONE] = FORWARD, [POP_JUMP_FORWARD_IF_NOT_NONE] = FORWARD,
    [POP_JUMP_BACKWARD_IF_FALSE] = BACK, [POP_JUMP_BACKWARD_IF_TRUE] = BACK,
    [POP_JUMP_BACKWARD_IF_NONE] = BACK, [POP_JUMP_BACKWARD_IF_NOT_NONE] = BACK,
    [JUMP_IF_FALSE_OR_POP] = FORWARD, [JUMP_IF_TRUE_OR_POP] = FORWARD,
#else
    [POP_JUMP_IF_FALSE] = FORWARD, [POP_JUMP_IF_TRUE] = FORWARD,
    [POP_JUMP_IF_NONE] = FORWARD, [POP_JUMP_IF_NOT_NONE] = FORWARD,
    [RETURN_CONST] = ENDS, [INTERPRETER_EXIT] = ENDS,
#endif
};

static void print_opcodes(void)
{
    printf("pub(super) const FOR_ITER: u8 = %d;\n", FOR_ITER);
    printf("pub(super) const EXTENDED_ARG: u8 = %d;\n", EXTENDED_ARG);
    printf("pub(super) const CACHE: u8 = %d;\n", CACHE);
    printf("pub(super) const RETURN_GENERATOR: u8 = %d;\n", RETURN_GENERATOR);
#ifdef STORE_FAST__STORE_FAST
    printf("pub(super) const TWO_STORES: Option<u8> = Some(%d);\n", STORE_FAST__STORE_FAST);
#else
    printf("pub(super) const TWO_STORES: Option<u8> = None;\n");
#endif
    printf("pub(super) static FLOW: [u8; 256] = [");
    for (int opcode = 0; opcode < 256; opcode++) {
        printf("%d, ", flow[opcode]);
    }
    printf("];\n");
}
#endif

int main(void)
{
    printf("pub(super) const HEADER_VERSION: u32 = %uu32;\n", (unsigned)PY_VERSION_HEX);
    FIELD(interp)
    FIELD(tracing)
    FIELD(c_profilefunc)
    FIELD(c_tracefunc)
    FIELD(c_profileobj)
    FIELD(c_traceobj)
    FIELD(exc_info)
    FIELD(exc_state)
    FIELD(dict)
    FIELD(thread_id)
    FIELD(coroutine_origin_tracking_depth)
    FIELD(async_gen_firstiter)
    FIELD(async_gen_finalizer)
    FIELD(context)
    FIELD(context_ver)
    FIELD(id)
    FIELD(datastack_chunk)
    FIELD(datastack_top)
    FIELD(datastack_limit)
#if PY_VERSION_HEX < 0x030c0000
    FIELD_AS(py_recursion_remaining, recursion_remaining)
    FIELD_AS(py_recursion_limit, recursion_limit)
    FIELD_AS(what_event, tracing_what)
    FIELD_AS(trash_nesting, trash_delete_nesting)
    FIELD_AS(delete_later, trash_delete_later)
#else
    FIELD(py_recursion_remaining)
    FIELD(py_recursion_limit)
    FIELD(what_event)
#endif
#if PY_VERSION_HEX < 0x030d0000
    FIELD(cframe)
    printf("pub(super) const CFRAME_SIZE: usize = %zu;\n", sizeof(_PyCFrame));
    printf("pub(super) const CFRAME_FRAME: usize = %zu;\n", offsetof(_PyCFrame, current_frame));
#else
    FIELD(current_frame)
    FIELD(threading_local_key)
    FIELD(threading_local_sentinel)
    IMPL(asyncio_running_loop)
#endif
#if PY_VERSION_HEX >= 0x030c0000 && PY_VERSION_HEX < 0x030d0000
    FIELD_AS(trash_nesting, trash.delete_nesting)
    FIELD_AS(delete_later, trash.delete_later)
#endif
#if PY_VERSION_HEX >= 0x030d0000
    FIELD(delete_later)
#endif
#if PY_VERSION_HEX >= 0x030c0000 && PY_VERSION_HEX < 0x030e0000
    FIELD(c_recursion_remaining)
    printf("pub(super) const C_RECURSION_LIMIT: i32 = %d;\n",
#ifdef Py_C_RECURSION_LIMIT
           Py_C_RECURSION_LIMIT
#else
           C_RECURSION_LIMIT
#endif
    );
#endif
#if PY_VERSION_HEX >= 0x030e0000
    FIELD(current_executor)
    IMPL(c_stack_top)
    IMPL(c_stack_soft_limit)
    IMPL(c_stack_hard_limit)
    IMPL(asyncio_running_task)
    printf("pub(super) const STACK_MARGIN: usize = %zu;\n", (size_t)_PyOS_STACK_MARGIN_BYTES);
#endif
    /* Frames that an evaluation loop has put on the stack to be returned to, or that were entered from C. */
    printf("pub(super) const FRAME_PREVIOUS: usize = %zu;\n", offsetof(_PyInterpreterFrame, previous));
#if PY_VERSION_HEX < 0x030c0000
    printf("pub(super) const CFRAME_USE_TRACING: usize = %zu;\n", offsetof(_PyCFrame, use_tracing));
    printf("pub(super) const FRAME_ENTRY: usize = %zu;\n", offsetof(_PyInterpreterFrame, is_entry));
    printf("pub(super) const ENTRY: u8 = 1;\n");
#else
    printf("pub(super) const FRAME_ENTRY: usize = %zu;\n", offsetof(_PyInterpreterFrame, owner));
#if PY_VERSION_HEX < 0x030e0000
    printf("pub(super) const ENTRY: u8 = %d;\n", (int)FRAME_OWNED_BY_CSTACK);
#else
    printf("pub(super) const ENTRY: u8 = %d;\n", (int)FRAME_OWNED_BY_INTERPRETER);
#endif
#endif
#define FRAME(rust, field) printf("pub(super) const FRAME_%s: usize = %zu;\n", #rust, offsetof(_PyInterpreterFrame, field));
    FRAME(OWNER, owner)
    FRAME(LOCALS, f_locals)
    FRAME(OBJECT, frame_obj)
    FRAME(SLOTS, localsplus)
#if PY_VERSION_HEX < 0x030c0000
    FRAME(FUNC, f_func)
#else
    FRAME(FUNC, f_funcobj)
#endif
#if PY_VERSION_HEX < 0x030d0000
    FRAME(CODE, f_code)
#else
    FRAME(CODE, f_executable)
#endif
#if PY_VERSION_HEX < 0x030e0000
    FRAME(STACK_TOP, stacktop)
#if PY_VERSION_HEX < 0x030d0000
    FRAME(INSTRUCTION, prev_instr)
#else
    FRAME(INSTRUCTION, instr_ptr)
#endif
    printf("pub(super) const CODE_UNITS: usize = %zu;\n", offsetof(PyCodeObject, co_code_adaptive));
    printf("pub(super) const CODE_HANDLERS: usize = %zu;\n", offsetof(PyCodeObject, co_exceptiontable));
    print_opcodes();
#else
    FRAME(STACK_POINTER, stackpointer)
    printf("pub(super) const STACK_REF_TAGS: usize = %d;\n", (int)Py_TAG_BITS);
#endif
    printf("pub(super) const FRAME_OWNED_BY_GENERATOR: u8 = %d;\n", (int)FRAME_OWNED_BY_GENERATOR);
    printf("pub(super) const FRAME_OWNED_BY_THREAD: u8 = %d;\n", (int)FRAME_OWNED_BY_THREAD);
    printf("pub(super) const CODE_NLOCALSPLUS: usize = %zu;\n", offsetof(PyCodeObject, co_nlocalsplus));
    printf("pub(super) const CODE_STACKSIZE: usize = %zu;\n", offsetof(PyCodeObject, co_stacksize));
    printf("pub(super) const CHUNK_HEADER: usize = %zu;\n", offsetof(_PyStackChunk, data));
    return 0;
}
