//! Where guest RAM is kept.

use std::path::{Path, PathBuf};

use procfs::Meminfo;
use wirevm_abi::LARGE_PAGE_SIZE;
use wirevm_devices::durability::Durability;

use super::{Check, Patient, Probes, System};
use crate::exit_code::ExitCode;
use crate::size::{Bytes, RoughBytes};

/// Where RAM will be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In a file that exists.
    File { path: PathBuf, kind: Result<String, String> },
    /// In a file that will be made in this folder.
    NewFile { folder: PathBuf, kind: Result<String, String> },
    /// In memory, because that was asked for (`reason` is none) or because no folder is durable.
    Memory { reason: Option<String> },
}

/// Finds out where RAM will be.
pub(super) fn place(probes: &Probes<'_>, patient: &Patient) -> Place {
    if let Some(file) = &patient.file {
        if file.exists() {
            return Place::File { path: file.clone(), kind: (probes.durable_file_system)(file) };
        }
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        return Place::NewFile { folder: folder.to_owned(), kind: (probes.durable_file_system)(folder) };
    }
    if patient.durability == Some(Durability::None) {
        return Place::Memory { reason: None };
    }
    let mut reasons = Vec::new();
    for folder in &patient.folders {
        match (probes.durable_file_system)(folder) {
            Ok(kind) => return Place::NewFile { folder: folder.clone(), kind: Ok(kind) },
            Err(reason) => reasons.push(reason),
        }
    }
    Place::Memory { reason: Some(reasons.join("; ")) }
}

pub(super) fn file_system(place: &Place, patient: &Patient) -> Check {
    const NAME: &str = "RAM file";
    const FIX: &str = "name a file on ext4 or xfs (--memory file=…), or ask for durability=none";
    let shared = patient.durability == Some(Durability::Shared);
    let none = patient.durability == Some(Durability::None);
    let (path, kind) = match place {
        Place::Memory { reason: None } => return Check::ok(NAME, "none: durability=none keeps guest memory in memory"),
        Place::Memory { reason: Some(reason) } if shared => {
            return Check::fail(NAME, ExitCode::RamFile, format!("no folder is durable: {reason}"), FIX);
        }
        Place::Memory { reason: Some(reason) } => {
            return Check::warn(NAME, format!("no folder is durable, so sync is unsupported: {reason}"), FIX);
        }
        Place::File { path, kind } => (path, kind),
        Place::NewFile { folder, kind } => (folder, kind),
    };
    match kind {
        Ok(kind) => Check::ok(NAME, format!("{} is on {kind}, a durable file system", path.display())),
        Err(_) if none => {
            Check::ok(NAME, format!("{} is on no durable file system, as durability=none allows", path.display()))
        }
        Err(reason) => Check::fail(NAME, ExitCode::RamFile, reason.clone(), FIX),
    }
}

pub(super) fn free_space(probes: &Probes<'_>, system: &System, place: &Place, patient: &Patient) -> Check {
    const NAME: &str = "free space";
    let (name, free, need) = match place {
        Place::File { path, .. } => return Check::ok(NAME, format!("{} exists and is not made anew", path.display())),
        // The file has a header of the size of a large page.
        Place::NewFile { folder, .. } => match (probes.free_bytes)(folder) {
            Ok(free) => (folder.display().to_string(), free, patient.ram_bytes.saturating_add(LARGE_PAGE_SIZE)),
            Err(error) => {
                let found = format!("'{}' can't be looked at: {error}", folder.display());
                return Check::fail(NAME, ExitCode::RamFile, found, "name a file in a folder that exists");
            }
        },
        Place::Memory { .. } => {
            let memory = system.parsed::<Meminfo>("/proc/meminfo");
            let Some(available) = memory.and_then(|memory| memory.mem_available) else {
                return Check::warn(NAME, "/proc/meminfo does not tell how much memory is available", "mount /proc");
            };
            ("memory".to_owned(), available, patient.ram_bytes)
        }
    };
    let found = format!("{name} has {} free, guest memory needs {}", RoughBytes(free), Bytes(need));
    if free >= need {
        Check::ok(NAME, found)
    } else {
        Check::fail(
            NAME,
            ExitCode::Memory,
            found,
            "make room, choose another place (--memory file=…) or a smaller size",
        )
    }
}
