//! Making the pages of a window resident.

use super::{Coming, Filling, Found, ObjectId, Objects, PageIn, Pager, StoreIn, Transfer, Window};
use crate::kern_return::KernReturn;
use crate::ports::{Frames, OutOfFrames, Ports};
use crate::units::{PageRange, Prot};

/// Pages in the larger of the two page sizes.
pub(crate) const BLOCK_PAGES: u64 = 512;
/// Most pages that are filled in one hold of the locks: every other processor may wait for them, and where ring 0 is emulated a
/// page takes about half a millisecond.
pub(crate) const MOST_FILLED_PAGES: u64 = 64;

/// Why a page can't be had at once.
#[derive(Debug)]
pub(crate) enum Obstacle {
    /// The pager has been asked; await it.
    PageIn(PageIn),
    /// The host has been asked; await it.
    StoreIn(StoreIn),
    /// Somebody else awaits the pager for this page, or a manager that is a task has been asked for it, or for the access; or a fork
    /// is still to copy what is to be written.
    Paging,
    /// There are many absent pages to be filled; await it.
    Filling(Filling),
    /// Somebody has wired what is to be copied: the copy must be held by the host before it takes its place.
    Transfer(Transfer),
    /// Nothing but that others are to have the locks in between.
    Turn,
    /// It can't be had.
    Failed(KernReturn),
}

impl From<OutOfFrames> for Obstacle {
    fn from(_: OutOfFrames) -> Self {
        Self::Failed(KernReturn::ResourceShortage)
    }
}

impl<P: Ports> Objects<P> {
    /// Makes the window's pages resident from its start on: of their own, if `access` is to write them. Returns how many are, and
    /// what is in the way of the others.
    ///
    /// A window that is to be written must not need a copy any more. Pages that got a frame stay resident whatever
    /// happens to the others (row F-06).
    pub(crate) fn populate(&mut self, frames: &P::Frames, window: &Window, access: Prot) -> (u64, Option<Obstacle>) {
        let write = access.contains(Prot::WRITE);
        let mut at = window.indices.start;
        let mut filled = 0;
        while at < window.indices.end {
            if filled >= MOST_FILLED_PAGES {
                return (at - window.indices.start, Some(Obstacle::Turn));
            }
            let rest = PageRange::new(at, window.indices.end);
            let (pages, found) = self.table.look(window.object, rest);
            let part = PageRange::new(at, at + pages);
            let is_copied = matches!(found, Found::Resident { owner, .. } if write && owner != window.object);
            // No mapping could say that a page may be written or executed and not read.
            let needed = if is_copied { Prot::READ } else { access | Prot::READ };
            let step = match found {
                Found::Resident { extent, .. } if !(extent.denied() & needed).without(extent.forbidden).is_none() => {
                    Err(Obstacle::Paging)
                }
                Found::Resident { owner, index, extent } if !(extent.forbidden & needed).is_none() => {
                    self.table.ask_unlock(owner, index, extent.forbidden & needed);
                    Err(Obstacle::Paging)
                }
                Found::Resident { extent, .. } if is_copied => {
                    self.copy_up(frames, window, part, extent.frames).inspect(|copied| filled += copied)
                }
                Found::Resident { .. } => Ok(pages),
                Found::Absent { root, index } => {
                    self.bring(frames, window, part, (root, index), needed).map(|(pages, is_filled)| {
                        filled += if is_filled { pages } else { 0 };
                        pages
                    })
                }
                Found::Failed(code) => Err(Obstacle::Failed(code)),
            };
            match step {
                Ok(pages) => at += pages,
                Err(obstacle) => return (at - window.indices.start, Some(obstacle)),
            }
        }
        (window.indices.len(), None)
    }

    /// Brings absent pages in; returns how many from the start of `part` are resident then, and whether they had to be filled.
    fn bring(
        &mut self,
        frames: &P::Frames,
        window: &Window,
        part: PageRange,
        (root, index): (ObjectId, u64),
        access: Prot,
    ) -> Result<(u64, bool), Obstacle> {
        match self.table[root].pager {
            Pager::Ram if window.is_large || part.len() > MOST_FILLED_PAGES => self
                .show_zero(frames, window, part)
                .map(|pages| (pages, false))
                .ok_or_else(|| Obstacle::Filling(self.begin_filling(window, part))),
            Pager::Ram => {
                let fresh = frames.allocate(next_request(window.page_of(part.start), part.len()))?;
                self.table[window.object].resident.insert(part.start, fresh.run, fresh.dirty);
                Ok((fresh.run.pages, fresh.dirty))
            }
            Pager::File(_) => {
                let page_in = self.table.begin_page_in(root, index);
                Err(page_in.map_or(Obstacle::Paging, Obstacle::PageIn))
            }
            Pager::Managed(_) => {
                let access = if root == window.object { access } else { Prot::READ };
                Err(match self.table.ask_manager(root, index, access, frames)? {
                    Coming::Store(coming) => Obstacle::StoreIn(coming),
                    Coming::Awaited => Obstacle::Paging,
                    Coming::Failed(reason) => Obstacle::Failed(reason),
                })
            }
        }
    }
}

impl<P: Ports> Objects<P> {
    /// Gives pages from the start of `part` on, all of it absent, frames that are zero already, at once however many they are. Returns
    /// how many pages have come; none where the frames would have to be made zero.
    fn show_zero(&mut self, frames: &P::Frames, window: &Window, part: PageRange) -> Option<u64> {
        let page = window.page_of(part.start);
        let ahead = if window.is_large { page % BLOCK_PAGES } else { 0 };
        let pages = if window.is_large {
            (ahead + part.len()).next_multiple_of(BLOCK_PAGES)
        } else {
            next_request(page, part.len())
        };
        let run = frames.allocate_zero(pages)?;
        let first = part.start - ahead;
        self.table[window.object].resident.insert(first, run, false);
        Some((first + run.pages).min(part.end) - part.start)
    }
}

/// Returns how many frames to ask for at virtual page `page` when `missing` are absent from there on.
///
/// A run that reaches over a whole 2 MiB block of addresses is asked for in three parts, so that the
/// block's frames can be aligned as its addresses are.
pub(super) fn next_request(page: u64, missing: u64) -> u64 {
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
