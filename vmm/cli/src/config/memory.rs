//! Sizes, and the options of guest memory as users write them.

use std::path::PathBuf;

use serde::de::value::{Error as ValueError, MapDeserializer};
use serde::{Deserialize, Deserializer, de};
use wirevm_devices::durability::Durability;
use wirevm_devices::folio::FolioPolicy;

use super::error::MemoryError;
use crate::size;

/// A size as users write it: a number of bytes or a text with a suffix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl std::str::FromStr for Size {
    type Err = size::SizeError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        size::parse(text).map(Self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Size;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a size such as 67108864 or \"64M\"")
            }
            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Size, E> {
                u64::try_from(bytes).map(Size).map_err(|_| E::custom(format!("a size can't be negative; {bytes} is")))
            }
            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Size, E> {
                Ok(Size(bytes))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Reads a value that is there; the items of `--memory` know no other.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

fn durability<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Durability>, D::Error> {
    let name = String::deserialize(deserializer)?;
    name.parse().map(Some).map_err(de::Error::custom)
}

fn folio<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<FolioPolicy>, D::Error> {
    let name = String::deserialize(deserializer)?;
    name.parse().map(Some).map_err(de::Error::custom)
}

/// Guest memory, as `--memory` and the table `[memory]` of a configuration file give it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemoryConfig {
    /// RAM size.
    #[serde(deserialize_with = "present")]
    pub size: Option<Size>,
    /// RAM file.
    #[serde(deserialize_with = "present")]
    pub file: Option<PathBuf>,
    /// What a sync promises.
    #[serde(deserialize_with = "durability")]
    pub durability: Option<Durability>,
    /// In what pieces the kernel keeps the RAM file.
    #[serde(deserialize_with = "folio")]
    pub folio: Option<FolioPolicy>,
}

impl MemoryConfig {
    /// The keys of `--memory`.
    const KEYS: [&str; 4] = ["size", "file", "durability", "folio"];

    /// Returns these options with what they lack taken from `other`.
    #[must_use]
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            size: self.size.or(other.size),
            file: self.file.or(other.file),
            durability: self.durability.or(other.durability),
            folio: self.folio.or(other.folio),
        }
    }
}

impl std::str::FromStr for MemoryConfig {
    type Err = MemoryError;

    /// Reads `size=64M,file=guest.ram,durability=shared,folio=bulk`; the first item may be a bare size.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut pairs = Vec::new();
        for (place, item) in text.split(',').enumerate() {
            let (key, value) = match item.split_once('=') {
                Some(pair) => pair,
                None if place == 0 && !Self::KEYS.contains(&item) && item.starts_with(|c: char| c.is_ascii_digit()) => {
                    ("size", item)
                }
                None => (item, ""),
            };
            if !Self::KEYS.contains(&key) {
                return Err(MemoryError::Key { key: key.to_owned() });
            }
            if value.is_empty() {
                return Err(MemoryError::NoValue { key: key.to_owned() });
            }
            pairs.push((key, value));
        }
        let values = MapDeserializer::new(pairs.into_iter());
        Self::deserialize(values).map_err(|error: ValueError| MemoryError::Value(error.to_string()))
    }
}
