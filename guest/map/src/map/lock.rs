//! Locking in memory as POSIX has it: `mlock` and its relatives, and how a kernel holds a task's memory.

use alloc::vec::Vec;

use super::{MapState, VmMap};
use crate::errno::Errno;
use crate::flags::{LockAllFlags, WireFlags};
use crate::kern_return::KernReturn;
use crate::objects::Found;
use crate::ports::Ports;
use crate::units::{PAGE_SHIFT, PAGE_SIZE, PageRange};

/// What a map may lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapLimits {
    /// Most pages that may be user-wired (`RLIMIT_MEMLOCK`).
    pub memlock_pages: u64,
    /// Whether it may lock at all.
    pub may_lock: bool,
}

impl Default for MapLimits {
    fn default() -> Self {
        Self { memlock_pages: u64::MAX, may_lock: true }
    }
}

/// Returns the bytes from the page that holds `address` to the end of the page that holds the last of `size` bytes: no page for no
/// byte at the start of a page, one for no byte within one (row L-10).
fn locked_range(address: u64, size: u64) -> Result<(u64, u64), Errno> {
    let end = address.checked_add(size).and_then(|end| end.checked_next_multiple_of(PAGE_SIZE)).ok_or(Errno::Inval)?;
    Ok((address / PAGE_SIZE * PAGE_SIZE, end))
}

/// Returns the errno of a failed user wire or unwire (rows L-01, L-02).
const fn errno_of(error: KernReturn) -> Errno {
    match error {
        KernReturn::InvalidArgument => Errno::Inval,
        _ => Errno::NoMem,
    }
}

impl<P: Ports> VmMap<P> {
    /// Sets what the map may lock. What is wired stays so, even above the limit.
    pub fn set_limits(&self, limits: MapLimits) {
        self.locked(|state| state.limits = limits);
    }

    /// Returns what the map may lock.
    pub fn limits(&self) -> MapLimits {
        self.locked(|state| state.limits)
    }

    /// Locks the pages that `size` bytes from `address` touch (`mlock(2)`, row L-01): [`VmMap::wire`] for the user, without holes.
    ///
    /// Locking does not nest. Of size 0, nothing is locked at the start of a page and one page within one (row L-10).
    ///
    /// # Errors
    /// In this order: [`Errno::Perm`]: the map may not lock. [`Errno::Inval`]: address and size wrap. [`Errno::NoMem`]: more pages
    /// than the system's limit; pages and those wired already, the same ones included, are more than the map's limit; or a page is
    /// not allocated, not readable, or could not be wired. [`Errno::Inval`]: an end of the range lies within a large page.
    ///
    /// # Partial effects
    /// None but residency: an error leaves every wiring as it was.
    pub async fn mlock(&self, address: u64, size: u64) -> Result<(), Errno> {
        if !self.limits().may_lock {
            return Err(Errno::Perm);
        }
        let (start, end) = locked_range(address, size)?;
        let pages = (end - start) >> PAGE_SHIFT;
        if pages > self.vm.user_wire_limit_pages() || !self.locked(|state| state.may_wire(pages)) {
            return Err(Errno::NoMem);
        }
        self.wire(start, end, WireFlags::USER).await.map_err(errno_of)
    }

    /// Unlocks the pages that `size` bytes from `address` touch (`munlock(2)`, row L-02): all or nothing.
    ///
    /// # Errors
    /// [`Errno::Inval`]: address and size wrap. [`Errno::NoMem`]: a page is not allocated.
    ///
    /// # Partial effects
    /// None.
    pub async fn munlock(&self, address: u64, size: u64) -> Result<(), Errno> {
        let (start, end) = locked_range(address, size)?;
        self.unwire(start, end, WireFlags::USER).await.map_err(errno_of)
    }

    /// Locks everything that is mapped, or will be, or both (`mlockall(2)`, row L-03).
    ///
    /// With [`LockAllFlags::ONFAULT`] pages are locked only as they become resident; a later lock that is not so brings the others
    /// in and is not charged again.
    ///
    /// # Errors
    /// In this order: [`Errno::Perm`]: the map may not lock. [`Errno::Inval`]: neither current nor future, or an unknown flag.
    /// [`Errno::NoMem`]: what is allocated exceeds the map's limit, or a limit or memory was used up. [`Errno::Again`]: something
    /// else failed.
    ///
    /// # Partial effects
    /// None but residency: after an error what is to be locked in future is what it was (row B-13).
    pub async fn mlockall(&self, flags: LockAllFlags) -> Result<(), Errno> {
        if !self.limits().may_lock {
            return Err(Errno::Perm);
        }
        let (current, future) = (flags.contains(LockAllFlags::CURRENT), flags.contains(LockAllFlags::FUTURE));
        if flags.has_unknown() || !current && !future {
            return Err(Errno::Inval);
        }
        let before = self.locked(|state| {
            let allocated = state.entries.iter().map(|(_, entry)| entry.pages).sum::<u64>();
            if current && allocated > state.limits.memlock_pages {
                return Err(Errno::NoMem);
            }
            let before = state.wire_future;
            if future {
                state.wire_future = flags;
            }
            Ok(before)
        })?;
        if !current {
            return Ok(());
        }
        let on_fault = flags.contains(LockAllFlags::ONFAULT);
        let wired = self.wire_pages(self.bounds, WireFlags::USER | WireFlags::HOLESOK, on_fault).await;
        wired.map_err(|error| {
            self.locked(|state| {
                // Another call may have asked for something else meanwhile.
                if future && state.wire_future == flags {
                    state.wire_future = before;
                }
            });
            if error == KernReturn::ResourceShortage { Errno::NoMem } else { Errno::Again }
        })
    }

    /// Unlocks everything, and what is mapped in future will not be locked (`munlockall(2)`, row L-04).
    ///
    /// # Errors
    /// None today: holes and entries that are not locked are passed over. An errno, never a return code, if there were (row B-13).
    ///
    /// # Partial effects
    /// None.
    pub async fn munlockall(&self) -> Result<(), Errno> {
        self.locked(|state| state.wire_future = LockAllFlags::default());
        let bounds = (self.bounds.start << PAGE_SHIFT, self.bounds.end << PAGE_SHIFT);
        self.unwire(bounds.0, bounds.1, WireFlags::USER | WireFlags::HOLESOK).await.map_err(errno_of)
    }

    /// Holds the pages that `size` bytes from `address` touch for the kernel's own access (FreeBSD `vslock`, row L-07).
    ///
    /// # Errors
    /// In this order: [`Errno::Inval`]: address and size wrap. [`Errno::NoMem`]: more pages than the system's limit.
    /// [`Errno::Fault`]: anything else.
    ///
    /// # Partial effects
    /// None but residency.
    pub async fn vslock(&self, address: u64, size: u64) -> Result<(), Errno> {
        let (start, end) = locked_range(address, size)?;
        if (end - start) >> PAGE_SHIFT > self.vm.user_wire_limit_pages() {
            return Err(Errno::NoMem);
        }
        self.wire(start, end, WireFlags::SYSTEM).await.map_err(|_| Errno::Fault)
    }

    /// Takes one [`VmMap::vslock`] back (FreeBSD `vsunlock`, which ignores what comes of it, as this does).
    ///
    /// # Errors
    /// [`Errno::Inval`]: address and size wrap.
    ///
    /// # Partial effects
    /// None.
    pub async fn vsunlock(&self, address: u64, size: u64) -> Result<(), Errno> {
        let (start, end) = locked_range(address, size)?;
        self.unwire(start, end, WireFlags::SYSTEM).await.unwrap_or_default();
        Ok(())
    }

    /// Tells of the pages that `size` bytes from `address` touch which are in memory (`mincore(2)`): 0 not resident, 1 resident, 3
    /// resident and modified. Neighbours that are alike are joined.
    ///
    /// # Errors
    /// [`Errno::Inval`]: address and size wrap. [`Errno::NoMem`]: a page is not allocated.
    ///
    /// # Partial effects
    /// None.
    #[expect(clippy::unused_async, reason = "every operation is a future")]
    pub async fn mincore(&self, address: u64, size: u64) -> Result<Vec<(PageRange, u32)>, Errno> {
        let (start, end) = locked_range(address, size)?;
        let range = PageRange::new(start >> PAGE_SHIFT, end >> PAGE_SHIFT);
        self.locked(|state| {
            if state.entries.next_gap(range).is_some() {
                return Err(Errno::NoMem);
            }
            let vm = alloc::sync::Arc::clone(&self.vm);
            let mut objects = vm.objects();
            state.collect_all_dirty(&mut objects, range);
            let mut rows: Vec<(PageRange, u32)> = Vec::new();
            let mut push = |pages: PageRange, value| match rows.last_mut() {
                Some((last, same)) if *same == value => last.end = pages.end,
                _ => rows.push((pages, value)),
            };
            for (start, entry) in state.entries.meeting(range) {
                let part = entry.range(start).intersection(range);
                let Some(window) = entry.window(start, part) else {
                    push(part, 0);
                    continue;
                };
                objects.table.for_each(window.object, window.indices, |indices, found| {
                    let value = match found {
                        Found::Resident { extent, .. } => 1 | u32::from(extent.dirty) << 1,
                        _ => 0,
                    };
                    push(PageRange::new(window.page_of(indices.start), window.page_of(indices.end)), value);
                });
            }
            Ok(rows)
        })
    }
}

impl<P: Ports> MapState<P> {
    /// Tells whether the map's limit admits `pages` more wired pages; pages wired already count, whoever wired them, and count
    /// again if they are among them (row L-01).
    pub(super) fn may_wire(&self, pages: u64) -> bool {
        let limit = self.limits.memlock_pages;
        if limit == u64::MAX {
            return true;
        }
        let counted = self.entries.iter().flat_map(|(start, entry)| entry.counted_pages(start, &self.by_fault));
        let wired = counted.map(PageRange::len).sum::<u64>();
        wired.saturating_add(pages) <= limit
    }
}
