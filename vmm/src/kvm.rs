//! Is there a KVM here, and can it run a machine of ours?

use std::io;

use kvm_ioctls::{Cap, Kvm};

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
