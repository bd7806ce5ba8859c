//! Programs in a machine's guest.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use wirevm_agent::{Command, MAIN_TASK, ProgramEnd, Reply, Request};
use wirevm_devices::durability::Durability;
use wirevm_devices::ramfile::RamFile;
use wirevm_map::{FrameRun, KernReturn};
use wirevm_tests::binary;
use wirevm_vmm::boot::ArchiveBuilder;

use super::lab::{Lab, PAGE, Setup, kernel};

/// A program's name and its arguments.
pub type Entry = (&'static str, &'static [&'static str]);

/// Returns the archive of programs that come with wirevm.
pub fn archive(programs: &[(&str, &[&str])]) -> Option<Arc<[u8]>> {
    let mut builder = ArchiveBuilder::new();
    for (name, arguments) in programs {
        let image: Arc<[u8]> = fs::read(binary::program(name)).expect("the program").into();
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        builder.add(name, &arguments, &image).expect("an archive");
    }
    Some(builder.finish())
}

impl Lab {
    /// Starts the guest kernel with programs at hand, on RAM without stable storage, and waits until it takes commands.
    pub fn of_programs(ram_bytes: u64, setup: &Setup) -> Self {
        let ram = || RamFile::memfd(ram_bytes).expect("a memfd");
        let lab = Self::start(ram, kernel(), setup);
        lab.booted();
        lab
    }

    /// Starts the guest kernel with programs at hand, on a RAM file of that folder whose bytes last, and with stores there, and waits
    /// until it takes commands.
    pub fn of_programs_on_disk(ram_bytes: u64, folder: &Path, setup: Setup) -> Self {
        let stores = folder.join("stores");
        fs::create_dir(&stores).expect("a folder");
        let ram = || RamFile::create(&folder.join("programs.ram"), ram_bytes, Durability::Shared).expect("a RAM file");
        let lab = Self::start(ram, kernel(), &Setup { store_dir: Some(stores), ..setup });
        lab.booted();
        lab
    }

    /// Starts the program of an entry and returns its task.
    pub fn run_program(&mut self, entry: u64) -> u64 {
        match self.call(&Command::Program { entry }) {
            Reply::Number(task) => task,
            other => panic!("program {entry} does not start: {other:?}"),
        }
    }

    /// Waits for a program's end. Other commands have to wait meanwhile.
    pub fn await_program(&mut self, task: u64, limit: Duration) -> ProgramEnd {
        let deadline = Instant::now() + limit;
        let mut command = Command::AwaitProgram { task };
        loop {
            let id = self.send(&command);
            let left = deadline.saturating_duration_since(Instant::now());
            match self.reply_within(id, left) {
                Some(Reply::Program(end)) => return end,
                Some(Reply::Awaits) => command = Command::AwaitHost,
                other => panic!("after {limit:?}: {other:?}; printed: {}", self.output(task)),
            }
        }
    }

    /// As [`Lab::await_program`]; the program must end by itself, with `code`.
    pub fn expect_exit(&mut self, task: u64, code: u8, limit: Duration) {
        let end = self.await_program(task, limit);
        assert_eq!(end, ProgramEnd::Exited(code), "it printed: {}", self.output(task));
    }

    /// Starts the program of an entry and waits for its end, which must be an exit with code 0; returns what it printed.
    pub fn expect_ok(&mut self, entry: u64, limit: Duration) -> String {
        let task = self.run_program(entry);
        self.expect_exit(task, 0, limit);
        self.output(task)
    }

    /// Returns what a program has printed, as far as it has come.
    pub fn output(&self, task: u64) -> String {
        self.outputs.get(&task).map(|bytes| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default()
    }

    /// Carries a command out in a task.
    pub fn call_in(&mut self, task: u64, command: &Command) -> Reply {
        let mut words = Vec::new();
        Request::new(task, *command).encode(&mut words);
        let id = self.send_words(&words);
        let mut reply = self.reply(id);
        while reply == Reply::Awaits {
            reply = self.call_once(&Command::AwaitHost);
        }
        reply
    }

    /// Has the agent allocate a page and give it back; returns how long each took.
    pub fn allocate_and_deallocate(&mut self) -> Duration {
        let clock = Instant::now();
        let address = self.allocate(1);
        self.done(&Command::Deallocate { address, size: PAGE });
        clock.elapsed() / 2
    }

    /// Ends a task and gives back what it had.
    pub fn end_task(&mut self, task: u64) {
        assert_ne!(task, MAIN_TASK);
        assert_eq!(self.call_in(task, &Command::EndTask), Reply::Done(KernReturn::Success));
    }

    /// Counts the frames that can be had, by taking them all and giving them back.
    pub fn free_frames(&mut self) -> u64 {
        let all = self.machine.ram_pages();
        let address = self.allocate(all);
        let (mut taken, mut step) = (0, 512);
        while step > 0 {
            let start = address + taken * PAGE;
            match self.call(&Command::Wire { start, end: start + step * PAGE, flags: 1 }) {
                Reply::Done(KernReturn::Success) => taken += step,
                Reply::Done(KernReturn::ResourceShortage) => step /= 2,
                other => panic!("{other:?}"),
            }
        }
        self.done(&Command::Deallocate { address, size: all * PAGE });
        taken
    }

    /// Checks that nothing is under way, that every invariant holds, and that the books agree.
    pub fn expect_quiet(&mut self) {
        let quiet = self.call(&Command::Quiesce);
        assert_eq!(quiet, Reply::Done(KernReturn::Success), "{quiet:?}");
        self.expect_books();
    }

    /// Checks that the guest, the host's ledger and the host's kernel agree on which frames are wired; returns how many.
    pub fn expect_books(&mut self) -> u64 {
        let all = Command::WiredFrames { start: 0, end: self.machine.ram_pages() };
        let Reply::Frames(rows) = self.call(&all) else { panic!("no frames") };
        let wired: Vec<FrameRun> = rows.into_iter().filter_map(|row| row.frames).collect();
        let pins = self.machine.pins();
        for run in &wired {
            assert!((run.first..run.end()).all(|page| pins.count(page) > 0), "the ledger does not know {run:?}");
        }
        let said: u64 = wired.iter().map(|run| run.pages).sum();
        assert_eq!(said, pins.stats().wired_pages, "the guest and the ledger disagree");
        assert_eq!(pins.stats().deferred_pages, 0);
        self.locked()
    }
}
