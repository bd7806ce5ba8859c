//! The command line of `wirevm bench`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::OutputArgs;
use crate::config::Pin;
use crate::exit_code::ExitCode;

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
    /// Wiring and unwiring, beside `mlock` and `munlock`
    #[command(after_help = ExitCode::help())]
    Wire(BenchMeasureArgs),
    /// Syncing, beside `msync` and `fdatasync`
    #[command(after_help = ExitCode::help())]
    Sync(BenchMeasureArgs),
    /// Calls: what it costs a guest to ask
    #[command(after_help = ExitCode::help())]
    Call(BenchMeasureArgs),
    /// Boot: from the command to the guest's first instruction, and to a guest that takes commands
    #[command(after_help = ExitCode::help())]
    Boot(BenchMeasureArgs),
    /// Page faults, beside those of a process
    #[command(after_help = ExitCode::help())]
    Fault(BenchMeasureArgs),
    /// Touching memory while the host is short of it, wired and not
    #[command(after_help = ExitCode::help())]
    Pressure(BenchMeasureArgs),
    /// The same work on more and more vCPUs
    #[command(after_help = ExitCode::help())]
    Scale(BenchMeasureArgs),
    /// Memory that a machine keeps besides guest RAM
    #[command(after_help = ExitCode::help())]
    Footprint(BenchMeasureArgs),
    /// All of these
    #[command(after_help = ExitCode::help())]
    All(BenchMeasureArgs),
    /// Compare two documents that --json wrote
    ///
    /// Cases are matched by their names. A change counts as shown where the interval that holds it with 95 % does not hold 0.
    /// The exit code is 1 when a case is slower by more than the threshold with its whole interval.
    #[command(after_help = ExitCode::help())]
    Compare(BenchCompareArgs),
    /// The part of `pressure` that runs inside the control group
    #[command(hide = true)]
    PressureInside(PressureInsideArgs),
}

/// `wirevm bench pressure-inside`, which `wirevm bench pressure` starts.
#[derive(Clone, Debug, Default, Args)]
pub struct PressureInsideArgs {
    /// The folder of the control group
    pub group: PathBuf,
    /// The RAM file to make
    pub ram: PathBuf,
    /// Smaller sizes
    #[arg(long)]
    pub quick: bool,
}

/// A benchmark whose findings are a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Wiring.
    Wire,
    /// Syncing.
    Sync,
    /// Calls that do nothing.
    Call,
    /// Boot.
    Boot,
    /// Page faults.
    Fault,
    /// Shortage of memory.
    Pressure,
    /// Several vCPUs.
    Scale,
    /// Sizes.
    Footprint,
    /// All.
    All,
}

/// Options of the benchmarks whose findings are a document.
#[derive(Clone, Debug, Default, Args)]
pub struct BenchMeasureArgs {
    /// Take fewer and smaller samples: to see that all works, not for figures to quote
    #[arg(long, help_heading = "Measuring")]
    pub quick: bool,
    /// Measure only the cases whose names contain TEXT
    #[arg(long, value_name = "TEXT", help_heading = "Measuring")]
    pub filter: Option<String>,
    /// Folder for RAM files [default: the first durable one among the current folder, $XDG_CACHE_HOME and /var/tmp]
    #[arg(long, value_name = "DIR", help_heading = "Measuring")]
    pub folder: Option<PathBuf>,
    /// Guest image to boot instead of the built-in one
    #[arg(long, value_name = "FILE", help_heading = "Measuring")]
    pub kernel: Option<PathBuf>,
    /// How the host holds wired pages, as for `wirevm run` [default: auto]
    #[arg(long, value_enum, value_name = "METHOD", help_heading = "Measuring")]
    pub pin: Option<Pin>,
    /// Write all that was found as a JSON document; without FILE, or with -, print it instead of the table
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-", help_heading = "Output")]
    pub json: Option<PathBuf>,
    /// Write a page with plots
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub html: Option<PathBuf>,
    /// Write the plots as SVG files into a folder, which is made if it does not exist
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub svg: Option<PathBuf>,
    /// Show conditions and tails in the table too, and log more to standard error (-vv even more, -vvv everything)
    #[arg(short, long, action = clap::ArgAction::Count, conflicts_with = "quiet", help_heading = "Output")]
    pub verbose: u8,
    /// Print failures only
    #[arg(short, long, help_heading = "Output")]
    pub quiet: bool,
}

/// `wirevm bench compare`.
#[derive(Clone, Debug, Args)]
pub struct BenchCompareArgs {
    /// Document that is compared with
    #[arg(value_name = "A.json")]
    pub before: PathBuf,
    /// Document that is compared
    #[arg(value_name = "B.json")]
    pub after: PathBuf,
    /// By how many percent a case may be slower
    #[arg(long, value_name = "PERCENT", default_value_t = 10.0, value_parser = read_percent, allow_hyphen_values = true)]
    #[arg(help_heading = "Comparing")]
    pub threshold: f64,
    /// The output.
    #[command(flatten)]
    pub output: OutputArgs,
}

impl Which {
    /// All benchmarks, in the order in which [`Which::All`] has them.
    pub const EACH: [Self; 8] =
        [Self::Wire, Self::Sync, Self::Call, Self::Boot, Self::Fault, Self::Pressure, Self::Scale, Self::Footprint];
}

impl Bench {
    /// Returns the benchmark and its options; none for `compare` and what only `pressure` starts.
    #[must_use]
    pub const fn measured(&self) -> Option<(Which, &BenchMeasureArgs)> {
        Some(match self {
            Self::Wire(args) => (Which::Wire, args),
            Self::Sync(args) => (Which::Sync, args),
            Self::Call(args) => (Which::Call, args),
            Self::Boot(args) => (Which::Boot, args),
            Self::Fault(args) => (Which::Fault, args),
            Self::Pressure(args) => (Which::Pressure, args),
            Self::Scale(args) => (Which::Scale, args),
            Self::Footprint(args) => (Which::Footprint, args),
            Self::All(args) => (Which::All, args),
            Self::Compare(_) | Self::PressureInside(_) => return None,
        })
    }

    /// Returns the options of what is printed.
    #[must_use]
    pub fn output(&self) -> OutputArgs {
        match (self, self.measured()) {
            (Self::Compare(args), _) => args.output,
            (_, Some((_, args))) => args.output(),
            (_, None) => OutputArgs::default(),
        }
    }
}

impl BenchMeasureArgs {
    /// Tells whether the document goes to standard output, in the place of the table.
    #[must_use]
    pub fn prints_json(&self) -> bool {
        self.json.as_ref().is_some_and(|path| path.as_os_str() == "-")
    }

    /// Returns the options of what is printed.
    #[must_use]
    pub fn output(&self) -> OutputArgs {
        OutputArgs { json: self.prints_json(), verbose: self.verbose, quiet: self.quiet }
    }
}

/// Reads a percentage that is not below 0.
fn read_percent(text: &str) -> Result<f64, String> {
    match text.trim_end_matches('%').trim_end().parse::<f64>() {
        Ok(percent) if percent >= 0.0 && percent.is_finite() => Ok(percent),
        _ => Err(format!("'{text}' is not a percentage; write a number from 0 up, such as 10")),
    }
}
