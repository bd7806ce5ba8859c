//! Looking down a chain of shadows: which page does an entry show?

use super::{Extent, ObjectId, ObjectTable};
use crate::kern_return::KernReturn;
use crate::units::{FrameRun, PageRange};

/// What stands behind the first pages of a range of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Resident pages, the topmost there are.
    Resident {
        /// Whose they are: the object's own, or those of one below.
        owner: ObjectId,
        /// The owner's page that the first of them is.
        index: u64,
        /// The pages, cut to the range.
        extent: Extent,
    },
    /// Nothing is resident; the pages have to come from this object's pager.
    Absent {
        /// The lowest object.
        root: ObjectId,
        /// The root's page that the first of them is.
        index: u64,
    },
    /// An access fails with this.
    Failed(KernReturn),
}

impl ObjectTable {
    /// Says what is behind the start of `range` (not empty) of `top`, and for how many pages.
    ///
    /// Pages past the end of their object, or of a dead one, are [`Found::Failed`] (row F-02).
    pub(crate) fn look(&self, top: ObjectId, range: PageRange) -> (u64, Found) {
        let (pages, found) = self.look_raw(top, range);
        let (id, index) = match found {
            Found::Resident { owner, index, .. } => (owner, index),
            Found::Absent { root, index } => (root, index),
            Found::Failed(_) => return (pages, found),
        };
        let object = &self[id];
        if object.is_dead {
            return (pages, Found::Failed(KernReturn::ProtectionFailure));
        }
        if object.backing.is_some() || index + pages <= object.pages {
            return (pages, found);
        }
        if index >= object.pages {
            return (pages, Found::Failed(KernReturn::OutOfBounds));
        }
        let pages = object.pages - index;
        match found {
            Found::Resident { owner, index, extent } => {
                let extent = Extent { frames: FrameRun::new(extent.frames.first, pages), ..extent };
                (pages, Found::Resident { owner, index, extent })
            }
            other => (pages, other),
        }
    }

    /// As [`ObjectTable::look`], but pages count that an access could not reach any more: a wired page stays after its
    /// object has been cut (row P-10).
    pub(crate) fn look_raw(&self, top: ObjectId, range: PageRange) -> (u64, Found) {
        let (mut id, mut at) = (top, range);
        loop {
            let object = &self[id];
            match object.resident.first_of(at) {
                Ok(extent) => {
                    return (extent.frames.pages, Found::Resident { owner: id, index: at.start, extent });
                }
                Err(gap) => {
                    let Some(backing) = object.backing else {
                        return (gap, Found::Absent { root: id, index: at.start });
                    };
                    at = PageRange::new(at.start + backing.offset, at.start + gap + backing.offset);
                    id = backing.object;
                }
            }
        }
    }

    /// Returns the lowest object of `top`'s chain, and which of its pages stand behind `range` of `top` where nothing is above.
    pub(crate) fn root(&self, top: ObjectId, range: PageRange) -> (ObjectId, PageRange) {
        let (mut id, mut at) = (top, range);
        while let Some(backing) = self[id].backing {
            at = PageRange::new(at.start + backing.offset, at.end + backing.offset);
            id = backing.object;
        }
        (id, at)
    }

    /// Calls `visit(index in top, what)` for all of `range` of `top`, in order, with raw looks.
    pub(crate) fn for_each(&self, top: ObjectId, range: PageRange, mut visit: impl FnMut(PageRange, Found)) {
        let mut at = range.start;
        while at < range.end {
            let (pages, found) = self.look_raw(top, PageRange::new(at, range.end));
            visit(PageRange::new(at, at + pages), found);
            at += pages;
        }
    }

    /// Notes that the topmost resident pages of `range` of `top` were written.
    pub(crate) fn mark_dirty(&mut self, top: ObjectId, range: PageRange) {
        let mut at = range.start;
        while at < range.end {
            let (pages, found) = self.look_raw(top, PageRange::new(at, range.end));
            if let Found::Resident { owner, index, .. } = found {
                self[owner].resident.mark_dirty(PageRange::new(index, index + pages));
            }
            at += pages;
        }
    }

    /// Tells whether nothing is resident of `range` of `top`.
    pub(crate) fn is_absent(&self, top: ObjectId, range: PageRange) -> bool {
        let (pages, found) = self.look_raw(top, range);
        pages == range.len() && !matches!(found, Found::Resident { .. })
    }
}
