//! A virtual machine from start to end.

use std::io::{self, Write};
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::EventFd;
use wirevm_abi::RAM_BASE;
use wirevm_abi::port;
use wirevm_abi::report::Report;
use wirevm_devices::bus::{Bus, BusRange, OverlapError, PortDevice};
use wirevm_devices::guest_memory::GuestMemory;
use wirevm_devices::hypercall::Hypercall;
use wirevm_devices::lifecycle::Lifecycle;
use wirevm_devices::pin::{LimitError, PinConfig, PinService, RunsMethod, map_entry_budget};
use wirevm_devices::ramfile::{RamFile, RamFileError, RamState};
use wirevm_devices::serial::SerialConsole;
use wirevm_devices::sync::{SyncConfig, SyncService, SyncStartError};
use wirevm_devices::view::{View, ViewError};
use wirevm_devices::witness::{Witness, WitnessError};
use zerocopy::{FromZeros, IntoBytes};

use crate::boot::{self, BootLayout, Image, ImageError, RING_VECTOR, SERIAL_VECTOR};
use crate::channel::Channel;
use crate::events::{self, Watch};
use crate::kvm::{self, KvmError};
use crate::memory::{GuestRam, MemoryError};
use crate::outcome::{GuestReport, Outcome};
use crate::signal;
use crate::vcpu::exit::RamAddresses;
use crate::vcpu::{Command, Kicker, StateError, VcpuContext, VcpuListener, install_handler, run, set_up};
use crate::vm::{VcpuStats, Vm, VmError};

/// How long a stopped vCPU may take to leave the guest.
const JOIN_LIMIT: Duration = Duration::from_secs(5);

/// What to do when storage reports an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StorageErrorPolicy {
    /// Stop the guest: memory that is not wired may already have reverted to what storage has.
    #[default]
    Stop,
    /// Let it run; every further sync is refused.
    Latch,
}

/// What a machine is made of, besides its RAM file and its image.
pub struct MachineConfig {
    /// Pages that the guest may keep wired.
    pub wire_quota_pages: u64,
    /// How long the machine may run.
    pub time_limit: Option<Duration>,
    /// What to do when storage reports an error.
    pub on_storage_error: StorageErrorPolicy,
    /// Most detailed level that the guest logs: 0 off, 1 error to 5 trace.
    pub guest_log_level: u64,
    /// Where the guest's console goes.
    pub console: Box<dyn Write + Send>,
    /// Whether standard input is the console's keyboard.
    pub keyboard: bool,
}

impl std::fmt::Debug for MachineConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MachineConfig")
            .field("wire_quota_pages", &self.wire_quota_pages)
            .field("time_limit", &self.time_limit)
            .finish_non_exhaustive()
    }
}

/// A machine could not be started.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// No usable KVM.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// KVM refused part of the machine.
    #[error(transparent)]
    Vm(#[from] VmError),
    /// KVM refused the entry state.
    #[error(transparent)]
    State(#[from] StateError),
    /// RAM could not be mapped for the guest.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// RAM could not be mapped for the host's services.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The image is refused.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The RAM file failed.
    #[error(transparent)]
    RamFile(#[from] RamFileError),
    /// The pin service could not start.
    #[error(transparent)]
    Pins(#[from] LimitError),
    /// The sync service could not start.
    #[error(transparent)]
    Syncs(#[from] SyncStartError),
    /// The witness could not start.
    #[error(transparent)]
    Witness(#[from] WitnessError),
    /// Two devices want the same port.
    #[error(transparent)]
    Bus(#[from] OverlapError),
    /// The host's own machinery failed.
    #[error("the machine's {what} cannot be set up")]
    Host {
        /// Which part.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn host(what: &'static str) -> impl FnOnce(io::Error) -> MachineError {
    move |source| MachineError::Host { what, source }
}

/// How booting went.
#[derive(Clone, Copy, Debug)]
pub struct BootReport {
    /// Instructions from entry until the guest took commands, where KVM emulates ring 0 and so counts them.
    pub instructions: Option<u64>,
    /// Time from the vCPU's start until the guest took commands.
    pub elapsed: Duration,
}

#[derive(Debug, Default)]
struct Progress {
    ready: Option<BootReport>,
    outcome: Option<Outcome>,
}

/// What the machine's threads share.
#[derive(Debug)]
pub struct Shared {
    progress: Mutex<Progress>,
    changed: Condvar,
    ended: EventFd,
    /// When the vCPU started.
    started: OnceLock<Instant>,
    stop: SyncSender<Command>,
    kicker: Arc<Kicker>,
    memory: Arc<GuestRam>,
    ram: Arc<RamFile>,
    layout: BootLayout,
}

impl Shared {
    /// Ends the machine for that reason, unless it has ended for another.
    ///
    /// Where the RAM file is cut short that is the reason: a processor that finds no code or page tables any more gives
    /// up in any way.
    pub fn end(&self, outcome: Outcome) {
        let outcome = self.unless_cut(outcome);
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        if progress.outcome.is_none() {
            log::debug!("the machine ends: {outcome}");
            progress.outcome = Some(outcome);
            if let Err(error) = self.ended.write(1) {
                log::error!("the machine's end cannot be announced: {error}");
            }
        }
        drop(progress);
        self.changed.notify_all();
        if self.stop.try_send(Command::Stop).is_err() {
            // The queue holds one command; a second one would say the same.
        }
        self.kicker.kick();
    }

    fn unless_cut(&self, outcome: Outcome) -> Outcome {
        if matches!(outcome, Outcome::BackingLost { .. }) || self.ram.is_intact() {
            return outcome;
        }
        log::debug!("the RAM file is cut short, and so {outcome}");
        Outcome::BackingLost { address: None }
    }

    /// Returns an event that is readable, for good, once the machine has ended.
    pub fn ended_event(&self) -> io::Result<EventFd> {
        self.ended.try_clone()
    }
}

impl VcpuListener for Shared {
    fn on_ready(&self, instructions: Option<u64>) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = self.started.get().map_or(Duration::ZERO, Instant::elapsed);
        progress.ready.get_or_insert(BootReport { instructions, elapsed });
        drop(progress);
        self.changed.notify_all();
    }

    fn on_end(&self, outcome: Outcome) {
        self.end(outcome);
    }

    fn read_report(&self) -> Outcome {
        let mut page = Report::new_zeroed();
        let read = self.layout.report_range().map(|range| self.memory.read(range, page.as_mut_bytes()));
        match read {
            Ok(Ok(())) => Outcome::Crashed(Box::new(GuestReport::new(&page))),
            _ => Outcome::BackingLost { address: Some(self.layout.report_page()) },
        }
    }
}

/// A running machine. Dropping it stops it and does the rest of what [`Machine::finish`] does.
#[derive(Debug)]
pub struct Machine {
    shared: Arc<Shared>,
    channel: Channel,
    witness: Witness,
    vcpu: Option<JoinHandle<()>>,
    events: Option<JoinHandle<()>>,
    pins: Arc<PinService>,
    syncs: Arc<SyncService>,
    ram: Arc<RamFile>,
    ram_pages: u64,
    hypercall: Arc<Hypercall>,
    stats: Option<Arc<VcpuStats>>,
    // The VM goes before the memory that it was given: fields are dropped in this order.
    _vm: Vm,
    _memory: Arc<GuestRam>,
}

/// Events between the host's threads and KVM.
struct Wires {
    ring: EventFd,
    serial: EventFd,
    notify: EventFd,
    ended: EventFd,
}

impl Wires {
    fn new() -> io::Result<Self> {
        let event = || EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
        Ok(Self { ring: event()?, serial: event()?, notify: event()?, ended: event()? })
    }
}

impl Machine {
    /// Starts a machine on a RAM file with an image. The RAM file is marked open first, and clean again by
    /// [`Machine::finish`].
    ///
    /// # Errors
    /// [`MachineError`]; nothing runs then and nothing stays locked.
    pub fn start(config: MachineConfig, ram: RamFile, image: &[u8]) -> Result<Self, MachineError> {
        let kvm = kvm::open()?;
        let image = Image::new(image, ram.pages())?;
        let layout = boot::place(&image, ram.pages(), 1)?;
        let ram = Arc::new(ram);
        let memory = Arc::new(GuestRam::map(&ram)?);
        boot::load(&memory, &image, &layout, ram.is_zero(), config.guest_log_level)?;

        let wires = Wires::new().map_err(host("events"))?;
        let interrupted = signal::install().map_err(host("signal handlers"))?;
        install_handler().map_err(host("signal handlers"))?;
        let vm = Vm::new(&kvm, &memory)?;
        vm.route(&[(&wires.ring, RING_VECTOR), (&wires.serial, SERIAL_VECTOR)])?;
        vm.notify_on(port::NOTIFY, &wires.notify)?;
        let mut vcpu = vm.create_vcpu(0)?;
        let root = RAM_BASE + layout.tables_page() * wirevm_abi::PAGE_SIZE;
        set_up(&kvm, &vcpu, 0, image.entry(), root, layout.info_page())?;

        let (stop, commands) = mpsc::sync_channel(1);
        let kicker = Arc::new(Kicker::default());
        let shared = Arc::new(Shared {
            progress: Mutex::default(),
            changed: Condvar::new(),
            ended: wires.ended.try_clone().map_err(host("events"))?,
            started: OnceLock::new(),
            stop,
            kicker: Arc::clone(&kicker),
            memory: Arc::clone(&memory),
            ram: Arc::clone(&ram),
            layout,
        });
        let view = Arc::new(View::new(&ram)?);
        let pin_config = PinConfig {
            ram_pages: ram.pages(),
            quota_pages: config.wire_quota_pages,
            map_entry_budget: map_entry_budget()?,
        };
        let pins = Arc::new(PinService::new(Box::new(RunsMethod::new(Arc::clone(&view))), pin_config));
        let syncs = Arc::new(start_syncs(&ram, &shared, config.on_storage_error)?);
        let console = Arc::new(SerialConsole::new(wires.serial.try_clone().map_err(host("events"))?, config.console));
        let call_pages = layout
            .call_pages()
            .map_err(|_| ImageError::TooLarge { need: layout.reserved_pages(), ram_pages: ram.pages() })?;
        let reach: Arc<dyn GuestMemory> = Arc::clone(&memory) as Arc<dyn GuestMemory>;
        let hypercall =
            Arc::new(Hypercall::new(reach, Arc::clone(&pins), Arc::clone(&syncs), ram.pages(), &call_pages));
        let bus = Arc::new(build_bus(&hypercall, &console)?);
        let witness = Witness::new(view, &ram)?;
        let rings = (layout.command_ring(), layout.reply_ring());
        let channel = Channel::new(Arc::clone(&memory), rings, wires.ring, wires.notify, &wires.ended)
            .map_err(host("message channel"))?;
        ram.set_state(RamState::Open)?;

        vcpu.set_kvm_immediate_exit(0);
        let addresses = RamAddresses { start: RAM_BASE, end: RAM_BASE + ram.size_bytes() };
        let listener: Arc<dyn VcpuListener> = Arc::clone(&shared) as Arc<dyn VcpuListener>;
        let stats = VcpuStats::open(&vcpu).map(Arc::new);
        let context =
            VcpuContext { index: 0, vcpu, bus, stats: stats.clone(), ram: addresses, commands, kicker, listener };
        let started = *shared.started.get_or_init(Instant::now);
        let vcpu =
            thread::Builder::new().name("vcpu0".to_owned()).spawn(move || run(context)).map_err(host("vCPU thread"))?;
        let watch = Watch {
            shared: Arc::clone(&shared),
            keys: config.keyboard.then_some(console),
            ram: Arc::clone(&ram),
            interrupted,
            limit: config.time_limit.map(|limit| (started, limit)),
        };
        let mut machine = Self {
            shared,
            channel,
            witness,
            vcpu: Some(vcpu),
            events: None,
            pins,
            syncs,
            ram_pages: ram.pages(),
            ram,
            hypercall,
            stats,
            _vm: vm,
            _memory: memory,
        };
        machine.events = Some(events::start(watch).map_err(host("event thread"))?);
        Ok(machine)
    }

    /// Waits until the guest takes commands.
    ///
    /// # Errors
    /// The outcome, when the machine ended before.
    pub fn wait_ready(&self) -> Result<BootReport, Outcome> {
        let progress = self.shared.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let undecided = |progress: &mut Progress| progress.ready.is_none() && progress.outcome.is_none();
        let progress = self.shared.changed.wait_while(progress, undecided).unwrap_or_else(PoisonError::into_inner);
        // A guest that was ready and ended since has still been ready.
        progress.ready.ok_or_else(|| progress.outcome.clone().unwrap_or(Outcome::Stopped))
    }

    /// Waits until the machine has ended and says how.
    #[must_use]
    pub fn wait(&self) -> Outcome {
        let progress = self.shared.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let running = |progress: &mut Progress| progress.outcome.is_none();
        let progress = self.shared.changed.wait_while(progress, running).unwrap_or_else(PoisonError::into_inner);
        progress.outcome.clone().unwrap_or(Outcome::Stopped)
    }

    /// Returns the outcome if the machine has ended.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        self.shared.progress.lock().unwrap_or_else(PoisonError::into_inner).outcome.clone()
    }

    /// Stops the machine, if it runs.
    pub fn stop(&self) {
        self.shared.end(Outcome::Stopped);
    }

    /// Returns the way to the guest's agent.
    pub const fn channel(&mut self) -> &mut Channel {
        &mut self.channel
    }

    /// Returns the witness of the host's truth about RAM.
    #[must_use]
    pub const fn witness(&self) -> &Witness {
        &self.witness
    }

    /// Returns the number of pages of guest RAM.
    #[must_use]
    pub const fn ram_pages(&self) -> u64 {
        self.ram_pages
    }

    /// Returns how many hypercalls the guest has made: exits by the doorbell, whatever number of entries each carried.
    #[must_use]
    pub fn hypercalls(&self) -> u64 {
        self.hypercall.doorbells()
    }

    /// Returns what KVM counts of the vCPU, where it does.
    #[must_use]
    pub fn vcpu_stats(&self) -> Option<&VcpuStats> {
        self.stats.as_deref()
    }

    /// Returns the pin service.
    #[must_use]
    pub fn pins(&self) -> &PinService {
        &self.pins
    }

    /// Returns the sync service.
    #[must_use]
    pub fn syncs(&self) -> &SyncService {
        &self.syncs
    }

    /// Waits for the end, releases every pin, and marks the RAM file: clean, or failed if storage ever did. A file that
    /// was cut short is left alone.
    ///
    /// # Errors
    /// [`MachineError::RamFile`] when the mark could not be written; the outcome is lost then, everything else is
    /// done.
    pub fn finish(mut self) -> Result<Outcome, MachineError> {
        let outcome = self.shared.unless_cut(self.wait());
        self.close(&outcome)?;
        Ok(outcome)
    }

    /// Ends the threads, releases every pin and marks the RAM file.
    fn close(&mut self, outcome: &Outcome) -> Result<(), RamFileError> {
        let joined = self.join();
        self.pins.release_all();
        if matches!(outcome, Outcome::BackingLost { .. }) {
            // A write to the header could make the cut file longer again.
            return Ok(());
        }
        match self.syncs.latched() {
            // Best effort: the storage that should take the mark is the one that failed, and its error may be told
            // once more although the mark is there.
            Some(error) => {
                let state = RamState::Failed { errno: error.errno, first_page: error.first_page };
                if let Err(error) = self.ram.set_state(state) {
                    log::warn!("the RAM file may not be marked as failed: {error}");
                }
                Ok(())
            }
            None if joined => self.ram.set_state(RamState::Clean),
            // The guest may still store to its RAM.
            None => Ok(()),
        }
    }

    /// Waits for the threads; tells whether all have ended.
    fn join(&mut self) -> bool {
        let deadline = Instant::now() + JOIN_LIMIT;
        let mut joined = true;
        for handle in [self.vcpu.take(), self.events.take()].into_iter().flatten() {
            while !handle.is_finished() && Instant::now() < deadline {
                self.shared.kicker.kick();
                thread::sleep(Duration::from_millis(1));
            }
            if !handle.is_finished() {
                log::error!("a thread of the machine did not end within {} s", JOIN_LIMIT.as_secs());
                joined = false;
                continue;
            }
            if handle.join().is_err() {
                log::error!("a thread of the machine panicked");
            }
        }
        joined
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Nothing is left to do behind `finish`, which has taken the thread.
        if self.vcpu.is_none() {
            return;
        }
        self.stop();
        let outcome = self.shared.unless_cut(self.wait());
        if let Err(error) = self.close(&outcome) {
            log::warn!("the RAM file cannot be marked as clean: {error}");
        }
    }
}

fn start_syncs(ram: &RamFile, shared: &Arc<Shared>, policy: StorageErrorPolicy) -> Result<SyncService, SyncStartError> {
    let machine = Arc::downgrade(shared);
    SyncService::start(ram, SyncConfig::default(), move |error| {
        if let (StorageErrorPolicy::Stop, Some(machine)) = (policy, machine.upgrade()) {
            machine.end(Outcome::StorageError { reason: error.to_string() });
        }
    })
}

fn build_bus(hypercall: &Arc<Hypercall>, console: &Arc<SerialConsole>) -> Result<Bus, MachineError> {
    let ports = |first, count| {
        BusRange::new(first, count).ok_or_else(|| host("port table")(io::ErrorKind::InvalidInput.into()))
    };
    let mut bus = Bus::new();
    bus.insert(ports(port::DOORBELL, 1)?, Arc::clone(hypercall) as Arc<dyn PortDevice>)?;
    bus.insert(ports(port::LIFECYCLE, 1)?, Arc::new(Lifecycle))?;
    bus.insert(ports(port::SERIAL, 8)?, Arc::clone(console) as Arc<dyn PortDevice>)?;
    Ok(bus)
}
