//! Prepares page faults on resident pages and takes them: `refault [REGIONS]`.
//!
//! Each region is an object of its own with eight pages, which become resident from the last to the first, so that no two of them
//! have frames that go on, and lose their mappings. Then the program sleeps for two seconds, loads from each page once, and sleeps
//! again: whoever counts the kernel's instructions in both sleeps has those of the faults between.
#![cfg_attr(feature = "program", no_std, no_main)]

extern crate alloc;

use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use core::time::Duration;

use wirevm_user::time::sleep;
use wirevm_user::{Args, KernReturn, Mode, Object, ObjectKind, PAGE_BYTES, Prot, Region, entry, println};

entry!(run);

/// Pages of a region.
const PAGES: usize = 8;
/// Long enough for a host to see that nothing goes on.
const REST: Duration = Duration::from_secs(2);

fn run(args: Args) -> u8 {
    let count = match args.end(2).and_then(|()| args.number_or::<u32>(1, "number of regions", 10)) {
        Ok(count) => count,
        Err(error) => {
            println!("refault: {error}; usage: refault [REGIONS]");
            return 2;
        }
    };
    match refault(count) {
        Ok(()) => 0,
        Err(error) => {
            println!("refault: {error}");
            1
        }
    }
}

fn refault(count: u32) -> Result<(), KernReturn> {
    let mut regions = Vec::new();
    for _ in 0..count {
        let object = Object::open(ObjectKind::Anonymous, PAGES as u64)?;
        let region = Region::map(&object, 0, PAGES as u64, Prot::READ_WRITE, Mode::Shared)?;
        load(&region);
        for prot in [Prot::NONE, Prot::READ_WRITE] {
            region.protect(0, PAGES * PAGE_BYTES, prot)?;
        }
        regions.push(region);
    }
    sleep(REST);
    regions.iter().for_each(load);
    sleep(REST);
    Ok(())
}

fn load(region: &Region) {
    for page in (0..PAGES).rev() {
        region.word(page * PAGE_BYTES).load(Ordering::Relaxed);
    }
}
