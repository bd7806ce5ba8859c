//! Tries what programs are promised: `trials WHAT`, or `trials all`. For tests: `wirevm` has it not among its programs.
#![cfg_attr(feature = "program", no_std, no_main)]
#![expect(unsafe_code, reason = "memory that is lent to children and taken away, and registers")]
// UNSAFETY: each trial reaches the memory that it changes by a region only; assembly says what it changes.

extern crate alloc;

mod memory;
mod registers;
mod stores;
mod time;

use alloc::string::String;

use wirevm_user::process::{Ended, Fork, exit, fork, wait};
use wirevm_user::{Args, entry, println};

entry!(run);

/// What is wrong.
type Trial = Result<(), String>;
/// Its name, and what it does.
type Named = (&'static str, fn() -> Trial);

const ALL: &[Named] = &[
    ("sleep", time::sleeping),
    ("futex", time::waiting_at_a_word),
    ("join", time::joining),
    ("inherit", memory::inheriting),
    ("maximum", memory::lowering_the_maximum),
    ("execute", memory::executing_what_is_written),
    ("registers", registers::keeping_registers),
    ("fresh", registers::starting_fresh),
    ("fs-base", registers::finding_no_others_fs_base),
];
/// Those that need stores.
const STORES: &[Named] = &[("private", stores::mapping_privately), ("exclusive", stores::owning)];

fn run(args: Args) -> u8 {
    let what = args.get(1).unwrap_or("");
    let is_wanted = |name: &str| what == name || what == "all";
    let mut code = if args.get(2).is_some() { 2 } else { 0 };
    let mut count = 0;
    for (name, trial) in ALL.iter().chain(STORES).filter(|(name, _)| is_wanted(name)) {
        count += 1;
        match trial() {
            Ok(()) => println!("trials: {name}: ok"),
            Err(reason) => {
                println!("trials: {name}: {reason}");
                code = 1;
            }
        }
    }
    if count == 0 { 2 } else { code }
}

/// Fails with a text unless something holds.
macro_rules! ensure {
    ($holds:expr, $($text:tt)+) => {
        if !$holds {
            return Err(::alloc::format!($($text)+));
        }
    };
}
use ensure;

/// Turns what a call answered into a text.
fn said<T, E: core::fmt::Display>(what: &str, result: Result<T, E>) -> Result<T, String> {
    result.map_err(|error| alloc::format!("{what}: {error}"))
}

/// Has a child do something, which tells by its code what became of that, and returns how it ended.
fn in_a_child(act: impl FnOnce() -> u8) -> Result<Ended, String> {
    match said("fork", fork())? {
        Fork::Child => exit(act()),
        Fork::Parent(child) => said("wait", wait(child)),
    }
}
