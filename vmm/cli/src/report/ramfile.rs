//! What a RAM file tells its user.

use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::json::{FORMAT, pretty};
use crate::size::Bytes;

/// Bytes of a page that are shown.
const SHOWN_BYTES: usize = 64;

/// All about a RAM file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RamFileReport {
    /// The file.
    pub path: PathBuf,
    /// `fresh`, `clean`, `open` or `failed`.
    pub state: &'static str,
    /// The host's number for the first storage error, if storage failed.
    pub errno: Option<i32>,
    /// The first RAM page of what failed then, where one is known.
    pub first_failed_page: Option<u64>,
    /// How often the header was written.
    pub generation: u64,
    /// RAM size in bytes.
    pub ram_bytes: u64,
    /// RAM size in pages.
    pub ram_pages: u64,
    /// Byte offset of RAM page 0 in the file.
    pub data_offset: u64,
    /// Name of the durability mode.
    pub durability: String,
    /// The pages that were asked for, in order.
    pub pages: Vec<PageReport>,
}

/// What a page of the file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PageReport {
    /// Its number in RAM.
    page: u64,
    /// The byte that all of it is; null where they differ.
    byte: Option<u8>,
    /// Its first 64 bytes in hexadecimal.
    hex: String,
    /// The same as text, where all of them are printable ASCII.
    text: Option<String>,
}

/// What `wirevm ramfile --json` prints.
#[derive(Debug, Serialize)]
struct RamFileDocument<'a> {
    /// Version of the program.
    wirevm: &'static str,
    /// Number of the format.
    format: u32,
    /// True: the file can be read.
    ok: bool,
    /// The process's exit code.
    exit_code: u8,
    file: &'a Path,
    /// `fresh`, `clean`, `open` or `failed`.
    state: &'static str,
    /// The host's number for the first storage error; null where storage did not fail.
    errno: Option<i32>,
    /// The first RAM page of what failed; null where none is known.
    first_failed_page: Option<u64>,
    generation: u64,
    ram_bytes: u64,
    ram_pages: u64,
    /// Byte offset of RAM page 0 in the file.
    data_offset: u64,
    durability: &'a str,
    pages: &'a [PageReport],
}

impl PageReport {
    /// Returns what is told of a page's bytes.
    #[must_use]
    pub fn new(page: u64, bytes: &[u8]) -> Self {
        let byte = bytes.first().copied().filter(|first| bytes.iter().all(|byte| byte == first));
        let hex = bytes.iter().take(SHOWN_BYTES).map(|byte| format!("{byte:02x}")).collect();
        let shown = bytes.get(..SHOWN_BYTES.min(bytes.len())).unwrap_or(&[]);
        let is_printable = shown.iter().all(|byte| matches!(byte, b' '..=b'~'));
        let text = std::str::from_utf8(shown).ok().filter(|_| is_printable).map(ToOwned::to_owned);
        Self { page, byte, hex, text }
    }
}

impl RamFileReport {
    /// Returns the report as lines; one repeated byte is shown as scripts show it.
    #[must_use]
    pub fn text(&self) -> String {
        let rows = [
            ("file", self.path.display().to_string()),
            ("state", self.state_in_words()),
            ("RAM", format!("{}, pages 0 to {}", Bytes(self.ram_bytes), self.ram_pages.saturating_sub(1))),
            ("durability", self.durability.clone()),
            ("generation", self.generation.to_string()),
        ];
        let mut text = String::new();
        for (name, value) in rows {
            writeln!(text, "  {name:<10}  {value}").unwrap_or_default();
        }
        if !self.pages.is_empty() {
            text.push('\n');
        }
        for PageReport { page, byte, hex, text: words } in &self.pages {
            let name = format!("page {page}");
            match (byte, words) {
                (Some(byte), _) => writeln!(text, "  {name:<10}  {byte:#04x}"),
                (None, Some(words)) => writeln!(text, "  {name:<10}  {words:?}…"),
                (None, None) => writeln!(text, "  {name:<10}  hex:{hex}…"),
            }
            .unwrap_or_default();
        }
        text
    }

    fn state_in_words(&self) -> String {
        let why = match self.state {
            "fresh" => "no machine has used it".to_owned(),
            "clean" => "the last machine closed it in order".to_owned(),
            "open" => "it was not closed in order: what was synced is here, of the rest some may be old".to_owned(),
            _ => {
                let reason = io::Error::from_raw_os_error(self.errno.unwrap_or_default());
                let place = self.first_failed_page.map_or(String::new(), |page| format!(", first at page {page}"));
                format!("storage failed under the last machine ({reason}{place}): it may hold older bytes")
            }
        };
        format!("{}: {why}", self.state)
    }

    /// Returns the report as a JSON document.
    ///
    /// # Errors
    /// When the path is not UTF-8, which JSON can't hold.
    pub fn document(&self) -> Result<String, serde_json::Error> {
        pretty(&RamFileDocument {
            wirevm: env!("CARGO_PKG_VERSION"),
            format: FORMAT,
            ok: true,
            exit_code: 0,
            file: &self.path,
            state: self.state,
            errno: self.errno,
            first_failed_page: self.first_failed_page,
            generation: self.generation,
            ram_bytes: self.ram_bytes,
            ram_pages: self.ram_pages,
            data_offset: self.data_offset,
            durability: &self.durability,
            pages: &self.pages,
        })
    }
}

#[cfg(test)]
mod test {
    use super::{PageReport, RamFileReport};

    fn report() -> RamFileReport {
        let mut mixed = [0xa1; 4096];
        mixed[4095] = 0;
        RamFileReport {
            path: "guest.ram".into(),
            state: "failed",
            errno: Some(libc::EIO),
            first_failed_page: Some(7),
            generation: 4,
            ram_bytes: 8 << 20,
            ram_pages: 2048,
            data_offset: 2 << 20,
            durability: "shared".into(),
            pages: vec![PageReport::new(7, &[0x5a; 4096]), PageReport::new(8, &mixed)],
        }
    }

    #[test]
    fn text_has_a_line_for_each_word_of_the_header_and_each_page() {
        let hex = "a1".repeat(64);
        let expected = format!(
            "  file        guest.ram
  state       failed: storage failed under the last machine (Input/output error (os error 5), first at page 7): it may hold older bytes
  RAM         8 MiB, pages 0 to 2047
  durability  shared
  generation  4

  page 7      0x5a
  page 8      hex:{hex}…
"
        );
        assert_eq!(report().text(), expected);
    }

    #[test]
    fn document_holds_the_header_and_the_pages() {
        let document: serde_json::Value =
            serde_json::from_str(&report().document().expect("a document")).expect("JSON");
        assert_eq!((&document["ok"], &document["exit_code"]), (&true.into(), &0.into()));
        assert_eq!((&document["state"], &document["errno"]), (&"failed".into(), &5.into()));
        assert_eq!((&document["first_failed_page"], &document["generation"]), (&7.into(), &4.into()));
        let pages = serde_json::json!([
            { "page": 7, "byte": 0x5a, "hex": "5a".repeat(64), "text": "Z".repeat(64) },
            { "page": 8, "byte": null, "hex": "a1".repeat(64), "text": null },
        ]);
        assert_eq!(document["pages"], pages);
    }
}
