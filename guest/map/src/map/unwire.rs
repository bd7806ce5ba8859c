//! Unwiring: FreeBSD `vm_map_unwire`.

use super::transition::{Claim, Claims};
use super::{MapState, Step, VmMap};
use crate::entry::MapEntry;
use crate::flags::WireFlags;
use crate::frame_runs::FrameRuns;
use crate::kern_return::KernReturn;
use crate::ports::{Host, Ports};
use crate::units::PageRange;
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
    /// - [`KernReturn::InvalidArgument`]: `start > end`, unaligned, or an unknown flag; or an entry that the
    ///   system has not wired is to lose a system wiring.
    /// - [`KernReturn::InvalidAddress`]: a page is not allocated, without [`WireFlags::HOLESOK`].
    ///
    /// # Partial effects
    /// None: an error leaves every wiring as it was.
    pub async fn unwire(&self, start: u64, end: u64, flags: WireFlags) -> Result<(), KernReturn> {
        let Some(range) = self.wire_range(start, end, flags)? else { return Ok(()) };
        let mut call = Claims::new(self.begin(), range, flags.allows_holes());
        let result = loop {
            match self.exclusive(|state| self.claim_for_unwire(state, &mut call, flags)) {
                Step::Wait(wait) => wait.await,
                Step::Done(result) => break result,
            }
        };
        if result.is_ok() {
            let last = self.exclusive(|state| self.unwire_entries(state, &call, flags)).joined();
            if !last.is_empty() {
                // The marks stay until the host knows, so that no wire of the same frames can overtake this.
                self.vm.host().unwire(&last).await;
            }
        }
        self.exclusive(|state| self.release(state, call.range, call.owner, |_| ()));
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
            let system_wired = state.entries.get_mut(start).is_some_and(|entry| entry.system_wired_count() > 0);
            if !flags.is_user() && !system_wired {
                return Step::Done(Err(KernReturn::InvalidArgument));
            }
        }
    }

    /// Takes the wiring from every entry that the call holds (rows U-06 to U-08) and returns the frames that
    /// have none left.
    fn unwire_entries(&self, state: &mut MapState<P>, call: &Claims, flags: WireFlags) -> FrameRuns {
        let mut last = FrameRuns::new();
        let mut uncharged = 0;
        for (start, entry) in state.entries.meeting_mut(call.range) {
            if entry.is_owned_by(call.owner) && (!flags.is_user() || entry.user_wired) {
                entry.wired_count -= 1;
                if flags.is_user() {
                    entry.user_wired = false;
                    uncharged += entry.pages;
                }
                if entry.wired_count == 0 {
                    entry.unwire_pages(start, &mut last);
                }
            }
        }
        state.user_wired_pages -= uncharged;
        self.vm.uncharge(uncharged);
        last
    }
}

impl MapEntry {
    /// Takes the entry's wiring off its pages; the frames that have none left are added to `last`. It goes by
    /// the object, not by the page tables, so the protection does not matter (row B-07).
    pub(super) fn unwire_pages(&self, start: u64, last: &mut FrameRuns) {
        if let Some(object) = &self.object {
            let whole = PageRange::new(start, start + self.pages);
            object.resident().unwire(self.object_range(start, whole), last);
        }
    }
}
