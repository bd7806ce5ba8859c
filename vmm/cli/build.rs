//! Builds the guest image with the same plain cargo, in a target folder of its own, and says where it is.
//!
//! The image is built for `x86_64-unknown-none` where the standard library of that target is installed, otherwise for the
//! host's own target without SSE and without a C library. `WIREVM_IMAGE_TARGET` (`none` or `host`) asks for one of
//! them.

use std::env;
use std::error::Error;
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
    let image = build(&root, if bare { BARE_TARGET } else { HOST_TARGET }, bare)?;
    println!("cargo::rustc-env=WIREVM_GUEST_IMAGE={}", image.display());
    Ok(())
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

fn build(root: &Path, target: &str, bare: bool) -> Result<PathBuf, Box<dyn Error>> {
    let folder = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?).join("image");
    let script = root.join("resources/guest.ld");
    let mut flags: Vec<String> = COMMON_FLAGS.map(str::to_owned).to_vec();
    flags.push(format!("-Clink-arg=-T{}", script.display()));
    if !bare {
        flags.extend(HOST_FLAGS.map(str::to_owned));
    }
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
        .args([
            "build",
            "--package",
            "wirevm-kernel",
            "--profile",
            "image",
            "--locked",
            "--target",
            target,
            "--target-dir",
        ])
        .arg(&folder)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .status()?;
    if !status.success() {
        return Err(format!("the guest image does not build for {target} ({status})").into());
    }
    Ok(folder.join(target).join("image/wirevm-kernel"))
}
