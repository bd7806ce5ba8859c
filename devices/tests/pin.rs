//! Wiring on a real file and a real memfd, against what the kernel says is locked.

#[path = "common/folder.rs"]
mod folder;
#[path = "common/machine.rs"]
mod machine;
#[path = "common/suite.rs"]
mod suite;

use std::os::unix::fs::FileExt;
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use folder::{RAM_BYTES, durable_folder, lacks_durable_folder};
use machine::{MAP_ENTRIES, Machine, RAM_PAGES, range};
use wirevm_abi::{RamRange, Status};
use wirevm_devices::pin::{LockBudget, PinError, PinKind, ViewMethod, ViewMethodError};
use wirevm_devices::ramfile::{HEADER_BYTES, RamFile};
use wirevm_devices::view::View;

/// Bytes of RAM that are wired in more slices than one.
const SLICED_BYTES: u64 = 98 << 20;

/// One test at a time locks memory: the kernel counts it by process, and the limit may be 8 MiB.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wire_file_pages_are_locked_resident_and_clean_until_unwired(kind: PinKind) {
    let _alone = alone();
    let folder = durable_folder();
    let machine = Machine::pinned(kind, RamFile::temporary(folder.path(), RAM_BYTES).expect("a RAM file"), MAP_ENTRIES);
    let (pins, witness) = (&machine.pins, &machine.witness);
    let before = witness.vm_lck_bytes().expect("/proc");
    assert_eq!(before, if kind == PinKind::View { RAM_BYTES } else { 0 }, "a locked view is charged as a whole");
    assert_eq!(witness.locked_pages().expect("/proc"), 0);
    pins.wire_all(&[range(0, 3), range(700, 1)]).expect("wired");
    pins.wire(range(2, 2)).expect("wired");
    assert_eq!(witness.locked_pages().expect("/proc"), 5);
    assert_eq!(witness.locked_in(range(0, 4)).expect("/proc"), 4);
    assert_eq!(witness.locked_in(range(4, 696)).expect("/proc"), 0);
    assert_eq!(witness.resident(range(0, 4)).expect("mincore"), 4);
    if kind == PinKind::Runs {
        assert_eq!(witness.vm_lck_bytes().expect("/proc") - before, 5 * 4096);
    }
    assert_eq!(witness.dirty(range(0, RAM_PAGES)).expect("cachestat"), Some(0), "wiring must not dirty a page (D9)");
    machine.store(range(1, 1), 7);
    assert_eq!(witness.bytes(1).expect("a page")[0], 7, "a wired page takes stores");
    assert_eq!(witness.dirty(range(0, RAM_PAGES)).expect("cachestat"), Some(1), "the control: a store does");
    pins.unwire(range(0, 3)).expect("unwired");
    assert_eq!(witness.locked_in(range(0, 4)).expect("/proc"), 2, "pages 2 and 3 are wired once more");
    pins.unwire_all(&[range(2, 2), range(700, 1)]).expect("unwired");
    assert_eq!((witness.locked_pages().expect("/proc"), witness.vm_lck_bytes().expect("/proc")), (0, before));
    assert_eq!(witness.map_entries().expect("/proc"), 1, "the view is whole again");
}

fn wire_all_of_ram_then_drop_leaves_nothing_locked(kind: PinKind) {
    let _alone = alone();
    let folder = durable_folder();
    let files = [RamFile::temporary(folder.path(), RAM_BYTES), RamFile::memfd(RAM_BYTES)];
    for ram in files {
        let Machine { pins, witness, .. } = Machine::pinned(kind, ram.expect("a RAM file"), MAP_ENTRIES);
        pins.wire(range(0, RAM_PAGES)).expect("wired");
        assert_eq!(witness.locked_pages().expect("/proc"), RAM_PAGES);
        pins.release_all();
        assert_eq!(witness.locked_pages().expect("/proc"), 0);
        pins.wire(range(5, 3)).expect("wired");
        assert_eq!(witness.locked_pages().expect("/proc"), 3);
        drop(pins);
        assert_eq!((witness.locked_pages().expect("/proc"), witness.vm_lck_bytes().expect("/proc")), (0, 0));
    }
}

fn wire_page_behind_the_end_of_a_cut_file_is_a_fault_and_undone(kind: PinKind) {
    let _alone = alone();
    let folder = durable_folder();
    let machine = Machine::pinned(kind, RamFile::temporary(folder.path(), RAM_BYTES).expect("a RAM file"), MAP_ENTRIES);
    machine.pins.wire(range(0, 2)).expect("wired");
    machine.ram.reopen().expect("a description").set_len(HEADER_BYTES + RAM_BYTES / 2).expect("cut");
    let error = machine.pins.wire_all(&[range(8, 2), range(RAM_PAGES / 2 - 2, 4)]).expect_err("two pages are gone");
    assert!(matches!(error, PinError::Fault { .. }), "{error:?}");
    assert_eq!(error.status(), Status::IO_ERROR);
    assert_eq!(machine.witness.locked_pages().expect("/proc"), 2);
    assert_eq!((machine.pins.stats().wired_pages, machine.pins.stats().deferred_pages), (2, 0));
}

fn wire_alternate_pages_stays_within_its_map_entries() {
    let _alone = alone();
    let machine = Machine::new(RamFile::memfd(RAM_BYTES).expect("a memfd"), 200);
    let error = (0..RAM_PAGES).step_by(2).find_map(|page| machine.pins.wire(range(page, 1)).err());
    let error = error.expect("512 runs do not fit");
    assert!(matches!(error, PinError::HostMapFragmentation { runs: 101, .. }), "{error:?}");
    assert!(machine.witness.map_entries().expect("/proc") <= 201);
    assert_eq!(machine.witness.locked_pages().expect("/proc"), 100);
    machine.pins.wire(range(0, RAM_PAGES)).expect("one run fits");
    for page in (0..RAM_PAGES).step_by(2) {
        machine.pins.unwire(range(page, 1)).expect("unwiring can't fail");
    }
    assert!(machine.witness.map_entries().expect("/proc") <= 202, "holes past the budget are deferred");
    let stats = machine.pins.stats();
    assert_eq!(machine.witness.locked_pages().expect("/proc"), stats.wired_pages + stats.deferred_pages);
    machine.pins.release_all();
    assert_eq!((machine.witness.locked_pages().expect("/proc"), machine.witness.map_entries().expect("/proc")), (0, 1));
}

fn wires_of_several_threads_end_as_the_ledger_says(kind: PinKind) {
    const THREADS: u64 = 4;
    let _alone = alone();
    let machine = Machine::pinned(kind, RamFile::memfd(RAM_BYTES).expect("a memfd"), MAP_ENTRIES);
    let (pins, witness) = (&machine.pins, &machine.witness);
    let before = witness.vm_lck_bytes().expect("/proc");
    // Neighbours that touch, and one range that all of them share.
    let mine = |thread: u64, round: u64| range(100 + 16 * thread + round % 8, 8 + round % 9);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                for round in 0..200 {
                    pins.wire_all(&[mine(thread, round), range(300, 64)]).expect("wired");
                    if round % 4 == 3 {
                        for round in round - 3..=round {
                            pins.unwire_all(&[range(300, 64), mine(thread, round)]).expect("it was wired");
                        }
                    }
                }
                pins.wire(mine(thread, 0)).expect("wired");
            });
        }
    });
    let stats = pins.stats();
    assert_eq!((stats.wired_pages, stats.deferred_pages), (8 * THREADS, 0));
    assert_eq!(witness.locked_pages().expect("/proc"), 8 * THREADS);
    for thread in 0..THREADS {
        assert_eq!(witness.locked_in(mine(thread, 0)).expect("/proc"), 8);
        pins.unwire(mine(thread, 0)).expect("unwired");
    }
    assert_eq!((witness.locked_pages().expect("/proc"), witness.vm_lck_bytes().expect("/proc")), (0, before));
    assert_eq!(witness.map_entries().expect("/proc"), 1, "the view is whole again");
}

fn wire_in_slices_locks_every_page(kind: PinKind) {
    let _alone = alone();
    let machine = Machine::pinned(kind, RamFile::memfd(SLICED_BYTES).expect("a memfd"), MAP_ENTRIES);
    let all = RamRange::new(0, SLICED_BYTES / 4096, SLICED_BYTES / 4096).expect("all of RAM");
    machine.pins.wire(all).expect("wired");
    assert_eq!(machine.witness.locked_pages().expect("/proc"), all.pages());
    assert_eq!(machine.pins.stats().lock_calls, 1);
}

fn wire_in_a_locked_view_holds_nothing_beside_what_was_asked_for() {
    let _alone = alone();
    let folder = durable_folder();
    // In the page cache as the kernel likes it best, in large folios, and as a guest's stores bring it in.
    for large in [true, false] {
        let ram = RamFile::temporary(folder.path(), RAM_BYTES).expect("a RAM file");
        let file = ram.reopen().expect("a description");
        let chunk = vec![1_u8; if large { 1 << 20 } else { 4096 }];
        for at in (0..RAM_BYTES).step_by(chunk.len()) {
            file.write_all_at(&chunk, HEADER_BYTES + at).expect("written");
        }
        let machine = Machine::pinned(PinKind::View, ram, u64::MAX);
        let (pins, witness) = (&machine.pins, &machine.witness);
        let locked = || witness.locked_pages().expect("/proc");
        pins.wire(range(300, 1)).expect("wired");
        assert_eq!(locked(), 1);
        // From few pages to many: one by one, in lists, and in runs for which the kernel may look around.
        let odd: Vec<_> = (1..RAM_PAGES).step_by(2).map(|page| range(page, 1)).collect();
        pins.wire_all(&odd).expect("no map entry is needed");
        assert_eq!((locked(), witness.map_entries().expect("/proc")), (RAM_PAGES / 2 + 1, 1));
        pins.unwire_all(&odd).expect("unwired");
        assert_eq!((locked(), witness.locked_in(range(300, 1)).expect("/proc")), (1, 1));
        pins.wire_all(&[range(101, 63), range(200, 64), range(401, 513)]).expect("wired");
        assert_eq!((locked(), witness.map_entries().expect("/proc")), (1 + 63 + 64 + 513, 1));
        for (first, pages) in [(101, 63), (200, 64), (401, 513)] {
            assert_eq!(witness.locked_in(range(first, pages)).expect("/proc"), pages);
            assert_eq!(witness.resident(range(first, pages)).expect("mincore"), pages);
        }
        for page in 401..401 + 513 {
            pins.unwire(range(page, 1)).expect("unwired");
        }
        assert_eq!((locked(), pins.stats().wired_pages), (1 + 63 + 64, 1 + 63 + 64));
    }
}

fn wires_beside_one_another_hold_what_each_has_asked_for() {
    const THREADS: u64 = 4;
    let _alone = alone();
    let machine = Machine::pinned(PinKind::View, RamFile::memfd(RAM_BYTES).expect("a memfd"), u64::MAX);
    machine.store(range(0, RAM_PAGES), 1);
    let (pins, witness) = (&machine.pins, &machine.witness);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                for round in 0..100 {
                    // Every fourth page of the same 64 KiB, and large runs that touch those of the others.
                    let small: Vec<_> = (0..4).map(|page| range(4 * page + thread, 1)).collect();
                    let large = range(128 + 64 * thread + round % 3, 64);
                    pins.wire_all(&small).expect("wired");
                    pins.wire(large).expect("wired");
                    for range in small.iter().chain([&large]) {
                        assert_eq!(witness.locked_in(*range).expect("/proc"), range.pages());
                    }
                    pins.unwire(large).expect("it was wired");
                    pins.unwire_all(small.get(..3).expect("four")).expect("they were wired");
                    pins.unwire(small[3]).expect("it was wired");
                }
                pins.wire(range(4 + thread, 1)).expect("wired");
            });
        }
    });
    assert_eq!((pins.stats().wired_pages, pins.stats().deferred_pages), (THREADS, 0));
    assert_eq!((witness.locked_pages().expect("/proc"), witness.map_entries().expect("/proc")), (THREADS, 1));
}

fn wire_list_with_a_page_that_is_gone_leaves_a_locked_view_as_it_was() {
    let _alone = alone();
    let folder = durable_folder();
    let ram = RamFile::temporary(folder.path(), RAM_BYTES).expect("a RAM file");
    let machine = Machine::pinned(PinKind::View, ram, u64::MAX);
    let (pins, witness) = (&machine.pins, &machine.witness);
    pins.wire_all(&[range(3, 1), range(9, 2)]).expect("wired");
    machine.ram.reopen().expect("a description").set_len(HEADER_BYTES + RAM_BYTES / 2).expect("cut");
    // The first and last of a list, one in its middle, one behind a large run, and the end of a large run.
    let (good, gone) = ([range(0, 1), range(20, 1), range(40, 30), range(100, 128)], range(RAM_PAGES / 2, 1));
    for list in [vec![gone, good[0], good[1]], [good.as_slice(), &[gone]].concat(), vec![range(300, 300)]] {
        let error = pins.wire_all(&list).expect_err("a page is gone");
        assert!(matches!(error, PinError::Fault { .. }), "{error:?}");
        assert_eq!((pins.stats().wired_pages, pins.stats().deferred_pages), (3, 0));
        assert_eq!((witness.locked_pages().expect("/proc"), witness.map_entries().expect("/proc")), (3, 1));
    }
    let each = pins.wire_each(&[good[0], gone, good[1]]);
    assert_eq!(each.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!(witness.locked_pages().expect("/proc"), 5);
}

/// The part of the next test that runs without the privilege to lock at will.
fn unprivileged_wire_past_the_lock_limit() {
    let _alone = alone();
    let budget = LockBudget::of_this_process().expect("/proc");
    assert_eq!(budget, LockBudget { limit: Some(1 << 20), privileged: false });
    assert!(budget.allows(1 << 20) && !budget.allows((1 << 20) + 1));
    let machine = Machine::new(RamFile::memfd(RAM_BYTES).expect("a memfd"), MAP_ENTRIES);
    machine.pins.wire(range(0, 128)).expect("half of the limit");
    let error = machine.pins.wire_all(&[range(256, 64), range(512, 256)]).expect_err("past the limit");
    assert!(matches!(error, PinError::Shortage { .. }), "{error:?}");
    assert!(error.to_string().contains("RLIMIT_MEMLOCK is 1048576 bytes"), "{error}");
    assert_eq!(error.status(), Status::RESOURCE_SHORTAGE);
    assert_eq!((machine.witness.locked_pages().expect("/proc"), machine.pins.stats().wired_pages), (128, 128));
    machine.pins.wire(range(256, 128)).expect("all of the limit");
    let ram = RamFile::memfd(RAM_BYTES).expect("a memfd");
    assert_eq!(PinKind::best(RAM_BYTES).expect("/proc"), PinKind::Runs, "a view needs as much as RAM has");
    let error = PinKind::View.method(Arc::new(View::new(&ram).expect("a view"))).expect_err("too large");
    assert!(matches!(error, ViewMethodError::Lock { .. } | ViewMethodError::Kernel { .. }), "{error:?}");
}

fn wire_past_the_lock_limit_is_a_shortage_and_undone() {
    let this = std::env::current_exe().expect("a test program");
    let mut command = Command::new("setpriv");
    command.args(["--inh-caps=-ipc_lock", "--bounding-set=-ipc_lock", "--"]);
    if !LockBudget::of_this_process().expect("/proc").privileged {
        command = Command::new("env");
    }
    command.args(["prlimit", "--memlock=1048576:1048576", "--"]).arg(this);
    command.args(["--ignored", "--exact", "unprivileged_wire_past_the_lock_limit"]);
    let output = command.output().expect("setpriv and prlimit of util-linux run");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

fn main() -> ExitCode {
    let durable = lacks_durable_folder;
    let locks = || {
        let allowed = LockBudget::of_this_process().expect("/proc").allows(SLICED_BYTES);
        (!allowed).then(|| format!("this process may not lock {SLICED_BYTES} bytes"))
    };
    let view = || ViewMethod::check_kernel().err().map(|error| error.to_string());
    suite::run([
        ("wire_file_pages_are_locked_resident_and_clean_until_unwired", durable(), || {
            wire_file_pages_are_locked_resident_and_clean_until_unwired(PinKind::Runs);
        }),
        ("wire_file_pages_are_locked_resident_and_clean_until_unwired_in_a_view", durable().or_else(view), || {
            wire_file_pages_are_locked_resident_and_clean_until_unwired(PinKind::View);
        }),
        ("wire_all_of_ram_then_drop_leaves_nothing_locked", durable(), || {
            wire_all_of_ram_then_drop_leaves_nothing_locked(PinKind::Runs);
        }),
        ("wire_all_of_ram_then_drop_leaves_nothing_locked_in_a_view", durable().or_else(view), || {
            wire_all_of_ram_then_drop_leaves_nothing_locked(PinKind::View);
        }),
        ("wire_page_behind_the_end_of_a_cut_file_is_a_fault_and_undone", durable(), || {
            wire_page_behind_the_end_of_a_cut_file_is_a_fault_and_undone(PinKind::Runs);
        }),
        ("wire_page_behind_the_end_of_a_cut_file_is_a_fault_and_undone_in_a_view", durable().or_else(view), || {
            wire_page_behind_the_end_of_a_cut_file_is_a_fault_and_undone(PinKind::View);
        }),
        ("wire_alternate_pages_stays_within_its_map_entries", None, wire_alternate_pages_stays_within_its_map_entries),
        ("wires_of_several_threads_end_as_the_ledger_says", None, || {
            wires_of_several_threads_end_as_the_ledger_says(PinKind::Runs);
        }),
        ("wires_of_several_threads_end_as_the_ledger_says_in_a_view", view(), || {
            wires_of_several_threads_end_as_the_ledger_says(PinKind::View);
        }),
        ("wire_in_slices_locks_every_page", locks(), || wire_in_slices_locks_every_page(PinKind::Runs)),
        ("wire_in_slices_locks_every_page_in_a_view", locks().or_else(view), || {
            wire_in_slices_locks_every_page(PinKind::View);
        }),
        (
            "wire_in_a_locked_view_holds_nothing_beside_what_was_asked_for",
            durable().or_else(view),
            wire_in_a_locked_view_holds_nothing_beside_what_was_asked_for,
        ),
        (
            "wires_beside_one_another_hold_what_each_has_asked_for",
            view(),
            wires_beside_one_another_hold_what_each_has_asked_for,
        ),
        (
            "wire_list_with_a_page_that_is_gone_leaves_a_locked_view_as_it_was",
            durable().or_else(view),
            wire_list_with_a_page_that_is_gone_leaves_a_locked_view_as_it_was,
        ),
        (
            "unprivileged_wire_past_the_lock_limit",
            Some("run by wire_past_the_lock_limit_is_a_shortage_and_undone".to_owned()),
            unprivileged_wire_past_the_lock_limit,
        ),
        ("wire_past_the_lock_limit_is_a_shortage_and_undone", None, wire_past_the_lock_limit_is_a_shortage_and_undone),
    ])
}
