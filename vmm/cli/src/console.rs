//! Standard error as the guest's console.

use std::io::{self, Write};

/// Shows what a guest writes as lines of their own, each marked as the guest's.
///
/// A guest may write anything: control characters that a terminal would obey are shown as dots, and no line of it can pass
/// for one of this program's.
#[derive(Debug)]
pub struct Console<W> {
    output: W,
    at_line_start: bool,
}

/// What stands in front of each line.
const MARK: &[u8] = b"guest: ";

impl<W: Write> Console<W> {
    /// Returns a console on that output.
    pub const fn new(output: W) -> Self {
        Self { output, at_line_start: true }
    }
}

impl<W: Write> Write for Console<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut shown = Vec::with_capacity(bytes.len() + MARK.len());
        for byte in bytes {
            if *byte == b'\r' {
                continue;
            }
            if self.at_line_start {
                shown.extend_from_slice(MARK);
            }
            self.at_line_start = *byte == b'\n';
            let plain = matches!(*byte, b'\n' | b'\t' | 0x20..=0x7e | 0x80..);
            shown.push(if plain { *byte } else { b'.' });
        }
        self.output.write_all(&shown)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

#[cfg(test)]
mod test {
    use super::Console;
    use std::io::Write;

    #[test]
    fn lines_are_marked_however_they_come_and_control_characters_are_dots() {
        let mut shown = Vec::new();
        let mut console = Console::new(&mut shown);
        for byte in "boot\r\n\x1b[2Jä\twirevm: error: no\rX\n\nend".as_bytes() {
            console.write_all(&[*byte]).expect("written");
        }
        let text = String::from_utf8(shown).expect("text");
        assert_eq!(text, "guest: boot\nguest: .[2Jä\twirevm: error: noX\nguest: \nguest: end");
    }
}
