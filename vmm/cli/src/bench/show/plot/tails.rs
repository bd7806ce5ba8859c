//! The whole distribution of both sides, with room for the slowest.

use plotters::style::RGBColor;

use super::super::super::document::{Case, Side, float};
use super::super::units;
use super::axis::{Axis, each};
use super::canvas::{Canvas, GRID, LIMIT, OURS, Pen, PlotError, WIDTH, picture};
use super::{Plot, file_name};

const LEFT: i32 = 96;
const RIGHT: i32 = WIDTH - 48;
const TOP: i32 = 104;
const BOTTOM: i32 = 400;
/// Fewer samples have no tail worth a plot.
const FEWEST: usize = 100;
/// Places of a line.
const PLACES: usize = 240;
/// How many times rarer each mark of the axis is, and what is said of it.
const MARKS: [(f64, &str); 8] = [
    (1.0, "0 %"),
    (2.0, "50 %"),
    (10.0, "90 %"),
    (100.0, "99 %"),
    (1e3, "99.9 %"),
    (1e4, "99.99 %"),
    (1e5, "99.999 %"),
    (1e6, "99.9999 %"),
];

/// Tells whether a case is to be drawn: a distribution of many samples on both sides, and no point of another plot.
#[must_use]
pub fn has_tail(case: &Case) -> bool {
    let many = |side: &Side| side.samples.len() > FEWEST;
    case.point.is_none() && many(&case.ours) && case.limit.as_ref().is_some_and(many)
}

/// Draws a case.
///
/// # Errors
/// [`PlotError`].
pub fn draw(case: &Case) -> Result<Plot, PlotError> {
    let ours = sorted(&case.ours, case.operations);
    let limit = case.limit.as_ref().map_or_else(Vec::new, |limit| sorted(limit, case.operations));
    let rarest = float(ours.len().max(limit.len()) as u64 * 2);
    let horizontal = Axis::over([1.0, rarest].into_iter(), (LEFT, RIGHT));
    let vertical = Axis::over(ours.iter().chain(&limit).copied(), (BOTTOM, TOP));
    let note = format!("{} So many of all take no longer than that.", case.title);
    let svg = picture(BOTTOM + 48, &case.name, &note, |canvas| {
        let limited = case.limit.as_ref().map_or("", |limit| &limit.what);
        let entries = [(format!("wirevm: {}", case.ours.what), OURS), (format!("limit: {limited}"), LIMIT)];
        canvas.legend((24, 76), &[(&entries[0].0, OURS), (&entries[1].0, LIMIT)])?;
        for mark in vertical.marks(8) {
            let y = vertical.at(mark);
            canvas.line(&[(LEFT, y), (RIGHT, y)], GRID, 1)?;
            canvas.text(&units::mark(mark, &case.unit), (LEFT - 12, y), Pen::NOTE.ending())?;
        }
        for (rarity, label) in MARKS.into_iter().filter(|(rarity, _)| horizontal.holds(*rarity)) {
            let x = horizontal.at(rarity);
            canvas.line(&[(x, TOP), (x, BOTTOM)], GRID, 1)?;
            canvas.text(label, (x, BOTTOM + 18), Pen::NOTE.centred())?;
        }
        line(canvas, (&horizontal, &vertical), &limit, LIMIT)?;
        line(canvas, (&horizontal, &vertical), &ours, OURS)
    })?;
    Ok(Plot { file: file_name("tail", &case.name), title: case.name.clone(), svg })
}

fn sorted(side: &Side, operations: u64) -> Vec<f64> {
    let mut values: Vec<f64> = side.samples.iter().map(|sample| each(*sample, operations)).collect();
    values.sort_by(f64::total_cmp);
    values
}

/// Draws sorted values over how rare greater ones are.
fn line(canvas: &Canvas<'_>, axes: (&Axis, &Axis), values: &[f64], color: RGBColor) -> Result<(), PlotError> {
    let count = float(values.len() as u64);
    let mut places: Vec<(i32, i32)> = Vec::new();
    let every = values.len().div_ceil(PLACES);
    for (place, value) in values.iter().enumerate() {
        let rarity = count / (count - float(place as u64) - 0.5);
        // The tail is whole; of the many before it, some are enough.
        if place.is_multiple_of(every) || values.len() - place <= PLACES {
            places.push((axes.0.at(rarity), axes.1.at(*value)));
        }
    }
    places.dedup();
    canvas.line(&places, color, 2)?;
    match places.last() {
        Some((x, y)) if color == OURS => canvas.disk((*x, *y), 4, color),
        Some((x, y)) => canvas.fill((x - 4, y - 4), (x + 4, y + 4), color),
        None => Ok(()),
    }
}
