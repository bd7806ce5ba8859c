//! Guest images that can't be booted.

use std::fs::File;

use wirevm_abi::note::{ABI_NOTE, AbiNote};
use wirevm_abi::{PAGE_SIZE, RAM_BASE};
use wirevm_tests::image::elf;
use wirevm_tests::{Case, Need};

use crate::place::{IMAGE, Place, Row, nothing, program};

/// Machine code that tells the machine of a crash: `mov dx, LIFECYCLE; mov eax, LIFECYCLE_CRASHED; out dx, eax; hlt`.
const CRASH: [u8; 11] = [0x66, 0xba, 0x08, 0x06, 0xb8, 2, 0, 0, 0, 0xef, 0xf4];
/// Exit code of a guest that tells of a crash, so it was booted.
const CRASHED: i32 = 11;
const LINE: &str = "run --memory 8M,file=new.ram --kernel k.elf";
const NOT_ELF: &str = "not an ELF executable for x86-64";

/// Refused before RAM is made.
pub const REFUSED: &[Row] = &[
    (
        "image_missing_is_named",
        nothing,
        "run --memory 8M,file=new.ram --kernel no.elf",
        IMAGE,
        &["'no.elf'", "No such file"],
    ),
    ("image_folder_is_named", nothing, "run --memory 8M,file=new.ram --kernel .", IMAGE, &["'.'", "Is a directory"]),
    (
        "image_without_end_is_refused",
        nothing,
        "run --memory 8M,file=new.ram --kernel /dev/zero",
        IMAGE,
        &["'/dev/zero'", "no regular file"],
    ),
    ("image_empty_is_too_short", |p| p.write("k.elf", b""), LINE, IMAGE, &[NOT_ELF, "too short"]),
    ("image_of_text_is_not_elf", |p| p.write("k.elf", &b"#!/bin/sh\n".repeat(99)), LINE, IMAGE, &[NOT_ELF]),
    ("image_of_zeros_is_not_elf", |p| p.write("k.elf", &[0; 8192]), LINE, IMAGE, &[NOT_ELF]),
    ("image_for_32_bits_is_not_ours", |p| changed(p, 4, 1), LINE, IMAGE, &[NOT_ELF]),
    ("image_for_another_machine_is_not_ours", |p| changed(p, 18, 183), LINE, IMAGE, &[NOT_ELF, "another machine"]),
    (
        "image_not_linked_to_an_address_is_not_ours",
        |p| changed(p, 16, 3),
        LINE,
        IMAGE,
        &["not linked to a fixed address"],
    ),
    ("image_entered_outside_its_segments_is_refused", |p| changed(p, 30, 0x77), LINE, IMAGE, &[NOT_ELF, "entry point"]),
    ("image_cut_in_its_segment_is_refused", |p| p.write("k.elf", &good()[..0x1004]), LINE, IMAGE, &[NOT_ELF, "cut"]),
    ("image_cut_in_its_headers_is_refused", |p| p.write("k.elf", &good()[..100]), LINE, IMAGE, &[NOT_ELF, "cut"]),
    (
        "image_without_note_is_no_guest_of_ours",
        |p| with_note(p, AbiNote { name: *b"another\0", ..ABI_NOTE }),
        LINE,
        IMAGE,
        &["no wirevm ABI note"],
    ),
    (
        "image_with_cut_note_is_no_guest_of_ours",
        |p| with_note(p, AbiNote { descriptor_size: 99, ..ABI_NOTE }),
        LINE,
        IMAGE,
        &["no wirevm ABI note"],
    ),
    (
        "image_of_another_version_tells_both",
        |p| with_note(p, AbiNote { version: [7, 0], ..ABI_NOTE }),
        LINE,
        IMAGE,
        &["version 7 of the contract", "version 1"],
    ),
    (
        "image_below_ram_tells_both_ranges",
        |p| at(p, RAM_BASE - PAGE_SIZE, 0),
        LINE,
        IMAGE,
        &["0xfffff000..0xfffff00b", "RAM at 0x100000000..0x100800000"],
    ),
    (
        "image_behind_ram_tells_both_ranges",
        |p| at(p, RAM_BASE + (8 << 20), 0),
        LINE,
        IMAGE,
        &["0x100800000..0x10080000b", "RAM at 0x100000000..0x100800000"],
    ),
    (
        "image_that_ends_behind_ram_tells_both_ranges",
        |p| at(p, RAM_BASE, (8 << 20) + 1),
        LINE,
        IMAGE,
        &["0x100000000..0x100800001"],
    ),
    (
        "image_that_wraps_around_is_outside_ram",
        |p| at(p, RAM_BASE, u64::MAX),
        LINE,
        IMAGE,
        &["0x100000000..0xffffffffffffffff"],
    ),
    ("image_of_all_ram_leaves_no_room", |p| at(p, RAM_BASE, 8 << 20), LINE, IMAGE, &["pages, RAM has 2048"]),
];

/// Where the last page decides.
pub const CASES: &[Case] = &[
    ("image_boots_with_one_page_to_spare_and_not_with_none", &[Need::Kvm], || {
        let place = Place::new();
        let line = "run --memory 2M,durability=none --kernel k.elf";
        at(&place, RAM_BASE, 512 * PAGE_SIZE);
        let told = place.run(&[], line).stderr;
        let need: u64 = told
            .split_whitespace()
            .skip_while(|word| *word != "need")
            .nth(1)
            .and_then(|pages| pages.parse().ok())
            .unwrap_or_else(|| panic!("no number of pages in {told}"));
        let most = 512 - (need - 512);
        at(&place, RAM_BASE, (most + 1) * PAGE_SIZE);
        place.refuses(&[], line, IMAGE, &["need 513 pages, RAM has 512"]);
        at(&place, RAM_BASE, most * PAGE_SIZE);
        place.run(&[], line).expect_error(CRASHED, &["before it took commands"]);
    }),
    ("image_is_checked_against_the_size_of_an_existing_ram_file", &[Need::Kvm, Need::Durable], || {
        let place = Place::new();
        place.ram("old.ram");
        at(&place, RAM_BASE + (8 << 20), 0);
        let line = "run --memory file=old.ram --kernel k.elf";
        place.refuses(&[], line, IMAGE, &["RAM at 0x100000000..0x100800000"]);
    }),
    ("image_of_257_mib_is_refused", &[Need::Kvm], || {
        // Not a row: what is in the folder before and after is read.
        let place = Place::new();
        let file = File::create(place.path("k.elf")).and_then(|file| file.set_len((256 << 20) + 1));
        file.expect("a sparse file");
        let finished = place.run(&[], "run --memory 8M,file=new.ram --kernel k.elf");
        finished.expect_error(IMAGE, &["'k.elf'", "larger than 256 MiB"]);
        assert!(!place.path("new.ram").exists());
    }),
    ("guest_starts_in_the_least_that_programs_leave", &[Need::Kvm], || {
        for (cpus, memory) in [(1, 2), (2, 2), (4, 4), (16, 6), (2, 16)] {
            let place = Place::new();
            let line = format!("run --cpus {cpus} --memory {memory}M,durability=none --program ./my.elf");
            let pages = memory * 256;
            place.write("my.elf", &program(pages * 4096));
            let told = place.run(&[], &line).stderr;
            let words: Vec<_> = told.split_whitespace().collect();
            // "… take N pages, … on P processors N, RAM has N"
            let behind = |word: &str, places: usize| words.iter().position(|told| *told == word).map(|at| at + places);
            let number = |at: Option<usize>| -> u64 {
                let number = at.and_then(|at| words.get(at)).and_then(|word| word.trim_end_matches(',').parse().ok());
                number.unwrap_or_else(|| panic!("no number in {told}"))
            };
            let archive = number(behind("take", 1));
            let other = number(behind("RAM", 0).and_then(|at| at.checked_sub(1)));
            assert_eq!(archive, pages + 1, "{told}");
            let most = pages - other - 1;
            place.write("my.elf", &program((most + 1) * 4096));
            place.refuses(&[], &line, IMAGE, &["RAM has"]);
            place.write("my.elf", &program(most * 4096));
            // It executes nothing but an instruction that it must not.
            place.run(&[], &line).expect_error(1, &["my.elf was ended because it"]);
        }
    }),
];

fn good() -> Vec<u8> {
    elf(&CRASH, RAM_BASE, 0, &ABI_NOTE)
}

fn changed(place: &Place, offset: usize, byte: u8) {
    let mut image = good();
    image[offset] = byte;
    place.write("k.elf", &image);
}

fn with_note(place: &Place, note: AbiNote) {
    place.write("k.elf", &elf(&CRASH, RAM_BASE, 0, &note));
}

fn at(place: &Place, address: u64, memory_size: u64) {
    place.write("k.elf", &elf(&CRASH, address, memory_size, &ABI_NOTE));
}
