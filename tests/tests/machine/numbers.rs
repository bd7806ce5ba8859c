//! What booting and wiring cost. Times are printed; counts are held to their limits.

use std::time::Duration;

use wirevm_agent::Command;
use wirevm_devices::ramfile::RamFile;
use wirevm_tests::{Case, Need};

use super::guests::{Entry, archive};
use super::lab::{Lab, PAGE, Setup, kernel};

/// Fewer mean that KVM does not count what runs at ring 0.
const COUNTED: u64 = 1000;
const MIB: u64 = 1 << 20;

fn on_memfd(ram_bytes: u64, quota: u64) -> Lab {
    let ram = || RamFile::memfd(ram_bytes).expect("a memfd");
    Lab::start(ram, kernel(), &Setup { quota, ..Setup::default() })
}

/// Says that a limit on instructions of ring 0 could not be looked at.
fn say_uncounted(what: &str) {
    println!("{what}: not checked, as KVM does not count the instructions of ring 0 here");
}

/// Returns the instructions that KVM has emulated on all vCPUs once nothing runs any more; none where it does not count.
fn instructions_at_rest(lab: &Lab) -> Option<u64> {
    let mut before = lab.machine.emulated_instructions()?;
    loop {
        // A vCPU that is busy adds what it did at least every two milliseconds, unless the host has no time for it.
        std::thread::sleep(Duration::from_millis(100));
        let now = lab.machine.emulated_instructions()?;
        if now == before {
            return Some(now).filter(|count| *count >= COUNTED);
        }
        before = now;
    }
}

/// Returns the instructions of ring 0 for each of the things that a program does as often as its arguments say: the second
/// entry does so many more of them than the first. None where KVM does not count.
fn instructions_for_each(vcpus: u32, programs: &[Entry; 2], more: u64) -> Option<u64> {
    let mut lab = Lab::of_programs(
        16 * MIB,
        &Setup { vcpus, archive: archive(programs), time_limit: Duration::from_secs(600), ..Setup::default() },
    );
    let mut run = |entry| {
        let before = instructions_at_rest(&lab);
        print!("{}", lab.expect_ok(entry, Duration::from_secs(60)));
        Some(instructions_at_rest(&lab)? - before?)
    };
    // The first time is not like the next.
    run(0);
    let taken = run(0).zip(run(1));
    lab.stop();
    let (few, many) = taken?;
    Some((many - few) / more)
}

/// What the program `meter` does, few and many times, how many more these are, and the most instructions of ring 0 for each.
type Measured = ([Entry; 2], u64, u64);

const WIRING: &[Measured] = &[
    // One call wires a page and another one unwires it.
    ([("meter", &["wire", "100"]), ("meter", &["wire", "600"])], 500, 3_000),
    // In the middle of others, by which the entry and the object's run of pages are split and merged again.
    ([("meter", &["wire", "100", "inside"]), ("meter", &["wire", "600", "inside"])], 500, 5_600),
    // Pages whose frames lie apart: each is a run by itself.
    ([("meter", &["wire-scattered", "2", "126"]), ("meter", &["wire-scattered", "6", "126"])], 4 * 126, 1_900),
];
const FIRST_TOUCH: &[Measured] =
    &[([("meter", &["first-touch", "256"]), ("meter", &["first-touch", "1280"])], 1024, 3_600)];

/// Holds what programs do to its limits, on one processor and on two.
fn expect_at_most(what: &str, all: &[Measured]) {
    for (programs, more, at_most) in all {
        for vcpus in [1, 2] {
            let Some(taken) = instructions_for_each(vcpus, programs, *more) else { return say_uncounted(what) };
            println!("{what} with {vcpus} vCPUs: {taken} instructions, at most {at_most}: {programs:?}");
            assert!(taken <= *at_most, "{taken}");
        }
    }
}

/// Returns the instructions of ring 0 for a page fault on a page that is resident. None where KVM does not count.
fn instructions_of_a_fault(vcpus: u32) -> Option<u64> {
    let programs: &[Entry] = &[("refault", &["1"]), ("refault", &["9"])];
    let mut lab = Lab::of_programs(
        16 * MIB,
        &Setup { vcpus, archive: archive(programs), time_limit: Duration::from_secs(600), ..Setup::default() },
    );
    let mut run = |entry| {
        let task = lab.run_program(entry);
        let prepared = instructions_at_rest(&lab)?;
        let touched = loop {
            let now = instructions_at_rest(&lab)?;
            if now != prepared {
                break now;
            }
        };
        lab.expect_exit(task, 0, Duration::from_secs(60));
        lab.end_task(task);
        Some(touched - prepared)
    };
    // An interrupt that comes meanwhile counts as well: the lesser of two, and enough faults that the rest does not matter.
    let mut least = |entry| (0..2).map(|_| run(entry)).min().flatten();
    let taken = least(0).zip(least(1));
    lab.stop();
    let (few, many) = taken?;
    // Eight regions more, of eight pages each.
    Some((many - few) / 64)
}

pub const CASES: &[Case] = &[
    ("boot_takes_at_most_60000_instructions_whatever_the_memory", &[Need::Kvm], || {
        for ram_bytes in [16 * MIB, 64 * MIB, 256 * MIB] {
            let lab = on_memfd(ram_bytes, 256);
            let booted = lab.booted();
            println!("boot on {} MiB: {:?} instructions, {:?}", ram_bytes / MIB, booted.instructions, booted.elapsed);
            match booted.instructions.filter(|count| *count >= COUNTED) {
                Some(instructions) => assert!(instructions <= 60_000, "{instructions}"),
                None => say_uncounted("boot"),
            }
            lab.stop();
        }
    }),
    ("boot_takes_at_most_25000_instructions_more_for_each_vcpu", &[Need::Kvm], || {
        let mut alone = None;
        for vcpus in [1, 2, 4, 8, 16] {
            let ram = || RamFile::memfd(16 * MIB).expect("a memfd");
            let lab = Lab::start(ram, kernel(), &Setup { vcpus, ..Setup::default() });
            let booted = lab.booted();
            // What the further ones do behind that counts as well.
            let taken = instructions_at_rest(&lab);
            lab.stop();
            println!(
                "boot with {vcpus} vCPUs: {:?} instructions, {:?}; at rest {taken:?}",
                booted.instructions, booted.elapsed
            );
            let Some(taken) = taken else {
                say_uncounted("boot with more vCPUs");
                continue;
            };
            let first = *alone.get_or_insert(taken);
            let more = taken.saturating_sub(first);
            assert!(more <= 25_000 * u64::from(vcpus - 1), "{more} more for {} vCPUs more", vcpus - 1);
        }
    }),
    ("null_call_takes_at_most_150_instructions", &[Need::Kvm], || {
        for vcpus in [1, 2] {
            let taken = instructions_for_each(vcpus, &[("calls", &["500"]), ("calls", &["2500"])], 2_000);
            let Some(taken) = taken else { return say_uncounted("null call") };
            println!("null call with {vcpus} vCPUs: {taken} instructions");
            assert!(taken <= 150, "{taken}");
        }
    }),
    ("fault_on_a_resident_page_takes_at_most_400_instructions", &[Need::Kvm], || {
        for vcpus in [1, 2] {
            let Some(taken) = instructions_of_a_fault(vcpus) else { return say_uncounted("fault on a resident page") };
            println!("fault on a resident page with {vcpus} vCPUs: {taken} instructions");
            assert!(taken <= 400, "{taken}");
        }
    }),
    ("wiring_and_unwiring_a_page_takes_at_most_3000_instructions", &[Need::Kvm], || {
        expect_at_most("wiring and unwiring a page", WIRING);
    }),
    ("first_touch_of_a_page_takes_at_most_3600_instructions", &[Need::Kvm], || {
        expect_at_most("first touch of a page", FIRST_TOUCH);
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
        match boot(false).filter(|count| *count >= COUNTED) {
            Some(counted) => {
                assert!(steps.abs_diff(counted) < counted / 10, "{steps} steps, {counted} instructions");
            }
            None => say_uncounted("boot as KVM counts it"),
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
];
