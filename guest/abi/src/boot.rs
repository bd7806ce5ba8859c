//! The boot info page: what the host tells the guest before its first instruction.
//!
//! # State at entry
//!
//! 64-bit mode, paging on, interrupts off, direction flag clear, `RIP` the image's entry point, `RDI` the
//! guest-physical address of the boot info, `RSP` zero: the guest brings its own stack. Segment selectors are
//! flat; `GDTR`, `IDTR` and `TR` hold nothing of use.
//!
//! The host's own page tables map RAM twice, executable, and writable but for the pages of the image's segments that are not: all of
//! it at [`DIRECT_BASE`], and its first gigabyte (or less) at [`IMAGE_BASE`]. They map 2 MiB pages, and 4 KiB pages where one of those has
//! something that is not writable; a page that two segments share is writable if one of them is. A guest may go on using the tables
//! below the host's top-level one, for as long as it likes: they lie in the reserved pages.
//!
//! This is vCPU 0's state. Every other vCPU waits outside the guest until [`op::START_VCPU`](crate::op::START_VCPU), and
//! starts in the same state, but for what that call says of `RIP` and `RDI`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// "WIREVMBI".
pub const MAGIC: u64 = u64::from_le_bytes(*b"WIREVMBI");

/// Virtual address at which the host's page tables show RAM offset 0, for images linked with the kernel code
/// model.
pub const IMAGE_BASE: u64 = 0xffff_ffff_8000_0000;

/// Virtual address at which the host's page tables show RAM offset 0 of all of RAM.
pub const DIRECT_BASE: u64 = 0xffff_c000_0000_0000;

/// Most vCPUs of a machine.
pub const MAX_VCPUS: u64 = 16;

/// Free pages that each vCPU beside the first takes to start: 56 of stacks, and tables that map them.
pub const PAGES_PER_FURTHER_VCPU: u64 = 60;

/// Pages that a host leaves free, at least, for the guest to start in: the first vCPU's tables and what the guest must keep of
/// its own to take commands, a 32nd of RAM for what grows with RAM, and [`PAGES_PER_FURTHER_VCPU`].
///
/// A host that has less refuses to boot: the guest could only panic.
#[must_use]
pub const fn least_free_pages(ram_pages: u64, vcpus: u64) -> u64 {
    96 + ram_pages / 32 + vcpus.saturating_sub(1).saturating_mul(PAGES_PER_FURTHER_VCPU)
}

/// Most runs of zero pages that the boot info lists.
pub const MAX_ZERO_RUNS: usize = 16;

/// A run of RAM pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PageRun {
    /// Index of the first page.
    pub first: u64,
    /// Number of pages.
    pub pages: u64,
}

/// The boot info, at the start of a page of its own. Guest-physical addresses are in bytes, pages are RAM pages.
/// The host writes it before boot and never again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BootInfo {
    /// [`MAGIC`].
    pub magic: u64,
    /// Contract version of the host.
    pub version: u64,
    /// Size of RAM in pages; a multiple of 512.
    pub ram_pages: u64,
    /// Number of vCPUs: 1 to [`MAX_VCPUS`].
    pub vcpus: u64,
    /// The pages that the loader used, one run from page 0: image, this page, call pages, rings, report page,
    /// the host's page tables, and the archive. Everything else is free: [`least_free_pages`] or more.
    pub reserved_pages: u64,
    /// The host's page tables, within the reserved pages; the first one is the top level.
    pub boot_tables: PageRun,
    /// Guest-physical address of vCPU 0's call page; vCPU n's lies n pages further.
    pub call_page: u64,
    /// Guest-physical address of the [report page](crate::report).
    pub report_page: u64,
    /// Guest-physical address of the [ring](crate::ring) of commands from the host.
    pub command_ring: u64,
    /// Guest-physical address of the [ring](crate::ring) of replies to the host.
    pub reply_ring: u64,
    /// Guest-physical address of the [completion ring](crate::completion).
    pub completion_ring: u64,
    /// Interrupt vector that says: the completion ring has something.
    pub completion_vector: u64,
    /// Interrupt vector that says: the command ring has something, or the reply ring has room again.
    pub ring_vector: u64,
    /// Interrupt vector of the console.
    pub serial_vector: u64,
    /// Most detailed level that the guest should log: 0 off, 1 error to 5 trace.
    pub log_level: u64,
    /// Rate of the time-stamp counter of every vCPU, in kHz; 0 where the host does not know it.
    pub tsc_khz: u64,
    /// The [archive](crate::archive) of programs, within the reserved pages; no pages where there is none.
    pub archive: PageRun,
    /// Number of valid entries in `zero_runs`.
    pub zero_run_count: u64,
    /// Runs of free pages whose content, in RAM and on stable storage, is known to be zero.
    pub zero_runs: [PageRun; MAX_ZERO_RUNS],
}

const _: () = assert!(size_of::<BootInfo>() == 20 * 8 + MAX_ZERO_RUNS * 16);
const _: () = assert!(size_of::<BootInfo>() <= 4096);
