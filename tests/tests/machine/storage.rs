//! Machines on a disk that fails: nobody is told that bytes are stable which are not.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use wirevm_abi::call::{CallEntry, CallPage};
use wirevm_abi::port::DOORBELL;
use wirevm_abi::{RAM_BASE, RamRange, Status, VERSION, op};
use wirevm_agent::{Command, Pattern, Reply};
use wirevm_devices::durability::Durability;
use wirevm_devices::ramfile::{PreviousEnd, RamFile};
use wirevm_map::{KernReturn, SyncFlags, WireFlags};
use wirevm_tests::image::call_page;
use wirevm_tests::{Case, Finished, Need, Wirevm};
use wirevm_vmm::{Outcome, StorageErrorPolicy};
use zerocopy::{FromZeros, IntoBytes};

use super::code::{Code, RAM_PAGES, direct, layout};
use super::disk::Disk;
use super::lab::{LIMIT, Lab, PAGE, Setup, kernel};
use super::signals::previous_end;

/// The RAM page whose block cannot be written.
const BAD: u64 = 1500;
/// What is found on the disk where the bad blocks are.
const MARK: u8 = 0xb7;

const NEEDS: &[Need] = &[Need::Kvm, Need::Root];

fn with(policy: StorageErrorPolicy) -> Setup {
    Setup { policy, ..Setup::default() }
}

fn sync(page: u64) -> CallEntry {
    CallEntry::new(op::SYNC, op::SYNC_WAIT, [page, 1, 0])
}

/// Makes a RAM file of which the bad page cannot be written any more.
fn spoiled(disk: &Disk) -> RamFile {
    let ram = RamFile::create(&disk.path("guest.ram"), RAM_PAGES * PAGE, Durability::Shared).expect("a RAM file");
    let file = ram.reopen().expect("a description");
    file.write_all_at(&[MARK; 4096], ram.data_offset() + BAD * PAGE).expect("marked");
    file.sync_all().expect("the disk is still good");
    assert_eq!(disk.spoil(&[MARK; 4096]), 1);
    ram
}

/// Starts a guest that stores to the bad page and makes that call.
fn on_bad_disk(disk: &Disk, call: &CallPage, policy: StorageErrorPolicy) -> Lab {
    let code = Code::default().store(direct(RAM_BASE + BAD * PAGE), 1);
    let code = code.copy(direct(layout(RAM_PAGES).call_page()), call.as_bytes()).out(DOORBELL, 1);
    Lab::start(|| spoiled(disk), &code.crashed().halt().image(), &with(policy))
}

fn is_bad(end: PreviousEnd, page: Option<u64>) -> bool {
    let PreviousEnd::Failed { errno, first_page } = end else { return false };
    matches!(errno, libc::EIO | libc::ENOSPC) && (page.is_none() || first_page == page)
}

/// Runs a script with a policy on a RAM file.
fn script(text: &str, path: &Path, policy: &str) -> Finished {
    let memory = format!("size=16M,file={}", path.display());
    Wirevm::new(["script", "-", "--json", "--on-storage-error", policy, "--memory", &memory]).input(text).run()
}

pub const CASES: &[Case] = &[
    ("storage_error_is_told_to_the_guest_once_and_poisons_every_later_sync", NEEDS, || {
        let disk = Disk::new();
        // What stands between two syncs makes them two requests.
        let wire = CallEntry::new(op::WIRE, 0, [BAD, 1, 0]);
        let hello = CallEntry::new(op::HELLO, 0, [VERSION, 0, 0]);
        let entries = [hello, sync(BAD + 1), wire, sync(BAD), wire, sync(BAD), wire, sync(BAD + 1)];
        let lab = on_bad_disk(&disk, &call_page(&entries), StorageErrorPolicy::Latch);
        let outcome = lab.machine.wait();
        assert!(matches!(outcome, Outcome::Crashed(_)), "the guest goes on to its own end: {outcome}");
        let mut page = CallPage::new_zeroed();
        let number = (layout(RAM_PAGES).call_page() - RAM_BASE) / PAGE;
        page.as_mut_bytes().copy_from_slice(&lab.machine.witness().bytes(number).expect("the witness"));
        let statuses: Vec<Status> = page.entries[..entries.len()].iter().map(CallEntry::status).collect();
        let (ok, poisoned) = (Status::OK, Status::POISONED);
        assert_eq!(statuses, [ok, ok, ok, Status::IO_ERROR, ok, poisoned, ok, poisoned]);
        let latched = lab.machine.syncs().latched().expect("latched");
        assert!(matches!(latched.errno, libc::EIO | libc::ENOSPC) && latched.first_page == Some(BAD), "{latched}");
        // A page that is wired keeps what was stored.
        assert_eq!(lab.machine.witness().bytes(BAD).expect("the witness")[0], 1);
        drop(lab.end());
        let end = previous_end(&disk.path("guest.ram"));
        assert!(is_bad(end, Some(BAD)), "{end:?}");
    }),
    ("storage_error_ends_the_machine_under_policy_stop", NEEDS, || {
        let disk = Disk::new();
        let entries = [CallEntry::new(op::HELLO, 0, [VERSION, 0, 0]), sync(BAD)];
        let lab = on_bad_disk(&disk, &call_page(&entries), StorageErrorPolicy::Stop);
        let outcome = lab.end_within(LIMIT);
        let Outcome::StorageError { reason } = &outcome else { panic!("{outcome}") };
        assert!(reason.contains(&format!("of the pages from {BAD} on")), "{reason}");
        let end = previous_end(&disk.path("guest.ram"));
        assert!(is_bad(end, Some(BAD)), "{end:?}");
    }),
    ("storage_error_of_a_write_that_nobody_asked_for_ends_the_machine_too", NEEDS, || {
        let disk = Disk::new();
        let idle = Code::default().store(direct(RAM_BASE + BAD * PAGE), 1).halt().image();
        let lab = Lab::start(|| spoiled(&disk), &idle, &with(StorageErrorPolicy::Stop));
        let bad = RamRange::new(BAD, 1, RAM_PAGES).expect("inside RAM");
        while lab.dirty(&[bad]) == 0 {
            thread::yield_now();
        }
        // As the kernel does when it wants memory back.
        let written = File::open(disk.path("guest.ram")).expect("the file").sync_all();
        assert!(written.is_err(), "the block was written after all");
        let outcome = lab.end_within(Duration::from_secs(4));
        assert!(matches!(outcome, Outcome::StorageError { .. }), "{outcome}");
        let end = previous_end(&disk.path("guest.ram"));
        assert!(is_bad(end, None), "{end:?}");
    }),
    ("kernel_lives_on_under_policy_latch_and_no_sync_succeeds", NEEDS, || {
        let disk = Disk::new();
        let path = disk.path("guest.ram");
        let ram = || RamFile::create(&path, 16 << 20, Durability::Shared).expect("a RAM file");
        let mut lab = Lab::start(ram, kernel(), &with(StorageErrorPolicy::Latch));
        lab.booted();
        let start = lab.allocate(8);
        let sync = |address| Command::Sync { address, size: PAGE, flags: u64::from(SyncFlags::SYNCHRONOUS.bits()) };
        let write = |address, byte| Command::Write { address, size: PAGE, pattern: Pattern::byte(byte) };
        lab.done(&Command::Wire { start, end: start + PAGE, flags: u64::from(WireFlags::USER.bits()) });
        lab.done(&write(start, MARK));
        lab.done(&sync(start));
        assert_eq!(disk.spoil(&[MARK; 4096]), 1);
        lab.done(&write(start, 1));
        lab.done(&write(start + PAGE, 2));
        for address in [start, start + PAGE, start] {
            assert_eq!(lab.call(&sync(address)), Reply::Done(KernReturn::Failure), "{address:#x}");
        }
        lab.done(&Command::Expect { address: start, size: PAGE, pattern: Pattern::byte(1) });
        lab.done(&Command::Check);
        assert_eq!(lab.locked(), 1);
        lab.stop();
        let end = previous_end(&path);
        assert!(is_bad(end, None), "{end:?}");
    }),
    ("wirevm_ends_with_7_on_a_bad_disk_and_tells_of_it_next_time", NEEDS, || {
        let disk = Disk::new();
        let path = disk.path("guest.ram");
        let write = format!("a = allocate 64 pages\nwrite a {MARK:#x}\n");
        drop(script(&format!("{write}sync a synchronous\n"), &path, "stop").expect_code(0));
        assert_eq!(previous_end(&path), PreviousEnd::Clean);
        assert!(disk.spoil(&[MARK; 4096]) >= 64);

        let stopped = script(&format!("{write}sync a synchronous => any\ncheck\n"), &path, "stop").expect_code(7);
        assert!(stopped.stderr.contains("storage failed"), "{}", stopped.stderr);
        assert!(is_bad(previous_end(&path), None));

        let latched = script(
            &format!("{write}sync a synchronous => FAILURE\nsync a synchronous => FAILURE\ncheck\n"),
            &path,
            "latch",
        );
        let latched = latched.expect_code(7);
        let report = latched.json();
        let notes = report.pointer("/machine/notes").expect("notes").to_string();
        assert!(notes.contains("storage failed under") && notes.contains("last time"), "{notes}");
        let steps = report.pointer("/operations").and_then(|steps| steps.as_array()).expect("operations");
        assert_eq!(steps.len(), 5, "the guest goes on: {report:#}");
        assert!(is_bad(previous_end(&path), None));
    }),
];
