//! POSIX `msync`.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{VmMap, touched_pages};
use crate::errno::Errno;
use crate::flags::{MsyncFlags, SyncFlags};
use crate::kern_return::KernReturn;
use crate::ports::Ports;
use crate::units::{PAGE_SIZE, PageRange};

impl<P: Ports> VmMap<P> {
    /// Puts what was written to the pages of `size` bytes from `address`, rounded up to whole pages, on backing storage (`msync(2)`;
    /// the surface that §5 of the semantics table recommends): [`VmMap::msync`] with CONTIGUOUS, and SYNCHRONOUS unless only the
    /// writing is to be started.
    ///
    /// So [`MsyncFlags::INVALIDATE`] never loses what was written (row B2), and syncing without any flag is synchronous. A size of 0
    /// succeeds, whatever is at the address. What was written to a private mapping stays where it is (row H-07).
    ///
    /// # Errors
    /// In this order, each before anything is written: [`Errno::Inval`]: the address is not that of a page, address and size wrap,
    /// both SYNC and ASYNC, or an unknown flag. [`Errno::NoMem`]: a page is not allocated. [`Errno::Busy`]: INVALIDATE, and a page is
    /// user-wired. Afterwards [`Errno::Io`]: something could not be written, as [`VmMap::msync`] tells;
    /// [`Errno::NoMem`]: a page went meanwhile.
    ///
    /// # Partial effects
    /// None before [`Errno::Io`], which comes after the whole range has been processed.
    pub async fn msync_posix(&self, address: u64, size: u64, flags: MsyncFlags) -> Result<(), Errno> {
        let conflict = flags.contains(MsyncFlags::SYNC | MsyncFlags::ASYNC);
        if !address.is_multiple_of(PAGE_SIZE) || conflict || flags.has_unknown() {
            return Err(Errno::Inval);
        }
        if size == 0 {
            return Ok(());
        }
        let range = touched_pages(address, size).ok_or(Errno::Inval)?;
        if !self.covers(range) {
            return Err(Errno::NoMem);
        }
        let mut how = SyncFlags::CONTIGUOUS;
        if flags.contains(MsyncFlags::INVALIDATE) {
            if self.is_locked(range) {
                return Err(Errno::Busy);
            }
            how = how | SyncFlags::INVALIDATE;
        }
        let when = if flags.contains(MsyncFlags::ASYNC) { SyncFlags::ASYNCHRONOUS } else { SyncFlags::SYNCHRONOUS };
        self.msync(address, size, how | when).await.map_err(|code| match code {
            KernReturn::InvalidAddress => Errno::NoMem,
            _ => Errno::Io,
        })
    }

    /// Tells whether every page of `range` is allocated, in submaps too.
    fn covers(&self, range: PageRange) -> bool {
        let (has_gap, submaps) =
            self.locked(|state| (state.entries.next_gap(range).is_some(), state.submaps_in(range)));
        !has_gap && submaps.into_iter().all(|(part, submap)| submap.covers(part))
    }

    /// Tells whether a page of `range` is user-wired, in submaps too.
    fn is_locked(&self, range: PageRange) -> bool {
        let (is_locked, submaps): (bool, Vec<(PageRange, Arc<Self>)>) = self.locked(|state| {
            let is_locked = state.entries.meeting(range).any(|(_, entry)| entry.user_wired);
            (is_locked, state.submaps_in(range))
        });
        is_locked || submaps.into_iter().any(|(part, submap)| submap.is_locked(part))
    }
}

#[cfg(test)]
mod test;
