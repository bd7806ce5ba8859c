//! RAM files that can't serve, and what they hold then: what they held before.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, symlink};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use wirevm_tests::{Case, Need, binary};

use crate::place::{CONFIG, Place, RAM_FILE, Row, nothing};

const LINE: &str = "script ok.wvm --memory file=old.ram";
/// Bytes of the file: its header and 8 MiB of RAM.
const BYTES: u64 = 10 << 20;
/// Where the two copies of the superblock are.
const COPIES: [u64; 2] = [0, 4096];

/// Refused as they are.
pub const REFUSED: &[Row] = &[
    ("ramfile_missing_is_named", nothing, "ramfile no.ram", RAM_FILE, &["'no.ram'", "No such file"]),
    ("ramfile_of_a_folder_is_refused", nothing, "ramfile .", RAM_FILE, &["'.'", "not a regular file"]),
    ("ramfile_of_something_else_is_refused", nothing, "ramfile ok.wvm", RAM_FILE, &["'ok.wvm'", "this is no RAM file"]),
    (
        "ramfile_cut_short_tells_both_lengths",
        |p| resized(p, BYTES - 4096),
        "ramfile old.ram",
        RAM_FILE,
        &["'old.ram'", "10481664", "10485760"],
    ),
    ("ramfile_find_of_nothing_is_refused", |p| p.ram("old.ram"), "ramfile old.ram --find=", CONFIG, &["--find needs"]),
    (
        "ramfile_page_that_is_not_there_tells_how_many_are",
        |p| p.ram("old.ram"),
        "ramfile old.ram --page 2048",
        CONFIG,
        &["'old.ram'", "2048 pages", "0 to 2047"],
    ),
    (
        "ramfile_pages_beyond_the_last_are_refused",
        |p| p.ram("old.ram"),
        "ramfile old.ram --page 2047 --count 2",
        CONFIG,
        &["2 from page 2047 on"],
    ),
    (
        "ramfile_page_that_wraps_is_refused",
        |p| p.ram("old.ram"),
        "ramfile old.ram --page 18446744073709551615",
        CONFIG,
        &["18446744073709551615"],
    ),
    ("ramfile_count_of_0_is_refused", nothing, "ramfile old.ram --page 0 --count 0", CONFIG, &["1 to 65536", "0"]),
    (
        "ram_file_of_another_size_tells_both",
        |p| p.ram("old.ram"),
        "script ok.wvm --memory 10M,file=old.ram",
        RAM_FILE,
        &["'old.ram'", "8388608", "10485760"],
    ),
    (
        "ram_file_of_another_durability_tells_both",
        |p| p.ram("old.ram"),
        "script ok.wvm --memory file=old.ram,durability=none",
        RAM_FILE,
        &["durability=shared", "none was asked for"],
    ),
    (
        "ram_file_smaller_than_the_quota_tells_both",
        |p| p.ram("old.ram"),
        "script ok.wvm --memory file=old.ram --wire-quota 8196K",
        CONFIG,
        &["8196 KiB", "8 MiB"],
    ),
    (
        "ram_file_a_page_short_tells_both_lengths",
        |p| resized(p, BYTES - 4096),
        LINE,
        RAM_FILE,
        &["'old.ram'", "10481664", "10485760"],
    ),
    ("ram_file_too_long_tells_both_lengths", |p| resized(p, BYTES + 1), LINE, RAM_FILE, &["10485761", "10485760"]),
    ("ram_file_cut_inside_its_header_is_refused", |p| resized(p, 3000), LINE, RAM_FILE, &["'old.ram'", "no RAM file"]),
    ("ram_file_cut_to_nothing_is_refused", |p| resized(p, 0), LINE, RAM_FILE, &["'old.ram'", "no RAM file"]),
    (
        "ram_file_of_another_layout_tells_both_versions",
        |p| spoiled(p, 8, &COPIES),
        LINE,
        RAM_FILE,
        &["'old.ram'", "layout version", "this build reads version 1"],
    ),
    (
        "ram_file_with_both_checksums_wrong_is_refused",
        |p| spoiled(p, 24, &COPIES),
        LINE,
        RAM_FILE,
        &["'old.ram'", "checksum is 0x"],
    ),
    (
        "ram_file_with_both_magic_words_wrong_is_refused",
        |p| spoiled(p, 0, &COPIES),
        LINE,
        RAM_FILE,
        &["'old.ram'", "this is no RAM file"],
    ),
    (
        "ram_file_with_a_hole_is_refused_with_its_size",
        |p| holed(p),
        LINE,
        RAM_FILE,
        &["'old.ram'", "sparse", "of 10485760 bytes have blocks"],
    ),
    ("ram_file_of_random_bytes_is_refused", random, LINE, RAM_FILE, &["'old.ram'", "this is no RAM file"]),
    (
        "ram_file_of_text_is_refused_though_size_and_mode_are_given",
        |p| p.write("old.ram", b"my only copy\n"),
        "script ok.wvm --memory 8M,file=old.ram,durability=shared",
        RAM_FILE,
        &["'old.ram'", "this is no RAM file"],
    ),
    (
        "ram_file_symlink_is_refused",
        |p| {
            p.ram("true.ram");
            link(p, "true.ram");
        },
        LINE,
        RAM_FILE,
        &["'old.ram'", "symbolic link"],
    ),
    (
        "ram_file_symlink_to_nothing_is_refused",
        |p| link(p, "new.ram"),
        "script ok.wvm --memory 8M,file=old.ram",
        RAM_FILE,
        &["'old.ram'", "symbolic link"],
    ),
    (
        "ram_file_folder_is_refused",
        |p| fs::create_dir(p.path("old.ram")).expect("a folder"),
        LINE,
        RAM_FILE,
        &["'old.ram'", "not a regular file"],
    ),
    ("ram_file_fifo_is_refused_without_waiting", fifo, LINE, RAM_FILE, &["'old.ram'", "not a regular file"]),
    (
        "ram_file_device_is_refused",
        |_| (),
        "script ok.wvm --memory 8M,file=/dev/null",
        RAM_FILE,
        &["'/dev/null'", "not a regular file"],
    ),
    (
        "ram_file_on_proc_is_not_durable",
        |_| (),
        "script ok.wvm --memory 8M,file=/proc/new.ram",
        RAM_FILE,
        &["'/proc'", "durability=none"],
    ),
    (
        "ram_file_name_of_a_folder_to_be_is_refused",
        |_| (),
        "script ok.wvm --memory 8M,file=new/",
        CONFIG,
        &["'new/' does not name a file"],
    ),
];

/// What stands nearest to those.
pub const ACCEPTED: &[Row] = &[
    (
        "ramfile_of_a_closed_file_works",
        |p| p.ram("old.ram"),
        "ramfile old.ram --page 2047",
        0,
        &["clean: the last machine closed it in order", "pages 0 to 2047", "page 2047"],
    ),
    ("ramfile_of_a_sparse_copy_works", |p| holed(p), "ramfile old.ram --page 700 --count 2", 0, &["page 701", "0x00"]),
    ("ram_file_untouched_works", |p| p.ram("old.ram"), LINE, 0, &["8 MiB in old.ram", "durability  shared"]),
    (
        "ram_file_with_its_own_size_and_mode_asked_works",
        |p| p.ram("old.ram"),
        "script ok.wvm --memory 8M,file=old.ram,durability=shared",
        0,
        &["8 MiB in old.ram"],
    ),
    (
        "ram_file_with_all_of_it_as_quota_works",
        |p| p.ram("old.ram"),
        "script ok.wvm --memory file=old.ram --wire-quota 8M",
        0,
        &["wire quota  8 MiB"],
    ),
    ("ram_file_with_the_first_checksum_wrong_works", |p| spoiled(p, 24, &COPIES[..1]), LINE, 0, &["8 MiB in old.ram"]),
    ("ram_file_with_the_second_checksum_wrong_works", |p| spoiled(p, 24, &COPIES[1..]), LINE, 0, &["8 MiB in old.ram"]),
    (
        "ram_file_of_2_mib_is_made",
        |_| (),
        "script ok.wvm --memory 2M,file=new.ram",
        0,
        &["2 MiB in new.ram", "8 locked"],
    ),
    (
        "ram_file_without_durability_is_made",
        |_| (),
        "script ok.wvm --memory 2M,file=new.ram,durability=none",
        0,
        &["durability  none"],
    ),
];

/// Those with another process, or on a tmpfs.
pub const CASES: &[Case] = &[
    ("ram_file_in_use_is_refused_and_free_again_when_its_machine_is_killed", &[Need::Kvm, Need::Durable], || {
        let place = Place::new();
        let mut other = Hung::on(&place, "old.ram");
        for line in [LINE, "script ok.wvm --memory 8M,file=old.ram"] {
            // The other machine may change its RAM meanwhile, so only the names are compared.
            place.run(&[], line).expect_error(RAM_FILE, &["'old.ram' is in use by another machine"]);
        }
        assert_eq!(names(&place), ["ok.wvm", "old.ram"]);
        other.kill();
        let finished = place.run(&[], LINE).expect_code(0);
        assert!(finished.stdout.contains("not closed in order"), "{}", finished.stdout);
        let finished = place.run(&[], LINE).expect_code(0);
        assert!(!finished.stdout.contains("not closed in order"), "{}", finished.stdout);
    }),
    ("ram_file_on_tmpfs_is_not_durable", &[Need::Kvm, Need::Tmpfs], || {
        let place = Place::on_tmpfs();
        let tmpfs = ["is on tmpfs, which keeps nothing", "durability=none", "ext4 or xfs"];
        place.refuses(&[], "script ok.wvm --memory 8M,file=new.ram,durability=shared", RAM_FILE, &tmpfs);
        place.refuses(&[], "script ok.wvm --memory 8M,file=new.ram", RAM_FILE, &tmpfs);
        drop(place.run(&[], "script ok.wvm --memory 8M,file=new.ram,durability=none").expect_code(0));
        assert_eq!(names(&place), ["new.ram", "ok.wvm"]);
        let asked = "script ok.wvm --memory file=new.ram,durability=shared";
        place.refuses(&[], asked, RAM_FILE, &["'new.ram' was made for durability=none, and shared was asked for"]);
    }),
    ("ram_file_moved_from_a_disk_to_tmpfs_is_refused", &[Need::Kvm, Need::Durable, Need::Tmpfs], || {
        let (disk, tmpfs) = (Place::new(), Place::on_tmpfs());
        disk.ram("old.ram");
        tmpfs.write("old.ram", &fs::read(disk.path("old.ram")).expect("the RAM file"));
        tmpfs.refuses(&[], LINE, RAM_FILE, &["is on tmpfs, which keeps nothing"]);
    }),
];

fn names(place: &Place) -> Vec<String> {
    let entries = place.folder().read_dir().expect("a folder");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn made(place: &Place) -> File {
    place.ram("old.ram");
    OpenOptions::new().read(true).write(true).open(place.path("old.ram")).expect("the RAM file")
}

fn resized(place: &Place, bytes: u64) {
    made(place).set_len(bytes).expect("another length");
}

/// Inverts a byte in each of some copies of the superblock.
fn spoiled(place: &Place, offset: u64, copies: &[u64]) {
    let file = made(place);
    for copy in copies {
        let mut byte = [0];
        file.read_exact_at(&mut byte, copy + offset).expect("read");
        file.write_all_at(&[!byte[0]], copy + offset).expect("written");
    }
}

/// Makes the same bytes anew with a hole in their middle.
fn holed(place: &Place) {
    place.ram("true.ram");
    let bytes = fs::read(place.path("true.ram")).expect("the RAM file");
    let file = File::create(place.path("old.ram")).expect("a file");
    file.set_len(BYTES).expect("longer");
    for half in [0, 8 << 20] {
        let start = usize::try_from(half).expect("small");
        file.write_all_at(&bytes[start..start + (2 << 20)], half).expect("written");
    }
    file.sync_all().expect("synced");
}

fn random(place: &Place) {
    // A fixed sequence: a test's input is the same each time.
    let mut word = 0x9e37_79b9_7f4a_7c15_u64;
    let bytes = std::iter::repeat_with(|| {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        word.to_le_bytes()
    });
    place.write("old.ram", &bytes.take(1 << 17).flatten().collect::<Vec<u8>>());
}

fn link(place: &Place, target: &str) {
    symlink(target, place.path("old.ram")).expect("a link");
}

fn fifo(place: &Place) {
    let status = Command::new("mkfifo").arg(place.path("old.ram")).status().expect("mkfifo");
    assert!(status.success());
}

/// A machine that holds its RAM file until it is killed.
struct Hung(Child);

impl Hung {
    fn on(place: &Place, name: &str) -> Self {
        let mut child = Command::new(binary::path())
            .args(["script", "-", "-q", "--timeout", "100", "--memory", &format!("8M,file={name}")])
            .current_dir(place.folder())
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("wirevm");
        child.stdin.take().expect("a pipe").write_all(b"crash hang\n").expect("written");
        let hung = Self(child);
        let start = Instant::now();
        // It gets its name when it is whole, and it is locked before that.
        while !place.path(name).exists() {
            assert!(start.elapsed() < Duration::from_secs(20), "no RAM file");
            thread::sleep(Duration::from_millis(5));
        }
        // The state of the file is recorded as in use once the machine is about to run.
        let fresh = || fs::read(place.path(name)).expect("the RAM file")[4096..4104] == [0; 8];
        while fresh() {
            assert!(start.elapsed() < Duration::from_secs(20), "no machine");
            thread::sleep(Duration::from_millis(5));
        }
        hung
    }

    fn kill(&mut self) {
        self.0.kill().expect("killed");
        self.0.wait().expect("ended");
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        // It has ended already, unless the test failed.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
