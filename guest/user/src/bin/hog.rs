//! Eats memory: `hog MiB [wire]`. Says how far it got and why it stopped.
//!
//! Without `wire` a child does the eating, for whoever touches a page that cannot be had is ended by the fault.
#![cfg_attr(feature = "program", no_std, no_main)]

extern crate alloc;

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use wirevm_user::process::{Ended, Fork, exit, fork, wait};
use wirevm_user::{
    Args, ArgsError, KernReturn, Mode, Object, ObjectKind, PAGE_BYTES, Prot, Region, WireFlags, entry, println, vm,
};

entry!(run);

/// Bytes that are asked for at once.
const CHUNK_BYTES: usize = 1 << 20;

fn run(args: Args) -> u8 {
    let (limit, wires) = match read(&args) {
        Ok(order) => order,
        Err(error) => {
            println!("hog: {error}; usage: hog MiB [wire]");
            return 2;
        }
    };
    let shared = Object::open(ObjectKind::Anonymous, 1)
        .and_then(|object| Region::map(&object, 0, 1, Prot::READ_WRITE, Mode::Shared));
    let shared = match shared {
        Ok(shared) => shared,
        Err(error) => {
            println!("hog: got no page at all: {error}");
            return 1;
        }
    };
    if wires {
        let stopped = eat(limit, &shared, |chunk| {
            vm::map_wire(chunk.address(), chunk.address() + chunk.len() as u64, WireFlags::USER)
        });
        tell("wired", &shared, limit, stopped.err());
        return 0;
    }
    match fork() {
        Ok(Fork::Child) => {
            let stopped = eat(limit, &shared, |_| Ok(()));
            tell("touched", &shared, limit, stopped.err());
            exit(0)
        }
        Ok(Fork::Parent(child)) => match wait(child) {
            Ok(Ended::Exit(code)) => code,
            Ok(Ended::Killed) => {
                println!("hog: touched {} KiB of {limit} MiB; a fault ended it: no memory", kib(&shared));
                0
            }
            Err(error) => {
                println!("hog: its child is lost: {error}");
                1
            }
        },
        Err(error) => {
            println!("hog: can't have a child: {error}");
            1
        }
    }
}

/// Returns how many MiB are to be eaten, and whether they are to be wired.
fn read(args: &Args) -> Result<(usize, bool), ArgsError> {
    let limit: u32 = args.number(1, "size in MiB")?;
    let wires = args.option(2, "wire")?;
    args.end(3)?;
    Ok((limit as usize, wires))
}

/// Returns how much was eaten.
fn kib(shared: &Region) -> usize {
    usize::try_from(shared.word(0).load(Ordering::Relaxed)).unwrap_or(0) * PAGE_BYTES / 1024
}

/// Takes memory until there is enough or no more; counts the pages in the first word of `shared`.
fn eat(limit_mib: usize, shared: &Region, take: impl Fn(&Region) -> Result<(), KernReturn>) -> Result<(), KernReturn> {
    let mut chunks = Vec::new();
    for _ in 0..limit_mib {
        let chunk = Region::allocate(CHUNK_BYTES)?;
        take(&chunk)?;
        for offset in (0..chunk.len()).step_by(PAGE_BYTES) {
            chunk.word(offset).store(1, Ordering::Relaxed);
            shared.word(0).fetch_add(1, Ordering::Relaxed);
        }
        chunks.push(chunk);
    }
    Ok(())
}

fn tell(what: &str, shared: &Region, limit: usize, stopped: Option<KernReturn>) {
    match stopped {
        None => println!("hog: {what} all {limit} MiB"),
        Some(error) => println!("hog: {what} {} KiB of {limit} MiB, then was refused: {error}", kib(shared)),
    }
}
