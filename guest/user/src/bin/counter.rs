//! Counts its runs: `counter [STORE]`. The count stands in the store, `counter` where none is named, and is stable when it is printed.
#![cfg_attr(feature = "program", no_std, no_main)]

use wirevm_abi::StoreName;
use wirevm_user::counter::{SLOT_BYTES, SLOT_DISTANCE, encode, next};
use wirevm_user::{Args, KernReturn, Mode, Object, ObjectKind, PAGE_BYTES, Prot, Region, entry, println};

entry!(run);

/// Pages of the store: one for each slot.
const PAGES: u64 = 2;
const _: () = assert!(SLOT_DISTANCE == PAGE_BYTES);

fn run(args: Args) -> u8 {
    if let Err(error) = args.end(2) {
        println!("counter: {error}; usage: counter [STORE]");
        return 2;
    }
    let Ok(name) = StoreName::new(args.get(1).unwrap_or("counter")) else {
        println!("counter: {:?} is no name of a store", args.get(1).unwrap_or(""));
        return 2;
    };
    match count(name) {
        Ok(count) => {
            println!("counter {count}");
            0
        }
        Err((what, error)) => {
            println!("counter: store {name} {what}: {error}");
            1
        }
    }
}

/// Counts on and returns the count, once it is stable.
fn count(name: StoreName) -> Result<u64, (&'static str, KernReturn)> {
    let object =
        Object::open(ObjectKind::Store(name), PAGES).map_err(|error| ("can't be opened (it may be in use)", error))?;
    let region =
        Region::map(&object, 0, PAGES, Prot::READ_WRITE, Mode::Shared).map_err(|error| ("can't be mapped", error))?;
    let mut slots = [[0; SLOT_BYTES]; 2];
    for (index, slot) in slots.iter_mut().enumerate() {
        region.read(index * SLOT_DISTANCE, slot);
    }
    let next = next([&slots[0], &slots[1]]);
    let offset = next.slot * SLOT_DISTANCE;
    region.write(offset, &encode(next.count));
    region.sync(offset, SLOT_BYTES).map_err(|error| ("can't be synced", error))?;
    Ok(next.count)
}
