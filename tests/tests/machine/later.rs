//! Calls that are completed later: the guest goes on meanwhile, awaits a busy host, and what it was told is true after a kill.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use wirevm_agent::{Command, MAIN_TASK, Pattern, Reply, Request};
use wirevm_devices::durability::Durability;
use wirevm_devices::faults::HostFaults;
use wirevm_devices::ramfile::{RamFile, RamState};
use wirevm_map::{KernReturn, SyncFlags};
use wirevm_tests::needs::scratch_dir;
use wirevm_tests::{Case, Need, Wirevm};

use super::lab::{LIMIT, Lab, PAGE, Setup, kernel};
use super::signals::Running;

const NEEDS: &[Need] = &[Need::Kvm, Need::Durable];
const DONE: Reply = Reply::Done(KernReturn::Success);

/// Boots the kernel on durable RAM whose storage takes orders.
fn booted(folder: &Path) -> (Lab, HostFaults) {
    let faults = HostFaults::default();
    let setup = Setup { storage_faults: Some(faults.clone()), ..Setup::default() };
    let ram = || RamFile::create(&folder.join("later.ram"), 16 << 20, Durability::Shared).expect("a RAM file");
    let lab = Lab::start(ram, kernel(), &setup);
    lab.booted();
    (lab, faults)
}

fn sync(address: u64, pages: u64, flags: SyncFlags) -> Command {
    Command::Sync { address, size: pages * PAGE, flags: u64::from(flags.bits()) }
}

fn write(address: u64, pages: u64, byte: u8) -> Command {
    Command::Write { address, size: pages * PAGE, pattern: Pattern::byte(byte) }
}

/// Waits until the host has posted that many completions.
fn await_completions(lab: &Lab, posted: u64) {
    let start = Instant::now();
    while lab.machine.completions().posted < posted {
        assert!(start.elapsed() < LIMIT, "{:?}", lab.machine.completions());
        thread::sleep(Duration::from_millis(1));
    }
}

/// Returns what `wirevm ramfile` says of a file.
fn ramfile(path: &Path, more: &[&str]) -> Value {
    let line = ["ramfile", path.to_str().expect("UTF-8"), "--json"];
    Wirevm::new(line.iter().chain(more)).run().expect_code(0).json()
}

pub const CASES: &[Case] = &[
    ("asynchronous_sync_returns_while_storage_has_written_nothing", NEEDS, || {
        let folder = scratch_dir();
        let (mut lab, faults) = booted(folder.path());
        let start = lab.allocate(64);
        lab.done(&write(start, 64, 0x5a));
        let frames = lab.frames(start, 64);
        faults.hold();
        lab.done(&sync(start, 64, SyncFlags::ASYNCHRONOUS));
        // The doorbell has returned and the guest carries commands out, with all of the work still to be done.
        lab.done(&Command::Check);
        let stats = lab.machine.completions();
        assert!(stats.outstanding > 0, "a completion for each run of pages is to come");
        assert_eq!((stats.posted, lab.dirty(&frames)), (0, 64));
        faults.release();
        await_completions(&lab, stats.outstanding);
        assert_eq!(lab.dirty(&frames), 0);
        lab.done(&Command::Quiesce);
        lab.stop();
    }),
    ("synchronous_caller_waits_for_its_completion_while_others_go_on", NEEDS, || {
        let folder = scratch_dir();
        let (mut lab, faults) = booted(folder.path());
        let start = lab.allocate(8);
        lab.done(&write(start, 8, 0x5a));
        faults.hold();
        let mut words = Vec::new();
        Request { thread: 1, ..Request::new(MAIN_TASK, sync(start, 8, SyncFlags::SYNCHRONOUS)) }.encode(&mut words);
        let thread = lab.send_words(&words);
        assert_eq!(lab.reply(thread), Reply::Started);
        let other = lab.allocate(4);
        lab.done(&write(other, 4, 0x77));
        assert_eq!(lab.call_once(&Command::Join { thread: 1 }), Reply::Awaits);
        // The answer of this comes with the completion, not before.
        let awaited = lab.send(&Command::AwaitHost);
        thread::sleep(Duration::from_millis(50));
        assert_eq!(lab.machine.completions().posted, 0);
        faults.release();
        assert_eq!(lab.reply(awaited), DONE);
        let frames = lab.frames(start, 8);
        let stats = lab.machine.completions();
        assert_eq!((lab.dirty(&frames), stats.outstanding), (0, 0));
        assert!(stats.posted > 0 && stats.interrupts > 0, "the guest is told by an interrupt: {stats:?}");
        lab.stop();
    }),
    ("sync_of_more_runs_than_a_call_holds_takes_as_few_calls_as_hold_them", NEEDS, || {
        let folder = scratch_dir();
        let (mut lab, _) = booted(folder.path());
        let start = lab.allocate(2 * 130);
        // Every other page: so many runs.
        for page in 0..130 {
            lab.done(&write(start + 2 * page * PAGE, 1, 0xa1));
        }
        let before = (lab.machine.hypercalls(), lab.machine.syncs().stats());
        lab.done(&sync(start, 2 * 130, SyncFlags::SYNCHRONOUS));
        let after = lab.machine.syncs().stats();
        let ranges = lab.machine.completions().posted;
        assert!(ranges > 0 && ranges <= 130, "a completion for each range: {ranges}");
        let calls = ranges.div_ceil(126);
        assert_eq!(lab.machine.hypercalls() - before.0, calls, "{ranges} ranges");
        assert_eq!((after.requests - before.1.requests, after.pages - before.1.pages), (calls, 130));
        assert!(after.flushes - before.1.flushes <= calls, "{after:?}");
        for page in 0..130 {
            let frames = lab.frames(start + 2 * page * PAGE, 1);
            assert_eq!(lab.dirty(&frames), 0, "page {page}");
        }
        lab.stop();
    }),
    ("host_that_is_busy_is_awaited_and_every_sync_comes_true", NEEDS, || {
        let folder = scratch_dir();
        let (mut lab, faults) = booted(folder.path());
        // More requests than the host's queue holds, with what its workers have in hand.
        let requests = 80;
        let start = lab.allocate(requests);
        lab.done(&write(start, requests, 0x5a));
        let frames = lab.frames(start, requests);
        faults.hold();
        for page in 0..requests {
            lab.done(&sync(start + page * PAGE, 1, SyncFlags::ASYNCHRONOUS));
        }
        let stats = lab.machine.syncs().stats();
        assert!(stats.busy > 0 && stats.requests < requests, "{stats:?}");
        assert_eq!(lab.dirty(&frames), requests, "nothing is written while storage is held");
        faults.release();
        lab.done(&Command::Quiesce);
        assert_eq!((lab.dirty(&frames), lab.machine.completions().outstanding), (0, 0));
        assert_eq!(lab.machine.completions().posted, requests, "each is completed once");
        lab.done(&sync(start, requests, SyncFlags::SYNCHRONOUS));
        lab.stop();
    }),
    ("bytes_that_were_synced_are_found_in_the_file_of_a_killed_process", NEEDS, || {
        let folder = scratch_dir();
        let path = folder.path().join("killed.ram");
        let script = "a = allocate 8 pages\nwrite a 0x5a\nwrite @a+19 \"these bytes survive\"\n\
                      sync a synchronous => SUCCESS\nwire a user\ncrash hang\n";
        let running = Running::wired(script, &path, &[]);
        running.signal("KILL");
        assert_eq!(running.wait().code, None);
        let words = ramfile(&path, &["--find", "these bytes survive"]);
        let pages = words["pages"].as_array().expect("pages");
        // The agent's ring has held the words as well.
        let is_it = |page: &&Value| page["hex"].as_str().is_some_and(|hex| hex.starts_with("746865736520627974657320"));
        assert!(pages.iter().any(|page| is_it(&page)), "{words}");
        assert_eq!(ramfile(&path, &["--find", "nobody wrote this"])["pages"], serde_json::json!([]));
        let found = ramfile(&path, &["--page", "0", "--count", "4096"]);
        assert_eq!((&found["ok"], &found["state"], &found["ram_pages"]), (&true.into(), &"open".into(), &4096.into()));
        let filled = found["pages"].as_array().expect("pages").iter().filter(|page| page["byte"] == 0x5a);
        assert_eq!(filled.count(), 7);
        let told = Wirevm::new(["ramfile", path.to_str().expect("UTF-8")]).run().expect_code(0);
        assert!(told.stdout.contains("open: it was not closed in order"), "{}", told.stdout);
        let memory = format!("file={}", path.display());
        let next = Wirevm::new(["script", "-", "--json", "--memory", &memory]).input("check\n").run().expect_code(0);
        assert_eq!(next.json()["machine"]["previous_end"], "open");
        assert!(next.stderr.starts_with("wirevm: warning: ") && next.stderr.contains("was not closed in order"));
        assert_eq!(ramfile(&path, &[])["state"], "clean");
    }),
    ("storage_error_is_in_the_file_before_the_guest_is_told", NEEDS, || {
        let folder = scratch_dir();
        let path = folder.path().join("failed.ram");
        let script = "a = allocate 8 pages\nwrite a 0x5a\nhost fail sync nth 1 EIO\nsync a synchronous => FAILURE\n\
                      wire a user\ncrash hang\n";
        let running = Running::wired(script, &path, &["--on-storage-error", "latch"]);
        running.signal("KILL");
        assert_eq!(running.wait().code, None);
        let found = ramfile(&path, &[]);
        assert_eq!((&found["state"], &found["errno"]), (&"failed".into(), &libc::EIO.into()));
    }),
    ("restart_on_a_file_that_storage_failed_under_says_so", NEEDS, || {
        let folder = scratch_dir();
        let path = folder.path().join("failed.ram");
        let ram = RamFile::create(&path, 16 << 20, Durability::Shared).expect("a RAM file");
        ram.set_state(RamState::Failed { errno: libc::ENOSPC, first_page: Some(7) }).expect("marked");
        drop(ram);
        let memory = format!("file={}", path.display());
        let run = || Wirevm::new(["script", "-", "--json", "--memory", &memory]).input("check\n").run().expect_code(0);
        let (first, second) = (run(), run());
        assert_eq!(first.json()["machine"]["previous_end"], "failed");
        let warning = first.stderr.lines().find(|line| line.starts_with("wirevm: warning: ")).expect("a warning");
        assert!(warning.contains("storage failed under") && warning.contains("first at RAM page 7"), "{warning}");
        assert_eq!(second.json()["machine"]["previous_end"], "clean");
        assert!(!second.stderr.contains("warning"), "{}", second.stderr);
    }),
];
