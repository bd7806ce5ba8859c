//! I/O ports. A port write reaches the VMM on every kind of KVM; VMCALL does not.

/// The doorbell: `out` (any width, any value) makes the host read the vCPU's call page; `in` returns the status
/// of the vCPU's last doorbell.
pub const DOORBELL: u16 = 0x0600;
/// `out` of any value says: the reply ring has something to read. Never carries data, may be an ioeventfd.
pub const NOTIFY: u16 = 0x0604;
/// `out` of one of the values below, in 32 bits, tells the host about the guest's life.
pub const LIFECYCLE: u16 = 0x0608;
/// First port of the 16550 console.
pub const SERIAL: u16 = 0x03f8;

/// [`LIFECYCLE`] value: the guest takes commands from its command ring now.
pub const LIFECYCLE_READY: u32 = 1;
/// [`LIFECYCLE`] value: the guest cannot go on; the report page says why.
pub const LIFECYCLE_CRASHED: u32 = 2;
