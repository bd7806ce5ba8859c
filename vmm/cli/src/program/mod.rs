//! Programs that the guest runs: named on a command line or in a script, checked before anything is made, run, and reported.

mod elf;
mod image;
mod output;
mod run;
mod wanted;

pub use self::image::{Program, load};
pub use self::output::{Live, Outputs};
pub use self::run::{ProgramEnding, ProgramRun, run};
pub use self::wanted::{BUILT_IN, Wanted, titles};
