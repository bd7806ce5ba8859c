//! `bench sync`: putting ranges on stable storage, beside `msync` of a plain mapping of the same file, and beside what hosts do that can
//! only flush a whole file.
//!
//! A sample stores a word to each page first, which is not timed. What is timed of ours is the host's own time: from the doorbell to the
//! completion that the guest's interrupt is raised for.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use wirevm_abi::{PAGE_SIZE, RamRange, Status};
use wirevm_devices::page_run::PageRun;
use wirevm_devices::plain::{PlainAdvice, PlainMapping};
use wirevm_devices::ramfile::RamFile;
use wirevm_devices::sync::RangeResult;
use wirevm_devices::witness::BlockDevice;

use super::{Describe, case, size};
use crate::bench::BenchError;
use crate::bench::document::{Case, GoalOf, float};
use crate::bench::host_side::{HostSide, RESERVED_BYTES, Spent};
use crate::bench::plan::{Context, Planned};
use crate::bench::ranges::{Pattern, range, run};
use crate::bench::sample::{Effort, pairs, timed};
use crate::bench::statistics::quantiles;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Plans the cases.
pub fn cases(quick: bool) -> Vec<Planned> {
    let mut planned = Vec::new();
    let largest = if quick { 16 * MIB } else { 256 * MIB };
    for bytes in [4 * KIB, 64 * KIB, 2 * MIB, 16 * MIB, 256 * MIB].into_iter().filter(|bytes| *bytes <= largest) {
        planned.push(Planned::new(format!("sync/one/{}", size(bytes)), move |context| one_range(context, bytes)));
    }
    planned.push(Planned::new("sync/one/4K/default-folios", beside_default_folios));
    for (pattern, count) in [
        (Pattern::Strided, 4),
        (Pattern::Strided, 16),
        (Pattern::Strided, 64),
        (Pattern::Strided, 256),
        (Pattern::Random, 256),
        (Pattern::Adjacent, 256),
    ] {
        let name = format!("sync/many/{}/{count}", pattern.name());
        planned.push(Planned::new(name, move |context| many_ranges(context, pattern, count)));
    }
    planned.push(Planned::new("sync/beside-other-dirty-memory", beside_dirty));
    planned.push(Planned::new("sync/while-wiring-is-fragmented", while_fragmented));
    planned.push(Planned::new("sync/two-at-a-time", |context| concurrent(context, 2)));
    for depth in [1, 2, 4, 8, 16, 32, 64] {
        planned.push(Planned::new(format!("sync/depth/{depth}"), move |context| queue_depth(context, depth)));
    }
    planned
}

/// A RAM file on storage, whose pages are all in memory one by one as a machine's are, and a plain mapping of it.
struct Stage {
    host: HostSide,
    plain: PlainMapping,
}

impl Stage {
    /// Makes one of `bytes` bytes that cases may use.
    fn new(context: &Context, bytes: u64) -> Result<Self, BenchError> {
        context.need_durable()?;
        let bytes = bytes.next_multiple_of(2 * MIB) + RESERVED_BYTES;
        let host = HostSide::start(context, RamFile::temporary(&context.folder, bytes)?)?;
        let all = [range(0, host.ram.pages(), host.ram.pages())?];
        // Brings every page in through the services' own view, as wiring does (rule D7), before the plain mapping touches any.
        host.pins.wire_all(&all)?;
        host.pins.unwire_all(&all)?;
        let plain = PlainMapping::of_ram(&host.ram, PlainAdvice::Random)?;
        plain.populate(run(0, host.ram.pages())?)?;
        plain.flush_file()?;
        Ok(Self { host, plain })
    }

    fn range(&self, first: u64, pages: u64) -> Result<RamRange, BenchError> {
        range(first, pages, self.host.ram.pages())
    }

    fn dirty(&self, range: RamRange, word: u64) -> Result<(), BenchError> {
        Ok(self.plain.store(range.into(), word)?)
    }

    /// Checks that nothing of the ranges differs from storage.
    fn check_clean(&self, ranges: &[RamRange]) -> Result<(), BenchError> {
        for range in ranges {
            if let Some(dirty) = self.host.witness.dirty(*range)?.filter(|dirty| *dirty > 0) {
                return Err(format!("{dirty} of the synced pages {range} differ from storage").into());
            }
        }
        Ok(())
    }
}

/// One range.
fn one_range(context: &Context, bytes: u64) -> Result<Case, BenchError> {
    let stage = Stage::new(context, bytes.max(16 * MIB))?;
    let pages = bytes / PAGE_SIZE;
    let place = |number: u64| if bytes >= 16 * MIB { 0 } else { number % 16 * 16 };
    let effort = if bytes >= 16 * MIB { Effort::long(context.quick) } else { Effort::short(context.quick) };
    let flushes = stage.host.syncs.stats().flushes;
    let (mut held, mut spent) = (Duration::ZERO, Spent::default());
    let device = BlockDevice::under(stage.host.ram.file())?;
    let counts = || device.as_ref().map(BlockDevice::counts).transpose();
    let mut written = Vec::new();
    let taken = pairs(
        effort,
        |number| {
            let range = stage.range(place(number), pages)?;
            stage.dirty(range, number)?;
            let before = counts()?;
            let times = stage.host.sync(&[range])?;
            written.extend(counts()?.zip(before).map(|(now, before)| now.since(before).written_bytes));
            if number <= 1 {
                stage.check_clean(&[range])?;
            }
            held += times.doorbell;
            spent += Spent { whole: times.whole, kernel: times.kernel };
            Ok(times.whole)
        },
        |number| {
            let range = stage.range(place(number), pages)?;
            stage.dirty(range, number)?;
            timed(|| stage.plain.msync(range.into()))
        },
    )?;
    let rounds = float(taken.ours.len() as u64 + 1);
    let flushes = float(stage.host.syncs.stats().flushes - flushes) / rounds;
    let stalled = 100.0 * held.as_secs_f64() / spent.whole.as_secs_f64();
    let held = float(u64::try_from(held.as_nanos()).unwrap_or(u64::MAX)) / rounds;
    let case = case("sync", &format!("sync/one/{}", size(bytes)), "Sync one range")
        .conditions("every page of the range is dirty, in single pages; checked: no page of it differs from storage behind the answer")
        .of(1, bytes)
        .pairs("SYNC", "msync, one call", taken)
        .spent(spent)
        .part("doorbell", held, "ns")
        .part("vCPU stalled", stalled, "%")
        .count("flushes", flushes, "flushes", 1.0)
        .at("Syncing one range, by size", float(bytes), "bytes");
    // What others write meanwhile is not ours: the median.
    let written = (!written.is_empty()).then(|| quantiles(&written).p50);
    let case = written.into_iter().fold(case, |case, bytes| case.part("written to the device", float(bytes), "bytes"));
    Ok(match size(bytes).as_str() {
        "4K" | "64K" => case.goal(GoalOf::Ratio, 1.10),
        "256M" => case.goal(GoalOf::Ratio, 1.05),
        _ => case,
    })
}

/// A page, beside a page of a file that is in memory as the kernel's own read-ahead brings it in.
fn beside_default_folios(context: &Context) -> Result<Case, BenchError> {
    let stage = Stage::new(context, 16 * MIB)?;
    let bytes = 64 * MIB;
    let file = tempfile::tempfile_in(&context.folder)?;
    file.set_len(bytes)?;
    let default = PlainMapping::new(&file, 0, bytes, PlainAdvice::None)?;
    // As a program does that wants its memory locked: it never hears of folios.
    default.mlock(run(0, default.pages())?)?;
    let taken = pairs(
        Effort::short(context.quick),
        |number| {
            let range = stage.range(number % 16 * 16, 1)?;
            stage.dirty(range, number)?;
            Ok(stage.host.sync(&[range])?.whole)
        },
        |number| {
            let page = run(number * 512 % default.pages(), 1)?;
            default.store(page, number)?;
            timed(|| default.msync(page))
        },
    )?;
    let title = "Sync a page, beside msync where the kernel reads ahead as it likes";
    Ok(case("sync", "sync/one/4K/default-folios", title)
        .conditions("the limit's file is mapped and locked without advice, so its pages are in memory in large folios, which are written whole")
        .of(1, PAGE_SIZE)
        .pairs("SYNC", "msync on default folios", taken)
        .goal(GoalOf::Ratio, 0.15))
}

/// Many single pages in one request.
fn many_ranges(context: &Context, pattern: Pattern, count: u64) -> Result<Case, BenchError> {
    // A megabyte apart, so that no two of them are near each other on the disk.
    let apart = if pattern == Pattern::Adjacent { 1 } else { 64 };
    let stage = Stage::new(context, count * apart * 2 * PAGE_SIZE)?;
    let ram_pages = stage.host.ram.pages();
    let ranges = pattern
        .runs(0, count, apart, ram_pages)?
        .iter()
        .map(|place| range(place.first(), 1, ram_pages))
        .collect::<Result<Vec<_>, _>>()?;
    let dirty = |number| ranges.iter().try_for_each(|range| stage.dirty(*range, number));
    let flushes = stage.host.syncs.stats().flushes;
    // The plain calls take long for many.
    let effort = if count > 16 { Effort::long(context.quick) } else { Effort::short(context.quick) };
    let taken = pairs(
        effort,
        |number| {
            dirty(number)?;
            let time = timed(|| answered(&stage.host, &ranges))?;
            if number <= 1 {
                stage.check_clean(&ranges)?;
            }
            Ok(time)
        },
        |number| {
            dirty(number)?;
            timed(|| ranges.iter().try_for_each(|range| stage.plain.msync(PageRun::from(*range))))
        },
    )?;
    let rounds = float(taken.ours.len() as u64 + 1);
    let flushes = float(stage.host.syncs.stats().flushes - flushes) / rounds;
    let case = case("sync", &format!("sync/many/{}/{count}", pattern.name()), "Sync many single pages in one request")
        .conditions("each page is dirty; checked: none differs from storage behind the answer")
        .of(1, count * PAGE_SIZE)
        .pairs(&format!("one request of {count} ranges"), &format!("{count} calls of msync"), taken)
        .count("flushes", flushes, "flushes", 1.0);
    Ok(match (pattern, count) {
        (Pattern::Strided, 16) => case.goal(GoalOf::Ratio, 0.25),
        (Pattern::Strided, 256) => case.goal(GoalOf::Ratio, 0.20),
        (Pattern::Adjacent, _) => case.goal(GoalOf::Ratio, 0.12),
        _ => case,
    })
    .map(|case| {
        if pattern == Pattern::Strided {
            case.at("Syncing many pages at once, by their number", float(count), "ranges")
        } else {
            case
        }
    })
}

/// Has the sync service make ranges stable, as one request.
fn answered(host: &HostSide, ranges: &[RamRange]) -> Result<(), BenchError> {
    match host.syncs.submit_and_wait(ranges).into_iter().find(|status| *status != Status::OK) {
        Some(status) => Err(format!("a sync ended with {status}").into()),
        None => Ok(()),
    }
}

/// A page where much else is dirty, beside a flush of the whole file.
fn beside_dirty(context: &Context) -> Result<Case, BenchError> {
    let other = if context.quick { 32 * MIB } else { 256 * MIB };
    let stage = Stage::new(context, other + 2 * MIB)?;
    let page = stage.range(0, 1)?;
    let rest = stage.range(512, other / PAGE_SIZE)?;
    let taken = pairs(
        Effort::long(context.quick),
        |number| {
            stage.dirty(rest, number)?;
            stage.dirty(page, number)?;
            let time = stage.host.sync(&[page])?.whole;
            stage.check_clean(&[page])?;
            Ok(time)
        },
        |number| {
            stage.dirty(rest, number)?;
            stage.dirty(page, number)?;
            timed(|| stage.plain.flush_file())
        },
    )?;
    Ok(case(
        "sync",
        "sync/beside-other-dirty-memory",
        "Sync a page where much else is dirty, beside a flush of the whole file",
    )
    .conditions(&format!(
        "{} MiB that nobody asks about are dirty; virtio-pmem hosts flush the whole file for any flush of the guest's",
        other / MIB
    ))
    .of(1, PAGE_SIZE)
    .pairs("SYNC of the page", "fdatasync of the file", taken)
    .goal(GoalOf::Ratio, 0.005))
}

/// A sync of all where every other page is wired, beside an msync of a mapping in which every other page is locked.
fn while_fragmented(context: &Context) -> Result<Case, BenchError> {
    let runs: u64 = if context.quick { 2048 } else { 8192 };
    let stage = Stage::new(context, 2 * runs * PAGE_SIZE)?;
    let places = Pattern::Strided.runs(0, runs, 1, stage.host.ram.pages())?;
    for place in &places {
        stage.host.pins.wire_all(&[*place])?;
        stage.plain.mlock(PageRun::from(*place))?;
    }
    let all = stage.range(0, 2 * runs)?;
    let page = stage.range(1, 1)?;
    let taken = pairs(
        Effort::long(context.quick),
        |number| {
            stage.dirty(page, number)?;
            Ok(stage.host.sync(&[all])?.whole)
        },
        |number| {
            stage.dirty(page, number)?;
            timed(|| stage.plain.msync(all.into()))
        },
    )?;
    Ok(case("sync", "sync/while-wiring-is-fragmented", "Sync a range in which every other page is wired")
        .conditions(&format!("one page of the range is dirty; both mappings have {runs} locked pages with others between them, so that the plain one has {} map entries", 2 * runs))
        .of(1, 2 * runs * PAGE_SIZE)
        .pairs("SYNC", "msync of the mapping that is locked", taken)
        .goal(GoalOf::Ratio, 0.001))
}

/// Several who each sync a page of their own, over and over, beside as many threads that call msync.
fn concurrent(context: &Context, threads: u64) -> Result<Case, BenchError> {
    let stage = Arc::new(Stage::new(context, 16 * MIB)?);
    let each: u64 = if context.quick { 20 } else { 100 };
    let before = stage.host.syncs.stats();
    let together = |ours: bool| -> Result<Duration, BenchError> {
        let began = Instant::now();
        thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|thread| {
                    let stage = &stage;
                    scope.spawn(move || -> Result<(), BenchError> {
                        let page = stage.range(thread * 64, 1)?;
                        for number in 0..each {
                            stage.dirty(page, number)?;
                            if ours {
                                answered(&stage.host, &[page])?;
                            } else {
                                stage.plain.msync(page.into())?;
                            }
                        }
                        Ok(())
                    })
                })
                .collect();
            workers
                .into_iter()
                .try_for_each(|worker| worker.join().map_err(|_| BenchError::from("a thread panicked"))?)
        })?;
        Ok(began.elapsed())
    };
    let taken = pairs(Effort::short(context.quick), |_| together(true), |_| together(false))?;
    let after = stage.host.syncs.stats();
    let flushes = float(after.flushes - before.flushes) / float(after.requests - before.requests);
    Ok(case("sync", "sync/two-at-a-time", "Two vCPUs that each sync a page of their own, over and over")
        .conditions("each asks again as soon as it is answered; the pages are dirty each time")
        .of(threads * each, threads * each * PAGE_SIZE)
        .pairs("requests of two threads", "msync of two threads", taken)
        .count("flushes a request", flushes, "flushes", 1.0)
        .goal(GoalOf::Ratio, 1.05))
}

/// Requests of a page each, so many under way at a time.
fn queue_depth(context: &Context, depth: u64) -> Result<Case, BenchError> {
    let stage = Stage::new(context, 16 * MIB)?;
    let pages = (0..depth).map(|place| stage.range(place * 32, 1)).collect::<Result<Vec<_>, _>>()?;
    let dirty = |number| pages.iter().try_for_each(|page| stage.dirty(*page, number));
    let taken = pairs(
        Effort::short(context.quick),
        |number| {
            dirty(number)?;
            timed(|| {
                let (sender, answers) = std::sync::mpsc::channel();
                for page in &pages {
                    let sender = sender.clone();
                    let answer = Box::new(move |results: Vec<RangeResult>| {
                        let good = results.iter().all(|result| result.status == Status::OK);
                        if sender.send(good).is_err() {
                            log::debug!("nobody waits for a sync's answer any more");
                        }
                    });
                    stage
                        .host
                        .syncs
                        .submit(&[*page], answer)
                        .map_err(|status| format!("a sync was refused: {status}"))?;
                }
                drop(sender);
                let good = answers.iter().filter(|good| *good).count() as u64;
                if good == depth { Ok(()) } else { Err(format!("{good} of {depth} syncs succeeded")) }
            })
        },
        |number| {
            dirty(number)?;
            timed(|| pages.iter().try_for_each(|page| stage.plain.msync(PageRun::from(*page))))
        },
    )?;
    Ok(case("sync", &format!("sync/depth/{depth}"), "Requests of a page each, several under way at a time")
        .conditions("each page is dirty; a sample is over when all are answered")
        .of(depth, depth * PAGE_SIZE)
        .pairs(&format!("{depth} requests under way"), "msync, one call after another", taken)
        .at("Syncing pages, by requests under way", float(depth), "requests"))
}
