//! Times one operation done over and over: `meter OPERATION N [PAGES] [inside] [each] [hold]`.
//!
//! What is printed is one line, `meter OPERATION n=N pages=PAGES ns=TIME`. A look at the clock is a system call, so it is looked at
//! before all and behind all; with `each` it is looked at around each time, and the line goes on with ` min=… p50=… p99=… max=…`, in
//! nanoseconds with one look at the clock in each of them. What prepares an operation or cleans up behind it is not timed, and each
//! has been done once before, but for `wire-new`. With `inside` the pages lie in the middle of a region of three times as many, by which
//! wiring splits it in three. With `hold`, which `wire-new` and `wire-scattered` take, the pages of the last time stay wired until the
//! program is killed: whoever wants to can look at them.
#![cfg_attr(feature = "program", no_std, no_main)]

extern crate alloc;

use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::Ordering;
use core::time::Duration;

use wirevm_user::time::{clock, sleep};
use wirevm_user::{
    Args, ArgsError, KernReturn, PAGE_BYTES, Prot, Region, WireFlags, entry, print, println, process, vm,
};

entry!(run);

/// Most pages that are prepared at once to be touched one after the other.
const BATCH_PAGES: usize = 256;
/// How long each of the sleeps is in which pages stay wired.
const REST: Duration = Duration::from_secs(3600);

/// What is done each time.
#[derive(Clone, Copy)]
enum Operation {
    /// A system call that does nothing.
    Null,
    /// A page that is resident but not mapped is touched.
    Fault,
    /// A page is touched that was never touched before.
    FirstTouch,
    /// Pages are wired by one call and unwired by another.
    Wire,
    /// Pages that nobody has touched are wired by one call; each time they are new.
    WireNew,
    /// Pages are wired by one call that don't lie side by side in RAM: no two of them.
    WireScattered,
    /// Pages are wired behind those wired before, which stay so; all are unwired behind the last time.
    WireNext,
    /// The first of the pages are unwired that all were wired by one call before the first time.
    UnwireNext,
    /// Each page is stored to and one call synchronizes them.
    Sync,
}

/// The operations' names; whether the number of pages stands behind the number of times, else it is 1.
const OPERATIONS: [(&str, Operation, bool); 11] = [
    ("null", Operation::Null, false),
    ("fault", Operation::Fault, false),
    ("first-touch", Operation::FirstTouch, false),
    ("wire", Operation::Wire, false),
    ("wire-range", Operation::Wire, true),
    ("wire-new", Operation::WireNew, true),
    ("wire-scattered", Operation::WireScattered, true),
    ("wire-next", Operation::WireNext, false),
    ("unwire-next", Operation::UnwireNext, false),
    ("sync", Operation::Sync, false),
    ("sync-range", Operation::Sync, true),
];
const NAMES: &str = "null, fault, first-touch, wire, wire-range, wire-new, wire-scattered, wire-next, unwire-next, sync or \
                     sync-range";

/// What is to be measured.
struct Order {
    name: &'static str,
    operation: Operation,
    times: usize,
    pages: usize,
    is_inside: bool,
    is_each: bool,
    is_held: bool,
}

fn run(args: Args) -> u8 {
    let order = match read(&args) {
        Ok(order) => order,
        Err(error) => {
            println!("meter: {error}; usage: meter OPERATION N [PAGES] [inside] [each] [hold]");
            return 2;
        }
    };
    let mut meter = Meter::new(&order);
    match order.operation.measure(&order, &mut meter) {
        Ok(()) => {
            meter.print(&order);
            0
        }
        Err(error) => {
            println!("meter: {error}");
            1
        }
    }
}

fn read(args: &Args) -> Result<Order, ArgsError> {
    let names = OPERATIONS.map(|(name, ..)| name);
    let (name, operation, has_pages) = OPERATIONS[args.one_of(1, NAMES, &names)?];
    let times = args.number::<u32>(2, "number of times")?.max(1) as usize;
    let pages = if has_pages { args.number::<u32>(3, "number of pages")?.max(1) as usize } else { 1 };
    let mut order = Order { name, operation, times, pages, is_inside: false, is_each: false, is_held: false };
    let (what, words): (_, &[&str]) = if matches!(operation, Operation::WireNew | Operation::WireScattered) {
        ("inside, each or hold", &["inside", "each", "hold"])
    } else {
        ("inside or each", &["inside", "each"])
    };
    let first = if has_pages { 4 } else { 3 };
    let last = first + words.len();
    for index in first..last {
        match args.get(index).map(|_| args.one_of(index, what, words)).transpose()? {
            Some(0) => order.is_inside = true,
            Some(1) => order.is_each = true,
            Some(_) => order.is_held = true,
            None => {}
        }
    }
    args.end(last)?;
    Ok(order)
}

/// Times what is measured.
struct Meter {
    is_each: bool,
    total: Duration,
    /// In nanoseconds, with `each`.
    times: Vec<u64>,
}

impl Meter {
    fn new(order: &Order) -> Self {
        let capacity = if order.is_each { order.times } else { 0 };
        Self { is_each: order.is_each, total: Duration::ZERO, times: Vec::with_capacity(capacity) }
    }

    /// Does something for each number of a range.
    fn time(
        &mut self,
        range: Range<usize>,
        mut work: impl FnMut(usize) -> Result<(), KernReturn>,
    ) -> Result<(), KernReturn> {
        let start = clock();
        let mut last = start;
        for index in range {
            work(index)?;
            if self.is_each {
                let now = clock();
                self.times.push(u64::try_from((now - last).as_nanos()).unwrap_or(u64::MAX));
                last = now;
            }
        }
        self.total += if self.is_each { last } else { clock() } - start;
        Ok(())
    }

    fn print(&mut self, order: &Order) {
        let Order { name, times, pages, .. } = order;
        print!("meter {name} n={times} pages={pages} ns={}", self.total.as_nanos());
        self.times.sort_unstable();
        if let [min, .., max] | [min @ max] = self.times[..] {
            let rank = |percent: usize| self.times[(self.times.len() * percent).div_ceil(100) - 1];
            print!(" min={min} p50={} p99={} max={max}", rank(50), rank(99));
        }
        println!();
    }
}

impl Operation {
    fn measure(self, order: &Order, meter: &mut Meter) -> Result<(), KernReturn> {
        let &Order { times, pages, is_inside, .. } = order;
        let pages = if matches!(self, Self::WireNext | Self::UnwireNext) { times } else { pages };
        let first = if is_inside { pages } else { 0 };
        let allocate = || Region::allocate((2 * first + pages) * PAGE_BYTES);
        if matches!(self, Self::WireNew) {
            return (0..times).try_for_each(|time| {
                let region = allocate()?;
                Place { region: &region, first, pages }.wire_timed(time, order, meter)
            });
        }
        let region = allocate()?;
        // What lies between its pages in RAM: frames are given out one after the other.
        let between = matches!(self, Self::WireScattered).then(allocate).transpose()?;
        for page in 0..region.len() / PAGE_BYTES {
            [Some(&region), between.as_ref()].into_iter().flatten().for_each(|region| touch(region, page));
        }
        let place = Place { region: &region, first, pages };
        match self {
            Self::Null => meter.time(0..times, |_| {
                process::null();
                Ok(())
            }),
            Self::Fault => batches(times, |batch, region| {
                // From the last to the first, so that no two have frames that go on, which one fault would map together.
                batch.clone().rev().for_each(|page| touch(region, page));
                // By this pages lose their mappings and stay where they are.
                for prot in [Prot::NONE, Prot::READ_WRITE] {
                    region.protect(0, region.len(), prot)?;
                }
                meter.time(batch, |page| {
                    touch(region, page);
                    Ok(())
                })
            }),
            Self::FirstTouch => batches(times, |batch, region| {
                meter.time(batch, |page| {
                    touch(region, page);
                    Ok(())
                })
            }),
            Self::Wire => {
                let wire_and_unwire = |_| place.wire().and_then(|()| place.unwire());
                wire_and_unwire(0)?;
                meter.time(0..times, wire_and_unwire)
            }
            Self::WireNew | Self::WireScattered => {
                place.wire()?;
                place.unwire()?;
                (0..times).try_for_each(|time| place.wire_timed(time, order, meter))
            }
            Self::WireNext => {
                meter.time(0..times, |page| place.page(page).wire())?;
                place.unwire()
            }
            Self::UnwireNext => {
                place.wire()?;
                meter.time(0..times, |page| place.page(page).unwire())
            }
            Self::Sync => {
                let store_and_sync = |_| {
                    place.touch();
                    vm::sync(place.start(), (place.pages * PAGE_BYTES) as u64)
                };
                store_and_sync(0)?;
                meter.time(0..times, store_and_sync)
            }
        }
    }
}

/// Does something for so many pages: a batch of them at a time, of a region that is new.
fn batches(
    pages: usize,
    mut work: impl FnMut(Range<usize>, &Region) -> Result<(), KernReturn>,
) -> Result<(), KernReturn> {
    (0..pages).step_by(BATCH_PAGES).try_for_each(|done| {
        let region = Region::allocate(BATCH_PAGES * PAGE_BYTES)?;
        work(0..BATCH_PAGES.min(pages - done), &region)
    })
}

fn touch(region: &Region, page: usize) {
    region.word(page * PAGE_BYTES).store(1, Ordering::Relaxed);
}

/// Pages of a region.
struct Place<'a> {
    region: &'a Region,
    first: usize,
    pages: usize,
}

impl Place<'_> {
    /// Returns one of the pages.
    const fn page(&self, page: usize) -> Self {
        Self { region: self.region, first: self.first + page, pages: 1 }
    }

    fn start(&self) -> u64 {
        self.region.address() + (self.first * PAGE_BYTES) as u64
    }

    fn end(&self) -> u64 {
        self.start() + (self.pages * PAGE_BYTES) as u64
    }

    fn touch(&self) {
        (self.first..self.first + self.pages).for_each(|page| touch(self.region, page));
    }

    fn wire(&self) -> Result<(), KernReturn> {
        vm::map_wire(self.start(), self.end(), WireFlags::USER)
    }

    /// Wires, which is timed, and unwires; the last time not before the program is killed, if it is to hold on.
    fn wire_timed(&self, time: usize, order: &Order, meter: &mut Meter) -> Result<(), KernReturn> {
        meter.time(time..time + 1, |_| self.wire())?;
        if order.is_held && time + 1 == order.times {
            meter.print(order);
            loop {
                sleep(REST);
            }
        }
        self.unwire()
    }

    fn unwire(&self) -> Result<(), KernReturn> {
        vm::map_unwire(self.start(), self.end(), WireFlags::USER)
    }
}
