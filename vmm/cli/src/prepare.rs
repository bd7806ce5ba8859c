//! From checked options to what a machine is started with: image, RAM file, quota. Everything that can be refused is
//! refused here, before anything is made that would stay behind.

mod pin;
mod quota;
mod ram;
mod store;

use std::borrow::Cow;
use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use wirevm_abi::PAGE_SIZE;
use wirevm_devices::durability::Durability;
use wirevm_devices::faults::HostFaults;
use wirevm_devices::pin::PinKind;
use wirevm_devices::ramfile::PreviousEnd;
use wirevm_devices::witness::give_program_back;
use wirevm_vmm::boot::{ArchiveBuilder, Image, place};
use wirevm_vmm::{Machine, MachineConfig, MachineError, StorageErrorPolicy, kvm, signal};

pub use self::pin::pin_kind;
use self::quota::{default_quota, wire_quota};
use self::ram::{Ram, known_ram_bytes, make_ram, ram_file_class};
use self::store::check_folder;
use crate::config::{DEFAULT_RAM_BYTES, DEFAULT_STORE_QUOTA_BYTES, MachineOptions, OnStorageError};
use crate::console::Console;
use crate::exit_code::{CommandError, ExitCode};
use crate::fake_host::FakeConfig;
use crate::hosted::{HostedConfig, HostedError, HostedTarget};
use crate::hosts::{HostKind, On};
use crate::in_process::Limits;
use crate::input::read_file;
use crate::program::Program;
use crate::report::MachineReport;

/// The guest image that is built with this program.
static BUILT_IN_IMAGE: &[u8] = include_bytes!(env!("WIREVM_GUEST_IMAGE"));
/// Largest guest image that is read.
const MAX_IMAGE_BYTES: u64 = 256 << 20;
/// What is told of the guest where no image is booted.
const IN_PROCESS: &str = "no image: its memory system, in this process";

/// A machine about to start.
#[derive(Debug)]
pub struct Prepared {
    image: Cow<'static, [u8]>,
    ram: Ram,
    config: MachineConfig,
    report: MachineReport,
}

impl Prepared {
    /// Boots the guest one instruction at a time, to count them.
    #[must_use]
    pub const fn single_stepped(mut self) -> Self {
        self.config.single_step = true;
        self
    }

    /// Lets locks of the machine's RAM meet failures that are ordered later.
    #[must_use]
    pub fn with_lock_faults(mut self, faults: HostFaults) -> Self {
        self.config.lock_faults = Some(faults);
        self
    }

    /// Lets syncs of the machine's RAM, and its stores, meet failures that are ordered later.
    #[must_use]
    pub fn with_storage_faults(mut self, faults: HostFaults) -> Self {
        self.config.storage_faults = Some(faults);
        self
    }

    /// Starts the machine.
    ///
    /// # Errors
    /// [`CommandError`] of the part that failed; a RAM file that was made for this run is removed again.
    pub fn start(self) -> Result<(Machine, MachineReport), CommandError> {
        let Ram { ram, made, .. } = self.ram;
        match Machine::start(self.config, ram, &self.image) {
            Ok(machine) => {
                // The image above all, which the guest has a copy of by now. It runs, so this keeps nobody waiting.
                give_back();
                Ok((machine, self.report))
            }
            Err(error) => {
                remove_again(made);
                Err(start_error(error))
            }
        }
    }
}

/// Gives the memory of this program's own files back, as far as it is not needed again.
fn give_back() {
    match give_program_back() {
        Ok(bytes) => log::debug!("{} KiB of this program's own files were given back", bytes / 1024),
        Err(error) => log::debug!("this program's own files stay in its memory: {error}"),
    }
}

/// Removes the RAM file that was made for a machine that did not start.
fn remove_again(made: Option<PathBuf>) {
    if let Some(path) = made
        && let Err(error) = fs::remove_file(&path)
    {
        log::warn!("the new RAM file '{}' stays behind: {error}", path.display());
    }
}

/// Returns a machine's start error with its exit code.
fn start_error(error: MachineError) -> CommandError {
    let exit = match &error {
        MachineError::Kvm(_) | MachineError::Vm(_) | MachineError::State(_) => ExitCode::Kvm,
        MachineError::Image(_) => ExitCode::Image,
        MachineError::RamFile(error) => ram_file_class(error),
        MachineError::Stores(_) => ExitCode::Config,
        MachineError::PinMethod(_) => ExitCode::LockBudget,
        MachineError::Memory(_) | MachineError::View(_) | MachineError::Syncs(_) => ExitCode::Memory,
        _ => ExitCode::Failure,
    };
    CommandError::new(exit, error)
}

/// Checks and makes what a machine on KVM needs, whose guest finds these programs, in this order.
///
/// # Errors
/// [`CommandError`] of the first thing that is refused; nothing is left behind.
pub fn prepare(options: &MachineOptions, programs: &[Program]) -> Result<Prepared, CommandError> {
    kvm::open().map_err(|error| CommandError::new(ExitCode::Kvm, error))?;
    let (image, kernel) = read_image(options.kernel.as_deref())?;
    let (vcpus, archive) = (options.vcpus.unwrap_or(1), archive(programs)?);
    let known_ram = known_ram_bytes(options)?;
    if let Some(bytes) = known_ram {
        let archive_bytes = archive.as_ref().map_or(0, |archive| archive.len());
        check_image(&image, bytes, vcpus, archive_bytes as u64)?;
    }
    let quota = wire_quota(options.wire_quota_bytes, known_ram)?;
    let pin = pin_kind(options.pin, known_ram)?;
    let store = check_folder(options.store.as_ref())?;
    let ram = make_ram(options)?;
    let mut report = describe(HostKind::Kvm, options, &ram, (quota, pin));
    report.store = store;
    report.vcpus = Some(vcpus);
    report.kvm = Some("API 12".to_owned());
    report.kernel = kernel;
    let interrupted = signal::install().map_err(|error| CommandError::new(ExitCode::Failure, error))?;
    let config = MachineConfig {
        vcpus,
        archive,
        wire_quota_pages: report.wire_quota_bytes / PAGE_SIZE,
        pin,
        lock_faults: None,
        storage_faults: None,
        store_dir: options.store.as_ref().map(|store| store.folder.clone()),
        store_quota_pages: options.store.as_ref().map_or(0, |store| store.quota_bytes / PAGE_SIZE),
        time_limit: options.timeout,
        on_storage_error: policy(options),
        // The numbers of the contract are those of `log`: what the user wants to hear of us goes for the guest too.
        guest_log_level: log::max_level() as u64,
        console: Box::new(Console::new(io::stderr())),
        keyboard: io::stdin().is_terminal(),
        single_step: false,
        // What has read the command line and made the machine is not needed beside the image.
        before_load: Some(give_back),
        interrupted: Some(interrupted),
    };
    Ok(Prepared { image, ram, config, report })
}

/// Checks and makes what [`HostKind::Hosted`] needs, and starts it.
///
/// # Errors
/// [`CommandError`] of the first thing that is refused; nothing is left behind.
pub fn start_hosted(options: &MachineOptions) -> Result<(HostedTarget, MachineReport), CommandError> {
    let known_ram = known_ram_bytes(options)?;
    let quota = wire_quota(options.wire_quota_bytes, known_ram)?;
    let pin = pin_kind(options.pin, known_ram)?;
    let store = check_folder(options.store.as_ref())?;
    let ram = make_ram(options)?;
    let report = MachineReport { store, ..describe(HostKind::Hosted, options, &ram, (quota, pin)) };
    let config = HostedConfig {
        wire_quota_pages: report.wire_quota_bytes / PAGE_SIZE,
        pin,
        stores: options.store.as_ref().map(|store| (store.folder.clone(), store.quota_bytes / PAGE_SIZE)),
        on_storage_error: policy(options),
        limits: limits(options)?,
    };
    let Ram { ram, made, .. } = ram;
    match HostedTarget::start(config, ram) {
        Ok(target) => Ok((target, report)),
        Err(error) => {
            remove_again(made);
            let exit = match &error {
                HostedError::RamFile(error) => ram_file_class(error),
                HostedError::Stores(_) => ExitCode::Config,
                HostedError::PinMethod(_) => ExitCode::LockBudget,
                HostedError::Memory(_) | HostedError::View(_) | HostedError::Syncs(_) => ExitCode::Memory,
                _ => ExitCode::Failure,
            };
            Err(CommandError::new(exit, error))
        }
    }
}

/// Checks what [`HostKind::Fake`] is asked to be.
///
/// # Errors
/// [`CommandError`] of the first thing that is refused.
pub fn fake_config(options: &MachineOptions) -> Result<(FakeConfig, MachineReport), CommandError> {
    let ram_bytes = options.memory.size_bytes.unwrap_or(DEFAULT_RAM_BYTES);
    let quota = default_quota(options.wire_quota_bytes, ram_bytes)?;
    let durability = options.memory.durability.unwrap_or(Durability::Shared);
    let report = MachineReport {
        host: HostKind::Fake,
        kvm: None,
        kernel: IN_PROCESS.to_owned(),
        ram_bytes,
        ram_place: "a model".to_owned(),
        durability: durability.to_string(),
        wire_quota_bytes: quota,
        ..MachineReport::default()
    };
    let config = FakeConfig {
        ram_pages: ram_bytes / PAGE_SIZE,
        wire_quota_pages: quota / PAGE_SIZE,
        durable: durability == Durability::Shared,
        // Where hosts are compared, the model has what the others have.
        store_quota_pages: match &options.store {
            Some(store) => Some(store.quota_bytes / PAGE_SIZE),
            None => (options.on != On::All).then_some(DEFAULT_STORE_QUOTA_BYTES / PAGE_SIZE),
        },
        on_storage_error: policy(options),
        limits: limits(options)?,
    };
    Ok((config, report))
}

/// Returns what is known of a machine before it runs.
fn describe(host: HostKind, options: &MachineOptions, ram: &Ram, (quota, pin): (u64, PinKind)) -> MachineReport {
    MachineReport {
        host,
        kvm: None,
        kernel: IN_PROCESS.to_owned(),
        ram_bytes: ram.ram.size_bytes(),
        ram_place: ram.place.clone(),
        ram_file: options.memory.file.clone(),
        durability: ram.ram.durability().to_string(),
        folio: ram.ram.is_file().then_some(ram.ram.folio()),
        wire_quota_bytes: quota.min(ram.ram.size_bytes()),
        pin: Some(pin.to_string()),
        previous_end: previous_end(ram.ram.previous_end()),
        notes: ram.notes.clone(),
        ..MachineReport::default()
    }
}

/// Returns the word for how a RAM file was left, if a machine has used it.
const fn previous_end(end: PreviousEnd) -> Option<&'static str> {
    match end {
        PreviousEnd::Fresh => None,
        PreviousEnd::Clean => Some("clean"),
        PreviousEnd::NotClean => Some("open"),
        PreviousEnd::Failed { .. } => Some("failed"),
    }
}

const fn policy(options: &MachineOptions) -> StorageErrorPolicy {
    match options.on_storage_error {
        OnStorageError::Stop => StorageErrorPolicy::Stop,
        OnStorageError::Latch => StorageErrorPolicy::Latch,
    }
}

fn limits(options: &MachineOptions) -> Result<Limits, CommandError> {
    signal::install().map_err(|error| CommandError::new(ExitCode::Failure, error))?;
    Ok(Limits { time_limit: options.timeout, is_interrupted: signal::is_interrupted })
}

fn read_image(kernel: Option<&Path>) -> Result<(Cow<'static, [u8]>, String), CommandError> {
    let Some(path) = kernel else { return Ok((Cow::Borrowed(BUILT_IN_IMAGE), "built in".to_owned())) };
    let refused = |reason| {
        CommandError::new(ExitCode::Image, format!("cannot read the guest image '{}': {reason}", path.display()))
    };
    let bytes = read_file(path, MAX_IMAGE_BYTES).map_err(refused)?;
    Ok((Cow::Owned(bytes), path.display().to_string()))
}

/// Returns the archive of programs; none of no program.
fn archive(programs: &[Program]) -> Result<Option<Arc<[u8]>>, CommandError> {
    let mut archive = ArchiveBuilder::new();
    for Program { wanted, image } in programs {
        let added = archive.add(wanted.label(), wanted.arguments(), image);
        added.map_err(|error| CommandError::new(ExitCode::Config, error))?;
    }
    Ok((!programs.is_empty()).then(|| archive.finish()))
}

fn check_image(image: &[u8], ram_bytes: u64, vcpus: u32, archive_bytes: u64) -> Result<(), CommandError> {
    let pages = ram_bytes / PAGE_SIZE;
    let checked = Image::new(image, pages).and_then(|image| place(&image, pages, vcpus.into(), archive_bytes));
    checked.map(|_| ()).map_err(|error| CommandError::new(ExitCode::Image, error))
}
