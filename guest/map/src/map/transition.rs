//! The transition protocol: who marks an entry *in transition* owns it until the mark goes.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{MapState, VmMap};
use crate::entry::{EntryKind, MapEntry, OperationId, Transition};
use crate::kern_return::KernReturn;
use crate::objects::{BLOCK_PAGES, ObjectId, Objects, Pager, VmObject};
use crate::ports::Ports;
use crate::units::PageRange;
use crate::wait::Wait;

/// A call that marks the entries of a range, one after the other in address order. As every such call goes
/// upwards and holds what it has marked, no two can wait for each other.
pub(super) struct Claims {
    pub(super) owner: OperationId,
    pub(super) range: PageRange,
    /// Holes are passed over.
    pub(super) allows_holes: bool,
    /// Everything of the range before this page is claimed.
    cursor: u64,
    #[cfg(test)]
    pub(super) is_unwire: bool,
    /// The entry that was waited for, as it was.
    #[cfg(test)]
    waited: Option<PageRange>,
}

impl Claims {
    pub(super) const fn new(owner: OperationId, range: PageRange, allows_holes: bool) -> Self {
        Self {
            owner,
            range,
            allows_holes,
            cursor: range.start,
            #[cfg(test)]
            is_unwire: false,
            #[cfg(test)]
            waited: None,
        }
    }
}

/// What [`VmMap::claim_next`] found.
pub(super) enum Claim<'a> {
    /// The entry that starts with this page is the call's now.
    Entry(u64),
    /// Another call holds the next entry.
    Wait(Wait<'a>),
    /// The range is claimed to its end.
    End,
}

impl<P: Ports> VmMap<P> {
    /// Clips and marks the next entry of a call's range (rows W-01, W-02, U-01, U-02).
    ///
    /// # Errors
    /// - [`KernReturn::InvalidAddress`] at a hole that the call does not allow: at the start of the range, where
    ///   an entry was waited for, or behind the entry claimed last (rows A-03, T-04, W-10, U-03).
    /// - [`KernReturn::InvalidArgument`] where the range ends within a 2 MiB page of an entry of large pages (row A-08).
    #[inline(always)]
    pub(super) fn claim_next(&self, state: &mut MapState<P>, call: &mut Claims) -> Result<Claim<'_>, KernReturn> {
        if call.cursor == call.range.end {
            return Ok(Claim::End);
        }
        #[cfg(test)]
        if call.waited.is_some() && self.vm.planted.has(crate::planted::Mutant::TrustsPlaceAfterWait) {
            return self.claim_searched(state, call);
        }
        // Mostly an entry begins there which is free, and ends within the range. Clipping hands the mark to both parts, so it is set
        // where nothing is to be clipped any more (row W-02).
        let first = call.cursor;
        if let Some(entry) = state.entries.get_mut(first)
            && entry.transition.is_none_or(|mark| mark.owner == call.owner)
            && first + entry.pages <= call.range.end
        {
            entry.transition = Some(Transition::new(call.owner));
            call.cursor = first + entry.pages;
            return Ok(Claim::Entry(first));
        }
        self.claim_searched(state, call)
    }

    /// As [`VmMap::claim_next`], for an entry that must be looked for, waited for or clipped.
    fn claim_searched(&self, state: &mut MapState<P>, call: &mut Claims) -> Result<Claim<'_>, KernReturn> {
        #[cfg(test)]
        if let Some(known) = call.waited.take()
            && self.vm.planted.has(crate::planted::Mutant::TrustsPlaceAfterWait)
            && state.entries.get_mut(known.start).is_none_or(|entry| entry.transition.is_none())
        {
            if let Some(entry) = state.entries.get_mut(known.start) {
                entry.transition = Some(Transition::new(call.owner));
            }
            call.cursor = known.end.min(call.range.end);
            return Ok(Claim::Entry(known.start));
        }
        let found = state.entries.at_or_after(call.cursor).map(|(start, entry)| (start, start + entry.pages));
        let next = found.filter(|&(start, _)| start < call.range.end);
        if next.is_none_or(|(start, _)| start > call.cursor) && !call.allows_holes {
            return Err(KernReturn::InvalidAddress);
        }
        let Some((start, end)) = next else { return Ok(Claim::End) };
        call.cursor = call.cursor.max(start);
        let first = call.cursor;
        match state.entries.get_mut(start) {
            Some(entry) if entry.transition.is_some_and(|mark| mark.owner != call.owner) => {
                #[cfg(test)]
                {
                    call.waited = Some(PageRange::new(first, end));
                    if call.is_unwire && self.vm.planted.has(crate::planted::Mutant::UnwireSkipsMarked) {
                        call.cursor = end.min(call.range.end);
                        return Ok(Claim::Entry(first));
                    }
                }
                return Ok(Claim::Wait(self.wait_for(entry)));
            }
            Some(entry) if start == first && end <= call.range.end => {
                entry.transition = Some(Transition::new(call.owner));
                call.cursor = end;
                return Ok(Claim::Entry(first));
            }
            _ => {}
        }
        state.clip(first)?;
        if end > call.range.end {
            state.clip(call.range.end)?;
        }
        if let Some(entry) = state.entries.get_mut(first) {
            entry.transition = Some(Transition::new(call.owner));
            call.cursor += entry.pages;
        }
        Ok(Claim::Entry(first))
    }

    /// Tells whether a hole that the call does not allow follows the entry claimed last.
    pub(super) fn meets_hole(state: &MapState<P>, call: &Claims) -> bool {
        call.cursor < call.range.end && !call.allows_holes && state.entries.containing(call.cursor).is_none()
    }

    /// Begins to wait until something happens to `entry`. The request stands on the entry before the lock
    /// is dropped (row T-02). Afterwards everything must be looked up again by address (rows T-03 to
    /// T-06): this crate never keeps a place in the map over a wait, so it need not compare timestamps.
    pub(super) fn wait_for(&self, entry: &mut MapEntry) -> Wait<'_> {
        entry.needs_wakeup = true;
        self.transitions.wait()
    }

    /// Wakes all who wait, if somebody waits for one of the entries that were let go (rows T-02, W-11). The map
    /// must be unlocked, for a waker may call it.
    pub(super) fn wake_if(&self, awaited: bool) {
        if awaited {
            self.transitions.wake_all();
        }
    }
}

impl<P: Ports> MapState<P> {
    /// Makes `page` the first page of its entry, if it is in one (rows C-01, N3).
    ///
    /// # Errors
    /// [`KernReturn::InvalidArgument`] where that would cut a large page or a submap; nothing is changed then (row A-08).
    pub(super) fn clip(&mut self, page: u64) -> Result<(), KernReturn> {
        let Some((start, entry)) = self.entries.containing(page) else { return Ok(()) };
        if start == page {
            return Ok(());
        }
        let would_be_cut = match entry.kind {
            EntryKind::LargePages => !page.is_multiple_of(BLOCK_PAGES),
            EntryKind::Submap => true,
            _ => false,
        };
        if would_be_cut {
            return Err(KernReturn::InvalidArgument);
        }
        self.ensure_object(start);
        self.entries.split(page);
        Ok(())
    }

    /// Returns the object of the entry that starts with page `start`, made now if there was none; none for an entry that can't
    /// hold pages.
    pub(super) fn ensure_object(&mut self, start: u64) -> Option<ObjectId> {
        let vm = Arc::clone(&self.vm);
        self.ensure_object_in(&mut vm.objects(), start)
    }

    /// As [`MapState::ensure_object`], with the objects locked.
    pub(super) fn ensure_object_in(&mut self, objects: &mut Objects<P>, start: u64) -> Option<ObjectId> {
        let entry = self.entries.get_mut(start)?;
        if entry.object.is_none() && entry.kind.has_pages() {
            // The entry may be the front of a longer one that was clipped before it had an object: any page may follow.
            let id = objects.table.add(VmObject::new(Pager::Ram, u64::MAX));
            let indices = entry.object_range(start, entry.range(start));
            objects.table.show(id, self.space, start, indices);
            entry.object = Some(id);
        }
        entry.object
    }

    /// Gives the entry that starts with page `start` an object that only it writes (FreeBSD `vm_object_shadow`): the one it has,
    /// if nobody else sees that, or a shadow. The entry's wirings come along.
    ///
    /// That nobody else sees the object can't change before the map is unlocked: only who shows it can have others show it.
    pub(super) fn make_private(&mut self, start: u64) {
        let vm = Arc::clone(&self.vm);
        self.make_private_in(&mut vm.objects(), start);
    }

    /// As [`MapState::make_private`], with the objects locked.
    pub(super) fn make_private_in(&mut self, objects: &mut Objects<P>, start: u64) {
        let space = self.space;
        let Some(entry) = self.entries.get_mut(start) else { return };
        let Some(old) = entry.object.filter(|_| entry.needs_copy) else { return };
        entry.needs_copy = false;
        let table = &mut objects.table;
        if table.is_unshared(old) && !table[old].is_external() {
            return;
        }
        let indices = entry.object_range(start, entry.range(start));
        let new = table.add_shadow(old, indices);
        let counted: Vec<PageRange> = entry.counted_pages(start, &self.by_fault).collect();
        for pages in &counted {
            table.uncount_only(old, entry.object_range(start, *pages));
        }
        (entry.object, entry.offset) = (Some(new), 0);
        let fresh = entry.object_range(start, entry.range(start));
        for pages in &counted {
            table.count(new, entry.object_range(start, *pages));
        }
        table.show(new, space, start, fresh);
        table.hide(old, space, start, indices, self.vm.frames());
    }

    /// Ends a call's ownership: `finish` does its last work on each entry of `range` that `owner` holds; then the
    /// marks go and what can be merged is (rows T-01, W-11). Tells whether somebody waits for one of the entries.
    #[must_use]
    #[inline(always)]
    pub(super) fn release(
        &mut self,
        range: PageRange,
        owner: OperationId,
        mut finish: impl FnMut(&mut MapEntry),
    ) -> bool {
        let mut awaited = false;
        self.entries.change_and_merge(range, |_, entry| {
            let owned = entry.is_owned_by(owner);
            #[cfg(test)]
            let owned = owned
                || entry.transition.is_some() && self.vm.planted.has(crate::planted::Mutant::ReleaseClearsForeignMarks);
            if owned {
                finish(entry);
                entry.transition = None;
                awaited |= core::mem::take(&mut entry.needs_wakeup);
            }
        });
        #[cfg(test)]
        let awaited = awaited && !self.vm.planted.has(crate::planted::Mutant::ReleaseForgetsToWake);
        awaited
    }
}

#[cfg(test)]
mod test;
