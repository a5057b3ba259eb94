//! Packs: immutable, self-describing files of zstd frames. See `docs/pack-format.md`.
//!
//! A pack is a valid zstd stream: `zstd -dc` reads any pack. Each record is a skippable frame
//! (its header) and a data frame (its plain bytes). When a pack is sealed a footer follows that
//! lists the records, again as skippable frames.

pub mod format;
mod frame;
mod id;
mod recover;
mod row;
pub(crate) mod whole;

pub use format::{Footer, HEADER_LEN, Kind, RecordHeader};
pub(crate) use frame::checksum;
pub use frame::{FrameDecoder, FrameEncoder};
pub use id::PackId;
pub use recover::{Recovered, recover};
pub use row::{ROW_LEN, Row};

/// What is wrong with a pack.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// Reading or writing failed.
    #[error("pack {pack}: {source}")]
    Io {
        /// Which pack.
        pack: PackId,
        /// What the system said.
        source: std::io::Error,
    },
    /// The bytes at `offset` are not what the format asks for.
    #[error("pack {pack} is damaged at byte {offset}: {what}")]
    Damaged {
        /// Which pack.
        pack: PackId,
        /// Where, from its start.
        offset: u64,
        /// What was found wrong.
        what: &'static str,
    },
    /// A version that this program does not know.
    #[error("pack {pack} has format version {version}; this Granary knows version 1: update it")]
    Version {
        /// Which pack.
        pack: PackId,
        /// The version it names.
        version: u8,
    },
}

impl PackError {
    /// Makes the error of reading or writing that pack.
    pub(crate) fn io_in(pack: PackId) -> impl Fn(std::io::Error) -> Self {
        move |source| Self::Io { pack, source }
    }
}
