//! Page faults.

use super::hardware::BLOCK_PAGES;
use super::{MapState, Step, VmMap};
use crate::kern_return::KernReturn;
use crate::object::Pager;
use crate::ports::{Frames, OutOfFrames, Pmap, Ports};
use crate::units::{FrameRun, PAGE_SHIFT, PageRange, Prot};
use crate::vm::Vm;
use crate::wait::Wait;

impl<P: Ports> VmMap<P> {
    /// Resolves a page fault at `address` (bytes) for the rights `access`.
    ///
    /// An absent page becomes resident as one zero page. A page that is resident already is mapped
    /// together with its neighbours of the same 2 MiB block, as far as entry and frames continue.
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
        let Some((start, _)) = state.entries.containing(page) else {
            return Step::Done(Err(KernReturn::InvalidAddress));
        };
        let Some(entry) = state.entries.get_mut(start) else {
            return Step::Done(Err(KernReturn::InvalidAddress));
        };
        // The mark comes first: what the entry permits may be about to change (row T-08).
        if entry.transition.is_some() {
            return Step::Wait(self.wait_for(entry));
        }
        if entry.prot.is_none() || !entry.prot.contains(access) {
            return Step::Done(Err(KernReturn::ProtectionFailure));
        }
        Step::Done(state.resolve(&self.vm, start, page).map_err(|OutOfFrames| KernReturn::ResourceShortage))
    }
}

impl<P: Ports> MapState<P> {
    /// Maps `page` of the entry that starts with `start`.
    fn resolve(&mut self, vm: &Vm<P>, start: u64, page: u64) -> Result<(), OutOfFrames> {
        let Some(entry) = self.entries.get_mut(start) else { return Ok(()) };
        let index = page - start + entry.offset;
        let whole = PageRange::new(start, start + entry.pages);
        let indices = entry.object_range(start, whole);
        let prot = entry.prot;
        let object = entry.ensure_object();
        let mut resident = object.resident();
        let Some((first, extent)) = resident.containing(index) else {
            let fresh = match object.pager() {
                Pager::Ram => vm.frames().allocate(1)?,
            };
            resident.insert(index, fresh.run, fresh.dirty);
            drop(resident);
            // Neighbours are left alone: entering them again and again would cost the square of their number.
            return self.pmap.enter(page, FrameRun::new(fresh.run.first, 1), prot);
        };
        let extent = PageRange::new(first, first + extent.frames.pages).intersection(indices);
        drop(resident);
        let near = PageRange::new(extent.start - indices.start + start, extent.end - indices.start + start);
        let block = page - page % BLOCK_PAGES;
        let near = near.intersection(PageRange::new(block, block.saturating_add(BLOCK_PAGES)));
        self.collect_dirty(near);
        self.enter_resident(near)
    }
}
