//! What children get.

use super::{VmMap, touched_pages};
use crate::entry::{EntryKind, Inheritance};
use crate::kern_return::KernReturn;
use crate::ports::Ports;

impl<P: Ports> VmMap<P> {
    /// Sets what a child gets of the pages that `size` bytes from `address` touch, when the map is forked (Mach `vm_inherit`).
    ///
    /// Holes are passed over. Entries that another operation works on are clipped and changed without waiting: it concerns
    /// nothing that the operation does (rows N3, T-07). A size of 0 does nothing.
    ///
    /// # Errors
    /// [`KernReturn::InvalidArgument`]: address and size wrap; or an end of the range lies within a large page; or large pages are to be
    /// copied.
    ///
    /// # Partial effects
    /// None: an error changes nothing.
    #[expect(clippy::unused_async, reason = "every operation is a future")]
    pub async fn inherit(&self, address: u64, size: u64, inheritance: Inheritance) -> Result<(), KernReturn> {
        if size == 0 {
            return Ok(());
        }
        let range = touched_pages(address, size).ok_or(KernReturn::InvalidArgument)?;
        let result = self.exclusive(|state| {
            let copies_large = inheritance == Inheritance::Copy
                && state.entries.meeting(range).any(|(_, entry)| entry.kind == EntryKind::LargePages);
            if copies_large {
                return Err(KernReturn::InvalidArgument);
            }
            let clipped = state.clip(range.start).and_then(|()| state.clip(range.end));
            if clipped.is_ok() {
                state.entries.change_starting(range, |_, entry| entry.inheritance = inheritance);
            }
            state.entries.merge(range);
            clipped
        });
        self.debug_check();
        result
    }
}
