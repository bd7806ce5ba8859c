use super::super::sample;
use super::{Plot, plots};
use crate::bench::document::Document;

fn drawn(document: &Document) -> Vec<Plot> {
    plots(document).expect("plots")
}

fn named<'a>(plots: &'a [Plot], file: &str) -> &'a Plot {
    plots.iter().find(|plot| plot.file == file).expect("the plot")
}

#[test]
fn each_kind_of_case_has_its_plot() {
    let plots = drawn(&sample::document());
    let files: Vec<_> = plots.iter().map(|plot| &*plot.file).collect();
    let expected =
        ["ratios.svg", "by-wire-one-range.svg", "by-sync-many-ranges.svg", "tail-pressure-touch.svg", "time.svg"];
    assert_eq!(files, expected);
    for plot in &plots {
        assert!(plot.svg.starts_with("<svg width=\"960\"") && plot.svg.trim_end().ends_with("</svg>"), "{}", plot.file);
    }
    assert_eq!(drawn(&Document { cases: Vec::new(), ..sample::document() }), []);
}

#[test]
fn ratios_are_marked_by_colour_and_by_word() {
    let plots = drawn(&sample::document());
    let svg = &named(&plots, "ratios.svg").svg;
    // Two cases miss a ratio; a goal of another kind is no matter of this plot.
    assert_eq!(svg.matches("&gt; goal 1.15").count(), 2);
    assert_eq!(svg.matches("≤ 1.15").count(), 11);
    let boxes = |color: &str| svg.matches(&format!("fill=\"{color}\" stroke=\"none\"")).count();
    // One more of each is the legend's.
    assert_eq!((boxes("#D55E00"), boxes("#0072B2")), (3, 12));
}

#[test]
fn sizes_and_times_are_readable() {
    let plots = drawn(&sample::document());
    let svg = &named(&plots, "by-wire-one-range.svg").svg;
    for label in [
        "\n4 KiB\n",
        "\n64 MiB\n",
        "\n10 µs\n",
        "\n10 ms\n",
        "\n1.38\n",
        "wirevm: one request of a guest",
        "limit: mlock",
    ] {
        assert!(svg.contains(label), "{label}");
    }
    assert_eq!(svg.matches("<circle").count(), 8, "a disk for each case");
    let tail = &named(&plots, "tail-pressure-touch.svg").svg;
    assert!(tail.contains("\n99.9 %\n") && tail.contains("\n1 ms\n"), "{tail}");
    assert!(tail.contains("&lt;both&gt; &amp; &quot;all&quot;"), "{tail}");
}

#[test]
fn parts_of_time_share_colours_by_name() {
    let plots = drawn(&sample::document());
    let svg = &named(&plots, "time.svg").svg;
    for label in ["\nentry and exit\n", "\n16 %\n", "\n13.7 ms\n"] {
        assert!(svg.contains(label), "{label}");
    }
    // Eight cases and the legend; what is no time is no part of a bar.
    assert_eq!(svg.matches("fill=\"#E69F00\"").count(), 9);
    assert!(!svg.contains("system calls") && !svg.contains("sync/ranges/4\n"));
}

#[test]
fn numbers_that_no_axis_holds_are_drawn_all_the_same() {
    let mut document = sample::document();
    for case in &mut document.cases {
        case.point.iter_mut().for_each(|point| point.x = 0.0);
        case.ours = sample::side("nothing", 1, 0, 10);
        case.ratio = case.ratio.map(|mut ratio| {
            (ratio.min, ratio.p25, ratio.median) = (0.0, 0.0, 0.0);
            ratio
        });
    }
    let plots = drawn(&document);
    assert!(plots.iter().all(|plot| !plot.svg.contains("NaN") && !plot.svg.contains("inf")), "{plots:?}");
}
