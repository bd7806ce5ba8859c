//! The memory system on the model.

use std::sync::Arc;

use wirevm_agent::{Agent, Reply, Request};
use wirevm_devices::faults::HostFaults;
use wirevm_map::fake::{FakeHost, FakePmap};
use wirevm_map::{FrameRun, Vm, VmMap};
use wirevm_vmm::{Outcome, StorageErrorPolicy};

use super::ModelPorts;
use super::frames::ModelFrames;
use super::model::{Model, ModelConfig, Storage, wired_pages};
use super::ram::ModelRam;
use crate::exit_code::{CommandError, ExitCode};
use crate::in_process::{AgentThread, FrameBytes, Limits, ServiceHost, SoftwareMemory, TASK_PAGES};
use crate::kvm_target::ended;
use crate::script::awaits::settled;
use crate::script::target::{HostFault, StorageFault, Target, TargetError, WitnessAnswer, WitnessQuery};

/// What a [`FakeTarget`] is made of.
#[derive(Clone, Copy, Debug)]
pub struct FakeConfig {
    /// Pages of RAM.
    pub ram_pages: u64,
    /// Pages that may be kept wired.
    pub wire_quota_pages: u64,
    /// Whether there is storage to sync to.
    pub durable: bool,
    /// Pages that all open stores may have together; no stores if `None`.
    pub store_quota_pages: Option<u64>,
    /// What to do when a sync of RAM fails.
    pub on_storage_error: StorageErrorPolicy,
    /// What ends it from outside.
    pub limits: Limits,
}

/// The memory system in this process over a model of a host.
#[derive(Debug)]
pub struct FakeTarget {
    agent: AgentThread,
    ram: Arc<ModelRam>,
    ledger: Arc<FakeHost>,
    lock_faults: HostFaults,
    storage: Arc<Storage>,
    /// Whether a script holds storage.
    holds_storage: bool,
    config: FakeConfig,
}

impl FakeTarget {
    /// Starts the agent over a RAM of zeros.
    ///
    /// # Errors
    /// [`TargetError`] when there can be no thread for it.
    pub fn start(config: FakeConfig) -> Result<Self, TargetError> {
        let FakeConfig { ram_pages, wire_quota_pages, durable, store_quota_pages, .. } = config;
        let ram = Arc::new(ModelRam::default());
        let lock_faults = HostFaults::default();
        let model_config = ModelConfig { wire_quota_pages, durable, store_quota_pages };
        let model = Model::new(Arc::clone(&ram), lock_faults.clone(), model_config);
        let (ledger, storage) = (model.ledger(), model.storage());
        let frames = ModelFrames::new(Arc::clone(&ram), ram_pages);
        let vm = Vm::<ModelPorts>::new(ServiceHost::new(model), frames, wire_quota_pages);
        let map = VmMap::new(vm, TASK_PAGES, FakePmap::new());
        let agent = Agent::new(map, SoftwareMemory::new(Arc::clone(&ram)));
        let agent = AgentThread::start(config.limits, async move |words: &[u64]| agent.answer(words).await)?;
        Ok(Self { agent, ram, ledger, lock_faults, storage, holds_storage: false, config })
    }

    /// Ends the agent.
    ///
    /// # Errors
    /// [`CommandError`] when storage failed.
    pub fn finish(mut self) -> Result<(), CommandError> {
        self.agent.end();
        match self.storage.latched() {
            Some(error) => Err(CommandError::new(ExitCode::Storage, error.to_string())),
            None => Ok(()),
        }
    }

    /// Checks that the guest spoke of frames that there are.
    fn check(&self, runs: &[FrameRun]) -> Result<(), TargetError> {
        match runs.iter().find(|run| run.end() > self.config.ram_pages) {
            Some(run) => {
                let reason = format!("the guest's agent answered with frames {run:?}, which RAM does not have");
                Err(CommandError::new(ExitCode::Failure, reason))
            }
            None => Ok(()),
        }
    }
}

impl Target for FakeTarget {
    fn call(&mut self, request: &Request) -> Result<Reply, TargetError> {
        let reply = settled(request, self.holds_storage, |request| {
            let mut words = Vec::new();
            request.encode(&mut words);
            self.agent.call(words)
        });
        // A real host's memory may have reverted; this one ends like it.
        match (self.config.on_storage_error, self.storage.latched()) {
            (StorageErrorPolicy::Stop, Some(error)) => Err(ended(&Outcome::StorageError { reason: error.to_string() })),
            _ => reply,
        }
    }

    /// A page that has a frame is resident. What a second descriptor of the file would read is what was stored last,
    /// stable or not.
    fn witness(&mut self, query: WitnessQuery) -> Result<WitnessAnswer, TargetError> {
        Ok(match query {
            WitnessQuery::Locked => WitnessAnswer::Pages(wired_pages(&self.ledger)),
            WitnessQuery::Resident(runs) => {
                self.check(&runs)?;
                WitnessAnswer::Pages(runs.iter().map(|run| run.pages).sum())
            }
            WitnessQuery::Dirty(_) if !self.config.durable => WitnessAnswer::Unsupported,
            WitnessQuery::Dirty(runs) => {
                self.check(&runs)?;
                WitnessAnswer::Pages(runs.iter().map(|run| self.ram.dirty_pages(*run)).sum())
            }
            WitnessQuery::StorePage { name, page } => {
                let mut bytes = Box::new([0; 4096]);
                match self.ledger.read_store(name.as_str(), page, &mut bytes) {
                    true => WitnessAnswer::Page(bytes),
                    false => WitnessAnswer::Unsupported,
                }
            }
            WitnessQuery::Page(frame) => {
                self.check(&[FrameRun::new(frame, 1)])?;
                let mut page = Box::new([0; 4096]);
                self.ram.read(frame, 0, page.as_mut_slice());
                WitnessAnswer::Page(page)
            }
        })
    }

    fn fail_host(&mut self, fault: HostFault) -> Result<(), TargetError> {
        self.lock_faults.fail_nth(fault.nth, fault.errno.number());
        Ok(())
    }

    fn fail_storage(&mut self, fault: StorageFault) -> Result<(), TargetError> {
        self.storage.fail_nth(fault.nth, fault.errno.number());
        Ok(())
    }

    fn hold_storage(&mut self, hold: bool) -> Result<(), TargetError> {
        self.holds_storage = hold;
        self.storage.hold(hold);
        Ok(())
    }
}
