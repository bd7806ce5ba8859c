//! Machines in this process, one at a time, so that what each leaves behind can be seen.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use wirevm_abi::RamRange;
use wirevm_agent::{Command, Event, FrameRow, MAIN_TASK, Reply, Request};
use wirevm_devices::faults::HostFaults;
use wirevm_devices::pin::PinKind;
use wirevm_devices::ramfile::RamFile;
use wirevm_map::KernReturn;
use wirevm_tests::binary;
use wirevm_vmm::machine::BootReport;
use wirevm_vmm::{ChannelError, Machine, MachineConfig, MachineError, Outcome, StorageErrorPolicy, signal};

/// Bytes in a page.
pub const PAGE: u64 = 4096;
/// Pages that stores may have.
const STORE_QUOTA_PAGES: u64 = 4096;
/// Longest wait for anything that should happen soon.
pub const LIMIT: Duration = Duration::from_secs(20);
/// Longest time that ending a machine may take.
const END_LIMIT: Duration = Duration::from_secs(3);
/// Names of a machine's threads.
const THREADS: [&str; 3] = ["events", "wirevm-sync", "wirevm-health"];

/// Returns the image of the guest kernel.
pub fn kernel() -> &'static [u8] {
    static KERNEL: OnceLock<Vec<u8>> = OnceLock::new();
    KERNEL.get_or_init(|| fs::read(binary::image()).expect("the guest image"))
}

/// Counts what a guest writes to its console.
#[derive(Clone, Debug, Default)]
pub struct Console(Arc<AtomicU64>);

impl Console {
    /// Returns how many bytes were written.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What machines leave in a process while they live.
#[derive(Debug, PartialEq, Eq)]
struct Traces {
    descriptors: Vec<String>,
    threads: usize,
    locked_bytes: u64,
    mappings: usize,
}

/// Counts the traces of machines in this process; `ram` is what the name of their RAM file holds.
fn traces(ram: &str) -> Traces {
    let of_a_machine = |link: &String| {
        let kernel_made = link.starts_with("anon_inode:") && !link.contains("pidfd");
        kernel_made || link == "/dev/kvm" || link.contains(ram)
    };
    let open = fs::read_dir("/proc/self/fd").expect("/proc/self/fd").flatten();
    let links = open.filter_map(|entry| fs::read_link(entry.path()).ok());
    let mut descriptors: Vec<String> =
        links.map(|link| link.to_string_lossy().into_owned()).filter(of_a_machine).collect();
    descriptors.sort();
    let tasks = fs::read_dir("/proc/self/task").expect("/proc/self/task").flatten();
    let names = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
    let status = fs::read_to_string("/proc/self/status").expect("/proc/self/status");
    let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")).expect("VmLck");
    let locked_kib: u64 = locked.trim().trim_end_matches(" kB").parse().expect("a number");
    let maps = fs::read_to_string("/proc/self/maps").expect("/proc/self/maps");
    Traces {
        descriptors,
        threads: names.filter(|name| name.starts_with("vcpu") || THREADS.contains(&name.trim())).count(),
        locked_bytes: locked_kib * 1024,
        mappings: maps.lines().filter(|line| line.contains(ram)).count(),
    }
}

/// A machine to experiment on. Only one exists at a time.
pub struct Lab {
    /// The machine.
    pub machine: Machine,
    /// What its guest wrote to the console.
    pub console: Console,
    ram_name: String,
    before: Traces,
    next_id: u64,
    early: HashMap<u64, Reply>,
    /// What programs have printed, by task.
    pub(super) outputs: HashMap<u64, Vec<u8>>,
    // Last: the next machine may start when this one is gone.
    _alone: MutexGuard<'static, ()>,
}

/// What a machine is started with.
pub struct Setup {
    /// How many vCPUs it has.
    pub vcpus: u32,
    /// The archive of programs that its guest finds.
    pub archive: Option<Arc<[u8]>>,
    /// Pages that the guest may wire.
    pub quota: u64,
    /// How the host holds them; the best way that it has if `None`.
    pub pin: Option<PinKind>,
    /// How long it may run.
    pub time_limit: Duration,
    /// What a storage error does.
    pub policy: StorageErrorPolicy,
    /// What locks are told to do.
    pub lock_faults: Option<HostFaults>,
    /// What storage is told to do.
    pub storage_faults: Option<HostFaults>,
    /// The folder of its stores, if it has any.
    pub store_dir: Option<PathBuf>,
    /// Whether the guest boots one instruction at a time.
    pub single_step: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            vcpus: 1,
            archive: None,
            quota: 256,
            pin: None,
            time_limit: Duration::from_secs(60),
            policy: StorageErrorPolicy::Stop,
            lock_faults: None,
            storage_faults: None,
            store_dir: None,
            single_step: false,
        }
    }
}

fn config(setup: &Setup, ram: &RamFile, console: Console) -> MachineConfig {
    MachineConfig {
        vcpus: setup.vcpus,
        archive: setup.archive.clone(),
        wire_quota_pages: setup.quota,
        pin: setup.pin.unwrap_or_else(|| PinKind::best(ram.size_bytes()).expect("/proc")),
        lock_faults: setup.lock_faults.clone(),
        storage_faults: setup.storage_faults.clone(),
        store_dir: setup.store_dir.clone(),
        store_quota_pages: if setup.store_dir.is_some() { STORE_QUOTA_PAGES } else { 0 },
        time_limit: Some(setup.time_limit),
        on_storage_error: setup.policy,
        guest_log_level: 0,
        console: Box::new(console),
        keyboard: false,
        single_step: setup.single_step,
        before_load: None,
        interrupted: None,
    }
}

impl Lab {
    /// Starts `image` on the RAM that `ram` makes once no other machine is there.
    pub fn start(ram: impl FnOnce() -> RamFile, image: &[u8], setup: &Setup) -> Self {
        let alone = alone();
        // The event that signals make readable stays for the life of the process.
        drop(signal::install().expect("signal handlers"));
        let console = Console::default();
        let before = traces("wirevm-ram");
        let ram = ram();
        let config = config(setup, &ram, console.clone());
        let name = ram.path().file_name().expect("a name").to_string_lossy().into_owned();
        // A memfd's path says "memfd:wirevm-ram", and so does its link.
        let ram_name = name.trim_start_matches("memfd:").to_owned();
        let machine = Machine::start(config, ram, image).expect("a machine");
        Self {
            machine,
            console,
            ram_name,
            before,
            next_id: 1,
            early: HashMap::new(),
            outputs: HashMap::new(),
            _alone: alone,
        }
    }

    /// Starts `image` as [`Lab::start`] does, and drops the machine; the error, where that fails.
    pub fn try_start(ram: impl FnOnce() -> RamFile, image: &[u8], setup: &Setup) -> Result<(), MachineError> {
        let _alone = alone();
        let ram = ram();
        Machine::start(config(setup, &ram, Console::default()), ram, image).map(drop)
    }

    /// Starts `image` on 8 MiB of RAM without stable storage.
    pub fn of_memfd(image: &[u8]) -> Self {
        Self::start(|| RamFile::memfd(8 << 20).expect("a memfd"), image, &Setup::default())
    }

    /// Starts the guest kernel on 16 MiB of RAM without stable storage and waits until it takes commands.
    pub fn of_kernel() -> Self {
        let lab = Self::start(|| RamFile::memfd(16 << 20).expect("a memfd"), kernel(), &Setup::default());
        lab.booted();
        lab
    }

    /// Waits until the guest takes commands.
    pub fn booted(&self) -> BootReport {
        self.machine.wait_ready().unwrap_or_else(|outcome| panic!("no boot: {outcome}"))
    }

    /// Sends words under a new id, which is returned.
    pub fn send_words(&mut self, words: &[u64]) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let message: Vec<u64> = [id].iter().chain(words).copied().collect();
        self.machine.channel().send(&message, LIMIT).expect("sent");
        id
    }

    /// Sends a command and returns its id.
    pub fn send(&mut self, command: &Command) -> u64 {
        let mut words = Vec::new();
        Request::new(MAIN_TASK, *command).encode(&mut words);
        self.send_words(&words)
    }

    /// Returns the next reply and its id.
    pub fn next(&mut self) -> (u64, Reply) {
        self.next_within(LIMIT).expect("a reply")
    }

    /// As [`Lab::next`]; nothing when none comes within `limit`. What programs print meanwhile is kept.
    pub fn next_within(&mut self, limit: Duration) -> Option<(u64, Reply)> {
        let deadline = Instant::now() + limit;
        loop {
            let words = match self.machine.channel().receive(deadline.saturating_duration_since(Instant::now())) {
                Ok(words) => words,
                Err(ChannelError::Timeout(_)) => return None,
                Err(error) => panic!("{error}: {:?}", self.machine.outcome()),
            };
            match Event::decode(&words).unwrap_or_else(|_| panic!("unasked: {words:x?}")) {
                Some(Event::Output { task, bytes }) => self.outputs.entry(task).or_default().extend(bytes),
                None => {
                    let (id, words) = words.split_first().expect("an id");
                    let reply = Reply::decode(words);
                    return Some((*id, reply.unwrap_or_else(|_| panic!("a reply of no agent: {words:x?}"))));
                }
            }
        }
    }

    /// Returns the reply to the command with that id.
    pub fn reply(&mut self, id: u64) -> Reply {
        self.reply_within(id, LIMIT).unwrap_or_else(|| panic!("command {id} is not answered"))
    }

    /// As [`Lab::reply`]; nothing when `limit` goes by without one.
    pub fn reply_within(&mut self, id: u64, limit: Duration) -> Option<Reply> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(reply) = self.early.remove(&id) {
                return Some(reply);
            }
            let (id, reply) = self.next_within(deadline.saturating_duration_since(Instant::now()))?;
            assert!(self.early.insert(id, reply).is_none(), "command {id} is answered twice");
        }
    }

    /// Has a command carried out; an operation that waits for the host is waited for.
    pub fn call(&mut self, command: &Command) -> Reply {
        let mut reply = self.call_once(command);
        while reply == Reply::Awaits {
            reply = self.call_once(&Command::AwaitHost);
        }
        reply
    }

    /// Gives a command and returns what it is answered at once.
    pub fn call_once(&mut self, command: &Command) -> Reply {
        let id = self.send(command);
        self.reply(id)
    }

    /// Has a command carried out that must succeed.
    pub fn done(&mut self, command: &Command) {
        assert_eq!(self.call(command), Reply::Done(KernReturn::Success), "{command:?}");
    }

    /// Allocates pages in the guest.
    pub fn allocate(&mut self, pages: u64) -> u64 {
        match self.call(&Command::Allocate { address: None, size: pages * PAGE }) {
            Reply::Address(address) => address,
            other => panic!("{other:?}"),
        }
    }

    /// Returns the RAM pages behind a range of the guest's pages, each of which must have one.
    pub fn frames(&mut self, address: u64, pages: u64) -> Vec<RamRange> {
        let rows = match self.call(&Command::Frames { start: address, end: address + pages * PAGE }) {
            Reply::Frames(rows) => rows,
            other => panic!("{other:?}"),
        };
        let ram_pages = self.machine.ram_pages();
        let range = |row: FrameRow| {
            let frames = row.frames.unwrap_or_else(|| panic!("{row:?} has no frame"));
            RamRange::new(frames.first, frames.pages, ram_pages).expect("inside RAM")
        };
        let frames: Vec<RamRange> = rows.into_iter().map(range).collect();
        assert_eq!(frames.iter().map(|frames| frames.pages()).sum::<u64>(), pages);
        frames
    }

    /// Returns how many pages of `ranges` differ from stable storage.
    pub fn dirty(&self, ranges: &[RamRange]) -> u64 {
        let dirty = |range: &RamRange| self.machine.witness().dirty(*range).expect("the witness");
        ranges.iter().map(|range| dirty(range).expect("a file system that counts dirty pages")).sum()
    }

    /// Returns how many pages of RAM are locked, which must be as many as the pin service says.
    pub fn locked(&self) -> u64 {
        let locked = self.machine.witness().locked_pages().expect("the witness");
        assert_eq!(locked, self.machine.pins().stats().wired_pages, "the ledger and the kernel disagree");
        locked
    }

    /// Waits for the machine's end, which must be there within `limit`, and returns how it was. Nothing of the machine
    /// may be left then: no thread, descriptor, mapping or locked page.
    pub fn end_within(self, limit: Duration) -> Outcome {
        let start = Instant::now();
        while self.machine.outcome().is_none() {
            assert!(start.elapsed() < limit, "the machine still runs after {limit:?}");
            thread::sleep(Duration::from_millis(1));
        }
        let Self { machine, ram_name, before, _alone, .. } = self;
        let start = Instant::now();
        let outcome = machine.finish().expect("an outcome");
        assert!(start.elapsed() < END_LIMIT, "ending took {:?}", start.elapsed());
        expect_traces(&ram_name, &before);
        outcome
    }

    /// As [`Lab::end_within`], with a limit for what should happen soon.
    pub fn end(self) -> Outcome {
        self.end_within(LIMIT)
    }

    /// Stops the machine; it must end for that reason.
    pub fn stop(self) {
        self.machine.stop();
        let outcome = self.end();
        assert!(matches!(outcome, Outcome::Stopped), "{outcome}");
    }

    /// Drops the machine while it runs; nothing may be left of it.
    pub fn abandon(self) {
        let Self { machine, ram_name, before, _alone, .. } = self;
        let start = Instant::now();
        drop(machine);
        assert!(start.elapsed() < END_LIMIT, "dropping took {:?}", start.elapsed());
        expect_traces(&ram_name, &before);
    }
}

/// Keeps other cases from having descriptors and mappings of a machine meanwhile: what is left of one is counted.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Checks that this process holds what it held before a machine; a thread that was waited for may show a little longer.
fn expect_traces(ram_name: &str, before: &Traces) {
    let start = Instant::now();
    while traces(ram_name) != *before && start.elapsed() < Duration::from_secs(2) {
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(traces(ram_name), *before, "something of the machine is left");
}
