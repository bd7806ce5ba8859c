//! Ending the process from a signal handler.
#![expect(unsafe_code, reason = "only write(2) and _exit(2) are allowed in a signal handler")]
// UNSAFETY: two async-signal-safe system calls.

/// Writes `text` to standard error and ends the process with `code`, running no destructor and flushing nothing. Safe to
/// call from a signal handler.
pub fn say_and_exit(text: &str, code: u8) -> ! {
    // SAFETY: writes `text.len()` readable bytes; the result cannot be reported anywhere.
    let _written = unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
    // SAFETY: ends the process; async-signal-safe.
    unsafe { libc::_exit(i32::from(code)) }
}
