//! The doorbell: takes a call page in once, checks it, carries its entries out, and writes statuses and results back.
//!
//! The write-back is one copy of the header and the entries that were looked at: words that are neither status nor
//! result go back as they were read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};

use wirevm_abi::call::{CallEntry, CallHeader, CallPage, MAX_ENTRIES};
use wirevm_abi::request::{Request, SyncWait, decode};
use wirevm_abi::{RamRange, Status, VERSION, feature, op};
use zerocopy::{FromZeros, IntoBytes};

use crate::bus::{PortDevice, Signal};
use crate::guest_memory::{BackingLostError, GuestMemory};
use crate::pin::PinService;
use crate::sync::{SyncService, Wait};

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
    memory: Arc<dyn GuestMemory>,
    pins: Arc<PinService>,
    syncs: Arc<SyncService>,
    ram_pages: u64,
    vcpus: Vec<Conversation>,
    /// Doorbells that were answered.
    doorbells: AtomicU64,
}

/// What carrying out a call's entries led to.
struct Outcome {
    signal: Signal,
    /// Entries that were looked at.
    done: usize,
}

impl Hypercall {
    /// Returns the device for a RAM of `ram_pages` pages; vCPU n's call page is `call_pages[n]`.
    #[must_use]
    pub fn new(
        memory: Arc<dyn GuestMemory>,
        pins: Arc<PinService>,
        syncs: Arc<SyncService>,
        ram_pages: u64,
        call_pages: &[RamRange],
    ) -> Self {
        let conversation = |page: &RamRange| Conversation {
            page: *page,
            greeted: AtomicBool::new(false),
            last: AtomicU16::new(Status::NOT_DONE.bits()),
        };
        Self {
            memory,
            pins,
            syncs,
            ram_pages,
            vcpus: call_pages.iter().map(conversation).collect(),
            doorbells: AtomicU64::new(0),
        }
    }

    /// Returns how many doorbells were answered: one a call, however many entries it has.
    #[must_use]
    pub fn doorbells(&self) -> u64 {
        self.doorbells.load(Ordering::Relaxed)
    }

    fn ring(&self, vcpu: &Conversation) -> Result<Signal, BackingLostError> {
        self.doorbells.fetch_add(1, Ordering::Relaxed);
        let mut call = CallPage::new_zeroed();
        self.memory.read(vcpu.page, call.as_mut_bytes())?;
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
        self.memory.write(vcpu.page, call.as_bytes().get(..answered).unwrap_or(&[]))?;
        vcpu.last.store(status.bits(), Ordering::Release);
        Ok(outcome.signal)
    }

    /// Carries entries out in order and leaves each one's status and results in it.
    fn carry_out(&self, vcpu: &Conversation, entries: &mut [CallEntry]) -> Outcome {
        let mut next = 0;
        while let Some(entry) = entries.get_mut(next) {
            // An error for whatever path would forget to answer.
            entry.set_status(Status::NOT_DONE);
            match decode(entry, self.ram_pages) {
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
                Ok(Request::Wire(range)) => entry.set_status(match self.pins.wire(range) {
                    Ok(()) => Status::OK,
                    Err(error) => error.status(),
                }),
                Ok(Request::Unwire(range)) => entry.set_status(match self.pins.unwire(range) {
                    Ok(()) => Status::OK,
                    Err(error) => error.status(),
                }),
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
        let features = if self.syncs.is_supported() { feature::SYNC } else { 0 };
        entry.words = [VERSION, features, self.pins.quota_pages()];
        entry.set_status(Status::OK);
        vcpu.greeted.store(true, Ordering::Release);
    }

    /// Carries out the `SYNC` entries at the front of `entries` that wait alike, as one request; returns how many.
    fn sync(&self, wait: SyncWait, entries: &mut [CallEntry]) -> usize {
        let mut ranges = Vec::with_capacity(entries.len());
        for entry in &*entries {
            match decode(entry, self.ram_pages) {
                Ok(Request::Sync { range, wait: same, .. }) if same == wait => ranges.push(range),
                _ => break,
            }
        }
        let wait = match wait {
            SyncWait::Wait => Wait::Wait,
            SyncWait::NoWait => Wait::NoWait,
        };
        let answers = self.syncs.submit(&ranges, wait);
        for (entry, status) in entries.iter_mut().zip(answers) {
            entry.set_status(status);
        }
        ranges.len()
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
