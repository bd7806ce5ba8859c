//! The files that findings go to. They are made before anything is measured: nobody is told afterwards that there is no room for what
//! took minutes.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::{NamedTempFile, TempPath};

use super::document::Document;
use super::show;
use crate::args::BenchMeasureArgs;
use crate::exit_code::{CommandError, ExitCode};
use crate::report::pretty;

/// Why a file can't be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write '{}'", .path.display())]
struct WriteError {
    path: PathBuf,
    source: io::Error,
}

/// Where findings go, besides standard output.
#[derive(Debug)]
pub struct Findings {
    json: Option<Pending>,
    html: Option<Pending>,
    svg: Option<PathBuf>,
}

impl Findings {
    /// Makes what the options name, under other names until it is [written](Self::write).
    ///
    /// # Errors
    /// [`CommandError`] when a file or folder can't be made. A folder that was made by then stays.
    pub fn open(args: &BenchMeasureArgs) -> Result<Self, CommandError> {
        let pending = |path: &Option<PathBuf>| path.as_deref().map(Pending::open).transpose();
        let json = if args.prints_json() { None } else { pending(&args.json).map_err(failed)? };
        let html = pending(&args.html).map_err(failed)?;
        if let Some(folder) = &args.svg {
            let at = |source| WriteError { path: folder.clone(), source };
            fs::create_dir_all(folder).map_err(at).map_err(failed)?;
            // That a file can be made in it is seen by making one.
            NamedTempFile::new_in(folder).and_then(NamedTempFile::close).map_err(at).map_err(failed)?;
        }
        Ok(Self { json, html, svg: args.svg.clone() })
    }

    /// Writes what was found. Each file appears whole, in the place of one that was there.
    ///
    /// # Errors
    /// [`CommandError`] for the first file that can't be written. The JSON document is written first, and files that are written stay.
    pub fn write(self, document: &Document) -> Result<(), CommandError> {
        if let Some(json) = self.json {
            let text = pretty(document).map_err(|error| CommandError::new(ExitCode::Failure, error))?;
            json.write(&text).map_err(failed)?;
        }
        if let Some(html) = self.html {
            html.write(&show::page(document).map_err(|error| CommandError::new(ExitCode::Failure, error))?)
                .map_err(failed)?;
        }
        if let Some(folder) = self.svg {
            for plot in show::plots(document).map_err(|error| CommandError::new(ExitCode::Failure, error))? {
                Pending::open(&folder.join(plot.file)).and_then(|file| file.write(&plot.svg)).map_err(failed)?;
            }
        }
        Ok(())
    }
}

fn failed(error: WriteError) -> CommandError {
    CommandError::new(ExitCode::Failure, error)
}

/// A file that is to be written.
#[derive(Debug)]
struct Pending {
    path: PathBuf,
    file: File,
    /// What the file is called until it is whole; none for a device or a pipe, which stays what it is.
    other_name: Option<TempPath>,
}

impl Pending {
    fn open(path: &Path) -> Result<Self, WriteError> {
        let at = |source| WriteError { path: path.to_owned(), source };
        // A link stays, and what it leads to is replaced.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        match fs::metadata(&path) {
            Ok(found) if found.is_dir() => return Err(at(io::ErrorKind::IsADirectory.into())),
            Ok(found) if !found.is_file() => {
                let file = OpenOptions::new().write(true).open(&path).map_err(at)?;
                return Ok(Self { path, file, other_name: None });
            }
            _ => {}
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let (Some(_), folder) = (path.file_name(), folder) else {
            return Err(at(io::ErrorKind::InvalidFilename.into()));
        };
        let mut builder = tempfile::Builder::new();
        // What the process's mask leaves of it, as for any other new file.
        let (file, other_name) =
            builder.permissions(Permissions::from_mode(0o666)).tempfile_in(folder).map_err(at)?.into_parts();
        Ok(Self { path, file, other_name: Some(other_name) })
    }

    fn write(self, text: &str) -> Result<(), WriteError> {
        let Self { path, mut file, other_name } = self;
        let written = file.write_all(text.as_bytes()).and_then(|()| file.flush());
        let renamed =
            written.and_then(|()| other_name.map_or(Ok(()), |name| name.persist(&path).map_err(|error| error.error)));
        renamed.map_err(|source| WriteError { path, source })
    }
}

#[cfg(test)]
mod test {
    use std::fs;
    use std::path::Path;

    use super::Findings;
    use crate::args::BenchMeasureArgs;
    use crate::bench::document::Document;
    use crate::bench::show::sample;

    fn entries(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").file_name());
        let mut names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn all_that_is_asked_for_is_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| Some(folder.path().join(name));
        let args =
            BenchMeasureArgs { json: at("b.json"), html: at("b.html"), svg: at("a/b"), ..BenchMeasureArgs::default() };
        fs::write(folder.path().join("b.json"), "what was there").expect("a file");
        let (files, document) = (Findings::open(&args).expect("files"), sample::document());
        assert_eq!(fs::read_to_string(folder.path().join("b.json")).expect("a file"), "what was there");
        files.write(&document).expect("files");
        assert_eq!(entries(folder.path()), ["a", "b.html", "b.json"]);
        assert!(Document::read(&folder.path().join("b.json")).expect("a document") == document);
        assert!(fs::read_to_string(folder.path().join("b.html")).expect("a page").starts_with("<!DOCTYPE html>"));
        let plots = entries(&folder.path().join("a/b"));
        assert!(plots.contains(&"ratios.svg".to_owned()) && plots.contains(&"time.svg".to_owned()), "{plots:?}");
    }

    #[test]
    fn nothing_is_left_of_a_run_that_found_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let args = BenchMeasureArgs { json: Some(folder.path().join("b.json")), ..BenchMeasureArgs::default() };
        drop(Findings::open(&args).expect("files"));
        assert_eq!(entries(folder.path()), [""; 0]);
    }

    #[test]
    fn what_can_not_be_written_is_found_before_anything_is_measured() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file");
        fs::write(&file, "").expect("a file");
        for (args, reason) in [
            (BenchMeasureArgs { json: Some("/nowhere/b.json".into()), ..Default::default() }, "No such file"),
            (BenchMeasureArgs { html: Some(folder.path().into()), ..Default::default() }, "is a directory"),
            (BenchMeasureArgs { svg: Some(file.join("sub")), ..Default::default() }, "Not a directory"),
        ] {
            let error = Findings::open(&args).expect_err("no output").to_string();
            assert!(error.starts_with("cannot write '") && error.contains(reason), "{error}");
        }
    }

    #[test]
    fn dash_is_standard_output_and_a_device_stays_one() {
        let args = BenchMeasureArgs { json: Some("-".into()), html: Some("/dev/null".into()), ..Default::default() };
        let files = Findings::open(&args).expect("files");
        assert!(files.json.is_none());
        files.write(&sample::document()).expect("written");
        assert!(!fs::metadata("/dev/null").expect("a device").is_file());
    }
}
