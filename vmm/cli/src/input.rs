//! Files that the command line names, read whole.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::size::Bytes;

/// Error of reading a file.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is a pipe, a device or a socket, which may wait for ever or have no end.
    #[error("it is no regular file")]
    NotRegular,
    /// It is too long.
    #[error("it is larger than {}", Bytes(*most))]
    TooLarge {
        /// Most bytes that are read.
        most: u64,
    },
}

/// Reads a regular file of at most `most` bytes. Nobody is waited for: not for the other end of a pipe either.
///
/// # Errors
/// [`InputError`].
pub fn read_file(path: &Path, most: u64) -> Result<Vec<u8>, InputError> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let kind = file.metadata()?.file_type();
    // A folder can't be read, and the system has words for that.
    if !kind.is_file() && !kind.is_dir() {
        return Err(InputError::NotRegular);
    }
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most { Err(InputError::TooLarge { most }) } else { Ok(bytes) }
}

#[cfg(test)]
mod test {
    use std::fs::File;
    use std::os::unix::net::UnixListener;
    use std::path::Path;

    use super::{InputError, read_file};

    #[test]
    fn file_is_read_up_to_what_is_allowed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        std::fs::write(&path, b"12345").expect("a file");
        assert_eq!(read_file(&path, 5).expect("it fits"), b"12345");
        assert!(matches!(read_file(&path, 4), Err(InputError::TooLarge { most: 4 })));
        File::create(&path).and_then(|file| file.set_len(1 << 40)).expect("a sparse file");
        assert!(matches!(read_file(&path, 4096), Err(InputError::TooLarge { .. })));
    }

    #[test]
    fn what_is_no_file_is_refused_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("a pipe");
        for path in [&*pipe, Path::new("/dev/zero")] {
            assert!(matches!(read_file(path, 9), Err(InputError::NotRegular)), "{}", path.display());
        }
        let socket = folder.path().join("socket");
        let _listener = UnixListener::bind(&socket).expect("a socket");
        for path in [&*socket, folder.path(), &folder.path().join("none")] {
            assert!(matches!(read_file(path, 9), Err(InputError::Io(_))), "{}", path.display());
        }
    }
}
