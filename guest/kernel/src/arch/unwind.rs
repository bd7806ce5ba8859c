//! Where unwinding would go on, for an image of the host's target: that target's standard library is compiled to unwind, so
//! its cleanups end in a jump there. A panic ends the guest where it happens, so nothing ever unwinds and no cleanup runs.
#![expect(unsafe_code, reason = "assembly")]
// UNSAFETY: the routine does nothing but trap.

core::arch::global_asm!(
    ".pushsection .text.unwind, \"ax\"",
    ".weak _Unwind_Resume",
    "_Unwind_Resume:",
    "ud2",
    ".popsection",
);
