//! `wirevm run --program`.

use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use wirevm_tests::needs::scratch_dir;
use wirevm_tests::{Case, Finished, Need, Wirevm, binary};

use crate::elf::printing;

/// What every machine here is.
const MACHINE: [&str; 5] = ["run", "--memory", "32M,durability=none", "--timeout", "60"];
const KVM: &[Need] = &[Need::Kvm];

const STORES: &[Need] = &[Need::Kvm, Need::Durable, Need::Stores];

/// Programs with arguments that they refuse, and how their sentences begin.
const WRONG_ARGUMENTS: [(&str, &str); 26] = [
    ("hello,a,b", "hello: \"b\" is one argument too many; usage: hello [NAME]"),
    ("calls,x", "calls: \"x\" is no number of calls; usage"),
    ("calls,1,2", "calls: \"2\" is one argument too many; usage"),
    ("faults,1,2", "faults: \"2\" is one argument too many; usage"),
    ("refault,1,2", "refault: \"2\" is one argument too many; usage"),
    ("counter,a,b", "counter: \"b\" is one argument too many; usage"),
    ("counter,NO", "counter: \"NO\" is no name of a store"),
    ("greedy", "greedy: \"\" is none of:"),
    ("greedy,forks,x", "greedy: \"x\" is one argument too many; usage"),
    ("hog", "hog: an argument is missing: size in MiB; usage"),
    ("hog,1,wired", "hog: \"wired\" is no wire; usage"),
    ("hog,1,wire,x", "hog: \"x\" is one argument too many; usage"),
    ("kv,get", "kv: an argument is missing: the key to get; usage"),
    ("kv,list,x", "kv: \"x\" is one argument too many; usage"),
    (
        "meter",
        "meter: an argument is missing: null, fault, first-touch, wire, wire-range, wire-new, wire-scattered, wire-next,",
    ),
    ("meter,wire", "meter: an argument is missing: number of times; usage"),
    ("meter,wire-range,1,each", "meter: \"each\" is no number of pages; usage"),
    ("meter,wire,1,ech", "meter: \"ech\" is no inside or each; usage"),
    ("meter,wire,1,hold", "meter: \"hold\" is no inside or each; usage"),
    ("meter,wire-new,1,1,held", "meter: \"held\" is no inside, each or hold; usage"),
    ("pressure,1,x", "pressure: \"x\" is no MiB to leave unwired; usage"),
    ("pulse", "pulse: an argument is missing: wire, sync, beat or rest; usage"),
    ("pulse,wired,1", "pulse: \"wired\" is no wire, sync, beat or rest; usage"),
    ("rogue,ud2,x", "rogue: \"x\" is one argument too many; usage"),
    ("storm,1,1,1,x", "storm: \"x\" is no hold; usage"),
    ("toucher,1,1,reed", "toucher: \"reed\" is no read, write, stride or threads; usage"),
];
/// What three runs of `counter` print.
const COUNTED: &str = "counter 1\ncounter 2\ncounter 3\n";

fn run(arguments: &[&str]) -> Finished {
    Wirevm::new([&MACHINE, arguments].concat()).run()
}

fn programs(arguments: &[&str], code: i32) -> Value {
    let document = run(&[arguments, &["--json"]].concat()).expect_code(code).json();
    assert_eq!((&document["exit_code"], &document["ok"]), (&code.into(), &(code == 0).into()), "{document}");
    document
}

/// Checks how a program ended, as its document says.
fn assert_end(document: &Value, number: usize, end: &str, code: impl Into<Value>) {
    let program = &document["programs"][number];
    assert_eq!((&program["end"], &program["code"]), (&end.into(), &code.into()), "{document}");
    assert!(program["elapsed_ns"].as_u64().is_some_and(|elapsed| elapsed > 0), "{document}");
}

pub const CASES: &[Case] = &[
    ("hello_is_shown_and_reported", KVM, || {
        let finished = run(&["--program", "hello"]).expect_code(0);
        assert!(finished.stdout.starts_with("hello, world\n\n  KVM "), "{}", finished.stdout);
        assert!(finished.stdout.contains("\n  hello               exited with code 0  "), "{}", finished.stdout);
        assert!(finished.stdout.ends_with("\n  1 program, which exited with code 0\n"), "{}", finished.stdout);
        assert_eq!(finished.stderr, "");
    }),
    ("arguments_reach_the_program", KVM, || {
        let finished = run(&["--quiet", "--program", "hello,wide world"]).expect_code(0);
        assert_eq!(finished.stdout, "hello, wide world\n", "only what it prints is shown");
    }),
    ("program_is_reported_as_json_with_its_output", KVM, || {
        let document = programs(&["--program", "hello,you"], 0);
        assert_end(&document, 0, "exited", 0);
        let program = &document["programs"][0];
        assert_eq!((&program["name"], &program["arguments"]), (&"hello".into(), &serde_json::json!(["you"])));
        assert_eq!((&program["output"], &program["output_whole"]), (&"hello, you\n".into(), &true.into()));
        assert_eq!(document["machine"]["vcpus"], 1);
    }),
    ("code_of_a_program_is_told_and_ends_with_1", KVM, || {
        let folder = scratch_dir();
        fs::write(folder.path().join("my.elf"), printing("seven\n", 7)).expect("a file");
        let line = [&MACHINE, &["--program", "./my.elf", "--program", "hello"][..]].concat();
        let finished = Wirevm::new(line).current_dir(folder.path()).run();
        for part in ["my.elf: seven\n", "hello: hello, world\n", "  !my.elf", "exited with code 7", "1 of 2 programs"] {
            assert!(finished.stdout.contains(part), "{part} is not in\n{}", finished.stdout);
        }
        finished.expect_error(1, &["my.elf exited with code 7"]);
    }),
    ("wrong_arguments_end_a_program_with_2_and_one_sentence", KVM, || {
        for wrong in WRONG_ARGUMENTS.chunks(8) {
            let line: Vec<&str> = wrong.iter().flat_map(|(program, _)| ["--program", program]).collect();
            let document = programs(&line, 1);
            for (number, (program, sentence)) in wrong.iter().enumerate() {
                assert_end(&document, number, "exited", 2);
                let output = document["programs"][number]["output"].as_str().expect("its output");
                assert!(output.starts_with(sentence), "{program}: {output}");
            }
        }
    }),
    ("kv_looks_at_its_arguments_before_it_makes_its_store", STORES, || {
        let folder = scratch_dir();
        let line = [&MACHINE, &["--store", "store", "--quiet", "--program", "kv,abc"][..]].concat();
        fs::create_dir(folder.path().join("store")).expect("a folder");
        let run = || Wirevm::new(&line).current_dir(folder.path()).run();
        assert!(run().expect_code(1).stdout.starts_with("kv: \"abc\" is no number of values to put; usage"));
        assert!(!folder.path().join("store/kv").exists(), "it is there from its first use on");
        let line = line.iter().map(|word| if *word == "kv,abc" { "kv,1" } else { word });
        let finished = Wirevm::new(line).current_dir(folder.path()).run().expect_code(0);
        assert!(finished.stdout.contains("synced 1\n"), "{}", finished.stdout);
        assert!(folder.path().join("store/kv").exists());
    }),
    ("second_kv_at_a_time_says_that_its_store_may_be_in_use", STORES, || {
        let folder = scratch_dir();
        fs::create_dir(folder.path().join("store")).expect("a folder");
        let line = ["--store", "store", "--program", "kv,300", "--program", "kv,300", "--json"];
        let finished = Wirevm::new([&MACHINE[..], &line].concat()).current_dir(folder.path()).run();
        let document = finished.expect_code(1).json();
        let programs = document["programs"].as_array().expect("programs");
        let outputs: Vec<&str> = programs.iter().map(|program| program["output"].as_str().expect("text")).collect();
        let refused = "kv: the store 'kv' can't be opened (it may be in use): KERN_RESOURCE_SHORTAGE\n";
        assert_eq!(outputs.iter().filter(|output| **output == refused).count(), 1, "{outputs:?}");
        assert_eq!(outputs.iter().filter(|output| output.contains("synced 300\n")).count(), 1, "{outputs:?}");
    }),
    ("counter_counts_on_from_run_to_run", STORES, || {
        let folder = scratch_dir();
        fs::create_dir(folder.path().join("store")).expect("a folder");
        let count = |cpus, program| {
            let line = ["--store", "store", "--quiet", "--cpus", cpus, "--program", program];
            Wirevm::new([&MACHINE[..], &line].concat()).current_dir(folder.path()).run().expect_code(0).stdout
        };
        assert_eq!([count("1", "counter"), count("2", "counter"), count("1", "counter")].concat(), COUNTED);
        // Another store has a count of its own.
        assert_eq!(count("1", "counter,other"), "counter 1\n");
        assert_eq!(count("1", "counter"), "counter 4\n");
    }),
    ("fault_ends_its_program_and_no_other", KVM, || {
        let document = programs(&["--program", "rogue,ud2", "--program", "hello"], 1);
        assert_end(&document, 0, "faulted", Value::Null);
        assert_end(&document, 1, "exited", 0);
        let reason = document["programs"][0]["reason"].as_str().expect("a reason");
        assert!(reason.contains("invalid") && reason.contains("rip 0x"), "{reason}");
        let finished = run(&["--program", "rogue,ud2"]);
        finished.expect_error(1, &["rogue was ended because it", "invalid", "rip 0x"]);
    }),
    ("two_processors_run_two_programs", KVM, || {
        let document = programs(&["--cpus", "2", "--program", "calls,200", "--program", "faults,200"], 0);
        assert_eq!(document["machine"]["vcpus"], 2);
        for number in [0, 1] {
            assert_end(&document, number, "exited", 0);
        }
    }),
    ("processors_do_not_change_what_a_program_does", KVM, || {
        for cpus in ["1", "2", "4"] {
            let finished = run(&["--quiet", "--cpus", cpus, "--program", "hello,you"]).expect_code(0);
            assert_eq!(finished.stdout, "hello, you\n", "{cpus} processors");
        }
    }),
    ("storm_on_two_processors_leaves_the_books_in_order", KVM, || {
        let document = programs(&["--cpus", "2", "--program", "storm,2,3,1"], 0);
        assert_end(&document, 0, "exited", 0);
    }),
    ("machine_that_ends_first_is_told", KVM, || {
        let line = ["run", "--memory", "32M,durability=none", "--timeout", "1", "--program", "storm,60,1,1"];
        let finished = Wirevm::new(line).run();
        assert!(finished.elapsed < Duration::from_secs(20), "it took {:?}", finished.elapsed);
        assert!(finished.stdout.contains("had not ended when the machine did"), "{}", finished.stdout);
        finished.expect_error(12, &["did not end within 1 s"]);
    }),
    ("interrupt_ends_the_machine_in_order", KVM, || {
        let folder = scratch_dir();
        let mut command = Command::new(binary::path());
        command.args(["run", "--memory", "16M,file=guest.ram", "--program", "storm,60,1,1", "--json"]);
        command.current_dir(folder.path()).env_remove("RUST_LOG").stdin(Stdio::null());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("wirevm starts");
        let start = Instant::now();
        thread::sleep(Duration::from_secs(2));
        let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
        let output = child.wait_with_output().expect("its output");
        assert!(start.elapsed() < Duration::from_secs(20), "it took {:?}", start.elapsed());
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
        let document: Value = serde_json::from_slice(&output.stdout).expect("a document");
        assert_end(&document, 0, "unfinished", Value::Null);
        assert!(document["error"].as_str().is_some_and(|error| error.contains("interrupted")), "{document}");
    }),
    ("program_too_large_for_ram_is_refused_before_the_ram_file_is_made", KVM, || {
        let folder = scratch_dir();
        let mut image = printing("", 0);
        image.resize(8 << 20, 0);
        fs::write(folder.path().join("large.elf"), image).expect("a file");
        let line = ["run", "--memory", "4M,file=new.ram", "--program", "./large.elf"];
        Wirevm::new(line).current_dir(folder.path()).run().expect_error(13, &["programs", "pages"]);
        assert!(!folder.path().join("new.ram").exists());
    }),
    ("program_that_does_not_fit_when_it_runs_says_so", KVM, || {
        let folder = scratch_dir();
        let mut image = printing("", 0);
        // The segment's size in memory: all of the lower half above its start, which leaves no room for a stack.
        image[0x68..0x70].copy_from_slice(&((1_u64 << 47) - 0x40_0000).to_le_bytes());
        fs::write(folder.path().join("wide.elf"), image).expect("a file");
        let line = [&MACHINE, &["--program", "./wide.elf", "--program", "hello"][..]].concat();
        let finished = Wirevm::new([&line[..], &["--json"]].concat()).current_dir(folder.path()).run().expect_code(1);
        let document = finished.json();
        assert_end(&document, 1, "exited", 0);
        assert_eq!(document["programs"][0]["end"], "not-started", "{document}");
        assert_eq!(document["programs"][0]["reason"], "its stack: NO_SPACE", "{document}");
        let finished = Wirevm::new(&line).current_dir(folder.path()).run();
        finished.expect_error(1, &["wide.elf could not be started: its stack: NO_SPACE"]);
    }),
];
