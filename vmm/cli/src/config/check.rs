//! Options that were checked, and the checks.

use std::path::PathBuf;
use std::time::Duration;

use wirevm_abi::archive::MAX_ENTRIES;
use wirevm_abi::boot::MAX_VCPUS;
use wirevm_abi::{LARGE_PAGE_SIZE, PAGE_SIZE};
use wirevm_devices::durability::Durability;
use wirevm_devices::folio::FolioPolicy;

use super::error::ConfigError;
use super::{Config, DEFAULT_STORE_QUOTA_BYTES, MemoryConfig, OnStorageError, Pin, Size};
use crate::hosts::On;
use crate::program::Wanted;

/// Largest guest RAM that is accepted: what KVM takes in one piece, 2^31 - 1 pages, in large pages.
pub(super) const MAX_RAM_BYTES: u64 = ((1 << 31) - 1) * PAGE_SIZE / LARGE_PAGE_SIZE * LARGE_PAGE_SIZE;
/// Longest time limit: a year.
const MAX_TIMEOUT_SECONDS: f64 = 366.0 * 24.0 * 3600.0;

/// Checked options of guest memory; `None` leaves the choice to the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryOptions {
    /// RAM size in bytes, a multiple of 2 MiB.
    pub size_bytes: Option<u64>,
    /// RAM file, which is made if it does not exist.
    pub file: Option<PathBuf>,
    /// What a sync promises; never [`Durability::Atomic`].
    pub durability: Option<Durability>,
    /// In what pieces the kernel keeps the RAM file; none beside [`Durability::None`].
    pub folio: Option<FolioPolicy>,
}

/// Checked options of stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// The folder; nobody has looked at it.
    pub folder: PathBuf,
    /// Most bytes that the guest may have in stores, a multiple of the page size.
    pub quota_bytes: u64,
}

/// Checked options of a machine; `None` leaves the choice to the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineOptions {
    /// What a script is carried out on.
    pub on: On,
    /// Guest image; the built-in one if `None`.
    pub kernel: Option<PathBuf>,
    /// How many vCPUs the guest has; one if `None`.
    pub vcpus: Option<u32>,
    /// Guest memory.
    pub memory: MemoryOptions,
    /// Most bytes that the guest may keep wired, a multiple of the page size.
    pub wire_quota_bytes: Option<u64>,
    /// How the host holds wired pages.
    pub pin: Pin,
    /// Stores; none if `None`.
    pub store: Option<StoreOptions>,
    /// How long the machine may run.
    pub timeout: Option<Duration>,
    /// What happens when storage reports an error.
    pub on_storage_error: OnStorageError,
}

impl Config {
    /// Checks the options.
    ///
    /// # Errors
    /// [`ConfigError`] for the first value that no machine can have.
    pub fn check(self) -> Result<MachineOptions, ConfigError> {
        let size_bytes = self.memory.size.map(|size| size.0);
        match size_bytes {
            Some(0) => return Err(ConfigError::NoMemory),
            Some(bytes) if !bytes.is_multiple_of(LARGE_PAGE_SIZE) => return Err(ConfigError::MemorySize { bytes }),
            Some(bytes) if bytes > MAX_RAM_BYTES => return Err(ConfigError::TooMuchMemory { bytes }),
            _ => {}
        }
        if self.memory.durability == Some(Durability::Atomic) {
            return Err(ConfigError::Atomic);
        }
        if let (Some(folio), Some(Durability::None)) = (self.memory.folio, self.memory.durability) {
            return Err(ConfigError::Folio { folio });
        }
        let wire_quota_bytes = self.wire_quota.map(|size| size.0);
        if let Some(bytes) = wire_quota_bytes.filter(|bytes| !bytes.is_multiple_of(PAGE_SIZE)) {
            return Err(ConfigError::WireQuota { bytes });
        }
        let store = check_store(self.store, self.store_quota)?;
        let timeout = self.timeout.map(check_timeout).transpose()?;
        let MemoryConfig { file, durability, folio, .. } = self.memory;
        let on = self.on.unwrap_or_default();
        match (on, &file, &self.kernel) {
            (On::Fake | On::All, Some(file), _) => return Err(ConfigError::RamFile { on, file: file.clone() }),
            (On::Hosted | On::Fake, _, Some(kernel)) => return Err(ConfigError::Kernel { on, kernel: kernel.clone() }),
            _ => {}
        }
        let vcpus = self.cpus.map(|cpus| check_cpus(cpus, on)).transpose()?;
        Ok(MachineOptions {
            on,
            kernel: self.kernel,
            vcpus,
            memory: MemoryOptions { size_bytes, file, durability, folio },
            wire_quota_bytes,
            pin: self.pin.unwrap_or_default(),
            store,
            timeout,
            on_storage_error: self.on_storage_error.unwrap_or_default(),
        })
    }
}

fn check_store(folder: Option<PathBuf>, quota: Option<Size>) -> Result<Option<StoreOptions>, ConfigError> {
    if let Some(Size(bytes)) = quota.filter(|quota| !quota.0.is_multiple_of(PAGE_SIZE)) {
        return Err(ConfigError::StoreQuota { bytes });
    }
    match (folder, quota) {
        (None, Some(Size(bytes))) => Err(ConfigError::NoStore { bytes }),
        (folder, quota) => {
            let quota_bytes = quota.map_or(DEFAULT_STORE_QUOTA_BYTES, |quota| quota.0);
            Ok(folder.map(|folder| StoreOptions { folder, quota_bytes }))
        }
    }
}

/// Reads a number of processors, which [`Config::check`] looks at.
///
/// # Errors
/// The sentence for what is no number, or none that fits.
pub fn read_cpus(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("a guest has 1 to {MAX_VCPUS} processors; write one of these numbers"))
}

/// Tells whether a machine can have that many processors.
pub fn is_cpus(cpus: u64) -> bool {
    (1..=MAX_VCPUS).contains(&cpus)
}

fn check_cpus(cpus: u64, on: On) -> Result<u32, ConfigError> {
    let vcpus = u32::try_from(cpus).ok().filter(|_| is_cpus(cpus));
    match (vcpus, on) {
        (None, _) => Err(ConfigError::Cpus { cpus }),
        (Some(_), On::Hosted | On::Fake) => Err(ConfigError::CpusOn { on }),
        (Some(vcpus), On::Kvm | On::All) => Ok(vcpus),
    }
}

/// Checks that programs can be run on that host.
///
/// # Errors
/// [`ConfigError`] where they can't, or not all of them.
pub fn check_programs(programs: &[Wanted], on: On) -> Result<(), ConfigError> {
    match (programs.len(), on) {
        (0, _) => Ok(()),
        (_, On::Hosted | On::Fake | On::All) => Err(ConfigError::ProgramsOn { on }),
        (count, On::Kvm) if count > MAX_ENTRIES => Err(ConfigError::TooManyPrograms { count }),
        (_, On::Kvm) => Ok(()),
    }
}

fn check_timeout(seconds: f64) -> Result<Duration, ConfigError> {
    let refused = ConfigError::Timeout { seconds };
    if !(seconds > 0.0 && seconds <= MAX_TIMEOUT_SECONDS) {
        return Err(refused);
    }
    let limit = Duration::try_from_secs_f64(seconds).map_err(|_| ConfigError::Timeout { seconds })?;
    // Less than a nanosecond rounds to nothing.
    if limit.is_zero() { Err(refused) } else { Ok(limit) }
}
