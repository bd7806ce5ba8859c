//! Takes what a program can have many of until it is refused: `greedy WHAT`.
//!
//! The kernel keeps books on all of it, in memory of its own, and must refuse before that ends.
#![cfg_attr(feature = "program", no_std, no_main)]
#![expect(unsafe_code, reason = "takes rights away")]

extern crate alloc;

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use core::time::Duration;

use wirevm_user::process::{Fork, exit, fork};
use wirevm_user::sync::Mutex;
use wirevm_user::time::sleep;
use wirevm_user::{
    Args, LockAllFlags, Mode, Object, ObjectKind, PAGE_BYTES, Prot, Region, WireFlags, entry, posix, println, thread,
    vm,
};

entry!(run);

/// As many of anything are enough to have been let.
const ENOUGH: u64 = 4000;
const PAGE: u64 = PAGE_BYTES as u64;

/// What can be had many of: how many there were, and what refused one more.
const ALL: &[(&str, Greed)] = &[
    ("threads", threads),
    ("forks", forks),
    ("fork-tree", fork_tree),
    ("entries", entries),
    ("objects", objects),
    ("mappings", mappings),
    ("copies", copies),
    ("pieces", pieces),
];

/// Takes one thing until there is enough of it.
type Greed = fn() -> (u64, Refusal);

/// What the kernel answered in words; nothing where it never refused.
type Refusal = Option<String>;

fn run(args: Args) -> u8 {
    if let Err(error) = args.end(2) {
        println!("greedy: {error}; usage: greedy WHAT");
        return 2;
    }
    let what = args.get(1).unwrap_or("");
    let Some((_, take)) = ALL.iter().find(|(name, _)| *name == what) else {
        println!("greedy: {what:?} is none of:");
        ALL.iter().for_each(|(name, _)| println!("  {name}"));
        return 2;
    };
    match take() {
        (count, Some(code)) => {
            println!("greedy: {count} {what}, then refused with '{code}'");
            // All of it is left to the kernel to clean up.
            0
        }
        (count, None) => {
            println!("greedy: {count} {what}, none of them refused");
            0
        }
    }
}

/// Counts until `take` is refused.
fn until_refused(mut take: impl FnMut(u64) -> Result<(), String>) -> (u64, Refusal) {
    for count in 0..ENOUGH {
        if let Err(code) = take(count) {
            return (count, Some(code));
        }
    }
    (ENOUGH, None)
}

/// Threads that sleep for ever.
fn threads() -> (u64, Refusal) {
    until_refused(|_| {
        let thread = thread::spawn_with_stack(PAGE_BYTES, || sleep(Duration::from_secs(1_000_000)));
        thread.map(core::mem::forget).map_err(|error| error.to_string())
    })
}

/// Children that sleep for ever.
fn forks() -> (u64, Refusal) {
    until_refused(|_| match fork() {
        Ok(Fork::Child) => {
            sleep(Duration::from_secs(1_000_000));
            exit(1)
        }
        Ok(Fork::Parent(_)) => Ok(()),
        Err(error) => Err(error.to_string()),
    })
}

/// Children that have children, none of which ends by itself.
fn fork_tree() -> (u64, Refusal) {
    let mut is_first = true;
    let taken = until_refused(|_| match fork() {
        Ok(Fork::Child) => {
            is_first = false;
            Ok(())
        }
        Ok(Fork::Parent(_)) => Ok(()),
        Err(error) => Err(error.to_string()),
    });
    if !is_first {
        sleep(Duration::from_secs(1_000_000));
        exit(1)
    }
    taken
}

/// Wires all frames that there are, as far as the program may, so that the kernel has no more than what it keeps for itself.
fn take_frames() {
    let mut pages = 1 << 12;
    while pages > 0 {
        let wired = vm::allocate(pages * PAGE).and_then(|start| {
            vm::map_wire(start, start + pages * PAGE, WireFlags::USER).inspect_err(|_| {
                // SAFETY: nobody uses the memory.
                unsafe { vm::deallocate(start, pages * PAGE) }.ok();
            })
        });
        if wired.is_err() {
            pages /= 2;
        }
    }
}

/// Pieces of memory of which no two neighbours have the same rights.
fn entries() -> (u64, Refusal) {
    take_frames();
    until_refused(|count| {
        let address = vm::allocate(PAGE).map_err(|error| error.to_string())?;
        if count % 2 == 0 {
            return Ok(());
        }
        // SAFETY: nobody uses the page.
        unsafe { vm::protect(address, PAGE, false, Prot::READ) }.map_err(|error| error.to_string())
    })
}

/// Memory objects that stay open.
fn objects() -> (u64, Refusal) {
    until_refused(|_| match Object::open(ObjectKind::Anonymous, 1) {
        Ok(object) => {
            core::mem::forget(object);
            Ok(())
        }
        Err(error) => Err(error.to_string()),
    })
}

/// Mappings of the same page of one object.
fn mappings() -> (u64, Refusal) {
    let object = match Object::open(ObjectKind::Anonymous, 1) {
        Ok(object) => object,
        Err(error) => return (0, Some(error.to_string())),
    };
    take_frames();
    until_refused(|_| match object.map(0, 1, Prot::READ, Mode::Shared) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    })
}

/// Children that have as many pieces of memory as there can be before one is refused, less a few.
fn copies() -> (u64, Refusal) {
    static HELD: Mutex<Vec<u64>> = Mutex::new(Vec::new());
    let mut held = HELD.lock();
    for count in 0..1000_u64 {
        let Ok(address) = vm::allocate(PAGE) else { break };
        // SAFETY: nobody uses the page.
        if count % 2 == 1 && unsafe { vm::protect(address, PAGE, false, Prot::READ) }.is_err() {
            break;
        }
        held.push(address);
    }
    drop(held);
    forks()
}

/// Pieces of memory that is wired page by page as it is touched, when every second page has been.
fn pieces() -> (u64, Refusal) {
    const PAGES: usize = 1000;
    let begin = || {
        let object = Object::open(ObjectKind::Anonymous, PAGES as u64)?;
        Region::map(&object, 0, PAGES as u64, Prot::READ_WRITE, Mode::Shared)
    };
    let region = match begin() {
        Ok(region) => region,
        Err(code) => return (0, Some(code.to_string())),
    };
    if let Err(code) = posix::mlockall(LockAllFlags::CURRENT | LockAllFlags::ONFAULT) {
        return (0, Some(code.to_string()));
    }
    for page in (0..PAGES).step_by(2) {
        region.word(page * PAGE_BYTES).store(1, Ordering::Relaxed);
    }
    let mut count = 0;
    for page in (1..PAGES).step_by(2) {
        if let Err(code) = region.protect(page * PAGE_BYTES, PAGE_BYTES, Prot::READ) {
            return (count, Some(code.to_string()));
        }
        count += 1;
    }
    (count, None)
}
