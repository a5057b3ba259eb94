//! The protobuf messages, as they lie in packs and travel. Field numbers are for ever.
//!
//! `Directory` and its nodes are those of snix's `castore.proto`; `Tree` and `ChunkList` are
//! Granary's own. prost writes fields in tag order and leaves defaults out, which is the canonical
//! form.

/// A directory: three lists, each sorted by name.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Directory {
    #[prost(message, repeated, tag = "1")]
    pub directories: Vec<DirectoryNode>,
    #[prost(message, repeated, tag = "2")]
    pub files: Vec<FileNode>,
    #[prost(message, repeated, tag = "3")]
    pub symlinks: Vec<SymlinkNode>,
}

/// A named directory; `size` = its entries + the sizes of the directories among them.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DirectoryNode {
    #[prost(bytes = "vec", tag = "1")]
    pub name: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub digest: Vec<u8>,
    #[prost(uint64, tag = "3")]
    pub size: u64,
}

/// A named file; `size` in bytes.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct FileNode {
    #[prost(bytes = "vec", tag = "1")]
    pub name: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub digest: Vec<u8>,
    #[prost(uint64, tag = "3")]
    pub size: u64,
    #[prost(bool, tag = "4")]
    pub executable: bool,
}

/// A named symlink.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SymlinkNode {
    #[prost(bytes = "vec", tag = "1")]
    pub name: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub target: Vec<u8>,
}

/// A node on its own: a root. Its name is empty.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Node {
    #[prost(oneof = "NodeKind", tags = "1, 2, 3")]
    pub node: Option<NodeKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum NodeKind {
    #[prost(message, tag = "1")]
    Directory(DirectoryNode),
    #[prost(message, tag = "2")]
    File(FileNode),
    #[prost(message, tag = "3")]
    Symlink(SymlinkNode),
}

/// Everything below a root but the bytes of its files.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Tree {
    #[prost(message, optional, tag = "1")]
    pub root: Option<Node>,
    /// Canonical `Directory` messages, each once, children before parents.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub directories: Vec<Vec<u8>>,
    /// The chunk lists of the blobs that have one, sorted by blob.
    #[prost(message, repeated, tag = "3")]
    pub lists: Vec<ListRef>,
}

/// Says which chunk list makes up a blob.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ListRef {
    #[prost(bytes = "vec", tag = "1")]
    pub blob: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub list: Vec<u8>,
}

/// The chunks of a blob, in order.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ChunkList {
    #[prost(message, repeated, tag = "1")]
    pub chunks: Vec<ChunkRef>,
}

/// One chunk of a blob; `size` = its plain length in bytes.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ChunkRef {
    #[prost(bytes = "vec", tag = "1")]
    pub digest: Vec<u8>,
    #[prost(uint32, tag = "2")]
    pub size: u32,
    #[prost(message, repeated, tag = "3")]
    pub patches: Vec<Patch>,
}

/// Bytes to lay over a chunk once it is decoded: a store hash that was taken out of it.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Patch {
    #[prost(uint32, tag = "1")]
    pub offset: u32,
    #[prost(bytes = "vec", tag = "2")]
    pub hash: Vec<u8>,
}

/// How many fields a message has. Two bytes of a message can become a hundred in memory, so
/// messages from outside are counted before they are decoded.
pub(super) fn count_fields(mut bytes: &[u8]) -> Result<usize, prost::DecodeError> {
    use prost::encoding::{DecodeContext, decode_key, skip_field};
    let mut count = 0;
    while !bytes.is_empty() {
        let (tag, wire_type) = decode_key(&mut bytes)?;
        skip_field(wire_type, tag, &mut bytes, DecodeContext::default())?;
        count += 1;
    }
    Ok(count)
}
