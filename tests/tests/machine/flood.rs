//! Guests that do one thing for ever: the host neither grows nor hangs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::EventFd;
use wirevm_abi::call::{CallEntry, MAX_ENTRIES};
use wirevm_abi::port::{DOORBELL, LIFECYCLE, LIFECYCLE_READY, NOTIFY, SERIAL};
use wirevm_abi::ring::PAGES;
use wirevm_abi::{PAGE_SIZE, RAM_BASE, VERSION, op};
use wirevm_devices::ramfile::RamFile;
use wirevm_tests::image::call_page;
use wirevm_tests::{Case, Need};
use wirevm_vmm::memory::GuestRam;
use wirevm_vmm::{Channel, ChannelError};
use zerocopy::IntoBytes;

use super::code::{Code, RAM_PAGES, direct, layout};
use super::lab::{LIMIT, Lab, alone};

/// How long a flood lasts.
const FLOOD: Duration = Duration::from_millis(400);
/// Most bytes that the host's memory, guest RAM aside, may grow by in a flood.
const GROWTH: u64 = 4 << 20;

/// Lets a guest do `code` for ever, behind `first`, and stops it. What it did meanwhile, in the unit of `count`, must be
/// a flood, and the host must not have grown by it.
fn flood(first: Code, code: impl FnOnce(Code) -> Code, count: impl Fn(&Lab) -> u64) {
    let first = first.out(LIFECYCLE, LIFECYCLE_READY);
    let start = first.len();
    let mut lab = Lab::of_memfd(&code(first).again_from(start).image());
    lab.booted();
    // What a first use takes is no growth.
    thread::sleep(Duration::from_millis(50));
    let overhead = |lab: &Lab| lab.machine.witness().overhead_bytes().expect("the witness");
    let (before, counted) = (overhead(&lab), count(&lab));
    let start = Instant::now();
    let silence = lab.machine.channel().receive(FLOOD);
    assert!(matches!(silence, Err(ChannelError::Timeout(_))), "{silence:?}");
    assert!((FLOOD..FLOOD * 5).contains(&start.elapsed()), "a wait of {FLOOD:?} took {:?}", start.elapsed());
    let (after, counted) = (overhead(&lab), count(&lab) - counted);
    assert!(counted > 100, "{counted} are no flood");
    assert!(after < before + GROWTH, "from {before} to {after} bytes by {counted}");
    let start = Instant::now();
    lab.stop();
    assert!(start.elapsed() < LIMIT, "{:?}", start.elapsed());
}

/// Exits of the vCPU, where KVM counts them; a number that looks like a flood elsewhere.
fn exits(lab: &Lab) -> u64 {
    static ELSEWHERE: AtomicU64 = AtomicU64::new(0);
    let counted = lab.machine.vcpu_stats(0).and_then(|stats| stats.get("exits"));
    counted.unwrap_or_else(|| ELSEWHERE.fetch_add(1000, Ordering::Relaxed))
}

/// Puts a hello into the call page and rings.
fn greeted() -> Code {
    let page = call_page(&[CallEntry::new(op::HELLO, 0, [VERSION, 0, 0])]);
    Code::default().copy(direct(layout(RAM_PAGES).call_page()), page.as_bytes()).out(DOORBELL, 1)
}

pub const CASES: &[Case] = &[
    ("flood_of_doorbells_before_hello_is_borne", &[Need::Kvm], || {
        flood(Code::default(), |code| code.out(DOORBELL, 1), |lab| lab.machine.hypercalls());
    }),
    ("flood_of_full_calls_is_borne_and_unlocked_at_the_end", &[Need::Kvm], || {
        // Every second page, so that no two runs join: the worst for ledger and map.
        let entry = |number: usize| CallEntry::new(op::WIRE, 0, [1024 + 2 * number as u64, 1, 0]);
        let page = call_page(&(0..MAX_ENTRIES).map(entry).collect::<Vec<_>>());
        let to = direct(layout(RAM_PAGES).call_page());
        flood(
            greeted().copy(to, page.as_bytes()),
            |code| code.out(DOORBELL, 1),
            |lab| {
                let calls = lab.machine.hypercalls();
                assert!(calls == 1 || lab.locked() == MAX_ENTRIES as u64);
                calls
            },
        );
    }),
    ("flood_of_wrong_calls_is_borne", &[Need::Kvm], || {
        let entry = |number: u16| CallEntry::new(number, u32::MAX, [u64::MAX; 3]);
        let page = call_page(&(0..126).map(entry).collect::<Vec<_>>());
        let to = direct(layout(RAM_PAGES).call_page());
        let calls = |lab: &Lab| lab.machine.hypercalls();
        flood(greeted().copy(to, page.as_bytes()), |code| code.out(DOORBELL, 1), calls);
    }),
    ("flood_of_console_bytes_is_borne", &[Need::Kvm], || {
        let text = Code::default().copy(direct(layout(RAM_PAGES).report_page()), &[b'x'; 4096]);
        // mov dx, SERIAL; mov rsi, page; mov ecx, 4096; rep outsb
        let page = direct(layout(RAM_PAGES).report_page());
        let shout = |code: Code| {
            let code = code.bytes(&[0x66, 0xba]).bytes(&SERIAL.to_le_bytes()).bytes(&[0x48, 0xbe]);
            code.bytes(&page.to_le_bytes()).bytes(&[0xb9, 0, 0x10, 0, 0, 0xf3, 0x6e])
        };
        flood(text, shout, |lab| lab.console.count());
    }),
    ("flood_of_console_settings_is_borne", &[Need::Kvm], || {
        // Loopback with interrupts on: what goes out comes back in, and nobody reads it.
        let loopback = |code: Code| {
            let code = code.bytes(&[0x66, 0xba]).bytes(&(SERIAL + 4).to_le_bytes()).bytes(&[0xb0, 0x10, 0xee]);
            let code = code.bytes(&[0x66, 0xba]).bytes(&(SERIAL + 1).to_le_bytes()).bytes(&[0xb0, 0x0f, 0xee]);
            code.bytes(&[0x66, 0xba]).bytes(&SERIAL.to_le_bytes()).bytes(&[0xee, 0xee, 0xee, 0xee])
        };
        flood(Code::default(), loopback, exits);
    }),
    ("flood_of_notifications_does_not_hold_a_reader_up", &[Need::Kvm], || {
        let notify = |code: Code| code.bytes(&[0x66, 0xba]).bytes(&NOTIFY.to_le_bytes()).bytes(&[0xef; 64]);
        let emulated = |lab: &Lab| {
            let counted = lab.machine.emulated_instructions();
            counted.unwrap_or_else(|| exits(lab))
        };
        flood(Code::default(), notify, emulated);
    }),
    ("reader_of_a_channel_that_is_always_notified_times_out", &[], || {
        let _alone = alone();
        let event = |flags| EventFd::new(libc::EFD_NONBLOCK | flags).expect("an event");
        // Each read takes one of them: faster than any guest, the event is there again.
        let notified = event(libc::EFD_SEMAPHORE);
        notified.write(5_000_000).expect("notified");
        let ram = RamFile::memfd(2 << 20).expect("a memfd");
        let memory = Arc::new(GuestRam::map(&ram).expect("a mapping"));
        let rings = (RAM_BASE, RAM_BASE + PAGES * PAGE_SIZE);
        let mut channel = Channel::new(memory, rings, Box::new(event(0)), notified, event(0)).expect("a channel");
        let start = Instant::now();
        let limit = Duration::from_millis(50);
        let silence = channel.receive(limit);
        assert!(matches!(silence, Err(ChannelError::Timeout(_))), "{silence:?}");
        assert!((limit..limit * 10).contains(&start.elapsed()), "{:?}", start.elapsed());
    }),
    ("flood_of_lifecycle_values_is_borne_and_ready_only_once", &[Need::Kvm], || {
        flood(Code::default(), |code| code.out(LIFECYCLE, LIFECYCLE_READY).out(LIFECYCLE, 77), exits);
    }),
    ("flood_of_ports_that_nothing_answers_is_borne", &[Need::Kvm], || {
        // out and in, of 32 bits
        flood(Code::default(), |code| code.out(0xffff, 1).out(0x80, 2).bytes(&[0xed]), exits);
    }),
];
