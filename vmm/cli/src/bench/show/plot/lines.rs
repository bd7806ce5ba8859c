//! What depends on a size or a count: wirevm and its limit as two lines.

use plotters::style::RGBColor;

use super::super::super::document::{Case, Point, Side};
use super::super::units;
use super::axis::{Axis, each};
use super::canvas::{Canvas, GRID, LIMIT, OURS, Pen, PlotError, WIDTH, picture};
use super::{Plot, file_name};

const LEFT: i32 = 96;
const RIGHT: i32 = WIDTH - 48;
const TOP: i32 = 104;
const BOTTOM: i32 = 400;
/// Least distance of two texts below the horizontal axis.
const APART: i32 = 62;

/// Draws the cases that are points of a plot.
///
/// # Errors
/// [`PlotError`].
pub fn draw(name: &str, cases: &[Case]) -> Result<Plot, PlotError> {
    let here = |case: &&Case| case.point.as_ref().is_some_and(|point| point.plot == name);
    let mut points: Vec<(&Point, &Case)> =
        cases.iter().filter(here).filter_map(|case| Some((case.point.as_ref()?, case))).collect();
    points.sort_by(|(one, _), (other, _)| one.x.total_cmp(&other.x));
    let horizontal = Axis::over(points.iter().map(|(point, _)| point.x), (LEFT, RIGHT));
    let vertical = Axis::over(points.iter().flat_map(|(_, case)| extent(case)), (BOTTOM, TOP));
    let of = points.first().map_or_else(String::new, |(point, _)| point.unit.clone());
    let unit = points.first().map_or("", |(_, case)| &case.unit);
    let note = format!("One operation: median and p25–p75, by {of}. Both axes are logarithmic.");
    let svg = picture(BOTTOM + 76, name, &note, |canvas| {
        let limited = points.iter().find_map(|(_, case)| case.limit.as_ref());
        let limit = limited.map(|limit| format!("limit: {}", limit.what));
        let ours = points.first().map_or_else(String::new, |(_, case)| format!("wirevm: {}", case.ours.what));
        let mut entries = vec![(&*ours, OURS)];
        entries.extend(limit.as_deref().map(|limit| (limit, LIMIT)));
        canvas.legend((24, 76), &entries)?;
        for mark in vertical.marks(8) {
            let y = vertical.at(mark);
            canvas.line(&[(LEFT, y), (RIGHT, y)], GRID, 1)?;
            canvas.text(&units::mark(mark, unit), (LEFT - 12, y), Pen::NOTE.ending())?;
        }
        feet(canvas, &horizontal, &points)?;
        side(canvas, (&horizontal, &vertical), &points, (LIMIT, 3), |case| case.limit.as_ref())?;
        side(canvas, (&horizontal, &vertical), &points, (OURS, -3), |case| Some(&case.ours))
    })?;
    Ok(Plot { file: file_name("by", name), title: name.to_owned(), svg })
}

/// Returns the values between which a case is drawn.
fn extent(case: &Case) -> impl Iterator<Item = f64> {
    let sides = [Some(&case.ours), case.limit.as_ref()].into_iter().flatten();
    sides.flat_map(|side| [side.quantiles.p25, side.quantiles.p75]).map(|value| each(value, case.operations))
}

/// Writes places and ratios below the axis, as many as have room.
fn feet(canvas: &Canvas<'_>, axis: &Axis, points: &[(&Point, &Case)]) -> Result<(), PlotError> {
    canvas.line(&[(LEFT, BOTTOM), (RIGHT, BOTTOM)], GRID, 1)?;
    if points.iter().any(|(_, case)| case.ratio.is_some()) {
        canvas.text("ratio", (24, BOTTOM + 44), Pen::NOTE)?;
    }
    let mut last = i32::MIN / 2;
    for (point, case) in points {
        let x = axis.at(point.x);
        canvas.line(&[(x, BOTTOM), (x, BOTTOM + 4)], GRID, 1)?;
        if x - last < APART {
            continue;
        }
        last = x;
        canvas.text(&units::mark(point.x, &point.unit), (x, BOTTOM + 20), Pen::NOTE.centred())?;
        if let Some(found) = case.ratio {
            canvas.text(&units::ratio(found.median), (x, BOTTOM + 44), Pen::TEXT.centred())?;
        }
    }
    Ok(())
}

/// Draws one side: a line through the medians, and bars from quartile to quartile. The sides stand a little apart, for their bars
/// not to hide each other.
fn side<'a>(
    canvas: &Canvas<'_>,
    (horizontal, vertical): (&Axis, &Axis),
    points: &[(&'a Point, &'a Case)],
    (color, aside): (RGBColor, i32),
    side: impl Fn(&'a Case) -> Option<&'a Side>,
) -> Result<(), PlotError> {
    let mut medians = Vec::new();
    for (point, case) in points {
        let Some(found) = side(case).map(|side| side.quantiles).filter(|found| found.count > 0) else { continue };
        let x = horizontal.at(point.x) + aside;
        let [low, middle, high] =
            [found.p25, found.p50, found.p75].map(|value| vertical.at(each(value, case.operations)));
        canvas.line(&[(x, low), (x, high)], color, 1)?;
        for end in [low, high] {
            canvas.line(&[(x - 3, end), (x + 3, end)], color, 1)?;
        }
        medians.push((x, middle));
    }
    canvas.line(&medians, color, 2)?;
    for (x, y) in medians {
        // The shape tells the sides apart where the colour does not.
        if aside < 0 {
            canvas.disk((x, y), 4, color)?;
        } else {
            canvas.fill((x - 4, y - 4), (x + 4, y + 4), color)?;
        }
    }
    Ok(())
}
