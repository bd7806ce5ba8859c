//! The files that tell about this host, under a root that tests can choose.

use std::fs;
use std::io;
use std::path::PathBuf;

use procfs::FromRead;

/// The host's file tree.
#[derive(Clone, Debug)]
pub struct System {
    root: PathBuf,
}

impl System {
    /// Returns this host.
    #[must_use]
    pub fn host() -> Self {
        Self { root: PathBuf::from("/") }
    }

    /// Returns the host whose `/` is `root`.
    #[cfg(test)]
    pub(super) fn at(root: &std::path::Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Returns where the file with that path from `/` is.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Reads a file without the blanks and newlines around its text.
    pub(super) fn text(&self, path: &str) -> io::Result<String> {
        fs::read_to_string(self.path(path)).map(|text| text.trim().to_owned())
    }

    /// Reads a file that holds one number.
    pub(super) fn number(&self, path: &str) -> Option<u64> {
        self.text(path).ok().and_then(|text| text.parse().ok())
    }

    /// Reads a file of the kinds that `procfs` knows.
    pub(super) fn parsed<T: FromRead>(&self, path: &str) -> Option<T> {
        T::from_file(self.path(path)).ok()
    }
}
