//! Objects that a manager backs: what it was asked, what it owes, what it is owed.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use super::{Counts, Extent, ObjectId, ObjectTable, Pager, VmObject};
use crate::kern_return::KernReturn;
use crate::manager::{ManagerPort, Message};
#[cfg(test)]
use crate::planted::{Mutant, is_planted};
use crate::ports::{Frames, OutOfFrames, StoreId, StoreKind};
use crate::units::{FrameRun, PageRange, Prot};

/// Most pages that a store is asked for at once.
const CLUSTER_PAGES: u64 = 64;

/// Who backs an object.
#[derive(Clone)]
pub(crate) enum Manager {
    /// A store of the host's.
    Store(StoreId, StoreKind),
    /// A task.
    Task(Arc<ManagerPort>),
}

impl fmt::Debug for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(store, kind) => write!(f, "{store:?} ({kind:?})"),
            Self::Task(_) => f.write_str("Task"),
        }
    }
}

/// A synchronization that its manager has not completed, or whose caller has not looked yet (rows K-01 to K-06).
#[derive(Debug)]
struct SyncRecord {
    number: u64,
    pages: PageRange,
    outcome: Option<Result<(), KernReturn>>,
}

/// What is known of an object's dealings with its manager.
#[derive(Debug)]
pub(crate) struct Managed {
    pub(crate) manager: Manager,
    is_initialised: bool,
    /// Pages that the manager was asked for and has said nothing about.
    asked: Vec<PageRange>,
    /// Accesses that the manager was asked to permit.
    unlocking: Vec<(PageRange, Prot)>,
    /// Pages that the manager could not supply and nobody has learnt it of yet.
    errors: BTreeMap<u64, KernReturn>,
    syncs: Vec<SyncRecord>,
    last_sync: u64,
    /// The pages that were returned and are not known to be on backing storage.
    unsynced: Counts,
    /// Its last returns are under way, or done.
    pub(super) is_terminating: bool,
}

impl Managed {
    pub(crate) const fn new(manager: Manager) -> Self {
        Self {
            manager,
            is_initialised: false,
            asked: Vec::new(),
            unlocking: Vec::new(),
            errors: BTreeMap::new(),
            syncs: Vec::new(),
            last_sync: 0,
            unsynced: Counts::new(),
            is_terminating: false,
        }
    }

    /// Returns the port, if the manager is a task.
    pub(crate) const fn port(&self) -> Option<&Arc<ManagerPort>> {
        match &self.manager {
            Manager::Task(port) => Some(port),
            Manager::Store(..) => None,
        }
    }

    fn is_asked(&self, page: u64) -> bool {
        self.asked.iter().any(|pages| pages.contains(page))
    }

    /// Tells whether the manager owes an answer about every page of `pages`.
    pub(crate) fn owes(&self, pages: PageRange) -> bool {
        #[cfg(test)]
        if is_planted(Mutant::SupplyIsTakenUnasked) {
            return true;
        }
        !pages.is_empty() && (pages.start..pages.end).all(|page| self.is_asked(page))
    }

    /// Notes that the manager has answered about `pages`.
    pub(crate) fn answered(&mut self, pages: PageRange) {
        let cut = |known: PageRange| {
            let (before, behind) = (known.start.max(pages.end), known.end.min(pages.start));
            [PageRange::new(known.start, behind.max(known.start)), PageRange::new(before.min(known.end), known.end)]
        };
        self.asked = self.asked.drain(..).flat_map(cut).filter(|rest| !rest.is_empty()).collect();
    }

    /// Notes that the manager can't supply `pages`.
    pub(crate) fn set_errors(&mut self, pages: PageRange, reason: KernReturn) {
        (pages.start..pages.end).for_each(|page| {
            self.errors.insert(page, reason);
        });
    }

    /// Forgets the errors of `pages` (row Q-05).
    pub(crate) fn clear_errors(&mut self, pages: PageRange) {
        self.errors.retain(|page, _| !pages.contains(*page));
    }

    /// Returns the pages of `range` that are in error.
    pub(crate) fn errors(&self, range: PageRange) -> impl Iterator<Item = u64> {
        self.errors.range(range.start..range.end.max(range.start)).map(|(&page, _)| page)
    }

    /// Notes which accesses the manager permits to `pages` from now on: whoever waited asks again if that is too little.
    pub(crate) fn unlocked(&mut self, pages: PageRange) {
        self.unlocking.retain(|(asked, _)| asked.intersection(pages).is_empty());
    }

    /// Tells whether a synchronization that meets `pages` is outstanding, or its outcome was not looked at yet: until then the pages
    /// do not show it (row K-03).
    pub(crate) fn is_syncing(&self, pages: PageRange) -> bool {
        #[cfg(test)]
        if is_planted(Mutant::SynchronizationsOverlap) {
            return false;
        }
        let is_out = |record: &SyncRecord| !record.pages.intersection(pages).is_empty();
        #[cfg(test)]
        let is_out = |record: &SyncRecord| {
            is_out(record) && !(record.outcome.is_some() && is_planted(Mutant::SynchronizationIsOverBeforeItShows))
        };
        self.syncs.iter().any(is_out)
    }

    /// Notes that pages were returned.
    pub(super) fn returned(&mut self, pages: PageRange) {
        self.unsynced.add(pages);
    }

    /// Takes the pages of `pages` that were returned and are not known to be on backing storage: a synchronization is about to
    /// put them there. What is returned from now on it does not.
    pub(super) fn take_unsynced(&mut self, pages: PageRange) -> Vec<PageRange> {
        let (mut taken, mut rest) = (Vec::new(), pages);
        while !rest.is_empty() {
            let (length, count) = self.unsynced.first_of(rest);
            let part = PageRange::new(rest.start, rest.start + length);
            if count > 0 {
                taken.push(part);
            }
            rest.start = part.end;
        }
        self.unsynced.clear(pages);
        taken
    }

    /// Forgets what the manager was asked and has not answered: nobody waits for it, and what it has it may keep.
    pub(super) fn ask_no_more(&mut self) {
        self.asked.clear();
        self.unlocking.clear();
    }

    /// Begins a synchronization (row K-01); returns its number.
    pub(crate) fn begin_sync(&mut self, pages: PageRange) -> u64 {
        self.last_sync += 1;
        self.syncs.push(SyncRecord { number: self.last_sync, pages, outcome: None });
        self.last_sync
    }

    /// Ends the outstanding synchronization of exactly `pages`; `false` if there is none (row K-06).
    pub(crate) fn complete_sync(&mut self, pages: PageRange, outcome: Result<(), KernReturn>) -> bool {
        let matches = |record: &SyncRecord| record.pages == pages;
        #[cfg(test)]
        let matches = |record: &SyncRecord| {
            let overlaps = !record.pages.intersection(pages).is_empty();
            matches(record) || overlaps && is_planted(Mutant::CompletionNeedNotMatch)
        };
        let record = self.syncs.iter_mut().find(|record| record.outcome.is_none() && matches(record));
        if let Some(record) = record {
            record.outcome = Some(outcome);
            return true;
        }
        false
    }

    /// Returns what became of a synchronization, if that is known.
    pub(crate) fn sync_outcome(&self, number: u64) -> Option<Result<(), KernReturn>> {
        self.syncs.iter().find(|record| record.number == number)?.outcome
    }

    /// Forgets a synchronization, whatever becomes of it.
    pub(crate) fn drop_sync(&mut self, number: u64) {
        self.syncs.retain(|record| record.number != number);
    }

    /// Tells whether the manager owes no pages and no completion.
    #[cfg(test)]
    pub(crate) const fn is_idle(&self) -> bool {
        self.asked.is_empty() && self.syncs.is_empty()
    }

    /// Ends everything that waits for the manager, which answers no more (row K-08).
    pub(crate) fn give_up(&mut self) {
        #[cfg(test)]
        if is_planted(Mutant::DeathForgetsWaiters) {
            return;
        }
        self.asked.clear();
        self.unlocking.clear();
        self.errors.clear();
        for record in self.syncs.iter_mut().filter(|record| record.outcome.is_none()) {
            record.outcome = Some(Err(KernReturn::Failure));
        }
    }
}

/// Pages on their way from a store. The object is held meanwhile.
#[derive(Debug)]
#[must_use = "pages stay on their way until they have come"]
pub(crate) struct StoreIn {
    object: ObjectId,
    pub(crate) store: StoreId,
    /// The first is the one that is needed.
    pub(crate) pages: PageRange,
    pub(crate) frames: FrameRun,
}

/// How an absent page of a managed object comes.
#[derive(Debug)]
pub(crate) enum Coming {
    /// Its store must be asked for this.
    Store(StoreIn),
    /// It will, or something will be said about it.
    Awaited,
    /// It can't be had.
    Failed(KernReturn),
}

impl VmObject {
    /// Returns the object's dealings with its manager, if it has one.
    pub(crate) const fn managed(&self) -> Option<&Managed> {
        match &self.pager {
            Pager::Managed(managed) => Some(managed),
            Pager::Ram | Pager::File(_) => None,
        }
    }

    /// As [`VmObject::managed`], to change.
    pub(crate) const fn managed_mut(&mut self) -> Option<&mut Managed> {
        match &mut self.pager {
            Pager::Managed(managed) => Some(managed),
            Pager::Ram | Pager::File(_) => None,
        }
    }
}

impl ObjectTable {
    /// Tells a manager of the object's first use (row O-01).
    pub(super) fn initialise(&mut self, id: ObjectId) {
        let number = u64::from(id.number());
        if let Some(managed) = self[id].managed_mut()
            && !core::mem::replace(&mut managed.is_initialised, true)
            && let Some(port) = managed.port()
        {
            port.send(number, Message::Init);
        }
    }

    /// Asks the manager of the object for its absent page `index`, and for others behind it if it is a store.
    pub(super) fn ask_manager(
        &mut self,
        id: ObjectId,
        index: u64,
        access: Prot,
        frames: &impl Frames,
    ) -> Result<Coming, OutOfFrames> {
        let object = &mut self[id];
        let last = index.saturating_add(CLUSTER_PAGES).min(object.pages).max(index + 1);
        let absent = object.resident.first_of(PageRange::new(index, last)).err().unwrap_or(1);
        let Some(managed) = object.managed_mut() else { return Ok(Coming::Failed(KernReturn::Failure)) };
        if let Some(reason) = managed.errors.remove(&index) {
            return Ok(Coming::Failed(reason));
        }
        if managed.is_asked(index) {
            return Ok(Coming::Awaited);
        }
        let (store, kind) = match &managed.manager {
            Manager::Task(port) => {
                let pages = PageRange::new(index, index + 1);
                port.send(u64::from(id.number()), Message::DataRequest { pages, access });
                managed.asked.push(pages);
                return Ok(Coming::Awaited);
            }
            Manager::Store(store, kind) => (*store, *kind),
        };
        // What an exclusive store supplies it loses, so it is asked for nothing that nobody needs.
        let most = if kind == StoreKind::Exclusive { 1 } else { absent };
        let free = (index..index + most).take_while(|page| !managed.is_asked(*page)).count() as u64;
        let fresh = frames.allocate(free.max(1))?;
        let pages = PageRange::new(index, index + fresh.run.pages);
        managed.asked.push(pages);
        object.holds += 1;
        Ok(Coming::Store(StoreIn { object: id, store, pages, frames: fresh.run }))
    }

    /// Gives up all pages that are on their way but the one that is needed.
    #[expect(clippy::needless_pass_by_value, reason = "what comes back takes its place")]
    pub(crate) fn only_needed(&mut self, coming: StoreIn, frames: &impl Frames) -> StoreIn {
        let StoreIn { object, store, pages, frames: run } = coming;
        let rest = PageRange::new(pages.start + 1, pages.end);
        if let Some(managed) = self[object].managed_mut() {
            managed.answered(rest);
        }
        frames.free(FrameRun::new(run.first + 1, rest.len()));
        StoreIn { object, store, pages: PageRange::new(pages.start, rest.start), frames: FrameRun::new(run.first, 1) }
    }

    /// Makes resident what a store has supplied, or nothing of it if it failed.
    ///
    /// # Errors
    /// [`KernReturn::MemoryError`] if it failed.
    #[expect(clippy::needless_pass_by_value, reason = "pages come once")]
    pub(crate) fn finish_store_in(
        &mut self,
        coming: StoreIn,
        failed: bool,
        frames: &impl Frames,
    ) -> Result<(), KernReturn> {
        let StoreIn { object: id, pages, frames: run, .. } = coming;
        let object = &mut self[id];
        let is_wanted = !failed && !object.is_dead && pages.end <= object.pages;
        let precious =
            matches!(object.managed().map(|managed| &managed.manager), Some(Manager::Store(_, StoreKind::Exclusive)));
        if let Some(managed) = object.managed_mut() {
            managed.answered(pages);
        }
        if is_wanted {
            object.resident.insert_as(pages.start, Extent { precious, ..Extent::clean(run) });
        } else {
            frames.free(run);
        }
        self.let_go(id, frames);
        if failed { Err(KernReturn::MemoryError) } else { Ok(()) }
    }

    /// Asks the manager to permit `access` to a resident page, unless it has been asked.
    pub(super) fn ask_unlock(&mut self, id: ObjectId, index: u64, access: Prot) {
        let pages = PageRange::new(index, index + 1);
        let Some(managed) = self[id].managed_mut() else { return };
        if managed.unlocking.iter().any(|(asked, what)| asked.contains(index) && what.contains(access)) {
            return;
        }
        managed.unlocking.push((pages, access));
        if let Some(port) = managed.port() {
            port.send(u64::from(id.number()), Message::DataUnlock { pages, access });
        }
    }
}
