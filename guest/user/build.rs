//! Says how a program is linked: to the programs of this package here, to those of other packages by way of their build scripts, which
//! find it in `DEP_WIREVM_PROGRAM_LINK_ARGS`, separated by [`SEPARATOR`].

use std::env;
use std::error::Error;
use std::path::Path;

/// A character that no path has.
const SEPARATOR: &str = "\u{1f}";

fn main() -> Result<(), Box<dyn Error>> {
    let script = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("program.ld");
    println!("cargo::rerun-if-changed={}", script.display());
    println!("cargo::rerun-if-changed=build.rs");
    let arguments = [
        "-nostartfiles".to_owned(),
        "-nostdlib".to_owned(),
        "-static".to_owned(),
        "-no-pie".to_owned(),
        "-Wl,--build-id=none".to_owned(),
        "-Wl,--strip-all".to_owned(),
        "-Wl,-z,max-page-size=4096".to_owned(),
        format!("-Wl,-T,{}", script.display()),
    ];
    println!("cargo::metadata=LINK_ARGS={}", arguments.join(SEPARATOR));
    if env::var_os("CARGO_FEATURE_PROGRAM").is_some() {
        for argument in arguments {
            println!("cargo::rustc-link-arg-bins={argument}");
        }
    }
    Ok(())
}
