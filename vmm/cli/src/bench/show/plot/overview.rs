//! All ratios, beside 1 and beside their goals.

use plotters::style::RGBColor;

use super::super::super::document::{Case, Goal, GoalOf, Ratio};
use super::super::units;
use super::Plot;
use super::axis::{Axis, pixels};
use super::canvas::{Canvas, FAINT, GRID, INK, MISSED, OURS, Pen, PlotError, WIDTH, cut, picture};

const LEFT: i32 = 330;
const RIGHT: i32 = 770;
const TOP: i32 = 108;
const ROW: i32 = 24;
/// How many times farther than boxes and goals whiskers are shown.
const FARTHER: f64 = 3.0;

/// A case that has a ratio.
struct Row<'a> {
    name: &'a str,
    ratio: Ratio,
    goal: Option<f64>,
    met: Option<bool>,
}

/// Draws the ratios; nothing where there are none.
///
/// # Errors
/// [`PlotError`].
pub fn draw(cases: &[Case]) -> Result<Option<Plot>, PlotError> {
    let rows: Vec<Row<'_>> = cases.iter().filter_map(row).collect();
    if rows.is_empty() {
        return Ok(None);
    }
    let boxes = rows.iter().flat_map(|row| [Some(row.ratio.p25), Some(row.ratio.p75), row.goal, Some(1.0)]);
    let boxes: Vec<f64> = boxes.flatten().collect();
    let least = boxes.iter().copied().fold(1.0, f64::min) / FARTHER;
    let most = boxes.iter().copied().fold(1.0, f64::max) * FARTHER;
    let whiskers = rows.iter().flat_map(|row| [row.ratio.min.max(least), row.ratio.max.min(most)]);
    let axis = Axis::over(boxes.iter().copied().chain(whiskers), (LEFT, RIGHT));
    let title = "wirevm beside its limits".to_owned();
    let note = "Time of wirevm divided by that of the plain system calls, pair by pair. Left of 1, wirevm is faster.";
    let bottom = TOP + pixels(rows.len(), ROW);
    let svg = picture(bottom + 44, &title, note, |canvas| {
        canvas.legend((24, 76), &[("goal reached", OURS), ("goal missed", MISSED), ("no goal", FAINT)])?;
        let guide = "box: p25–p75 with the median; thin line: least to greatest; │: goal";
        canvas.text(guide, (WIDTH - 24, 76), Pen::NOTE.ending())?;
        scale(canvas, &axis, bottom)?;
        for (place, row) in rows.iter().enumerate() {
            draw_row(canvas, &axis, row, TOP + pixels(place, ROW) + ROW / 2)?;
        }
        Ok(())
    })?;
    Ok(Some(Plot { file: "ratios.svg".to_owned(), title, svg }))
}

fn row(case: &Case) -> Option<Row<'_>> {
    let goal = case.goal.filter(|goal| goal.of == GoalOf::Ratio);
    let met = goal.and(case.is_met());
    Some(Row { name: &case.name, ratio: case.ratio?, goal: goal.map(|Goal { at_most, .. }| at_most), met })
}

fn scale(canvas: &Canvas<'_>, axis: &Axis, bottom: i32) -> Result<(), PlotError> {
    for mark in axis.marks(9) {
        let x = axis.at(mark);
        canvas.line(&[(x, TOP - 4), (x, bottom)], GRID, 1)?;
        canvas.text(&units::mark(mark, ""), (x, bottom + 16), Pen::NOTE.centred())?;
    }
    let one = axis.at(1.0);
    canvas.line(&[(one, TOP - 4), (one, bottom)], FAINT, 1)
}

fn draw_row(canvas: &Canvas<'_>, axis: &Axis, row: &Row<'_>, y: i32) -> Result<(), PlotError> {
    let color: RGBColor = match row.met {
        Some(true) => OURS,
        Some(false) => MISSED,
        None => FAINT,
    };
    let Ratio { min, p25, median, p75, max, .. } = row.ratio;
    let [least, low, middle, high, greatest] = [min, p25, median, p75, max].map(|ratio| axis.at(ratio));
    canvas.text(&cut(row.name, 46), (LEFT - 14, y), Pen::TEXT.ending())?;
    canvas.line(&[(least, y), (greatest, y)], color, 1)?;
    // What lies beyond the axis has no end on it.
    for (end, value) in [(least, min), (greatest, max)] {
        if axis.holds(value) {
            canvas.line(&[(end, y - 3), (end, y + 3)], color, 1)?;
        }
    }
    // A box of nothing is still to be seen.
    canvas.fill((low.min(middle - 2), y - 6), (high.max(middle + 2), y + 6), color)?;
    canvas.line(&[(middle, y - 6), (middle, y + 6)], super::canvas::PAPER, 2)?;
    if let Some(goal) = row.goal {
        let x = axis.at(goal);
        canvas.line(&[(x, y - 9), (x, y + 9)], INK, 2)?;
    }
    let bold = Pen { bold: true, ..Pen::TEXT.colored(color) };
    canvas.text(&units::ratio(median), (RIGHT + 58, y), bold.ending())?;
    let goal =
        row.goal.map(|goal| format!("{} {}", if row.met == Some(false) { "> goal" } else { "≤" }, units::ratio(goal)));
    canvas.text(&goal.unwrap_or_default(), (RIGHT + 70, y), Pen::NOTE)
}
