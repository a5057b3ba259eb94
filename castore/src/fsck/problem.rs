//! What can be wrong with a store, as values.

use std::io;

use crate::Digest;
use crate::facts::ReplayError;
use crate::pack::{Kind, PackId};
use crate::tree::TreeError;

/// One thing that is not as it should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// A pack does not open, or its ends cannot be read.
    #[error("pack {pack} cannot be read: {source}")]
    Unreadable {
        /// Which pack.
        pack: PackId,
        /// What the system said.
        source: io::Error,
    },
    /// A pack does not begin with its own name.
    #[error("pack {pack} does not start as that pack does")]
    Start {
        /// Which pack.
        pack: PackId,
    },
    /// A sealed pack ends in something that is not its footer.
    #[error("pack {pack}: {flaw}; its first {whole_to} bytes hold {records} whole records")]
    Footer {
        /// Which pack.
        pack: PackId,
        /// What is wrong.
        flaw: FooterFlaw,
        /// How many records were found without it.
        records: u64,
        /// Up to where they reach.
        whole_to: u64,
    },
    /// An unsealed pack is damaged between records that were acknowledged.
    #[error(
        "pack {pack}, which is not sealed yet, is damaged at byte {offset}, and the {bytes} bytes \
         behind that are lost"
    )]
    Unsealed {
        /// Which pack.
        pack: PackId,
        /// Up to where it is whole.
        offset: u64,
        /// How many bytes lie behind.
        bytes: u64,
    },
    /// A footer's rows do not cover the pack's bytes, each once.
    #[error("pack {pack}: its footer does not account for the bytes at {offset}")]
    Layout {
        /// Which pack.
        pack: PackId,
        /// From where on.
        offset: u64,
    },
    /// A record is damaged.
    #[error("pack {pack}: {kind} {digest} at byte {offset} is damaged: {flaw}")]
    Record {
        /// In which pack.
        pack: PackId,
        /// Where, from the pack's start.
        offset: u64,
        /// What it should hold.
        kind: Kind,
        /// Its name.
        digest: Digest,
        /// What is wrong.
        flaw: Flaw,
    },
    /// Too many records of a pack are damaged to name each.
    #[error("pack {pack}: {records} more records are damaged")]
    MoreRecords {
        /// In which pack.
        pack: PackId,
        /// How many were not named.
        records: u64,
    },
    /// The store has a pack that the index knows nothing of.
    #[error("the index does not know pack {pack}: remake it with granary fsck --rebuild")]
    PackUnknown {
        /// Which pack.
        pack: PackId,
    },
    /// The index knows a pack that the store does not have.
    #[error("pack {pack} is in the index and not in the store: restore it from a backup")]
    PackMissing {
        /// Which pack.
        pack: PackId,
    },
    /// Records that lie in a pack are not found.
    #[error(
        "the index does not find {records} records of pack {pack}: remake it with granary fsck \
         --rebuild"
    )]
    Unlocated {
        /// In which pack they lie.
        pack: PackId,
        /// How many.
        records: u64,
    },
    /// Records of a pack are looked for in places where they do not lie.
    #[error(
        "the index leads {records} records of pack {pack} to wrong places: remake it with granary \
         fsck --rebuild"
    )]
    Misplaced {
        /// In which pack they lie.
        pack: PackId,
        /// How many.
        records: u64,
    },
    /// Transactions that were acknowledged are in no pack.
    #[error("facts {first} to {last} are in no pack: restore the pack that held them")]
    FactsMissing {
        /// Sequence number of the first.
        first: u64,
        /// Sequence number of the last.
        last: u64,
    },
}

impl Problem {
    /// The pack it is in; `None` where it is in none.
    pub fn pack(&self) -> Option<PackId> {
        match self {
            Self::Unreadable { pack, .. }
            | Self::Start { pack }
            | Self::Footer { pack, .. }
            | Self::Unsealed { pack, .. }
            | Self::Layout { pack, .. }
            | Self::Record { pack, .. }
            | Self::MoreRecords { pack, .. }
            | Self::PackUnknown { pack }
            | Self::PackMissing { pack }
            | Self::Unlocated { pack, .. }
            | Self::Misplaced { pack, .. } => Some(*pack),
            Self::FactsMissing { .. } => None,
        }
    }

    /// A word for programs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "pack-unreadable",
            Self::Start { .. } => "pack-start",
            Self::Footer { .. } => "pack-footer",
            Self::Unsealed { .. } => "pack-unsealed",
            Self::Layout { .. } => "pack-layout",
            Self::Record { .. } => "record-damaged",
            Self::MoreRecords { .. } => "more-records-damaged",
            Self::PackUnknown { .. } => "pack-unknown",
            Self::PackMissing { .. } => "pack-missing",
            Self::Unlocated { .. } => "records-unlocated",
            Self::Misplaced { .. } => "records-misplaced",
            Self::FactsMissing { .. } => "facts-missing",
        }
    }
}

/// What is wrong with the footer of a sealed pack.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum FooterFlaw {
    /// It is not there, or only in part: the pack was cut short, or its end has rotted.
    #[error("its footer is not whole")]
    NotWhole,
    /// The frame around the rows is not one.
    #[error("its footer does not start as one")]
    Frame,
    /// Its rows, or what it says of them, have rotted.
    #[error("its footer does not match its checksum")]
    Checksum,
    /// A row is not one that this program knows.
    #[error("its footer has a row of an unknown kind")]
    Row,
    /// The rows cannot be searched.
    #[error("its footer is not sorted")]
    Order,
    /// It says another number of facts than it lists.
    #[error("its footer counts its facts wrongly")]
    Facts,
}

/// What is wrong with a record.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Flaw {
    /// The system does not give its bytes.
    #[error("it cannot be read: {0}")]
    Unreadable(io::Error),
    /// No header stands before it.
    #[error("its header is not one")]
    Header,
    /// The header is another record's.
    #[error("another record lies in its place")]
    OtherRecord,
    /// Bytes have changed.
    #[error("its bytes do not match their checksum")]
    Checksum,
    /// The frames are not zstd, or of another length.
    #[error("it does not decode: {0}")]
    Undecodable(io::Error),
    /// The bytes are whole, and not those that the name stands for.
    #[error("its bytes have another digest")]
    Digest,
    /// A tree or a chunk list that is not one.
    #[error(transparent)]
    Tree(TreeError),
    /// Facts that are none.
    #[error(transparent)]
    Facts(ReplayError),
    /// Claims have no data.
    #[error("it is a claim and has data")]
    ClaimWithData,
}
