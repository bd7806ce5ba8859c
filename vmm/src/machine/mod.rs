//! A virtual machine from start to end.

mod config;
mod shared;
mod start;

pub use config::{MachineConfig, MachineError, StorageErrorPolicy};
pub use shared::{BootReport, Shared};

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use wirevm_devices::completion::CompletionStats;
use wirevm_devices::pin::PinService;
use wirevm_devices::ramfile::{RamFile, RamFileError, RamState};
use wirevm_devices::store::StoreStats;
use wirevm_devices::sync::{LatchedError, SyncService};
use wirevm_devices::witness::Witness;

use crate::channel::Channel;
use crate::memory::GuestRam;
use crate::outcome::Outcome;
use crate::vcpu::{ExitCost, Meter};
use crate::vm::{VcpuStats, Vm};
use start::Services;

/// How long a stopped vCPU may take to leave the guest.
const JOIN_LIMIT: Duration = Duration::from_secs(5);

/// A running machine. Dropping it stops it and does the rest of what [`Machine::finish`] does.
#[derive(Debug)]
pub struct Machine {
    shared: Arc<Shared>,
    channel: Channel,
    witness: Witness,
    threads: Vec<JoinHandle<()>>,
    services: Services,
    meter: Arc<Meter>,
    ram: Arc<RamFile>,
    // The VM goes before the memory that it was given: fields are dropped in this order.
    _vm: Vm,
    _memory: Arc<GuestRam>,
}

impl Machine {
    /// Starts a machine on a RAM file with an image. The RAM file is marked open before anything of it changes, and clean
    /// again by [`Machine::finish`].
    ///
    /// A kick of a vCPU is the first real-time signal (`SIGRTMIN`), whose handler this takes over for the process.
    ///
    /// # Errors
    /// [`MachineError`]; nothing runs then and nothing stays locked.
    pub fn start(config: MachineConfig, ram: RamFile, image: &[u8]) -> Result<Self, MachineError> {
        start::start(config, ram, image)
    }

    /// Waits until the guest takes commands.
    ///
    /// # Errors
    /// The outcome, when the machine ended before.
    pub fn wait_ready(&self) -> Result<BootReport, Outcome> {
        self.shared.wait_ready()
    }

    /// Returns when the first vCPU entered the guest, which is the moment before its first `KVM_RUN`; none before.
    #[must_use]
    pub fn first_entry(&self) -> Option<Instant> {
        self.shared.first_entry()
    }

    /// Waits until the machine has ended and says how.
    #[must_use]
    pub fn wait(&self) -> Outcome {
        self.shared.wait_end()
    }

    /// Returns the outcome if the machine has ended.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        self.shared.outcome()
    }

    /// Stops the machine, if it runs.
    pub fn stop(&self) {
        self.shared.end(Outcome::Stopped);
    }

    /// Returns the way to the guest's agent.
    pub const fn channel(&mut self) -> &mut Channel {
        &mut self.channel
    }

    /// Returns the witness of the host's truth about RAM.
    #[must_use]
    pub const fn witness(&self) -> &Witness {
        &self.witness
    }

    /// Returns the number of pages of guest RAM.
    #[must_use]
    pub fn ram_pages(&self) -> u64 {
        self.ram.pages()
    }

    /// Returns how many hypercalls the guest has made: exits by the doorbell, whatever number of entries each carried.
    #[must_use]
    pub fn hypercalls(&self) -> u64 {
        self.services.writers.as_ref().map_or(0, |writers| writers.hypercall.doorbells())
    }

    /// Returns what KVM counts of a vCPU, where it does.
    #[must_use]
    pub fn vcpu_stats(&self, vcpu: usize) -> Option<&VcpuStats> {
        self.meter.stats(vcpu)
    }

    /// Returns the number of instructions that KVM has emulated on all vCPUs, where it counts: see [`Meter`].
    #[must_use]
    pub fn emulated_instructions(&self) -> Option<u64> {
        self.meter.emulated_instructions()
    }

    /// Returns what the vCPUs' exits have cost this process so far.
    #[must_use]
    pub fn exit_cost(&self) -> ExitCost {
        self.meter.exit_cost()
    }

    /// Returns the pin service.
    #[must_use]
    pub fn pins(&self) -> &PinService {
        &self.services.pins
    }

    /// Returns the sync service.
    #[must_use]
    pub fn syncs(&self) -> &SyncService {
        &self.services.syncs
    }

    /// Returns what became of the entries that were answered later.
    #[must_use]
    pub fn completions(&self) -> CompletionStats {
        self.services.completions.stats()
    }

    /// Returns what the store service has done.
    #[must_use]
    pub fn stores(&self) -> StoreStats {
        self.services.writers.as_ref().map_or_else(StoreStats::default, |writers| writers.stores.stats())
    }

    /// Waits for the end, releases every pin, and marks the RAM file: clean, or failed if storage ever did. A file that
    /// was cut short is left alone.
    ///
    /// # Errors
    /// [`MachineError::RamFile`] when the mark could not be written; the outcome is lost then, everything else is
    /// done.
    pub fn finish(mut self) -> Result<Outcome, MachineError> {
        let outcome = self.shared.unless_cut(self.wait());
        self.close(&outcome)?;
        Ok(outcome)
    }

    /// Ends the threads, releases every pin and marks the RAM file.
    fn close(&mut self, outcome: &Outcome) -> Result<(), RamFileError> {
        if let Some(instructions) = self.emulated_instructions() {
            log::debug!("the guest has carried out {instructions} emulated instructions");
        }
        let joined = self.join();
        self.services.pins.release_all();
        // A store that is still being read would change RAM behind the mark.
        drop(self.services.writers.take());
        if matches!(outcome, Outcome::BackingLost { .. }) {
            // A write to the header could make the cut file longer again.
            return Ok(());
        }
        match self.services.syncs.latched() {
            // It was marked when storage failed; what did not take it then may take it now.
            Some(error) => {
                mark_failed(&self.ram, error);
                Ok(())
            }
            None if joined => self.ram.set_state(RamState::Clean),
            // The guest may still store to its RAM.
            None => Ok(()),
        }
    }

    /// Waits for the threads; tells whether all have ended.
    fn join(&mut self) -> bool {
        let deadline = Instant::now() + JOIN_LIMIT;
        let mut joined = true;
        for handle in self.threads.drain(..) {
            while !handle.is_finished() && Instant::now() < deadline {
                self.shared.vcpus.kick_all();
                thread::sleep(Duration::from_millis(1));
            }
            if !handle.is_finished() {
                log::error!("a thread of the machine did not end within {} s", JOIN_LIMIT.as_secs());
                joined = false;
                continue;
            }
            if handle.join().is_err() {
                log::error!("a thread of the machine panicked");
            }
        }
        joined
    }
}

/// Marks the RAM file as one under which storage has failed. Best effort: the storage that should take the mark is the one that
/// failed, and its error may be told once more although the mark is there.
fn mark_failed(ram: &RamFile, error: LatchedError) {
    let state = RamState::Failed { errno: error.errno, first_page: error.first_page };
    if let Err(error) = ram.set_state(state) {
        log::warn!("the RAM file may not be marked as failed: {error}");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Nothing is left to do behind `finish`, which has taken the threads.
        if self.threads.is_empty() {
            return;
        }
        self.stop();
        let outcome = self.shared.unless_cut(self.wait());
        if let Err(error) = self.close(&outcome) {
            log::warn!("the RAM file cannot be marked as clean: {error}");
        }
    }
}
