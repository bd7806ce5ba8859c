//! Giving many absent pages frames at once, with nothing locked while the frames are made zero.

use super::populate::next_request;
use super::{BLOCK_PAGES, Found, MOST_FILLED_PAGES, ObjectId, Objects, Pager, Window};
use crate::ports::{Frames, FreshFrames, OutOfFrames, Ports};
use crate::units::{FrameRun, PageRange};

/// Pages that are to be zero frames as far as they are absent. The object is held meanwhile.
#[derive(Debug)]
#[must_use = "the object stays held until the filling is ended"]
pub(crate) struct Filling {
    object: ObjectId,
    /// The pages of the object that are to come.
    rest: PageRange,
    /// The virtual page that the first of them is.
    page: u64,
    /// They come in whole 2 MiB.
    is_large: bool,
}

impl Filling {
    /// Tells whether all pages have come.
    pub(crate) const fn is_over(&self) -> bool {
        self.rest.is_empty()
    }

    /// Takes frames for the next of the pages: a whole 2 MiB block where one fits, else no more than others can wait for.
    ///
    /// # Errors
    /// [`OutOfFrames`]: there are none, or none that lie as the pages must.
    pub(crate) fn allocate(&self, frames: &impl Frames) -> Result<FreshFrames, OutOfFrames> {
        if !self.is_large {
            let request = next_request(self.page, self.rest.len());
            return frames.allocate(if request < BLOCK_PAGES { request.min(MOST_FILLED_PAGES) } else { BLOCK_PAGES });
        }
        let fresh = frames.allocate(BLOCK_PAGES)?;
        if fresh.run.pages < BLOCK_PAGES || !fresh.run.first.is_multiple_of(BLOCK_PAGES) {
            frames.free(fresh.run);
            return Err(OutOfFrames);
        }
        Ok(fresh)
    }
}

impl<P: Ports> Objects<P> {
    /// Begins to fill `part` of the window's object, all of it absent.
    pub(super) fn begin_filling(&mut self, window: &Window, part: PageRange) -> Filling {
        self.table[window.object].holds += 1;
        let page = window.page_of(part.start);
        let ahead = if window.is_large { page % BLOCK_PAGES } else { 0 };
        let pages = ahead + part.len();
        let pages = if window.is_large { pages.next_multiple_of(BLOCK_PAGES) } else { pages };
        let first = part.start - ahead;
        Filling {
            object: window.object,
            rest: PageRange::new(first, first + pages),
            page: page - ahead,
            is_large: window.is_large,
        }
    }

    /// Makes the next pages resident in `fresh` that still are zero and absent; the frames of others are given back.
    pub(crate) fn fill(&mut self, filling: &mut Filling, fresh: FreshFrames, frames: &P::Frames) {
        let FreshFrames { mut run, dirty } = fresh;
        filling.page += run.pages;
        while run.pages > 0 {
            let at = filling.rest.start;
            let (pages, found) = self.table.look(filling.object, PageRange::new(at, at + run.pages));
            let part = FrameRun::new(run.first, pages);
            match found {
                Found::Absent { root, .. } if matches!(self.table[root].pager, Pager::Ram) => {
                    self.table[filling.object].resident.insert(at, part, dirty);
                }
                _ => frames.free(part),
            }
            filling.rest.start += pages;
            run = FrameRun::new(part.end(), run.pages - pages);
        }
    }

    /// Lets the object go.
    pub(crate) fn end_filling(&mut self, filling: &Filling, frames: &P::Frames) {
        self.table.let_go(filling.object, frames);
    }
}
