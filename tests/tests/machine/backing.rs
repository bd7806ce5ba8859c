//! RAM files that are cut short under a running guest.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use wirevm_abi::port::{LIFECYCLE, LIFECYCLE_READY};
use wirevm_abi::{LARGE_PAGE_SIZE, RAM_BASE};
use wirevm_devices::durability::Durability;
use wirevm_devices::ramfile::{HEADER_BYTES, RamFile, RamFileError};
use wirevm_tests::needs::scratch_dir;
use wirevm_tests::{Case, Need};
use wirevm_vmm::Outcome;

use super::code::{Code, RAM_PAGES, direct};
use super::lab::{Lab, PAGE, Setup, kernel};
use super::signals::Running;

/// The watchdog looks four times a second.
const NOTICED: Duration = Duration::from_secs(2);

/// A RAM file in a folder of its own.
struct Backing {
    _folder: TempDir,
    path: PathBuf,
}

impl Backing {
    fn new() -> Self {
        let folder = scratch_dir();
        Self { path: folder.path().join("cut.ram"), _folder: folder }
    }

    fn start(&self, image: &[u8]) -> Lab {
        let ram = || RamFile::create(&self.path, RAM_PAGES * PAGE, Durability::Shared).expect("a RAM file");
        Lab::start(ram, image, &Setup::default())
    }

    fn cut(&self, bytes: u64) {
        cut(&self.path, bytes);
    }

    /// Checks that the file is still as long as it was cut, and refused.
    fn expect_cut(&self, bytes: u64) {
        assert_eq!(fs::metadata(&self.path).expect("the file").len(), bytes, "the host wrote to the cut file");
        let opened = RamFile::open(&self.path, None);
        let refused = matches!(opened, Err(RamFileError::Length { .. } | RamFileError::Superblock { .. }));
        assert!(refused, "{opened:?}");
    }
}

fn cut(path: &Path, bytes: u64) {
    File::options().write(true).open(path).and_then(|file| file.set_len(bytes)).expect("cut");
}

/// A guest that says it is ready and stores to the page at `address` for ever.
fn toucher(address: u64) -> Vec<u8> {
    let ready = Code::default().out(LIFECYCLE, LIFECYCLE_READY);
    let start = ready.len();
    ready.store(direct(address), 0x1234).load(direct(address)).again_from(start).image()
}

pub const CASES: &[Case] = &[
    ("ram_cut_under_a_busy_guest_is_lost_at_its_address", &[Need::Kvm, Need::Durable], || {
        let backing = Backing::new();
        let touched = RAM_BASE + (RAM_PAGES - 1) * PAGE;
        let lab = backing.start(&toucher(touched));
        lab.booted();
        let left = HEADER_BYTES + RAM_PAGES * PAGE - LARGE_PAGE_SIZE;
        backing.cut(left);
        let outcome = lab.end_within(NOTICED);
        let Outcome::BackingLost { address } = outcome else { panic!("{outcome}") };
        // A host that runs ring 0 natively does not say where; the watchdog may have been faster besides.
        if let Some(address) = address {
            assert!((touched..touched + PAGE).contains(&address), "{address:#x}");
            println!("the guest found its memory gone at {address:#x}");
        }
        backing.expect_cut(left);
    }),
    ("ram_cut_under_an_idle_guest_is_noticed", &[Need::Kvm, Need::Durable], || {
        let backing = Backing::new();
        let lab = backing.start(&Code::default().out(LIFECYCLE, LIFECYCLE_READY).halt().image());
        lab.booted();
        // One page of the image's last: nobody touches it.
        let left = HEADER_BYTES + (RAM_PAGES - 1) * PAGE;
        backing.cut(left);
        let start = Instant::now();
        let outcome = lab.end_within(NOTICED);
        assert!(matches!(outcome, Outcome::BackingLost { .. }), "{outcome}");
        println!("the watchdog needed {:?}", start.elapsed());
        backing.expect_cut(left);
    }),
    ("ram_cut_to_nothing_under_a_busy_guest_is_lost_and_stays_empty", &[Need::Kvm, Need::Durable], || {
        // Its code and its page tables go as well: whatever the processor makes of that, memory is what is lost.
        for _ in 0..10 {
            let backing = Backing::new();
            let lab = backing.start(&toucher(RAM_BASE + 1024 * PAGE));
            lab.booted();
            backing.cut(0);
            let outcome = lab.end_within(NOTICED);
            assert!(matches!(outcome, Outcome::BackingLost { .. }), "{outcome}");
            backing.expect_cut(0);
        }
    }),
    ("wired_ram_cut_to_nothing_under_the_kernel_is_lost_and_unlocked", &[Need::Kvm, Need::Durable], || {
        let backing = Backing::new();
        let mut lab = backing.start(kernel());
        lab.booted();
        let start = lab.allocate(64);
        lab.done(&wirevm_agent::Command::Wire { start, end: start + 64 * PAGE, flags: 1 });
        backing.cut(0);
        let outcome = lab.end_within(NOTICED);
        assert!(matches!(outcome, Outcome::BackingLost { .. }), "{outcome}");
        backing.expect_cut(0);
    }),
    ("machine_stopped_right_after_the_cut_does_not_touch_the_file", &[Need::Kvm, Need::Durable], || {
        for left in [0, HEADER_BYTES, HEADER_BYTES + PAGE] {
            let backing = Backing::new();
            let lab = backing.start(&Code::default().out(LIFECYCLE, LIFECYCLE_READY).halt().image());
            lab.booted();
            backing.cut(left);
            // Sooner than the watchdog looks.
            lab.machine.stop();
            let outcome = lab.end();
            assert!(matches!(outcome, Outcome::BackingLost { .. }), "{outcome}");
            backing.expect_cut(left);
        }
    }),
    ("wirevm_on_ram_that_is_cut_ends_with_14", &[Need::Kvm, Need::Durable], || {
        for left in [0, HEADER_BYTES + PAGE, HEADER_BYTES + (16 << 20) - PAGE] {
            let backing = Backing::new();
            let running = Running::hung(&backing.path, &[]);
            cut(&backing.path, left);
            let start = Instant::now();
            let finished = running.wait();
            assert_eq!(finished.code, Some(14), "{}", finished.stderr);
            assert!(finished.stderr.contains("the memory behind guest RAM is gone"), "{}", finished.stderr);
            assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
            assert!(start.elapsed() < NOTICED * 2, "{:?}", start.elapsed());
            backing.expect_cut(left);
        }
    }),
];
