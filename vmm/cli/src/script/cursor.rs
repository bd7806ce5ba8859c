//! A place in the tokens of one line.

use super::ast::Task;
use super::lexer::{Kind, Token};
use super::names::Names;
use super::syntax_error::Fault;
use crate::size;

/// Bytes in a page.
pub(super) const PAGE_SIZE: u64 = wirevm_map::PAGE_SIZE;

pub(super) struct Cursor<'a> {
    tokens: &'a [Token],
    place: usize,
    /// What is named above this line.
    names: &'a Names,
}

impl<'a> Cursor<'a> {
    pub(super) const fn new(tokens: &'a [Token], names: &'a Names) -> Self {
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

    /// Returns the place in front of the next token.
    pub(super) const fn place(&self) -> usize {
        self.place
    }

    /// Goes back to a place, to complain about it.
    pub(super) const fn back_to(&mut self, place: usize) {
        self.place = place;
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

    /// Complains about the token that was stepped over last.
    pub(super) fn fault_behind(&self, reason: &str) -> Fault {
        Self { tokens: self.tokens, place: self.place.saturating_sub(1), names: self.names }.fault(reason)
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

    /// Tells whether `NAME =` or `TASK.NAME =` comes next.
    pub(super) fn kind_is_name_definition(&self) -> bool {
        let is_mark = |ahead: usize, mark: &str| matches!(self.tokens.get(self.place + ahead).map(|token| &token.kind), Some(Kind::Mark(found)) if *found == mark);
        is_mark(1, "=") || is_mark(1, ".") && is_mark(3, "=")
    }

    pub(super) const fn names(&self) -> &'a Names {
        self.names
    }

    /// Reads a word of a few.
    pub(super) fn choice<T: Copy>(&mut self, words: &[(&str, T)], what: &str) -> Result<T, Fault> {
        let found = match self.kind() {
            Some(Kind::Word(word)) => words.iter().find(|(known, _)| known == word),
            _ => None,
        };
        let Some((_, value)) = found else {
            let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            return Err(self.wanted(&format!("{what} ({})", words.join(", "))));
        };
        self.step();
        Ok(*value)
    }

    /// Reads the name of memory in a task, such as `a` or `t.a`, if a word comes next.
    pub(super) fn memory(&mut self) -> Result<Option<(Task, String)>, Fault> {
        let Some(Kind::Word(_)) = self.kind() else {
            return Ok(None);
        };
        let task = self.task_in_front()?.unwrap_or(None);
        let Some(Kind::Word(name)) = self.kind() else {
            return Err(self.wanted("the name of memory"));
        };
        self.names.memory(&task, name).map_err(|reason| self.fault(reason))?;
        self.step();
        Ok(Some((task, name.clone())))
    }

    /// Reads `TASK.` if it comes next.
    pub(super) fn task_in_front(&mut self) -> Result<Option<Task>, Fault> {
        let (Some(Kind::Word(_)), Some(Kind::Mark("."))) = (self.kind(), self.kind_after()) else {
            return Ok(None);
        };
        let task = self.task()?;
        self.step();
        Ok(Some(task))
    }

    /// Reads the name of a task that lives.
    pub(super) fn task(&mut self) -> Result<Task, Fault> {
        let Some(Kind::Word(name)) = self.kind() else {
            return Err(self.wanted("a task"));
        };
        let task = self.names.task(name).map_err(|reason| self.fault(reason))?;
        self.step();
        Ok(task)
    }

    /// Reads the name of a task, if a word comes next; otherwise the first task is meant.
    pub(super) fn optional_task(&mut self) -> Result<Task, Fault> {
        if let Some(Kind::Word(_)) = self.kind() { self.task() } else { Ok(None) }
    }

    /// Reads the name of a memory object.
    pub(super) fn object(&mut self) -> Result<String, Fault> {
        let Some(Kind::Word(name)) = self.kind() else {
            return Err(self.wanted("a memory object"));
        };
        self.names.object(name).map_err(|reason| self.fault(reason))?;
        self.step();
        Ok(name.clone())
    }

    /// Reads the name of a thread that is not joined.
    pub(super) fn thread(&mut self) -> Result<String, Fault> {
        let Some(Kind::Word(name)) = self.kind() else {
            return Err(self.wanted("a thread"));
        };
        self.names.thread(name).map_err(|reason| self.fault(reason))?;
        self.step();
        Ok(name.clone())
    }
}
