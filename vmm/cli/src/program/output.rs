//! What programs print: shown as it comes, and kept for reports.

use std::collections::HashMap;
use std::io::{self, Write};
use std::mem;

use wirevm_agent::Event;

/// Most bytes of each program's output that are kept, and of all output that nobody knows the program of.
const MAX_KEPT_BYTES: usize = 1 << 20;
/// Most tasks whose output is kept before they have been told of.
const MAX_EARLY_TASKS: usize = 64;
/// Longest line that is held back until it is whole.
const MAX_LINE_BYTES: usize = 16 << 10;
/// Stands for what was not kept.
const CUT: &str = "…";

/// The output of the programs of one machine.
#[derive(Debug)]
pub struct Outputs {
    /// The names of the programs that can be started, in the order of their entries.
    names: Vec<String>,
    programs: HashMap<u64, Kept>,
    /// What tasks have printed that have not been told of yet: a program runs before its start is answered.
    early: HashMap<u64, Early>,
    early_bytes: usize,
    /// Output was dropped of tasks that are not even among the early ones.
    early_is_full: bool,
    live: Option<Live>,
}

/// Output of a task that has not been told of yet.
#[derive(Debug, Default)]
struct Early {
    bytes: Vec<u8>,
    is_cut: bool,
}

/// Output that is kept.
#[derive(Debug, Default)]
struct Kept {
    name: String,
    bytes: Vec<u8>,
    is_cut: bool,
    /// What was printed behind the last whole line, where lines are shown whole.
    line: Vec<u8>,
}

impl Outputs {
    /// Returns a place for the output of programs with these names, which is shown as it comes if there is `live`.
    #[must_use]
    pub fn new(names: Vec<String>, live: Option<Live>) -> Self {
        let (programs, early) = (HashMap::new(), HashMap::new());
        Self { names, programs, early, early_bytes: 0, early_is_full: false, live }
    }

    /// Returns a place for the output of a machine without programs.
    #[must_use]
    pub fn none() -> Self {
        Self::new(Vec::new(), None)
    }

    /// Tells whether there are programs at all.
    #[must_use]
    pub const fn expects_programs(&self) -> bool {
        !self.names.is_empty()
    }

    /// Takes note that the task runs the program of that entry.
    pub fn started(&mut self, task: u64, entry: u64) {
        let name = usize::try_from(entry).ok().and_then(|entry| self.names.get(entry)).cloned().unwrap_or_default();
        self.programs.insert(task, Kept { name, ..Kept::default() });
        let early = self.early.remove(&task);
        let is_cut = early.as_ref().map_or(self.early_is_full, |early| early.is_cut);
        let bytes = early.map(|early| early.bytes).unwrap_or_default();
        self.early_bytes -= bytes.len();
        self.take(Event::Output { task, bytes });
        if is_cut && let Some(kept) = self.programs.get_mut(&task) {
            kept.is_cut = true;
            if let Some(live) = &mut self.live {
                live.show(kept, format!("{CUT}\n").as_bytes());
            }
        }
    }

    /// Drops what the task's program has printed: the task is gone.
    pub fn forget(&mut self, task: u64) {
        self.programs.remove(&task);
        if let Some(early) = self.early.remove(&task) {
            self.early_bytes -= early.bytes.len();
        }
    }

    /// Drops what all programs have printed: no task is left.
    pub fn forget_all(&mut self) {
        self.programs.clear();
        self.early.clear();
        (self.early_bytes, self.early_is_full) = (0, false);
    }

    /// Takes what the guest tells.
    pub fn take(&mut self, event: Event) {
        let Event::Output { task, bytes } = event;
        if bytes.is_empty() {
            return;
        }
        let Some(kept) = self.programs.get_mut(&task) else { return self.take_early(task, &bytes) };
        // Behind what is missing nothing is kept.
        let room = if kept.is_cut { 0 } else { MAX_KEPT_BYTES - kept.bytes.len() };
        kept.is_cut |= bytes.len() > room;
        kept.bytes.extend(bytes.iter().take(room));
        if let Some(live) = &mut self.live {
            live.show(kept, &bytes);
        }
    }

    /// Keeps the output of a task that has not been told of.
    fn take_early(&mut self, task: u64, bytes: &[u8]) {
        if self.early.len() >= MAX_EARLY_TASKS && !self.early.contains_key(&task) {
            self.early_is_full = true;
            return;
        }
        let early = self.early.entry(task).or_default();
        let room = if early.is_cut { 0 } else { MAX_KEPT_BYTES - self.early_bytes };
        early.is_cut |= bytes.len() > room;
        let taken = room.min(bytes.len());
        early.bytes.extend(bytes.iter().take(taken));
        self.early_bytes += taken;
    }

    /// Shows what programs have printed behind their last whole lines, when nothing more will come.
    pub fn finish(&mut self) {
        let Some(live) = &mut self.live else { return };
        let mut tasks: Vec<_> = self.programs.iter_mut().collect();
        tasks.sort_unstable_by_key(|(task, _)| **task);
        tasks.into_iter().for_each(|(_, kept)| live.finish(kept));
        live.end_line();
    }

    /// Returns what the task's program has printed, as text, and whether that is all of it.
    #[must_use]
    pub fn text(&self, task: u64) -> (String, bool) {
        let Some(kept) = self.programs.get(&task) else { return (String::new(), true) };
        let mut text = String::from_utf8_lossy(&kept.bytes).into_owned();
        if kept.is_cut {
            text.push_str(CUT);
        }
        (text, !kept.is_cut)
    }

    /// Returns why output could not be shown, if it could not.
    pub fn take_error(&mut self) -> Option<io::Error> {
        self.live.as_mut().and_then(|live| live.error.take())
    }
}

/// Where output is shown as it comes.
#[derive(Debug)]
pub struct Live {
    sink: Sink,
    /// Each line is shown whole and with its program's name in front: several programs run.
    names_lines: bool,
    /// Control characters are replaced, since a terminal would obey them.
    replaces_controls: bool,
    at_line_start: bool,
    /// Nobody reads any more.
    is_closed: bool,
    error: Option<io::Error>,
    /// The last byte, where it may be the first half of a control character.
    half: bool,
}

/// Standard output, or what stands for it in a test.
#[derive(Debug)]
enum Sink {
    Stdout,
    #[cfg(test)]
    Memory(Vec<u8>),
}

impl Live {
    /// Shows output on standard output.
    #[must_use]
    pub const fn stdout(names_lines: bool, replaces_controls: bool) -> Self {
        Self::on(Sink::Stdout, names_lines, replaces_controls)
    }

    const fn on(sink: Sink, names_lines: bool, replaces_controls: bool) -> Self {
        Self { sink, names_lines, replaces_controls, at_line_start: true, is_closed: false, error: None, half: false }
    }

    fn show(&mut self, kept: &mut Kept, bytes: &[u8]) {
        if !self.names_lines {
            return self.write(bytes);
        }
        let mut shown = Vec::new();
        for byte in bytes {
            kept.line.push(*byte);
            if *byte == b'\n' || kept.line.len() >= MAX_LINE_BYTES {
                named(&mut shown, kept);
            }
        }
        self.write(&shown);
    }

    fn finish(&mut self, kept: &mut Kept) {
        if !kept.line.is_empty() {
            let mut shown = Vec::new();
            named(&mut shown, kept);
            self.write(&shown);
        }
    }

    /// Begins a new line unless one has begun.
    fn end_line(&mut self) {
        if !self.at_line_start {
            self.write(b"\n");
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        let Some(last) = bytes.last() else { return };
        if self.is_closed {
            return;
        }
        self.at_line_start = *last == b'\n';
        let plain = self.replaces_controls.then(|| self.plain(bytes));
        let bytes = plain.as_deref().unwrap_or(bytes);
        let written = match &mut self.sink {
            Sink::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(bytes).and_then(|()| out.flush())
            }
            #[cfg(test)]
            Sink::Memory(shown) => shown.write_all(bytes),
        };
        if let Err(error) = written {
            self.is_closed = true;
            // Whoever closes the pipe has read enough.
            self.error = Some(error).filter(|error| error.kind() != io::ErrorKind::BrokenPipe);
        }
    }

    /// Puts dots in the place of control characters, those of two bytes in UTF-8 included. Carriage returns go.
    fn plain(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut plain = Vec::with_capacity(bytes.len() + 1);
        for byte in bytes {
            if mem::take(&mut self.half) {
                if matches!(byte, 0x80..=0x9f) {
                    plain.push(b'.');
                    continue;
                }
                plain.push(0xc2);
            }
            match byte {
                b'\r' => {}
                0xc2 => self.half = true,
                b'\n' | b'\t' | 0x20..=0x7e | 0x80.. => plain.push(*byte),
                _ => plain.push(b'.'),
            }
        }
        plain
    }
}

/// Appends a line with its program's name in front, and takes it from what is held back.
fn named(shown: &mut Vec<u8>, kept: &mut Kept) {
    shown.extend_from_slice(kept.name.as_bytes());
    shown.extend_from_slice(b": ");
    shown.append(&mut kept.line);
    if shown.last() != Some(&b'\n') {
        shown.push(b'\n');
    }
}

#[cfg(test)]
mod test {
    use super::{Live, MAX_EARLY_TASKS, MAX_KEPT_BYTES, MAX_LINE_BYTES, Outputs, Sink};
    use wirevm_agent::Event;

    fn outputs(names_lines: bool, replaces_controls: bool) -> Outputs {
        let live = Live::on(Sink::Memory(Vec::new()), names_lines, replaces_controls);
        Outputs::new(vec!["kv".into(), "hog".into()], Some(live))
    }

    fn print(outputs: &mut Outputs, task: u64, text: impl AsRef<[u8]>) {
        outputs.take(Event::Output { task, bytes: text.as_ref().to_vec() });
    }

    fn shown(outputs: &Outputs) -> String {
        match &outputs.live.as_ref().expect("it is shown").sink {
            Sink::Memory(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Sink::Stdout => panic!("it is shown elsewhere"),
        }
    }

    #[test]
    fn output_of_one_program_is_shown_as_it_comes() {
        let mut outputs = outputs(false, false);
        outputs.started(1, 0);
        print(&mut outputs, 1, "a\x1b[1m");
        assert_eq!(shown(&outputs), "a\x1b[1m");
        print(&mut outputs, 1, "b");
        outputs.finish();
        assert_eq!((shown(&outputs).as_str(), outputs.text(1)), ("a\x1b[1mb\n", ("a\x1b[1mb".to_owned(), true)));
    }

    #[test]
    fn lines_of_several_programs_are_whole_and_named() {
        let mut outputs = outputs(true, false);
        print(&mut outputs, 7, "ear");
        outputs.started(7, 1);
        outputs.started(8, 0);
        print(&mut outputs, 8, "one\ntw");
        print(&mut outputs, 7, "ly\n\nlast");
        assert_eq!(shown(&outputs), "kv: one\nhog: early\nhog: \n");
        print(&mut outputs, 8, vec![b'o'; MAX_LINE_BYTES - 2]);
        outputs.finish();
        let long = format!("kv: tw{}\nhog: last\n", "o".repeat(MAX_LINE_BYTES - 2));
        assert!(shown(&outputs).ends_with(&long));
        assert_eq!((outputs.text(7).0.as_str(), outputs.text(9)), ("early\n\nlast", (String::new(), true)));
    }

    #[test]
    fn terminal_is_given_no_control_characters() {
        let mut outputs = outputs(false, true);
        outputs.started(1, 0);
        for piece in [&b"\x1b[2Ja\r\n\x07\tb\xc2"[..], b"\x9b1m", b"\xc2", b"\xa9\xc3\xa4\x7f"] {
            print(&mut outputs, 1, piece);
        }
        assert_eq!(shown(&outputs), ".[2Ja\n.\tb.1m©ä.");
    }

    #[test]
    fn memory_is_bounded_and_what_is_shown_is_whole() {
        let mut outputs = outputs(false, false);
        outputs.started(1, 0);
        for _ in 0..9 {
            print(&mut outputs, 1, vec![b'x'; MAX_KEPT_BYTES / 8]);
            print(&mut outputs, 99, vec![b'y'; MAX_KEPT_BYTES / 8]);
        }
        assert_eq!(shown(&outputs).len(), MAX_KEPT_BYTES / 8 * 9);
        let (text, is_whole) = outputs.text(1);
        assert_eq!((text.len(), text.ends_with("x…"), is_whole), (MAX_KEPT_BYTES + "…".len(), true, false));
        assert_eq!(outputs.early_bytes, MAX_KEPT_BYTES);
        outputs.started(99, 1);
        let (text, is_whole) = outputs.text(99);
        assert_eq!((outputs.early_bytes, text.len(), is_whole), (0, MAX_KEPT_BYTES + "…".len(), false));
    }

    #[test]
    fn what_is_missing_of_early_output_is_told_of_the_program_that_printed_it() {
        let mut outputs = outputs(true, false);
        print(&mut outputs, 1, vec![b'x'; MAX_KEPT_BYTES - 1]);
        print(&mut outputs, 2, "ab");
        print(&mut outputs, 2, "c");
        outputs.started(1, 0);
        print(&mut outputs, 2, "d");
        outputs.started(2, 1);
        print(&mut outputs, 2, "e");
        assert_eq!(outputs.text(1).0.len(), MAX_KEPT_BYTES - 1);
        assert_eq!((outputs.text(1).1, outputs.text(2)), (true, ("a…".to_owned(), false)));
        outputs.finish();
        assert!(shown(&outputs).contains("hog: a…\n") && shown(&outputs).ends_with("hog: e\n"));
    }

    #[test]
    fn early_output_of_too_many_tasks_is_dropped_and_told() {
        let mut outputs = outputs(false, false);
        let all = MAX_EARLY_TASKS as u64;
        for task in 0..all + 9 {
            print(&mut outputs, task, "x");
        }
        assert_eq!((outputs.early.len(), outputs.early_bytes), (MAX_EARLY_TASKS, MAX_EARLY_TASKS));
        outputs.started(all - 1, 0);
        outputs.started(all, 1);
        assert_eq!((outputs.text(all - 1), outputs.text(all)), (("x".to_owned(), true), ("…".to_owned(), false)));
    }

    #[test]
    fn output_of_a_task_that_is_gone_is_not_kept() {
        let mut outputs = outputs(false, false);
        print(&mut outputs, 3, "early");
        for task in [1, 2] {
            outputs.started(task, 0);
            print(&mut outputs, task, "x");
        }
        outputs.forget(1);
        outputs.forget(3);
        assert_eq!((outputs.text(1).0.as_str(), outputs.text(2).0.as_str(), outputs.early_bytes), ("", "x", 0));
        print(&mut outputs, 4, "early");
        outputs.forget_all();
        assert!(outputs.programs.is_empty() && outputs.early.is_empty() && outputs.early_bytes == 0);
    }
}
