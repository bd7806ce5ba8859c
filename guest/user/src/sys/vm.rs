//! The calls of the virtual-memory system, with Mach's and FreeBSD's names for them. Addresses and sizes are in bytes.
//!
//! What each does to which pages, its errors and its partial effects are those of the guest's memory system; here stands what matters
//! to whoever calls.
#![expect(unsafe_code, reason = "some calls take memory away")]
// UNSAFETY: a call that only adds memory, or says how it is kept, is safe; the others pass their obligations on to the caller.

use wirevm_abi::user;

use super::raw::{call, safe_call};
use crate::{KernReturn, Prot, SyncFlags, WireFlags};

/// How children get memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inherit {
    /// Both have the same.
    Share,
    /// The child has a copy.
    Copy,
    /// The child has nothing there.
    None,
}

/// Reserves zero memory, readable and writable, wherever there is room, and returns its address (Mach `vm_allocate`). A size of 0
/// gives address 0.
///
/// # Errors
/// [`KernReturn::NO_SPACE`]; [`KernReturn::INVALID_ARGUMENT`] for a size that wraps. Nothing is changed then.
pub fn allocate(size: u64) -> Result<u64, KernReturn> {
    allocate_at(user::ANYWHERE, size)
}

/// As [`allocate`], in the pages from `address` on.
///
/// # Errors
/// As for [`allocate`]; [`KernReturn::NO_SPACE`] also where something is there already.
pub fn allocate_at(address: u64, size: u64) -> Result<u64, KernReturn> {
    let (code, value) = safe_call(user::VM_ALLOCATE, [address, size]);
    KernReturn::check(code).map(|()| value)
}

/// Gives memory back (Mach `vm_deallocate`). Waits for as long as the system's wiring holds a page of it.
///
/// # Safety
/// Nothing that lives is in the pages that the range touches, and nobody uses an address in them later.
///
/// # Errors
/// [`KernReturn::INVALID_ARGUMENT`]: address and size wrap.
pub unsafe fn deallocate(address: u64, size: u64) -> Result<(), KernReturn> {
    // SAFETY: the caller's obligation.
    KernReturn::check(unsafe { call(user::VM_DEALLOCATE, [address, size, 0, 0, 0, 0]) }.0)
}

/// Changes what a range permits (Mach `vm_protect`): the current protection, or with `set_maximum` the most that it may ever be.
/// Writable and executable together is refused.
///
/// # Safety
/// Until it is permitted again nobody reads or writes there what is no longer permitted: that ends the program. What becomes
/// executable is code, or nobody goes there.
///
/// # Errors
/// [`KernReturn::INVALID_ADDRESS`]: a page is not allocated. [`KernReturn::PROTECTION_FAILURE`]: more than the maximum.
/// [`KernReturn::RESOURCE_SHORTAGE`]: wired pages must be copied, and there is no memory for it. Nothing is changed then.
pub unsafe fn protect(address: u64, size: u64, set_maximum: bool, prot: Prot) -> Result<(), KernReturn> {
    // SAFETY: the caller's obligation.
    KernReturn::check(unsafe { call(user::VM_PROTECT, [address, size, u64::from(set_maximum), prot.bits(), 0, 0]) }.0)
}

/// Wires the pages from `start` to `end`: they become resident and the host keeps them in memory (FreeBSD `vm_map_wire`). Programs
/// wire for the user only: with [`WireFlags::USER`].
///
/// # Errors
/// [`KernReturn::INVALID_ARGUMENT`]: reversed, unaligned, an unknown flag, or without [`WireFlags::USER`]. [`KernReturn::INVALID_ADDRESS`]: a page is not allocated, or
/// not readable. [`KernReturn::RESOURCE_SHORTAGE`]: a limit, a quota or memory. [`KernReturn::OUT_OF_BOUNDS`],
/// [`KernReturn::PROTECTION_FAILURE`]: an object has no such page. No wiring is left then that was not there before.
pub fn map_wire(start: u64, end: u64, flags: WireFlags) -> Result<(), KernReturn> {
    KernReturn::check(safe_call(user::VM_MAP_WIRE, [start, end, flags.bits()]).0)
}

/// Unwires the pages from `start` to `end` (FreeBSD `vm_map_unwire`).
///
/// # Errors
/// [`KernReturn::INVALID_ARGUMENT`]: as for [`map_wire`], or a page that the system has not wired. [`KernReturn::INVALID_ADDRESS`]: a
/// page is not allocated.
pub fn map_unwire(start: u64, end: u64, flags: WireFlags) -> Result<(), KernReturn> {
    KernReturn::check(safe_call(user::VM_MAP_UNWIRE, [start, end, flags.bits()]).0)
}

/// Puts what was written to a range on stable storage and waits for that: [`msync`] with `SYNCHRONOUS`.
///
/// # Errors
/// As for [`msync`].
pub fn sync(address: u64, size: u64) -> Result<(), KernReturn> {
    KernReturn::check(safe_call(user::VM_MSYNC, [address, size, SyncFlags::SYNCHRONOUS.bits()]).0)
}

/// Synchronizes a range with its managers (Mach `vm_msync`).
///
/// # Safety
/// With `INVALIDATE` or `KILLPAGES` the pages may go back to what they held before: nobody refers to what is in them.
///
/// # Errors
/// [`KernReturn::FAILURE`]: something could not be written, or could not be before. It is not known to be stable, now or later.
/// [`KernReturn::INVALID_ARGUMENT`]: both `SYNCHRONOUS` and `ASYNCHRONOUS`. [`KernReturn::INVALID_ADDRESS`]: address and size wrap, or
/// there is a hole, with `CONTIGUOUS`.
pub unsafe fn msync(address: u64, size: u64, flags: SyncFlags) -> Result<(), KernReturn> {
    // SAFETY: the caller's obligation.
    KernReturn::check(unsafe { call(user::VM_MSYNC, [address, size, flags.bits(), 0, 0, 0]) }.0)
}

/// Sets how children get a range (Mach `vm_inherit`).
///
/// # Safety
/// A child does not use what it lacks. What is shared is used as memory is that another thread changes at any time.
///
/// # Errors
/// [`KernReturn::INVALID_ADDRESS`]: a page is not allocated. [`KernReturn::INVALID_ARGUMENT`]: address and size wrap.
pub unsafe fn inherit(address: u64, size: u64, how: Inherit) -> Result<(), KernReturn> {
    let how = match how {
        Inherit::Share => 0,
        Inherit::Copy => 1,
        Inherit::None => 2,
    };
    // SAFETY: the caller's obligation.
    KernReturn::check(unsafe { call(user::VM_INHERIT, [address, size, how, 0, 0, 0]) }.0)
}
