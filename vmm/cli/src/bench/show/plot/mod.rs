//! Plots, as SVG.
//!
//! The colours can be told apart by people who see fewer of them (Okabe and Ito's), and what they say is said by a shape or a word
//! as well. The background is part of the picture: it looks the same on a light page and on a dark one.

mod axis;
mod canvas;
mod lines;
mod overview;
mod parts;
mod tails;

use super::super::document::{Case, Document};

pub use self::canvas::PlotError;

/// A picture and what it shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plot {
    /// Name of a file for it, with `.svg`.
    pub file: String,
    /// What it shows, in a few words.
    pub title: String,
    /// The picture.
    pub svg: String,
}

/// Draws all that a document has to show: the ratios, what depends on a size, tails, and where time goes.
///
/// # Errors
/// [`PlotError`] when a plot can't be drawn.
pub fn plots(document: &Document) -> Result<Vec<Plot>, PlotError> {
    let mut plots = Vec::new();
    plots.extend(overview::draw(&document.cases)?);
    for name in families(&document.cases) {
        plots.push(lines::draw(name, &document.cases)?);
    }
    for case in document.cases.iter().filter(|case| tails::has_tail(case)) {
        plots.push(tails::draw(case)?);
    }
    plots.extend(parts::draw(&document.cases)?);
    Ok(plots)
}

/// Returns the names of plots that cases are points of, each once, in the order of the cases.
fn families(cases: &[Case]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for point in cases.iter().filter_map(|case| case.point.as_ref()) {
        if !names.contains(&&*point.plot) {
            names.push(&point.plot);
        }
    }
    names
}

/// Makes a file's name of words: small letters and digits with `-` between them.
fn file_name(kind: &str, words: &str) -> String {
    let letters =
        words.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { ' ' });
    let letters: String = letters.collect();
    let words: Vec<_> = [kind].into_iter().chain(letters.split_whitespace()).collect();
    format!("{}.svg", words.join("-"))
}

#[cfg(test)]
mod test;
