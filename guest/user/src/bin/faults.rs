//! Measures page faults on pages that are resident but not mapped: `faults [N]`.
//!
//! Pages are touched, made untouchable and touchable again, by which they lose their mappings and stay where they are, and touched
//! again: each touch is one fault that needs no memory.
#![cfg_attr(feature = "program", no_std, no_main)]

use core::sync::atomic::Ordering;

use wirevm_user::time::clock;
use wirevm_user::{Args, KernReturn, PAGE_BYTES, Prot, Region, entry, println};

entry!(run);

/// Pages that are touched in turn.
const PAGES: usize = 256;

fn run(args: Args) -> u8 {
    let count = match args.end(2).and_then(|()| args.number_or::<u32>(1, "number of faults", 4096)) {
        Ok(count) => count as usize,
        Err(error) => {
            println!("faults: {error}; usage: faults [N]");
            return 2;
        }
    };
    match faults(count) {
        Ok(time) => {
            println!("faults: {count} faults, {time} ns, {} ns per fault", time / count.max(1) as u128);
            0
        }
        Err(error) => {
            println!("faults: {error}");
            1
        }
    }
}

/// Returns how many nanoseconds so many faults took.
fn faults(count: usize) -> Result<u128, KernReturn> {
    let region = Region::allocate(PAGES * PAGE_BYTES)?;
    let touch = |pages: usize| {
        for page in 0..pages {
            region.word(page * PAGE_BYTES).fetch_add(1, Ordering::Relaxed);
        }
    };
    touch(PAGES);
    let (mut left, mut time) = (count, 0);
    while left > 0 {
        let now = left.min(PAGES);
        for prot in [Prot::NONE, Prot::READ_WRITE] {
            region.protect(0, now * PAGE_BYTES, prot)?;
        }
        let start = clock();
        touch(now);
        time += (clock() - start).as_nanos();
        left -= now;
    }
    Ok(time)
}
