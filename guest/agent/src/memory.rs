//! How the agent touches a task's memory.

/// A task address could not be accessed: it is not mapped, or not with the right that the access needs. The map
/// may be able to put that right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccessFault;

/// A task's memory, reached through the task's own mappings, so that rights and dirty marks are the mapping's.
///
/// Accesses are at most a page long and stay within one page. After a fault the part of a store in front of the
/// faulting byte may have happened.
pub trait TaskMemory: Send + Sync {
    /// Stores bytes.
    ///
    /// # Errors
    /// [`AccessFault`] when the page is not mapped writable.
    fn store(&self, address: u64, bytes: &[u8]) -> Result<(), AccessFault>;

    /// Loads bytes.
    ///
    /// # Errors
    /// [`AccessFault`] when the page is not mapped.
    fn load(&self, address: u64, bytes: &mut [u8]) -> Result<(), AccessFault>;

    /// Returns the offset of the first byte of memory that differs from `bytes`.
    ///
    /// # Errors
    /// [`AccessFault`] when the page is not mapped.
    fn compare(&self, address: u64, bytes: &[u8]) -> Result<Option<u64>, AccessFault>;
}
