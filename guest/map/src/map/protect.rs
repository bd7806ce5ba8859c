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
        let in_transition = state.entries.meeting_mut(range).find(|(_, entry)| entry.transition.is_some());
        if let Some((_, entry)) = in_transition {
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
            if new != old {
                self.reprotect(pages, new);
            }
            page = pages.end;
        }
        self.entries.merge(range);
    }
}
