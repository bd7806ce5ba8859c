//! The store service: open stores, admission, and the worker threads.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use wirevm_abi::request::DataRun;
use wirevm_abi::{Status, StoreName};

use super::error::{OpenStoreError, StoreStartError};
use super::file::StoreFolder;
use super::folder::HostFolder;
use super::held::Store;
use super::queue::Queue;
use super::request::{Answer, Done, Order, Work};
use super::worker::{Copied, Worker};
use crate::faults::HostFaults;
use crate::guest_memory::GuestMemory;
use crate::log_limit::LogLimit;
use crate::page_run::PageRun;
use crate::sync::END_LIMIT;

/// How often threads that are to end are looked at.
const END_LOOK: Duration = Duration::from_millis(1);

/// How a [`StoreService`] is set up.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Worker threads; at least one is started.
    pub workers: usize,
    /// Requests that may have no answer yet; one more is answered *busy*. At least one.
    pub queue: usize,
    /// Stores that may be open at once.
    pub max_stores: usize,
    /// Pages that all open stores may have together.
    pub quota_pages: u64,
    /// Longest time that dropping the service takes; a thread that storage still holds by then is left behind.
    pub end_limit: Duration,
    /// How storage is to fail.
    pub faults: HostFaults,
}

impl Default for StoreConfig {
    /// Two workers, a queue of 64, 16 stores, 65,536 pages (256 MiB), [`END_LIMIT`], no faults.
    fn default() -> Self {
        Self {
            workers: 2,
            queue: 64,
            max_stores: 16,
            quota_pages: 1 << 16,
            end_limit: END_LIMIT,
            faults: HostFaults::default(),
        }
    }
}

/// What a [`StoreService`] has done and holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Stores that are open.
    pub open_stores: u64,
    /// Pages read from stores into RAM.
    pub pages_in: u64,
    /// Pages written from RAM to stores.
    pub pages_out: u64,
    /// Synchronizes that were carried out; each makes storage flush once.
    pub flushes: u64,
    /// Requests refused because the queue was full.
    pub busy: u64,
    /// The host's number for the first error of any store's storage, if there was one.
    pub storage_error: Option<i32>,
}

/// Copies pages between guest RAM and stores, and makes stores stable.
///
/// Requests about overlapping pages of one store are carried out in the order they were accepted, others at the same time. A
/// synchronize covers the returns about its pages that were accepted before it.
///
/// Numbers of pages are checked against the store; a number that no open store has is an *invalid argument*.
#[derive(Debug)]
pub struct StoreService {
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    shared: Arc<Shared>,
    folder: Box<dyn StoreFolder>,
    /// Pages of every store that was ever open: what the quota bounds, for files stay when they are closed. Held while a store
    /// is opened, before `table`: names can't change meanwhile, but requests go on.
    charged: Mutex<BTreeMap<StoreName, u64>>,
    /// Number that the next store gets, if it is free.
    next: Mutex<u16>,
    max_stores: usize,
    quota_pages: u64,
    workers: Vec<JoinHandle<()>>,
    end_limit: Duration,
    refusals: LogLimit,
}

/// What the threads share.
#[derive(Debug)]
struct Shared {
    memory: Arc<dyn GuestMemory>,
    faults: HostFaults,
    copied: Copied,
    busy: AtomicU64,
    first_error: Arc<OnceLock<i32>>,
    stopping: AtomicBool,
    /// Never held during a call to the host.
    table: Mutex<Table>,
    /// Told when a request was accepted or finished, and when the service ends.
    changed: Condvar,
}

#[derive(Debug)]
struct Table {
    stores: BTreeMap<u16, Arc<Store>>,
    queue: Queue,
}

impl StoreService {
    /// Starts the service over the files of a folder that is there.
    ///
    /// # Errors
    /// [`StoreStartError`].
    pub fn start(dir: &Path, config: StoreConfig, memory: Arc<dyn GuestMemory>) -> Result<Self, StoreStartError> {
        Self::with_folder(Box::new(HostFolder::open(dir)?), config, memory)
    }

    /// Starts the service over a given folder.
    ///
    /// # Errors
    /// [`StoreStartError::Thread`].
    pub fn with_folder(
        folder: Box<dyn StoreFolder>,
        config: StoreConfig,
        memory: Arc<dyn GuestMemory>,
    ) -> Result<Self, StoreStartError> {
        let shared = Arc::new(Shared {
            memory,
            faults: config.faults,
            copied: Copied::default(),
            busy: AtomicU64::new(0),
            first_error: Arc::default(),
            stopping: AtomicBool::new(false),
            table: Mutex::new(Table { stores: BTreeMap::new(), queue: Queue::new(config.queue.max(1)) }),
            changed: Condvar::new(),
        });
        let mut running = Running {
            shared,
            folder,
            charged: Mutex::default(),
            next: Mutex::new(1),
            max_stores: config.max_stores,
            quota_pages: config.quota_pages,
            workers: Vec::new(),
            end_limit: config.end_limit,
            refusals: LogLimit::new(),
        };
        for number in 0..config.workers.max(1) {
            let shared = Arc::clone(&running.shared);
            let thread = thread::Builder::new().name("wirevm-store".to_owned()).spawn(move || shared.work(number));
            running.workers.push(thread.map_err(StoreStartError::Thread)?);
        }
        Ok(Self { running: Some(running) })
    }

    /// Makes a service for a machine without a folder for stores.
    #[must_use]
    pub const fn unsupported() -> Self {
        Self { running: None }
    }

    /// Tells whether this machine has a folder for stores.
    #[must_use]
    pub const fn is_supported(&self) -> bool {
        self.running.is_some()
    }

    /// Opens a store of at least `pages` pages, made or lengthened with zeros if need be, and returns its number.
    ///
    /// Blocks for as long as the host takes to make its file, which the quota bounds. From an `exclusive` store, pages that
    /// were requested are gone.
    ///
    /// # Errors
    /// [`OpenStoreError`].
    ///
    /// # Partial effects
    /// On error, none, except that a file that was shorter may be longer, by zeros.
    pub fn open(&self, name: StoreName, pages: u64, exclusive: bool) -> Result<u16, OpenStoreError> {
        let running = self.running.as_ref().ok_or(OpenStoreError::NoFolder)?;
        let result = running.open(name, pages, exclusive);
        if let Err(error) = &result
            && let Some(number) = running.refusals.count()
        {
            let source = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
            log::warn!("a store was not opened ({number} times so far): {error}{source}");
        }
        result
    }

    /// Closes a store. Returns *ok*, *busy* while a request about it has no answer, or *invalid argument*.
    pub fn close(&self, number: u16) -> Status {
        let Some(running) = &self.running else { return Status::UNSUPPORTED };
        let mut table = running.shared.table();
        let Some(store) = table.stores.get(&number) else { return Status::INVALID_ARGUMENT };
        if table.queue.concerns(store) {
            return Status::BUSY;
        }
        let closed = table.stores.remove(&number);
        // Closing files may take a while.
        drop(table);
        drop(closed);
        Status::OK
    }

    /// Fills RAM from a store.
    ///
    /// *Pending* when it was accepted: then `done` is called once, by another thread that holds no lock, possibly before this
    /// returns, with *ok* when RAM has the bytes, or *io error* for pages that can't be read or whose last return was lost.
    /// Otherwise `done` is dropped and nothing was begun: *busy*, *invalid argument*, *unsupported*.
    ///
    /// # Partial effects
    /// On *io error* RAM may have some of the bytes.
    pub fn data_request(&self, data: DataRun, done: Done) -> Status {
        self.accept(data.store, data.first, data.ram.pages(), Work::Request(data.ram), done)
    }

    /// Writes RAM to a store. Answers as [`StoreService::data_request`] does; *io error* with the first page of the store that
    /// was not written, or whose bytes storage has lost meanwhile.
    ///
    /// # Partial effects
    /// On *io error* pages in front of the one told have their new bytes, unless storage has failed.
    pub fn data_return(&self, data: DataRun, done: Done) -> Status {
        self.accept(data.store, data.first, data.ram.pages(), Work::Return(data.ram), done)
    }

    /// Makes pages of a store stable that were returned before. Answers as [`StoreService::data_request`] does; *io error* when
    /// any of them is not known to be stable, with the first that is lost. *Unsupported* on a file system that keeps no
    /// promises.
    ///
    /// # Partial effects
    /// Whatever the answer, any page of the store may have become stable.
    pub fn synchronize(&self, store: u16, first: u64, pages: u64, done: Done) -> Status {
        self.accept(store, first, pages, Work::Synchronize, done)
    }

    /// Returns what the service has done and holds.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        let Some(Running { shared, .. }) = &self.running else { return StoreStats::default() };
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StoreStats {
            open_stores: shared.table().stores.len() as u64,
            pages_in: count(&shared.copied.pages_in),
            pages_out: count(&shared.copied.pages_out),
            flushes: count(&shared.copied.flushes),
            busy: count(&shared.busy),
            storage_error: shared.first_error.get().copied(),
        }
    }

    fn accept(&self, number: u16, first: u64, pages: u64, work: Work, done: Done) -> Status {
        let Some(Running { shared, .. }) = &self.running else { return Status::UNSUPPORTED };
        let mut table = shared.table();
        let Some(store) = table.stores.get(&number) else { return Status::INVALID_ARGUMENT };
        let run = first.checked_add(pages).filter(|end| *end <= store.pages()).and_then(|end| PageRun::new(first, end));
        let Some(run) = run else { return Status::INVALID_ARGUMENT };
        if work == Work::Synchronize && !store.is_durable {
            return Status::UNSUPPORTED;
        }
        if table.queue.is_full() {
            shared.busy.fetch_add(1, Ordering::Relaxed);
            return Status::BUSY;
        }
        let order = Order { store: Arc::clone(store), run, work };
        table.queue.accept(order, Answer::new(done));
        drop(table);
        shared.changed.notify_one();
        Status::PENDING
    }
}

impl Running {
    fn open(&self, name: StoreName, pages: u64, exclusive: bool) -> Result<u16, OpenStoreError> {
        let mut charged = self.charged.lock().unwrap_or_else(PoisonError::into_inner);
        let allowed_pages = {
            let table = self.shared.table();
            if table.stores.values().any(|store| store.name() == name) {
                return Err(OpenStoreError::Open { name });
            }
            let stores = table.stores.len();
            if stores >= self.max_stores {
                return Err(OpenStoreError::Stores { stores });
            }
            let others = charged.iter().filter(|(known, _)| **known != name).map(|(_, pages)| *pages);
            self.quota_pages.saturating_sub(others.sum())
        };
        let opened = self.folder.open(name, pages, allowed_pages)?;
        let first_error = Arc::clone(&self.shared.first_error);
        let store = Store::new(name, opened, exclusive, self.workers.len(), first_error)
            .map_err(|source| OpenStoreError::Io { operation: "open again", path: name.as_str().into(), source })?;
        // Files stay when they are closed, and so does what is charged for them.
        charged.insert(name, store.pages());
        let mut table = self.shared.table();
        let number = self.free_number(&table).ok_or(OpenStoreError::Stores { stores: table.stores.len() })?;
        table.stores.insert(number, Arc::new(store));
        Ok(number)
    }

    /// Returns a number that no open store has, and that one which was closed a short while ago had not either.
    fn free_number(&self, table: &Table) -> Option<u16> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let number =
            (0..=u16::MAX).map(|step| next.wrapping_add(step)).find(|free| !table.stores.contains_key(free))?;
        *next = number.wrapping_add(1);
        Some(number)
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a worker thread does until the service ends.
    fn work(&self, number: usize) {
        let mut worker = Worker::new(number, self.memory.as_ref(), &self.copied, &self.faults);
        while let Some((serial, order, answer)) = self.next() {
            // Behind the answer, so that requests about the same pages are answered in order too.
            let _unfinished = Unfinished { shared: self, serial };
            self.faults.wait_released();
            // A worker that stumbles over one request goes on with the next; dropping the answer gives *io error*.
            let carry_out = || (!self.stopping.load(Ordering::Relaxed)).then(|| worker.carry_out(&order));
            let outcome = catch_unwind(AssertUnwindSafe(carry_out)).unwrap_or_default();
            // Before the answer, so that a guest which closes the store when it has the answer does not find it busy.
            drop(order);
            self.table().queue.settle(serial);
            if let Some((status, page)) = outcome {
                answer.give(status, page);
            }
        }
    }

    /// Waits for a request that may begin; `None` when the service ends.
    fn next(&self) -> Option<(u64, Order, Answer)> {
        let mut table = self.table();
        loop {
            if self.stopping.load(Ordering::Relaxed) {
                return None;
            }
            if let Some(taken) = table.queue.take() {
                return Some(taken);
            }
            table = self.changed.wait(table).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A request that a worker carries out; it leaves the queue whatever becomes of it.
struct Unfinished<'a> {
    shared: &'a Shared,
    serial: u64,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        self.shared.table().queue.finish(self.serial);
        // Several may have waited for this one.
        self.shared.changed.notify_all();
    }
}

impl Drop for Running {
    /// Ends the threads: what they have begun is finished, what they have not is answered *io error*. One that storage holds
    /// past the limit is left; it has its own descriptions, so it harms nobody.
    fn drop(&mut self) {
        let left = {
            let mut table = self.shared.table();
            self.shared.stopping.store(true, Ordering::Relaxed);
            table.queue.give_up()
        };
        self.shared.changed.notify_all();
        self.shared.faults.release();
        drop(left);
        let began = Instant::now();
        let mut threads = std::mem::take(&mut self.workers);
        while !threads.is_empty() && began.elapsed() < self.end_limit {
            for thread in threads.extract_if(.., |thread| thread.is_finished()) {
                if thread.join().is_err() {
                    log::error!("a thread for stores ended in a panic");
                }
            }
            thread::sleep(END_LOOK);
        }
        if !threads.is_empty() {
            log::error!(
                "storage holds {} store threads for more than {:?}; they are left",
                threads.len(),
                self.end_limit
            );
        }
    }
}
