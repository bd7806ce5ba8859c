//! The heap segment.

use super::deallocate::Blocking;
use super::{MapState, Placement, VmMap, touched_pages};
use crate::entry::MapEntry;
use crate::errno::Errno;
use crate::objects::BLOCK_PAGES;
use crate::ports::Ports;
use crate::units::{PAGE_SHIFT, PageRange};

impl<P: Ports> VmMap<P> {
    /// Sets the size of the map's heap segment, rounded up to pages, and returns its start (FreeBSD `brk`).
    ///
    /// The segment begins a quarter into the map's bounds. What it grows by is memory as from [`VmMap::allocate`]; but where that
    /// must be wired and can't be, the segment does not grow (row L-09). What it shrinks by is deallocated, which waits for system
    /// wirings to end.
    ///
    /// # Errors
    /// [`Errno::NoMem`]: the segment would leave the map or meet something else; or it could not be wired.
    ///
    /// # Partial effects
    /// None.
    pub async fn brk(&self, size: u64) -> Result<u64, Errno> {
        let pages = if size == 0 { 0 } else { touched_pages(0, size).ok_or(Errno::NoMem)?.len() };
        let (old, new) = self.locked(|state| {
            let old = state.heap.unwrap_or_else(|| state.empty_heap());
            let end = old.start.checked_add(pages).ok_or(Errno::NoMem)?;
            let new = PageRange::new(old.start, end);
            if new.end < old.end {
                // At once: who grows the segment meanwhile begins here, and finds no place as long as the rest is there.
                state.heap = Some(new);
            }
            Ok((old, new))
        })?;
        if new.end < old.end {
            self.delete(PageRange::new(new.end, old.end), Blocking::SystemWirings).await.map_err(|_| Errno::NoMem)?;
        } else if new.end > old.end {
            self.grow_heap(new, PageRange::new(old.end, new.end)).await?;
        }
        Ok(new.start << PAGE_SHIFT)
    }

    async fn grow_heap(&self, new: PageRange, grown: PageRange) -> Result<(), Errno> {
        let claimed = self.exclusive(|state| {
            state.place(Placement::Fixed(grown.start << PAGE_SHIFT), grown.len()).map_err(|_| Errno::NoMem)?;
            state.entries.insert(grown.start, MapEntry::new(grown.len()));
            let claimed = state.claim_new(grown.start);
            state.entries.merge(PageRange::new(grown.start, grown.start));
            Ok(claimed)
        })?;
        let mut wired = Ok(());
        if let Some(claimed) = claimed {
            wired = self.wire_claimed(claimed, grown).await;
        }
        // Another call may have moved the segment's end while this one wired.
        let is_kept = wired.is_ok()
            && self.locked(|state| {
                let fits = state.heap.unwrap_or_else(|| state.empty_heap()).end == grown.start;
                if fits {
                    state.heap = Some(new);
                }
                fits
            });
        if !is_kept {
            self.delete(grown, Blocking::SystemWirings).await.unwrap_or_default();
            return Err(Errno::NoMem);
        }
        self.debug_check();
        Ok(())
    }
}

impl<P: Ports> MapState<P> {
    fn empty_heap(&self) -> PageRange {
        let start = (self.bounds.start + self.bounds.len() / 4).next_multiple_of(BLOCK_PAGES);
        PageRange::new(start, start)
    }
}
