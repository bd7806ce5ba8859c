//! What a virtual machine's memory survives, chosen once for each machine.

use std::fmt;
use std::str::FromStr;

/// What a completed sync promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Durability {
    /// Nothing: sync answers *unsupported*, memory ends with the machine.
    None,
    /// A sync makes a range of the RAM file stable; pages nobody synced may become stable early.
    Shared,
    /// A sync is one all-or-nothing commit. Reserved: no RAM file can be made in this mode yet.
    Atomic,
}

/// Error of reading a [`Durability`] from text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown durability '{text}': expected none, shared or atomic")]
pub struct DurabilityError {
    text: String,
}

impl Durability {
    /// Returns the mode's name as users write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Shared => "shared",
            Self::Atomic => "atomic",
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Durability {
    type Err = DurabilityError;

    /// Reads a mode by its name, in lower case.
    ///
    /// # Errors
    /// [`DurabilityError`] for any other text.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::None, Self::Shared, Self::Atomic]
            .into_iter()
            .find(|mode| mode.name() == text)
            .ok_or_else(|| DurabilityError { text: text.to_owned() })
    }
}

#[cfg(test)]
mod test {
    use super::Durability;

    #[test]
    fn durability_name_reads_back_as_itself() {
        for mode in [Durability::None, Durability::Shared, Durability::Atomic] {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
    }

    #[test]
    fn durability_other_text_is_refused_with_the_choices() {
        for text in ["", "Shared", "none ", "full"] {
            let error = text.parse::<Durability>().expect_err("must be refused").to_string();
            assert!(error.contains("none, shared or atomic"), "{error}");
        }
    }
}
