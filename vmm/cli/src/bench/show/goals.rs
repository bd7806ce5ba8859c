//! What is to be reached, and whether it is.

use super::super::document::{Case, Document, GoalOf, Part};
use super::units::{amount, ratio};

/// How many goals there are and how many of them are reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Cases that have a goal and a number to hold against it.
    pub goals: usize,
    /// Those that reach it.
    pub reached: usize,
}

/// Counts goals.
#[must_use]
pub fn tally(document: &Document) -> Tally {
    let met: Vec<bool> = document.cases.iter().filter_map(Case::is_met).collect();
    Tally { goals: met.len(), reached: met.iter().filter(|met| **met).count() }
}

/// Returns the counts above what they may be, each in a sentence. A time may be whatever it is.
#[must_use]
pub fn exceeded(document: &Document) -> Vec<String> {
    let all = document.cases.iter().flat_map(|case| case.split.iter().map(move |part| (case, part)));
    let above = all.filter(|(_, part)| part.unit != "ns" && is_exceeded(part));
    above.map(|(case, part)| format!("{}: {}", case.name, told(part))).collect()
}

/// Tells whether a part is above what it may be.
pub(super) fn is_exceeded(part: &Part) -> bool {
    part.at_most.is_some_and(|most| part.value > most)
}

/// Shows a part: `exit time 300 ns`, `!system calls 3 (at most 1)`.
pub(super) fn told(part: &Part) -> String {
    let (mark, most) = match part.at_most {
        Some(most) if part.value > most => ("!", format!(" (at most {})", counted(most, part))),
        _ => ("", String::new()),
    };
    format!("{mark}{} {}{most}", part.name, counted(part.value, part))
}

/// Shows a number of a part, without the unit where the part's name ends with it.
pub(super) fn counted(value: f64, part: &Part) -> String {
    let is_named = !matches!(&*part.unit, "ns" | "bytes") && part.name.ends_with(&part.unit);
    amount(value, if is_named { "" } else { &part.unit })
}

/// Shows what a case is to reach: `≤ 1.10`, `≤ 2.00 ms`, `max ≤ 2.00 ms`; nothing where there is no goal.
pub(super) fn goal(case: &Case) -> String {
    let Some(goal) = case.goal else { return String::new() };
    match goal.of {
        GoalOf::Ratio => format!("≤ {}", ratio(goal.at_most)),
        GoalOf::Value => format!("≤ {}", amount(goal.at_most, &case.unit)),
        GoalOf::Max => format!("max ≤ {}", amount(goal.at_most, &case.unit)),
    }
}
