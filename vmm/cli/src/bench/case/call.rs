//! `bench call`: what it costs to ask: a call of the guest's kernel, a page wired by a program, entries of a hypercall.

use std::time::{Duration, Instant};

use wirevm_abi::call::CallEntry;
use wirevm_abi::{LARGE_PAGE_SIZE, op, stat};
use wirevm_agent::{Command, Reply};
use wirevm_devices::ramfile::RamFile;
use wirevm_map::WireFlags;

use super::metered::Metered;
use super::{Describe, case};
use crate::bench::BenchError;
use crate::bench::document::{Case, GoalOf, float};
use crate::bench::guest::{Guest, Setup};
use crate::bench::host_side::{HostSide, RESERVED_BYTES};
use crate::bench::plan::{Context, Planned};
use crate::bench::sample::{Effort, nanoseconds, pairs};

/// A system call that does nothing.
const NULL: Metered = Metered {
    bench: "call",
    name: "call/null",
    title: "A system call that does nothing",
    operation: "null",
    rest: "",
    times: [500, 2500],
    pages: 0,
    durable: false,
    each: 1,
    is_counted: true,
};

/// Two calls: one wires a page and one unwires it.
const WIRE: Metered = Metered {
    bench: "call",
    name: "call/wire-or-unwire-a-page",
    title: "A program wires a page, or unwires it, in turns",
    operation: "wire",
    rest: "",
    times: [100, 300],
    pages: 1,
    durable: false,
    each: 2,
    is_counted: true,
};

/// A store and a call that syncs its page.
const SYNC: Metered = Metered {
    bench: "call",
    name: "call/store-and-sync-a-page",
    title: "A program stores to a page and syncs it",
    operation: "sync",
    rest: "",
    times: [50, 150],
    pages: 1,
    durable: true,
    each: 1,
    is_counted: true,
};

/// What is also held against a number of instructions.
const COUNTED: [(Metered, &str, f64); 2] =
    [(NULL, "call/null/instructions", 150.0), (WIRE, "call/wire-or-unwire-a-page/instructions", 1500.0)];

/// Plans the cases.
pub fn cases() -> Vec<Planned> {
    let mut planned = Vec::new();
    for metered in [NULL, WIRE, SYNC] {
        planned.push(Planned::new(metered.name, move |context| metered.measure(context)));
    }
    for (metered, name, most) in COUNTED {
        planned.push(Planned::new(name, move |context| metered.count(context, name, most)));
    }
    planned.push(Planned::new("call/wire-further-2M", further_large_page));
    for entries in [1, 8, 64, 126] {
        planned.push(Planned::new(format!("call/entries/{entries}"), move |context| one_call(context, entries)));
    }
    planned
}

/// Entries in one call, beside a call for each.
fn one_call(context: &Context, entries: usize) -> Result<Case, BenchError> {
    let host = HostSide::start(context, RamFile::memfd(RESERVED_BYTES + (2 << 20))?)?;
    let asked = vec![CallEntry::new(op::STAT, 0, [stat::WIRED_PAGES, 0, 0]); entries];
    let taken = pairs(
        Effort::short(context.quick),
        |_| host.call(&asked),
        |_| asked.chunks(1).try_fold(Duration::ZERO, |all, one| Ok(all + host.call(one)?)),
    )?;
    let case = case("call", &format!("call/entries/{entries}"), "Entries of a hypercall, beside a call for each")
        .conditions("the host's own time, without the exits, of which the limit has one for each entry; each entry asks for a number")
        .of(entries as u64, 0)
        .pairs(&format!("one call of {entries}"), &format!("{entries} calls of one, as pvmemcontrol does"), taken)
        .at("Entries of a hypercall, by their number", float(entries as u64), "entries");
    Ok(if entries == 126 { case.goal(GoalOf::Value, 500.0) } else { case })
}

/// What each further 2 MiB page of a wire costs the guest: one such page is wired, and as many as RAM has, each time of fresh and aligned
/// memory.
fn further_large_page(context: &Context) -> Result<Case, BenchError> {
    let most = if context.quick { 64 * LARGE_PAGE_SIZE } else { 512 * LARGE_PAGE_SIZE };
    let setup = Setup { ram_bytes: 2 * most + LARGE_PAGE_SIZE * 8, durable: false, vcpus: 1, programs: Vec::new() };
    let mut guest = Guest::start(context, &setup)?;
    let mut costs = Vec::new();
    let mut samples = Vec::new();
    // The first is not like the next.
    for size in [LARGE_PAGE_SIZE, LARGE_PAGE_SIZE, most] {
        let Reply::Address(start) = guest.ask(Command::Allocate { address: None, size })? else {
            return Err("the guest could not allocate what is to be wired".into());
        };
        let before = guest.counts()?;
        let began = Instant::now();
        guest.do_well(Command::Wire { start, end: start + size, flags: WireFlags::USER.bits().into() })?;
        samples.push(nanoseconds(began.elapsed()));
        costs.push(guest.counts()?.since(before));
        guest.do_well(Command::Unwire { start, end: start + size, flags: WireFlags::USER.bits().into() })?;
        guest.do_well(Command::Deallocate { address: start, size })?;
    }
    guest.end()?;
    let further = most / LARGE_PAGE_SIZE - 1;
    let case = case("call", "call/wire-further-2M", "What each further 2 MiB page of a wire costs the guest")
        .conditions(
            "fresh memory, wired by a command of the agent's; the time is that of the whole, seen from the host",
        )
        .of(most / LARGE_PAGE_SIZE, most)
        .alone("in the guest", samples.split_off(2));
    let [_, one, all] = costs[..] else { return Err("three wires have three costs".into()) };
    Ok(match one.instructions.zip(all.instructions) {
        Some((one, all)) => {
            let each = float(all.saturating_sub(one)) / float(further);
            case.count("guest instructions for each further 2 MiB", each, "instructions", 200.0)
        }
        None => case,
    })
}
