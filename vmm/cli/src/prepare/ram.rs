//! Where guest RAM comes from: the file that the options name, one without a name, or memory alone.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use procfs::Current;
use wirevm_devices::durability::Durability;
use wirevm_devices::folio::FolioPolicy;
use wirevm_devices::ramfile::{FileSystemError, PreviousEnd, RamFile, RamFileError, durable_file_system};

use crate::config::{ConfigError, DEFAULT_RAM_BYTES, MachineOptions};
use crate::doctor::temporary_folders;
use crate::exit_code::{CommandError, ExitCode};
use crate::size::{Bytes, RoughBytes};

/// Guest memory that is nowhere but in memory does not fit into the host's.
#[derive(Debug, thiserror::Error)]
#[error("guest memory of {} without a file does not fit into this host's {} of memory and swap", Bytes(*need), RoughBytes(*have))]
struct TooMuchMemoryError {
    need: u64,
    have: u64,
}

/// Durable RAM, or a policy for its file, was asked for and nothing here can hold it.
#[derive(Debug, thiserror::Error)]
#[error(
    "durability=shared, and a folio policy with it, needs a file on ext4, xfs or btrfs without copy on write, and none of {folders} is on one; name \
     one with --memory file=FILE, or choose durability=none"
)]
struct NoDurableFolder {
    folders: String,
}

/// Guest RAM and what is told of it.
#[derive(Debug)]
pub(super) struct Ram {
    pub(super) ram: RamFile,
    /// The file, if this run made it.
    pub(super) made: Option<PathBuf>,
    /// Where it is, for people.
    pub(super) place: String,
    /// Sentences that the user should know.
    pub(super) notes: Vec<String>,
}

/// Makes or opens what the options ask for.
pub(super) fn make_ram(options: &MachineOptions) -> Result<Ram, CommandError> {
    let memory = &options.memory;
    let size = memory.size_bytes;
    match (&memory.file, memory.durability) {
        (Some(path), durability) => named_ram(path, size, durability, memory.folio),
        (None, Some(Durability::None)) => memfd_ram(size, vec![]),
        (None, asked) => temporary_ram(size, asked, memory.folio),
    }
}

/// Opens the named file, or makes it where there is none.
fn named_ram(
    path: &Path,
    size: Option<u64>,
    asked: Option<Durability>,
    folio: Option<FolioPolicy>,
) -> Result<Ram, CommandError> {
    let mut notes = Vec::new();
    let policy = folio.unwrap_or_default();
    let exists = path.symlink_metadata().is_ok();
    let ram = if exists {
        let ram = RamFile::open_for(path, size, policy).map_err(ram_error)?;
        let found = ram.durability();
        if let Some(asked) = asked.filter(|asked| *asked != found) {
            return Err(ram_error(RamFileError::OtherDurability { path: path.to_owned(), found, asked }));
        }
        if let Some(folio) = folio.filter(|_| found == Durability::None) {
            return Err(CommandError::new(ExitCode::Config, ConfigError::Folio { folio }));
        }
        notes.extend(previous_end_note(path, ram.previous_end()));
        ram
    } else {
        let size = size.unwrap_or(DEFAULT_RAM_BYTES);
        RamFile::create_for(path, size, asked.unwrap_or(Durability::Shared), policy).map_err(ram_error)?
    };
    let kind = durable_file_system(path).map_or(String::new(), |kind| format!(" ({})", kind.name()));
    let place = format!("{}{kind}", path.display());
    Ok(Ram { ram, made: (!exists).then(|| path.to_owned()), place, notes })
}

/// Says what a user should know about how the file was left.
fn previous_end_note(path: &Path, end: PreviousEnd) -> Option<String> {
    let path = path.display();
    match end {
        PreviousEnd::Fresh | PreviousEnd::Clean => None,
        PreviousEnd::NotClean => {
            Some(format!("{path} was not closed in order: of what was not synced, some may be old and some new"))
        }
        PreviousEnd::Failed { errno, first_page } => {
            let reason = io::Error::from_raw_os_error(errno);
            let place = first_page.map_or(String::new(), |page| format!(", first at RAM page {page}"));
            Some(format!(
                "storage failed under {path} last time ({reason}{place}): it may hold older bytes than the guest saw"
            ))
        }
    }
}

fn memfd_ram(size: Option<u64>, notes: Vec<String>) -> Result<Ram, CommandError> {
    let size = size.unwrap_or(DEFAULT_RAM_BYTES);
    let meminfo = procfs::Meminfo::current().map_err(|error| CommandError::new(ExitCode::Memory, error))?;
    let have = meminfo.mem_total.saturating_add(meminfo.swap_total);
    if size > have {
        return Err(CommandError::new(ExitCode::Memory, TooMuchMemoryError { need: size, have }));
    }
    let ram = RamFile::memfd(size).map_err(ram_error)?;
    Ok(Ram { ram, made: None, place: "memory only (memfd)".to_owned(), notes })
}

/// Makes a file without a name on the first durable file system, or uses memory where none is and none was asked for.
fn temporary_ram(
    size: Option<u64>,
    asked: Option<Durability>,
    folio: Option<FolioPolicy>,
) -> Result<Ram, CommandError> {
    let folders: Vec<PathBuf> = temporary_folders().into_iter().filter(|folder| is_writable(folder)).collect();
    let durable = folders.iter().find_map(|folder| durable_file_system(folder).ok().map(|kind| (folder, kind)));
    let names = || {
        folders
            .iter()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .map(|folder| folder.display().to_string())
            .collect::<Vec<_>>()
            .join(", ")
    };
    match durable {
        Some((folder, kind)) => {
            let size = size.unwrap_or(DEFAULT_RAM_BYTES);
            let ram = RamFile::temporary_for(folder, size, folio.unwrap_or_default()).map_err(ram_error)?;
            let shown = if folder == Path::new(".") { "the current folder".into() } else { folder.to_string_lossy() };
            let place = format!("a temporary file in {shown} ({})", kind.name());
            Ok(Ram { ram, made: None, place, notes: vec![] })
        }
        None if asked.is_some() || folio.is_some() => {
            Err(CommandError::new(ExitCode::RamFile, NoDurableFolder { folders: names() }))
        }
        None => {
            let note =
                format!("none of {} is on a durable file system: durability=none, so sync is unsupported", names());
            memfd_ram(size, vec![note])
        }
    }
}

/// Tells whether a temporary file can be made in a folder.
fn is_writable(folder: &Path) -> bool {
    tempfile::tempfile_in(folder).is_ok()
}

/// Returns the RAM size where the options decide it; an existing file without a size asked for decides it itself.
pub(super) fn known_ram_bytes(options: &MachineOptions) -> Result<Option<u64>, CommandError> {
    let memory = &options.memory;
    match (&memory.file, memory.size_bytes) {
        (Some(path), None) if path.symlink_metadata().is_ok() => {
            RamFile::open(path, None).map(|ram| Some(ram.size_bytes())).map_err(ram_error)
        }
        (_, size) => Ok(Some(size.unwrap_or(DEFAULT_RAM_BYTES))),
    }
}

/// Returns the exit code of a RAM file's error: refused, or could not be set up.
pub(super) const fn ram_file_class(error: &RamFileError) -> ExitCode {
    match error {
        RamFileError::Size { .. } | RamFileError::AtomicUnavailable | RamFileError::NoName { .. } => ExitCode::Config,
        RamFileError::FileSystem(FileSystemError::NoSpace { .. } | FileSystemError::Look { .. })
        | RamFileError::NotReadWrite { .. }
        | RamFileError::Io { .. } => ExitCode::Memory,
        _ => ExitCode::RamFile,
    }
}

pub(super) fn ram_error(error: RamFileError) -> CommandError {
    CommandError::new(ram_file_class(&error), error)
}
