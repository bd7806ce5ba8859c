use super::{Change, Comparison, Of, Verdict};
use crate::bench::document::{Case, Document};
use crate::bench::show::sample::{self, case, part, side};

fn of(cases: Vec<Case>) -> Document {
    Document { cases, ..sample::document() }
}

/// A case whose limit takes about 10 µs and wirevm as long as is said.
fn timed(name: &str, seed: u64, ours: u64) -> Case {
    case(name, side("ours", seed, 41, ours), Some(side("limit", seed + 1000, 41, 10_000)))
}

fn compared(before: Case, after: Case) -> Change {
    Comparison::new(&of(vec![before]), &of(vec![after]), 0.1).changes.remove(0)
}

#[test]
fn noise_is_no_difference() {
    for seed in 0..40 {
        let change = compared(timed("a", seed, 11_000), timed("a", seed + 500, 11_000));
        assert_eq!(
            (change.of, change.verdict, change.regression),
            (Of::Ratio, Verdict::NoDifferenceShown, false),
            "{change:?}"
        );
        assert!(change.interval.is_some_and(|[low, high]| low <= 0.0 && high >= 0.0), "{change:?}");
    }
}

#[test]
fn slower_past_the_threshold_is_a_regression() {
    let change = compared(timed("a", 1, 10_000), timed("a", 2, 13_000));
    assert_eq!((change.verdict, change.regression), (Verdict::Slower, true));
    assert!(change.change.is_some_and(|change| (0.25..0.35).contains(&change)), "{change:?}");
    let sentence = change.sentence();
    assert!(sentence.starts_with("a: × 1.00 before, × 1.3") && sentence.contains(" now: +"), "{sentence}");
    let change = compared(timed("a", 1, 10_000), timed("a", 2, 10_900));
    assert_eq!((change.verdict, change.regression), (Verdict::Slower, false), "shown, and not past it: {change:?}");
    let change = compared(timed("a", 1, 13_000), timed("a", 2, 10_000));
    assert_eq!((change.verdict, change.regression), (Verdict::Faster, false));
}

#[test]
fn slower_machine_is_not_a_slower_wirevm() {
    let mut after = timed("a", 2, 11_000);
    let limit = after.limit.as_mut().expect("a limit");
    for sample in after.ours.samples.iter_mut().chain(&mut limit.samples) {
        *sample *= 3;
    }
    let change = compared(timed("a", 1, 11_000), after);
    assert_eq!((change.of, change.verdict), (Of::Ratio, Verdict::NoDifferenceShown), "{change:?}");
}

#[test]
fn without_a_limit_times_of_an_operation_are_compared() {
    let alone = |seed, operations, ours| {
        let mut case = case("a", side("ours", seed, 41, ours), None);
        case.operations = operations;
        case
    };
    let change = compared(alone(1, 10, 10_000), alone(2, 100, 150_000));
    assert_eq!((change.of, change.verdict, change.regression), (Of::Time, Verdict::Slower, true));
    assert!((1_000.0..1_100.0).contains(&change.before) && (1_500.0..1_650.0).contains(&change.after), "{change:?}");
}

#[test]
fn few_samples_show_nothing() {
    let few = |seed, ours| case("a", side("ours", seed, 6, ours), Some(side("limit", seed + 9, 6, 10_000)));
    let change = compared(few(1, 10_000), few(2, 90_000));
    assert_eq!((change.interval, change.verdict, change.regression), (None, Verdict::NoDifferenceShown, false));
}

#[test]
fn counts_are_compared_exactly() {
    let with = |calls, instructions, time| {
        let mut case = timed("a", 1, 10_000);
        case.split = vec![
            part("system calls", calls, "", Some(9.0)),
            part("guest instructions", instructions, "instructions", None),
            part("exit time", time, "ns", None),
            part("map entries", calls, "", None),
        ];
        case
    };
    let comparison = Comparison::new(&of(vec![with(1.0, 1000.0, 5.0)]), &of(vec![with(2.0, 1001.0, 500.0)]), 0.1);
    let found: Vec<_> = comparison.changes[1..]
        .iter()
        .map(|change| (&*change.name, change.of, change.verdict, change.regression))
        .collect();
    let expected = [
        ("a: system calls", Of::Count, Verdict::Slower, true),
        ("a: guest instructions", Of::Count, Verdict::Slower, false),
    ];
    assert_eq!(found, expected);
    let from_nothing = Comparison::new(&of(vec![with(0.0, 1.0, 1.0)]), &of(vec![with(1.0, 1.0, 1.0)]), 0.1);
    assert_eq!((from_nothing.changes[1].change, from_nothing.changes[1].regression), (None, true));
    let mut sizes = [5_000_000, 5_000_001].map(|bytes| case("b", side("ours", 1, 1, bytes), None));
    sizes.iter_mut().for_each(|case| case.unit = "bytes".to_owned());
    let [before, after] = sizes;
    assert_eq!(compared(before, after).verdict, Verdict::Slower);
}

#[test]
fn what_only_one_has_is_listed() {
    let before = of(vec![timed("gone", 1, 10_000), timed("both", 2, 10_000)]);
    let after = of(vec![timed("both", 2, 10_000), timed("new", 3, 10_000)]);
    let comparison = Comparison::new(&before, &after, 0.1);
    assert_eq!(
        (&*comparison.only_before, &*comparison.only_after),
        (&["gone".to_owned()][..], &["new".to_owned()][..])
    );
    let expected = "    case   before   after  change    95 % interval  verdict
    both   × 1.00  × 1.00  +0.0 %  −2.9 % … +3.0 %  no difference shown

  only in the first
    gone

  only in the second
    new

  1 number compared: 0 faster or less, 0 slower or more, 0 past 10 %
";
    let words = |text: &str| {
        text.split_whitespace().filter(|word| !word.starts_with(['+', '−'])).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(words(&comparison.text()), words(expected), "{}", comparison.text());
}

#[test]
fn unlike_runs_are_warned_of() {
    let before = sample::document();
    assert_eq!(Comparison::new(&before, &before, 0.1).warnings, [""; 0]);
    let mut after = before.clone();
    after.schema = 0;
    after.about.quick = false;
    after.about.kvm = None;
    after.about.kernel = "Linux 7.0.0".to_owned();
    after.cases[0].unit = "bytes".to_owned();
    let warnings = Comparison::new(&before, &after, 0.1).warnings;
    let expected = [
        "kernel: Linux 6.1.0 in the first, Linux 7.0.0 in the second",
        "KVM: API 12, ring 0 emulated in the first, none in the second",
        "quick run: yes in the first, no in the second",
        "schema: 1 in the first, 0 in the second",
        "wire/size/4 KiB counts ns in the first, and bytes in the second",
    ];
    assert_eq!(warnings, expected);
}

#[test]
fn document_holds_the_threshold_as_a_percentage() {
    let comparison = Comparison::new(&of(vec![timed("a", 1, 10_000)]), &of(vec![timed("a", 2, 13_000)]), 0.125);
    let value = serde_json::to_value(&comparison).expect("a document");
    assert_eq!(value["threshold_percent"], 12.5);
    let change = &value["changes"][0];
    assert_eq!(
        (&change["of"], &change["verdict"], &change["regression"]),
        (&"ratio".into(), &"slower".into(), &true.into())
    );
    assert_eq!(change["interval"].as_array().map(Vec::len), Some(2));
}
