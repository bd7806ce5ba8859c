//! Where the safe part of a program ends: the call instruction, the first instruction of a program and of a thread, memory as the kernel
//! gives it. Nothing outside this folder needs `unsafe`, but for programs that break rules on purpose.

pub mod entry;
#[cfg(feature = "program")]
mod heap;
pub(crate) mod lock;
pub mod object;
pub mod output;
pub mod posix;
pub mod process;
pub mod raw;
pub mod region;
#[cfg(feature = "program")]
mod strings;
pub mod thread;
pub mod time;
pub mod vm;

/// Makes a pointer of an address that a call answered.
fn pointer(address: u64) -> *mut u8 {
    core::ptr::with_exposed_provenance_mut(usize::try_from(address).unwrap_or(usize::MAX))
}

/// Returns an address as calls take it.
fn address<T>(pointer: *const T) -> u64 {
    pointer.expose_provenance() as u64
}
