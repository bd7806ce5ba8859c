//! Making pages resident.

use super::MapState;
use super::hardware::BLOCK_PAGES;
use crate::object::{Pager, VmObject};
use crate::ports::{Frames, OutOfFrames, Ports};
use crate::units::PageRange;
use crate::vm::Vm;

impl<P: Ports> MapState<P> {
    /// Makes every page of `pages`, all of them in one entry, resident, in as few frame runs as there are.
    ///
    /// # Errors
    /// [`OutOfFrames`] when frames run out; the pages that got one stay resident (row F-06).
    pub(super) fn populate(&mut self, vm: &Vm<P>, pages: PageRange) -> Result<(), OutOfFrames> {
        let Some((start, _)) = self.entries.containing(pages.start) else { return Ok(()) };
        let Some(entry) = self.entries.get_mut(start) else { return Ok(()) };
        let indices = entry.object_range(start, pages);
        let object = entry.ensure_object();
        match object.pager() {
            Pager::Ram => fill_zero(vm, object, indices, pages.start),
        }
    }
}

/// Gives each absent page of `indices` a zero frame; `page` is the virtual page of the first.
fn fill_zero<P: Ports>(vm: &Vm<P>, object: &VmObject, indices: PageRange, page: u64) -> Result<(), OutOfFrames> {
    let mut resident = object.resident();
    let mut at = indices.start;
    while let Some(gap) = resident.next_gap(PageRange::new(at, indices.end)) {
        let wanted = next_request(gap.start - indices.start + page, gap.len());
        let fresh = vm.frames().allocate(wanted)?;
        resident.insert(gap.start, fresh.run, fresh.dirty);
        at = gap.start + fresh.run.pages;
    }
    Ok(())
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
