//! The command line.

mod bench;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use wirevm_devices::folio::FolioPolicy;

pub use self::bench::{Bench, BenchArgs, BenchCompareArgs, BenchMeasureArgs, Which};

use crate::config::{
    Config, ConfigError, MachineOptions, MemoryConfig, OnStorageError, Pin, Size, check_programs, is_cpus, read_cpus,
};
use crate::exit_code::ExitCode;
use crate::hosts::On;
use crate::program::Wanted;
use crate::script::source::ScriptSource;

/// A guest that can say: these pages never leave memory, these bytes survive a power cut.
///
/// wirevm boots a tiny kernel in a KVM virtual machine whose RAM is a file. The guest decides which pages the host
/// locks in memory (wire) and which it puts on stable storage (sync). Where there is no KVM, --on hosted carries the
/// same scripts out without a virtual machine.
#[derive(Clone, Debug, Parser)]
#[command(name = "wirevm", version, after_help = ExitCode::help(), arg_required_else_help = true)]
#[command(subcommand_required = true, disable_help_subcommand = true, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Boot a guest and carry out a script, the built-in demo or another, or run programs in it
    ///
    /// Without options, guest RAM is a temporary file on the first durable file system among the current folder,
    /// $XDG_CACHE_HOME and /var/tmp, and the demo shows wiring and syncing with the host's own counters beside the
    /// guest's word.
    ///
    /// With --program, what the programs print is shown as they print it, then how each ended; the exit code is 0 when all
    /// exited with code 0, and 1 when one did not. With --quiet only what they print is shown, with --json it is in the document.
    #[command(after_help = ExitCode::help())]
    Run(RunArgs),
    /// Boot a guest and carry out a script
    #[command(after_help = ExitCode::help())]
    Script(ScriptArgs),
    /// Check what this host offers, and say how to fix what it lacks
    #[command(after_help = ExitCode::help())]
    Doctor(DoctorArgs),
    /// Show what a RAM file says of itself, and what its pages hold
    ///
    /// The file is only read. Where a machine was killed, what it had synced is found here.
    #[command(after_help = ExitCode::help())]
    Ramfile(RamfileArgs),
    /// List the programs that are built in
    Programs(ProgramsArgs),
    /// Measure, or compare what was measured
    Bench(BenchArgs),
}

/// Options of the machine.
#[derive(Clone, Debug, Default, Args)]
pub struct MachineArgs {
    /// Guest image to boot instead of the built-in one
    #[arg(long, value_name = "FILE", help_heading = "Machine")]
    pub kernel: Option<PathBuf>,
    /// Processors of the guest, 1 to 16 [default: 1]
    #[arg(long, value_name = "N", value_parser = read_cpus, allow_hyphen_values = true, help_heading = "Machine")]
    pub cpus: Option<u64>,
    /// Guest memory
    ///
    /// A comma list of size=SIZE (K, M, G or T may follow the number), file=FILE (made if it does not exist) and
    /// durability=none|shared. The first item may be a bare size. With durability=shared a sync promises stable storage, with
    /// none no sync does. Guest memory is its own backing: what its manager keeps is the very page that the guest uses, so
    /// a sync with INVALIDATE leaves the bytes of guest memory as they are. Objects in a store read their file again.
    /// folio=small-sync|balanced|bulk says in what pieces the kernel keeps the file in memory, and with that what a sync of one
    /// page writes: 4 KiB (the default), 64 KiB, or up to 2 MiB, where wiring large ranges is fastest.
    #[arg(long, value_name = "size=,file=,durability=,folio=", allow_hyphen_values = true, help_heading = "Machine")]
    pub memory: Option<MemoryConfig>,
    /// Read options from a TOML file; the command line wins
    #[arg(long, value_name = "FILE", help_heading = "Machine")]
    pub config: Option<PathBuf>,
    /// Most memory that the guest may keep wired
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, help_heading = "Limits")]
    pub wire_quota: Option<Size>,
    /// How the host holds wired pages [default: auto]
    ///
    /// With runs, it locks them run by run (mlock), which takes room in its memory map. With view, it locks a view of all guest
    /// memory once (mlock2) and faults in what is to be held: scattered pages take fewer and cheaper system calls and no room, but
    /// as much locked memory must be allowed as guest memory has, and Linux 6.12 or newer be there. With auto, it is view where
    /// that can be had.
    #[arg(long, value_enum, value_name = "METHOD", help_heading = "Machine")]
    pub pin: Option<Pin>,
    /// Folder for stores: host files that the guest's memory objects can have behind them
    ///
    /// It must exist, and be for nothing else: the guest can open, write and lengthen any file in it but RAM files. Each store is
    /// a file, made when a guest first opens it; without a folder there are no stores.
    #[arg(long, value_name = "DIR", help_heading = "Machine")]
    pub store: Option<PathBuf>,
    /// Most bytes that the guest may have in stores, open and closed ones together [default: 64M]
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, help_heading = "Limits")]
    pub store_quota: Option<Size>,
    /// Stop the machine after that many seconds
    #[arg(long, value_name = "SECONDS", allow_hyphen_values = true, help_heading = "Limits")]
    pub timeout: Option<f64>,
    /// What to do when storage reports an error: stop the machine, or let all further syncs fail
    #[arg(long, value_enum, value_name = "ACTION", help_heading = "Limits")]
    pub on_storage_error: Option<OnStorageError>,
}

/// Options of what is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Args)]
pub struct OutputArgs {
    /// Print one JSON document
    #[arg(long, conflicts_with = "quiet", help_heading = "Output")]
    pub json: bool,
    /// Log more to standard error (-vv even more, -vvv everything)
    #[arg(short, long, action = clap::ArgAction::Count, conflicts_with = "quiet", help_heading = "Output")]
    pub verbose: u8,
    /// Print failures only
    #[arg(short, long, help_heading = "Output")]
    pub quiet: bool,
}

/// `wirevm run`.
#[derive(Clone, Debug, Default, Args)]
pub struct RunArgs {
    /// Script to carry out instead of the demo; - for standard input
    #[arg(long, value_name = "FILE", help_heading = "Machine")]
    pub script: Option<PathBuf>,
    /// Program to run in the guest instead of a script; may be given several times, and all run together
    ///
    /// NAME is that of a built-in program, which `wirevm programs` lists, or the path of a static ELF file with a '/' in it, as in
    /// ./my.elf. Its arguments follow, separated by commas, as in kv,1000.
    #[arg(long = "program", value_name = "NAME[,ARG…]", allow_hyphen_values = true, conflicts_with = "script")]
    #[arg(help_heading = "Machine")]
    pub programs: Vec<Wanted>,
    /// Where to carry it out
    #[arg(long, value_enum, value_name = "HOST", help_heading = "Machine")]
    pub on: Option<On>,
    /// The machine.
    #[command(flatten)]
    pub machine: MachineArgs,
    /// The output.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// What `wirevm run` runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// A script.
    Script(ScriptSource),
    /// Programs, at least one.
    Programs(Vec<Wanted>),
}

/// `wirevm programs`.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct ProgramsArgs {
    /// The output.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `wirevm script`.
#[derive(Clone, Debug, Default, Args)]
pub struct ScriptArgs {
    /// Script to carry out; - for standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Where to carry it out
    #[arg(long, value_enum, value_name = "HOST", help_heading = "Machine")]
    pub on: Option<On>,
    /// The machine.
    #[command(flatten)]
    pub machine: MachineArgs,
    /// The output.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `wirevm doctor`.
#[derive(Clone, Debug, Default, Args)]
pub struct DoctorArgs {
    /// Guest memory that is meant to be used, as for `wirevm run`
    #[arg(long, value_name = "size=,file=,durability=,folio=", allow_hyphen_values = true, help_heading = "Machine")]
    pub memory: Option<MemoryConfig>,
    /// Read options from a TOML file; the command line wins
    #[arg(long, value_name = "FILE", help_heading = "Machine")]
    pub config: Option<PathBuf>,
    /// Most memory that the guest is meant to keep wired
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, help_heading = "Limits")]
    pub wire_quota: Option<Size>,
    /// The output.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `wirevm ramfile`.
#[derive(Clone, Debug, Default, Args)]
pub struct RamfileArgs {
    /// The RAM file; no machine may be using it
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Show the bytes of that page of RAM, counted from 0
    #[arg(long, value_name = "N", help_heading = "Pages")]
    pub page: Option<u64>,
    /// Show that many pages from --page on
    #[arg(long, value_name = "N", default_value_t = 1, requires = "page", help_heading = "Pages")]
    pub count: u64,
    /// Show the pages that hold these bytes, at most 64 of them
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["page", "count"], help_heading = "Pages")]
    pub find: Option<String>,
    /// The output.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// What a configuration file says is to be run.
struct FileWork {
    script: Option<PathBuf>,
    programs: Vec<Wanted>,
}

impl MachineArgs {
    /// Joins the command line with the configuration file it names, for a command that carries no script out: whatever
    /// the file says of that is left alone.
    ///
    /// # Errors
    /// [`ConfigError`] when the file or an option is not valid.
    pub fn resolve(&self) -> Result<MachineOptions, ConfigError> {
        let (options, _) = self.resolve_on(Some(On::Kvm))?;
        Ok(options)
    }

    /// Joins the command line, which names `on`, with the configuration file it names; returns the checked options, and
    /// what the file says is to be run, unless it contradicts itself.
    ///
    /// # Errors
    /// [`ConfigError`] when the file or an option is not valid.
    fn resolve_on(&self, on: Option<On>) -> Result<(MachineOptions, FileWork), ConfigError> {
        let file = self.config.as_deref().map_or_else(|| Ok(Config::default()), Config::read)?;
        let given = Config {
            on,
            kernel: self.kernel.clone(),
            cpus: self.cpus,
            memory: self.memory.clone().unwrap_or_default(),
            wire_quota: self.wire_quota,
            pin: self.pin,
            store: self.store.clone(),
            store_quota: self.store_quota,
            timeout: self.timeout,
            on_storage_error: self.on_storage_error,
            script: None,
            programs: Vec::new(),
        };
        let mut all = given.or(file);
        if self.cpus.is_none() && matches!(all.on, Some(On::Hosted | On::Fake)) {
            // What a file says of machines is no contradiction where the line asks for none.
            all.cpus.take_if(|cpus| is_cpus(*cpus));
        }
        let work = FileWork { script: all.script.take(), programs: std::mem::take(&mut all.programs) };
        Ok((all.check()?, work))
    }
}

impl RunArgs {
    /// Returns the checked options and what is to be run: what the command line says, or the configuration file, or the demo.
    ///
    /// # Errors
    /// [`ConfigError`] when the configuration file or an option is not valid.
    pub fn resolve(&self) -> Result<(MachineOptions, Work), ConfigError> {
        let (options, file) = self.machine.resolve_on(self.on)?;
        let (script, programs) = match (&self.script, &*self.programs) {
            (None, []) => (file.script, file.programs),
            (script, programs) => (script.clone(), programs.to_vec()),
        };
        check_programs(&programs, options.on)?;
        let work = match (script, programs.is_empty()) {
            (Some(_), false) => return Err(ConfigError::ScriptAndPrograms),
            (None, false) => Work::Programs(programs),
            (Some(script), true) => Work::Script(ScriptSource::named(script)),
            (None, true) => match options.memory.folio.filter(|folio| *folio != FolioPolicy::default()) {
                Some(folio) => return Err(ConfigError::DemoFolio { folio }),
                None => Work::Script(ScriptSource::Demo),
            },
        };
        Ok((options, work))
    }
}

impl ScriptArgs {
    /// Returns the checked options.
    ///
    /// # Errors
    /// [`ConfigError`] when the configuration file or an option is not valid.
    pub fn resolve(&self) -> Result<MachineOptions, ConfigError> {
        let (options, _) = self.machine.resolve_on(self.on)?;
        Ok(options)
    }
}

impl DoctorArgs {
    /// Returns the checked options.
    ///
    /// # Errors
    /// [`ConfigError`] when the configuration file or an option is not valid.
    pub fn resolve(&self) -> Result<MachineOptions, ConfigError> {
        let (memory, config, wire_quota) = (self.memory.clone(), self.config.clone(), self.wire_quota);
        let machine = MachineArgs { memory, config, wire_quota, ..MachineArgs::default() };
        machine.resolve()
    }
}

impl Command {
    /// Returns the options of what is printed.
    #[must_use]
    pub fn output(&self) -> OutputArgs {
        match self {
            Self::Run(args) => args.output,
            Self::Script(args) => args.output,
            Self::Doctor(args) => args.output,
            Self::Ramfile(args) => args.output,
            Self::Programs(args) => args.output,
            Self::Bench(args) => args.what.output(),
        }
    }
}

/// Why there is no command to carry out.
#[derive(Debug, thiserror::Error)]
pub enum ArgsError {
    /// Help or version was asked for; this is it.
    #[error("{0}")]
    Asked(clap::Error),
    /// The command line is wrong.
    #[error("{0}")]
    Wrong(String),
}

/// Reads a command line.
///
/// # Errors
/// [`ArgsError`] when help or version was asked for, and for everything that is wrong.
pub fn parse(line: impl IntoIterator<Item = OsString>) -> Result<Cli, ArgsError> {
    Cli::try_parse_from(line).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ArgsError::Asked(error),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            ArgsError::Wrong("nothing to do; `wirevm run` shows what there is, --help lists the commands".to_owned())
        }
        _ => ArgsError::Wrong(sentence(&error)),
    })
}

/// Makes one line of an error that has several: the first paragraph, and a tip if there is one.
fn sentence(error: &clap::Error) -> String {
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let mut parts = Vec::new();
    for (place, paragraph) in text.split("\n\n").enumerate() {
        let paragraph = paragraph.trim();
        if place == 0 || paragraph.starts_with("tip: ") {
            parts.push(paragraph.split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }
    parts.join("; ")
}

#[cfg(test)]
mod test;
