//! The memory system on this host's services, from start to end.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use wirevm_agent::{Agent, Reply, Request};
use wirevm_devices::durability::Durability;
use wirevm_devices::faults::HostFaults;
use wirevm_devices::guest_memory::GuestMemory;
use wirevm_devices::pin::{FaultyMethod, LimitError, PinConfig, PinKind, PinService, ViewMethodError};
use wirevm_devices::ramfile::{RamFile, RamFileError, RamState};
use wirevm_devices::store::{StoreConfig, StoreService, StoreStartError};
use wirevm_devices::sync::{HealthProbe, LatchedError, RamProbe, SyncConfig, SyncService, SyncStartError, WiredOracle};
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
use crate::script::awaits::settled;
use crate::script::target::{HostFault, StorageFault, Target, TargetError, WitnessAnswer, WitnessQuery};
use crate::witness;

/// What a [`HostedTarget`] is made of, besides its RAM file.
#[derive(Clone, Debug)]
pub struct HostedConfig {
    /// Pages that may be kept wired.
    pub wire_quota_pages: u64,
    /// How they are held.
    pub pin: PinKind,
    /// The folder for stores, and how many pages all that are open may have together; no stores if `None`.
    pub stores: Option<(PathBuf, u64)>,
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
    /// Pages can't be wired that way.
    #[error(transparent)]
    PinMethod(#[from] ViewMethodError),
    /// The sync service could not start.
    #[error(transparent)]
    Syncs(#[from] SyncStartError),
    /// The stores could not start.
    #[error(transparent)]
    Stores(#[from] StoreStartError),
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
    lock_faults: HostFaults,
    storage_faults: HostFaults,
    /// Whether a script holds storage.
    holds_storage: bool,
    store_folder: Option<PathBuf>,
    on_storage_error: StorageErrorPolicy,
    ram: Arc<RamFile>,
}

impl HostedTarget {
    /// Starts the services and the agent over a RAM file, which is marked open before anything of it changes.
    ///
    /// # Errors
    /// [`HostedError`]; nothing stays locked then.
    pub fn start(config: HostedConfig, ram: RamFile) -> Result<Self, HostedError> {
        let memory = Arc::new(HostedRam::new(GuestRam::map(&ram)?));
        let view = Arc::new(View::new(&ram)?);
        let lock_faults = HostFaults::default();
        let method = FaultyMethod::new(config.pin.method(Arc::clone(&view))?, lock_faults.clone());
        let pin_config = PinConfig {
            ram_pages: ram.pages(),
            quota_pages: config.wire_quota_pages,
            map_entry_budget: config.pin.map_entry_budget()?,
        };
        let pins = Arc::new(PinService::new(Box::new(method), pin_config));
        let ram = Arc::new(ram);
        let storage_faults = HostFaults::default();
        let syncs = Arc::new(start_syncs(&ram, &pins, &storage_faults)?);
        let store_folder = config.stores.as_ref().map(|(folder, _)| folder.clone());
        let stores = Arc::new(start_stores(config.stores, &memory, &storage_faults)?);
        let witness = Witness::new(view, &ram)?;
        let zero = ram.is_zero();
        ram.set_state(RamState::Open)?;
        let services = Services {
            pins: Arc::clone(&pins),
            syncs: Arc::clone(&syncs),
            stores,
            discard: ram.discard()?,
            discarded_pages: AtomicU64::new(0),
            ram_pages: ram.pages(),
        };
        let frames = HostedFrames::new(Arc::clone(&memory), ram.pages(), zero);
        let vm = Vm::<HostedPorts>::new(ServiceHost::new(services), frames, config.wire_quota_pages);
        let map = VmMap::new(vm, TASK_PAGES, FakePmap::new());
        let agent = Agent::new(map, SoftwareMemory::new(Arc::clone(&memory)));
        let agent = AgentThread::start(config.limits, async move |words: &[u64]| agent.answer(words).await)?;
        let on_storage_error = config.on_storage_error;
        Ok(Self {
            agent,
            memory,
            pins,
            syncs,
            witness,
            lock_faults,
            storage_faults,
            holds_storage: false,
            store_folder,
            on_storage_error,
            ram,
        })
    }

    /// Ends the agent, releases every pin, and marks the RAM file: clean, or failed if storage ever did.
    ///
    /// # Errors
    /// [`CommandError`] when storage failed, RAM is gone, or the mark could not be written; everything else is done.
    pub fn finish(mut self) -> Result<(), CommandError> {
        self.storage_faults.release();
        let joined = self.agent.end();
        self.pins.release_all();
        if self.memory.is_lost() || !self.ram.is_intact() {
            // A write to the header could make the cut file longer again.
            return Err(ended(&Outcome::BackingLost { address: None }));
        }
        match self.syncs.latched() {
            Some(error) => {
                mark_failed(&self.ram, error);
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
            // Where all of RAM is wired, nothing can have reverted.
            (StorageErrorPolicy::Stop, Some(error)) if !error.nothing_reverted => {
                Err(ended(&Outcome::StorageError { reason: error.to_string() }))
            }
            _ => Ok(()),
        }
    }
}

impl Target for HostedTarget {
    fn call(&mut self, request: &Request) -> Result<Reply, TargetError> {
        let reply = settled(request, self.holds_storage, |request| {
            let mut words = Vec::new();
            request.encode(&mut words);
            self.agent.call(words)
        });
        self.look()?;
        reply
    }

    fn witness(&mut self, query: WitnessQuery) -> Result<WitnessAnswer, TargetError> {
        match query {
            WitnessQuery::StorePage { name, page } => witness::store_page(self.store_folder.as_deref(), name, page),
            query => witness::answer(&self.witness, self.ram.pages(), &query),
        }
    }

    fn fail_storage(&mut self, fault: StorageFault) -> Result<(), TargetError> {
        self.storage_faults.fail_nth(fault.nth, fault.errno.number());
        Ok(())
    }

    fn hold_storage(&mut self, hold: bool) -> Result<(), TargetError> {
        self.holds_storage = hold;
        if hold {
            self.storage_faults.hold();
        } else {
            self.storage_faults.release();
        }
        Ok(())
    }

    fn fail_host(&mut self, fault: HostFault) -> Result<(), TargetError> {
        self.lock_faults.fail_nth(fault.nth, fault.errno.number());
        Ok(())
    }
}

impl Drop for HostedTarget {
    /// What a script holds must not hold up the end of the services.
    fn drop(&mut self) {
        self.storage_faults.release();
    }
}

/// Starts what makes RAM stable. Pages that have stayed locked since storage was good hold what was stored, so they can be
/// repaired when it fails. Whoever calls the target looks at the latch behind each request.
fn start_syncs(ram: &Arc<RamFile>, pins: &Arc<PinService>, faults: &HostFaults) -> Result<SyncService, SyncStartError> {
    if ram.durability() == Durability::Shared {
        let mut probe = RamProbe::new(ram)?;
        pins.watch(move || probe.check());
    }
    let held = Arc::clone(pins);
    let oracle = WiredOracle::new(move |run| held.is_held(run));
    let config = SyncConfig { oracle, faults: Some(faults.clone()), ..SyncConfig::default() };
    let file = Arc::clone(ram);
    // Before anybody is answered: whoever knows, and is killed then, leaves a file that knows (rule D13).
    SyncService::start(ram, config, move |error| mark_failed(&file, error))
}

fn mark_failed(ram: &RamFile, error: LatchedError) {
    let state = RamState::Failed { errno: error.errno, first_page: error.first_page };
    if let Err(error) = ram.set_state(state) {
        log::warn!("the RAM file may not be marked as failed: {error}");
    }
}

fn start_stores(
    stores: Option<(PathBuf, u64)>,
    memory: &HostedRam,
    faults: &HostFaults,
) -> Result<StoreService, StoreStartError> {
    let Some((folder, quota_pages)) = stores else { return Ok(StoreService::unsupported()) };
    let config = StoreConfig { quota_pages, faults: faults.clone(), ..StoreConfig::default() };
    let reach: Arc<dyn GuestMemory> = Arc::clone(memory.memory()) as Arc<dyn GuestMemory>;
    StoreService::start(&folder, config, reach)
}
