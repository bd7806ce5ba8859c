//! The calls that POSIX has. Addresses and sizes are in bytes.
#![expect(unsafe_code, reason = "a call that writes to memory, and one that may take what was written back")]
// UNSAFETY: `mincore` is given a buffer that it may write; `msync` passes its obligation on.

use wirevm_abi::user;

use super::raw::{call, safe_call};
use crate::{Errno, LockAllFlags, MsyncFlags, PAGE_BYTES};

/// Locks a range in memory (`mlock(2)`). Locking does not nest.
///
/// # Errors
/// [`Errno::EPERM`], [`Errno::EINVAL`]: address and size wrap; [`Errno::ENOMEM`]: a limit, or a page is not allocated, not readable or
/// could not be wired. Every wiring is as it was then.
pub fn mlock(address: u64, size: u64) -> Result<(), Errno> {
    Errno::check(safe_call(user::MLOCK, [address, size]).0)
}

/// Unlocks a range (`munlock(2)`).
///
/// # Errors
/// [`Errno::EINVAL`]: address and size wrap. [`Errno::ENOMEM`]: a page is not allocated. Nothing is unlocked then.
pub fn munlock(address: u64, size: u64) -> Result<(), Errno> {
    Errno::check(safe_call(user::MUNLOCK, [address, size]).0)
}

/// Locks everything that is mapped, or will be, or both (`mlockall(2)`).
///
/// # Errors
/// [`Errno::EPERM`], [`Errno::EINVAL`]: neither current nor future; [`Errno::ENOMEM`]: a limit or memory; [`Errno::EAGAIN`]: anything else.
pub fn mlockall(flags: LockAllFlags) -> Result<(), Errno> {
    Errno::check(safe_call(user::MLOCKALL, [flags.bits()]).0)
}

/// Unlocks everything, and what is mapped later will not be locked (`munlockall(2)`).
///
/// # Errors
/// None today.
pub fn munlockall() -> Result<(), Errno> {
    Errno::check(safe_call(user::MUNLOCKALL, []).0)
}

/// Tells of each page that `size` bytes from `address` touch whether it is resident: bit 0 of its byte (`mincore(2)`).
///
/// # Errors
/// [`Errno::EINVAL`]: there is not one byte for each page, or address and size wrap. [`Errno::ENOMEM`]: a page is not allocated.
pub fn mincore(address: u64, size: u64, pages: &mut [u8]) -> Result<(), Errno> {
    let page_bytes = PAGE_BYTES as u64;
    let end = address.checked_add(size).ok_or(Errno::EINVAL)?;
    if end.div_ceil(page_bytes) - address / page_bytes > pages.len() as u64 {
        return Err(Errno::EINVAL);
    }
    // SAFETY: the kernel writes one byte for each page, and so many are there.
    Errno::check(unsafe { call(user::MINCORE, [address, size, super::address(pages.as_mut_ptr()), 0, 0, 0]) }.0)
}

/// Puts what was written to a range on backing storage (`msync(2)`). Never loses what was written.
///
/// # Safety
/// With `INVALIDATE`, what is in the pages may be what others have put in the object meanwhile: nobody refers to it.
///
/// # Errors
/// [`Errno::EINVAL`]: not the address of a page, both `SYNC` and `ASYNC`, an unknown flag. [`Errno::ENOMEM`]: a page is not allocated.
/// [`Errno::EBUSY`]: `INVALIDATE`, and a page is locked. [`Errno::EIO`]: something could not be written.
pub unsafe fn msync(address: u64, size: u64, flags: MsyncFlags) -> Result<(), Errno> {
    // SAFETY: the caller's obligation.
    Errno::check(unsafe { call(user::MSYNC, [address, size, flags.bits(), 0, 0, 0]) }.0)
}
