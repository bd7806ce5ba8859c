//! Where the tests on real files put them.

use std::path::PathBuf;

use tempfile::TempDir;
use wirevm_devices::ramfile::durable_file_system;

/// Bytes of RAM in the tests: two large pages, so that locking all of it stays within 8 MiB.
pub const RAM_BYTES: u64 = 4 << 20;

/// Makes a folder on a durable file system, or says why the test can't run.
///
/// It is inside the target folder, or inside `WIREVM_TEST_FOLDER` when that is set.
pub fn durable_folder() -> Option<TempDir> {
    let parent = std::env::var_os("WIREVM_TEST_FOLDER")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    if let Err(error) = durable_file_system(&parent) {
        eprintln!("SKIPPED: {error}; set WIREVM_TEST_FOLDER to a folder on ext4 or xfs");
        return None;
    }
    Some(tempfile::tempdir_in(parent).expect("a test folder"))
}
