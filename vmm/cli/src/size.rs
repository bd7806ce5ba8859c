//! Sizes as people write them: `4096`, `64K`, `8MiB`, `0x1000`.

use std::fmt;

/// Error of reading a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// Not a number.
    #[error("'{text}' is not a size; write a number of bytes, with a suffix K, M, G or T if you like (64M, 64MiB)")]
    NotANumber {
        /// What was written.
        text: String,
    },
    /// A suffix that means nothing.
    #[error("'{suffix}' is not a size suffix; use K, M, G or T (KiB, MiB, GiB and TiB are the same, B is bytes)")]
    Suffix {
        /// The suffix.
        suffix: String,
    },
    /// More than 64 bits.
    #[error("'{text}' is more than the 2^64 - 1 bytes that a size can have")]
    TooLarge {
        /// What was written.
        text: String,
    },
}

/// Reads a size in bytes: decimal with an optional suffix (1K = 1 KiB = 1024 bytes, in either case), or
/// hexadecimal after `0x`, without a suffix; `_` may stand between digits.
///
/// # Errors
/// [`SizeError`] for anything else, and for what does not fit 64 bits.
pub fn parse(text: &str) -> Result<u64, SizeError> {
    let too_large = || SizeError::TooLarge { text: text.to_owned() };
    let not_a_number = || SizeError::NotANumber { text: text.to_owned() };
    let (digits, radix, suffix) = match text.strip_prefix("0x") {
        Some(digits) => (digits, 16, ""),
        None => {
            let end = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
            let (digits, suffix) = text.split_at(end);
            (digits, 10, suffix)
        }
    };
    if digits.starts_with('_') || digits.ends_with('_') {
        return Err(not_a_number());
    }
    let digits = digits.replace('_', "");
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(not_a_number());
    }
    let value = u64::from_str_radix(&digits, radix).map_err(|_| too_large())?;
    value.checked_mul(multiplier(suffix)?).ok_or_else(too_large)
}

fn multiplier(suffix: &str) -> Result<u64, SizeError> {
    Ok(match suffix.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        _ => return Err(SizeError::Suffix { suffix: suffix.to_owned() }),
    })
}

/// Shows bytes in the largest unit that divides them: `64 MiB`, `4097 bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        let unit = units.into_iter().find(|(shift, _)| self.0 != 0 && self.0.trailing_zeros() >= *shift);
        match unit {
            Some((shift, name)) => write!(f, "{} {name}", self.0 >> shift),
            None if self.0 == 1 => f.write_str("1 byte"),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

/// Shows bytes roughly, for quantities that are measured and not chosen: `78.3 GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoughBytes(pub u64);

impl fmt::Display for RoughBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(40_u32, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        match units.into_iter().find(|(shift, _)| self.0 >> shift != 0) {
            Some((shift, name)) => {
                let tenths = (u128::from(self.0) * 10) >> shift;
                write!(f, "{}.{} {name}", tenths / 10, tenths % 10)
            }
            None => Bytes(self.0).fmt(f),
        }
    }
}

#[cfg(test)]
mod test {
    use super::{Bytes, RoughBytes, SizeError, parse};

    #[test]
    fn sizes_with_every_suffix_are_read() {
        let sizes = [
            ("0", 0),
            ("4096", 4096),
            ("1_000", 1000),
            ("0x10", 16),
            ("0xFFFF_FFFF_FFFF_FFFF", u64::MAX),
            ("7B", 7),
            ("64K", 64 << 10),
            ("64k", 64 << 10),
            ("8MiB", 8 << 20),
            ("2G", 2 << 30),
            ("1TiB", 1 << 40),
        ];
        for (text, bytes) in sizes {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_by_kind() {
        for text in ["", "K", "-1", "0x", "0x10K", "_1", "1_", "1.5G", " 1", "MiB"] {
            let refused = matches!(parse(text), Err(SizeError::NotANumber { .. } | SizeError::Suffix { .. }));
            assert!(refused, "{text}: {:?}", parse(text));
        }
        assert_eq!(parse("5KB"), Err(SizeError::Suffix { suffix: "KB".into() }));
        for text in ["18446744073709551616", "16777216T", "0x10000000000000000"] {
            assert_eq!(parse(text), Err(SizeError::TooLarge { text: text.into() }));
        }
    }

    #[test]
    fn bytes_are_shown_in_the_largest_exact_unit() {
        let shown = [0, 1, 4095, 4096, 64 << 20, 3 << 30, u64::MAX].map(|bytes| Bytes(bytes).to_string());
        let expected = ["0 bytes", "1 byte", "4095 bytes", "4 KiB", "64 MiB", "3 GiB", "18446744073709551615 bytes"];
        assert_eq!(shown, expected);
        assert_eq!(RoughBytes((64 << 20) + (512 << 10)).to_string(), "64.5 MiB");
        assert_eq!(RoughBytes(1023).to_string(), "1023 bytes");
        assert_eq!(RoughBytes(u64::MAX).to_string(), "16777215.9 TiB");
    }
}
