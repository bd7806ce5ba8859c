//! Putting a machine together and setting it going.

use std::io;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;

use kvm_ioctls::{Kvm, VcpuFd};
use vmm_sys_util::eventfd::EventFd;
use wirevm_abi::{PAGE_SIZE, RAM_BASE, port};
use wirevm_devices::bus::{Bus, BusRange, PortDevice};
use wirevm_devices::guest_memory::GuestMemory;
use wirevm_devices::hypercall::Hypercall;
use wirevm_devices::lifecycle::Lifecycle;
use wirevm_devices::pin::{FaultyMethod, PinConfig, PinMethod, PinService, RunsMethod, map_entry_budget};
use wirevm_devices::ramfile::{RamFile, RamState};
use wirevm_devices::serial::SerialConsole;
use wirevm_devices::sync::{SyncConfig, SyncService, SyncStartError};
use wirevm_devices::view::View;
use wirevm_devices::witness::Witness;

use super::Machine;
use super::config::{MachineConfig, MachineError, StorageErrorPolicy, host};
use super::shared::Shared;
use crate::boot::{self, BootLayout, Image, ImageError, RING_VECTOR, SERIAL_VECTOR};
use crate::channel::Channel;
use crate::events::{self, Watch};
use crate::kvm;
use crate::memory::GuestRam;
use crate::outcome::Outcome;
use crate::vcpu::exit::RamAddresses;
use crate::vcpu::{VcpuContext, VcpuListener, install_handler, run, set_up, single_step};
use crate::vm::{VcpuStats, Vm};

/// Events between the host's threads and KVM.
struct Wires {
    ring: EventFd,
    serial: EventFd,
    notify: EventFd,
}

impl Wires {
    fn new() -> io::Result<Self> {
        let event = || EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
        Ok(Self { ring: event()?, serial: event()?, notify: event()? })
    }
}

/// The host side of the contract for one machine.
#[derive(Debug)]
pub(super) struct Services {
    pub(super) pins: Arc<PinService>,
    pub(super) syncs: Arc<SyncService>,
    pub(super) hypercall: Arc<Hypercall>,
}

/// Starts a machine; see [`Machine::start`].
pub(super) fn start(config: MachineConfig, ram: RamFile, image: &[u8]) -> Result<Machine, MachineError> {
    let kvm = kvm::open()?;
    kvm::check_ram(&kvm, ram.size_bytes())?;
    let image = Image::new(image, ram.pages())?;
    let layout = boot::place(&image, ram.pages(), 1)?;
    let ram = Arc::new(ram);
    let memory = Arc::new(GuestRam::map(&ram)?);
    let wires = Wires::new().map_err(host("events"))?;
    let (vm, vcpu) = virtual_machine(&kvm, &memory, &wires, &image, &layout)?;

    let (stop, commands) = mpsc::sync_channel(1);
    let shared = Shared::new(stop, Arc::clone(&memory), Arc::clone(&ram), layout).map_err(host("events"))?;
    let shared = Arc::new(shared);
    let view = Arc::new(View::new(&ram)?);
    let services = services(&config, &ram, &memory, &view, &shared, &layout)?;
    let witness = Witness::new(view, &ram)?;
    let rings = (layout.command_ring(), layout.reply_ring());
    let ended = shared.ended_event().map_err(host("events"))?;
    let channel =
        Channel::new(Arc::clone(&memory), rings, wires.ring, wires.notify, ended).map_err(host("message channel"))?;
    let console = Arc::new(SerialConsole::new(wires.serial, config.console));
    let bus = Arc::new(build_bus(&services.hypercall, &console)?);
    install_handler().map_err(host("signal handlers"))?;

    // From here on RAM changes; until here an old file is as it was.
    let fresh = ram.is_zero();
    ram.set_state(RamState::Open)?;
    boot::load(&memory, &image, &layout, fresh, config.guest_log_level)?;

    let stats = VcpuStats::open(&vcpu).map(Arc::new);
    let started = shared.start();
    let watch = Watch {
        shared: Arc::clone(&shared),
        keys: config.keyboard.then_some(console),
        ram: Arc::clone(&ram),
        interrupted: config.interrupted,
        limit: config.time_limit.map(|limit| (started, limit)),
    };
    if config.single_step {
        single_step(&vcpu)?;
    }
    let context = VcpuContext {
        index: 0,
        vcpu,
        bus,
        stats: stats.clone(),
        single_step: config.single_step,
        ram: RamAddresses { start: RAM_BASE, end: RAM_BASE + ram.size_bytes() },
        commands,
        kicker: Arc::clone(&shared.kicker),
        listener: Arc::clone(&shared) as Arc<dyn VcpuListener>,
    };
    let vcpu =
        thread::Builder::new().name("vcpu0".to_owned()).spawn(move || run(context)).map_err(host("vCPU thread"))?;
    let mut machine =
        Machine { shared, channel, witness, threads: vec![vcpu], services, stats, ram, _vm: vm, _memory: memory };
    machine.threads.push(events::start(watch).map_err(host("event thread"))?);
    Ok(machine)
}

/// Creates the virtual machine and its vCPU in the contract's entry state.
fn virtual_machine(
    kvm: &Kvm,
    memory: &GuestRam,
    wires: &Wires,
    image: &Image<'_>,
    layout: &BootLayout,
) -> Result<(Vm, VcpuFd), MachineError> {
    let vm = Vm::new(kvm, memory)?;
    vm.route(&[(&wires.ring, RING_VECTOR), (&wires.serial, SERIAL_VECTOR)])?;
    vm.notify_on(port::NOTIFY, &wires.notify)?;
    let vcpu = vm.create_vcpu(0)?;
    let root = RAM_BASE + layout.tables_page() * PAGE_SIZE;
    set_up(kvm, &vcpu, 0, image.entry(), root, layout.info_page())?;
    Ok((vm, vcpu))
}

fn services(
    config: &MachineConfig,
    ram: &RamFile,
    memory: &Arc<GuestRam>,
    view: &Arc<View>,
    shared: &Arc<Shared>,
    layout: &BootLayout,
) -> Result<Services, MachineError> {
    let pin_config = PinConfig {
        ram_pages: ram.pages(),
        quota_pages: config.wire_quota_pages,
        map_entry_budget: map_entry_budget()?,
    };
    let locks = RunsMethod::new(Arc::clone(view));
    let locks: Box<dyn PinMethod> = match &config.lock_faults {
        Some(faults) => Box::new(FaultyMethod::new(locks, faults.clone())),
        None => Box::new(locks),
    };
    let pins = Arc::new(PinService::new(locks, pin_config));
    let syncs = Arc::new(start_syncs(ram, shared, config.on_storage_error)?);
    let call_pages = layout
        .call_pages()
        .map_err(|_| ImageError::TooLarge { need: layout.reserved_pages(), ram_pages: ram.pages() })?;
    let reach: Arc<dyn GuestMemory> = Arc::clone(memory) as Arc<dyn GuestMemory>;
    let hypercall = Arc::new(Hypercall::new(reach, Arc::clone(&pins), Arc::clone(&syncs), ram.pages(), &call_pages));
    Ok(Services { pins, syncs, hypercall })
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
