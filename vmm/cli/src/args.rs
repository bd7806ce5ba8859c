//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};

use crate::config::{Config, ConfigError, MachineOptions, MemoryConfig, OnStorageError, Size};
use crate::exit_code::ExitCode;
use crate::script::source::ScriptSource;

/// A guest that can say: these pages never leave memory, these bytes survive a power cut.
///
/// wirevm boots a tiny kernel in a KVM virtual machine whose RAM is a file. The guest decides which pages the host
/// locks in memory (wire) and which it puts on stable storage (sync).
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
    /// Boot a guest and carry out a script: the built-in demo, or another
    ///
    /// Without options, guest RAM is a temporary file on the first durable file system among the current folder,
    /// $XDG_CACHE_HOME and /var/tmp, and the demo shows wiring and syncing with the host's own counters beside the
    /// guest's word.
    #[command(after_help = ExitCode::help())]
    Run(RunArgs),
    /// Boot a guest and carry out a script
    #[command(after_help = ExitCode::help())]
    Script(ScriptArgs),
    /// Check what this host offers, and say how to fix what it lacks
    #[command(after_help = ExitCode::help())]
    Doctor(DoctorArgs),
    /// Measure
    Bench(BenchArgs),
}

/// Options of the machine.
#[derive(Clone, Debug, Default, Args)]
pub struct MachineArgs {
    /// Guest image to boot instead of the built-in one
    #[arg(long, value_name = "FILE", help_heading = "Machine")]
    pub kernel: Option<PathBuf>,
    /// Guest memory
    ///
    /// A comma list of size=SIZE (K, M, G or T may follow the number), file=FILE (made if it does not exist) and
    /// durability=none|shared. The first item may be a bare size.
    #[arg(long, value_name = "size=,file=,durability=", allow_hyphen_values = true, help_heading = "Machine")]
    pub memory: Option<MemoryConfig>,
    /// Read options from a TOML file; the command line wins
    #[arg(long, value_name = "FILE", help_heading = "Machine")]
    pub config: Option<PathBuf>,
    /// Most memory that the guest may keep wired
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, help_heading = "Limits")]
    pub wire_quota: Option<Size>,
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
    /// The machine.
    #[command(flatten)]
    pub machine: MachineArgs,
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
    #[arg(long, value_name = "size=,file=,durability=", allow_hyphen_values = true, help_heading = "Machine")]
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

/// `wirevm bench`.
#[derive(Clone, Debug, Args)]
pub struct BenchArgs {
    /// What to measure.
    #[command(subcommand)]
    pub what: Bench,
}

/// What to measure.
#[derive(Clone, Debug, Subcommand)]
pub enum Bench {
    /// Boot: guest instructions, time, memory and hypercalls
    #[command(after_help = ExitCode::help())]
    Boot(BenchBootArgs),
}

/// `wirevm bench boot`.
#[derive(Clone, Debug, Default, Args)]
pub struct BenchBootArgs {
    /// The machine.
    #[command(flatten)]
    pub machine: MachineArgs,
    /// The output.
    #[command(flatten)]
    pub output: OutputArgs,
}

impl MachineArgs {
    /// Joins the command line with the configuration file it names; returns the checked options, and the script that
    /// the file names.
    ///
    /// # Errors
    /// [`ConfigError`] when the file or an option is not valid.
    pub fn resolve(&self) -> Result<(MachineOptions, Option<PathBuf>), ConfigError> {
        let file = self.config.as_deref().map_or_else(|| Ok(Config::default()), Config::read)?;
        let given = Config {
            kernel: self.kernel.clone(),
            memory: self.memory.clone().unwrap_or_default(),
            wire_quota: self.wire_quota,
            timeout: self.timeout,
            on_storage_error: self.on_storage_error,
            script: None,
        };
        let mut all = given.or(file);
        let script = all.script.take();
        Ok((all.check()?, script))
    }
}

impl RunArgs {
    /// Returns the checked options and where the script comes from.
    ///
    /// # Errors
    /// [`ConfigError`] when the configuration file or an option is not valid.
    pub fn resolve(&self) -> Result<(MachineOptions, ScriptSource), ConfigError> {
        let (options, script) = self.machine.resolve()?;
        let source = self.script.clone().or(script).map_or(ScriptSource::Demo, ScriptSource::named);
        Ok((options, source))
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
        machine.resolve().map(|(options, _)| options)
    }
}

impl Command {
    /// Returns the options of what is printed.
    #[must_use]
    pub const fn output(&self) -> OutputArgs {
        match self {
            Self::Run(args) => args.output,
            Self::Script(args) => args.output,
            Self::Doctor(args) => args.output,
            Self::Bench(BenchArgs { what: Bench::Boot(args) }) => args.output,
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
mod test {
    use super::{ArgsError, Bench, BenchArgs, Cli, Command, ScriptSource, parse};
    use clap::CommandFactory;
    use std::io::Write;

    fn line(text: &str) -> Result<Command, String> {
        let words = std::iter::once("wirevm").chain(text.split_whitespace()).map(Into::into);
        parse(words).map(|cli| cli.command).map_err(|error| error.to_string())
    }

    fn wrong(text: &str) -> String {
        let error = line(text).expect_err(text);
        assert!(!error.contains('\n'), "{text}: {error}");
        error
    }

    #[test]
    fn definition_of_the_command_line_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_takes_every_option() {
        let command = line(
            "run --kernel k --script s --memory size=64M,file=f,durability=shared --wire-quota 8M --timeout 2.5 \
             --on-storage-error latch -vv",
        );
        let Ok(Command::Run(args)) = command else { panic!("{command:?}") };
        assert_eq!(args.output.verbose, 2);
        let (options, source) = args.resolve().expect("valid");
        assert_eq!(source, ScriptSource::File("s".into()));
        assert_eq!(options.wire_quota_bytes, Some(8 << 20));
        assert_eq!(options.memory.file, Some("f".into()));
        assert_eq!(options.timeout.map(|limit| limit.as_millis()), Some(2500));
    }

    #[test]
    fn script_of_run_comes_from_the_line_then_the_file_then_the_demo() {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(b"script = '-'").expect("written");
        let source = |text: &str| match line(text) {
            Ok(Command::Run(args)) => args.resolve().expect("valid").1,
            other => panic!("{other:?}"),
        };
        let config = format!("run --config {}", file.path().display());
        assert_eq!(source("run"), ScriptSource::Demo);
        assert_eq!(source(&config), ScriptSource::Stdin);
        assert_eq!(source(&format!("{config} --script x")), ScriptSource::File("x".into()));
    }

    #[test]
    fn other_commands_take_theirs() {
        assert!(matches!(line("script - --memory 64M --json"), Ok(Command::Script(args)) if args.output.json));
        assert!(matches!(line("doctor --memory 64M --json -v"), Ok(Command::Doctor(args)) if args.memory.is_some()));
        let bench = line("bench boot --json");
        assert!(matches!(bench, Ok(Command::Bench(BenchArgs { what: Bench::Boot(_) }))), "{bench:?}");
    }

    #[test]
    fn mistakes_are_one_sentence() {
        assert!(wrong("run --memroy 64M").contains("unexpected argument '--memroy' found; tip:"));
        let key = wrong("run --memory sise=1M");
        assert!(key.ends_with("unknown key 'sise'; the keys are size, file and durability"), "{key}");
        assert!(wrong("run -v -q").contains("cannot be used with"));
        assert!(wrong("run --json --quiet").contains("cannot be used with"));
        assert!(wrong("script").contains("required arguments were not provided: <FILE>"));
        assert!(wrong("run --on-storage-error panic").contains("[possible values: stop, latch]"));
        assert!(wrong("run --wire-quota 5X").contains("'X' is not a size suffix"));
        assert!(wrong("").starts_with("nothing to do"));
        assert!(wrong("bench").starts_with("nothing to do"));
    }

    #[test]
    fn help_groups_options_and_lists_exit_codes() {
        let words = ["wirevm", "run", "--help"].map(Into::into);
        let Err(ArgsError::Asked(help)) = parse(words) else { panic!("no help") };
        let help = help.to_string();
        for part in ["\nMachine:\n", "\nLimits:\n", "\nOutput:\n", "\n  15  script syntax wrong", "--wire-quota <SIZE>"]
        {
            assert!(help.contains(part), "{part} is not in\n{help}");
        }
    }
}
