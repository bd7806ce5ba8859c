//! The registers a guest starts with: the entry state of the contract.

use kvm_bindings::{
    CpuId, KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, KVM_MP_STATE_RUNNABLE, kvm_guest_debug, kvm_mp_state,
    kvm_regs, kvm_segment,
};
use kvm_ioctls::{Kvm, VcpuFd};
use wirevm_abi::request::VcpuStart;

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
    vcpu.set_guest_debug(&debug).map_err(failed("single-stepping"))
}

const fn failed(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> StateError {
    move |source| StateError { what, source }
}

/// Puts a vCPU into the contract's entry state, on the tables at `root`, as far as that is known before it starts: see
/// [`enter`]. `supported` is the processor that KVM can offer.
///
/// # Errors
/// [`StateError`] naming what KVM refused.
pub fn set_up(kvm: &Kvm, supported: &CpuId, vcpu: &VcpuFd, index: u32, root: u64) -> Result<(), StateError> {
    let leaves = super::cpuid::leaves(kvm, supported, index);
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
    // A selector of a local descriptor table faults, instead of being looked up at address 0.
    special.ldt = kvm_segment { unusable: 1, ..kvm_segment::default() };
    vcpu.set_sregs(&special).map_err(failed("special registers"))
}

/// Does the rest for a vCPU that starts: its first instruction and its argument. It can run then, even if it is one that
/// would wait for another to wake it as on a real board.
///
/// # Errors
/// [`StateError`] naming what KVM refused.
pub fn enter(vcpu: &VcpuFd, start: VcpuStart) -> Result<(), StateError> {
    let registers = kvm_regs { rip: start.entry, rdi: start.argument, rflags: 2, ..kvm_regs::default() };
    vcpu.set_regs(&registers).map_err(failed("registers"))?;
    vcpu.set_mp_state(kvm_mp_state { mp_state: KVM_MP_STATE_RUNNABLE }).map_err(failed("run state"))
}

/// Returns the rate of a vCPU's time-stamp counter in kHz; 0 where KVM does not tell.
pub fn tsc_khz(vcpu: &VcpuFd) -> u64 {
    vcpu.get_tsc_khz().map_or(0, u64::from)
}
