//! Text from outside as one line shows it.

use std::fmt::Write;

/// Returns a text with escapes in the place of characters that would break a line, steer a terminal or turn the order of what
/// stands beside them: `\n`, `\u{1b}`.
#[must_use]
pub fn visible(text: &str) -> String {
    escaped(text, |_| false)
}

/// As [`visible`], and leaves ends of lines alone.
#[must_use]
pub fn visible_lines(text: &str) -> String {
    escaped(text, |character| character == '\n')
}

fn escaped(text: &str, stays: impl Fn(char) -> bool) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if is_steering(character) && !stays(character) {
            // Writing to a String can't fail.
            write!(shown, "{}", character.escape_default()).unwrap_or_default();
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Tells whether a character is for whoever shows text, not for whoever reads it.
fn is_steering(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod test {
    use super::{visible, visible_lines};

    #[test]
    fn only_what_steers_is_escaped() {
        assert_eq!(visible("it's \"é\" \\ e\u{301} 漢字"), "it's \"é\" \\ e\u{301} 漢字");
        assert_eq!(visible("a\n\tb\r\u{1b}[2J\u{9b}\u{202e}\u{7f}"), "a\\n\\tb\\r\\u{1b}[2J\\u{9b}\\u{202e}\\u{7f}");
        assert_eq!(visible_lines("a\n\u{1b}b"), "a\n\\u{1b}b");
    }
}
