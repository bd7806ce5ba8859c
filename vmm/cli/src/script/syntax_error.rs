//! What is wrong with a script, and where.

use std::fmt;

/// One error in a script.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {reason}")]
pub struct SyntaxError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// How many characters are wrong, at least 1.
    pub width: usize,
    /// The line as it stands in the script.
    pub text: String,
    /// What is wrong, as a clause without a full stop.
    pub reason: String,
}

/// Every error in a script (the first [`SyntaxErrors::MAX`] of them).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct SyntaxErrors {
    errors: Vec<SyntaxError>,
    /// How many more there are.
    more: usize,
}

/// A place in one line, for an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// Column in characters, from 1.
    pub(super) column: usize,
    /// How many characters.
    pub(super) width: usize,
    pub(super) reason: String,
}

impl SyntaxErrors {
    /// Most errors that are kept.
    pub const MAX: usize = 20;
    /// Most characters of the script's line that are shown in front of and behind an error.
    const SHOWN: usize = 80;

    /// Returns the error collection of one error.
    pub(super) fn one(line: usize, text: &str, fault: Fault) -> Self {
        let mut errors = Self { errors: Vec::new(), more: 0 };
        errors.push(line, text, fault);
        errors
    }

    /// Returns a collection without errors, to be filled.
    pub(super) const fn none() -> Self {
        Self { errors: Vec::new(), more: 0 }
    }

    pub(super) fn push(&mut self, line: usize, text: &str, fault: Fault) {
        if self.errors.len() == Self::MAX {
            self.more += 1;
            return;
        }
        let Fault { column, width, reason } = fault;
        self.errors.push(SyntaxError { line, column, width: width.max(1), text: text.to_owned(), reason });
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    /// Returns the errors, in the order of their lines.
    #[must_use]
    pub fn errors(&self) -> &[SyntaxError] {
        &self.errors
    }

    /// Returns the errors as a compiler shows them: `NAME:LINE:COLUMN: reason`, the line, a caret under the place.
    #[must_use]
    pub fn render(&self, name: &str) -> String {
        let mut text = String::new();
        for error in &self.errors {
            let SyntaxError { line, column, reason, .. } = error;
            text.push_str(&format!("{name}:{line}:{column}: {reason}\n"));
            text.push_str(&Self::excerpt(error));
        }
        if self.more > 0 {
            text.push_str(&format!("{name}: and {} more errors\n", self.more));
        }
        text
    }

    /// Returns the part of the line around the error, and the carets under it.
    fn excerpt(error: &SyntaxError) -> String {
        let start = (error.column - 1).saturating_sub(Self::SHOWN);
        // Tabs and stray control characters would move the caret, or the terminal.
        let shown = |c: char| if c.is_control() { ' ' } else { c };
        let line: String = error.text.chars().skip(start).take(2 * Self::SHOWN).map(shown).collect();
        let before = error.column - 1 - start;
        let width = error.width.min(line.chars().count().saturating_sub(before)).max(1);
        format!("  | {}\n  | {}{}\n", line.trim_end(), " ".repeat(before), "^".repeat(width))
    }
}

impl fmt::Display for SyntaxErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(first) = self.errors.first() else {
            return f.write_str("no error");
        };
        write!(f, "{first}")?;
        match self.errors.len() - 1 + self.more {
            0 => Ok(()),
            more => write!(f, " (and {more} more)"),
        }
    }
}

#[cfg(test)]
mod test {
    use super::{Fault, SyntaxErrors};

    fn fault(column: usize, width: usize) -> Fault {
        Fault { column, width, reason: "no such flag".into() }
    }

    #[test]
    fn error_is_rendered_with_its_line_and_carets() {
        let errors = SyntaxErrors::one(3, "wire\ta usr", fault(8, 3));
        assert_eq!(errors.render("x.wvm"), "x.wvm:3:8: no such flag\n  | wire a usr\n  |        ^^^\n");
        assert_eq!(errors.to_string(), "line 3, column 8: no such flag");
    }

    #[test]
    fn error_far_into_a_long_line_is_shown_in_part() {
        let text = "é".repeat(4000);
        let rendered = SyntaxErrors::one(1, &text, fault(3000, 9999)).render("x");
        assert_eq!(rendered.lines().nth(1).map(|line| line.chars().count()), Some(4 + 160));
        assert_eq!(rendered.lines().nth(2), Some(format!("  | {}{}", " ".repeat(80), "^".repeat(80)).as_str()));
        let at_end = SyntaxErrors::one(1, "ab", fault(3, 1)).render("x");
        assert!(at_end.ends_with("  | ab\n  |   ^\n"), "{at_end}");
    }

    #[test]
    fn errors_beyond_the_most_are_counted() {
        let mut errors = SyntaxErrors::one(1, "", fault(1, 1));
        for line in 2..=SyntaxErrors::MAX + 3 {
            errors.push(line, "", fault(1, 1));
        }
        assert_eq!(errors.errors().len(), SyntaxErrors::MAX);
        assert!(errors.render("x").ends_with("x: and 3 more errors\n"));
        assert!(errors.to_string().ends_with("(and 22 more)"));
    }
}
