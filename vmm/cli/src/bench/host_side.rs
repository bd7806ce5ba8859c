//! The host's side of a machine without a guest: RAM, services and the hypercall device, called as a vCPU's thread calls them when the
//! guest rings the doorbell. What is timed here is the host's own time.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::EventFd;
use wirevm_abi::call::{CallEntry, CallHeader, CallPage};
use wirevm_abi::completion::{Completion, HEAD_OFFSET, PAGES as RING_PAGES, TAIL_OFFSET, WORDS, offset};
use wirevm_abi::{PAGE_SIZE, RamRange, Status, VERSION, op, port};
use wirevm_devices::bus::{PortDevice, Signal};
use wirevm_devices::completion::CompletionRing;
use wirevm_devices::durability::Durability;
use wirevm_devices::guest_memory::GuestMemory;
use wirevm_devices::hypercall::{Hypercall, HypercallConfig};
use wirevm_devices::interrupt::Interrupt;
use wirevm_devices::pin::{PinConfig, PinMethod, PinService};
use wirevm_devices::ramfile::RamFile;
use wirevm_devices::store::StoreService;
use wirevm_devices::sync::{RamFlush, RamProbe, SyncConfig, SyncService, SyncStartError, SyncWorker};
use wirevm_devices::view::View;
use wirevm_devices::witness::{PAGE_BYTES, Witness};
use wirevm_vmm::memory::GuestRam;
use zerocopy::{FromZeros, IntoBytes};

use super::plan::Context;
use super::timed::{KernelTime, TimedFlush, TimedPins};
use super::{BenchError, ranges};
use crate::prepare::pin_kind;

/// Pages at the end of RAM that the contract uses: call pages and the completion ring.
pub const RESERVED_BYTES: u64 = 2 << 20;

/// A RAM file with the host's services over it.
#[derive(Debug)]
pub struct HostSide {
    /// The RAM file.
    pub ram: Arc<RamFile>,
    /// The pin service.
    pub pins: Arc<PinService>,
    /// The sync service.
    pub syncs: Arc<SyncService>,
    /// What is true of RAM.
    pub witness: Witness,
    /// RAM as KVM has it.
    pub memory: Arc<GuestRam>,
    hypercall: Hypercall,
    call_page: RamRange,
    ring: RamRange,
    arrival: Arc<Arrival>,
    /// How pages are held, in a word.
    pub pin: String,
    /// Time that locking and unlocking pages spent in the kernel.
    pub pin_time: KernelTime,
    /// Time that syncs spent in the kernel.
    pub sync_time: KernelTime,
}

/// Takes the place of the guest's completion interrupt.
#[derive(Debug)]
struct Arrival {
    event: EventFd,
    began: Instant,
    /// When the last interrupt was raised, in nanoseconds since `began`.
    at: AtomicU64,
}

#[derive(Debug)]
struct Raise(Arc<Arrival>);

impl Interrupt for Raise {
    fn raise(&self) -> io::Result<()> {
        let at = u64::try_from(self.0.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.0.at.store(at, Ordering::Release);
        self.0.event.write(1)
    }
}

/// What calls took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    /// All of it, from the doorbells on.
    pub whole: Duration,
    /// What of it was spent in the kernel, by whichever threads.
    pub kernel: Duration,
}

impl std::ops::AddAssign for Spent {
    fn add_assign(&mut self, other: Self) {
        self.whole += other.whole;
        self.kernel += other.kernel;
    }
}

/// What a sync took.
#[derive(Clone, Copy, Debug)]
pub struct SyncTimes {
    /// From the doorbell to the completion.
    pub whole: Duration,
    /// What the vCPU's thread was held up: the doorbell.
    pub doorbell: Duration,
    /// What was spent in the kernel.
    pub kernel: Duration,
}

impl HostSide {
    /// Starts the services over a RAM file. Its last [`RESERVED_BYTES`] bytes are the contract's.
    ///
    /// # Errors
    /// [`BenchError`] when one of them can't start.
    pub fn start(context: &Context, ram: RamFile) -> Result<Self, BenchError> {
        let view = Arc::new(View::new(&ram)?);
        let kind = pin_kind(context.pin, Some(ram.size_bytes()))?;
        let host = Self::with_method(ram, Arc::clone(&view), kind.method(view)?, kind.map_entry_budget()?)?;
        Ok(Self { pin: kind.to_string(), ..host })
    }

    /// Starts the services with a way to lock pages of one's own.
    ///
    /// # Errors
    /// As [`HostSide::start`].
    pub fn with_method(
        ram: RamFile,
        view: Arc<View>,
        method: Box<dyn PinMethod>,
        map_entry_budget: u64,
    ) -> Result<Self, BenchError> {
        let config = PinConfig { ram_pages: ram.pages(), quota_pages: ram.pages(), map_entry_budget };
        let (pin_time, sync_time) = (KernelTime::default(), KernelTime::default());
        let pins = Arc::new(PinService::new(Box::new(TimedPins { method, time: pin_time.clone() }), config));
        // The health poll writes nothing; still, let nothing happen that nobody asked for.
        let config = SyncConfig { poll_interval: Duration::from_secs(3600), ..SyncConfig::default() };
        let syncs = Arc::new(start_syncs(&ram, config, &sync_time)?);
        let memory = Arc::new(GuestRam::map(&ram)?);
        let reserved = ram.pages() - RESERVED_BYTES / PAGE_SIZE;
        let range = |first, pages| ranges::range(first, pages, ram.pages());
        let (call_page, ring) = (range(reserved, 1)?, range(reserved + 1, RING_PAGES)?);
        for page in call_page.first()..ring.end() {
            memory.write(range(page, 1)?, &[0; PAGE_BYTES])?;
        }
        let (event, began, at) = (EventFd::new(libc::EFD_CLOEXEC)?, Instant::now(), AtomicU64::new(0));
        let arrival = Arc::new(Arrival { event, began, at });
        let completions = CompletionRing::new(Arc::clone(&memory) as _, ring, Box::new(Raise(Arc::clone(&arrival))));
        let hypercall = Hypercall::new(HypercallConfig {
            memory: Arc::clone(&memory) as _,
            pins: Arc::clone(&pins),
            syncs: Arc::clone(&syncs),
            stores: Arc::new(StoreService::unsupported()),
            discard: None,
            completions: Some(Arc::new(completions)),
            vcpus: None,
            ram_pages: ram.pages(),
            call_pages: vec![call_page],
        });
        let witness = Witness::new(view, &ram)?;
        let host = Self {
            ram: Arc::new(ram),
            pins,
            syncs,
            witness,
            memory,
            hypercall,
            call_page,
            ring,
            arrival,
            pin: String::new(),
            pin_time,
            sync_time,
        };
        host.call(&[CallEntry::new(op::HELLO, 0, [VERSION, 0, 0])])?;
        Ok(host)
    }

    /// Pages of RAM that are free to be wired and synced, from page 0 on.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.ram.pages() - RESERVED_BYTES / PAGE_SIZE
    }

    /// Rings the doorbell with these entries, and returns how long the host took; every entry must be answered with *ok*.
    ///
    /// # Errors
    /// [`BenchError`] when an entry is answered otherwise.
    pub fn call(&self, entries: &[CallEntry]) -> Result<Duration, BenchError> {
        let time = self.ring(entries)?;
        self.check(entries.len(), Status::OK)?;
        Ok(time)
    }

    /// Wires or unwires runs in calls of at most `batch` entries; returns how long the host took in all.
    ///
    /// # Errors
    /// As [`HostSide::call`].
    pub fn call_in_batches(&self, op: u16, runs: &[RamRange], batch: usize) -> Result<Spent, BenchError> {
        let entries: Vec<_> = runs.iter().map(|run| CallEntry::new(op, 0, [run.first(), run.pages(), 0])).collect();
        let before = self.pin_time.nanoseconds();
        let whole = entries.chunks(batch.max(1)).try_fold(Duration::ZERO, |all, batch| Ok(all + self.call(batch)?));
        let kernel = Duration::from_nanos(self.pin_time.nanoseconds() - before);
        whole.map(|whole| Spent { whole, kernel })
    }

    /// Syncs ranges, at most a call's entries, and waits for the completions.
    ///
    /// # Errors
    /// [`BenchError`] when a sync is refused or fails.
    pub fn sync(&self, ranges: &[RamRange]) -> Result<SyncTimes, BenchError> {
        let entries: Vec<_> = (0..)
            .zip(ranges)
            .map(|(token, range)| CallEntry::new(op::SYNC, op::SYNC_NO_WAIT, [range.first(), range.pages(), token]))
            .collect();
        let (began, before) = (Instant::now(), self.sync_time.nanoseconds());
        let doorbell = self.ring(&entries)?;
        self.check(entries.len(), Status::PENDING)?;
        let mut taken = 0;
        while taken < entries.len() {
            self.arrival.event.read()?;
            taken += self.take_completions()?;
        }
        let at = self.arrival.began + Duration::from_nanos(self.arrival.at.load(Ordering::Acquire));
        let kernel = Duration::from_nanos(self.sync_time.nanoseconds() - before);
        Ok(SyncTimes { whole: at.saturating_duration_since(began), doorbell, kernel })
    }

    /// Fills a call page, rings, and returns what the host took from the doorbell on.
    fn ring(&self, entries: &[CallEntry]) -> Result<Duration, BenchError> {
        let mut call = CallPage::new_zeroed();
        call.header = CallHeader::new(entries.len());
        for (to, entry) in call.entries.iter_mut().zip(entries) {
            *to = *entry;
            to.set_status(Status::NOT_DONE);
        }
        let used = size_of::<CallHeader>() + size_of_val(entries);
        self.memory.write(self.call_page, call.as_bytes().get(..used).ok_or("too many entries for a call")?)?;
        let began = Instant::now();
        let signal = self.hypercall.write(0, port::DOORBELL, &[]);
        let time = began.elapsed();
        if matches!(signal, Signal::None) { Ok(time) } else { Err(format!("the doorbell gave {signal:?}").into()) }
    }

    fn check(&self, entries: usize, expected: Status) -> Result<(), BenchError> {
        let mut call = CallPage::new_zeroed();
        self.memory.read(self.call_page, call.as_mut_bytes())?;
        match call.entries.iter().take(entries).find(|entry| entry.status() != expected) {
            Some(entry) => Err(format!("the host answered an entry with {}, not {expected}", entry.status()).into()),
            None => Ok(()),
        }
    }

    /// Takes the completions that there are; returns their number.
    fn take_completions(&self) -> Result<usize, BenchError> {
        let word = |at| self.memory.load_word(self.ring, at);
        let (head, tail) = (word(HEAD_OFFSET)?, word(TAIL_OFFSET)?);
        for count in head..tail {
            let mut words = [0; WORDS];
            for (to, at) in words.iter_mut().zip((offset(count)..).step_by(8)) {
                *to = word(at)?;
            }
            let completion = Completion::from_words(words);
            if completion.status != Status::OK {
                return Err(format!("a sync ended with {}", completion.status).into());
            }
        }
        self.memory.store_word(self.ring, HEAD_OFFSET, tail)?;
        usize::try_from(tail - head).map_err(|_| "a completion ring beyond measure".into())
    }
}

/// Starts the sync service as a machine does, with a clock around its system calls.
fn start_syncs(ram: &RamFile, config: SyncConfig, time: &KernelTime) -> Result<SyncService, SyncStartError> {
    if ram.durability() != Durability::Shared {
        return Ok(SyncService::unsupported(ram.pages()));
    }
    let worker = |_| {
        let flush = TimedFlush { flush: Box::new(RamFlush::new(ram)?), time: time.clone() };
        Ok(SyncWorker { flush: Box::new(flush), health: Box::new(RamProbe::new(ram)?) })
    };
    let workers = (0..config.workers).map(worker).collect::<Result<Vec<_>, SyncStartError>>()?;
    let probe = Box::new(RamProbe::new(ram)?);
    SyncService::with_backends(ram.pages(), config, workers, probe, |error| log::error!("storage failed: {error}"))
}
