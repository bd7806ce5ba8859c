//! `wirevm run --program`.

use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use wirevm_tests::needs::scratch_dir;
use wirevm_tests::{Case, Finished, Need, Wirevm, binary};

use crate::elf::{printing, with_second_segment};

/// What every machine here is.
const MACHINE: [&str; 5] = ["run", "--memory", "32M,durability=none", "--timeout", "60"];
const KVM: &[Need] = &[Need::Kvm];

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
        // The segment's size in memory: all of the lower half above its start.
        image[0x68..0x70].copy_from_slice(&(1_u64 << 46).to_le_bytes());
        fs::write(folder.path().join("wide.elf"), image).expect("a file");
        let line = [&MACHINE, &["--program", "./wide.elf", "--program", "hello"][..]].concat();
        let finished = Wirevm::new([&line[..], &["--json"]].concat()).current_dir(folder.path()).run().expect_code(1);
        let document = finished.json();
        assert_end(&document, 1, "exited", 0);
        assert_eq!(document["programs"][0]["end"], "not-started", "{document}");
        assert_eq!(document["programs"][0]["reason"], "its segment at 0x405000: NO_SPACE", "{document}");
        let finished = Wirevm::new(&line).current_dir(folder.path()).run();
        finished.expect_error(1, &["wide.elf could not be started: its segment at 0x405000: NO_SPACE"]);
    }),
];
        with_second_segment(&mut image, 0x40_5000);
