//! What a machine is made of, and why one cannot be started.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use vmm_sys_util::eventfd::EventFd;
use wirevm_abi::boot::MAX_VCPUS;
use wirevm_devices::bus::OverlapError;
use wirevm_devices::faults::HostFaults;
use wirevm_devices::pin::{LimitError, PinKind, ViewMethodError};
use wirevm_devices::ramfile::RamFileError;
use wirevm_devices::store::StoreStartError;
use wirevm_devices::sync::SyncStartError;
use wirevm_devices::view::ViewError;
use wirevm_devices::witness::WitnessError;

use crate::boot::ImageError;
use crate::kvm::KvmError;
use crate::memory::MemoryError;
use crate::vcpu::StateError;
use crate::vm::VmError;

/// What to do when storage reports an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StorageErrorPolicy {
    /// Stop the guest: memory that is not wired may already have reverted to what storage has. Where all of it is wired, and
    /// so none has, the guest goes on.
    #[default]
    Stop,
    /// Let it run; every further sync is refused.
    Latch,
}

/// What a machine is made of, besides its RAM file and its image.
pub struct MachineConfig {
    /// How many vCPUs it has: 1 to [`MAX_VCPUS`].
    pub vcpus: u32,
    /// The [archive](wirevm_abi::archive) of programs that the guest finds; see [`crate::boot::ArchiveBuilder`].
    pub archive: Option<Arc<[u8]>>,
    /// Pages that the guest may keep wired.
    pub wire_quota_pages: u64,
    /// How the host holds them; [`PinKind::best`] says what it can do.
    pub pin: PinKind,
    /// Failures that locks are to meet, for whoever wants to see how a guest copes.
    pub lock_faults: Option<HostFaults>,
    /// Failures that storage is to meet, likewise: of RAM and of stores.
    pub storage_faults: Option<HostFaults>,
    /// The folder that stores are kept in; none, and the guest has no stores.
    pub store_dir: Option<PathBuf>,
    /// Pages that the guest's open stores may have together.
    pub store_quota_pages: u64,
    /// How long the machine may run.
    pub time_limit: Option<Duration>,
    /// What to do when storage reports an error.
    pub on_storage_error: StorageErrorPolicy,
    /// Most detailed level that the guest logs: 0 off, 1 error to 5 trace.
    pub guest_log_level: u64,
    /// Where the guest's console goes.
    pub console: Box<dyn Write + Send>,
    /// Whether standard input is the console's keyboard.
    pub keyboard: bool,
    /// Whether to run the guest one instruction at a time, and count, until it takes commands: slow, for measuring where
    /// KVM does not count.
    pub single_step: bool,
    /// Called when the host's services are made, while KVM is still being waited for: what made them is not needed any more, which a
    /// program that minds its memory may want to know.
    pub before_load: Option<fn()>,
    /// An event that becomes readable when the user wants to end, such as [`crate::signal::install`] gives.
    pub interrupted: Option<EventFd>,
}

impl std::fmt::Debug for MachineConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MachineConfig")
            .field("vcpus", &self.vcpus)
            .field("wire_quota_pages", &self.wire_quota_pages)
            .field("pin", &self.pin)
            .field("time_limit", &self.time_limit)
            .finish_non_exhaustive()
    }
}

/// A machine could not be started.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// It would have no vCPU, or too many.
    #[error("a machine has 1 to {MAX_VCPUS} vCPUs, not {asked}")]
    Vcpus {
        /// How many were asked for.
        asked: u32,
    },
    /// No usable KVM.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// KVM refused part of the machine.
    #[error(transparent)]
    Vm(#[from] VmError),
    /// KVM refused the entry state.
    #[error(transparent)]
    State(#[from] StateError),
    /// RAM could not be mapped for the guest.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// RAM could not be mapped for the host's services.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The image is refused.
    #[error(transparent)]
    Image(#[from] ImageError),
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
    /// The store service could not start.
    #[error(transparent)]
    Stores(#[from] StoreStartError),
    /// The witness could not start.
    #[error(transparent)]
    Witness(#[from] WitnessError),
    /// Two devices want the same port.
    #[error(transparent)]
    Bus(#[from] OverlapError),
    /// The host's own machinery failed.
    #[error("the machine's {what} cannot be set up")]
    Host {
        /// Which part.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

pub(super) fn host(what: &'static str) -> impl FnOnce(io::Error) -> MachineError {
    move |source| MachineError::Host { what, source }
}
