//! What operations cost that the program `meter` does over and over in a guest: how long each takes there, and what it takes of the host.

use wirevm_abi::PAGE_SIZE;

use super::{Describe, case};
use crate::bench::BenchError;
use crate::bench::document::{Case, GoalOf, float};
use crate::bench::guest::{Counts, Guest, Setup, number};
use crate::bench::plan::Context;

const MIB: u64 = 1 << 20;

/// An operation of `meter`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Metered {
    /// The benchmark and the case.
    pub(super) bench: &'static str,
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    /// What `meter` calls it.
    pub(super) operation: &'static str,
    /// What stands behind the number of times, with a comma in front.
    pub(super) rest: &'static str,
    /// How often it is done less and more; what the one costs above the other is what the operations do.
    pub(super) times: [u64; 2],
    /// Pages of one operation.
    pub(super) pages: u64,
    /// Whether RAM must be on storage.
    pub(super) durable: bool,
    /// Operations that one time of `meter`'s is: wiring and unwiring are two.
    pub(super) each: u64,
    /// Whether what is counted is all for the operations, so that it can be told for one: nothing prepares each of them.
    pub(super) is_counted: bool,
}

impl Metered {
    /// Measures it in a guest of its own.
    ///
    /// # Errors
    /// [`BenchError`] when the guest can't be had or does not do it.
    pub(super) fn measure(self, context: &Context) -> Result<Case, BenchError> {
        let Self { operation, rest, each, .. } = self;
        let [few, many] = if context.quick { self.times.map(|times| times.div_ceil(5)) } else { self.times };
        let programs = [few, many].map(|times| format!("meter,{operation},{times}{rest}")).to_vec();
        let setup = Setup { ram_bytes: 64 * MIB, durable: self.durable, vcpus: 1, programs };
        let mut guest = Guest::start(context, &setup)?;
        let mut run = |entry: u64| -> Result<(Counts, u64), BenchError> {
            let before = guest.counts()?;
            let text = guest.run(entry..entry + 1)?.pop().unwrap_or_default();
            Ok((guest.counts()?.since(before), number(&text, "ns")?))
        };
        // The first time is not like the next.
        run(0)?;
        let ((less, _), (more, _)) = (run(0)?, run(1)?);
        let rounds = if context.quick { 2 } else { 5 };
        let mut samples = Vec::new();
        for _ in 0..rounds {
            samples.push(run(1)?.1);
        }
        guest.end()?;
        let exit_time = if self.is_counted { Guest::exit_time(context)? } else { 0.0 };
        let operations = (many - few) * each;
        let one = |count: u64| float(count) / float(operations);
        let counts = more.since(less);
        let case = case(self.bench, self.name, self.title)
            .conditions(
                "a guest of 64 MiB and one vCPU; a program does it over and over, and a sample is all of its times, by the guest's clock; what \
                 it takes is what more times of it took above fewer",
            )
            .of(many * each, many * self.pages * PAGE_SIZE)
            .alone("in the guest", samples);
        if !self.is_counted {
            return Ok(case);
        }
        let guest_counts = [
            ("guest instructions", "instructions", counts.instructions),
            ("exits", "exits", counts.exits),
            ("exits to the monitor", "exits", Some(counts.user_exits)),
            ("hypercalls", "hypercalls", Some(counts.hypercalls)),
        ];
        let counted = guest_counts.into_iter().filter_map(|(name, unit, count)| Some((name, unit, one(count?))));
        let case = counted.fold(case, |case, (name, unit, count)| case.part(name, count, unit));
        Ok(split_time(case, one(counts.handling), one(counts.user_exits) * exit_time))
    }

    /// Counts its guest instructions, which should be `most` at most for one operation.
    ///
    /// # Errors
    /// As [`Metered::measure`]; [`BenchError::Skip`] where KVM does not count them.
    pub(super) fn count(self, context: &Context, name: &str, most: f64) -> Result<Case, BenchError> {
        let measured = self.measure(context)?;
        let part = measured.split.iter().find(|part| part.name == "guest instructions");
        let Some(part) = part else {
            return Err(BenchError::Skip("KVM does not count the instructions of ring 0 here".to_owned()));
        };
        let mut case = case(self.bench, name, &format!("{}: instructions of ring 0", self.title))
            .conditions(
                "as KVM counts them where it emulates ring 0: what more times took above fewer, for one operation",
            )
            .alone("in the guest", vec![whole(part.value)])
            .goal(GoalOf::Value, most);
        "instructions".clone_into(&mut case.unit);
        Ok(case)
    }
}

/// Splits the time of an operation: what the host does for it, the exits to the monitor, and the rest, which the guest spends; exits that
/// KVM handles by itself are in there.
pub(super) fn split_time(case: Case, service: f64, exits: f64) -> Case {
    let whole = float(case.ours.quantiles.p50) / float(case.operations);
    let guest = (whole - service - exits).max(0.0);
    case.part("host service", service, "ns").part("exit time", exits, "ns").part("guest", guest, "ns")
}

/// Returns the next whole number that is not below; a count is not negative and far below 2^53.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of instructions")]
fn whole(count: f64) -> u64 {
    count.ceil() as u64
}
