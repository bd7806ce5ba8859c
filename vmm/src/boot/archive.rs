//! Makes the archive of programs that a guest finds in RAM.

use std::sync::Arc;

use wirevm_abi::archive::{ENTRY_WORDS, HEADER_WORDS, MAGIC, MAX_ARGUMENT_BYTES, MAX_ENTRIES, MAX_NAME_BYTES};

/// A program does not go into an archive.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// The archive is full.
    #[error("an archive holds {MAX_ENTRIES} programs, and '{name}' is one more")]
    TooMany {
        /// The program's name.
        name: String,
    },
    /// The name is empty, too long, or has a zero byte.
    #[error("a program's name has 1 to {MAX_NAME_BYTES} bytes, none of them zero: {name:?} does not do")]
    Name {
        /// The name.
        name: String,
    },
    /// The arguments are too long together.
    #[error("the arguments of program '{name}' have {bytes} bytes together, {MAX_ARGUMENT_BYTES} are possible")]
    ArgumentsTooLong {
        /// The program's name.
        name: String,
        /// Bytes of the arguments, those between them included.
        bytes: usize,
    },
    /// An argument has a zero byte, which is what stands between arguments.
    #[error("argument {argument:?} of program '{name}' has a zero byte")]
    ArgumentWithZero {
        /// The program's name.
        name: String,
        /// The argument.
        argument: String,
    },
    /// The one argument is empty, which looks like no argument.
    #[error("program '{name}' has one argument, and that is empty: the guest could not tell it from none")]
    EmptyArgument {
        /// The program's name.
        name: String,
    },
}

/// One program to run: its name and joined arguments, and the number of its image.
#[derive(Clone, Debug)]
struct Entry {
    name: String,
    arguments: String,
    image: usize,
}

/// Collects programs, in the order in which the guest starts them.
#[derive(Clone, Debug, Default)]
pub struct ArchiveBuilder {
    entries: Vec<Entry>,
    /// Each is stored once, however many entries run it.
    images: Vec<Arc<[u8]>>,
}

impl ArchiveBuilder {
    /// Returns a builder without programs.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one program to run: `name` is what reports call it, `image` its ELF file, of which nothing is checked. Programs
    /// with the same image share its bytes in the archive.
    ///
    /// # Errors
    /// [`ArchiveError`]; the builder is as before.
    pub fn add(&mut self, name: &str, arguments: &[String], image: &Arc<[u8]>) -> Result<(), ArchiveError> {
        let named = || name.to_owned();
        if self.entries.len() >= MAX_ENTRIES {
            return Err(ArchiveError::TooMany { name: named() });
        }
        if name.is_empty() || name.len() > MAX_NAME_BYTES || name.contains('\0') {
            return Err(ArchiveError::Name { name: named() });
        }
        if let Some(argument) = arguments.iter().find(|argument| argument.contains('\0')) {
            return Err(ArchiveError::ArgumentWithZero { name: named(), argument: argument.clone() });
        }
        if arguments.len() == 1 && arguments.iter().all(String::is_empty) {
            return Err(ArchiveError::EmptyArgument { name: named() });
        }
        let arguments = arguments.join("\0");
        if arguments.len() > MAX_ARGUMENT_BYTES {
            return Err(ArchiveError::ArgumentsTooLong { name: named(), bytes: arguments.len() });
        }
        let held = self.images.iter().position(|held| Arc::ptr_eq(held, image) || held == image);
        let image = held.unwrap_or_else(|| {
            self.images.push(Arc::clone(image));
            self.images.len() - 1
        });
        self.entries.push(Entry { name: named(), arguments, image });
        Ok(())
    }

    /// Returns the archive's bytes.
    #[must_use]
    pub fn finish(&self) -> Arc<[u8]> {
        let heads = 8 * (HEADER_WORDS + ENTRY_WORDS * self.entries.len());
        // What follows the entries: images first, each from a multiple of 8 on, then the texts.
        let mut parts = Vec::new();
        let mut put = |bytes: &[u8], align: usize| {
            parts.resize(parts.len().next_multiple_of(align), 0);
            let place = [heads + parts.len(), bytes.len()];
            parts.extend_from_slice(bytes);
            place
        };
        let images: Vec<_> = self.images.iter().map(|image| put(image, 8)).collect();
        let entries: Vec<_> = (self.entries.iter())
            .map(|entry| {
                let image = images.get(entry.image).copied().unwrap_or_default();
                [put(entry.name.as_bytes(), 1), put(entry.arguments.as_bytes(), 1), image]
            })
            .collect();
        let header = [MAGIC, entries.len() as u64, (heads + parts.len()) as u64];
        let places = entries.iter().flatten().flatten().map(|number| *number as u64);
        let words = header.into_iter().chain(places).flat_map(u64::to_le_bytes);
        words.chain(parts.iter().copied()).collect()
    }
}

#[cfg(test)]
mod test {
    use std::sync::Arc;

    use proptest::prelude::{Just, Strategy, any, prop, prop_oneof, proptest};
    use wirevm_abi::archive::{Archive, Entry, MAX_ARGUMENT_BYTES, MAX_ENTRIES, MAX_NAME_BYTES};

    use super::{ArchiveBuilder, ArchiveError};

    fn image(bytes: &[u8]) -> Arc<[u8]> {
        Arc::from(bytes)
    }

    fn texts(all: &[&str]) -> Vec<String> {
        all.iter().map(|text| (*text).to_owned()).collect()
    }

    fn two() -> Arc<[u8]> {
        let mut builder = ArchiveBuilder::new();
        builder.add("kv", &texts(&["1000", "", "x"]), &image(b"\x7fELF kv")).expect("fits");
        builder.add("hello", &[], &image(b"\x7fELF hello, all")).expect("fits");
        builder.finish()
    }

    /// Looks at everything that an archive says of itself.
    fn read_all(bytes: &[u8]) -> usize {
        let Some(archive) = Archive::new(bytes) else { return 0 };
        assert_eq!(archive.entry(archive.len()), None);
        let entries = (0..archive.len()).filter_map(|index| archive.entry(index));
        let sizes = entries.map(|Entry { name, arguments, image }| name.len() + arguments.len() + image.len());
        sizes.sum()
    }

    #[test]
    fn archive_has_its_golden_bytes() {
        let mut builder = ArchiveBuilder::new();
        builder.add("ab", &texts(&["c", "d"]), &image(b"ELF")).expect("fits");
        let mut expected = b"WIREVMPA".to_vec();
        for word in [1_u64, 80, 75, 2, 77, 3, 72, 3] {
            expected.extend(word.to_le_bytes());
        }
        expected.extend(b"ELFabc\0d");
        assert_eq!(&*builder.finish(), expected);
    }

    #[test]
    fn entries_come_back_in_order() {
        let bytes = two();
        let archive = Archive::new(&bytes).expect("an archive");
        assert_eq!(archive.len(), 2);
        let kv = Entry { name: "kv", arguments: "1000\0\0x", image: b"\x7fELF kv" };
        assert_eq!(archive.entry(0), Some(kv));
        assert_eq!(archive.entry(1), Some(Entry { name: "hello", arguments: "", image: b"\x7fELF hello, all" }));
        let none = ArchiveBuilder::new().finish();
        assert!(Archive::new(&none).is_some_and(|archive| archive.is_empty()));
    }

    #[test]
    fn image_is_stored_once_and_aligned() {
        let long = image(&[7; 10_001]);
        let mut builder = ArchiveBuilder::new();
        for (number, image) in [&long, &image(b"odd"), &image(&[7; 10_001]), &long].into_iter().enumerate() {
            builder.add(&format!("p{number}"), &[], image).expect("fits");
        }
        let bytes = builder.finish();
        assert!(bytes.len() < 11_000, "{} bytes", bytes.len());
        let archive = Archive::new(&bytes).expect("an archive");
        for index in 0..4 {
            let found = archive.entry(index).expect("there").image;
            assert_eq!((found.as_ptr().addr() - bytes.as_ptr().addr()) % 8, 0);
            assert_eq!(found, if index == 1 { b"odd" } else { &*long });
        }
    }

    #[test]
    fn limits_are_exact_and_refusals_leave_the_builder_as_it_was() {
        let elf = image(b"elf");
        let (name, argument) = ("n".repeat(MAX_NAME_BYTES), "a".repeat(MAX_ARGUMENT_BYTES - 2));
        let mut builder = ArchiveBuilder::new();
        builder.add(&name, &[argument.clone(), "b".to_owned()], &elf).expect("just fits");
        let before = builder.finish();
        let long = "n".repeat(MAX_NAME_BYTES + 1);
        for name in [long.as_str(), "", "a\0b"] {
            assert_eq!(builder.add(name, &[], &elf), Err(ArchiveError::Name { name: name.to_owned() }));
        }
        let n = || "n".to_owned();
        for (arguments, error) in [
            (vec![argument, "bc".to_owned()], ArchiveError::ArgumentsTooLong { name: n(), bytes: 2049 }),
            (texts(&["a", "b\0"]), ArchiveError::ArgumentWithZero { name: n(), argument: "b\0".to_owned() }),
            (texts(&[""]), ArchiveError::EmptyArgument { name: n() }),
        ] {
            assert_eq!(builder.add("n", &arguments, &image(b"another")), Err(error));
        }
        assert_eq!(builder.finish(), before);
        for _ in 1..MAX_ENTRIES {
            builder.add("n", &[], &elf).expect("fits");
        }
        assert_eq!(builder.add("n", &[], &elf), Err(ArchiveError::TooMany { name: n() }));
        assert_eq!(Archive::new(&builder.finish()).expect("an archive").len(), MAX_ENTRIES);
    }

    #[test]
    fn every_cut_and_every_single_byte_change_is_read_without_a_panic() {
        let good = two();
        for end in 0..good.len() {
            assert!(Archive::new(&good[..end]).is_none(), "cut at {end}");
        }
        for at in 0..good.len() {
            for value in 0..=u8::MAX {
                let mut bytes = good.to_vec();
                bytes[at] = value;
                assert!(read_all(&bytes) <= 4 * bytes.len());
            }
        }
    }

    /// Words that lie about places: small ones, those about the archive's length, the largest ones.
    fn words() -> impl Strategy<Value = u64> {
        prop_oneof![0_u64..400, Just(u64::MAX), (0_u64..64).prop_map(|power| 1 << power), any::<u64>()]
    }

    proptest! {
        #[test]
        fn any_programs_come_back(
            programs in prop::collection::vec(
                ("[a-z0-9é]{1,32}", prop::collection::vec("[ -~]{1,20}", 0..5), prop::collection::vec(any::<u8>(), 0..40)),
                0..12,
            )
        ) {
            let mut builder = ArchiveBuilder::new();
            for (name, arguments, bytes) in &programs {
                builder.add(name, arguments, &image(bytes)).expect("fits");
            }
            let bytes = builder.finish();
            let archive = Archive::new(&bytes).expect("an archive");
            assert_eq!(archive.len(), programs.len());
            for (index, (name, arguments, image)) in programs.iter().enumerate() {
                let arguments = arguments.join("\0");
                let expected = Entry { name, arguments: &arguments, image };
                assert_eq!(archive.entry(index), Some(expected));
            }
        }

        #[test]
        fn changed_words_and_bytes_are_read_without_a_panic(
            changed in prop::collection::vec((0_usize..15, words()), 0..4),
            bytes in prop::collection::vec((0_usize..200, any::<u8>()), 0..6),
        ) {
            let mut archive = two().to_vec();
            for (word, value) in changed {
                archive[8 * word..8 * word + 8].copy_from_slice(&value.to_le_bytes());
            }
            for (at, value) in bytes {
                if let Some(byte) = archive.get_mut(at) {
                    *byte = value;
                }
            }
            assert!(read_all(&archive) <= 256 * 3 * archive.len());
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut with_magic = wirevm_abi::archive::MAGIC.to_le_bytes().to_vec();
            with_magic.extend(&bytes);
            read_all(&bytes);
            read_all(&with_magic);
        }
    }
}
