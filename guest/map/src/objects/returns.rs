//! Returning pages to their manager, and dropping them from the cache.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use super::{Extent, Managed, Manager, ObjectId, ObjectTable, Objects};
use crate::kern_return::KernReturn;
use crate::manager::{ManagerPort, Message, ShouldReturn};
#[cfg(test)]
use crate::planted::{Mutant, is_planted};
use crate::ports::{Frames, HostError, OutOfFrames, Ports};
use crate::units::{FrameRun, PageRange, Prot};

/// Pages that were sent back together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) pages: PageRange,
    pub(crate) frames: FrameRun,
    /// They were dirty; else they are precious only.
    pub(crate) dirty: bool,
    /// They are to leave the cache once the manager has them.
    pub(crate) flush: bool,
    /// A failure until the manager has them.
    pub(crate) result: Result<(), HostError>,
}

/// What is sent back of one part of an object, and the synchronization behind it (row K-01). The object is held, and the pages
/// are being cleaned, until it is finished.
#[derive(Debug)]
#[must_use = "pages are being cleaned until the return is finished"]
pub(crate) struct Returns {
    pub(crate) object: ObjectId,
    pub(crate) manager: Manager,
    /// What is synchronized.
    pub(crate) part: PageRange,
    /// The synchronization's number.
    pub(crate) sync: u64,
    pub(crate) sent: Vec<Sent>,
    /// Pages, also of earlier returns, that the synchronization puts on backing storage.
    covered: Vec<PageRange>,
    /// Some pages could not be sent.
    pub(crate) refused: Option<HostError>,
}

/// Which pages of an unwired part are returned, and whether the others leave the cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sending {
    /// Dirty pages are returned; else a flush loses them.
    pub(crate) dirty: bool,
    /// Precious pages are returned.
    pub(crate) precious: bool,
    /// Unwired pages leave the cache.
    pub(crate) flush: bool,
}

impl Sending {
    /// Tells whether the pages are to be returned. Of wired pages, which are never flushed, nothing is lost by keeping them
    /// (row Q-04).
    const fn returns(self, extent: &Extent) -> bool {
        if extent.wires > 0 {
            return self.dirty && extent.is_owed();
        }
        (self.dirty && extent.dirty) || (self.precious && extent.precious)
    }
}

impl<P: Ports> Objects<P> {
    /// Begins to return pages of `part` of an object with a manager. No page of it may be on its way already, and no
    /// synchronization outstanding that meets it. `None` where there is nothing to return, nor anything that was returned
    /// before and not synchronized (row K-02). Dirty marks must have been collected.
    ///
    /// Pages that are to be flushed are unmapped first, wherever they are mapped; what needs no return is gone afterwards
    /// (rows ).
    pub(crate) fn begin_returns(
        &mut self,
        id: ObjectId,
        part: PageRange,
        sending: Sending,
        flags: u32,
        frames: &P::Frames,
    ) -> Option<Returns> {
        if self.table[id].is_dead {
            // Nobody is there to take anything back (row K-04).
            return None;
        }
        if sending.flush {
            self.flush(id, part, |extent| sending.returns(extent), frames);
        }
        let pieces: Vec<_> =
            self.table[id].resident.pieces(part).filter(|(_, extent)| sending.returns(extent)).collect();
        let mut sent: Vec<Sent> = Vec::new();
        for (pages, extent) in pieces {
            let flush = sending.flush && extent.wires == 0;
            match sent.last_mut() {
                Some(last)
                    if last.pages.end == pages.start
                        && last.frames.end() == extent.frames.first
                        && (last.dirty, last.flush) == (extent.dirty, flush) =>
                {
                    last.pages.end = pages.end;
                    last.frames.pages += pages.len();
                }
                _ => {
                    let result = Err(HostError::Rejected);
                    sent.push(Sent { pages, frames: extent.frames, dirty: extent.dirty, flush, result });
                }
            }
        }
        let number = u64::from(id.number());
        let object = &mut self.table[id];
        let managed = object.managed_mut()?;
        let manager = managed.manager.clone();
        let mut refused = None;
        if let Manager::Task(port) = &manager {
            // The manager gets copies: the pages may be written again before it looks.
            let mut messages = DataReturns::default();
            sent.retain_mut(|item| match copies(item.frames, frames) {
                Ok(copied) => {
                    messages.add(item.pages, (item.dirty, !item.flush), copied);
                    item.result = Ok(());
                    true
                }
                Err(OutOfFrames) => {
                    refused = Some(HostError::Shortage);
                    false
                }
            });
            messages.send(port, number);
        }
        for item in &sent {
            managed.returned(item.pages);
        }
        // Where nothing is to be written, what was returned before is nobody's promise.
        let covered = if sending.dirty || !sent.is_empty() { managed.take_unsynced(part) } else { Vec::new() };
        if covered.is_empty() && refused.is_none() {
            return None;
        }
        let sync = managed.begin_sync(part);
        if let Manager::Task(port) = &manager {
            port.send(number, Message::Synchronize { pages: part, flags });
        }
        object.holds += 1;
        for item in &sent {
            object.resident.begin_cleaning(item.pages);
        }
        // What must be asked for again before it is written is not written through an older mapping.
        let is_trapped = |(_, extent): &(PageRange, Extent)| extent.traps && extent.wires == 0;
        let trapped: Vec<PageRange> = object.resident.pieces(part).filter(is_trapped).map(|(pages, _)| pages).collect();
        trapped.into_iter().for_each(|pages| self.unmap_everywhere(id, pages));
        Some(Returns { object: id, manager, part, sync, sent, covered, refused })
    }

    /// Ends a return: `outcome` is what became of its synchronization.
    pub(crate) fn finish_returns(&mut self, returns: Returns, outcome: Result<(), KernReturn>, frames: &P::Frames) {
        let Returns { object: id, sync, sent, covered, .. } = returns;
        for item in sent {
            let failed = item.result.is_err() || outcome.is_err();
            #[cfg(test)]
            let failed = failed && !is_planted(Mutant::FailedReturnMakesClean);
            self.table[id].resident.end_cleaning(item.pages, item.dirty, failed);
            // What failed stays, dirty as it was (decision D-B); so does what was written meanwhile (row Z-01).
            if item.flush && !failed {
                self.flush(id, item.pages, Extent::is_owed, frames);
            }
            #[cfg(test)]
            if is_planted(Mutant::WriteMakesCleanWhatItMissed) {
                self.collect_dirty_of(id);
                self.table[id].resident.settle_returned(item.pages, true);
            } else if item.flush && is_planted(Mutant::FlushDropsWhatFailed) {
                self.flush(id, item.pages, |_| false, frames);
            }
        }
        if let Some(managed) = self.table[id].managed_mut() {
            managed.drop_sync(sync);
            let is_behind = outcome.is_err();
            #[cfg(test)]
            let is_behind = is_behind && !is_planted(Mutant::FailedSyncCountsAsDone);
            if is_behind {
                covered.into_iter().for_each(|pages| managed.returned(pages));
            }
        }
        self.table.let_go(id, frames);
    }

    /// Unmaps the unwired pages of `range` of the object everywhere, which may make them dirty, and drops those of them that do
    /// not `stay` and that nobody will come back to.
    fn flush(&mut self, id: ObjectId, range: PageRange, stay: impl Fn(&Extent) -> bool, frames: &P::Frames) {
        self.unwired(id, range).into_iter().for_each(|pages| self.unmap_everywhere(id, pages));
        let goes = |extent: &Extent| extent.is_loose() && !stay(extent);
        #[cfg(test)]
        let goes = |extent: &Extent| goes(extent) || extent.wires > 0 && is_planted(Mutant::FlushDropsWired);
        let object = &mut self.table[id];
        object.resident.remove_where(range, goes, |run| frames.free(run));
        if let Some(managed) = object.managed_mut() {
            managed.clear_errors(range);
            // Whoever waits for an access asks for the page again first.
            managed.unlocked(range);
        }
    }

    /// Returns the resident pages of `range` that nobody wires.
    fn unwired(&self, id: ObjectId, range: PageRange) -> Vec<PageRange> {
        let pieces = self.table[id].resident.pieces(range);
        pieces.filter(|(_, extent)| extent.wires == 0).map(|(pages, _)| pages).collect()
    }

    /// Carries a manager's lock request out on resident pages of `range`, about none of which anything may be under way unless they
    /// neither return nor go (row O-08): restricts or permits accesses, sends back, drops. Dirty marks must have been collected.
    ///
    /// # Errors
    /// [`OutOfFrames`] when no copy can be made of a page that is to be returned; what stands before it is done.
    pub(crate) fn lock_pages(
        &mut self,
        id: ObjectId,
        range: PageRange,
        should_return: ShouldReturn,
        should_flush: bool,
        forbidden: Option<Prot>,
        frames: &P::Frames,
    ) -> Result<(), OutOfFrames> {
        if let Some(forbidden) = forbidden {
            // Mappings that permit too much go; others are entered again by the next fault. Wired pages keep theirs.
            let unwired = self.unwired(id, range);
            for pages in unwired {
                self.unmap_everywhere(id, pages);
                self.table[id].resident.set_forbidden(pages, forbidden);
            }
            if let Some(managed) = self.table[id].managed_mut() {
                managed.unlocked(range);
            }
        }
        let is_returned = |extent: &Extent| match should_return {
            ShouldReturn::Nothing => false,
            ShouldReturn::Dirty => extent.dirty,
            ShouldReturn::All => extent.is_owed(),
            ShouldReturn::Anything => true,
        };
        if should_flush {
            self.flush(id, range, is_returned, frames);
        }
        let pieces: Vec<_> = self.table[id].resident.pieces(range).filter(|(_, extent)| is_returned(extent)).collect();
        let mut messages = DataReturns::default();
        let mut outcome = Ok(());
        for (pages, extent) in pieces {
            let copied = match copies(extent.frames, frames) {
                Ok(copied) => copied,
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            };
            messages.add(pages, (extent.dirty, !(should_flush && extent.wires == 0)), copied);
            let object = &mut self.table[id];
            if let Some(managed) = object.managed_mut() {
                managed.returned(pages);
            }
            object.resident.settle_returned(pages, should_return != ShouldReturn::Dirty);
            if extent.traps && extent.dirty && extent.wires == 0 {
                self.unmap_everywhere(id, pages);
            }
        }
        if let Some(port) = self.table[id].managed().and_then(Managed::port) {
            messages.send(port, u64::from(id.number()));
        }
        outcome?;
        if should_flush {
            // A precious page that only its dirtiness brought back is discarded with the flush.
            self.flush(id, range, |_| false, frames);
        }
        Ok(())
    }

    /// Collects the dirty marks of all mappings of the object.
    pub(crate) fn collect_dirty_of(&mut self, id: ObjectId) {
        use crate::ports::Pmap;
        let whole = PageRange::new(0, self.table[id].pages);
        for view in self.table[id].views.clone() {
            let (table, pmap) = self.split(view.space);
            for part in view.shown_of(whole) {
                pmap.clean(view.pages_of(part), &mut |dirty| table.mark_dirty(id, view.indices_of(dirty)));
            }
        }
    }
}

impl ObjectTable {
    /// Lets the last returns of an object begin that nothing refers to any more; `false` where there is nothing to be said to its
    /// manager any more.
    pub(super) fn begin_termination(&mut self, id: ObjectId) -> bool {
        let Some(managed) = self[id].managed_mut() else { return false };
        if core::mem::replace(&mut managed.is_terminating, true) {
            return false;
        }
        managed.ask_no_more();
        self[id].holds += 1;
        self.terminating.push(id);
        self.background.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Takes an object whose last returns are to be made. It is held.
    pub(crate) fn next_terminating(&mut self) -> Option<ObjectId> {
        let ended = self.terminating.pop()?;
        self.background.fetch_sub(1, Ordering::Relaxed);
        Some(ended)
    }
}

/// Pages that go back to a task: neighbours that go back alike are one message, whatever frames they have.
#[derive(Default)]
struct DataReturns(Vec<(PageRange, (bool, bool), Vec<FrameRun>)>);

impl DataReturns {
    /// Adds pages behind those that were added before; `how` is whether they are dirty, and whether they are kept.
    fn add(&mut self, pages: PageRange, how: (bool, bool), copied: Vec<FrameRun>) {
        match self.0.last_mut() {
            Some((known, same, frames)) if known.end == pages.start && *same == how => {
                known.end = pages.end;
                frames.extend(copied);
            }
            _ => self.0.push((pages, how, copied)),
        }
    }

    fn send(self, port: &ManagerPort, object: u64) {
        for (pages, (dirty, kept), frames) in self.0 {
            port.send(object, Message::DataReturn { pages, dirty, kept, frames });
        }
    }
}

/// Returns copies of frames.
fn copies(from: FrameRun, frames: &impl Frames) -> Result<Vec<FrameRun>, OutOfFrames> {
    let (mut copied, mut at) = (Vec::new(), from.first);
    while at < from.end() {
        match frames.allocate(from.end() - at) {
            Ok(fresh) => {
                for offset in 0..fresh.run.pages {
                    frames.copy(at + offset, fresh.run.first + offset);
                }
                at += fresh.run.pages;
                copied.push(fresh.run);
            }
            Err(error) => {
                copied.into_iter().for_each(|run| frames.free(run));
                return Err(error);
            }
        }
    }
    Ok(copied)
}
