//! What the map's operations cost on the scripted fake, without a host and without hardware:
//! `cargo bench -p wirevm-map --bench operations --features fake`.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use wirevm_map::fake::{FakeConfig, FakeMachine, block_on};
use wirevm_map::{PAGE_SIZE, PageRange, Placement, SyncFlags, WireFlags};

/// Pages of the map.
const MAP_PAGES: u64 = 1 << 14;

fn machine(pages: u64) -> (FakeMachine, u64) {
    let machine = FakeMachine::new(FakeConfig {
        frame_pages: 1 << 14,
        map_pages: PageRange::new(16, 16 + MAP_PAGES),
        user_wire_limit_pages: u64::MAX,
    });
    let start = block_on(machine.map.allocate(Placement::Anywhere, pages * PAGE_SIZE)).expect("room");
    (machine, start)
}

/// Wires and unwires the pages in the middle of an entry, which is split and joined again.
fn wiring(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wire and unwire, pages");
    for pages in [1, 16, 512] {
        let (machine, start) = machine(pages + 2);
        let (from, to) = (start + PAGE_SIZE, start + (pages + 1) * PAGE_SIZE);
        group.bench_function(BenchmarkId::from_parameter(pages), |bencher| {
            bencher.iter(|| {
                block_on(machine.map.wire(from, to, WireFlags::USER)).expect("wired");
                block_on(machine.map.unwire(from, to, WireFlags::USER)).expect("unwired");
                // What the fake's host was asked would grow for ever.
                machine.host().take_log().len()
            });
        });
    }
    group.finish();
}

/// Allocates and gives back.
fn allocating(criterion: &mut Criterion) {
    let (machine, _) = machine(1);
    criterion.bench_function("allocate and deallocate 16 pages", |bencher| {
        bencher.iter(|| {
            let at = block_on(machine.map.allocate(Placement::Anywhere, 16 * PAGE_SIZE)).expect("room");
            block_on(machine.map.deallocate(at, 16 * PAGE_SIZE)).expect("allocated");
        });
    });
}

/// Synchronizes pages that are wired, and so resident.
fn syncing(criterion: &mut Criterion) {
    let (machine, start) = machine(16);
    let end = start + 16 * PAGE_SIZE;
    block_on(machine.map.wire(start, end, WireFlags::USER)).expect("wired");
    criterion.bench_function("msync of 16 resident pages", |bencher| {
        bencher.iter(|| {
            block_on(machine.map.msync(start, 16 * PAGE_SIZE, SyncFlags::SYNCHRONOUS)).expect("synced");
            machine.host().take_log().len()
        });
    });
}

criterion_group!(benches, wiring, allocating, syncing);
criterion_main!(benches);
