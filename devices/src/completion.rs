//! The host's end of the completion ring: how entries that were answered *pending* end.
//!
//! Exactly once, by type: an entry's place in the ring is a [`Reservation`], and completing it consumes it.
//!
//! ```compile_fail,E0382
//! # fn twice(place: wirevm_devices::completion::Reservation) {
//! place.complete(&[]);
//! place.complete(&[]);
//! # }
//! ```

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use wirevm_abi::RamRange;
use wirevm_abi::completion::{
    CAPACITY, Completion, DATA_OFFSET, HEAD_OFFSET, PAGES, QUIET_OFFSET, TAIL_OFFSET, offset, used,
};

use crate::guest_memory::{BackingLostError, GuestMemory};
use crate::interrupt::Interrupt;
use crate::log_limit::LogLimit;

/// Called once, by the thread that could not reach the ring.
type OnLost = Box<dyn Fn(BackingLostError) + Send + Sync>;

/// One machine's completion ring: any thread posts, the guest takes.
///
/// The guest's counter is an allegation. One that contradicts the host's refuses every further reservation, so the guest
/// is answered *busy*; one that is merely wrong lets the guest lose completions of its own, and nothing else.
pub struct CompletionRing {
    memory: Arc<dyn GuestMemory>,
    ring: RamRange,
    /// Raises the guest's completion interrupt.
    interrupt: Box<dyn Interrupt>,
    /// Held for a few words' stores; never together with another lock, and never during I/O.
    state: Mutex<State>,
    posted: AtomicU64,
    interrupts: AtomicU64,
    lost: OnceLock<BackingLostError>,
    told: AtomicBool,
    on_lost: OnLost,
    unraised: LogLimit,
    broken: LogLimit,
}

#[derive(Debug, Default)]
struct State {
    /// Completions posted since the start: what the guest reads as the tail.
    tail: u64,
    /// Places that are promised to entries that have no completion yet.
    reserved: u64,
}

/// What a [`CompletionRing`] has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompletionStats {
    /// Completions posted.
    pub posted: u64,
    /// Interrupts raised for them.
    pub interrupts: u64,
    /// Places promised to entries that have no completion yet.
    pub outstanding: u64,
}

/// Places in a completion ring for entries that were accepted. Dropped without being completed, it gives them back, and
/// the guest never hears of those entries.
#[derive(Debug)]
#[must_use = "the guest waits for the completions"]
pub struct Reservation {
    ring: Arc<CompletionRing>,
    places: u64,
}

impl CompletionRing {
    /// Makes the host's end of an empty ring in those pages of RAM, which hold zeros. `interrupt` raises the guest's
    /// completion interrupt.
    #[must_use]
    pub fn new(memory: Arc<dyn GuestMemory>, ring: RamRange, interrupt: Box<dyn Interrupt>) -> Self {
        Self {
            memory,
            ring,
            interrupt,
            state: Mutex::default(),
            posted: AtomicU64::new(0),
            interrupts: AtomicU64::new(0),
            lost: OnceLock::new(),
            told: AtomicBool::new(false),
            on_lost: Box::new(|_| ()),
            unraised: LogLimit::default(),
            broken: LogLimit::default(),
        }
    }

    /// Sets what is called, once, by the thread that finds the ring's memory gone: the machine has to end. It must not wait
    /// for a service that posts here.
    #[must_use]
    pub fn on_lost(mut self, on_lost: impl Fn(BackingLostError) + Send + Sync + 'static) -> Self {
        self.on_lost = Box::new(on_lost);
        self
    }

    /// Promises places to entries that are about to be accepted. None, and the entries are *busy*, when that many are not
    /// free: neither promised to others nor holding a completion that the guest has not taken.
    pub fn reserve(self: &Arc<Self>, places: u64) -> Option<Reservation> {
        let promised = self.promise(places).map(|()| Reservation { ring: Arc::clone(self), places });
        self.tell_lost();
        promised
    }

    fn promise(&self, places: u64) -> Option<()> {
        let mut state = self.state();
        let head = self.load(HEAD_OFFSET)?;
        let Ok(waiting) = used(head, state.tail) else {
            if let Some(number) = self.broken.count() {
                let tail = state.tail;
                log::warn!("the guest says that it took {head} of {tail} completions ({number} times so far)");
            }
            return None;
        };
        let free = CAPACITY.checked_sub(waiting)?.checked_sub(state.reserved)?;
        if places > free {
            return None;
        }
        state.reserved += places;
        Some(())
    }

    /// Returns what the ring has done and holds.
    #[must_use]
    pub fn stats(&self) -> CompletionStats {
        CompletionStats {
            posted: self.posted.load(Ordering::Relaxed),
            interrupts: self.interrupts.load(Ordering::Relaxed),
            outstanding: self.state().reserved,
        }
    }

    /// Returns where the ring's memory was found gone, if it was. Nothing can be posted or reserved then.
    #[must_use]
    pub fn lost(&self) -> Option<BackingLostError> {
        self.lost.get().copied()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes completions into places that were promised, publishes them together, and tells the guest unless it needs no
    /// telling.
    fn post(&self, completions: &[Completion], places: u64) {
        let mut state = self.state();
        state.reserved = state.reserved.saturating_sub(places);
        if completions.is_empty() {
            return;
        }
        let written = self.write(&mut state, completions);
        drop(state);
        if written.is_some() {
            self.tell_guest(completions.len());
        }
        self.tell_lost();
    }

    fn tell_guest(&self, posted: usize) {
        self.posted.fetch_add(posted as u64, Ordering::Relaxed);
        // The guest stores "not quiet" and then looks at the tail; the tail was stored before this looks at "quiet". With
        // both in one order, either the guest sees the completions or this sees that it wants to be told.
        fence(Ordering::SeqCst);
        if self.load(QUIET_OFFSET) == Some(0) {
            self.interrupts.fetch_add(1, Ordering::Relaxed);
            if let Err(error) = self.interrupt.raise()
                && let Some(number) = self.unraised.count()
            {
                log::warn!("the completion interrupt cannot be raised ({number} times so far): {error}");
            }
        }
    }

    fn write(&self, state: &mut State, completions: &[Completion]) -> Option<()> {
        // A read that finds a file cut short is an error; a store to it would be a signal. One word tells, since files are
        // cut from the end and this is the ring's last page.
        let last = RamRange::new(self.ring.end().checked_sub(1)?, 1, self.ring.end()).ok()?;
        self.reached(self.memory.read(last, &mut [0; 8]))?;
        for (count, completion) in (state.tail..).zip(completions) {
            for (place, word) in (offset(count)..).step_by(8).zip(completion.to_words()) {
                self.store(place, word)?;
            }
        }
        let tail = state.tail.wrapping_add(completions.len() as u64);
        self.store(TAIL_OFFSET, tail)?;
        state.tail = tail;
        Some(())
    }

    fn load(&self, offset: u64) -> Option<u64> {
        self.reached(self.memory.load_word(self.ring, offset))
    }

    fn store(&self, offset: u64, word: u64) -> Option<()> {
        self.reached(self.memory.store_word(self.ring, offset, word))
    }

    fn reached<T>(&self, result: Result<T, BackingLostError>) -> Option<T> {
        match result {
            Ok(value) if self.lost.get().is_none() => Some(value),
            Ok(_) => None,
            Err(error) => {
                if self.lost.set(error).is_ok() {
                    log::error!("the completion ring cannot be reached: {error}");
                }
                None
            }
        }
    }

    /// Tells, once, that the ring's memory is gone. No lock is held.
    fn tell_lost(&self) {
        if let Some(error) = self.lost()
            && !self.told.swap(true, Ordering::Relaxed)
        {
            (self.on_lost)(error);
        }
    }
}

impl Reservation {
    /// Returns how many places are promised.
    #[must_use]
    pub const fn places(&self) -> u64 {
        self.places
    }

    /// Posts the completions of the entries that the places were promised to, all visible to the guest at once. Does not
    /// block. Completions beyond the places are dropped; places beyond the completions are given back.
    pub fn complete(mut self, completions: &[Completion]) {
        let places = std::mem::take(&mut self.places);
        let fitting = usize::try_from(places).unwrap_or(usize::MAX).min(completions.len());
        if fitting < completions.len() {
            log::error!("{} completions for {places} entries; the rest are dropped", completions.len());
        }
        self.ring.post(completions.get(..fitting).unwrap_or(&[]), places);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.places > 0 {
            self.ring.post(&[], self.places);
        }
    }
}

impl fmt::Debug for CompletionRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompletionRing").field("ring", &self.ring).field("state", &self.state).finish_non_exhaustive()
    }
}

const _: () = assert!(DATA_OFFSET + CAPACITY * 32 == PAGES * wirevm_abi::PAGE_SIZE);

#[cfg(test)]
pub(crate) mod test;
