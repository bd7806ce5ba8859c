//! Waiting at an address.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::task::Waker;

use spin::Mutex;

/// One thread that waits.
#[derive(Debug)]
struct Sleeper {
    /// Told apart from others at the address by this.
    ticket: u64,
    waker: Option<Waker>,
}

#[derive(Debug, Default)]
struct Inner {
    next_ticket: u64,
    /// Who waits, by address, in the order in which they came.
    sleepers: BTreeMap<u64, Vec<Sleeper>>,
}

/// Who waits at which address of one program.
#[derive(Debug, Default)]
pub struct Futexes(Mutex<Inner>);

/// A place among those that wait at an address, until it is dropped.
#[derive(Debug)]
pub struct Place {
    futexes: Arc<Futexes>,
    address: u64,
    ticket: u64,
}

impl Futexes {
    /// Takes a place at `address` if `may_wait` says so. As this and waking exclude one another, whoever changes the word that `may_wait`
    /// looks at and wakes behind that, wakes whoever saw the word before.
    pub fn take_place(self: &Arc<Self>, address: u64, may_wait: impl FnOnce() -> bool) -> Option<Place> {
        let mut inner = self.0.lock();
        if !may_wait() {
            return None;
        }
        let ticket = inner.next_ticket;
        inner.next_ticket += 1;
        inner.sleepers.entry(address).or_default().push(Sleeper { ticket, waker: None });
        drop(inner);
        Some(Place { futexes: Arc::clone(self), address, ticket })
    }

    /// Wakes up to `most` of those that wait at `address`, the first first; returns how many.
    pub fn wake(&self, address: u64, most: u64) -> u64 {
        let mut inner = self.0.lock();
        let Some(sleepers) = inner.sleepers.get_mut(&address) else { return 0 };
        let count = usize::try_from(most).map_or(sleepers.len(), |most| most.min(sleepers.len()));
        let woken: Vec<Sleeper> = sleepers.drain(..count).collect();
        if sleepers.is_empty() {
            inner.sleepers.remove(&address);
        }
        drop(inner);
        woken.into_iter().filter_map(|sleeper| sleeper.waker).for_each(Waker::wake);
        count as u64
    }
}

impl Place {
    /// Tells whether the place is gone, which is to say: whether somebody woke it. Until then `waker` is noted.
    pub fn is_woken(&self, waker: &Waker) -> bool {
        let mut inner = self.futexes.0.lock();
        let sleepers = inner.sleepers.get_mut(&self.address);
        match sleepers.and_then(|sleepers| sleepers.iter_mut().find(|sleeper| sleeper.ticket == self.ticket)) {
            None => true,
            Some(sleeper) => {
                sleeper.waker = Some(waker.clone());
                false
            }
        }
    }
}

impl Place {
    /// Gives the place up; tells whether somebody had woken it before, who counts on that.
    pub fn leave(&self) -> bool {
        let mut inner = self.futexes.0.lock();
        let Some(sleepers) = inner.sleepers.get_mut(&self.address) else { return true };
        let before = sleepers.len();
        sleepers.retain(|sleeper| sleeper.ticket != self.ticket);
        let was_woken = sleepers.len() == before;
        if sleepers.is_empty() {
            inner.sleepers.remove(&self.address);
        }
        was_woken
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}
