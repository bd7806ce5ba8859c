//! How fast programs touch memory, beside the same loops run natively by this process.

use std::time::Duration;

use wirevm_tests::touching::{Touched, touch_natively};
use wirevm_tests::{Case, Need};
use wirevm_user::touch::Pattern;

use super::guests::archive;
use super::lab::{Lab, Setup};

const MIB: u64 = 1 << 20;
const ROUNDS: usize = 5;
/// Many passes over little memory: the first touch of a page takes milliseconds where ring 0 is emulated.
const PASSES: usize = 400;
const TOUCHED_MIB: usize = 16;
const ROUND_LIMIT: Duration = Duration::from_secs(300);

/// Lets this process and a program touch 16 MiB, round by round in turn, with so many threads, and prints how they compare: the median
/// of whole rounds, which are held to their limit, and what was fastest.
fn compare(name: &'static str, pattern: Pattern, threads: usize) {
    let count: &'static str = if threads == 1 { "1" } else { "2" };
    let programs = archive(&[("toucher", &["16", "400", name, "threads", count])]);
    let vcpus = if threads == 1 { 1 } else { 2 };
    let time_limit = ROUND_LIMIT * 6;
    let mut lab = Lab::of_programs(64 * MIB, &Setup { vcpus, archive: programs, time_limit, ..Setup::default() });
    let (mut guest, mut native) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        native.push(touch_natively(TOUCHED_MIB, PASSES, pattern, threads));
        let task = lab.run_program(0);
        lab.expect_exit(task, 0, ROUND_LIMIT);
        let output = lab.output(task);
        guest.push(Touched::from_output(&output).unwrap_or_else(|| panic!("{output}")));
        lab.end_task(task);
    }
    lab.stop();
    let sorted = |all: &[Touched], time: fn(&Touched) -> u64| {
        let mut times: Vec<u64> = all.iter().map(time).collect();
        times.sort_unstable();
        times
    };
    let whole: fn(&Touched) -> u64 = |touched| touched.all;
    for (what, time, place, is_limited) in [
        ("median round", whole, ROUNDS / 2, true),
        ("best round", whole, 0, true),
        ("best pass", |touched| touched.best, 0, true),
        ("first touch", |touched| touched.first, 0, false),
    ] {
        let (guest, native) = (sorted(&guest, time)[place], sorted(&native, time)[place]);
        println!(
            "{name}, {threads} thread(s), {what}: {} % of native speed ({guest} ns, {native} ns)",
            100 * native / guest.max(1)
        );
        assert!(!is_limited || 10 * native >= 9 * guest, "{what}: {guest} ns, natively {native} ns");
    }
}

/// For a host that has nothing else to do.
pub const LONG: &[Case] = &[
    ("toucher_is_as_fast_as_native_code", &[Need::Kvm], || {
        compare("read", Pattern::Read, 1);
        compare("write", Pattern::Write, 1);
    }),
    ("two_threads_of_toucher_are_as_fast_as_two_native_ones", &[Need::Kvm], || {
        compare("read", Pattern::Read, 2);
        compare("write", Pattern::Write, 2);
    }),
];
