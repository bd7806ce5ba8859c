//! One entry of a map.

use crate::objects::{Counts, ObjectId, Window};
use crate::runs::Run;
use crate::units::{PageRange, Prot};

/// What a child gets of an entry when its map is forked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Inheritance {
    /// The same pages.
    Share,
    /// A copy.
    #[default]
    Copy,
    /// Nothing.
    None,
}

/// What an entry is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// Pages.
    Pages,
    /// Pages that come and go in whole 2 MiB, so an entry can't be clipped within them (row A-08).
    LargePages,
    /// Part of a stack that grows down.
    Stack,
    /// What a stack below which it lies may grow into.
    StackGap,
    /// Nothing, for ever.
    Guard,
    /// What another map rules over, which has the same page tables. It can't be clipped.
    Submap,
}

impl EntryKind {
    /// Tells whether the entry can hold pages.
    pub(crate) const fn has_pages(self) -> bool {
        matches!(self, Self::Pages | Self::LargePages | Self::Stack)
    }
}

/// One call of an operation, as the owner of transition marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OperationId(pub(crate) u64);

/// The mark *in transition*: its owner works on the entry with the map unlocked, and nobody else may
/// change the entry (row N2). Clipping the entry copies it (row N3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transition {
    pub(crate) owner: OperationId,
    /// The owner, a wire call, passes over this entry (row W-03).
    pub(crate) skipped: bool,
    /// The owner, a wire call, has counted its wiring.
    pub(crate) counted: bool,
    /// The owner, a user wire call, has charged the entry's pages but not set the user bit yet.
    pub(crate) charged: bool,
    /// The owner wires pages of the entry that were not wired, and has done so before this page.
    pub(crate) wired_to: Option<u64>,
    /// The owner was the first to have pages wired as they become resident.
    pub(crate) wires_on_fault: bool,
}

impl Transition {
    pub(crate) const fn new(owner: OperationId) -> Self {
        Self { owner, skipped: false, counted: false, charged: false, wired_to: None, wires_on_fault: false }
    }
}

/// Consecutive pages of a map that agree in all attributes.
#[derive(Debug)]
pub(crate) struct MapEntry {
    pub(crate) pages: u64,
    pub(crate) kind: EntryKind,
    /// What the pages are part of; none until first needed.
    pub(crate) object: Option<ObjectId>,
    /// The object's page that the entry's first page is.
    pub(crate) offset: u64,
    /// Others see the object's pages too: before a write, the entry gets a shadow of its own.
    pub(crate) needs_copy: bool,
    pub(crate) prot: Prot,
    pub(crate) max_prot: Prot,
    pub(crate) inheritance: Inheritance,
    /// The system's wirings, and one more if the user has wired the entry.
    pub(crate) wired_count: u32,
    pub(crate) user_wired: bool,
    /// The entry is wired page by page as pages become resident; the map knows which are.
    pub(crate) on_fault: bool,
    pub(crate) transition: Option<Transition>,
    /// Somebody waits for the entry's mark to go or for its system wirings to end.
    pub(crate) needs_wakeup: bool,
}

impl MapEntry {
    /// Returns an entry as an allocation makes it.
    pub(crate) const fn new(pages: u64) -> Self {
        Self {
            pages,
            kind: EntryKind::Pages,
            object: None,
            offset: 0,
            needs_copy: false,
            prot: Prot::DEFAULT,
            max_prot: Prot::ALL,
            inheritance: Inheritance::Copy,
            wired_count: 0,
            user_wired: false,
            on_fault: false,
            transition: None,
            needs_wakeup: false,
        }
    }

    /// Returns an entry whose pages can't be accessed, and never will.
    pub(crate) fn without_pages(kind: EntryKind, pages: u64) -> Self {
        Self { kind, prot: Prot::NONE, max_prot: Prot::NONE, ..Self::new(pages) }
    }

    /// Returns how often the system has wired the entry: `sys(e)` of the semantics table.
    pub(crate) fn system_wired_count(&self) -> u32 {
        self.wired_count - u32::from(self.user_wired)
    }

    /// Tells whether `operation` holds the entry's transition mark.
    pub(crate) fn is_owned_by(&self, operation: OperationId) -> bool {
        self.transition.is_some_and(|mark| mark.owner == operation)
    }

    /// Returns the virtual pages, given the first.
    pub(crate) const fn range(&self, start: u64) -> PageRange {
        PageRange::new(start, start + self.pages)
    }

    /// Returns the pages of the object that stand behind `pages`, given the entry's first page.
    pub(crate) const fn object_range(&self, start: u64, pages: PageRange) -> PageRange {
        PageRange::new(pages.start - start + self.offset, pages.end - start + self.offset)
    }

    /// Returns `pages` of the entry that starts with `start` as pages of its object; none while it has none.
    pub(crate) fn window(&self, start: u64, pages: PageRange) -> Option<Window> {
        Some(Window {
            object: self.object?,
            pages,
            indices: self.object_range(start, pages),
            prot: self.prot,
            needs_copy: self.needs_copy,
            is_large: self.kind == EntryKind::LargePages,
        })
    }

    /// Returns the pages of the entry that starts with `start` on each of which it counts as one wiring (row N5), in order, given those
    /// of its map that were wired as they became resident.
    pub(crate) fn counted_pages(&self, start: u64, by_fault: &Counts) -> impl Iterator<Item = PageRange> {
        let whole = self.range(start);
        // All pages before this one, and behind it those that came by faults.
        let all_before = match self.transition.and_then(|mark| mark.wired_to) {
            Some(wired_to) => wired_to.clamp(whole.start, whole.end),
            None if self.on_fault => whole.start,
            None => whole.end,
        };
        let end = match self.on_fault {
            _ if self.wired_count == 0 => start,
            true => whole.end,
            false => all_before,
        };
        let mut rest = PageRange::new(start, end);
        core::iter::from_fn(move || {
            while !rest.is_empty() {
                let is_behind = self.on_fault && rest.start >= all_before;
                let (pages, count) = if is_behind { by_fault.first_of(rest) } else { (all_before - rest.start, 1) };
                let part = PageRange::new(rest.start, rest.start + pages);
                rest.start = part.end;
                if count > 0 {
                    return Some(part);
                }
            }
            None
        })
    }
}

impl Run for MapEntry {
    fn pages(&self) -> u64 {
        self.pages
    }

    /// Clips the entry. It must have an object if it can, so that the halves share it (row C-01); both halves
    /// keep the mark and its owner (row N3).
    fn split_off(&mut self, pages: u64) -> Self {
        debug_assert!(self.object.is_some() || !self.kind.has_pages(), "row C-01: an object before the first clip");
        let rest = Self { pages: self.pages - pages, offset: self.offset + pages, ..*self };
        self.pages = pages;
        rest
    }

    /// Merges as FreeBSD `vm_map_mergeable_neighbors` permits (rows C-02 and C-03).
    fn continues_as(&self, next: &Self) -> bool {
        let same_object = match (self.object, next.object) {
            (None, None) => true,
            (Some(mine), Some(other)) => mine == other && self.offset + self.pages == next.offset,
            _ => false,
        };
        same_object
            && self.transition.is_none()
            && next.transition.is_none()
            && self.kind == next.kind
            && matches!(self.kind, EntryKind::Pages | EntryKind::LargePages)
            && self.needs_copy == next.needs_copy
            && self.prot == next.prot
            && self.max_prot == next.max_prot
            && self.inheritance == next.inheritance
            && self.wired_count == next.wired_count
            && self.user_wired == next.user_wired
            && self.on_fault == next.on_fault
            && self.needs_wakeup == next.needs_wakeup
    }

    fn append(&mut self, next: Self) {
        self.pages += next.pages;
    }
}

#[cfg(test)]
mod test {
    use alloc::vec::Vec;

    use super::{EntryKind, MapEntry, OperationId, Transition};
    use crate::objects::{Counts, ObjectTable, Pager, VmObject};
    use crate::runs::Run;
    use crate::units::{PageRange, Prot};

    /// Returns an entry with an object.
    fn entry(pages: u64) -> MapEntry {
        MapEntry { object: Some(ObjectTable::default().add(VmObject::new(Pager::Ram, pages))), ..MapEntry::new(pages) }
    }

    #[test]
    fn c_01_clip_gives_the_halves_neighbouring_pages_of_one_object() {
        let mut entry = entry(8);
        let rest = entry.split_off(3);
        assert_eq!((entry.pages, entry.offset, rest.pages, rest.offset), (3, 0, 5, 3));
        assert!(entry.continues_as(&rest), "the halves are one object's neighbouring pages");
        entry.append(rest);
        assert_eq!(entry.pages, 8);
    }

    #[test]
    fn n3_split_in_transition_keeps_the_mark_on_both_halves_and_never_merges() {
        let mut entry = entry(8);
        let owner = OperationId(7);
        entry.transition = Some(Transition::new(owner));
        let mut rest = entry.split_off(4);
        assert!(entry.is_owned_by(owner) && rest.is_owned_by(owner));
        assert!(!entry.is_owned_by(OperationId(8)));
        assert!(!entry.continues_as(&rest));
        rest.transition = None;
        assert!(!entry.continues_as(&rest));
        entry.transition = None;
        assert!(entry.continues_as(&rest));
    }

    #[test]
    fn c_02_neighbours_that_differ_in_anything_do_not_merge() {
        let changes: [fn(&mut MapEntry); 10] = [
            |entry| entry.prot = Prot::READ,
            |entry| entry.max_prot = Prot::DEFAULT,
            |entry| entry.inheritance = super::Inheritance::Share,
            |entry| entry.wired_count = 1,
            |entry| entry.user_wired = true,
            |entry| entry.needs_wakeup = true,
            |entry| entry.offset += 1,
            |entry| entry.needs_copy = true,
            |entry| entry.kind = EntryKind::LargePages,
            |entry| entry.on_fault = true,
        ];
        for (which, change) in changes.iter().enumerate() {
            let mut entry = entry(4);
            let mut rest = entry.split_off(2);
            change(&mut rest);
            assert!(!entry.continues_as(&rest), "change {which}");
        }
    }

    #[test]
    fn c_03_stacks_gaps_and_guards_never_merge() {
        for kind in [EntryKind::Stack, EntryKind::StackGap, EntryKind::Guard] {
            let piece = || MapEntry { kind, ..MapEntry::new(2) };
            assert!(!piece().continues_as(&piece()), "{kind:?}");
        }
    }

    #[test]
    fn n5_counted_pages_are_those_before_the_cursor_and_those_that_faults_brought() {
        let mut wired = Counts::new();
        let pages = |entry: &MapEntry, wired: &Counts| entry.counted_pages(10, wired).collect::<Vec<_>>();
        let mut entry = entry(8);
        assert_eq!(pages(&entry, &wired), []);
        entry.wired_count = 1;
        assert_eq!(pages(&entry, &wired), [PageRange::new(10, 18)]);
        entry.transition = Some(Transition { wired_to: Some(13), ..Transition::new(OperationId(1)) });
        assert_eq!(pages(&entry, &wired), [PageRange::new(10, 13)]);
        wired.add(PageRange::new(12, 14));
        wired.add(PageRange::new(16, 17));
        // An entry behind it has wired pages by faults as well.
        wired.add(PageRange::new(18, 20));
        entry.on_fault = true;
        assert_eq!(pages(&entry, &wired), [PageRange::new(10, 13), PageRange::new(13, 14), PageRange::new(16, 17)]);
        entry.transition = None;
        assert_eq!(pages(&entry, &wired), [PageRange::new(12, 14), PageRange::new(16, 17)]);
        let rest = entry.split_off(3);
        assert_eq!(pages(&entry, &wired), [PageRange::new(12, 13)]);
        assert_eq!(
            rest.counted_pages(13, &wired).collect::<Vec<_>>(),
            [PageRange::new(13, 14), PageRange::new(16, 17)]
        );
    }

    #[test]
    fn c_02_entries_without_object_merge_and_one_with_an_object_does_not() {
        let mut entry = MapEntry::new(4);
        assert!(entry.continues_as(&MapEntry::new(4)));
        let other = self::entry(4);
        assert!(!entry.continues_as(&other));
        entry.object = other.object;
        assert!(!entry.continues_as(&other), "not its next pages");
    }
}
