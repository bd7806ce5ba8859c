//! What the integration tests share: the `wirevm` binary, and tests that are ignored, with a reason, where the host lacks
//! what they need.

pub mod binary;
pub mod examples;
pub mod image;
pub mod model;
pub mod needs;
pub mod program_file;
pub mod random;
pub mod suite;
pub mod touching;
pub mod watched;

pub use binary::{Finished, Wirevm};
pub use needs::Need;
pub use random::Random;
pub use suite::{Case, Suite};
pub use watched::Watched;
