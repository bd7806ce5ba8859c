//! The part of the benchmark `pressure` that lives in the small cgroup: a process of its own, because all that a process has counts.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use procfs::process::Process;
use serde::{Deserialize, Serialize};
use wirevm_abi::{PAGE_SIZE, RamRange};
use wirevm_agent::{Command, MAIN_TASK, Reply, Request};
use wirevm_devices::durability::Durability;
use wirevm_map::{FrameRun, PageRange};
use wirevm_vmm::Machine;

use super::{BenchError, memory_group, ranges};
use crate::config::MachineOptions;
use crate::exit_code::{CommandError, ExitCode};
use crate::kvm_target::{KvmTarget, Orders};
use crate::prepare::prepare;
use crate::program::{self, Outputs, Wanted};
use crate::script::frames::frames_of;
use crate::script::target::Target;
use crate::session;

/// Longest that the machine may run: where memory is short, everything may take its time.
const TIME_LIMIT: Duration = Duration::from_secs(120);
/// Between two looks whether the program has measured. Each look takes the processor from it, so there are few.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);
/// The thread of the guest's agent that waits for the program's end.
const WAITER: u64 = 1;
/// What the program wires for a while, besides what stays wired: the times, and parts of what does not stay wired.
const QUOTA_BEYOND_BYTES: u64 = 8 * MIB;
const MIB: u64 = 1 << 20;

/// What is put into how much memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// The guest's RAM.
    pub ram_bytes: u64,
    /// Limit of the group: the guest's RAM, what KVM needs for it, and the process.
    pub limit_bytes: u64,
    /// What the program wires.
    pub wired_bytes: u64,
    /// What it uses without wiring it.
    pub unwired_bytes: u64,
    /// Loads that are timed of each.
    pub loads: u64,
}

impl Sizes {
    /// Returns the sizes for figures to quote, or for a quick look.
    #[must_use]
    pub const fn new(quick: bool) -> Self {
        let (part, loads) = if quick { (4, 3_000) } else { (1, 10_000) };
        Self {
            ram_bytes: 256 * MIB / part,
            limit_bytes: 128 * MIB / part,
            wired_bytes: 64 * MIB / part,
            unwired_bytes: 160 * MIB / part,
            loads,
        }
    }
}

/// What was found out inside the group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Times of loads from wired pages in nanoseconds.
    pub wired: Vec<u64>,
    /// Times of loads from other pages, pair by pair.
    pub unwired: Vec<u64>,
    /// Where the wired pages were afterwards.
    pub wired_pages: Pages,
    /// Where the others were.
    pub unwired_pages: Pages,
    /// Page faults of the process for which something was read from storage.
    pub major_faults: u64,
}

/// Pages of a region as the host sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pages {
    /// How many there are.
    pub all: u64,
    /// How many of them are in memory (mincore).
    pub resident: u64,
    /// How many of them the kernel holds locked.
    pub locked: u64,
}

/// Enters the group, runs the machine and returns what came of it as JSON: [`Found`].
///
/// # Errors
/// [`CommandError`] when something goes wrong.
pub fn document(group: &Path, ram: &Path, quick: bool) -> Result<String, CommandError> {
    let found = match run(group, ram.to_owned(), Sizes::new(quick)) {
        Ok(found) => found,
        Err(BenchError::Failed(error)) => return Err(error),
        Err(BenchError::Skip(reason)) => return Err(CommandError::new(ExitCode::Failure, reason)),
    };
    serde_json::to_string(&found).map_err(|error| CommandError::new(ExitCode::Failure, error))
}

fn run(group: &Path, ram: PathBuf, sizes: Sizes) -> Result<Found, BenchError> {
    memory_group::enter(group)?;
    let mut options = MachineOptions { timeout: Some(TIME_LIMIT), ..MachineOptions::default() };
    options.wire_quota_bytes = Some(sizes.wired_bytes + QUOTA_BEYOND_BYTES);
    options.memory.size_bytes = Some(sizes.ram_bytes);
    options.memory.file = Some(ram);
    options.memory.durability = Some(Durability::Shared);
    let arguments = [sizes.wired_bytes / MIB, sizes.unwired_bytes / MIB, sizes.loads].map(|number| number.to_string());
    let programs = program::load(&[Wanted::new("pressure", arguments.to_vec())?])?;
    let (mut machine, mut report) = prepare(&options, &programs)?.start()?;
    session::boot(&machine, &mut report)?;
    let found = measure(&mut machine);
    machine.stop();
    let outcome = machine.finish();
    let found = found?;
    outcome?;
    Ok(found)
}

fn measure(machine: &mut Machine) -> Result<Found, BenchError> {
    let faults = || Ok::<_, BenchError>(Process::myself()?.stat()?.majflt);
    let faults_before = faults()?;
    let mut target = KvmTarget::new(machine, Orders::default(), Outputs::new(vec!["pressure".to_owned()], None));
    let task = match target.call(&Request::new(MAIN_TASK, Command::Program { entry: 0 }))? {
        Reply::Number(task) => task,
        reply => return Err(unexpected("the start of a program", &reply)),
    };
    let wait = Request { task: MAIN_TASK, thread: WAITER, command: Command::AwaitProgram { task } };
    match target.ask(&wait)? {
        Reply::Started => {}
        reply => return Err(unexpected("the wait for a program", &reply)),
    }
    let output = loop {
        // The answer comes behind what the program has printed before.
        let reply = target.ask(&Request::new(MAIN_TASK, Command::Poll { thread: WAITER }))?;
        let (text, is_whole) = target.outputs().text(task);
        match reply {
            Reply::Awaits if is_over(&text) && is_whole => break text,
            Reply::Awaits => thread::sleep(BETWEEN_LOOKS),
            Reply::Ended => return Err(failed(&format!("the program 'pressure' ended too soon: {}", text.trim_end()))),
            reply => return Err(unexpected("a look at a program", &reply)),
        }
    };
    let printed = Printed::read(&output).ok_or_else(|| failed("the program 'pressure' printed something else"))?;
    let [wired, unwired] = printed.regions.map(|region| frames_of(&mut target, task, region));
    let (wired, unwired) = (wired?, unwired?);
    drop(target);
    let (wired_pages, unwired_pages) = (look(machine, &wired)?, look(machine, &unwired)?);
    let major_faults = faults()?.saturating_sub(faults_before);
    Ok(Found { wired: printed.wired, unwired: printed.unwired, wired_pages, unwired_pages, major_faults })
}

/// Asks the host about frames.
fn look(machine: &Machine, frames: &[FrameRun]) -> Result<Pages, BenchError> {
    let mut pages = Pages { all: 0, resident: 0, locked: 0 };
    for run in frames {
        let range: RamRange = ranges::range(run.first, run.pages, machine.ram_pages())?;
        pages.all += range.pages();
        pages.resident += machine.witness().resident(range)?;
        pages.locked += machine.witness().locked_in(range)?;
    }
    Ok(pages)
}

/// What the program prints.
#[derive(Debug, PartialEq, Eq)]
struct Printed {
    wired: Vec<u64>,
    unwired: Vec<u64>,
    regions: [PageRange; 2],
}

/// Tells whether the last line has been printed.
fn is_over(text: &str) -> bool {
    text.ends_with('\n') && text.lines().next_back().is_some_and(|line| line.starts_with("regions "))
}

impl Printed {
    fn read(text: &str) -> Option<Self> {
        let (mut wired, mut unwired, mut regions) = (Vec::new(), Vec::new(), None);
        for line in text.lines() {
            let (what, numbers) = line.split_once(' ')?;
            let numbers: Vec<u64> = numbers.split(' ').map(str::parse).collect::<Result<_, _>>().ok()?;
            match what {
                "wired" => wired.extend(numbers),
                "unwired" => unwired.extend(numbers),
                "regions" => regions = Some(numbers),
                _ => return None,
            }
        }
        let region = |address: u64, pages: u64| {
            let first = address / PAGE_SIZE;
            first.checked_add(pages).map(|end| PageRange::new(first, end))
        };
        let [wired_at, wired_pages, unwired_at, unwired_pages]: [u64; 4] = regions?.try_into().ok()?;
        let regions = [region(wired_at, wired_pages)?, region(unwired_at, unwired_pages)?];
        (!wired.is_empty() && wired.len() == unwired.len()).then_some(Self { wired, unwired, regions })
    }
}

fn failed(reason: &str) -> BenchError {
    BenchError::Failed(CommandError::new(ExitCode::Failure, reason.to_owned()))
}

fn unexpected(what: &str, reply: &Reply) -> BenchError {
    failed(&format!("the guest answered {reply:?} to {what}"))
}

#[cfg(test)]
mod test {
    use wirevm_map::PageRange;

    use super::{Printed, Sizes, is_over};

    #[test]
    fn what_the_program_prints_is_read_when_it_is_whole() {
        let text = "wired 1 2\nwired 3\nunwired 40 50\nunwired 60\nregions 8192 3 65536 16\n";
        let regions = [PageRange::new(2, 5), PageRange::new(16, 32)];
        let printed = Printed { wired: vec![1, 2, 3], unwired: vec![40, 50, 60], regions };
        assert_eq!((Printed::read(text), is_over(text)), (Some(printed), true));
        assert!(!is_over(text.trim_end()) && !is_over("wired 1 2\n") && !is_over(""));
        for wrong in [
            "pressure: memory can't be wired: RESOURCE_SHORTAGE\n",
            "wired 1\nunwired 2\n",
            "wired 1\nunwired 2\nregions 0 1 2\n",
            "wired 1 2\nunwired 2\nregions 0 1 4096 1\n",
            "wired 1\nunwired -2\nregions 0 1 4096 1\n",
            "regions 0 1 4096 1\n",
        ] {
            assert_eq!(Printed::read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn group_is_smaller_than_what_is_used_and_larger_than_what_is_wired() {
        for sizes in [true, false].map(Sizes::new) {
            let Sizes { ram_bytes, limit_bytes, wired_bytes, unwired_bytes, .. } = sizes;
            assert!(wired_bytes + unwired_bytes < ram_bytes && limit_bytes < wired_bytes + unwired_bytes);
            assert!(wired_bytes + unwired_bytes / 8 < limit_bytes, "{sizes:?}");
        }
    }
}
