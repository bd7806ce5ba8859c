//! Wiring: FreeBSD `vm_map_wire`, with the host told once per call.

use super::transition::{Claim, Claims};
use super::window::Window;
use super::{MapState, Step, VmMap};
use crate::entry::{MapEntry, Transition};
use crate::flags::WireFlags;
use crate::frame_runs::FrameRuns;
use crate::kern_return::KernReturn;
use crate::ports::{Host, OutOfFrames, Ports};
use crate::units::{PAGE_SHIFT, PAGE_SIZE, PageRange, Prot};
use crate::vm::Vm;
use crate::wait::Wait;

/// One wire call under way.
struct Wiring {
    claims: Claims,
    flags: WireFlags,
    /// Frames that this call is the first to wire.
    first: FrameRuns,
}

impl<P: Ports> VmMap<P> {
    /// Wires the pages from `start` to `end` (bytes, page-aligned): they become resident and the host keeps
    /// their frames in memory (FreeBSD `vm_map_wire`).
    ///
    /// The system's wirings nest by count; the user's is one bit per entry, so one
    /// [`VmMap::unwire`] undoes any number of them. A range that sticks out of the map is clamped to it.
    /// `start == end` succeeds whatever the other arguments are. The protection of an entry says which access
    /// its wiring serves, so one that permits neither reading nor executing can't be wired, **a write-only one
    /// included** (rows W-03 and D-D). The host is asked once, for all frames of the call; wiring makes no page
    /// dirty.
    ///
    /// # Errors
    /// - [`KernReturn::InvalidArgument`]: `start > end`, unaligned, or an unknown flag.
    /// - [`KernReturn::InvalidAddress`]: without [`WireFlags::HOLESOK`], a page is not allocated, or its entry
    ///   not readable, or with [`WireFlags::WRITE`] not writable.
    /// - [`KernReturn::ResourceShortage`]: the user-wire limit, guest memory, or the host's quota, memory, lock
    ///   limit or queue is used up.
    /// - [`KernReturn::Failure`]: the host failed otherwise; or an entry is wired 2^32 - 1 times.
    ///
    /// # Partial effects
    /// After an error no wiring is left that was not there before, and nobody sees the call's intermediate
    /// state: its entries stay in transition until all is undone (row D-H). Pages may stay resident (row F-06).
    pub async fn wire(&self, start: u64, end: u64, flags: WireFlags) -> Result<(), KernReturn> {
        let Some(range) = self.wire_range(start, end, flags)? else { return Ok(()) };
        let claims = Claims::new(self.begin(), range, flags.allows_holes());
        let mut call = Wiring { claims, flags, first: FrameRuns::new() };
        let mut result = loop {
            match self.exclusive(|state| self.wire_entries(state, &mut call)) {
                Step::Wait(wait) => wait.await,
                Step::Done(result) => break result,
            }
        };
        if result.is_ok() {
            let runs = core::mem::take(&mut call.first).joined();
            if !runs.is_empty()
                && let Err(error) = self.vm.host().wire(&runs).await
            {
                self.note_host_error(error);
                result = Err(KernReturn::from_wire_error(error));
            }
        }
        let awaited = self.exclusive(|state| self.finish_wire(state, &call, result.is_ok()));
        self.wake_if(awaited);
        self.debug_check();
        result
    }

    /// Checks the arguments of wire and unwire in the order of rows and clamps the range to the
    /// map. `None` when there is nothing to do.
    pub(super) fn wire_range(&self, start: u64, end: u64, flags: WireFlags) -> Result<Option<PageRange>, KernReturn> {
        if start == end {
            return Ok(None);
        }
        let aligned = start.is_multiple_of(PAGE_SIZE) && end.is_multiple_of(PAGE_SIZE);
        if start > end || !aligned || flags.has_unknown() {
            return Err(KernReturn::InvalidArgument);
        }
        let range = PageRange::new(start >> PAGE_SHIFT, end >> PAGE_SHIFT).intersection(self.bounds);
        if !range.is_empty() {
            Ok(Some(range))
        } else if flags.allows_holes() {
            Ok(None)
        } else {
            Err(KernReturn::InvalidAddress)
        }
    }

    /// Marks and wires entry after entry, in address order (FreeBSD `vm_map_wire_locked`). After an error
    /// the marks tell [`VmMap::finish_wire`] what to undo.
    fn wire_entries(&self, state: &mut MapState<P>, call: &mut Wiring) -> Step<Wait<'_>, Result<(), KernReturn>> {
        loop {
            let wired = match self.claim_next(state, &mut call.claims) {
                Ok(Claim::Entry(start)) => self.wire_entry(state, call, start),
                Ok(Claim::Wait(wait)) => return Step::Wait(wait),
                Ok(Claim::End) => return Step::Done(Ok(())),
                Err(error) => Err(error),
            };
            if let Err(error) = wired {
                return Step::Done(Err(error));
            }
        }
    }

    /// Wires the entry that starts with page `start`, which the call holds (rows W-03 to W-09).
    fn wire_entry(&self, state: &mut MapState<P>, call: &mut Wiring, start: u64) -> Result<(), KernReturn> {
        let MapState { entries, pmap, user_wired_pages, .. } = state;
        let Some(entry) = entries.get_mut(start) else { return Ok(()) };
        let Some(mark) = &mut entry.transition else { return Ok(()) };
        let readable = !(entry.prot & (Prot::READ | Prot::EXECUTE)).is_none();
        let writable = entry.prot.contains(Prot::WRITE);
        if !readable || call.flags.contains(WireFlags::WRITE) && !writable {
            mark.skipped = true;
            return if call.flags.allows_holes() { Ok(()) } else { Err(KernReturn::InvalidAddress) };
        }
        if call.flags.is_user() && entry.user_wired {
            return Ok(());
        }
        let count = entry.wired_count.checked_add(1).ok_or(KernReturn::Failure)?;
        if call.flags.is_user() {
            if !self.vm.charge(entry.pages) {
                return Err(KernReturn::ResourceShortage);
            }
            // By the user bit and nothing else, so that mixed wirings can't make the total drift (row D-G).
            mark.charged = true;
            *user_wired_pages += entry.pages;
        }
        if count == 1 {
            wire_pages(&self.vm, pmap, entry, start, &mut call.first)
                .map_err(|OutOfFrames| KernReturn::ResourceShortage)?;
        }
        entry.count_wiring(count);
        Ok(())
    }

    /// Completes the call's entries, or undoes what the call did to them; then lets go of them. Tells whether
    /// somebody waits for one.
    fn finish_wire(&self, state: &mut MapState<P>, call: &Wiring, succeeded: bool) -> bool {
        let mut uncharged = 0;
        // The starts are needed for the object's pages, which `release` does not tell.
        if !succeeded {
            for (start, entry) in state.entries.starting_mut(call.claims.range) {
                if entry.is_owned_by(call.claims.owner) {
                    uncharged += entry.undo_wiring(start);
                }
            }
            state.user_wired_pages -= uncharged;
            self.vm.uncharge(uncharged);
        }
        state.release(call.claims.range, call.claims.owner, |entry| {
            let skipped = entry.transition.is_none_or(|mark| mark.skipped);
            if succeeded && call.flags.is_user() && !skipped {
                entry.user_wired = true;
            }
        })
    }
}

/// Makes the pages of the entry that starts with `start` resident and mapped and counts its wiring on each
/// (row W-06); the frames that had none are added to `first`.
fn wire_pages<P: Ports>(
    vm: &Vm<P>,
    pmap: &mut P::Pmap,
    entry: &mut MapEntry,
    start: u64,
    first: &mut FrameRuns,
) -> Result<(), OutOfFrames> {
    let window = Window::on_all(entry, start);
    let mut resident = window.resident();
    // What is not resident is not mapped either. A page that is entered starts clean, so older marks are
    // taken first.
    if !resident.is_absent(window.indices) {
        window.collect_dirty(pmap, &mut resident);
    }
    window.populate(vm, &mut resident)?;
    window.enter(pmap, &resident)?;
    resident.wire(window.indices, first);
    Ok(())
}

impl MapEntry {
    /// Counts this call's wiring, so that it can be undone.
    fn count_wiring(&mut self, count: u32) {
        self.wired_count = count;
        if let Some(mark) = &mut self.transition {
            mark.counted = true;
        }
    }

    /// Undoes what the wire call that owns the entry did to it (rows F-01 to F-05) and returns how many pages
    /// must be uncharged. The host has wired nothing for the call.
    fn undo_wiring(&mut self, start: u64) -> u64 {
        let Some(mark) = &mut self.transition else { return 0 };
        let Transition { counted, charged, .. } = core::mem::replace(mark, Transition::new(mark.owner));
        if counted {
            self.wired_count -= 1;
            if self.wired_count == 0 {
                self.unwire_pages(start, &mut FrameRuns::new());
            }
        }
        if charged { self.pages } else { 0 }
    }
}

#[cfg(test)]
mod test;
