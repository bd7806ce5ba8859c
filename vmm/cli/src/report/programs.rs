//! What a run of programs tells its user.

use std::fmt;

use serde::Serialize;
use wirevm_agent::ProgramEnd;

use super::json::{FORMAT, MachineDocument, nanoseconds};
use super::table::{Align, Column, duration, table, wrapped};
use super::text::header;
use super::{Ending, MachineReport, pretty};
use crate::exit_code::{CommandError, ExitCode};
use crate::program::{BUILT_IN, ProgramEnding, ProgramRun, Wanted};
use crate::visible::visible;

/// Characters of a description on one line.
const DESCRIPTION_WIDTH: usize = 60;

/// All about a run of programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramsReport {
    /// The machine.
    pub machine: MachineReport,
    /// The programs, in the order in which they were asked for.
    pub programs: Vec<ProgramReport>,
    /// How it ended.
    pub ending: Ending,
}

/// What became of one program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramReport {
    /// What it is called where several are told of.
    pub title: String,
    /// What was asked for.
    pub wanted: Wanted,
    /// What became of it.
    pub run: ProgramRun,
    /// What it printed, as far as it was kept.
    pub output: String,
    /// Whether that is all of it.
    pub is_whole: bool,
}

/// How a program ended, as a clause behind its name.
struct Clause<'a>(&'a ProgramEnding);

impl fmt::Display for Clause<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ProgramEnding::Ended(ProgramEnd::Exited(code)) => write!(f, "exited with code {code}"),
            ProgramEnding::Ended(ProgramEnd::Faulted(text)) => write!(f, "was ended because it {text}"),
            ProgramEnding::Ended(ProgramEnd::Killed) => f.write_str("was killed"),
            ProgramEnding::NotStarted(reason) => write!(f, "could not be started: {reason}"),
            ProgramEnding::Unfinished => f.write_str("had not ended when the machine did"),
        }
    }
}

impl ProgramReport {
    /// Tells whether the program did what it was to do.
    #[must_use]
    pub const fn is_success(&self) -> bool {
        matches!(self.run.ending, ProgramEnding::Ended(ProgramEnd::Exited(0)))
    }
}

impl ProgramsReport {
    /// Puts together what became of programs on a machine, which may have ended before them.
    #[must_use]
    pub fn new(machine: MachineReport, programs: Vec<ProgramReport>, end: Result<(), CommandError>) -> Self {
        let mut ending = Ending::of(end.err());
        let failed: Vec<_> = programs.iter().filter(|program| !program.is_success()).collect();
        if ending.exit == ExitCode::Ok && !failed.is_empty() {
            let clause = |program: &&ProgramReport| format!("{} {}", program.title, Clause(&program.run.ending));
            let sentence = failed.iter().map(clause).collect::<Vec<_>>().join("; ");
            ending.ended_by(&CommandError::new(ExitCode::Failure, sentence));
        }
        Self { machine, programs, ending }
    }

    /// Returns the report as people read it.
    #[must_use]
    pub fn text(&self) -> String {
        let columns = [
            Column { heading: "program", align: Align::Left, widest: 24 },
            Column { heading: "arguments", align: Align::Left, widest: 24 },
            Column { heading: "end", align: Align::Left, widest: 72 },
            Column { heading: "time", align: Align::Right, widest: 9 },
        ];
        let row = |program: &ProgramReport| {
            let failed = if program.is_success() { "" } else { "!" };
            let arguments = program.wanted.arguments().join(" ");
            let end = Clause(&program.run.ending).to_string();
            let end = end.lines().next().unwrap_or_default().to_owned();
            [format!("{failed}{}", program.title), arguments, end, duration(program.run.elapsed)]
        };
        let rows: Vec<_> = self.programs.iter().map(row).collect();
        let (met, all) = (self.programs.iter().filter(|program| program.is_success()).count(), rows.len());
        let footer = match (&self.ending.error, all) {
            (None, 1) => "  1 program, which exited with code 0".to_owned(),
            (None, _) => format!("  {all} programs, all of which exited with code 0"),
            (Some(error), _) => {
                let error = visible(error.lines().next().unwrap_or_default());
                format!("  {met} of {all} programs exited with code 0; failed: {error}")
            }
        };
        format!("{}\n{}\n{footer}\n", header(&self.machine), table(&columns, &rows))
    }

    /// Returns the report as a JSON document.
    ///
    /// # Errors
    /// When it can't be written as JSON.
    pub fn document(&self) -> Result<String, serde_json::Error> {
        pretty(&ProgramsDocument {
            wirevm: env!("CARGO_PKG_VERSION"),
            format: FORMAT,
            ok: self.ending.exit == ExitCode::Ok,
            exit_code: self.ending.exit.number(),
            error: self.ending.error.as_deref(),
            machine: (&self.machine).into(),
            programs: self.programs.iter().map(Into::into).collect(),
        })
    }
}

/// What `wirevm run --program NAME --json` prints.
#[derive(Debug, Serialize)]
struct ProgramsDocument<'a> {
    /// Version of the program.
    wirevm: &'static str,
    /// Number of the format.
    format: u32,
    /// Whether every program exited with code 0, and the machine ended in order.
    ok: bool,
    /// The process's exit code.
    exit_code: u8,
    /// Why the run is no success.
    error: Option<&'a str>,
    /// The machine.
    machine: MachineDocument<'a>,
    /// The programs, in the order in which they were asked for.
    programs: Vec<ProgramDocument<'a>>,
}

#[derive(Debug, Serialize)]
struct ProgramDocument<'a> {
    name: &'a str,
    /// Path of its file; null for a built-in program.
    file: Option<&'a str>,
    arguments: &'a [String],
    /// `exited`, `faulted`, `killed`, `not-started`, or `unfinished` where the machine ended first.
    end: &'static str,
    /// The code that it exited with; null where it did not.
    code: Option<u8>,
    /// What it did that it must not, or why it was not started.
    reason: Option<&'a str>,
    elapsed_ns: u64,
    /// What it printed, at most 1 MiB of it; what is no UTF-8 is replaced.
    output: &'a str,
    /// Whether `output` is all of it.
    output_whole: bool,
}

impl<'a> From<&'a ProgramReport> for ProgramDocument<'a> {
    fn from(program: &'a ProgramReport) -> Self {
        let (end, code, reason) = match &program.run.ending {
            ProgramEnding::Ended(ProgramEnd::Exited(code)) => ("exited", Some(*code), None),
            ProgramEnding::Ended(ProgramEnd::Faulted(text)) => ("faulted", None, Some(text.as_str())),
            ProgramEnding::Ended(ProgramEnd::Killed) => ("killed", None, None),
            ProgramEnding::NotStarted(reason) => ("not-started", None, Some(reason.as_str())),
            ProgramEnding::Unfinished => ("unfinished", None, None),
        };
        Self {
            name: program.wanted.label(),
            file: program.wanted.is_file().then(|| program.wanted.name()),
            arguments: program.wanted.arguments(),
            end,
            code,
            reason,
            elapsed_ns: nanoseconds(program.run.elapsed),
            output: &program.output,
            output_whole: program.is_whole,
        }
    }
}

#[derive(Debug, Serialize)]
struct BuiltInDocument {
    /// Version of the program.
    wirevm: &'static str,
    /// Number of the format.
    format: u32,
    /// True.
    ok: bool,
    /// The programs that are built in.
    programs: Vec<BuiltIn>,
}

#[derive(Debug, Serialize)]
struct BuiltIn {
    name: &'static str,
    /// Its arguments, for people.
    arguments: &'static str,
    /// What it does, for people.
    does: &'static str,
}

/// Returns the list of the built-in programs as a JSON document.
///
/// # Errors
/// When it can't be written as JSON.
pub fn built_in_document() -> Result<String, serde_json::Error> {
    let programs = BUILT_IN.map(|(name, arguments, does)| BuiltIn { name, arguments, does }).into();
    pretty(&BuiltInDocument { wirevm: env!("CARGO_PKG_VERSION"), format: FORMAT, ok: true, programs })
}

/// Returns the list of the built-in programs as people read it.
#[must_use]
pub fn built_in_text() -> String {
    let column = |heading| Column { heading, align: Align::Left, widest: usize::MAX };
    let columns = [column("program"), column("arguments"), column("what it does")];
    let rows = BUILT_IN.iter().flat_map(|(name, arguments, does)| {
        // What stands in front of a description stands there once.
        let heads = std::iter::once([*name, *arguments]).chain(std::iter::repeat(["", ""]));
        let lines = wrapped(does, DESCRIPTION_WIDTH);
        heads.zip(lines).map(|([name, arguments], line)| [name.to_owned(), arguments.to_owned(), line])
    });
    let rows: Vec<_> = rows.collect();
    table(&columns, &rows) + "\n  wirevm run --program NAME,ARGUMENT,… runs one\n"
}

#[cfg(test)]
mod test {
    use std::time::Duration;

    use wirevm_agent::ProgramEnd;

    use super::super::test::machine;
    use super::{BUILT_IN, ProgramReport, ProgramsReport, Wanted, built_in_text};
    use crate::exit_code::{CommandError, ExitCode};
    use crate::program::{ProgramEnding, ProgramRun};

    fn program(wanted: &str, ending: ProgramEnding) -> ProgramReport {
        let run = ProgramRun { task: Some(1), ending, elapsed: Duration::from_millis(12) };
        let wanted: Wanted = wanted.parse().expect("a program");
        ProgramReport { title: wanted.label().into(), wanted, run, output: "synced 7\n".into(), is_whole: true }
    }

    fn exited(code: u8) -> ProgramEnding {
        ProgramEnding::Ended(ProgramEnd::Exited(code))
    }

    fn faulted() -> ProgramEnding {
        ProgramEnding::Ended(ProgramEnd::Faulted("used an invalid instruction (rip 0x400010)\n  rax 0".into()))
    }

    #[test]
    fn programs_that_exit_with_0_are_a_success() {
        let report = ProgramsReport::new(machine(), vec![program("kv,1000,x", exited(0))], Ok(()));
        let shown = report.text();
        let table = "
  program  arguments  end                    time
  kv       1000 x     exited with code 0  12.0 ms

  1 program, which exited with code 0
";
        assert!(shown.ends_with(table), "{shown}");
        assert_eq!((report.ending.exit, report.ending.error), (ExitCode::Ok, None));
    }

    #[test]
    fn arguments_do_not_break_the_table() {
        let report = ProgramsReport::new(machine(), vec![program("hello,a\nb,\x1b[1m", exited(0))], Ok(()));
        let shown = report.text();
        assert!(shown.contains("\n  hello    a\\nb \\u{1b}[1m  exited"), "{shown}");
    }

    #[test]
    fn programs_of_one_name_are_told_apart() {
        let mut all = vec![program("hello", exited(0)), program("hello,x", exited(4))];
        for (program, title) in all.iter_mut().zip(["hello#1", "hello#2"]) {
            program.title = title.into();
        }
        let report = ProgramsReport::new(machine(), all, Ok(()));
        assert_eq!(report.ending.error.as_deref(), Some("hello#2 exited with code 4"));
        assert!(report.text().contains("\n  !hello#2  x "), "{}", report.text());
        let document: serde_json::Value = serde_json::from_str(&report.document().expect("JSON")).expect("JSON");
        assert_eq!(document["programs"][1]["name"], "hello");
    }

    #[test]
    fn list_of_programs_has_all_that_is_said_of_them_in_short_lines() {
        let shown = built_in_text();
        assert!(shown.lines().all(|line| line.chars().count() <= 100), "{shown}");
        let words: Vec<_> = shown.split_whitespace().collect();
        for (name, _, does) in BUILT_IN {
            let does: Vec<_> = does.split_whitespace().collect();
            let is_there = does.iter().all(|word| words.contains(word));
            assert!(is_there && words.contains(&name), "{name}: {shown}");
        }
    }

    #[test]
    fn each_program_that_failed_is_told() {
        let all = vec![
            program("hello", exited(0)),
            program("./rogue.elf", faulted()),
            program("hog", exited(3)),
            program("kv", ProgramEnding::NotStarted("no room".into())),
        ];
        let report = ProgramsReport::new(machine(), all, Ok(()));
        let error = "rogue.elf was ended because it used an invalid instruction (rip 0x400010)\n  rax 0; hog exited with code 3; \
                     kv could not be started: no room";
        assert_eq!((report.ending.exit, report.ending.error.as_deref()), (ExitCode::Failure, Some(error)));
        let shown = report.text();
        assert!(shown.contains("\n  !rogue.elf"), "{shown}");
        assert!(
            shown.ends_with(
                "  1 of 4 programs exited with code 0; failed: rogue.elf was ended because it used an invalid instruction (rip 0x400010)\n"
            ),
            "{shown}"
        );
    }

    #[test]
    fn end_of_the_machine_comes_first() {
        let error = CommandError::new(ExitCode::Timeout, "the time is over");
        let report = ProgramsReport::new(machine(), vec![program("hog", ProgramEnding::Unfinished)], Err(error));
        assert_eq!((report.ending.exit, report.ending.error.as_deref()), (ExitCode::Timeout, Some("the time is over")));
        assert!(
            report.text().contains("  !hog                had not ended when the machine did"),
            "{}",
            report.text()
        );
    }

    #[test]
    fn document_has_everything() {
        let all =
            vec![program("kv,9", exited(0)), program("./x", faulted()), program("hog", ProgramEnding::Unfinished)];
        let report = ProgramsReport::new(machine(), all, Ok(()));
        let document: serde_json::Value = serde_json::from_str(&report.document().expect("JSON")).expect("JSON");
        assert_eq!((&document["ok"], &document["exit_code"]), (&false.into(), &1.into()));
        let [kv, file, hog] = [0, 1, 2].map(|at| &document["programs"][at]);
        assert_eq!(
            (&kv["name"], &kv["end"], &kv["code"], &kv["output"]),
            (&"kv".into(), &"exited".into(), &0.into(), &"synced 7\n".into())
        );
        assert_eq!((&kv["arguments"][0], &kv["output_whole"], &kv["file"]), (&"9".into(), &true.into(), &().into()));
        assert_eq!((&file["end"], &file["file"]), (&"faulted".into(), &"./x".into()));
        assert!(file["reason"].as_str().is_some_and(|text| text.starts_with("used an invalid instruction")));
        assert_eq!((&hog["end"], &hog["code"]), (&"unfinished".into(), &().into()));
        assert_eq!(document["machine"]["host"], "kvm");
    }
}
