//! The case of `bench pressure`: what loads take where the guest has more in use than the host lets it have.

use std::env;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use wirevm_abi::PAGE_SIZE;

use super::{Describe, case};
use crate::bench::BenchError;
use crate::bench::document::{Case, float};
use crate::bench::memory_group::MemoryGroup;
use crate::bench::plan::{Context, Planned};
use crate::bench::pressure_inside::{Found, Sizes};
use crate::bench::sample::Pairs;

/// The hidden command that measures inside the group.
pub const INSIDE: &str = "pressure-inside";
const MIB: u64 = 1 << 20;

/// Returns the cases.
#[must_use]
pub fn cases(quick: bool) -> Vec<Planned> {
    vec![Planned::new("pressure/access", move |context| access(context, Sizes::new(quick)))]
}

fn access(context: &Context, sizes: Sizes) -> Result<Case, BenchError> {
    context.need_kvm()?;
    context.need_durable()?;
    let group = MemoryGroup::make(&format!("wirevm-bench-{}", std::process::id()), sizes.limit_bytes)?;
    let folder = tempfile::tempdir_in(&context.folder)?;
    let found = measure_inside(group.folder(), &folder.path().join("pressure.ram"), context.quick)?;
    check(&found, sizes)?;
    Ok(describe(found, sizes))
}

/// Runs this program in the group; returns what it says.
fn measure_inside(group: &Path, ram: &Path, quick: bool) -> Result<Found, BenchError> {
    let mut command = Command::new(env::current_exe()?);
    command.args(["bench", INSIDE]).arg(group).arg(ram).args(quick.then_some("--quick"));
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        let reason = format!("the process inside the cgroup ended with {}; what it said is above", output.status);
        return Err(io::Error::other(reason).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Checks what wiring promises, and that memory was short at all: without that the figures say nothing.
fn check(found: &Found, sizes: Sizes) -> Result<(), BenchError> {
    let Found { wired_pages, unwired_pages, .. } = *found;
    if wired_pages.all != sizes.wired_bytes / PAGE_SIZE || unwired_pages.all != sizes.unwired_bytes / PAGE_SIZE {
        return Err(
            format!("of the two regions, {} and {} pages have frames", wired_pages.all, unwired_pages.all).into()
        );
    }
    if wired_pages.resident != wired_pages.all || wired_pages.locked != wired_pages.all {
        return Err(format!(
            "of {} wired pages, {} are in memory and {} locked",
            wired_pages.all, wired_pages.resident, wired_pages.locked
        )
        .into());
    }
    if unwired_pages.locked != 0 {
        return Err(format!("{} pages are locked that were unwired", unwired_pages.locked).into());
    }
    if unwired_pages.resident == unwired_pages.all {
        return Err("every page has stayed in memory, wired or not, so nothing was short".into());
    }
    Ok(())
}

fn describe(found: Found, sizes: Sizes) -> Case {
    let Found { wired, unwired, wired_pages, unwired_pages, major_faults } = found;
    let conditions = format!(
        "a machine with {} MiB of RAM, durability=shared, in a memory cgroup with a limit of {} MiB; a program has wired, stored to \
         and synced {} MiB, and as much of another {} MiB, which it has unwired, then loads a word from a random page of each in turns ({} times), timed by RDTSC; \
         checked: all wired pages locked and in memory afterwards, none of the others locked, not all of them in memory, every word \
         what was stored",
        sizes.ram_bytes / MIB,
        sizes.limit_bytes / MIB,
        sizes.wired_bytes / MIB,
        sizes.unwired_bytes / MIB,
        sizes.loads,
    );
    case("pressure", "pressure/access", "Load from a wired page, beside one that is not wired, where memory is short")
        .conditions(&conditions)
        .of(1, size_of::<u64>() as u64)
        .pairs("load from a wired page", "load from another page", Pairs { ours: wired, limit: unwired })
        .part("wired pages", float(wired_pages.all), "pages")
        .part("wired pages in memory afterwards", float(wired_pages.resident), "pages")
        .part("unwired pages", float(unwired_pages.all), "pages")
        .part("unwired pages in memory afterwards", float(unwired_pages.resident), "pages")
        .part("memory limit", float(sizes.limit_bytes), "bytes")
        .part("major faults of the process in all", float(major_faults), "faults")
}

#[cfg(test)]
mod test {
    use super::{check, describe};
    use crate::bench::BenchError;
    use crate::bench::pressure_inside::{Found, Pages, Sizes};

    const SIZES: Sizes = Sizes::new(true);

    fn found() -> Found {
        let of = |bytes: u64, resident, locked| Pages { all: bytes / 4096, resident, locked };
        Found {
            wired: vec![100, 200, 300],
            unwired: vec![100, 100_000, 100_000],
            wired_pages: of(SIZES.wired_bytes, SIZES.wired_bytes / 4096, SIZES.wired_bytes / 4096),
            unwired_pages: of(SIZES.unwired_bytes, 4000, 0),
            major_faults: 2,
        }
    }

    #[test]
    fn figures_are_those_of_the_pairs_and_counts_stand_beside_them() {
        check(&found(), SIZES).expect("all is well");
        let case = describe(found(), SIZES);
        assert_eq!((case.ours.samples.len(), case.ratio.map(|ratio| ratio.pairs)), (3, Some(3)));
        let parts: Vec<_> = case.split.iter().map(|part| format!("{} {}", part.name, part.value)).collect();
        assert_eq!(
            parts[1..4],
            ["wired pages in memory afterwards 4096", "unwired pages 10240", "unwired pages in memory afterwards 4000"]
        );
        assert!(case.conditions.contains("64 MiB of RAM") && case.conditions.contains("limit of 32 MiB"), "{case:?}");
    }

    #[test]
    fn broken_promises_and_ample_memory_are_no_figures() {
        type Change = fn(&mut Found);
        let wrong: [(Change, &str); 6] = [
            (|found| found.wired_pages.resident -= 1, "of 4096 wired pages, 4095 are in memory and 4096 locked"),
            (|found| found.wired_pages.locked -= 1, "of 4096 wired pages, 4096 are in memory and 4095 locked"),
            (|found| found.wired_pages.all -= 1, "of the two regions, 4095 and 10240 pages have frames"),
            (|found| found.unwired_pages.all = 0, "of the two regions, 4096 and 0 pages have frames"),
            (|found| found.unwired_pages.locked = 3, "3 pages are locked that were unwired"),
            (|found| found.unwired_pages.resident = 10240, "every page has stayed"),
        ];
        for (change, sentence) in wrong {
            let mut found = found();
            change(&mut found);
            match check(&found, SIZES) {
                Err(BenchError::Failed(error)) => assert!(error.to_string().starts_with(sentence), "{error}"),
                other => panic!("{sentence}: {other:?}"),
            }
        }
    }
}
