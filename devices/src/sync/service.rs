//! The sync service: a bounded queue before the workers, and one answer a range.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use wirevm_abi::{RamRange, Status};

use super::backend::{HealthProbe, RamFlush, RamProbe, SyncStartError};
use super::health::HealthPoll;
use super::latch::{Latch, LatchedError, WiredOracle};
use super::queue::{Queue, Refused};
use super::request::{Answer, RangeResult, Ticket, Verdict};
use super::worker::{self, Shared, SyncWorker};
use crate::durability::Durability;
use crate::faults::HostFaults;
use crate::page_run::PageRun;
use crate::ramfile::RamFile;

/// Longest time that the end of a service takes, for all its threads together (rule S6). A sync of a file system
/// that has lost its disk or server may never come back.
pub const END_LIMIT: Duration = Duration::from_secs(5);
/// How often threads that are to end are looked at.
const END_LOOK: Duration = Duration::from_millis(1);

/// How a [`SyncService`] is set up.
#[derive(Clone, Debug)]
pub struct SyncConfig {
    /// Worker threads; at least one is started.
    pub workers: usize,
    /// Requests that may wait for a worker; one more is answered *busy*. At least one.
    pub queue: usize,
    /// Longest time between two looks at the file's health.
    pub poll_interval: Duration,
    /// Longest time that dropping the service takes; a thread that storage still holds by then is left behind.
    pub end_limit: Duration,
    /// What can be repaired once storage has failed; nothing by default.
    pub oracle: WiredOracle,
    /// Failures that a user may order; none can be by default.
    pub faults: Option<HostFaults>,
}

impl Default for SyncConfig {
    /// Two workers, a queue of 64, a look each second, [`END_LIMIT`].
    fn default() -> Self {
        Self {
            workers: 2,
            queue: 64,
            poll_interval: Duration::from_secs(1),
            end_limit: END_LIMIT,
            oracle: WiredOracle::default(),
            faults: None,
        }
    }
}

/// What a [`SyncService`] has done and holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncStats {
    /// Requests accepted.
    pub requests: u64,
    /// Pages in accepted requests, each counted once a request.
    pub pages: u64,
    /// Times that a worker carried out all requests that waited, together.
    pub batches: u64,
    /// Runs that batches were joined to.
    pub runs: u64,
    /// Flushes of stable storage: one a batch, or one a run where the file system needs that.
    pub flushes: u64,
    /// Runs that were repaired after storage had failed.
    pub repairs: u64,
    /// Requests refused because the queue was full.
    pub busy: u64,
    /// Requests that nobody has begun now.
    pub waiting: u64,
}

/// Makes ranges of one machine's RAM stable.
#[derive(Debug)]
pub struct SyncService {
    ram_pages: u64,
    requests: AtomicU64,
    pages: AtomicU64,
    busy: AtomicU64,
    /// None for a machine whose memory is not durable.
    running: Option<Running>,
}

/// The threads and what they are reached by.
#[derive(Debug)]
struct Running {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    poll: HealthPoll,
    end_limit: Duration,
    faults: Option<HostFaults>,
}

impl SyncService {
    /// Starts the service for a RAM file; one of durability *none* gets no threads and answers *unsupported*.
    ///
    /// `on_latch` is called once, by the thread that met the first storage error and before that thread answers
    /// anybody, so that the guest can be stopped: pages that are not wired may revert, unless the error says that
    /// [`LatchedError::nothing_reverted`]. It must not wait for this service.
    ///
    /// # Errors
    /// [`SyncStartError`].
    pub fn start(
        ram: &RamFile,
        config: SyncConfig,
        on_latch: impl Fn(LatchedError) + Send + Sync + 'static,
    ) -> Result<Self, SyncStartError> {
        if ram.durability() != Durability::Shared {
            return Ok(Self::unsupported(ram.pages()));
        }
        let mut workers = Vec::new();
        for flush in RamFlush::several(ram, config.workers.max(1))? {
            workers.push(SyncWorker { flush: Box::new(flush), health: Box::new(RamProbe::new(ram)?) });
        }
        Self::with_backends(ram.pages(), config, workers, Box::new(RamProbe::new(ram)?), on_latch)
    }

    /// Starts the service over given backends: one worker thread for each of `workers`.
    ///
    /// # Errors
    /// [`SyncStartError::Thread`].
    pub fn with_backends(
        ram_pages: u64,
        config: SyncConfig,
        workers: Vec<SyncWorker>,
        probe: Box<dyn HealthProbe>,
        on_latch: impl Fn(LatchedError) + Send + Sync + 'static,
    ) -> Result<Self, SyncStartError> {
        let SyncConfig { queue, poll_interval, end_limit, oracle, faults, workers: _ } = config;
        let latch = Arc::new(Latch::new(ram_pages, oracle, Box::new(on_latch)));
        let shared = Arc::new(Shared::new(Queue::new(queue, workers.len()), Arc::clone(&latch)));
        let poll = HealthPoll::start(probe, poll_interval, latch).map_err(SyncStartError::Thread)?;
        let mut running = Running { shared, workers: Vec::new(), poll, end_limit, faults };
        for worker in workers {
            let worker = match &running.faults {
                Some(faults) => worker.with_faults(faults.clone()),
                None => worker,
            };
            let thread = worker::start(worker, Arc::clone(&running.shared));
            running.workers.push(thread.map_err(SyncStartError::Thread)?);
        }
        Ok(Self { running: Some(running), ..Self::unsupported(ram_pages) })
    }

    /// Makes a service for a machine whose memory is not durable.
    #[must_use]
    pub const fn unsupported(ram_pages: u64) -> Self {
        Self {
            ram_pages,
            requests: AtomicU64::new(0),
            pages: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            running: None,
        }
    }

    /// Tells whether this machine's memory is durable.
    #[must_use]
    pub const fn is_supported(&self) -> bool {
        self.running.is_some()
    }

    /// Asks for ranges to be made stable, and returns at once. `answer` is told when they are, or are known not to be; it is
    /// called exactly once, by a worker, also when the service ends first (*poisoned*) or the worker dies (*io error*).
    ///
    /// Requests that wait together are carried out together: sorted, joined, all written, and flushed once.
    ///
    /// # Errors
    /// The status of all ranges when the request is not accepted: *busy* (the queue is full), *unsupported* (this machine's
    /// memory is not durable), *io error* (no worker is left). Nothing was begun, and `answer` is not called.
    ///
    /// # Partial effects
    /// Whatever the answer, pages of any range may have become stable.
    pub fn submit(&self, ranges: &[RamRange], answer: Answer) -> Result<(), Status> {
        let Some(running) = &self.running else { return Err(Status::UNSUPPORTED) };
        let ticket = Ticket::new(ranges, self.ram_pages, answer);
        let pages = PageRun::join(ticket.runs().collect()).into_iter().map(PageRun::pages).sum();
        if let Err((refused, ticket)) = running.shared.queue.put(ticket) {
            ticket.withdraw();
            return Err(match refused {
                Refused::Full => {
                    self.busy.fetch_add(1, Ordering::Relaxed);
                    Status::BUSY
                }
                Refused::NoWorker => Status::IO_ERROR,
            });
        }
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.pages.fetch_add(pages, Ordering::Relaxed);
        Ok(())
    }

    /// Makes ranges stable and answers each one; the caller is blocked until then. See [`SyncService::submit`].
    ///
    /// # Partial effects
    /// As for [`SyncService::submit`].
    #[must_use]
    pub fn submit_and_wait(&self, ranges: &[RamRange]) -> Vec<Status> {
        if ranges.is_empty() {
            return Vec::new();
        }
        let (sender, results) = mpsc::sync_channel(1);
        let answer = move |results: Vec<RangeResult>| {
            if sender.send(results).is_err() {
                log::debug!("nobody waits for a sync's answer any more");
            }
        };
        match self.submit(ranges, Box::new(answer)).map(|()| results.recv()) {
            Ok(Ok(results)) => results.into_iter().map(|result| result.status).collect(),
            // An answer is always called; nothing is known if it was not.
            Ok(Err(_)) => vec![Status::IO_ERROR; ranges.len()],
            Err(status) => vec![status; ranges.len()],
        }
    }

    /// Returns the first storage error, if there was one.
    #[must_use]
    pub fn latched(&self) -> Option<LatchedError> {
        self.running.as_ref().and_then(|running| running.shared.latch.get())
    }

    /// Returns what the service has done.
    #[must_use]
    pub fn stats(&self) -> SyncStats {
        let mut stats = SyncStats {
            requests: self.requests.load(Ordering::Relaxed),
            pages: self.pages.load(Ordering::Relaxed),
            busy: self.busy.load(Ordering::Relaxed),
            ..SyncStats::default()
        };
        if let Some(Running { shared, .. }) = &self.running {
            stats.batches = shared.batches.load(Ordering::Relaxed);
            stats.runs = shared.runs.load(Ordering::Relaxed);
            stats.flushes = shared.flushes.load(Ordering::Relaxed);
            stats.repairs = shared.repairs.load(Ordering::Relaxed);
            stats.waiting = shared.queue.waiting() as u64;
        }
        stats
    }
}

impl Drop for Running {
    /// Ends the threads. What they have begun is finished, also where a user had ordered storage to hang; what nobody has
    /// begun is answered *poisoned*, so that whoever waits inside this process goes on. A guest that it is posted to has
    /// ended. A thread that storage holds past the limit is left; it has its own view and description, so it harms nobody,
    /// and it ends when storage lets go of it or the process ends.
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        if let Some(faults) = &self.faults {
            faults.release();
        }
        for ticket in self.shared.queue.close() {
            ticket.answer(&Verdict::NOT_BEGUN);
        }
        let mut threads = std::mem::take(&mut self.workers);
        threads.extend(self.poll.end());
        let left = join_within(threads, self.end_limit);
        if left > 0 {
            log::error!("storage holds {left} sync threads for more than {:?}; they are left behind", self.end_limit);
        }
    }
}

/// Joins threads for `limit` in all; returns how many had not ended by then.
fn join_within(mut threads: Vec<JoinHandle<()>>, limit: Duration) -> usize {
    let began = Instant::now();
    loop {
        for thread in threads.extract_if(.., |thread| thread.is_finished()) {
            if thread.join().is_err() {
                log::error!("a sync thread ended in a panic");
            }
        }
        if threads.is_empty() || began.elapsed() >= limit {
            return threads.len();
        }
        thread::sleep(END_LOOK);
    }
}
