//! Holders: who may build on which chunks.
//!
//! Storage is shared by all, knowledge is not. Whoever brings a chunk gets a *claim* to it, a record
//! of its own, and only holders of a claim are told that the chunk is there or may name it in a
//! tree. A claim is kept under the keyed BLAKE3 of the chunk's digest, so it takes one lookup like
//! any record, says nothing without its holder's name, and can be made again at any time.

use std::collections::HashSet;
use std::io;

use crate::Digest;
use crate::locations::Location;
use crate::log::Run;
use crate::pack::{HEADER_LEN, Kind, RecordHeader, Row};
use crate::store::{Store, StoreError};

/// Somebody who may have claims: a name that is not told apart from others by its length or form.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Holder([u8; 32]);

impl Holder {
    /// The holder of that name.
    pub fn named(name: &[u8]) -> Self {
        Self(blake3::derive_key("granary 2026 holder of chunks", name))
    }

    /// What it is told apart from others by.
    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Under which digest this holder's claim to a chunk is kept.
    pub fn claim(&self, chunk: &Digest) -> Digest {
        blake3::keyed_hash(&self.0, chunk.as_bytes()).into()
    }
}

impl std::fmt::Debug for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Holder({})", Digest::from_bytes(self.0))
    }
}

/// Claims that somebody is about to get.
pub(crate) struct Claims {
    holder: Option<Holder>,
    new: HashSet<Digest>,
}

impl Claims {
    /// Nobody gets any.
    pub fn none() -> Self {
        Self { holder: None, new: HashSet::new() }
    }

    /// `holder` gets them.
    pub fn of(holder: Holder) -> Self {
        Self { holder: Some(holder), new: HashSet::new() }
    }

    /// Adds the claim to a chunk, unless it is there and stays. Whether it was.
    pub fn add(&mut self, store: &Store, chunk: &Digest) -> Result<bool, StoreError> {
        let Some(holder) = self.holder else { return Ok(false) };
        let claim = holder.claim(chunk);
        if self.new.contains(&claim) || store.stays(Kind::Claim, &claim)? {
            return Ok(true);
        }
        self.new.insert(claim);
        Ok(false)
    }

    /// How long the records will be.
    pub fn bytes(&self) -> usize {
        self.new.len() * HEADER_LEN
    }

    /// Appends the records: headers without data, behind the chunks, so that these stay together.
    pub fn append_to(&mut self, run: &mut Run) -> io::Result<()> {
        for digest in self.new.drain() {
            let kind = Kind::Claim;
            let header = RecordHeader::seal(kind, digest, 0, &[]);
            let header = header.ok_or(io::ErrorKind::InvalidData)?;
            let offset = run.bytes.len() as u64;
            run.bytes.extend_from_slice(&header.to_bytes());
            run.rows.push(Row { digest, kind, pack: 0, offset, stored: 0, plain: 0 });
        }
        Ok(())
    }
}

impl Store {
    /// Where the chunk lies, if it is there and one of these holders has a claim to it.
    pub fn held(&self, holders: &[Holder], chunk: &Digest) -> Result<Option<Location>, StoreError> {
        for holder in holders {
            if self.locate(Kind::Claim, &holder.claim(chunk))?.is_some() {
                return self.locate(Kind::Chunk, chunk);
            }
        }
        Ok(None)
    }

    /// The same for many chunks, those included that another process has taken in lately.
    pub fn held_all(
        &self,
        holders: &[Holder],
        chunks: &[Digest],
    ) -> Result<Vec<Option<Location>>, StoreError> {
        let mut found: Vec<Option<Location>> =
            chunks.iter().map(|chunk| self.held(holders, chunk)).collect::<Result<_, _>>()?;
        if self.is_shared() && found.iter().any(Option::is_none) {
            self.catch_up()?;
            for (found, chunk) in found.iter_mut().zip(chunks).filter(|(found, _)| found.is_none())
            {
                *found = self.held(holders, chunk)?;
            }
        }
        Ok(found)
    }
}
