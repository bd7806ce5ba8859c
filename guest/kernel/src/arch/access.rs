//! Guarded access to task memory: a page fault inside these routines is an answer, not a trap.
//!
//! The routines run at ring 0 on the task's own mappings, so protections, accessed and dirty bits are the
//! hardware's. They must be short of instructions: one `rep` string each, or one load.
#![expect(unsafe_code, reason = "copies between kernel memory and addresses that may not be mapped")]
// UNSAFETY: the routines touch, besides task memory, only the kernel buffer they are given.

use core::arch::global_asm;

/// A task address could not be accessed: not mapped, or not with this right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccessFault;

#[repr(C)]
struct Outcome {
    /// Bytes that were not reached, or what was loaded.
    value: u64,
    /// 0 done, 1 stopped by a fault, 2 stopped by a difference.
    stopped: u64,
}

global_asm!(
    ".pushsection .text.access, \"ax\"",
    "access_start:",
    // guarded_copy(to: rdi, from: rsi, bytes: rdx)
    "guarded_copy:",
    "mov rcx, rdx",
    "shr rcx, 3",
    "rep movsq",
    "mov ecx, edx",
    "and ecx, 7",
    "rep movsb",
    "xor eax, eax",
    "xor edx, edx",
    "ret",
    // guarded_load(from: rdi)
    "guarded_load:",
    "movzx eax, word ptr [rdi]",
    "xor edx, edx",
    "ret",
    // guarded_compare(task: rdi, kernel: rsi, bytes: rdx)
    "guarded_compare:",
    "mov rcx, rdx",
    "cmp rcx, rcx",
    "repe cmpsb",
    "mov rax, rcx",
    "mov edx, 0",
    "je 2f",
    "mov edx, 2",
    "2: ret",
    "access_fixup:",
    "mov rax, rcx",
    "mov edx, 1",
    "ret",
    "access_end:",
    ".popsection",
);

unsafe extern "C" {
    fn guarded_copy(to: u64, from: u64, bytes: u64) -> Outcome;
    fn guarded_load(from: u64) -> Outcome;
    fn guarded_compare(task: u64, kernel: u64, bytes: u64) -> Outcome;
    static access_start: u8;
    static access_fixup: u8;
    static access_end: u8;
}

/// Tells whether `rip` lies in a guarded routine.
pub fn is_guarded(rip: u64) -> bool {
    let (start, end) = (&raw const access_start as u64, &raw const access_end as u64);
    (start..end).contains(&rip)
}

/// Returns where a guarded routine goes on after a fault.
pub fn fixup() -> u64 {
    &raw const access_fixup as u64
}

/// Copies between task memory and kernel memory.
///
/// # Errors
/// [`AccessFault`] when a task address faults; what lies before it has been copied.
///
/// # Safety
/// One side must be lower-half addresses; the other a kernel buffer of `bytes` bytes that is readable or
/// writable as the direction asks.
pub unsafe fn copy(to: u64, from: u64, bytes: u64) -> Result<(), AccessFault> {
    // SAFETY: the caller's obligations are the routine's; a fault on the task's side comes back as an outcome.
    let outcome = unsafe { guarded_copy(to, from, bytes) };
    if outcome.stopped == 0 { Ok(()) } else { Err(AccessFault) }
}

/// Loads two bytes, the first one the lower, of task memory.
///
/// # Errors
/// [`AccessFault`] when one of them faults.
///
/// # Safety
/// Both must lie in the lower half.
pub unsafe fn load(from: u64) -> Result<u16, AccessFault> {
    // SAFETY: the caller's obligation is the routine's; a fault comes back as an outcome.
    let Outcome { value, stopped } = unsafe { guarded_load(from) };
    let [first, second, ..] = value.to_le_bytes();
    if stopped == 0 { Ok(u16::from_le_bytes([first, second])) } else { Err(AccessFault) }
}

/// Compares task memory with kernel memory and returns the offset of the first byte that differs.
///
/// # Errors
/// [`AccessFault`] when a task address faults before a difference was found.
///
/// # Safety
/// As for [`copy`]; both sides are only read.
pub unsafe fn compare(task: u64, kernel: u64, bytes: u64) -> Result<Option<u64>, AccessFault> {
    // SAFETY: as for `copy`.
    let outcome = unsafe { guarded_compare(task, kernel, bytes) };
    match outcome.stopped {
        0 => Ok(None),
        1 => Err(AccessFault),
        // REPE counts the differing byte as done.
        _ => Ok(Some(bytes - outcome.value - 1)),
    }
}
