//! A hypercall device over a RAM, a host and a storage that count, and fail when told to.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use wirevm_abi::call::{CallEntry, CallHeader, CallPage};
use wirevm_abi::completion::Completion;
use wirevm_abi::request::VcpuStart;
use wirevm_abi::{RamRange, Status, VERSION, op};
use zerocopy::{FromZeros, IntoBytes};

use crate::bus::{PortDevice, Signal};
use crate::completion::test::rig::Guest;
use crate::guest_memory::{BackingLostError, GuestMemory};
use crate::hypercall::{Hypercall, HypercallConfig, VcpuStarter};
use crate::page_run::PageRun;
use crate::pin::scripted::ScriptedPin;
use crate::pin::{PinConfig, PinService};
use crate::ramfile::RamDiscard;
use crate::store::StoreService;
use crate::sync::scripted::ScriptedFlush;
use crate::sync::{SyncConfig, SyncService};

pub(super) const PAGES: u64 = 64;
pub(super) const QUOTA: u64 = 16;
/// The first vCPU's call page; the second's is behind it.
const CALL_PAGE: u64 = 5;

/// The vCPUs' call pages and what was done to them.
#[derive(Debug)]
pub(super) struct Ram {
    pages: [CallPage; 2],
    pub(super) reads: usize,
    /// Bytes of each write.
    pub(super) writes: Vec<usize>,
    pub(super) reads_fail: bool,
    pub(super) writes_fail: bool,
}

#[derive(Debug)]
pub(super) struct FakeMemory(Mutex<Ram>);

impl FakeMemory {
    pub(super) fn ram(&self) -> MutexGuard<'_, Ram> {
        self.0.lock().expect("lock")
    }

    /// Fills a vCPU's call page in.
    pub(super) fn put(&self, vcpu: usize, page: CallPage) {
        self.ram().pages[vcpu] = page;
    }

    /// Returns a vCPU's call page.
    pub(super) fn get(&self, vcpu: usize) -> CallPage {
        self.ram().pages[vcpu]
    }
}

/// The vCPUs that were started, of a machine that has two.
#[derive(Debug, Default)]
pub(super) struct FakeVcpus(Mutex<Vec<VcpuStart>>);

impl FakeVcpus {
    pub(super) fn started(&self) -> Vec<VcpuStart> {
        self.0.lock().expect("lock").clone()
    }
}

impl VcpuStarter for FakeVcpus {
    fn start(&self, start: VcpuStart) -> Status {
        let mut started = self.0.lock().expect("lock");
        if start.vcpu > 1 {
            return Status::INVALID_ARGUMENT;
        }
        if !started.is_empty() {
            return Status::BUSY;
        }
        started.push(start);
        Status::OK
    }
}

fn vcpu_of(range: RamRange) -> usize {
    assert_eq!(range.pages(), 1);
    usize::try_from(range.first() - CALL_PAGE).expect("a call page")
}

impl GuestMemory for FakeMemory {
    fn read(&self, range: RamRange, bytes: &mut [u8]) -> Result<(), BackingLostError> {
        let mut ram = self.ram();
        ram.reads += 1;
        if ram.reads_fail {
            return Err(BackingLostError { page: range.first() });
        }
        bytes.copy_from_slice(&ram.pages[vcpu_of(range)].as_bytes()[..bytes.len()]);
        Ok(())
    }

    fn write(&self, range: RamRange, bytes: &[u8]) -> Result<(), BackingLostError> {
        let mut ram = self.ram();
        ram.writes.push(bytes.len());
        if ram.writes_fail {
            return Err(BackingLostError { page: range.first() });
        }
        ram.pages[vcpu_of(range)].as_mut_bytes()[..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn load_word(&self, range: RamRange, offset: u64) -> Result<u64, BackingLostError> {
        panic!("call pages are copied: {offset} of {range}");
    }

    fn store_word(&self, range: RamRange, offset: u64, _: u64) -> Result<(), BackingLostError> {
        panic!("call pages are copied: {offset} of {range}");
    }
}

pub(super) struct Rig {
    pub(super) memory: Arc<FakeMemory>,
    pub(super) host: ScriptedPin,
    pub(super) storage: ScriptedFlush,
    pub(super) pins: Arc<PinService>,
    pub(super) syncs: Arc<SyncService>,
    pub(super) vcpus: Arc<FakeVcpus>,
    /// The guest's end of the completion ring, which lies in memory of its own.
    pub(super) guest: Guest,
    pub(super) device: Hypercall,
}

pub(super) fn range(first: u64, pages: u64) -> RamRange {
    RamRange::new(first, pages, PAGES).expect("inside RAM")
}

impl Rig {
    fn new(syncs: SyncService, storage: ScriptedFlush, has_ring: bool) -> Self {
        Self::over(syncs, storage, has_ring, StoreService::unsupported(), None)
    }

    /// A machine without durability that the first vCPU has greeted, with stores, or a RAM that can be given back.
    pub(super) fn with_stores(stores: StoreService, discard: Option<RamDiscard>, has_ring: bool) -> Self {
        let rig = Self::over(SyncService::unsupported(PAGES), ScriptedFlush::default(), has_ring, stores, discard);
        assert_eq!(rig.call(&[hello(VERSION)]), (Signal::None, vec![Status::OK]));
        rig
    }

    fn over(
        syncs: SyncService,
        storage: ScriptedFlush,
        has_ring: bool,
        stores: StoreService,
        discard: Option<RamDiscard>,
    ) -> Self {
        let pages = [CallPage::new_zeroed(); 2];
        let ram = Ram { pages, reads: 0, writes: Vec::new(), reads_fail: false, writes_fail: false };
        let memory = Arc::new(FakeMemory(Mutex::new(ram)));
        let host = ScriptedPin::default();
        let config = PinConfig { ram_pages: PAGES, quota_pages: QUOTA, map_entry_budget: 100 };
        let pins = Arc::new(PinService::new(Box::new(host.clone()), config));
        let syncs = Arc::new(syncs);
        let vcpus = Arc::<FakeVcpus>::default();
        let guest = Guest::new();
        let device = Hypercall::new(HypercallConfig {
            memory: Arc::<FakeMemory>::clone(&memory),
            pins: Arc::clone(&pins),
            syncs: Arc::clone(&syncs),
            stores: Arc::new(stores),
            discard: discard.map(Arc::new),
            vcpus: Some(Arc::<FakeVcpus>::clone(&vcpus)),
            completions: has_ring.then(|| Arc::clone(&guest.ring)),
            ram_pages: PAGES,
            call_pages: vec![range(CALL_PAGE, 1), range(CALL_PAGE + 1, 1)],
        });
        Self { memory, host, storage, pins, syncs, vcpus, guest, device }
    }

    /// A machine without durability that no vCPU has greeted.
    pub(super) fn volatile() -> Self {
        Self::new(SyncService::unsupported(PAGES), ScriptedFlush::default(), false)
    }

    /// A durable machine that the first vCPU has greeted.
    pub(super) fn greeted() -> Self {
        Self::durable(1, 64, true)
    }

    /// As [`Rig::greeted`], with so many workers, places in the sync queue, and with or without a completion ring.
    pub(super) fn durable(workers: usize, queue: usize, has_ring: bool) -> Self {
        let storage = ScriptedFlush::default();
        let config = SyncConfig { workers, queue, poll_interval: Duration::from_secs(3600), ..SyncConfig::default() };
        let probe = Box::new(storage.clone());
        let all = (0..workers).map(|_| storage.worker()).collect();
        let syncs = SyncService::with_backends(PAGES, config, all, probe, |_| ());
        let rig = Self::new(syncs.expect("threads"), storage, has_ring);
        assert_eq!(rig.call(&[hello(VERSION)]), (Signal::None, vec![Status::OK]));
        rig
    }

    /// Waits for that many completions and takes them.
    pub(super) fn completions(&self, count: usize) -> Vec<Completion> {
        let (began, mut taken) = (Instant::now(), Vec::new());
        while taken.len() < count {
            assert!(began.elapsed() < Duration::from_secs(20), "only {taken:?} came");
            taken.extend(self.guest.take());
            std::thread::sleep(Duration::from_micros(20));
        }
        taken.extend(self.guest.take());
        assert_eq!(taken.len(), count);
        taken
    }

    /// Rings for a page that a vCPU has filled; returns the page as the host left it.
    pub(super) fn ring(&self, vcpu: usize, page: CallPage) -> (Signal, CallPage) {
        {
            let mut ram = self.memory.ram();
            (ram.pages[vcpu], ram.reads) = (page, 0);
            ram.writes.clear();
        }
        let signal = self.device.write(vcpu, 0, &[0]);
        let ram = self.memory.ram();
        assert_eq!(ram.reads, 1, "the page is read once, whatever stands in it");
        assert!(ram.writes.len() <= 1, "and written once at most");
        (signal, ram.pages[vcpu])
    }

    /// Makes a well-formed call on the first vCPU; returns the statuses of its entries.
    pub(super) fn call(&self, entries: &[CallEntry]) -> (Signal, Vec<Status>) {
        let (signal, page) = self.ring(0, page(entries));
        assert_eq!(page.header.status(), Status::OK);
        assert_eq!(self.last(0), Status::OK);
        (signal, page.entries[..entries.len()].iter().map(CallEntry::status).collect())
    }

    pub(super) fn last(&self, vcpu: usize) -> Status {
        let mut data = [0xee; 4];
        self.device.read(vcpu, 0, &mut data);
        let [low, high, rest @ ..] = data;
        assert_eq!(rest, [0; 2]);
        Status::from_bits(u16::from_le_bytes([low, high]))
    }
}

pub(super) fn page(entries: &[CallEntry]) -> CallPage {
    let mut page = CallPage::new_zeroed();
    page.header = CallHeader::new(entries.len());
    page.entries[..entries.len()].copy_from_slice(entries);
    page
}

pub(super) fn hello(version: u64) -> CallEntry {
    CallEntry::new(op::HELLO, 0, [version, 0, 0])
}

pub(super) fn wire(first: u64, pages: u64) -> CallEntry {
    CallEntry::new(op::WIRE, 0, [first, pages, 0])
}

pub(super) fn unwire(first: u64, pages: u64) -> CallEntry {
    CallEntry::new(op::UNWIRE, 0, [first, pages, 0])
}

pub(super) fn sync(first: u64, pages: u64) -> CallEntry {
    CallEntry::new(op::SYNC, op::SYNC_WAIT, [first, pages, 77])
}

pub(super) fn start(first: u64, pages: u64) -> CallEntry {
    CallEntry::new(op::SYNC, op::SYNC_NO_WAIT, [first, pages, 77])
}

/// As [`start`], with a token.
pub(super) fn start_with(first: u64, pages: u64, token: u64) -> CallEntry {
    CallEntry::new(op::SYNC, op::SYNC_NO_WAIT, [first, pages, token])
}

pub(super) fn exit(code: u64) -> CallEntry {
    CallEntry::new(op::EXIT, 0, [code, 0, 0])
}

pub(super) fn run(first: u64, end: u64) -> PageRun {
    PageRun::new(first, end).expect("not empty")
}
