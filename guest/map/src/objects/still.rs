//! Pages that nobody may write while they are copied.

use alloc::vec::Vec;

use super::{Found, ObjectId, Objects, SpaceId, View};
use crate::ports::{Pmap, Ports};
use crate::units::{PageRange, Prot};

/// Mappings that were write-protected, with the rights that they are to have again.
#[derive(Debug, Default)]
#[must_use = "what was held still is to be let go"]
pub(crate) struct Still(Vec<(SpaceId, PageRange, Prot)>);

impl<P: Ports> Objects<P> {
    /// Lets no processor write the pages that `range` of `top` shows, through whichever map, until [`Objects::let_move`]: a copy
    /// made meanwhile is of one moment. The objects must stay locked, else a fault permits the writes again.
    pub(crate) fn hold_still(&mut self, top: ObjectId, range: PageRange) -> Still {
        let mut still = Still::default();
        #[cfg(test)]
        if crate::planted::is_planted(crate::planted::Mutant::CopiesWhatIsWritten) {
            return still;
        }
        let mut shown = Vec::new();
        self.table.for_each(top, range, |pages, found| {
            if let Found::Resident { owner, index, .. } = found {
                shown.push((owner, PageRange::new(index, index + pages.len())));
            }
        });
        for (owner, indices) in shown {
            // Only entries that show the pages' very object can permit writes.
            for view in self.table[owner].views.clone() {
                for part in view.shown_of(indices) {
                    self.protect_view(owner, &view, view.pages_of(part), &mut still);
                }
            }
        }
        still
    }

    /// Permits what was permitted before.
    pub(crate) fn let_move(&mut self, still: Still) {
        for (space, pages, prot) in still.0 {
            // What can't be had again now, the next fault gets.
            self.pmap(space).protect(pages, prot).unwrap_or_default();
        }
    }

    fn protect_view(&mut self, owner: ObjectId, view: &View, pages: PageRange, still: &mut Still) {
        let mut rest = pages;
        while let Some((run, prot)) = self.writable_run(view.space, &mut rest) {
            let rights = prot.without(Prot::WRITE);
            let is_protected = |pmap: &mut P::Pmap, pages| !rights.is_none() && pmap.protect(pages, rights).is_ok();
            if is_protected(self.pmap(view.space), run) {
                still.0.push((view.space, run, prot));
                continue;
            }
            for page in run.start..run.end {
                let this = PageRange::new(page, page + 1);
                if is_protected(self.pmap(view.space), this) {
                    still.0.push((view.space, this, prot));
                } else {
                    self.unmap_page(owner, view, page);
                }
            }
        }
    }

    /// Takes the first pages of `rest` that are mapped alike and may be written, and what is before them, from `rest`.
    fn writable_run(&mut self, space: SpaceId, rest: &mut PageRange) -> Option<(PageRange, Prot)> {
        let pmap = self.pmap(space);
        let rights = |page: u64| pmap.translate(page).map(|(_, prot)| prot).filter(|prot| prot.contains(Prot::WRITE));
        let (start, prot) = (rest.start..rest.end).find_map(|page| Some((page, rights(page)?)))?;
        let end = (start..rest.end).find(|&page| rights(page) != Some(prot)).unwrap_or(rest.end);
        rest.start = end;
        Some((PageRange::new(start, end), prot))
    }
}
