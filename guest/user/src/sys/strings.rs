//! The byte routines that compiled code calls and that a C library would bring, and where unwinding would go on.
//!
//! Written in assembly because a loop in Rust may be compiled into a call of the routine that it implements.
#![expect(unsafe_code, reason = "assembly")]
// UNSAFETY: the routines keep the C library's contracts for the symbols they define; the direction flag is clear again when they
// return. Nothing unwinds: a panic ends the program where it happens, and the routines for that only trap.

core::arch::global_asm!(
    ".pushsection .text.strings, \"ax\"",
    // memcpy(to: rdi, from: rsi, bytes: rdx) -> to
    ".global memcpy",
    "memcpy:",
    "mov rax, rdi",
    "mov rcx, rdx",
    "rep movsb",
    "ret",
    // memmove(to: rdi, from: rsi, bytes: rdx) -> to; downwards where `to` lies inside the source.
    ".global memmove",
    "memmove:",
    "mov rax, rdi",
    "sub rax, rsi",
    "cmp rax, rdx",
    "jae memcpy",
    "mov rax, rdi",
    "mov rcx, rdx",
    "lea rdi, [rdi + rdx - 1]",
    "lea rsi, [rsi + rdx - 1]",
    "std",
    "rep movsb",
    "cld",
    "ret",
    // memset(to: rdi, byte: esi, bytes: rdx) -> to
    ".global memset",
    "memset:",
    "mov r8, rdi",
    "mov eax, esi",
    "mov rcx, rdx",
    "rep stosb",
    "mov rax, r8",
    "ret",
    // memcmp(a: rdi, b: rsi, bytes: rdx) -> the first difference
    ".global memcmp",
    ".global bcmp",
    "memcmp:",
    "bcmp:",
    "xor eax, eax",
    "mov rcx, rdx",
    "cmp rcx, rcx",
    "repe cmpsb",
    "je 2f",
    "movzx eax, byte ptr [rdi - 1]",
    "movzx ecx, byte ptr [rsi - 1]",
    "sub eax, ecx",
    "2: ret",
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
    unsafe { core::arch::asm!("/* {} */", sym memcpy, options(nomem, nostack, preserves_flags)) }
}
