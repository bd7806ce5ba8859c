//! Text on its way to the output: whole lines go together, and no piece ends within a character.

use core::fmt;

/// Bytes that wait, at most as many as one call may print.
const CAPACITY: usize = 2048;

/// Collects text and gives it to `send` in valid UTF-8 pieces of at most [`CAPACITY`] bytes.
#[derive(Debug)]
pub(crate) struct LineBuffer {
    bytes: [u8; CAPACITY],
    length: usize,
}

impl LineBuffer {
    pub(crate) const fn new() -> Self {
        Self { bytes: [0; CAPACITY], length: 0 }
    }

    /// Takes text in, sending what no longer fits.
    pub(crate) fn put(&mut self, mut text: &str, send: impl Fn(&[u8])) {
        while !text.is_empty() {
            let (now, rest) = text.split_at(text.floor_char_boundary(CAPACITY - self.length));
            if let Some(place) = self.bytes.get_mut(self.length..self.length + now.len()) {
                place.copy_from_slice(now.as_bytes());
                self.length += now.len();
            }
            if !rest.is_empty() {
                self.send_all(&send);
            }
            text = rest;
        }
    }

    /// Sends what has come up to the last end of a line.
    pub(crate) fn send_lines(&mut self, send: impl Fn(&[u8])) {
        let filled = self.bytes.get(..self.length).unwrap_or(&[]);
        let Some(end) = filled.iter().rposition(|byte| *byte == b'\n').map(|last| last + 1) else { return };
        send(filled.get(..end).unwrap_or(&[]));
        self.bytes.copy_within(end..self.length, 0);
        self.length -= end;
    }

    /// Sends everything.
    pub(crate) fn send_all(&mut self, send: impl Fn(&[u8])) {
        if self.length > 0 {
            send(self.bytes.get(..self.length).unwrap_or(&[]));
            self.length = 0;
        }
    }
}

/// A buffer with where it sends to.
pub(crate) struct Sending<'a, F: Fn(&[u8])>(pub(crate) &'a mut LineBuffer, pub(crate) F);

impl<F: Fn(&[u8])> fmt::Write for Sending<'_, F> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.put(text, &self.1);
        Ok(())
    }
}

#[cfg(test)]
mod test {
    use alloc::string::String;
    use alloc::vec::Vec;
    use core::cell::RefCell;

    use proptest::prelude::{Strategy, any};
    use proptest::{collection, proptest};

    use super::{CAPACITY, LineBuffer};

    #[test]
    fn lines_are_sent_and_the_rest_waits() {
        let sent = RefCell::new(Vec::new());
        let send = |piece: &[u8]| sent.borrow_mut().push(String::from_utf8(piece.to_vec()).expect("UTF-8"));
        let mut buffer = LineBuffer::new();
        buffer.put("a\nb\nc", send);
        assert!(sent.borrow().is_empty(), "nothing is sent before it is asked for");
        buffer.send_lines(send);
        buffer.send_lines(send);
        buffer.send_all(send);
        buffer.send_all(send);
        assert_eq!(*sent.borrow(), ["a\nb\n", "c"]);
    }

    proptest! {
        #[test]
        fn text_arrives_whole_and_in_characters(
            parts in collection::vec((collection::vec(any::<char>(), 0..3000)
                .prop_map(|all| all.into_iter().collect::<String>()), any::<bool>()), 0..6)
        ) {
            let sent = RefCell::new(String::new());
            let send = |piece: &[u8]| {
                assert!(!piece.is_empty() && piece.len() <= CAPACITY);
                sent.borrow_mut().push_str(core::str::from_utf8(piece).expect("whole characters"));
            };
            let mut buffer = LineBuffer::new();
            let mut all = String::new();
            for (text, is_end) in &parts {
                buffer.put(text, send);
                all.push_str(text);
                if *is_end {
                    buffer.send_lines(send);
                }
            }
            buffer.send_all(send);
            assert_eq!(*sent.borrow(), all);
        }
    }
}
