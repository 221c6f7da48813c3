//! What memcheck has to be told about memory that changes hands.
//!
//! When frames on a stack return, memcheck takes the memory below the stack
//! pointer for dead. The next user of the stack starts at its top again, from
//! another stack, which memcheck cannot know. Registering stacks is done with
//! corosensei's own type; this request is missing there.
//!
//! The instruction sequences are those of `valgrind.h` ("client requests"):
//! outside valgrind they do nothing and cost a few cycles.

/// `VG_USERREQ__MAKE_MEM_DEFINED` of `memcheck.h`: tool base 'M','C', plus 2.
const MAKE_MEM_DEFINED: usize = 0x4d43_0002;

/// Tells memcheck that `len` bytes at `start` may be read and written.
#[inline]
pub(crate) fn make_defined(start: *mut u8, len: usize) {
    let request: [usize; 6] = [MAKE_MEM_DEFINED, start.addr(), len, 0, 0, 0];
    #[cfg(target_arch = "x86_64")]
    // SAFETY: `valgrind.h`, amd64-linux: rotates of rdi by 128 bits in all and
    // an exchange of rbx with itself change nothing; rdx is the result.
    unsafe {
        std::arch::asm!(
            "rol rdi, 3",
            "rol rdi, 13",
            "rol rdi, 61",
            "rol rdi, 51",
            "xchg rbx, rbx",
            inout("rdx") 0_usize => _,
            in("rax") request.as_ptr(),
            options(nostack),
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: `valgrind.h`, arm64-linux: rotates of x12 by 128 bits in all and
    // an or of x10 with itself change nothing; x3 is the result.
    unsafe {
        std::arch::asm!(
            "ror x12, x12, #3",
            "ror x12, x12, #13",
            "ror x12, x12, #51",
            "ror x12, x12, #61",
            "orr x10, x10, x10",
            inout("x3") 0_usize => _,
            in("x4") request.as_ptr(),
            options(nostack),
        );
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = request;
}
