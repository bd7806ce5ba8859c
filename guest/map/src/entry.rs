//! One entry of a map.

use alloc::sync::Arc;

use crate::object::VmObject;
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

/// One call of an operation, as the owner of transition marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OperationId(pub(crate) u64);

/// The mark *in transition*: its owner works on the entry with the map unlocked, and nobody else may
/// change the entry (row N2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transition {
    pub(crate) owner: OperationId,
    /// The owner, a wire call, passes over this entry (row W-03).
    pub(crate) skipped: bool,
    /// The owner, a wire call, has counted its wiring.
    pub(crate) counted: bool,
    /// The owner, a user wire call, has charged the entry's pages but not set the user bit yet.
    pub(crate) charged: bool,
}

impl Transition {
    pub(crate) const fn new(owner: OperationId) -> Self {
        Self { owner, skipped: false, counted: false, charged: false }
    }
}

/// Consecutive pages of a map that agree in all attributes.
#[derive(Debug)]
pub(crate) struct MapEntry {
    pub(crate) pages: u64,
    /// What the pages are part of; none until first needed.
    pub(crate) object: Option<Arc<VmObject>>,
    /// The object's page that the entry's first page is.
    pub(crate) offset: u64,
    pub(crate) prot: Prot,
    pub(crate) max_prot: Prot,
    pub(crate) inheritance: Inheritance,
    /// The system's wirings, and one more if the user has wired the entry.
    pub(crate) wired_count: u32,
    pub(crate) user_wired: bool,
    pub(crate) transition: Option<Transition>,
    /// Somebody waits for the entry's mark to go or for its system wirings to end.
    pub(crate) needs_wakeup: bool,
}

impl MapEntry {
    /// Returns an entry as an allocation makes it.
    pub(crate) fn new(pages: u64) -> Self {
        Self {
            pages,
            object: None,
            offset: 0,
            prot: Prot::DEFAULT,
            max_prot: Prot::ALL,
            inheritance: Inheritance::default(),
            wired_count: 0,
            user_wired: false,
            transition: None,
            needs_wakeup: false,
        }
    }

    /// Returns how often the system has wired the entry: `sys(e)` of the semantics table.
    pub(crate) fn system_wired_count(&self) -> u32 {
        self.wired_count - u32::from(self.user_wired)
    }

    /// Tells whether `operation` holds the entry's transition mark.
    pub(crate) fn is_owned_by(&self, operation: OperationId) -> bool {
        self.transition.is_some_and(|mark| mark.owner == operation)
    }

    /// Returns the object, made now if there was none.
    pub(crate) fn ensure_object(&mut self) -> &Arc<VmObject> {
        self.object.get_or_insert_with(VmObject::ram)
    }

    /// Returns the pages of the object that stand behind `pages`, given the entry's first page.
    pub(crate) fn object_range(&self, start: u64, pages: PageRange) -> PageRange {
        PageRange::new(pages.start - start + self.offset, pages.end - start + self.offset)
    }
}

impl Run for MapEntry {
    fn pages(&self) -> u64 {
        self.pages
    }

    /// Clips the entry. An object is made first, so that the halves share it (row C-01), and both halves
    /// keep the mark and its owner (row N3).
    fn split_off(&mut self, pages: u64) -> Self {
        let object = Arc::clone(self.ensure_object());
        let rest = Self { pages: self.pages - pages, object: Some(object), offset: self.offset + pages, ..*self };
        self.pages = pages;
        rest
    }

    /// Merges as FreeBSD `vm_map_mergeable_neighbors` permits (rows C-02 and C-03).
    fn continues_as(&self, next: &Self) -> bool {
        let same_object = match (&self.object, &next.object) {
            (None, None) => true,
            (Some(mine), Some(other)) => Arc::ptr_eq(mine, other) && self.offset + self.pages == next.offset,
            _ => false,
        };
        same_object
            && self.transition.is_none()
            && next.transition.is_none()
            && self.prot == next.prot
            && self.max_prot == next.max_prot
            && self.inheritance == next.inheritance
            && self.wired_count == next.wired_count
            && self.user_wired == next.user_wired
            && self.needs_wakeup == next.needs_wakeup
    }

    fn append(&mut self, next: Self) {
        self.pages += next.pages;
    }
}

#[cfg(test)]
mod test {
    use super::{MapEntry, OperationId, Transition};
    use crate::runs::Run;
    use crate::units::Prot;

    #[test]
    fn c_01_split_without_object_gives_the_halves_one_object() {
        let mut entry = MapEntry::new(8);
        let rest = entry.split_off(3);
        assert_eq!((entry.pages, entry.offset, rest.pages, rest.offset), (3, 0, 5, 3));
        assert!(entry.continues_as(&rest), "the halves are one object's neighbouring pages");
        entry.append(rest);
        assert_eq!(entry.pages, 8);
    }

    #[test]
    fn n3_split_in_transition_keeps_the_mark_on_both_halves_and_never_merges() {
        let mut entry = MapEntry::new(8);
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
        let changes: [fn(&mut MapEntry); 7] = [
            |entry| entry.prot = Prot::READ,
            |entry| entry.max_prot = Prot::DEFAULT,
            |entry| entry.inheritance = super::Inheritance::Share,
            |entry| entry.wired_count = 1,
            |entry| entry.user_wired = true,
            |entry| entry.needs_wakeup = true,
            |entry| entry.offset += 1,
        ];
        for (which, change) in changes.iter().enumerate() {
            let mut entry = MapEntry::new(4);
            let mut rest = entry.split_off(2);
            change(&mut rest);
            assert!(!entry.continues_as(&rest), "change {which}");
        }
    }

    #[test]
    fn c_02_entries_without_object_merge_and_one_with_an_object_does_not() {
        let mut entry = MapEntry::new(4);
        assert!(entry.continues_as(&MapEntry::new(4)));
        let mut other = MapEntry::new(4);
        other.ensure_object();
        assert!(!entry.continues_as(&other));
        entry.ensure_object();
        assert!(!entry.continues_as(&other), "two objects");
    }
}
