//! Tests of the language as a whole.

mod examples;
mod generate;
mod managers;
mod programs;
mod round_trip;
mod runner;
mod scripted;
mod syntax;
mod system;
