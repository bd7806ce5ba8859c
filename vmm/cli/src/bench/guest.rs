//! A guest to measure in: programs of its archive are run over and over, and what they print and cost is taken down.

use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use wirevm_agent::{Command, MAIN_TASK, ProgramEnd, Reply, Request};
use wirevm_devices::durability::Durability;
use wirevm_map::KernReturn;
use wirevm_vmm::vcpu::ExitCost;
use wirevm_vmm::{Machine, Outcome};

use super::BenchError;
use super::document::float;
use super::plan::Context;
use super::sample::nanoseconds;
use crate::config::{MachineOptions, MemoryOptions};
use crate::exit_code::{CommandError, ExitCode};
use crate::kvm_target::{KvmTarget, Orders, ended};
use crate::prepare::prepare;
use crate::program::{self, Outputs, ProgramEnding, Wanted, titles};
use crate::report::MachineReport;
use crate::script::target::Target;
use crate::session;

/// Fewer instructions mean that KVM does not count what runs at ring 0.
const COUNTED: u64 = 1000;
/// How often counters are looked at that are to come to rest.
const LOOK: Duration = Duration::from_millis(20);
/// Longest time that counters may take to come to rest.
const REST_LIMIT: Duration = Duration::from_secs(10);

/// Longest time that a program may take to come to its first line.
const LINE_LIMIT: Duration = Duration::from_secs(60);
/// Boots of each kind, of which the fastest tells what an exit costs.
const BOOTS: usize = 3;

/// What a guest is made of.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Guest RAM in bytes.
    pub ram_bytes: u64,
    /// Whether it is on storage.
    pub durable: bool,
    /// Processors.
    pub vcpus: u32,
    /// Programs with their arguments, as `--program` takes them; the place is the entry's number.
    pub programs: Vec<String>,
}

/// A guest that has booted.
#[derive(Debug)]
pub struct Guest {
    machine: Machine,
    /// What is known of the machine.
    pub report: MachineReport,
    titles: Vec<String>,
    /// Holds the RAM file. Behind the machine, so that it goes last.
    _folder: Option<TempDir>,
}

/// What a machine has cost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Instructions of ring 0; none where KVM does not count them.
    pub instructions: Option<u64>,
    /// Exits of the vCPUs, those that KVM handles by itself included; none where KVM does not count them.
    pub exits: Option<u64>,
    /// Exits that came to this process.
    pub user_exits: u64,
    /// Doorbells.
    pub hypercalls: u64,
    /// Nanoseconds that this process spent on what exits asked for.
    pub handling: u64,
}

impl Counts {
    /// Returns what was added since, for each of `operations`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        let less = |now: Option<u64>, then: Option<u64>| Some(now?.saturating_sub(then?));
        Self {
            instructions: less(self.instructions, before.instructions),
            exits: less(self.exits, before.exits),
            user_exits: self.user_exits.saturating_sub(before.user_exits),
            hypercalls: self.hypercalls.saturating_sub(before.hypercalls),
            handling: self.handling.saturating_sub(before.handling),
        }
    }
}

impl Guest {
    /// Boots a guest.
    ///
    /// # Errors
    /// [`BenchError::Skip`] where there is no KVM or nothing durable and it is needed.
    pub fn start(context: &Context, setup: &Setup) -> Result<Self, BenchError> {
        Self::boot(context, setup, false)
    }

    /// Boots a guest one instruction at a time and returns how many there were; a repeated string instruction may count several times.
    ///
    /// # Errors
    /// As [`Guest::start`].
    pub fn count_steps(context: &Context, setup: &Setup) -> Result<Option<u64>, BenchError> {
        let guest = Self::boot(context, setup, true)?;
        let steps = guest.report.boot_instructions;
        guest.end()?;
        Ok(steps)
    }

    /// Returns what an exit to this process costs that asks for nothing, in nanoseconds: what a boot takes longer when it exits
    /// behind every instruction, for each exit, without what this process does about them. The least of a few boots counts, since
    /// the others were held up.
    ///
    /// # Errors
    /// As [`Guest::start`].
    pub fn exit_time(context: &Context) -> Result<f64, BenchError> {
        let setup = Setup { ram_bytes: 64 << 20, durable: false, vcpus: 1, programs: Vec::new() };
        let least = |stepped: bool| -> Result<(u64, u64), BenchError> {
            let mut least = (u64::MAX, 0);
            for _ in 0..BOOTS {
                let guest = Self::boot(context, &setup, stepped)?;
                let ExitCost { exits, handling } = guest.machine.exit_cost();
                least = least.min((nanoseconds(guest.report.boot_time.saturating_sub(handling)), exits));
                guest.end()?;
            }
            Ok(least)
        };
        let ((plain, few), (stepped, many)) = (least(false)?, least(true)?);
        Ok(float(stepped.saturating_sub(plain)) / float(many.saturating_sub(few).max(1)))
    }

    fn boot(context: &Context, setup: &Setup, stepped: bool) -> Result<Self, BenchError> {
        context.need_kvm()?;
        if setup.durable {
            context.need_durable()?;
        }
        let wanted = setup.programs.iter().map(|program| program.parse()).collect::<Result<Vec<Wanted>, _>>()?;
        let programs = program::load(&wanted)?;
        let folder = if setup.durable { Some(tempfile::tempdir_in(&context.folder)?) } else { None };
        let durability = if setup.durable { Durability::Shared } else { Durability::None };
        let file = folder.as_ref().map(|folder| folder.path().join("guest.ram"));
        let options = MachineOptions {
            kernel: context.kernel.clone(),
            vcpus: Some(setup.vcpus),
            pin: context.pin,
            memory: MemoryOptions {
                size_bytes: Some(setup.ram_bytes),
                file,
                durability: Some(durability),
                ..MemoryOptions::default()
            },
            wire_quota_bytes: Some(setup.ram_bytes / 2),
            ..MachineOptions::default()
        };
        let prepared = prepare(&options, &programs)?;
        let (machine, mut report) = if stepped { prepared.single_stepped() } else { prepared }.start()?;
        session::boot(&machine, &mut report)?;
        Ok(Self { machine, report, titles: titles(wanted.iter()), _folder: folder })
    }

    /// Has the guest's agent carry a command out.
    ///
    /// # Errors
    /// [`BenchError`] when the machine has ended.
    pub fn ask(&mut self, command: Command) -> Result<Reply, BenchError> {
        let mut target = KvmTarget::new(&mut self.machine, Orders::default(), Outputs::none());
        Ok(target.call(&Request::new(MAIN_TASK, command))?)
    }

    /// Has the guest's agent carry a command out that must succeed.
    ///
    /// # Errors
    /// [`BenchError`] when it does not, or the machine has ended.
    pub fn do_well(&mut self, command: Command) -> Result<(), BenchError> {
        match self.ask(command)? {
            Reply::Done(KernReturn::Success) => Ok(()),
            reply => Err(format!("the guest answered {reply:?} to {command:?}").into()),
        }
    }

    /// Runs programs of the archive, all at the same time, and returns what each has printed. Each must exit with code 0.
    ///
    /// # Errors
    /// [`BenchError`] when one of them did not, or the machine has ended.
    pub fn run(&mut self, entries: Range<u64>) -> Result<Vec<String>, BenchError> {
        let outputs = Outputs::new(self.titles.clone(), None);
        let mut target = KvmTarget::new(&mut self.machine, Orders::default(), outputs);
        let (runs, result) = program::run(entries, |request| target.ask(request));
        result?;
        target.outputs().finish();
        let mut texts = Vec::new();
        for run in runs {
            let text = run.task.map_or_else(String::new, |task| target.outputs().text(task).0);
            if run.ending != ProgramEnding::Ended(ProgramEnd::Exited(0)) {
                return Err(format!("a program ended with {:?}: {}", run.ending, text.trim()).into());
            }
            texts.push(text);
        }
        session::rested(&mut target)?;
        Ok(texts)
    }

    /// Starts a program of the archive that comes to hold what it has, and returns the first line that it prints. It is there until
    /// [`Guest::reset`].
    ///
    /// # Errors
    /// [`BenchError`] when it can't be started or prints nothing, or the machine has ended.
    pub fn run_held(&mut self, entry: u64) -> Result<String, BenchError> {
        let outputs = Outputs::new(self.titles.clone(), None);
        let mut target = KvmTarget::new(&mut self.machine, Orders::default(), outputs);
        let command = Command::Program { entry };
        let task = match target.call(&Request::new(MAIN_TASK, command))? {
            Reply::Number(task) => task,
            reply => return Err(format!("the guest answered {reply:?} to {command:?}").into()),
        };
        loop {
            let text = target.outputs().text(task).0;
            if text.contains('\n') {
                return Ok(text);
            }
            target.listen(LINE_LIMIT)?;
        }
    }

    /// Ends all programs and checks that they have left nothing behind.
    ///
    /// # Errors
    /// [`BenchError`] when they have, or the machine has ended.
    pub fn reset(&mut self) -> Result<(), BenchError> {
        Ok(session::rested(&mut KvmTarget::new(&mut self.machine, Orders::default(), Outputs::none()))?)
    }

    /// Returns the machine, to be looked at.
    #[must_use]
    pub const fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Returns what the machine has cost, once nothing goes on in it any more.
    ///
    /// # Errors
    /// [`BenchError`] when it does not come to rest.
    pub fn counts(&self) -> Result<Counts, BenchError> {
        let deadline = Instant::now() + REST_LIMIT;
        let mut before = self.counts_now();
        while Instant::now() < deadline {
            // The count of a vCPU that runs lags by what it did since it last left KVM's emulator.
            thread::sleep(LOOK);
            let now = self.counts_now();
            if now == before {
                return Ok(now);
            }
            before = now;
        }
        Err("the guest does not come to rest".into())
    }

    fn counts_now(&self) -> Counts {
        let machine = &self.machine;
        let vcpus = 0..usize::try_from(self.report.vcpus.unwrap_or(1)).unwrap_or(1);
        let exits = vcpus.map(|vcpu| machine.vcpu_stats(vcpu)?.get("exits")).sum();
        let cost = machine.exit_cost();
        Counts {
            instructions: machine.emulated_instructions().filter(|count| *count >= COUNTED),
            exits,
            user_exits: cost.exits,
            hypercalls: machine.hypercalls(),
            handling: u64::try_from(cost.handling.as_nanos()).unwrap_or(u64::MAX),
        }
    }

    /// Ends the guest.
    ///
    /// # Errors
    /// [`BenchError`] when it ended otherwise before, or its RAM file can't be marked.
    pub fn end(self) -> Result<(), BenchError> {
        self.machine.stop();
        match self.machine.finish() {
            Ok(Outcome::Stopped) => Ok(()),
            Ok(outcome) => Err(ended(&outcome).into()),
            Err(error) => Err(CommandError::new(ExitCode::RamFile, error).into()),
        }
    }
}

/// Returns the number behind `name=` in what a program has printed.
///
/// # Errors
/// [`BenchError`] when there is none.
pub fn number(text: &str, name: &str) -> Result<u64, BenchError> {
    let value = text.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    let number = value.and_then(|value| value.parse().ok());
    number.ok_or_else(|| format!("no {name}=… in what the program said: {}", text.trim()).into())
}

#[cfg(test)]
mod test {
    use super::number;

    #[test]
    fn numbers_are_found_by_their_names() {
        let text = "meter wire n=200 pages=1 ns=123456\n";
        assert_eq!([number(text, "n").ok(), number(text, "ns").ok()], [Some(200), Some(123_456)]);
        number(text, "p50").expect_err("it is not there");
    }
}
