//! Goes on while others wait for the host: `pulse wire MIB`, `pulse sync MIB`, `pulse beat SECONDS`, `pulse rest SECONDS`.
//!
//! Another thread of it wires, or synchronizes, so much memory at once. This one allocates, touches and gives back memory meanwhile, and
//! says how long it was held up at most. It protects none, as that waits while an operation of the same map is busy. The third does
//! that beside nobody. The fourth does nothing but rest, and says what its longest rest was.
#![cfg_attr(feature = "program", no_std, no_main)]

extern crate alloc;

use alloc::string::{String, ToString};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;

use wirevm_user::time::{clock, sleep};
use wirevm_user::{Args, ArgsError, PAGE_BYTES, Region, WireFlags, entry, println, thread, vm};

entry!(run);

fn run(args: Args) -> u8 {
    let (what, number) = match read(&args) {
        Ok(order) => order,
        Err(error) => {
            println!("pulse: {error}; usage: pulse wire|sync MiB, or pulse beat|rest SECONDS");
            return 2;
        }
    };
    let outcome = match what {
        What::Rest | What::Beat => repeat(what, Duration::from_secs(number.into())),
        What::Sync | What::Wire => pulse(what == What::Sync, number),
    };
    match outcome {
        Ok(()) => 0,
        Err(error) => {
            println!("pulse: {error}");
            1
        }
    }
}

/// What is waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Wire,
    Sync,
    /// Nothing.
    Beat,
    /// The clock.
    Rest,
}

/// Returns what is to be waited for, and how many MiB or seconds it is about.
fn read(args: &Args) -> Result<(What, u32), ArgsError> {
    let what = args.one_of(1, "wire, sync, beat or rest", &["wire", "sync", "beat", "rest"])?;
    let number = args.number(2, if what >= 2 { "number of seconds" } else { "number of MiB" })?;
    args.end(3)?;
    Ok(([What::Wire, What::Sync, What::Beat, What::Rest][what], number))
}

/// Beats, or rests for 5 ms at a time, until so much time is over.
fn repeat(what: What, time: Duration) -> Result<(), String> {
    println!("pulse: begins");
    let begin = clock();
    let (mut beats, mut longest) = (0, Duration::ZERO);
    while clock() - begin < time {
        let before = clock();
        match what {
            What::Beat => beat().map_err(|error| error.to_string())?,
            _ => sleep(Duration::from_millis(5)),
        }
        longest = longest.max(clock() - before);
        beats += 1;
    }
    tell(beats, clock() - begin, longest);
    Ok(())
}

fn tell(beats: u64, all: Duration, longest: Duration) {
    println!("pulse: {beats} beats in {} us, the longest of {} us", all.as_micros(), longest.as_micros());
}

fn pulse(is_sync: bool, mib: u32) -> Result<(), String> {
    let bytes = (mib as usize) << 20;
    let region = Region::allocate(bytes).map_err(|error| error.to_string())?;
    let (start, end) = (region.address(), region.address() + bytes as u64);
    if is_sync {
        (0..bytes / PAGE_BYTES).for_each(|page| region.word(page * PAGE_BYTES).store(1, Ordering::Relaxed));
    }
    let is_over = Arc::new(AtomicBool::new(false));
    let over = Arc::clone(&is_over);
    println!("pulse: begins");
    let waiting = thread::spawn(move || {
        let before = clock();
        let done = if is_sync { vm::sync(start, end - start) } else { vm::map_wire(start, end, WireFlags::USER) };
        let time = clock() - before;
        over.store(true, Ordering::Release);
        (done, time)
    });
    let waiting = waiting.map_err(|error| error.to_string())?;
    let (mut beats, mut longest) = (0, Duration::ZERO);
    while !is_over.load(Ordering::Acquire) {
        let before = clock();
        beat().map_err(|error| error.to_string())?;
        longest = longest.max(clock() - before);
        beats += 1;
    }
    let (done, time) = waiting.join().map_err(|error| error.to_string())?;
    done.map_err(|error| error.to_string())?;
    tell(beats, time, longest);
    Ok(())
}

/// Does what makes other processors forget translations.
fn beat() -> Result<(), wirevm_user::KernReturn> {
    let region = Region::allocate(2 * PAGE_BYTES)?;
    region.word(0).store(1, Ordering::Relaxed);
    region.word(PAGE_BYTES).store(1, Ordering::Relaxed);
    Ok(())
}
