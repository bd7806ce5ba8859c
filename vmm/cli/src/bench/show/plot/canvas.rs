//! Paper, pens and letters.

use std::fmt;

use plotters::backend::SVGBackend;
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea};
use plotters::element::{Circle, PathElement, Rectangle};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, FontStyle, IntoFont, RGBColor, TextStyle};

/// Width of every plot: in pixels, where it is shown in its size.
pub const WIDTH: i32 = 960;

/// The background.
pub const PAPER: RGBColor = RGBColor(0xfc, 0xfc, 0xfb);
/// What is to be read.
pub const INK: RGBColor = RGBColor(0x22, 0x26, 0x2b);
/// What is read when it is looked for.
pub const FAINT: RGBColor = RGBColor(0x62, 0x69, 0x71);
/// Lines that lead the eye.
pub const GRID: RGBColor = RGBColor(0xe4, 0xe6, 0xe9);
/// wirevm, and a goal that is reached.
pub const OURS: RGBColor = RGBColor(0x00, 0x72, 0xb2);
/// What wirevm is held against.
pub const LIMIT: RGBColor = RGBColor(0xb8, 0x86, 0x0b);
/// A goal that is missed.
pub const MISSED: RGBColor = RGBColor(0xd5, 0x5e, 0x00);

/// Error of drawing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot draw a plot: {0}")]
pub struct PlotError(String);

impl<E: std::error::Error + Send + Sync> From<DrawingAreaErrorKind<E>> for PlotError {
    fn from(error: DrawingAreaErrorKind<E>) -> Self {
        Self(error.to_string())
    }
}

/// A part of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// Its first letter.
    Begin,
    /// Half of it.
    Middle,
    /// Its last letter.
    End,
}

/// What a text is written with.
#[derive(Clone, Copy, Debug)]
pub struct Pen {
    /// Height of the letters in pixels.
    pub size: f64,
    /// Colour.
    pub color: RGBColor,
    /// Whether the letters are bold.
    pub bold: bool,
    /// Which part of the text its place is.
    pub at: Anchor,
}

impl Pen {
    /// A heading.
    pub const HEADING: Self = Self { size: 16.0, color: INK, bold: true, at: Anchor::Begin };
    /// A text that begins at its place.
    pub const TEXT: Self = Self { size: 12.0, color: INK, bold: false, at: Anchor::Begin };
    /// A remark that begins at its place.
    pub const NOTE: Self = Self { color: FAINT, ..Self::TEXT };

    /// Returns a pen for texts that end at their place.
    #[must_use]
    pub const fn ending(self) -> Self {
        Self { at: Anchor::End, ..self }
    }

    /// Returns a pen for texts with their place in the middle.
    #[must_use]
    pub const fn centred(self) -> Self {
        Self { at: Anchor::Middle, ..self }
    }

    /// Returns a pen of another colour.
    #[must_use]
    pub const fn colored(self, color: RGBColor) -> Self {
        Self { color, ..self }
    }
}

/// What is drawn on.
pub struct Canvas<'a> {
    area: DrawingArea<SVGBackend<'a>, Shift>,
}

impl fmt::Debug for Canvas<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Canvas").finish_non_exhaustive()
    }
}

type Done = Result<(), PlotError>;

/// Draws a picture of that height, with a heading and what there is to say below it.
///
/// # Errors
/// [`PlotError`] when something can't be drawn.
pub fn picture(
    height: i32,
    heading: &str,
    note: &str,
    draw: impl FnOnce(&Canvas<'_>) -> Done,
) -> Result<String, PlotError> {
    let mut svg = String::new();
    {
        let size = (WIDTH.unsigned_abs(), height.unsigned_abs());
        let canvas = Canvas { area: SVGBackend::with_string(&mut svg, size).into_drawing_area() };
        canvas.area.fill(&PAPER)?;
        canvas.text(heading, (24, 28), Pen::HEADING)?;
        canvas.text(note, (24, 50), Pen::NOTE)?;
        draw(&canvas)?;
        canvas.area.present()?;
    }
    Ok(svg)
}

impl Canvas<'_> {
    /// Writes a text; its place is in the middle of the letters' height.
    pub fn text(&self, text: &str, place: (i32, i32), pen: Pen) -> Done {
        // The backend makes letters smaller by this.
        let font = ("sans-serif", pen.size * 1.24).into_font();
        let font = if pen.bold { font.style(FontStyle::Bold) } else { font };
        let across = match pen.at {
            Anchor::Begin => HPos::Left,
            Anchor::Middle => HPos::Center,
            Anchor::End => HPos::Right,
        };
        let style = TextStyle::from(font).color(&pen.color).pos(Pos::new(across, VPos::Center));
        Ok(self.area.draw_text(text, &style, place)?)
    }

    /// Draws a line through places.
    pub fn line(&self, places: &[(i32, i32)], color: RGBColor, width: u32) -> Done {
        Ok(self.area.draw(&PathElement::new(places, color.stroke_width(width)))?)
    }

    /// Fills a rectangle between two corners.
    pub fn fill(&self, from: (i32, i32), to: (i32, i32), color: RGBColor) -> Done {
        Ok(self.area.draw(&Rectangle::new([from, to], color.filled()))?)
    }

    /// Draws a disk.
    pub fn disk(&self, place: (i32, i32), radius: i32, color: RGBColor) -> Done {
        Ok(self.area.draw(&Circle::new(place, radius, color.filled()))?)
    }

    /// Draws samples of colours with what they stand for, in a row that begins at a place, and more rows where that is too long.
    /// Returns where the last row is.
    pub fn legend(&self, (left, top): (i32, i32), entries: &[(&str, RGBColor)]) -> Result<i32, PlotError> {
        let (mut x, mut y) = (left, top);
        for (name, color) in entries {
            let width = 18 + width_of(name) + 18;
            if x > left && x + width > WIDTH - 24 {
                (x, y) = (left, y + 20);
            }
            self.fill((x, y - 5), (x + 11, y + 6), *color)?;
            self.text(name, (x + 18, y), Pen::TEXT)?;
            x += width;
        }
        Ok(y)
    }
}

/// About how wide a text of the common size is.
#[must_use]
pub fn width_of(text: &str) -> i32 {
    i32::try_from(text.chars().count()).unwrap_or(WIDTH).saturating_mul(13) / 2
}

/// Cuts a text that has more than `most` letters.
#[must_use]
pub fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}
