//! The example scripts on a real guest, each with durable RAM and without, and the commands around them.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use wirevm_abi::call::CallEntry;
use wirevm_abi::{VERSION, op};
use wirevm_tests::examples::{name, scripts};
use wirevm_tests::image::{call_page, caller};
use wirevm_tests::needs::scratch_dir;
use wirevm_tests::{Case, Need, Suite, Wirevm};

fn each(mode: &'static str) -> Vec<(String, (PathBuf, &'static str))> {
    scripts().into_iter().map(|path| (format!("{}_on_{mode}_ram", name(&path)), (path, mode))).collect()
}

fn carry_out((path, mode): (PathBuf, &'static str)) {
    let folder = scratch_dir();
    let memory = match mode {
        "durable" => format!("size=16M,file={}", folder.path().join("guest.ram").display()),
        _ => "size=16M,durability=none".to_owned(),
    };
    // Some scripts have files of their own behind their memory.
    let store = folder.path().join("store");
    std::fs::create_dir(&store).expect("a folder");
    let (script, store) = (path.to_string_lossy(), store.to_string_lossy());
    let line = ["script", &script, "--memory", &memory, "--store", &store, "--json", "--timeout", "100"];
    let finished = Wirevm::new(line).run().expect_code(0);
    let report = finished.json();
    let steps = report["operations"].as_array().expect("operations");
    assert!(!steps.is_empty());
    assert!(steps.iter().all(|step| step["ok"] == true), "{}", finished.stdout);
}

const CASES: &[Case] = &[
    ("run_without_arguments_shows_the_guests_word_beside_the_hosts", &[Need::Kvm, Need::Durable], || {
        let folder = scratch_dir();
        let finished = Wirevm::new(["run"]).current_dir(folder.path()).run().expect_code(0);
        for part in ["wire big user", "1024 locked", "sync a synchronous", "0 dirty", "as expected"] {
            assert!(finished.stdout.contains(part), "{part} is not in\n{}", finished.stdout);
        }
        assert!(finished.elapsed < Duration::from_secs(5), "the demo took {:?}", finished.elapsed);
        assert_eq!(folder.path().read_dir().expect("folder").count(), 0, "the temporary RAM file stays behind");
    }),
    ("run_without_a_durable_file_system_shows_sync_as_unsupported", &[Need::Kvm], || {
        let finished = Wirevm::new(["run", "--memory", "durability=none"]).run().expect_code(0);
        let sync = finished.stdout.lines().find(|line| line.contains("sync a synchronous")).expect("a sync row");
        assert!(sync.contains("unsupported"), "{sync}");
    }),
    ("mismatch_tells_line_expected_and_got_and_ends_with_1", &[Need::Kvm], || {
        let script = "a = allocate 2 pages\nwire a user\nhost locked => 3\nhost locked => 2\n";
        let finished = Wirevm::new(["script", "-", "--memory", "8M,durability=none"]).input(script).run();
        assert!(!finished.stdout.contains("line 4"), "{}", finished.stdout);
        finished.expect_error(1, &["3", "'host locked' was expected to give 3", "gave 2"]);
    }),
    ("guest_panic_is_told_with_its_message_and_ends_with_11", &[Need::Kvm], || {
        let finished = Wirevm::new(["script", "-", "--memory", "8M,durability=none"]).input("crash panic\n").run();
        assert!(finished.stderr.contains("rip "), "{}", finished.stderr);
        finished.expect_error(11, &["the guest panicked", "the host asked for a panic"]);
    }),
    ("guest_trap_is_told_with_vector_and_registers_and_ends_with_11", &[Need::Kvm], || {
        let finished = Wirevm::new(["script", "-", "--memory", "8M,durability=none"]).input("crash trap\n").run();
        assert!(finished.stderr.contains("cr2 ffffffff40000000"), "{}", finished.stderr);
        finished.expect_error(11, &["vector 14 (page fault)"]);
    }),
    ("triple_fault_ends_with_10", &[Need::Kvm], || {
        let finished =
            Wirevm::new(["script", "-", "--memory", "8M,durability=none"]).input("crash triplefault\n").run();
        finished.expect_error(10, &["triple fault", "rip "]);
    }),
    ("hung_guest_ends_with_12_when_its_time_is_over", &[Need::Kvm], || {
        let script = "crash hang\n";
        let arguments = ["script", "-", "--memory", "8M,durability=none", "--timeout", "1"];
        let finished = Wirevm::new(arguments).input(script).run();
        assert!(finished.elapsed < Duration::from_secs(10), "it took {:?}", finished.elapsed);
        finished.expect_error(12, &["did not end within 1 s"]);
    }),
    ("exit_code_of_the_guest_is_in_the_report", &[Need::Kvm], || {
        let arguments = ["script", "-", "--memory", "8M,durability=none", "--json"];
        let report = Wirevm::new(arguments).input("exit 3\n").run().expect_code(1).json();
        assert_eq!(report["guest_code"], 3);
    }),
    ("bytes_that_were_synced_are_in_the_file_of_the_next_run", &[Need::Kvm, Need::Durable], || {
        let folder = scratch_dir();
        let memory = format!("size=8M,file={}", folder.path().join("guest.ram").display());
        let script =
            "a = allocate 1 page\nwrite a \"kept by sync\"\nsync a synchronous\nhost file a => \"kept by sync\"\n";
        for _ in 0..2 {
            let finished = Wirevm::new(["script", "-", "--memory", &memory]).input(script).run().expect_code(0);
            assert!(!finished.stderr.contains("not closed in order"), "{}", finished.stderr);
        }
        let bytes = std::fs::read(folder.path().join("guest.ram")).expect("the RAM file");
        let text = b"kept by synckept by sync";
        assert!(bytes.windows(text.len()).any(|window| window == text));
    }),
    ("image_from_a_file_boots_like_the_built_in_one", &[Need::Kvm], || {
        let image = wirevm_tests::binary::image();
        let finished = Wirevm::new(["run", "--kernel", &image.to_string_lossy(), "--memory", "durability=none"]).run();
        let finished = finished.expect_code(0);
        assert!(finished.stdout.contains(&*image.to_string_lossy()), "{}", finished.stdout);
    }),
    ("image_that_takes_no_commands_runs_to_its_own_end", &[Need::Kvm], || {
        let hello = call_page(&[CallEntry::new(op::HELLO, 0, [VERSION, 0, 0]), CallEntry::new(op::EXIT, 0, [5, 0, 0])]);
        let folder = scratch_dir();
        let image = folder.path().join("own.elf");
        std::fs::write(&image, caller(&[hello])).expect("an image");
        let run = |more: &[&str]| {
            let image = image.to_string_lossy();
            let all = [&["run", "--kernel", &image, "--memory", "8M,durability=none"], more].concat();
            Wirevm::new(all).run()
        };
        let report = run(&["--json"]).expect_code(1).json();
        assert_eq!(report["guest_code"], 5);
        // Asked for a script, such an image cannot do what it is asked.
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../resources/scripts/exit.wvm");
        run(&["--script", script]).expect_error(1, &["before it took commands", "ended with code 5"]);
    }),
    ("example_configuration_is_taken_and_the_command_line_wins", &[Need::Kvm], || {
        let config = concat!(env!("CARGO_MANIFEST_DIR"), "/../resources/config/wirevm.toml");
        let run = |more: &[&str]| {
            let report =
                Wirevm::new([&["run", "--config", config, "--json"], more].concat()).run().expect_code(0).json();
            let number = |name: &str| report["machine"][name].as_u64().expect("a number") >> 20;
            (number("ram_bytes"), number("wire_quota_bytes"))
        };
        assert_eq!(run(&[]), (32, 4));
        assert_eq!(run(&["--memory", "size=16M", "--wire-quota", "6M"]), (16, 6));
    }),
    ("doctor_tells_of_every_part_and_agrees_with_run", &[Need::Kvm], || {
        let finished = Wirevm::new(["doctor"]).run().expect_code(0);
        for part in ["KVM", "RLIMIT_MEMLOCK", "cgroup", "file system", "swap", "KSM", "compact", "free"] {
            assert!(
                finished.stdout.to_lowercase().contains(&part.to_lowercase()),
                "{part} is not in\n{}",
                finished.stdout
            );
        }
    }),
    ("help_lists_exit_codes_and_version_is_the_packages", &[], || {
        let help = Wirevm::new(["--help"]).run().expect_code(0);
        assert!(help.stdout.contains("15") && help.stdout.contains("script"), "{}", help.stdout);
        let version = Wirevm::new(["--version"]).run().expect_code(0);
        assert_eq!(version.stdout.trim(), concat!("wirevm ", env!("CARGO_PKG_VERSION")));
    }),
];

fn main() -> ExitCode {
    Suite::new()
        .cases(CASES)
        .each(&[Need::Kvm, Need::Durable], each("durable"), carry_out)
        .each(&[Need::Kvm], each("volatile"), carry_out)
        .run()
}
