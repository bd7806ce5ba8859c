//! `bench wire`, as a program in a guest sees it: its own call, by the guest's clock, beside the plain system calls of a process.

use std::time::Duration;

use wirevm_abi::PAGE_SIZE;
use wirevm_agent::{Command, Pattern as Bytes, Reply};
use wirevm_devices::page_run::PageRun;
use wirevm_devices::plain::{PlainAdvice, PlainMapping};
use wirevm_devices::ramfile::RamFile;
use wirevm_map::WireFlags;

use super::metered::split_time;
use super::{Describe, case, size};
use crate::bench::BenchError;
use crate::bench::document::{Case, GoalOf, float};
use crate::bench::guest::{Counts, Guest, Setup, number};
use crate::bench::plan::{Context, Planned};
use crate::bench::ranges::{Pattern, range, run};
use crate::bench::sample::{Effort, nanoseconds, pairs, timed};
use crate::bench::show::amount;
use crate::bench::statistics::quantiles;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Pages that one call of the guest's wires: as many runs as the host takes at once.
const SCATTERED: u64 = 126;

/// Plans the cases.
pub fn cases(quick: bool) -> Vec<Planned> {
    let cold = if quick { 64 * MIB } else { GIB };
    let name = |what: String| format!("wire/guest/{what}");
    vec![
        Planned::new(name(format!("cold/zero/{}", size(cold))), move |context| cold_zero(context, cold)),
        Planned::new(name(format!("scattered/{SCATTERED}")), scattered),
    ]
}

/// Checks the host's own truth: so many pages of the guest's memory are in memory and locked.
fn check_locked(guest: &Guest, pages: u64) -> Result<(), BenchError> {
    let locked = guest.machine().witness().locked_pages()?;
    if locked == pages {
        Ok(())
    } else {
        Err(format!("the kernel holds {locked} pages locked where a program has wired {pages}").into())
    }
}

/// Memory that nobody has touched, neither in the guest nor on the host.
fn cold_zero(context: &Context, bytes: u64) -> Result<Case, BenchError> {
    let pages = bytes / PAGE_SIZE;
    let programs = vec![format!("meter,wire-new,1,{pages},hold")];
    // The quota is half of it.
    let setup = Setup { ram_bytes: 2 * bytes + 64 * MIB, durable: false, vcpus: 1, programs };
    let (mut services, mut hypercalls) = (Vec::new(), 0);
    let mut pin = String::new();
    // What the host gives pages from differs from sample to sample.
    let effort = if context.quick { Effort::long(true) } else { Effort { least: 7, ..Effort::long(false) } };
    let taken = pairs(
        effort,
        |_| {
            let mut guest = Guest::start(context, &setup)?;
            pin = guest.report.pin.clone().unwrap_or_default();
            let ram_pages = guest.machine().ram_pages();
            let resident = guest.machine().witness().resident(range(0, ram_pages, ram_pages)?)?;
            if resident > pages / 10 {
                return Err(format!("{resident} pages of a new guest are in memory before {pages} are wired").into());
            }
            let before = (guest.machine().exit_cost(), guest.machine().hypercalls());
            let text = guest.run_held(0)?;
            services.push(nanoseconds(guest.machine().exit_cost().handling.saturating_sub(before.0.handling)));
            hypercalls = hypercalls.max(guest.machine().hypercalls() - before.1);
            let time = number(&text, "ns")?;
            check_locked(&guest, pages)?;
            guest.reset()?;
            check_locked(&guest, 0)?;
            guest.end()?;
            Ok(Duration::from_nanos(time))
        },
        |_| {
            let ram = RamFile::memfd(bytes)?;
            let plain = PlainMapping::of_ram(&ram, PlainAdvice::None)?;
            let whole = run(0, pages)?;
            let time = timed(|| plain.mlock(whole))?;
            plain.munlock(whole)?;
            Ok(time)
        },
    )?;
    // The first was not kept.
    let service = quantiles(&services.split_off(1)).p50;
    let exit_time = Guest::exit_time(context)?;
    let name = format!("wire/guest/cold/zero/{}", size(bytes));
    let title = format!("A program wires {} of memory that nobody has touched", amount(float(bytes), "bytes"));
    let case = case("wire", &name, &title)
        .conditions(
            "a guest of its own for each sample, with a little more than twice as much memory (durability=none), of which at most a \
             tenth of what is wired is in memory before; one call, by the guest's clock; the limit locks a new memfd; checked each time: \
             all pages locked and in memory, none behind the program's end; the host's service is that of the whole program",
        )
        .of(1, bytes)
        .pairs(&format!("a call of a program's, pin={pin}"), "mlock, one call", taken)
        .count("hypercalls", float(hypercalls), "hypercalls", 1.0);
    let case = split_time(case, float(service), float(hypercalls) * exit_time);
    Ok(if bytes == GIB { case.goal(GoalOf::Ratio, 0.80) } else { case })
}

/// Single pages with others between them in RAM.
fn scattered(context: &Context) -> Result<Case, BenchError> {
    let (times, rounds): (u64, _) = if context.quick { (2, 3) } else { (4, 5) };
    let timed_ones = format!("meter,wire-scattered,{times},{SCATTERED}");
    let programs = vec![timed_ones, format!("meter,wire-scattered,1,{SCATTERED},hold")];
    let mut guest = Guest::start(context, &Setup { ram_bytes: 64 * MIB, durable: false, vcpus: 1, programs })?;
    let pin = guest.report.pin.clone().unwrap_or_default();
    number(&guest.run_held(1)?, "ns")?;
    check_locked(&guest, SCATTERED)?;
    check_apart(&guest)?;
    guest.reset()?;
    let ram = RamFile::memfd(2 * MIB)?;
    let plain = PlainMapping::of_ram(&ram, PlainAdvice::None)?;
    plain.store(run(0, plain.pages())?, 1)?;
    let singles: Vec<PageRun> =
        Pattern::Strided.runs(0, SCATTERED, 1, plain.pages())?.into_iter().map(PageRun::from).collect();
    let taken = pairs(
        Effort::long(context.quick),
        |_| Ok(Duration::from_nanos(number(&guest.run(0..1)?.concat(), "ns")?)),
        |_| {
            (0..times).try_fold(Duration::ZERO, |all, _| {
                let time = timed(|| singles.iter().try_for_each(|run| plain.mlock(*run)))?;
                singles.iter().try_for_each(|run| plain.munlock(*run))?;
                Ok(all + time)
            })
        },
    )?;
    let counts = counts_of_a_wire(&mut guest, rounds)?;
    guest.end()?;
    let exit_time = Guest::exit_time(context)?;
    let title = format!("A program wires {SCATTERED} pages that lie scattered in RAM, by one call");
    let case = case("wire", &format!("wire/guest/scattered/{SCATTERED}"), &title)
        .conditions(
            "a guest of 64 MiB and one vCPU; every page written before; of the guest's frames, and of the limit's pages, one lies between \
             each two; only wiring is timed, by the guest's clock; checked: exactly these pages locked, each a run of its own. What it \
             takes is what a command of the agent's takes that wires such pages, above one that wires none: the program's way into its \
             kernel and back is not in it",
        )
        .of(times, times * SCATTERED * PAGE_SIZE)
        .pairs(&format!("a call of a program's, pin={pin}"), "mlock, one call a page", taken);
    let parts = [("guest instructions", "instructions", counts.instructions), ("exits", "exits", counts.exits)];
    let case = parts.into_iter().fold(case, |case, (name, unit, count)| match count {
        Some(count) => case.part(name, float(count), unit),
        None => case,
    });
    let case = case.part("exits to the monitor", float(counts.user_exits), "exits").count(
        "hypercalls",
        float(counts.hypercalls),
        "hypercalls",
        1.0,
    );
    let case = split_time(case, float(counts.handling), float(counts.user_exits) * exit_time);
    // Where ring 0 is emulated, the guest's instructions are most of it.
    Ok(if counts.instructions.is_none() { case.goal(GoalOf::Ratio, 1.0) } else { case })
}

/// Checks that each wired page is a run of its own to the host.
fn check_apart(guest: &Guest) -> Result<(), BenchError> {
    let runs = guest.machine().pins().stats().locked_runs;
    if runs == SCATTERED { Ok(()) } else { Err(format!("{SCATTERED} pages that lie apart are {runs} runs").into()) }
}

/// Returns what it takes to wire pages that lie apart: what a command takes that wires them, less what one takes that wires none. Of
/// each count the middle one of several.
fn counts_of_a_wire(guest: &mut Guest, rounds: usize) -> Result<Counts, BenchError> {
    let size = SCATTERED * PAGE_SIZE;
    let mut regions = [0; 2];
    for region in &mut regions {
        let Reply::Address(start) = guest.ask(Command::Allocate { address: None, size })? else {
            return Err("the guest could not allocate what is to be wired".into());
        };
        *region = start;
    }
    let pattern = Bytes::new(&[1])?;
    // Frames are given out one after the other, so those of one region lie between those of the other.
    for page in 0..SCATTERED {
        for region in regions {
            let address = region + page * PAGE_SIZE;
            guest.do_well(Command::Write { address, size: 8, pattern })?;
        }
    }
    let [start, _] = regions;
    let flags = WireFlags::USER.bits().into();
    let mut taken = Vec::new();
    for _ in 0..rounds {
        let begun = guest.counts()?;
        guest.do_well(Command::Wire { start, end: start, flags })?;
        let before = guest.counts()?;
        guest.do_well(Command::Wire { start, end: start + size, flags })?;
        let behind = guest.counts()?;
        check_locked(guest, SCATTERED)?;
        check_apart(guest)?;
        guest.do_well(Command::Unwire { start, end: start + size, flags })?;
        taken.push(behind.since(before).since(before.since(begun)));
    }
    guest.reset()?;
    let middle = |count: fn(&Counts) -> u64| {
        let mut all: Vec<u64> = taken.iter().map(count).collect();
        all.sort_unstable();
        all[all.len() / 2]
    };
    let known = |is_known: bool, count: fn(&Counts) -> u64| is_known.then(|| middle(count));
    Ok(Counts {
        instructions: known(taken[0].instructions.is_some(), |taken| taken.instructions.unwrap_or(0)),
        exits: known(taken[0].exits.is_some(), |taken| taken.exits.unwrap_or(0)),
        user_exits: middle(|taken| taken.user_exits),
        hypercalls: middle(|taken| taken.hypercalls),
        handling: middle(|taken| taken.handling),
    })
}
