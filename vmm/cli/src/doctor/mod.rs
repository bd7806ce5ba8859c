//! `wirevm doctor`: what this host offers, and how to fix what it lacks.

mod kvm;
mod memory;
mod report;
mod storage;
mod system;
#[cfg(test)]
mod test;

use std::io;
use std::path::{Path, PathBuf};

use wirevm_devices::durability::Durability;

pub use self::report::{document, text};
pub use self::system::System;

use crate::config::{DEFAULT_RAM_BYTES, DEFAULT_WIRE_QUOTA_BYTES, MachineOptions, Pin};
use crate::exit_code::ExitCode;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Usable, with a catch.
    Warn,
    /// A machine with these options can't run; the class is the exit code it would end with.
    Fail(ExitCode),
}

/// One line of the doctor's report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it came out.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do about it.
    pub fix: Option<String>,
}

/// What can't be learned from files.
pub struct Probes<'a> {
    /// Opens KVM and says which it is, or what is in the way.
    pub kvm_usable: &'a dyn Fn() -> Result<String, String>,
    /// Names the durable file system that a file or folder is on, or says why it is on none.
    pub durable_file_system: &'a dyn Fn(&Path) -> Result<String, String>,
    /// Tells how many bytes the file system of a folder has left for this user.
    pub free_bytes: &'a dyn Fn(&Path) -> io::Result<u64>,
    /// Tells what the kernel lacks for pages to be held through a locked view.
    pub pins_by_view: &'a dyn Fn() -> Result<(), String>,
}

impl std::fmt::Debug for Probes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Probes").finish_non_exhaustive()
    }
}

/// The machine that the host is looked at for.
#[derive(Clone, Debug)]
struct Patient {
    ram_bytes: u64,
    wire_quota_bytes: u64,
    file: Option<PathBuf>,
    durability: Option<Durability>,
    pin: Pin,
    /// Folders for a temporary RAM file, best first.
    folders: Vec<PathBuf>,
}

impl Patient {
    fn new(options: &MachineOptions, folders: Vec<PathBuf>) -> Self {
        Self {
            ram_bytes: options.memory.size_bytes.unwrap_or(DEFAULT_RAM_BYTES),
            wire_quota_bytes: options.wire_quota_bytes.unwrap_or(DEFAULT_WIRE_QUOTA_BYTES),
            file: options.memory.file.clone(),
            durability: options.memory.durability,
            pin: options.pin,
            folders,
        }
    }
}

/// Returns the folders in which a RAM file without a name is made, best first.
#[must_use]
pub fn temporary_folders() -> Vec<PathBuf> {
    let set = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    [Some(PathBuf::from(".")), cache, Some(PathBuf::from("/var/tmp"))].into_iter().flatten().collect()
}

/// Looks at everything, in the order in which a start would meet it.
#[must_use]
pub fn examine(system: &System, probes: &Probes<'_>, options: &MachineOptions, folders: Vec<PathBuf>) -> Vec<Check> {
    let patient = Patient::new(options, folders);
    let place = storage::place(probes, &patient);
    let (kind, pinning) = memory::pinning(system, probes, &patient);
    vec![
        kvm::device(system, probes),
        memory::lock_limit(system, &patient),
        pinning,
        memory::cgroup(system, &patient),
        storage::file_system(&place, &patient),
        storage::free_space(probes, system, &place, &patient),
        memory::swap(system, &place),
        memory::ksm(system),
        memory::compaction(system),
        memory::map_count(system, kind, &patient),
    ]
}

/// Returns the exit code: the class of the first failure.
#[must_use]
pub fn exit_code(checks: &[Check]) -> ExitCode {
    let failures = checks.iter().filter_map(|check| match check.verdict {
        Verdict::Fail(exit) => Some(exit),
        _ => None,
    });
    failures.into_iter().next().unwrap_or(ExitCode::Ok)
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Ok, found: found.into(), fix: None }
    }

    fn warn(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Warn, found: found.into(), fix: Some(fix.into()) }
    }

    fn fail(name: &'static str, exit: ExitCode, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Fail(exit), found: found.into(), fix: Some(fix.into()) }
    }
}
