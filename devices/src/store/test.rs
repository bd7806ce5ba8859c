//! What is answered about stores, whatever storage does.

mod admission;
mod copies;
mod random;
mod rig;
mod truth;
