//! Every bad input and what it gets: its class's exit code and one sentence, and nothing made or changed by it.
//!
//! Beside each refusal stands its good neighbour: the nearest input that must work.

#[path = "bad_input/command_line.rs"]
mod command_line;
#[path = "bad_input/configuration.rs"]
mod configuration;
#[path = "bad_input/disk.rs"]
mod disk;
#[path = "bad_input/host.rs"]
mod host;
#[path = "bad_input/image.rs"]
mod image;
#[path = "bad_input/place.rs"]
mod place;
#[path = "bad_input/ram_file.rs"]
mod ram_file;
#[path = "bad_input/script.rs"]
mod script;

use std::process::ExitCode;

use wirevm_tests::{Need, Suite};

use place::{accepted, refused, refused_by_the_command_line, rows};

fn main() -> ExitCode {
    let kvm = [Need::Kvm];
    let disk = [Need::Kvm, Need::Durable];
    Suite::new()
        .each(&[], rows(command_line::REFUSED), refused_by_the_command_line)
        .each(&[], rows(configuration::REFUSED), refused)
        .each(&kvm, rows(configuration::REFUSED_WITH_KVM), refused)
        .each(&kvm, rows(configuration::ACCEPTED), accepted)
        .each(&[], rows(configuration::ACCEPTED_WITHOUT_KVM), accepted)
        .each(&[], rows(script::REFUSED), refused)
        .each(&kvm, rows(script::ACCEPTED), accepted)
        .each(&kvm, rows(image::REFUSED), refused)
        .each(&disk, rows(ram_file::REFUSED), refused)
        .each(&disk, rows(ram_file::ACCEPTED), accepted)
        .cases(script::CASES)
        .cases(image::CASES)
        .cases(ram_file::CASES)
        .cases(disk::CASES)
        .cases(host::CASES)
        .run()
}
