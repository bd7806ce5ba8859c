//! Signals: the user's wish to end, and memory that is gone.

use std::io;
use std::os::raw::{c_int, c_void};
use std::sync::OnceLock;

use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::signal::register_signal_handler;
use wirevm_devices::last_words;

/// Made readable by SIGINT and SIGTERM.
static INTERRUPTED: OnceLock<EventFd> = OnceLock::new();

/// Exit code of a process whose guest RAM is gone; the same as the command line's for that class.
pub const BACKING_LOST_EXIT_CODE: u8 = 14;

extern "C" fn on_interrupt(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    // Only what is safe in a handler: an atomic load and write(2).
    if let Some(event) = INTERRUPTED.get() {
        drop(event.write(1));
    }
}

extern "C" fn on_bus_error(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    last_words::say_and_exit(
        "wirevm: error: the memory behind guest RAM is gone (SIGBUS): the RAM file was cut short or its storage failed\n",
        BACKING_LOST_EXIT_CODE,
    );
}

/// Takes over SIGINT and SIGTERM, and SIGBUS; returns an event that becomes readable when the user wants to end.
///
/// # Errors
/// When the kernel refuses a handler or an event.
pub fn install() -> io::Result<EventFd> {
    let event = match INTERRUPTED.get() {
        Some(event) => event,
        None => {
            let fresh = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
            INTERRUPTED.get_or_init(|| fresh)
        }
    };
    for number in [libc::SIGINT, libc::SIGTERM] {
        register_signal_handler(number, on_interrupt).map_err(|error| io::Error::from_raw_os_error(error.errno()))?;
    }
    register_signal_handler(libc::SIGBUS, on_bus_error).map_err(|error| io::Error::from_raw_os_error(error.errno()))?;
    event.try_clone()
}
