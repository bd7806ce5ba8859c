//! Folders and disks that can't take a RAM file.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use wirevm_tests::{Case, Need};

use crate::place::{CONFIG, MEMORY, Place, RAM_FILE};

/// Runs the rest of the line with a tmpfs of a size at `disk`, where nothing may be left unless it works.
const SMALL_DISK: &str = "size=$1; shift; mount -t tmpfs -o size=$size none disk || exit 90; \"$@\"; code=$?; \
                          [ $code = 0 ] || [ -z \"$(ls -A disk)\" ] || exit 91; exit $code";
/// Runs the rest of the line where no folder for a temporary RAM file is durable.
const NO_DURABLE_FOLDER: &str = "mount -t tmpfs none /var/tmp && mount -t tmpfs none disk && cd disk && \
                                 export XDG_CACHE_HOME=$PWD && exec \"$@\"";
/// Root without the right to pass over a file's mode.
const AS_OTHERS: &[&str] =
    &["setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--inh-caps", "-dac_override,-dac_read_search"];

/// Each in a folder of its own.
pub const CASES: &[Case] = &[
    ("disk_too_small_by_a_page_tells_both_numbers", &[Need::Kvm, Need::Mounts], || {
        let place = with_folder("disk");
        let line = "script ok.wvm --memory 8M,file=disk/new.ram,durability=none";
        let wrapper = ["unshare", "-m", "sh", "-c", SMALL_DISK, "sh", "10236K"];
        place.refuses(&wrapper, line, MEMORY, &["'disk/new.ram'", "10485760 bytes", "10481664 left"]);
        let wrapper = ["unshare", "-m", "sh", "-c", SMALL_DISK, "sh", "10240K"];
        drop(place.run(&wrapper, line).expect_code(0));
    }),
    ("disk_smaller_than_ram_is_refused_for_a_named_file_and_for_a_temporary_one", &[Need::Kvm, Need::Durable], || {
        let place = Place::new();
        let bytes = twice_the_free_space(&place);
        let need = (bytes + (2 << 20)).to_string();
        // On a disk that holds all that KVM takes, the size itself is refused.
        let (code, parts) = if bytes < 8 << 40 { (MEMORY, [&*need, "left"]) } else { (CONFIG, ["KVM", "more than"]) };
        place.refuses(&[], &format!("run --memory {bytes},file=new.ram"), code, &parts);
        place.refuses(&[], &format!("run --memory {bytes}"), code, &parts);
        place.refuses(&[], &format!("run --memory {bytes},durability=shared"), code, &parts);
    }),
    ("folder_missing_is_named", &[Need::Kvm], || {
        let line = "script ok.wvm --memory 8M,file=no/such/new.ram";
        Place::new().refuses(&[], line, MEMORY, &["'no/such'", "No such file or directory"]);
    }),
    ("folder_that_is_a_file_is_named", &[Need::Kvm], || {
        let line = "script ok.wvm --memory 8M,file=ok.wvm/new.ram";
        Place::new().refuses(&[], line, MEMORY, &["'ok.wvm'", "Not a directory"]);
    }),
    ("file_name_too_long_is_told_before_anything_is_made", &[Need::Kvm, Need::Durable], || {
        let name = "x".repeat(256);
        let line = format!("script ok.wvm --memory 8M,file={name}");
        Place::new().refuses(&[], &line, MEMORY, &[&name, "File name too long"]);
        let line = format!("script ok.wvm --memory 8M,file={}", &name[..255]);
        drop(Place::new().run(&[], &line).expect_code(0));
    }),
    ("folder_not_writable_is_named", &[Need::Kvm, Need::Durable, Need::Root], || {
        let place = with_folder("ours");
        let line = "script ok.wvm --memory 8M,file=ours/new.ram";
        mode(&place, "ours", 0o500);
        place.refuses(AS_OTHERS, line, MEMORY, &["'ours/", "Permission denied"]);
        mode(&place, "ours", 0o700);
        drop(place.run(AS_OTHERS, line).expect_code(0));
    }),
    ("store_folder_not_writable_is_named", &[Need::Kvm, Need::Root], || {
        let place = with_folder("ours");
        mode(&place, "ours", 0o500);
        for line in ["script ok.wvm --memory 8M,file=new.ram --store ours", "run --on hosted --memory 8M --store ours"]
        {
            place.refuses(AS_OTHERS, line, CONFIG, &["'ours'", "cannot be written to", "Permission denied"]);
        }
        mode(&place, "ours", 0o700);
        drop(place.run(AS_OTHERS, "script ok.wvm --memory 8M --store ours").expect_code(0));
    }),
    ("ram_file_not_writable_is_named", &[Need::Kvm, Need::Durable, Need::Root], || {
        let place = Place::new();
        place.ram("old.ram");
        mode(&place, "old.ram", 0o400);
        let line = "script ok.wvm --memory file=old.ram";
        place.refuses(AS_OTHERS, line, MEMORY, &["'old.ram'", "Permission denied"]);
        mode(&place, "old.ram", 0o600);
        drop(place.run(AS_OTHERS, line).expect_code(0));
    }),
    (
        "temporary_file_where_nothing_is_durable_is_refused_if_durability_was_asked_for",
        &[Need::Kvm, Need::Mounts],
        || {
            let place = with_folder("disk");
            let wrapper = ["unshare", "-m", "sh", "-c", NO_DURABLE_FOLDER, "sh"];
            let line = "run --memory 8M,durability=shared";
            place.refuses(&wrapper, line, RAM_FILE, &["/var/tmp", "file=FILE", "durability=none"]);
            let finished = place.run(&wrapper, "run --memory 8M").expect_code(0);
            for part in ["durability  none", "note: none of", "unsupported"] {
                assert!(finished.stdout.contains(part), "{part} is not in\n{}", finished.stdout);
            }
        },
    ),
];

fn with_folder(name: &str) -> Place {
    let place = Place::new();
    fs::create_dir(place.path(name)).expect("a folder");
    place
}

fn mode(place: &Place, name: &str, mode: u32) {
    fs::set_permissions(place.path(name), Permissions::from_mode(mode)).expect("another mode");
}

/// Returns twice the bytes that the disk has left, as a size that RAM can have.
fn twice_the_free_space(place: &Place) -> u64 {
    let output = Command::new("stat").args(["-f", "-c", "%a %S"]).arg(place.folder()).output().expect("stat");
    let text = String::from_utf8(output.stdout).expect("text");
    let numbers: Vec<u64> = text.split_whitespace().map(|number| number.parse().expect("a number")).collect();
    let free: u64 = numbers.iter().product();
    (2 * free).next_multiple_of(2 << 20).max(1 << 30)
}
