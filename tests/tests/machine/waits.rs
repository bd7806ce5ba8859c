//! A processor that waits for the host stops no other one.

use std::collections::VecDeque;
use std::thread;
use std::time::{Duration, Instant};

use wirevm_agent::{Command, Reply};
use wirevm_devices::durability::Durability;
use wirevm_devices::faults::HostFaults;
use wirevm_devices::ramfile::RamFile;
use wirevm_map::{KernReturn, WireFlags};
use wirevm_tests::needs::scratch_dir;
use wirevm_tests::{Case, Need};

use super::guests::archive;
use super::lab::{Lab, PAGE, Setup, kernel};

const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(120);

/// Reads `pulse: N beats in US us, the longest of US us`: beats, all of the time, the longest beat.
fn beats(output: &str) -> (u64, Duration, Duration) {
    let line = output.lines().find(|line| line.contains(" beats in ")).unwrap_or_else(|| panic!("{output}"));
    let numbers: Vec<u64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
    let [beats, all, longest] = numbers[..] else { panic!("{line}") };
    (beats, Duration::from_micros(all), Duration::from_micros(longest))
}

/// Lets locks go on at its end, or a machine whose test fails would never end.
struct Released(HostFaults);

impl Drop for Released {
    fn drop(&mut self) {
        self.0.release();
    }
}

fn until_one_waits(locks: &HostFaults) {
    let clock = Instant::now();
    while locks.waiting() == 0 {
        assert!(clock.elapsed() < LIMIT, "nobody locks anything");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Gives the agent one command after the other for so long; returns what the slowest took.
fn command(lab: &mut Lab, time: Duration) -> Duration {
    let (begin, mut slowest) = (Instant::now(), Duration::ZERO);
    while begin.elapsed() < time {
        let clock = Instant::now();
        lab.call_once(&Command::WireTotal);
        slowest = slowest.max(clock.elapsed());
    }
    slowest
}

/// Runs the program `pulse`, which must be held up by nothing, while the agent always has a next command.
fn beside_a_busy_agent(vcpus: u32, arguments: &'static [&'static str]) {
    let setup = Setup { vcpus, archive: archive(&[("pulse", arguments)]), ..Setup::default() };
    let mut lab = Lab::of_programs(64 * MIB, &setup);
    let mut longest: Vec<Duration> = (0..3)
        .map(|_| {
            let task = lab.run_program(0);
            let begin = Instant::now();
            let mut queued: VecDeque<u64> = (0..20).map(|_| lab.send(&Command::WireTotal)).collect();
            while let Some(first) = queued.pop_front() {
                lab.reply(first);
                if begin.elapsed() < Duration::from_millis(2500) {
                    queued.push_back(lab.send(&Command::WireTotal));
                }
            }
            lab.expect_exit(task, 0, LIMIT);
            let (beats, all, longest) = beats(&lab.output(task));
            println!(
                "beside an agent with much to do, {vcpus} vCPUs: {beats} beats in {all:?}, the longest {longest:?}"
            );
            longest
        })
        .collect();
    lab.stop();
    longest.sort();
    // A neighbour on this host can hold the thread up as well, but not every time.
    assert!(longest[1] < Duration::from_millis(400), "{longest:?}");
}

/// Starts a guest of two processors with the program `pulse`, and returns what its locks meet as well.
fn guest(arguments: &'static [&'static str]) -> (Lab, HostFaults) {
    let locks = HostFaults::default();
    let setup = Setup {
        vcpus: 2,
        archive: archive(&[("pulse", arguments)]),
        quota: 16 * MIB / PAGE,
        lock_faults: Some(locks.clone()),
        ..Setup::default()
    };
    (Lab::of_programs(64 * MIB, &setup), locks)
}

pub const CASES: &[Case] = &[
    ("thread_goes_on_while_another_has_1_gib_wired", &[Need::Kvm, Need::Lock64MiB], || {
        let setup = Setup {
            vcpus: 2,
            archive: archive(&[("pulse", &["wire", "1024"])]),
            quota: 1280 * MIB / PAGE,
            ..Setup::default()
        };
        // A neighbour on this host can hold the thread up as well, but not every time. A machine each: memory that was in use must be made
        // zero first, which takes a minute where ring 0 is emulated.
        let goes_on = (0..3).any(|_| {
            let mut lab = Lab::of_programs(1280 * MIB, &setup);
            let task = lab.run_program(0);
            // The agent as well.
            let slowest = command(&mut lab, Duration::from_secs(2));
            lab.expect_exit(task, 0, LIMIT);
            let (beats, all, longest) = beats(&lab.output(task));
            println!(
                "wiring 1 GiB: {all:?}, {beats} beats meanwhile, the longest {longest:?}; slowest command {slowest:?}"
            );
            lab.stop();
            beats > 1 && longest < all / 2
        });
        assert!(goes_on, "the thread is held up for more than half of the wire");
    }),
    ("thread_that_frees_memory_does_not_wait_for_an_agent_that_has_much_to_do", &[Need::Kvm], || {
        beside_a_busy_agent(2, &["beat", "2"]);
    }),
    ("thread_that_rests_wakes_in_time_beside_an_agent_that_has_much_to_do", &[Need::Kvm], || {
        beside_a_busy_agent(1, &["rest", "2"]);
        beside_a_busy_agent(2, &["rest", "2"]);
    }),
    ("agent_and_threads_go_on_whichever_processor_waits_for_its_locks", &[Need::Kvm, Need::Lock64MiB], || {
        let (mut lab, locks) = guest(&["wire", "4"]);
        let _released = Released(locks.clone());
        let mut slowest = Duration::ZERO;
        // The thread that wires runs on any of the two.
        for _ in 0..8 {
            locks.hold();
            let task = lab.run_program(0);
            until_one_waits(&locks);
            for _ in 0..20 {
                let clock = Instant::now();
                lab.call_once(&Command::WireTotal);
                slowest = slowest.max(clock.elapsed());
                thread::sleep(Duration::from_millis(2));
            }
            assert_eq!(locks.waiting(), 1);
            locks.release();
            lab.expect_exit(task, 0, LIMIT);
            let (beats, ..) = beats(&lab.output(task));
            assert!(beats > 1, "{beats} beats");
        }
        println!("slowest command while a processor waits: {slowest:?}");
        assert!(slowest < Duration::from_secs(1), "a command took {slowest:?}");
        lab.stop();
    }),
    ("thread_that_rests_wakes_in_time_whichever_processor_waits_for_its_locks", &[Need::Kvm, Need::Lock64MiB], || {
        let (mut lab, locks) = guest(&["rest", "6"]);
        let _released = Released(locks.clone());
        let start = lab.allocate(1);
        let (end, flags) = (start + PAGE, u64::from(WireFlags::USER.bits()));
        let task = lab.run_program(0);
        for _ in 0..6 {
            locks.hold();
            let wire = lab.send(&Command::Wire { start, end, flags });
            until_one_waits(&locks);
            thread::sleep(Duration::from_millis(600));
            locks.release();
            assert_eq!(lab.reply(wire), Reply::Done(KernReturn::Success));
            lab.done(&Command::Unwire { start, end, flags });
        }
        lab.expect_exit(task, 0, LIMIT);
        let (beats, _, longest) = beats(&lab.output(task));
        println!("{beats} rests of 5 ms, the longest of {longest:?}");
        assert!(longest < Duration::from_millis(300), "a rest of {longest:?}");
        lab.stop();
    }),
    ("thread_goes_on_while_storage_holds_the_sync_of_another", &[Need::Kvm, Need::Durable], || {
        const HELD: Duration = Duration::from_secs(2);
        let folder = scratch_dir();
        let ram = || RamFile::create(&folder.path().join("ram"), 32 * MIB, Durability::Shared).expect("a RAM file");
        let storage = HostFaults::default();
        let programs = archive(&[("pulse", &["sync", "4"])]);
        let setup = Setup { vcpus: 2, archive: programs, storage_faults: Some(storage.clone()), ..Setup::default() };
        let mut lab = Lab::start(ram, kernel(), &setup);
        lab.booted();
        storage.hold();
        let task = lab.run_program(0);
        let clock = Instant::now();
        while !lab.output(task).contains("pulse: begins") {
            assert!(clock.elapsed() < LIMIT, "the program does not begin");
            lab.call_once(&Command::WireTotal);
            thread::sleep(Duration::from_millis(5));
        }
        thread::sleep(HELD);
        storage.release();
        lab.expect_exit(task, 0, LIMIT);
        let (beats, all, longest) = beats(&lab.output(task));
        println!("held sync: {all:?}, {beats} beats meanwhile, the longest {longest:?}");
        assert!(beats > 1 && longest < HELD / 2, "{beats} beats in {all:?}, the longest {longest:?}");
        lab.stop();
    }),
];
