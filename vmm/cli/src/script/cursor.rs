//! A place in the tokens of one line.

use super::lexer::{Kind, Token};
use super::syntax_error::Fault;
use crate::size;

/// Bytes in a page.
pub(super) const PAGE_SIZE: u64 = wirevm_map::PAGE_SIZE;

pub(super) struct Cursor<'a> {
    tokens: &'a [Token],
    place: usize,
    /// The names that are defined above this line.
    names: &'a [String],
}

impl<'a> Cursor<'a> {
    pub(super) const fn new(tokens: &'a [Token], names: &'a [String]) -> Self {
        Self { tokens, place: 0, names }
    }

    pub(super) fn token(&self) -> Option<&'a Token> {
        self.tokens.get(self.place)
    }

    pub(super) fn kind(&self) -> Option<&'a Kind> {
        self.token().map(|token| &token.kind)
    }

    pub(super) fn kind_after(&self) -> Option<&'a Kind> {
        self.tokens.get(self.place + 1).map(|token| &token.kind)
    }

    pub(super) const fn step(&mut self) {
        self.place += 1;
    }

    /// Steps over the mark if it comes next.
    pub(super) fn takes_mark(&mut self, mark: &str) -> bool {
        let found = matches!(self.kind(), Some(Kind::Mark(found)) if *found == mark);
        self.place += usize::from(found);
        found
    }

    /// Steps over the word if it comes next.
    pub(super) fn takes_word(&mut self, word: &str) -> bool {
        let found = matches!(self.kind(), Some(Kind::Word(found)) if found == word);
        self.place += usize::from(found);
        found
    }

    pub(super) fn mark(&mut self, mark: &str) -> Result<(), Fault> {
        if self.takes_mark(mark) { Ok(()) } else { Err(self.wanted(&format!("'{mark}'"))) }
    }

    /// Says what should stand here, and what does.
    pub(super) fn wanted(&self, what: &str) -> Fault {
        match self.token() {
            Some(token) => self.fault(format!("expected {what}, not {}", token.kind.describe())),
            None => self.fault(format!("expected {what} at the end of the line")),
        }
    }

    /// Complains about the token that comes next.
    pub(super) fn fault(&self, reason: impl Into<String>) -> Fault {
        let reason = reason.into();
        match (self.token(), self.tokens.last()) {
            (Some(token), _) => Fault { column: token.column, width: token.width, reason },
            (None, Some(last)) => Fault { column: last.column + last.width, width: 1, reason },
            (None, None) => Fault { column: 1, width: 1, reason },
        }
    }

    /// Reads a number without suffix that may be at most `most`.
    pub(super) fn number(&mut self, what: &str, most: u64) -> Result<u64, Fault> {
        let Some(Kind::Number(text)) = self.kind() else {
            return Err(self.wanted(what));
        };
        let plain = text.starts_with("0x") || text.chars().all(|c| c.is_ascii_digit() || c == '_');
        if !plain {
            return Err(self.wanted(what));
        }
        let number = size::parse(text).map_err(|error| self.fault(error.to_string()))?;
        if number > most {
            return Err(self.fault(format!("{text} is too large: {what} is at most {most}")));
        }
        self.step();
        Ok(number)
    }

    /// Reads a size: a number with an optional suffix, or a number of `pages`.
    pub(super) fn size(&mut self, what: &str) -> Result<u64, Fault> {
        let Some(Kind::Number(text)) = self.kind() else {
            return Err(self.wanted(what));
        };
        let size = size::parse(text).map_err(|error| self.fault(error.to_string()))?;
        let pages = matches!(self.kind_after(), Some(Kind::Word(word)) if word == "pages" || word == "page");
        if !pages {
            self.step();
            return Ok(size);
        }
        if text.ends_with(|c: char| c.is_ascii_alphabetic()) && !text.starts_with("0x") {
            return Err(self.fault("a number of pages has no suffix"));
        }
        let size = size.checked_mul(PAGE_SIZE);
        let size = size.ok_or_else(|| self.fault(format!("{text} pages are more than 2^64 - 1 bytes")))?;
        self.step();
        self.step();
        Ok(size)
    }

    /// Reads the name of something that is defined above.
    pub(super) fn name(&mut self) -> Result<Option<String>, Fault> {
        let Some(Kind::Word(name)) = self.kind() else {
            return Ok(None);
        };
        if !self.names.contains(name) {
            let known = match self.names {
                [] => "no line above defines a name".to_owned(),
                names => format!("the lines above define {}", names.join(", ")),
            };
            return Err(self.fault(format!("there is no '{name}': {known}")));
        }
        self.step();
        Ok(Some(name.clone()))
    }
}
