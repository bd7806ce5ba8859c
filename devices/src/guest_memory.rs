//! Copies between the VMM and guest RAM that cannot fault.

use wirevm_abi::RamRange;

/// Part of guest RAM has no memory behind it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the memory behind guest RAM is gone at page {page}")]
pub struct BackingLostError {
    /// The first page of the access that could not be made.
    pub page: u64,
}

/// Guest RAM as devices reach it.
///
/// The VMM never dereferences guest RAM to read what a guest wrote: where the file behind RAM was cut short, a load is
/// SIGBUS, while a read of the file is short and a copy through the kernel says EFAULT (rule D10).
pub trait GuestMemory: Send + Sync + std::fmt::Debug {
    /// Copies the start of a range of pages out of RAM, as many bytes as `bytes` has (at most the range's).
    ///
    /// # Errors
    /// [`BackingLostError`] when part of it is gone; then `bytes` holds nothing of use.
    fn read(&self, range: RamRange, bytes: &mut [u8]) -> Result<(), BackingLostError>;

    /// Copies `bytes` (at most a range's) to the start of a range of pages of RAM.
    ///
    /// # Errors
    /// [`BackingLostError`] when part of it is gone; the bytes in front of it may have been written.
    fn write(&self, range: RamRange, bytes: &[u8]) -> Result<(), BackingLostError>;

    /// Loads the word at `offset` bytes (a multiple of 8) from the start of a range of pages, as one access that the guest's
    /// stores come before or after, with acquire order.
    ///
    /// # Errors
    /// [`BackingLostError`] when the word is not in the range. Where its memory is gone the process ends by SIGBUS, which
    /// its handler names: look with [`GuestMemory::read`] first where that matters.
    fn load_word(&self, range: RamRange, offset: u64) -> Result<u64, BackingLostError>;

    /// Stores the word at `offset` bytes (a multiple of 8) from the start of a range of pages, as one access that the guest
    /// sees whole, with release order.
    ///
    /// # Errors
    /// As for [`GuestMemory::load_word`].
    fn store_word(&self, range: RamRange, offset: u64, word: u64) -> Result<(), BackingLostError>;
}
