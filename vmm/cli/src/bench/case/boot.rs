//! `bench boot`: from the command to the guest's first instruction, and from there to a guest that takes commands.

use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;
use tempfile::TempDir;
use wirevm_devices::durability::Durability;
use wirevm_devices::ramfile::RamFile;

use super::{Describe, case};
use crate::bench::BenchError;
use crate::bench::document::{Case, GoalOf, float};
use crate::bench::guest::{Guest, Setup};
use crate::bench::plan::{Context, Planned};
use crate::bench::sample::{Effort, alone};

const MIB: u64 = 1 << 20;
/// Guest instructions that boot may take on one vCPU.
const MOST_TO_BOOT: u64 = 60_000;
/// Guest instructions more for each further vCPU.
const MOST_PER_FURTHER_VCPU: u64 = 25_000;
/// Time from the command to the guest's first instruction, in nanoseconds.
const MOST_TO_ENTRY: f64 = 10e6;

/// Plans the cases.
pub fn cases() -> Vec<Planned> {
    let mut planned = vec![Planned::new("boot/exec-to-first-instruction", exec_to_entry)];
    for vcpus in [1, 2, 4] {
        planned
            .push(Planned::new(format!("boot/entry-to-ready/{vcpus}"), move |context| entry_to_ready(context, vcpus)));
    }
    planned
}

/// Returns how many instructions a guest of that many vCPUs may take from entry to ready.
const fn most_to_boot(vcpus: u32) -> u64 {
    MOST_TO_BOOT + MOST_PER_FURTHER_VCPU * (vcpus as u64).saturating_sub(1)
}

/// A RAM file that a machine has used, and a script, in a folder of their own; and this program.
pub(super) struct Child {
    folder: TempDir,
    kernel: Option<std::path::PathBuf>,
}

impl Child {
    /// Makes the files.
    ///
    /// # Errors
    /// [`BenchError::Skip`] where there is no KVM or nothing durable.
    pub(super) fn new(context: &Context, ram_bytes: u64) -> Result<Self, BenchError> {
        context.need_kvm()?;
        context.need_durable()?;
        let folder = tempfile::tempdir_in(&context.folder)?;
        std::fs::write(folder.path().join("script"), SCRIPT)?;
        drop(RamFile::create(&folder.path().join("ram"), ram_bytes, Durability::Shared)?);
        let child = Self { folder, kernel: context.kernel.clone() };
        child.run(|_| Ok(()))?;
        Ok(child)
    }

    /// Returns the path of the RAM file.
    pub(super) fn ram(&self) -> std::path::PathBuf {
        self.folder.path().join("ram")
    }

    /// Runs this program with the files, and `beside` as soon as it runs; returns its report and what `beside` has seen.
    ///
    /// # Errors
    /// [`BenchError`] when it can't be run or fails.
    pub(super) fn run<T>(&self, beside: impl FnOnce(u32) -> Result<T, BenchError>) -> Result<(Value, T), BenchError> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["run", "--json", "--memory"]).arg(format!("file={}", self.ram().display()));
        command.arg("--script").arg(self.folder.path().join("script"));
        if let Some(kernel) = &self.kernel {
            command.arg("--kernel").arg(kernel);
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let seen = beside(child.id());
        let output = child.wait_with_output()?;
        if !output.status.success() {
            return Err(
                format!("a machine ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr)).into()
            );
        }
        Ok((serde_json::from_slice(&output.stdout)?, seen?))
    }
}

/// Wires, syncs and lets go, and so reaches what a machine does.
const SCRIPT: &str = "a = allocate 256 pages
wire a user
host locked => 256
sync a synchronous
unwire a user
host locked => 0
";

fn monotonic() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// From `exec` to the first instruction, on a RAM file that was used before.
fn exec_to_entry(context: &Context) -> Result<Case, BenchError> {
    let child = Child::new(context, 256 * MIB)?;
    let effort = if context.quick { Effort::long(true) } else { Effort { most: 30, ..Effort::long(false) } };
    let samples = alone(effort, |_| {
        let before = monotonic();
        let (report, ()) = child.run(|_| Ok(()))?;
        let entry = report.pointer("/machine/first_entry_monotonic_ns").and_then(Value::as_u64);
        Ok(Duration::from_nanos(entry.ok_or("the report does not say when the guest was entered")?)
            .saturating_sub(before))
    })?;
    Ok(case("boot", "boot/exec-to-first-instruction", "From the start of the command to the guest's first instruction")
        .conditions(
            "an existing RAM file of 256 MiB that was closed in order; one vCPU; a process of its own each time",
        )
        .alone("wirevm run", samples)
        .goal(GoalOf::Value, MOST_TO_ENTRY))
}

/// From the first instruction to a guest that takes commands.
fn entry_to_ready(context: &Context, vcpus: u32) -> Result<Case, BenchError> {
    let setup = Setup { ram_bytes: 64 * MIB, durable: false, vcpus, programs: Vec::new() };
    let mut instructions = None;
    let samples = alone(Effort { most: 9, ..Effort::long(context.quick) }, |_| {
        let guest = Guest::start(context, &setup)?;
        instructions = guest.report.boot_instructions;
        let time = guest.report.boot_time;
        guest.end()?;
        Ok(time)
    })?;
    // Where ring 0 is native, KVM counts nothing.
    let instructions = if instructions.is_some() { instructions } else { Guest::count_steps(context, &setup)? };
    let name = format!("boot/entry-to-ready/{vcpus}");
    let case = case("boot", &name, "From the guest's first instruction to a guest that takes commands")
        .conditions("64 MiB of memory without a file")
        .alone("in the guest", samples)
        .at("Boot, by vCPUs", f64::from(vcpus), "vCPUs");
    Ok(match instructions {
        Some(count) => case.count("guest instructions", float(count), "instructions", float(most_to_boot(vcpus))),
        None => case,
    })
}

#[cfg(test)]
mod test {
    use super::most_to_boot;

    #[test]
    fn each_further_vcpu_may_take_its_part_of_boot() {
        assert_eq!([1, 2, 4, 16].map(most_to_boot), [60_000, 85_000, 135_000, 435_000]);
    }
}
