//! Does everything at once: `storm [SECONDS] [THREADS] [SEED]`.
//!
//! Each thread allocates, touches, wires, unwires, locks, unlocks, protects, synchronizes and deallocates memory of its own at random,
//! and has children that look at it, and checks that every word holds what it wrote. What the system refuses for want of memory is
//! no error; any other answer that is not expected is.
#![cfg_attr(feature = "program", no_std, no_main)]

extern crate alloc;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use wirevm_user::storm::{Storm, Trouble};
use wirevm_user::time::clock;
use wirevm_user::{Args, ArgsError, entry, println, thread};

entry!(run);

/// Operations between two looks at the clock, which is a call like the others.
const OPERATIONS_AT_ONCE: u64 = 4;

fn run(args: Args) -> u8 {
    let (seconds, threads, seed) = match read(&args) {
        Ok(order) => order,
        Err(error) => {
            println!("storm: {error}; usage: storm [SECONDS] [THREADS] [SEED]");
            return 2;
        }
    };
    let end = clock() + Duration::from_secs(seconds);
    let children = Arc::new(AtomicU64::new(0));
    let mut started = Vec::new();
    for index in 1..=threads {
        let children = Arc::clone(&children);
        match thread::spawn(move || weather(index, seed, end, &children)) {
            Ok(thread) => started.push(thread),
            Err(error) => {
                println!("storm: thread {index} can't be started: {error}");
                return 1;
            }
        }
    }
    let mut operations = 0;
    let mut is_ok = true;
    for (thread, index) in started.into_iter().zip(1_u64..) {
        match thread.join() {
            Ok((done, None)) => operations += done,
            Ok((done, Some(trouble))) => {
                println!("storm: thread {index}, operation {done}, seed {seed}: {trouble}");
                is_ok = false;
            }
            Err(error) => {
                println!("storm: thread {index} is lost: {error}");
                is_ok = false;
            }
        }
    }
    if is_ok {
        println!("storm: {} children", children.load(Ordering::Relaxed));
        println!("storm: {operations} operations, ok");
    }
    u8::from(!is_ok)
}

fn read(args: &Args) -> Result<(u64, u64, u64), ArgsError> {
    args.end(4)?;
    let threads: u8 = args.number_or(2, "number of threads", 2)?;
    Ok((args.number_or(1, "number of seconds", 5)?, threads.into(), args.number_or(3, "seed", 1)?))
}

/// Returns how many operations a thread did, and what stopped it before the time.
fn weather(index: u64, seed: u64, end: Duration, children: &AtomicU64) -> (u64, Option<Trouble>) {
    let mut storm = Storm::new(index, seed);
    let mut done = 0;
    while clock() < end {
        for _ in 0..OPERATIONS_AT_ONCE {
            if let Err(trouble) = storm.step() {
                return (done, Some(trouble));
            }
            done += 1;
        }
    }
    children.fetch_add(storm.children(), Ordering::Relaxed);
    let trouble = storm.check_all().err();
    (done, trouble)
}
