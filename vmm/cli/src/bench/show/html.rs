//! What was found, as one page that needs nothing else: no script, no font, no picture from anywhere.

use std::fmt::Write;

use super::super::document::{Case, Document, Goal, GoalOf, Side, Skipped, float};
use super::plot::{PlotError, plots};
use super::units::{amount, ratio};
use super::{about, goals};

const STYLE: &str = include_str!("page.css");
/// Columns of the table of all numbers.
const COLUMNS: [&str; 10] = ["", "samples", "min", "p25", "median", "p75", "p99", "p99.9", "max", "mean"];

/// Returns the page. The document is part of it, as JSON in the element `document`.
///
/// # Errors
/// [`PlotError`] when a plot can't be drawn.
pub fn page(document: &Document) -> Result<String, PlotError> {
    let mut page = String::from("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    page.push_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    push(&mut page, format_args!("<title>wirevm bench, {}</title>\n", escaped(&document.about.date)));
    push(&mut page, format_args!("<style>\n{STYLE}</style>\n</head>\n<body>\n"));
    page.push_str(&header(document));
    page.push_str("<h2>Plots</h2>\n<p>Ratios are formed of pairs that were measured in turns: what slows the machine slows both.</p>\n");
    for plot in plots(document)? {
        push(&mut page, format_args!("<figure aria-label=\"{}\">\n{}</figure>\n", escaped(&plot.title), plot.svg));
    }
    page.push_str("<h2>All numbers</h2>\n<p>For one operation. Below each case: what is held against its goal, and what an operation takes.</p>\n");
    page.push_str(&table(&document.cases));
    page.push_str(&left_out("Not measured", &document.skipped));
    page.push_str(&left_out("Failed", &document.failed));
    page.push_str("<footer>The samples themselves, as <code>--json</code> writes them, are in this page: the element <code>document</code>.");
    page.push_str("</footer>\n");
    push(
        &mut page,
        format_args!("<script type=\"application/json\" id=\"document\">{}</script>\n", embedded(document)),
    );
    page.push_str("</body>\n</html>\n");
    Ok(page)
}

fn header(document: &Document) -> String {
    let goals::Tally { goals, reached } = goals::tally(document);
    let class = if reached < goals { "missed" } else { "met" };
    let mut text = String::from("<h1>wirevm bench</h1>\n");
    let (cases, skipped) = (document.cases.len(), document.skipped.len());
    push(
        &mut text,
        format_args!(
            "<p class=\"sum\">{cases} cases, <span class=\"{class}\">{reached} of {goals} goals reached</span>, {skipped} skipped</p>\n"
        ),
    );
    text.push_str("<dl>\n");
    for (name, value) in about::rows(&document.about) {
        push(&mut text, format_args!("<dt>{name}</dt><dd>{}</dd>\n", escaped(&value)));
    }
    text.push_str("</dl>\n");
    text
}

fn table(cases: &[Case]) -> String {
    let mut text = String::from("<div class=\"wide\"><table>\n<thead><tr>");
    for column in COLUMNS {
        push(&mut text, format_args!("<th>{column}</th>"));
    }
    text.push_str("</tr></thead>\n");
    for case in cases {
        text.push_str(&rows(case));
    }
    text.push_str("</table></div>\n");
    text
}

/// Returns the rows of a case: its name with ratio and goal, its sides, and what there is to know of them.
fn rows(case: &Case) -> String {
    let mut text = format!(
        "<tbody>\n<tr><td colspan=\"5\">{}</td><td colspan=\"5\">{}</td></tr>\n",
        escaped(&case.name),
        judged(case)
    );
    text.push_str(&side("wirevm", &case.ours, case));
    if let Some(limit) = &case.limit {
        text.push_str(&side("limit", limit, case));
    }
    let mut notes = vec![escaped(&format!("{} {}", case.title, case.conditions))];
    let limit = case.limit.as_ref().map_or_else(String::new, |limit| format!("; limit: {}", limit.what));
    notes.push(escaped(&format!("wirevm: {}{limit}.", case.ours.what)));
    if !case.split.is_empty() {
        let parts = case.split.iter().map(|part| {
            let class = if goals::is_exceeded(part) { " class=\"missed\"" } else { "" };
            format!("<span{class}>{}</span>", escaped(&goals::told(part)))
        });
        notes.push(parts.collect::<Vec<_>>().join(", "));
    }
    push(&mut text, format_args!("<tr><td class=\"note\" colspan=\"10\">{}</td></tr>\n</tbody>\n", notes.join("<br>")));
    text
}

fn side(name: &str, side: &Side, case: &Case) -> String {
    let found = side.quantiles;
    let mut text = format!("<tr><td>{name}</td><td>{}</td>", super::units::number(float(found.count)));
    let values = [found.min, found.p25, found.p50, found.p75, found.p99, found.p999, found.max].map(float);
    for value in values.into_iter().chain([found.mean]) {
        let shown = amount(value / float(case.operations.max(1)), &case.unit);
        push(&mut text, format_args!("<td>{}</td>", escaped(&shown)));
    }
    text.push_str("</tr>\n");
    text
}

/// Returns ratio and goal of a case, marked where it is missed.
fn judged(case: &Case) -> String {
    let mut text = case.ratio.map_or_else(String::new, |found| {
        let [low, high] = found.confidence.map(ratio);
        format!("ratio {} <span title=\"95 % interval of the median\">[{low}–{high}]</span> ", ratio(found.median))
    });
    if let (Some(Goal { of, .. }), Some(met)) = (case.goal, case.is_met()) {
        let number = match of {
            GoalOf::Ratio => String::new(),
            GoalOf::Value | GoalOf::Max => {
                case.reached().map_or_else(String::new, |value| amount(value, &case.unit) + ", ")
            }
        };
        let (class, word) = if met { ("met", "reached") } else { ("missed", "missed") };
        let goal = escaped(&format!("{number}goal {} {word}", goals::goal(case)));
        push(&mut text, format_args!("<span class=\"{class}\">{goal}</span>"));
    }
    text
}

fn left_out(heading: &str, cases: &[Skipped]) -> String {
    if cases.is_empty() {
        return String::new();
    }
    let mut text = format!("<h2>{heading}</h2>\n<ul>\n");
    for case in cases {
        push(&mut text, format_args!("<li>{}: {}</li>\n", escaped(&case.name), escaped(&case.reason)));
    }
    text.push_str("</ul>\n");
    text
}

/// Returns the document as JSON that can't end the element it is in: a `<` is only ever part of a string, where it has another name.
fn embedded(document: &Document) -> String {
    // Texts, numbers and lists of them have a form in JSON.
    serde_json::to_string(document).unwrap_or_default().replace('<', "\\u003c")
}

/// Returns a text with names in the place of what HTML would take for its own.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            letter => safe.push(letter),
        }
    }
    safe
}

fn push(text: &mut String, what: std::fmt::Arguments<'_>) {
    // Writing to a String can't fail.
    text.write_fmt(what).unwrap_or_default();
}

#[cfg(test)]
mod test;
