//! This program and its children.

use wirevm_abi::user;

use super::raw::safe_call;
use crate::Errno;

/// What a program that panicked exits with.
pub const PANIC_EXIT_CODE: u8 = 101;

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this code.
    Exit(u8),
    /// A fault ended it, or somebody else did.
    Killed,
}

/// Which side of a [`fork`] this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fork {
    /// The new program.
    Child,
    /// The one that there was; the child's number, for [`wait`].
    Parent(u64),
}

/// Ends the program and all its threads.
pub fn exit(code: u8) -> ! {
    super::output::flush();
    loop {
        safe_call(user::EXIT, [u64::from(code)]);
    }
}

/// Returns how many processors the machine has.
#[must_use]
pub fn processors() -> u64 {
    safe_call(user::PROCESSORS, []).1
}

/// Calls the kernel for nothing.
pub fn null() {
    safe_call(user::NULL, []);
}

/// Makes a copy of this program with one thread, the calling one.
///
/// Output and heap are whole in the child, whatever other threads are at. Other locks that those hold stay locked in it.
///
/// # Errors
/// [`Errno::ENOMEM`] and the like, with nothing done.
pub fn fork() -> Result<Fork, Errno> {
    let (code, value) = super::output::with_all_sent(|| {
        #[cfg(feature = "program")]
        let _heap = super::heap::lock();
        safe_call(user::FORK, [])
    });
    Errno::check(code)?;
    Ok(if value == 0 { Fork::Child } else { Fork::Parent(value) })
}

/// Waits for a child's end.
///
/// # Errors
/// [`Errno::ECHILD`]: there is no such child, or it was waited for.
pub fn wait(child: u64) -> Result<Ended, Errno> {
    let (code, value) = safe_call(user::WAIT, [child]);
    Errno::check(code)?;
    Ok(u8::try_from(value).map_or(Ended::Killed, Ended::Exit))
}
