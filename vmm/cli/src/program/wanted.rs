//! What a user asks to run.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};
use wirevm_abi::archive::{MAX_ARGUMENT_BYTES, MAX_NAME_BYTES};

use crate::programs;
use crate::visible::visible;

/// The built-in programs in the order of their names, each with its arguments and what it does.
pub const BUILT_IN: [(&str, &str, &str); 14] = [
    ("calls", "[N]", "times calls that do nothing"),
    ("counter", "[STORE]", "counts its runs in a store"),
    ("faults", "[N]", "times page faults on resident pages"),
    ("greedy", "WHAT", "takes entries, objects, threads or children until it is refused"),
    ("hello", "[NAME]", "greets"),
    ("hog", "MIB [wire]", "takes memory until there is none left"),
    ("kv", "N | get KEY | list", "keeps a durable log in a store, and says what it has synced"),
    ("meter", "OPERATION N …", "times one operation done over and over, such as wire or sync"),
    ("pressure", "WIRED UNWIRED [N]", "times loads from wired pages and from others"),
    ("pulse", "wire|sync|beat|rest N", "goes on while others wait for the host, and says how long it was held up"),
    ("refault", "[REGIONS]", "takes page faults on resident pages between two rests"),
    ("rogue", "WHAT …", "does what a program must not, such as ud2; WHAT may be all"),
    ("storm", "[SECONDS] [THREADS] …", "wires, maps, protects, forks and syncs in several threads, and checks itself"),
    ("toucher", "[MIB] [PASSES] …", "times the touching of memory"),
];

/// A program to run: a built-in one, or a file, with arguments.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Wanted {
    /// The name of a built-in program, or the path of a file, which has a `/` in it.
    name: String,
    arguments: Vec<String>,
}

/// Error of asking for a program.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WantedError {
    /// There is nothing in front of the arguments.
    #[error("a program has a name, or a path with a '/' in it, in front of its arguments")]
    NoName,
    /// There is no such built-in program.
    #[error("there is no built-in program '{name}': there are {}, and a path with a '/' in it names a file", names())]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// The arguments are too long.
    #[error("the arguments of '{name}' have {bytes} bytes; {MAX_ARGUMENT_BYTES} are the most")]
    TooLong {
        /// The program.
        name: String,
        /// How many, with one between each two arguments.
        bytes: usize,
    },
    /// The one argument is empty, which a program could not tell from none.
    #[error("the one argument of '{name}' is empty, which is as good as none; leave it out")]
    Empty {
        /// The program.
        name: String,
    },
    /// Arguments are joined by zero bytes.
    #[error("an argument of '{name}' has a zero byte in it")]
    Zero {
        /// The program.
        name: String,
    },
}

/// Returns what programs that run together are called in what is told of them: by name, with a number where several have one
/// name, and without a character that could not stand in the middle of a line.
pub fn titles<'a>(programs: impl Iterator<Item = &'a Wanted> + Clone) -> Vec<String> {
    let labels = programs.map(|wanted| visible(wanted.label()));
    let title = |(place, label): (usize, String)| {
        let like_it = |place| labels.clone().take(place).filter(|other| *other == label).count();
        if like_it(usize::MAX) == 1 { label } else { format!("{label}#{}", like_it(place) + 1) }
    };
    labels.clone().enumerate().map(title).collect()
}

/// Returns the names of the built-in programs in a row.
fn names() -> String {
    programs::names().collect::<Vec<_>>().join(", ")
}

impl Wanted {
    /// Checks a name and arguments. Whether a file is there is not looked at.
    ///
    /// # Errors
    /// [`WantedError`] for a name that means nothing, and for arguments that can't be passed.
    pub fn new(name: &str, arguments: Vec<String>) -> Result<Self, WantedError> {
        let owned = || name.to_owned();
        if name.is_empty() {
            return Err(WantedError::NoName);
        }
        if !name.contains('/') && programs::names().all(|known| known != name) {
            return Err(WantedError::Unknown { name: owned() });
        }
        if arguments.iter().any(|argument| argument.contains('\0')) || name.contains('\0') {
            return Err(WantedError::Zero { name: name.replace('\0', "\\0") });
        }
        if matches!(&*arguments, [argument] if argument.is_empty()) {
            return Err(WantedError::Empty { name: owned() });
        }
        let bytes = arguments.iter().map(|argument| argument.len() + 1).sum::<usize>().saturating_sub(1);
        if bytes > MAX_ARGUMENT_BYTES {
            return Err(WantedError::TooLong { name: owned(), bytes });
        }
        Ok(Self { name: owned(), arguments })
    }

    /// Returns the name of a built-in program, or the path of a file.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the arguments.
    #[must_use]
    pub fn arguments(&self) -> &[String] {
        &self.arguments
    }

    /// Tells whether it is a file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.name.contains('/')
    }

    /// Returns what reports call it: a file by the last part of its path, cut where the guest takes no more.
    #[must_use]
    pub fn label(&self) -> &str {
        let last = self.name.rsplit('/').find(|part| !part.is_empty()).unwrap_or(&self.name);
        last.get(..last.floor_char_boundary(MAX_NAME_BYTES)).unwrap_or(last)
    }
}

/// Reads `NAME[,ARGUMENT…]`.
impl FromStr for Wanted {
    type Err = WantedError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split(',');
        let name = parts.next().unwrap_or_default();
        Self::new(name, parts.map(str::to_owned).collect())
    }
}

impl<'de> Deserialize<'de> for Wanted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Shows it as a command line has it.
impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.arguments.iter().try_for_each(|argument| write!(f, ",{argument}"))
    }
}

#[cfg(test)]
mod test {
    use super::{BUILT_IN, Wanted, WantedError, titles};
    use crate::programs;

    fn wanted(text: &str) -> Result<Wanted, WantedError> {
        text.parse()
    }

    #[test]
    fn names_and_arguments_stand_between_commas() {
        let kv = wanted("kv,1000,a b").expect("a program");
        assert_eq!((kv.name(), kv.arguments().join("|"), kv.is_file()), ("kv", "1000|a b".to_owned(), false));
        assert_eq!(kv.to_string(), "kv,1000,a b");
        let file = wanted("./out/my.elf,,").expect("a file");
        assert_eq!((file.label(), file.arguments().len(), file.is_file()), ("my.elf", 2, true));
        assert_eq!(wanted("/").expect("some file").label(), "/");
        let long = wanted(&format!("./{}", "é".repeat(99))).expect("a file");
        assert_eq!(long.label(), "é".repeat(32));
    }

    #[test]
    fn programs_of_one_name_are_numbered() {
        let all: Vec<_> =
            ["hello,a", "kv", "./x/hello", "hello,b", "./a\n\x1b[1m"].map(wanted).into_iter().flatten().collect();
        assert_eq!(titles(all.iter()), ["hello#1", "kv", "hello#2", "hello#3", "a\\n\\u{1b}[1m"]);
    }

    #[test]
    fn every_built_in_program_is_listed() {
        assert!(BUILT_IN.iter().map(|(name, ..)| *name).eq(programs::names()));
        assert!(BUILT_IN.iter().all(|(name, ..)| wanted(name).is_ok()));
    }

    #[test]
    fn what_is_no_program_is_told_with_all_that_there_are() {
        let error = wanted("hallo").expect_err("no such program").to_string();
        assert!(error.starts_with("there is no built-in program 'hallo': there are calls, counter, "), "{error}");
        assert_eq!(wanted(",1"), Err(WantedError::NoName));
        assert_eq!(wanted("kv,"), Err(WantedError::Empty { name: "kv".into() }));
        assert_eq!(wanted("kv,\0"), Err(WantedError::Zero { name: "kv".into() }));
        let long = format!("kv,{},x", "1".repeat(2047));
        assert_eq!(wanted(&long), Err(WantedError::TooLong { name: "kv".into(), bytes: 2049 }));
    }
}
