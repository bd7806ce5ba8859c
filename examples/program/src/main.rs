//! A program for a wirevm guest.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use wirevm_user::{Args, PAGE_BYTES, Region, WireFlags, entry, println, thread, vm};

entry!(run);

/// What the threads add to.
static SUM: AtomicU64 = AtomicU64::new(0);

fn run(args: Args) -> u8 {
    println!("hello, {}", args.get(1).unwrap_or("guest"));

    // Two pages that the host keeps in memory until they are unwired or gone.
    let region = Region::allocate(2 * PAGE_BYTES).expect("two pages");
    match vm::map_wire(region.address(), region.address() + region.len() as u64, WireFlags::USER) {
        Ok(()) => println!("wired {} bytes at {:#x}", region.len(), region.address()),
        Err(error) => println!("not wired: {error}"),
    }

    let threads: Vec<_> = (1..=2).map(|part| thread::spawn(move || SUM.fetch_add(part, Ordering::Relaxed))).collect();
    for started in threads {
        if let Err(error) = started.and_then(|thread| thread.join()) {
            println!("no thread: {error}");
            return 1;
        }
    }
    println!("the threads' sum is {}", SUM.load(Ordering::Relaxed));
    0
}
