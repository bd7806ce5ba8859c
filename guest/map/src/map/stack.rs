//! Stacks that grow down.

use super::allocate::NewEntry;
use super::{MapState, Placement, VmMap, touched_pages};
use crate::entry::{EntryKind, MapEntry};
use crate::flags::LockAllFlags;
use crate::kern_return::KernReturn;
use crate::ports::Ports;
use crate::units::{PAGE_SHIFT, PageRange};

impl<P: Ports> VmMap<P> {
    /// Reserves `size` bytes for a stack, rounded up to pages, and returns the lowest address (FreeBSD `vm_map_stack`).
    ///
    /// The uppermost `initial` bytes are memory as from [`VmMap::allocate`]; the rest is a gap. A fault in the gap turns all of it
    /// from the faulting page up into stack; the lowest page is never given away, so that an overflow faults.
    ///
    /// # Errors
    /// As for [`VmMap::allocate`]; also [`KernReturn::InvalidArgument`] unless `initial` is at least one page, and at least one page
    /// is left for the gap.
    ///
    /// # Partial effects
    /// None: an error changes nothing.
    pub async fn stack(&self, placement: Placement, size: u64, initial: u64) -> Result<u64, KernReturn> {
        let pages_of = |bytes| touched_pages(0, bytes).map(PageRange::len).filter(|_| bytes > 0);
        let (Some(pages), Some(initial)) = (pages_of(size), pages_of(initial)) else {
            return Err(KernReturn::InvalidArgument);
        };
        if initial >= pages {
            return Err(KernReturn::InvalidArgument);
        }
        let (start, claimed) = self.exclusive(|state| {
            let start = state.place(placement, pages)?;
            state.entries.insert(start, MapEntry::without_pages(EntryKind::StackGap, pages - initial));
            let stack = MapEntry { kind: EntryKind::Stack, ..MapEntry::new(initial) };
            state.entries.insert(start + (pages - initial), stack);
            Ok((start, state.claim_new(start + (pages - initial))))
        })?;
        self.wire_new(claimed, PageRange::new(start + (pages - initial), start + pages)).await;
        Ok(start << PAGE_SHIFT)
    }
}

impl<P: Ports> MapState<P> {
    /// Lets the stack above the gap that holds `page` grow down to `page` (FreeBSD `vm_map_growstack`). Other operations may have
    /// clipped the gap; its pieces count as one.
    ///
    /// # Errors
    /// - [`KernReturn::ProtectionFailure`]: it is the gap's lowest page, or there is no stack above.
    /// - [`KernReturn::NoSpace`]: future memory is to be wired, and the map's limit does not admit it (row P-09).
    pub(super) fn grow_stack(&mut self, page: u64) -> Result<Growth, KernReturn> {
        let failure = KernReturn::ProtectionFailure;
        let (start, gap) = self.entries.containing(page).ok_or(failure)?;
        let is_gap = |entry: &MapEntry| entry.kind == EntryKind::StackGap;
        let continues_below =
            || start > 0 && self.entries.containing(start - 1).is_some_and(|(_, below)| is_gap(below));
        if page == start && !continues_below() {
            return Err(failure);
        }
        let mut grown = PageRange::new(page, start + gap.pages);
        let above = loop {
            let (next, entry) = self.entries.containing(grown.end).ok_or(failure)?;
            if !is_gap(entry) {
                break entry;
            }
            if entry.transition.is_some() {
                return Ok(Growth::Marked(next));
            }
            grown.end = next + entry.pages;
        };
        if above.kind != EntryKind::Stack {
            return Err(failure);
        }
        let stack = MapEntry {
            kind: EntryKind::Stack,
            prot: above.prot,
            max_prot: above.max_prot,
            inheritance: above.inheritance,
            ..MapEntry::new(grown.len())
        };
        let wires = self.wire_future.contains(LockAllFlags::FUTURE);
        if wires && !self.may_wire(grown.len()) {
            return Err(KernReturn::NoSpace);
        }
        self.entries.split(page);
        while let Some((piece, _)) = self.entries.at_or_after(page)
            && piece < grown.end
        {
            self.entries.remove(piece);
        }
        self.entries.insert(page, stack);
        Ok(Growth::Grown(self.claim_new(page).map(|claimed| (grown, claimed))))
    }
}

/// What became of a stack that was to grow.
pub(super) enum Growth {
    /// It has; what it grew by is to be wired, if it was claimed for that.
    Grown(Option<(PageRange, NewEntry)>),
    /// Another operation holds the piece of the gap that starts with this page.
    Marked(u64),
}
