//! Advice about pages that will not be needed.

use super::{MapState, VmMap, touched_pages};
use crate::entry::MapEntry;
use crate::kern_return::KernReturn;
use crate::objects::Objects;
use crate::ports::{Frames, Ports};
use crate::units::PageRange;

/// What is said about pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Advice {
    /// They will not be needed soon. Their content stays: clean pages go where their pager can supply them again.
    DontNeed,
    /// Their content will not be needed (FreeBSD `MADV_FREE`): anonymous pages that nobody else sees go as well, and are zero
    /// afterwards.
    Free,
}

impl<P: Ports> VmMap<P> {
    /// Takes advice about the pages that `size` bytes from `address` touch (FreeBSD `vm_map_madvise`).
    ///
    /// Wired pages, busy ones, and holes are passed over (row P-11). Nothing waits. A size of 0 does nothing.
    ///
    /// # Errors
    /// [`KernReturn::InvalidArgument`]: address and size wrap.
    ///
    /// # Partial effects
    /// None.
    #[expect(clippy::unused_async, reason = "every operation is a future")]
    pub async fn advise(&self, address: u64, size: u64, advice: Advice) -> Result<(), KernReturn> {
        if size == 0 {
            return Ok(());
        }
        let range = touched_pages(address, size).ok_or(KernReturn::InvalidArgument)?;
        self.locked(|state| state.advise(range, advice));
        self.debug_check();
        Ok(())
    }
}

impl<P: Ports> MapState<P> {
    fn advise(&mut self, range: PageRange, advice: Advice) {
        let vm = alloc::sync::Arc::clone(&self.vm);
        let mut objects = vm.objects();
        self.collect_dirty(&mut objects, range);
        for (start, entry) in self.entries.meeting(range) {
            drop_pages(
                &mut objects,
                vm.frames(),
                entry,
                entry.object_range(start, entry.range(start).intersection(range)),
                advice,
            );
        }
    }
}

/// Drops what may be dropped of pages `indices` of the entry's object.
fn drop_pages<P: Ports>(
    objects: &mut Objects<P>,
    frames: &P::Frames,
    entry: &MapEntry,
    indices: PageRange,
    advice: Advice,
) {
    let Some(id) = entry.object else { return };
    let object = &objects.table[id];
    let is_own = objects.table.is_unshared(id) && object.backing.is_none() && !entry.needs_copy;
    let drops_dirty = match advice {
        _ if object.is_external() => false,
        Advice::Free if is_own && entry.kind != crate::entry::EntryKind::LargePages => true,
        Advice::Free | Advice::DontNeed => return,
    };
    let unneeded: alloc::vec::Vec<PageRange> = object
        .resident
        .pieces(indices)
        .filter(|(_, extent)| extent.is_loose() && (drops_dirty || !extent.is_owed()))
        .map(|(pages, _)| pages)
        .collect();
    for pages in unneeded {
        objects.unmap_everywhere(id, pages);
        // Other maps' marks came back with their mappings.
        objects.table[id].resident.remove_where(
            pages,
            |extent| drops_dirty || !extent.is_owed(),
            |run| frames.free(run),
        );
    }
}
