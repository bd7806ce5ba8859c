//! One KVM virtual machine: its memory slot, its interrupts, its event ports, its counters.
#![expect(unsafe_code, reason = "handing a mapping to KVM, and an ioctl without a wrapper")]
// UNSAFETY: the slot's mapping is kept alive by the machine until after the VM is closed.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;

use kvm_bindings::{
    KVM_CAP_SPLIT_IRQCHIP, KVM_EXIT_INTERNAL_ERROR, KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_enable_cap,
    kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_msi, kvm_irq_routing_msi__bindgen_ty_1,
    kvm_run, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, NoDatamatch, VcpuFd, VmFd};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::ioctl::ioctl;
use wirevm_abi::RAM_BASE;

use crate::interrupts::Interrupts;
use crate::memory::GuestRam;

/// The ioctl's number in a module of its own: the macro makes it public without documentation.
mod number {
    vmm_sys_util::ioctl_io_nr!(KVM_GET_STATS_FD, 0xae, 0xce);
}

/// KVM refused part of a machine.
#[derive(Debug, thiserror::Error)]
#[error("KVM cannot {what}")]
pub struct VmError {
    what: &'static str,
    #[source]
    source: kvm_ioctls::Error,
}

fn failed(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> VmError {
    move |source| VmError { what, source }
}

/// Pins of the interrupt controller that KVM leaves to user space; messages take numbers behind them.
const IOAPIC_PINS: u32 = 24;
/// Where interrupt messages go on x86.
const MSI_ADDRESS: u32 = 0xfee0_0000;
/// Where the receiver's APIC number stands in the address of such a message.
const MSI_APIC_SHIFT: u32 = 12;

/// A virtual machine without vCPUs.
#[derive(Debug)]
pub struct Vm {
    vm: VmFd,
}

impl Vm {
    /// Creates a machine with `ram` as its one memory slot and local APICs in the kernel.
    ///
    /// # Errors
    /// [`VmError`] naming what KVM refused.
    pub fn new(kvm: &Kvm, ram: &GuestRam) -> Result<Self, VmError> {
        let vm = kvm.create_vm().map_err(failed("create a virtual machine"))?;
        // Parts of the address space that KVM wants for itself on some Intel hosts; below RAM, away from devices.
        if kvm.check_extension(Cap::SetTssAddr) {
            vm.set_tss_address(0xfffb_d000).map_err(failed("set the TSS address"))?;
        }
        let split = kvm_enable_cap {
            cap: KVM_CAP_SPLIT_IRQCHIP,
            args: [u64::from(IOAPIC_PINS), 0, 0, 0],
            ..Default::default()
        };
        vm.enable_cap(&split).map_err(failed("keep the local APICs in the kernel"))?;
        let (address, bytes) = ram.host_range();
        let slot = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: RAM_BASE,
            memory_size: bytes,
            userspace_addr: address,
        };
        // SAFETY: the range is the whole of a mapping that nothing in this process refers to by Rust reference; the
        // machine drops it after the VM.
        unsafe { vm.set_user_memory_region(slot) }.map_err(failed("take the guest's RAM"))?;
        Ok(Self { vm })
    }

    /// Routes the lines of devices to their vectors, each at the vCPU whose event is written.
    ///
    /// # Errors
    /// [`VmError`] when KVM refuses the routes.
    pub fn route(&self, interrupts: &Interrupts) -> Result<(), VmError> {
        let routed = || (IOAPIC_PINS..).zip(interrupts.events());
        let entry = |(gsi, (vcpu, vector, _)): (u32, (u32, u8, &EventFd))| kvm_irq_routing_entry {
            gsi,
            type_: KVM_IRQ_ROUTING_MSI,
            u: kvm_irq_routing_entry__bindgen_ty_1 {
                msi: kvm_irq_routing_msi {
                    // A vCPU's number is its APIC's.
                    address_lo: MSI_ADDRESS | vcpu << MSI_APIC_SHIFT,
                    address_hi: 0,
                    data: u32::from(vector),
                    __bindgen_anon_1: kvm_irq_routing_msi__bindgen_ty_1::default(),
                },
            },
            ..Default::default()
        };
        let entries: Vec<_> = routed().map(entry).collect();
        let routes = KvmIrqRouting::from_entries(&entries)
            .map_err(|_| failed("hold the interrupt routes")(kvm_ioctls::Error::new(libc::E2BIG)))?;
        self.vm.set_gsi_routing(&routes).map_err(failed("route interrupts"))?;
        for (gsi, (_, _, event)) in routed() {
            self.vm.register_irqfd(event, gsi).map_err(failed("bind an event to an interrupt"))?;
        }
        Ok(())
    }

    /// Makes a write of any width and value to `port` signal `event` instead of leaving the kernel.
    ///
    /// # Errors
    /// [`VmError`] when KVM refuses it.
    pub fn notify_on(&self, port: u16, event: &EventFd) -> Result<(), VmError> {
        let address = IoEventAddress::Pio(u64::from(port));
        self.vm.register_ioevent(event, &address, NoDatamatch).map_err(failed("bind a port to an event"))
    }

    /// Creates vCPU `index`.
    ///
    /// # Errors
    /// [`VmError`] when KVM refuses it.
    pub fn create_vcpu(&self, index: u32) -> Result<VcpuFd, VmError> {
        self.vm.create_vcpu(u64::from(index)).map_err(failed("create a vCPU"))
    }
}

/// What KVM says about an exit for an internal error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InternalError {
    /// KVM's number for the kind of error; 1: an instruction could not be emulated.
    pub suberror: u32,
    /// The instruction's bytes, where KVM gives them.
    pub instruction: Option<Vec<u8>>,
}

/// Reads the details of the last exit, if it was an internal error.
#[must_use]
pub fn internal_error(run: &kvm_run) -> Option<InternalError> {
    if run.exit_reason != KVM_EXIT_INTERNAL_ERROR {
        return None;
    }
    // SAFETY: the exit reason says which member of the union KVM filled in; every bit pattern is valid for integers.
    let internal = unsafe { run.__bindgen_anon_1.internal };
    // Data word 0 bit 0: a length byte and 15 bytes of instruction follow.
    let bytes: Vec<u8> = internal.data.iter().skip(1).take(2).flat_map(|word| word.to_le_bytes()).collect();
    let given = internal.suberror == 1 && internal.ndata >= 3 && internal.data[0] & 1 == 1;
    let instruction = match bytes.split_first() {
        Some((length, bytes)) if given => bytes.get(..usize::from(*length)).map(<[u8]>::to_vec),
        _ => None,
    };
    Some(InternalError { suberror: internal.suberror, instruction })
}

/// The counters that KVM keeps of one vCPU.
#[derive(Debug)]
pub struct VcpuStats {
    file: File,
    /// Name and place of each counter.
    counters: Vec<(String, u64)>,
}

/// Layout of the statistics file (kernel documentation, virt/kvm/api, `KVM_GET_STATS_FD`).
const HEADER_BYTES: usize = 24;
const DESCRIPTOR_BYTES: usize = 16;

impl VcpuStats {
    /// Opens the counters; `None` where this KVM has none.
    #[must_use]
    pub fn open(vcpu: &VcpuFd) -> Option<Self> {
        // SAFETY: the ioctl takes no argument and returns a new descriptor or an error.
        let fd = unsafe { ioctl(vcpu, number::KVM_GET_STATS_FD()) };
        if fd < 0 {
            log::debug!("no vCPU statistics on descriptor {}: {}", vcpu.as_raw_fd(), io::Error::last_os_error());
            return None;
        }
        // SAFETY: the descriptor is fresh and nobody else's.
        let file = unsafe { File::from_raw_fd(fd) };
        let counters = read_descriptors(&file)?;
        Some(Self { file, counters })
    }

    /// Reads a counter by its name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<u64> {
        let (_, offset) = self.counters.iter().find(|(known, _)| known == name)?;
        let mut value = [0; 8];
        self.file.read_exact_at(&mut value, *offset).ok()?;
        Some(u64::from_le_bytes(value))
    }

    /// Reads the number of instructions that KVM has emulated: all of ring 0's where there is no hardware
    /// virtualization, almost none elsewhere.
    #[must_use]
    pub fn emulated_instructions(&self) -> Option<u64> {
        self.get("insn_emulation")
    }
}

fn read_descriptors(file: &File) -> Option<Vec<(String, u64)>> {
    let word = |bytes: &[u8], at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let mut header = [0; HEADER_BYTES];
    file.read_exact_at(&mut header, 0).ok()?;
    let [name_bytes, count, descriptors, data] = [4, 8, 16, 20].map(|at| word(&header, at));
    let name_bytes = usize::try_from(name_bytes?).ok()?;
    let size = DESCRIPTOR_BYTES + name_bytes;
    let mut all = vec![0; size.checked_mul(usize::try_from(count?).ok()?)?];
    file.read_exact_at(&mut all, u64::from(descriptors?)).ok()?;
    let mut counters = Vec::new();
    for descriptor in all.chunks_exact(size) {
        let offset = word(descriptor, 8)?;
        let name = descriptor.get(DESCRIPTOR_BYTES..)?;
        let name = name.split(|byte| *byte == 0).next()?;
        counters.push((String::from_utf8_lossy(name).into_owned(), u64::from(data? + offset)));
    }
    Some(counters)
}
