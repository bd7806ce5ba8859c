//! Machines on RAM files that were used before.

use std::os::unix::fs::FileExt;
use std::path::Path;

use wirevm_agent::{Command, Pattern};
use wirevm_devices::durability::Durability;
use wirevm_devices::ramfile::{PreviousEnd, RamFile, RamState};
use wirevm_map::SyncFlags;
use wirevm_tests::needs::scratch_dir;
use wirevm_tests::{Case, Need, Wirevm};

use super::lab::{Lab, PAGE, Setup, kernel};
use super::signals::previous_end;

const RAM_BYTES: u64 = 16 << 20;
const NEEDS: &[Need] = &[Need::Kvm, Need::Durable];

/// Makes a RAM file that an earlier machine left full of garbage, stable and in order.
fn make_garbage(path: &Path) {
    let ram = RamFile::create(path, RAM_BYTES, Durability::Shared).expect("a RAM file");
    ram.set_state(RamState::Open).expect("marked");
    let file = ram.reopen().expect("a description");
    let garbage: Vec<u8> = (0..=254).cycle().take(1 << 20).collect();
    for part in 0..RAM_BYTES >> 20 {
        file.write_all_at(&garbage, ram.data_offset() + (part << 20)).expect("written");
    }
    ram.set_state(RamState::Clean).expect("marked");
}

/// Boots the kernel on the file and checks that memory is zero whatever the file holds, and that storage is not until a
/// sync; leaves `byte` in the pages.
fn use_and_leave(path: &Path, byte: u8) {
    let mut lab = Lab::start(|| RamFile::open(path, None).expect("the RAM file"), kernel(), &Setup::default());
    lab.booted();
    let start = lab.allocate(64);
    let size = 64 * PAGE;
    lab.done(&Command::Expect { address: start, size, pattern: Pattern::byte(0) });
    let frames = lab.frames(start, 64);
    assert_eq!(lab.dirty(&frames), 64, "storage holds something else");
    let sync = Command::Sync { address: start, size, flags: u64::from(SyncFlags::SYNCHRONOUS.bits()) };
    lab.done(&sync);
    assert_eq!(lab.dirty(&frames), 0);
    for range in &frames {
        for page in range.first()..range.end() {
            assert_eq!(lab.machine.witness().bytes(page).expect("the witness"), [0; 4096], "RAM page {page}");
        }
    }
    lab.done(&Command::Write { address: start, size, pattern: Pattern::byte(byte) });
    lab.done(&sync);
    lab.done(&Command::Check);
    lab.stop();
    assert_eq!(previous_end(path), PreviousEnd::Clean);
}

pub const CASES: &[Case] = &[
    ("memory_on_a_file_of_garbage_is_zero_and_dirty_until_synced_every_time", NEEDS, || {
        let folder = scratch_dir();
        let path = folder.path().join("garbage.ram");
        make_garbage(&path);
        for byte in [0xaa, 0x55, 0xaa] {
            use_and_leave(&path, byte);
        }
    }),
    ("memory_wired_on_a_file_of_garbage_is_zero", NEEDS, || {
        let folder = scratch_dir();
        let path = folder.path().join("wired.ram");
        make_garbage(&path);
        let mut lab = Lab::start(|| RamFile::open(&path, None).expect("the RAM file"), kernel(), &Setup::default());
        lab.booted();
        let start = lab.allocate(200);
        lab.done(&Command::Wire { start, end: start + 200 * PAGE, flags: 1 });
        assert_eq!(lab.locked(), 200);
        for range in lab.frames(start, 200) {
            for page in range.first()..range.end() {
                assert_eq!(lab.machine.witness().bytes(page).expect("the witness"), [0; 4096], "RAM page {page}");
            }
        }
        lab.stop();
    }),
    ("wirevm_runs_the_demo_on_a_file_of_garbage_twice", NEEDS, || {
        let folder = scratch_dir();
        let path = folder.path().join("demo.ram");
        make_garbage(&path);
        for _ in 0..2 {
            let memory = format!("file={}", path.display());
            let finished = Wirevm::new(["run", "--json", "--memory", &memory]).run().expect_code(0);
            let size = finished.json().pointer("/machine/ram_bytes").and_then(serde_json::Value::as_u64);
            assert_eq!(size, Some(RAM_BYTES));
            assert_eq!(previous_end(&path), PreviousEnd::Clean);
        }
    }),
];
