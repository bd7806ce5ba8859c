//! The example scripts.

use std::path::{Path, PathBuf};

/// Returns the paths of all example scripts, in order.
///
/// # Panics
/// When there are not as many as there should be.
#[must_use]
pub fn scripts() -> Vec<PathBuf> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../resources/scripts"));
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().expect("the folder of scripts") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "wvm") {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(found.len() >= 8, "one example a topic is expected, found {found:?}");
    found
}

/// Tells whether a script starts programs, which takes a virtual machine.
///
/// # Panics
/// When it cannot be read.
#[must_use]
pub fn starts_programs(path: &Path) -> bool {
    let text = std::fs::read_to_string(path).expect("a script");
    // A thread may stand in front.
    let operation = |line: &str| line.split_once(": ").map_or(line, |(_, operation)| operation).trim_start().to_owned();
    text.lines().any(|line| operation(line).starts_with("program "))
}

/// Returns the name of an example: its path within the folder of examples, without the ending.
#[must_use]
pub fn name(path: &Path) -> String {
    let topic = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
    let folder = path.parent().and_then(Path::file_name).filter(|folder| *folder != "scripts");
    folder.map_or(topic.clone(), |folder| format!("{}_{topic}", folder.to_string_lossy()))
}
