//! Allocation of address space.

use super::{MapState, VmMap, touched_pages};
use crate::entry::{EntryKind, Inheritance, MapEntry, OperationId, Transition};
use crate::flags::{LockAllFlags, WireFlags};
use crate::kern_return::KernReturn;
use crate::objects::BLOCK_PAGES;
use crate::ports::Ports;
use crate::units::{PAGE_SHIFT, PageRange};

/// Where an allocation goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Placement {
    /// The first place where it fits; from 2 MiB on, the first that is 2 MiB aligned, if there is one.
    Anywhere,
    /// The page that holds this address (in bytes).
    Fixed(u64),
}

impl<P: Ports> VmMap<P> {
    /// Allocates zero-filled memory of `size` bytes, rounded up to pages, and returns its address in bytes
    /// (Mach `vm_allocate`).
    ///
    /// Nothing is resident until it is touched or wired, unless future memory of the map is to be wired
    /// ([`VmMap::mlockall`]): then it is wired at once, and whether that succeeds changes nothing (row L-08). The memory is
    /// readable and writable, may become executable, and is copied to children. A size of 0 allocates nothing and gives address
    /// 0, as in XNU `vm_allocate`.
    ///
    /// # Errors
    /// - [`KernReturn::InvalidArgument`]: the size wraps when rounded.
    /// - [`KernReturn::InvalidAddress`]: a fixed range does not lie within the map.
    /// - [`KernReturn::NoSpace`]: a fixed range meets an entry; or no gap is large enough; or future memory is to be wired, and
    ///   the map's limit does not admit it.
    ///
    /// # Partial effects
    /// None: an error changes nothing.
    pub async fn allocate(&self, placement: Placement, size: u64) -> Result<u64, KernReturn> {
        if size == 0 {
            return Ok(0);
        }
        let pages = touched_pages(0, size).ok_or(KernReturn::InvalidArgument)?.len();
        let (start, claimed) = self.exclusive(|state| {
            let start = state.place(placement, pages)?;
            state.entries.insert(start, MapEntry::new(pages));
            Ok((start, state.claim_new(start)))
        })?;
        self.wire_new(claimed, PageRange::new(start, start + pages)).await;
        Ok(start << PAGE_SHIFT)
    }

    /// As [`VmMap::allocate`], for memory that is made of 2 MiB pages: they come whole, and no operation can part one (row A-08).
    /// Children share it.
    ///
    /// # Errors
    /// As for [`VmMap::allocate`]; also [`KernReturn::InvalidArgument`] where size or address is no multiple of 2 MiB. That there
    /// are no 2 MiB of adjacent frames is told by the first access.
    ///
    /// # Partial effects
    /// None: an error changes nothing.
    pub async fn allocate_large(&self, placement: Placement, size: u64) -> Result<u64, KernReturn> {
        const BLOCK_BYTES: u64 = BLOCK_PAGES << PAGE_SHIFT;
        let is_whole = |bytes: u64| bytes.is_multiple_of(BLOCK_BYTES);
        if !is_whole(size) || matches!(placement, Placement::Fixed(address) if !is_whole(address)) {
            return Err(KernReturn::InvalidArgument);
        }
        if size == 0 {
            return Ok(0);
        }
        let pages = size >> PAGE_SHIFT;
        let (start, claimed) = self.exclusive(|state| {
            let start = state.place(placement, pages)?;
            if !start.is_multiple_of(BLOCK_PAGES) {
                return Err(KernReturn::NoSpace);
            }
            let (kind, inheritance) = (EntryKind::LargePages, Inheritance::Share);
            state.entries.insert(start, MapEntry { kind, inheritance, ..MapEntry::new(pages) });
            Ok((start, state.claim_new(start)))
        })?;
        self.wire_new(claimed, PageRange::new(start, start + pages)).await;
        Ok(start << PAGE_SHIFT)
    }

    /// Allocates address space of `size` bytes, rounded up to pages, where every access fails and always will (FreeBSD
    /// `MAP_GUARD`), and returns its address.
    ///
    /// # Errors
    /// As for [`VmMap::allocate`].
    ///
    /// # Partial effects
    /// None: an error changes nothing.
    #[expect(clippy::unused_async, reason = "every operation is a future")]
    pub async fn guard(&self, placement: Placement, size: u64) -> Result<u64, KernReturn> {
        if size == 0 {
            return Ok(0);
        }
        let pages = touched_pages(0, size).ok_or(KernReturn::InvalidArgument)?.len();
        let start = self.exclusive(|state| {
            let start = state.place(placement, pages)?;
            state.entries.insert(start, MapEntry::without_pages(EntryKind::Guard, pages));
            Ok(start)
        })?;
        self.debug_check();
        Ok(start << PAGE_SHIFT)
    }

    /// Wires a new entry's pages if it was claimed for that. Nobody hears whether that succeeded (row L-08).
    pub(super) async fn wire_new(&self, claimed: Option<NewEntry>, pages: PageRange) {
        if let Some(claimed) = claimed {
            self.wire_claimed(claimed, pages).await.unwrap_or_default();
        }
        #[cfg(test)]
        if self.vm.planted.has(crate::planted::Mutant::NewEntriesAreWiredLater) {
            let how = self.locked(|state| state.wire_future);
            crate::planted::let_others_in();
            if how.contains(LockAllFlags::FUTURE) {
                self.wire_pages(pages, WireFlags::USER, how.contains(LockAllFlags::ONFAULT)).await.unwrap_or_default();
            }
        }
        self.debug_check();
    }

    /// Wires the pages of an entry that was claimed for that when it was made.
    ///
    /// # Errors
    /// As for [`VmMap::wire`].
    pub(super) async fn wire_claimed(&self, claimed: NewEntry, pages: PageRange) -> Result<(), KernReturn> {
        self.wire_claimed_then(claimed, pages, |_, _| ()).await.0
    }

    /// As [`VmMap::wire_claimed`], and what [`VmMap::wire_then`] does besides.
    pub(super) async fn wire_claimed_then<T: Send>(
        &self,
        claimed: NewEntry,
        pages: PageRange,
        then: impl FnOnce(&mut MapState<P>, bool) -> T + Send,
    ) -> (Result<(), KernReturn>, T) {
        let NewEntry { owner, how } = claimed;
        self.wire_then(owner, pages, WireFlags::USER, how.contains(LockAllFlags::ONFAULT), then).await
    }
}

/// A new entry that is to be wired: in transition from its first moment on, so that neither its end nor an unlocking of all memory
/// can come before its wiring.
#[derive(Clone, Copy, Debug)]
#[must_use = "the entry stays in transition until it is wired"]
pub(super) struct NewEntry {
    owner: OperationId,
    how: LockAllFlags,
}

impl<P: Ports> MapState<P> {
    /// Claims the entry made just now that starts with page `start`, if future entries are to be wired.
    pub(super) fn claim_new(&mut self, start: u64) -> Option<NewEntry> {
        let how = self.wire_future;
        #[cfg(test)]
        let how = if self.vm.planted.has(crate::planted::Mutant::NewEntriesAreWiredLater) {
            LockAllFlags::default()
        } else {
            how
        };
        let entry = self.entries.get_mut(start).filter(|_| how.contains(LockAllFlags::FUTURE))?;
        let owner = self.vm.next_operation();
        entry.transition = Some(Transition::new(owner));
        Some(NewEntry { owner, how })
    }

    /// Returns the first page of where `pages` pages go.
    pub(super) fn place(&self, placement: Placement, pages: u64) -> Result<u64, KernReturn> {
        if self.is_detached {
            return Err(KernReturn::NoSpace);
        }
        if self.wire_future.contains(LockAllFlags::FUTURE) && !self.may_wire(pages) {
            return Err(KernReturn::NoSpace);
        }
        match placement {
            Placement::Anywhere => self.find_space(pages),
            Placement::Fixed(address) => self.check_space(address >> PAGE_SHIFT, pages),
        }
    }

    /// Returns the first page of the first gap of `pages` pages.
    fn find_space(&self, pages: u64) -> Result<u64, KernReturn> {
        let aligned = if pages >= BLOCK_PAGES { self.first_fit(pages, BLOCK_PAGES) } else { None };
        aligned.or_else(|| self.first_fit(pages, 1)).ok_or(KernReturn::NoSpace)
    }

    fn first_fit(&self, pages: u64, alignment: u64) -> Option<u64> {
        let mut candidate = self.bounds.start.checked_next_multiple_of(alignment)?;
        for (start, entry) in self.entries.iter() {
            if candidate.checked_add(pages)? <= start {
                break;
            }
            candidate = (start + entry.pages).checked_next_multiple_of(alignment)?;
        }
        (candidate.checked_add(pages)? <= self.bounds.end).then_some(candidate)
    }

    /// Returns `start` if `pages` pages are free from there on.
    fn check_space(&self, start: u64, pages: u64) -> Result<u64, KernReturn> {
        let end = start.checked_add(pages).ok_or(KernReturn::InvalidAddress)?;
        if start < self.bounds.start || end > self.bounds.end {
            return Err(KernReturn::InvalidAddress);
        }
        let taken = self.entries.meeting(PageRange::new(start, end)).next().is_some();
        if taken { Err(KernReturn::NoSpace) } else { Ok(start) }
    }
}

#[cfg(test)]
mod test {
    use super::Placement;
    use crate::fake::{FakeConfig, block_on};
    use crate::kern_return::KernReturn;
    use crate::map::testing::Bed;
    use crate::units::{PageRange, Prot};

    fn allocate(bed: &Bed, placement: Placement, size: u64) -> Result<u64, KernReturn> {
        bed.settled(block_on(bed.machine.map.allocate(placement, size)))
    }

    #[test]
    fn allocate_size_zero_gives_address_zero_and_no_entry() {
        let bed = Bed::new();
        assert_eq!(allocate(&bed, Placement::Anywhere, 0), Ok(0));
        assert_eq!(allocate(&bed, Placement::Fixed(1), 0), Ok(0));
        assert_eq!(bed.layout(), "");
    }

    #[test]
    fn allocate_fixed_truncates_the_address_and_rounds_the_size_up() {
        let bed = Bed::new();
        assert_eq!(allocate(&bed, Placement::Fixed(bed.at(2) + 4095), 4097), Ok(bed.at(2)));
        assert_eq!(bed.layout(), "[2,4)0");
        let entry = bed.machine.map.entries()[0];
        assert_eq!((entry.prot, entry.max_prot, entry.has_object), (Prot::DEFAULT, Prot::ALL, false));
        assert_eq!(bed.machine.map.stats().resident_pages, 0);
    }

    #[test]
    fn allocate_fixed_over_an_entry_is_no_space() {
        let bed = Bed::new();
        bed.allocate(4, 6);
        for page in [3, 4, 5] {
            assert_eq!(allocate(&bed, Placement::Fixed(bed.at(page)), 8192), Err(KernReturn::NoSpace));
        }
        assert_eq!(allocate(&bed, Placement::Fixed(bed.at(2)), 8192), Ok(bed.at(2)));
        assert_eq!(allocate(&bed, Placement::Fixed(bed.at(6)), 8192), Ok(bed.at(6)));
    }

    #[test]
    fn allocate_fixed_outside_the_map_is_invalid_address() {
        let bed = Bed::with(FakeConfig { map_pages: PageRange::new(4, 8), ..FakeConfig::default() });
        for (address, size) in [(0x3000, 1), (0x7000, 4097), (0x8000, 1), (u64::MAX, 1), (0x4000, 0x5000)] {
            assert_eq!(allocate(&bed, Placement::Fixed(address), size), Err(KernReturn::InvalidAddress));
        }
        assert_eq!(allocate(&bed, Placement::Fixed(0x4000), 0x4000), Ok(0x4000));
    }

    #[test]
    fn allocate_anywhere_takes_the_first_gap_that_is_large_enough() {
        let bed = Bed::with(FakeConfig { map_pages: PageRange::new(0, 10), ..FakeConfig::default() });
        bed.allocate(1, 2);
        bed.allocate(4, 5);
        assert_eq!(allocate(&bed, Placement::Anywhere, 0x2000), Ok(0x2000));
        assert_eq!(allocate(&bed, Placement::Anywhere, 0x1000), Ok(0));
        assert_eq!(allocate(&bed, Placement::Anywhere, 0x6000), Err(KernReturn::NoSpace));
        assert_eq!(allocate(&bed, Placement::Anywhere, 0x5000), Ok(0x5000));
        assert_eq!(allocate(&bed, Placement::Anywhere, 1), Err(KernReturn::NoSpace));
        assert_eq!(allocate(&bed, Placement::Anywhere, u64::MAX), Err(KernReturn::InvalidArgument));
    }

    #[test]
    fn allocate_anywhere_from_2_mib_on_is_aligned_while_that_fits() {
        let bed = Bed::with(FakeConfig { map_pages: PageRange::new(16, 1200), ..FakeConfig::default() });
        assert_eq!(allocate(&bed, Placement::Anywhere, 512 << 12), Ok(512 << 12));
        assert_eq!(allocate(&bed, Placement::Anywhere, 496 << 12), Ok(16 << 12));
        bed.deallocate(0, 1184);
        assert_eq!(allocate(&bed, Placement::Anywhere, 1000 << 12), Ok(16 << 12), "aligned, it would not fit");
    }
}
