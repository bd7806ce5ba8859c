//! What a program has synced is there when its machine was killed and another runs on the same files.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use wirevm_tests::needs::scratch_dir;
use wirevm_tests::{Case, Need, Wirevm, binary};

const MEMORY: &str = "32M,file=guest.ram";

/// Runs `kv` and kills its machine when it has synced so many puts more; returns the last that it said was synced.
fn killed_behind(folder: &Path, cpus: &str, lines: usize) -> u64 {
    let mut command = Command::new(binary::path());
    command.args(["run", "--cpus", cpus, "--memory", MEMORY, "--store", "store", "--program", "kv,1000000"]);
    command.args(["--timeout", "100"]).current_dir(folder).env_remove("RUST_LOG");
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("wirevm starts");
    let mut output = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut synced = Vec::new();
    while synced.len() < lines {
        let line = output.next().expect("it runs").expect("text");
        synced.extend(line.strip_prefix("synced ").map(|number| number.parse::<u64>().expect("a number")));
    }
    child.kill().expect("killed");
    child.wait().expect("a child");
    // What it had said by then counts, though it was not read yet; the last line may be cut.
    for line in output.map_while(Result::ok) {
        synced.extend(line.strip_prefix("synced ").and_then(|number| number.parse::<u64>().ok()));
    }
    assert!(synced.is_sorted(), "{synced:?}");
    // A number that is cut is a smaller one.
    synced.into_iter().max().expect("something was synced")
}

/// Runs `kv` to its end; returns the last put that it found.
fn found(folder: &Path) -> u64 {
    let line = ["run", "--memory", MEMORY, "--store", "store", "--program", "kv,5", "--quiet"];
    let finished = Wirevm::new(line).current_dir(folder).run().expect_code(0);
    let (_, put) = finished.stdout.split_once("(put ").unwrap_or_else(|| panic!("{}", finished.stdout));
    assert!(finished.stdout.contains("keys verified"), "{}", finished.stdout);
    put.split(')').next().and_then(|put| put.parse().ok()).unwrap_or_else(|| panic!("{}", finished.stdout))
}

fn survives(cpus: &str) {
    let folder = scratch_dir();
    std::fs::create_dir(folder.path().join("store")).expect("a folder");
    let mut before = 0;
    for lines in [3, 40, 11] {
        let synced = killed_behind(folder.path(), cpus, lines);
        assert!(synced > before, "{synced} after {before}");
        let found = found(folder.path());
        // The put behind the last that was told may have been synced as well, and more were when the machine was faster.
        assert!(found >= synced, "put {synced} was synced, and {found} was found");
        before = found + 5;
    }
}

const NEEDS: &[Need] = &[Need::Kvm, Need::Durable, Need::Stores];

pub const CASES: &[Case] = &[
    ("kv_finds_what_it_had_synced_when_its_machine_was_killed", NEEDS, || survives("1")),
    ("kv_finds_what_it_had_synced_on_two_processors", NEEDS, || survives("2")),
];
