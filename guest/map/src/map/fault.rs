//! Page faults.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::pin::Pin;

use super::allocate::NewEntry;
use super::obstacle::Work;
use super::stack::Growth;
use super::{MapState, Step, VmMap};
use crate::entry::{EntryKind, OperationId, Transition};
use crate::kern_return::KernReturn;
use crate::objects::{BLOCK_PAGES, Found, Objects, Pin as Held, PinList, Window};
use crate::ports::{Frames, Host, Pmap, Ports};
use crate::units::{FrameRun, PAGE_SHIFT, PAGE_SIZE, PageRange, Prot};
use crate::wait::Wait;

/// What a fault does with the map unlocked.
enum Unlocked<'a, P: Ports> {
    /// Waits for another operation.
    Wait(Wait<'a>),
    /// Overcomes what keeps the page from being had.
    Obstacle(Work<'a>),
    /// Has the host hold the page of an entry that is wired page by page; these pages, all of the entry, are in transition
    /// meanwhile.
    Pin(PageRange, OperationId, PinList),
    /// Wires what a stack grew by (row P-09).
    WireStack(PageRange, NewEntry),
    /// Leaves the page to the map that rules over it.
    Submap(Arc<VmMap<P>>),
}

impl<P: Ports> VmMap<P> {
    /// Resolves a page fault at `address` (bytes) for the rights `access`.
    ///
    /// An absent page becomes resident as one zero page, or comes from its pager, with what that supplies besides. A write to a
    /// page that others see too gets a copy; if the page is wired, the wiring moves to the copy, which the host holds before
    /// it takes its place (rows P-04, B-05). A page that is resident already is mapped
    /// together with its neighbours of the same 2 MiB block, as far as entry and frames continue and the pages are
    /// in the same state (wired, dirty, on their way to stable storage).
    /// A fault on an entry that another operation works on waits for that operation (row T-08). A fault in the gap below a stack
    /// lets the stack grow to the page; what it grows by is wired at once where the map says so (row P-09). A fault on a submap is
    /// the submap's.
    ///
    /// # Errors
    /// - [`KernReturn::InvalidAddress`]: nothing is allocated there.
    /// - [`KernReturn::ProtectionFailure`]: the entry does not permit the access, or its object is dead.
    /// - [`KernReturn::ResourceShortage`]: no frame is left for the page or for a page table; or the host could not hold a page
    ///   that is wired.
    /// - [`KernReturn::OutOfBounds`], [`KernReturn::Failure`]: the page lies past the end of its object or its pager could not
    ///   read it; the pager refused (row F-02).
    /// - [`KernReturn::NoSpace`]: a stack that must be wired would pass the map's limit.
    ///
    /// # Partial effects
    /// After a shortage the page may be resident without being mapped; a stack that could not be wired has grown.
    pub async fn fault(&self, address: u64, access: Prot) -> Result<(), KernReturn> {
        let page = address >> PAGE_SHIFT;
        if self.fault_at_once(address, access) {
            return Ok(());
        }
        let result = loop {
            match self.locked(|state| self.fault_step(state, page, access)) {
                Step::Wait(Unlocked::Wait(wait)) => wait.await,
                Step::Wait(Unlocked::Obstacle(work)) => {
                    if let Err(error) = self.overcome(work).await {
                        break Err(error);
                    }
                }
                Step::Wait(Unlocked::Pin(marked, owner, list)) => {
                    if let Err(error) = self.pin_page(page, marked, owner, list).await {
                        break Err(error);
                    }
                }
                Step::Wait(Unlocked::WireStack(pages, claimed)) => {
                    if let Err(error) = self.wire_claimed(claimed, pages).await {
                        break Err(error);
                    }
                }
                Step::Wait(Unlocked::Submap(submap)) => break submap.fault_boxed(address, access).await,
                Step::Done(result) => break result,
            }
        };
        self.debug_check();
        result
    }

    /// As [`VmMap::fault`], if all it takes is to map one page that the entry's own object has: the short way of most faults,
    /// which looks everything up once, allocates nothing and waits for nothing. `false`, with nothing changed, where more must be
    /// looked at.
    #[inline(always)]
    pub fn fault_at_once(&self, address: u64, access: Prot) -> bool {
        let is_resolved = self.enter_resident(address >> PAGE_SHIFT, access);
        if is_resolved {
            self.debug_check();
        }
        is_resolved
    }

    #[inline(always)]
    fn enter_resident(&self, page: u64, access: Prot) -> bool {
        let mut state = self.state.lock();
        let MapState { entries, space, .. } = &mut *state;
        let Some((start, entry)) = entries.containing_mut(page) else { return false };
        let Some(id) = entry.object else { return false };
        let rights = if entry.needs_copy { entry.prot.without(Prot::WRITE) } else { entry.prot };
        if entry.transition.is_some() || entry.on_fault || rights.is_none() || !rights.contains(access) {
            return false;
        }
        // Both lie in the entry, so nothing can wrap.
        let index = page.wrapping_sub(start).wrapping_add(entry.offset);
        let mut objects = self.vm.objects();
        let (table, pmap) = objects.split(*space);
        let object = &mut table[id];
        let is_reachable = !object.is_dead && (object.backing.is_some() || index < object.pages);
        let Some((first, extent)) = object.resident.come_to(index) else { return false };
        if !is_reachable || !extent.denied().is_none() {
            return false;
        }
        // Neighbours of the same 2 MiB would be mapped too.
        if extent.frames.pages > 1 {
            let behind = page > start && index > first && !page.is_multiple_of(BLOCK_PAGES);
            let ahead = page + 1 < start + entry.pages
                && index + 1 < first + extent.frames.pages
                && !(page + 1).is_multiple_of(BLOCK_PAGES);
            if behind || ahead {
                return false;
            }
        }
        pmap.enter_absent(page, extent.frames.first.wrapping_add(index.wrapping_sub(first)), rights)
    }

    /// As [`VmMap::fault`], for a map within a map.
    fn fault_boxed(
        &self,
        address: u64,
        access: Prot,
    ) -> Pin<Box<dyn Future<Output = Result<(), KernReturn>> + Send + '_>> {
        Box::pin(self.fault(address, access))
    }

    fn fault_step(
        &self,
        state: &mut MapState<P>,
        page: u64,
        access: Prot,
    ) -> Step<Unlocked<'_, P>, Result<(), KernReturn>> {
        let Some((start, entry)) = state.entries.containing(page) else {
            return Step::Done(Err(KernReturn::InvalidAddress));
        };
        let (kind, prot) = (entry.kind, entry.prot);
        // The mark comes first: what the entry permits may be about to change (row T-08).
        let marked = entry.transition.is_some();
        #[cfg(test)]
        let marked = marked && !self.vm.planted.has(crate::planted::Mutant::FaultIgnoresMarks);
        if marked && let Some(entry) = state.entries.get_mut(start) {
            return Step::Wait(Unlocked::Wait(self.wait_for(entry)));
        }
        if let Some(submap) = state.submap_at(start) {
            return Step::Wait(Unlocked::Submap(submap));
        }
        if kind == EntryKind::StackGap {
            return match state.grow_stack(page) {
                Ok(Growth::Grown(Some((grown, claimed)))) => Step::Wait(Unlocked::WireStack(grown, claimed)),
                Ok(Growth::Grown(None)) => self.fault_step(state, page, access),
                Ok(Growth::Marked(piece)) => match state.entries.get_mut(piece) {
                    Some(entry) => Step::Wait(Unlocked::Wait(self.wait_for(entry))),
                    None => Step::Done(Err(KernReturn::InvalidAddress)),
                },
                Err(error) => Step::Done(Err(error)),
            };
        }
        if prot.is_none() || !prot.contains(access) {
            return Step::Done(Err(KernReturn::ProtectionFailure));
        }
        match self.resolve(state, start, page, access) {
            Ok(None) => Step::Done(Ok(())),
            Ok(Some(unlocked)) => Step::Wait(unlocked),
            Err(error) => Step::Done(Err(error)),
        }
    }

    /// Maps `page` of the entry that starts with `start`.
    fn resolve(
        &self,
        state: &mut MapState<P>,
        start: u64,
        page: u64,
        access: Prot,
    ) -> Result<Option<Unlocked<'_, P>>, KernReturn> {
        let entry = match state.entries.get_mut(start) {
            Some(entry) if entry.object.is_some() && !entry.needs_copy => entry,
            _ => {
                if access.contains(Prot::WRITE) {
                    state.make_private(start);
                }
                state.ensure_object(start);
                let Some(entry) = state.entries.get_mut(start) else { return Ok(None) };
                entry
            }
        };
        let (space, by_fault, busy) = (state.space, &mut state.by_fault, &mut state.busy);
        let Some(whole) = entry.window(start, entry.range(start)) else { return Ok(None) };
        let this = whole.narrowed(PageRange::new(page, page + 1));
        let mut objects = self.vm.objects();
        let (_, before) = objects.table.look(this.object, this.indices);
        // What the fault asked for is not changed by what else is done meanwhile (row B-08).
        let (_, obstacle) = objects.populate(self.vm.frames(), &this, access);
        if let Some(obstacle) = obstacle {
            return self.work(busy, obstacle).map(Unlocked::Obstacle).map(Some);
        }
        if entry.on_fault && by_fault.first_of(this.pages).1 == 0 {
            if objects.table.is_pin_going(this.object, this.indices) {
                return Ok(Some(Unlocked::Wait(self.vm.idle().wait())));
            }
            by_fault.add(this.pages);
            objects.table.count(this.object, this.indices);
            let mut list = PinList::new();
            objects.table.begin_pins(this.object, this.indices, &mut list);
            if !list.is_empty() {
                let owner = self.vm.next_operation();
                entry.transition = Some(Transition::new(owner));
                *busy += 1;
                return Ok(Some(Unlocked::Pin(whole.pages, owner, list)));
            }
        }
        let is_page_wise = entry.on_fault;
        let (_, after) = objects.table.look(this.object, this.indices);
        let near = if is_page_wise { this } else { neighbourhood(&objects, &whole, &this, before, after) };
        let is_new = !matches!(before, Found::Resident { .. }) && near.pages.len() == 1;
        let entered = match after {
            // Nothing was mapped there.
            Found::Resident { owner, extent, .. } if is_new => {
                let rights = this.rights(owner, extent.denied());
                objects.enter_run(space, page, extent.frames, rights)
            }
            _ => {
                objects.collect_dirty(space, &near);
                objects.enter(space, &near)
            }
        };
        entered.map_err(|_| KernReturn::ResourceShortage)?;
        Ok(None)
    }

    /// Has the host hold the page that a fault has counted as wired, and ends the entry's transition.
    async fn pin_page(
        &self,
        page: u64,
        marked: PageRange,
        owner: OperationId,
        mut list: PinList,
    ) -> Result<(), KernReturn> {
        let result = self.vm.host().wire(list.frames()).await;
        let pin = if result.is_ok() { Held::Yes } else { Held::No };
        self.vm.objects().table.finish_pins(&mut list, pin, self.vm.frames());
        self.vm.idle().wake_all();
        let this = PageRange::new(page, page + 1);
        if let Err(error) = result {
            self.note_host_error(error);
            self.exclusive(|state| {
                let Some(start) = state.entries.containing(page).map(|(start, _)| start) else { return };
                let Some(entry) = state.entries.get_mut(start) else { return };
                if let Some(top) = entry.object {
                    let indices = entry.object_range(start, this);
                    self.vm.objects().table.uncount(top, indices, &mut list);
                }
                if entry.on_fault {
                    state.by_fault.clear(this);
                }
            });
        }
        self.unpin(&mut list).await;
        let awaited = self.exclusive(|state| state.release(marked, owner, |_| ()));
        self.end_busy();
        self.wake_if(awaited);
        result.map_err(KernReturn::from_wire_error)
    }
}

impl<P: Ports> VmMap<P> {
    /// Runs `work` on the frame that the page at `address` (bytes) shows, with the objects locked; `None` if none is resident.
    pub(crate) fn with_frame<T>(&self, address: u64, work: impl FnOnce(&mut Objects<P>, u64) -> T) -> Option<T> {
        let page = address >> PAGE_SHIFT;
        let submap = self.ruler_of(page);
        submap.as_deref().unwrap_or(self).locked(|state| {
            let (start, entry) = state.entries.containing(page)?;
            let window = entry.window(start, PageRange::new(page, page + 1))?;
            let mut objects = self.vm.objects();
            let (_, Found::Resident { extent, .. }) = objects.table.look(window.object, window.indices) else {
                return None;
            };
            Some(work(&mut objects, extent.frames.first))
        })
    }

    /// Stores what `from` holds, frame after frame, into the pages from `address` (bytes, a multiple of the page size) on, as a
    /// manager does with what comes back to it. The frames stay the caller's.
    ///
    /// # Errors
    /// As [`VmMap::fault`], for a write; what stands before the failing page is stored.
    pub async fn accept_frames(&self, address: u64, from: &[FrameRun]) -> Result<(), KernReturn> {
        let mut at = address;
        for frame in from.iter().flat_map(|run| run.first..run.end()) {
            loop {
                self.fault(at, Prot::WRITE).await?;
                let page = at >> PAGE_SHIFT;
                let submap = self.ruler_of(page);
                let stored = submap.as_deref().unwrap_or(self).locked(|state| {
                    let (start, entry) = state.entries.containing(page)?;
                    let window = entry.window(start, PageRange::new(page, page + 1)).filter(|_| !entry.needs_copy)?;
                    let mut objects = self.vm.objects();
                    let (_, found) = objects.table.look(window.object, window.indices);
                    let Found::Resident { owner, extent, .. } = found else { return None };
                    // Only its own page, which a fault for a write has made, and that no fork is to copy since.
                    (owner == window.object && extent.still == 0).then(|| {
                        self.vm.frames().copy(frame, extent.frames.first);
                        objects.table.mark_dirty(window.object, window.indices);
                    })
                });
                if stored.is_some() {
                    break;
                }
            }
            at = at.wrapping_add(PAGE_SIZE);
        }
        Ok(())
    }
}

/// Returns the pages around `this` that are mapped with it.
fn neighbourhood<P: Ports>(objects: &Objects<P>, whole: &Window, this: &Window, before: Found, after: Found) -> Window {
    let Found::Resident { owner, index, .. } = after else { return *this };
    let Some((first, extent)) = objects.table[owner].resident.containing(index) else { return *this };
    // The extent in pages of the map, as far as the entry shows it.
    let back = (index - first).min(this.pages.start - whole.pages.start);
    let ahead = (first + extent.frames.pages - index).min(whole.pages.end - this.pages.start);
    let near = PageRange::new(this.pages.start - back, this.pages.start + ahead);
    let block = this.pages.start - this.pages.start % BLOCK_PAGES;
    let block = PageRange::new(block, block.saturating_add(BLOCK_PAGES));
    let near = near.intersection(block);
    // Where the page was not there, its neighbours are left alone, for entering them again and again would cost the square of
    // their number; but for the last page of a whole 2 MiB, which makes one mapping of all.
    let was_there = matches!(before, Found::Resident { owner: old, .. } if old == owner);
    if was_there || near.len() == BLOCK_PAGES { whole.narrowed(near) } else { *this }
}

#[cfg(test)]
mod test {
    use alloc::boxed::Box;
    use core::task::{Context, Waker};

    use crate::fake::{FakeConfig, FakePmap, FakePorts, block_on};
    use crate::flags::{SyncFlags, WireFlags};
    use crate::handle::ObjectHandle;
    use crate::kern_return::KernReturn;
    use crate::map::testing::Bed;
    use crate::map::{MapMode, Placement};
    use crate::ports::Pmap;
    use crate::units::{PAGE_SHIFT, PageRange, Prot};

    #[test]
    fn fault_without_an_entry_is_invalid_address() {
        let bed = Bed::of(2);
        assert_eq!(bed.read(2), Err(KernReturn::InvalidAddress));
        assert_eq!(bed.write(100_000, 1), Err(KernReturn::InvalidAddress));
    }

    #[test]
    fn fault_beyond_the_protection_is_protection_failure() {
        let bed = Bed::of(2);
        assert_eq!(bed.protect(0, 1, Prot::READ), Ok(()));
        assert_eq!(bed.read(0), Ok(0));
        assert_eq!(bed.write(0, 1), Err(KernReturn::ProtectionFailure));
        assert_eq!(bed.protect(0, 1, Prot::NONE), Ok(()));
        assert_eq!(bed.read(0), Err(KernReturn::ProtectionFailure));
        let nothing = block_on(bed.machine.map.fault(bed.at(0), Prot::NONE));
        assert_eq!(nothing, Err(KernReturn::ProtectionFailure));
    }

    #[test]
    fn fault_on_an_absent_page_makes_one_page_resident() {
        let bed = Bed::of(1024);
        assert_eq!(bed.write(600, 5), Ok(()));
        assert_eq!(bed.machine.map.stats().resident_pages, 1);
        assert_eq!(bed.read(600), Ok(5));
        assert!(!bed.is_mapped(599) && !bed.is_mapped(601));
    }

    #[test]
    fn fault_on_a_resident_page_maps_its_run_within_entry_and_block() {
        let bed = Bed::of(1024);
        assert_eq!(bed.wire(400, 600, WireFlags::USER), Ok(()));
        assert_eq!(bed.unwire(400, 600, WireFlags::USER), Ok(()));
        assert_eq!(bed.msync(0, 1024, SyncFlags::INVALIDATE), Ok(()));
        assert_eq!(bed.protect(450, 1024, Prot::READ), Ok(()));
        assert!(!bed.is_mapped(470));
        assert_eq!(bed.read(470), Ok(0));
        // The map begins at page 16, so a block of addresses ends before its page 496.
        let mapped: alloc::vec::Vec<u64> = (0..1024).filter(|&page| bed.is_mapped(page)).collect();
        assert_eq!((mapped[0], mapped.len()), (450, 46));
    }

    #[test]
    fn fault_remapping_neighbours_keeps_their_dirty_marks() {
        let bed = Bed::of(8);
        assert_eq!(bed.wire(0, 8, WireFlags::USER), Ok(()));
        assert_eq!(bed.unwire(0, 8, WireFlags::USER), Ok(()));
        assert_eq!(bed.write(3, 1), Ok(()));
        assert_eq!(block_on(bed.machine.map.fault(bed.at(5), Prot::READ)), Ok(()));
        assert_eq!(bed.machine.map.stats().dirty_pages, 1);
        assert_eq!(bed.msync(0, 8, SyncFlags::SYNCHRONOUS), Ok(()));
        assert_eq!(bed.stable(3), Some(1));
    }

    #[test]
    fn fault_without_frames_is_resource_shortage() {
        let bed = Bed::with(FakeConfig { frame_pages: 2, ..FakeConfig::default() });
        bed.allocate(0, 3);
        assert_eq!((bed.write(0, 1), bed.write(1, 1)), (Ok(()), Ok(())));
        assert_eq!(bed.write(2, 1), Err(KernReturn::ResourceShortage));
        assert_eq!(bed.read(1), Ok(1));
        bed.deallocate(0, 1);
        assert_eq!(bed.read(2), Ok(0), "a recycled frame is zero");
    }

    #[test]
    fn fault_without_a_page_table_is_resource_shortage_and_can_be_repeated() {
        let bed = Bed::of(3);
        bed.machine.map.with_pmap(|pmap| pmap.limit_tables(Some(0)));
        assert_eq!(bed.write(1, 1), Err(KernReturn::ResourceShortage));
        assert_eq!(bed.machine.map.stats().resident_pages, 1);
        bed.machine.map.with_pmap(|pmap| pmap.limit_tables(None));
        assert_eq!(bed.write(1, 1), Ok(()));
    }

    /// Returns a machine where pages 0 and 1 show those of an object, written, each of them apart and not mapped.
    fn unmapped() -> (Bed, ObjectHandle<FakePorts>) {
        let bed = Bed::new();
        let object = bed.machine.vm.anonymous_object(2);
        let (place, pages) = (Placement::Fixed(bed.at(0)), PageRange::new(0, 2));
        let mapped = bed.machine.map.map_object(place, &object, pages, MapMode::Shared, Prot::DEFAULT);
        assert_eq!(block_on(mapped), Ok(bed.at(0)));
        // One after the other in memory they would be one extent.
        assert_eq!((bed.write(1, 4), bed.write(0, 3)), (Ok(()), Ok(())));
        let (first, second) = (bed.frame(0).unwrap(), bed.frame(1).unwrap());
        assert_ne!(first + 1, second);
        unmap(&bed);
        (bed, object)
    }

    fn unmap(bed: &Bed) {
        let pages = PageRange::new(bed.at(0) >> PAGE_SHIFT, bed.at(2) >> PAGE_SHIFT);
        bed.machine.map.with_pmap(|pmap| pmap.remove(pages, &mut |_| ())).expect("nothing is split");
    }

    fn at_once(bed: &Bed, page: u64, access: Prot) -> bool {
        let is_resolved = bed.machine.map.fault_at_once(bed.at(page), access);
        assert_eq!(bed.is_mapped(page), is_resolved, "nothing is changed where more must be looked at");
        is_resolved
    }

    #[test]
    fn fault_at_once_maps_a_page_that_is_there_as_its_entry_permits() {
        let (bed, _object) = unmapped();
        assert!(at_once(&bed, 0, Prot::READ) && at_once(&bed, 1, Prot::WRITE));
        let rights = |page| bed.machine.map.with_pmap(|pmap| pmap.translate((bed.at(page)) >> PAGE_SHIFT));
        assert_eq!(rights(0), bed.frame(0).map(|frame| (frame, Prot::DEFAULT)));
        assert!(!bed.machine.map.fault_at_once(bed.at(0), Prot::READ), "it is mapped already");
    }

    #[test]
    fn fault_at_once_leaves_what_the_entry_does_not_permit() {
        let (bed, _object) = unmapped();
        assert_eq!(bed.protect(0, 1, Prot::READ), Ok(()));
        assert_eq!(bed.protect(1, 2, Prot::NONE), Ok(()));
        assert!(!at_once(&bed, 0, Prot::WRITE) && !at_once(&bed, 1, Prot::NONE) && !at_once(&bed, 2, Prot::READ));
    }

    #[test]
    fn fault_at_once_leaves_a_page_that_is_wired_as_it_comes() {
        let (bed, _object) = unmapped();
        let (start, end) = (bed.at(0) >> PAGE_SHIFT, bed.at(2) >> PAGE_SHIFT);
        let wired = bed.machine.map.wire_pages(PageRange::new(start, end), WireFlags::USER, true);
        assert_eq!(block_on(wired), Ok(()));
        unmap(&bed);
        let on_fault = bed.machine.map.locked(|state| {
            state.by_fault.clear(PageRange::new(start, end));
            state.entries.get_mut(start).is_some_and(|entry| entry.on_fault)
        });
        assert!(on_fault && !at_once(&bed, 0, Prot::READ));
    }

    #[test]
    fn fault_at_once_leaves_what_a_manager_forbids() {
        for (forbidden, page) in [(Prot::WRITE, 0), (Prot::READ, 1)] {
            let (bed, object) = unmapped();
            let this = PageRange::new(page, page + 1);
            bed.machine.vm.objects().table[object.id()].resident.set_forbidden(this, forbidden);
            assert!(!at_once(&bed, page, Prot::READ) && at_once(&bed, 1 - page, Prot::READ));
        }
    }

    #[test]
    fn fault_at_once_leaves_what_a_fork_is_still_to_copy() {
        let (bed, object) = unmapped();
        bed.machine.vm.objects().table[object.id()].resident.hold_still(PageRange::new(0, 1));
        assert!(!at_once(&bed, 0, Prot::READ) && at_once(&bed, 1, Prot::READ));
        bed.machine.vm.objects().table[object.id()].resident.let_move(PageRange::new(0, 1));
    }

    #[test]
    fn fault_at_once_leaves_wired_pages_past_the_end_of_their_object_or_of_a_dead_one() {
        for is_killed in [false, true] {
            let (bed, object) = unmapped();
            assert_eq!(bed.wire(0, 2, WireFlags::USER), Ok(()));
            if is_killed {
                assert_eq!(block_on(object.kill()), Ok(()));
            } else {
                assert_eq!(block_on(object.truncate(1)), Ok(()));
                unmap(&bed);
            }
            assert_eq!(at_once(&bed, 0, Prot::READ), !is_killed);
            assert!(!at_once(&bed, 1, Prot::READ));
            let error = if is_killed { KernReturn::ProtectionFailure } else { KernReturn::OutOfBounds };
            assert_eq!(bed.read(1), Err(error));
        }
        // It is past its end before it is dead.
        let (bed, object) = unmapped();
        bed.machine.vm.objects().table[object.id()].is_dead = true;
        assert!(!at_once(&bed, 0, Prot::READ));
    }

    #[test]
    fn fault_at_once_lets_nobody_write_what_others_see_too() {
        let bed = Bed::of(2);
        assert_eq!(bed.write(0, 3), Ok(()));
        let child = block_on(bed.machine.map.fork(FakePmap::new())).expect("nothing is copied");
        unmap(&bed);
        assert!(!at_once(&bed, 0, Prot::WRITE) && at_once(&bed, 0, Prot::READ));
        let rights = bed.machine.map.with_pmap(|pmap| pmap.translate(bed.at(0) >> PAGE_SHIFT)).map(|(_, prot)| prot);
        assert_eq!(rights, Some(Prot::READ));
        block_on(child.destroy());
    }

    #[test]
    fn fault_at_once_leaves_an_entry_in_transition() {
        let (bed, _object) = unmapped();
        bed.host().hold();
        let mut wire = Box::pin(bed.machine.map.wire(bed.at(0), bed.at(1), WireFlags::USER));
        assert!(wire.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        unmap(&bed);
        assert!(!at_once(&bed, 0, Prot::READ) && at_once(&bed, 1, Prot::READ));
        bed.host().release();
        assert_eq!(block_on(wire), Ok(()));
    }
}
