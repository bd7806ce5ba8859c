//! Guests that end as no guest wants, and guests that lie about it.

use std::time::{Duration, Instant};

use wirevm_abi::RAM_BASE;
use wirevm_abi::boot::IMAGE_BASE;
use wirevm_abi::port::{LIFECYCLE, LIFECYCLE_READY, NOTIFY};
use wirevm_abi::report::{KIND_PANIC, KIND_TRAP, MESSAGE_BYTES, Report};
use wirevm_abi::ring::{CAPACITY, DATA_OFFSET, MAX_MESSAGE, TAIL_OFFSET};
use wirevm_agent::{Command, Crash};
use wirevm_devices::ramfile::RamFile;
use wirevm_tests::image::make_read_only;
use wirevm_tests::{Case, Need};
use wirevm_vmm::{ChannelError, Outcome};
use zerocopy::{FromZeros, IntoBytes};

use super::code::{Code, RAM_PAGES, direct, layout};
use super::lab::{LIMIT, Lab, PAGE, Setup, kernel};

/// POPCNT: native where ring 0 is, not emulated elsewhere.
const POPCNT: [u8; 5] = [0xf3, 0x48, 0x0f, 0xb8, 0xc3];

fn report(kind: u64, message_bytes: u64, message: &[u8]) -> Report {
    let mut report = Report::new_zeroed();
    report.kind = kind;
    report.message_bytes = message_bytes;
    report.message[..message.len()].copy_from_slice(message);
    report
}

/// Runs a guest that leaves this report; returns how the host shows it.
fn shown(report: &Report) -> String {
    let page = direct(layout(RAM_PAGES).report_page());
    let lab = Lab::of_memfd(&Code::default().copy(page, report.as_bytes()).crashed().halt().image());
    let outcome = lab.end();
    assert!(matches!(outcome, Outcome::Crashed(_)), "{outcome}");
    let text = outcome.to_string();
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    text
}

/// Maps `address`, guest-physical, writable at virtual address 0, through tables in pages that nothing else uses.
fn map_at_zero(address: u64) -> Code {
    let table = |page: u64| RAM_BASE + page * PAGE;
    let top = direct(RAM_BASE + layout(RAM_PAGES).tables_page() * PAGE);
    let (pointers, directory) = (table(1024), table(1025));
    let code = Code::default().store(direct(directory), address | 0x83);
    code.store(direct(pointers), directory | 3).store(top, pointers | 3)
}

/// Runs a guest that must end with an error of the vCPU; returns what it says.
fn vcpu_error(code: Code) -> String {
    match Lab::of_memfd(&code.halt().image()).end() {
        Outcome::VcpuError { reason } => reason,
        other => panic!("{other}"),
    }
}

/// Runs a guest that says it is ready, stores those words into its reply ring, tail last, and notifies. Reading must
/// find the ring broken, again and again.
fn broken_ring(tail: u64, first_word: u64) {
    let ring = direct(layout(RAM_PAGES).reply_ring());
    let code = Code::default().store(ring + DATA_OFFSET, first_word).store(ring + TAIL_OFFSET, tail);
    let mut lab = Lab::of_memfd(&code.out(LIFECYCLE, LIFECYCLE_READY).out(NOTIFY, 1).halt().image());
    lab.booted();
    for _ in 0..3 {
        let start = Instant::now();
        let reply = lab.machine.channel().receive(LIMIT);
        assert!(matches!(reply, Err(ChannelError::Broken(_))), "tail {tail:#x}, length {first_word:#x}: {reply:?}");
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    }
    lab.stop();
}

/// Boots the kernel with that time limit and asks it to crash.
fn crash_kernel(crash: Crash, limit: Duration) -> Outcome {
    let setup = Setup { time_limit: limit, ..Setup::default() };
    let mut lab = Lab::start(|| RamFile::memfd(16 << 20).expect("a memfd"), kernel(), &setup);
    lab.booted();
    let start = lab.allocate(16);
    lab.done(&Command::Wire { start, end: start + 16 * PAGE, flags: 1 });
    assert_eq!(lab.locked(), 16);
    lab.send(&Command::Crash(crash));
    let over = lab.machine.channel().receive(LIMIT);
    assert!(matches!(over, Err(ChannelError::Ended)), "{over:?}");
    lab.end()
}

pub const CASES: &[Case] = &[
    ("triple_fault_is_told_with_registers", &[Need::Kvm], || {
        // No stack, no tables: the exception of ud2 cannot be delivered.
        let outcome = Lab::of_memfd(&Code::default().bytes(&[0x0f, 0x0b]).image()).end();
        let Outcome::TripleFault { state } = &outcome else { panic!("{outcome}") };
        assert!(state.contains("rip 0xffffffff80000000") && state.contains("cr3 0x1000"), "{state}");
    }),
    ("store_to_what_the_image_has_read_only_faults", &[Need::Kvm], || {
        for read_only in [false, true] {
            for start in [direct(RAM_BASE), IMAGE_BASE] {
                let mut image = Code::default().store(start + 0x3000, 1).crashed().halt().image();
                if read_only {
                    make_read_only(&mut image);
                }
                let outcome = Lab::of_memfd(&image).end();
                let is_fault = matches!(outcome, Outcome::TripleFault { .. });
                let is_over = matches!(outcome, Outcome::Crashed(_));
                assert!(if read_only { is_fault } else { is_over }, "read only {read_only}, at {start:#x}: {outcome}");
            }
        }
    }),
    ("hang_with_interrupts_off_ends_at_the_time_limit", &[Need::Kvm], || {
        for hang in [Code::default().halt(), Code::default().again()] {
            let limit = Duration::from_millis(400);
            let setup = Setup { time_limit: limit, ..Setup::default() };
            let start = Instant::now();
            let lab = Lab::start(|| RamFile::memfd(8 << 20).expect("a memfd"), &hang.image(), &setup);
            let waited = lab.machine.wait_ready();
            assert!(matches!(waited, Err(Outcome::Timeout { .. })), "{waited:?}");
            let outcome = lab.end();
            assert!(matches!(outcome, Outcome::Timeout { limit: told } if told == limit), "{outcome}");
            assert!((limit..limit * 8).contains(&start.elapsed()), "{:?}", start.elapsed());
        }
    }),
    ("instruction_that_kvm_cannot_emulate_is_told_with_its_bytes", &[Need::Kvm], || {
        let lab = Lab::of_memfd(&Code::default().bytes(&POPCNT).crashed().halt().image());
        match lab.end() {
            Outcome::VcpuError { reason } => {
                assert!(reason.contains("[f3, 48, 0f, b8, c3") && reason.contains("cannot be emulated"), "{reason}");
                assert!(reason.contains("rip 0xffffffff80000000") && reason.contains("rflags"), "{reason}");
            }
            // Ring 0 is native here: the instruction works and the guest goes on to its crash.
            outcome => assert!(matches!(outcome, Outcome::Crashed(_)), "{outcome}"),
        }
    }),
    ("access_outside_ram_is_an_error_that_names_the_address", &[Need::Kvm], || {
        let end = RAM_BASE + RAM_PAGES * PAGE;
        for (page, place) in [(0x1000_0000, 0x10), (end, 0), (RAM_BASE - (2 << 20), (2 << 20) - 8)] {
            let address = format!("{:#x}", page + place);
            let read = vcpu_error(map_at_zero(page).load(place));
            assert!(read.contains(&format!("reads 8 bytes at {address}, where nothing is")), "{read}");
            let write = vcpu_error(map_at_zero(page).store(place, 0x0102));
            let expected = format!("writes [02, 01, 00, 00, 00, 00, 00, 00] to {address}, where nothing is");
            assert!(write.contains(&expected) && write.contains("rip 0xffffffff8000"), "{write}");
        }
    }),
    ("lying_report_is_clamped_and_cleaned", &[Need::Kvm], || {
        let escape = shown(&report(KIND_PANIC, u64::MAX, b"\x1b[2Jred\x07\r\n\0alert"));
        assert!(escape.starts_with("the guest panicked:  [2Jred    alert"), "{escape:?}");
        let invalid = shown(&report(KIND_PANIC, u64::MAX, &[0xff; MESSAGE_BYTES]));
        assert_eq!(invalid.matches('\u{fffd}').count(), MESSAGE_BYTES);
        // The last character is cut by the length.
        let cut = shown(&report(KIND_TRAP, 4, "abc\u{e9}".as_bytes()));
        assert!(cut.starts_with("the guest crashed: abc\u{fffd}: vector 0 (divide error)"), "{cut:?}");
        let empty = shown(&report(u64::MAX, 0, b"unseen"));
        assert!(!empty.contains("unseen"), "{empty:?}");
        let mut strange = report(KIND_TRAP, 1, b"x");
        (strange.vector, strange.error_code, strange.vcpu) = (u64::MAX, u64::MAX, u64::MAX);
        strange.registers.rip = u64::MAX;
        let strange = shown(&strange);
        assert!(strange.contains("(unknown exception), error code 0xffffffffffffffff"), "{strange}");
        assert!(strange.contains("rip ffffffffffffffff"), "{strange}");
    }),
    ("crash_without_a_report_is_told_all_the_same", &[Need::Kvm], || {
        let outcome = Lab::of_memfd(&Code::default().crashed().halt().image()).end();
        assert_eq!(outcome.to_string(), "the guest gave up without a report");
    }),
    ("lifecycle_values_that_mean_nothing_do_nothing", &[Need::Kvm], || {
        let code = Code::default().out(LIFECYCLE, 0).out(LIFECYCLE, u32::MAX).out(LIFECYCLE, LIFECYCLE_READY);
        let lab = Lab::of_memfd(&code.halt().image());
        lab.booted();
        assert!(lab.machine.outcome().is_none());
        lab.stop();
    }),
    ("reply_ring_that_contradicts_itself_is_broken_for_good", &[Need::Kvm], || {
        // The tail is beyond the capacity; the length is nothing, too much for any message, more than is there.
        for (tail, length) in [
            (CAPACITY + 1, 1),
            (u64::MAX, 1),
            (2, 0),
            (CAPACITY, MAX_MESSAGE + 1),
            (CAPACITY, u64::MAX),
            (2, 2),
            (1, 1),
        ] {
            broken_ring(tail, length);
        }
    }),
    ("kernel_panic_is_told_with_its_message", &[Need::Kvm], || {
        let outcome = crash_kernel(Crash::Panic, LIMIT);
        let Outcome::Crashed(report) = &outcome else { panic!("{outcome}") };
        assert!(report.panic && report.message.contains("the host asked for a panic"), "{outcome}");
        assert_ne!((report.registers.rip, report.registers.rsp, report.registers.cr3), (0, 0, 0));
        assert!(outcome.to_string().starts_with("the guest panicked: "), "{outcome}");
    }),
    ("kernel_trap_is_told_with_vector_and_registers", &[Need::Kvm], || {
        let outcome = crash_kernel(Crash::Trap, LIMIT);
        let Outcome::Crashed(report) = &outcome else { panic!("{outcome}") };
        assert!(!report.panic && !report.message.is_empty(), "{outcome}");
        // A load, by ring 0, of a page that is not there.
        assert_eq!((report.vector, report.error_code), (14, 0), "{outcome}");
        assert_eq!(report.registers.cr2, 0xffff_ffff_4000_0000, "{outcome}");
        assert!(report.registers.rip > 0xffff_ffff_8000_0000 && report.registers.rsp != 0, "{outcome}");
        assert!(outcome.to_string().contains("vector 14 (page fault), error code 0x0"), "{outcome}");
    }),
    ("kernel_triple_fault_is_told_with_registers", &[Need::Kvm], || {
        let outcome = crash_kernel(Crash::TripleFault, LIMIT);
        let Outcome::TripleFault { state } = &outcome else { panic!("{outcome}") };
        assert!(state.contains("rip 0xffffffff80"), "{state}");
    }),
    ("kernel_hang_ends_at_the_time_limit", &[Need::Kvm], || {
        let start = Instant::now();
        let outcome = crash_kernel(Crash::Hang, Duration::from_secs(1));
        assert!(matches!(outcome, Outcome::Timeout { .. }), "{outcome}");
        assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    }),
];
