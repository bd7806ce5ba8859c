//! A document with everything in it, for tests.

use super::super::document::{About, Case, Document, Goal, GoalOf, Part, Point, SCHEMA, Side, Skipped, float};
use super::super::statistics::{quantiles, ratio};

/// Numbers that look like noise and are always the same: from 0 to `most` - 1.
pub fn noise(seed: u64, most: u64) -> impl Iterator<Item = u64> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % most.max(1)
    })
}

/// Returns a side of `count` samples about `middle`, up to a tenth above it.
pub fn side(what: &str, seed: u64, count: usize, middle: u64) -> Side {
    let samples: Vec<u64> = noise(seed, middle / 10).take(count).map(|more| middle + more).collect();
    Side { what: what.to_owned(), quantiles: quantiles(&samples), samples }
}

/// Returns a case with both sides.
pub fn case(name: &str, ours: Side, limit: Option<Side>) -> Case {
    let found = limit.as_ref().and_then(|limit| ratio(&ours.samples, &limit.samples));
    Case {
        bench: name.split('/').next().unwrap_or_default().to_owned(),
        name: name.to_owned(),
        title: "Wires a range and unwires it.".to_owned(),
        conditions: "Pages resident and never wired; each sample has its own range; the host's counters were checked."
            .to_owned(),
        unit: "ns".to_owned(),
        operations: 1,
        bytes: 0,
        ours,
        limit,
        ratio: found,
        goal: found.map(|_| Goal { of: GoalOf::Ratio, at_most: 1.15 }),
        split: Vec::new(),
        point: None,
    }
}

pub fn part(name: &str, value: f64, unit: &str, at_most: Option<f64>) -> Part {
    Part { name: name.to_owned(), value, unit: unit.to_owned(), at_most }
}

/// Returns a document that has at least one of everything.
pub fn document() -> Document {
    let mut cases = Vec::new();
    for (place, size) in
        [4096, 16_384, 65_536, 262_144, 1 << 20, 4 << 20, 16 << 20, 64 << 20_u64].into_iter().enumerate()
    {
        let limit = 600 + size / 5;
        let ours = limit + 500 + limit / 50;
        let seed = place as u64;
        let mut case = case(
            &format!("wire/size/{}", super::amount(float(size), "bytes")),
            side("one request of a guest", seed, 41, ours),
            Some(side("mlock and munlock", seed + 100, 41, limit)),
        );
        case.bytes = size;
        case.point = Some(Point { plot: "wire one range".to_owned(), x: float(size), unit: "bytes".to_owned() });
        case.split = vec![
            part("entry and exit", 310.0, "ns", None),
            part("service", float(ours - 420), "ns", None),
            part("rest", 110.0, "ns", None),
            part("system calls", 1.0, "", Some(1.0)),
            part("guest instructions", 41.0, "instructions", Some(60.0)),
        ];
        cases.push(case);
    }
    for (place, ranges) in [1, 4, 16, 64, 256_u64].into_iter().enumerate() {
        let ours = side("one sync", 7 + place as u64, 31, 900_000 + 20_000 * ranges);
        let limit = side("fdatasync after the same writes", 70 + place as u64, 31, 880_000 + 21_500 * ranges);
        let mut case = case(&format!("sync/ranges/{ranges}"), ours, Some(limit));
        case.point = Some(Point { plot: "sync many ranges".to_owned(), x: float(ranges), unit: "ranges".to_owned() });
        case.split = vec![part("flush", 700_000.0, "ns", None), part("write back", float(40_000 * ranges), "ns", None)];
        cases.push(case);
    }
    if let Some(part) = cases[9].split.first_mut() {
        part.name = "flushes".to_owned();
        part.unit = String::new();
        (part.value, part.at_most) = (2.0, Some(1.0));
    }
    let mut call = case("call/nothing", side("a call that does nothing", 5, 25, 1_234_000), None);
    (call.operations, call.goal) = (1000, Some(Goal { of: GoalOf::Value, at_most: 1500.0 }));
    cases.push(call);
    let mut ours = side("touching wired pages", 3, 4000, 180);
    let mut limit = side("touching pages that are not", 4, 4000, 190);
    limit.samples.iter_mut().step_by(37).zip(noise(9, 4_000_000)).for_each(|(sample, more)| *sample += more);
    (ours.quantiles, limit.quantiles) = (quantiles(&ours.samples), quantiles(&limit.samples));
    ours.what = "touching wired pages, <both> & \"all\"".to_owned();
    let mut pressure = case("pressure/touch", ours, Some(limit));
    pressure.goal = Some(Goal { of: GoalOf::Max, at_most: 190.0 });
    cases.push(pressure);
    let mut memory = case("footprint/resident", side("besides guest RAM", 1, 1, 5 << 20), None);
    (memory.unit, memory.goal) = ("bytes".to_owned(), Some(Goal { of: GoalOf::Value, at_most: float(8 << 20) }));
    cases.push(memory);
    Document {
        schema: SCHEMA,
        about: About {
            version: "0.1.0".to_owned(),
            revision: Some("0123456789ab".to_owned()),
            date: "2026-03-01T12:34:56Z".to_owned(),
            command: "wirevm bench all --json all.json".to_owned(),
            quick: true,
            processor: "A Processor".to_owned(),
            cpus: 2,
            memory_bytes: 24 << 30,
            kernel: "Linux 6.1.0".to_owned(),
            file_system: "ext4".to_owned(),
            kvm: Some("API 12, ring 0 emulated".to_owned()),
        },
        cases,
        skipped: vec![Skipped {
            name: "scale/16".to_owned(),
            reason: "the host has 2 processors, and the figures of more vCPUs than that would be the scheduler's"
                .to_owned(),
        }],
        failed: Vec::new(),
    }
}
