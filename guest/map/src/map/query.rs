//! Queries: what the map looks like now.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::VmMap;
use crate::entry::{EntryKind, Inheritance, MapEntry};
use crate::objects::{Extent, Found};
use crate::ports::{HostError, Ports};
use crate::units::{FrameRun, PageRange, Prot};

/// Neighbouring allocated pages with the same wirings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayoutRow {
    /// The virtual pages.
    pub pages: PageRange,
    /// The system's wirings, and one more if the user has wired the pages.
    pub wired_count: u32,
    /// Whether the user has wired the pages.
    pub user_wired: bool,
    /// What all of the pages permit.
    pub prot: Prot,
}

/// Neighbouring pages on consecutive frames, or without any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRow {
    /// The virtual pages.
    pub pages: PageRange,
    /// Their frames, as many as there are pages; none where nothing is resident or nothing allocated.
    pub frames: Option<FrameRun>,
}

/// One entry of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryRow {
    /// The virtual pages.
    pub pages: PageRange,
    /// What they permit.
    pub prot: Prot,
    /// The most they may be made to permit.
    pub max_prot: Prot,
    /// What a child gets of them.
    pub inheritance: Inheritance,
    /// The system's wirings, and one more if the user has wired the entry.
    pub wired_count: u32,
    /// Whether the user has wired the entry.
    pub user_wired: bool,
    /// Whether an operation is at work on the entry.
    pub in_transition: bool,
    /// Whether somebody waits for that to end, or for the system's wirings to.
    pub needs_wakeup: bool,
    /// Whether the entry has an object already.
    pub has_object: bool,
    /// What the entry is made of.
    pub kind: EntryKind,
    /// Whether the entry gets a shadow of its own before its pages are written.
    pub needs_copy: bool,
    /// Whether pages are wired only as they become resident.
    pub wired_on_fault: bool,
}

/// What a resident page is beside resident, or what an absent one is instead. A page that is none of it is clean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageState {
    /// Its manager's copy, or stable storage, may hold something else.
    pub is_dirty: bool,
    /// Its manager has no copy.
    pub is_precious: bool,
    /// It is being written.
    pub is_cleaning: bool,
    /// It is absent, because its manager could not supply it, and nobody has learnt of that yet.
    pub is_error: bool,
}

/// Totals over a map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MapStats {
    /// How many entries there are.
    pub entries: usize,
    /// Pages that are allocated.
    pub allocated_pages: u64,
    /// Pages that have a frame.
    pub resident_pages: u64,
    /// Pages that are wired.
    pub wired_pages: u64,
    /// Pages charged against the user-wire limit for this map.
    pub user_wired_pages: u64,
    /// Resident pages known to be dirty; page tables may hold further marks.
    pub dirty_pages: u64,
    /// Pages that are being written to stable storage.
    pub cleaning_pages: u64,
    /// Runs of resident pages that the map keeps apart.
    pub extents: usize,
    /// How often the map was locked to change its entries.
    pub timestamp: u64,
    /// Why the host last refused a wire or a sync.
    pub last_host_error: Option<HostError>,
}

impl<P: Ports> VmMap<P> {
    /// Returns the allocated pages from page `start` to page `end`, joined where wired count and user bit are
    /// the same. Holes are left out.
    pub fn layout(&self, start: u64, end: u64) -> Vec<LayoutRow> {
        let range = PageRange::new(start, end);
        let mut rows: Vec<LayoutRow> = Vec::new();
        self.locked(|state| {
            for (start, entry) in state.entries.meeting(range) {
                let pages = PageRange::new(start, start + entry.pages).intersection(range);
                match rows.last_mut() {
                    Some(row)
                        if row.pages.end == pages.start
                            && row.wired_count == entry.wired_count
                            && row.user_wired == entry.user_wired =>
                    {
                        row.pages.end = pages.end;
                        row.prot = row.prot & entry.prot;
                    }
                    _ => rows.push(LayoutRow {
                        pages,
                        wired_count: entry.wired_count,
                        user_wired: entry.user_wired,
                        prot: entry.prot,
                    }),
                }
            }
        });
        rows
    }

    /// Returns the frames behind the pages from page `start` to page `end`. The rows cover the whole range.
    pub fn frames(&self, start: u64, end: u64) -> Vec<FrameRow> {
        let range = PageRange::new(start, end);
        let mut rows = Vec::new();
        self.locked(|state| {
            let objects = self.vm.objects();
            for (start, entry) in state.entries.meeting(range) {
                let Some(window) = entry.window(start, entry.range(start).intersection(range)) else { continue };
                objects.table.for_each(window.object, window.indices, |indices, found| {
                    if let Found::Resident { extent, .. } = found {
                        let pages = PageRange::new(window.page_of(indices.start), window.page_of(indices.end));
                        push_frames(&mut rows, range.start, pages, Some(extent.frames));
                    }
                });
            }
        });
        push_frames(&mut rows, range.start, PageRange::new(range.end, range.end), None);
        rows
    }

    /// Returns all entries in address order.
    pub fn entries(&self) -> Vec<EntryRow> {
        self.locked(|state| {
            let row = |(start, entry): (u64, &MapEntry)| EntryRow {
                pages: PageRange::new(start, start + entry.pages),
                prot: entry.prot,
                max_prot: entry.max_prot,
                inheritance: entry.inheritance,
                wired_count: entry.wired_count,
                user_wired: entry.user_wired,
                in_transition: entry.transition.is_some(),
                needs_wakeup: entry.needs_wakeup,
                has_object: entry.object.is_some(),
                kind: entry.kind,
                needs_copy: entry.needs_copy,
                wired_on_fault: entry.on_fault,
            };
            state.entries.iter().map(row).collect()
        })
    }

    /// Returns the wire count of each resident page of `range`: how many wired entries, of all maps, count on it. Equal
    /// neighbours are joined, and absent pages left out.
    pub fn page_wires(&self, range: PageRange) -> Vec<(PageRange, u32)> {
        let mut rows: Vec<(PageRange, u32)> = Vec::new();
        self.for_each_resident(range, |pages, extent| match rows.last_mut() {
            Some((last, wires)) if last.end == pages.start && *wires == extent.wires => last.end = pages.end,
            _ => rows.push((pages, extent.wires)),
        });
        rows
    }

    /// Returns the states of the pages from page `start` to page `end`, marks of page tables included. Neighbours that are alike are
    /// joined, and absent pages left out unless they are in error.
    pub fn page_states(&self, start: u64, end: u64) -> Vec<(PageRange, PageState)> {
        let range = PageRange::new(start, end);
        self.locked(|state| {
            let vm = Arc::clone(&self.vm);
            let mut objects = vm.objects();
            state.collect_all_dirty(&mut objects, range);
            let mut rows = Vec::new();
            for (start, entry) in state.entries.meeting(range) {
                let Some(window) = entry.window(start, entry.range(start).intersection(range)) else { continue };
                objects.table.for_each(window.object, window.indices, |indices, found| match found {
                    Found::Resident { extent, .. } => {
                        let state = PageState {
                            is_dirty: extent.dirty,
                            is_precious: extent.precious,
                            is_cleaning: extent.cleaning,
                            is_error: false,
                        };
                        push_state(
                            &mut rows,
                            PageRange::new(window.page_of(indices.start), window.page_of(indices.end)),
                            state,
                        );
                    }
                    _ => {
                        let (root, below) = objects.table.root(window.object, indices);
                        let errors =
                            objects.table[root].managed().into_iter().flat_map(|managed| managed.errors(below));
                        for page in errors.map(|page| window.page_of(page - below.start + indices.start)) {
                            let state = PageState { is_error: true, ..PageState::default() };
                            push_state(&mut rows, PageRange::new(page, page + 1), state);
                        }
                    }
                });
            }
            rows
        })
    }

    /// Returns how many pages of `range` are resident.
    pub fn residents(&self, range: PageRange) -> u64 {
        let mut resident = 0;
        self.for_each_resident(range, |pages, _| resident += pages.len());
        resident
    }

    fn for_each_resident(&self, range: PageRange, mut visit: impl FnMut(PageRange, Extent)) {
        self.locked(|state| {
            let objects = self.vm.objects();
            for (start, entry) in state.entries.meeting(range) {
                let Some(window) = entry.window(start, entry.range(start).intersection(range)) else { continue };
                objects.table.for_each(window.object, window.indices, |indices, found| {
                    if let Found::Resident { extent, .. } = found {
                        visit(PageRange::new(window.page_of(indices.start), window.page_of(indices.end)), extent);
                    }
                });
            }
        });
    }

    /// Returns how many pages of this map are charged against the user-wire limit.
    pub fn user_wired_pages(&self) -> u64 {
        self.locked(|state| state.user_wired_pages)
    }

    /// Returns totals over the map.
    pub fn stats(&self) -> MapStats {
        self.locked(|state| {
            let mut stats = MapStats {
                entries: state.entries.len(),
                user_wired_pages: state.user_wired_pages,
                timestamp: state.timestamp,
                last_host_error: state.last_host_error,
                ..MapStats::default()
            };
            let objects = self.vm.objects();
            for (start, entry) in state.entries.iter() {
                stats.allocated_pages += entry.pages;
                let Some(window) = entry.window(start, entry.range(start)) else { continue };
                objects.table.for_each(window.object, window.indices, |pages, found| {
                    let Found::Resident { extent, .. } = found else { return };
                    let counted = |condition: bool| if condition { pages.len() } else { 0 };
                    stats.resident_pages += pages.len();
                    stats.wired_pages += counted(extent.wires > 0);
                    stats.dirty_pages += counted(extent.dirty);
                    stats.cleaning_pages += counted(extent.cleaning);
                    stats.extents += 1;
                });
            }
            stats
        })
    }
}

/// Adds a row, or makes the last one longer.
fn push_state(rows: &mut Vec<(PageRange, PageState)>, pages: PageRange, state: PageState) {
    match rows.last_mut() {
        Some((last, same)) if last.end == pages.start && *same == state => last.end = pages.end,
        _ => rows.push((pages, state)),
    }
}

/// Adds a row for `pages` (none if empty) and one without frames for what lies between it and the row
/// before; joins rows whose frames continue. `first` is where the rows begin.
fn push_frames(rows: &mut Vec<FrameRow>, first: u64, pages: PageRange, frames: Option<FrameRun>) {
    let end = rows.last().map_or(first, |row| row.pages.end);
    if end < pages.start {
        rows.push(FrameRow { pages: PageRange::new(end, pages.start), frames: None });
    }
    let Some(frames) = frames else { return };
    if let Some(FrameRow { pages: before, frames: Some(run) }) = rows.last_mut()
        && before.end == pages.start
        && run.end() == frames.first
    {
        before.end = pages.end;
        run.pages += frames.pages;
        return;
    }
    rows.push(FrameRow { pages, frames: Some(frames) });
}

#[cfg(test)]
mod test;
