//! `wirevm bench boot`: what it costs to get a guest to the point where it takes commands, and what wiring costs in exits.

use std::time::Duration;

use wirevm_abi::PAGE_SIZE;
use wirevm_agent::{Command, MAIN_TASK, Reply, Request};
use wirevm_vmm::{Machine, Outcome};

use crate::config::MachineOptions;
use crate::exit_code::{CommandError, ExitCode};
use crate::kvm_target::{KvmTarget, Orders, ended};
use crate::prepare::prepare;
use crate::program::Outputs;
use crate::report::{BenchReport, MachineReport, Measurement};
use crate::script::target::Target;
use crate::session;

/// Boots that are measured.
const BOOTS: usize = 9;
/// Guest instructions that boot may take on one vCPU.
const MOST_TO_BOOT: u64 = 60_000;
/// Guest instructions more for each further vCPU.
const MOST_PER_FURTHER_VCPU: u64 = 25_000;
/// What is wired in one operation, where RAM and quota allow it.
const WIRED_BYTES: u64 = 64 << 20;
/// Most that is wired to see what each 2 MiB page costs.
const MANY_BLOCKS_BYTES: u64 = 1 << 30;
const BLOCK_BYTES: u64 = 2 << 20;
/// Guest instructions that each further 2 MiB page of a wire may cost.
const MOST_PER_BLOCK: u64 = 200;

/// Measures.
///
/// # Errors
/// [`CommandError`] when a guest does not boot or an operation fails.
pub fn boot(options: &MachineOptions) -> Result<BenchReport, CommandError> {
    let mut times = Vec::new();
    let mut instructions = None;
    for _ in 0..BOOTS {
        let (machine, mut report) = prepare(options, &[])?.start()?;
        session::boot(&machine, &mut report)?;
        times.push(report.boot_time);
        instructions = report.boot_instructions;
        end(machine)?;
    }
    // Where ring 0 is native, KVM counts nothing: one more boot is counted step by step.
    let instructions = if instructions.is_some() { instructions } else { count_steps(options)? };
    times.sort_unstable();
    let median = times.get(BOOTS / 2).copied().unwrap_or_default();
    let vcpus = options.vcpus.unwrap_or(1);
    let most = most_to_boot(vcpus);
    let mut measurements = vec![
        measured("guest instructions, entry to ready", instructions, "instructions", Some(most)),
        measured("entry to ready, median", nanoseconds(median), "ns", None),
    ];
    measurements.extend(wire(options)?);
    Ok(BenchReport { benchmark: "boot".to_owned(), vcpus, measurements })
}

/// Returns how many instructions a guest of that many vCPUs may take from entry to ready.
const fn most_to_boot(vcpus: u32) -> u64 {
    MOST_TO_BOOT + MOST_PER_FURTHER_VCPU * (vcpus as u64).saturating_sub(1)
}

/// Boots once, one instruction at a time. A repeated string instruction may count several times.
fn count_steps(options: &MachineOptions) -> Result<Option<u64>, CommandError> {
    let (machine, mut report) = prepare(options, &[])?.single_stepped().start()?;
    session::boot(&machine, &mut report)?;
    end(machine)?;
    Ok(report.boot_instructions)
}

/// Wires and unwires one range and one page, and counts.
fn wire(options: &MachineOptions) -> Result<Vec<Measurement>, CommandError> {
    let (mut machine, mut report) = prepare(options, &[])?.start()?;
    session::boot(&machine, &mut report)?;
    // A guest needs some of its RAM for itself.
    let most = WIRED_BYTES.min(report.wire_quota_bytes).min(report.ram_bytes / 2) / PAGE_SIZE * PAGE_SIZE;
    let Reply::Address(address) = call(&mut machine, &Command::Allocate { address: None, size: most })? else {
        return Err(refused("allocate"));
    };
    let mut measurements = Vec::new();
    for size in [PAGE_SIZE, most] {
        let end = address + size;
        let name = format!("wire {} KiB", size / 1024);
        let cost = cost_of(&mut machine, &Command::Wire { start: address, end, flags: 1 })?;
        measurements.push(measured(&format!("{name}: hypercalls"), Some(cost.hypercalls), "exits", Some(1)));
        measurements.push(measured(&format!("{name}: guest instructions"), cost.instructions, "instructions", None));
        cost_of(&mut machine, &Command::Unwire { start: address, end, flags: 1 })?;
    }
    measurements.extend(wire_blocks(&mut machine, &report)?);
    let overhead = machine.witness().overhead_bytes().map_err(|error| CommandError::new(ExitCode::Failure, error))?;
    measurements.push(measured("resident besides guest RAM", Some(overhead), "bytes", Some(8 << 20)));
    end(machine)?;
    Ok(measurements)
}

/// Wires one 2 MiB page and as many as RAM and quota allow, each time of fresh and aligned memory; what the second costs more
/// is what its further pages cost.
fn wire_blocks(machine: &mut Machine, report: &MachineReport) -> Result<Option<Measurement>, CommandError> {
    let most = MANY_BLOCKS_BYTES.min(report.wire_quota_bytes).min(report.ram_bytes / 2) / BLOCK_BYTES * BLOCK_BYTES;
    if most < 2 * BLOCK_BYTES {
        return Ok(None);
    }
    let mut costs = [None; 2];
    for (cost, size) in costs.iter_mut().zip([BLOCK_BYTES, most]) {
        let Reply::Address(start) = call(machine, &Command::Allocate { address: None, size })? else {
            return Err(refused("allocate"));
        };
        let end = start + size;
        *cost = cost_of(machine, &Command::Wire { start, end, flags: 1 })?.instructions;
        cost_of(machine, &Command::Unwire { start, end, flags: 1 })?;
        cost_of(machine, &Command::Deallocate { address: start, size })?;
    }
    let [one, all] = costs;
    let further = (most - BLOCK_BYTES) / BLOCK_BYTES;
    let each = one.zip(all).map(|(one, all)| all.saturating_sub(one).div_ceil(further));
    let name = format!("wire {} MiB: guest instructions for each 2 MiB", most >> 20);
    Ok(Some(measured(&name, each, "instructions", Some(MOST_PER_BLOCK))))
}

struct Cost {
    hypercalls: u64,
    instructions: Option<u64>,
}

/// Carries one command out and counts. The instructions are all that the guest ran for it, its agent's included.
fn cost_of(machine: &mut Machine, command: &Command) -> Result<Cost, CommandError> {
    let count = |machine: &Machine| {
        let stats = machine.emulated_instructions();
        (machine.hypercalls(), stats)
    };
    let before = count(machine);
    if call(machine, command)? != Reply::Done(wirevm_map::KernReturn::Success) {
        return Err(refused("wire"));
    }
    // The count lags by what KVM has not left yet: until the guest halts again.
    std::thread::sleep(Duration::from_millis(20));
    let after = count(machine);
    let instructions = after.1.zip(before.1).map(|(after, before)| after - before);
    Ok(Cost { hypercalls: after.0 - before.0, instructions })
}

fn call(machine: &mut Machine, command: &Command) -> Result<Reply, CommandError> {
    let request = Request { task: MAIN_TASK, thread: 0, command: *command };
    KvmTarget::new(machine, Orders::default(), Outputs::none()).call(&request)
}

fn refused(operation: &str) -> CommandError {
    CommandError::new(ExitCode::Failure, format!("the guest could not {operation} what the benchmark needs"))
}

fn end(machine: Machine) -> Result<(), CommandError> {
    machine.stop();
    match machine.finish() {
        Ok(Outcome::Stopped) => Ok(()),
        Ok(outcome) => Err(ended(&outcome)),
        Err(error) => Err(CommandError::new(ExitCode::RamFile, error)),
    }
}

fn nanoseconds(time: Duration) -> Option<u64> {
    u64::try_from(time.as_nanos()).ok()
}

fn measured(name: &str, value: Option<u64>, unit: &str, at_most: Option<u64>) -> Measurement {
    Measurement { name: name.to_owned(), value, unit: unit.to_owned(), at_most }
}

#[cfg(test)]
mod test {
    use super::most_to_boot;

    #[test]
    fn each_further_vcpu_may_take_its_part_of_boot() {
        assert_eq!([1, 2, 4, 16].map(most_to_boot), [60_000, 85_000, 135_000, 435_000]);
    }
}
