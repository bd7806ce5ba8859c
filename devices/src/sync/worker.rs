//! A sync worker: takes one request at a time and carries it out alone.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use super::backend::{FlushBackend, HealthProbe};
use super::latch::{During, Latch};
use super::merge::Findings;
use crate::page_run::PageRun;

/// What a worker works with, and nobody else.
#[derive(Debug)]
pub struct SyncWorker {
    /// Makes runs stable.
    pub flush: Box<dyn FlushBackend>,
    /// Looks at the file's health after each request. Its own, because an error shows once a description.
    pub health: Box<dyn HealthProbe>,
}

/// A request, accepted before any of its system calls begins (rule D14).
#[derive(Debug)]
pub(super) struct Job {
    /// Sorted, joined runs.
    pub(super) runs: Vec<PageRun>,
    /// Where the findings go; none when nobody waits.
    pub(super) answer: Option<SyncSender<Findings>>,
}

/// What all workers of a service share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) latch: Arc<Latch>,
    /// Set when the service ends: what nobody waits for is not begun any more.
    pub(super) stopping: AtomicBool,
    pub(super) flushes: AtomicU64,
    pub(super) starts: AtomicU64,
}

/// Starts a worker that ends when the queue's sender is gone.
pub(super) fn start(
    mut worker: SyncWorker,
    queue: Arc<Mutex<Receiver<Job>>>,
    shared: Arc<Shared>,
) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name("wirevm-sync".to_owned()).spawn(move || {
        loop {
            // The queue is locked while this worker waits for a job, not while it does one.
            let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(Job { runs, answer }) = job else { return };
            match answer {
                Some(answer) => {
                    let findings = worker.carry_out(&runs, &shared);
                    if answer.send(findings).is_err() {
                        log::debug!("nobody waits for a sync's answer any more");
                    }
                }
                None => worker.begin(&runs, &shared),
            }
        }
    })
}

impl SyncWorker {
    /// Syncs runs in order until one fails or the latch is set.
    fn carry_out(&mut self, runs: &[PageRun], shared: &Shared) -> Findings {
        let mut failed = Vec::new();
        for run in runs {
            if shared.latch.get().is_some() {
                break;
            }
            shared.flushes.fetch_add(1, Ordering::Relaxed);
            if let Err(error) = self.flush.flush(*run) {
                shared.latch.trip(&error, Some(run.first()), During::Sync);
                failed.push(*run);
            }
        }
        self.look(shared);
        // Read after the last system call and before the answer (rule D3).
        Findings { failed, latched: shared.latch.get().is_some() }
    }

    /// Starts writing runs that nobody waits for.
    fn begin(&mut self, runs: &[PageRun], shared: &Shared) {
        for run in runs {
            if shared.latch.get().is_some() || shared.stopping.load(Ordering::Relaxed) {
                return;
            }
            shared.starts.fetch_add(1, Ordering::Relaxed);
            if let Err(error) = self.flush.start(*run) {
                shared.latch.trip(&error, Some(run.first()), During::Start);
            }
        }
        self.look(shared);
    }

    fn look(&mut self, shared: &Shared) {
        if let Err(error) = self.health.check() {
            shared.latch.trip(&error, None, During::HealthPoll);
        }
    }
}
