//! Page faults.

use super::hardware::BLOCK_PAGES;
use super::window::Window;
use super::{MapState, Step, VmMap};
use crate::entry::MapEntry;
use crate::kern_return::KernReturn;
use crate::ports::{OutOfFrames, Ports};
use crate::units::{PAGE_SHIFT, PageRange, Prot};
use crate::vm::Vm;
use crate::wait::Wait;

impl<P: Ports> VmMap<P> {
    /// Resolves a page fault at `address` (bytes) for the rights `access`.
    ///
    /// An absent page becomes resident as one zero page. A page that is resident already is mapped
    /// together with its neighbours of the same 2 MiB block, as far as entry and frames continue and the pages are
    /// in the same state (wired, dirty, on their way to stable storage).
    /// A fault on an entry that another operation works on waits for that operation (row T-08).
    ///
    /// # Errors
    /// - [`KernReturn::InvalidAddress`]: nothing is allocated there.
    /// - [`KernReturn::ProtectionFailure`]: the entry does not permit the access.
    /// - [`KernReturn::ResourceShortage`]: no frame is left for the page or for a page table.
    ///
    /// # Partial effects
    /// After a shortage the page may be resident without being mapped.
    pub async fn fault(&self, address: u64, access: Prot) -> Result<(), KernReturn> {
        let page = address >> PAGE_SHIFT;
        loop {
            match self.locked(|state| self.fault_step(state, page, access)) {
                Step::Wait(wait) => wait.await,
                Step::Done(result) => {
                    self.debug_check();
                    return result;
                }
            }
        }
    }

    fn fault_step(&self, state: &mut MapState<P>, page: u64, access: Prot) -> Step<Wait<'_>, Result<(), KernReturn>> {
        let MapState { entries, pmap, .. } = state;
        let Some((start, _)) = entries.containing(page) else {
            return Step::Done(Err(KernReturn::InvalidAddress));
        };
        let Some(entry) = entries.get_mut(start) else {
            return Step::Done(Err(KernReturn::InvalidAddress));
        };
        // The mark comes first: what the entry permits may be about to change (row T-08).
        if entry.transition.is_some() {
            return Step::Wait(self.wait_for(entry));
        }
        if entry.prot.is_none() || !entry.prot.contains(access) {
            return Step::Done(Err(KernReturn::ProtectionFailure));
        }
        let resolved = resolve(&self.vm, pmap, entry, start, page);
        Step::Done(resolved.map_err(|OutOfFrames| KernReturn::ResourceShortage))
    }
}

/// Maps `page` of the entry that starts with `start`.
fn resolve<P: Ports>(
    vm: &Vm<P>,
    pmap: &mut P::Pmap,
    entry: &mut MapEntry,
    start: u64,
    page: u64,
) -> Result<(), OutOfFrames> {
    let window = Window::on_all(entry, start);
    let mut resident = window.resident();
    let this = window.narrowed(PageRange::new(page, page + 1));
    let Some((first, extent)) = resident.containing(this.indices.start) else {
        this.populate(vm, &mut resident)?;
        // Neighbours are left alone: entering them again and again would cost the square of their number.
        return this.enter(pmap, &resident);
    };
    let near = PageRange::new(first, first + extent.frames.pages).intersection(window.indices);
    let page_of = |index| index - window.indices.start + start;
    let block = page - page % BLOCK_PAGES;
    let block = PageRange::new(block, block.saturating_add(BLOCK_PAGES));
    let near = window.narrowed(PageRange::new(page_of(near.start), page_of(near.end)).intersection(block));
    near.collect_dirty(pmap, &mut resident);
    near.enter(pmap, &resident)
}

#[cfg(test)]
mod test {
    use crate::fake::{FakeConfig, block_on};
    use crate::flags::{SyncFlags, WireFlags};
    use crate::kern_return::KernReturn;
    use crate::map::testing::Bed;
    use crate::units::Prot;

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
}
