//! Changing protections.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::obstacle::Work;
use super::{MapState, Step, VmMap, touched_pages};
use crate::entry::MapEntry;
use crate::kern_return::KernReturn;
use crate::objects::{Found, Objects, Obstacle};
use crate::ports::{Pmap, Ports};
use crate::units::{PageRange, Prot};
use crate::wait::Wait;

impl<P: Ports> VmMap<P> {
    /// Sets what may be done with the pages that `size` bytes from `address` touch (Mach `vm_protect`).
    ///
    /// With `set_maximum` the new protection becomes the most that may ever be permitted, and current
    /// protections are lowered to it. Wirings are kept whatever the protection is: [`Prot::NONE`] unmaps the
    /// pages and they stay wired (rows P-05 and P-06). While an entry of the range is in transition the call
    /// waits and starts again (row P-07); so it does while an operation brings pages of the map in (row T-10). User-wired pages
    /// that others see too are copied when they become writable, and the wiring moves to the copies (row P-03). A size of 0
    /// changes nothing.
    ///
    /// # Errors
    /// - [`KernReturn::InvalidArgument`]: address and size wrap; or an end of the range lies within a large page.
    /// - [`KernReturn::InvalidAddress`]: a page of the range is not allocated.
    /// - [`KernReturn::ProtectionFailure`]: an entry's maximum does not permit the protection.
    /// - [`KernReturn::ResourceShortage`]: wired pages must be copied, and guest memory is used up or the host can't hold the
    ///   copies.
    ///
    /// Of several errors the one at the lowest address is returned.
    ///
    /// # Partial effects
    /// None that an access could tell: the whole range is checked, and what must be copied is, before anything changes.
    pub async fn protect(&self, address: u64, size: u64, set_maximum: bool, prot: Prot) -> Result<(), KernReturn> {
        if size == 0 {
            return Ok(());
        }
        let range = touched_pages(address, size).ok_or(KernReturn::InvalidArgument)?;
        let result = loop {
            match self.exclusive(|state| self.protect_step(state, range, set_maximum, prot)) {
                Step::Wait(Unlocked::Wait(wait)) => wait.await,
                Step::Wait(Unlocked::Copy(work)) => {
                    if let Err(error) = self.overcome(work).await {
                        break Err(error);
                    }
                }
                Step::Done(result) => break result,
            }
        };
        // What was clipped for a change that did not come about is one entry again.
        if result.is_err() {
            self.exclusive(|state| state.entries.merge(range));
        }
        self.debug_check();
        result
    }

    fn protect_step(
        &self,
        state: &mut MapState<P>,
        range: PageRange,
        set_maximum: bool,
        prot: Prot,
    ) -> Step<Unlocked<'_>, Result<(), KernReturn>> {
        let wait = self.wait_busy(state);
        #[cfg(test)]
        let wait = wait.filter(|_| !self.vm.planted.has(crate::planted::Mutant::ProtectIgnoresMarks));
        if let Some(wait) = wait {
            return Step::Wait(Unlocked::Wait(wait));
        }
        if let Err(error) = state.may_protect(range, prot) {
            return Step::Done(Err(error));
        }
        let in_transition = state.entries.meeting(range).find(|(_, entry)| entry.transition.is_some());
        #[cfg(test)]
        let in_transition = in_transition.filter(|_| !self.vm.planted.has(crate::planted::Mutant::ProtectIgnoresMarks));
        if let Some(start) = in_transition.map(|(start, _)| start)
            && let Some(entry) = state.entries.get_mut(start)
        {
            return Step::Wait(Unlocked::Wait(self.wait_for(entry)));
        }
        if let Err(error) = state.clip(range.start).and_then(|()| state.clip(range.end)) {
            return Step::Done(Err(error));
        }
        if !set_maximum && prot.contains(Prot::WRITE) {
            match self.copy_wired(state, range) {
                Ok(None) => {}
                Ok(Some(work)) => return Step::Wait(Unlocked::Copy(work)),
                Err(error) => return Step::Done(Err(error)),
            }
        }
        state.apply_protection(range, set_maximum, prot);
        Step::Done(Ok(()))
    }

    /// Begins to copy what user-wired entries of `range` show of objects below, for they are about to become writable, and a
    /// wired page must not be copied at the first write (row P-03).
    fn copy_wired(&self, state: &mut MapState<P>, range: PageRange) -> Result<Option<Work<'_>>, KernReturn> {
        let mut at = range.start;
        while let Some((start, entry)) = state.entries.at_or_after(at)
            && start < range.end
        {
            at = start + entry.pages;
            if !entry.user_wired || entry.prot.contains(Prot::WRITE) || entry.object.is_none() {
                continue;
            }
            state.make_private(start);
            let MapState { entries, by_fault, busy, .. } = state;
            let Some(entry) = entries.get_mut(start) else { continue };
            let Some(top) = entry.object else { continue };
            let mut objects = self.vm.objects();
            for pages in entry.counted_pages(start, by_fault) {
                let indices = entry.object_range(start, pages);
                let transfer = objects.begin_transfer(self.vm.frames(), top, indices);
                let transfer = transfer.map_err(|_| KernReturn::ResourceShortage)?;
                if transfer.frames().is_empty() {
                    objects.give_up_transfer(transfer, self.vm.frames());
                } else {
                    return self.work(busy, Obstacle::Transfer(transfer)).map(Some);
                }
            }
        }
        Ok(None)
    }
}

/// What a change of protection does with the map unlocked.
enum Unlocked<'a> {
    Wait(Wait<'a>),
    /// Copies wired pages (row P-03).
    Copy(Work<'a>),
}

impl<P: Ports> MapState<P> {
    /// Checks that `range` has no hole and that every entry may get `prot`.
    fn may_protect(&self, range: PageRange, prot: Prot) -> Result<(), KernReturn> {
        let mut page = range.start;
        for (start, entry) in self.entries.meeting(range) {
            if start > page {
                return Err(KernReturn::InvalidAddress);
            }
            if !entry.max_prot.contains(prot) {
                return Err(KernReturn::ProtectionFailure);
            }
            page = start + entry.pages;
        }
        if page < range.end { Err(KernReturn::InvalidAddress) } else { Ok(()) }
    }

    fn apply_protection(&mut self, range: PageRange, set_maximum: bool, prot: Prot) {
        // Neighbours that get the same protection change in one go, so that a 2 MiB mapping which they share is not
        // split.
        let mut changed: Option<(PageRange, Prot)> = None;
        let mut page = range.start;
        while let Some((start, _)) = self.entries.at_or_after(page)
            && start < range.end
            && let Some(entry) = self.entries.get_mut(start)
        {
            let old = entry.prot;
            if set_maximum {
                entry.max_prot = prot;
                entry.prot = entry.prot & prot;
            } else {
                entry.prot = prot;
            }
            let (new, pages) = (entry.prot, PageRange::new(start, start + entry.pages));
            page = pages.end;
            if new == old {
                continue;
            }
            match &mut changed {
                Some((before, prot)) if before.end == start && *prot == new => before.end = pages.end,
                _ => {
                    if let Some((before, prot)) = changed.replace((pages, new)) {
                        self.show_protection(before, prot);
                    }
                }
            }
        }
        if let Some((before, prot)) = changed {
            self.show_protection(before, prot);
        }
        self.entries.merge(range);
    }

    /// Tells whether a manager forbids something on one of the resident pages.
    fn meets_forbidden(&self, objects: &Objects<P>, pages: PageRange) -> bool {
        self.entries.meeting(pages).any(|(start, entry)| {
            let Some(window) = entry.window(start, entry.range(start).intersection(pages)) else { return false };
            let mut forbids = false;
            objects.table.for_each(window.object, window.indices, |_, found| {
                forbids |= matches!(found, Found::Resident { extent, .. } if !extent.denied().is_none());
            });
            forbids
        })
    }

    /// Gives the mappings of `pages` the rights `prot`, but for the right to write what others see too.
    fn show_protection(&mut self, pages: PageRange, prot: Prot) {
        let vm = Arc::clone(&self.vm);
        let mut objects = vm.objects();
        if self.meets_forbidden(&objects, pages) {
            // What a manager forbids, or a fork does for a while, is not the entry's to permit: the next fault asks, and maps what it may.
            return self.unmap(&mut objects, pages);
        }
        let shares = |(_, entry): (u64, &MapEntry)| {
            entry.needs_copy || entry.object.is_some_and(|top| objects.table[top].backing.is_some())
        };
        if !prot.contains(Prot::WRITE) || !self.entries.meeting(pages).any(shares) {
            return self.reprotect(&mut objects, pages, prot);
        }
        self.reprotect(&mut objects, pages, prot.without(Prot::WRITE));
        // Whatever the map owns already is opened again; the marks are taken first, for an entered page starts clean.
        self.collect_dirty(&mut objects, pages);
        for (start, entry) in self.entries.meeting(pages) {
            if let Some(window) = entry.window(start, entry.range(start).intersection(pages)) {
                for (page, run, rights) in objects.table.mappings(window).collect::<Vec<_>>() {
                    if rights.contains(Prot::WRITE) {
                        // Where no table can be had the next fault does it.
                        objects
                            .pmap(self.space)
                            .protect(PageRange::new(page, page + run.pages), rights)
                            .unwrap_or_default();
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod test {
    use crate::fake::block_on;
    use crate::flags::{SyncFlags, WireFlags};
    use crate::kern_return::KernReturn;
    use crate::map::testing::Bed;
    use crate::units::Prot;

    #[test]
    fn protect_hole_is_invalid_address_and_changes_nothing() {
        let bed = Bed::of(2);
        bed.allocate(3, 5);
        for (start, end) in [(0, 3), (0, 5), (2, 3), (4, 6)] {
            assert_eq!(bed.protect(start, end, Prot::READ), Err(KernReturn::InvalidAddress), "[{start},{end})");
        }
        assert_eq!(bed.write(0, 1), Ok(()));
        assert_eq!(bed.entries(), "[0,2) [3,5)");
    }

    #[test]
    fn protect_beyond_the_maximum_is_protection_failure_and_changes_nothing() {
        let bed = Bed::of(4);
        assert_eq!(block_on(bed.machine.map.protect(bed.at(2), 1, true, Prot::READ)), Ok(()));
        assert_eq!(bed.protect(0, 4, Prot::DEFAULT), Err(KernReturn::ProtectionFailure));
        let raise = block_on(bed.machine.map.protect(bed.at(2), 1, true, Prot::DEFAULT));
        assert_eq!(raise, Err(KernReturn::ProtectionFailure), "a maximum never grows");
        assert_eq!(bed.protect(0, 4, Prot::READ), Ok(()));
        assert_eq!(bed.entries(), "[0,2) [2,3) [3,4)", "the maxima still differ");
    }

    #[test]
    fn protect_maximum_lowers_the_current_protection() {
        let bed = Bed::of(2);
        assert_eq!(bed.write(0, 7), Ok(()));
        assert_eq!(block_on(bed.machine.map.protect(bed.at(0), 1, true, Prot::READ | Prot::EXECUTE)), Ok(()));
        let entry = bed.machine.map.entries()[0];
        assert_eq!((entry.prot, entry.max_prot), (Prot::READ, Prot::READ | Prot::EXECUTE));
        assert_eq!((bed.write(0, 8), bed.read(0)), (Err(KernReturn::ProtectionFailure), Ok(7)));
    }

    #[test]
    fn protect_wrap_is_invalid_argument_and_size_zero_succeeds() {
        let bed = Bed::of(2);
        let protect = |address, size| block_on(bed.machine.map.protect(address, size, false, Prot::READ));
        assert_eq!(protect(u64::MAX, 2), Err(KernReturn::InvalidArgument));
        assert_eq!(protect(u64::MAX, 0), Ok(()));
        assert_eq!(protect(bed.at(0) + 4095, 2), Ok(()), "touches two pages");
        assert_eq!(bed.write(1, 1), Err(KernReturn::ProtectionFailure));
    }

    #[test]
    fn p_05_protect_none_on_a_wired_entry_keeps_the_wiring_and_unwire_works() {
        let bed = Bed::of(4);
        assert_eq!(bed.write(1, 9), Ok(()));
        assert_eq!(bed.wire(0, 4, WireFlags::USER), Ok(()));
        assert_eq!(bed.protect(0, 4, Prot::NONE), Ok(()));
        assert_eq!((bed.layout().as_str(), bed.wired_by_host()), ("[0,4)1U", 4));
        assert!(!bed.is_mapped(1));
        assert_eq!(bed.read(1), Err(KernReturn::ProtectionFailure));
        assert_eq!(bed.unwire(0, 4, WireFlags::USER), Ok(()));
        assert_eq!((bed.layout().as_str(), bed.wired_by_host()), ("[0,4)0", 0));
        assert_eq!(bed.protect(0, 4, Prot::READ), Ok(()));
        assert_eq!(bed.read(1), Ok(9));
    }

    #[test]
    fn p_06_protect_removing_write_keeps_the_wiring_and_the_dirty_mark() {
        let bed = Bed::of(4);
        assert_eq!(bed.wire(0, 4, WireFlags::USER), Ok(()));
        assert_eq!(bed.write(2, 9), Ok(()));
        assert_eq!(bed.protect(0, 4, Prot::READ), Ok(()));
        assert_eq!(bed.layout(), "[0,4)1U");
        assert!(bed.is_mapped(2));
        assert_eq!(bed.write(2, 1), Err(KernReturn::ProtectionFailure));
        assert_eq!(bed.msync(0, 4, SyncFlags::SYNCHRONOUS), Ok(()));
        assert_eq!(bed.stable(2), Some(9));
    }

    #[test]
    fn protect_back_merges_the_entries_again() {
        let bed = Bed::of(6);
        assert_eq!(bed.protect(2, 4, Prot::READ), Ok(()));
        assert_eq!(bed.entries(), "[0,2) [2,4) [4,6)");
        assert_eq!(bed.protect(0, 6, Prot::DEFAULT), Ok(()));
        assert_eq!(bed.entries(), "[0,6)");
    }

    #[test]
    fn protect_part_of_a_2_mib_mapping_without_a_table_unmaps_the_block() {
        let bed = Bed::new();
        bed.allocate(496, 1008);
        assert_eq!(bed.wire(496, 1008, WireFlags::USER), Ok(()));
        assert_eq!(bed.write(500, 3), Ok(()));
        bed.machine.map.with_pmap(|pmap| pmap.limit_tables(Some(0)));
        assert_eq!(bed.protect(600, 610, Prot::READ), Ok(()));
        assert!(!bed.is_mapped(500) && !bed.is_mapped(600));
        assert_eq!(bed.write(600, 1), Err(KernReturn::ProtectionFailure));
        bed.machine.map.with_pmap(|pmap| pmap.limit_tables(None));
        assert_eq!(bed.read(500), Ok(3));
        assert_eq!(bed.msync(496, 1008, SyncFlags::SYNCHRONOUS), Ok(()));
        assert_eq!(bed.stable(500), Some(3), "the mark of the unmapped block is not lost");
    }
}
