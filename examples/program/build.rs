//! Links the program as programs of the guest are linked; `wirevm-user` says how.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let arguments = std::env::var("DEP_WIREVM_PROGRAM_LINK_ARGS").expect("wirevm-user is a dependency");
    for argument in arguments.split('\u{1f}') {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}
