//! Programs as files: the one that is there to be copied builds with one command, from what the workspace needs anyway.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use wirevm_abi::note::ABI_NOTE;
use wirevm_tests::image;
use wirevm_tests::program_file::problems;
use wirevm_tests::touching::{Touched, touch_natively};
use wirevm_user::touch::Pattern;

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/program")
}

#[test]
fn example_builds_offline_and_is_a_static_program() {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("example");
    let mut cargo = Command::new(env!("CARGO"));
    // How the tests were built is not meant for it.
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS", "CARGO_BUILD_TARGET"] {
        cargo.env_remove(name);
    }
    let output = cargo
        .current_dir(example())
        .args(["build", "--release", "--offline", "--locked", "--target-dir"])
        .arg(&target)
        .output()
        .expect("cargo starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let file = fs::read(target.join("release/my-program")).expect("the program");
    assert_eq!(problems(&file), Vec::<String>::new());
    assert!(file.len() <= 64 << 10, "{} bytes", file.len());
}

#[test]
fn example_needs_no_package_that_the_workspace_lacks() {
    // Name, version and source stand one below the other.
    let packages = |file: PathBuf| {
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let packages = text.split("[[package]]\n").filter(|package| package.contains("\nsource = "));
        packages.map(|package| package.lines().take(2).collect::<Vec<_>>().join(", ")).collect::<Vec<_>>()
    };
    let ours = packages(example().join("../../Cargo.lock"));
    let needed = packages(example().join("Cargo.lock"));
    assert!(needed.len() >= 3, "{needed:?}");
    let missing: Vec<_> = needed.iter().filter(|package| !ours.contains(package)).collect();
    assert!(missing.is_empty(), "run `cargo update` in examples/program with these versions: {missing:?}");
}

#[test]
fn file_that_is_no_program_is_found_out() {
    // Made by hand: one segment that can do everything.
    let bad = problems(&image::elf(&[0xf4; 64], 0, 64, &ABI_NOTE));
    assert!(bad.iter().any(|problem| problem.contains("written and executed")), "{bad:?}");
    assert_eq!(problems(b"#!/bin/sh").len(), 1);
    let own = fs::read(std::env::current_exe().expect("this test")).expect("a file");
    assert!(!problems(&own).is_empty(), "this test is linked dynamically");
}

#[test]
fn touching_natively_takes_time_and_the_guests_report_is_read() {
    for pattern in [Pattern::Read, Pattern::Write, Pattern::Stride(64)] {
        let touched = touch_natively(4, 3, pattern, 2);
        assert!(touched.first > 0 && touched.best > 0 && touched.best * 3 <= touched.all, "{touched:?}");
    }
    let report = "toucher: 16 MiB, Read, threads 2\n\
        first touch: passes 1, 31626505 ns, 7721 ns per page, 0.53 GB/s\n\
        touched before: passes 3, 928896 ns, 75 ns per page, 54.18 GB/s\n\
        best pass: passes 1, 254850 ns, 62 ns per page, 65.83 GB/s\n";
    let expected = Touched { first: 31_626_505, all: 928_896, best: 254_850 };
    assert_eq!(Touched::from_output(report), Some(expected));
    assert_eq!(Touched::from_output(&report.replace("best pass", "worst pass")), None);
}
