//! From checked options to what a machine is started with: image, RAM file, quota. Everything that can be refused is
//! refused here, before anything is made that would stay behind.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};

use procfs::Current;
use wirevm_abi::PAGE_SIZE;
use wirevm_devices::durability::Durability;
use wirevm_devices::pin::LockBudget;
use wirevm_devices::ramfile::{FileSystemError, PreviousEnd, RamFile, RamFileError, durable_file_system};
use wirevm_vmm::boot::{Image, place};
use wirevm_vmm::{Machine, MachineConfig, MachineError, StorageErrorPolicy, kvm, signal};

use crate::config::{DEFAULT_RAM_BYTES, DEFAULT_WIRE_QUOTA_BYTES, MachineOptions, OnStorageError};
use crate::console::Console;
use crate::doctor::temporary_folders;
use crate::exit_code::{CommandError, ExitCode};
use crate::report::MachineReport;
use crate::size::{Bytes, RoughBytes};

/// The guest image that is built with this program.
static BUILT_IN_IMAGE: &[u8] = include_bytes!(env!("WIREVM_GUEST_IMAGE"));
/// Largest guest image that is read: a device or pipe may have no end.
const MAX_IMAGE_BYTES: u64 = 256 << 20;

/// More would have to be locked than the process may lock.
#[derive(Debug, thiserror::Error)]
#[error(
    "a wire quota of {} needs as much locked memory, and this process may lock {} (RLIMIT_MEMLOCK): raise the limit \
     (`ulimit -l {}` after raising it in /etc/security/limits.conf, or LimitMEMLOCK={need} in a systemd unit), give the \
     program the capability (`sudo setcap cap_ipc_lock+ep $(command -v wirevm)`), or ask for --wire-quota {}K",
    Bytes(*need), Bytes(*limit), need / 1024, limit / PAGE_SIZE * (PAGE_SIZE / 1024)
)]
pub struct LockBudgetError {
    need: u64,
    limit: u64,
}

/// Guest memory that is nowhere but in memory does not fit into the host's.
#[derive(Debug, thiserror::Error)]
#[error("guest memory of {} without a file does not fit into this host's {} of memory and swap", Bytes(*need), RoughBytes(*have))]
struct TooMuchMemoryError {
    need: u64,
    have: u64,
}

/// Options that contradict each other.
#[derive(Debug, thiserror::Error)]
enum Contradiction {
    #[error("a wire quota of {} is more than the guest's {} of memory", Bytes(*quota), Bytes(*ram))]
    QuotaAboveRam { quota: u64, ram: u64 },
    #[error(
        "durability=shared needs a file on ext4, xfs or btrfs without copy on write, and none of {folders} is on one; name \
         one with --memory file=FILE, or choose durability=none"
    )]
    NoDurableFolder { folders: String },
}

/// A machine about to start.
#[derive(Debug)]
pub struct Prepared {
    image: Cow<'static, [u8]>,
    ram: RamFile,
    /// The RAM file, if this run made it: it goes again if the machine does not start.
    made: Option<PathBuf>,
    config: MachineConfig,
    /// What is known of the machine before it runs.
    pub report: MachineReport,
}

impl Prepared {
    /// Boots the guest one instruction at a time, to count them.
    #[must_use]
    pub const fn single_stepped(mut self) -> Self {
        self.config.single_step = true;
        self
    }

    /// Starts the machine.
    ///
    /// # Errors
    /// [`CommandError`] of the part that failed; a RAM file that was made for this run is removed again.
    pub fn start(self) -> Result<(Machine, MachineReport), CommandError> {
        match Machine::start(self.config, self.ram, &self.image) {
            Ok(machine) => Ok((machine, self.report)),
            Err(error) => {
                if let Some(path) = self.made
                    && let Err(error) = fs::remove_file(&path)
                {
                    log::warn!("the new RAM file '{}' stays behind: {error}", path.display());
                }
                Err(start_error(error))
            }
        }
    }
}

/// Returns a machine's start error with its exit code.
fn start_error(error: MachineError) -> CommandError {
    let exit = match &error {
        MachineError::Kvm(_) | MachineError::Vm(_) | MachineError::State(_) => ExitCode::Kvm,
        MachineError::Image(_) => ExitCode::Image,
        MachineError::RamFile(error) => ram_file_class(error),
        MachineError::Memory(_) | MachineError::View(_) | MachineError::Syncs(_) => ExitCode::Memory,
        _ => ExitCode::Failure,
    };
    CommandError::new(exit, error)
}

/// Returns the exit code of a RAM file's error: refused, or could not be set up.
const fn ram_file_class(error: &RamFileError) -> ExitCode {
    match error {
        RamFileError::Size { .. } | RamFileError::AtomicUnavailable | RamFileError::NoName { .. } => ExitCode::Config,
        RamFileError::FileSystem(FileSystemError::NoSpace { .. } | FileSystemError::Look { .. })
        | RamFileError::NotReadWrite { .. }
        | RamFileError::Io { .. } => ExitCode::Memory,
        _ => ExitCode::RamFile,
    }
}

fn ram_error(error: RamFileError) -> CommandError {
    CommandError::new(ram_file_class(&error), error)
}

/// Checks and makes what a machine needs.
///
/// # Errors
/// [`CommandError`] of the first thing that is refused; nothing is left behind.
pub fn prepare(options: &MachineOptions) -> Result<Prepared, CommandError> {
    kvm::open().map_err(|error| CommandError::new(ExitCode::Kvm, error))?;
    let (image, kernel) = read_image(options.kernel.as_deref())?;
    let known_ram = known_ram_bytes(options)?;
    if let Some(bytes) = known_ram {
        check_image(&image, bytes)?;
    }
    let quota = wire_quota(options.wire_quota_bytes, known_ram)?;
    let Ram { ram, made, place, notes } = make_ram(options)?;
    let quota = quota.min(ram.size_bytes());
    let report = MachineReport {
        kvm: "API 12".to_owned(),
        kernel,
        ram_bytes: ram.size_bytes(),
        ram_place: place,
        ram_file: options.memory.file.clone(),
        durability: ram.durability().to_string(),
        wire_quota_bytes: quota,
        boot_instructions: None,
        boot_time: std::time::Duration::ZERO,
        notes,
    };
    let interrupted = signal::install().map_err(|error| CommandError::new(ExitCode::Failure, error))?;
    let config = MachineConfig {
        wire_quota_pages: quota / PAGE_SIZE,
        time_limit: options.timeout,
        on_storage_error: match options.on_storage_error {
            OnStorageError::Stop => StorageErrorPolicy::Stop,
            OnStorageError::Latch => StorageErrorPolicy::Latch,
        },
        // The numbers of the contract are those of `log`: what the user wants to hear of us goes for the guest too.
        guest_log_level: log::max_level() as u64,
        console: Box::new(Console::new(io::stderr())),
        keyboard: io::stdin().is_terminal(),
        single_step: false,
        interrupted: Some(interrupted),
    };
    Ok(Prepared { image, ram, made, config, report })
}

fn read_image(kernel: Option<&Path>) -> Result<(Cow<'static, [u8]>, String), CommandError> {
    let Some(path) = kernel else { return Ok((Cow::Borrowed(BUILT_IN_IMAGE), "built in".to_owned())) };
    let refused = |reason: &dyn std::fmt::Display| {
        CommandError::new(ExitCode::Image, format!("cannot read the guest image '{}': {reason}", path.display()))
    };
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(|error| refused(&error))?;
    file.take(MAX_IMAGE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| refused(&error))?;
    if bytes.len() as u64 > MAX_IMAGE_BYTES {
        return Err(refused(&format_args!("it is larger than {}", Bytes(MAX_IMAGE_BYTES))));
    }
    Ok((Cow::Owned(bytes), path.display().to_string()))
}

fn check_image(image: &[u8], ram_bytes: u64) -> Result<(), CommandError> {
    let pages = ram_bytes / PAGE_SIZE;
    let checked = Image::new(image, pages).and_then(|image| place(&image, pages, 1));
    checked.map(|_| ()).map_err(|error| CommandError::new(ExitCode::Image, error))
}

/// Returns the RAM size where the options decide it; an existing file without a size asked for decides it itself.
fn known_ram_bytes(options: &MachineOptions) -> Result<Option<u64>, CommandError> {
    let memory = &options.memory;
    match (&memory.file, memory.size_bytes) {
        (Some(path), None) if path.symlink_metadata().is_ok() => {
            RamFile::open(path, None).map(|ram| Some(ram.size_bytes())).map_err(ram_error)
        }
        (_, size) => Ok(Some(size.unwrap_or(DEFAULT_RAM_BYTES))),
    }
}

/// Returns the wire quota in bytes, checked against RAM and against what the host lets this process lock.
fn wire_quota(asked: Option<u64>, ram_bytes: Option<u64>) -> Result<u64, CommandError> {
    let budget = LockBudget::of_this_process().map_err(|error| CommandError::new(ExitCode::LockBudget, error))?;
    let limit = if budget.privileged { None } else { budget.limit };
    let Some(quota) = asked else {
        let most = limit.map_or(u64::MAX, |limit| limit / PAGE_SIZE * PAGE_SIZE);
        return Ok(DEFAULT_WIRE_QUOTA_BYTES.min(most));
    };
    if let Some(ram) = ram_bytes.filter(|ram| quota > *ram) {
        return Err(CommandError::new(ExitCode::Config, Contradiction::QuotaAboveRam { quota, ram }));
    }
    match limit {
        Some(limit) if quota > limit => {
            Err(CommandError::new(ExitCode::LockBudget, LockBudgetError { need: quota, limit }))
        }
        _ => Ok(quota),
    }
}

struct Ram {
    ram: RamFile,
    made: Option<PathBuf>,
    place: String,
    notes: Vec<String>,
}

fn make_ram(options: &MachineOptions) -> Result<Ram, CommandError> {
    let memory = &options.memory;
    let size = memory.size_bytes;
    match (&memory.file, memory.durability) {
        (Some(path), durability) => named_ram(path, size, durability),
        (None, Some(Durability::None)) => memfd_ram(size, vec![]),
        (None, asked) => temporary_ram(size, asked),
    }
}

/// Opens the named file, or makes it where there is none.
fn named_ram(path: &Path, size: Option<u64>, asked: Option<Durability>) -> Result<Ram, CommandError> {
    let mut notes = Vec::new();
    let exists = path.symlink_metadata().is_ok();
    let ram = if exists {
        let ram = RamFile::open(path, size).map_err(ram_error)?;
        let found = ram.durability();
        if let Some(asked) = asked.filter(|asked| *asked != found) {
            return Err(ram_error(RamFileError::OtherDurability { path: path.to_owned(), found, asked }));
        }
        notes.extend(previous_end_note(path, ram.previous_end()));
        ram
    } else {
        let size = size.unwrap_or(DEFAULT_RAM_BYTES);
        RamFile::create(path, size, asked.unwrap_or(Durability::Shared)).map_err(ram_error)?
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
fn temporary_ram(size: Option<u64>, asked: Option<Durability>) -> Result<Ram, CommandError> {
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
            let ram = RamFile::temporary(folder, size.unwrap_or(DEFAULT_RAM_BYTES)).map_err(ram_error)?;
            let shown = if folder == Path::new(".") { "the current folder".into() } else { folder.to_string_lossy() };
            let place = format!("a temporary file in {shown} ({})", kind.name());
            Ok(Ram { ram, made: None, place, notes: vec![] })
        }
        None if asked.is_some() => {
            Err(CommandError::new(ExitCode::RamFile, Contradiction::NoDurableFolder { folders: names() }))
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
