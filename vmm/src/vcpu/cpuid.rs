//! Which processor a guest sees: what KVM supports, cut down to what every kind of host has.
//!
//! An image that runs here then runs on any other host of the contract: nothing is offered that an emulated ring 0
//! cannot execute, or that a guest without XSAVE cannot keep across a switch.

use kvm_bindings::CpuId;
use kvm_ioctls::{Cap, Kvm};

/// Leaf 1 ECX: CMPXCHG16B, x2APIC, TSC deadline, RDRAND, hypervisor.
const LEAF_1_ECX: u32 = 1 << 13 | 1 << 21 | 1 << 24 | 1 << 30 | 1 << 31;
/// Leaf 1 ECX: the local APIC's timer can be set to a moment of the time-stamp counter.
const TSC_DEADLINE: u32 = 1 << 24;
/// Leaf 7 EBX: SMEP, RDSEED, CLFLUSHOPT, CLWB.
const LEAF_7_EBX: u32 = 1 << 7 | 1 << 18 | 1 << 23 | 1 << 24;

/// Leaves that describe what only some hosts have: power, counters, XSAVE, SGX, tracing, key locker, tiles, and AMD's
/// virtualization, encryption and extended features.
const LEFT_OUT: [u32; 14] = [
    0x6,
    0xa,
    0xd,
    0x12,
    0x14,
    0x19,
    0x1d,
    0x1e,
    0x24,
    0x8000_000a,
    0x8000_001e,
    0x8000_001f,
    0x8000_0021,
    0x8000_0022,
];
/// Leaf 0x80000001 ECX: LAHF in 64-bit mode.
const EXTENDED_ECX: u32 = 1;
/// Leaf 0x80000001 EDX: SYSCALL, no-execute, 64-bit mode.
const EXTENDED_EDX: u32 = 1 << 11 | 1 << 20 | 1 << 29;

/// Returns the leaves for vCPU `index` out of what KVM supports.
pub fn leaves(kvm: &Kvm, supported: &CpuId, index: u32) -> CpuId {
    let mut leaves = supported.clone();
    leaves.retain(|leaf| !LEFT_OUT.contains(&leaf.function));
    for leaf in leaves.as_mut_slice() {
        match (leaf.function, leaf.index) {
            (1, _) => {
                leaf.ecx &= LEAF_1_ECX;
                // KVM tells of this timer by a capability alone, as it takes a local APIC in the kernel, which every vCPU here has.
                if kvm.check_extension(Cap::TscDeadlineTimer) {
                    leaf.ecx |= TSC_DEADLINE;
                }
                // One logical processor, with its own APIC number.
                leaf.ebx = leaf.ebx & 0x0000_ffff | 1 << 16 | index << 24;
            }
            (7, 0) => (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) = (0, leaf.ebx & LEAF_7_EBX, 0, 0),
            (7, _) => (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) = (0, 0, 0, 0),
            (0xb | 0x1f, _) => leaf.edx = index,
            (0x8000_0008, _) => leaf.ebx = 0,
            (0x8000_0001, _) => (leaf.ecx, leaf.edx) = (leaf.ecx & EXTENDED_ECX, leaf.edx & EXTENDED_EDX),
            _ => (),
        }
    }
    leaves
}
