//! Does everything at once: `storm [SECONDS] [THREADS] [SEED] [hold]`.
//!
//! Each thread allocates, touches, wires, unwires, locks, unlocks, protects, synchronizes and deallocates memory of its own at random,
//! and has children that look at it, and checks that every word holds what it wrote. What the system refuses for want of memory is
//! no error; any other answer that is not expected is. Some of the memory is a store's, where the host has stores.
//!
//! At the end it says what has succeeded how often. With `hold` it then wires all its memory, says how many pages that are, and waits
//! to be killed.
#![cfg_attr(feature = "program", no_std, no_main)]

extern crate alloc;

use alloc::vec::Vec;
use core::time::Duration;

use wirevm_user::storm::{Storm, Tally, Trouble, is_durable};
use wirevm_user::time::{clock, sleep};
use wirevm_user::{Args, ArgsError, entry, posix, println, thread};

entry!(run);

/// Operations between two looks at the clock, which is a call like the others.
const OPERATIONS_AT_ONCE: u64 = 4;

/// What is to be done.
#[derive(Clone, Copy)]
struct Order {
    seconds: u64,
    threads: u64,
    seed: u64,
    /// What is there at the end stays, wired.
    holds: bool,
}

fn run(args: Args) -> u8 {
    let order = match read(&args) {
        Ok(order) => order,
        Err(error) => {
            println!("storm: {error}; usage: storm [SECONDS] [THREADS] [SEED] [hold]");
            return 2;
        }
    };
    let Some(storms) = weather(order) else { return 1 };
    if order.holds {
        return hold(storms);
    }
    0
}

fn read(args: &Args) -> Result<Order, ArgsError> {
    let threads: u8 = args.number_or(2, "number of threads", 2)?;
    let order = Order {
        seconds: args.number_or(1, "number of seconds", 5)?,
        threads: threads.into(),
        seed: args.number_or(3, "seed", 1)?,
        holds: args.option(4, "hold")?,
    };
    args.end(5)?;
    Ok(order)
}

/// Runs all threads to their end and says what they did; returns what they have, unless something was wrong.
fn weather(order: Order) -> Option<Vec<Storm>> {
    let is_durable = match is_durable() {
        Ok(is_durable) => is_durable,
        Err(error) => {
            println!("storm: a page can't be synchronized: {error}");
            return None;
        }
    };
    let mut started = Vec::new();
    for index in 1..=order.threads {
        match thread::spawn(move || blow(Storm::new(index, order.seed, is_durable), order.seconds)) {
            Ok(thread) => started.push(thread),
            Err(error) => {
                println!("storm: thread {index} can't be started: {error}");
                return None;
            }
        }
    }
    let (mut operations, mut tally) = (0, Tally::default());
    let mut storms = Vec::new();
    for (thread, index) in started.into_iter().zip(1_u64..) {
        match thread.join() {
            Ok((storm, done, None)) => {
                operations += done;
                tally.add(storm.tally());
                storms.push(storm);
            }
            Ok((_, done, Some(trouble))) => {
                println!("storm: thread {index}, operation {done}, seed {}: {trouble}", order.seed);
            }
            Err(error) => println!("storm: thread {index} is lost: {error}"),
        }
    }
    if storms.len() as u64 != order.threads {
        return None;
    }
    println!("storm: {tally}");
    println!("storm: {operations} operations, ok");
    Some(storms)
}

/// Does a thread's part: everything once, and then what comes, for so many seconds. Returns it, how many operations it did, and what
/// stopped it before the time.
fn blow(mut storm: Storm, seconds: u64) -> (Storm, u64, Option<Trouble>) {
    let mut done = 0;
    let mut end = None;
    while !storm.has_tried_everything() || clock() < *end.get_or_insert_with(|| clock() + Duration::from_secs(seconds))
    {
        for _ in 0..OPERATIONS_AT_ONCE {
            if let Err(trouble) = storm.step() {
                return (storm, done, Some(trouble));
            }
            done += 1;
        }
    }
    let trouble = storm.check_all().err();
    (storm, done, trouble)
}

/// Wires all memory of the storms, and nothing else, and waits to be killed.
fn hold(mut storms: Vec<Storm>) -> u8 {
    let wired = posix::munlockall().map_err(|error| Trouble::Posix("munlockall", error));
    let wired = wired.and_then(|()| storms.iter_mut().map(Storm::wire_all).sum::<Result<u64, Trouble>>());
    match wired {
        Ok(pages) => println!("storm: holds {pages} pages"),
        Err(trouble) => {
            println!("storm: {trouble}");
            return 1;
        }
    }
    loop {
        sleep(Duration::from_secs(3600));
    }
}
