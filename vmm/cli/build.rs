//! Builds the guest image and the guest's programs with the same plain cargo, in a target folder of their own, and says where they
//! are.
//!
//! The image is built for `x86_64-unknown-none` where the standard library of that target is installed, otherwise for the
//! host's own target without SSE and without a C library. `WIREVM_IMAGE_TARGET` (`none` or `host`) asks for one of
//! them. Programs, which may use SSE2, are always built for the host's own target.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const BARE_TARGET: &str = "x86_64-unknown-none";
const HOST_TARGET: &str = "x86_64-unknown-linux-gnu";

/// What every build of the image needs.
const COMMON_FLAGS: [&str; 5] = [
    "--cfg=guest_image",
    "-Crelocation-model=static",
    "-Ccode-model=kernel",
    "-Cpanic=abort",
    "-Cforce-frame-pointers=no",
];

/// What turns the host's target into a bare one: a linker without the C library, and integer code only.
const HOST_FLAGS: [&str; 7] = [
    "-Clink-arg=-nostartfiles",
    "-Clink-arg=-nostdlib",
    "-Clink-arg=-static",
    "-Clink-arg=-no-pie",
    "-Clink-arg=-Wl,--build-id=none",
    "-Ctarget-feature=-mmx,-sse,-sse2,-sse3,-ssse3,-sse4.1,-sse4.2,-avx,-avx2,+soft-float",
    "-Awarnings",
];

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../..").canonicalize()?;
    for input in ["guest", "resources/guest.ld", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    println!("cargo::rerun-if-env-changed=WIREVM_IMAGE_TARGET");
    let bare = match env::var("WIREVM_IMAGE_TARGET").as_deref() {
        Ok("none") => true,
        Ok("host") => false,
        Ok(other) => return Err(format!("WIREVM_IMAGE_TARGET is {other:?}; it may be none or host").into()),
        Err(_) => has_bare_target()?,
    };
    let image = build_image(&root, if bare { BARE_TARGET } else { HOST_TARGET }, bare)?;
    println!("cargo::rustc-env=WIREVM_GUEST_IMAGE={}", image.display());
    tell_revision(&root);
    list_programs(&root, &build_programs(&root)?)
}

/// Says which revision this is, where there is a checkout with a git that can tell.
fn tell_revision(root: &Path) {
    if !root.join(".git").exists() {
        return;
    }
    let git = |words: &[&str]| {
        let output = Command::new("git").current_dir(root).args(words).output().ok()?;
        let text = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
        Some(text.trim().to_owned())
    };
    if let Some(revision) = git(&["rev-parse", "--short=12", "HEAD"]) {
        println!("cargo::rustc-env=WIREVM_REVISION={revision}");
    }
    // A branch is a file of its own, or a line among the packed ones. To wait for a file that is not there is to build each time.
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    for name in ["HEAD", "packed-refs"].into_iter().chain(branch.as_deref()) {
        let path = git(&["rev-parse", "--git-path", name]).map(|path| root.join(path));
        if let Some(path) = path.filter(|path| path.exists()) {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
}

/// Tells whether the compiler in use has `core` and `alloc` for the bare target.
fn has_bare_target() -> Result<bool, Box<dyn Error>> {
    let rustc = env::var_os("RUSTC").ok_or("cargo sets RUSTC")?;
    let output = Command::new(rustc).args(["--print", "target-libdir", "--target", BARE_TARGET]).output()?;
    let folder = PathBuf::from(String::from_utf8(output.stdout)?.trim());
    // rustlib/TARGET/lib: a target that is installed later changes what stands in rustlib.
    if let Some(rustlib) = folder.ancestors().nth(2).filter(|rustlib| rustlib.is_dir()) {
        println!("cargo::rerun-if-changed={}", rustlib.display());
    }
    let Ok(entries) = folder.read_dir() else { return Ok(false) };
    Ok(entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-")))
}

/// Builds the image and returns where it is.
fn build_image(root: &Path, target: &str, bare: bool) -> Result<PathBuf, Box<dyn Error>> {
    let mut flags: Vec<String> = COMMON_FLAGS.map(str::to_owned).to_vec();
    flags.push(format!("-Clink-arg=-T{}", root.join("resources/guest.ld").display()));
    if !bare {
        flags.extend(HOST_FLAGS.map(str::to_owned));
    }
    Ok(build(root, target, &["--package", "wirevm-kernel"], &flags)?.join("wirevm-kernel"))
}

/// Builds the programs and returns the folder that they are in. How they are linked is their package's business.
fn build_programs(root: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let what = ["--package", "wirevm-user", "--bins", "--features", "program"];
    build(root, HOST_TARGET, &what, &["-Crelocation-model=static".to_owned()])
}

/// Writes the list of programs for `programs.rs`: `(name, file)`, in the order of the names.
fn list_programs(root: &Path, folder: &Path) -> Result<(), Box<dyn Error>> {
    let mut names = Vec::new();
    for entry in root.join("guest/user/src/bin").read_dir()? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned));
        }
    }
    names.sort();
    let rows = names.iter().map(|name| format!("    ({name:?}, include_bytes!({:?})),\n", folder.join(name)));
    let list = format!("[\n{}]\n", rows.collect::<String>());
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?).join("programs.rs");
    fs::write(out, list)?;
    Ok(())
}

/// Builds parts of the workspace for the guest and returns the folder that they are in.
fn build(root: &Path, target: &str, what: &[&str], flags: &[String]) -> Result<PathBuf, Box<dyn Error>> {
    let folder = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?).join("image");
    let mut cargo = Command::new(env::var_os("CARGO").ok_or("cargo sets CARGO")?);
    // What the outer build was told (flags, profiles, target folders, wrappers) is not meant for the image.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        // How to reach a registry, and which compiler is in use, goes for both.
        let kept = ["CARGO_HOME", "CARGO_NET_", "CARGO_HTTP_", "CARGO_SOURCE_", "CARGO_REGISTR"]
            .iter()
            .any(|prefix| text.starts_with(prefix))
            || text == "RUSTC";
        let ours = [
            "CARGO",
            "RUSTFLAGS",
            "RUSTC",
            "RUSTDOC",
            "CLIPPY",
            "MIRI",
            "PROFILE",
            "TARGET",
            "HOST",
            "OPT_LEVEL",
            "DEBUG",
            "NUM_JOBS",
        ];
        if !kept && ours.iter().any(|prefix| text.starts_with(prefix)) && text != "RUSTUP_TOOLCHAIN" {
            cargo.env_remove(&name);
        }
    }
    let status = cargo
        .current_dir(root)
        .arg("build")
        .args(what)
        .args(["--profile", "image", "--locked", "--target", target, "--target-dir"])
        .arg(&folder)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .status()?;
    if !status.success() {
        return Err(format!("{} does not build for {target} ({status})", what.join(" ")).into());
    }
    Ok(folder.join(target).join("image"))
}
