//! Nodes and the two kinds of bytes they carry: names and symlink targets.

use super::wire;
use super::{TreeError, digest_field};
use crate::Digest;

/// The name of a directory entry: 1 to 255 bytes, no `/`, no NUL, neither `.` nor `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(Box<[u8]>);

impl NodeName {
    /// The longest name Linux takes, in bytes.
    pub const MAX: usize = 255;

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<&[u8]> for NodeName {
    type Error = TreeError;

    fn try_from(name: &[u8]) -> Result<Self, TreeError> {
        let bad = name.is_empty()
            || name.len() > Self::MAX
            || name == b"."
            || name == b".."
            || name.iter().any(|&byte| byte == b'/' || byte == 0);
        if bad { Err(TreeError::Name(name.to_vec())) } else { Ok(Self(name.into())) }
    }
}

impl std::fmt::Debug for NodeName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// Where a symlink points: 1 to 4095 bytes, no NUL.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SymlinkTarget(Box<[u8]>);

impl SymlinkTarget {
    /// The longest target Linux takes, in bytes.
    pub const MAX: usize = 4095;

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<&[u8]> for SymlinkTarget {
    type Error = TreeError;

    fn try_from(target: &[u8]) -> Result<Self, TreeError> {
        if target.is_empty() || target.len() > Self::MAX || target.contains(&0) {
            return Err(TreeError::Target(target.to_vec()));
        }
        Ok(Self(target.into()))
    }
}

impl std::fmt::Debug for SymlinkTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// A file, a directory or a symlink, without its name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Node {
    /// A directory: its digest, and the number of entries in it and below it.
    Directory {
        /// Digest of the canonical encoding.
        digest: Digest,
        /// Entries in it plus those of the directories below it.
        size: u64,
    },
    /// A regular file.
    File {
        /// Digest of the contents.
        digest: Digest,
        /// Length in bytes.
        size: u64,
        /// Whether it may be executed.
        executable: bool,
    },
    /// A symlink.
    Symlink {
        /// Where it points.
        target: SymlinkTarget,
    },
}

impl Node {
    pub(super) fn to_wire(&self) -> wire::Node {
        let name = Vec::new();
        let node = match self {
            Node::Directory { digest, size } => wire::NodeKind::Directory(wire::DirectoryNode {
                name,
                digest: digest.as_bytes().to_vec(),
                size: *size,
            }),
            Node::File { digest, size, executable } => wire::NodeKind::File(wire::FileNode {
                name,
                digest: digest.as_bytes().to_vec(),
                size: *size,
                executable: *executable,
            }),
            Node::Symlink { target } => wire::NodeKind::Symlink(wire::SymlinkNode {
                name,
                target: target.as_bytes().to_vec(),
            }),
        };
        wire::Node { node: Some(node) }
    }

    pub(super) fn from_wire(node: wire::Node) -> Result<Self, TreeError> {
        let (name, node) = match node.node.ok_or(TreeError::Inconsistent("a node has no kind"))? {
            wire::NodeKind::Directory(d) => {
                (d.name, Node::Directory { digest: digest_field(&d.digest)?, size: d.size })
            }
            wire::NodeKind::File(f) => (
                f.name,
                Node::File {
                    digest: digest_field(&f.digest)?,
                    size: f.size,
                    executable: f.executable,
                },
            ),
            wire::NodeKind::Symlink(s) => {
                (s.name, Node::Symlink { target: s.target.as_slice().try_into()? })
            }
        };
        if name.is_empty() { Ok(node) } else { Err(TreeError::Name(name)) }
    }

    /// The root node's canonical encoding, as it is kept in path infos.
    pub fn encode(&self) -> Vec<u8> {
        prost::Message::encode_to_vec(&self.to_wire())
    }

    /// Reads what [`Node::encode`] wrote; anything else is refused.
    pub fn decode(bytes: &[u8]) -> Result<Self, TreeError> {
        let wire: wire::Node = prost::Message::decode(bytes)
            .map_err(|source| TreeError::Protobuf { what: "a node", source })?;
        let node = Self::from_wire(wire)?;
        if node.encode() != bytes {
            return Err(TreeError::NotCanonical("a node"));
        }
        Ok(node)
    }
}
