//! The sync service: a bounded queue before the workers, and one answer a range.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use wirevm_abi::{RamRange, Status};

use super::backend::{HealthProbe, RamFlush, RamProbe, SyncStartError};
use super::health::HealthPoll;
use super::latch::{Latch, LatchedError};
use super::merge::{self, Findings};
use super::worker::{self, Job, Shared, SyncWorker};
use crate::durability::Durability;
use crate::ramfile::RamFile;

/// Longest time that the end of a service takes, for all its threads together (rule S6). A sync of a file system
/// that has lost its disk or server may never come back.
pub const END_LIMIT: Duration = Duration::from_secs(5);
/// How often threads that are to end are looked at.
const END_LOOK: Duration = Duration::from_millis(1);

/// Whether a caller waits until its pages are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wait {
    /// Until they are, or are known not to be.
    Wait,
    /// No: only the writing is to start.
    NoWait,
}

/// How a [`SyncService`] is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncConfig {
    /// Worker threads; at least one is started.
    pub workers: usize,
    /// Requests that may wait for a worker; one more is answered *busy*. At least one.
    pub queue: usize,
    /// Longest time between two looks at the file's health.
    pub poll_interval: Duration,
    /// Longest time that dropping the service takes; a thread that storage still holds by then is left behind.
    pub end_limit: Duration,
}

impl Default for SyncConfig {
    /// Two workers, a queue of 64, a look each second, [`END_LIMIT`].
    fn default() -> Self {
        Self { workers: 2, queue: 64, poll_interval: Duration::from_secs(1), end_limit: END_LIMIT }
    }
}

/// What a [`SyncService`] has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncStats {
    /// Requests accepted.
    pub requests: u64,
    /// Pages in accepted requests, each counted once a request.
    pub pages: u64,
    /// Runs that were synced, or failed to be.
    pub flushes: u64,
    /// Runs whose writing was started for nobody to wait for.
    pub starts: u64,
    /// Requests refused because the queue was full.
    pub busy: u64,
}

/// Makes ranges of one machine's RAM stable.
///
/// A request is carried out alone: its runs are merged with one another, never with those of another request, so
/// every system call that answers a request began after it was accepted (rule D14).
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
    /// None when the service is ending.
    queue: Option<SyncSender<Job>>,
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    poll: HealthPoll,
    end_limit: Duration,
}

impl SyncService {
    /// Starts the service for a RAM file; one of durability *none* gets no threads and answers *unsupported*.
    ///
    /// `on_latch` is called once, by the thread that met the first storage error and before that thread answers
    /// anybody, so that the guest can be stopped: pages that are not wired may revert. It must not wait for this
    /// service.
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
        for _ in 0..config.workers.max(1) {
            workers.push(SyncWorker { flush: Box::new(RamFlush::new(ram)?), health: Box::new(RamProbe::new(ram)?) });
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
        let latch = Arc::new(Latch::new(Box::new(on_latch)));
        let shared = Arc::new(Shared {
            latch: Arc::clone(&latch),
            stopping: AtomicBool::new(false),
            flushes: AtomicU64::new(0),
            starts: AtomicU64::new(0),
        });
        let (sender, receiver) = mpsc::sync_channel(config.queue.max(1));
        let receiver = Arc::new(Mutex::new(receiver));
        let poll = HealthPoll::start(probe, config.poll_interval, latch).map_err(SyncStartError::Thread)?;
        let end_limit = config.end_limit;
        let mut running = Running { queue: Some(sender), shared, workers: Vec::new(), poll, end_limit };
        for worker in workers {
            let thread = worker::start(worker, Arc::clone(&receiver), Arc::clone(&running.shared));
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

    /// Makes ranges stable, or starts writing them, and answers each one.
    ///
    /// With [`Wait::Wait`] the caller is blocked until storage answers: *ok* where the range is stable, *io error*
    /// where its own sync failed, *poisoned* where another error makes the answer unknown. With [`Wait::NoWait`]
    /// the answer is *pending*, which promises nothing about storage. Also: *unsupported*, *busy* (the queue is
    /// full, nothing was begun), *invalid address* (a range checked against a larger RAM).
    ///
    /// # Partial effects
    /// Whatever the answer, pages of any range may have become stable.
    pub fn submit(&self, ranges: &[RamRange], wait: Wait) -> Vec<Status> {
        let all = |status| vec![status; ranges.len()];
        let Some(Running { queue: Some(queue), shared, .. }) = &self.running else {
            return all(Status::UNSUPPORTED);
        };
        let runs = merge::runs(ranges, self.ram_pages);
        let granted = match wait {
            Wait::Wait => Status::OK,
            Wait::NoWait => Status::PENDING,
        };
        let latched = shared.latch.get().is_some();
        if runs.is_empty() || latched {
            return merge::answers(ranges, self.ram_pages, granted, &Findings { latched, ..Findings::default() });
        }
        let pages = runs.iter().map(|run| run.pages()).sum();
        let (answer, findings) = mpsc::sync_channel(1);
        let answer = (wait == Wait::Wait).then_some(answer);
        match queue.try_send(Job { runs, answer }) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                self.busy.fetch_add(1, Ordering::Relaxed);
                return all(Status::BUSY);
            }
            // Every worker has died: nothing is known.
            Err(TrySendError::Disconnected(_)) => return all(Status::IO_ERROR),
        }
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.pages.fetch_add(pages, Ordering::Relaxed);
        match wait {
            Wait::NoWait => merge::answers(ranges, self.ram_pages, granted, &Findings::default()),
            Wait::Wait => match findings.recv() {
                Ok(findings) => merge::answers(ranges, self.ram_pages, granted, &findings),
                // The worker died over it: nothing is known.
                Err(_) => all(Status::IO_ERROR),
            },
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
        let counted = |counter: fn(&Shared) -> &AtomicU64| {
            self.running.as_ref().map_or(0, |running| counter(&running.shared).load(Ordering::Relaxed))
        };
        SyncStats {
            requests: self.requests.load(Ordering::Relaxed),
            pages: self.pages.load(Ordering::Relaxed),
            flushes: counted(|shared| &shared.flushes),
            starts: counted(|shared| &shared.starts),
            busy: self.busy.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Running {
    /// Ends the threads: what they have begun is finished, what nobody waits for is not begun. One that storage holds
    /// past the limit is left; it has its own view and description, so it harms nobody, and it ends when storage lets
    /// go of it or the process ends.
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.queue = None;
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
