//! wirevm: a guest that can say: these pages never leave memory, these bytes survive a power cut.
//!
//! This crate is the `wirevm` binary: the command line, the script language, the doctor and the reports. What a
//! machine is and does lives in `wirevm-vmm` and `wirevm-devices`.

mod args;
mod bench;
mod compare;
mod config;
mod console;
mod doctor;
mod exit_code;
mod fake_host;
mod hosted;
mod hosts;
mod in_process;
mod input;
mod kvm_target;
mod prepare;
mod program;
mod programs;
mod ramfile;
mod report;
mod script;
mod session;
mod size;
mod visible;
mod witness;

use std::env;
use std::io::{self, Write};
use std::process;

use wirevm_devices::pin::ViewMethod;
use wirevm_devices::ramfile::{FileSystemError, durable_file_system};

use args::{ArgsError, Bench, BenchCompareArgs, BenchMeasureArgs, Command, OutputArgs, Which, Work};
use config::{ConfigError, MachineOptions, check_programs};
use doctor::{Probes, System};
use exit_code::{CommandError, ExitCode};
use program::Wanted;
use report::ErrorDocument;
use script::source::{ScriptError, ScriptSource};
use script::{Script, SyntaxErrors};
use visible::visible_lines;

fn main() -> process::ExitCode {
    let command = match args::parse(env::args_os()) {
        Ok(cli) => cli.command,
        Err(ArgsError::Asked(help)) => return shown(help.print()).into(),
        Err(ArgsError::Wrong(reason)) => {
            // What the options would have been is not known; that a document is wanted is.
            let json = env::args_os().any(|word| word == "--json");
            let failure = Failure::from(CommandError::new(ExitCode::Usage, reason));
            failure.tell(OutputArgs { json, ..OutputArgs::default() });
            return failure.exit().into();
        }
    };
    let output = command.output();
    start_log(output);
    let code = carry_out(&command).unwrap_or_else(|failure| {
        failure.tell(output);
        failure.exit()
    });
    code.into()
}

/// Why a command came to no report.
enum Failure {
    Command(CommandError),
    /// A script has errors.
    Syntax {
        name: String,
        errors: SyntaxErrors,
    },
}

impl Failure {
    const fn exit(&self) -> ExitCode {
        match self {
            Self::Command(error) => error.exit,
            Self::Syntax { .. } => ExitCode::ScriptSyntax,
        }
    }

    fn tell(&self, output: OutputArgs) {
        let (document, sentences) = match self {
            Self::Command(error) => (ErrorDocument::new(error, &[]), format!("{error}\n")),
            Self::Syntax { name, errors } => {
                let error = CommandError::new(ExitCode::ScriptSyntax, format!("{name}: {errors}"));
                (ErrorDocument::new(&error, errors.errors()), errors.render(name))
            }
        };
        if output.json {
            // The document is for the program that reads it; the sentence is told in any case.
            if let Ok(document) = report::pretty(&document) {
                print(&document);
            }
        }
        complain(sentences.trim_end());
    }
}

impl From<CommandError> for Failure {
    fn from(error: CommandError) -> Self {
        Self::Command(error)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Command(CommandError::new(ExitCode::Config, error))
    }
}

impl From<ScriptError> for Failure {
    fn from(error: ScriptError) -> Self {
        match error {
            ScriptError::Read { .. } => Self::Command(CommandError::new(ExitCode::Usage, error)),
            ScriptError::Syntax { name, source } => Self::Syntax { name, errors: source },
        }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::Command(CommandError::new(ExitCode::Failure, error))
    }
}

fn carry_out(command: &Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Run(args) => {
            let (options, work) = args.resolve()?;
            match work {
                Work::Script(source) => run(&options, &source, args.output),
                Work::Programs(wanted) => run_programs(&options, &wanted, args.output),
            }
        }
        Command::Script(args) => {
            let options = args.resolve()?;
            run(&options, &ScriptSource::named(args.file.clone()), args.output)
        }
        Command::Ramfile(args) => {
            let wanted = match (args.page, &args.find) {
                (Some(first), _) => ramfile::Wanted::Pages { first, count: args.count },
                (None, Some(text)) => ramfile::Wanted::Holding(text.as_bytes()),
                (None, None) => ramfile::Wanted::Nothing,
            };
            let report = ramfile::look(&args.file, wanted)?;
            Ok(tell(args.output, || report.document(), || report.text())?)
        }
        Command::Programs(args) => Ok(tell(args.output, report::built_in_document, report::built_in_text)?),
        Command::Doctor(args) => examine(&args.resolve()?, args.output),
        Command::Bench(args) => match (&args.what, args.what.measured()) {
            (Bench::Compare(args), _) => compare_documents(args),
            (Bench::PressureInside(args), _) => {
                Ok(print(&bench::pressure_inside::document(&args.group, &args.ram, args.quick)?))
            }
            (_, Some((which, args))) => measure(which, args),
            (_, None) => Ok(ExitCode::Ok),
        },
    }
}

/// Measures, and puts what is found where the user wants it.
fn measure(which: Which, args: &BenchMeasureArgs) -> Result<ExitCode, Failure> {
    let files = bench::Findings::open(args)?;
    let document = bench::measure(which, args)?;
    let printed = tell(args.output(), || report::pretty(&document), || bench::text(&document, args.verbose > 0))?;
    files.write(&document)?;
    let failed = document.failed.iter().map(|case| format!("{} failed: {}", case.name, case.reason));
    let wrong: Vec<String> = bench::exceeded(&document).into_iter().chain(failed).collect();
    wrong.iter().for_each(|sentence| complain(sentence));
    Ok(if wrong.is_empty() { printed } else { ExitCode::Failure })
}

/// Compares two documents of benchmarks.
fn compare_documents(args: &BenchCompareArgs) -> Result<ExitCode, Failure> {
    let [before, after] = [bench::Document::read(&args.before)?, bench::Document::read(&args.after)?];
    let comparison = bench::Comparison::new(&before, &after, args.threshold / 100.0);
    let printed = tell(args.output, || report::pretty(&comparison), || comparison.text())?;
    let slower: Vec<String> = comparison.regressions().map(|change| change.sentence()).collect();
    slower.iter().for_each(|sentence| complain(sentence));
    Ok(if slower.is_empty() { printed } else { ExitCode::Failure })
}

/// Carries a script out on a machine, or on each, and reports.
fn run(options: &MachineOptions, source: &ScriptSource, output: OutputArgs) -> Result<ExitCode, Failure> {
    let script = source.load()?;
    check_programs(&script.programs(), options.on)?;
    let Some(host) = options.on.one() else { return compare(options, source, &script, output) };
    let report = session::run(host, options, source, &script)?;
    let printed = tell(output, || report::document(&report), || report::text(&report))?;
    if let Some(error) = &report.ending.error {
        complain(error);
    }
    Ok(if report.ending.exit == ExitCode::Ok { printed } else { report.ending.exit })
}

/// Runs programs and reports what became of each.
fn run_programs(options: &MachineOptions, wanted: &[Wanted], output: OutputArgs) -> Result<ExitCode, Failure> {
    let programs = program::load(wanted)?;
    let report = session::run_programs(options, &programs, !output.json)?;
    let printed = tell(output, || report.document(), || format!("\n{}", report.text()))?;
    if let Some(error) = &report.ending.error {
        complain(error);
    }
    Ok(if report.ending.exit == ExitCode::Ok { printed } else { report.ending.exit })
}

/// Carries a script out on each host and reports what they say differently.
fn compare(
    options: &MachineOptions,
    source: &ScriptSource,
    script: &Script,
    output: OutputArgs,
) -> Result<ExitCode, Failure> {
    let report = compare::run(options, source, script)?;
    let printed = tell(output, || report.document(), || report.text())?;
    report.errors().iter().for_each(|error| complain(error));
    Ok(if report.exit() == ExitCode::Ok { printed } else { report.exit() })
}

/// Prints a report as the user wants it.
fn tell(
    output: OutputArgs,
    document: impl FnOnce() -> Result<String, serde_json::Error>,
    text: impl FnOnce() -> String,
) -> Result<ExitCode, Failure> {
    Ok(match (output.json, output.quiet) {
        (true, _) => print(&document()?),
        (false, true) => ExitCode::Ok,
        (false, false) => print(&text()),
    })
}

/// Looks at this host and reports.
fn examine(options: &MachineOptions, output: OutputArgs) -> Result<ExitCode, Failure> {
    let probes = Probes {
        kvm_usable: &session::kvm_usable,
        durable_file_system: &|path| {
            durable_file_system(path).map(|kind| kind.to_string()).map_err(|error| match error {
                // The doctor has its own remedy.
                FileSystemError::NotDurable { path, name, why } => {
                    format!("'{}' is on {name}, which {why}", path.display())
                }
                error => CommandError::new(ExitCode::RamFile, error).to_string(),
            })
        },
        free_bytes: &|path| {
            let file_system = rustix::fs::statvfs(path)?;
            Ok(file_system.f_bavail.saturating_mul(file_system.f_frsize))
        },
        pins_by_view: &|| ViewMethod::check_kernel().map_err(|error| error.to_string()),
    };
    let checks = doctor::examine(&System::host(), &probes, options, doctor::temporary_folders());
    let text = if output.json { doctor::document(&checks)? } else { doctor::text(&checks, output.quiet) };
    let printed = print(&text);
    let found = doctor::exit_code(&checks);
    Ok(if found == ExitCode::Ok { printed } else { found })
}

fn start_log(output: OutputArgs) {
    let level = match (output.quiet, output.verbose) {
        (true, _) => log::LevelFilter::Error,
        (false, 0) => log::LevelFilter::Warn,
        (false, 1) => log::LevelFilter::Info,
        (false, 2) => log::LevelFilter::Debug,
        (false, _) => log::LevelFilter::Trace,
    };
    env_logger::Builder::new().filter_level(level).parse_default_env().init();
}

/// Writes to standard output.
fn print(text: &str) -> ExitCode {
    let mut out = io::stdout().lock();
    shown(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// Judges a write to standard output. Whoever closes the pipe has read enough.
fn shown(result: io::Result<()>) -> ExitCode {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            complain(&format!("cannot write to standard output: {error}"));
            ExitCode::Failure
        }
        _ => ExitCode::Ok,
    }
}

/// Writes an error to standard error. When that fails, nobody is left to tell.
fn complain(reason: &str) {
    writeln!(io::stderr(), "wirevm: error: {}", visible_lines(reason)).unwrap_or_default();
}
