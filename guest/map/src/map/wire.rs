//! Wiring: FreeBSD `vm_map_wire`, with the host told once per call.

use alloc::sync::Arc;

use super::obstacle::Work;
use super::transition::{Claim, Claims};
use super::{MapState, Step, VmMap};
use crate::entry::{MapEntry, OperationId, Transition};
use crate::flags::WireFlags;
use crate::kern_return::KernReturn;
use crate::objects::{Counts, Found, ObjectTable, Objects, Pin, PinList};
use crate::ports::{Host, Ports};
use crate::units::{PAGE_SHIFT, PAGE_SIZE, PageRange, Prot};
use crate::wait::Wait;

/// One wire call under way.
struct Wiring {
    claims: Claims,
    flags: WireFlags,
    /// Pages are wired only as they become resident.
    on_fault: bool,
    /// It has claimed entries that were wired page by page, and are wired as a whole once it has succeeded.
    completes: bool,
    /// The pages of the entry claimed last that are still to be made resident and counted.
    rest: PageRange,
    /// What the host is to be asked about.
    pins: PinList,
    /// That is collected page by page: the call has wired nothing but pages that were there so far, with nothing awaited.
    collects: bool,
}

impl<P: Ports> VmMap<P> {
    /// Wires the pages from `start` to `end` (bytes, page-aligned): they become resident and the host keeps
    /// their frames in memory (FreeBSD `vm_map_wire`).
    ///
    /// The system's wirings nest by count; the user's is one bit per entry, so one
    /// [`VmMap::unwire`] undoes any number of them. A range that sticks out of the map is clamped to it.
    /// `start == end` succeeds whatever the other arguments are. The protection of an entry says which access
    /// its wiring serves, so one that permits neither reading nor executing can't be wired, **a write-only one
    /// included** (rows W-03 and D-D), and one that may be written gets pages of its own now (row P-01). The host is asked
    /// once, for all frames of the call; wiring makes no page dirty. The call can't be interrupted (row T-09).
    ///
    /// # Errors
    /// - [`KernReturn::InvalidArgument`]: `start > end`, unaligned, or an unknown flag; or an end of the range lies within a
    ///   large page.
    /// - [`KernReturn::InvalidAddress`]: without [`WireFlags::HOLESOK`], a page is not allocated, or its entry
    ///   not readable, or with [`WireFlags::WRITE`] not writable.
    /// - [`KernReturn::ResourceShortage`]: the user-wire limit or the map's, guest memory, or the host's quota, memory, lock
    ///   limit or queue is used up.
    /// - [`KernReturn::OutOfBounds`], [`KernReturn::ProtectionFailure`]: a page lies past the end of its object or its pager
    ///   could not read it; its object is dead (row F-02).
    /// - [`KernReturn::Failure`]: the host failed otherwise, or a pager refused; or an entry is wired 2^32 - 1 times.
    ///
    /// # Partial effects
    /// After an error no wiring is left that was not there before, and nobody sees the call's intermediate
    /// state: its entries stay in transition until all is undone (row D-H). Pages may stay resident (row F-06).
    pub async fn wire(&self, start: u64, end: u64, flags: WireFlags) -> Result<(), KernReturn> {
        let Some(range) = self.wire_range(start, end, flags)? else { return Ok(()) };
        self.wire_then(self.begin(), range, flags, false, |_, _| ()).await.0
    }

    /// As [`VmMap::wire`], for pages; with `on_fault`, pages that are not resident are wired when they become so.
    pub(super) async fn wire_pages(
        &self,
        range: PageRange,
        flags: WireFlags,
        on_fault: bool,
    ) -> Result<(), KernReturn> {
        self.wire_as(self.begin(), range, flags, on_fault).await
    }

    /// As [`VmMap::wire_pages`], as the call `owner`, which may hold entries of the range already.
    pub(super) async fn wire_as(
        &self,
        owner: OperationId,
        range: PageRange,
        flags: WireFlags,
        on_fault: bool,
    ) -> Result<(), KernReturn> {
        self.wire_then(owner, range, flags, on_fault, |_, _| ()).await.0
    }

    /// As [`VmMap::wire_as`]; `then` is told whether the pages are wired, in the hold in which the call lets go of the entries.
    pub(super) async fn wire_then<T: Send>(
        &self,
        owner: OperationId,
        range: PageRange,
        flags: WireFlags,
        on_fault: bool,
        then: impl FnOnce(&mut MapState<P>, bool) -> T + Send,
    ) -> (Result<(), KernReturn>, T) {
        let claims = Claims::new(owner, range, flags.allows_holes());
        let mut call = Wiring {
            claims,
            flags,
            on_fault,
            completes: false,
            rest: PageRange::new(0, 0),
            pins: PinList::new(),
            collects: !on_fault,
        };
        // Mostly all there is to do is done at once.
        let mut result = match self.exclusive(|state| self.wire_some(state, &mut call)) {
            Step::Done(Ok(None)) => Ok(()),
            step => self.wire_entries(&mut call, step).await,
        };
        if result.is_ok() {
            if !call.collects {
                self.collect_pins(&mut call).await;
            }
            // 0 to 1 is told, and nothing else.
            if !call.pins.is_empty() {
                let answer = self.vm.host().wire(call.pins.frames()).await;
                #[cfg(test)]
                self.vm.planted.pause().await;
                let pin = if answer.is_ok() { Pin::Yes } else { Pin::No };
                self.vm.objects().table.finish_pins(&mut call.pins, pin, self.vm.frames());
                self.vm.idle().wake_all();
                if !call.pins.is_empty() {
                    self.unpin(&mut call.pins).await;
                }
                self.end_busy();
                result = answer.map_err(|error| {
                    self.note_host_error(error);
                    KernReturn::from_wire_error(error)
                });
            }
        }
        if result.is_err() {
            let mut last = self.exclusive(|state| state.undo_wiring(&call));
            #[cfg(test)]
            if self.vm.planted.has(crate::planted::Mutant::MarksGoBeforeRollBack) {
                let awaited = self.exclusive(|state| state.finish_wiring(&call, false));
                self.wake_if(awaited);
            }
            self.unpin(&mut last).await;
        }
        #[cfg(test)]
        self.vm.planted.pause().await;
        let (awaited, value) = self.exclusive(|state| {
            let awaited = state.finish_wiring(&call, result.is_ok());
            (awaited, then(state, result.is_ok()))
        });
        #[cfg(test)]
        self.vm.planted.pause().await;
        self.wake_if(awaited);
        self.debug_check();
        (result, value)
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

    /// Goes on where [`VmMap::wire_some`] has come to `step`, until all entries are wired.
    async fn wire_entries(
        &self,
        call: &mut Wiring,
        mut step: Step<Wait<'_>, Result<Option<Work<'_>>, KernReturn>>,
    ) -> Result<(), KernReturn> {
        loop {
            match step {
                Step::Wait(wait) => wait.await,
                Step::Done(Ok(Some(work))) => self.overcome(work).await?,
                Step::Done(Ok(None)) => return Ok(()),
                Step::Done(Err(error)) => return Err(error),
            }
            step = self.exclusive(|state| self.wire_some(state, call));
        }
    }

    /// Marks and wires entry after entry, in address order (FreeBSD `vm_map_wire_locked`), until something must be awaited. After an
    /// error the marks tell [`MapState::undo_wiring`] what to undo. What has been collected by then to be pinned is kept only at
    /// the end: no call waits while another may wait for it.
    fn wire_some(
        &self,
        state: &mut MapState<P>,
        call: &mut Wiring,
    ) -> Step<Wait<'_>, Result<Option<Work<'_>>, KernReturn>> {
        let step = self.wire_many(state, call);
        if !matches!(step, Step::Done(Ok(None))) {
            self.collect_later(call, &mut self.vm.objects());
        } else if !call.pins.is_empty() {
            state.busy += 1;
        }
        step
    }

    fn wire_many(
        &self,
        state: &mut MapState<P>,
        call: &mut Wiring,
    ) -> Step<Wait<'_>, Result<Option<Work<'_>>, KernReturn>> {
        loop {
            let step = match self.bring_in(state, call) {
                Ok(None) => self.claim_next(state, &mut call.claims),
                other => return Step::Done(other),
            };
            match step {
                Ok(Claim::Entry(start)) => {
                    if let Err(error) = state.wire_entry(call, start) {
                        return Step::Done(Err(error));
                    }
                }
                Ok(Claim::Wait(wait)) => return Step::Wait(wait),
                Ok(Claim::End) => return Step::Done(Ok(None)),
                Err(error) => return Step::Done(Err(error)),
            }
        }
    }

    /// Makes the pages of the entry claimed last resident and mapped and counts its wiring on each (row W-06). The entry may
    /// have been clipped meanwhile, so it is looked up for each part (row T-07).
    fn bring_in(&self, state: &mut MapState<P>, call: &mut Wiring) -> Result<Option<Work<'_>>, KernReturn> {
        'parts: while !call.rest.is_empty() {
            let page = call.rest.start;
            // Mostly an entry begins there which has what it takes.
            let (start, entry) = match state.entries.get_mut(page) {
                Some(entry) if entry.object.is_some() && !entry.needs_copy => (page, entry),
                _ => {
                    state.prepare(page);
                    let Some(found) = state.entries.containing_mut(page) else { return Ok(None) };
                    found
                }
            };
            let (space, by_fault, busy) = (state.space, &state.by_fault, &mut state.busy);
            let part = call.rest.intersection(entry.range(start));
            #[cfg(test)]
            let part =
                if self.vm.planted.has(crate::planted::Mutant::TrustsPlaceAfterPageIn) { call.rest } else { part };
            let Some(mut window) = entry.window(start, part) else { return Ok(None) };
            let mut objects = self.vm.objects();
            let access = if entry.prot.contains(Prot::WRITE) { Prot::DEFAULT } else { Prot::READ };
            if !entry.on_fault
                && let Some(mark) = &mut entry.transition
            {
                // Run by run.
                while let Some(entered) =
                    objects.wire_ready(space, &window, access, call.collects.then_some(&mut call.pins))
                {
                    let done = window.pages.start + entered.map_err(|_| KernReturn::ResourceShortage)?;
                    mark.wired_to = Some(done);
                    call.rest.start = done;
                    if done == window.pages.end {
                        continue 'parts;
                    }
                    window = window.narrowed(PageRange::new(done, window.pages.end));
                }
            }
            self.collect_later(call, &mut objects);
            // What is not resident is not mapped either. A page that is entered starts clean, so older marks are
            // taken first.
            if !objects.table.is_absent(window.object, window.indices) {
                objects.collect_dirty(space, &window);
            }
            let (ready, obstacle) = objects.populate(self.vm.frames(), &window, access);
            let done = window.narrowed(PageRange::new(window.pages.start, window.pages.start + ready));
            let is_entered = objects.enter(space, &done).is_ok();
            if !is_entered && obstacle.is_none() {
                return Err(KernReturn::ResourceShortage);
            }
            if is_entered {
                entry.count_pages(start, done.pages, by_fault, &mut objects.table);
                call.rest.start = done.pages.end;
            }
            // What has been begun must be ended, even if it is in vain.
            if let Some(obstacle) = obstacle {
                #[cfg(test)]
                if self.vm.planted.has(crate::planted::Mutant::CountsAgainAfterPageIn) {
                    call.rest.start = start;
                }
                return self.work(busy, obstacle).map(Some);
            }
        }
        Ok(None)
    }

    /// Leaves it to [`VmMap::begin_pins`] to collect what the host is to be asked about: takes the marks off what has been collected, in
    /// the hold in which they were set.
    fn collect_later(&self, call: &mut Wiring, objects: &mut Objects<P>) {
        if core::mem::take(&mut call.collects) {
            objects.table.finish_pins(&mut call.pins, Pin::No, self.vm.frames());
            debug_assert!(call.pins.is_empty(), "the host has not been asked");
        }
    }

    /// Collects the pages that the host must be asked about, once it is asked about none of them by somebody else.
    async fn collect_pins(&self, call: &mut Wiring) {
        while let Step::Wait(wait) = self.locked(|state| self.begin_pins(state, call)) {
            wait.await;
        }
    }

    /// Collects the pages that the host must be asked about. While it is asked about one of them by somebody else, this waits,
    /// and holds none, so that no two calls wait for each other.
    fn begin_pins(&self, state: &mut MapState<P>, call: &mut Wiring) -> Step<Wait<'_>, ()> {
        let mut objects = self.vm.objects();
        let owner = call.claims.owner;
        let owned = |(start, entry): (u64, &MapEntry)| {
            entry.is_owned_by(owner) && call.claims.range.contains(start) && entry.is_newly_wired()
        };
        // All are looked at before one is marked: the call may show pages twice, and what it has marked itself is not to be waited for.
        for (start, entry) in state.entries.meeting(call.claims.range).filter(|&(start, entry)| owned((start, entry))) {
            let Some(top) = entry.object else { continue };
            for pages in entry.counted_pages(start, &state.by_fault) {
                let going = objects.table.is_pin_going(top, entry.object_range(start, pages));
                #[cfg(test)]
                let going = going && !self.vm.planted.has(crate::planted::Mutant::PinsIgnoreCallsUnderWay);
                if going {
                    return Step::Wait(self.vm.idle().wait());
                }
            }
        }
        for (start, entry) in state.entries.meeting(call.claims.range).filter(|&(start, entry)| owned((start, entry))) {
            let Some(top) = entry.object else { continue };
            for pages in entry.counted_pages(start, &state.by_fault) {
                objects.table.begin_pins(top, entry.object_range(start, pages), &mut call.pins);
            }
        }
        if !call.pins.is_empty() {
            state.busy += 1;
        }
        Step::Done(())
    }
}

impl<P: Ports> MapState<P> {
    /// Gives the entry that holds `page` an object, of its own if it may be written.
    fn prepare(&mut self, page: u64) {
        let Some((start, entry)) = self.entries.containing_mut(page) else { return };
        if entry.needs_copy && entry.prot.contains(Prot::WRITE) {
            self.make_private(start);
        }
        self.ensure_object(start);
    }

    /// Counts the wiring of the entry that starts with page `start`, which the call holds (rows W-03 to W-09).
    fn wire_entry(&mut self, call: &mut Wiring, start: u64) -> Result<(), KernReturn> {
        let Some(entry) = self.entries.get_mut(start) else { return Ok(()) };
        let Some(mark) = &mut entry.transition else { return Ok(()) };
        let readable = !(entry.prot & (Prot::READ | Prot::EXECUTE)).is_none();
        let writable = entry.prot.contains(Prot::WRITE);
        if !readable || call.flags.contains(WireFlags::WRITE) && !writable {
            mark.skipped = true;
            return if call.flags.allows_holes() { Ok(()) } else { Err(KernReturn::InvalidAddress) };
        }
        // Where no pages are brought in now, none are copied either; but what the user has wired and may write needs no copy
        // (row N4).
        let shares = entry.wired_count > 0 || call.on_fault;
        #[cfg(test)]
        let shares = shares && !self.vm.planted.has(crate::planted::Mutant::WireLeavesNeedForCopy);
        let entry = if writable && shares && entry.needs_copy {
            self.make_private(start);
            let Some(entry) = self.entries.get_mut(start) else { return Ok(()) };
            entry
        } else {
            entry
        };
        let Some(mark) = &mut entry.transition else { return Ok(()) };
        let completes = entry.on_fault && !call.on_fault;
        if !(call.flags.is_user() && entry.user_wired) {
            let count = entry.wired_count.checked_add(1).ok_or(KernReturn::Failure)?;
            if call.flags.is_user() {
                let fits = self.user_wired_pages.saturating_add(entry.pages) <= self.limits.memlock_pages;
                if !fits || !self.vm.charge(entry.pages) {
                    return Err(KernReturn::ResourceShortage);
                }
                // By the user bit and nothing else, so that mixed wirings can't make the total drift (row D-G).
                mark.charged = true;
                self.user_wired_pages += entry.pages;
            }
            mark.counted = true;
            entry.wired_count = count;
            #[cfg(test)]
            if call.flags.is_user() && self.vm.planted.has(crate::planted::Mutant::UserBitBeforeFaults) {
                mark.charged = false;
                entry.user_wired = true;
            }
            if count == 1 {
                mark.wired_to = Some(start);
                if call.on_fault {
                    mark.wires_on_fault = true;
                    entry.on_fault = true;
                    return self.wire_resident(start);
                }
                call.rest = entry.range(start);
            }
        }
        if completes {
            call.completes = true;
            // Pages that came by faults are counted already.
            if let Some(mark) = &mut entry.transition {
                mark.wired_to = Some(start);
            }
            call.rest = entry.range(start);
        }
        Ok(())
    }

    /// Counts the wiring on the pages that are resident already of an entry that is wired as pages become so.
    fn wire_resident(&mut self, start: u64) -> Result<(), KernReturn> {
        let Some(entry) = self.entries.get_mut(start) else { return Ok(()) };
        let Some(top) = entry.object else { return Ok(()) };
        let mut objects = self.vm.objects();
        let indices = PageRange::new(entry.offset, entry.offset + entry.pages);
        let mut at = indices.start;
        while at < indices.end {
            let (pages, found) = objects.table.look(top, PageRange::new(at, indices.end));
            if matches!(found, Found::Resident { .. }) {
                let part = PageRange::new(at, at + pages);
                objects.table.count(top, part);
                self.by_fault.add(PageRange::new(start + (at - entry.offset), start + (at - entry.offset) + pages));
            }
            at += pages;
        }
        Ok(())
    }

    /// Undoes what the call did to its entries (rows F-01 to F-05) and returns the pages that the host need not hold any more.
    /// The marks stay.
    fn undo_wiring(&mut self, call: &Wiring) -> PinList {
        let mut last = PinList::new();
        let mut uncharged = 0;
        let mut objects = self.vm.objects();
        self.entries.change_starting(call.claims.range, |start, entry| {
            if entry.is_owned_by(call.claims.owner) {
                uncharged += entry.undo_wiring(start, &mut objects.table, &mut self.by_fault, &mut last);
                #[cfg(test)]
                if entry.user_wired && self.vm.planted.has(crate::planted::Mutant::RollBackTakesOlderWiring) {
                    entry.unwire_pages(start, &mut objects.table, &mut self.by_fault, &mut last);
                    entry.user_wired = false;
                    entry.wired_count -= 1;
                    uncharged += entry.pages;
                }
            }
        });
        #[cfg(test)]
        let uncharged = if self.vm.planted.has(crate::planted::Mutant::RollBackKeepsCharge) { 0 } else { uncharged };
        self.user_wired_pages -= uncharged;
        self.vm.uncharge(uncharged);
        drop(objects);
        if call.completes {
            self.unmap_uncounted(&call.claims);
        }
        last
    }

    /// Unmaps the pages that the call has brought into entries which are wired page by page still: an access without a fault would leave
    /// them unwired.
    #[cold]
    fn unmap_uncounted(&mut self, call: &Claims) {
        let vm = Arc::clone(&self.vm);
        let mut objects = vm.objects();
        let mut at = call.range.start;
        while let Some((start, entry)) = self.entries.at_or_after(at)
            && start < call.range.end
        {
            let mut rest = entry.range(start);
            at = rest.end;
            let keeps_others = !entry.on_fault || !entry.is_owned_by(call.owner);
            while !keeps_others && !rest.is_empty() {
                let (pages, count) = self.by_fault.first_of(rest);
                let part = PageRange::new(rest.start, rest.start + pages);
                if count == 0 {
                    self.unmap(&mut objects, part);
                }
                rest.start = part.end;
            }
        }
    }

    /// Completes the call's entries if it succeeded, and lets go of them. Tells whether somebody waits for one.
    #[inline(always)]
    fn finish_wiring(&mut self, call: &Wiring, succeeded: bool) -> bool {
        if succeeded && call.completes {
            self.complete_entries(&call.claims);
        }
        self.release(call.claims.range, call.claims.owner, |entry| {
            let skipped = entry.transition.is_none_or(|mark| mark.skipped);
            if succeeded && !skipped && call.flags.is_user() {
                entry.user_wired = true;
            }
        })
    }

    /// Says that the call has wired its entries as a whole.
    #[cold]
    fn complete_entries(&mut self, call: &Claims) {
        self.entries.change_starting(call.range, |start, entry| {
            if entry.transition.is_some_and(|mark| mark.owner == call.owner && !mark.skipped) {
                entry.end_on_fault(start, &mut self.by_fault);
            }
        });
    }
}

impl MapEntry {
    /// Tells whether the call that owns the entry has wired pages of it that were not before.
    fn is_newly_wired(&self) -> bool {
        self.transition.is_some_and(|mark| mark.wired_to.is_some())
    }

    /// Returns the count that the first page of `range` (not empty) has by a fault, and for how many pages it is the same.
    fn first_by_fault(&self, range: PageRange, by_fault: &Counts) -> (u64, u32) {
        if self.on_fault { by_fault.first_of(range) } else { (range.len(), 0) }
    }

    /// Counts the wiring on `pages`, those excepted that it is counted on already.
    fn count_pages(&mut self, start: u64, pages: PageRange, by_fault: &Counts, table: &mut ObjectTable) {
        let Some(top) = self.object else { return };
        let mut rest = pages;
        while !rest.is_empty() {
            let (same, count) = self.first_by_fault(rest, by_fault);
            let part = PageRange::new(rest.start, rest.start + same);
            if count == 0 {
                table.count(top, self.object_range(start, part));
            }
            rest.start = part.end;
        }
        if let Some(mark) = &mut self.transition {
            mark.wired_to = Some(pages.end);
        }
    }

    /// Undoes what the wire call that owns the entry did to it and returns how many pages must be uncharged.
    fn undo_wiring(&mut self, start: u64, table: &mut ObjectTable, by_fault: &mut Counts, last: &mut PinList) -> u64 {
        let Some(mark) = self.transition else { return 0 };
        if let (Some(wired_to), Some(top)) = (mark.wired_to, self.object) {
            let wired_to = wired_to.clamp(start, start + self.pages);
            let mut rest = PageRange::new(start, if mark.wires_on_fault { start + self.pages } else { wired_to });
            while !rest.is_empty() {
                let (same, known) = self.first_by_fault(rest, by_fault);
                let part = PageRange::new(rest.start, rest.start + same);
                // What came by faults was there before the call, unless the call began that.
                if (known > 0) == mark.wires_on_fault {
                    table.uncount(top, self.object_range(start, part), last);
                }
                rest.start = part.end;
            }
        }
        if mark.wires_on_fault {
            self.end_on_fault(start, by_fault);
        }
        self.wired_count -= u32::from(mark.counted);
        self.transition = Some(Transition { skipped: mark.skipped, ..Transition::new(mark.owner) });
        if mark.charged { self.pages } else { 0 }
    }
}

#[cfg(test)]
mod test;
