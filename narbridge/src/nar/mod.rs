//! Tree to NAR, from any offset.
//!
//! A NAR is framing (names, lengths, padding) between the contents of files. [`walk`] makes the
//! framing from a tree; [`ZstdNar`] puts stored frames between frames of framing; [`PlainNar`] and
//! [`EncodedNar`] decode the chunks.

pub(crate) mod buffers;
mod encoded;
mod plain;
mod walk;
mod zstd_nar;

use bytes::Bytes;
use castore::StoreError;

pub use encoded::EncodedNar;
pub use plain::PlainNar;
pub use walk::{FileAt, Walk, listing};
pub use zstd_nar::{ZstdNar, ZstdPlan};

use crate::compression;

/// How many bytes a body gives at once, at most or about. Fewer and larger windows mean fewer
/// hand-overs between threads; each download holds up to three.
pub const WINDOW: usize = 1024 * 1024;

/// Why a NAR could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NarError {
    /// The store does not have what the tree needs, or it is damaged.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An encoder failed.
    #[error(transparent)]
    Compression(#[from] compression::Error),
    /// A frame could not be made.
    #[error("a frame could not be made: {0}")]
    Frame(#[from] std::io::Error),
    /// A name is not UTF-8, which listings cannot express.
    #[error("`{}` is not UTF-8, so there is no listing", .0.escape_ascii())]
    NotUtf8(Vec<u8>),
}

/// What [`NarBody::try_next_window`] found.
pub enum TryWindow {
    /// The next bytes; `None` at the end.
    Window(Option<Bytes>),
    /// They are not at hand.
    WouldBlock,
}

/// A NAR in some representation, given out in windows. Calls block.
pub trait NarBody: Send {
    /// The next bytes; `None` at the end.
    fn next_window(&mut self) -> Result<Option<Bytes>, NarError>;

    /// The next bytes if they can be had without waiting and without much work. `WouldBlock`: ask
    /// [`NarBody::next_window`], on a thread that may block.
    fn try_next_window(&mut self) -> Result<TryWindow, NarError> {
        Ok(TryWindow::WouldBlock)
    }

    /// Whether all has been given out; false where only another window would tell.
    fn is_done(&self) -> bool {
        false
    }
}

/// A range of bytes: from, and up to but without.
pub type ByteRange = std::ops::Range<u64>;
