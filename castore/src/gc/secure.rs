//! Making sure that what a fact is about to name stays.

use std::io;
use std::sync::Arc;

use super::Flight;
use crate::Digest;
use crate::facts::{CommitError, Transaction};
use crate::holder::{Claims, Holder};
use crate::log::Run;
use crate::pack::{Kind, PackId, RecordHeader, Row};
use crate::store::{Store, StoreError};

/// Stored bytes gathered before they are appended as one run.
const RUN: usize = 1024 * 1024;

/// Records that are copied out of packs that do not stay.
pub(crate) struct Rescue<'a> {
    store: &'a Store,
    run: Run,
    frames: Vec<u8>,
    wrote: &'a mut dyn FnMut(Option<PackId>),
}

impl<'a> Rescue<'a> {
    /// Nothing is copied yet. `wrote` is told into which packs it is.
    pub fn new(store: &'a Store, wrote: &'a mut dyn FnMut(Option<PackId>)) -> Self {
        Self { store, run: Run::default(), frames: Vec::new(), wrote }
    }

    /// Copies the record, unless it stays where it is.
    pub fn keep(&mut self, kind: Kind, digest: &Digest) -> Result<(), StoreError> {
        if self.store.stays(kind, digest)? {
            return Ok(());
        }
        let location = self.store.find(kind, digest)?;
        self.frames.clear();
        self.store.stored(digest, &location, &mut self.frames)?;
        let header = RecordHeader::seal(kind, *digest, location.plain.into(), &self.frames);
        let header = header.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        let offset = self.run.bytes.len() as u64;
        self.run.bytes.extend_from_slice(&header.to_bytes());
        self.run.bytes.extend_from_slice(&self.frames);
        let (stored, plain) = (location.stored, location.plain);
        self.run.rows.push(Row { digest: *digest, kind, pack: 0, offset, stored, plain });
        if self.run.bytes.len() >= RUN { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        if !self.run.rows.is_empty() {
            (self.wrote)(self.store.append(&self.run)?);
            self.run.clear();
        }
        Ok(())
    }

    /// Appends what is left. Durable with the next commit.
    pub fn finish(mut self) -> Result<(), StoreError> {
        self.flush()
    }
}

impl Store {
    /// Whether the record is there and stays.
    pub fn stays(&self, kind: Kind, digest: &Digest) -> Result<bool, StoreError> {
        Ok(self.locations().kept(digest, kind)?.is_some())
    }

    /// Makes sure that a tree, all that it names, and `holder`'s claims to its chunks stay, if a
    /// transaction that is [`secured`](crate::Transaction::secured) in the epoch that this returns is
    /// committed in that same one. The tree was whole at some time in the epoch `since`: because a fact
    /// named it then, or because it came with `flight`.
    pub fn secure(
        self: &Arc<Self>,
        tree: &Digest,
        holder: Option<Holder>,
        since: u64,
        flight: Option<&Flight>,
    ) -> Result<u64, StoreError> {
        let epoch = self.epoch();
        // What comes with a flight is stored anew where it does not stay, and what a fact named stays
        // for as long as nothing is condemned.
        if since == epoch && (flight.is_some() || self.packs().none_is_condemned()) {
            return Ok(epoch);
        }
        self.catch_up()?;
        let mut wrote = |pack| {
            if let Some(flight) = flight {
                flight.wrote(pack);
            }
        };
        let mut rescue = Rescue::new(self, &mut wrote);
        let mut claims = holder.map_or_else(Claims::none, Claims::of);
        rescue.keep(Kind::Tree, tree)?;
        let decoded = self.tree(tree)?;
        for (blob, size) in decoded.files() {
            if decoded.list_of(&blob).is_some() {
                rescue.keep(Kind::ChunkList, &blob)?;
            }
            for chunk in self.chunks_of(&decoded, &blob, size)? {
                rescue.keep(Kind::Chunk, &chunk.digest)?;
                claims.add(self, &chunk.digest)?;
            }
        }
        rescue.finish()?;
        let mut run = Run::default();
        claims.append_to(&mut run)?;
        if !run.rows.is_empty() {
            wrote(self.append(&run)?);
        }
        Ok(epoch)
    }

    /// Commits a transaction that names a tree, securing it (see [`Store::secure`]) as often as it takes.
    /// Blocks.
    pub fn commit_secured(
        self: &Arc<Self>,
        tree: &Digest,
        holder: Option<Holder>,
        since: u64,
        flight: Option<&Flight>,
        transaction: impl Fn() -> Transaction,
    ) -> Result<u64, StoreError> {
        loop {
            let epoch = self.secure(tree, holder, since, flight)?;
            let mut transaction = transaction();
            transaction.secured(epoch);
            match self.commit(transaction) {
                Err(CommitError::Outdated) => self.refresh_epoch()?,
                committed => return Ok(committed?),
            }
        }
    }
}
