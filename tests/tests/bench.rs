//! Benchmarks as a user runs them. That they measure at all, check what they measured and stay within their counts is looked at here;
//! their times are not.

use std::fs;
use std::process::ExitCode;

use serde_json::Value;
use wirevm_tests::needs::scratch_dir;
use wirevm_tests::{Case, Need, Suite, Wirevm};

/// Runs a benchmark quickly and returns its document.
fn quick(words: &[&str]) -> Value {
    let finished = Wirevm::new([&["bench"], words, &["--quick", "--json"]].concat()).run().expect_code(0);
    let document = finished.json();
    assert_eq!(document["failed"], Value::Array(vec![]), "{document}");
    document
}

fn cases(document: &Value) -> &[Value] {
    document["cases"].as_array().expect("cases")
}

fn names(document: &Value) -> Vec<&str> {
    cases(document).iter().map(|case| case["name"].as_str().expect("a name")).collect()
}

/// Checks that every number of a case that has a limit by counts is there and within it.
fn counts(document: &Value) -> Vec<String> {
    let mut counted = Vec::new();
    for case in cases(document) {
        for part in case["split"].as_array().expect("parts") {
            if let (Some(value), Some(most)) = (part["value"].as_f64(), part["at_most"].as_f64()) {
                assert!(value <= most, "{}: {part}", case["name"]);
                counted.push(format!("{} {}", case["name"], part["name"]));
            }
        }
    }
    counted
}

const CASES: &[Case] = &[
    ("boot_stays_within_its_counts", &[Need::Kvm, Need::Durable], || {
        let document = quick(&["boot"]);
        let expected = [
            "boot/exec-to-first-instruction",
            "boot/entry-to-ready/1",
            "boot/entry-to-ready/2",
            "boot/entry-to-ready/4",
        ];
        assert_eq!(names(&document), expected);
        assert_eq!(counts(&document).len(), 3, "{document}");
    }),
    ("scattered_wires_take_samples_of_both_sides_in_turns", &[], || {
        let document = quick(&["wire", "--filter", "scattered/strided/126"]);
        assert_eq!(names(&document), ["wire/scattered/strided/126", "unwire/scattered/strided/126"]);
        for case in cases(&document) {
            let [ours, limit] = ["ours", "limit"].map(|side| case[side]["samples"].as_array().expect("samples").len());
            assert!(ours >= 5 && ours == limit, "{case}");
            let ratio = case["ratio"]["median"].as_f64().expect("a ratio");
            assert!(ratio > 0.0 && case["goal"]["at_most"].as_f64().is_some(), "{case}");
        }
    }),
    ("a_wire_of_a_program_is_one_hypercall_whatever_its_pages", &[Need::Kvm], || {
        let document = quick(&["wire", "--filter", "wire/guest"]);
        assert_eq!(names(&document), ["wire/guest/cold/zero/64M", "wire/guest/scattered/126"]);
        assert_eq!(counts(&document).len(), 2, "{document}");
        for case in cases(&document) {
            let part = |name: &str| {
                let parts = case["split"].as_array().expect("parts");
                let part = parts.iter().find(|part| part["name"] == name).expect("it is there");
                part["value"].as_f64().expect("a number")
            };
            assert!(part("hypercalls") > 0.0 && part("host service") > 0.0 && part("exit time") > 0.0, "{case}");
        }
    }),
    ("a_sync_is_one_flush_whatever_its_ranges", &[Need::Durable], || {
        let document = quick(&["sync", "--filter", "sync/many/strided"]);
        assert_eq!(counts(&document).len(), cases(&document).len(), "{document}");
        assert!(cases(&document).len() >= 3, "{document}");
    }),
    ("files_hold_what_was_found_and_compare_reads_it", &[], || {
        let folder = scratch_dir();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let (json, html) = (path("a.json"), path("a.html"));
        let words = ["bench", "wire", "--quick", "--filter", "resident/4K", "--json", &json, "--html", &html];
        let finished = Wirevm::new(words).run().expect_code(0);
        assert!(finished.stdout.contains("wire/resident/4K") && finished.stdout.contains("goals reached"));
        let page = fs::read_to_string(&html).expect("the page");
        assert!(page.contains("<svg") && page.contains("wire/resident/4K") && !page.contains("<script src"));
        let same = Wirevm::new(["bench", "compare", &json, &json]).run().expect_code(0);
        assert!(same.stdout.contains("wire/resident/4K"), "{}", same.stdout);
        // The same document with ours ten times as slow.
        let mut slower: Value = serde_json::from_str(&fs::read_to_string(&json).expect("the document")).expect("JSON");
        for case in slower["cases"].as_array_mut().expect("cases") {
            for sample in case["ours"]["samples"].as_array_mut().expect("samples") {
                *sample = (sample.as_u64().expect("a number") * 10).into();
            }
        }
        let worse = path("b.json");
        fs::write(&worse, slower.to_string()).expect("written");
        let regressed = Wirevm::new(["bench", "compare", &json, &worse]).run().expect_code(1);
        assert!(regressed.stderr.contains("wire/resident/4K"), "{}", regressed.stderr);
    }),
];

fn main() -> ExitCode {
    Suite::new().cases(CASES).run()
}
