//! What is about programs, as text.

use std::fmt;

use crate::program::Wanted;
use crate::script::lexer::{Kind, tokens};

/// A text as a string of the language.
pub(in crate::script) struct Quoted<'a>(pub(in crate::script) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for c in self.0.chars() {
            match c {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                c if c.is_control() => {
                    let mut bytes = [0; 4];
                    c.encode_utf8(&mut bytes).bytes().try_for_each(|byte| write!(f, "\\x{byte:02x}"))?;
                }
                c => write!(f, "{c}")?,
            }
        }
        f.write_str("\"")
    }
}

/// A program with its arguments.
pub(super) struct Command<'a>(pub(super) &'a Wanted);

impl fmt::Display for Command<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Bare(self.0.name()))?;
        self.0.arguments().iter().try_for_each(|argument| write!(f, " {}", Bare(argument)))
    }
}

/// A text as a word or a number where it is one, else as a string.
struct Bare<'a>(&'a str);

impl fmt::Display for Bare<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tokens = tokens(self.0).unwrap_or_default();
        let is_bare = match &*tokens {
            [token] => matches!(&token.kind, Kind::Word(text) | Kind::Number(text) if text == self.0),
            _ => false,
        };
        if is_bare { f.write_str(self.0) } else { write!(f, "{}", Quoted(self.0)) }
    }
}
