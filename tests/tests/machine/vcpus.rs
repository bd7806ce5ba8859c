//! Guests on several vCPUs: how they start, what they are, and how the machine ends whatever they do.

use std::mem::offset_of;
use std::time::{Duration, Instant};

use wirevm_abi::boot::{BootInfo, IMAGE_BASE};
use wirevm_abi::call::{CallEntry, CallHeader, CallPage};
use wirevm_abi::port::{DOORBELL, LIFECYCLE, LIFECYCLE_READY, SERIAL};
use wirevm_abi::report::{KIND_PANIC, Report};
use wirevm_abi::{RAM_BASE, VERSION, op};
use wirevm_devices::ramfile::RamFile;
use wirevm_tests::image::call_page;
use wirevm_tests::{Case, Need};
use wirevm_vmm::boot::{ArchiveBuilder, BootLayout};
use wirevm_vmm::{MachineError, Outcome};
use zerocopy::{FromZeros, IntoBytes};

use super::code::{Code, RAM_PAGES, direct, layout_with};
use super::lab::{LIMIT, Lab, PAGE, Setup};

/// Where in the image the second and the third vCPU's code begins.
const SECOND: usize = 0x1000;
const THIRD: usize = 0x2000;
/// A word that all vCPUs share, in a page that nothing else uses.
const SHARED: u64 = RAM_BASE + 1024 * PAGE;

const UD2: [u8; 2] = [0x0f, 0x0b];
const POPCNT: [u8; 5] = [0xf3, 0x48, 0x0f, 0xb8, 0xc3];
/// je over the ud2: goes on only where the last comparison found equal things.
const UD2_UNLESS_EQUAL: [u8; 4] = [0x74, 0x02, 0x0f, 0x0b];

fn layout(vcpus: u64) -> BootLayout {
    layout_with(RAM_PAGES, vcpus, 0)
}

fn call_page_of(vcpus: u64, vcpu: u64) -> u64 {
    direct(layout(vcpus).call_page() + vcpu * PAGE)
}

fn hello() -> CallEntry {
    CallEntry::new(op::HELLO, 0, [VERSION, 0, 0])
}

fn start(vcpu: u64, at: usize, argument: u64) -> CallEntry {
    CallEntry::new(op::START_VCPU, 0, [vcpu, IMAGE_BASE + at as u64, argument])
}

fn exit(code: u64) -> CallEntry {
    CallEntry::new(op::EXIT, 0, [code, 0, 0])
}

/// Makes a call on the page of `vcpu`, of a machine of so many.
fn call(code: Code, vcpus: u64, vcpu: u64, entries: &[CallEntry]) -> Code {
    code.copy(call_page_of(vcpus, vcpu), call_page(entries).as_bytes()).out(DOORBELL, 1)
}

/// Puts the code for another vCPU behind what there is, at that offset.
fn at(code: Code, offset: usize) -> Code {
    let gap = offset.checked_sub(code.len()).expect("the code before is short");
    code.bytes(&vec![0xcc; gap])
}

/// Counts itself in the shared word.
fn count(code: Code) -> Code {
    // mov rbx, SHARED; lock inc qword ptr [rbx]
    code.bytes(&[0x48, 0xbb]).bytes(&direct(SHARED).to_le_bytes()).bytes(&[0xf0, 0x48, 0xff, 0x03])
}

/// Waits until so many have counted themselves.
fn wait_for(code: Code, number: u8) -> Code {
    // mov rbx, SHARED; cmp qword ptr [rbx], number; jne to it
    let code = code.bytes(&[0x48, 0xbb]).bytes(&direct(SHARED).to_le_bytes());
    code.bytes(&[0x48, 0x83, 0x3b, number, 0x75, 0xfa])
}

fn run(vcpus: u32, code: Code) -> Outcome {
    lab(vcpus, code).end()
}

fn lab(vcpus: u32, code: Code) -> Lab {
    let setup = Setup { vcpus, ..Setup::default() };
    Lab::start(|| RamFile::memfd(RAM_PAGES * PAGE).expect("a memfd"), &code.image(), &setup)
}

/// What another vCPU may be at when a machine ends; the first vCPU waits until it has counted itself.
fn pastimes() -> Vec<(&'static str, Code)> {
    let counted = || count(Code::default());
    let spins = {
        let code = counted();
        let start = code.len();
        code.bytes(&[0x90; 16]).again_from(start)
    };
    let rings = {
        let code = counted();
        let start = code.len();
        code.out(DOORBELL, 1).again_from(start)
    };
    let talks = {
        let code = counted();
        let start = code.len();
        code.out(SERIAL, 0x2e).again_from(start)
    };
    vec![("spins", spins), ("rings", rings), ("talks", talks), ("halts", counted().halt())]
}

/// Starts a second vCPU with that code, says ready once it has counted itself, and then does `then`.
fn beside(pastime: Code, then: impl FnOnce(Code) -> Code) -> Code {
    let code = wait_for(call(Code::default(), 2, 0, &[hello(), start(1, SECOND, 0)]), 1);
    let code = at(then(code.out(LIFECYCLE, LIFECYCLE_READY)), SECOND);
    // All addresses in it are absolute or relative to itself, and it brings no data.
    code.bytes(&pastime.text())
}

/// A second vCPU with that code, beside a first one that halts.
fn second(code: impl FnOnce(Code) -> Code) -> Outcome {
    let first = call(Code::default(), 2, 0, &[hello(), start(1, SECOND, 0)]).halt();
    run(2, code(at(first, SECOND)))
}

/// Starts a second vCPU through `steps` in the entry of a call whose status must be that; 0 is *ok*.
fn expect_status(code: Code, vcpus: u64, vcpu: u64, entry: usize, status: u16) -> Code {
    let place = call_page_of(vcpus, vcpu) + (size_of::<CallHeader>() + entry * size_of::<CallEntry>()) as u64;
    // mov rbx, place; mov rax, [rbx]; shr rax, 16; cmp ax, status
    let code = code.load(place).bytes(&[0x48, 0xc1, 0xe8, 0x10, 0x66, 0x3d]).bytes(&status.to_le_bytes());
    code.bytes(&UD2_UNLESS_EQUAL)
}

pub const CASES: &[Case] = &[
    ("vcpus_start_one_another_with_their_arguments", &[Need::Kvm], || {
        let code = call(Code::default(), 3, 0, &[hello(), start(1, SECOND, 0)]).halt();
        // Before its hello the second vCPU starts nobody.
        let code = call(at(code, SECOND), 3, 1, &[start(2, SECOND, 0)]);
        let code = call(code, 3, 1, &[hello(), start(2, THIRD, 0x22)]).halt();
        // The third ends the machine with what it found in rdi: mov rbp, rdi; ...; mov rbx, word; mov [rbx], rbp
        let code = at(code, THIRD).bytes(&[0x48, 0x89, 0xfd]);
        let page = call_page(&[hello(), exit(0)]);
        let word = call_page_of(3, 2) + (offset_of!(CallPage, entries) + 32 + 8) as u64;
        let code = code.copy(call_page_of(3, 2), page.as_bytes()).bytes(&[0x48, 0xbb]).bytes(&word.to_le_bytes());
        let outcome = run(3, code.bytes(&[0x48, 0x89, 0x2b]).out(DOORBELL, 1).halt());
        assert!(matches!(outcome, Outcome::Exit { code: 0x22 }), "{outcome}");
    }),
    ("sixteen_vcpus_have_the_numbers_that_their_guest_expects", &[Need::Kvm], || {
        let starts = (1..16).map(|vcpu| start(vcpu, SECOND, vcpu));
        let entries: Vec<_> = std::iter::once(hello()).chain(starts).collect();
        let code = wait_for(call(Code::default(), 16, 0, &entries), 15);
        let code = at(call(code, 16, 0, &[exit(16)]).halt(), SECOND);
        #[rustfmt::skip]
        let code = code.bytes(&[
            0x48, 0x89, 0xfd,             // mov rbp, rdi
            0xb8, 0x01, 0x00, 0x00, 0x00, // mov eax, 1
            0x0f, 0xa2,                   // cpuid
            0xc1, 0xeb, 0x18,             // shr ebx, 24
            0x39, 0xeb,                   // cmp ebx, ebp
        ]).bytes(&UD2_UNLESS_EQUAL);
        #[rustfmt::skip]
        let code = code.bytes(&[
            0xb9, 0x1b, 0x00, 0x00, 0x00, // mov ecx, APIC_BASE
            0x0f, 0x32,                   // rdmsr
            0x0d, 0x00, 0x04, 0x00, 0x00, // or eax, X2APIC
            0x0f, 0x30,                   // wrmsr
            0xb9, 0x02, 0x08, 0x00, 0x00, // mov ecx, X2APIC_ID
            0x0f, 0x32,                   // rdmsr
            0x39, 0xe8,                   // cmp eax, ebp
        ]).bytes(&UD2_UNLESS_EQUAL);
        // The highest leaf tells whether there is one with the number in edx.
        #[rustfmt::skip]
        let code = code.bytes(&[
            0x31, 0xc0,                   // xor eax, eax
            0x0f, 0xa2,                   // cpuid
            0x83, 0xf8, 0x0b,             // cmp eax, 0xb
            0x72, 0x0f,                   // jb past
            0xb8, 0x0b, 0x00, 0x00, 0x00, // mov eax, 0xb
            0x31, 0xc9,                   // xor ecx, ecx
            0x0f, 0xa2,                   // cpuid
            0x39, 0xea,                   // cmp edx, ebp
        ]).bytes(&UD2_UNLESS_EQUAL);
        let outcome = run(16, count(code).halt());
        assert!(matches!(outcome, Outcome::Exit { code: 16 }), "{outcome}");
    }),
    ("number_of_vcpus_outside_1_to_16_is_refused", &[Need::Kvm], || {
        for asked in [0, 17, u32::MAX] {
            let setup = Setup { vcpus: asked, ..Setup::default() };
            let ram = || RamFile::memfd(RAM_PAGES * PAGE).expect("a memfd");
            let refused = Lab::try_start(ram, &Code::default().halt().image(), &setup);
            assert!(matches!(refused, Err(MachineError::Vcpus { asked: told }) if told == asked), "{refused:?}");
        }
    }),
    ("machine_of_one_vcpu_starts_no_other", &[Need::Kvm], || {
        let code = call(Code::default(), 1, 0, &[hello(), start(1, SECOND, 0)]);
        let code = expect_status(code, 1, 0, 1, wirevm_abi::Status::INVALID_ARGUMENT.bits());
        let outcome = run(1, call(code, 1, 0, &[exit(3)]).halt());
        assert!(matches!(outcome, Outcome::Exit { code: 3 }), "{outcome}");
    }),
    ("exit_ends_the_machine_whatever_the_other_vcpu_does", &[Need::Kvm], || {
        for (name, pastime) in pastimes() {
            let start = Instant::now();
            let outcome = run(2, beside(pastime, |code| call(code, 2, 0, &[exit(7)]).halt()));
            assert!(matches!(outcome, Outcome::Exit { code: 7 }), "{name}: {outcome}");
            assert!(start.elapsed() < LIMIT, "{name}: {:?}", start.elapsed());
        }
        let outcome = run(16, call(Code::default(), 16, 0, &[hello(), exit(7)]).halt());
        assert!(matches!(outcome, Outcome::Exit { code: 7 }), "none was started: {outcome}");
    }),
    ("stop_and_drop_end_the_machine_whatever_the_other_vcpu_does", &[Need::Kvm], || {
        for (name, pastime) in pastimes() {
            let code = beside(pastime, Code::halt);
            for is_dropped in [false, true] {
                let lab = lab(2, code.clone());
                lab.booted();
                assert!(lab.machine.outcome().is_none(), "{name}");
                if is_dropped { lab.abandon() } else { lab.stop() }
            }
        }
        for vcpus in [1, 2, 16] {
            let lab = lab(vcpus, Code::default().out(LIFECYCLE, LIFECYCLE_READY).halt());
            lab.booted();
            if vcpus == 2 { lab.abandon() } else { lab.stop() }
        }
    }),
    ("time_limit_ends_all_vcpus", &[Need::Kvm], || {
        let limit = Duration::from_millis(300);
        let setup = Setup { vcpus: 2, time_limit: limit, ..Setup::default() };
        let (_, spins) = pastimes().swap_remove(0);
        let code = beside(spins, |code| {
            let start = code.len();
            code.bytes(&[0x90; 16]).again_from(start)
        });
        let lab = Lab::start(|| RamFile::memfd(RAM_PAGES * PAGE).expect("a memfd"), &code.image(), &setup);
        let outcome = lab.end();
        assert!(matches!(outcome, Outcome::Timeout { .. }), "{outcome}");
    }),
    ("what_another_vcpu_ends_over_names_it", &[Need::Kvm], || {
        // No stack, no tables: the exception of ud2 cannot be delivered.
        let outcome = second(|code| code.bytes(&UD2));
        let Outcome::TripleFault { state } = &outcome else { panic!("{outcome}") };
        assert!(state.starts_with("vCPU 1: rip 0xffffffff80001000"), "{state}");
        match second(|code| code.bytes(&POPCNT).crashed().halt()) {
            Outcome::VcpuError { reason } => assert!(reason.contains("vCPU 1: rip 0xffffffff80001000"), "{reason}"),
            // Ring 0 is native here: the instruction works and the guest goes on to its crash.
            outcome => assert!(matches!(outcome, Outcome::Crashed(_)), "{outcome}"),
        }
        let outcome = second(|code| call(code, 2, 1, &[hello(), exit(9)]).halt());
        assert!(matches!(outcome, Outcome::Exit { code: 9 }), "{outcome}");
    }),
    ("report_names_the_vcpu_that_crashed_and_a_lie_about_it_the_one_that_told", &[Need::Kvm], || {
        for (named, shown) in [(1, 1), (0, 0), (2, 1), (u64::MAX, 1)] {
            let mut report = Report::new_zeroed();
            (report.kind, report.vcpu) = (KIND_PANIC, named);
            let outcome = second(|code| code.copy(direct(layout(2).report_page()), report.as_bytes()).crashed().halt());
            let Outcome::Crashed(report) = &outcome else { panic!("{outcome}") };
            assert_eq!(report.vcpu, shown, "{named}");
            assert!(outcome.to_string().ends_with(&format!("on vCPU {shown}")), "{outcome}");
        }
    }),
    ("single_steps_of_all_vcpus_count_until_one_is_ready", &[Need::Kvm], || {
        const NOPS: usize = 3000;
        let nops = || Code::default().bytes(&[0x90; NOPS]);
        let steps = |vcpus, code: Code| {
            let setup = Setup { vcpus, single_step: true, ..Setup::default() };
            let lab = Lab::start(|| RamFile::memfd(RAM_PAGES * PAGE).expect("a memfd"), &code.image(), &setup);
            let counted = lab.booted().instructions.expect("counted");
            // The rest is not stepped; it would end over a debug exit that nobody asked for.
            std::thread::sleep(Duration::from_millis(20));
            lab.stop();
            counted
        };
        let one = steps(1, nops().out(LIFECYCLE, LIFECYCLE_READY).halt());
        let nops_carried_out = NOPS as u64;
        assert!((nops_carried_out..nops_carried_out + 20).contains(&one), "{one}");
        // What the first of two vCPUs does at least: here nobody is there to be started.
        let call = call(Code::default(), 1, 0, &[hello(), start(1, SECOND, 0)]);
        let first = steps(1, call.out(LIFECYCLE, LIFECYCLE_READY).halt());
        // It is ready once the second has all its steps behind it.
        let two = steps(2, beside(count(nops()).halt(), Code::halt));
        assert!(two > nops_carried_out + first, "{first}, {two}");
    }),
    ("counters_are_those_of_each_vcpu", &[Need::Kvm], || {
        let (_, rings) = pastimes().swap_remove(1);
        let lab = lab(2, beside(rings, Code::halt));
        lab.booted();
        let exits = |vcpu| lab.machine.vcpu_stats(vcpu).and_then(|stats| stats.get("exits"));
        let (first, second) = (exits(0), exits(1));
        std::thread::sleep(Duration::from_millis(50));
        if let (Some(before), Some(after)) = (second, exits(1)) {
            assert!(after > before + 10 && exits(0) <= first.map(|first| first + 10), "{before} {after}");
        }
        assert!(lab.machine.vcpu_stats(2).is_none());
        let all = lab.machine.emulated_instructions();
        let each: Option<Vec<u64>> = (0..2).map(|vcpu| lab.machine.vcpu_stats(vcpu)?.emulated_instructions()).collect();
        assert!(all <= each.map(|each| each.iter().sum()), "they grow");
        lab.stop();
    }),
    ("guest_finds_its_archive_and_the_rate_of_its_clock", &[Need::Kvm], || {
        let mut builder = ArchiveBuilder::new();
        builder.add("kv", &["1000".to_owned()], &vec![0xab; 9000].into()).expect("fits");
        let archive = builder.finish();
        let layout = layout_with(RAM_PAGES, 4, archive.len() as u64);
        let info = |offset: usize| direct(layout.info_page() + offset as u64);
        let equals = |code: Code, place: u64, value: u64| {
            // mov rbx, place; mov rax, [rbx]; mov rcx, value; cmp rax, rcx
            let code = code.load(place).bytes(&[0x48, 0xb9]).bytes(&value.to_le_bytes());
            code.bytes(&[0x48, 0x39, 0xc8]).bytes(&UD2_UNLESS_EQUAL)
        };
        let run = layout.archive();
        assert_eq!((run.pages, run.first + run.pages), (3, layout.reserved_pages()));
        let place = direct(RAM_BASE + run.first * PAGE);
        let code = equals(Code::default(), info(offset_of!(BootInfo, vcpus)), 4);
        let code = equals(code, info(offset_of!(BootInfo, archive)), run.first);
        let code = equals(code, info(offset_of!(BootInfo, archive) + 8), 3);
        let code = equals(code, info(offset_of!(BootInfo, reserved_pages)), layout.reserved_pages());
        let code = equals(code, place, wirevm_abi::archive::MAGIC);
        let code = equals(code, place + 16, archive.len() as u64);
        let code = equals(code, place + 8000, u64::from_ne_bytes([0xab; 8]));
        // Every x86 host of KVM knows the rate: mov rax, [tsc_khz]; cmp rax, 1000; ja over a ud2
        let code = code.load(info(offset_of!(BootInfo, tsc_khz))).bytes(&[0x48, 0x3d, 0xe8, 0x03, 0, 0, 0x77, 0x02]);
        let code = call(code.bytes(&UD2), 4, 0, &[hello(), exit(5)]).halt();
        let setup = Setup { vcpus: 4, archive: Some(archive), ..Setup::default() };
        let lab = Lab::start(|| RamFile::memfd(RAM_PAGES * PAGE).expect("a memfd"), &code.image(), &setup);
        let outcome = lab.end();
        assert!(matches!(outcome, Outcome::Exit { code: 5 }), "{outcome}");
    }),
];
