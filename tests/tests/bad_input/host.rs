//! Hosts that withhold what a machine needs: KVM, or memory to lock.

use wirevm_tests::{Case, Need};

use crate::place::{CONFIG, KVM, LOCK_BUDGET, Place};

const NO_KVM: &[&str] = &["unshare", "-m", "sh", "-c", "mount -t tmpfs none /dev && exec \"$@\"", "sh"];
/// Somebody for whom `/dev/kvm` is not; the program is put where they can reach it.
const KVM_OF_OTHERS: &[&str] = &[
    "unshare",
    "-m",
    "sh",
    "-c",
    "mount -t tmpfs none /dev && : >/dev/kvm && chmod 600 /dev/kvm && : >/dev/wirevm && \
     mount --bind \"$1\" /dev/wirevm && shift && \
     exec setpriv --reuid 65534 --regid 65534 --clear-groups /dev/wirevm \"$@\"",
    "sh",
];
/// Something at `/dev/kvm` that is no KVM.
const KVM_IS_A_FILE: &[&str] =
    &["unshare", "-m", "sh", "-c", "mount -t tmpfs none /dev && : >/dev/kvm && exec \"$@\"", "sh"];
/// A process that may lock 4 MiB, as anybody may who is not root.
const LOCKS_4_MIB: &[&str] =
    &["prlimit", "--memlock=4194304:4194304", "setpriv", "--bounding-set", "-ipc_lock", "--inh-caps", "-ipc_lock"];
/// A process that may lock no page.
const LOCKS_4095_BYTES: &[&str] =
    &["prlimit", "--memlock=4095:4095", "setpriv", "--bounding-set", "-ipc_lock", "--inh-caps", "-ipc_lock"];
const ROOT: &[Need] = &[Need::Kvm, Need::Root];
const FILE: &str = "run --memory 16M,file=new.ram";

/// Each with its wrapper.
pub const CASES: &[Case] = &[
    ("kvm_missing_tells_how_to_get_it", &[Need::Mounts], || {
        let parts = ["/dev/kvm does not exist", "kvm module", "--device /dev/kvm", "; --on hosted needs no KVM\n"];
        Place::new().refuses(NO_KVM, FILE, KVM, &parts[..3]);
        let told = Place::new().run(NO_KVM, FILE).expect_code(KVM).stderr;
        assert!(told.ends_with(parts[3]), "{told}");
    }),
    ("kvm_denied_tells_how_to_be_let_in", &[Need::Mounts], || {
        let parts = ["/dev/kvm may not be opened", "usermod -aG kvm", "setfacl -m u:$USER:rw /dev/kvm"];
        Place::new().refuses(KVM_OF_OTHERS, FILE, KVM, &parts);
    }),
    ("kvm_that_is_none_is_refused", &[Need::Mounts], || {
        Place::new().refuses(KVM_IS_A_FILE, FILE, KVM, &["KVM", "version -1, not 12"]);
    }),
    ("kvm_missing_is_no_reason_for_the_hosts_without_it", &[Need::Mounts], || {
        let place = Place::new();
        for on in ["hosted", "fake"] {
            let finished = place.run(NO_KVM, &format!("script ok.wvm --on {on} --memory 8M,durability=none"));
            assert!(finished.expect_code(0).stdout.contains("8 locked"));
        }
        // An image of the user's own needs KVM, whatever else there is.
        place.write("own.elf", b"");
        let told = place.run(NO_KVM, "run --kernel own.elf").expect_code(KVM).stderr;
        assert!(!told.contains("--on hosted"), "{told}");
    }),
    ("kvm_missing_comes_after_what_is_wrong_with_the_options", &[Need::Mounts], || {
        Place::new().refuses(NO_KVM, "run --memory 19M", CONFIG, &["19 MiB"]);
    }),
    ("quota_a_page_above_the_limit_tells_limit_need_and_three_fixes", ROOT, || {
        let parts = [
            "a wire quota of 4100 KiB",
            "may lock 4 MiB (RLIMIT_MEMLOCK)",
            "`ulimit -l 4100`",
            "LimitMEMLOCK=4198400",
            "setcap cap_ipc_lock+ep",
            "--wire-quota 4096K",
        ];
        Place::new().refuses(LOCKS_4_MIB, &format!("{FILE} --wire-quota 4100K"), LOCK_BUDGET, &parts);
    }),
    ("quota_a_page_above_the_limit_is_refused_without_kvm_too_and_not_by_the_fake", &[Need::Root], || {
        let place = Place::new();
        let line = "script ok.wvm --memory 16M,durability=none --wire-quota 4100K --on";
        let parts = ["a wire quota of 4100 KiB", "may lock 4 MiB (RLIMIT_MEMLOCK)", "--wire-quota 4096K"];
        place.refuses(LOCKS_4_MIB, &format!("{line} hosted"), LOCK_BUDGET, &parts);
        drop(place.run(LOCKS_4_MIB, &format!("{line} fake")).expect_code(0));
    }),
    ("locked_view_above_the_limit_tells_limit_need_and_three_fixes_and_auto_does_without", &[Need::Root], || {
        let place = Place::new();
        let line = "script ok.wvm --memory 16M,durability=none --wire-quota 1M --on hosted";
        let parts = [
            "a view of all guest memory, 16 MiB",
            "may lock 4 MiB (RLIMIT_MEMLOCK)",
            "`ulimit -l 16384`",
            "LimitMEMLOCK=16777216",
            "setcap cap_ipc_lock+ep",
            "--pin auto",
        ];
        place.refuses(LOCKS_4_MIB, &format!("{line} --pin view"), LOCK_BUDGET, &parts);
        for pin in ["", " --pin auto", " --pin runs"] {
            let told = place.run(LOCKS_4_MIB, &format!("{line}{pin}")).expect_code(0).stdout;
            assert!(told.contains("  pin         runs\n"), "{told}");
        }
    }),
    (
        "quota_above_the_limit_is_refused_with_an_existing_file_left_as_it_was",
        &[ROOT[0], ROOT[1], Need::Durable],
        || {
            let place = Place::new();
            place.ram("old.ram");
            let line = "run --memory file=old.ram --wire-quota 8M";
            place.refuses(LOCKS_4_MIB, line, LOCK_BUDGET, &["8 MiB", "4 MiB", "--wire-quota 4096K"]);
        },
    ),
    ("quota_that_the_refusal_names_works_and_all_of_it_can_be_wired", ROOT, || {
        let place = Place::new();
        let line = "script all.wvm --memory 16M,durability=none --wire-quota";
        place.write("all.wvm", b"a = allocate 4M\nwire a user\nhost locked => 1024\n");
        let told = place.run(LOCKS_4_MIB, &format!("{line} 16M")).expect_code(LOCK_BUDGET).stderr;
        let (_, quota) = told.trim().rsplit_once("--wire-quota ").expect("a quota that works");
        assert!(!quota.contains(' '), "{quota:?} cannot be typed as it stands");
        let finished = place.run(LOCKS_4_MIB, &format!("{line} {quota}")).expect_code(0);
        assert!(finished.stdout.contains("1024 locked"), "{}", finished.stdout);
    }),
    ("quota_nobody_asked_for_fits_the_limit", ROOT, || {
        let place = Place::new();
        let finished = place.run(LOCKS_4_MIB, "script ok.wvm --memory 16M,durability=none").expect_code(0);
        assert!(finished.stdout.contains("wire quota  4 MiB"), "{}", finished.stdout);
    }),
    ("quota_where_no_page_may_be_locked_is_0_or_refused", ROOT, || {
        let place = Place::new();
        place.write("empty.wvm", b"");
        let line = "script empty.wvm --memory 8M,durability=none";
        place.refuses(
            LOCKS_4095_BYTES,
            &format!("{line} --wire-quota 4K"),
            LOCK_BUDGET,
            &["4095 bytes", "--wire-quota 0K"],
        );
        let finished = place.run(LOCKS_4095_BYTES, line).expect_code(0);
        assert!(finished.stdout.contains("wire quota  0 bytes"), "{}", finished.stdout);
        drop(place.run(LOCKS_4095_BYTES, &format!("{line} --wire-quota 0K")).expect_code(0));
    }),
    ("quota_above_the_limit_works_with_the_capability", ROOT, || {
        let place = Place::new();
        let line = "script ok.wvm --memory 16M,durability=none --wire-quota 16M";
        let finished = place.run(&LOCKS_4_MIB[..2], line).expect_code(0);
        assert!(finished.stdout.contains("wire quota  16 MiB"), "{}", finished.stdout);
    }),
    ("quota_above_ram_tells_both_and_comes_before_the_limit", ROOT, || {
        let parts = ["a wire quota of 32 MiB", "the guest's 16 MiB"];
        Place::new().refuses(LOCKS_4_MIB, &format!("{FILE} --wire-quota 32M"), CONFIG, &parts);
    }),
];
