//! The pager of files whose content is made up: page after page, when asked, not while gated, and not where told to fail.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::{ObjectId, ObjectTable, Pager};
use crate::handle::PagerFault;
use crate::kern_return::KernReturn;
use crate::ports::Frames;
use crate::units::{FrameRun, PageRange};

/// The byte that page 0 of a file is filled with; page `i` has this plus `i`, modulo 256.
const FIRST_BYTE: u64 = 0x10;

/// A file as a pager knows it.
#[derive(Debug)]
pub(crate) struct FilePager {
    /// The pages that have content; what a file grew by since is zero.
    seeded: u64,
    /// Most pages supplied at once, at least 1.
    readahead: u64,
    gated: BTreeSet<u64>,
    failing: BTreeMap<u64, PagerFault>,
    /// Pages on their way.
    paging: Vec<PageRange>,
}

impl FilePager {
    pub(crate) const fn new(pages: u64, readahead: u64) -> Self {
        let readahead = if readahead == 0 { 1 } else { readahead };
        Self { seeded: pages, readahead, gated: BTreeSet::new(), failing: BTreeMap::new(), paging: Vec::new() }
    }

    pub(crate) fn gate(&mut self, page: u64) {
        self.gated.insert(page);
    }

    pub(crate) fn release(&mut self, page: u64) {
        self.gated.remove(&page);
    }

    pub(crate) fn fail(&mut self, page: u64, fault: Option<PagerFault>) {
        match fault {
            Some(fault) => self.failing.insert(page, fault),
            None => self.failing.remove(&page),
        };
    }

    /// Notes that the file ends with page `pages` from now on: what was behind is gone for good.
    pub(crate) fn cut(&mut self, pages: u64) {
        self.seeded = self.seeded.min(pages);
    }

    fn byte(&self, page: u64) -> u8 {
        if page < self.seeded { FIRST_BYTE.wrapping_add(page).to_le_bytes()[0] } else { 0 }
    }

    fn is_paging(&self, page: u64) -> bool {
        self.paging.iter().any(|pages| pages.contains(page))
    }
}

/// Pages that an operation waits for. The object is held meanwhile.
#[derive(Debug)]
#[must_use = "pages stay on their way until they have come"]
pub(crate) struct PageIn {
    object: ObjectId,
    /// The first is the one that is needed.
    pages: PageRange,
}

impl ObjectTable {
    /// Asks the pager of `object` for its absent page `index`, and others behind it that are absent too; `None` if they are on
    /// their way already.
    pub(crate) fn begin_page_in(&mut self, id: ObjectId, index: u64) -> Option<PageIn> {
        let object = &mut self[id];
        let Pager::File(file) = &mut object.pager else { return None };
        if file.is_paging(index) {
            return None;
        }
        let last = index.saturating_add(file.readahead).min(object.pages).max(index + 1);
        let absent = object.resident.first_of(PageRange::new(index, last)).err().unwrap_or(1);
        let until = (index + 1..index + absent).find(|page| file.is_paging(*page)).unwrap_or(index + absent);
        let pages = PageRange::new(index, until);
        file.paging.push(pages);
        object.holds += 1;
        Some(PageIn { object: id, pages })
    }

    /// Tells whether the pages may not come yet.
    pub(crate) fn is_gated(&self, page_in: &PageIn) -> bool {
        let object = &self[page_in.object];
        match &object.pager {
            Pager::File(file) if !object.is_dead => {
                file.gated.range(page_in.pages.start..page_in.pages.end).next().is_some()
            }
            _ => false,
        }
    }

    /// Makes resident what the pager supplies.
    ///
    /// # Errors
    /// Why the page that is needed does not come. Others just stay absent then.
    #[expect(clippy::needless_pass_by_value, reason = "a page-in is finished once")]
    pub(crate) fn finish_page_in(&mut self, page_in: PageIn, frames: &impl Frames) -> Result<(), KernReturn> {
        let PageIn { object: id, pages } = page_in;
        let result = self.supply(id, pages, frames);
        if let Pager::File(file) = &mut self[id].pager {
            file.paging.retain(|known| *known != pages);
        }
        self.let_go(id, frames);
        result
    }

    fn supply(&mut self, id: ObjectId, pages: PageRange, frames: &impl Frames) -> Result<(), KernReturn> {
        let object = &mut self[id];
        let Pager::File(file) = &object.pager else { return Ok(()) };
        // Whoever needs the page looks again, and finds the end of the object or its death itself.
        let end = if object.is_dead { 0 } else { pages.end.min(object.pages) };
        for page in pages.start..end {
            let refused = match file.failing.get(&page) {
                Some(PagerFault::Io) => Some(KernReturn::OutOfBounds),
                Some(PagerFault::Refused) => Some(KernReturn::Failure),
                None => None,
            };
            let supplied = match refused {
                Some(code) => Err(code),
                None => frames.allocate(1).map_err(|_| KernReturn::ResourceShortage),
            };
            match supplied {
                Ok(fresh) => {
                    frames.fill(fresh.run.first, file.byte(page));
                    object.resident.insert(page, FrameRun::new(fresh.run.first, 1), false);
                }
                Err(code) if page == pages.start => return Err(code),
                Err(_) => break,
            }
        }
        Ok(())
    }
}
