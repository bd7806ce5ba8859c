//! How a machine ended.

use std::fmt;
use std::time::Duration;

use wirevm_abi::report::{KIND_PANIC, KIND_TRAP, MESSAGE_BYTES, Registers, Report};

/// Why a machine is not running any more.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The guest asked to end.
    Exit {
        /// Its exit code.
        code: u8,
    },
    /// The guest gave up and said why.
    Crashed(Box<GuestReport>),
    /// The processor gave up: a fault while delivering a fault while delivering a fault.
    TripleFault {
        /// What is known of the vCPU.
        state: String,
    },
    /// The time limit is over.
    Timeout {
        /// The limit.
        limit: Duration,
    },
    /// The user asked to end (SIGINT, SIGTERM).
    Interrupted,
    /// The memory behind guest RAM is gone.
    BackingLost {
        /// Guest-physical address of the access that found out, where one did.
        address: Option<u64>,
    },
    /// Storage failed and unwired memory may have reverted.
    StorageError {
        /// What storage said.
        reason: String,
    },
    /// KVM left the guest, on one vCPU, in a way that this version cannot handle.
    VcpuError {
        /// The exit with the vCPU's state.
        reason: String,
    },
    /// The user of this library stopped the machine.
    Stopped,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit { code } => write!(f, "the guest ended with code {code}"),
            Self::Crashed(report) => write!(f, "{report}"),
            Self::TripleFault { state } => write!(f, "the guest crashed with a triple fault ({state})"),
            Self::Timeout { limit } => write!(f, "the guest did not end within {} s", limit.as_secs_f64()),
            Self::Interrupted => f.write_str("interrupted"),
            Self::BackingLost { address: Some(address) } => {
                write!(f, "the memory behind guest RAM is gone: the guest cannot reach address {address:#x}")
            }
            Self::BackingLost { address: None } => f.write_str("the memory behind guest RAM is gone"),
            Self::StorageError { reason } => {
                write!(f, "storage failed and memory that is not wired may have reverted: {reason}")
            }
            Self::VcpuError { reason } => write!(f, "a vCPU stopped: {reason}"),
            Self::Stopped => f.write_str("the machine was stopped"),
        }
    }
}

/// A guest's last words, cleaned of what a hostile guest could put into them.
#[derive(Clone, Debug)]
pub struct GuestReport {
    /// Whether the guest's own code gave up.
    pub panic: bool,
    /// Whether it was an exception that nothing expected. Neither this nor a panic: the guest left no report.
    pub trap: bool,
    /// Exception vector.
    pub vector: u64,
    /// Error code.
    pub error_code: u64,
    /// Registers.
    pub registers: Registers,
    /// The vCPU that gave up.
    pub vcpu: u64,
    /// One paragraph of text without control characters.
    pub message: String,
}

impl GuestReport {
    /// Reads a report page as the guest left it, and told by vCPU `told_by`, in a machine of `vcpus` of them. The vCPU that
    /// gave up is the one that the guest names, or, where it names none, the one that told.
    #[must_use]
    pub fn new(page: &Report, told_by: usize, vcpus: u64) -> Self {
        let length = usize::try_from(page.message_bytes).map_or(MESSAGE_BYTES, |length| length.min(MESSAGE_BYTES));
        let text = String::from_utf8_lossy(page.message.get(..length).unwrap_or(&[]));
        let message = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        Self {
            panic: page.kind == KIND_PANIC,
            trap: page.kind == KIND_TRAP,
            vector: page.vector,
            error_code: page.error_code,
            registers: page.registers,
            vcpu: if page.vcpu < vcpus { page.vcpu } else { told_by as u64 },
            message,
        }
    }
}

/// Names of the exceptions, by vector.
const EXCEPTIONS: [&str; 22] = [
    "divide error",
    "debug",
    "NMI",
    "breakpoint",
    "overflow",
    "bound range",
    "invalid opcode",
    "device not available",
    "double fault",
    "coprocessor overrun",
    "invalid TSS",
    "segment not present",
    "stack fault",
    "general protection",
    "page fault",
    "reserved",
    "x87 error",
    "alignment check",
    "machine check",
    "SIMD error",
    "virtualization",
    "control protection",
];

impl fmt::Display for GuestReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let r = &self.registers;
        if self.panic {
            writeln!(f, "the guest panicked: {}", self.message)?;
        } else if !self.trap {
            return f.write_str("the guest gave up without a report");
        } else {
            let name = usize::try_from(self.vector).ok().and_then(|vector| EXCEPTIONS.get(vector));
            let name = name.copied().unwrap_or("unknown exception");
            writeln!(
                f,
                "the guest crashed: {}: vector {} ({name}), error code {:#x}",
                self.message, self.vector, self.error_code
            )?;
            writeln!(f, "  rax {:016x}  rbx {:016x}  rcx {:016x}  rdx {:016x}", r.rax, r.rbx, r.rcx, r.rdx)?;
            writeln!(f, "  rsi {:016x}  rdi {:016x}  r8  {:016x}  r9  {:016x}", r.rsi, r.rdi, r.r8, r.r9)?;
            writeln!(f, "  r10 {:016x}  r11 {:016x}  r12 {:016x}  r13 {:016x}", r.r10, r.r11, r.r12, r.r13)?;
            writeln!(f, "  r14 {:016x}  r15 {:016x}", r.r14, r.r15)?;
        }
        writeln!(f, "  rip {:016x}  rsp {:016x}  rbp {:016x}  rflags {:08x}", r.rip, r.rsp, r.rbp, r.rflags)?;
        write!(f, "  cr2 {:016x}  cr3 {:016x}  on vCPU {}", r.cr2, r.cr3, self.vcpu)
    }
}

#[cfg(test)]
mod test {
    use super::GuestReport;
    use wirevm_abi::report::{KIND_PANIC, KIND_TRAP, Report};
    use zerocopy::FromZeros;

    #[test]
    fn report_of_no_known_kind_is_said_to_be_missing() {
        let mut page = Report::new_zeroed();
        for kind in [0, KIND_PANIC + KIND_TRAP, u64::MAX] {
            page.kind = kind;
            assert_eq!(GuestReport::new(&page, 0, 1).to_string(), "the guest gave up without a report");
        }
    }

    #[test]
    fn trap_report_names_vector_and_registers() {
        let mut page = Report::new_zeroed();
        page.kind = KIND_TRAP;
        page.vector = 14;
        page.registers.rip = 0xabc;
        page.message[..4].copy_from_slice(b"boom");
        page.message_bytes = 4;
        let text = GuestReport::new(&page, 0, 1).to_string();
        assert!(text.starts_with("the guest crashed: boom: vector 14 (page fault), error code 0x0\n"), "{text}");
        assert!(text.contains("rip 0000000000000abc"), "{text}");
    }

    #[test]
    fn hostile_report_is_clamped_and_cleaned() {
        let mut page = Report::new_zeroed();
        page.kind = KIND_PANIC;
        page.message.fill(0x1b);
        page.message[0] = 0xff;
        page.message_bytes = u64::MAX;
        let report = GuestReport::new(&page, 0, 1);
        assert!(report.message.chars().all(|c| !c.is_control()));
        page.kind = KIND_TRAP;
        page.vector = u64::MAX;
        assert!(GuestReport::new(&page, 0, 1).to_string().contains("unknown exception"));
    }

    #[test]
    fn report_names_the_vcpu_or_who_told() {
        let mut page = Report::new_zeroed();
        page.kind = KIND_PANIC;
        // Named by the guest, told by, of how many; shown.
        for (named, told_by, vcpus, shown) in
            [(3, 0, 4, 3), (0, 3, 4, 0), (4, 2, 4, 2), (u64::MAX, 1, 2, 1), (1 << 32, 0, 1, 0)]
        {
            page.vcpu = named;
            let report = GuestReport::new(&page, told_by, vcpus);
            assert_eq!(report.vcpu, shown);
            assert!(report.to_string().ends_with(&format!("on vCPU {shown}")), "{report}");
        }
    }
}
