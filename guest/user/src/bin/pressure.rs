//! Times loads from wired pages and from pages that are not wired: `pressure WIRED UNWIRED [N]`, sizes in MiB, N of each, alternating.
//!
//! Each part of both regions is wired, stored to, put on stable storage and loaded from, and those of the second region are unwired
//! then: a host that is short of memory need not write a page to let it go. After that each load that is timed hits some page of its
//! region and checks what is there. In the end the program prints the times in nanoseconds,
//! and where the regions are, and rests with them as they are: whoever looks from outside sees which pages have stayed.
#![cfg_attr(feature = "program", no_std, no_main)]

use core::fmt;
use core::hint::black_box;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use wirevm_user::random::Random;
use wirevm_user::ticks::Ticks;
use wirevm_user::time::{clock, sleep, ticks};
use wirevm_user::{Args, ArgsError, KernReturn, PAGE_BYTES, Region, WireFlags, entry, print, println, vm};

entry!(run);

/// Bytes that are wired at once. Fresh memory that is wired comes in large pages, so that stores to it are no page faults; and a host
/// that is short of memory never has to hold more than this too much.
const CHUNK_BYTES: usize = 4 << 20;
/// Long enough for a host to look.
const REST: Duration = Duration::from_secs(10);
/// Numbers in a line.
const LINE: usize = 256;

/// What is to be done.
struct Order {
    wired_bytes: usize,
    unwired_bytes: usize,
    loads: usize,
}

/// Why it could not be done.
enum Failure {
    Refused(&'static str, KernReturn),
    /// A page holds something else than was stored there.
    Other {
        page: usize,
        found: u64,
    },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(what, code) => write!(f, "memory can't be {what}: {code}"),
            Self::Other { page, found } => {
                write!(f, "page {page} of a region holds {found:#x}, which nobody stored there")
            }
        }
    }
}

fn run(args: Args) -> u8 {
    let order = match read(&args) {
        Ok(order) => order,
        Err(error) => {
            println!("pressure: {error}; usage: pressure WIRED-MiB UNWIRED-MiB [N]");
            return 2;
        }
    };
    match press(&order) {
        Ok(()) => 0,
        Err(failure) => {
            println!("pressure: {failure}");
            1
        }
    }
}

fn read(args: &Args) -> Result<Order, ArgsError> {
    let bytes = |mib: u32| (mib.max(1) as usize).saturating_mul(1 << 20);
    let wired_bytes = bytes(args.number(1, "MiB to wire")?);
    let unwired_bytes = bytes(args.number(2, "MiB to leave unwired")?);
    let loads = args.number_or::<u32>(3, "number of loads", 1000)?.max(1) as usize;
    args.end(4)?;
    Ok(Order { wired_bytes, unwired_bytes, loads })
}

fn press(order: &Order) -> Result<(), Failure> {
    // The times are wired as well: writing one down must not take the time of the next.
    let times = allocate(2 * order.loads * size_of::<u64>())?;
    wire(&times, 0, times.len())?;
    let wired = allocate(order.wired_bytes)?;
    prepare(&wired, true)?;
    let unwired = allocate(order.unwired_bytes)?;
    prepare(&unwired, false)?;
    let first = (ticks(), clock());
    take(&wired, &unwired, &times.words()[..2 * order.loads])?;
    let length = Ticks::between(first, (ticks(), clock()));
    for (place, what) in [(0, "wired"), (1, "unwired")] {
        show(what, &times.words()[place..2 * order.loads], length);
    }
    println!("regions {} {} {} {}", wired.address(), pages(&wired), unwired.address(), pages(&unwired));
    sleep(REST);
    Ok(())
}

fn allocate(bytes: usize) -> Result<Region, Failure> {
    Region::allocate(bytes).map_err(|code| Failure::Refused("allocated", code))
}

fn pages(region: &Region) -> usize {
    region.len() / PAGE_BYTES
}

/// Makes a region what it is to be, chunk by chunk, and leaves it wired only if it is to stay so.
fn prepare(region: &Region, stays_wired: bool) -> Result<(), Failure> {
    for offset in (0..region.len()).step_by(CHUNK_BYTES) {
        let bytes = CHUNK_BYTES.min(region.len() - offset);
        let pages = offset / PAGE_BYTES..(offset + bytes) / PAGE_BYTES;
        wire(region, offset, bytes)?;
        for page in pages.clone() {
            region.word(page * PAGE_BYTES).store(stamp(region, page), Ordering::Relaxed);
        }
        region.sync(offset, bytes).map_err(|code| Failure::Refused("put on stable storage", code))?;
        // Behind a sync the first access to a page takes longer.
        for page in pages {
            check(region, page, region.word(page * PAGE_BYTES).load(Ordering::Relaxed))?;
        }
        if !stays_wired {
            let start = region.address() + offset as u64;
            vm::map_unwire(start, start + bytes as u64, WireFlags::USER)
                .map_err(|code| Failure::Refused("unwired", code))?;
        }
    }
    Ok(())
}

fn wire(region: &Region, offset: usize, bytes: usize) -> Result<(), Failure> {
    let start = region.address() + offset as u64;
    vm::map_wire(start, start + bytes as u64, WireFlags::USER).map_err(|code| Failure::Refused("wired", code))
}

/// What a page of a region holds.
fn stamp(region: &Region, page: usize) -> u64 {
    region.address() ^ (page as u64) << 40
}

fn check(region: &Region, page: usize, found: u64) -> Result<(), Failure> {
    if found == stamp(region, page) { Ok(()) } else { Err(Failure::Other { page, found }) }
}

/// Loads from both regions in turns, whose order turns round as well, and fills `times` with the ticks: wired, unwired, wired, ….
fn take(wired: &Region, unwired: &Region, times: &[AtomicU64]) -> Result<(), Failure> {
    let mut random = Random::new(1);
    let (pairs, _) = times.as_chunks::<2>();
    for (number, pair) in pairs.iter().enumerate() {
        let sides = [(wired, &pair[0]), (unwired, &pair[1])];
        for turn in 0..2 {
            let (region, time) = sides[(number + turn) % 2];
            let page = random.below(pages(region));
            let word = black_box(region.word(page * PAGE_BYTES));
            let began = ticks();
            let found = word.load(Ordering::Relaxed);
            let took = ticks().wrapping_sub(began);
            check(region, page, found)?;
            time.store(took, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// Prints every other time.
fn show(what: &str, times: &[AtomicU64], length: Ticks) {
    for (number, time) in times.iter().step_by(2).enumerate() {
        if number.is_multiple_of(LINE) {
            print!("{}{what}", if number == 0 { "" } else { "\n" });
        }
        print!(" {}", length.nanoseconds(time.load(Ordering::Relaxed)));
    }
    println!();
}
