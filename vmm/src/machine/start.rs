//! Putting a machine together and setting it going.

use std::io;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;

use kvm_bindings::CpuId;
use kvm_ioctls::{Kvm, VcpuFd};
use vmm_sys_util::eventfd::EventFd;
use wirevm_abi::boot::MAX_VCPUS;
use wirevm_abi::request::VcpuStart;
use wirevm_abi::{PAGE_SIZE, RAM_BASE, completion, port, ring};
use wirevm_devices::bus::{Bus, BusRange, PortDevice};
use wirevm_devices::completion::CompletionRing;
use wirevm_devices::durability::Durability;
use wirevm_devices::guest_memory::GuestMemory;
use wirevm_devices::hypercall::{Hypercall, HypercallConfig, VcpuStarter};
use wirevm_devices::interrupt::Interrupt;
use wirevm_devices::lifecycle::Lifecycle;
use wirevm_devices::pin::{FaultyMethod, PinConfig, PinMethod, PinService};
use wirevm_devices::ramfile::{RamFile, RamState};
use wirevm_devices::serial::SerialConsole;
use wirevm_devices::store::{StoreConfig, StoreService, StoreStartError};
use wirevm_devices::sync::{HealthProbe, RamProbe, SyncConfig, SyncService, SyncStartError, WiredOracle};
use wirevm_devices::view::View;
use wirevm_devices::witness::Witness;

use super::Machine;
use super::config::{MachineConfig, MachineError, StorageErrorPolicy, host};
use super::shared::Shared;
use crate::boot::{self, BootLayout, BootWith, COMPLETION_VECTOR, Image, ImageError, RING_VECTOR, SERIAL_VECTOR};
use crate::channel::Channel;
use crate::events::{self, Watch};
use crate::interrupts::Interrupts;
use crate::kvm;
use crate::memory::GuestRam;
use crate::outcome::Outcome;
use crate::vcpu::exit::RamAddresses;
use crate::vcpu::{Meter, VcpuContext, VcpuHandles, VcpuListener, install_handler, run, set_up, single_step, tsc_khz};
use crate::vm::Vm;

/// The lines of devices.
const RING: usize = 0;
const SERIAL: usize = 1;
const COMPLETION: usize = 2;
/// Pages of RAM that are looked at for the pieces of the page cache that they are in.
const LOOKED_AT_PAGES: usize = 64;

/// Makes the lines. A ring's counters tell whether the guest has seen what an interrupt was for; of keys, and of room for replies,
/// nobody can tell.
fn interrupts(vcpus: u32, memory: &Arc<GuestRam>, layout: &BootLayout) -> io::Result<Interrupts> {
    let unequal = |ring: u64, head: u64, tail: u64| {
        let memory = Arc::clone(memory);
        Box::new(move || memory.load(ring + head) != memory.load(ring + tail))
    };
    Interrupts::new(
        vcpus,
        vec![
            (RING_VECTOR, unequal(layout.command_ring(), ring::HEAD_OFFSET, ring::TAIL_OFFSET)),
            (SERIAL_VECTOR, Box::new(|| false)),
            (COMPLETION_VECTOR, unequal(layout.completion_ring(), completion::HEAD_OFFSET, completion::TAIL_OFFSET)),
        ],
    )
}

/// The host side of the contract for one machine.
#[derive(Debug)]
pub(super) struct Services {
    pub(super) pins: Arc<PinService>,
    pub(super) syncs: Arc<SyncService>,
    pub(super) completions: Arc<CompletionRing>,
    /// The services that store to RAM on the guest's behalf; none when the machine has ended.
    pub(super) writers: Option<Writers>,
}

/// What stores to RAM on the guest's behalf.
#[derive(Debug)]
pub(super) struct Writers {
    pub(super) stores: Arc<StoreService>,
    pub(super) hypercall: Arc<Hypercall>,
}

/// Starts a machine; see [`Machine::start`].
pub(super) fn start(config: MachineConfig, ram: RamFile, image: &[u8]) -> Result<Machine, MachineError> {
    let kvm = kvm::open()?;
    if !(1..=MAX_VCPUS).contains(&u64::from(config.vcpus)) {
        return Err(MachineError::Vcpus { asked: config.vcpus });
    }
    let image = Image::new(image, ram.pages())?;
    let archive = config.archive.as_deref().unwrap_or(&[]);
    let layout = boot::place(&image, ram.pages(), config.vcpus.into(), archive.len() as u64)?;
    let ram = Arc::new(ram);
    let memory = Arc::new(GuestRam::map(&ram)?);
    let interrupts = Arc::new(interrupts(config.vcpus, &memory, &layout).map_err(host("events"))?);
    let notified = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(host("events"))?;
    let (handles, commands) = VcpuHandles::new(config.vcpus);
    let handles = Arc::new(handles);
    let shared = Shared::new(Arc::clone(&handles), Arc::clone(&memory), Arc::clone(&ram), layout);
    let shared = Arc::new(shared.map_err(host("events"))?);
    let (root, count, stepping) = (RAM_BASE + layout.tables_page() * PAGE_SIZE, config.vcpus, config.single_step);
    let (machine, services) = thread::scope(|scope| {
        // KVM takes its time, and waits several times for what other processors do. The host's services need nothing of it.
        let machine = thread::Builder::new().name("wirevm-kvm".to_owned()).spawn_scoped(scope, || {
            let processor = kvm::processor(&kvm)?;
            kvm::check_ram(&processor, ram.size_bytes())?;
            let vm = virtual_machine(&kvm, &memory, &interrupts, &notified)?;
            let vcpus = make_vcpus(&kvm, &processor, &vm, root, count, stepping)?;
            Ok::<_, MachineError>((vm, vcpus))
        });
        let machine = machine.map_err(host("thread for KVM"));
        let start_services = || {
            let view = Arc::new(View::new(&ram)?);
            let services = services(&config, &ram, &memory, &view, &shared, (&layout, interrupts.line(COMPLETION)))?;
            Ok::<_, MachineError>((Witness::new(view, &ram)?, services))
        };
        let services = start_services();
        if let Some(before_load) = config.before_load {
            before_load();
        }
        let machine = machine.and_then(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        (machine, services)
    });
    // Where both fail, what KVM said is told, whichever was first.
    let ((vm, vcpus), (witness, services)) = (machine?, services?);
    let rings = (layout.command_ring(), layout.reply_ring());
    let ended = shared.ended_event().map_err(host("events"))?;
    let channel = Channel::new(Arc::clone(&memory), rings, interrupts.line(RING), notified, ended)
        .map_err(host("message channel"))?;
    let console = Arc::new(SerialConsole::new(interrupts.line(SERIAL), config.console));
    let bus = Arc::new(build_bus(services.writers.as_ref().map(|writers| &writers.hypercall), &console)?);
    install_handler().map_err(host("signal handlers"))?;

    // From here on RAM changes; until here an old file is as it was.
    let fresh = ram.is_zero();
    ram.set_state(RamState::Open)?;
    let with = BootWith { log_level: config.guest_log_level, tsc_khz: vcpus.first().map_or(0, tsc_khz), archive };
    boot::load(&memory, &image, &layout, fresh, with)?;
    check_folios(&memory, &ram);

    let meter = Arc::new(Meter::new(&vcpus, config.single_step));
    let started = shared.start();
    let watch = Watch {
        shared: Arc::clone(&shared),
        keys: config.keyboard.then_some(console),
        ram: Arc::clone(&ram),
        interrupted: config.interrupted,
        limit: config.time_limit.map(|limit| (started, limit)),
    };
    let ram_addresses = RamAddresses { start: RAM_BASE, end: RAM_BASE + ram.size_bytes() };
    let listener = Arc::clone(&shared) as Arc<dyn VcpuListener>;
    let context = |(index, ((vcpu, commands), kicker))| VcpuContext {
        index,
        vcpu,
        bus: Arc::clone(&bus),
        interrupts: Arc::clone(&interrupts),
        meter: Arc::clone(&meter),
        ram: ram_addresses,
        commands,
        kicker: Arc::clone(kicker),
        listener: Arc::clone(&listener),
    };
    let contexts: Vec<_> = vcpus.into_iter().zip(commands).zip(handles.kickers()).enumerate().map(context).collect();
    let threads = Vec::with_capacity(contexts.len() + 1);
    let meter = Arc::clone(&meter);
    let mut machine = Machine { shared, channel, witness, threads, services, meter, ram, _vm: vm, _memory: memory };
    // From here on dropping the machine ends the threads that there are.
    for context in contexts {
        let name = format!("vcpu{}", context.index);
        let thread = thread::Builder::new().name(name).spawn(move || run(context));
        machine.threads.push(thread.map_err(host("vCPU thread"))?);
    }
    machine.threads.push(events::start(watch).map_err(host("event thread"))?);
    // The others wait for the guest.
    let _started = handles.start(VcpuStart { vcpu: 0, entry: image.entry(), argument: layout.info_page() });
    Ok(machine)
}

/// Says so where the pages just loaded are in larger pieces of the page cache than the policy for the RAM file allows, as they are on
/// a file system with larger blocks. Only root can look; nothing is read or written for it.
fn check_folios(memory: &GuestRam, ram: &RamFile) {
    if !ram.is_file() {
        return;
    }
    match memory.folios(LOOKED_AT_PAGES) {
        Ok(folios) => {
            let largest = folios.and_then(|folios| folios.last_key_value().map(|(bytes, _)| *bytes)).unwrap_or(0);
            log::debug!("the largest piece that loaded pages are in has {largest} bytes");
            if largest > ram.folio().most_bytes() {
                log::warn!(
                    "this host keeps pages of the RAM file in pieces of {} KiB, and folio={} allows {} KiB: a sync of one page writes all \
                     of its piece",
                    largest / 1024,
                    ram.folio(),
                    ram.folio().most_bytes() / 1024
                );
            }
        }
        Err(error) => log::debug!("the sizes of the RAM file's pieces are unknown: {error}"),
    }
}

/// Creates the virtual machine.
fn virtual_machine(
    kvm: &Kvm,
    memory: &GuestRam,
    interrupts: &Interrupts,
    notified: &EventFd,
) -> Result<Vm, MachineError> {
    let vm = Vm::new(kvm, memory)?;
    vm.route(interrupts)?;
    vm.notify_on(port::NOTIFY, notified)?;
    Ok(vm)
}

/// Creates all vCPUs, in the contract's entry state but for where they start. Each leaves the guest after every instruction if
/// `stepping`.
fn make_vcpus(
    kvm: &Kvm,
    processor: &CpuId,
    vm: &Vm,
    root: u64,
    count: u32,
    stepping: bool,
) -> Result<Vec<VcpuFd>, MachineError> {
    let make = |index| {
        let vcpu = vm.create_vcpu(index)?;
        set_up(kvm, processor, &vcpu, index, root)?;
        if stepping {
            single_step(&vcpu)?;
        }
        Ok(vcpu)
    };
    (0..count).map(make).collect()
}

fn services(
    config: &MachineConfig,
    ram: &Arc<RamFile>,
    memory: &Arc<GuestRam>,
    view: &Arc<View>,
    shared: &Arc<Shared>,
    (layout, completion): (&BootLayout, Box<dyn Interrupt>),
) -> Result<Services, MachineError> {
    let pin_config = PinConfig {
        ram_pages: ram.pages(),
        quota_pages: config.wire_quota_pages,
        map_entry_budget: config.pin.map_entry_budget()?,
    };
    let locks = config.pin.method(Arc::clone(view))?;
    let locks: Box<dyn PinMethod> = match &config.lock_faults {
        Some(faults) => Box::new(FaultyMethod::new(locks, faults.clone())),
        None => locks,
    };
    let pins = Arc::new(PinService::new(locks, pin_config));
    let syncs = Arc::new(start_syncs(config, ram, shared, &pins)?);
    let (need, vcpus) = (layout.reserved_pages(), layout.vcpus());
    let too_large = |_| ImageError::TooLarge { need, vcpus, ram_pages: ram.pages() };
    let call_pages = layout.call_pages().map_err(too_large)?;
    let reach: Arc<dyn GuestMemory> = Arc::clone(memory) as Arc<dyn GuestMemory>;
    let ring = layout.completion_range().map_err(too_large)?;
    let machine = Arc::downgrade(shared);
    let completions = CompletionRing::new(Arc::clone(&reach), ring, completion).on_lost(move |error| {
        log::error!("the completion ring cannot be reached: {error}");
        if let Some(machine) = machine.upgrade() {
            machine.end(Outcome::BackingLost { address: None });
        }
    });
    let completions = Arc::new(completions);
    let stores = Arc::new(start_stores(config, &reach)?);
    let hypercall = Arc::new(Hypercall::new(HypercallConfig {
        memory: reach,
        pins: Arc::clone(&pins),
        syncs: Arc::clone(&syncs),
        completions: Some(Arc::clone(&completions)),
        stores: Arc::clone(&stores),
        discard: ram.discard()?.map(Arc::new),
        vcpus: Some(Arc::clone(&shared.vcpus) as Arc<dyn VcpuStarter>),
        ram_pages: ram.pages(),
        call_pages,
    }));
    Ok(Services { pins, syncs, completions, writers: Some(Writers { stores, hypercall }) })
}

/// Starts what makes RAM stable. Pages that have stayed locked since storage was good hold what the guest stored, so they can be
/// repaired when it fails.
fn start_syncs(
    config: &MachineConfig,
    ram: &Arc<RamFile>,
    shared: &Arc<Shared>,
    pins: &Arc<PinService>,
) -> Result<SyncService, SyncStartError> {
    if ram.durability() == Durability::Shared {
        let mut probe = RamProbe::new(ram)?;
        pins.watch(move || probe.check());
    }
    let held = Arc::clone(pins);
    let oracle = WiredOracle::new(move |run| held.is_held(run));
    let sync_config = SyncConfig { oracle, faults: config.storage_faults.clone(), ..SyncConfig::default() };
    let (machine, policy, file) = (Arc::downgrade(shared), config.on_storage_error, Arc::clone(ram));
    SyncService::start(ram, sync_config, move |error| {
        let stops = policy == StorageErrorPolicy::Stop && !error.nothing_reverted;
        if let Some(machine) = machine.upgrade().filter(|_| stops) {
            machine.end(Outcome::StorageError { reason: error.to_string() });
        }
        // Before anybody is answered: a guest that knows, and is killed then, leaves a file that knows (rule D13).
        super::mark_failed(&file, error);
    })
}

fn start_stores(config: &MachineConfig, memory: &Arc<dyn GuestMemory>) -> Result<StoreService, StoreStartError> {
    let Some(folder) = &config.store_dir else { return Ok(StoreService::unsupported()) };
    let store_config = StoreConfig {
        quota_pages: config.store_quota_pages,
        faults: config.storage_faults.clone().unwrap_or_default(),
        ..StoreConfig::default()
    };
    StoreService::start(folder, store_config, Arc::clone(memory))
}

fn build_bus(hypercall: Option<&Arc<Hypercall>>, console: &Arc<SerialConsole>) -> Result<Bus, MachineError> {
    let ports = |first, count| {
        BusRange::new(first, count).ok_or_else(|| host("port table")(io::ErrorKind::InvalidInput.into()))
    };
    let mut bus = Bus::new();
    if let Some(hypercall) = hypercall {
        bus.insert(ports(port::DOORBELL, 1)?, Arc::clone(hypercall) as Arc<dyn PortDevice>)?;
    }
    bus.insert(ports(port::LIFECYCLE, 1)?, Arc::new(Lifecycle))?;
    bus.insert(ports(port::SERIAL, 8)?, Arc::clone(console) as Arc<dyn PortDevice>)?;
    Ok(bus)
}
