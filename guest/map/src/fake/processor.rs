//! The fake's processors: each caches translations, and is told what to forget.
//!
//! A cached translation has rights and a dirty state of its own. A write through one that is cached as dirty sets no mark in the
//! tables any more; all else that the cache can't answer is looked up there, without any lock of the kernel's. Another processor
//! can be made to forget by an interrupt alone, which it takes when it will: a thread that plays a processor takes interrupts
//! between its accesses, some late, and whenever it spins for a lock or is idle; a processor that no thread plays takes them at
//! once.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use spin::Mutex;
use spin::relax::RelaxStrategy;

use super::pmap::{FakePmap, FaultKind, Mapping, SharedTables};
#[cfg(test)]
use crate::planted::{Mutant, is_planted};
use crate::units::{PageRange, Prot};

/// Most translations that a processor remembers.
const MOST_CACHED: usize = 48;

std::thread_local! {
    /// The processor that this thread plays.
    static CURRENT: RefCell<Option<Arc<Core>>> = const { RefCell::new(None) };
}

/// A processor of the fake machine.
pub struct FakeProcessor {
    core: Arc<Core>,
}

pub(super) struct Core {
    /// A thread plays it, and it is not idle: it takes interrupts itself.
    is_running: AtomicBool,
    /// How many interrupts it has taken.
    acknowledged: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The tables that are loaded.
    root: Option<Arc<SharedTables>>,
    cached: BTreeMap<u64, Mapping>,
    /// What it was told to forget and has not yet.
    told: Vec<PageRange>,
    requested: u64,
    /// Accesses that still come before it takes an interrupt.
    delay: u64,
    random: u64,
}

/// Makes a thread play a processor until this is dropped.
#[derive(Debug)]
#[must_use = "the thread plays the processor for as long as this is kept"]
pub struct Playing(());

impl FakeProcessor {
    /// Returns a processor that remembers nothing; equal seeds give equal delays.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let state = State { random: seed | 1, ..State::default() };
        Self {
            core: Arc::new(Core {
                is_running: AtomicBool::new(false),
                acknowledged: AtomicU64::new(0),
                state: Mutex::new(state),
            }),
        }
    }

    /// Lets this thread play the processor.
    ///
    /// # Panics
    /// When a thread plays it, or this thread plays another.
    pub fn play(&self) -> Playing {
        assert!(!self.core.is_running.swap(true, Ordering::SeqCst), "one thread plays a processor");
        let before = CURRENT.replace(Some(Arc::clone(&self.core)));
        assert!(before.is_none(), "a thread plays one processor");
        Playing(())
    }

    /// Loads `pmap`, unless it is loaded: forgets all translations of the tables before.
    pub fn load(&self, pmap: &FakePmap) {
        self.core.load(pmap.shared());
    }

    /// Accesses `page` through the tables that are loaded: `work` gets its frame. No interrupt is taken before `work` is done.
    ///
    /// # Errors
    /// The [`FaultKind`] that the kernel would resolve with [`VmMap::fault`](crate::VmMap::fault).
    pub fn access<T>(&self, page: u64, access: Prot, work: impl FnOnce(u64) -> T) -> Result<T, FaultKind> {
        let mut state = self.core.state.lock();
        if state.draw().is_multiple_of(8) {
            drop(state);
            // Also where few threads can run at a time, others come in between two accesses.
            pause();
            state = self.core.state.lock();
        }
        if !state.told.is_empty() {
            match state.delay.checked_sub(1) {
                Some(delay) => state.delay = delay,
                None => self.core.take_interrupt(&mut state),
            }
        }
        state.translate(page, access).map(work)
    }

    /// Returns the frame by which the processor remembers `page`.
    #[must_use]
    pub fn cached(&self, page: u64) -> Option<u64> {
        self.core.state.lock().cached.get(&page).map(|known| known.frame)
    }
}

impl fmt::Debug for FakeProcessor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeProcessor").finish_non_exhaustive()
    }
}

impl Drop for Playing {
    fn drop(&mut self) {
        if let Some(core) = CURRENT.take() {
            core.is_running.store(false, Ordering::SeqCst);
            core.serve();
        }
    }
}

impl Drop for FakeProcessor {
    fn drop(&mut self) {
        self.core.leave();
    }
}

impl State {
    fn translate(&mut self, page: u64, access: Prot) -> Result<u64, FaultKind> {
        if let Some(known) = self.cached.get(&page)
            && known.prot.contains(access)
            && (known.dirty || !access.contains(Prot::WRITE))
        {
            return Ok(known.frame);
        }
        self.cached.remove(&page);
        let root = self.root.as_ref().ok_or(FaultKind::NotPresent)?;
        let found = root.walk(page, access)?;
        if self.cached.len() >= MOST_CACHED {
            let from = self.draw() % page.max(1);
            let victim = self.cached.range(from..).next().or_else(|| self.cached.iter().next()).map(|(&page, _)| page);
            victim.and_then(|page| self.cached.remove(&page));
        }
        self.cached.insert(page, found);
        Ok(found.frame)
    }

    /// xorshift.
    fn draw(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn forget(&mut self, pages: PageRange) {
        self.cached.retain(|page, _| !pages.contains(*page));
    }
}

impl Core {
    fn load(self: &Arc<Self>, tables: &Arc<SharedTables>) {
        if self.state.lock().root.as_ref().is_some_and(|root| Arc::ptr_eq(root, tables)) {
            return;
        }
        self.leave();
        // Known as a user before the first translation is cached.
        tables.users().lock().push(Arc::clone(self));
        self.state.lock().root = Some(Arc::clone(tables));
    }

    fn leave(self: &Arc<Self>) {
        let root = {
            let mut state = self.state.lock();
            state.cached.clear();
            state.root.take()
        };
        if let Some(root) = root {
            root.users().lock().retain(|core| !Arc::ptr_eq(core, self));
        }
    }

    fn take_interrupt(&self, state: &mut State) {
        for pages in core::mem::take(&mut state.told) {
            state.forget(pages);
        }
        self.acknowledged.store(state.requested, Ordering::SeqCst);
    }

    /// Takes the interrupts that wait.
    fn serve(&self) {
        let mut state = self.state.lock();
        if !state.told.is_empty() {
            self.take_interrupt(&mut state);
        }
    }

    /// Interrupts the processor; returns what it has acknowledged when it has forgotten the pages.
    fn request(&self, pages: PageRange) -> u64 {
        let mut state = self.state.lock();
        state.told.push(pages);
        state.delay = state.draw() % 5;
        state.requested += 1;
        state.requested
    }

    fn is_done(&self, request: u64) -> bool {
        if !self.is_running.load(Ordering::SeqCst) {
            self.serve();
        }
        self.acknowledged.load(Ordering::SeqCst) >= request
    }
}

/// Makes all processors that have `tables` loaded forget their translations of `pages`.
pub(super) fn invalidate(tables: &SharedTables, pages: PageRange) {
    let users = tables.users().lock().clone();
    if users.is_empty() {
        return;
    }
    // What the hardware does meanwhile is to have its time.
    pause();
    let own = CURRENT.with_borrow(Clone::clone);
    let is_own = |core: &Arc<Core>| own.as_ref().is_some_and(|own| Arc::ptr_eq(own, core));
    let mut requests = Vec::new();
    for core in users {
        if !is_own(&core) {
            #[cfg(test)]
            if is_planted(Mutant::NoIpi) {
                continue;
            }
            let request = core.request(pages);
            requests.push((core, request));
            continue;
        }
        #[cfg(test)]
        if is_planted(Mutant::NoInvlpg) {
            continue;
        }
        core.state.lock().forget(pages);
    }
    #[cfg(test)]
    if is_planted(Mutant::ReturnsBeforeAcknowledgement) {
        return;
    }
    for (core, request) in requests {
        while !core.is_done(request) {
            pause();
        }
    }
}

/// What the fake's processors do while they wait for a lock: they take interrupts.
#[derive(Debug)]
pub struct FakeRelax;

impl RelaxStrategy for FakeRelax {
    fn relax() {
        CURRENT.with_borrow(|core| {
            if let Some(core) = core {
                core.serve();
            }
        });
        pause();
    }
}

/// Says whether the processor that this thread plays is idle: then it takes interrupts at once.
pub(super) fn set_idle(idle: bool) {
    CURRENT.with_borrow(|core| {
        if let Some(core) = core {
            core.is_running.store(!idle, Ordering::SeqCst);
        }
    });
}

/// Lets other threads run, where some play processors.
pub(super) fn pause() {
    if CURRENT.with_borrow(Option::is_some) {
        std::thread::yield_now();
    } else {
        core::hint::spin_loop();
    }
}
