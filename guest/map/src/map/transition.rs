//! The transition protocol: who marks an entry *in transition* owns it until the mark goes.

use super::{MapState, VmMap};
use crate::entry::{MapEntry, OperationId, Transition};
use crate::kern_return::KernReturn;
use crate::ports::Ports;
use crate::units::PageRange;
use crate::wait::Wait;

/// A call that marks the entries of a range, one after the other in address order. As every such call goes
/// upwards and holds what it has marked, no two can wait for each other.
pub(super) struct Claims {
    pub(super) owner: OperationId,
    pub(super) range: PageRange,
    /// Holes are passed over.
    pub(super) allows_holes: bool,
    /// Everything of the range before this page is claimed.
    cursor: u64,
}

impl Claims {
    pub(super) const fn new(owner: OperationId, range: PageRange, allows_holes: bool) -> Self {
        Self { owner, range, allows_holes, cursor: range.start }
    }
}

/// What [`VmMap::claim_next`] found.
pub(super) enum Claim<'a> {
    /// The entry that starts with this page is the call's now.
    Entry(u64),
    /// Another call holds the next entry.
    Wait(Wait<'a>),
    /// The range is claimed to its end.
    End,
}

impl<P: Ports> VmMap<P> {
    /// Clips and marks the next entry of a call's range (rows W-01, W-02, U-01, U-02).
    ///
    /// # Errors
    /// [`KernReturn::InvalidAddress`] at a hole that the call does not allow: at the start of the range, where
    /// an entry was waited for, or behind the entry claimed last (rows A-03, T-04, W-10, U-03).
    pub(super) fn claim_next(&self, state: &mut MapState<P>, call: &mut Claims) -> Result<Claim<'_>, KernReturn> {
        if call.cursor == call.range.end {
            return Ok(Claim::End);
        }
        let found = state.entries.at_or_after(call.cursor).map(|(start, entry)| (start, start + entry.pages));
        let next = found.filter(|&(start, _)| start < call.range.end);
        if next.is_none_or(|(start, _)| start > call.cursor) && !call.allows_holes {
            return Err(KernReturn::InvalidAddress);
        }
        let Some((start, end)) = next else { return Ok(Claim::End) };
        call.cursor = call.cursor.max(start);
        let first = call.cursor;
        match state.entries.get_mut(start) {
            Some(entry) if entry.transition.is_some() => return Ok(Claim::Wait(self.wait_for(entry))),
            // Clipping hands the mark to both parts, so it is set after it (row W-02).
            Some(entry) if start == first && end <= call.range.end => {
                entry.transition = Some(Transition::new(call.owner));
                call.cursor = end;
                return Ok(Claim::Entry(first));
            }
            _ => {}
        }
        state.entries.split(first);
        state.entries.split(call.range.end);
        if let Some(entry) = state.entries.get_mut(first) {
            entry.transition = Some(Transition::new(call.owner));
            call.cursor += entry.pages;
        }
        Ok(Claim::Entry(first))
    }

    /// Tells whether a hole that the call does not allow follows the entry claimed last.
    pub(super) fn meets_hole(state: &MapState<P>, call: &Claims) -> bool {
        call.cursor < call.range.end && !call.allows_holes && state.entries.containing(call.cursor).is_none()
    }

    /// Begins to wait until something happens to `entry`. The request stands on the entry before the lock
    /// is dropped (row T-02). Afterwards everything must be looked up again by address (rows T-03 to
    /// T-06): this crate never keeps a place in the map over a wait, so it need not compare timestamps.
    pub(super) fn wait_for(&self, entry: &mut MapEntry) -> Wait<'_> {
        entry.needs_wakeup = true;
        self.transitions.wait()
    }

    /// Wakes all who wait, if somebody waits for one of the entries that were let go (rows T-02, W-11). The map
    /// must be unlocked, for a waker may call it.
    pub(super) fn wake_if(&self, awaited: bool) {
        if awaited {
            self.transitions.wake_all();
        }
    }
}

impl<P: Ports> MapState<P> {
    /// Ends a call's ownership: `finish` does its last work on each entry of `range` that `owner` holds; then the
    /// marks go and what can be merged is (rows T-01, W-11). Tells whether somebody waits for one of the entries.
    #[must_use]
    pub(super) fn release(
        &mut self,
        range: PageRange,
        owner: OperationId,
        mut finish: impl FnMut(&mut MapEntry),
    ) -> bool {
        let mut awaited = false;
        for (_, entry) in self.entries.starting_mut(range) {
            if entry.is_owned_by(owner) {
                finish(entry);
                entry.transition = None;
                awaited |= core::mem::take(&mut entry.needs_wakeup);
            }
        }
        self.entries.merge(range);
        awaited
    }
}

#[cfg(test)]
mod test;
