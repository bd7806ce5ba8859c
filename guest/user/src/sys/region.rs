//! Memory of the program's own that others may change at the same time.
#![expect(unsafe_code, reason = "memory as the kernel gives it")]
// UNSAFETY: a region's bytes are its own from the kernel's answer to the drop. They are reached by volatile and atomic accesses only,
// and no reference to plain bytes of them is ever handed out, so it does not matter who changes them meanwhile.

use core::sync::atomic::AtomicU64;

use super::object::{Mode, Object};
use super::{address, pointer, vm};
use crate::{KernReturn, PAGE_BYTES, Prot};

/// Whole pages of memory; dropping this gives them back.
#[derive(Debug)]
pub struct Region {
    start: *mut u8,
    bytes: usize,
}

// SAFETY: the memory belongs to the program, not to a thread, and all accesses allow others at the same time.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Reserves zero memory of `bytes` bytes, rounded up to pages.
    ///
    /// # Errors
    /// As for [`vm::allocate`].
    pub fn allocate(bytes: usize) -> Result<Self, KernReturn> {
        let bytes = bytes.max(1).checked_next_multiple_of(PAGE_BYTES).ok_or(KernReturn::INVALID_ARGUMENT)?;
        Ok(Self { start: pointer(vm::allocate(bytes as u64)?), bytes })
    }

    /// Maps pages of an object.
    ///
    /// # Errors
    /// As for [`Object::map`].
    pub fn map(object: &Object, first_page: u64, pages: u64, prot: Prot, mode: Mode) -> Result<Self, KernReturn> {
        let bytes = usize::try_from(pages)
            .ok()
            .and_then(|pages| pages.checked_mul(PAGE_BYTES))
            .ok_or(KernReturn::INVALID_ARGUMENT)?;
        Ok(Self { start: pointer(object.map(first_page, pages, prot, mode)?), bytes })
    }

    /// Returns the first byte's address.
    #[must_use]
    pub fn address(&self) -> u64 {
        address(self.start)
    }

    /// Returns a pointer to the first byte.
    #[must_use]
    pub const fn as_ptr(&self) -> *mut u8 {
        self.start
    }

    /// Returns the number of bytes, a whole number of pages.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.bytes
    }

    /// Returns whether there are no bytes; there always are.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Returns the pointer to `bytes` bytes from `offset` on.
    ///
    /// # Panics
    /// If they are not in the region.
    fn at(&self, offset: usize, bytes: usize) -> *mut u8 {
        let end = offset.checked_add(bytes);
        assert!(end.is_some_and(|end| end <= self.bytes), "{bytes} bytes at {offset} of a region of {}", self.bytes);
        self.start.wrapping_add(offset)
    }

    /// Copies bytes out.
    ///
    /// # Panics
    /// If they are not in the region.
    pub fn read(&self, offset: usize, to: &mut [u8]) {
        let from = self.at(offset, to.len());
        for (index, byte) in to.iter_mut().enumerate() {
            // SAFETY: within the region, as `at` has checked; a volatile load of a byte has no further needs.
            *byte = unsafe { from.wrapping_add(index).read_volatile() };
        }
    }

    /// Copies bytes in.
    ///
    /// # Panics
    /// If they are not in the region.
    pub fn write(&self, offset: usize, from: &[u8]) {
        let to = self.at(offset, from.len());
        for (index, byte) in from.iter().enumerate() {
            // SAFETY: as for `read`.
            unsafe { to.wrapping_add(index).write_volatile(*byte) };
        }
    }

    /// Returns a word.
    ///
    /// # Panics
    /// If it is not in the region, or `offset` is no multiple of 8.
    #[must_use]
    pub fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8), "a word at {offset}");
        // SAFETY: aligned and within the region, which outlives the borrow; whoever else reaches it does so by atomic or volatile
        // accesses, or is another program or the kernel.
        unsafe { AtomicU64::from_ptr(self.at(offset, 8).cast()) }
    }

    /// Returns all words.
    #[must_use]
    pub const fn words(&self) -> &[AtomicU64] {
        // SAFETY: as for `word`: a region begins at a page and has whole pages.
        unsafe { core::slice::from_raw_parts(self.start.cast(), self.bytes / 8) }
    }

    /// Changes what `bytes` bytes from `offset` on permit; an access that is not permitted ends the program.
    ///
    /// # Errors
    /// As for [`vm::protect`].
    ///
    /// # Panics
    /// If they are not in the region.
    pub fn protect(&self, offset: usize, bytes: usize, prot: Prot) -> Result<(), KernReturn> {
        let start = address(self.at(offset, bytes));
        // SAFETY: nothing but the region's own methods reaches its bytes, and they do no harm: what is not permitted is a fault, which
        // ends the program before anything else comes of it. Nobody goes there for code.
        unsafe { vm::protect(start, bytes as u64, false, prot) }
    }

    /// Puts what was written to `bytes` bytes from `offset` on, on stable storage.
    ///
    /// # Errors
    /// As for [`vm::sync`].
    ///
    /// # Panics
    /// If they are not in the region.
    pub fn sync(&self, offset: usize, bytes: usize) -> Result<(), KernReturn> {
        vm::sync(address(self.at(offset, bytes)), bytes as u64)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the region's bytes are lent to nobody any more. What the kernel does not take stays unused.
        let _kept = unsafe { vm::deallocate(self.address(), self.bytes as u64) };
    }
}
