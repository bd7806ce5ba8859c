//! A machine from its options to its report.

use wirevm_devices::durability::Durability;
use wirevm_vmm::{Machine, Outcome, kvm};

use crate::config::MachineOptions;
use crate::exit_code::{CommandError, ExitCode};
use crate::kvm_target::{KvmTarget, ended, exit_code_of};
use crate::prepare::prepare;
use crate::report::{MachineReport, RunReport};
use crate::script::Script;
use crate::script::run::{End, Run, run as run_script};
use crate::script::source::ScriptSource;

/// Fewer instructions than this from entry to ready mean that KVM emulated the odd port access only, not ring 0.
const EMULATED_RING_0: u64 = 1000;

/// Boots a guest, carries a script out, and reports both. `source` is where the script came from.
///
/// What goes wrong once the guest runs is part of the report. An image of the user's own, booted without a script of the
/// user's own, need not take commands: it may as well do its work and end.
///
/// # Errors
/// [`CommandError`] when no guest took commands. A RAM file that was made for it stays if the guest ran at all.
pub fn run(options: &MachineOptions, source: &ScriptSource, script: &Script) -> Result<RunReport, CommandError> {
    let (mut machine, mut report) = prepare(options)?.start()?;
    if *source == ScriptSource::Demo
        && options.kernel.is_some()
        && let Err(Outcome::Exit { code }) = machine.wait_ready()
    {
        machine.finish().map_err(|error| CommandError::new(ExitCode::RamFile, error))?;
        return Ok(RunReport::new(report, "the image's own program", Run { steps: vec![], end: End::Exited(code) }));
    }
    boot(&machine, &mut report)?;
    let durable = report.durability == Durability::Shared.to_string();
    let run = run_script(script, &mut KvmTarget::new(&mut machine), durable);
    let mut report = RunReport::new(report, &source.to_string(), run);
    // A script that says `exit` has ended the guest; otherwise its last line is the end.
    machine.stop();
    let latched = machine.syncs().latched();
    match machine.finish() {
        Err(error) => report.ended_by(&CommandError::new(ExitCode::RamFile, error)),
        Ok(outcome @ (Outcome::Exit { .. } | Outcome::Stopped)) => drop(outcome),
        Ok(outcome) => report.ended_by(&ended(&outcome)),
    }
    if let Some(error) = latched {
        report.ended_by(&CommandError::new(ExitCode::Storage, error.to_string()));
    }
    Ok(report)
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
    report.boot_instructions = booted.instructions.filter(|count| *count >= EMULATED_RING_0);
    let ring_0 = if report.boot_instructions.is_some() { "ring 0 emulated" } else { "ring 0 native" };
    report.kvm = format!("{}, {ring_0}", report.kvm);
    Ok(())
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
