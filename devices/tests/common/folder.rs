//! Where the tests on real files put them.

use std::path::PathBuf;

use tempfile::TempDir;
use wirevm_devices::ramfile::durable_file_system;

/// Bytes of RAM in the tests: two large pages, so that locking all of it stays within 8 MiB.
pub const RAM_BYTES: u64 = 4 << 20;

/// It is inside the target folder, or inside `WIREVM_TEST_FOLDER` when that is set.
fn parent() -> PathBuf {
    std::env::var_os("WIREVM_TEST_FOLDER").map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from)
}

/// Returns why there is no folder on a durable file system, if there is none.
pub fn lacks_durable_folder() -> Option<String> {
    let error = durable_file_system(&parent()).err()?;
    Some(format!("{error}; set WIREVM_TEST_FOLDER to a folder on ext4 or xfs"))
}

/// Makes a folder on a durable file system.
pub fn durable_folder() -> TempDir {
    tempfile::tempdir_in(parent()).expect("a test folder")
}
