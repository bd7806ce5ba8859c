//! The RAM file on a real file system: made whole or not at all, and refused when it can't keep its promises.
//!
//! No test here may start another process: between fork and exec that would hold every lock of this one.

#[path = "common/folder.rs"]
mod folder;
#[path = "common/suite.rs"]
mod suite;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;

use folder::{RAM_BYTES, durable_folder, lacks_durable_folder};
use wirevm_devices::durability::Durability;
use wirevm_devices::ramfile::{
    ExtentsError, FileSystemError, HEADER_BYTES, PreviousEnd, RamFile, RamFileError, RamFileView, RamState,
    SuperblockError,
};

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Makes a RAM file and lets go of it, so that a test can spoil it.
fn made(path: &Path) {
    drop(RamFile::create(path, RAM_BYTES, Durability::Shared).expect("a RAM file"));
}

fn refusal(path: &Path) -> RamFileError {
    RamFile::open(path, None).expect_err("must be refused")
}

fn create_ready_file_is_private_whole_and_zero() {
    let folder = durable_folder();
    let path = folder.path().join("guest.ram");
    let ram = RamFile::create(&path, RAM_BYTES, Durability::Shared).expect("a RAM file");
    assert!(ram.is_zero() && ram.is_intact() && ram.is_file());
    assert_eq!((ram.data_offset(), ram.size_bytes(), ram.pages()), (2 << 20, RAM_BYTES, 1024));
    assert_eq!(ram.previous_end(), PreviousEnd::Fresh);
    assert_eq!(names(folder.path()), ["guest.ram"]);
    let metadata = fs::metadata(&path).expect("metadata");
    assert_eq!(metadata.mode() & 0o7777, 0o600);
    assert_eq!(metadata.len(), HEADER_BYTES + RAM_BYTES);
    assert!(metadata.blocks() * 512 >= HEADER_BYTES + RAM_BYTES);
    let bytes = fs::read(&path).expect("contents");
    assert!(bytes[4096..].iter().all(|byte| *byte == 0), "everything but one superblock must be zero");
}

fn set_state_is_what_the_next_open_reports() {
    let folder = durable_folder();
    let path = folder.path().join("guest.ram");
    made(&path);
    let failed = RamState::Failed { errno: 5, first_page: Some(77) };
    let mut expected = PreviousEnd::Fresh;
    for state in [RamState::Open, RamState::Clean, RamState::Open, failed, RamState::Open, RamState::Clean] {
        let ram = RamFile::open(&path, Some(RAM_BYTES)).expect("a good file");
        assert_eq!(ram.previous_end(), expected);
        assert_eq!(ram.is_zero(), expected == PreviousEnd::Fresh);
        ram.set_state(state).expect("recorded");
        expected = state.into();
    }
    let ram = RamFile::open(&path, None).expect("a good file");
    assert_eq!(ram.previous_end(), PreviousEnd::Clean);
    for state in [RamState::Open, failed, RamState::Clean] {
        ram.set_state(state).expect("recorded");
    }
    drop(ram);
    let end = RamFile::open(&path, None).expect("a good file").previous_end();
    assert_eq!(end, failed.into(), "whoever closes the file may not have heard of it");
}

fn set_state_torn_copy_leaves_the_state_before_it() {
    let folder = durable_folder();
    let path = folder.path().join("guest.ram");
    let ram = RamFile::create(&path, RAM_BYTES, Durability::Shared).expect("a RAM file");
    ram.set_state(RamState::Open).expect("recorded in copy 1");
    ram.set_state(RamState::Clean).expect("recorded in copy 0");
    drop(ram);
    let file = OpenOptions::new().write(true).open(&path).expect("the file");
    file.write_all_at(&[0xff], 72).expect("a torn checksum");
    assert_eq!(RamFile::open(&path, None).expect("one good copy").previous_end(), PreviousEnd::NotClean);
    file.write_all_at(&[0xff], 4096 + 72).expect("a torn checksum");
    let error = refusal(&path);
    let checksum = matches!(&error, RamFileError::Superblock { source: SuperblockError::Checksum { .. }, .. });
    assert!(checksum, "{error:?}");
}

fn open_file_in_use_is_refused_until_let_go() {
    let folder = durable_folder();
    let path = folder.path().join("guest.ram");
    let ram = RamFile::create(&path, RAM_BYTES, Durability::Shared).expect("a RAM file");
    let second = ram.reopen().expect("a second description");
    assert!(matches!(refusal(&path), RamFileError::InUse { .. }));
    drop(second);
    assert!(matches!(refusal(&path), RamFileError::InUse { .. }), "closing another description must not unlock");
    drop(ram);
    RamFile::open(&path, None).expect("free again");
}

fn open_wrong_contents_are_refused_by_what_is_wrong() {
    let folder = durable_folder();
    let path = folder.path().join("guest.ram");
    let spoil = |at: u64, bytes: &[u8]| {
        made(&path);
        OpenOptions::new().write(true).open(&path).expect("the file").write_all_at(bytes, at).expect("spoilt");
        let error = refusal(&path);
        fs::remove_file(&path).expect("removed");
        error
    };
    let magic = spoil(0, b"ELF");
    let layout = spoil(8, &[2]);
    let checksum = spoil(24, &[1]);
    assert!(matches!(&magic, RamFileError::Superblock { source: SuperblockError::Magic { .. }, .. }), "{magic:?}");
    let found = matches!(&layout, RamFileError::Superblock { source: SuperblockError::Layout { found: 2 }, .. });
    assert!(found, "{layout:?}");
    let torn = matches!(&checksum, RamFileError::Superblock { source: SuperblockError::Checksum { .. }, .. });
    assert!(torn, "{checksum:?}");
    File::create(&path).expect("an empty file");
    assert!(matches!(refusal(&path), RamFileError::Superblock { .. }));
}

fn open_wrong_length_is_refused_with_both_lengths() {
    let folder = durable_folder();
    let path = folder.path().join("guest.ram");
    for change in [-4096_i64, -1, 1] {
        made(&path);
        let length = (HEADER_BYTES + RAM_BYTES).checked_add_signed(change).expect("a length");
        OpenOptions::new().write(true).open(&path).expect("the file").set_len(length).expect("resized");
        let error = refusal(&path);
        let told = matches!(&error, RamFileError::Length { have_bytes, need_bytes, .. }
            if *have_bytes == length && *need_bytes == HEADER_BYTES + RAM_BYTES);
        assert!(told, "{error:?}");
        fs::remove_file(&path).expect("removed");
    }
}

fn open_missing_blocks_are_refused() {
    let folder = durable_folder();
    let (path, copy) = (folder.path().join("guest.ram"), folder.path().join("copy.ram"));
    made(&path);
    let header = fs::read(&path).expect("contents");
    let file = File::create(&copy).expect("a copy");
    file.write_all_at(&header[..8192], 0).expect("a header");
    file.set_len(HEADER_BYTES + RAM_BYTES).expect("a sparse copy");
    let error = refusal(&copy);
    let sparse = matches!(&error, RamFileError::Extents { source: ExtentsError::Sparse { .. }, .. });
    assert!(sparse, "{error:?}");
}

fn open_what_is_no_regular_file_is_refused() {
    let folder = durable_folder();
    let (path, link, socket) =
        (folder.path().join("guest.ram"), folder.path().join("link"), folder.path().join("socket"));
    made(&path);
    symlink(&path, &link).expect("a link");
    let _listener = UnixListener::bind(&socket).expect("a socket");
    for other in [link.as_path(), socket.as_path(), folder.path()] {
        let error = refusal(other);
        assert!(matches!(error, RamFileError::NotRegular { .. }), "{error:?}");
    }
    let error = RamFile::create(&link, RAM_BYTES, Durability::Shared).expect_err("the name is taken");
    assert!(matches!(error, RamFileError::Exists { .. }), "{error:?}");
}

fn shared_mode_on_tmpfs_is_refused_and_none_works() {
    let folder = tempfile::tempdir_in("/dev/shm").expect("a folder on tmpfs");
    let path = folder.path().join("guest.ram");
    let error = RamFile::create(&path, RAM_BYTES, Durability::Shared).expect_err("tmpfs keeps nothing");
    assert!(matches!(error, RamFileError::FileSystem(FileSystemError::NotDurable { .. })), "{error:?}");
    assert_eq!(names(folder.path()), [""; 0]);
    let ram = RamFile::create(&path, RAM_BYTES, Durability::None).expect("mode none works anywhere");
    assert_eq!(ram.durability(), Durability::None);
    drop(ram);
    RamFile::open(&path, Some(RAM_BYTES)).expect("and opens again");
    let durable = durable_folder();
    let original = durable.path().join("guest.ram");
    made(&original);
    fs::copy(&original, &path).expect("a copy on tmpfs");
    assert!(matches!(refusal(&path), RamFileError::FileSystem(FileSystemError::NotDurable { .. })));
}

fn create_too_little_space_is_told_before_anything_is_made() {
    let folder = durable_folder();
    let path = folder.path().join("guest.ram");
    let error = RamFile::create(&path, 1 << 50, Durability::Shared).expect_err("no disk here has a pebibyte");
    let told = matches!(&error, RamFileError::FileSystem(FileSystemError::NoSpace { need_bytes, have_bytes, .. })
        if *need_bytes == (1 << 50) + HEADER_BYTES && have_bytes < need_bytes);
    assert!(told, "{error:?}");
    assert_eq!(names(folder.path()), [""; 0]);
}

fn create_taken_name_keeps_the_file_and_leaves_nothing_else() {
    let folder = durable_folder();
    let path = folder.path().join("guest.ram");
    fs::write(&path, "mine").expect("a file");
    let error = RamFile::create(&path, RAM_BYTES, Durability::Shared).expect_err("the name is taken");
    assert!(matches!(error, RamFileError::Exists { .. }), "{error:?}");
    assert_eq!(fs::read(&path).expect("contents"), b"mine");
    assert_eq!(names(folder.path()), ["guest.ram"]);
}

fn create_name_taken_while_filling_keeps_the_other_file_and_leaves_nothing_else() {
    let folder = durable_folder();
    let path = folder.path().join("guest.ram");
    let error = std::thread::scope(|scope| {
        let rival = scope.spawn(|| {
            while names(folder.path()).is_empty() {
                std::thread::yield_now();
            }
            fs::write(&path, "mine").expect("a file");
        });
        let error = RamFile::create(&path, 64 << 20, Durability::Shared).expect_err("the name was taken meanwhile");
        rival.join().expect("the rival ends");
        error
    });
    assert!(matches!(error, RamFileError::Exists { .. }), "{error:?}");
    assert_eq!(fs::read(&path).expect("contents"), b"mine");
    assert_eq!(names(folder.path()), ["guest.ram"]);
}

fn temporary_has_no_name_and_opens_again() {
    let folder = durable_folder();
    let ram = RamFile::temporary(folder.path(), RAM_BYTES).expect("a RAM file");
    assert_eq!(names(folder.path()), [""; 0]);
    assert_eq!((ram.durability(), ram.is_zero()), (Durability::Shared, true));
    let second = ram.reopen().expect("a second description");
    second.write_all_at(b"seen", ram.data_offset()).expect("a store");
    let mut seen = [0; 4];
    ram.file().read_exact_at(&mut seen, ram.data_offset()).expect("a load");
    assert_eq!(&seen, b"seen");
    ram.set_state(RamState::Open).expect("recorded");
}

fn memfd_size_is_sealed_and_it_has_no_header() {
    let ram = RamFile::memfd(RAM_BYTES).expect("a memfd");
    assert_eq!((ram.data_offset(), ram.durability(), ram.is_file()), (0, Durability::None, false));
    for length in [0, RAM_BYTES - 4096, RAM_BYTES + 4096] {
        ram.reopen().expect("a second description").set_len(length).expect_err("the size is sealed");
    }
    assert!(ram.is_intact() && ram.is_zero());
    ram.set_state(RamState::Open).expect("nothing to record");
}

fn is_intact_file_cut_short_is_noticed() {
    let folder = durable_folder();
    let ram = RamFile::temporary(folder.path(), RAM_BYTES).expect("a RAM file");
    let second = ram.reopen().expect("a second description");
    second.set_len(HEADER_BYTES + RAM_BYTES - 1).expect("cut");
    assert!(!ram.is_intact());
}

fn requests_that_no_ram_file_can_meet_are_refused() {
    let folder = durable_folder();
    let path = folder.path().join("guest.ram");
    for bytes in [0, 1, 4096, (2 << 20) - 1, (2 << 20) + 4096, 1 << 63, u64::MAX, u64::MAX - (2 << 20) + 1] {
        let error = RamFile::create(&path, bytes, Durability::Shared).expect_err("no RAM size");
        assert!(matches!(error, RamFileError::Size { bytes: told } if told == bytes), "{error:?}");
    }
    let error = RamFile::create_or_open(&path, RAM_BYTES, Durability::Atomic).expect_err("reserved");
    assert!(error.to_string().contains("not available in this version"), "{error}");
    for name in [Path::new("/").to_owned(), folder.path().join("guest.ram/"), folder.path().join("..")] {
        let error = RamFile::create(&name, RAM_BYTES, Durability::Shared).expect_err("no name");
        assert!(matches!(error, RamFileError::NoName { .. }), "{error:?}");
    }
    let error = RamFile::create(&folder.path().join("x".repeat(300)), RAM_BYTES, Durability::Shared);
    assert!(matches!(error, Err(RamFileError::Io { operation: "make", .. })), "{error:?}");
    assert_eq!(names(folder.path()), [""; 0]);
}

fn create_or_open_makes_once_then_opens_what_fits() {
    let folder = durable_folder();
    let path = folder.path().join("guest.ram");
    let ram = RamFile::create_or_open(&path, RAM_BYTES, Durability::Shared).expect("made");
    ram.set_state(RamState::Open).expect("recorded");
    drop(ram);
    let ram = RamFile::create_or_open(&path, RAM_BYTES, Durability::Shared).expect("opened");
    assert_eq!(ram.previous_end(), PreviousEnd::NotClean);
    drop(ram);
    let error = RamFile::create_or_open(&path, 2 << 20, Durability::Shared).expect_err("another size");
    assert!(matches!(error, RamFileError::OtherSize { .. }), "{error:?}");
    let error = RamFile::create_or_open(&path, RAM_BYTES, Durability::None).expect_err("another mode");
    assert!(matches!(error, RamFileError::OtherDurability { .. }), "{error:?}");
}

fn view_shows_header_and_pages_and_changes_nothing() {
    let folder = durable_folder();
    let path = folder.path().join("guest.ram");
    let ram = RamFile::create(&path, RAM_BYTES, Durability::Shared).expect("a RAM file");
    assert!(matches!(RamFileView::open(&path), Err(RamFileError::InUse { .. })));
    ram.file().write_all_at(&[0x5a; 4096], ram.data_offset() + 3 * 4096).expect("written");
    let failed = RamState::Failed { errno: 5, first_page: Some(3) };
    ram.set_state(failed).expect("recorded");
    drop(ram);
    let before = fs::read(&path).expect("contents");
    let view = RamFileView::open(&path).expect("nobody uses it");
    assert_eq!((view.state(), view.pages(), view.durability()), (failed, 1024, Durability::Shared));
    assert_eq!((view.size_bytes(), view.data_offset()), (RAM_BYTES, HEADER_BYTES));
    assert_eq!(view.page(2).expect("readable"), Some([0; 4096]));
    assert_eq!(view.page(3).expect("readable"), Some([0x5a; 4096]));
    assert_eq!((view.page(1024).expect("no error"), view.page(u64::MAX).expect("no error")), (None, None));
    let second = RamFileView::open(&path).expect("several can look");
    assert_eq!(second.generation(), view.generation());
    assert!(matches!(refusal(&path), RamFileError::InUse { .. }), "no machine starts under somebody who looks");
    drop((view, second));
    assert_eq!(fs::read(&path).expect("contents"), before);
    drop(RamFile::open(&path, None).expect("nobody looks any more"));
    File::options().write(true).open(&path).and_then(|file| file.set_len(HEADER_BYTES)).expect("cut");
    assert!(matches!(RamFileView::open(&path), Err(RamFileError::Length { .. })));
}

fn main() -> ExitCode {
    let durable = lacks_durable_folder;
    suite::run([
        ("create_ready_file_is_private_whole_and_zero", durable(), create_ready_file_is_private_whole_and_zero),
        ("set_state_is_what_the_next_open_reports", durable(), set_state_is_what_the_next_open_reports),
        ("set_state_torn_copy_leaves_the_state_before_it", durable(), set_state_torn_copy_leaves_the_state_before_it),
        ("open_file_in_use_is_refused_until_let_go", durable(), open_file_in_use_is_refused_until_let_go),
        (
            "open_wrong_contents_are_refused_by_what_is_wrong",
            durable(),
            open_wrong_contents_are_refused_by_what_is_wrong,
        ),
        ("open_wrong_length_is_refused_with_both_lengths", durable(), open_wrong_length_is_refused_with_both_lengths),
        ("open_missing_blocks_are_refused", durable(), open_missing_blocks_are_refused),
        ("open_what_is_no_regular_file_is_refused", durable(), open_what_is_no_regular_file_is_refused),
        ("shared_mode_on_tmpfs_is_refused_and_none_works", durable(), shared_mode_on_tmpfs_is_refused_and_none_works),
        (
            "create_too_little_space_is_told_before_anything_is_made",
            durable(),
            create_too_little_space_is_told_before_anything_is_made,
        ),
        (
            "create_taken_name_keeps_the_file_and_leaves_nothing_else",
            durable(),
            create_taken_name_keeps_the_file_and_leaves_nothing_else,
        ),
        (
            "create_name_taken_while_filling_keeps_the_other_file_and_leaves_nothing_else",
            durable(),
            create_name_taken_while_filling_keeps_the_other_file_and_leaves_nothing_else,
        ),
        ("temporary_has_no_name_and_opens_again", durable(), temporary_has_no_name_and_opens_again),
        ("memfd_size_is_sealed_and_it_has_no_header", None, memfd_size_is_sealed_and_it_has_no_header),
        ("is_intact_file_cut_short_is_noticed", durable(), is_intact_file_cut_short_is_noticed),
        ("requests_that_no_ram_file_can_meet_are_refused", durable(), requests_that_no_ram_file_can_meet_are_refused),
        ("view_shows_header_and_pages_and_changes_nothing", durable(), view_shows_header_and_pages_and_changes_nothing),
        ("create_or_open_makes_once_then_opens_what_fits", durable(), create_or_open_makes_once_then_opens_what_fits),
    ])
}
