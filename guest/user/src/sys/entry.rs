//! Where a program starts, and where it ends when it panics.
#![cfg_attr(feature = "program", expect(unsafe_code, reason = "the arguments are where the kernel says"))]
// UNSAFETY: the contract says what is at the address of the arguments; it stays there as long as the program.

/// Runs a program: called by `_start` with what the kernel passes, and by nobody else.
///
/// # Safety
/// `arguments` are `length` bytes that live as long as the program.
#[cfg(feature = "program")]
pub unsafe fn start(arguments: *const u8, length: usize, run: fn(crate::Args) -> u8) -> ! {
    super::strings::keep();
    // SAFETY: the kernel's contract, passed on by the caller; where there are none the kernel may pass no address.
    let bytes = if length == 0 { &[][..] } else { unsafe { core::slice::from_raw_parts(arguments, length) } };
    super::process::exit(run(crate::Args::new(core::str::from_utf8(bytes).unwrap_or("?"))))
}

#[cfg(all(feature = "program", not(test)))]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    super::output::print_in_panic(format_args!("{info}\n"));
    super::process::exit(super::process::PANIC_EXIT_CODE)
}

/// Says what this is when it is run where it can't be.
#[cfg(not(feature = "program"))]
pub fn explain() {
    std::println!(
        "This is a program for a wirevm guest, built without the feature `program`; `wirevm run --program` has it built in."
    );
}
