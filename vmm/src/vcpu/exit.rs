//! What an exit means: a function from a value to a value, apart from the ioctl that produced it.

use kvm_ioctls::VcpuExit;
use wirevm_devices::bus::{Bus, Signal};

/// What the vCPU's thread does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Enter the guest again.
    Continue,
    /// One instruction was carried out, as was asked for.
    Stepped,
    /// Tell the machine, which decides.
    Signal(Signal),
    /// The memory behind RAM is gone, found out at that guest-physical address.
    BackingLost(Option<u64>),
    /// The processor gave up.
    TripleFault,
    /// The exit is one that this version does not handle; the text says which.
    Unhandled(String),
}

/// Guest-physical addresses of RAM, half-open.
#[derive(Clone, Copy, Debug)]
pub struct RamAddresses {
    /// First address.
    pub start: u64,
    /// One past the last.
    pub end: u64,
}

impl RamAddresses {
    const fn contains(self, address: u64) -> bool {
        self.start <= address && address < self.end
    }
}

/// Carries out an exit of vCPU `vcpu`.
pub fn handle(vcpu: usize, exit: VcpuExit<'_>, bus: &Bus, ram: RamAddresses) -> Step {
    match exit {
        VcpuExit::IoOut(port, data) => match bus.write(vcpu, port, data) {
            Signal::None => Step::Continue,
            signal => Step::Signal(signal),
        },
        VcpuExit::IoIn(port, data) => {
            bus.read(vcpu, port, data);
            Step::Continue
        }
        // An access to RAM that KVM could not make for want of memory. Answering it as a device would lose a store.
        VcpuExit::MmioRead(address, _) | VcpuExit::MmioWrite(address, _) if ram.contains(address) => {
            Step::BackingLost(Some(address))
        }
        VcpuExit::MmioRead(address, data) => {
            Step::Unhandled(format!("the guest reads {} bytes at {address:#x}, where nothing is", data.len()))
        }
        VcpuExit::MmioWrite(address, data) => {
            Step::Unhandled(format!("the guest writes {data:02x?} to {address:#x}, where nothing is"))
        }
        VcpuExit::MemoryFault { gpa, .. } if ram.contains(gpa) => Step::BackingLost(Some(gpa)),
        VcpuExit::Debug(_) => Step::Stepped,
        VcpuExit::Shutdown => Step::TripleFault,
        VcpuExit::Intr => Step::Continue,
        VcpuExit::InternalError => Step::Unhandled("KVM could not go on inside the guest".to_owned()),
        VcpuExit::FailEntry(reason, cpu) => {
            Step::Unhandled(format!("KVM could not enter the guest on CPU {cpu}: hardware reason {reason:#x}"))
        }
        other => Step::Unhandled(format!("{other:?}")),
    }
}

#[cfg(test)]
mod test {
    use super::{RamAddresses, Step, handle};
    use kvm_ioctls::VcpuExit;
    use std::sync::Arc;
    use wirevm_devices::bus::{Bus, BusRange, Signal};
    use wirevm_devices::lifecycle::Lifecycle;

    const RAM: RamAddresses = RamAddresses { start: 0x1000, end: 0x3000 };

    fn bus() -> Bus {
        let mut bus = Bus::new();
        bus.insert(BusRange::new(8, 4).expect("range"), Arc::new(Lifecycle)).expect("free");
        bus
    }

    #[test]
    fn port_exits_go_to_the_bus() {
        let ready = 1_u32.to_le_bytes();
        assert_eq!(handle(0, VcpuExit::IoOut(8, &ready), &bus(), RAM), Step::Signal(Signal::Ready));
        assert_eq!(handle(0, VcpuExit::IoOut(100, &ready), &bus(), RAM), Step::Continue);
        let mut data = [0; 4];
        assert_eq!(handle(0, VcpuExit::IoIn(100, &mut data), &bus(), RAM), Step::Continue);
        assert_eq!(data, [0xff; 4]);
    }

    #[test]
    fn mmio_inside_ram_is_lost_backing_and_outside_is_unhandled() {
        let mut data = [0; 8];
        for address in [0x1000, 0x2fff] {
            assert_eq!(handle(0, VcpuExit::MmioWrite(address, &[1]), &bus(), RAM), Step::BackingLost(Some(address)));
            assert_eq!(
                handle(0, VcpuExit::MmioRead(address, &mut data), &bus(), RAM),
                Step::BackingLost(Some(address))
            );
        }
        for address in [0xfff, 0x3000] {
            assert!(matches!(handle(0, VcpuExit::MmioWrite(address, &[1]), &bus(), RAM), Step::Unhandled(_)));
            assert!(matches!(handle(0, VcpuExit::MmioRead(address, &mut data), &bus(), RAM), Step::Unhandled(_)));
        }
        assert_eq!(data, [0; 8]);
        let fault = VcpuExit::MemoryFault { flags: 0, gpa: 0x1234, size: 1 };
        assert_eq!(handle(0, fault, &bus(), RAM), Step::BackingLost(Some(0x1234)));
    }

    #[test]
    fn every_other_exit_ends_the_machine() {
        assert_eq!(handle(0, VcpuExit::Shutdown, &bus(), RAM), Step::TripleFault);
        for exit in
            [VcpuExit::InternalError, VcpuExit::Hlt, VcpuExit::Unknown, VcpuExit::FailEntry(7, 1), VcpuExit::Nmi]
        {
            assert!(matches!(handle(0, exit, &bus(), RAM), Step::Unhandled(_)));
        }
    }
}
