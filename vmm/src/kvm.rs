//! Is there a KVM here, and can it run a machine of ours?

use std::io;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm};
use wirevm_abi::RAM_BASE;

/// The KVM device cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// There is no `/dev/kvm`.
    #[error(
        "/dev/kvm does not exist: load the kernel's kvm module, or give the container the device (--device /dev/kvm)"
    )]
    Missing,
    /// The user may not open it.
    #[error(
        "/dev/kvm may not be opened: join its group (sudo usermod -aG kvm $USER, then log in again) or run \
         sudo setfacl -m u:$USER:rw /dev/kvm"
    )]
    Denied,
    /// Opening it failed otherwise.
    #[error("/dev/kvm cannot be opened")]
    Open(#[source] io::Error),
    /// Another API.
    #[error("KVM speaks API version {found}, not 12")]
    Version {
        /// What it speaks.
        found: i32,
    },
    /// RAM is larger than what a processor of this host addresses.
    #[error(
        "{bytes} bytes of guest RAM, which starts at 4 GiB, do not fit into the {bits} bits that this host addresses"
    )]
    AddressWidth {
        /// Size of RAM.
        bytes: u64,
        /// Bits of a physical address.
        bits: u32,
    },
    /// A capability is missing.
    #[error("this KVM lacks {name}, which wirevm needs")]
    Capability {
        /// Its name in the kernel's documentation.
        name: &'static str,
    },
}

const NEEDED: [(Cap, &str); 6] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::SplitIrqchip, "KVM_CAP_SPLIT_IRQCHIP"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
];

/// Asks KVM which processor it can offer. To put the answer together takes it a good part of a millisecond, so it is asked once.
///
/// # Errors
/// [`KvmError::Open`] when KVM does not tell.
pub fn processor(kvm: &Kvm) -> Result<CpuId, KvmError> {
    kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(|error| KvmError::Open(io::Error::from_raw_os_error(error.errno())))
}

/// Checks that the [`processor`] of this host can address a RAM of `bytes` bytes.
///
/// # Errors
/// [`KvmError::AddressWidth`] when it cannot.
pub fn check_ram(processor: &CpuId, bytes: u64) -> Result<(), KvmError> {
    const ADDRESS_SIZES: u32 = 0x8000_0008;
    let sizes = processor.as_slice().iter().find(|leaf| leaf.function == ADDRESS_SIZES);
    // The least that any processor with 64-bit mode has.
    let bits = sizes.map_or(36, |leaf| leaf.eax & 0xff);
    let reach = 1_u64.checked_shl(bits).unwrap_or(u64::MAX);
    if RAM_BASE.saturating_add(bytes) <= reach { Ok(()) } else { Err(KvmError::AddressWidth { bytes, bits }) }
}

/// Opens KVM and checks that it offers what a machine needs.
///
/// # Errors
/// [`KvmError`] saying what is in the way and what helps.
pub fn open() -> Result<Kvm, KvmError> {
    let kvm = Kvm::new().map_err(|error| {
        let error = io::Error::from_raw_os_error(error.errno());
        match error.kind() {
            io::ErrorKind::NotFound => KvmError::Missing,
            io::ErrorKind::PermissionDenied => KvmError::Denied,
            _ => KvmError::Open(error),
        }
    })?;
    let found = kvm.get_api_version();
    if found != 12 {
        return Err(KvmError::Version { found });
    }
    match NEEDED.into_iter().find(|(capability, _)| !kvm.check_extension(*capability)) {
        Some((_, name)) => Err(KvmError::Capability { name }),
        None => Ok(kvm),
    }
}
