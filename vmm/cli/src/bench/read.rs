//! Reading a document back.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::document::{Document, SCHEMA};
use crate::exit_code::{CommandError, ExitCode};
use crate::input::{InputError, read_file};

/// Most bytes of a document: far more than any run writes.
const MOST_BYTES: u64 = 256 << 20;

/// Why a file is not read as a document.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("cannot read '{}'", .path.display())]
    Read { path: PathBuf, source: InputError },
    #[error("'{}' is not a document of `wirevm bench --json`: {reason}", .path.display())]
    NotADocument { path: PathBuf, reason: String },
    #[error("'{}' has schema {schema}, and this wirevm reads up to {SCHEMA}; use the wirevm that wrote it, or a newer one", .path.display())]
    Newer { path: PathBuf, schema: u64 },
}

impl Document {
    /// Reads a document that `--json` wrote.
    ///
    /// # Errors
    /// [`CommandError`] when the file can't be read, when it is something else, and when its schema is newer than [`SCHEMA`].
    pub fn read(path: &Path) -> Result<Self, CommandError> {
        let bytes = read_file(path, MOST_BYTES).map_err(|source| ReadError::Read { path: path.to_owned(), source });
        let document = bytes.and_then(|bytes| parse(path, &bytes));
        document.map_err(|error| CommandError::new(ExitCode::Usage, error))
    }
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Document, ReadError> {
    let other = |reason: String| ReadError::NotADocument { path: path.to_owned(), reason };
    let value: Value = serde_json::from_slice(bytes).map_err(|error| other(error.to_string()))?;
    match value.get("schema").and_then(Value::as_u64) {
        None => return Err(other("it has no number 'schema'".to_owned())),
        Some(schema) if schema > u64::from(SCHEMA) => return Err(ReadError::Newer { path: path.to_owned(), schema }),
        Some(_) => {}
    }
    serde_json::from_value(value).map_err(|error| other(error.to_string()))
}

#[cfg(test)]
mod test {
    use std::path::Path;

    use super::{Document, parse};
    use crate::bench::show::sample;
    use crate::report::pretty;

    fn refused(text: &str) -> String {
        parse(Path::new("b.json"), text.as_bytes()).expect_err("no document").to_string()
    }

    #[test]
    fn what_was_written_is_read() {
        let document = sample::document();
        let text = pretty(&document).expect("a document");
        assert!(parse(Path::new("b.json"), text.as_bytes()).expect("a document") == document);
    }

    #[test]
    fn fields_that_are_new_do_not_matter_and_a_new_schema_does() {
        let mut value = serde_json::to_value(sample::document()).expect("a document");
        value["about"]["weather"] = "fine".into();
        parse(Path::new("b.json"), value.to_string().as_bytes()).expect("a document");
        value["schema"] = 2.into();
        let newer =
            "'b.json' has schema 2, and this wirevm reads up to 1; use the wirevm that wrote it, or a newer one";
        assert_eq!(refused(&value.to_string()), newer);
    }

    #[test]
    fn anything_else_is_refused_in_a_sentence() {
        assert!(
            refused("no").starts_with("'b.json' is not a document of `wirevm bench --json`: expected"),
            "{}",
            refused("no")
        );
        assert!(refused("[1]").ends_with("it has no number 'schema'"));
        assert!(refused("{\"schema\": 1}").ends_with("missing field `about`"), "{}", refused("{\"schema\": 1}"));
        let missing = Document::read(Path::new("/nowhere/b.json")).expect_err("no file").to_string();
        assert!(missing.starts_with("cannot read '/nowhere/b.json': No such file"), "{missing}");
    }
}
