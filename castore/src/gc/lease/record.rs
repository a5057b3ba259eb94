//! What a process keeps from being collected, as the index has it.
//!
//! ```text
//! "l" process(8, random) -> protobuf { until=1 uint64, oldest=2 uint64, packs=3 repeated bytes,
//!                                      firsts=4 repeated uint64 }
//! ```

use std::time::Duration;

use prost::Message;

use super::{LONGEST, SESSION};
use crate::index::IndexError;
use crate::pack::PackId;

pub(super) const PREFIX: u8 = b'l';

/// What a process keeps from being collected.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Lease {
    /// Until when, in seconds since 1970.
    #[prost(uint64, tag = "1")]
    pub until: u64,
    /// The epoch of the oldest flight and 1; 0 if there is none.
    #[prost(uint64, tag = "2")]
    pub oldest: u64,
    /// Packs.
    #[prost(bytes = "vec", repeated, tag = "3")]
    packs: Vec<Vec<u8>>,
    /// When each was first written to, in the same order.
    #[prost(uint64, repeated, tag = "4")]
    firsts: Vec<u64>,
}

pub(super) fn key(process: &[u8]) -> Vec<u8> {
    [&[PREFIX][..], process].concat()
}

pub(super) fn read(value: &[u8]) -> Result<Lease, IndexError> {
    Lease::decode(value)
        .map_err(|error| IndexError::Engine { engine: "leases", source: Box::new(error) })
}

impl Lease {
    /// Of packs with the time at which each was first written to.
    pub fn new(
        until: u64,
        oldest: Option<u64>,
        packs: impl Iterator<Item = (PackId, u64)>,
    ) -> Self {
        let (packs, firsts) = packs.map(|(pack, first)| (pack.as_bytes().to_vec(), first)).unzip();
        Self { until, oldest: oldest.map_or(0, |epoch| epoch + 1), packs, firsts }
    }

    /// Whether it keeps anything at that time. One that says it does for longer than any can was written
    /// by a clock that was ahead: by more than two processes' clocks differ.
    pub fn holds(&self, now: u64) -> bool {
        let longest: Duration = SESSION + LONGEST;
        (now + 1..=now + longest.as_secs()).contains(&self.until)
    }

    /// Whether it keeps nothing at any time.
    pub fn is_idle(&self) -> bool {
        self.oldest == 0 && self.packs.is_empty()
    }

    /// How many packs it keeps.
    pub fn len(&self) -> usize {
        self.packs.len()
    }

    /// Whether it keeps all that `other` does, for as long as it holds.
    pub fn covers(&self, other: &Self) -> bool {
        (self.oldest == 0) == (other.oldest == 0)
            && (other.oldest == 0 || self.oldest <= other.oldest)
            && other.packs.iter().all(|pack| self.packs.contains(pack))
    }

    /// The packs, with the time at which each was first written to where it says so.
    pub fn packs(&self) -> impl Iterator<Item = (PackId, Option<u64>)> {
        let firsts = self.firsts.iter().copied().map(Some).chain(std::iter::repeat(None));
        self.packs.iter().zip(firsts).filter_map(|(pack, first)| {
            let id = <[u8; PackId::LEN]>::try_from(&pack[..]).ok()?;
            Some((PackId::from_bytes(id), first))
        })
    }
}
