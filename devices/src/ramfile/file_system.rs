//! Which file systems keep what a sync promised (rule D8).

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::sys;

/// A file system on which a synced range is stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileSystemKind {
    /// ext4, or an ext2 or ext3 that the same driver serves.
    Ext4,
    /// xfs.
    Xfs,
    /// btrfs, for files marked "no copy on write" while they were empty.
    BtrfsNoCow,
}

/// Error of looking at a file system.
#[derive(Debug, thiserror::Error)]
pub enum FileSystemError {
    /// The file system keeps nothing, or its promises are not known.
    #[error(
        "'{path}' is on {name}, which {why}; choose durability=none or a file on ext4 or xfs (btrfs: no copy on write)"
    )]
    NotDurable {
        /// The file or folder looked at.
        path: PathBuf,
        /// Name of the file system's type.
        name: String,
        /// What it does instead.
        why: &'static str,
    },
    /// The file is on btrfs and copied on write.
    #[error("'{path}' is on btrfs and copied on write; make it anew with this program, or `chattr +C` it while empty")]
    CopiedOnWrite {
        /// The file.
        path: PathBuf,
    },
    /// The file system can't hold the file.
    #[error("'{path}' needs {need_bytes} bytes and its file system has {have_bytes} left")]
    NoSpace {
        /// The file to be made.
        path: PathBuf,
        /// Bytes needed.
        need_bytes: u64,
        /// Bytes free.
        have_bytes: u64,
    },
    /// The file system could not be asked.
    #[error("cannot look at the file system of '{path}'")]
    Look {
        /// The file or folder.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl FileSystemKind {
    /// Returns the file system's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::BtrfsNoCow => "btrfs (no copy on write)",
        }
    }

    fn from_magic(magic: i64) -> Option<Self> {
        match magic {
            libc::EXT4_SUPER_MAGIC => Some(Self::Ext4),
            libc::XFS_SUPER_MAGIC => Some(Self::Xfs),
            libc::BTRFS_SUPER_MAGIC => Some(Self::BtrfsNoCow),
            _ => None,
        }
    }
}

impl fmt::Display for FileSystemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Tells on which durable file system a file or folder is.
///
/// For btrfs the answer holds for RAM files that this crate makes, which it marks "no copy on write".
///
/// # Errors
/// [`FileSystemError::NotDurable`] for any other, [`FileSystemError::Look`] when it can't be asked.
pub fn durable_file_system(path: &Path) -> Result<FileSystemKind, FileSystemError> {
    let file = File::open(path).map_err(|source| FileSystemError::Look { path: path.to_owned(), source })?;
    durable_kind(&file, path)
}

/// As [`durable_file_system`], for a file or folder that is open; `path` is for the message.
pub(crate) fn durable_kind(file: &File, path: &Path) -> Result<FileSystemKind, FileSystemError> {
    let magic = look(file, path)?.magic;
    FileSystemKind::from_magic(magic.cast_signed()).ok_or_else(|| {
        let (name, why) = describe(magic);
        FileSystemError::NotDurable { path: path.to_owned(), name, why }
    })
}

/// Fails when the file system that holds `directory` has fewer than `need_bytes` bytes left.
pub(super) fn require_space(directory: &File, path: &Path, need_bytes: u64) -> Result<(), FileSystemError> {
    let have_bytes = look(directory, path)?.free_bytes;
    if have_bytes < need_bytes {
        return Err(FileSystemError::NoSpace { path: path.to_owned(), need_bytes, have_bytes });
    }
    Ok(())
}

/// Marks a new, empty file the way its file system needs it to be durable.
pub(crate) fn prepare(kind: FileSystemKind, file: &File, path: &Path) -> Result<(), FileSystemError> {
    if kind == FileSystemKind::BtrfsNoCow {
        sys::set_nocow(file).map_err(|source| FileSystemError::Look { path: path.to_owned(), source })?;
    }
    require_prepared(kind, file, path)
}

/// Fails when an existing file is not marked the way its file system needs it to be durable.
pub(crate) fn require_prepared(kind: FileSystemKind, file: &File, path: &Path) -> Result<(), FileSystemError> {
    if kind == FileSystemKind::BtrfsNoCow {
        let nocow = sys::is_nocow(file).map_err(|source| FileSystemError::Look { path: path.to_owned(), source })?;
        if !nocow {
            return Err(FileSystemError::CopiedOnWrite { path: path.to_owned() });
        }
    }
    Ok(())
}

fn look(file: &File, path: &Path) -> Result<sys::FileSystemStat, FileSystemError> {
    sys::file_system_stat(file).map_err(|source| FileSystemError::Look { path: path.to_owned(), source })
}

/// Names a file system that is not on the list, and says what is wrong with it.
fn describe(magic: u64) -> (String, &'static str) {
    const RAMFS_MAGIC: i64 = 0x8584_58f6;
    const NINE_P_MAGIC: i64 = 0x0102_1997;
    let (name, why) = match magic.cast_signed() {
        libc::TMPFS_MAGIC => ("tmpfs", "keeps nothing"),
        RAMFS_MAGIC => ("ramfs", "keeps nothing"),
        libc::OVERLAYFS_SUPER_MAGIC => ("overlayfs", "gives no promise of its own"),
        libc::FUSE_SUPER_MAGIC => ("a FUSE file system", "promises only what its server does"),
        libc::NFS_SUPER_MAGIC => ("NFS", "promises only what its server does"),
        NINE_P_MAGIC => ("9p", "promises only what its server does"),
        _ => return (format!("a file system of type {magic:#x}"), "is not on the list of durable ones"),
    };
    (name.to_owned(), why)
}

#[cfg(test)]
mod test {
    use std::path::Path;

    use super::{FileSystemError, FileSystemKind, durable_file_system};

    #[test]
    fn durable_file_system_tmpfs_is_refused_with_the_remedy() {
        let error = durable_file_system(Path::new("/dev/shm")).expect_err("tmpfs keeps nothing");
        assert!(matches!(&error, FileSystemError::NotDurable { name, .. } if name == "tmpfs"), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("keeps nothing; choose durability=none or a file on ext4 or xfs"), "{text}");
    }

    #[test]
    fn durable_file_system_proc_is_refused_by_its_number() {
        let error = durable_file_system(Path::new("/proc")).expect_err("proc is no storage");
        assert!(error.to_string().contains("type 0x9fa0"), "{error}");
    }

    #[test]
    fn from_magic_knows_the_three_durable_types_only() {
        assert_eq!(FileSystemKind::from_magic(0xef53), Some(FileSystemKind::Ext4));
        assert_eq!(FileSystemKind::from_magic(0x5846_5342), Some(FileSystemKind::Xfs));
        assert_eq!(FileSystemKind::from_magic(0x9123_683e), Some(FileSystemKind::BtrfsNoCow));
        assert_eq!(FileSystemKind::from_magic(0x0102_1994), None);
        assert_eq!(FileSystemKind::from_magic(0), None);
    }

    #[test]
    fn durable_file_system_missing_path_names_it() {
        let error = durable_file_system(Path::new("/no/such/folder")).expect_err("nothing there");
        assert!(error.to_string().contains("/no/such/folder"), "{error}");
    }
}
