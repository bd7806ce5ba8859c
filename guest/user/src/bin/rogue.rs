//! Tries what a program must not: `rogue WHAT [...]`, or `rogue all` for everything that ends by itself.
//!
//! What cannot be done must end the program that tries, with a report, and nothing else. `wild` and `random` make calls with
//! arguments that are not to be believed: each must be answered, or end the child that makes it.
#![cfg_attr(feature = "program", no_std, no_main)]
#![expect(unsafe_code, reason = "it breaks rules on purpose")]
// UNSAFETY: none of this is sound, and that is the point: the kernel must not be harmed by it, whatever becomes of the program.

extern crate alloc;

#[path = "../rogue/calls.rs"]
mod calls;
#[path = "../rogue/crimes.rs"]
mod crimes;

use wirevm_user::process::{Ended, Fork, exit, fork, wait};
use wirevm_user::{Args, ArgsError, entry, println};

entry!(run);

/// What a crime exits with that was not prevented.
const LET_THROUGH: u8 = 3;

fn run(args: Args) -> u8 {
    let what = args.get(1).unwrap_or("");
    match act(&args, what) {
        Ok(Some(code)) => code,
        Ok(None) => {
            println!("rogue: {what:?} is none of: all, wild, random [N] [SEED], spin, and");
            crimes::ALL.iter().for_each(|(name, _)| println!("  {name}"));
            2
        }
        Err(error) => {
            println!("rogue: {error}; usage: rogue WHAT | rogue random [N] [SEED] | rogue spin [THREADS]");
            2
        }
    }
}

fn act(args: &Args, what: &str) -> Result<Option<u8>, ArgsError> {
    args.end(match what {
        "random" => 4,
        "spin" => 3,
        _ => 2,
    })?;
    Ok(Some(match what {
        "all" => all(),
        "wild" => calls::wild(),
        "random" => calls::random(args.number_or(2, "number of calls", 10_000)?, args.number_or(3, "seed", 1)?),
        "spin" => crimes::spin_in(args.number_or(2, "number of threads", 1)?),
        _ => match crimes::ALL.iter().find(|(name, _)| *name == what) {
            Some((_, crime)) => {
                commit(what, *crime);
                LET_THROUGH
            }
            None => return Ok(None),
        },
    }))
}

/// Commits a crime; coming back from it is one thing that must not happen.
fn commit(what: &str, crime: fn()) {
    crime();
    println!("rogue: {what} was let through");
}

/// Has a child for each crime and says what became of it.
fn all() -> u8 {
    let mut code = 0;
    for (name, crime) in crimes::ALL {
        match ended(|| {
            commit(name, *crime);
            LET_THROUGH
        }) {
            Some(Ended::Killed) => println!("rogue: {name}: ended"),
            other => {
                println!("rogue: {name}: {other:?}");
                code = LET_THROUGH;
            }
        }
    }
    for other in [calls::wild(), calls::random(1000, 1)] {
        code = code.max(other);
    }
    if code == 0 {
        println!("rogue: all prevented");
    }
    code
}

/// Has a child do something, and says how it ended; nothing where there was none.
fn ended(act: impl FnOnce() -> u8) -> Option<Ended> {
    match fork() {
        Ok(Fork::Child) => exit(act()),
        Ok(Fork::Parent(child)) => wait(child).ok(),
        Err(error) => {
            println!("rogue: can't have a child: {error}");
            None
        }
    }
}
