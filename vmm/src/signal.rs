//! Signals: the user's wish to end, and memory that is gone.

use std::io;
use std::os::raw::{c_int, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::signal::register_signal_handler;
use wirevm_devices::last_words;
pub use wirevm_devices::last_words::BACKING_LOST_EXIT_CODE;

/// Made readable by SIGINT and SIGTERM.
static INTERRUPTED: OnceLock<EventFd> = OnceLock::new();

/// How often the user has asked to end. Whoever asks twice does not want to wait.
static INTERRUPTS: AtomicU32 = AtomicU32::new(0);

extern "C" fn on_interrupt(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    // Only what is safe in a handler: atomics, write(2) and _exit(2).
    if INTERRUPTS.fetch_add(1, Ordering::AcqRel) > 0 {
        last_words::say_and_exit("wirevm: error: interrupted again, so the machine was not ended in order\n", 1);
    }
    if let Some(event) = INTERRUPTED.get() {
        drop(event.write(1));
    }
}

/// Tells whether the user has asked to end since [`install`].
#[must_use]
pub fn is_interrupted() -> bool {
    INTERRUPTS.load(Ordering::Acquire) > 0
}

/// Takes over SIGINT, SIGTERM and SIGBUS for a program that runs one machine at a time, and returns an event that becomes
/// readable when the user wants to end: for [`crate::MachineConfig::interrupted`].
///
/// SIGBUS then ends the process with [`BACKING_LOST_EXIT_CODE`]: of all that this program maps, only guest RAM can lose its
/// memory. A program that maps other files, or runs several machines, wants handlers of its own.
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
    last_words::catch_bus_errors()?;
    event.try_clone()
}
