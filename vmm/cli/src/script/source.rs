//! Where a script comes from.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use super::parser::{MAX_SCRIPT_BYTES, parse};
use super::{Script, SyntaxErrors};

/// The script that `wirevm run` carries out when it is given none.
const DEMO: &str = include_str!("../../../../resources/scripts/demo.wvm");

/// Where a script comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScriptSource {
    /// The built-in demo.
    Demo,
    /// A file.
    File(PathBuf),
    /// Standard input.
    Stdin,
}

/// Error of reading a script.
#[derive(Debug, thiserror::Error)]
pub enum ScriptError {
    /// It can't be read.
    #[error("cannot read the script {name}")]
    Read {
        /// The file.
        name: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It has errors.
    #[error("{name}: {source}")]
    Syntax {
        /// The file.
        name: String,
        /// The errors.
        source: SyntaxErrors,
    },
}

impl ScriptSource {
    /// Returns the source that a command line names: a file, or `-` for standard input.
    #[must_use]
    pub fn named(path: PathBuf) -> Self {
        if path.as_os_str() == "-" { Self::Stdin } else { Self::File(path) }
    }

    /// Reads and parses the script.
    ///
    /// # Errors
    /// [`ScriptError`] when it can't be read, or for its syntax errors.
    pub fn load(&self) -> Result<Script, ScriptError> {
        let name = self.to_string();
        let bytes = self.read().map_err(|source| ScriptError::Read { name: name.clone(), source })?;
        parse(&bytes).map_err(|source| ScriptError::Syntax { name, source })
    }

    fn read(&self) -> io::Result<Vec<u8>> {
        // One byte more than allowed is enough to be refused.
        let most = MAX_SCRIPT_BYTES as u64 + 1;
        let mut bytes = Vec::new();
        match self {
            Self::Demo => bytes.extend_from_slice(DEMO.as_bytes()),
            Self::File(path) => {
                File::open(path)?.take(most).read_to_end(&mut bytes)?;
            }
            Self::Stdin => {
                io::stdin().lock().take(most).read_to_end(&mut bytes)?;
            }
        }
        Ok(bytes)
    }
}

impl fmt::Display for ScriptSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Demo => f.write_str("demo.wvm"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Stdin => f.write_str("standard input"),
        }
    }
}

#[cfg(test)]
mod test {
    use super::{MAX_SCRIPT_BYTES, ScriptError, ScriptSource};
    use std::io::Write;

    #[test]
    fn demo_loads() {
        let script = ScriptSource::Demo.load().expect("the demo is a script");
        assert!(script.statements.len() > 5);
    }

    #[test]
    fn file_too_long_is_refused_without_reading_it_all() {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.as_file_mut().set_len(1 << 40).expect("a sparse file");
        let error = ScriptSource::named(file.path().to_owned()).load().expect_err("too long");
        assert!(error.to_string().contains(&format!("{MAX_SCRIPT_BYTES} are the most")), "{error}");
    }

    #[test]
    fn file_with_errors_is_refused_by_name_and_place() {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(b"check\nwire b\n").expect("written");
        let error = ScriptSource::named(file.path().to_owned()).load().expect_err("no b");
        let place = format!("{}: line 2, column 6: there is no 'b'", file.path().display());
        assert!(error.to_string().starts_with(&place), "{error}");
        let missing = ScriptSource::named("/no/such.wvm".into()).load().expect_err("no file");
        assert!(matches!(missing, ScriptError::Read { .. }));
        assert_eq!(ScriptSource::named("-".into()), ScriptSource::Stdin);
    }
}
