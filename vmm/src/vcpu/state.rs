//! The registers a guest starts with: the entry state of the contract.

use kvm_bindings::{KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, kvm_guest_debug, kvm_regs, kvm_segment};
use kvm_ioctls::{Kvm, VcpuFd};

/// KVM refused part of the entry state.
#[derive(Debug, thiserror::Error)]
#[error("the vCPU's {what} cannot be set")]
pub struct StateError {
    what: &'static str,
    #[source]
    source: kvm_ioctls::Error,
}

const CR0: u64 = 1 << 31 | 1 << 16 | 1 << 5 | 1 << 4 | 1 << 1 | 1;
const CR4_PAE: u64 = 1 << 5;
const EFER_LONG_MODE: u64 = 1 << 8 | 1 << 10;

const fn segment(selector: u16, kind: u8, long: u8) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_: kind,
        present: 1,
        dpl: 0,
        db: 1 - long,
        s: 1,
        l: long,
        g: 1,
        avl: 0,
        unusable: 0,
        padding: 0,
    }
}

/// Makes a vCPU leave the guest after every instruction.
///
/// # Errors
/// [`StateError`] when KVM refuses.
pub fn single_step(vcpu: &VcpuFd) -> Result<(), StateError> {
    let debug = kvm_guest_debug { control: KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP, ..Default::default() };
    vcpu.set_guest_debug(&debug).map_err(|source| StateError { what: "single-stepping", source })
}

/// Puts a vCPU into the contract's entry state: at `entry`, on the tables at `root`, boot info's address in RDI.
///
/// # Errors
/// [`StateError`] naming what KVM refused.
pub fn set_up(kvm: &Kvm, vcpu: &VcpuFd, index: u32, entry: u64, root: u64, info: u64) -> Result<(), StateError> {
    let failed = |what| move |source| StateError { what, source };
    let leaves = super::cpuid::leaves(kvm, index).map_err(failed("CPUID"))?;
    vcpu.set_cpuid2(&leaves).map_err(failed("CPUID"))?;
    let mut special = vcpu.get_sregs().map_err(failed("special registers"))?;
    special.cr0 = CR0;
    special.cr3 = root;
    special.cr4 = CR4_PAE;
    special.efer = EFER_LONG_MODE;
    special.cs = segment(8, 11, 1);
    let data = segment(16, 3, 0);
    (special.ds, special.es, special.fs, special.gs, special.ss) = (data, data, data, data, data);
    special.gdt.limit = 0;
    special.idt.limit = 0;
    vcpu.set_sregs(&special).map_err(failed("special registers"))?;
    let registers = kvm_regs { rip: entry, rdi: info, rflags: 2, ..kvm_regs::default() };
    vcpu.set_regs(&registers).map_err(failed("registers"))
}
