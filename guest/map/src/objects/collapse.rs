//! Shadows: made for an entry that must not write what others see, and united with what they hide when nobody else sees it.

use super::{Backing, Found, ObjectId, ObjectTable, Pager, VmObject};
use crate::ports::Frames;
use crate::units::PageRange;

impl ObjectTable {
    /// Returns a new object of `indices.len()` pages that shows pages `indices` of `below` until it has its own.
    pub(crate) fn add_shadow(&mut self, below: ObjectId, indices: PageRange) -> ObjectId {
        let mut shadow = VmObject::new(Pager::Ram, indices.len());
        shadow.backing = Some(Backing { object: below, offset: indices.start });
        let id = self.add(shadow);
        self[below].shadows.push(id);
        id
    }

    /// Gives the pages of `below`, which nothing but `shadow` refers to, to `shadow` where that has none, and ends `below`
    /// (FreeBSD `vm_object_collapse`). Nothing happens where `below` has a
    /// pager of its own, or an end that the shadow would not know.
    pub(super) fn collapse(&mut self, below: ObjectId, shadow: ObjectId, frames: &impl Frames) {
        let Some(Backing { offset, .. }) = self[shadow].backing else { return };
        let (hidden, pages) = (&self[below], self[shadow].pages);
        // A root says where accesses end; a shadow does not, so it can't stand for one that ends within its sight.
        let ends_in_sight = hidden.backing.is_none() && hidden.pages < offset.saturating_add(pages);
        if hidden.is_external() || ends_in_sight {
            return;
        }
        let mut old = self.objects.remove(below.0 as usize);
        let mut rest = old.resident.take();
        while let Some((start, extent)) = rest.pop_first() {
            let whole = PageRange::new(start, start + extent.frames.pages);
            // What lies outside of the shadow, or behind a page of its own, nobody can see.
            let seen = whole.intersection(PageRange::new(offset, offset.saturating_add(pages)));
            self[shadow].resident.absorb(whole, seen, offset, extent, |run| frames.free(run));
        }
        let upper = &mut self[shadow];
        upper.backing =
            old.backing.map(|Backing { object, offset: deeper }| Backing { object, offset: offset + deeper });
        // Counts on pages that are the shadow's own now stand on those pages.
        let mut at = 0;
        while !self[shadow].below.is_empty() && at < pages {
            let (run, found) = self.look_raw(shadow, PageRange::new(at, pages));
            if matches!(found, Found::Resident { owner, .. } if owner == shadow) {
                self[shadow].below.clear(PageRange::new(at, at + run));
            }
            at += run;
        }
        if let Some(Backing { object, .. }) = old.backing {
            for known in self[object].shadows.iter_mut().filter(|known| **known == below) {
                *known = shadow;
            }
        }
    }
}
