//! The machine's options: from the command line, from a file, checked.

pub mod check;
mod error;
mod memory;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

pub use self::check::{MachineOptions, MemoryOptions, StoreOptions, check_programs, is_cpus, read_cpus};
pub use self::error::ConfigError;
pub use self::memory::{MemoryConfig, Size};
use crate::hosts::On;
use crate::program::Wanted;
use crate::size::Bytes;

/// Guest RAM where no size is asked for.
pub const DEFAULT_RAM_BYTES: u64 = 64 << 20;
/// Wire quota where none is asked for: what RLIMIT_MEMLOCK usually allows.
pub const DEFAULT_WIRE_QUOTA_BYTES: u64 = 8 << 20;
/// What a guest may have in stores where no quota is asked for.
pub const DEFAULT_STORE_QUOTA_BYTES: u64 = 64 << 20;
/// Longest configuration file that is read.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

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

/// How the host holds wired pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Pin {
    /// Run by run: needs room in the host's memory map.
    Runs,
    /// Through a view of all of RAM that is locked as a whole: scattered pages cost less, and no room.
    View,
    /// Through a view where the host has what that needs and lets as much memory be locked as RAM has.
    #[default]
    Auto,
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
    /// How the host holds wired pages.
    pub pin: Option<Pin>,
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
            pin: self.pin.or(other.pin),
            store: self.store.or(other.store),
            store_quota: self.store_quota.or(other.store_quota),
            timeout: self.timeout.or(other.timeout),
            on_storage_error: self.on_storage_error.or(other.on_storage_error),
            script: self.script.or(other.script),
            programs: if self.programs.is_empty() { other.programs } else { self.programs },
        }
    }
}

#[cfg(test)]
mod test;
