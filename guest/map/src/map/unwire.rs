//! Unwiring: FreeBSD `vm_map_unwire`.

use super::transition::{Claim, Claims};
use super::{MapState, Step, VmMap};
use crate::entry::MapEntry;
use crate::flags::WireFlags;
use crate::kern_return::KernReturn;
use crate::objects::{Counts, ObjectTable, PinList};
use crate::ports::Ports;
use crate::wait::Wait;

impl<P: Ports> VmMap<P> {
    /// Takes back one wiring of the pages from `start` to `end` (bytes, page-aligned) (FreeBSD
    /// `vm_map_unwire`).
    ///
    /// Takes back the user's wiring with [`WireFlags::USER`], where entries that the user has not wired are left
    /// alone, else one of the system's. Protections don't matter. The host is told once, of all frames
    /// that no wiring is left on.
    ///
    /// # Errors
    /// - [`KernReturn::InvalidArgument`]: `start > end`, unaligned, or an unknown flag; an end of the range lies within a
    ///   large page; or an entry that the system has not wired is to lose a system wiring.
    /// - [`KernReturn::InvalidAddress`]: a page is not allocated, without [`WireFlags::HOLESOK`].
    ///
    /// # Partial effects
    /// None: an error leaves every wiring as it was.
    pub async fn unwire(&self, start: u64, end: u64, flags: WireFlags) -> Result<(), KernReturn> {
        let Some(range) = self.wire_range(start, end, flags)? else { return Ok(()) };
        let mut call = Claims::new(self.begin(), range, flags.allows_holes());
        #[cfg(test)]
        {
            call.is_unwire = true;
        }
        let mut last = PinList::new();
        let result = loop {
            let step = self.exclusive(|state| match self.claim_for_unwire(state, &mut call, flags) {
                Step::Done(claimed) => Step::Done(claimed.map(|()| state.unwire_entries(&call, flags, &mut last))),
                Step::Wait(wait) => Step::Wait(wait),
            });
            match step {
                Step::Wait(wait) => wait.await,
                Step::Done(result) => break result,
            }
        };
        // The marks stay until the host knows, so that no wire of the same entries can overtake this.
        if !last.is_empty() {
            self.unpin(&mut last).await;
        }
        #[cfg(test)]
        self.vm.planted.pause().await;
        let awaited = self.exclusive(|state| state.release(call.range, call.owner, |_| ()));
        #[cfg(test)]
        self.vm.planted.pause().await;
        self.wake_if(awaited);
        self.debug_check();
        result
    }

    /// Marks entry after entry, in address order, and checks each (rows U-01 to U-05).
    fn claim_for_unwire(
        &self,
        state: &mut MapState<P>,
        call: &mut Claims,
        flags: WireFlags,
    ) -> Step<Wait<'_>, Result<(), KernReturn>> {
        loop {
            let start = match self.claim_next(state, call) {
                Ok(Claim::Entry(start)) => start,
                Ok(Claim::Wait(wait)) => return Step::Wait(wait),
                Ok(Claim::End) => return Step::Done(Ok(())),
                Err(error) => return Step::Done(Err(error)),
            };
            // A hole behind the entry is reported rather than what is wrong with the entry (row U-03).
            if Self::meets_hole(state, call) {
                return Step::Done(Err(KernReturn::InvalidAddress));
            }
            let is_system_wired = |entry: &mut MapEntry| entry.system_wired_count() > 0;
            if !flags.is_user() && !state.entries.get_mut(start).is_some_and(is_system_wired) {
                return Step::Done(Err(KernReturn::InvalidArgument));
            }
        }
    }
}

impl<P: Ports> MapState<P> {
    /// Takes the wiring from every entry that the call holds (rows U-06 to U-08) and adds the pages that have none left to `last`.
    fn unwire_entries(&mut self, call: &Claims, flags: WireFlags, last: &mut PinList) {
        let mut uncharged = 0;
        let mut objects = self.vm.objects();
        self.entries.change_starting(call.range, |start, entry| {
            if entry.is_owned_by(call.owner) && (!flags.is_user() || entry.user_wired) {
                if entry.wired_count == 1 {
                    entry.unwire_pages(start, &mut objects.table, &mut self.by_fault, last);
                }
                entry.wired_count -= 1;
                if flags.is_user() {
                    entry.user_wired = false;
                    uncharged += entry.pages;
                }
            }
        });
        self.user_wired_pages -= uncharged;
        self.vm.uncharge(uncharged);
    }
}

impl MapEntry {
    /// Takes the entry's wiring off its pages; those that have none left are added to `last`. It goes by
    /// the objects, not by the page tables, so the protection does not matter (row B-07).
    pub(super) fn unwire_pages(
        &mut self,
        start: u64,
        table: &mut ObjectTable,
        by_fault: &mut Counts,
        last: &mut PinList,
    ) {
        let is_whole = !self.on_fault && self.transition.is_none_or(|mark| mark.wired_to.is_none());
        if let Some(top) = self.object {
            // Mostly it is all of them.
            if is_whole {
                return table.uncount(top, self.object_range(start, self.range(start)), last);
            }
            for pages in self.counted_pages(start, by_fault) {
                table.uncount(top, self.object_range(start, pages), last);
            }
        }
        self.end_on_fault(start, by_fault);
    }

    /// Says that the entry is not wired page by page any more: the map need not know which pages are.
    pub(super) fn end_on_fault(&mut self, start: u64, by_fault: &mut Counts) {
        if self.on_fault {
            by_fault.clear(self.range(start));
        }
        self.on_fault = false;
    }
}

#[cfg(test)]
mod test {
    use crate::fake::{HostCall, block_on};
    use crate::flags::WireFlags;
    use crate::kern_return::KernReturn;
    use crate::map::testing::Bed;
    use crate::units::{FrameRun, Prot};

    const USER: WireFlags = WireFlags::USER;
    const SYSTEM: WireFlags = WireFlags::SYSTEM;
    const HOLESOK: WireFlags = WireFlags::HOLESOK;

    #[test]
    fn a_05_to_a_07_unwire_checks_arguments_as_wire_does() {
        let bed = Bed::of(4);
        let unwire = |start, end, flags| block_on(bed.machine.map.unwire(start, end, flags));
        assert_eq!(unwire(7, 7, WireFlags::from_bits(64)), Ok(()), "A-01 comes first");
        assert_eq!(unwire(bed.at(2), bed.at(1), USER), Err(KernReturn::InvalidArgument));
        assert_eq!(unwire(bed.at(0) + 1, bed.at(1), USER), Err(KernReturn::InvalidArgument));
        assert_eq!(unwire(bed.at(0), bed.at(1), WireFlags::from_bits(8)), Err(KernReturn::InvalidArgument));
        assert_eq!(unwire(0, 0x1000, USER), Err(KernReturn::InvalidAddress), "A-02b");
        assert_eq!(unwire(0, 0x1000, USER | HOLESOK), Ok(()), "A-02b");
        assert_eq!(unwire(0, bed.at(4), USER), Ok(()), "A-02: clamped to the map");
    }

    #[test]
    fn u_03_unwire_over_a_hole_leaves_everything_wired() {
        let bed = Bed::of(2);
        bed.allocate(3, 5);
        assert_eq!(bed.wire(0, 5, USER | HOLESOK), Ok(()));
        assert_eq!(bed.unwire(0, 5, USER), Err(KernReturn::InvalidAddress));
        assert_eq!(bed.unwire(2, 5, USER), Err(KernReturn::InvalidAddress));
        assert_eq!(bed.unwire(3, 6, USER), Err(KernReturn::InvalidAddress));
        assert_eq!((bed.layout().as_str(), bed.wired_by_host()), ("[0,2)1U [3,5)1U", 4));
        assert_eq!(bed.unwire(0, 5, USER | HOLESOK), Ok(()));
        assert_eq!((bed.layout().as_str(), bed.wired_by_host()), ("[0,2)0 [3,5)0", 0));
    }

    #[test]
    fn u_03_hole_behind_an_entry_is_reported_before_its_missing_wiring() {
        let bed = Bed::of(2);
        bed.allocate(3, 5);
        assert_eq!(bed.unwire(0, 5, SYSTEM), Err(KernReturn::InvalidAddress));
        assert_eq!(bed.unwire(0, 2, SYSTEM), Err(KernReturn::InvalidArgument));
    }

    #[test]
    fn u_04_system_unwire_of_an_entry_without_system_wiring_changes_nothing() {
        let bed = Bed::of(6);
        assert_eq!(bed.wire(0, 2, SYSTEM), Ok(()));
        assert_eq!(bed.wire(2, 4, USER), Ok(()));
        assert_eq!(bed.unwire(0, 4, SYSTEM), Err(KernReturn::InvalidArgument));
        assert_eq!(bed.unwire(4, 6, SYSTEM), Err(KernReturn::InvalidArgument));
        assert_eq!(bed.unwire(0, 6, SYSTEM | HOLESOK), Err(KernReturn::InvalidArgument));
        assert_eq!(bed.layout(), "[0,2)1 [2,4)1U [4,6)0");
    }

    #[test]
    fn u_05_user_unwire_leaves_entries_alone_that_the_user_has_not_wired() {
        let bed = Bed::of(6);
        assert_eq!(bed.wire(0, 2, SYSTEM), Ok(()));
        assert_eq!(bed.wire(2, 4, USER), Ok(()));
        assert_eq!(bed.unwire(0, 6, USER), Ok(()));
        assert_eq!((bed.layout().as_str(), bed.wired_by_host()), ("[0,2)1 [2,6)0", 2));
    }

    #[test]
    fn u_06_last_unwire_releases_pages_and_charge_and_tells_the_host_once() {
        let bed = Bed::of(8);
        assert_eq!(bed.wire(0, 8, USER), Ok(()));
        assert_eq!(bed.protect(2, 4, Prot::READ), Ok(()));
        bed.host().take_log();
        assert_eq!(bed.unwire(0, 8, USER), Ok(()));
        assert_eq!(bed.host().take_log(), [HostCall::Unwire([FrameRun::new(0, 8)].to_vec())]);
        assert_eq!((bed.machine.vm.user_wired_pages(), bed.layout().as_str()), (0, "[0,8)0"));
        assert_eq!(bed.machine.map.stats().resident_pages, 8, "pages stay resident");
    }

    #[test]
    fn u_07_unwire_of_a_nested_wiring_counts_down_and_tells_the_host_nothing() {
        let bed = Bed::of(4);
        for _ in 0..3 {
            assert_eq!(bed.wire(0, 4, SYSTEM), Ok(()));
        }
        bed.host().take_log();
        assert_eq!(bed.unwire(1, 3, SYSTEM), Ok(()));
        assert_eq!(bed.unwire(1, 3, SYSTEM), Ok(()));
        assert_eq!((bed.layout().as_str(), bed.host().take_log().len()), ("[0,1)3 [1,3)1 [3,4)3", 0));
        assert_eq!(bed.unwire(0, 4, SYSTEM), Ok(()));
        assert_eq!((bed.layout().as_str(), bed.wired_by_host()), ("[0,1)2 [1,3)0 [3,4)2", 2));
    }

    #[test]
    fn u_08_user_unwire_of_a_mixed_wiring_clears_the_user_bit_alone() {
        let bed = Bed::of(4);
        assert_eq!((bed.wire(0, 4, SYSTEM), bed.wire(0, 4, USER)), (Ok(()), Ok(())));
        assert_eq!(bed.layout(), "[0,4)2U");
        assert_eq!(bed.unwire(0, 4, USER), Ok(()));
        assert_eq!((bed.layout().as_str(), bed.wired_by_host()), ("[0,4)1", 4));
        assert_eq!(bed.unwire(0, 4, USER), Ok(()), "U-05");
        assert_eq!(bed.layout(), "[0,4)1");
    }

    #[test]
    fn l_06_mixed_wirings_in_any_order_leave_the_charge_at_its_baseline() {
        for (first, second) in [(SYSTEM, USER), (USER, SYSTEM)] {
            for (third, fourth) in [(SYSTEM, USER), (USER, SYSTEM)] {
                let bed = Bed::of(4);
                assert_eq!((bed.wire(0, 4, first), bed.wire(0, 4, second)), (Ok(()), Ok(())));
                assert_eq!(bed.machine.vm.user_wired_pages(), 4);
                assert_eq!((bed.unwire(0, 4, third), bed.unwire(0, 4, fourth)), (Ok(()), Ok(())));
                assert_eq!(bed.machine.vm.user_wired_pages(), 0);
            }
        }
    }

    #[test]
    fn c_04_unwire_of_the_middle_merges_three_entries_into_one() {
        let bed = Bed::of(8);
        assert_eq!(bed.wire(3, 5, USER), Ok(()));
        assert_eq!(bed.entries(), "[0,3) [3,5) [5,8)");
        assert_eq!(bed.unwire(3, 5, USER), Ok(()));
        assert_eq!(bed.entries(), "[0,8)");
    }

    #[test]
    fn unwire_failing_leaves_no_clips_behind() {
        let bed = Bed::of(8);
        assert_eq!(bed.unwire(3, 5, SYSTEM), Err(KernReturn::InvalidArgument));
        assert_eq!(bed.entries(), "[0,8)");
    }
}
