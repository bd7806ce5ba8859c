//! Submaps: ranges of a map that are maps of their own.

use alloc::sync::Arc;
use alloc::vec::Vec;

use smallvec::SmallVec;

use super::deallocate::{Blocking, Delete};
use super::{MapState, Placement, VmMap, touched_pages};
use crate::entry::{EntryKind, Inheritance, MapEntry, OperationId};
use crate::kern_return::KernReturn;
use crate::ports::Ports;
use crate::units::PageRange;
use crate::wait::WaitQueue;
use crate::yielding::YieldingLock;

impl<P: Ports> VmMap<P> {
    /// Sets `size` bytes of address space aside, rounded up to pages, and returns the map that rules over them from now on (FreeBSD
    /// `kmem_suballoc`).
    ///
    /// The submap has the same page tables: what is mapped in it is seen at the same addresses through both maps, and faults that
    /// this map takes there are the submap's. Everything else that this map does passes over the range as over a guard: it is
    /// not wired, not protected, not advised upon, and not listed; a child of this map gets nothing there. But
    /// [`VmMap::msync`] goes on in the submap with the part of its range that lies there (rows H-04, H-05). What this map wires in
    /// future is not the submap's concern; its limits are those that this map has now. Deallocating the whole range, or destroying this map, empties the submap first, which
    /// [is detached](VmMap::is_detached) then; no part of it can be deallocated.
    ///
    /// # Errors
    /// As for [`VmMap::allocate`]; also [`KernReturn::InvalidArgument`] for a size of 0.
    ///
    /// # Partial effects
    /// None: an error changes nothing.
    #[expect(clippy::unused_async, reason = "every operation is a future")]
    pub async fn submap(&self, placement: Placement, size: u64) -> Result<Arc<Self>, KernReturn> {
        if size == 0 {
            return Err(KernReturn::InvalidArgument);
        }
        let pages = touched_pages(0, size).ok_or(KernReturn::InvalidArgument)?.len();
        let submap = self.exclusive(|state| {
            let start = state.place(placement, pages)?;
            let bounds = PageRange::new(start, start + pages);
            let mut inside = MapState::new(Arc::clone(&self.vm), bounds, state.space);
            inside.limits = state.limits;
            let submap = Arc::new(Self {
                vm: Arc::clone(&self.vm),
                bounds,
                state: YieldingLock::new(inside),
                transitions: WaitQueue::new(),
                tables: Arc::clone(&self.tables),
            });
            let entry =
                MapEntry { inheritance: Inheritance::None, ..MapEntry::without_pages(EntryKind::Submap, pages) };
            state.entries.insert(start, entry);
            state.submaps.insert(start, Arc::clone(&submap));
            Ok(submap)
        })?;
        self.debug_check();
        Ok(submap)
    }

    /// Tells whether the map was a submap and its range is not its own any more: it is empty and stays so.
    pub fn is_detached(&self) -> bool {
        self.locked(|state| state.is_detached)
    }

    /// Returns the map within this one that rules over `page`; `None` where this one does.
    pub(super) fn ruler_of(&self, page: u64) -> Option<Arc<Self>> {
        let mut ruler: Option<Arc<Self>> = None;
        loop {
            let within = ruler.as_deref().unwrap_or(self).locked(|state| {
                let (start, _) = state.entries.containing(page)?;
                state.submap_at(start)
            });
            match within {
                Some(submap) => ruler = Some(submap),
                None => return ruler,
            }
        }
    }

    /// Empties the submaps among the entries that `owner` holds of `range`, for good.
    pub(super) async fn detach_submaps(&self, range: PageRange, owner: OperationId, blocking: Blocking) {
        let submaps: Vec<Arc<Self>> = self.locked(|state| {
            let owned = state.entries.meeting(range).filter(|(_, entry)| entry.is_owned_by(owner));
            owned.filter_map(|(start, _)| state.submaps.get(&start)).cloned().collect()
        });
        for submap in submaps {
            // First of all, so that nothing new comes behind.
            submap.exclusive(|state| state.is_detached = true);
            // Whole entries are cut nowhere.
            submap.delete_boxed(submap.bounds, blocking).await.unwrap_or_default();
        }
    }

    /// As [`VmMap::delete`], for a map within a map.
    fn delete_boxed(&self, range: PageRange, blocking: Blocking) -> Delete<'_> {
        alloc::boxed::Box::pin(self.delete(range, blocking))
    }
}

impl<P: Ports> MapState<P> {
    /// Returns the submaps that `range` meets, in order, each with the part of the range that lies within it. The references
    /// outlast the map's lock (row X-04).
    pub(super) fn submaps_in(&self, range: PageRange) -> Vec<(PageRange, Arc<VmMap<P>>)> {
        if self.submaps.is_empty() {
            return Vec::new();
        }
        let part = |(start, entry): (u64, &MapEntry)| {
            let whole = entry.range(start);
            let part = whole.intersection(range);
            #[cfg(test)]
            if self.vm.planted.has(crate::planted::Mutant::SubmapSyncsFromItsStart) {
                return Some((PageRange::new(start, start + part.len()), Arc::clone(self.submaps.get(&start)?)));
            }
            Some((part, Arc::clone(self.submaps.get(&start)?)))
        };
        self.entries.meeting(range).filter_map(part).collect()
    }

    /// Returns the parts of `pages` whose mappings are this map's own, in order.
    pub(super) fn own_parts(&self, pages: PageRange) -> SmallVec<[PageRange; 1]> {
        let mut parts = SmallVec::new();
        let mut rest = pages;
        #[cfg(test)]
        if self.vm.planted.has(crate::planted::Mutant::MarksOfSubmapsAreLost) {
            parts.push(pages);
            return parts;
        }
        let is_submap = |(_, entry): &(u64, &MapEntry)| entry.kind == EntryKind::Submap;
        let looked_at = if self.submaps.is_empty() { PageRange::new(0, 0) } else { pages };
        for (start, entry) in self.entries.meeting(looked_at).filter(is_submap) {
            let part = entry.range(start).intersection(pages);
            if rest.start < part.start {
                parts.push(PageRange::new(rest.start, part.start));
            }
            rest.start = part.end;
        }
        if !rest.is_empty() {
            parts.push(rest);
        }
        parts
    }

    /// Returns the submap that rules over the entry which starts with page `start`.
    pub(super) fn submap_at(&self, start: u64) -> Option<Arc<VmMap<P>>> {
        self.submaps.get(&start).cloned()
    }
}

#[cfg(test)]
mod test;
