//! Directories: sorted named nodes with a canonical encoding.

use prost::Message;

use super::wire;
use super::{MAX_ENTRIES, Node, NodeName, SymlinkTarget, TreeError, digest_field};
use crate::Digest;

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: NodeName,
    /// What it is.
    pub node: Node,
}

impl Entry {
    /// What it weighs in memory, and in the framing of a NAR, about.
    pub(super) fn weight(&self) -> usize {
        let target = match &self.node {
            Node::Symlink { target } => target.as_bytes().len(),
            _ => 0,
        };
        self.name.as_bytes().len() + 48 + target
    }
}

/// A directory. Entries are unique and sorted by the bytes of their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    entries: Vec<Entry>,
}

impl Directory {
    /// Adds an entry, whose name must sort after every earlier one.
    pub fn push(&mut self, name: NodeName, node: Node) -> Result<(), TreeError> {
        if self.entries.last().is_some_and(|last| last.name >= name) {
            return Err(TreeError::Order(name.as_bytes().to_vec()));
        }
        self.entries.push(Entry { name, node });
        Ok(())
    }

    /// The entries, sorted by name.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entry of that name.
    pub fn get(&self, name: &[u8]) -> Option<&Node> {
        let at = self.entries.binary_search_by(|entry| entry.name.as_bytes().cmp(name)).ok()?;
        self.entries.get(at).map(|entry| &entry.node)
    }

    /// Entries in it plus those of every directory below it; `None` beyond 64 bits.
    pub fn size(&self) -> Option<u64> {
        self.entries.iter().try_fold(0u64, |sum, entry| {
            let below = match entry.node {
                Node::Directory { size, .. } => size,
                _ => 0,
            };
            sum.checked_add(1)?.checked_add(below)
        })
    }

    /// The canonical encoding, whose digest is the directory's.
    pub fn encode(&self) -> Vec<u8> {
        let mut wire = wire::Directory::default();
        for Entry { name, node } in &self.entries {
            let name = name.as_bytes().to_vec();
            match node {
                Node::Directory { digest, size } => wire.directories.push(wire::DirectoryNode {
                    name,
                    digest: digest.as_bytes().to_vec(),
                    size: *size,
                }),
                Node::File { digest, size, executable } => wire.files.push(wire::FileNode {
                    name,
                    digest: digest.as_bytes().to_vec(),
                    size: *size,
                    executable: *executable,
                }),
                Node::Symlink { target } => wire
                    .symlinks
                    .push(wire::SymlinkNode { name, target: target.as_bytes().to_vec() }),
            }
        }
        wire.encode_to_vec()
    }

    /// Reads a canonical encoding; anything else is refused.
    pub fn decode(bytes: &[u8]) -> Result<Self, TreeError> {
        let bad = |source| TreeError::Protobuf { what: "a directory", source };
        if wire::count_fields(bytes).map_err(bad)? as u64 > MAX_ENTRIES {
            return Err(TreeError::TooManyEntries);
        }
        let wire = wire::Directory::decode(bytes).map_err(bad)?;
        let mut entries =
            Vec::with_capacity(wire.directories.len() + wire.files.len() + wire.symlinks.len());
        for d in &wire.directories {
            let node = Node::Directory { digest: digest_field(&d.digest)?, size: d.size };
            entries.push(Entry { name: d.name.as_slice().try_into()?, node });
        }
        for f in &wire.files {
            let node = Node::File {
                digest: digest_field(&f.digest)?,
                size: f.size,
                executable: f.executable,
            };
            entries.push(Entry { name: f.name.as_slice().try_into()?, node });
        }
        for s in &wire.symlinks {
            let target: SymlinkTarget = s.target.as_slice().try_into()?;
            entries.push(Entry {
                name: s.name.as_slice().try_into()?,
                node: Node::Symlink { target },
            });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(pair) = entries.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(TreeError::Order(pair[1].name.as_bytes().to_vec()));
        }
        let directory = Self { entries };
        if directory.encode() != bytes {
            return Err(TreeError::NotCanonical("a directory"));
        }
        Ok(directory)
    }

    /// The node that stands for this directory; `encoded` is its canonical encoding.
    pub(crate) fn node_for(&self, encoded: &[u8]) -> Result<Node, TreeError> {
        let size =
            self.size().ok_or(TreeError::Inconsistent("a directory's size exceeds 64 bits"))?;
        Ok(Node::Directory { digest: Digest::of(encoded), size })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> NodeName {
        text.as_bytes().try_into().unwrap()
    }

    #[test]
    fn the_empty_directory_has_the_digest_of_no_bytes() {
        assert_eq!(Directory::default().encode(), b"");
        let expected = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        assert_eq!(Digest::of(b"").to_string(), expected);
    }

    #[test]
    fn the_encoding_is_that_of_the_published_schema() {
        let mut dir = Directory::default();
        dir.push(name("a"), Node::Directory { digest: Digest::of(b""), size: 0 }).unwrap();
        dir.push(name("b"), Node::File { digest: Digest::of(b"x"), size: 1, executable: true })
            .unwrap();
        dir.push(name("c"), Node::Symlink { target: b"/t"[..].try_into().unwrap() }).unwrap();
        let mut expected = vec![0x0a, 3 + 34, 0x0a, 1, b'a', 0x12, 32];
        expected.extend_from_slice(Digest::of(b"").as_bytes());
        expected.extend([0x12, 3 + 34 + 4, 0x0a, 1, b'b', 0x12, 32]);
        expected.extend_from_slice(Digest::of(b"x").as_bytes());
        expected.extend([0x18, 1, 0x20, 1]);
        expected.extend([0x1a, 7, 0x0a, 1, b'c', 0x12, 2, b'/', b't']);
        assert_eq!(dir.encode(), expected);
        assert_eq!(Directory::decode(&expected).unwrap(), dir);
        assert_eq!(dir.size(), Some(3));
    }

    #[test]
    fn disorder_and_strange_encodings_are_refused() {
        let mut dir = Directory::default();
        let file = Node::File { digest: Digest::of(b""), size: 0, executable: false };
        dir.push(name("b"), file.clone()).unwrap();
        assert!(dir.push(name("a"), file.clone()).is_err());
        assert!(dir.push(name("b"), file).is_err());
        let mut padded = dir.encode();
        padded.extend([0x20, 1]); // an unknown field 4
        assert!(matches!(Directory::decode(&padded), Err(TreeError::NotCanonical(_))));
        for bad in [&b""[..], b".", b"..", b"a/b", b"a\0"] {
            assert!(NodeName::try_from(bad).is_err());
        }
    }
}
