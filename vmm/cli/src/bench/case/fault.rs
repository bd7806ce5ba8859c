//! `bench fault`: what touching memory costs in a guest, beside a process of the host.

use wirevm_devices::plain::{PlainAdvice, PlainMapping, drop_memory};
use wirevm_devices::ramfile::RamFile;

use super::metered::Metered;
use super::side;
use crate::bench::BenchError;
use crate::bench::document::Case;
use crate::bench::plan::{Context, Planned};
use crate::bench::ranges::run;
use crate::bench::sample::{Effort, alone, timed};
use crate::bench::statistics::ratio;

const RESIDENT: Metered = Metered {
    bench: "fault",
    name: "fault/resident",
    title: "A fault on a page that is in the guest's memory and not mapped",
    operation: "fault",
    rest: "",
    times: [64, 256],
    pages: 1,
    durable: false,
    each: 1,
    is_counted: false,
};

const FIRST_TOUCH: Metered = Metered {
    bench: "fault",
    name: "fault/first-touch",
    title: "The first touch of a page, which makes it and fills it with zeros",
    operation: "first-touch",
    rest: "",
    times: [64, 256],
    pages: 1,
    durable: false,
    each: 1,
    is_counted: false,
};

/// Plans the cases.
pub fn cases() -> Vec<Planned> {
    vec![
        Planned::new(RESIDENT.name, |context| beside_native(RESIDENT.measure(context)?, context, false)),
        Planned::new(FIRST_TOUCH.name, |context| beside_native(FIRST_TOUCH.measure(context)?, context, true)),
    ]
}

/// Adds what a process of the host pays for as many faults: on fresh pages of a memfd, or on resident ones of a new mapping.
fn beside_native(case: Case, context: &Context, fresh: bool) -> Result<Case, BenchError> {
    let pages = case.operations;
    let ram = RamFile::memfd((pages * 4096).next_multiple_of(2 << 20))?;
    let keep = PlainMapping::of_ram(&ram, PlainAdvice::None)?;
    keep.store(run(0, pages)?, 1)?;
    let effort =
        Effort { least: case.ours.samples.len(), most: case.ours.samples.len(), ..Effort::long(context.quick) };
    let samples = alone(effort, |number| {
        if fresh {
            drop_memory(ram.file(), ram.size_bytes())?;
        }
        let plain = PlainMapping::of_ram(&ram, PlainAdvice::None)?;
        timed(|| plain.store(run(0, pages)?, number).map_err(BenchError::from))
    })?;
    let ratio = ratio(&case.ours.samples, &samples);
    Ok(Case { limit: Some(side("a process of the host, memfd", samples)), ratio, ..case })
}
