//! Characters into tokens, one line at a time.

use std::iter::Peekable;
use std::str::Chars;

use super::syntax_error::Fault;

/// The smallest piece of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A letter or `_`, then letters, digits, `_`, and `-` between letters.
    Word(String),
    /// A digit, then letters, digits, `_`. What it is worth depends on where it stands.
    Number(String),
    /// The bytes of a string.
    Text(Vec<u8>),
    /// The hexadecimal digits behind `hex:`.
    Hex(String),
    /// Punctuation.
    Mark(&'static str),
}

/// A token and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    /// First column in characters, from 1.
    pub(super) column: usize,
    /// Characters.
    pub(super) width: usize,
}

impl Kind {
    /// Names the token for a message.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Word(text) | Self::Number(text) => format!("'{text}'"),
            Self::Text(_) => "a string".to_owned(),
            Self::Hex(digits) => format!("'hex:{digits}'"),
            Self::Mark(mark) => format!("'{mark}'"),
        }
    }
}

/// Punctuation; a longer mark stands before its own beginning.
const MARKS: [&str; 13] = ["=>", "...", "..", ".", "…", "[", "(", ")", ",", "@", "+", "=", ":"];

/// Cuts one line into tokens; a comment ends it.
pub(super) fn tokens(line: &str) -> Result<Vec<Token>, Fault> {
    let mut lexer = Lexer { rest: line.chars().peekable(), column: 1 };
    let mut tokens = Vec::new();
    while let Some(token) = lexer.token()? {
        tokens.push(token);
    }
    Ok(tokens)
}

struct Lexer<'a> {
    rest: Peekable<Chars<'a>>,
    /// Column of the next character.
    column: usize,
}

impl Lexer<'_> {
    fn next(&mut self) -> Option<char> {
        self.column += 1;
        self.rest.next()
    }

    fn fault(&self, start: usize, reason: impl Into<String>) -> Fault {
        Fault { column: start, width: self.column.saturating_sub(start).max(1), reason: reason.into() }
    }

    fn token(&mut self) -> Result<Option<Token>, Fault> {
        while self.rest.next_if(|c| matches!(c, ' ' | '\t')).is_some() {
            self.column += 1;
        }
        let start = self.column;
        let kind = match self.rest.peek() {
            None | Some('#') => return Ok(None),
            Some('"') => self.text(start)?,
            Some(c) if c.is_ascii_digit() => Kind::Number(self.word()),
            Some(c) if c.is_ascii_alphabetic() || *c == '_' => match self.word() {
                word if word == "hex" && self.rest.next_if_eq(&':').is_some() => {
                    self.column += 1;
                    Kind::Hex(self.word())
                }
                word => Kind::Word(word),
            },
            Some(_) => self.mark(start)?,
        };
        Ok(Some(Token { kind, column: start, width: self.column - start }))
    }

    fn word(&mut self) -> String {
        let mut word = String::new();
        loop {
            while let Some(c) = self.rest.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
                self.column += 1;
                word.push(c);
            }
            let mut ahead = self.rest.clone();
            let joins = word.ends_with(|c: char| c.is_ascii_alphabetic())
                && word.starts_with(|c: char| c.is_ascii_alphabetic())
                && ahead.next() == Some('-')
                && ahead.next().is_some_and(|c| c.is_ascii_alphabetic());
            if !joins {
                return word;
            }
            self.rest.next();
            self.column += 1;
            word.push('-');
        }
    }

    fn mark(&mut self, start: usize) -> Result<Kind, Fault> {
        for mark in MARKS {
            let mut ahead = self.rest.clone();
            if mark.chars().all(|c| ahead.next() == Some(c)) {
                self.rest = ahead;
                self.column += mark.chars().count();
                // Two ways to write the same.
                return Ok(Kind::Mark(if mark == "..." { "…" } else { mark }));
            }
        }
        let found = self.next().unwrap_or(' ');
        Err(self.fault(start, format!("the character {found:?} has no meaning here")))
    }

    fn text(&mut self, start: usize) -> Result<Kind, Fault> {
        self.next();
        let mut bytes = Vec::new();
        loop {
            let column = self.column;
            match self.next() {
                None => {
                    self.column -= 1;
                    return Err(self.fault(start, "the string has no closing '\"'"));
                }
                Some('"') => return Ok(Kind::Text(bytes)),
                Some('\\') => bytes.push(self.escape(column)?),
                Some(c) if c.is_control() && c != '\t' => {
                    return Err(self.fault(column, format!("write {c:?} as an escape (\\n, \\t, \\0 or \\xNN)")));
                }
                Some(c) => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
    }

    fn escape(&mut self, start: usize) -> Result<u8, Fault> {
        let byte = match self.next() {
            Some('n') => Some(b'\n'),
            Some('t') => Some(b'\t'),
            Some('0') => Some(0),
            Some('\\') => Some(b'\\'),
            Some('"') => Some(b'"'),
            Some('x') => {
                let digits = [self.next(), self.next()].map(|c| c.and_then(|c| c.to_digit(16)));
                match digits {
                    [Some(high), Some(low)] => u8::try_from(high * 16 + low).ok(),
                    _ => None,
                }
            }
            _ => None,
        };
        byte.ok_or_else(|| self.fault(start, "an escape is one of \\n, \\t, \\0, \\\\, \\\" and \\xNN"))
    }
}

#[cfg(test)]
mod test {
    use super::{Kind, tokens};

    fn kinds(line: &str) -> Vec<Kind> {
        tokens(line).expect("tokens").into_iter().map(|token| token.kind).collect()
    }

    #[test]
    fn words_numbers_and_marks_need_no_blanks_between_them() {
        let word = |text: &str| Kind::Word(text.into());
        let number = |text: &str| Kind::Number(text.into());
        assert_eq!(
            kinds("a1[0,4)1U@b+0x10..=>=# x"),
            [
                word("a1"),
                Kind::Mark("["),
                number("0"),
                Kind::Mark(","),
                number("4"),
                Kind::Mark(")"),
                number("1U"),
                Kind::Mark("@"),
                word("b"),
                Kind::Mark("+"),
                number("0x10"),
                Kind::Mark(".."),
                Kind::Mark("=>"),
                Kind::Mark("="),
            ]
        );
        assert_eq!(kinds("hex:00fF… hex"), [Kind::Hex("00fF".into()), Kind::Mark("…"), word("hex")]);
        assert_eq!(kinds("..."), [Kind::Mark("…")]);
        assert_eq!(
            kinds("t.a:file(8) @t.a..b page"),
            [
                word("t"),
                Kind::Mark("."),
                word("a"),
                Kind::Mark(":"),
                word("file"),
                Kind::Mark("("),
                number("8"),
                Kind::Mark(")"),
                Kind::Mark("@"),
                word("t"),
                Kind::Mark("."),
                word("a"),
                Kind::Mark(".."),
                word("b"),
                word("page"),
            ]
        );
        assert_eq!(kinds("page-wc wire-total"), [word("page-wc"), word("wire-total")]);
    }

    #[test]
    fn strings_hold_utf_8_and_escapes() {
        assert_eq!(kinds(r#""aé#\n\t\0\\\"\x7f""#), [Kind::Text("aé#\n\t\0\\\"\x7f".into())]);
    }

    #[test]
    fn places_count_characters() {
        let places: Vec<_> =
            tokens("\"é\" a\t=> hex:12").expect("tokens").iter().map(|t| (t.column, t.width)).collect();
        assert_eq!(places, [(1, 3), (5, 1), (7, 2), (10, 6)]);
    }

    #[test]
    fn what_is_no_token_is_named_with_its_place() {
        let places = [
            ("a ;", 3, 1),
            ("\"ab", 1, 3),
            ("\"a\\q\"", 3, 2),
            ("\"\\x1\"", 2, 4),
            ("x ]", 3, 1),
            ("é", 1, 1),
            ("a-1", 2, 1),
        ];
        for (line, column, width) in places {
            let fault = tokens(line).expect_err(line);
            assert_eq!((fault.column, fault.width), (column, width), "{line}: {}", fault.reason);
        }
    }
}
