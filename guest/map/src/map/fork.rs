//! Forking: a new map with what the old one's entries let children have.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;

use super::obstacle::Work;
use super::{MapState, Step, VmMap};
use crate::entry::{EntryKind, Inheritance, MapEntry};
use crate::kern_return::KernReturn;
use crate::objects::{Copies, Found, ObjectId, ObjectTable, Objects, Obstacle, Pager, SpaceId, VmObject};
use crate::ports::{OutOfFrames, Pmap, Ports};
use crate::units::{PageRange, Prot};
use crate::wait::Wait;

/// What a fork does with the map unlocked.
enum Unlocked<'a> {
    Wait(Wait<'a>),
    /// Brings in the virtual page of this number, which is to be copied.
    PageIn(u64, Work<'a>),
}

/// How a child gets an entry's pages.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Copying {
    /// It sees the same object, and whoever writes first gets a shadow.
    Lazy,
    /// It gets copies now.
    Eager,
}

impl<P: Ports> VmMap<P> {
    /// Returns a new map, whose mappings go into `pmap`, with what this one's entries let children have (FreeBSD
    /// `vmspace_fork`).
    ///
    /// The child's entries are not wired and not in transition: they are made new, not copied (rows D-03, D-08); and nothing the
    /// child maps in future is wired (row D-07). Shared entries show the same pages (row D-06). Of copied ones, those that the
    /// parent has wired and may write are copied now, so that the parent keeps its very pages (row D-04); all others at the
    /// first write of either (row D-05). So are mappings of objects that others may write meanwhile, files among them: a child's
    /// copy is what was there when it was forked. All this is of one moment: the copies are made some pages at a time, and as long as
    /// one is still to be made its page can't be written, deallocated or dropped, through no map; who tries waits. Where a submap is, the child has nothing. While an operation brings pages of this map in, the fork waits (row T-10).
    ///
    /// # Errors
    /// [`KernReturn::ResourceShortage`]: no frames are left for the copies.
    ///
    /// # Partial effects
    /// None that an access could tell.
    pub async fn fork(&self, pmap: P::Pmap) -> Result<Self, KernReturn> {
        let child = Self::new(Arc::clone(&self.vm), self.bounds, pmap);
        // What can't be brought in is left to the child's own faults.
        let mut missing = BTreeSet::new();
        let result = loop {
            match self.exclusive(|state| self.fork_step(state, &child, &missing)) {
                Step::Wait(Unlocked::Wait(wait)) => wait.await,
                Step::Wait(Unlocked::PageIn(page, work)) => match self.overcome(work).await {
                    Ok(()) => {}
                    Err(KernReturn::ResourceShortage) => break Err(OutOfFrames),
                    Err(_) => {
                        missing.insert(page);
                    }
                },
                Step::Done(Ok(copies)) => break self.copy_rest(copies).await,
                Step::Done(Err(error)) => break Err(error),
            }
        };
        self.debug_check();
        if let Err(OutOfFrames) = result {
            child.destroy().await;
            return Err(KernReturn::ResourceShortage);
        }
        child.debug_check();
        Ok(child)
    }

    /// Copies what is left to be copied, some pages at a time.
    ///
    /// # Errors
    /// [`OutOfFrames`]: no frames are left for the copies. What was not copied can be written again then.
    async fn copy_rest(&self, mut copies: Copies) -> Result<(), OutOfFrames> {
        let mut result = Ok(());
        while result.is_ok() && !copies.is_over() {
            self.turn().await;
            result = self.vm.objects().copy_some(&mut copies, self.vm.frames());
            if result.is_ok() {
                self.vm.idle().wake_all();
            }
        }
        self.vm.objects().give_up_copies(copies, self.vm.frames());
        self.vm.idle().wake_all();
        result
    }

    fn fork_step(
        &self,
        state: &mut MapState<P>,
        child: &Self,
        missing: &BTreeSet<u64>,
    ) -> Step<Unlocked<'_>, Result<Copies, OutOfFrames>> {
        let wait = self.wait_busy(state);
        #[cfg(test)]
        let wait = wait.filter(|_| !self.vm.planted.has(crate::planted::Mutant::ForkIgnoresBusy));
        if let Some(wait) = wait {
            return Step::Wait(Unlocked::Wait(wait));
        }
        // The child's lock is taken while nobody else knows the child, so the order of the two matters to nobody.
        child.exclusive(|child| {
            // One hold from the first look to the last write-protection: what is brought in can't go, and nobody resolves a fault,
            // before all is held still or shared. That is the moment whose content the child gets.
            let mut objects = self.vm.objects();
            match self.bring_in_copied(state, &mut objects, missing) {
                Ok(None) => Step::Done(state.fork_entries(child, &mut objects)),
                Ok(Some((page, work))) => Step::Wait(Unlocked::PageIn(page, work)),
                Err(error) => Step::Done(Err(error)),
            }
        })
    }

    /// Begins to bring in a page that a fork must copy now and that is not `missing`, if one is still to come; returns which.
    ///
    /// # Errors
    /// [`OutOfFrames`]: there is none for the page.
    fn bring_in_copied(
        &self,
        state: &mut MapState<P>,
        objects: &mut Objects<P>,
        missing: &BTreeSet<u64>,
    ) -> Result<Option<(u64, Work<'_>)>, OutOfFrames> {
        let MapState { entries, busy, .. } = state;
        for (start, entry) in entries.iter() {
            let Some(window) = entry.window(start, entry.range(start)) else { continue };
            if entry.inheritance != Inheritance::Copy || entry.needs_copy || !objects.table[window.object].is_external()
            {
                continue;
            }
            let mut at = window.pages.start;
            while at < window.pages.end {
                let end = missing.range(at..window.pages.end).next().copied().unwrap_or(window.pages.end);
                let rest = window.narrowed(PageRange::new(at, end));
                match objects.populate(self.vm.frames(), &rest, Prot::READ) {
                    (_, None) => at = end + 1,
                    // No other could be had either.
                    (_, Some(Obstacle::Failed(KernReturn::ResourceShortage))) => return Err(OutOfFrames),
                    // This page can't be had, nor can those that fail with it; others may.
                    (ready, Some(Obstacle::Failed(_))) => {
                        let failing = window.indices_of(PageRange::new(at + ready, end));
                        let alike = match objects.table.look(window.object, failing) {
                            (pages, Found::Failed(_)) => pages,
                            _ => 1,
                        };
                        at += ready + alike;
                    }
                    (ready, Some(obstacle)) => {
                        if let Ok(work) = self.work(busy, obstacle) {
                            return Ok(Some((at + ready, work)));
                        }
                    }
                }
            }
        }
        Ok(None)
    }
}

impl<P: Ports> MapState<P> {
    /// Gives the child all its entries, and copies the first pages; returns what is left to be copied.
    fn fork_entries(&mut self, child: &mut Self, objects: &mut Objects<P>) -> Result<Copies, OutOfFrames> {
        let mut copies = Copies::default();
        child.limits = self.limits;
        child.heap = self.heap;
        let starts: alloc::vec::Vec<u64> = self.entries.iter().map(|(start, _)| start).collect();
        for start in starts {
            let Some(entry) = self.entries.get_mut(start) else { continue };
            match entry.inheritance {
                // What another map rules over is not this one's to give.
                _ if entry.kind == EntryKind::Submap => {}
                Inheritance::None => {}
                Inheritance::Share => self.share(child, objects, start),
                Inheritance::Copy => self.copy(child, objects, start, &mut copies),
            }
        }
        if let Err(error) = objects.copy_some(&mut copies, self.vm.frames()) {
            objects.give_up_copies(copies, self.vm.frames());
            return Err(error);
        }
        if copies.is_over() {
            objects.let_move(core::mem::take(&mut copies));
        }
        Ok(copies)
    }

    /// Lets the child show the entry's very object (row D-06).
    fn share(&mut self, child: &mut Self, objects: &mut Objects<P>, start: u64) {
        // A shadow that is yet to be made would be the parent's alone.
        self.make_private_in(objects, start);
        self.ensure_object_in(objects, start);
        let Some(entry) = self.entries.get_mut(start) else { return };
        child.adopt(objects, start, entry.for_child(entry.object, entry.offset, false));
    }

    fn copy(&mut self, child: &mut Self, objects: &mut Objects<P>, start: u64, copies: &mut Copies) {
        let Some(entry) = self.entries.get_mut(start) else { return };
        let Some(object) = entry.object else {
            child.adopt(objects, start, entry.for_child(None, 0, false));
            return;
        };
        match entry.copying(objects, child.space) {
            Copying::Eager => {
                let indices = entry.object_range(start, entry.range(start));
                let copy = add_copy(&mut objects.table, object, indices);
                // Other processors write the pages meanwhile, through whichever map shows them.
                objects.hold_still(copies, object, indices, copy);
                child.adopt(objects, start, entry.for_child(Some(copy), 0, false));
            }
            Copying::Lazy => {
                entry.needs_copy = true;
                let row = entry.for_child(Some(object), entry.offset, true);
                let (pages, rights) = (entry.range(start), entry.prot.without(Prot::WRITE));
                // Marks are collected when none can be made any more: a copy takes the place of the mapping that carries them.
                if !rights.is_none() && objects.pmap(self.space).protect(pages, rights).is_ok() {
                    self.collect_dirty(objects, pages);
                } else {
                    self.unmap(objects, pages);
                }
                child.adopt(objects, start, row);
            }
        }
    }

    /// Adds an entry that a parent gave.
    fn adopt(&mut self, objects: &mut Objects<P>, start: u64, entry: MapEntry) {
        if let Some(object) = entry.object {
            let indices = entry.object_range(start, entry.range(start));
            objects.table.show(object, self.space, start, indices);
        }
        self.entries.insert(start, entry);
    }
}

impl MapEntry {
    /// Returns the child's entry: made of what a child may have, so that nothing transient gets into it (row D-08).
    fn for_child(&self, object: Option<ObjectId>, offset: u64, needs_copy: bool) -> Self {
        Self {
            kind: self.kind,
            object,
            offset,
            needs_copy,
            prot: self.prot,
            max_prot: self.max_prot,
            inheritance: self.inheritance,
            ..Self::new(self.pages)
        }
    }

    /// Returns how the child whose page tables are `child` gets the pages. That it may have other pages of the object already
    /// takes nothing from these.
    fn copying<P: Ports>(&self, objects: &Objects<P>, child: SpaceId) -> Copying {
        let Some(object) = self.object else { return Copying::Lazy };
        let table = &objects.table;
        let is_shared = table[object].is_external() || !table.is_unshared_but_for(object, child);
        let may_be_written = !self.needs_copy && is_shared;
        let keeps_its_pages = self.wired_count > 0 && self.prot.contains(Prot::WRITE);
        if keeps_its_pages || may_be_written { Copying::Eager } else { Copying::Lazy }
    }
}

/// Returns a new object for copies of all that `indices` of `top` show; where a file's pages are absent it shows the file.
fn add_copy(table: &mut ObjectTable, top: ObjectId, indices: PageRange) -> ObjectId {
    let (root, below) = table.root(top, indices);
    if table[root].is_external() {
        return table.add_shadow(root, below);
    }
    // What lies past the end of the original lies past the end of the copy.
    let pages = indices.len().min(table[root].pages.saturating_sub(below.start));
    table.add(VmObject::new(Pager::Ram, pages))
}

#[cfg(test)]
mod test;
