//! Maps: an address space's entries and page tables, and the operations on them.

mod advise;
mod allocate;
mod brk;
mod check;
mod deallocate;
mod fault;
mod fork;
mod hardware;
mod inherit;
mod lock;
mod map_object;
mod msync;
mod msync_posix;
mod obstacle;
mod protect;
mod query;
mod stack;
mod submap;
#[cfg(test)]
mod testing;
mod transition;
mod unwire;
mod wire;

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

pub use advise::Advice;
pub use allocate::Placement;
pub use check::{Violation, check_all, check_quiet, check_some};
pub use lock::MapLimits;
pub use map_object::MapMode;
pub(crate) use msync::terminate;
pub use query::{EntryRow, FrameRow, LayoutRow, MapStats, PageState};

use crate::entry::{MapEntry, OperationId};
use crate::flags::LockAllFlags;
use crate::objects::{Counts, SpaceId};
use crate::ports::{HostError, Ports};
use crate::runs::RunMap;
use crate::units::{PAGE_SHIFT, PAGE_SIZE, PageRange};
use crate::vm::Vm;
use crate::wait::WaitQueue;
use crate::yielding::YieldingLock;

/// An address space.
///
/// Operations may run at the same time: each is a future that locks the map only between two awaits.
/// **A future of an operation must be polled to its end.** One dropped half-way leaves its entries in
/// transition, for what it had asked the host to do can't be known any more. For the same reason a map ends with
/// [`VmMap::destroy`]: one that is merely dropped leaves its frames taken, and wired by the host.
pub struct VmMap<P: Ports> {
    vm: Arc<Vm<P>>,
    bounds: PageRange,
    /// Locked before the objects.
    state: YieldingLock<MapState<P>, P::Relax>,
    /// Woken after transition marks went or system wirings ended, when somebody had asked for it.
    transitions: WaitQueue,
    /// The page tables, which a map shares with its submaps.
    tables: Arc<Tables<P>>,
}

/// Keeps page tables for as long as a map uses them.
struct Tables<P: Ports> {
    vm: Arc<Vm<P>>,
    space: SpaceId,
    /// A map ended with entries, whose objects know the page tables; see [`VmMap`].
    are_shown: AtomicBool,
}

impl<P: Ports> Drop for Tables<P> {
    fn drop(&mut self) {
        if !*self.are_shown.get_mut() {
            drop(self.vm.objects().remove_space(self.space));
        }
    }
}

/// What a map's lock guards.
struct MapState<P: Ports> {
    vm: Arc<Vm<P>>,
    bounds: PageRange,
    entries: RunMap<MapEntry>,
    /// The virtual pages that were wired as they became resident, of entries that are wired so.
    by_fault: Counts,
    /// The map's page tables.
    space: SpaceId,
    /// How often the lock was taken to change the entries.
    timestamp: u64,
    /// How many operations make pages resident, or have the host asked about them, with the map unlocked (row T-10).
    busy: u32,
    /// Somebody waits for `busy` to be 0.
    busy_awaited: bool,
    /// How future entries are wired at once; empty if they are not.
    wire_future: LockAllFlags,
    limits: MapLimits,
    /// The heap segment: its first page, and one past its last.
    heap: Option<PageRange>,
    /// This map's part of what is charged against the user-wire limit, in pages.
    user_wired_pages: u64,
    /// Why the host last refused something.
    last_host_error: Option<HostError>,
    /// The maps that rule over entries of this one, by the entry's first page.
    submaps: BTreeMap<u64, Arc<VmMap<P>>>,
    /// The map was a submap, and nothing can be mapped in it any more.
    is_detached: bool,
}

/// What an operation does after it has unlocked the map.
enum Step<W, T> {
    /// Await this, then look again.
    Wait(W),
    /// Go on.
    Done(T),
}

impl<P: Ports> VmMap<P> {
    /// Creates an empty map of the virtual pages `pages`, whose mappings go into `pmap`.
    pub fn new(vm: Arc<Vm<P>>, pages: PageRange, pmap: P::Pmap) -> Self {
        let space = vm.objects().add_space(pmap);
        let state = MapState::new(Arc::clone(&vm), pages, space);
        let tables = Arc::new(Tables { vm: Arc::clone(&vm), space, are_shown: AtomicBool::new(false) });
        Self { vm, bounds: pages, state: YieldingLock::new(state), transitions: WaitQueue::new(), tables }
    }

    /// Returns the system that the map lives in.
    pub fn vm(&self) -> &Arc<Vm<P>> {
        &self.vm
    }

    /// Returns the virtual pages that may be allocated.
    pub fn bounds(&self) -> PageRange {
        self.bounds
    }

    /// Runs `work` on the map's page tables, under the lock that guards all page tables: it must not call any map.
    pub fn with_pmap<T>(&self, work: impl FnOnce(&mut P::Pmap) -> T) -> T {
        work(self.vm.objects().pmap(self.tables.space))
    }

    /// Runs `work` under the map's lock. As `work` is no future, the lock can't outlive an await.
    fn locked<T>(&self, work: impl FnOnce(&mut MapState<P>) -> T) -> T {
        work(&mut self.state.lock())
    }

    /// As [`VmMap::locked`], for work that may change the entries.
    fn exclusive<T>(&self, work: impl FnOnce(&mut MapState<P>) -> T) -> T {
        self.locked(|state| {
            state.timestamp += 1;
            work(state)
        })
    }

    /// Returns the identity of a new call.
    fn begin(&self) -> OperationId {
        self.vm.next_operation()
    }

    /// Notes why the host refused, for reports.
    fn note_host_error(&self, error: HostError) {
        self.locked(|state| state.last_host_error = Some(error));
    }
}

impl<P: Ports> MapState<P> {
    /// Returns the state of an empty map with the page tables `space`.
    fn new(vm: Arc<Vm<P>>, bounds: PageRange, space: SpaceId) -> Self {
        Self {
            vm,
            bounds,
            entries: RunMap::new(),
            by_fault: Counts::new(),
            space,
            timestamp: 0,
            busy: 0,
            busy_awaited: false,
            wire_future: LockAllFlags::default(),
            limits: MapLimits::default(),
            heap: None,
            user_wired_pages: 0,
            last_host_error: None,
            submaps: BTreeMap::new(),
            is_detached: false,
        }
    }
}

impl<P: Ports> Drop for VmMap<P> {
    fn drop(&mut self) {
        // Objects that a map still shows know its page tables; see the type's documentation.
        if self.state.get_mut().entries.len() > 0 {
            self.tables.are_shown.store(true, Ordering::Relaxed);
        }
    }
}

impl<P: Ports> fmt::Debug for VmMap<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VmMap").field("bounds", &self.bounds).field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// Returns the pages that `size` bytes (at least 1) from `address` on touch: the start truncated, the end
/// rounded up. `None` when the end is not above the start, or past 2^64.
fn touched_pages(address: u64, size: u64) -> Option<PageRange> {
    let end = address.checked_add(size)?.checked_next_multiple_of(PAGE_SIZE)?;
    Some(PageRange::new(address >> PAGE_SHIFT, end >> PAGE_SHIFT))
}

#[cfg(test)]
mod test {
    use super::touched_pages;
    use crate::units::PageRange;

    #[test]
    fn touched_pages_edges_round_outwards_and_refuse_overflow() {
        assert_eq!(touched_pages(0, 1), Some(PageRange::new(0, 1)));
        assert_eq!(touched_pages(4095, 2), Some(PageRange::new(0, 2)));
        assert_eq!(touched_pages(4096, 4096), Some(PageRange::new(1, 2)));
        assert_eq!(touched_pages(u64::MAX - 4095, 1), None, "the rounded end is 2^64");
        assert_eq!(touched_pages(u64::MAX, 1), None);
        assert_eq!(touched_pages(1, u64::MAX), None);
        assert_eq!(touched_pages(0, u64::MAX - 4095), Some(PageRange::new(0, u64::MAX >> 12)));
    }
}
