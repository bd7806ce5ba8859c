//! `bench wire`: locking pages in memory and letting them go, beside `mlock` and `munlock` of a plain mapping of the same file.
//!
//! All of it is the host's own time, from the doorbell to its answer, without a guest; what a guest adds is in [`super::guest_wire`] and
//! [`super::call`].

use std::fs;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use wirevm_abi::{PAGE_SIZE, RamRange, op};
use wirevm_devices::durability::Durability;
use wirevm_devices::folio::FolioPolicy;
use wirevm_devices::page_run::PageRun;
use wirevm_devices::pin::{LockFailure, PinConfig, PinMethod, PinService};
use wirevm_devices::plain::{PlainAdvice, PlainMapping, drop_cache, drop_memory};
use wirevm_devices::ramfile::RamFile;
use wirevm_devices::view::View;

use super::{Describe, case, guest_wire, size};
use crate::bench::BenchError;
use crate::bench::document::{Case, GoalOf, float};
use crate::bench::host_side::{HostSide, RESERVED_BYTES, Spent};
use crate::bench::plan::{Context, Planned};
use crate::bench::ranges::{Pattern, range, run};
use crate::bench::sample::{Effort, alone, pairs, timed};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// What one call holds at most.
const BATCH: usize = 126;

/// Plans the cases.
pub fn cases(quick: bool) -> Vec<Planned> {
    let mut planned = Vec::new();
    let largest = if quick { 64 * MIB } else { GIB };
    for bytes in [4 * KIB, 64 * KIB, 2 * MIB, 64 * MIB, GIB].into_iter().filter(|bytes| *bytes <= largest) {
        planned.push(Planned::new(format!("wire/cold/zero/{}", size(bytes)), move |context| cold_zero(context, bytes)));
    }
    let written = if quick { 64 * MIB } else { GIB };
    for folio in FolioPolicy::ALL {
        let name = format!("wire/cold/disk/{folio}/{}", size(written));
        planned.push(Planned::new(name, move |context| cold_disk(context, written, folio)));
    }
    for bytes in [4 * KIB, 64 * KIB, 2 * MIB, 64 * MIB] {
        let name = |op| format!("{op}/resident/{}", size(bytes));
        planned.push(Planned::new(name("wire"), move |context| resident(context, bytes, Timed::Wire)));
        planned.push(Planned::new(name("unwire"), move |context| resident(context, bytes, Timed::Unwire)));
    }
    for (pattern, batch) in [
        (Pattern::Strided, 1),
        (Pattern::Strided, 8),
        (Pattern::Strided, 64),
        (Pattern::Strided, BATCH),
        (Pattern::Random, BATCH),
    ] {
        for timed in [Timed::Wire, Timed::Unwire] {
            let name = format!("{}/scattered/{}/{batch}", timed.name(), pattern.name());
            planned.push(Planned::new(name, move |context| scattered(context, pattern, batch, timed)));
        }
    }
    planned.push(Planned::new("wire/alternating", alternating));
    planned.push(Planned::new("wire/beyond-the-system-call", beyond_the_system_call));
    planned.push(Planned::new("wire/ledger", ledger));
    planned.extend(guest_wire::cases(quick));
    planned
}

/// Which half of a sample is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timed {
    Wire,
    Unwire,
}

impl Timed {
    const fn name(self) -> &'static str {
        match self {
            Self::Wire => "wire",
            Self::Unwire => "unwire",
        }
    }
}

/// Checks the host's own truth: so many pages are locked, and every page of the runs is in memory.
fn check_locked(host: &HostSide, pages: u64, runs: &[RamRange]) -> Result<(), BenchError> {
    let locked = host.witness.locked_pages()?;
    if locked != pages {
        return Err(format!("the kernel holds {locked} pages locked where {pages} are wired").into());
    }
    for run in runs {
        let resident = host.witness.resident(*run)?;
        if resident != run.pages() {
            return Err(format!("of the wired pages {run}, {resident} are in memory").into());
        }
    }
    Ok(())
}

/// A run that nobody has touched, in memory without a file.
fn cold_zero(context: &Context, bytes: u64) -> Result<Case, BenchError> {
    let host = HostSide::start(context, RamFile::memfd(bytes.next_multiple_of(2 * MIB) + RESERVED_BYTES)?)?;
    let plain_ram = RamFile::memfd(bytes.next_multiple_of(2 * MIB))?;
    let plain = PlainMapping::of_ram(&plain_ram, PlainAdvice::None)?;
    let pages = bytes / PAGE_SIZE;
    let all = [range(0, pages, host.ram.pages())?];
    let whole = run(0, pages)?;
    let effort = if bytes >= 64 * MIB { Effort::long(context.quick) } else { Effort::short(context.quick) };
    let mut spent = Spent::default();
    let taken = pairs(
        effort,
        |number| {
            let wired = host.call_in_batches(op::WIRE, &all, 1)?;
            spent += wired;
            if number <= 1 {
                check_locked(&host, pages, &all)?;
            }
            host.call_in_batches(op::UNWIRE, &all, 1)?;
            // The call page and the ring are behind it.
            drop_memory(host.ram.file(), bytes)?;
            Ok(wired.whole)
        },
        |_| {
            let time = timed(|| plain.mlock(whole))?;
            plain.munlock(whole)?;
            drop_memory(plain_ram.file(), bytes)?;
            Ok(time)
        },
    )?;
    check_locked(&host, 0, &[])?;
    let case = case("wire", &format!("wire/cold/zero/{}", size(bytes)), "Wire a run of memory that nobody has touched")
        .conditions(
            "durability=none (memfd); before each sample the memory is given back to the host, so every page is made and zeroed; \
             checked: all pages locked and in memory, none behind the last unwire",
        )
        .of(1, bytes)
        .pairs(&format!("WIRE, one run, pin={}", host.pin), "mlock, one call", taken)
        .spent(spent)
        .at("Wiring cold memory, by size", float(bytes), "bytes");
    Ok(if bytes == GIB { case.goal(GoalOf::Ratio, 0.65) } else { case })
}

/// A run that was written before and is on the disk only.
fn cold_disk(context: &Context, bytes: u64, folio: FolioPolicy) -> Result<Case, BenchError> {
    context.need_durable()?;
    let folder = tempfile::tempdir_in(&context.folder)?;
    let path = folder.path().join("bench.ram");
    let pages = bytes / PAGE_SIZE;
    drop(RamFile::create_for(&path, bytes + RESERVED_BYTES, Durability::Shared, folio)?);
    let file = fs::File::open(&path)?;
    let taken = pairs(
        Effort::long(context.quick),
        |number| {
            drop_cache(&file)?;
            let host = HostSide::start(context, RamFile::open_for(&path, None, folio)?)?;
            let all = [range(0, pages, host.ram.pages())?];
            let cached = host.witness.resident(range(0, pages, host.ram.pages())?)?;
            if cached > pages / 10 {
                return Err(format!("{cached} of {pages} pages are in memory still").into());
            }
            let wired = host.call_in_batches(op::WIRE, &all, 1)?;
            if number <= 1 {
                check_locked(&host, pages, &all)?;
            }
            Ok(wired.whole)
        },
        |_| {
            drop_cache(&file)?;
            let ram = RamFile::open_for(&path, None, folio)?;
            let plain = PlainMapping::of_ram(&ram, PlainAdvice::None)?;
            let whole = run(0, pages)?;
            timed(|| plain.mlock(whole))
        },
    )?;
    let title = "Wire a run that was written before and is on the disk only";
    let case = case("wire", &format!("wire/cold/disk/{folio}/{}", size(bytes)), title)
        .conditions(&format!(
            "before each sample the kernel has dropped the file from memory (ours: at most a tenth of it is left, checked); ours brings in pages as folio={folio} says, mlock what the \
             kernel reads ahead; checked: all pages locked and in memory"
        ))
        .of(1, bytes)
        .pairs("WIRE, one run", "mlock, one call", taken);
    Ok(match folio {
        FolioPolicy::SmallSync => case.goal(GoalOf::Ratio, 2.0),
        FolioPolicy::Balanced => case,
        FolioPolicy::Bulk => case.goal(GoalOf::Ratio, 1.05),
    })
}

/// A run that is in memory already.
fn resident(context: &Context, bytes: u64, what: Timed) -> Result<Case, BenchError> {
    let host = HostSide::start(context, RamFile::memfd(64 * MIB + RESERVED_BYTES)?)?;
    let plain = PlainMapping::of_ram(&host.ram, PlainAdvice::None)?;
    let pages = bytes / PAGE_SIZE;
    plain.store(run(0, host.pages())?, 1)?;
    let all = [range(0, pages, host.ram.pages())?];
    let whole = run(0, pages)?;
    let mut spent = Spent::default();
    let taken = pairs(
        Effort::short(context.quick),
        |number| {
            let wired = host.call_in_batches(op::WIRE, &all, 1)?;
            if number <= 1 {
                check_locked(&host, pages, &all)?;
            }
            let unwired = host.call_in_batches(op::UNWIRE, &all, 1)?;
            let timed = if what == Timed::Wire { wired } else { unwired };
            spent += timed;
            Ok(timed.whole)
        },
        |_| {
            let locked = timed(|| plain.mlock(whole))?;
            let unlocked = timed(|| plain.munlock(whole))?;
            Ok(if what == Timed::Wire { locked } else { unlocked })
        },
    )?;
    check_locked(&host, 0, &[])?;
    let (title, ours, limit) = match what {
        Timed::Wire => ("Wire a run that is in memory", "WIRE, one run", "mlock, one call"),
        Timed::Unwire => ("Unwire a run", "UNWIRE, one run", "munlock, one call"),
    };
    let case = case("wire", &format!("{}/resident/{}", what.name(), size(bytes)), title)
        .conditions("durability=none (memfd), every page written before; checked: all pages locked and in memory, none behind the last unwire")
        .of(1, bytes)
        .pairs(&format!("{ours}, pin={}", host.pin), limit, taken)
        .spent(spent)
        .at(if what == Timed::Wire { "Wiring resident memory, by size" } else { "Unwiring, by size" }, float(bytes), "bytes");
    Ok(match (bytes == 64 * MIB, what) {
        (true, Timed::Wire) => case.goal(GoalOf::Ratio, 1.05),
        _ => case,
    })
}

/// Single pages with others between them.
fn scattered(context: &Context, pattern: Pattern, batch: usize, what: Timed) -> Result<Case, BenchError> {
    let count: u64 = if context.quick { 1024 } else { 8192 };
    let host = HostSide::start(context, RamFile::memfd(pattern.span(count, 1) * PAGE_SIZE + RESERVED_BYTES)?)?;
    let plain = PlainMapping::of_ram(&host.ram, PlainAdvice::None)?;
    plain.store(run(0, host.pages())?, 1)?;
    let runs = pattern.runs(0, count, 1, host.ram.pages())?;
    let singles: Vec<PageRun> = runs.iter().map(|run| PageRun::from(*run)).collect();
    let before = host.pins.stats();
    let mut spent = Spent::default();
    let taken = pairs(
        Effort::short(context.quick),
        |number| {
            let wired = host.call_in_batches(op::WIRE, &runs, batch)?;
            if number <= 1 {
                check_locked(&host, count, &runs)?;
            }
            let unwired = host.call_in_batches(op::UNWIRE, &runs, batch)?;
            let timed = if what == Timed::Wire { wired } else { unwired };
            spent += timed;
            Ok(timed.whole)
        },
        |_| {
            let locked = timed(|| singles.iter().try_for_each(|run| plain.mlock(*run)))?;
            let unlocked = timed(|| singles.iter().try_for_each(|run| plain.munlock(*run)))?;
            Ok(if what == Timed::Wire { locked } else { unlocked })
        },
    )?;
    check_locked(&host, 0, &[])?;
    let after = host.pins.stats();
    let calls = if what == Timed::Wire {
        after.lock_calls - before.lock_calls
    } else {
        after.unlock_calls - before.unlock_calls
    };
    let rounds = taken.ours.len() as u64 + 1;
    let (title, ours, limit) = match what {
        Timed::Wire => ("Wire scattered single pages that are in memory", "WIRE", "mlock, one call a page"),
        Timed::Unwire => ("Unwire scattered single pages", "UNWIRE", "munlock, one call a page"),
    };
    let case = case("wire", &format!("{}/scattered/{}/{batch}", what.name(), pattern.name()), title)
        .conditions(&format!(
            "durability=none (memfd), every page written before; {count} pages of {} with one between them and the next, {batch} entries a \
             call; checked: exactly these pages locked, none behind the last unwire",
            pattern.span(count, 1)
        ))
        .of(count, count * PAGE_SIZE)
        .pairs(&format!("{ours}, {batch} a call, pin={}", host.pin), limit, taken)
        .spent(spent)
        .part("runs given to the host", float(calls) / float(rounds * count), "runs");
    let case = if pattern == Pattern::Strided {
        let plot = if what == Timed::Wire {
            "Wiring scattered pages, by entries a call"
        } else {
            "Unwiring scattered pages, by entries a call"
        };
        case.at(plot, float(batch as u64), "entries")
    } else {
        case
    };
    Ok(match (batch, what) {
        (BATCH, Timed::Wire) => case.goal(GoalOf::Ratio, 0.25),
        (BATCH, Timed::Unwire) => case.goal(GoalOf::Ratio, 0.30),
        _ => case,
    })
}

/// More alternating pages than `mlock` can lock at all.
fn alternating(context: &Context) -> Result<Case, BenchError> {
    let count: u64 = if context.quick { 40_000 } else { 131_072 };
    let host = HostSide::start(
        context,
        RamFile::memfd(2 * count * PAGE_SIZE / (2 * MIB) * (2 * MIB) + RESERVED_BYTES + 2 * MIB)?,
    )?;
    let plain = PlainMapping::of_ram(&host.ram, PlainAdvice::None)?;
    plain.store(run(0, host.pages())?, 1)?;
    let runs = Pattern::Strided.runs(0, count, 1, host.ram.pages())?;
    let mut most = 0;
    for run in &runs {
        if plain.mlock(PageRun::from(*run)).is_err() {
            break;
        }
        most += 1;
    }
    plain.munlock(run(0, plain.pages())?)?;
    let effort = Effort { least: 2, ..Effort::long(context.quick) };
    let samples = alone(effort, |number| {
        let wired = host.call_in_batches(op::WIRE, &runs, BATCH)?;
        if number <= 1 {
            check_locked(&host, count, &[])?;
        }
        host.call_in_batches(op::UNWIRE, &runs, BATCH)?;
        Ok(wired.whole)
    })?;
    check_locked(&host, 0, &[])?;
    Ok(case("wire", "wire/alternating", "Wire more alternating pages than mlock can lock at all")
        .conditions("durability=none (memfd), every page written before; checked: exactly these pages locked")
        .of(count, count * PAGE_SIZE)
        .alone(&format!("WIRE, 126 a call, pin={}", host.pin), samples)
        .part("alternating pages that mlock takes before it fails", float(most), "pages")
        .part("alternating pages that were wired", float(count), "pages"))
}

/// A way to lock pages that costs nothing: what remains is what the services cost.
#[derive(Debug)]
struct Nothing;

impl PinMethod for Nothing {
    fn lock(&self, _: &[PageRun]) -> Result<(), LockFailure> {
        Ok(())
    }

    fn unlock(&self, _: &[PageRun]) -> Vec<(PageRun, io::Error)> {
        Vec::new()
    }
}

/// What a call costs the host besides the system calls: the copies of the call page, decoding, counting.
fn beyond_the_system_call(context: &Context) -> Result<Case, BenchError> {
    let count = BATCH as u64;
    let ram = RamFile::memfd(2 * MIB + RESERVED_BYTES)?;
    let view = Arc::new(View::new(&ram)?);
    let host = HostSide::with_method(ram, view, Box::new(Nothing), u64::MAX)?;
    let runs = Pattern::Strided.runs(0, count, 1, host.ram.pages())?;
    let samples = alone(Effort::short(context.quick), |_| {
        let wired = host.call_in_batches(op::WIRE, &runs, BATCH)?;
        host.call_in_batches(op::UNWIRE, &runs, BATCH)?;
        Ok(wired.whole)
    })?;
    Ok(case("wire", "wire/beyond-the-system-call", "What a call of 126 runs costs the host besides the system calls")
        .conditions("pages are counted and checked against the quota as ever, and no system call is made for them")
        .of(count, count * PAGE_SIZE)
        .alone("WIRE, 126 a call", samples)
        .goal(GoalOf::Value, 500.0))
}

/// The same call where few and where many runs are wired already.
fn ledger(context: &Context) -> Result<Case, BenchError> {
    let many: u64 = if context.quick { 100_000 } else { 1_000_000 };
    let filled = |runs: u64| -> Result<PinService, BenchError> {
        let ram_pages = 2 * many + 8;
        let config = PinConfig { ram_pages, quota_pages: ram_pages, map_entry_budget: u64::MAX };
        let service = PinService::new(Box::new(Nothing), config);
        for runs in Pattern::Strided.runs(0, runs, 1, ram_pages)?.chunks(BATCH) {
            service.wire_all(runs)?;
        }
        Ok(service)
    };
    let (full, few) = (filled(many)?, filled(10)?);
    let sample = |service: &PinService, number: u64| -> Result<Duration, BenchError> {
        // Between two runs that are wired where there are many, so that it joins both and splits them again.
        let place = 2 * (number * 7919 % (many - 1)) + 1;
        let range = [range(place, 1, 2 * many + 8)?];
        let mut all = Duration::ZERO;
        for _ in 0..16 {
            all += timed(|| service.wire_all(&range))? + timed(|| service.unwire_all(&range))?;
        }
        Ok(all)
    };
    let taken = pairs(Effort::short(context.quick), |number| sample(&full, number), |number| sample(&few, number))?;
    Ok(case("wire", "wire/ledger", "Wire and unwire a page where many runs are wired, beside where 10 are")
        .conditions("the pin service alone: no system call is made; the page lies between two that are wired")
        .of(16, 16 * PAGE_SIZE)
        .pairs(&format!("with {many} runs"), "with 10 runs", taken)
        .goal(GoalOf::Ratio, 2.0))
}
