//! What a guest can do to its host by saying wrong things: nothing. Each wrong call gets its status, in a real machine.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use wirevm_abi::boot::IMAGE_BASE;
use wirevm_abi::call::{CallEntry, CallHeader, CallPage, MAX_ENTRIES};
use wirevm_abi::{Status, VERSION, feature, op};
use wirevm_devices::pin::{PinKind, map_entry_budget};
use wirevm_devices::ramfile::RamFile;
use wirevm_devices::view::View;
use wirevm_tests::image::{CallAnswer, answers, call_page, caller};
use wirevm_tests::{Case, Need, Suite};
use wirevm_vmm::{Machine, MachineConfig, Outcome, StorageErrorPolicy};
use zerocopy::FromZeros;

const RAM_BYTES: u64 = 8 << 20;
const RAM_PAGES: u64 = RAM_BYTES / 4096;
const QUOTA: u64 = 64;
/// A page far from what the guest itself uses.
const PAGE: u64 = 1024;

#[derive(Clone, Default)]
struct Console(Arc<Mutex<Vec<u8>>>);

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("lock").extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs a guest that makes those calls; returns its answers, how it ended, and the pages that are still locked then.
fn calls(pages: &[CallPage]) -> (Vec<CallAnswer>, Outcome, u64) {
    let pin = PinKind::best(RAM_BYTES).expect("/proc is readable");
    calls_on(1, RAM_BYTES, QUOTA, pin, pages, |_| ())
}

/// As [`calls`], on so many vCPUs, of which the first makes the calls, with that RAM and quota; `look` sees the machine before it goes.
fn calls_on(
    vcpus: u32,
    ram_bytes: u64,
    quota_pages: u64,
    pin: PinKind,
    pages: &[CallPage],
    look: impl FnOnce(&Machine),
) -> (Vec<CallAnswer>, Outcome, u64) {
    let console = Console::default();
    let config = MachineConfig {
        vcpus,
        archive: None,
        wire_quota_pages: quota_pages,
        pin,
        lock_faults: None,
        storage_faults: None,
        store_dir: None,
        store_quota_pages: 0,
        time_limit: Some(Duration::from_secs(60)),
        on_storage_error: StorageErrorPolicy::Stop,
        guest_log_level: 0,
        console: Box::new(console.clone()),
        keyboard: false,
        single_step: false,
        before_load: None,
        interrupted: None,
    };
    let ram = RamFile::memfd(ram_bytes).expect("a memfd");
    let machine = Machine::start(config, ram, &caller(pages)).expect("a machine");
    drop(machine.wait());
    let locked = machine.witness().locked_pages().expect("the witness");
    assert_eq!(locked, machine.pins().stats().wired_pages, "the ledger and the kernel disagree");
    look(&machine);
    let outcome = machine.finish().expect("an outcome");
    let written = console.0.lock().expect("lock").clone();
    (answers(&written), outcome, locked)
}

fn hello() -> CallPage {
    call_page(&[CallEntry::new(op::HELLO, 0, [VERSION, 0, 0])])
}

fn one(entry: CallEntry) -> CallPage {
    call_page(&[entry])
}

/// Runs `entry` after a hello and checks its status; nothing may be wired by it.
fn refused(entry: CallEntry, status: Status) {
    let (answers, outcome, locked) = calls(&[hello(), one(entry)]);
    assert!(matches!(outcome, Outcome::Crashed(_)), "{outcome}");
    assert_eq!(answers[0].entries[0].status(), Status::OK);
    assert_eq!(answers[1].header.status(), Status::OK);
    assert_eq!(answers[1].entries[0].status(), status, "{entry:?}");
    assert_eq!(locked, 0);
}

/// The first page of RAM that is wired where many are.
const FIRST_RUN: u64 = 2048;

const CASES: &[Case] = &[
    ("doorbell_before_hello_is_invalid_address_and_touches_nothing", &[Need::Kvm], || {
        let wire = one(CallEntry::new(op::WIRE, 0, [PAGE, 1, 0]));
        let (answers, _, locked) = calls(&[wire, CallPage::new_zeroed(), hello(), wire]);
        for answer in &answers[..2] {
            assert_eq!(answer.doorbell, u64::from(Status::INVALID_ADDRESS.bits()));
        }
        assert_eq!(answers[0].header.status(), Status::NOT_DONE);
        assert_eq!(answers[0].entries[0].status(), Status::NOT_DONE);
        assert_eq!(answers[2].doorbell, u64::from(Status::OK.bits()));
        assert_eq!(answers[3].entries[0].status(), Status::OK);
        assert_eq!(locked, 1);
    }),
    ("hello_tells_version_features_and_quota", &[Need::Kvm], || {
        let (answers, _, _) = calls(&[hello()]);
        // A memfd has no stable storage behind it and can be given back; there is no folder for stores.
        let features = feature::COMPLETIONS | feature::DISCARD;
        assert_eq!(answers[0].entries[0].words, [VERSION, features, QUOTA]);
    }),
    ("hello_of_another_version_is_unsupported_and_opens_nothing", &[Need::Kvm], || {
        let other = one(CallEntry::new(op::HELLO, 0, [VERSION + 1, 0, 0]));
        let wire = one(CallEntry::new(op::WIRE, 0, [PAGE, 1, 0]));
        let (answers, _, locked) = calls(&[other, wire]);
        assert_eq!(answers[0].entries[0].status(), Status::UNSUPPORTED);
        assert_eq!(answers[0].entries[0].words[0], VERSION);
        assert_eq!(answers[1].doorbell, u64::from(Status::INVALID_ADDRESS.bits()));
        assert_eq!(locked, 0);
    }),
    ("entries_behind_a_refused_hello_are_refused", &[Need::Kvm], || {
        let wire = CallEntry::new(op::WIRE, 0, [PAGE, 1, 0]);
        let sync = CallEntry::new(op::SYNC, op::SYNC_WAIT, [PAGE, 1, 0]);
        let version = CallEntry::new(op::HELLO, 0, [VERSION + 1, 0, 0]);
        let malformed = CallEntry::new(op::HELLO, 1, [VERSION, 0, 0]);
        let good = CallEntry::new(op::HELLO, 0, [VERSION, 0, 0]);
        let exit = CallEntry::new(op::EXIT, 0, [7, 0, 0]);
        let (answers, _, locked) = calls(&[call_page(&[version, wire, sync, exit, malformed, wire, good, wire])]);
        let statuses: Vec<_> = answers[0].entries[..8].iter().map(CallEntry::status).collect();
        let (refused, wrong) = (Status::INVALID_ADDRESS, Status::INVALID_ARGUMENT);
        assert_eq!(statuses, [Status::UNSUPPORTED, refused, refused, refused, wrong, refused, Status::OK, Status::OK]);
        assert_eq!(locked, 1);
    }),
    ("header_of_another_version_is_unsupported_as_a_whole", &[Need::Kvm], || {
        let mut page = one(CallEntry::new(op::WIRE, 0, [PAGE, 1, 0]));
        page.header.control = (VERSION + 1) | 1 << 32;
        let (answers, _, locked) = calls(&[hello(), page]);
        assert_eq!(answers[1].header.status(), Status::UNSUPPORTED);
        assert_eq!(answers[1].entries[0].status(), Status::NOT_DONE);
        assert_eq!(locked, 0);
    }),
    ("127_entries_and_none_are_invalid_as_a_whole", &[Need::Kvm], || {
        let mut pages = vec![hello()];
        for count in [0, MAX_ENTRIES as u64 + 1, u64::from(u32::MAX)] {
            let mut page = one(CallEntry::new(op::WIRE, 0, [PAGE, 1, 0]));
            page.header = CallHeader { control: VERSION | count << 32, ..page.header };
            pages.push(page);
        }
        let (answers, _, locked) = calls(&pages);
        for answer in &answers[1..] {
            assert_eq!(answer.header.status(), Status::INVALID_ARGUMENT);
            assert_eq!(answer.entries[0].status(), Status::NOT_DONE);
        }
        assert_eq!(locked, 0);
    }),
    ("count_zero_is_invalid_argument", &[Need::Kvm], || {
        refused(CallEntry::new(op::WIRE, 0, [PAGE, 0, 0]), Status::INVALID_ARGUMENT);
    }),
    ("page_past_ram_is_invalid_address", &[Need::Kvm], || {
        refused(CallEntry::new(op::WIRE, 0, [RAM_PAGES, 1, 0]), Status::INVALID_ADDRESS);
    }),
    ("range_that_ends_past_ram_is_invalid_address", &[Need::Kvm], || {
        refused(CallEntry::new(op::WIRE, 0, [RAM_PAGES - 1, 2, 0]), Status::INVALID_ADDRESS);
    }),
    ("range_that_wraps_around_is_invalid_address", &[Need::Kvm], || {
        refused(CallEntry::new(op::UNWIRE, 0, [u64::MAX, 2, 0]), Status::INVALID_ADDRESS);
    }),
    ("unknown_operation_is_unsupported", &[Need::Kvm], || {
        refused(CallEntry::new(0xffff, u32::MAX, [u64::MAX; 3]), Status::UNSUPPORTED);
    }),
    ("unwire_of_what_is_not_wired_is_invalid_argument", &[Need::Kvm], || {
        refused(CallEntry::new(op::UNWIRE, 0, [PAGE, 1, 0]), Status::INVALID_ARGUMENT);
    }),
    ("wire_beyond_the_quota_is_quota_and_locks_nothing", &[Need::Kvm], || {
        refused(CallEntry::new(op::WIRE, 0, [PAGE, QUOTA + 1, 0]), Status::QUOTA);
    }),
    ("sync_without_stable_storage_is_unsupported", &[Need::Kvm], || {
        refused(CallEntry::new(op::SYNC, op::SYNC_WAIT, [PAGE, 1, 0]), Status::UNSUPPORTED);
    }),
    ("a_batch_is_carried_out_in_order_and_each_entry_has_its_own_status", &[Need::Kvm], || {
        let entries = [
            CallEntry::new(op::WIRE, 0, [PAGE, 8, 0]),
            CallEntry::new(op::WIRE, 0, [PAGE + 4, 8, 0]),
            CallEntry::new(op::WIRE, 0, [PAGE, 0, 0]),
            CallEntry::new(op::UNWIRE, 0, [PAGE, 8, 0]),
            CallEntry::new(op::UNWIRE, 0, [PAGE, 1, 0]),
        ];
        let (answers, _, locked) = calls(&[hello(), call_page(&entries)]);
        let statuses: Vec<Status> = answers[1].entries[..5].iter().map(CallEntry::status).collect();
        let (ok, invalid) = (Status::OK, Status::INVALID_ARGUMENT);
        assert_eq!(statuses, [ok, ok, invalid, ok, invalid]);
        assert_eq!(locked, 8);
    }),
    // Each run that is locked alone costs the process two map entries, and Linux has 65,530 unless told otherwise.
    (
        "wires_scattered_past_the_hosts_map_limit_are_a_shortage_and_the_host_goes_on",
        &[Need::Kvm, Need::Lock64MiB, Need::SmallMapLimit],
        || {
            let budget = map_entry_budget().expect("/proc is readable");
            let (runs, pages) = scattered(budget);
            let refused = pages.len() - 4;
            let (answers, _, locked) = calls_on(1, ram_of(runs), 1 << 20, PinKind::Runs, &pages, |machine| {
                let stats = machine.pins().stats();
                assert!(stats.locked_runs * 2 > budget - 1024, "{stats:?}, the budget is {budget}");
                assert_eq!(stats.deferred_pages, 0);
                // The process itself still has room: for maps, and for threads with their stacks.
                let maps: Vec<_> = (0..100).map(|_| RamFile::memfd(1 << 21).expect("a memfd")).collect();
                let views: Vec<_> = maps.iter().map(|ram| View::new(ram).expect("a map")).collect();
                assert_eq!(std::thread::spawn(|| vec![1_u8; 64 << 20].len()).join().expect("a thread"), 64 << 20);
                drop(views);
            });
            assert_eq!(answers[1].entries[0].status(), Status::OK);
            assert_eq!(answers[refused].entries[0].status(), Status::RESOURCE_SHORTAGE, "not the quota");
            let after: Vec<Status> = answers[refused + 1..].iter().map(|answer| answer.entries[0].status()).collect();
            assert_eq!(after, [Status::OK; 3]);
            assert!(locked > budget / 2 - 1024 && locked < runs, "{locked} pages are locked");
        },
    ),
    (
        "wires_scattered_past_the_hosts_map_limit_cost_a_locked_view_no_entry",
        &[Need::Kvm, Need::Lock64MiB, Need::LockedView, Need::SmallMapLimit],
        || {
            let (runs, pages) = scattered(map_entry_budget().expect("/proc is readable"));
            let (answers, _, locked) = calls_on(1, ram_of(runs), 1 << 20, PinKind::View, &pages, |machine| {
                assert_eq!(machine.witness().map_entries().expect("the witness"), 1);
                assert_eq!((machine.pins().stats().locked_runs, machine.pins().stats().deferred_pages), (runs - 1, 0));
            });
            for answer in &answers {
                let count = usize::try_from(answer.header.count()).expect("a count");
                // The guest writes the first ones.
                assert!(answer.entries.iter().take(count).all(|entry| entry.status() == Status::OK));
            }
            assert_eq!(locked, runs - 1);
        },
    ),
    ("what_a_guest_leaves_wired_is_released_with_it", &[Need::Kvm], || {
        let before = locked_by_this_process();
        let (_, _, locked) = calls(&[hello(), one(CallEntry::new(op::WIRE, 0, [PAGE, QUOTA, 0]))]);
        assert_eq!(locked, QUOTA);
        // Other tests of this process lock pages of their own meanwhile; none of them holds as many for long.
        let start = std::time::Instant::now();
        while locked_by_this_process() > before && start.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(locked_by_this_process() <= before, "pages stay locked");
    }),
    ("vcpus_that_cannot_be_started_are_refused_and_others_start_once", &[Need::Kvm], || {
        // An endless loop stands there: hlt; jmp to it.
        let place = IMAGE_BASE + 0x69;
        let start = |vcpu, at| CallEntry::new(op::START_VCPU, 0, [vcpu, at, 0]);
        let early = one(start(1, place));
        let wrong = [
            start(0, place),
            start(3, place),
            start(u64::MAX, place),
            start(1 << 32 | 1, place),
            start(1, 0x8000_0000_0000),
            start(1, 0xffff_7fff_ffff_ffff),
            start(1, u64::MAX >> 1),
            CallEntry::new(op::START_VCPU, 1, [1, place, 0]),
        ];
        let right = [start(1, place), start(1, place), start(2, place), start(2, 0), start(1, 1 << 63)];
        let (answers, outcome, _) = calls_on(
            3,
            RAM_BYTES,
            QUOTA,
            PinKind::Runs,
            &[early, hello(), call_page(&wrong), call_page(&right)],
            |_| (),
        );
        assert!(matches!(outcome, Outcome::Crashed(_)), "{outcome}");
        assert_eq!(answers[0].doorbell, u64::from(Status::INVALID_ADDRESS.bits()));
        for (entry, answer) in wrong.iter().zip(&answers[2].entries) {
            assert_eq!((answer.status(), answer.words), (Status::INVALID_ARGUMENT, entry.words));
        }
        let statuses: Vec<Status> = answers[3].entries[..5].iter().map(CallEntry::status).collect();
        assert_eq!(statuses, [Status::OK, Status::BUSY, Status::OK, Status::BUSY, Status::INVALID_ARGUMENT]);
    }),
    ("exit_ends_the_machine_with_its_code_and_nothing_after_it_happens", &[Need::Kvm], || {
        let entries = [CallEntry::new(op::EXIT, 0, [7, 0, 0]), CallEntry::new(op::WIRE, 0, [PAGE, 1, 0])];
        let (answers, outcome, locked) = calls(&[hello(), call_page(&entries), hello()]);
        assert!(matches!(outcome, Outcome::Exit { code: 7 }), "{outcome}");
        assert_eq!((answers.len(), locked), (1, 0));
    }),
];

/// Returns calls that wire so many single pages that their runs don't fit into the budget, with how many these are. At the end, in
/// three calls, one of the first is unwired, wired again, and unwired.
fn scattered(budget: u64) -> (u64, Vec<CallPage>) {
    let runs = budget / 2 + 2 * MAX_ENTRIES as u64;
    let wires: Vec<_> = (0..runs).map(|run| CallEntry::new(op::WIRE, 0, [FIRST_RUN + 2 * run, 1, 0])).collect();
    let mut pages = vec![hello()];
    pages.extend(wires.chunks(MAX_ENTRIES).map(call_page));
    let again = |op: u16| one(CallEntry::new(op, 0, [FIRST_RUN + 1000, 1, 0]));
    pages.extend([again(op::UNWIRE), again(op::WIRE), again(op::UNWIRE)]);
    (runs, pages)
}

/// Returns the bytes of RAM in which so many of them lie.
const fn ram_of(runs: u64) -> u64 {
    ((FIRST_RUN + 2 * runs) * 4096).next_multiple_of(2 << 20)
}

fn locked_by_this_process() -> u64 {
    let status = procfs::process::Process::myself().and_then(|process| process.status()).expect("/proc/self/status");
    status.vmlck.unwrap_or(0)
}

fn main() -> ExitCode {
    Suite::new().cases(CASES).run()
}
