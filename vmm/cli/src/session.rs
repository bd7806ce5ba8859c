//! A script, or programs, from the options to the report, on one host.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use wirevm_agent::{Command, MAIN_TASK, Reply, Request};
use wirevm_devices::durability::Durability;
use wirevm_map::KernReturn;
use wirevm_vmm::{Machine, Outcome, kvm};

use crate::config::MachineOptions;
use crate::exit_code::{CommandError, ExitCode};
use crate::fake_host::FakeTarget;
use crate::hosts::HostKind;
use crate::kvm_target::{KvmTarget, Orders, ended, exit_code_of};
use crate::prepare::{fake_config, prepare, start_hosted};
use crate::program::{self, Live, Outputs, Program, titles};
use crate::report::{Ending, MachineReport, ProgramReport, ProgramsReport, RunReport};
use crate::script::Script;
use crate::script::run::{End, Run, run as run_script};
use crate::script::source::ScriptSource;
use crate::script::target::Target;

/// Fewer instructions than this from entry to ready mean that KVM emulated the odd port access only, not ring 0.
const EMULATED_RING_0: u64 = 1000;

/// Carries a script out on a host, and reports both. `source` is where the script came from.
///
/// What goes wrong once the guest runs is part of the report.
///
/// # Errors
/// [`CommandError`] when no guest took commands. A RAM file that was made for it stays if the guest ran at all.
pub fn run(
    host: HostKind,
    options: &MachineOptions,
    source: &ScriptSource,
    script: &Script,
) -> Result<RunReport, CommandError> {
    match host {
        HostKind::Kvm => run_on_kvm(options, source, script),
        HostKind::Hosted => run_hosted(options, source, script),
        HostKind::Fake => run_on_fake(options, source, script),
    }
}

/// Boots a guest for the script. An image of the user's own, booted without a script of the user's own, need not take
/// commands: it may as well do its work and end.
fn run_on_kvm(options: &MachineOptions, source: &ScriptSource, script: &Script) -> Result<RunReport, CommandError> {
    let programs = program::load(&script.programs())?;
    let orders = Orders { store: options.store.as_ref().map(|store| store.folder.clone()), ..Orders::default() };
    let (locks, storage) = (orders.locks.clone(), orders.storage.clone());
    let started = prepare(options, &programs)
        .and_then(|prepared| prepared.with_lock_faults(locks).with_storage_faults(storage).start());
    let (mut machine, mut report) =
        started.map_err(|error| if programs.is_empty() { with_way_out(error, options) } else { error })?;
    if *source == ScriptSource::Demo
        && options.kernel.is_some()
        && let Err(Outcome::Exit { code }) = machine.wait_ready()
    {
        machine.finish().map_err(|error| CommandError::new(ExitCode::RamFile, error))?;
        return Ok(RunReport::new(report, "the image's own program", Run { steps: vec![], end: End::Exited(code) }));
    }
    boot(&machine, &mut report)?;
    warn_of_previous_end(&report);
    let durable = is_durable(&report);
    let outputs = Outputs::new(names(&programs), None);
    let run = run_script(script, &mut KvmTarget::new(&mut machine, orders, outputs), durable);
    let mut report = RunReport::new(report, &source.to_string(), run);
    // A script that says `exit` has ended the guest; otherwise its last line is the end.
    end(machine, &mut report.ending);
    Ok(report)
}

/// Ends a machine whose work is done, and notes what was wrong with it.
fn end(machine: Machine, ending: &mut Ending) {
    machine.stop();
    let latched = machine.syncs().latched();
    match machine.finish() {
        Err(error) => ending.ended_by(&CommandError::new(ExitCode::RamFile, error)),
        Ok(outcome @ (Outcome::Exit { .. } | Outcome::Stopped)) => drop(outcome),
        Ok(outcome) => ending.ended_by(&ended(&outcome)),
    }
    if let Some(error) = latched {
        ending.ended_by(&CommandError::new(ExitCode::Storage, error.to_string()));
    }
}

/// Returns what each program is called in what is told of it.
fn names(programs: &[Program]) -> Vec<String> {
    titles(programs.iter().map(|program| &program.wanted))
}

/// Boots a guest and runs programs in it, all at the same time, and reports when all have ended. What they print is shown as it
/// comes if `shows_output`.
///
/// What goes wrong once the guest runs is part of the report.
///
/// # Errors
/// [`CommandError`] when no guest took commands. A RAM file that was made for it stays if the guest ran at all.
pub fn run_programs(
    options: &MachineOptions,
    programs: &[Program],
    shows_output: bool,
) -> Result<ProgramsReport, CommandError> {
    let (mut machine, mut report) = prepare(options, programs)?.start()?;
    boot(&machine, &mut report)?;
    warn_of_previous_end(&report);
    let live = shows_output.then(|| Live::stdout(programs.len() > 1, io::stdout().is_terminal()));
    let titles = names(programs);
    let outputs = Outputs::new(titles.clone(), live);
    let mut target = KvmTarget::new(&mut machine, Orders::default(), outputs);
    let (runs, result) = program::run(0..programs.len() as u64, |request| target.ask(request));
    target.outputs().finish();
    let shown = target.outputs().take_error();
    let programs = programs.iter().zip(titles).zip(runs).map(|((program, title), run)| {
        let (output, is_whole) = run.task.map_or((String::new(), true), |task| target.outputs().text(task));
        ProgramReport { title, wanted: program.wanted.clone(), run, output, is_whole }
    });
    let programs = programs.collect();
    // Nothing is left of what they have printed then.
    let result = result.and_then(|()| rested(&mut target));
    drop(target);
    let mut report = ProgramsReport::new(report, programs, result);
    if let Some(error) = shown {
        let reason = format!("cannot write to standard output: {error}");
        report.ending.ended_by(&CommandError::new(ExitCode::Failure, reason));
    }
    end(machine, &mut report.ending);
    Ok(report)
}

/// Checks that programs have left nothing behind in the guest, and nothing locked.
///
/// # Errors
/// [`CommandError`] that says what is left.
pub fn rested(target: &mut KvmTarget<'_>) -> Result<(), CommandError> {
    match target.call(&Request::new(MAIN_TASK, Command::Reset))? {
        Reply::Done(KernReturn::Success) => Ok(()),
        Reply::Violation(reason) => {
            Err(CommandError::new(ExitCode::Failure, format!("behind the programs' end: {reason}")))
        }
        reply => Err(CommandError::new(ExitCode::Failure, format!("the guest answered {reply:?} to a reset"))),
    }
}

fn run_hosted(options: &MachineOptions, source: &ScriptSource, script: &Script) -> Result<RunReport, CommandError> {
    let (mut target, report) = start_hosted(options)?;
    warn_of_previous_end(&report);
    let durable = is_durable(&report);
    let run = run_script(script, &mut target, durable);
    let mut report = RunReport::new(report, &source.to_string(), run);
    if let Err(error) = target.finish() {
        report.ending.ended_by(&error);
    }
    Ok(report)
}

fn run_on_fake(options: &MachineOptions, source: &ScriptSource, script: &Script) -> Result<RunReport, CommandError> {
    let (config, report) = fake_config(options)?;
    let durable = config.durable;
    let mut target = FakeTarget::start(config)?;
    let run = run_script(script, &mut target, durable);
    let mut report = RunReport::new(report, &source.to_string(), run);
    if let Err(error) = target.finish() {
        report.ending.ended_by(&error);
    }
    Ok(report)
}

/// Says on standard error what a user must know of the RAM file even if nobody reads the report.
fn warn_of_previous_end(report: &MachineReport) {
    if matches!(report.previous_end, Some("open" | "failed")) {
        for note in &report.notes {
            // When that fails, nobody is left to tell.
            writeln!(io::stderr(), "wirevm: warning: {note}").unwrap_or_default();
        }
    }
}

fn is_durable(report: &MachineReport) -> bool {
    report.durability == Durability::Shared.to_string()
}

/// Adds to an error that KVM is behind what needs none, unless it is an image that is to be booted.
fn with_way_out(error: CommandError, options: &MachineOptions) -> CommandError {
    if error.exit == ExitCode::Kvm && options.kernel.is_none() {
        return CommandError::new(ExitCode::Kvm, format!("{error}; --on hosted needs no KVM"));
    }
    error
}

/// Waits until the guest takes commands and notes what that took.
pub fn boot(machine: &Machine, report: &mut MachineReport) -> Result<(), CommandError> {
    let booted = machine.wait_ready().map_err(|outcome| {
        let exit = match outcome {
            // A guest that ends before it takes commands has not done what it was started for, whatever its code.
            Outcome::Exit { .. } => ExitCode::Failure,
            _ => exit_code_of(&outcome),
        };
        CommandError::new(exit, format!("before it took commands: {outcome}"))
    })?;
    report.boot_time = booted.elapsed;
    report.first_entry_monotonic_ns = machine.first_entry().map(monotonic_ns);
    report.boot_instructions = booted.instructions.filter(|count| *count >= EMULATED_RING_0);
    let ring_0 = if report.boot_instructions.is_some() { "ring 0 emulated" } else { "ring 0 native" };
    report.kvm = report.kvm.take().map(|kvm| format!("{kvm}, {ring_0}"));
    Ok(())
}

/// Returns a moment that has passed as nanoseconds of `CLOCK_MONOTONIC`, whose numbers other processes can be told.
fn monotonic_ns(moment: Instant) -> u64 {
    // It is the clock behind `Instant`, which does not show its numbers.
    let now = clock_gettime(ClockId::Monotonic);
    let ago = moment.elapsed();
    let now = Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0));
    u64::try_from(now.saturating_sub(ago).as_nanos()).unwrap_or(u64::MAX)
}

/// Tells whether KVM can run a machine of ours: what it is, or what is in the way.
///
/// # Errors
/// The sentence that says what is in the way.
pub fn kvm_usable() -> Result<String, String> {
    let kvm = kvm::open().map_err(|error| CommandError::new(ExitCode::Kvm, error).to_string())?;
    kvm.create_vm().map_err(|error| format!("KVM cannot create a virtual machine: {error}"))?;
    Ok(format!("API {}", kvm.get_api_version()))
}
