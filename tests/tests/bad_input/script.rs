//! Scripts that are none. Not one of their lines is carried out.

use wirevm_tests::{Case, Need, Wirevm};

use crate::place::{Place, Row, SYNTAX, USAGE, nothing};

/// The machine that must not be made.
const LINE: &str = "script s.wvm --memory 8M,file=new.ram";

/// Refused before there is a machine, so the RAM file is never made.
pub const REFUSED: &[Row] = &[
    (
        "script_missing_is_named",
        nothing,
        "script no.wvm --memory 8M,file=new.ram",
        USAGE,
        &["cannot read the script no.wvm", "No such file"],
    ),
    (
        "script_of_run_missing_is_named",
        nothing,
        "run --script no.wvm --memory 8M,file=new.ram",
        USAGE,
        &["no.wvm", "No such file"],
    ),
    ("script_folder_is_named", nothing, "script . --memory 8M,file=new.ram", USAGE, &["Is a directory"]),
    (
        "script_unknown_operation_lists_the_operations",
        |p| script(p, "frobnicate a"),
        LINE,
        SYNTAX,
        &["s.wvm:1:1:", "'frobnicate'", "allocate"],
    ),
    (
        "script_unclosed_range_tells_line_and_column",
        |p| script(p, "a = allocate 8 pages\nwire a[0,4 user"),
        LINE,
        SYNTAX,
        &["s.wvm:2:12:", "expected ')', not 'user'"],
    ),
    (
        "script_undefined_name_tells_the_defined_ones",
        |p| script(p, "a = allocate 8 pages\nb = allocate 8 pages\nwire c user"),
        LINE,
        SYNTAX,
        &["s.wvm:3:6:", "no 'c'", "a, b"],
    ),
    (
        "script_name_used_before_its_line_is_refused",
        |p| script(p, "wire a user\na = allocate 8 pages"),
        LINE,
        SYNTAX,
        &["s.wvm:1:6:", "no line above defines"],
    ),
    (
        "script_name_used_in_its_own_line_is_refused",
        |p| script(p, "a = allocate 8 pages at a"),
        LINE,
        SYNTAX,
        &["s.wvm:1:"],
    ),
    (
        "script_name_defined_twice_is_refused",
        |p| script(p, "a = allocate 8 pages\na = allocate 8 pages"),
        LINE,
        SYNTAX,
        &["s.wvm:2:1:", "'a' is defined above already"],
    ),
    (
        "script_unknown_result_is_named",
        |p| script(p, "a = allocate 1 page\nwire a => NONSENSE"),
        LINE,
        SYNTAX,
        &["s.wvm:2:11:", "'NONSENSE'", "SUCCESS"],
    ),
    (
        "script_number_past_64_bits_is_refused",
        |p| script(p, "wire @99999999999999999999+1"),
        LINE,
        SYNTAX,
        &["s.wvm:1:7:", "2^64 - 1"],
    ),
    ("script_negative_number_is_refused", |p| script(p, "allocate -1"), LINE, SYNTAX, &["s.wvm:1:10:", "'-'"]),
    (
        "script_error_in_the_last_line_stops_the_first",
        |p| script(p, "a = allocate 8 pages\nwire a user\nwire"),
        LINE,
        SYNTAX,
        &["s.wvm:3:"],
    ),
    (
        "script_not_utf8_tells_the_byte",
        |p| p.write("s.wvm", b"# fine\n  \xff\xfe"),
        LINE,
        SYNTAX,
        &["s.wvm:2:3:", "0xff", "UTF-8"],
    ),
    ("script_of_zero_bytes_is_refused", |p| p.write("s.wvm", &[0; 4096]), LINE, SYNTAX, &["s.wvm:1:1:", "'\\0'"]),
    (
        "script_that_is_a_program_is_refused",
        |p| p.write("s.wvm", b"\x7fELF\x02\x01\x01\0\0"),
        LINE,
        SYNTAX,
        &["s.wvm:1:1:"],
    ),
];

/// What stands nearest to those.
pub const ACCEPTED: &[Row] = &[
    (
        "script_empty_does_nothing_well",
        |p| script(p, ""),
        "script s.wvm --memory 8M,durability=none",
        0,
        &["0 operations of s.wvm"],
    ),
    (
        "script_of_comments_does_nothing_well",
        |p| script(p, "# one\n\n  # two"),
        "script s.wvm --memory 8M,durability=none",
        0,
        &["0 operations of s.wvm"],
    ),
    (
        "script_without_newline_at_its_end_works",
        |p| script(p, "a = allocate 1 page"),
        "script s.wvm --memory 8M,durability=none",
        0,
        &["a = allocate 1 page"],
    ),
];

/// Those that need standard input, or more than one look.
pub const CASES: &[Case] = &[
    ("script_from_standard_input_is_named_so", &[], || {
        Wirevm::new(["script", "-"]).input("wire a\n").run().expect_error(SYNTAX, &["standard input:1:6:", "no 'a'"]);
    }),
    ("script_with_several_errors_tells_them_all_in_one_document", &[], || {
        let place = Place::new();
        script(&place, "wire a\nfrobnicate\nb = allocate 8 pages\nwire b[0,4 user");
        let document = place.run(&[], &format!("{LINE} --json")).expect_code(SYNTAX).json();
        let errors = document["syntax_errors"].as_array().expect("errors");
        let places: Vec<_> = errors.iter().map(|error| (error["line"].as_u64(), error["column"].as_u64())).collect();
        assert_eq!(places, [(Some(1), Some(6)), (Some(2), Some(1)), (Some(4), Some(12))]);
    }),
    ("script_is_refused_even_where_it_would_have_ended_before", &[Need::Kvm], || {
        let place = Place::new();
        script(&place, "exit 0\nfrobnicate");
        place.refuses(&[], LINE, SYNTAX, &["s.wvm:2:1:"]);
        script(&place, "exit 0\n");
        drop(place.run(&[], "script s.wvm --memory 8M,durability=none").expect_code(0));
    }),
];

fn script(place: &Place, text: &str) {
    place.write("s.wvm", text.as_bytes());
}
