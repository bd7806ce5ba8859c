//! Part of an entry, seen as pages of its object: making them resident and mapping them.

use spin::MutexGuard;

use super::hardware::BLOCK_PAGES;
use crate::entry::MapEntry;
use crate::object::{Pager, Resident, VmObject};
use crate::ports::{Frames, OutOfFrames, Pmap, Ports};
use crate::units::{PageRange, Prot};
use crate::vm::Vm;

/// Pages of one entry and the pages of its object that they show.
pub(super) struct Window<'a> {
    object: &'a VmObject,
    pub(super) pages: PageRange,
    pub(super) indices: PageRange,
    prot: Prot,
}

impl<'a> Window<'a> {
    /// Returns the window on `pages` of the entry that starts with `start`; none while it has no object.
    pub(super) fn of(entry: &'a MapEntry, start: u64, pages: PageRange) -> Option<Self> {
        let object = entry.object.as_deref()?;
        Some(Self { object, pages, indices: entry.object_range(start, pages), prot: entry.prot })
    }

    /// Returns the window on all pages of the entry that starts with `start`, with an object made if need be.
    pub(super) fn on_all(entry: &'a mut MapEntry, start: u64) -> Self {
        let pages = PageRange::new(start, start + entry.pages);
        let (indices, prot) = (entry.object_range(start, pages), entry.prot);
        Self { object: entry.ensure_object(), pages, indices, prot }
    }

    /// Returns the same window on fewer pages.
    pub(super) fn narrowed(&self, pages: PageRange) -> Self {
        let index_of = |page| page - self.pages.start + self.indices.start;
        Self { pages, indices: PageRange::new(index_of(pages.start), index_of(pages.end)), ..*self }
    }

    pub(super) fn pager(&self) -> Pager {
        self.object.pager()
    }

    pub(super) fn resident(&self) -> MutexGuard<'a, Resident> {
        self.object.resident()
    }

    /// Folds the dirty marks of the window's mappings into `resident` and clears them.
    pub(super) fn collect_dirty(&self, pmap: &mut impl Pmap, resident: &mut Resident) {
        pmap.clean(self.pages, &mut |dirty| resident.mark_dirty(self.narrowed(dirty).indices));
    }

    /// Maps what is resident of the window, as the entry permits. The marks of older mappings must have been
    /// collected, for an entered page starts clean.
    ///
    /// # Errors
    /// [`OutOfFrames`] when no frame is left for a table; some of the pages may be mapped then.
    pub(super) fn enter(&self, pmap: &mut impl Pmap, resident: &Resident) -> Result<(), OutOfFrames> {
        resident
            .frames(self.indices)
            .try_for_each(|(index, run)| pmap.enter(index - self.indices.start + self.pages.start, run, self.prot))
    }

    /// Makes every page of the window resident, in as few frame runs as there are.
    ///
    /// # Errors
    /// [`OutOfFrames`] when frames run out; the pages that got one stay resident (row F-06).
    pub(super) fn populate<P: Ports>(&self, vm: &Vm<P>, resident: &mut Resident) -> Result<(), OutOfFrames> {
        match self.pager() {
            Pager::Ram => self.fill_zero(vm, resident),
        }
    }

    /// Gives each absent page a zero frame.
    fn fill_zero<P: Ports>(&self, vm: &Vm<P>, resident: &mut Resident) -> Result<(), OutOfFrames> {
        let mut at = self.indices.start;
        while let Some(gap) = resident.next_gap(PageRange::new(at, self.indices.end)) {
            let wanted = next_request(gap.start - self.indices.start + self.pages.start, gap.len());
            let fresh = vm.frames().allocate(wanted)?;
            resident.insert(gap.start, fresh.run, fresh.dirty);
            at = gap.start + fresh.run.pages;
        }
        Ok(())
    }
}

/// Returns how many frames to ask for at virtual page `page` when `missing` are absent from there on.
///
/// A run that reaches over a whole 2 MiB block of addresses is asked for in three parts, so that the
/// block's frames can be aligned as its addresses are.
fn next_request(page: u64, missing: u64) -> u64 {
    let head = page.next_multiple_of(BLOCK_PAGES) - page;
    if missing < head + BLOCK_PAGES {
        missing
    } else if head > 0 {
        head
    } else {
        missing - missing % BLOCK_PAGES
    }
}

#[cfg(test)]
mod test {
    use super::next_request;

    #[test]
    fn next_request_whole_block_within_is_asked_for_aligned() {
        assert_eq!(next_request(0, 1), 1);
        assert_eq!(next_request(0, 511), 511);
        assert_eq!(next_request(0, 512), 512);
        assert_eq!(next_request(0, 1500), 1024);
        assert_eq!(next_request(3, 509), 509);
        assert_eq!(next_request(3, 1020), 1020, "no whole block");
        assert_eq!(next_request(3, 1021), 509, "the head before the block");
        assert_eq!(next_request(512, 0), 0);
    }
}
