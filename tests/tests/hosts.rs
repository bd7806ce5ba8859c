//! Scripts on every host: KVM, this host's services without it, and the model. What a script comes to is the same.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;
use wirevm_tests::examples::{name, scripts, starts_programs};
use wirevm_tests::needs::scratch_dir;
use wirevm_tests::{Case, Finished, Need, Suite, Wirevm};

/// Hides `/dev/kvm`.
const NO_KVM: &[&str] = &["unshare", "-m", "sh", "-c", "mount -t tmpfs none /dev && exec \"$@\"", "sh"];
/// Memory for scripts that want none of their own.
const SMALL: [&str; 2] = ["--memory", "8M,durability=none"];

/// One script on one host: the path, the host, and the memory.
type Run = (PathBuf, &'static str, &'static str);

fn each(on: &'static str, mode: &'static str) -> Vec<(String, Run)> {
    let memory = if mode == "durable" { "size=16M" } else { "size=16M,durability=none" };
    let scripts = scripts().into_iter().filter(|path| !starts_programs(path));
    scripts.map(|path| (format!("{}_on_{on}_with_{mode}_ram", name(&path)), (path, on, memory))).collect()
}

fn script(wrapper: &[&str], path: &Path, on: &str, memory: &str) -> Finished {
    let folder = scratch_dir();
    let path = path.to_string_lossy();
    // Some scripts have files of their own behind their memory.
    std::fs::create_dir(folder.path().join("store")).expect("a folder");
    let line = ["script", &path, "--on", on, "--memory", memory, "--store", "store", "--json", "--timeout", "100"];
    Wirevm::behind(wrapper, line).current_dir(folder.path()).run()
}

/// Carries a script out on one host; every line comes to what is expected.
fn carry_out((path, on, memory): Run) {
    let report = script(&[], &path, on, memory).expect_code(0).json();
    assert_eq!(report["machine"]["host"], on);
    let steps = report["operations"].as_array().expect("operations");
    assert!(!steps.is_empty() && steps.iter().all(|step| step["ok"] == true), "{report}");
}

/// Carries a script out on all hosts; nothing differs.
fn agree((path, on, memory): Run) {
    let report = script(&[], &path, on, memory).expect_code(0).json();
    check_agreement(&report, &["kvm", "hosted", "fake"]);
    assert_eq!(report["kvm_left_out"], Value::Null);
}

fn agree_without_kvm((path, on, memory): Run) {
    let report = script(NO_KVM, &path, on, memory).expect_code(0).json();
    check_agreement(&report, &["hosted", "fake"]);
    assert!(report["kvm_left_out"].as_str().is_some_and(|reason| reason.contains("/dev/kvm does not exist")));
}

fn check_agreement(report: &Value, hosts: &[&str]) {
    assert_eq!((&report["ok"], &report["differences"]), (&true.into(), &serde_json::json!([])), "{report}");
    let runs = report["runs"].as_object().expect("runs");
    assert_eq!(runs.len(), hosts.len(), "{report}");
    let count = |host: &&str| runs[*host]["operations"].as_array().expect("operations").len();
    let counts: Vec<usize> = hosts.iter().map(count).collect();
    assert!(counts.iter().all(|count| *count == counts[0] && *count > 0), "{counts:?}");
}

fn on(host: &str, script: &str) -> Finished {
    Wirevm::new([&["script", "-", "--on", host, "--timeout", "30"], SMALL.as_slice()].concat()).input(script).run()
}

const CASES: &[Case] = &[
    ("run_shows_which_host_it_was", &[], || {
        let finished = Wirevm::new(["run", "--on", "hosted", "--memory", "durability=none"]).run().expect_code(0);
        for part in ["  host        hosted: this host's locks", "1024 locked", "all as expected"] {
            assert!(finished.stdout.contains(part), "{part} is not in\n{}", finished.stdout);
        }
        let finished = Wirevm::new(["run", "--on", "fake"]).run().expect_code(0);
        for part in ["  host        fake: a model", "1024 locked", "0 dirty", "all as expected"] {
            assert!(finished.stdout.contains(part), "{part} is not in\n{}", finished.stdout);
        }
    }),
    ("hosted_ram_of_a_named_file_holds_what_was_synced_and_serves_again", &[Need::Durable], || {
        let folder = scratch_dir();
        let memory = format!("size=8M,file={}", folder.path().join("guest.ram").display());
        let script =
            "a = allocate 2 pages\nexpect a 0\nwrite a \"kept by sync\"\nsync a synchronous\nhost dirty a => 0\n";
        for _ in 0..2 {
            let line = ["script", "-", "--on", "hosted", "--memory", &memory];
            let finished = Wirevm::new(line).input(script).run().expect_code(0);
            assert!(!finished.stderr.contains("not closed in order"), "{}", finished.stderr);
        }
        let bytes = std::fs::read(folder.path().join("guest.ram")).expect("the RAM file");
        let text = b"kept by synckept by sync";
        assert!(bytes.windows(text.len()).any(|window| window == text));
    }),
    ("hosted_temporary_ram_leaves_nothing_behind", &[Need::Durable], || {
        let folder = scratch_dir();
        drop(Wirevm::new(["run", "--on", "hosted", "-q"]).current_dir(folder.path()).run().expect_code(0));
        assert_eq!(folder.path().read_dir().expect("a folder").count(), 0);
    }),
    ("mismatch_ends_with_1_on_every_host", &[], || {
        for host in ["hosted", "fake"] {
            let finished = on(host, "a = allocate 2 pages\nwire a user\nhost locked => 3\nhost locked => 2\n");
            finished.expect_error(1, &["3", "'host locked' was expected to give 3", "gave 2"]);
        }
        let finished = on("all", "a = allocate 2 pages\nwire a user\nhost locked => 3\n");
        assert!(finished.stdout.contains("no result differs"), "{}", finished.stdout);
        assert_eq!(finished.code, Some(1));
        for host in ["hosted", "fake"] {
            assert!(finished.stderr.contains(&format!("on {host}: ")), "{}", finished.stderr);
        }
    }),
    ("guests_that_end_badly_end_with_their_codes_without_kvm_too", &[], || {
        for host in ["hosted", "fake"] {
            on(host, "crash panic\n").expect_error(11, &["the guest panicked", "the host asked for a panic"]);
            on(host, "crash trap\n").expect_error(11, &["the guest crashed"]);
            on(host, "crash triplefault\n").expect_error(10, &["triple fault"]);
            let line = ["script", "-", "--on", host, "--memory", "8M,durability=none", "--timeout", "0.3"];
            let finished = Wirevm::new(line).input("crash hang\n").run();
            assert!(finished.elapsed < Duration::from_secs(10), "it took {:?}", finished.elapsed);
            finished.expect_error(12, &["did not end within 0.3 s"]);
        }
    }),
    ("interruption_ends_a_run_without_kvm_too", &[], || {
        let wrapper = ["timeout", "--preserve-status", "--signal=INT", "1"];
        for host in ["hosted", "fake", "all"] {
            let line = ["script", "-", "--on", host, "--memory", "8M,durability=none"];
            let finished = Wirevm::behind(&wrapper, line).input("crash hang\n").run();
            assert!(finished.elapsed < Duration::from_secs(10), "it took {:?}", finished.elapsed);
            finished.expect_error(1, &["interrupted"]);
        }
    }),
    ("exit_code_of_the_guest_is_in_every_report", &[], || {
        for host in ["hosted", "fake"] {
            let line = ["script", "-", "--on", host, "--memory", "8M,durability=none", "--json"];
            let report = Wirevm::new(line).input("exit 3\n").run().expect_code(1).json();
            assert_eq!((&report["guest_code"], &report["machine"]["kvm"]), (&3.into(), &Value::Null));
        }
    }),
    ("quota_is_that_of_every_host", &[], || {
        let script = "a = allocate 3 pages\nwire a user => RESOURCE_SHORTAGE\nhost locked => 0\nwire a[0,2) user\n";
        for host in ["hosted", "fake", "all"] {
            let line = ["script", "-", "--on", host, "--memory", "8M,durability=none", "--wire-quota", "8K"];
            drop(Wirevm::new(line).input(script).run().expect_code(0));
        }
    }),
    ("all_hosts_have_what_the_real_ones_could_have", &[Need::Tmpfs, Need::Mounts], || {
        // No durable folder for a temporary RAM file: the model is not durable either.
        let hidden = "mount -t tmpfs none /var/tmp && cd /var/tmp && unset XDG_CACHE_HOME && HOME=/var/tmp exec \"$@\"";
        let wrapper = ["unshare", "-m", "sh", "-c", hidden, "sh"];
        let script = "a = allocate 1 page\nsync a synchronous => SUCCESS if durable else FAILURE\n";
        let line = ["script", "-", "--on", "all", "--memory", "8M", "--json"];
        let report = Wirevm::behind(&wrapper, line).input(script).run().expect_code(0).json();
        for host in ["hosted", "fake"] {
            assert_eq!(report["runs"][host]["machine"]["durability"], "none", "{report}");
        }
    }),
];

fn main() -> ExitCode {
    Suite::new()
        .cases(CASES)
        .each(&[Need::Durable], each("hosted", "durable"), carry_out)
        .each(&[], each("hosted", "volatile"), carry_out)
        .each(&[], each("fake", "durable"), carry_out)
        .each(&[], each("fake", "volatile"), carry_out)
        .each(&[Need::Kvm, Need::Durable], each("all", "durable"), agree)
        .each(&[Need::Kvm], each("all", "volatile"), agree)
        .each(
            &[Need::Mounts],
            each("all", "volatile").into_iter().map(|(name, run)| (format!("{name}_without_kvm"), run)),
            agree_without_kvm,
        )
        .run()
}
