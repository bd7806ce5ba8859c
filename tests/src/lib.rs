//! What the integration tests share: the `wirevm` binary, and tests that are ignored, with a reason, where the host lacks
//! what they need.

pub mod binary;
pub mod examples;
pub mod image;
pub mod model;
pub mod needs;
pub mod suite;

pub use binary::{Finished, Wirevm};
pub use needs::Need;
pub use suite::{Case, Suite};
