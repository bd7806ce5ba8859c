//! How a device tells the guest that there is something to look at.

use std::fmt::Debug;
use std::io;

use vmm_sys_util::eventfd::EventFd;

/// Raises one interrupt of the guest. Raised again before the guest took it, it comes at least once more or not at all: whoever
/// takes it looks at everything that the device has.
pub trait Interrupt: Debug + Send + Sync {
    /// Raises the interrupt; does not wait for the guest.
    ///
    /// # Errors
    /// When it could not be raised; the guest hears nothing then.
    fn raise(&self) -> io::Result<()>;
}

/// What KVM, or a test, watches.
impl Interrupt for EventFd {
    fn raise(&self) -> io::Result<()> {
        self.write(1)
    }
}
