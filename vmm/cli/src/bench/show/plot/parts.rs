//! Where the time of an operation goes.

use plotters::coord::ranged1d::Ranged;
use plotters::coord::types::RangedCoordf64;
use plotters::style::RGBColor;

use super::super::super::document::{Case, Part};
use super::super::units;
use super::Plot;
use super::axis::pixels;
use super::canvas::{Canvas, INK, PAPER, Pen, PlotError, WIDTH, cut, picture, width_of};

const LEFT: i32 = 330;
const RIGHT: i32 = WIDTH - 110;
const ROW: i32 = 26;
/// The colours of parts, in the order in which their names appear, and of what is written on them.
const COLORS: [(RGBColor, RGBColor); 7] = [
    (RGBColor(0x00, 0x72, 0xb2), PAPER),
    (RGBColor(0xe6, 0x9f, 0x00), INK),
    (RGBColor(0x00, 0x9e, 0x73), PAPER),
    (RGBColor(0xcc, 0x79, 0xa7), INK),
    (RGBColor(0x56, 0xb4, 0xe9), INK),
    (RGBColor(0xd5, 0x5e, 0x00), PAPER),
    (RGBColor(0x8a, 0x8f, 0x96), INK),
];

/// Draws the cases whose time is known in several parts; nothing where there are none.
///
/// # Errors
/// [`PlotError`].
pub fn draw(cases: &[Case]) -> Result<Option<Plot>, PlotError> {
    let rows: Vec<(&Case, Vec<&Part>)> =
        cases.iter().map(|case| (case, times(case))).filter(|(_, parts)| parts.len() > 1).collect();
    if rows.is_empty() {
        return Ok(None);
    }
    let mut names: Vec<&str> = Vec::new();
    for part in rows.iter().flat_map(|(_, parts)| parts) {
        if !names.contains(&&*part.name) {
            names.push(&part.name);
        }
    }
    let entries: Vec<(&str, RGBColor)> = names.iter().map(|name| (*name, colors(&names, name).0)).collect();
    let title = "Where time goes".to_owned();
    let note = "One operation of wirevm, and how long all its parts take together.";
    // The legend may take several rows.
    let wide: i32 = names.iter().map(|name| width_of(name) + 36).sum();
    let top = 104 + wide / (WIDTH - 160) * 20;
    let svg = picture(top + pixels(rows.len(), ROW) + 24, &title, note, |canvas| {
        canvas.legend((24, 76), &entries)?;
        for (place, (case, parts)) in rows.iter().enumerate() {
            bar(canvas, case, parts, &names, top + pixels(place, ROW) + ROW / 2)?;
        }
        Ok(())
    })?;
    Ok(Some(Plot { file: "time.svg".to_owned(), title, svg }))
}

fn times(case: &Case) -> Vec<&Part> {
    case.split.iter().filter(|part| part.unit == "ns" && part.value > 0.0).collect()
}

fn colors(names: &[&str], name: &str) -> (RGBColor, RGBColor) {
    let place = names.iter().position(|known| *known == name).unwrap_or(0);
    COLORS[place % COLORS.len()]
}

fn bar(canvas: &Canvas<'_>, case: &Case, parts: &[&Part], names: &[&str], y: i32) -> Result<(), PlotError> {
    canvas.text(&cut(&case.name, 46), (LEFT - 14, y), Pen::TEXT.ending())?;
    let all: f64 = parts.iter().map(|part| part.value).sum();
    let mut before = 0.0;
    for part in parts {
        let (fill, ink) = colors(names, &part.name);
        let [from, to] = [before, before + part.value].map(|time| place(time / all));
        before += part.value;
        canvas.fill((from, y - 9), (to, y + 9), fill)?;
        canvas.line(&[(to, y - 9), (to, y + 9)], PAPER, 1)?;
        let share = format!("{:.0} %", part.value / all * 100.0);
        if to - from > 8 + width_of(&share) {
            canvas.text(&share, (from.midpoint(to), y), Pen::TEXT.colored(ink).centred())?;
        }
    }
    canvas.text(&units::amount(all, "ns"), (WIDTH - 24, y), Pen::TEXT.ending())
}

/// Returns where a share of a bar ends.
fn place(share: f64) -> i32 {
    RangedCoordf64::from(0.0..1.0).map(&share, (LEFT, RIGHT))
}
