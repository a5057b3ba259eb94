//! Entity tags: short names of what is sent, by which HTTP caches ask whether it has changed.
//!
//! Equal tags under one URL mean equal bytes. A tag is made from bytes, or from what they are made
//! from, so every replica gives the same one. Tags of different makings start differently; whoever
//! changes how something is rendered without changing what it is made from changes that start.

use bytes::Bytes;
use castore::Digest;

/// Bytes of the digest that a tag shows. Nobody gains by making two of them meet: it would be in a
/// cache that they may write to anyway.
const SHOWN: usize = 16;

/// A strong entity tag, with the quotes around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag(Bytes);

impl Tag {
    /// The tag of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self::shown("", &Digest::of(bytes))
    }

    /// The tag of what `making` makes of the thing of that digest.
    pub(super) fn made(making: &str, from: &Digest) -> Self {
        Self::shown(making, from)
    }

    fn shown(making: &str, digest: &Digest) -> Self {
        let mut text = format!("\"{making}");
        text.extend(digest.as_bytes()[..SHOWN].iter().map(|byte| format!("{byte:02x}")));
        text.push('"');
        Self(text.into())
    }

    /// As it is sent.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }
}
