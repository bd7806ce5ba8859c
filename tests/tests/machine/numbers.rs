//! What booting and wiring cost. Times are printed; counts are held to their limits.

use wirevm_agent::Command;
use wirevm_devices::ramfile::RamFile;
use wirevm_tests::{Case, Need, Wirevm};

use super::lab::{Lab, PAGE, Setup, kernel};

/// Fewer mean that KVM does not count what runs at ring 0.
const COUNTED: u64 = 1000;
const MIB: u64 = 1 << 20;

fn on_memfd(ram_bytes: u64, quota: u64) -> Lab {
    let ram = || RamFile::memfd(ram_bytes).expect("a memfd");
    Lab::start(ram, kernel(), &Setup { quota, ..Setup::default() })
}

pub const CASES: &[Case] = &[
    ("boot_takes_at_most_60000_instructions_whatever_the_memory", &[Need::Kvm], || {
        for ram_bytes in [16 * MIB, 64 * MIB, 256 * MIB] {
            let lab = on_memfd(ram_bytes, 256);
            let booted = lab.booted();
            println!("boot on {} MiB: {:?} instructions, {:?}", ram_bytes / MIB, booted.instructions, booted.elapsed);
            if let Some(instructions) = booted.instructions.filter(|count| *count >= COUNTED) {
                assert!(instructions <= 60_000, "{instructions}");
            }
            lab.stop();
        }
    }),
    ("boot_step_by_step_counts_what_kvm_counts", &[Need::Kvm], || {
        let boot = |single_step| {
            let ram = || RamFile::memfd(16 * MIB).expect("a memfd");
            let mut lab = Lab::start(ram, kernel(), &Setup { single_step, ..Setup::default() });
            let instructions = lab.booted().instructions;
            // From here on the guest runs at its own pace.
            lab.allocate(1);
            lab.stop();
            instructions
        };
        let steps = boot(true).expect("somebody counted");
        println!("boot in {steps} steps");
        assert!((COUNTED..=60_000).contains(&steps), "{steps}");
        if let Some(counted) = boot(false).filter(|count| *count >= COUNTED) {
            assert!(steps.abs_diff(counted) < counted / 10, "{steps} steps, {counted} instructions");
        }
    }),
    ("wiring_64_mib_is_one_hypercall", &[Need::Kvm, Need::Lock64MiB], || {
        let mut lab = on_memfd(128 * MIB, 64 * MIB / PAGE);
        lab.booted();
        let pages = 64 * MIB / PAGE;
        let start = lab.allocate(pages);
        let end = start + 64 * MIB;
        let before = lab.machine.hypercalls();
        let clock = std::time::Instant::now();
        lab.done(&Command::Wire { start, end, flags: 1 });
        println!("wiring 64 MiB: {} hypercalls, {:?}", lab.machine.hypercalls() - before, clock.elapsed());
        assert_eq!(lab.machine.hypercalls() - before, 1);
        assert_eq!(lab.locked(), pages);
        let before = lab.machine.hypercalls();
        lab.done(&Command::Unwire { start, end, flags: 1 });
        assert_eq!((lab.machine.hypercalls() - before, lab.locked()), (1, 0));
        lab.stop();
    }),
    ("bench_boot_reaches_its_limits_and_at_most_8_mib_besides_guest_ram", &[Need::Kvm], || {
        let finished = Wirevm::new(["bench", "boot", "--json"]).run().expect_code(0);
        let report = finished.json();
        let measurements = report.pointer("/measurements").and_then(|all| all.as_array()).expect("measurements");
        let mut limited = Vec::new();
        for measurement in measurements {
            let word = |key: &str| measurement.get(key).and_then(serde_json::Value::as_u64);
            let name = measurement.get("name").and_then(|name| name.as_str()).expect("a name");
            println!("{name}: {:?}, at most {:?}", word("value"), word("at_most"));
            if let (Some(value), Some(at_most)) = (word("value"), word("at_most")) {
                assert!(value <= at_most, "{name}: {value}, at most {at_most}");
                limited.push(name);
            }
        }
        assert!(limited.contains(&"resident besides guest RAM"), "{limited:?}");
        assert!(limited.iter().any(|name| name.ends_with("hypercalls")), "{limited:?}");
    }),
];
