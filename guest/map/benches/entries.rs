//! What wiring one page costs in maps of 10 to 100,000 entries: `cargo bench -p wirevm-map --bench entries --features fake`.
//!
//! Lookup and clip are logarithmic, so the cost may grow by no more than four times. Each round clips one page out of the middle
//! of an entry, wires it, unwires it and merges the entry again, on the scripted fake: no host, no page table walk, nothing but
//! the map. Ends with 1 if the limit is passed.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use wirevm_map::fake::{FakeConfig, FakeMachine, block_on};
use wirevm_map::{PAGE_SIZE, PageRange, Placement, Prot, WireFlags};

/// Pages of each entry.
const ENTRY_PAGES: u64 = 4;
/// Most that the cost may grow by from the smallest to the largest map.
const LIMIT: f64 = 4.0;
/// Rounds timed together, and how often.
const ROUNDS: u32 = 2_000;
const SAMPLES: usize = 15;

/// Returns the median time of wiring and unwiring one page in a map of so many entries.
fn measure(entries: u64) -> Duration {
    let machine = FakeMachine::new(FakeConfig {
        frame_pages: 1 << 14,
        map_pages: PageRange::new(16, 16 + entries * ENTRY_PAGES),
        user_wire_limit_pages: u64::MAX,
    });
    let at = |entry: u64| (16 + entry * ENTRY_PAGES) * PAGE_SIZE;
    for entry in 0..entries {
        let address = block_on(machine.map.allocate(Placement::Fixed(at(entry)), ENTRY_PAGES * PAGE_SIZE));
        assert_eq!(address, Ok(at(entry)));
        // Neighbours that differ stay entries of their own.
        let prot = if entry % 2 == 0 { Prot::DEFAULT } else { Prot::READ };
        assert_eq!(block_on(machine.map.protect(at(entry), ENTRY_PAGES * PAGE_SIZE, false, prot)), Ok(()));
    }
    assert_eq!(machine.map.stats().entries as u64, entries);
    let mut next = 0_u64;
    let mut sample = || {
        let began = Instant::now();
        for _ in 0..ROUNDS {
            // Strides through a few places that are far apart, so that all sizes meet the same caches.
            next = (next + 7) % 10;
            let page = at(next * (entries / 10)) + PAGE_SIZE;
            assert_eq!(block_on(machine.map.wire(page, page + PAGE_SIZE, WireFlags::USER)), Ok(()));
            assert_eq!(block_on(machine.map.unwire(page, page + PAGE_SIZE, WireFlags::USER)), Ok(()));
        }
        drop(machine.host().take_log());
        began.elapsed() / ROUNDS
    };
    sample();
    let mut times: Vec<Duration> = (0..SAMPLES).map(|_| sample()).collect();
    times.sort_unstable();
    times[SAMPLES / 2]
}

fn main() -> ExitCode {
    let sizes = [10, 100, 1_000, 10_000, 100_000];
    let times = sizes.map(measure);
    println!("entries   wire and unwire one page");
    for (size, time) in sizes.iter().zip(times) {
        println!(
            "{size:>7}   {:>7.0} ns   {:.2}x",
            time.as_secs_f64() * 1e9,
            time.as_secs_f64() / times[0].as_secs_f64()
        );
    }
    let growth = times[4].as_secs_f64() / times[0].as_secs_f64();
    println!("growth {growth:.2}, at most {LIMIT}");
    if growth <= LIMIT { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
