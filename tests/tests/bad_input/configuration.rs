//! Options and configuration files that read well and describe no machine.

use crate::place::{CONFIG, IMAGE, MEMORY, Place, Row, USAGE, nothing, pipe, program};

const TIMEOUT: &str = "the time limit must be more than 0 and at most 31622400 seconds";

/// A configuration with a value of every kind.
const COMPLETE: &str = "timeout = 60
wire-quota = '4M'
script = 'ok.wvm'
[memory]
size = 8388608
durability = 'none'";

/// Refused, with the number or the place in the file.
pub const REFUSED: &[Row] = &[
    ("config_without_end_is_refused", nothing, "run --config /dev/zero", CONFIG, &["/dev/zero", "longer than 1 MiB"]),
    ("ram_of_0_is_refused", nothing, "run --memory 0", CONFIG, &["must not be 0 bytes", "2 MiB"]),
    ("ram_of_0_in_a_file_is_refused", nothing, "run --memory 0,file=new.ram", CONFIG, &["must not be 0 bytes"]),
    ("ram_of_1_byte_is_refused", nothing, "run --memory 1,file=new.ram", CONFIG, &["multiple of 2 MiB; 1 byte is not"]),
    (
        "ram_of_19_mib_is_refused",
        nothing,
        "run --memory 19M,file=new.ram",
        CONFIG,
        &["multiple of 2 MiB; 19 MiB is not"],
    ),
    ("ram_of_a_page_less_is_refused", nothing, "run --memory 2044K", CONFIG, &["multiple of 2 MiB; 2044 KiB is not"]),
    (
        "ram_of_2_to_the_64_less_1_is_refused",
        nothing,
        "run --memory 18446744073709551615",
        CONFIG,
        &["18446744073709551615 bytes"],
    ),
    (
        "ram_above_what_kvm_takes_is_refused",
        nothing,
        "run --memory 8T,durability=none",
        CONFIG,
        &["8 TiB", "8388606 MiB", "KVM"],
    ),
    (
        "ram_that_wraps_with_its_header_is_refused",
        nothing,
        "run --memory 0xffffffffffe00000,file=new.ram",
        CONFIG,
        &["more than the"],
    ),
    (
        "store_quota_of_4097_bytes_is_refused",
        nothing,
        "run --memory 8M,file=new.ram --store . --store-quota 4097",
        CONFIG,
        &["store quota", "4097 bytes"],
    ),
    (
        "store_quota_without_a_folder_is_refused",
        nothing,
        "run --memory 8M,file=new.ram --store-quota 1M",
        CONFIG,
        &["1 MiB", "--store DIR"],
    ),
    (
        "durability_atomic_is_refused",
        nothing,
        "run --memory 8M,file=new.ram,durability=atomic",
        CONFIG,
        &["atomic is not available", "shared or none"],
    ),
    (
        "quota_of_4097_bytes_is_refused",
        nothing,
        "run --memory 8M,file=new.ram --wire-quota 4097",
        CONFIG,
        &["multiple of 4 KiB; 4097 bytes is not"],
    ),
    ("timeout_0_is_refused", nothing, "run --memory 8M,file=new.ram --timeout 0", CONFIG, &[TIMEOUT, "; 0.0 is not"]),
    ("timeout_negative_is_refused", nothing, "run --timeout=-1.5", CONFIG, &[TIMEOUT, "; -1.5 is not"]),
    ("timeout_nan_is_refused", nothing, "run --timeout nan", CONFIG, &[TIMEOUT, "; NaN is not"]),
    ("timeout_infinite_is_refused", nothing, "run --timeout inf", CONFIG, &[TIMEOUT, "; inf is not"]),
    (
        "timeout_of_more_than_a_year_is_refused",
        nothing,
        "run --timeout 31622401",
        CONFIG,
        &[TIMEOUT, "; 31622401.0 is not"],
    ),
    (
        "timeout_too_small_to_count_is_refused_in_few_digits",
        nothing,
        "run --timeout 1e-300",
        CONFIG,
        &[TIMEOUT, "; 1e-300 is not"],
    ),
    (
        "cpus_0_is_refused",
        nothing,
        "run --memory 8M,file=new.ram --cpus 0",
        CONFIG,
        &["1 to 16 processors", "0 is not"],
    ),
    (
        "cpus_17_is_refused",
        nothing,
        "script ok.wvm --cpus 17 --memory 8M,file=new.ram",
        CONFIG,
        &["17 is not possible"],
    ),
    (
        "cpus_of_a_configuration_file_are_counted_where_there_are_none",
        |p| config(p, "cpus = 17"),
        "run --config c.toml --on hosted",
        CONFIG,
        &["17 is not possible"],
    ),
    ("cpus_of_no_machine_are_refused", nothing, "run --on hosted --cpus 2", CONFIG, &["--on hosted has no processors"]),
    (
        "config_with_no_number_of_cpus_tells_the_line",
        |p| config(p, "cpus = 'all'"),
        "run --config c.toml",
        CONFIG,
        &["line 1: invalid type", "expected u64"],
    ),
    (
        "config_with_an_unknown_program_tells_the_line",
        |p| config(p, "timeout = 1\nprograms = ['hallo']"),
        "run --config c.toml",
        CONFIG,
        &["line 2: there is no built-in program 'hallo'"],
    ),
    (
        "config_with_a_script_and_programs_is_refused",
        |p| config(p, "script = 'ok.wvm'\nprograms = ['hello']"),
        "run --config c.toml",
        CONFIG,
        &["a script and programs can't be run together"],
    ),
    (
        "programs_without_a_machine_are_refused",
        nothing,
        "run --on hosted --program hello --memory 8M,file=new.ram",
        CONFIG,
        &["--on hosted has no ring 3"],
    ),
    (
        "script_with_programs_without_a_machine_is_refused",
        |p| p.write("p.wvm", b"host locked\nprogram p hello\n"),
        "script p.wvm --on all",
        CONFIG,
        &["--on all has no ring 3"],
    ),
    (
        "program_missing_is_named",
        nothing,
        "run --program ./no.elf --memory 8M,file=new.ram",
        IMAGE,
        &["'./no.elf' cannot be read", "No such file"],
    ),
    (
        "program_folder_is_named",
        nothing,
        "run --program ./ --memory 8M,file=new.ram",
        IMAGE,
        &["'./' cannot be read", "Is a directory"],
    ),
    (
        "program_without_end_is_refused",
        nothing,
        "run --program /dev/zero --memory 8M,file=new.ram",
        IMAGE,
        &["'/dev/zero' cannot run", "no regular file"],
    ),
    (
        "program_that_is_text_is_refused",
        nothing,
        "run --program ./ok.wvm --memory 8M,file=new.ram",
        IMAGE,
        &["'./ok.wvm' cannot run", "no 64-bit ELF file"],
    ),
    (
        "program_that_wants_a_dynamic_linker_is_refused",
        nothing,
        "run --program /bin/ls --memory 8M,file=new.ram",
        IMAGE,
        &["'/bin/ls' cannot run", "no static executable"],
    ),
    (
        "program_of_a_script_is_looked_at_first",
        |p| p.write("p.wvm", b"program p \"./ok.wvm\"\n"),
        "script p.wvm --memory 8M,file=new.ram",
        IMAGE,
        &["'./ok.wvm' cannot run", "no 64-bit ELF file"],
    ),
    (
        "ram_file_for_all_hosts_is_refused",
        nothing,
        "run --on all --memory 8M,file=new.ram",
        CONFIG,
        &["--on all", "no RAM file", "'new.ram'"],
    ),
    (
        "ram_file_for_the_fake_is_refused",
        nothing,
        "script ok.wvm --on fake --memory file=new.ram",
        CONFIG,
        &["--on fake", "no RAM file", "'new.ram'"],
    ),
    (
        "image_where_none_is_booted_is_refused",
        nothing,
        "run --on hosted --kernel new.elf --memory 8M,file=new.ram",
        CONFIG,
        &["--on hosted boots no guest image", "'new.elf'"],
    ),
    (
        "quota_above_ram_is_refused_by_every_host",
        nothing,
        "run --on all --memory 8M --wire-quota 16M",
        CONFIG,
        &["a wire quota of 16 MiB", "the guest's 8 MiB"],
    ),
    (
        "config_unknown_host_tells_the_line_and_the_hosts",
        |p| config(p, "on = 'xen'"),
        "run --config c.toml",
        CONFIG,
        &["line 1: unknown variant `xen`", "`hosted`"],
    ),
    ("demo_with_large_folios_is_refused", nothing, "run --memory 16M,folio=bulk", CONFIG, &["the demo", "folio=bulk"]),
    ("doctor_refuses_the_same_sizes", nothing, "doctor --memory 19M", CONFIG, &["19 MiB is not"]),
    (
        "bench_refuses_a_folder_that_is_not_there",
        nothing,
        "bench wire --folder nowhere",
        CONFIG,
        &["'nowhere'", "No such file"],
    ),
    ("bench_refuses_a_filter_without_a_case", nothing, "bench wire --filter walrus", CONFIG, &["no case", "'walrus'"]),
    ("config_missing_is_named", nothing, "run --config no.toml", CONFIG, &["'no.toml'", "No such file"]),
    ("config_folder_is_named", nothing, "run --config .", CONFIG, &["'.'", "Is a directory"]),
    (
        "config_not_text_is_named",
        |p| p.write("c.toml", b"\xff\xfe\0"),
        "run --config c.toml",
        CONFIG,
        &["'c.toml'", "UTF-8"],
    ),
    (
        "config_not_toml_tells_the_line",
        |p| config(p, "\ntimeout == 3"),
        "run --config c.toml",
        CONFIG,
        &["'c.toml'", "line 2:"],
    ),
    (
        "config_unknown_key_tells_the_line_and_the_keys",
        |p| config(p, "timeout = 3\nkernle = 'x'"),
        "run --config c.toml",
        CONFIG,
        &["'c.toml'", "line 2: unknown field `kernle`", "`kernel`"],
    ),
    (
        "config_unknown_memory_key_tells_the_line_and_the_keys",
        |p| config(p, "[memory]\nsice = '8M'"),
        "run --config c.toml",
        CONFIG,
        &["line 2: unknown field `sice`", "`size`"],
    ),
    (
        "config_key_twice_tells_the_line",
        |p| config(p, "timeout = 3\ntimeout = 4"),
        "run --config c.toml",
        CONFIG,
        &["line 2: duplicate key"],
    ),
    (
        "config_wrong_type_of_timeout_tells_the_line",
        |p| config(p, "timeout = '3'"),
        "run --config c.toml",
        CONFIG,
        &["line 1: invalid type: string"],
    ),
    (
        "config_wrong_type_of_size_tells_the_line",
        |p| config(p, "[memory]\nsize = true"),
        "run --config c.toml",
        CONFIG,
        &["line 2: invalid type: boolean", "\"64M\""],
    ),
    (
        "config_wrong_type_of_memory_tells_the_line",
        |p| config(p, "memory = 8"),
        "run --config c.toml",
        CONFIG,
        &["line 1: invalid type: integer"],
    ),
    (
        "config_negative_size_is_refused",
        |p| config(p, "[memory]\nsize = -1"),
        "run --config c.toml",
        CONFIG,
        &["line 2: a size can't be negative; -1 is"],
    ),
    (
        "config_bad_suffix_is_refused",
        |p| config(p, "wire-quota = '8Q'"),
        "run --config c.toml",
        CONFIG,
        &["line 1: 'Q' is not a size suffix"],
    ),
    (
        "config_values_are_checked_as_options_are",
        |p| config(p, "[memory]\nsize = '19M'\nfile = 'new.ram'"),
        "run --config c.toml",
        CONFIG,
        &["multiple of 2 MiB; 19 MiB is not"],
    ),
    ("config_timeout_nan_is_refused", |p| config(p, "timeout = nan"), "run --config c.toml", CONFIG, &[TIMEOUT, "NaN"]),
    (
        "config_names_a_script_that_is_missing",
        |p| config(p, "script = 'no.wvm'\n[memory]\nfile = 'new.ram'"),
        "run --config c.toml",
        USAGE,
        &["no.wvm", "No such file"],
    ),
];

/// Refused when RAM is about to be made, which is after KVM was looked at.
pub const REFUSED_WITH_KVM: &[Row] = &[
    (
        "cpus_that_have_no_room_to_start_in_2_mib_are_refused",
        nothing,
        "run --cpus 4 --memory 2M,file=new.ram",
        IMAGE,
        &["on 4 processors need", "pages, RAM has 512"],
    ),
    (
        "cpus_that_have_no_room_to_start_in_4_mib_are_refused",
        nothing,
        "run --cpus 16 --memory 4M,file=new.ram --program hello",
        IMAGE,
        &["on 16 processors need", "pages, RAM has 1024"],
    ),
    (
        "program_that_leaves_no_room_to_start_in_is_refused",
        |p| p.write("my.elf", &program(1 << 20)),
        "run --memory 2M,file=new.ram --program ./my.elf",
        IMAGE,
        &["the programs take 257 pages", "on 1 processor", "RAM has 512"],
    ),
    (
        "program_with_segments_in_one_page_is_refused",
        |p| {
            let mut file = program(0x2000);
            // The second header says what the first one does, but writable.
            file.copy_within(64..120, 120);
            (file[56], file[124]) = (2, 6);
            p.write("my.elf", &file);
        },
        "run --memory 8M,file=new.ram --program ./my.elf",
        IMAGE,
        &["'./my.elf' cannot run: its segments at 0x400000 and 0x400000 have the page at 0x400000 in common"],
    ),
    (
        "program_that_is_a_pipe_is_refused_at_once",
        |p| pipe(p, "pipe"),
        "run --memory 8M,file=new.ram --program ./pipe",
        IMAGE,
        &["'./pipe' cannot run: it is no regular file"],
    ),
    (
        "image_that_is_a_pipe_is_refused_at_once",
        |p| pipe(p, "pipe"),
        "run --memory 8M,file=new.ram --kernel pipe",
        IMAGE,
        &["'pipe': it is no regular file"],
    ),
    (
        "store_folder_missing_is_named",
        nothing,
        "script ok.wvm --memory 8M,file=new.ram --store no/such",
        CONFIG,
        &["'no/such'", "does not exist", "--store DIR"],
    ),
    (
        "store_folder_that_is_a_file_is_named",
        nothing,
        "script ok.wvm --memory 8M,file=new.ram --store ok.wvm",
        CONFIG,
        &["'ok.wvm' is no folder"],
    ),
    (
        "store_folder_of_a_configuration_file_is_looked_at",
        |p| p.write("c.toml", b"store = 'no/such'\nscript = 'ok.wvm'"),
        "run --memory 8M,file=new.ram --config c.toml",
        CONFIG,
        &["'no/such'", "does not exist"],
    ),
    (
        "memory_beyond_the_hosts_without_a_file_is_refused",
        nothing,
        "run --memory 4T,durability=none",
        MEMORY,
        &["4 TiB without a file", "memory and swap"],
    ),
];

/// What stands nearest to those, and needs no KVM.
pub const ACCEPTED_WITHOUT_KVM: &[Row] = &[
    (
        "cpus_of_a_configuration_file_are_not_for_the_hosted",
        |p| config(p, "cpus = 2"),
        "run --config c.toml --on hosted --script ok.wvm",
        0,
        &["8 locked"],
    ),
    (
        "ram_file_for_the_hosted_works",
        nothing,
        "script ok.wvm --on hosted --memory 8M,durability=none,file=new.ram",
        0,
        &["8 MiB in new.ram", "8 locked"],
    ),
    (
        "config_with_a_host_works",
        |p| config(p, "on = 'fake'\nscript = 'ok.wvm'\n[memory]\nsize = '8M'"),
        "run --config c.toml",
        0,
        &["fake: a model", "8 locked"],
    ),
    (
        "quota_of_nothing_works_on_the_fake",
        |p| p.write("empty.wvm", b""),
        "script empty.wvm --on fake --memory 8M --wire-quota 0",
        0,
        &["wire quota  0 bytes"],
    ),
    (
        "programs_are_listed",
        nothing,
        "programs",
        0,
        &["  hello ", "  storm     [SECONDS] [THREADS] …", "--program NAME"],
    ),
    ("programs_are_listed_as_json", nothing, "programs --json", 0, &["\"name\": \"kv\""]),
    (
        "config_with_programs_leaves_a_script_on_the_line_alone",
        |p| config(p, "programs = ['hello']"),
        "run --config c.toml --on fake --script ok.wvm",
        0,
        &["8 locked"],
    ),
];

/// What stands nearest to those.
pub const ACCEPTED: &[Row] = &[
    (
        "cpus_2_work_in_2_mib",
        nothing,
        "script ok.wvm --memory 2M,durability=none --cpus 2",
        0,
        &["vCPUs       2", "8 locked"],
    ),
    (
        "cpus_16_work_in_6_mib",
        nothing,
        "script ok.wvm --memory 6M,durability=none --cpus 16",
        0,
        &["vCPUs       16", "8 locked"],
    ),
    ("cpus_1_work", nothing, "script ok.wvm --memory 8M,durability=none --cpus 1", 0, &["8 locked"]),
    (
        "cpus_16_work",
        nothing,
        "script ok.wvm --memory 32M,durability=none --cpus 16",
        0,
        &["vCPUs       16", "8 locked"],
    ),
    (
        "store_folder_with_a_quota_of_nothing_works",
        nothing,
        "script ok.wvm --memory 8M,durability=none --store . --store-quota 0",
        0,
        &["stores", "., up to 0 bytes", "8 locked"],
    ),
    (
        "ram_of_2_mib_works",
        nothing,
        "script ok.wvm --memory 2M,durability=none",
        0,
        &["2 MiB in memory only", "8 locked"],
    ),
    (
        "ram_in_every_spelling_works",
        nothing,
        "script ok.wvm --memory durability=none,size=0x80_0000",
        0,
        &["8 MiB in memory only"],
    ),
    (
        "quota_of_nothing_works_until_something_is_wired",
        |p| p.write("empty.wvm", b""),
        "script empty.wvm --memory 8M,durability=none --wire-quota 0",
        0,
        &["wire quota  0 bytes"],
    ),
    (
        "quota_of_all_ram_works",
        nothing,
        "script ok.wvm --memory 4M,durability=none --wire-quota 4M",
        0,
        &["wire quota  4 MiB"],
    ),
    (
        "timeout_of_a_year_works",
        nothing,
        "script ok.wvm --memory 8M,durability=none --timeout 31622400",
        0,
        &["8 locked"],
    ),
    (
        "config_empty_works",
        |p| config(p, ""),
        "script ok.wvm --config c.toml --memory 8M,durability=none",
        0,
        &["8 MiB"],
    ),
    (
        "config_with_every_kind_of_value_works",
        |p| config(p, COMPLETE),
        "run --config c.toml",
        0,
        &["wire quota  4 MiB", "operations of ok.wvm"],
    ),
];

fn config(place: &Place, text: &str) {
    place.write("c.toml", text.as_bytes());
}
