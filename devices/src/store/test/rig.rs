//! A store over a scripted disk and a RAM of evenly filled pages.

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use wirevm_abi::completion::NO_PAGE;
use wirevm_abi::request::DataRun;
use wirevm_abi::{RamRange, Status, StoreName};

use crate::faults::HostFaults;
use crate::guest_memory::{BackingLostError, GuestMemory};
use crate::page_run::PageRun;
use crate::store::file::OpenedStore;
use crate::store::held::Store;
use crate::store::request::{Done, Order, Work};
use crate::store::scripted::{Mistake, ScriptedDisk, ScriptedFolder};
use crate::store::worker::{Copied, Outcome, Worker};
use crate::store::{StoreConfig, StoreService};

pub(super) const PAGES: u64 = 128;
pub(super) const OK: Outcome = (Status::OK, NO_PAGE);
const LIMIT: Duration = Duration::from_secs(20);

pub(super) const fn failed(page: u64) -> Outcome {
    (Status::IO_ERROR, page)
}

/// RAM: the first byte of each page.
#[derive(Debug)]
pub(super) struct Ram {
    pages: Mutex<Vec<u8>>,
    /// Pages from which on the memory is gone.
    pub(super) gone_from: Mutex<u64>,
}

impl Ram {
    fn new() -> Self {
        let pages = usize::try_from(PAGES).expect("small");
        Self { pages: Mutex::new(vec![0; pages]), gone_from: Mutex::new(u64::MAX) }
    }

    pub(super) fn fill(&self, first: u64, pages: u64, byte: u8) {
        let (first, end) = (usize::try_from(first).expect("small"), usize::try_from(first + pages).expect("small"));
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)[first..end].fill(byte);
    }

    pub(super) fn page(&self, page: u64) -> u8 {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)[usize::try_from(page).expect("small")]
    }

    fn check(&self, range: RamRange) -> Result<(), BackingLostError> {
        let gone = *self.gone_from.lock().unwrap_or_else(PoisonError::into_inner);
        if range.end() > gone { Err(BackingLostError { page: gone }) } else { Ok(()) }
    }
}

impl GuestMemory for Ram {
    fn load_word(&self, range: RamRange, _: u64) -> Result<u64, BackingLostError> {
        Err(BackingLostError { page: range.first() })
    }

    fn store_word(&self, range: RamRange, _: u64, _: u64) -> Result<(), BackingLostError> {
        Err(BackingLostError { page: range.first() })
    }

    fn read(&self, range: RamRange, bytes: &mut [u8]) -> Result<(), BackingLostError> {
        self.check(range)?;
        for (page, place) in (range.first()..).zip(bytes.chunks_mut(4096)) {
            place.fill(self.page(page));
        }
        Ok(())
    }

    fn write(&self, range: RamRange, bytes: &[u8]) -> Result<(), BackingLostError> {
        self.check(range)?;
        for (page, bytes) in (range.first()..).zip(bytes.chunks(4096)) {
            self.fill(page, 1, bytes[0]);
        }
        Ok(())
    }
}

/// One store whose requests a test carries out itself, as the worker that it likes.
pub(super) struct Bench {
    pub(super) disk: ScriptedDisk,
    pub(super) ram: Ram,
    pub(super) store: Arc<Store>,
    pub(super) copied: Copied,
    pub(super) faults: HostFaults,
}

impl Bench {
    pub(super) fn new(mistake: Mistake, exclusive: bool) -> Arc<Self> {
        let disk = ScriptedDisk::new(usize::try_from(PAGES).expect("small"));
        let opened = OpenedStore { file: disk.open(mistake), pages: PAGES, is_durable: true };
        let store = Store::new(name("a"), opened, exclusive, 2, Arc::default()).expect("descriptions");
        let (copied, faults) = (Copied::default(), HostFaults::default());
        Arc::new(Self { disk, ram: Ram::new(), store: Arc::new(store), copied, faults })
    }

    fn carry_out(&self, worker: usize, first: u64, pages: u64, work: Work) -> Outcome {
        let run = PageRun::new(first, first + pages).expect("not empty");
        let order = Order { store: Arc::clone(&self.store), run, work };
        Worker::new(worker, &self.ram, &self.copied, &self.faults).carry_out(&order)
    }

    /// Returns pages filled with that byte.
    pub(super) fn give(&self, worker: usize, first: u64, pages: u64, byte: u8) -> Outcome {
        self.ram.fill(first, pages, byte);
        self.carry_out(worker, first, pages, Work::Return(ram(first, pages)))
    }

    /// Requests pages over others in RAM, and tells the first one's byte.
    pub(super) fn get(&self, worker: usize, first: u64, pages: u64) -> Result<u8, Outcome> {
        self.ram.fill(first, pages, 0xee);
        match self.carry_out(worker, first, pages, Work::Request(ram(first, pages))) {
            OK => Ok(self.ram.page(first)),
            outcome => Err(outcome),
        }
    }

    pub(super) fn sync(&self, worker: usize, first: u64, pages: u64) -> Outcome {
        self.carry_out(worker, first, pages, Work::Synchronize)
    }
}

/// The service with its threads.
pub(super) struct Rig {
    pub(super) disk: ScriptedDisk,
    pub(super) ram: Arc<Ram>,
    pub(super) stores: StoreService,
    sender: mpsc::Sender<(u64, Status, u64)>,
    pub(super) answers: mpsc::Receiver<(u64, Status, u64)>,
}

impl Rig {
    pub(super) fn new(config: StoreConfig, is_durable: bool) -> Self {
        let disk = ScriptedDisk::new(usize::try_from(PAGES).expect("small"));
        let ram = Arc::new(Ram::new());
        let folder = ScriptedFolder { disk: disk.clone(), is_durable };
        let stores = StoreService::with_folder(Box::new(folder), config, Arc::<Ram>::clone(&ram)).expect("threads");
        let (sender, answers) = mpsc::channel();
        Self { disk, ram, stores, sender, answers }
    }

    /// What tells the test of the answer to the request of that token.
    pub(super) fn done(&self, token: u64) -> Done {
        let sender = self.sender.clone();
        Box::new(move |status, page| sender.send((token, status, page)).expect("the test listens"))
    }

    pub(super) fn answer(&self) -> (u64, Status, u64) {
        self.answers.recv_timeout(LIMIT).expect("an answer within 20 s")
    }

    pub(super) fn no_answer(&self) {
        let answer = self.answers.try_recv();
        assert!(answer.is_err(), "nothing is answered yet: {answer:?}");
    }
}

pub(super) fn ram(first: u64, pages: u64) -> RamRange {
    RamRange::new(first, pages, PAGES).expect("inside RAM")
}

pub(super) fn name(text: &str) -> StoreName {
    StoreName::new(text).expect("a name")
}

pub(super) fn data(store: u16, first: u64, pages: u64) -> DataRun {
    DataRun { store, ram: ram(first, pages), first, token: 0 }
}
