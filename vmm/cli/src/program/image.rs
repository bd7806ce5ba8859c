//! Programs with their files read and checked.

use std::path::Path;
use std::sync::Arc;

use super::elf;
use super::wanted::Wanted;
use crate::exit_code::{CommandError, ExitCode};
use crate::input::{InputError, read_file};
use crate::programs::built_in;

/// Largest file of a program that is read.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// A program that a guest can be given.
#[derive(Clone, Debug)]
pub struct Program {
    /// What was asked for.
    pub wanted: Wanted,
    /// Its ELF file.
    pub image: Arc<[u8]>,
}

/// Reads and checks the files of programs.
///
/// # Errors
/// [`CommandError`] of the first that can't be run.
pub fn load(wanted: &[Wanted]) -> Result<Vec<Program>, CommandError> {
    wanted.iter().map(|wanted| Ok(Program { wanted: wanted.clone(), image: image(wanted)? })).collect()
}

fn image(wanted: &Wanted) -> Result<Arc<[u8]>, CommandError> {
    let name = wanted.name();
    if !wanted.is_file() {
        let image = built_in(name).map(Arc::from);
        return image
            .ok_or_else(|| CommandError::new(ExitCode::Image, format!("the program '{name}' is not built in")));
    }
    let refused =
        |reason: String| CommandError::new(ExitCode::Image, format!("the program '{name}' cannot run: {reason}"));
    let bytes = read_file(Path::new(name), MAX_FILE_BYTES).map_err(|error| match error {
        InputError::Io(error) => {
            CommandError::new(ExitCode::Image, format!("the program '{name}' cannot be read: {error}"))
        }
        error => refused(error.to_string()),
    })?;
    elf::check(&bytes).map_err(|error| refused(error.to_string()))?;
    Ok(bytes.into())
}

#[cfg(test)]
mod test {
    use super::load;
    use crate::exit_code::ExitCode;
    use crate::program::Wanted;
    use crate::program::elf::sample::executable;

    fn wanted(path: &std::path::Path) -> Vec<Wanted> {
        vec![path.to_str().expect("a path").parse().expect("a file")]
    }

    #[test]
    fn file_is_read_and_checked_and_refused_by_its_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("my.elf");
        let refused = || {
            let error = load(&wanted(&path)).expect_err("no program");
            assert_eq!(error.exit, ExitCode::Image);
            error.to_string()
        };
        assert!(refused().contains("my.elf' cannot be read: No such file"), "{}", refused());
        std::fs::write(&path, "#!/bin/sh\n").expect("a file");
        assert!(refused().ends_with("my.elf' cannot run: it is no 64-bit ELF file"), "{}", refused());
        std::fs::write(&path, executable(0x40_0000, 5)).expect("a file");
        let programs = load(&wanted(&path)).expect("a program");
        assert_eq!((programs[0].image.len(), programs[0].wanted.label()), (0x80, "my.elf"));
        std::fs::File::create(&path).and_then(|file| file.set_len(1 << 40)).expect("a sparse file");
        assert!(refused().ends_with("it is larger than 64 MiB"), "{}", refused());
    }
}
