//! What was found, as a table.

use std::fmt::Write;

use super::super::document::{Case, Document, Goal, GoalOf, Side, float};
use super::units::{amount, ratio};
use super::{about, goals};
use crate::report::{Align, Column, table, wrapped};
use crate::visible::visible;

/// Width of what is wrapped.
const WIDEST: usize = 118;
/// What stands below a row begins here: below the case's name.
const INDENT: &str = "        ";

/// Returns the table of each benchmark between what it is about and how many goals are reached. What misses its goal is marked
/// with `!`. With `verbose`, conditions and tails stand below each case.
#[must_use]
pub fn text(document: &Document, verbose: bool) -> String {
    let mut text = String::new();
    for (name, value) in about::rows(&document.about) {
        // Writing to a String can't fail.
        writeln!(text, "  {name:<9}  {}", visible(&value)).unwrap_or_default();
    }
    text.push_str(&cases(&document.cases, verbose));
    for (heading, left_out) in [("not measured", &document.skipped), ("failed", &document.failed)] {
        if !left_out.is_empty() {
            writeln!(text, "\n  {heading}").unwrap_or_default();
        }
        for case in left_out {
            push_wrapped(&mut text, &format!("{}: {}", case.name, case.reason));
        }
    }
    writeln!(text, "\n  {}", closing(document)).unwrap_or_default();
    text
}

/// Returns the line that a run ends with.
fn closing(document: &Document) -> String {
    let (cases, skipped) = (document.cases.len(), document.skipped.len());
    let goals::Tally { goals, reached } = goals::tally(document);
    let plural = if cases == 1 { "case" } else { "cases" };
    let failed = match document.failed.len() {
        0 => String::new(),
        failed => format!(", {failed} FAILED"),
    };
    format!("{cases} {plural}, {reached} of {goals} goals reached, {skipped} skipped{failed}")
}

/// Returns the table of the cases, with an empty line between benchmarks.
fn cases(cases: &[Case], verbose: bool) -> String {
    let columns = [
        Column { heading: "  case", align: Align::Left, widest: 46 },
        Column { heading: "wirevm", align: Align::Right, widest: 22 },
        Column { heading: "limit", align: Align::Right, widest: 22 },
        Column { heading: "ratio", align: Align::Right, widest: 8 },
        Column { heading: "p25–p75", align: Align::Left, widest: 15 },
        Column { heading: "goal", align: Align::Left, widest: 24 },
    ];
    let rows: Vec<_> = cases.iter().map(row).collect();
    let laid_out = table(&columns, &rows);
    let mut lines = laid_out.lines();
    let mut text = String::new();
    if let (Some(heading), false) = (lines.next(), cases.is_empty()) {
        writeln!(text, "\n{heading}").unwrap_or_default();
    }
    let mut bench = cases.first().map(|case| &case.bench);
    for (line, case) in lines.zip(cases) {
        if bench.replace(&case.bench) != Some(&case.bench) {
            text.push('\n');
        }
        writeln!(text, "{line}").unwrap_or_default();
        push_below(&mut text, case, verbose);
    }
    text
}

/// Adds what stands below the row of a case.
fn push_below(text: &mut String, case: &Case, verbose: bool) {
    if verbose {
        push_wrapped(text, &format!("{} {}", case.title, case.conditions));
        push_side(text, "wirevm", &case.ours, case);
        if let Some(limit) = &case.limit {
            push_side(text, "limit", limit, case);
        }
    }
    push_items(text, case.split.iter().map(goals::told));
}

fn row(case: &Case) -> [String; 6] {
    let missed = case.is_met() == Some(false) || case.split.iter().any(goals::is_exceeded);
    let (median, spread) = case.ratio.map_or_else(Default::default, |found| {
        (ratio(found.median), format!("{}–{}", ratio(found.p25), ratio(found.p75)))
    });
    [
        format!("{} {}", if missed { '!' } else { ' ' }, case.name),
        median_of(&case.ours, case),
        case.limit.as_ref().map_or_else(String::new, |limit| median_of(limit, case)),
        median,
        spread,
        reached(case),
    ]
}

/// Shows the goal, behind the number that is held against it unless that has a column of its own.
fn reached(case: &Case) -> String {
    match (case.goal, case.reached()) {
        (Some(Goal { of: GoalOf::Max, at_most }), Some(max)) => {
            let sign = if max <= at_most { '≤' } else { '>' };
            format!("max {} {sign} {}", amount(max, &case.unit), amount(at_most, &case.unit))
        }
        _ => goals::goal(case),
    }
}

/// Shows the median of an operation.
fn median_of(side: &Side, case: &Case) -> String {
    if side.quantiles.count == 0 {
        return "no sample".to_owned();
    }
    amount(float(side.quantiles.p50) / float(case.operations.max(1)), &case.unit)
}

fn push_side(text: &mut String, name: &str, side: &Side, case: &Case) {
    let operations = float(case.operations.max(1));
    let found = side.quantiles;
    let shown = |value: u64| amount(float(value) / operations, &case.unit);
    let tail = format!("p99 {}, p99.9 {}, max {}", shown(found.p99), shown(found.p999), shown(found.max));
    let plural = if found.count == 1 { "sample" } else { "samples" };
    push_wrapped(text, &format!("{name}: {}; {} {plural}, min {}, {tail}", side.what, found.count, shown(found.min)));
}

fn push_wrapped(text: &mut String, words: &str) {
    for line in wrapped(&visible(words), WIDEST - INDENT.len()) {
        writeln!(text, "{INDENT}{line}").unwrap_or_default();
    }
}

/// Adds items with `, ` between them, in as many lines as that takes; an item is not broken.
fn push_items(text: &mut String, items: impl Iterator<Item = String>) {
    let mut line = String::new();
    for item in items.map(|item| visible(&item)) {
        if line.is_empty() {
            line = item;
        } else if INDENT.len() + line.chars().count() + 3 + item.chars().count() <= WIDEST {
            write!(line, ", {item}").unwrap_or_default();
        } else {
            writeln!(text, "{INDENT}{line},").unwrap_or_default();
            line = item;
        }
    }
    if !line.is_empty() {
        writeln!(text, "{INDENT}{line}").unwrap_or_default();
    }
}

#[cfg(test)]
mod test;
