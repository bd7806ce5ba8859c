//! The folder for stores: whether it can serve.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use crate::config::StoreOptions;
use crate::exit_code::{CommandError, ExitCode};
use crate::report::StoreReport;

/// Why a folder can't hold stores.
#[derive(Debug, thiserror::Error)]
enum StoreFolderError {
    #[error("the folder for stores '{path}' does not exist; make it, or name another with --store DIR")]
    Missing { path: PathBuf },
    #[error("'{path}' is no folder, so no stores can be kept there; name one with --store DIR")]
    NoFolder { path: PathBuf },
    #[error("the folder for stores '{path}' cannot be written to")]
    NotWritable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the folder for stores '{path}' cannot be looked at")]
    Look {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Checks that stores can be made in the folder that the options name. Nothing is made.
///
/// # Errors
/// [`CommandError`] of class *configuration*.
pub(super) fn check_folder(options: Option<&StoreOptions>) -> Result<Option<StoreReport>, CommandError> {
    let Some(StoreOptions { folder, quota_bytes }) = options else { return Ok(None) };
    look(folder).map_err(|error| CommandError::new(ExitCode::Config, error))?;
    Ok(Some(StoreReport { folder: folder.clone(), quota_bytes: *quota_bytes }))
}

fn look(folder: &Path) -> Result<(), StoreFolderError> {
    let path = folder.to_owned();
    match folder.metadata() {
        Ok(metadata) if metadata.is_dir() => access(folder, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK)
            .map_err(|source| StoreFolderError::NotWritable { path, source: source.into() }),
        Ok(_) => Err(StoreFolderError::NoFolder { path }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StoreFolderError::Missing { path }),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Err(StoreFolderError::NoFolder { path }),
        Err(source) => Err(StoreFolderError::Look { path, source }),
    }
}

#[cfg(test)]
mod test {
    use super::check_folder;
    use crate::config::StoreOptions;
    use crate::exit_code::ExitCode;

    #[test]
    fn folder_that_cannot_serve_is_told_in_a_sentence_and_nothing_is_made() {
        let place = tempfile::tempdir().expect("a folder");
        std::fs::write(place.path().join("file"), b"x").expect("a file");
        let check = |name: &str| {
            let options = StoreOptions { folder: place.path().join(name), quota_bytes: 4096 };
            check_folder(Some(&options)).map_err(|error| (error.exit, error.to_string()))
        };
        for (name, part) in [("new", "does not exist"), ("file", "is no folder"), ("file/below", "is no folder")] {
            let (exit, sentence) = check(name).expect_err(name);
            assert!(exit == ExitCode::Config && sentence.contains(part), "{sentence}");
        }
        let (_, sentence) = check(&"x".repeat(300)).expect_err("too long a name");
        assert!(sentence.contains("cannot be looked at: "), "{sentence}");
        assert_eq!(place.path().read_dir().expect("a folder").count(), 1);
        let report = check("").expect("the folder itself").expect("a report");
        assert_eq!(report.quota_bytes, 4096);
        assert_eq!(check_folder(None).expect("no folder is no mistake"), None);
    }
}
