//! Deallocation, one range or everything.

use super::{MapState, Step, VmMap, touched_pages};
use crate::entry::{OperationId, Transition};
use crate::frame_runs::FrameRuns;
use crate::kern_return::KernReturn;
use crate::ports::{Frames, Host, Ports};
use crate::units::PageRange;
use crate::vm::Vm;
use crate::wait::Wait;

/// Whose wirings hold an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Blocking {
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
    /// that is under way on the pages (row D-01); what lies at lower addresses is gone by then. A size of 0
    /// does nothing.
    ///
    /// # Errors
    /// - [`KernReturn::InvalidArgument`]: address and size wrap.
    ///
    /// # Partial effects
    /// None but those of the waiting.
    pub async fn deallocate(&self, address: u64, size: u64) -> Result<(), KernReturn> {
        if size == 0 {
            return Ok(());
        }
        let range = touched_pages(address, size).ok_or(KernReturn::InvalidArgument)?;
        self.delete(range, Blocking::SystemWirings).await;
        Ok(())
    }

    /// Deallocates everything, system wirings included: for the end of the address space, when whoever held
    /// them is gone. Operations that are under way are waited for.
    pub async fn destroy(&self) {
        self.delete(self.bounds, Blocking::Nothing).await;
    }

    async fn delete(&self, range: PageRange, blocking: Blocking) {
        let owner = self.begin();
        let mut cursor = range.start;
        while cursor < range.end {
            let rest = PageRange::new(cursor, range.end);
            match self.exclusive(|state| self.claim_for_delete(state, rest, owner, blocking)) {
                Step::Wait(wait) => wait.await,
                Step::Done((claimed, last)) => {
                    let last = last.joined();
                    if !last.is_empty() {
                        self.vm.host().unwire(&last).await;
                    }
                    self.tear_down(claimed, owner).await;
                    cursor = claimed.end;
                }
            }
        }
        self.debug_check();
    }

    /// Marks and unwires entries of `range` up to the first that must be waited for. Returns the part of the
    /// range that needs no more claiming and the frames to tell the host of; waits if that part is empty.
    fn claim_for_delete(
        &self,
        state: &mut MapState<P>,
        range: PageRange,
        owner: OperationId,
        blocking: Blocking,
    ) -> Step<Wait<'_>, (PageRange, FrameRuns)> {
        let mut last = FrameRuns::new();
        let mut cursor = range.start;
        while let Some((start, _)) = state.entries.at_or_after(cursor)
            && start < range.end
        {
            let first = cursor.max(start);
            let Some(entry) = state.entries.get_mut(start) else { break };
            let wired = blocking == Blocking::SystemWirings && entry.system_wired_count() > 0;
            if entry.transition.is_some() || wired {
                if cursor == range.start {
                    return Step::Wait(self.wait_for(entry));
                }
                return Step::Done((PageRange::new(range.start, first), last));
            }
            state.entries.split(first);
            state.entries.split(range.end);
            let Some(entry) = state.entries.get_mut(first) else { break };
            entry.transition = Some(Transition::new(owner));
            if entry.wired_count > 0 {
                if entry.user_wired {
                    state.user_wired_pages -= entry.pages;
                    self.vm.uncharge(entry.pages);
                }
                entry.user_wired = false;
                entry.wired_count = 0;
                entry.unwire_pages(first, &mut last);
            }
            cursor = first + entry.pages;
        }
        Step::Done((range, last))
    }

    /// Unmaps and removes the entries of `range` that `owner` holds, once no page of them is being written to
    /// stable storage.
    async fn tear_down(&self, range: PageRange, owner: OperationId) {
        while let Step::Wait(wait) = self.exclusive(|state| {
            if state.is_cleaning(range, owner) {
                return Step::Wait(self.vm.cleaned().wait());
            }
            if state.remove_entries(&self.vm, range, owner) {
                self.transitions.wake_all();
            }
            Step::Done(())
        }) {
            wait.await;
        }
    }
}

impl<P: Ports> MapState<P> {
    fn is_cleaning(&self, range: PageRange, owner: OperationId) -> bool {
        self.entries.meeting(range).any(|(start, entry)| {
            let whole = entry.object_range(start, PageRange::new(start, start + entry.pages));
            entry.is_owned_by(owner) && entry.object.as_ref().is_some_and(|object| object.resident().is_cleaning(whole))
        })
    }

    /// Removes the owner's entries of `range`; tells whether somebody waits for one of them.
    fn remove_entries(&mut self, vm: &Vm<P>, range: PageRange, owner: OperationId) -> bool {
        let mut wake = false;
        let mut page = range.start;
        while let Some(owned) = self.next_owned(PageRange::new(page, range.end), owner) {
            // In one go, so that a 2 MiB mapping which several of the entries share is not split. The marks go
            // into the objects while the entries are still there; neighbours may need them.
            self.unmap(owned);
            page = owned.start;
            while page < owned.end
                && let Some(entry) = self.entries.remove(page)
            {
                wake |= entry.needs_wakeup;
                if let Some(object) = &entry.object {
                    let whole = entry.object_range(page, PageRange::new(page, page + entry.pages));
                    object.resident().remove(whole, |run| vm.frames().free(run));
                }
                page += entry.pages;
            }
        }
        wake
    }

    /// Returns the pages of the owner's first entries in `range` that touch each other.
    fn next_owned(&self, range: PageRange, owner: OperationId) -> Option<PageRange> {
        let mut owned: Option<PageRange> = None;
        for (start, entry) in self.entries.meeting(range).filter(|(_, entry)| entry.is_owned_by(owner)) {
            match &mut owned {
                Some(pages) if pages.end == start => pages.end = start + entry.pages,
                Some(_) => break,
                None => owned = Some(PageRange::new(start, start + entry.pages)),
            }
        }
        owned
    }
}
