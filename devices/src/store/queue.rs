//! The requests that were accepted and have no answer, in the order they were accepted.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use super::held::Store;
use super::request::{Answer, Order};
use crate::page_run::PageRun;

/// A request in the queue.
#[derive(Debug)]
struct Entry {
    serial: u64,
    /// Which store; the queue does not keep it open.
    store: Weak<Store>,
    run: PageRun,
    progress: Progress,
}

#[derive(Debug)]
enum Progress {
    Waiting(Order, Answer),
    /// A worker has taken it.
    Taken,
    /// It is about to be answered. It counts no more, but those that wait for it do so until it has its answer.
    Settled,
}

/// A bounded queue in which requests about overlapping pages of one store wait for one another, and no others do.
#[derive(Debug)]
pub(super) struct Queue {
    entries: VecDeque<Entry>,
    capacity: usize,
    next: u64,
}

impl Queue {
    pub(super) const fn new(capacity: usize) -> Self {
        Self { entries: VecDeque::new(), capacity, next: 0 }
    }

    pub(super) fn is_full(&self) -> bool {
        self.unsettled().count() >= self.capacity
    }

    /// Tells whether a request about a store has no answer yet.
    pub(super) fn concerns(&self, store: &Arc<Store>) -> bool {
        let store = Arc::downgrade(store);
        self.unsettled().any(|entry| entry.store.ptr_eq(&store))
    }

    pub(super) fn accept(&mut self, order: Order, answer: Answer) {
        self.next += 1;
        self.entries.push_back(Entry {
            serial: self.next,
            store: Arc::downgrade(&order.store),
            run: order.run,
            progress: Progress::Waiting(order, answer),
        });
    }

    /// Takes the oldest request that waits for no older one.
    pub(super) fn take(&mut self) -> Option<(u64, Order, Answer)> {
        let index = (0..self.entries.len()).find(|index| self.is_ready(*index))?;
        let entry = self.entries.get_mut(index)?;
        match std::mem::replace(&mut entry.progress, Progress::Taken) {
            Progress::Waiting(order, answer) => Some((entry.serial, order, answer)),
            Progress::Taken | Progress::Settled => None,
        }
    }

    /// Notes that a request is about to be answered.
    pub(super) fn settle(&mut self, serial: u64) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.serial == serial) {
            entry.progress = Progress::Settled;
        }
    }

    /// Forgets a request that was answered.
    pub(super) fn finish(&mut self, serial: u64) {
        self.entries.retain(|entry| entry.serial != serial);
    }

    /// Forgets all requests, and returns whom to tell that no worker has taken theirs.
    pub(super) fn give_up(&mut self) -> Vec<Answer> {
        let waiting = |entry: Entry| match entry.progress {
            Progress::Waiting(_, answer) => Some(answer),
            Progress::Taken | Progress::Settled => None,
        };
        self.entries.drain(..).filter_map(waiting).collect()
    }

    fn unsettled(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| !matches!(entry.progress, Progress::Settled))
    }

    fn is_ready(&self, index: usize) -> bool {
        let Some(entry) = self.entries.get(index) else { return false };
        let is_before = |older: &Entry| older.store.ptr_eq(&entry.store) && older.run.overlaps(entry.run);
        matches!(entry.progress, Progress::Waiting(..)) && !self.entries.iter().take(index).any(is_before)
    }
}
