//! What the scripts say about themselves.

use std::ops::Range;
use std::path::PathBuf;

use super::table::Test;

/// A script.
#[derive(Clone, Debug)]
pub struct Topic {
    /// Where it is.
    pub path: PathBuf,
    /// Its folder and name, without ending.
    pub name: String,
    /// Its text.
    pub text: String,
    /// Its sections: lines, from 1, and the rows that they show.
    pub sections: Vec<(Range<usize>, Vec<String>)>,
}

/// What stands between two resets.
#[derive(Clone, Debug)]
pub struct Part {
    /// The script with nothing but these lines, at their places.
    pub text: String,
    /// Its first line.
    pub first_line: usize,
    /// One past its last.
    pub end_line: usize,
}

impl Topic {
    /// Reads a script.
    ///
    /// # Panics
    /// When it can't be read or names no rows.
    #[must_use]
    pub fn read(path: PathBuf) -> Self {
        let text = std::fs::read_to_string(&path).expect("a script");
        let folder = path.parent().and_then(|folder| folder.file_name()).expect("a folder").to_string_lossy();
        let stem = path.file_stem().expect("a name").to_string_lossy();
        let name = format!("{folder}/{stem}");
        let mut sections: Vec<(Range<usize>, Vec<String>)> = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            if let Some(rows) = line.trim().strip_prefix("# rows:") {
                sections.push((number..number + 1, rows.split_whitespace().map(str::to_owned).collect()));
            } else if let Some((lines, _)) = sections.last_mut() {
                lines.end = number + 1;
            }
        }
        assert!(!sections.is_empty(), "{name} names no rows");
        Self { path, name, text, sections }
    }

    /// Tells whether the topic is about what is stable.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.path.parent().is_some_and(|folder| folder.ends_with("sync"))
    }

    /// Returns the script as a test of its rows.
    #[must_use]
    pub fn test(&self) -> Test {
        let mut rows: Vec<String> = self.sections.iter().flat_map(|(_, rows)| rows.clone()).collect();
        rows.sort();
        rows.dedup();
        Test { name: self.name.clone(), rows, is_script: true }
    }

    /// Returns the parts between resets, each as a script of its own with the lines where they were.
    #[must_use]
    pub fn parts(&self) -> Vec<Part> {
        let lines: Vec<&str> = self.text.lines().collect();
        let resets = lines.iter().enumerate().filter(|(_, line)| line.trim() == "reset").map(|(at, _)| at);
        let mut starts: Vec<usize> = std::iter::once(0).chain(resets).collect();
        starts.push(lines.len());
        let part = |bounds: &[usize]| {
            let (start, end) = (bounds[0], bounds[1]);
            let text = "\n".repeat(start) + &lines[start..end].join("\n") + "\n";
            Part { text, first_line: start + 1, end_line: end + 1 }
        };
        starts.windows(2).map(part).collect()
    }
}

/// Returns the line that an error is about.
#[must_use]
pub fn line_of(errors: &str) -> Option<usize> {
    let digits = |rest: &str| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok();
    errors.split("line ").skip(1).find_map(digits)
}
