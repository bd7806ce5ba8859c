//! Programs that do everything at once, and programs that try what they must not, beside others that go on.

use std::thread;
use std::time::{Duration, Instant};

use wirevm_agent::{Command, ProgramEnd, Reply};
use wirevm_map::KernReturn;
use wirevm_tests::needs::scratch_dir;
use wirevm_tests::{Case, Need};
use wirevm_user::storm::DEEDS;

use super::guests::{Entry, archive};
use super::lab::{Lab, Setup};

const KVM: &[Need] = &[Need::Kvm];
const DISK: &[Need] = &[Need::Kvm, Need::Durable, Need::Stores];
const MIB: u64 = 1 << 20;
/// Longest life of a program that has little to do, where ring 0 is emulated and shares its host.
const LIMIT: Duration = Duration::from_secs(120);
/// Longest time that the agent takes for a small command while programs want every processor.
const ANSWER: Duration = Duration::from_secs(1);

const RAM_BYTES: u64 = 32 * MIB;

/// Starts a guest whose programs need time.
fn guest(vcpus: u32, programs: &'static [Entry]) -> Lab {
    Lab::of_programs(RAM_BYTES, &setup(vcpus, programs))
}

fn setup(vcpus: u32, programs: &'static [Entry]) -> Setup {
    Setup {
        vcpus,
        archive: archive(programs),
        quota: 32 * MIB / super::lab::PAGE,
        time_limit: Duration::from_secs(600),
        ..Setup::default()
    }
}

/// Expects as many free frames as there were, but for those that the kernel's heap has taken: it begins with a 32nd of RAM, doubles
/// when it must, and never shrinks.
fn expect_frames(lab: &mut Lab, before: u64) {
    let taken = before - lab.free_frames();
    let heap = lab.machine.ram_pages() / 32;
    let sizes = || (0..4).map(|times| heap << times);
    let is_growth = sizes().any(|small| sizes().any(|large| large >= small && taken == large - small));
    assert!(is_growth, "{taken} of {before} frames are lost");
}

/// Checks that a storm has done everything, as the line says in which it tells how often.
fn expect_deeds(output: &str) {
    let line = output.lines().find(|line| line.ends_with(" forks")).unwrap_or_else(|| panic!("{output}"));
    let said = line.trim_start_matches("storm: ").split(", ").map(|part| part.split_once(' ').expect("a number"));
    let said: Vec<(u64, &str)> = said.map(|(count, deed)| (count.parse().expect("a number"), deed)).collect();
    assert_eq!(said.iter().map(|(_, deed)| *deed).collect::<Vec<_>>(), DEEDS);
    assert!(said.iter().all(|(count, _)| *count > 0), "{output}");
}

/// Runs all programs of the guest at the same time, for `seconds` as they know, while the agent looks at them; none may find anything
/// wrong. All come to their end but the last, which holds all its memory wired while the books are compared, and is killed. Nothing is
/// left then.
fn storm(vcpus: u32, programs: &'static [Entry], seconds: u64) {
    let folder = scratch_dir();
    let mut lab = Lab::of_programs_on_disk(RAM_BYTES, folder.path(), setup(vcpus, programs));
    let free = lab.free_frames();
    let started = Instant::now();
    let tasks: Vec<u64> = (0..programs.len() as u64).map(|entry| lab.run_program(entry)).collect();
    let mut looks = 0;
    while started.elapsed() < Duration::from_secs(seconds) {
        let clock = Instant::now();
        lab.done(&Command::Check);
        let address = lab.allocate(3);
        lab.done(&Command::Wire { start: address, end: address + 3 * super::lab::PAGE, flags: 1 });
        lab.done(&Command::Deallocate { address, size: 3 * super::lab::PAGE });
        looks += 1;
        // A look keeps the programs waiting, who are to have most of the time.
        thread::sleep(clock.elapsed() * 4);
    }
    let (holder, others) = tasks.split_last().expect("programs");
    for task in others {
        lab.expect_exit(*task, 0, LIMIT);
    }
    let held = await_held(&mut lab, *holder);
    lab.done(&Command::Check);
    assert_eq!(lab.call(&Command::WireTotal), Reply::Number(held));
    assert_eq!(lab.expect_books(), held);
    assert!(held > 0);
    lab.done(&Command::KillProgram { task: *holder });
    let end = lab.await_program(*holder, LIMIT);
    assert_eq!(end, ProgramEnd::Killed, "{}", lab.output(*holder));
    for task in tasks {
        println!("{vcpus} vCPUs, {looks} looks: {}", lab.output(task).replace('\n', "; "));
        expect_deeds(&lab.output(task));
        lab.end_task(task);
    }
    lab.expect_quiet();
    assert_eq!(lab.locked(), 0);
    expect_frames(&mut lab, free);
    lab.stop();
}

/// Waits until a storm holds all its memory wired; returns how many pages that are, as it says.
fn await_held(lab: &mut Lab, task: u64) -> u64 {
    let start = Instant::now();
    loop {
        let output = lab.output(task);
        if let Some(line) = output.lines().find_map(|line| line.strip_prefix("storm: holds ")) {
            return line.trim_end_matches(" pages").parse().expect("a number");
        }
        assert!(start.elapsed() < LIMIT, "{output}");
        // What it prints comes with what is answered.
        lab.done(&Command::Check);
        thread::sleep(Duration::from_millis(10));
    }
}

/// Runs programs that end by being refused something, one after the other, beside one that goes on all the time.
fn refused(vcpus: u32, programs: &'static [Entry], look: impl FnMut(&'static [&'static str], &ProgramEnd, &str)) {
    refused_in(guest(vcpus, programs), programs, look);
}

/// As [`refused`], in a guest of those programs.
fn refused_in(
    mut lab: Lab,
    programs: &'static [Entry],
    mut look: impl FnMut(&'static [&'static str], &ProgramEnd, &str),
) {
    let free = lab.free_frames();
    let honest = lab.run_program(0);
    for (entry, (name, arguments)) in programs.iter().enumerate().skip(1) {
        let task = lab.run_program(entry as u64);
        let end = lab.await_program(task, LIMIT);
        println!("{name} {arguments:?}: {end:?}; {}", lab.output(task).replace('\n', "; "));
        look(arguments, &end, &lab.output(task));
        lab.end_task(task);
        lab.done(&Command::Check);
    }
    assert_eq!(lab.call(&Command::KillProgram { task: honest }), Reply::Done(KernReturn::Success));
    let end = lab.await_program(honest, LIMIT);
    assert_eq!(end, ProgramEnd::Killed, "{}", lab.output(honest));
    lab.end_task(honest);
    lab.expect_quiet();
    assert_eq!(lab.locked(), 0);
    expect_frames(&mut lab, free);
    lab.stop();
}

/// Lets a program spin on each processor, and one more, while the agent answers; then kills them.
fn spin(vcpus: u32) {
    const SPIN: Entry = ("rogue", &["spin"]);
    let mut lab = guest(vcpus, &[SPIN]);
    let free = lab.free_frames();
    let tasks: Vec<u64> = (0..=vcpus).map(|_| lab.run_program(0)).collect();
    let mut longest = Duration::ZERO;
    for _ in 0..50 {
        longest = longest.max(lab.allocate_and_deallocate());
    }
    println!("{vcpus} vCPUs with {} programs that spin: {longest:?} for the slowest command", tasks.len());
    assert!(longest < ANSWER, "{longest:?}");
    for task in tasks {
        lab.done(&Command::KillProgram { task });
        assert_eq!(lab.await_program(task, ANSWER * 5), ProgramEnd::Killed);
        lab.end_task(task);
    }
    lab.expect_quiet();
    expect_frames(&mut lab, free);
    lab.stop();
}

/// Lets more threads spin than any number of turns could be waited for, while the agent answers.
fn spin_in_many_threads(vcpus: u32) {
    let mut lab = guest(vcpus, &[("rogue", &["spin", "200"])]);
    let free = lab.free_frames();
    let task = lab.run_program(0);
    let clock = Instant::now();
    while !lab.output(task).contains("spin: begins") {
        assert!(clock.elapsed() < LIMIT, "the threads don't start");
        lab.allocate_and_deallocate();
    }
    let longest = (0..50).map(|_| lab.allocate_and_deallocate()).max().expect("some");
    println!("{vcpus} vCPUs with 200 threads that spin: {longest:?} for the slowest command");
    assert!(!lab.output(task).contains("no further thread"), "{}", lab.output(task));
    // Were each of them given its turn first, a command would take 2 s for each processor's share.
    assert!(longest < ANSWER, "{longest:?}");
    lab.done(&Command::KillProgram { task });
    assert_eq!(lab.await_program(task, LIMIT), ProgramEnd::Killed);
    lab.end_task(task);
    lab.expect_quiet();
    expect_frames(&mut lab, free);
    lab.stop();
}

/// Every crime, with what its report must say; parts of it stand between `|`.
const CRIMES: &[(&str, &str)] = &[
    ("kernel-read", "loaded from 0xffffffff80"),
    ("direct-read", "loaded from 0xffffc"),
    ("kernel-write", "stored to 0xffffffff80"),
    ("direct-write", "stored to 0xffffc"),
    ("kernel-jump", "ran into 0xffffffff80"),
    ("noncanonical", "vector 13"),
    ("noncanonical-jump", "vector 13"),
    ("null", "loaded from 0x0"),
    ("write-text", "stored to"),
    ("write-rodata", "stored to"),
    ("jump-to-data", "ran into"),
    ("jump-to-stack", "ran into"),
    ("stack-overflow", "stored to|PROTECTION_FAILURE"),
    ("cli", "only the kernel"),
    ("sti", "only the kernel"),
    ("hlt", "only the kernel"),
    ("in", "only the kernel"),
    ("out", "only the kernel"),
    ("rdmsr", "only the kernel"),
    ("wrmsr", "only the kernel"),
    ("mov-cr3", "only the kernel"),
    ("mov-cr0", "only the kernel"),
    ("invlpg", "only the kernel"),
    ("lidt", "only the kernel"),
    ("ltr", "only the kernel"),
    ("int3", "met a breakpoint (vector 3"),
    ("ud2", "invalid instruction"),
    ("int-0x81", "rip"),
    ("int-timer", "rip"),
    ("int-page-fault", "rip"),
    ("syscall", "rip"),
    ("sysenter", "rip"),
    ("iretq", "rip"),
    ("divide", "divided"),
    ("single-step", "rip"),
    ("alignment", "rip"),
    ("simd", "rip"),
    ("bad-stack", "rip"),
];

/// One entry a crime behind the honest program.
macro_rules! crimes {
    ($($name:literal),* $(,)?) => { &[("storm", &["600", "1", "7"]), $(("rogue", &[$name])),*] };
}

const COMMITTED: &[Entry] = crimes![
    "kernel-read",
    "direct-read",
    "kernel-write",
    "direct-write",
    "kernel-jump",
    "noncanonical",
    "noncanonical-jump",
    "null",
    "write-text",
    "write-rodata",
    "jump-to-data",
    "jump-to-stack",
    "stack-overflow",
    "cli",
    "sti",
    "hlt",
    "in",
    "out",
    "rdmsr",
    "wrmsr",
    "mov-cr3",
    "mov-cr0",
    "invlpg",
    "lidt",
    "ltr",
    "int3",
    "ud2",
    "int-0x81",
    "int-timer",
    "int-page-fault",
    "syscall",
    "sysenter",
    "iretq",
    "divide",
    "single-step",
    "alignment",
    "simd",
    "bad-stack",
];

/// Every crime ends its program with a report.
fn crimes(vcpus: u32) {
    refused(vcpus, COMMITTED, |arguments, end, output| {
        let ProgramEnd::Faulted(report) = end else { panic!("{arguments:?}: {end:?}; {output}") };
        let (_, said) = CRIMES.iter().find(|(name, _)| *arguments == [*name]).expect("a crime with a report");
        assert!(said.split('|').all(|part| report.contains(part)), "{arguments:?}: {report}");
    });
}

const WRONG_CALLS: &[Entry] =
    &[("storm", &["600", "1", "7"]), ("rogue", &["wild"]), ("rogue", &["random", "1000", "1"])];

/// Calls with arguments that are not to be believed are answered.
fn wrong_calls(vcpus: u32, programs: &'static [Entry]) {
    refused(vcpus, programs, |arguments, end, output| {
        assert_eq!(*end, ProgramEnd::Exited(0), "{arguments:?}: {output}");
        if let ["random", count, _] = arguments {
            assert!(output.contains(&format!("rogue: random: {count} calls answered, ")), "{output}");
        }
    });
}

/// Ten thousand calls that are answered; besides, those that end who makes them.
const RANDOM_CALLS: &[Entry] = &[
    ("calls", &["4000000000"]),
    ("rogue", &["random", "2500", "2"]),
    ("rogue", &["random", "2500", "3"]),
    ("rogue", &["random", "2500", "4"]),
    ("rogue", &["random", "2500", "5"]),
];

/// Memory that is less than a program wants, and more.
const HOGS: &[Entry] =
    &[("calls", &["4000000000"]), ("hog", &["64"]), ("hog", &["64", "wire"]), ("hog", &["1"]), ("hog", &["1", "wire"])];

/// What a program takes of memory ends with the memory: by a fault, of which it is told, or by a refusal.
fn hogs(vcpus: u32) {
    let lab = Lab::of_programs(6 * MIB, &setup(vcpus, HOGS));
    refused_in(lab, HOGS, |arguments, end, output| {
        assert_eq!(*end, ProgramEnd::Exited(0), "{arguments:?}: {output}");
        let (begin, finish) = match arguments {
            ["64"] => ("hog: touched ", " KiB of 64 MiB; a fault ended it: no memory\n"),
            ["64", _] => ("hog: wired ", " KiB of 64 MiB, then was refused: KERN_RESOURCE_SHORTAGE\n"),
            ["1"] => return assert_eq!(output, "hog: touched all 1 MiB\n"),
            _ => return assert_eq!(output, "hog: wired all 1 MiB\n"),
        };
        let taken = output.strip_prefix(begin).and_then(|output| output.strip_suffix(finish));
        let taken: u64 = taken.and_then(|kib| kib.parse().ok()).unwrap_or_else(|| panic!("{arguments:?}: {output}"));
        // Of 6 MiB, of which the kernel and the other program have some.
        assert!((2048..6144).contains(&taken), "{taken} KiB");
    });
}

const GREEDY: &[Entry] = &[
    // It needs no memory, of which there may be none for a while.
    ("calls", &["4000000000"]),
    ("greedy", &["threads"]),
    ("greedy", &["forks"]),
    ("greedy", &["fork-tree"]),
    ("greedy", &["objects"]),
    ("greedy", &["pieces"]),
    ("greedy", &["threads"]),
];

/// Greed for what there is so much of that it takes minutes where ring 0 is emulated.
const GREEDIER: &[Entry] = &[
    ("calls", &["4000000000"]),
    ("greedy", &["entries"]),
    ("greedy", &["mappings"]),
    ("greedy", &["copies"]),
    ("greedy", &["entries"]),
];

/// What a program takes without end is refused in time: it goes on, and says so.
fn greedy(vcpus: u32) {
    refused(vcpus, GREEDY, |arguments, end, output| {
        assert_eq!(*end, ProgramEnd::Exited(0), "{arguments:?}: {output}");
        let expected =
            if *arguments == ["pieces"] { "greedy: 500 pieces, none of them refused" } else { ", then refused" };
        assert!(output.contains(expected), "{arguments:?}: {output}");
    });
}

/// What a program takes in great number it gets, or is refused; the guest goes on.
fn greedier(vcpus: u32) {
    refused(vcpus, GREEDIER, |arguments, end, output| {
        assert_ne!(*end, ProgramEnd::Killed, "{arguments:?}: {output}");
    });
}

const SHORT_STORM: &[Entry] =
    &[("storm", &["5", "3", "11"]), ("storm", &["5", "2", "12"]), ("storm", &["5", "1", "13", "hold"])];
const LONG_STORM: &[Entry] =
    &[("storm", &["60", "3", "21"]), ("storm", &["60", "2", "22"]), ("storm", &["60", "4", "23", "hold"])];

pub const CASES: &[Case] = &[
    ("storms_on_2_vcpus_for_5_s_leave_nothing", DISK, || storm(2, SHORT_STORM, 5)),
    ("storms_on_4_vcpus_for_5_s_leave_nothing", DISK, || storm(4, SHORT_STORM, 5)),
    ("threads_that_spin_in_great_number_stop_no_command", KVM, || [1, 2].into_iter().for_each(spin_in_many_threads)),
    ("programs_that_spin_on_every_vcpu_stop_no_command_and_can_be_killed", KVM, || {
        [1, 2, 4].into_iter().for_each(spin)
    }),
    ("every_crime_ends_its_program_with_a_report", KVM, || crimes(1)),
    ("every_crime_ends_its_program_with_a_report_on_2_vcpus", KVM, || crimes(2)),
    ("wild_and_random_calls_are_answered", KVM, || wrong_calls(1, WRONG_CALLS)),
    ("random_calls_10000_of_them_are_answered_on_2_vcpus", KVM, || wrong_calls(2, RANDOM_CALLS)),
    ("hogs_of_memory_end_as_they_say_while_another_program_goes_on", KVM, || hogs(1)),
    ("hogs_of_memory_end_as_they_say_on_2_vcpus", KVM, || hogs(2)),
    ("greed_is_refused_in_time", KVM, || greedy(1)),
    ("greed_is_refused_in_time_on_2_vcpus", KVM, || greedy(2)),
];

/// Cases that take minutes, for whoever asks for them by `--ignored`.
pub const LONG: &[Case] = &[
    ("great_greed_ends_no_guest", KVM, || greedier(2)),
    ("storms_on_2_vcpus_for_60_s_leave_nothing", DISK, || storm(2, LONG_STORM, 60)),
    ("storms_on_4_vcpus_for_60_s_leave_nothing", DISK, || storm(4, LONG_STORM, 60)),
    ("storms_on_16_vcpus_for_60_s_leave_nothing", DISK, || storm(16, LONG_STORM, 60)),
];
