//! The memory system on this host's services, from start to end.

use std::sync::Arc;

use wirevm_agent::{Agent, Reply, Request};
use wirevm_devices::pin::{FaultyMethod, LimitError, LockFaults, PinConfig, PinService, RunsMethod, map_entry_budget};
use wirevm_devices::ramfile::{RamFile, RamFileError, RamState};
use wirevm_devices::sync::{SyncConfig, SyncService, SyncStartError};
use wirevm_devices::view::{View, ViewError};
use wirevm_devices::witness::{Witness, WitnessError};
use wirevm_map::fake::FakePmap;
use wirevm_map::{Vm, VmMap};
use wirevm_vmm::memory::{GuestRam, MemoryError};
use wirevm_vmm::{Outcome, StorageErrorPolicy};

use super::HostedPorts;
use super::frames::HostedFrames;
use super::ram::HostedRam;
use super::services::Services;
use crate::exit_code::{CommandError, ExitCode};
use crate::in_process::{AgentThread, Limits, ServiceHost, SoftwareMemory, TASK_PAGES};
use crate::kvm_target::ended;
use crate::script::target::{HostFault, Target, TargetError, WitnessAnswer, WitnessQuery};
use crate::witness;

/// What a [`HostedTarget`] is made of, besides its RAM file.
#[derive(Clone, Copy, Debug)]
pub struct HostedConfig {
    /// Pages that may be kept wired.
    pub wire_quota_pages: u64,
    /// What to do when storage reports an error.
    pub on_storage_error: StorageErrorPolicy,
    /// What ends it from outside.
    pub limits: Limits,
}

/// The services could not be started.
#[derive(Debug, thiserror::Error)]
pub enum HostedError {
    /// RAM could not be mapped for the memory system.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// RAM could not be mapped for the host's services.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The RAM file failed.
    #[error(transparent)]
    RamFile(#[from] RamFileError),
    /// The pin service could not start.
    #[error(transparent)]
    Pins(#[from] LimitError),
    /// The sync service could not start.
    #[error(transparent)]
    Syncs(#[from] SyncStartError),
    /// The witness could not start.
    #[error(transparent)]
    Witness(#[from] WitnessError),
    /// The agent could not start.
    #[error(transparent)]
    Agent(#[from] TargetError),
}

/// The memory system in this process over the real RAM file, locks and syncs.
#[derive(Debug)]
pub struct HostedTarget {
    agent: AgentThread,
    memory: Arc<HostedRam>,
    pins: Arc<PinService>,
    syncs: Arc<SyncService>,
    witness: Witness,
    lock_faults: LockFaults,
    on_storage_error: StorageErrorPolicy,
    ram: RamFile,
}

impl HostedTarget {
    /// Starts the services and the agent over a RAM file, which is marked open before anything of it changes.
    ///
    /// # Errors
    /// [`HostedError`]; nothing stays locked then.
    pub fn start(config: HostedConfig, ram: RamFile) -> Result<Self, HostedError> {
        let memory = Arc::new(HostedRam::new(GuestRam::map(&ram)?));
        let view = Arc::new(View::new(&ram)?);
        let lock_faults = LockFaults::default();
        let method = FaultyMethod::new(RunsMethod::new(Arc::clone(&view)), lock_faults.clone());
        let pin_config = PinConfig {
            ram_pages: ram.pages(),
            quota_pages: config.wire_quota_pages,
            map_entry_budget: map_entry_budget()?,
        };
        let pins = Arc::new(PinService::new(Box::new(method), pin_config));
        // Whoever calls looks at the latch behind each request.
        let syncs = Arc::new(SyncService::start(&ram, SyncConfig::default(), |_| {})?);
        let witness = Witness::new(view, &ram)?;
        let zero = ram.is_zero();
        ram.set_state(RamState::Open)?;
        let services = Services { pins: Arc::clone(&pins), syncs: Arc::clone(&syncs), ram_pages: ram.pages() };
        let frames = HostedFrames::new(Arc::clone(&memory), ram.pages(), zero);
        let vm = Vm::<HostedPorts>::new(ServiceHost::new(services), frames, config.wire_quota_pages);
        let map = VmMap::new(vm, TASK_PAGES, FakePmap::new());
        let agent = Agent::new(map, SoftwareMemory::new(Arc::clone(&memory)));
        let agent = AgentThread::start(config.limits, move |words| agent.answer_now(words))?;
        let on_storage_error = config.on_storage_error;
        Ok(Self { agent, memory, pins, syncs, witness, lock_faults, on_storage_error, ram })
    }

    /// Ends the agent, releases every pin, and marks the RAM file: clean, or failed if storage ever did.
    ///
    /// # Errors
    /// [`CommandError`] when storage failed, RAM is gone, or the mark could not be written; everything else is done.
    pub fn finish(mut self) -> Result<(), CommandError> {
        let joined = self.agent.end();
        self.pins.release_all();
        if self.memory.is_lost() || !self.ram.is_intact() {
            // A write to the header could make the cut file longer again.
            return Err(ended(&Outcome::BackingLost { address: None }));
        }
        match self.syncs.latched() {
            Some(error) => {
                let state = RamState::Failed { errno: error.errno, first_page: error.first_page };
                if let Err(error) = self.ram.set_state(state) {
                    log::warn!("the RAM file may not be marked as failed: {error}");
                }
                Err(CommandError::new(ExitCode::Storage, error.to_string()))
            }
            None if joined => {
                self.ram.set_state(RamState::Clean).map_err(|error| CommandError::new(ExitCode::RamFile, error))
            }
            // The agent may still store to RAM.
            None => Ok(()),
        }
    }

    /// Tells what has gone wrong below the memory system.
    fn look(&self) -> Result<(), TargetError> {
        if self.memory.is_lost() {
            return Err(ended(&Outcome::BackingLost { address: None }));
        }
        match (self.on_storage_error, self.syncs.latched()) {
            (StorageErrorPolicy::Stop, Some(error)) => Err(ended(&Outcome::StorageError { reason: error.to_string() })),
            _ => Ok(()),
        }
    }
}

impl Target for HostedTarget {
    fn call(&mut self, request: &Request) -> Result<Reply, TargetError> {
        let mut words = Vec::new();
        request.encode(&mut words);
        let reply = self.agent.call(words);
        self.look()?;
        reply
    }

    fn witness(&mut self, query: WitnessQuery) -> Result<WitnessAnswer, TargetError> {
        witness::answer(&self.witness, self.ram.pages(), &query)
    }

    fn fail_host(&mut self, fault: HostFault) -> Result<(), TargetError> {
        self.lock_faults.fail_nth(fault.nth, fault.errno.number());
        Ok(())
    }
}
