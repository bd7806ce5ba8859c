//! A sync worker: takes all requests that wait, carries them out together, and answers each.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use wirevm_abi::Status;

use super::backend::{FlushBackend, HealthProbe};
use super::faults::FaultyFlush;
use super::latch::{During, Latch};
use super::queue::Queue;
use super::request::{Ticket, Verdict};
use crate::faults::HostFaults;
use crate::log_limit::LogLimit;
use crate::page_run::PageRun;
use crate::sys;

/// Most requests that are carried out together.
pub(super) const MAX_BATCH: usize = 64;

/// What a worker works with, and nobody else.
#[derive(Debug)]
pub struct SyncWorker {
    /// Makes runs stable.
    pub flush: Box<dyn FlushBackend>,
    /// Looks at the file's health after each batch. Its own, because an error shows once a description.
    pub health: Box<dyn HealthProbe>,
}

/// A sync that failed.
struct Failure {
    error: io::Error,
    /// First page of the run that it is about, where it can only be about one.
    first_page: Option<u64>,
}

/// What all workers of a service share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) queue: Queue,
    pub(super) latch: Arc<Latch>,
    /// Set when the service ends: what was taken and not begun is not begun any more.
    pub(super) stopping: AtomicBool,
    pub(super) batches: AtomicU64,
    pub(super) runs: AtomicU64,
    pub(super) flushes: AtomicU64,
    pub(super) repairs: AtomicU64,
    /// A guest asks as often as it likes.
    unrepaired: LogLimit,
}

impl Shared {
    pub(super) fn new(queue: Queue, latch: Arc<Latch>) -> Self {
        let [batches, runs, flushes, repairs] = [const { AtomicU64::new(0) }; 4];
        let (stopping, unrepaired) = (AtomicBool::new(false), LogLimit::default());
        Self { queue, latch, stopping, batches, runs, flushes, repairs, unrepaired }
    }
}

/// Starts a worker that ends when the queue is closed.
pub(super) fn start(mut worker: SyncWorker, shared: Arc<Shared>) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name("wirevm-sync".to_owned()).spawn(move || {
        let _place = shared.queue.place();
        // Whoever asks is a processor of the guest's: it goes on, and this thread does not run in its stead.
        if let Err(error) = sys::wake_without_preempting() {
            log::debug!("a sync worker may interrupt those who ask: {error}");
        }
        // Every system call for a batch begins after all of its requests were accepted (rule D14).
        while let Some(batch) = shared.queue.take(MAX_BATCH) {
            let verdict = worker.carry_out(&batch, &shared);
            for ticket in batch {
                ticket.answer(&verdict);
            }
        }
    })
}

impl SyncWorker {
    /// Puts failures that a user may order in front of storage.
    pub(super) fn with_faults(self, faults: HostFaults) -> Self {
        Self { flush: Box::new(FaultyFlush::new(self.flush, faults)), health: self.health }
    }

    /// Makes the runs of all requests stable, or, once storage has failed, repairs what can be.
    fn carry_out(&mut self, batch: &[Ticket], shared: &Shared) -> Verdict {
        let runs = PageRun::join(batch.iter().flat_map(Ticket::runs).collect());
        if runs.is_empty() {
            return Verdict::Stable;
        }
        if shared.stopping.load(Ordering::Acquire) {
            return Verdict::NOT_BEGUN;
        }
        shared.batches.fetch_add(1, Ordering::Relaxed);
        let mut status = Status::POISONED;
        if shared.latch.get().is_none() {
            if let Err(Failure { error, first_page }) = self.sync(&runs, shared) {
                shared.latch.trip(&error, first_page, During::Sync);
                status = Status::IO_ERROR;
            }
            if let Err(error) = self.health.check() {
                shared.latch.trip(&error, None, During::HealthPoll);
            }
            // Read after the last system call and before any answer (rule D3).
            if shared.latch.get().is_none() {
                return Verdict::Stable;
            }
        }
        Verdict::Failed { status, repaired: self.repair(batch, shared) }
    }

    /// Makes all runs stable, by one flush where that is enough.
    fn sync(&mut self, runs: &[PageRun], shared: &Shared) -> Result<(), Failure> {
        shared.runs.fetch_add(runs.len() as u64, Ordering::Relaxed);
        // Nobody can tell which run of several an error is about: it shows at whatever call looks first.
        let first_page = |run: PageRun| (runs.len() == 1).then_some(run.first());
        let shortest = runs.iter().min_by_key(|run| run.pages());
        let flushed = match shortest {
            Some(run) if runs.len() > 1 && self.flush.flushes_what_is_written() => {
                self.flush.write(runs).map_err(|error| Failure { error, first_page: None })?;
                // Any run would do; of the shortest one least can have been dirtied again meanwhile.
                std::slice::from_ref(run)
            }
            _ => runs,
        };
        for run in flushed {
            shared.flushes.fetch_add(1, Ordering::Relaxed);
            self.flush.flush(*run).map_err(|error| Failure { error, first_page: first_page(*run) })?;
        }
        Ok(())
    }

    /// Makes those ranges stable again that cannot have lost what the guest stored (rule D4); returns their runs.
    fn repair(&mut self, batch: &[Ticket], shared: &Shared) -> Vec<PageRun> {
        let held = batch.iter().flat_map(Ticket::runs).filter(|run| shared.latch.is_held(*run)).collect();
        let mut repaired = PageRun::join(held);
        repaired.retain(|run| match self.flush.repair(*run) {
            Ok(()) => {
                shared.repairs.fetch_add(1, Ordering::Relaxed);
                // A page that was let go meanwhile may have left memory before it was dirty again.
                shared.latch.is_held(*run)
            }
            Err(error) => {
                if let Some(number) = shared.unrepaired.count() {
                    log::error!("pages {run} could not be repaired ({number} times so far): {error}");
                }
                false
            }
        });
        repaired
    }
}
