//! The heap segment.

use super::allocate::NewEntry;
use super::deallocate::Blocking;
use super::{MapState, Placement, Step, VmMap, touched_pages};
use crate::entry::{MapEntry, OperationId};
use crate::errno::Errno;
use crate::objects::{BLOCK_PAGES, PinList};
use crate::ports::Ports;
use crate::units::{PAGE_SHIFT, PageRange};
use crate::wait::Wait;

impl<P: Ports> VmMap<P> {
    /// Sets the size of the map's heap segment, rounded up to pages, and returns its start (FreeBSD `brk`).
    ///
    /// The segment begins a quarter into the map's bounds. What it grows by is memory as from [`VmMap::allocate`]; but where that
    /// must be wired and can't be, the segment does not grow (row L-09). What it shrinks by is deallocated, which waits for system
    /// wirings to end; the end moves only then, together with all that it leaves behind.
    ///
    /// # Errors
    /// [`Errno::NoMem`]: the segment would leave the map or meet something else; or it could not be wired.
    ///
    /// # Partial effects
    /// None.
    pub async fn brk(&self, size: u64) -> Result<u64, Errno> {
        let pages = if size == 0 { 0 } else { touched_pages(0, size).ok_or(Errno::NoMem)?.len() };
        let owner = self.begin();
        let moved = loop {
            match self.exclusive(|state| self.move_heap(state, pages, owner)) {
                Step::Wait(wait) => wait.await,
                Step::Done(moved) => break moved?,
            }
        };
        let start = match moved {
            Moved::Set(start) => start,
            Moved::Shrunk(new, gone, last) => {
                self.delete_claimed(gone, owner, Blocking::SystemWirings, last).await;
                new.start
            }
            Moved::Claimed(new, grown, claimed) => {
                self.wire_heap(new, grown, claimed, owner).await?;
                new.start
            }
        };
        self.debug_check();
        Ok(start << PAGE_SHIFT)
    }

    /// Sets the segment's size to `pages`: its end moves in the same hold in which the pages behind it are claimed.
    fn move_heap(
        &self,
        state: &mut MapState<P>,
        pages: u64,
        owner: OperationId,
    ) -> Step<Wait<'_>, Result<Moved, Errno>> {
        let old = state.heap.unwrap_or_else(|| state.empty_heap());
        let Some(end) = old.start.checked_add(pages) else { return Step::Done(Err(Errno::NoMem)) };
        let new = PageRange::new(old.start, end);
        if new.end < old.end {
            let gone = PageRange::new(new.end, old.end);
            return match self.claim_all_for_delete(state, gone, owner) {
                Step::Wait(wait) => Step::Wait(wait),
                Step::Done(Err(_)) => Step::Done(Err(Errno::NoMem)),
                Step::Done(Ok(last)) => {
                    state.heap = Some(new);
                    Step::Done(Ok(Moved::Shrunk(new, gone, last)))
                }
            };
        }
        if new.end > old.end {
            let grown = PageRange::new(old.end, new.end);
            if state.place(Placement::Fixed(grown.start << PAGE_SHIFT), grown.len()).is_err() {
                return Step::Done(Err(Errno::NoMem));
            }
            state.entries.insert(grown.start, MapEntry::new(grown.len()));
            let claimed = state.claim_new(grown.start);
            state.entries.merge(PageRange::new(grown.start, grown.start));
            if let Some(claimed) = claimed {
                return Step::Done(Ok(Moved::Claimed(new, grown, claimed)));
            }
            state.heap = Some(new);
        }
        Step::Done(Ok(Moved::Set(new.start)))
    }

    /// Wires what the segment grows by, and moves its end to that of `new`; or takes it back.
    async fn wire_heap(
        &self,
        new: PageRange,
        grown: PageRange,
        claimed: NewEntry,
        owner: OperationId,
    ) -> Result<(), Errno> {
        let finish = |state: &mut MapState<P>, is_wired| {
            // Another call may have moved the segment's end while this one wired.
            let fits = state.heap.unwrap_or_else(|| state.empty_heap()).end == grown.start;
            if is_wired && fits {
                state.heap = Some(new);
                return None;
            }
            // Nobody could touch the pages yet, so none of them need be waited for.
            match self.claim_all_for_delete(state, grown, owner) {
                Step::Done(Ok(last)) => Some(last),
                Step::Done(Err(_)) | Step::Wait(_) => None,
            }
        };
        match self.wire_claimed_then(claimed, grown, finish).await {
            (Ok(()), None) => Ok(()),
            (_, last) => {
                self.delete_claimed(grown, owner, Blocking::SystemWirings, last.unwrap_or_default()).await;
                Err(Errno::NoMem)
            }
        }
    }
}

/// How a call has moved the segment's end.
enum Moved {
    /// All is done; the segment starts with this page.
    Set(u64),
    /// To that of the first range; the second is claimed, to be deleted.
    Shrunk(PageRange, PageRange, PinList),
    /// Not yet: what it is to grow by, the second range, must be wired first.
    Claimed(PageRange, PageRange, NewEntry),
}

impl<P: Ports> MapState<P> {
    fn empty_heap(&self) -> PageRange {
        let start = (self.bounds.start + self.bounds.len() / 4).next_multiple_of(BLOCK_PAGES);
        PageRange::new(start, start)
    }
}

#[cfg(test)]
mod test {
    use crate::errno::Errno;
    use crate::fake::{Executor, FakeConfig, block_on};
    use crate::flags::{LockAllFlags, WireFlags};
    use crate::map::Placement;
    use crate::map::testing::Bed;
    use crate::ports::HostError;
    use crate::units::{PAGE_SHIFT, PAGE_SIZE, PageRange};

    fn heap_pages(bed: &Bed) -> u64 {
        bed.machine.map.locked(|state| state.heap.map_or(0, |heap| heap.len()))
    }

    #[test]
    fn brk_that_shrinks_while_the_rest_is_deallocated_takes_nothing_that_a_later_call_adds() {
        let bed = Bed::with(FakeConfig { map_pages: PageRange::new(512, 8192), ..FakeConfig::default() });
        let map = &bed.machine.map;
        let start = block_on(map.brk(4 * PAGE_SIZE)).expect("there is room");
        assert_eq!(block_on(map.wire(start, start + 4 * PAGE_SIZE, WireFlags::USER)), Ok(()));
        let mut executor = Executor::new(3);
        bed.host().hold();
        let gone = executor.spawn(map.deallocate(start + 2 * PAGE_SIZE, 2 * PAGE_SIZE));
        executor.run_until_stalled();
        let shrunk = executor.spawn(map.brk(2 * PAGE_SIZE));
        assert_eq!(executor.run_until_stalled(), 2);
        bed.host().release();
        // The deallocation ends, and before the call that waits for it goes on another one grows the segment.
        while !gone.is_ready() {
            assert!(executor.poll(0), "the deallocation can go on");
        }
        let grown = block_on(map.brk(6 * PAGE_SIZE));
        assert_eq!((executor.run(), grown, shrunk.take()), (Ok(()), Ok(start), Some(Ok(start))));
        // One after the other, or not at all.
        assert_eq!((heap_pages(&bed), map.entries().iter().map(|row| row.pages.len()).sum::<u64>()), (2, 2));
        assert_eq!(bed.settled(block_on(map.brk(6 * PAGE_SIZE))), Ok(start));
        (0..6).for_each(|page| assert_eq!(block_on(bed.machine.write(start + page * PAGE_SIZE, &[1])), Ok(())));
    }

    #[test]
    fn brk_that_can_not_be_wired_takes_back_its_own_pages_alone() {
        for seed in 0..200 {
            let bed = Bed::with(FakeConfig { map_pages: PageRange::new(512, 8192), ..FakeConfig::default() });
            let map = &bed.machine.map;
            let start = block_on(map.brk(PAGE_SIZE)).expect("there is room");
            assert_eq!(block_on(map.mlockall(LockAllFlags::FUTURE)), Ok(()));
            bed.machine.vm.planted.set(None, true);
            bed.host().set_yielding(true);
            bed.host().fail_wire(0, HostError::Shortage);
            let behind = start + PAGE_SIZE;
            let mut executor = Executor::new(seed);
            let grown = executor.spawn(map.brk(3 * PAGE_SIZE));
            executor.step();
            let other = executor.spawn(async {
                assert_eq!(map.deallocate(behind, 2 * PAGE_SIZE).await, Ok(()));
                map.allocate(Placement::Fixed(behind), 2 * PAGE_SIZE).await
            });
            assert_eq!((executor.run(), grown.take()), (Ok(()), Some(Err(Errno::NoMem))));
            assert_eq!((other.take(), heap_pages(&bed)), (Some(Ok(behind)), 1), "seed {seed}");
            assert_eq!(map.entries().iter().map(|row| row.pages.len()).sum::<u64>(), 3, "seed {seed}");
            assert!(map.entries().iter().any(|row| row.pages.contains(behind >> PAGE_SHIFT)));
        }
    }
}
