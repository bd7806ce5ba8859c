//! What is about managers and stores, as text.

use std::fmt;

use wirevm_abi::StoreName;
use wirevm_abi::stat::NAMES;
use wirevm_map::StoreKind;

use super::{Rights, word_of};
use crate::script::ast::{Backing, Managing, RETURNS};

/// A store's name as a word, or as a string where it is none.
pub(super) struct StoreWord(pub(super) StoreName);

impl fmt::Display for StoreWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.0.as_str();
        let is_word = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if is_word { f.write_str(name) } else { write!(f, "\"{name}\"") }
    }
}

/// Returns the name of a selector of the contract.
pub(super) fn stat_name(selector: u64) -> &'static str {
    NAMES.iter().zip(1..).find(|(_, known)| *known == selector).map_or("", |(name, _)| *name)
}

impl fmt::Display for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(name, StoreKind::Store) => write!(f, "store {}", StoreWord(*name)),
            Self::Store(name, StoreKind::Exclusive) => write!(f, "exclusive {}", StoreWord(*name)),
            Self::Manager(manager) => write!(f, "manager {manager}"),
        }
    }
}

impl fmt::Display for Managing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Behave(behaviour) => f.write_str(word_of(&Self::BEHAVIOURS, *behaviour)),
            Self::Die => f.write_str("dies"),
            Self::Answer { object, offset, length, status } => {
                write!(f, "answers {object} {offset} {length} {status}")
            }
            Self::Request { object, pages, should_return, should_flush, forbidden } => {
                write!(f, "requests {object}")?;
                if let Some((start, end)) = pages {
                    write!(f, "[{start},{end})")?;
                }
                let flush = if *should_flush { " flush" } else { "" };
                write!(f, " {}{flush}", word_of(&RETURNS, *should_return))?;
                forbidden.map_or(Ok(()), |prot| write!(f, " forbid {}", Rights(prot)))
            }
            Self::Messages => f.write_str("messages"),
        }
    }
}
