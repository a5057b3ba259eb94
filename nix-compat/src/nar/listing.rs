//! The listing of a NAR, which binary caches keep as `<hash>.ls`.
//!
//! ```json
//! {"root":{"entries":{"run":{"executable":true,"narOffset":624,"size":10,
//! "type":"regular"},"to":{"target":"run","type":"symlink"}},
//! "type":"directory"},"version":1}
//! ```
//!
//! `executable` is there when true only; `narOffset` is where a file's
//! contents begin in the NAR. The text is byte for byte what Nix 2.34 writes:
//! no space, keys in order. (2.8 writes the same object in another order.)
//!
//! JSON has no way to hold a name or target that is not UTF-8. Nix 2.8 writes
//! its bytes as they are, which is not JSON; 2.34 refuses. Here a tree with
//! such a name has no listing: [`Error::NotUtf8`].
//!
//! Reading stops at some 60 nested directories, where `serde_json` does;
//! writing and building have no such bound but the NAR reader's.

use std::collections::BTreeMap;
use std::io::Read;

use serde::de::{self, Deserialize, Deserializer};
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::reader::{self, Event, Reader};
use super::rules::{Quoted, check_name};

/// The only version of the format there is.
const VERSION: u64 = 1;

/// What a NAR holds, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The root of the tree.
    pub root: Node,
}

/// A node of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A directory.
    Directory {
        /// What is in it, by name.
        entries: BTreeMap<String, Node>,
    },
    /// A regular file.
    Regular {
        /// Bytes of contents.
        size: u64,
        /// Whether it is executable.
        executable: bool,
        /// Bytes of the NAR before its contents.
        nar_offset: u64,
    },
    /// A symbolic link.
    Symlink {
        /// What it points to.
        target: String,
    },
}

/// Why there is no listing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The NAR could not be read.
    #[error(transparent)]
    Nar(#[from] reader::Error),
    /// A name or a target is not UTF-8.
    #[error("{} has a name or a target that is not UTF-8", Quoted(.path))]
    NotUtf8 {
        /// The node's path from the root.
        path: Vec<u8>,
    },
}

impl Listing {
    /// Reads a NAR to its end, skipping the contents of its files.
    pub fn from_reader<R: Read>(mut nar: Reader<R>) -> Result<Self, Error> {
        let mut root = None;
        // The open directories with their names, the root's outermost.
        let mut open: Vec<(String, BTreeMap<String, Node>)> = Vec::new();
        while let Some(event) = nar.next()? {
            let event = Owned::new(event);
            let offset = nar.position();
            let event = event.ok_or_else(|| Error::NotUtf8 { path: nar.path().to_vec() })?;
            let (name, node) = match event {
                Owned::Enter(name) => {
                    open.push((name, BTreeMap::new()));
                    continue;
                }
                Owned::Leave => match open.pop() {
                    Some((name, entries)) => (name, Node::Directory { entries }),
                    // The reader leaves no directory it has not entered.
                    None => continue,
                },
                Owned::File { name, executable, size } => {
                    (name, Node::Regular { size, executable, nar_offset: offset })
                }
                Owned::Symlink { name, target } => (name, Node::Symlink { target }),
            };
            match open.last_mut() {
                Some((_, entries)) => {
                    entries.insert(name, node);
                }
                None => root = Some(node),
            }
        }
        nar.finish()?;
        // A NAR that was read to its end has a root.
        let root = root.unwrap_or(Node::Directory { entries: BTreeMap::new() });
        Ok(Listing { root })
    }
}

/// An [`Event`] with its names checked to be UTF-8.
enum Owned {
    Enter(String),
    Leave,
    File { name: String, executable: bool, size: u64 },
    Symlink { name: String, target: String },
}

impl Owned {
    fn new(event: Event<'_>) -> Option<Self> {
        let text = |bytes: &[u8]| Some(str::from_utf8(bytes).ok()?.to_owned());
        Some(match event {
            Event::EnterDirectory { name } => Owned::Enter(text(name)?),
            Event::LeaveDirectory => Owned::Leave,
            Event::File { name, executable, size } => {
                Owned::File { name: text(name)?, executable, size }
            }
            Event::Symlink { name, target } => {
                Owned::Symlink { name: text(name)?, target: text(target)? }
            }
        })
    }
}

impl Serialize for Listing {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("root", &self.root)?;
        map.serialize_entry("version", &VERSION)?;
        map.end()
    }
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self {
            Node::Directory { entries } => {
                map.serialize_entry("entries", entries)?;
                map.serialize_entry("type", "directory")?;
            }
            Node::Regular { size, executable, nar_offset } => {
                if *executable {
                    map.serialize_entry("executable", executable)?;
                }
                map.serialize_entry("narOffset", nar_offset)?;
                map.serialize_entry("size", size)?;
                map.serialize_entry("type", "regular")?;
            }
            Node::Symlink { target } => {
                map.serialize_entry("target", target)?;
                map.serialize_entry("type", "symlink")?;
            }
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Listing {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        struct Raw {
            version: u64,
            root: Node,
        }
        let Raw { version, root } = Raw::deserialize(deserializer)?;
        if version != VERSION {
            return Err(de::Error::custom(format_args!("unknown listing version {version}")));
        }
        Ok(Listing { root })
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(tag = "type", rename_all = "lowercase")]
        enum Raw {
            Directory {
                entries: BTreeMap<String, Node>,
            },
            Regular {
                size: u64,
                #[serde(default)]
                executable: bool,
                #[serde(rename = "narOffset")]
                nar_offset: u64,
            },
            Symlink {
                target: String,
            },
        }
        Ok(match Raw::deserialize(deserializer)? {
            Raw::Directory { entries } => {
                if let Some(name) =
                    entries.keys().find(|n| n.is_empty() || check_name(n.as_bytes()).is_err())
                {
                    return Err(de::Error::custom(format_args!("{name:?} cannot be a name")));
                }
                Node::Directory { entries }
            }
            Raw::Regular { size, executable, nar_offset } => {
                Node::Regular { size, executable, nar_offset }
            }
            Raw::Symlink { target } => Node::Symlink { target },
        })
    }
}
