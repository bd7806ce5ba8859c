//! The machine's options: from the command line, from a file, checked.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::value::{Error as ValueError, MapDeserializer};
use serde::{Deserialize, Deserializer, de};
use wirevm_abi::archive::MAX_ENTRIES;
use wirevm_abi::boot::MAX_VCPUS;
use wirevm_abi::{LARGE_PAGE_SIZE, PAGE_SIZE};
use wirevm_devices::durability::Durability;

use crate::hosts::On;
use crate::program::Wanted;
use crate::size::{self, Bytes};

/// Guest RAM where no size is asked for.
pub const DEFAULT_RAM_BYTES: u64 = 64 << 20;
/// Wire quota where none is asked for: what RLIMIT_MEMLOCK usually allows.
pub const DEFAULT_WIRE_QUOTA_BYTES: u64 = 8 << 20;
/// What a guest may have in stores where no quota is asked for.
pub const DEFAULT_STORE_QUOTA_BYTES: u64 = 64 << 20;
/// Largest guest RAM that is accepted: what KVM takes in one piece, 2^31 - 1 pages, in large pages.
const MAX_RAM_BYTES: u64 = ((1 << 31) - 1) * PAGE_SIZE / LARGE_PAGE_SIZE * LARGE_PAGE_SIZE;
/// Longest configuration file that is read.
const MAX_CONFIG_BYTES: u64 = 1 << 20;
/// Longest time limit: a year.
const MAX_TIMEOUT_SECONDS: f64 = 366.0 * 24.0 * 3600.0;

/// Error of reading or checking options.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The configuration file can't be read.
    #[error("cannot read the configuration file '{path}'")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The configuration file makes no sense.
    #[error("'{path}' is not a valid configuration: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// Where and why, in one line.
        reason: String,
    },
    /// No RAM.
    #[error("guest memory must not be 0 bytes; the smallest size is 2 MiB")]
    NoMemory,
    /// RAM that is not made of large pages.
    #[error("guest memory must be a multiple of 2 MiB; {} is not", Bytes(*bytes))]
    MemorySize {
        /// The size asked for.
        bytes: u64,
    },
    /// RAM that KVM can't take.
    #[error("guest memory of {} is more than the {} that KVM takes", Bytes(*bytes), Bytes(MAX_RAM_BYTES))]
    TooMuchMemory {
        /// The size asked for.
        bytes: u64,
    },
    /// A mode that does not exist yet.
    #[error("durability=atomic is not available in this version; choose shared or none")]
    Atomic,
    /// A quota that is not made of pages.
    #[error("the wire quota must be a multiple of 4 KiB; {} is not", Bytes(*bytes))]
    WireQuota {
        /// The quota asked for.
        bytes: u64,
    },
    /// A quota of stores that is not made of pages.
    #[error("the store quota must be a multiple of 4 KiB; {} is not", Bytes(*bytes))]
    StoreQuota {
        /// The quota asked for.
        bytes: u64,
    },
    /// A quota for what there is not.
    #[error("a store quota of {} means nothing without a folder for stores; name one with --store DIR", Bytes(*bytes))]
    NoStore {
        /// The quota asked for.
        bytes: u64,
    },
    /// A host with a RAM of its own was asked for, and a RAM file as well.
    #[error("--on {on} gives each host a fresh RAM of its own, so no RAM file can be named; leave '{file}' out")]
    RamFile {
        /// What is asked for.
        on: On,
        /// The file.
        file: PathBuf,
    },
    /// An image was asked for where none is booted.
    #[error("--on {on} boots no guest image; leave '{kernel}' out")]
    Kernel {
        /// What is asked for.
        on: On,
        /// The image.
        kernel: PathBuf,
    },
    /// More vCPUs than a machine can have, or none.
    #[error("a guest has 1 to {MAX_VCPUS} processors; {cpus} is not possible")]
    Cpus {
        /// How many were asked for.
        cpus: u64,
    },
    /// Processors were asked for where there is no machine.
    #[error("--on {on} has no processors of its own; leave cpus out")]
    CpusOn {
        /// What is asked for.
        on: On,
    },
    /// Programs were asked for where there is no machine.
    #[error("--on {on} has no ring 3 that programs could run in; they need the virtual machine of --on kvm")]
    ProgramsOn {
        /// What is asked for.
        on: On,
    },
    /// A script and programs, each of which has the machine for itself.
    #[error("a script and programs can't be run together: a script starts its own, as in 'program p kv 1000'")]
    ScriptAndPrograms,
    /// More programs than can be passed to a guest.
    #[error("{count} programs are more than the {MAX_ENTRIES} that a guest takes")]
    TooManyPrograms {
        /// How many were asked for.
        count: usize,
    },
    /// A time limit that is none.
    #[error("the time limit must be more than 0 and at most 31622400 seconds; {seconds:?} is not")]
    Timeout {
        /// The limit asked for.
        seconds: f64,
    },
}

/// Error of reading `--memory`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// A key that does not exist.
    #[error("unknown key '{key}'; the keys are size, file and durability")]
    Key {
        /// The key.
        key: String,
    },
    /// A key with nothing behind it.
    #[error("'{key}' has no value; write {key}=VALUE")]
    NoValue {
        /// The key.
        key: String,
    },
    /// A value that can't be read, or a key given twice.
    #[error("{0}")]
    Value(String),
}

/// A size as users write it: a number of bytes or a text with a suffix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl std::str::FromStr for Size {
    type Err = size::SizeError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        size::parse(text).map(Self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Size;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a size such as 67108864 or \"64M\"")
            }
            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Size, E> {
                u64::try_from(bytes).map(Size).map_err(|_| E::custom(format!("a size can't be negative; {bytes} is")))
            }
            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Size, E> {
                Ok(Size(bytes))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Reads a value that is there; the items of `--memory` know no other.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

fn durability<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Durability>, D::Error> {
    let name = String::deserialize(deserializer)?;
    name.parse().map(Some).map_err(de::Error::custom)
}

/// Guest memory, as `--memory` and the table `[memory]` of a configuration file give it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemoryConfig {
    /// RAM size.
    #[serde(deserialize_with = "present")]
    pub size: Option<Size>,
    /// RAM file.
    #[serde(deserialize_with = "present")]
    pub file: Option<PathBuf>,
    /// What a sync promises.
    #[serde(deserialize_with = "durability")]
    pub durability: Option<Durability>,
}

impl MemoryConfig {
    /// The keys of `--memory`.
    const KEYS: [&str; 3] = ["size", "file", "durability"];

    /// Returns these options with what they lack taken from `other`.
    #[must_use]
    fn or(self, other: Self) -> Self {
        Self {
            size: self.size.or(other.size),
            file: self.file.or(other.file),
            durability: self.durability.or(other.durability),
        }
    }
}

impl std::str::FromStr for MemoryConfig {
    type Err = MemoryError;

    /// Reads `size=64M,file=guest.ram,durability=shared`; the first item may be a bare size.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut pairs = Vec::new();
        for (place, item) in text.split(',').enumerate() {
            let (key, value) = match item.split_once('=') {
                Some(pair) => pair,
                None if place == 0 && !Self::KEYS.contains(&item) && item.starts_with(|c: char| c.is_ascii_digit()) => {
                    ("size", item)
                }
                None => (item, ""),
            };
            if !Self::KEYS.contains(&key) {
                return Err(MemoryError::Key { key: key.to_owned() });
            }
            if value.is_empty() {
                return Err(MemoryError::NoValue { key: key.to_owned() });
            }
            pairs.push((key, value));
        }
        let values = MapDeserializer::new(pairs.into_iter());
        Self::deserialize(values).map_err(|error: ValueError| MemoryError::Value(error.to_string()))
    }
}

/// What happens when storage reports an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum OnStorageError {
    /// The machine is stopped: pages that are not wired may have reverted to older bytes.
    #[default]
    Stop,
    /// The machine goes on, and every further sync fails.
    Latch,
}

/// The machine's options as the command line and a configuration file give them.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Config {
    /// What scripts are carried out on.
    pub on: Option<On>,
    /// Guest image.
    pub kernel: Option<PathBuf>,
    /// Processors of the guest.
    pub cpus: Option<u64>,
    /// Guest memory.
    pub memory: MemoryConfig,
    /// Most memory that the guest may keep wired.
    pub wire_quota: Option<Size>,
    /// Folder for stores.
    pub store: Option<PathBuf>,
    /// Most memory that the guest may have in stores.
    pub store_quota: Option<Size>,
    /// Time limit in seconds.
    pub timeout: Option<f64>,
    /// What happens when storage reports an error.
    pub on_storage_error: Option<OnStorageError>,
    /// Script that `wirevm run` carries out.
    pub script: Option<PathBuf>,
    /// Programs that `wirevm run` runs.
    pub programs: Vec<Wanted>,
}

/// Checked options of guest memory; `None` leaves the choice to the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryOptions {
    /// RAM size in bytes, a multiple of 2 MiB.
    pub size_bytes: Option<u64>,
    /// RAM file, which is made if it does not exist.
    pub file: Option<PathBuf>,
    /// What a sync promises; never [`Durability::Atomic`].
    pub durability: Option<Durability>,
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
    /// Stores; none if `None`.
    pub store: Option<StoreOptions>,
    /// How long the machine may run.
    pub timeout: Option<Duration>,
    /// What happens when storage reports an error.
    pub on_storage_error: OnStorageError,
}

impl Config {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// [`ConfigError`] when it can't be read, or holds an unknown key or a value of the wrong kind.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let failed = |source| ConfigError::Read { path: path.to_owned(), source };
        let mut text = String::new();
        let file = fs::File::open(path).map_err(failed)?;
        // A device or a pipe may have no end; no configuration is as long as that.
        file.take(MAX_CONFIG_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
        if text.len() as u64 > MAX_CONFIG_BYTES {
            let reason = format!("it is longer than {}", Bytes(MAX_CONFIG_BYTES));
            return Err(ConfigError::File { path: path.to_owned(), reason });
        }
        toml::from_str(&text).map_err(|error| {
            let line =
                error.span().and_then(|span| text.get(..span.start)).map(|before| before.matches('\n').count() + 1);
            let message = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
            let reason = line.map_or_else(|| message.clone(), |line| format!("line {line}: {message}"));
            ConfigError::File { path: path.to_owned(), reason }
        })
    }

    /// Returns these options with what they lack taken from `other`.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            on: self.on.or(other.on),
            kernel: self.kernel.or(other.kernel),
            cpus: self.cpus.or(other.cpus),
            memory: self.memory.or(other.memory),
            wire_quota: self.wire_quota.or(other.wire_quota),
            store: self.store.or(other.store),
            store_quota: self.store_quota.or(other.store_quota),
            timeout: self.timeout.or(other.timeout),
            on_storage_error: self.on_storage_error.or(other.on_storage_error),
            script: self.script.or(other.script),
            programs: if self.programs.is_empty() { other.programs } else { self.programs },
        }
    }

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
        let wire_quota_bytes = self.wire_quota.map(|size| size.0);
        if let Some(bytes) = wire_quota_bytes.filter(|bytes| !bytes.is_multiple_of(PAGE_SIZE)) {
            return Err(ConfigError::WireQuota { bytes });
        }
        let store = check_store(self.store, self.store_quota)?;
        let timeout = self.timeout.map(check_timeout).transpose()?;
        let MemoryConfig { file, durability, .. } = self.memory;
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
            memory: MemoryOptions { size_bytes, file, durability },
            wire_quota_bytes,
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

#[cfg(test)]
mod test;
