//! Aligned columns of text.

use std::fmt::Write;
use std::time::Duration;

use crate::visible::visible;

/// How a column is aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Blanks follow.
    Left,
    /// Blanks precede.
    Right,
}

/// A column's heading, alignment and widest content in characters.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// What stands above it.
    pub heading: &'static str,
    /// Where its content stands.
    pub align: Align,
    /// Characters that it may have.
    pub widest: usize,
}

/// Lays rows out under headings, two blanks between columns and in front of the first. Content that is too wide is
/// cut and ends with `…`; characters that would break a line or steer a terminal are [escaped](visible).
#[must_use]
pub fn table<const N: usize>(columns: &[Column; N], rows: &[[String; N]]) -> String {
    let cut: Vec<[String; N]> = rows
        .iter()
        .map(|row| std::array::from_fn(|place| shortened(&visible(&row[place]), columns[place].widest)))
        .collect();
    let widths: [usize; N] = std::array::from_fn(|place| {
        let contents = cut.iter().map(|row| row[place].chars().count());
        contents.chain([columns[place].heading.chars().count()]).max().unwrap_or(0)
    });
    let headings = std::array::from_fn(|place| columns[place].heading.to_owned());
    let mut text = String::new();
    for row in std::iter::once(&headings).chain(&cut) {
        let mut line = String::new();
        for (place, content) in row.iter().enumerate() {
            let width = widths[place];
            match columns[place].align {
                Align::Left => write!(line, "  {content:<width$}"),
                Align::Right => write!(line, "  {content:>width$}"),
            }
            .unwrap_or_default();
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn shortened(text: &str, widest: usize) -> String {
    if text.chars().count() <= widest {
        return text.to_owned();
    }
    text.chars().take(widest.saturating_sub(1)).chain(['…']).collect()
}

/// Breaks a text between words into lines of at most `widest` characters. A word that is longer has a line of its own.
#[must_use]
pub fn wrapped(text: &str, widest: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= widest => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Shows a duration with three digits in the unit that suits it.
pub(super) fn duration(elapsed: Duration) -> String {
    let nanoseconds = elapsed.as_nanos();
    let units = [(1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "µs")];
    match units.into_iter().find(|(unit, _)| nanoseconds >= *unit) {
        None => format!("{nanoseconds} ns"),
        Some((unit, name)) => {
            let hundredths = nanoseconds * 100 / unit;
            let (whole, part) = (hundredths / 100, hundredths % 100);
            match whole {
                0..10 => format!("{whole}.{part:02} {name}"),
                10..100 => format!("{whole}.{} {name}", part / 10),
                _ => format!("{whole} {name}"),
            }
        }
    }
}

/// Shows a number with `,` between groups of three digits.
pub(super) fn grouped(number: u64) -> String {
    grouped_digits(&number.to_string())
}

/// Puts `,` between groups of three digits of a whole number.
pub fn grouped_digits(digits: &str) -> String {
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod test {
    use super::{Align, Column, duration, grouped, table, wrapped};
    use std::time::Duration;

    #[test]
    fn columns_are_as_wide_as_they_must_be_and_no_wider_than_allowed() {
        let columns = [
            Column { heading: "n", align: Align::Right, widest: 9 },
            Column { heading: "word", align: Align::Left, widest: 6 },
        ];
        let rows = [["1".to_owned(), "é".to_owned()], ["100".to_owned(), "longer than".to_owned()]];
        assert_eq!(table(&columns, &rows), "    n  word\n    1  é\n  100  longe…\n");
    }

    #[test]
    fn cells_do_not_steer_what_shows_them() {
        let columns = [
            Column { heading: "a", align: Align::Left, widest: 9 },
            Column { heading: "b", align: Align::Left, widest: 9 },
        ];
        let rows = [["1\n2".to_owned(), "\x1b[1m".to_owned()]];
        assert_eq!(table(&columns, &rows), "  a     b\n  1\\n2  \\u{1b}[1m\n");
    }

    #[test]
    fn text_is_wrapped_between_words() {
        assert_eq!(wrapped("", 5), [""; 0]);
        assert_eq!(wrapped("ab cd  efgh ijklmnop q", 5), ["ab cd", "efgh", "ijklmnop", "q"]);
    }

    #[test]
    fn durations_have_three_digits() {
        let shown = [0, 999, 1_000, 12_345, 999_999, 1_500_000, 123_456_789, 61_000_000_000]
            .map(|nanoseconds| duration(Duration::from_nanos(nanoseconds)));
        assert_eq!(shown, ["0 ns", "999 ns", "1.00 µs", "12.3 µs", "999 µs", "1.50 ms", "123 ms", "61.0 s"]);
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!([0, 999, 1000, 31_337, 1_000_000].map(grouped), ["0", "999", "1,000", "31,337", "1,000,000"]);
    }
}
