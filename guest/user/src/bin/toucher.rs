//! Touches memory and says how long it took: `toucher [MiB] [passes] [read|write|stride N] [threads N]`.
//!
//! The first touch, one store in each page, makes them resident; it is told apart from the passes over pages that are. Many passes are
//! timed in eight parts, and the best pass is one of the fastest part.
#![cfg_attr(feature = "program", no_std, no_main)]

extern crate alloc;

use alloc::sync::Arc;
use alloc::vec::Vec;

use wirevm_user::sync::Barrier;
use wirevm_user::time::clock;
use wirevm_user::touch::{Pattern, fastest_pass, measure};
use wirevm_user::{Args, ArgsError, PAGE_BYTES, Region, entry, print, println, thread};

entry!(run);

const MIB: usize = 1 << 20;

/// What is to be done.
struct Order {
    mib: usize,
    passes: usize,
    pattern: Pattern,
    threads: usize,
}

fn run(args: Args) -> u8 {
    let order = match read(&args) {
        Ok(order) => order,
        Err(error) => {
            println!("toucher: {error}; usage: toucher [MiB] [passes] [read|write|stride BYTES] [threads N]");
            return 2;
        }
    };
    let bytes = order.mib * MIB;
    let region = match Region::allocate(bytes) {
        Ok(region) => Arc::new(region),
        Err(error) => {
            println!("toucher: {} MiB can't be allocated: {error}", order.mib);
            return 1;
        }
    };
    let barrier = Arc::new(Barrier::new(order.threads));
    let mut others = Vec::new();
    for index in 1..order.threads {
        let (region, barrier) = (Arc::clone(&region), Arc::clone(&barrier));
        let Order { passes, pattern, threads, .. } = order;
        match thread::spawn(move || work(&region, &barrier, index, threads, passes, pattern)) {
            Ok(other) => others.push(other),
            Err(error) => {
                println!("toucher: thread {index} can't be started: {error}");
                return 1;
            }
        }
    }
    let mut times = work(&region, &barrier, 0, order.threads, order.passes, order.pattern);
    for other in others {
        match other.join() {
            // A pass takes as long as the slowest of those who begin it together.
            Ok(others) => times.iter_mut().zip(others).for_each(|(time, other)| *time = other.max(*time)),
            Err(error) => {
                println!("toucher: a thread is lost: {error}");
                return 1;
            }
        }
    }
    let (first, passes) = times.split_first().map_or((0, &[][..]), |(first, passes)| (*first, passes));
    let (all, best) = (passes.iter().sum(), fastest_pass(order.passes, passes));
    println!("toucher: {} MiB, {:?}, threads {}", order.mib, order.pattern, order.threads);
    for (what, passes, time) in
        [("first touch", 1, first), ("touched before", order.passes, all), ("best pass", order.passes.min(1), best)]
    {
        show(what, bytes, passes, time, order.pattern);
    }
    0
}

fn read(args: &Args) -> Result<Order, ArgsError> {
    let mut order = Order {
        mib: args.number_or::<u32>(1, "size in MiB", 64)? as usize,
        passes: args.number_or::<u32>(2, "number of passes", 4)? as usize,
        pattern: Pattern::Write,
        threads: 1,
    };
    order.mib = order.mib.max(1);
    let mut index = 3;
    while let Some(word) = args.get(index) {
        index += 1;
        match word {
            "read" => order.pattern = Pattern::Read,
            "write" => order.pattern = Pattern::Write,
            "stride" => {
                order.pattern = Pattern::Stride(args.number::<u32>(index, "stride in bytes")? as usize);
                index += 1;
            }
            "threads" => {
                order.threads = usize::from(args.number::<u8>(index, "number of threads")?).max(1);
                index += 1;
            }
            // Says that the word is none of those.
            _ => _ = args.number::<u32>(index - 1, "read, write, stride or threads")?,
        }
    }
    Ok(order)
}

/// Touches a thread's part; returns the nanoseconds of the first touch and of the parts of the passes.
fn work(region: &Region, barrier: &Barrier, index: usize, threads: usize, passes: usize, pattern: Pattern) -> Vec<u64> {
    let pages = region.len() / PAGE_BYTES;
    let [from, to] = [index, index + 1].map(|index| pages * index / threads * (PAGE_BYTES / 8));
    measure(&region.words()[from..to], pattern, passes, || barrier.wait(), clock)
}

fn show(what: &str, bytes: usize, passes: usize, nanoseconds: u64, pattern: Pattern) {
    let total = bytes as u64 * passes as u64;
    let pages = total / PAGE_BYTES as u64;
    if pages == 0 {
        return;
    }
    let nanoseconds = nanoseconds.max(1);
    print!("{what}: passes {passes}, {nanoseconds} ns, {} ns per page", nanoseconds / pages);
    if let Pattern::Stride(bytes) = pattern {
        let touches = total / bytes.max(8) as u64;
        println!(", {} ns per touch", nanoseconds / touches.max(1));
    } else {
        let hundredths = total.saturating_mul(100) / nanoseconds;
        println!(", {}.{:02} GB/s", hundredths / 100, hundredths % 100);
    }
}
