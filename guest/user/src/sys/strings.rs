//! The byte routines that compiled code calls and that a C library would bring, and where unwinding would go on.
#![expect(unsafe_code, reason = "assembly")]
// UNSAFETY: the routines keep the C library's contracts for the symbols they define; the direction flag is clear again when they
// return. Nothing unwinds: a panic ends the program where it happens, and the routines for that only trap.

wirevm_strings::routines!("");

core::arch::global_asm!(
    ".pushsection .text.strings, \"ax\"",
    ".weak _Unwind_Resume",
    ".weak rust_eh_personality",
    "_Unwind_Resume:",
    "rust_eh_personality:",
    "ud2",
    ".popsection",
);

/// Refers to the routines, so that a linker which takes archives' members one after the other has taken this one in before the
/// standard library's ask for it.
#[inline(always)]
pub(super) fn keep() {
    unsafe extern "C" {
        fn memcpy(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8;
    }
    // SAFETY: the address goes nowhere; no memory is touched.
    unsafe {
        core::arch::asm!("lea {}, [rip + {}]", out(reg) _, sym memcpy, options(nomem, nostack, preserves_flags));
    }
}
