//! A program's output.

use core::fmt::{self, Write};

use wirevm_abi::user;

use super::raw::safe_call;
use crate::line_buffer::{LineBuffer, Sending};
use crate::sync::{Mutex, MutexGuard};

static BUFFER: Mutex<LineBuffer> = Mutex::new(LineBuffer::new());

/// Sends a piece as it is.
fn send(piece: &[u8]) {
    // The kernel only reads it. Output that nobody takes is no reason for a program to fail.
    safe_call(user::PRINT, [super::address(piece.as_ptr()), piece.len() as u64]);
}

fn put(mut buffer: MutexGuard<'_, LineBuffer>, text: fmt::Arguments<'_>, end: &str) {
    let mut sending = Sending(&mut buffer, send);
    // It never fails itself; a value that can't show itself has shown what it could.
    if sending.write_fmt(text).is_err() || sending.write_str(end).is_err() {
        sending.0.put("?", send);
    }
    buffer.send_lines(send);
}

/// Prints; for the macro [`print!`](crate::print).
pub fn print(text: fmt::Arguments<'_>) {
    put(BUFFER.lock(), text, "");
}

/// Prints a line; for the macro [`println!`](crate::println).
pub fn print_line(text: fmt::Arguments<'_>) {
    put(BUFFER.lock(), text, "\n");
}

/// Prints what a panic says, also where it happened while something was being printed.
#[cfg(all(feature = "program", not(test)))]
pub(super) fn print_in_panic(text: fmt::Arguments<'_>) {
    match BUFFER.try_lock() {
        Some(buffer) => put(buffer, text, ""),
        None => {
            let mut buffer = LineBuffer::new();
            let mut sending = Sending(&mut buffer, send);
            if sending.write_fmt(text).is_err() {
                sending.0.put("?", send);
            }
            buffer.send_all(send);
        }
    }
}

/// Sends what waits for the end of its line; not while another thread prints, for that one may never come to an end.
pub fn flush() {
    if let Some(mut buffer) = BUFFER.try_lock() {
        buffer.send_all(send);
    }
}

/// Does something while nothing waits to be sent and nobody else prints.
pub(super) fn with_all_sent<R>(act: impl FnOnce() -> R) -> R {
    let mut buffer = BUFFER.lock();
    buffer.send_all(send);
    act()
}
