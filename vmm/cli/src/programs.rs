//! The programs that are built with this one.

/// Names and ELF files, in the order of the names.
static BUILT_IN: &[(&str, &[u8])] = &include!(concat!(env!("OUT_DIR"), "/programs.rs"));

/// Returns the ELF file of a program.
#[must_use]
pub fn built_in(name: &str) -> Option<&'static [u8]> {
    BUILT_IN.iter().find(|(known, _)| *known == name).map(|(_, image)| *image)
}

/// Returns the names of all programs, sorted.
pub fn names() -> impl Iterator<Item = &'static str> {
    BUILT_IN.iter().map(|(name, _)| *name)
}

#[cfg(test)]
mod test {
    use super::{built_in, names};

    fn half(image: &[u8], at: usize) -> u16 {
        u16::from_le_bytes(*image[at..].first_chunk().expect("within the file"))
    }

    #[test]
    fn programs_are_static_and_nothing_is_written_and_executed() {
        for name in names() {
            let image = built_in(name).expect("a listed program");
            // Type EXEC; program headers of 56 bytes behind the header.
            assert_eq!((half(image, 16), image[32], half(image, 54)), (2, 64, 56), "{name}");
            let headers: Vec<_> = image[64..].chunks(56).take(half(image, 56).into()).collect();
            assert!(headers.len() >= 3, "{name}");
            for header in headers {
                assert_eq!(half(header, 0), 1, "{name}: only what is to be loaded");
                assert!(half(header, 4) & 3 != 3, "{name}: writable and executable");
            }
        }
    }

    #[test]
    fn programs_are_found_by_name_and_small() {
        assert!(names().is_sorted() && names().any(|name| name == "hello"));
        assert_eq!(built_in("no-such-program"), None);
        for name in names() {
            let image = built_in(name).expect("a listed program");
            assert_eq!(image.first_chunk(), Some(b"\x7fELF"), "{name}");
            assert!(image.len() <= 64 << 10, "{name} has {} bytes", image.len());
        }
    }
}
