//! Changing protections.

use super::{MapState, Step, VmMap, touched_pages};
use crate::kern_return::KernReturn;
use crate::ports::Ports;
use crate::units::{PageRange, Prot};
use crate::wait::Wait;

impl<P: Ports> VmMap<P> {
    /// Sets what may be done with the pages that `size` bytes from `address` touch (Mach `vm_protect`).
    ///
    /// With `set_maximum` the new protection becomes the most that may ever be permitted, and current
    /// protections are lowered to it. Wirings are kept whatever the protection is: [`Prot::NONE`] unmaps the
    /// pages and they stay wired (rows P-05 and P-06). While an entry of the range is in transition the call
    /// waits and starts again (row P-07). A size of 0 changes nothing.
    ///
    /// # Errors
    /// - [`KernReturn::InvalidArgument`]: address and size wrap.
    /// - [`KernReturn::InvalidAddress`]: a page of the range is not allocated.
    /// - [`KernReturn::ProtectionFailure`]: an entry's maximum does not permit the protection.
    ///
    /// Of several errors the one at the lowest address is returned.
    ///
    /// # Partial effects
    /// None: the whole range is checked before anything changes.
    pub async fn protect(&self, address: u64, size: u64, set_maximum: bool, prot: Prot) -> Result<(), KernReturn> {
        if size == 0 {
            return Ok(());
        }
        let range = touched_pages(address, size).ok_or(KernReturn::InvalidArgument)?;
        loop {
            match self.exclusive(|state| self.protect_step(state, range, set_maximum, prot)) {
                Step::Wait(wait) => wait.await,
                Step::Done(result) => {
                    self.debug_check();
                    return result;
                }
            }
        }
    }

    fn protect_step(
        &self,
        state: &mut MapState<P>,
        range: PageRange,
        set_maximum: bool,
        prot: Prot,
    ) -> Step<Wait<'_>, Result<(), KernReturn>> {
        if let Err(error) = state.may_protect(range, prot) {
            return Step::Done(Err(error));
        }
        let in_transition = state.entries.meeting(range).find(|(_, entry)| entry.transition.is_some());
        if let Some(start) = in_transition.map(|(start, _)| start)
            && let Some(entry) = state.entries.get_mut(start)
        {
            return Step::Wait(self.wait_for(entry));
        }
        state.apply_protection(range, set_maximum, prot);
        Step::Done(Ok(()))
    }
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
        self.entries.split(range.start);
        self.entries.split(range.end);
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
                        self.reprotect(before, prot);
                    }
                }
            }
        }
        if let Some((before, prot)) = changed {
            self.reprotect(before, prot);
        }
        self.entries.merge(range);
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
