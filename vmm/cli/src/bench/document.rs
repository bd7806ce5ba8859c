//! What a run of benchmarks has found out, as a document: what `--json` writes, and `bench compare` reads.
//!
//! The fields are explained for readers in `resources/docs/bench.md`; a change that an older reader would misread raises [`SCHEMA`].

use serde::{Deserialize, Serialize};

/// Version of the document's form.
pub const SCHEMA: u32 = 1;

/// Everything that one run has measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// [`SCHEMA`] of the writer.
    pub schema: u32,
    /// Where and when it was measured.
    pub about: About,
    /// The cases, in the order in which they were measured.
    pub cases: Vec<Case>,
    /// What was asked for and can't be measured there, and why.
    pub skipped: Vec<Skipped>,
    /// What was asked for and failed, and how: none in a run that is good.
    pub failed: Vec<Skipped>,
}

/// Where and when something was measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Version of wirevm.
    pub version: String,
    /// Revision that the binary was built from; none where that is not known.
    pub revision: Option<String>,
    /// Start of the run: UTC, as in RFC 3339.
    pub date: String,
    /// The command line.
    pub command: String,
    /// Whether fewer and smaller samples were taken than for figures to quote.
    pub quick: bool,
    /// The processor's own name.
    pub processor: String,
    /// Processors that the process may use.
    pub cpus: u64,
    /// Memory of the host in bytes.
    pub memory_bytes: u64,
    /// Name and release of the kernel.
    pub kernel: String,
    /// File system of the RAM files.
    pub file_system: String,
    /// What KVM is like: its version, and whether it emulates ring 0; none where there is no KVM.
    pub kvm: Option<String>,
}

/// Something that was not measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Name of the benchmark or the case.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// One thing that was measured, beside its limit where it has one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// The benchmark that it belongs to, such as `wire`.
    pub bench: String,
    /// Its name among all cases: words with `/` between them, from the general to the particular.
    pub name: String,
    /// What is measured, in a sentence.
    pub title: String,
    /// What was the state of caches and memory, what was done before the first sample, and what was checked after the last.
    pub conditions: String,
    /// What all samples count: `ns`, `instructions`, `bytes`, ….
    pub unit: String,
    /// Operations in a sample; at least 1.
    pub operations: u64,
    /// Bytes that a sample wires, syncs or touches; 0 where that means nothing.
    pub bytes: u64,
    /// What wirevm does.
    pub ours: Side,
    /// What it is held against: the plain system calls, taken in turns with ours.
    pub limit: Option<Side>,
    /// Ours divided by the limit, pair by pair; none without a limit.
    pub ratio: Option<Ratio>,
    /// What is to be reached.
    pub goal: Option<Goal>,
    /// Where the time of an operation of ours goes, and what it takes; for one operation.
    pub split: Vec<Part>,
    /// The plot that the case is a point of.
    pub point: Option<Point>,
}

/// The samples of one side of a case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Side {
    /// What was done, in a few words.
    pub what: String,
    /// The samples in the order in which they were taken, those of both sides of a case alternating.
    pub samples: Vec<u64>,
    /// Their distribution. It may be of more samples than are listed.
    pub quantiles: Quantiles,
}

/// A distribution, by an HDR histogram of three significant digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// How many samples it is of.
    pub count: u64,
    /// Least.
    pub min: u64,
    /// First quartile.
    pub p25: u64,
    /// Median.
    pub p50: u64,
    /// Third quartile.
    pub p75: u64,
    /// 99 of 100 are not above it.
    pub p99: u64,
    /// 999 of 1000 are not above it.
    pub p999: u64,
    /// Greatest.
    pub max: u64,
    /// Mean.
    pub mean: f64,
}

/// The ratios of pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// Pairs.
    pub pairs: u64,
    /// Least.
    pub min: f64,
    /// First quartile.
    pub p25: f64,
    /// Median.
    pub median: f64,
    /// Third quartile.
    pub p75: f64,
    /// Greatest.
    pub max: f64,
    /// The interval that holds the true median with a probability of 95 %, by order statistics.
    pub confidence: [f64; 2],
}

/// What a case is to reach.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Goal {
    /// What is compared.
    pub of: GoalOf,
    /// It should not be above this.
    pub at_most: f64,
}

/// What a goal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GoalOf {
    /// The median of the pairs' ratios.
    Ratio,
    /// The median of ours, for one operation.
    Value,
    /// The greatest of ours.
    Max,
}

/// A number that belongs to a case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// What it is of: `guest instructions`, `exits`, `exit time`, `service time`, `system calls`, `flushes`, `map entries`, ….
    pub name: String,
    /// How much of it, for one operation of ours unless the name says otherwise.
    pub value: f64,
    /// What it counts.
    pub unit: String,
    /// What it may not exceed; a count that does is an error of the run, a time never is.
    pub at_most: Option<f64>,
}

/// A place in a plot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Name of the plot: all cases that name it are drawn together, ours and limit as lines.
    pub plot: String,
    /// Place on the horizontal axis.
    pub x: f64,
    /// What that counts: `bytes`, `ranges`, `vCPUs`, ….
    pub unit: String,
}

impl Case {
    /// Returns the number that the goal is about; none where there is no goal, or no sample.
    #[must_use]
    pub fn reached(&self) -> Option<f64> {
        let operations = self.operations.max(1);
        match self.goal?.of {
            GoalOf::Ratio => self.ratio.map(|ratio| ratio.median),
            GoalOf::Value => {
                (self.ours.quantiles.count > 0).then(|| float(self.ours.quantiles.p50) / float(operations))
            }
            GoalOf::Max => (self.ours.quantiles.count > 0).then(|| float(self.ours.quantiles.max)),
        }
    }

    /// Tells whether the goal is reached; none where there is none.
    #[must_use]
    pub fn is_met(&self) -> Option<bool> {
        Some(self.reached()? <= self.goal?.at_most)
    }
}

/// Returns the nearest number that a plot or a ratio can be made of: exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "figures have three digits")]
#[must_use]
pub const fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod test {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use crate::bench::show::sample;

    /// Collects the names of all fields.
    fn names(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => fields.iter().for_each(|(name, value)| {
                found.insert(name.clone());
                names(value, found);
            }),
            Value::Array(values) => values.iter().for_each(|value| names(value, found)),
            _ => {}
        }
    }

    #[test]
    fn readers_are_told_of_every_field() {
        let page = include_str!("../../../../resources/docs/bench.md");
        let mut found = BTreeSet::new();
        names(&serde_json::to_value(sample::document()).expect("a document"), &mut found);
        let told = |name: &&String| page.contains(&format!("`{name}`")) || page.contains(&format!(".{name}`"));
        let untold: Vec<_> = found.iter().filter(|name| !told(name)).collect();
        assert!(found.len() > 40 && untold.is_empty(), "{untold:?} of {}", found.len());
    }
}
