//! `bench scale`: what more processors bring: programs that wire in a guest of 1, 2 and 4 vCPUs, and threads that read a run in.

use std::sync::Arc;

use wirevm_abi::{PAGE_SIZE, op};
use wirevm_devices::pin::{RunsMethod, map_entry_budget};
use wirevm_devices::plain::{PlainAdvice, PlainMapping, drop_memory};
use wirevm_devices::ramfile::RamFile;
use wirevm_devices::view::View;

use super::{Describe, case, size};
use crate::bench::BenchError;
use crate::bench::document::{Case, float};
use crate::bench::guest::{Guest, Setup, number};
use crate::bench::host_side::{HostSide, RESERVED_BYTES};
use crate::bench::plan::{Context, Planned};
use crate::bench::ranges::{range, run};
use crate::bench::sample::{Effort, pairs, timed};

const MIB: u64 = 1 << 20;

/// Plans the cases.
pub fn cases() -> Vec<Planned> {
    let mut planned = Vec::new();
    for work in WORKS {
        for vcpus in [1, 2, 4] {
            let name = format!("scale/{}/{vcpus}", work.name);
            planned.push(Planned::new(name, move |context| programs(context, vcpus, work)));
        }
    }
    for threads in [1, 2] {
        planned.push(Planned::new(format!("scale/prefault/{threads}"), move |context| prefault(context, threads)));
    }
    planned
}

/// What programs do over and over, all at the same time.
#[derive(Clone, Copy)]
struct Work {
    name: &'static str,
    title: &'static str,
    plot: &'static str,
    /// What `meter` calls it.
    operation: &'static str,
    /// How often, and how often in a quick run.
    times: [u64; 2],
    /// Operations in one time.
    each: u64,
}

const WORKS: [Work; 2] = [
    Work {
        name: "null",
        title: "Programs that call the kernel for nothing, as many as vCPUs",
        plot: "System calls that do nothing, by vCPUs",
        operation: "null",
        times: [2000, 500],
        each: 1,
    },
    Work {
        name: "wire",
        title: "Programs that wire and unwire a page of their own, as many as vCPUs",
        plot: "Wiring and unwiring pages, by vCPUs",
        operation: "wire",
        times: [50, 20],
        each: 2,
    },
];

/// As many programs as vCPUs that do the same.
fn programs(context: &Context, vcpus: u32, work: Work) -> Result<Case, BenchError> {
    let Work { name, operation, times: [many, few], each, .. } = work;
    let times = if context.quick { few } else { many };
    let programs = vec![format!("meter,{operation},{times}"); usize::try_from(vcpus).unwrap_or(1)];
    let mut guest = Guest::start(context, &Setup { ram_bytes: 64 * MIB, durable: false, vcpus, programs })?;
    let mut samples = Vec::new();
    let rounds = if context.quick { 2 } else { 5 };
    for round in 0..=rounds {
        let texts = guest.run(0..u64::from(vcpus))?;
        let slowest = texts.iter().map(|text| number(text, "ns")).collect::<Result<Vec<_>, _>>()?.into_iter().max();
        // The first time is not like the next.
        if round > 0 {
            samples.extend(slowest);
        }
    }
    guest.end()?;
    let operations = each * times * u64::from(vcpus);
    Ok(case("scale", &format!("scale/{name}/{vcpus}"), work.title)
        .conditions("a sample is the slowest program's time; shown is one operation, of whichever program")
        .of(operations, 0)
        .alone("in the guest", samples)
        .at(work.plot, f64::from(vcpus), "vCPUs"))
}

/// Threads that read a cold run in before it is locked.
fn prefault(context: &Context, threads: usize) -> Result<Case, BenchError> {
    let bytes = if context.quick { 64 * MIB } else { 512 * MIB };
    let ram = RamFile::memfd(bytes + RESERVED_BYTES)?;
    let view = Arc::new(View::new(&ram)?);
    let method = RunsMethod::new(Arc::clone(&view)).with_threads(threads);
    let host = HostSide::with_method(ram, view, Box::new(method), map_entry_budget()?)?;
    let plain_ram = RamFile::memfd(bytes)?;
    let plain = PlainMapping::of_ram(&plain_ram, PlainAdvice::None)?;
    let pages = bytes / PAGE_SIZE;
    let (all, whole) = ([range(0, pages, host.ram.pages())?], run(0, pages)?);
    let taken = pairs(
        Effort::long(context.quick),
        |_| {
            let wired = host.call_in_batches(op::WIRE, &all, 1)?;
            host.call_in_batches(op::UNWIRE, &all, 1)?;
            drop_memory(host.ram.file(), bytes)?;
            Ok(wired.whole)
        },
        |_| {
            let time = timed(|| plain.populate_and_mlock(whole))?;
            plain.munlock(whole)?;
            drop_memory(plain_ram.file(), bytes)?;
            Ok(time)
        },
    )?;
    Ok(case(
        "scale",
        &format!("scale/prefault/{threads}"),
        "Wire memory that nobody has touched, by threads that read it in",
    )
    .conditions(&format!("durability=none (memfd), {} given back to the host before each sample", size(bytes)))
    .of(1, bytes)
    .pairs(&format!("WIRE, threads: {threads}"), "populate, then mlock, one thread", taken)
    .at("Wiring cold memory, by threads", float(threads as u64), "threads"))
}
