//! `bench footprint`: what a machine keeps of the host's memory besides guest RAM.

use std::fs::File;

use wirevm_devices::witness::{Footprint, SAMPLE_INTERVAL};

use super::boot::Child;
use super::{Describe, case};
use crate::bench::BenchError;
use crate::bench::document::{Case, GoalOf, float};
use crate::bench::plan::{Context, Planned};

const MIB: u64 = 1 << 20;
/// Most bytes that a machine of one vCPU may keep resident.
const MOST: f64 = 5.0 * 1024.0 * 1024.0;

/// Plans the cases.
pub fn cases() -> Vec<Planned> {
    vec![Planned::new("footprint/resident", resident)]
}

fn resident(context: &Context) -> Result<Case, BenchError> {
    let child = Child::new(context, 256 * MIB)?;
    let ram = File::open(child.ram())?;
    let mut samples = Vec::new();
    let mut looks = 0;
    for _ in 0..if context.quick { 2 } else { 9 } {
        let (_, watch) = child.run(|id| {
            let footprint = Footprint::of_process(id, &ram)?;
            Ok(footprint.watch(SAMPLE_INTERVAL)?)
        })?;
        let peak = watch.finish()?;
        samples.push(peak.bytes);
        looks += peak.looks;
    }
    let runs = float(samples.len() as u64);
    let mut case = case("footprint", "footprint/resident", "Most that a machine keeps resident besides guest RAM")
        .conditions(
            "the sum of Rss over all mappings but those of the RAM file, the program's own text included, looked at from outside every 10 ms \
             from the start of the command to its end; one vCPU, 256 MiB; a sample is the most of a run",
        )
        .alone("wirevm run", samples)
        .part("looks in a run", float(looks) / runs, "looks")
        .goal(GoalOf::Max, MOST);
    "bytes".clone_into(&mut case.unit);
    Ok(case)
}
