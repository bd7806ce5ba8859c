//! The bounded queue between those who ask and the workers.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::request::Ticket;

/// Requests that nobody has begun.
#[derive(Debug)]
pub(super) struct Queue {
    limit: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    waiting: VecDeque<Ticket>,
    workers: usize,
    is_open: bool,
}

/// Why a request was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// As many wait as may.
    Full,
    /// No worker is left.
    NoWorker,
}

/// A worker's place at the queue, for as long as the worker lives.
#[derive(Debug)]
pub(super) struct Place<'queue>(&'queue Queue);

impl Queue {
    /// Makes a queue of at least one place for that many workers.
    pub(super) fn new(limit: usize, workers: usize) -> Self {
        let state = State { waiting: VecDeque::new(), workers, is_open: true };
        Self { limit: limit.max(1), state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Puts a request in. Nothing waits.
    pub(super) fn put(&self, ticket: Ticket) -> Result<(), (Refused, Ticket)> {
        let mut state = self.state();
        if !state.is_open {
            return Err((Refused::NoWorker, ticket));
        }
        if state.waiting.len() >= self.limit {
            return Err((Refused::Full, ticket));
        }
        state.waiting.push_back(ticket);
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// Waits for requests and takes all that are there, `most` at most; none when the queue is closed.
    pub(super) fn take(&self, most: usize) -> Option<Vec<Ticket>> {
        let waited = self.changed.wait_while(self.state(), |state| state.is_open && state.waiting.is_empty());
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        let taken = state.waiting.len().min(most);
        state.is_open.then(|| state.waiting.drain(..taken).collect())
    }

    /// Returns how many requests nobody has begun.
    pub(super) fn waiting(&self) -> usize {
        self.state().waiting.len()
    }

    /// Takes a worker in.
    pub(super) const fn place(&self) -> Place<'_> {
        Place(self)
    }

    /// Lets nobody in any more, sends the workers home, and hands out what none of them has begun.
    pub(super) fn close(&self) -> VecDeque<Ticket> {
        let mut state = self.state();
        state.is_open = false;
        let left = std::mem::take(&mut state.waiting);
        drop(state);
        self.changed.notify_all();
        left
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    /// The last worker to go closes the queue: what waits would wait for ever. It is answered as a worker's death is.
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.workers = state.workers.saturating_sub(1);
        let last = state.workers == 0;
        drop(state);
        if last {
            drop(self.0.close());
        }
    }
}
