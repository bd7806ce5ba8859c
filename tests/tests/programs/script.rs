//! Programs in scripts.

use std::fs;

use serde_json::Value;
use wirevm_tests::needs::scratch_dir;
use wirevm_tests::{Case, Finished, Need, Wirevm};

use crate::elf::printing;

const KVM: &[Need] = &[Need::Kvm];

fn script(text: &str, more: &[&str]) -> Finished {
    let line = ["script", "-", "--memory", "32M,durability=none", "--timeout", "60"];
    Wirevm::new([&line, more].concat()).input(text).run()
}

/// Returns what each line of a script gave, all as expected.
fn results(text: &str, more: &[&str]) -> Vec<String> {
    let document = script(text, &[more, &["--json"]].concat()).expect_code(0).json();
    let operations = document["operations"].as_array().expect("operations");
    operations.iter().map(|step| step["result"].as_str().expect("a result").to_owned()).collect()
}

/// Returns the examples of the grammar that start programs.
fn examples() -> Vec<String> {
    let grammar = concat!(env!("CARGO_MANIFEST_DIR"), "/../resources/scripts/GRAMMAR.md");
    let text = fs::read_to_string(grammar).expect("the grammar");
    let blocks = text.split("```wvm-programs\n").skip(1);
    blocks.map(|block| block.split("```").next().expect("a block").to_owned()).collect()
}

pub const CASES: &[Case] = &[
    ("program_of_a_script_is_waited_for_and_its_output_kept", KVM, || {
        let text =
            "program p hello you => exit 0\noutput p => \"hello, you\\n\"\nprogram q hello\noutput q\nlayout p => none";
        let expected = ["exit 0", "\"hello, you\\n\"", "exit 0", "\"hello, world\\n\"", "none"];
        assert_eq!(results(text, &[]), expected);
    }),
    ("examples_of_the_grammar_come_to_what_they_say", KVM, || {
        let examples = examples();
        assert!(!examples.is_empty());
        for example in examples {
            for cpus in ["1", "2"] {
                assert!(!results(&example, &["--cpus", cpus]).is_empty());
            }
        }
    }),
    ("fault_is_a_result_of_its_line_only", KVM, || {
        let finished = script("program p rogue ud2\n", &[]);
        assert!(!finished.stdout.contains("end of script"), "{}", finished.stdout);
        finished.expect_error(1, &["1", "was expected to give SUCCESS", "gave fault", "invalid"]);
        let text = "program p rogue ud2 => fault\nprogram q hello => exit 0\nhost locked => 0";
        assert_eq!(results(text, &[]).len(), 3);
    }),
    ("map_of_a_program_is_seen_while_it_runs_and_is_empty_behind_its_end", KVM, || {
        let text = "t1: program p storm 60 1 1\nlayout p\nresidents p\nentries p => any\ncheck\nkill p\njoin t1 => killed\nresidents p => 0\n\
                    layout p => none\nhost locked => 0";
        let results = results(text, &["--cpus", "2"]);
        assert!(results[1].starts_with('['), "{results:?}");
        assert!(results[2].parse::<u64>().is_ok_and(|pages| pages > 0), "{results:?}");
    }),
    ("end_and_reset_kill_programs", KVM, || {
        let text = "t1: program p storm 60 1 1\nend p\njoin t1 => killed\nprogram q hello\nreset\nhost locked => 0\nprogram p hello";
        assert_eq!(results(text, &[]).len(), 7);
    }),
    ("program_left_running_is_a_violation_at_the_end", KVM, || {
        let finished = script("host hold sync\nprogram p storm 60 1 1 => BLOCKED\n", &[]);
        finished.expect_error(1, &["end of script", "a program has not ended"]);
    }),
    ("operations_beside_a_program_go_on", KVM, || {
        let text = "t1: program p storm 2 2 1\na = allocate 64 pages\nwrite a 0x5a\nwire a user\nexpect a 0x5a\nunwire a user\n\
                    deallocate a\njoin t1 => exit 0\nhost locked => 0";
        assert_eq!(results(text, &["--cpus", "2"]).len(), 9);
    }),
    ("program_of_a_file_runs_from_a_script", KVM, || {
        let folder = scratch_dir();
        fs::write(folder.path().join("my.elf"), printing("mine", 3)).expect("a file");
        let text = "program p \"./my.elf\" => exit 3\noutput p => \"mine\"\n";
        let line = ["script", "-", "--memory", "16M,durability=none", "--json"];
        let finished = Wirevm::new(line).current_dir(folder.path()).input(text).run().expect_code(0);
        assert_eq!(finished.json()["operations"][1]["result"], Value::from("\"mine\""));
    }),
];
