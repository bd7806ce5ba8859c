use super::super::sample;
use super::text;
use crate::bench::document::{Document, Goal, GoalOf};

const SMALL: &str = "  wirevm     0.1.0, revision 0123456789ab
  date       2026-03-01T12:34:56Z
  command    wirevm bench all --json all.json
  host       A Processor, 2 CPUs, 24 GiB
  kernel     Linux 6.1.0
  RAM files  ext4
  KVM        API 12, ring 0 emulated
  samples    quick: fewer and smaller samples than for figures to quote

    case                wirevm    limit  ratio  p25–p75    goal
  ! wire/size/4 KiB    2.04 µs  1.49 µs   1.38  1.35–1.41  ≤ 1.15
        entry and exit 310 ns, service 1.53 µs, rest 110 ns, system calls 1, guest instructions 41

    call/nothing       1.30 µs                             ≤ 1.50 µs

  ! pressure/touch      189 ns   199 ns   0.95  0.92–0.97  max 197 ns > 190 ns

    footprint/resident  5.23 MiB                           ≤ 8 MiB

  not measured
        scale/16: the host has 2 processors, and the figures of more vCPUs than that would be the scheduler's

  4 cases, 2 of 4 goals reached, 1 skipped
";

/// A case of each kind.
fn small() -> Document {
    let mut document = sample::document();
    let cases = std::mem::take(&mut document.cases).into_iter();
    document.cases = cases.enumerate().filter(|(place, _)| *place == 0 || *place > 12).map(|(_, case)| case).collect();
    document
}

#[test]
fn cases_stand_in_columns_with_their_parts_below() {
    let shown = text(&small(), false);
    // The width of a column is that of its widest cell.
    let squeezed =
        |text: &str| text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>();
    assert_eq!(squeezed(&shown), squeezed(SMALL), "{shown}");
}

#[test]
fn lines_fit_a_terminal() {
    for verbose in [false, true] {
        for line in text(&sample::document(), verbose).lines() {
            assert!(line.chars().count() <= 120, "{line}");
        }
    }
}

#[test]
fn counts_above_their_bound_are_marked_with_it() {
    let shown = text(&sample::document(), false);
    assert!(shown.contains("\n  ! sync/ranges/4 "), "{shown}");
    assert!(shown.contains("        !flushes 2 (at most 1), write back 160 µs\n"), "{shown}");
}

#[test]
fn details_tell_conditions_and_tails() {
    let shown = text(&small(), true);
    assert!(shown.contains("        Wires a range and unwires it. Pages resident and never wired;"), "{shown}");
    assert!(shown.contains("limit: touching pages that are not; 4000 samples, min 190 ns, p99 2.71 ms"), "{shown}");
    assert!(shown.contains("wirevm: besides guest RAM; 1 sample, min"), "{shown}");
}

#[test]
fn case_without_samples_misses_nothing() {
    let mut document = small();
    document.cases.truncate(1);
    let case = &mut document.cases[0];
    case.ours = sample::side("nothing", 1, 0, 10);
    (case.ratio, case.limit) = (None, None);
    case.goal = Some(Goal { of: GoalOf::Value, at_most: 1.0 });
    let shown = text(&document, false);
    assert!(shown.contains("    wire/size/4 KiB  no sample"), "{shown}");
    assert!(shown.ends_with("\n  1 case, 0 of 0 goals reached, 1 skipped\n"), "{shown}");
}
