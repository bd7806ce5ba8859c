//! A comparison as people read it.

use std::fmt::Write;

use super::{Change, Comparison, Of, Verdict};
use crate::bench::show::{amount, change, ratio};
use crate::report::{Align, Column, table};
use crate::visible::visible;

impl Comparison {
    /// Returns the comparison as a table. Counts that are the same are left out; what is past the threshold is marked with `!`.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for warning in &self.warnings {
            // Writing to a String can't fail.
            writeln!(text, "  warning: {}", visible(warning)).unwrap_or_default();
        }
        let columns = [
            Column { heading: "  case", align: Align::Left, widest: 56 },
            Column { heading: "before", align: Align::Right, widest: 14 },
            Column { heading: "after", align: Align::Right, widest: 14 },
            Column { heading: "change", align: Align::Right, widest: 9 },
            Column { heading: "95 % interval", align: Align::Right, widest: 20 },
            Column { heading: "verdict", align: Align::Left, widest: 20 },
        ];
        let told = |change: &&Change| change.of != Of::Count || change.verdict != Verdict::NoDifferenceShown;
        let rows: Vec<_> = self.changes.iter().filter(told).map(row).collect();
        if !rows.is_empty() {
            let gap = if text.is_empty() { "" } else { "\n" };
            write!(text, "{gap}{}", table(&columns, &rows)).unwrap_or_default();
        }
        for (names, which) in [(&self.only_before, "first"), (&self.only_after, "second")] {
            if !names.is_empty() {
                writeln!(text, "\n  only in the {which}").unwrap_or_default();
            }
            for name in names {
                writeln!(text, "    {}", visible(name)).unwrap_or_default();
            }
        }
        let count = |verdict| self.changes.iter().filter(|change| change.verdict == verdict).count();
        let (faster, slower) = (count(Verdict::Faster), count(Verdict::Slower));
        let (all, past) = (self.changes.len(), self.regressions().count());
        let plural = if all == 1 { "number" } else { "numbers" };
        let found =
            format!("{faster} faster or less, {slower} slower or more, {past} past {} %", self.threshold * 100.0);
        writeln!(text, "\n  {all} {plural} compared: {found}").unwrap_or_default();
        text
    }
}

impl Change {
    /// Says by how much it is slower, in a sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        let [_, before, after, grown, interval, _] = row(self);
        let interval = if self.of == Of::Count { String::new() } else { format!(" (95 %: {interval})") };
        format!("{}: {before} before, {after} now: {grown}{interval}", self.name)
    }
}

fn row(found: &Change) -> [String; 6] {
    let shown = |value| match (found.of, &*found.unit) {
        (Of::Ratio, _) => format!("× {}", ratio(value)),
        (Of::Time, _) | (Of::Count, "bytes") => amount(value, &found.unit),
        // Its name says what it counts.
        (Of::Count, _) => amount(value, ""),
    };
    let verdict = match (found.verdict, found.of) {
        (Verdict::Faster, Of::Count) => "less",
        (Verdict::Slower, Of::Count) => "more",
        (Verdict::NoDifferenceShown, Of::Count) => "the same",
        (Verdict::Faster, _) => "faster",
        (Verdict::Slower, _) => "slower",
        (Verdict::NoDifferenceShown, _) if found.interval.is_none() => "too few samples",
        (Verdict::NoDifferenceShown, _) => "no difference shown",
    };
    let interval = found.interval.filter(|_| found.of != Of::Count);
    [
        format!("{} {}", if found.regression { '!' } else { ' ' }, found.name),
        shown(found.before),
        shown(found.after),
        found.change.map_or_else(|| "from 0".to_owned(), change),
        interval.map_or_else(String::new, |[low, high]| format!("{} … {}", change(low), change(high))),
        verdict.to_owned(),
    ]
}
