//! narinfo files, as a client writes and reads them.

use std::collections::BTreeMap;

/// The fields that a client sends. All of them can be made wrong.
#[derive(Debug, Clone)]
pub struct NarInfo {
    /// `/nix/store/<hash>-<name>`
    pub store_path: String,
    /// Relative to the cache.
    pub url: String,
    /// By name.
    pub compression: String,
    /// `sha256:<nix32>`
    pub file_hash: String,
    /// In bytes.
    pub file_size: u64,
    /// `sha256:<nix32>`
    pub nar_hash: String,
    /// In bytes.
    pub nar_size: u64,
    /// Base names.
    pub references: Vec<String>,
}

impl NarInfo {
    /// The text of the file.
    pub fn to_text(&self) -> String {
        format!(
            "StorePath: {}\nURL: {}\nCompression: {}\nFileHash: {}\nFileSize: {}\n\
             NarHash: {}\nNarSize: {}\nReferences: {}\n",
            self.store_path,
            self.url,
            self.compression,
            self.file_hash,
            self.file_size,
            self.nar_hash,
            self.nar_size,
            self.references.join(" "),
        )
    }
}

/// The fields of a served narinfo; those that may come twice, last one wins.
pub fn parse(text: &str) -> BTreeMap<&str, &str> {
    text.lines()
        .map(|line| {
            let colon = line.find(':').unwrap_or_else(|| panic!("not a narinfo line: {line:?}"));
            // Nix skips two characters behind the key, whatever they are.
            (&line[..colon], line.get(colon + 2..).unwrap_or_else(|| panic!("no space: {line:?}")))
        })
        .collect()
}
