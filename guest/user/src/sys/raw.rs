//! The call instruction.
#![expect(unsafe_code, reason = "an instruction by which the kernel may change the program's memory")]
// UNSAFETY: the registers are those of the contract (`wirevm_abi::user`); what the call does to memory is the caller's to answer for.

/// Makes a system call and returns its code and its value.
///
/// # Safety
/// What the kernel does at this call with these arguments leaves memory that Rust knows of as it is: nothing that lives is unmapped,
/// made unreadable, or written but where the caller may write.
#[cfg(feature = "program")]
#[inline(always)]
pub unsafe fn call(number: u64, arguments: [u64; 6]) -> (u64, u64) {
    let [a, b, c, d, e, f] = arguments;
    let (code, value);
    // SAFETY: the kernel gives every register back but RAX and RDX, and what it does to memory is the caller's obligation; flags
    // count as lost.
    unsafe {
        core::arch::asm!(
            "int 0x80",
            inlateout("rax") number => code,
            in("rdi") a,
            in("rsi") b,
            inlateout("rdx") c => value,
            in("r10") d,
            in("r8") e,
            in("r9") f,
        );
    }
    (code, value)
}

/// Answers `ENOSYS`: on a host there is no such kernel.
///
/// # Safety
/// As of the call that it stands for; it does nothing.
#[cfg(not(feature = "program"))]
pub unsafe fn call(_number: u64, _arguments: [u64; 6]) -> (u64, u64) {
    (crate::Errno::ENOSYS.code(), 0)
}

/// Makes a call that takes no memory away and writes none.
pub(super) fn safe_call<const N: usize>(number: u64, arguments: [u64; N]) -> (u64, u64) {
    let mut all = [0; 6];
    for (place, argument) in all.iter_mut().zip(arguments) {
        *place = argument;
    }
    // SAFETY: the callers in this folder pass only calls that change no memory which lives.
    unsafe { call(number, all) }
}
