//! The script language: one operation a line, each with what is expected of it.
//!
//! `resources/scripts/GRAMMAR.md` is the definition; this module follows it. A [`ScriptSource`](source::ScriptSource)
//! gives a [`Script`], or every error that the text has, and [`run`](run::run) carries a script out over a
//! [`Target`](target::Target).

pub mod ast;
pub mod awaits;
mod cursor;
pub mod frames;
mod lexer;
mod names;
mod outcome;
mod parser;
mod print;
pub mod run;
mod runner;
mod sample;
mod scopes;
pub mod source;
mod syntax_error;
pub mod target;
#[cfg(test)]
mod test;

pub use ast::Script;
#[cfg(test)]
use parser::parse;
pub use syntax_error::{SyntaxError, SyntaxErrors};
