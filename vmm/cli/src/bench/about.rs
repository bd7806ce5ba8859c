//! Where and when it is measured.

use std::fs;
use std::path::Path;
use std::thread::available_parallelism;

use jiff::{Timestamp, Unit};
use procfs::{CpuInfo, Current, Meminfo};
use wirevm_devices::ramfile::durable_file_system;

use super::document::About;

impl About {
    /// Looks at the host now, at the start of a run. `folder` is where RAM files are made, `kvm` what is known of KVM. What can't be
    /// found out is `unknown`, or 0.
    #[must_use]
    pub fn this_host(folder: &Path, quick: bool, kvm: Option<String>) -> Self {
        let now = Timestamp::now();
        let model = CpuInfo::current().ok().and_then(|info| info.model_name(0).map(str::to_owned));
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: option_env!("WIREVM_REVISION").map(str::to_owned),
            date: now.round(Unit::Second).unwrap_or(now).to_string(),
            command: command_line(std::env::args_os().map(|word| word.to_string_lossy().into_owned())),
            quick,
            processor: model.unwrap_or_else(|| "unknown".to_owned()),
            cpus: available_parallelism().map_or(0, |cpus| cpus.get() as u64),
            memory_bytes: Meminfo::current().map_or(0, |memory| memory.mem_total),
            kernel: kernel(),
            file_system: durable_file_system(folder).map_or_else(|_| "unknown".to_owned(), |kind| kind.to_string()),
            kvm,
        }
    }
}

/// Joins words as a shell would read them. The program's folder says nothing.
fn command_line(words: impl Iterator<Item = String>) -> String {
    let plain = |letter: char| letter.is_alphanumeric() || "-_./=,:+@%".contains(letter);
    let words = words.enumerate().map(|(place, word)| match word.rsplit_once('/') {
        Some((_, name)) if place == 0 => name.to_owned(),
        _ if !word.is_empty() && word.chars().all(plain) => word,
        _ => format!("'{}'", word.replace('\'', r"'\''")),
    });
    words.collect::<Vec<_>>().join(" ")
}

fn kernel() -> String {
    let read = |name| fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok();
    let words: Vec<String> = ["ostype", "osrelease"].into_iter().filter_map(read).collect();
    if words.is_empty() {
        "unknown".to_owned()
    } else {
        words.iter().map(|word| word.trim()).collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod test {
    use super::{About, command_line};

    #[test]
    fn this_host_is_known() {
        let about = About::this_host(&std::env::temp_dir(), true, Some("API 12".to_owned()));
        assert!(about.quick && about.cpus > 0 && about.memory_bytes > 16 << 20, "{about:?}");
        assert!(about.kernel.starts_with("Linux "), "{about:?}");
        let date: jiff::Timestamp = about.date.parse().expect("a date");
        assert!(about.date.ends_with('Z') && !about.date.contains('.'), "{}", about.date);
        assert!(jiff::Timestamp::now().as_second() - date.as_second() < 60, "{date}");
    }

    #[test]
    fn command_line_can_be_pasted() {
        let words = ["/a b/wirevm", "bench", "all", "--filter", "4 KiB", "", "it's"].map(str::to_owned);
        assert_eq!(command_line(words.into_iter()), r"wirevm bench all --filter '4 KiB' '' 'it'\''s'");
    }
}
