//! The report page: a guest's last words.
//!
//! A guest that cannot go on fills the page in, then writes [`LIFECYCLE_CRASHED`](crate::port::LIFECYCLE_CRASHED)
//! to the lifecycle port. This works before `HELLO` and with a broken heap. The host treats every field as an
//! allegation: lengths are clamped, text is shown with control characters replaced.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// [`Report::kind`]: the guest's own code gave up (a panic); vector and error code mean nothing.
pub const KIND_PANIC: u64 = 1;
/// [`Report::kind`]: an exception that nothing expected.
pub const KIND_TRAP: u64 = 2;

/// Bytes that the message can hold.
pub const MESSAGE_BYTES: usize = 4096 - 8 * 26;

/// General registers at the time of the report, in the order of the fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "the names are the processor's")]
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub rsp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
    pub cr2: u64,
    pub cr3: u64,
}

/// The report page.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Report {
    /// [`KIND_PANIC`] or [`KIND_TRAP`].
    pub kind: u64,
    /// Exception vector of a trap.
    pub vector: u64,
    /// Error code of a trap, 0 where the vector has none.
    pub error_code: u64,
    /// Index of the vCPU that reports.
    pub vcpu: u64,
    /// Registers of a trap; a panic gives what it knows.
    pub registers: Registers,
    /// Bytes of `message` that are filled in.
    pub message_bytes: u64,
    /// Zero.
    pub reserved: u64,
    /// UTF-8 text.
    pub message: [u8; MESSAGE_BYTES],
}

const _: () = assert!(size_of::<Report>() == 4096);
