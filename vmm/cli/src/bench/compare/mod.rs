//! `wirevm bench compare`: what two documents say differently.
//!
//! Times are compared by medians. The interval of a change comes from the intervals of both medians, each of which holds its median
//! with 97.5 %, by order statistics: both do so with 95 % at least, and so does the interval from the least quotient of the two to the
//! greatest. Nothing is assumed of the distributions, nothing is drawn by chance; the price is an interval that is rather too wide.

mod text;

use serde::{Serialize, Serializer};

use super::document::{About, Case, Document, Part, float};
use super::statistics::{median_interval, quantile};

/// How often each median's interval holds it.
const CERTAINTY: f64 = 0.975;
/// Fewer samples can't be so certain: half of all lies above the median, and so may all of six.
const FEWEST: usize = 7;

/// What was compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Of {
    /// The medians of the ratios to the limit, which stood beside it when it was measured.
    Ratio,
    /// The medians of wirevm's own times, for one operation.
    Time,
    /// Numbers that are the same each time.
    Count,
}

/// What is to be said of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The whole interval lies below no change; of a count: less.
    Faster,
    /// The whole interval lies above no change; of a count: more.
    Slower,
    /// The interval holds no change, or there are too few samples for one; of a count: the same.
    NoDifferenceShown,
}

/// A number that both documents have.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// Name of the case; for one of its counts followed by `: ` and the name of that.
    pub name: String,
    /// What was compared.
    pub of: Of,
    /// What `before` and `after` count; empty for ratios.
    pub unit: String,
    /// The number in the first document.
    pub before: f64,
    /// The number in the second.
    pub after: f64,
    /// By which part of `before` it has grown; none from 0.
    pub change: Option<f64>,
    /// The interval that holds the change with 95 %; none where there are too few samples.
    pub interval: Option<[f64; 2]>,
    /// What is to be said of it.
    pub verdict: Verdict,
    /// Whether it is slower by more than the threshold, with its whole interval.
    pub regression: bool,
}

/// All that two documents say differently.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// By how much a case may be slower: a part of what it was. In the document a percentage, `threshold_percent`.
    #[serde(rename = "threshold_percent", serialize_with = "percent")]
    pub threshold: f64,
    /// What makes the documents hard to compare.
    pub warnings: Vec<String>,
    /// What both have.
    pub changes: Vec<Change>,
    /// Cases of the first alone.
    pub only_before: Vec<String>,
    /// Cases of the second alone.
    pub only_after: Vec<String>,
}

fn percent<S: Serializer>(fraction: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(fraction * 100.0)
}

impl Comparison {
    /// Compares two documents. What is slower by more than `threshold`, a part of what it was, is a regression.
    #[must_use]
    pub fn new(before: &Document, after: &Document, threshold: f64) -> Self {
        let mut changes = Vec::new();
        let mut warnings = differences(before, after);
        let mut only_before = Vec::new();
        for old in &before.cases {
            let Some(new) = after.cases.iter().find(|new| new.name == old.name) else {
                only_before.push(old.name.clone());
                continue;
            };
            if old.unit == new.unit {
                changes.extend(timed(old, new, threshold));
            } else {
                warnings.push(format!("{} counts {} in the first, and {} in the second", old.name, old.unit, new.unit));
            }
            changes.extend(counts(old, new, threshold));
        }
        let is_new = |case: &&Case| before.cases.iter().all(|old| old.name != case.name);
        let only_after = after.cases.iter().filter(is_new).map(|case| case.name.clone()).collect();
        Self { threshold, warnings, changes, only_before, only_after }
    }

    /// Returns the changes past the threshold.
    pub fn regressions(&self) -> impl Iterator<Item = &Change> {
        self.changes.iter().filter(|change| change.regression)
    }
}

/// Returns what was different about two runs, each in a sentence.
fn differences(before: &Document, after: &Document) -> Vec<String> {
    let shown = |about: &About| {
        let quick = if about.quick { "yes" } else { "no" };
        [
            ("processor", about.processor.clone()),
            ("number of processors", about.cpus.to_string()),
            ("memory in bytes", about.memory_bytes.to_string()),
            ("kernel", about.kernel.clone()),
            ("file system", about.file_system.clone()),
            ("KVM", about.kvm.clone().unwrap_or_else(|| "none".to_owned())),
            ("quick run", quick.to_owned()),
        ]
    };
    let pairs = shown(&before.about).into_iter().zip(shown(&after.about));
    let mut differences: Vec<String> = pairs
        .filter(|((_, old), (_, new))| old != new)
        .map(|((name, old), (_, new))| format!("{name}: {old} in the first, {new} in the second"))
        .collect();
    if before.schema != after.schema {
        differences.push(format!("schema: {} in the first, {} in the second", before.schema, after.schema));
    }
    differences
}

/// Compares a case of both: by ratios where both have them, for these were measured beside their limits, and the machine's moods
/// cancel out. What counts something else than time is a count.
fn timed(old: &Case, new: &Case, threshold: f64) -> Option<Change> {
    if old.unit != "ns" {
        let medians = [old, new].map(|case| quantile(&each(case), 1, 2));
        let [Some(before), Some(after)] = medians else { return None };
        return Some(exact(old.name.clone(), &old.unit, before, after, threshold));
    }
    let ratios = [ratios(old), ratios(new)];
    let (of, unit, [old_numbers, new_numbers]) = match ratios {
        [Some(old), Some(new)] => (Of::Ratio, String::new(), [old, new]),
        _ => (Of::Time, old.unit.clone(), [each(old), each(new)]),
    };
    let (before, after) = (quantile(&old_numbers, 1, 2)?, quantile(&new_numbers, 1, 2)?);
    let interval = interval(&old_numbers, &new_numbers);
    let verdict = match interval {
        Some([low, _]) if low > 0.0 => Verdict::Slower,
        Some([_, high]) if high < 0.0 => Verdict::Faster,
        _ => Verdict::NoDifferenceShown,
    };
    let regression = interval.is_some_and(|[low, _]| low > threshold);
    Some(Change {
        name: old.name.clone(),
        of,
        unit,
        before,
        after,
        change: growth(before, after),
        interval,
        verdict,
        regression,
    })
}

/// Returns the ratios of a case's pairs, sorted; none where there are no pairs, or a limit of 0.
fn ratios(case: &Case) -> Option<Vec<f64>> {
    let limit = &case.limit.as_ref()?.samples;
    let pairs = case.ours.samples.iter().zip(limit);
    let ratios =
        pairs.map(|(ours, limit)| (*limit > 0).then(|| float(*ours) / float(*limit))).collect::<Option<Vec<_>>>()?;
    (!ratios.is_empty()).then(|| sorted(ratios))
}

/// Returns what each operation took, sorted.
fn each(case: &Case) -> Vec<f64> {
    let operations = float(case.operations.max(1));
    sorted(case.ours.samples.iter().map(|sample| float(*sample) / operations).collect())
}

fn sorted(mut numbers: Vec<f64>) -> Vec<f64> {
    numbers.sort_by(f64::total_cmp);
    numbers
}

/// Returns the interval of the change from one median to the other; none where there are too few numbers, or zeros.
fn interval(old: &[f64], new: &[f64]) -> Option<[f64; 2]> {
    if old.len().min(new.len()) < FEWEST {
        return None;
    }
    let ([old_low, old_high], [new_low, new_high]) =
        (median_interval(old, CERTAINTY)?, median_interval(new, CERTAINTY)?);
    (old_low > 0.0).then(|| [new_low / old_high - 1.0, new_high / old_low - 1.0])
}

fn growth(before: f64, after: f64) -> Option<f64> {
    (before > 0.0).then(|| after / before - 1.0)
}

/// Compares the counts that both have: those with a bound, and instructions.
fn counts(old: &Case, new: &Case, threshold: f64) -> Vec<Change> {
    let counted = |part: &&Part| part.unit != "ns" && (part.at_most.is_some() || part.unit == "instructions");
    let both = old.split.iter().filter(counted).filter_map(|part| {
        let same = |other: &&Part| other.name == part.name && other.unit == part.unit;
        Some((part, new.split.iter().find(same)?))
    });
    both.map(|(part, other)| {
        exact(format!("{}: {}", old.name, part.name), &part.unit, part.value, other.value, threshold)
    })
    .collect()
}

fn exact(name: String, unit: &str, before: f64, after: f64, threshold: f64) -> Change {
    let change = growth(before, after);
    let verdict = match before.total_cmp(&after) {
        std::cmp::Ordering::Less => Verdict::Slower,
        std::cmp::Ordering::Equal => Verdict::NoDifferenceShown,
        std::cmp::Ordering::Greater => Verdict::Faster,
    };
    // Whatever comes from nothing is past any threshold.
    let regression = verdict == Verdict::Slower && change.is_none_or(|change| change > threshold);
    let interval = change.map(|change| [change; 2]);
    Change { name, of: Of::Count, unit: unit.to_owned(), before, after, change, interval, verdict, regression }
}

#[cfg(test)]
mod test;
