//! What a program is given to work with.

use core::fmt;
use core::str::FromStr;

/// A program's name and its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Args(&'static str);

/// An argument that is missing, can't be read or is not wanted; says which, and what was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArgsError(Wrong);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    /// What is missing.
    Missing(&'static str),
    /// What stands in its place.
    Other { what: &'static str, found: &'static str },
    /// Nothing is expected there.
    Extra(&'static str),
}

impl fmt::Display for ArgsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Wrong::Missing(what) => write!(f, "an argument is missing: {what}"),
            Wrong::Other { what, found } => write!(f, "{found:?} is no {what}"),
            Wrong::Extra(found) => write!(f, "{found:?} is one argument too many"),
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
        let text = self.text(index, what)?;
        text.parse().map_err(|_| ArgsError(Wrong::Other { what, found: text }))
    }

    /// Returns an argument; `what` says what it stands for.
    ///
    /// # Errors
    /// [`ArgsError`] where there is none.
    pub fn text(&self, index: usize, what: &'static str) -> Result<&'static str, ArgsError> {
        self.get(index).ok_or(ArgsError(Wrong::Missing(what)))
    }

    /// Returns which of some words an argument is; `what` names them.
    ///
    /// # Errors
    /// [`ArgsError`] where there is none, or another one.
    pub fn one_of(&self, index: usize, what: &'static str, words: &[&str]) -> Result<usize, ArgsError> {
        let found = self.text(index, what)?;
        words.iter().position(|word| *word == found).ok_or(ArgsError(Wrong::Other { what, found }))
    }

    /// Tells whether a word that may be left out is there.
    ///
    /// # Errors
    /// [`ArgsError`] for another word.
    pub fn option(&self, index: usize, word: &'static str) -> Result<bool, ArgsError> {
        if self.get(index).is_some() { self.one_of(index, word, &[word]).map(|_| true) } else { Ok(false) }
    }

    /// Checks that there is no argument from `index` on.
    ///
    /// # Errors
    /// [`ArgsError`] where there is one.
    pub fn end(&self, index: usize) -> Result<(), ArgsError> {
        self.get(index).map_or(Ok(()), |found| Err(ArgsError(Wrong::Extra(found))))
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

    #[test]
    fn words_are_those_that_are_expected() {
        let args = Args::new("hog\x00300\0wired");
        assert_eq!(args.option(2, "wire").expect_err("another").to_string(), "\"wired\" is no wire");
        assert_eq!((args.option(2, "wired"), args.option(3, "wire")), (Ok(true), Ok(false)));
        assert_eq!(args.one_of(2, "sync or wired", &["sync", "wired"]), Ok(1));
        assert_eq!(args.text(3, "key").expect_err("none").to_string(), "an argument is missing: key");
        assert_eq!(args.end(2).expect_err("one").to_string(), "\"wired\" is one argument too many");
        assert_eq!(args.end(3), Ok(()));
    }
}
