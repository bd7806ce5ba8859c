//! The doorbell: takes a call page in once, checks it, carries its entries out, and writes statuses and results back.
//!
//! The write-back is one copy of the header and the entries that were looked at: words that are neither status nor
//! result go back as they were read.

mod data;
mod stat;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};

use wirevm_abi::call::{CallEntry, CallHeader, CallPage, MAX_ENTRIES};
use wirevm_abi::completion::{Completion, NO_PAGE};
use wirevm_abi::request::{Request, SyncWait, VcpuStart, decode};
use wirevm_abi::{RamRange, Status, VERSION, feature, op};
use zerocopy::{FromZeros, IntoBytes};

use crate::bus::{PortDevice, Signal};
use crate::completion::{CompletionRing, Reservation};
use crate::guest_memory::{BackingLostError, GuestMemory};
use crate::log_limit::LogLimit;
use crate::pin::PinService;
use crate::ramfile::RamDiscard;
use crate::store::StoreService;
use crate::sync::{RangeResult, SyncService};

/// What one vCPU's conversation has come to.
#[derive(Debug)]
struct Conversation {
    /// The vCPU's call page, one page of RAM.
    page: RamRange,
    /// Whether `HELLO` was answered with *ok*.
    greeted: AtomicBool,
    /// Status of the last doorbell, for `in`.
    last: AtomicU16,
}

/// The hypercall device.
///
/// It takes no lock of its own: each vCPU rings for its own page, and pins and syncs keep their own order.
#[derive(Debug)]
pub struct Hypercall {
    config: HypercallConfig,
    vcpus: Vec<Conversation>,
    /// Doorbells that were answered.
    doorbells: AtomicU64,
    /// Entries answered *busy* because a queue or the completion ring was full.
    busy: AtomicU64,
    /// Pages given back to the host.
    discarded: AtomicU64,
    undiscarded: LogLimit,
}

/// What starts the vCPUs that wait for [`op::START_VCPU`].
pub trait VcpuStarter: Send + Sync + fmt::Debug {
    /// Sets a vCPU going: *ok*, though it may take its first instruction later. *Invalid argument* for one that the machine
    /// does not have, *busy* for one that has been started before; nothing happens then.
    fn start(&self, start: VcpuStart) -> Status;
}

/// What the hypercall device reaches.
#[derive(Clone, Debug)]
pub struct HypercallConfig {
    /// Guest RAM.
    pub memory: Arc<dyn GuestMemory>,
    /// Carries `WIRE` and `UNWIRE` out.
    pub pins: Arc<PinService>,
    /// Carries `SYNC` out.
    pub syncs: Arc<SyncService>,
    /// Carries the operations on stores out.
    pub stores: Arc<StoreService>,
    /// Carries `DISCARD` out. Without it that is *unsupported*.
    pub discard: Option<Arc<RamDiscard>>,
    /// Where entries that were answered *pending* end. Without it every operation that would be is *unsupported*.
    pub completions: Option<Arc<CompletionRing>>,
    /// Starts further vCPUs. Without it there are none, and `START_VCPU` is an *invalid argument*.
    pub vcpus: Option<Arc<dyn VcpuStarter>>,
    /// Pages of RAM.
    pub ram_pages: u64,
    /// vCPU n's call page stands at place n.
    pub call_pages: Vec<RamRange>,
}

/// What carrying out a call's entries led to.
struct Outcome {
    signal: Signal,
    /// Entries that were looked at.
    done: usize,
}

impl Hypercall {
    /// Returns the device.
    #[must_use]
    pub fn new(config: HypercallConfig) -> Self {
        let conversation = |page: &RamRange| Conversation {
            page: *page,
            greeted: AtomicBool::new(false),
            last: AtomicU16::new(Status::NOT_DONE.bits()),
        };
        let vcpus = config.call_pages.iter().map(conversation).collect();
        Self {
            config,
            vcpus,
            doorbells: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            discarded: AtomicU64::new(0),
            undiscarded: LogLimit::new(),
        }
    }

    /// Returns how many doorbells were answered: one a call, however many entries it has.
    #[must_use]
    pub fn doorbells(&self) -> u64 {
        self.doorbells.load(Ordering::Relaxed)
    }

    /// Returns how many entries were answered *busy* because a queue or the completion ring was full.
    #[must_use]
    pub fn busy_answers(&self) -> u64 {
        self.busy.load(Ordering::Relaxed)
    }

    fn ring(&self, vcpu: &Conversation) -> Result<Signal, BackingLostError> {
        self.doorbells.fetch_add(1, Ordering::Relaxed);
        if let Some(error) = self.config.completions.as_ref().and_then(|ring| ring.lost()) {
            return Err(error);
        }
        let mut call = CallPage::new_zeroed();
        self.config.memory.read(vcpu.page, call.as_mut_bytes())?;
        let greeting = call.header.check().is_ok() && call.entries.first().is_some_and(|entry| entry.op() == op::HELLO);
        if !(greeting || vcpu.greeted.load(Ordering::Acquire)) {
            vcpu.last.store(Status::INVALID_ADDRESS.bits(), Ordering::Release);
            return Ok(Signal::None);
        }
        let (status, outcome) = match call.header.check() {
            Ok(count) => {
                let outcome = self.carry_out(vcpu, call.entries.get_mut(..count).unwrap_or(&mut []));
                (Status::OK, outcome)
            }
            Err(status) => (status, Outcome { signal: Signal::None, done: 0 }),
        };
        let answered = size_of::<CallHeader>() + outcome.done.min(MAX_ENTRIES) * size_of::<CallEntry>();
        call.header.status = u64::from(status.bits());
        self.config.memory.write(vcpu.page, call.as_bytes().get(..answered).unwrap_or(&[]))?;
        vcpu.last.store(status.bits(), Ordering::Release);
        Ok(outcome.signal)
    }

    /// Carries entries out in order and leaves each one's status and results in it.
    fn carry_out(&self, vcpu: &Conversation, entries: &mut [CallEntry]) -> Outcome {
        let mut next = 0;
        while let Some(entry) = entries.get_mut(next) {
            // An error for whatever path would forget to answer.
            entry.set_status(Status::NOT_DONE);
            match decode(entry, self.config.ram_pages) {
                // Behind a hello that was refused.
                _ if entry.op() != op::HELLO && !vcpu.greeted.load(Ordering::Acquire) => {
                    entry.set_status(Status::INVALID_ADDRESS);
                }
                Ok(Request::Sync { wait, .. }) => {
                    next += self.sync(wait, entries.get_mut(next..).unwrap_or(&mut []));
                    continue;
                }
                Ok(Request::Exit { code }) => {
                    entry.set_status(Status::OK);
                    return Outcome { signal: Signal::Exit { code }, done: next + 1 };
                }
                Ok(Request::Hello { version }) => self.greet(vcpu, version, entry),
                Ok(Request::Wire(_) | Request::Unwire(_)) => {
                    next += self.pin(entries.get_mut(next..).unwrap_or(&mut []));
                    continue;
                }
                Ok(Request::DataRequest(run)) => entry.set_status(self.pending(|place| self.data_request(run, place))),
                Ok(Request::DataReturn(run)) => entry.set_status(self.pending(|place| self.data_return(run, place))),
                Ok(Request::Synchronize { store, first, pages, token }) => {
                    entry.set_status(self.pending(|place| self.synchronize(store, first, pages, token, place)));
                }
                Ok(Request::OpenStore { name, pages, exclusive }) => {
                    answer_number(entry, self.open_store(name, pages, exclusive));
                }
                Ok(Request::CloseStore { store }) => entry.set_status(self.close_store(store)),
                Ok(Request::Stat { selector }) => answer_number(entry, self.stat(selector)),
                Ok(Request::Discard(range)) => entry.set_status(self.discard(range)),
                Ok(Request::StartVcpu(start)) => entry.set_status(self.start_vcpu(start)),
                Err(status) => entry.set_status(status),
            }
            next += 1;
        }
        Outcome { signal: Signal::None, done: next }
    }

    fn greet(&self, vcpu: &Conversation, version: u64, entry: &mut CallEntry) {
        if version != VERSION {
            entry.words = [VERSION, 0, 0];
            entry.set_status(Status::UNSUPPORTED);
            return;
        }
        let sync = if self.config.syncs.is_supported() { feature::SYNC } else { 0 };
        let completions = if self.config.completions.is_some() { feature::COMPLETIONS } else { 0 };
        let features = sync | completions | self.more_features();
        entry.words = [VERSION, features, self.config.pins.quota_pages()];
        entry.set_status(Status::OK);
        vcpu.greeted.store(true, Ordering::Release);
    }

    /// Carries out the `WIRE` entries, or the `UNWIRE` entries, at the front of `entries` together; returns how many.
    fn pin(&self, entries: &mut [CallEntry]) -> usize {
        let (mut wires, mut unwires) = (Vec::new(), Vec::new());
        for entry in &*entries {
            match decode(entry, self.config.ram_pages) {
                Ok(Request::Wire(range)) if unwires.is_empty() => wires.push(range),
                Ok(Request::Unwire(range)) if wires.is_empty() => unwires.push(range),
                _ => break,
            }
        }
        let answers = if unwires.is_empty() {
            self.config.pins.wire_each(&wires)
        } else {
            self.config.pins.unwire_each(&unwires)
        };
        let count = answers.len();
        for (entry, answer) in entries.iter_mut().zip(answers) {
            entry.set_status(answer.map_or_else(|error| error.status(), |()| Status::OK));
        }
        count
    }

    /// Carries out the `SYNC` entries at the front of `entries` that wait alike, as one request; returns how many.
    fn sync(&self, wait: SyncWait, entries: &mut [CallEntry]) -> usize {
        let (mut ranges, mut tokens) = (Vec::with_capacity(entries.len()), Vec::with_capacity(entries.len()));
        for entry in &*entries {
            match decode(entry, self.config.ram_pages) {
                Ok(Request::Sync { range, wait: same, token }) if same == wait => {
                    ranges.push(range);
                    tokens.push(token);
                }
                _ => break,
            }
        }
        let count = ranges.len();
        let answers = match wait {
            SyncWait::Wait => self.config.syncs.submit_and_wait(&ranges),
            SyncWait::NoWait => vec![self.start_sync(&ranges, tokens); count],
        };
        for (entry, status) in entries.iter_mut().zip(answers) {
            if status == Status::BUSY {
                self.busy.fetch_add(1, Ordering::Relaxed);
            }
            entry.set_status(status);
        }
        count
    }

    /// Asks for a sync of which the guest is told through the completion ring.
    fn start_sync(&self, ranges: &[RamRange], tokens: Vec<u64>) -> Status {
        if !self.config.syncs.is_supported() {
            return Status::UNSUPPORTED;
        }
        let places = match self.reserve(ranges.len() as u64) {
            Ok(places) => places,
            Err(status) => return status,
        };
        let answer = move |results: Vec<RangeResult>| {
            let completion = |(token, result): (u64, RangeResult)| Completion {
                token,
                status: result.status,
                first_failed_page: result.first_failed_page.unwrap_or(NO_PAGE),
            };
            places.complete(&tokens.into_iter().zip(results).map(completion).collect::<Vec<_>>());
        };
        // A request that is not accepted drops the answer, and with it the places.
        self.config.syncs.submit(ranges, Box::new(answer)).map_or_else(|status| status, |()| Status::PENDING)
    }

    /// Has places in the completion ring promised.
    fn reserve(&self, places: u64) -> Result<Reservation, Status> {
        let ring = self.config.completions.as_ref().ok_or(Status::UNSUPPORTED)?;
        ring.reserve(places).ok_or(Status::BUSY)
    }

    /// Carries out an entry that is completed later, once it has its place in the ring.
    fn pending(&self, accept: impl FnOnce(Reservation) -> Status) -> Status {
        let status = self.reserve(1).map_or_else(|status| status, accept);
        if status == Status::BUSY {
            self.busy.fetch_add(1, Ordering::Relaxed);
        }
        status
    }

    fn start_vcpu(&self, start: VcpuStart) -> Status {
        self.config.vcpus.as_ref().map_or(Status::INVALID_ARGUMENT, |vcpus| vcpus.start(start))
    }
}

/// Leaves a number in an entry's first word, or says why there is none.
fn answer_number(entry: &mut CallEntry, number: Result<u64, Status>) {
    match number {
        Ok(number) => {
            entry.words = [number, 0, 0];
            entry.set_status(Status::OK);
        }
        Err(status) => entry.set_status(status),
    }
}

impl PortDevice for Hypercall {
    fn read(&self, vcpu: usize, _: u16, data: &mut [u8]) {
        data.fill(0);
        if let Some(vcpu) = self.vcpus.get(vcpu) {
            let status = vcpu.last.load(Ordering::Acquire).to_le_bytes();
            for (place, byte) in data.iter_mut().zip(status) {
                *place = byte;
            }
        }
    }

    fn write(&self, vcpu: usize, _: u16, _: &[u8]) -> Signal {
        let Some(conversation) = self.vcpus.get(vcpu) else { return Signal::None };
        self.ring(conversation).unwrap_or_else(|error| {
            log::error!("vCPU {vcpu}'s call page cannot be reached: {error}");
            Signal::BackingLost
        })
    }
}

#[cfg(test)]
mod test;
