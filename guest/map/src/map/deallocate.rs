//! Deallocation, one range or everything.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::pin::Pin;

use super::{MapState, Step, VmMap, touched_pages};
use crate::entry::{MapEntry, OperationId, Transition};
use crate::kern_return::KernReturn;
use crate::objects::{Found, Objects, PinList};
use crate::ports::{Frames, Ports};
use crate::units::PageRange;
use crate::wait::Wait;

/// A deallocation under way.
pub(super) type Delete<'a> = Pin<Box<dyn Future<Output = Result<(), KernReturn>> + Send + 'a>>;

/// Whose wirings hold an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Blocking {
    /// The system's: wait until they end (row D-01).
    SystemWirings,
    /// Nobody's: the map ends, and so do all wirings.
    Nothing,
}

impl<P: Ports> VmMap<P> {
    /// Deallocates the pages that `size` bytes from `address` touch (Mach `vm_deallocate`, FreeBSD
    /// `vm_map_delete`).
    ///
    /// Holes are passed over. User wirings end implicitly: the host is told before the mappings go (row D-02).
    /// **A system wiring blocks the call until it ends**, as does an operation or a write to stable storage
    /// that is under way on the pages (row D-01); what lies at lower addresses is gone by then. A submap goes with all that is
    /// mapped in it, whose wirings count likewise. A size of 0 does nothing.
    ///
    /// # Errors
    /// - [`KernReturn::InvalidArgument`]: address and size wrap; or an end of the range lies within a large page or a submap.
    ///
    /// # Partial effects
    /// None but those of the waiting; where the end lies within a large page or a submap, what lies before that entry is gone.
    pub async fn deallocate(&self, address: u64, size: u64) -> Result<(), KernReturn> {
        if size == 0 {
            return Ok(());
        }
        let range = touched_pages(address, size).ok_or(KernReturn::InvalidArgument)?;
        self.delete(range, Blocking::SystemWirings).await
    }

    /// Deallocates everything, system wirings included: for the end of the address space, when whoever held
    /// them is gone. Operations that are under way are waited for.
    pub async fn destroy(&self) {
        // The map's bounds cut nothing.
        self.delete(self.bounds, Blocking::Nothing).await.unwrap_or_default();
    }

    pub(super) async fn delete(&self, range: PageRange, blocking: Blocking) -> Result<(), KernReturn> {
        let owner = self.begin();
        let mut cursor = range.start;
        let mut result = Ok(());
        while cursor < range.end {
            let rest = PageRange::new(cursor, range.end);
            match self.exclusive(|state| self.claim_for_delete(state, rest, owner, blocking)) {
                Step::Wait(wait) => wait.await,
                Step::Done((claimed, last, outcome)) => {
                    self.delete_claimed(claimed, owner, blocking, last).await;
                    cursor = claimed.end;
                    if outcome.is_err() {
                        // What was clipped and stays is one entry again.
                        self.exclusive(|state| state.entries.merge(range));
                        result = outcome;
                        break;
                    }
                }
            }
        }
        self.debug_check();
        result
    }

    /// Deletes the entries of `range` that `owner` has claimed for that, and nothing else; `last` is what the host need not hold
    /// any more.
    pub(super) async fn delete_claimed(
        &self,
        range: PageRange,
        owner: OperationId,
        blocking: Blocking,
        mut last: PinList,
    ) {
        self.unpin(&mut last).await;
        #[cfg(test)]
        self.vm.planted.pause().await;
        self.detach_submaps(range, owner, blocking).await;
        self.tear_down(range, owner).await;
    }

    /// Marks and unwires all entries of `range` at once, or none while one of them must be waited for. Returns the pages that the
    /// host need not hold any more.
    ///
    /// # Errors
    /// [`KernReturn::InvalidArgument`] where an end of the range lies within a large page or a submap; nothing is changed then.
    pub(super) fn claim_all_for_delete(
        &self,
        state: &mut MapState<P>,
        range: PageRange,
        owner: OperationId,
    ) -> Step<Wait<'_>, Result<PinList, KernReturn>> {
        let is_blocking = |entry: &MapEntry| entry.transition.is_some() || entry.system_wired_count() > 0;
        let blocking = state.entries.meeting(range).find(|(_, entry)| is_blocking(entry)).map(|(start, _)| start);
        if let Some(entry) = blocking.and_then(|start| state.entries.get_mut(start)) {
            return Step::Wait(self.wait_for(entry));
        }
        if let Err(error) = state.clip(range.start).and_then(|()| state.clip(range.end)) {
            state.entries.merge(range);
            return Step::Done(Err(error));
        }
        match self.claim_for_delete(state, range, owner, Blocking::SystemWirings) {
            Step::Wait(wait) => Step::Wait(wait),
            Step::Done((_, last, outcome)) => Step::Done(outcome.map(|()| last)),
        }
    }

    /// Marks and unwires entries of `range` up to the first that must be waited for. Returns the part of the
    /// range that needs no more claiming, the pages that the host need not hold any more, and why there is no more to come;
    /// waits if that part is empty.
    fn claim_for_delete(
        &self,
        state: &mut MapState<P>,
        range: PageRange,
        owner: OperationId,
        blocking: Blocking,
    ) -> Step<Wait<'_>, (PageRange, PinList, Result<(), KernReturn>)> {
        let mut last = PinList::new();
        let mut cursor = range.start;
        while let Some((start, _)) = state.entries.at_or_after(cursor)
            && start < range.end
        {
            let first = cursor.max(start);
            let end = start + state.entries.get_mut(start).map_or(0, |entry| entry.pages);
            // Before anything else, so that nobody waits for pages that stay.
            let clipped = state.clip(first).and_then(|()| if end > range.end { state.clip(range.end) } else { Ok(()) });
            if clipped.is_err() {
                return Step::Done((PageRange::new(range.start, first), last, clipped));
            }
            let Some(entry) = state.entries.get_mut(first) else { break };
            let wired = blocking == Blocking::SystemWirings && entry.system_wired_count() > 0;
            #[cfg(test)]
            let wired = wired && !self.vm.planted.has(crate::planted::Mutant::DeallocateIgnoresSystemWirings);
            if entry.transition.is_some() || wired {
                if cursor == range.start {
                    return Step::Wait(self.wait_for(entry));
                }
                return Step::Done((PageRange::new(range.start, first), last, Ok(())));
            }
            entry.transition = Some(Transition::new(owner));
            if entry.wired_count > 0 {
                entry.unwire_pages(first, &mut self.vm.objects().table, &mut state.by_fault, &mut last);
                if entry.user_wired {
                    state.user_wired_pages -= entry.pages;
                    self.vm.uncharge(entry.pages);
                }
                entry.user_wired = false;
                entry.wired_count = 0;
            }
            cursor = first + entry.pages;
        }
        Step::Done((range, last, Ok(())))
    }

    /// Unmaps and removes the entries of `range` that `owner` holds, once no page of them is being written to
    /// stable storage or copied by a fork.
    async fn tear_down(&self, range: PageRange, owner: OperationId) {
        loop {
            let step = self.exclusive(|state| {
                // Begun before the look: a write ends under the objects' lock alone.
                let wait = self.vm.idle().wait();
                // And one hold for both, for other maps may sync the same objects.
                let mut objects = self.vm.objects();
                if state.is_still_needed(&objects, range, owner) {
                    Step::Wait(wait)
                } else {
                    Step::Done(state.remove_entries(&mut objects, range, owner))
                }
            });
            match step {
                Step::Wait(wait) => wait.await,
                Step::Done(awaited) => return self.wake_if(awaited),
            }
        }
    }
}

impl<P: Ports> MapState<P> {
    /// Tells whether pages of the owner's entries are being written to stable storage, or a fork is to copy them.
    fn is_still_needed(&self, objects: &Objects<P>, range: PageRange, owner: OperationId) -> bool {
        let mut is_busy = false;
        for (start, entry) in self.entries.meeting(range).filter(|(_, entry)| entry.is_owned_by(owner)) {
            if let Some(top) = entry.object {
                objects.table.for_each(top, entry.object_range(start, entry.range(start)), |_, found| {
                    is_busy |= matches!(found, Found::Resident { extent, .. } if extent.cleaning || extent.still > 0);
                });
            }
        }
        is_busy
    }

    /// Removes the owner's entries of `range`; tells whether somebody waits for one of them.
    fn remove_entries(&mut self, objects: &mut Objects<P>, range: PageRange, owner: OperationId) -> bool {
        let vm = Arc::clone(&self.vm);
        let mut wake = false;
        let mut page = range.start;
        let is_owned = |entry: &MapEntry| entry.is_owned_by(owner);
        while let Some(owned) = self.entries.next_where(PageRange::new(page, range.end), is_owned) {
            // In one go, so that a 2 MiB mapping which several of the entries share is not split. The marks go
            // into the objects while the entries are still there; neighbours may need them.
            self.unmap(objects, owned);
            page = owned.start;
            while page < owned.end
                && let Some(entry) = self.entries.remove(page)
            {
                wake |= entry.needs_wakeup;
                self.submaps.remove(&page);
                if let Some(object) = entry.object {
                    let whole = entry.object_range(page, entry.range(page));
                    if objects.table.is_unshared(object) && !objects.table[object].is_external() {
                        objects.table[object].resident.remove_unwired(whole, |run| vm.frames().free(run));
                    }
                    objects.table.hide(object, self.space, page, whole, vm.frames());
                }
                page += entry.pages;
            }
        }
        wake
    }
}

#[cfg(test)]
mod test {
    use crate::fake::{Executor, FakeConfig, HostCall, block_on};
    use crate::flags::{SyncFlags, WireFlags};
    use crate::kern_return::KernReturn;
    use crate::map::testing::Bed;
    use crate::ports::Pmap;
    use crate::units::{FrameRun, PageRange, Prot};

    const USER: WireFlags = WireFlags::USER;
    const SYSTEM: WireFlags = WireFlags::SYSTEM;

    #[test]
    fn deallocate_over_holes_removes_what_is_there_and_frees_its_frames() {
        let bed = Bed::of(4);
        bed.allocate(6, 8);
        assert_eq!((bed.write(1, 1), bed.write(3, 3), bed.write(7, 7)), (Ok(()), Ok(()), Ok(())));
        bed.deallocate(2, 20);
        assert_eq!((bed.layout().as_str(), bed.machine.frames().free_pages()), ("[0,2)0", 4095));
        assert_eq!((bed.read(1), bed.read(3)), (Ok(1), Err(KernReturn::InvalidAddress)));
        bed.deallocate(4, 8);
        assert_eq!(bed.layout(), "[0,2)0");
    }

    #[test]
    fn deallocate_size_zero_does_nothing_and_a_wrap_is_invalid_argument() {
        let bed = Bed::of(2);
        assert_eq!(block_on(bed.machine.map.deallocate(bed.at(0), 0)), Ok(()));
        assert_eq!(block_on(bed.machine.map.deallocate(u64::MAX, 2)), Err(KernReturn::InvalidArgument));
        assert_eq!(bed.layout(), "[0,2)0");
        assert_eq!(block_on(bed.machine.map.deallocate(bed.at(0) + 4095, 2)), Ok(()), "touches both pages");
        assert_eq!(bed.layout(), "");
    }

    #[test]
    fn d_01_deallocate_waits_for_the_system_wiring_to_end_and_then_goes_on() {
        let bed = Bed::of(6);
        assert_eq!(bed.wire(2, 4, SYSTEM), Ok(()));
        let mut executor = Executor::new(3);
        let outcome = executor.spawn(bed.machine.map.deallocate(bed.at(0), 6 << 12));
        assert_eq!(executor.run_until_stalled(), 1);
        assert_eq!(bed.layout(), "[2,4)1 [4,6)0", "what lies below is gone");
        assert!(bed.machine.map.entries()[0].needs_wakeup);
        assert_eq!(bed.wire(2, 4, USER), Ok(()));
        assert_eq!(executor.run_until_stalled(), 1, "woken, and still blocked");
        assert_eq!(bed.unwire(2, 4, SYSTEM), Ok(()));
        assert_eq!((executor.run(), outcome.take()), (Ok(()), Some(Ok(()))));
        assert_eq!(bed.settled(bed.layout()), "");
        assert_eq!((bed.wired_by_host(), bed.machine.vm.user_wired_pages()), (0, 0));
    }

    #[test]
    fn d_02_deallocate_of_user_wired_pages_tells_the_host_before_the_mappings_go() {
        let bed = Bed::of(8);
        assert_eq!(bed.wire(2, 6, USER), Ok(()));
        bed.host().take_log();
        bed.host().hold();
        let mut executor = Executor::new(3);
        let outcome = executor.spawn(bed.machine.map.deallocate(bed.at(0), 8 << 12));
        assert_eq!(executor.run_until_stalled(), 1);
        assert!(bed.is_mapped(3) && bed.frame(3).is_some());
        bed.host().release();
        assert_eq!((executor.run(), outcome.take()), (Ok(()), Some(Ok(()))));
        assert!(matches!(bed.host().take_log().as_slice(), [HostCall::Unwire(runs)] if runs.len() == 1));
        assert_eq!((bed.settled(bed.layout()).as_str(), bed.machine.vm.user_wired_pages()), ("", 0));
    }

    #[test]
    fn deallocate_waits_for_a_write_to_stable_storage() {
        let bed = Bed::of(2);
        assert_eq!(bed.write(0, 1), Ok(()));
        bed.host().hold();
        let mut executor = Executor::new(3);
        let sync = executor.spawn(bed.machine.map.msync(bed.at(0), 4096, SyncFlags::SYNCHRONOUS));
        assert_eq!(executor.run_until_stalled(), 1);
        let outcome = executor.spawn(bed.machine.map.deallocate(bed.at(0), 4096));
        assert_eq!(executor.run_until_stalled(), 2);
        assert!(bed.frame(0).is_some());
        bed.host().release();
        assert_eq!((executor.run(), sync.take(), outcome.take()), (Ok(()), Some(Ok(())), Some(Ok(()))));
        assert_eq!(bed.settled(bed.layout()), "[1,2)0");
    }

    #[test]
    fn deallocate_part_of_a_2_mib_mapping_without_a_table_unmaps_the_block() {
        let bed = Bed::new();
        bed.allocate(496, 1008);
        assert_eq!(bed.wire(496, 1008, USER), Ok(()));
        assert_eq!(bed.write(500, 3), Ok(()));
        bed.machine.map.with_pmap(|pmap| pmap.limit_tables(Some(0)));
        bed.deallocate(600, 610);
        assert!(!bed.is_mapped(500));
        bed.machine.map.with_pmap(|pmap| pmap.limit_tables(None));
        assert_eq!(bed.read(500), Ok(3));
        assert_eq!(bed.msync(496, 600, SyncFlags::SYNCHRONOUS), Ok(()));
        assert_eq!((bed.stable(500), bed.wired_by_host()), (Some(3), 502));
    }

    #[test]
    fn deallocate_without_a_table_leaves_mappings_outside_the_map_alone() {
        let bed = Bed::with(FakeConfig { map_pages: PageRange::new(500, 1100), ..FakeConfig::default() });
        bed.allocate(0, 600);
        assert_eq!(bed.wire(0, 600, USER), Ok(()));
        let foreign = FrameRun::new(4000, 1);
        bed.machine.map.with_pmap(|pmap| {
            assert_eq!(pmap.enter(499, foreign, Prot::READ), Ok(()));
            assert_eq!(pmap.enter(1100, foreign, Prot::READ), Ok(()));
            pmap.limit_tables(Some(0));
        });
        for (start, end) in [(5, 20), (520, 530)] {
            let size = (end - start) << 12;
            assert_eq!(block_on(bed.machine.map.deallocate(bed.at(start), size)), Ok(()));
        }
        let mapped = |page| bed.machine.map.with_pmap(|pmap| pmap.translation(page).is_some());
        assert!(mapped(499) && mapped(1100));
        assert!(!mapped(505) && !mapped(512) && !mapped(1023));
    }

    #[test]
    fn destroy_ends_all_wirings_and_frees_every_frame() {
        let bed = Bed::of(8);
        bed.allocate(20, 22);
        assert_eq!((bed.wire(0, 4, SYSTEM), bed.wire(2, 6, USER)), (Ok(()), Ok(())));
        assert_eq!(bed.write(21, 1), Ok(()));
        block_on(bed.machine.map.destroy());
        assert_eq!((bed.settled(bed.layout()).as_str(), bed.wired_by_host()), ("", 0));
        assert_eq!((bed.machine.frames().free_pages(), bed.machine.vm.user_wired_pages()), (4096, 0));
        block_on(bed.machine.map.destroy());
    }
}
