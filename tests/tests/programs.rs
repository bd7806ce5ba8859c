//! Programs in a guest's ring 3, as a user runs them: from the command line and in scripts.

#[path = "programs/command_line.rs"]
mod command_line;
#[path = "programs/elf.rs"]
mod elf;
#[path = "programs/kill.rs"]
mod kill;
#[path = "programs/script.rs"]
mod script;

use std::process::ExitCode;

use wirevm_tests::Suite;

fn main() -> ExitCode {
    Suite::new().cases(command_line::CASES).cases(script::CASES).cases(kill::CASES).run()
}
