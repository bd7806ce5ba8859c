//! What a program is given to work with.

use core::fmt;
use core::str::FromStr;

/// A program's name and its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Args(&'static str);

/// An argument that is missing or can't be read; says which, and what was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArgsError {
    what: &'static str,
    found: Option<&'static str>,
}

impl fmt::Display for ArgsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.found {
            Some(found) => write!(f, "{found:?} is no {}", self.what),
            None => write!(f, "an argument is missing: {}", self.what),
        }
    }
}

impl core::error::Error for ArgsError {}

impl Args {
    /// Reads what the kernel passes: the name and the arguments, joined by zero bytes.
    #[must_use]
    pub const fn new(joined: &'static str) -> Self {
        Self(joined)
    }

    /// Returns the name (0) or an argument.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&'static str> {
        self.0.split('\0').nth(index)
    }

    /// Returns the arguments, without the name.
    pub fn iter(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.0.split('\0').skip(1)
    }

    /// Returns the program's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.get(0).unwrap_or("")
    }

    /// Reads an argument as a number; `what` says what it stands for.
    ///
    /// # Errors
    /// [`ArgsError`] where there is none, or no such number.
    pub fn number<T: FromStr>(&self, index: usize, what: &'static str) -> Result<T, ArgsError> {
        let text = self.get(index).ok_or(ArgsError { what, found: None })?;
        text.parse().map_err(|_| ArgsError { what, found: Some(text) })
    }

    /// As [`Args::number`], with a value for where there is none.
    ///
    /// # Errors
    /// [`ArgsError`] for what is no such number.
    pub fn number_or<T: FromStr>(&self, index: usize, what: &'static str, default: T) -> Result<T, ArgsError> {
        if self.get(index).is_some() { self.number(index, what) } else { Ok(default) }
    }
}

#[cfg(test)]
mod test {
    use alloc::string::ToString;
    use alloc::vec::Vec;

    use super::Args;

    #[test]
    fn arguments_are_what_stands_between_zero_bytes() {
        let args = Args::new("kv\0get\0\0k7");
        assert_eq!((args.name(), args.get(1), args.get(2), args.get(4)), ("kv", Some("get"), Some(""), None));
        assert_eq!(args.iter().collect::<Vec<_>>(), ["get", "", "k7"]);
        assert_eq!(Args::new("hello").iter().count(), 0);
    }

    #[test]
    fn numbers_say_what_is_wrong_with_them() {
        let args = Args::new("hog\x00300\0-1");
        assert_eq!(args.number(1, "size in MiB"), Ok(300_u32));
        assert_eq!(args.number::<u8>(1, "size in MiB").expect_err("300").to_string(), "\"300\" is no size in MiB");
        assert_eq!(
            args.number::<u8>(3, "size in MiB").expect_err("none").to_string(),
            "an argument is missing: size in MiB"
        );
        assert_eq!((args.number_or(3, "count", 5_u8), args.number_or::<u8>(2, "count", 5).is_err()), (Ok(5), true));
    }
}
