//! Reading records back.

use std::cell::RefCell;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::sync::Arc;

use super::{Store, StoreError};
use crate::Digest;
use crate::bytes::{Direct, Durability, ReadPack, Wait};
use crate::locations::{Location, Locations};
use crate::pack::{FrameDecoder, HEADER_LEN, Kind, PackError, RecordHeader};
use crate::tree::{ChunkList, ChunkRef, Tree};

/// Records that lie no further apart are fetched by one read, and what is between thrown away.
const MAX_GAP: u64 = 16 * 1024;

/// Chunks of a file that are asked for ahead: some 32 MiB of plain bytes.
const CHUNKS_AHEAD: usize = 256;

/// Turns records back into plain bytes. Keep one per thread.
pub struct Reader {
    store: Arc<Store>,
    decoder: FrameDecoder,
    stored: Vec<u8>,
}

impl Store {
    pub(crate) fn locations(&self) -> &Arc<Locations> {
        &self.locations
    }

    /// A reader of plain bytes.
    pub fn reader(self: &Arc<Self>) -> Result<Reader, StoreError> {
        Ok(Reader { store: self.clone(), decoder: FrameDecoder::new()?, stored: Vec::new() })
    }

    /// The data frames of a record, appended to `out` as they lie in the pack, and checked.
    pub(crate) fn stored(
        &self,
        digest: &Digest,
        location: &Location,
        out: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        let start = out.len();
        match self.stored_there(digest, location, out) {
            Err(error) if is_gone(&error) => {
                out.truncate(start);
                let moved = self.moved(digest, location)?;
                self.stored_there(digest, &moved, out)
            }
            read => read,
        }
    }

    /// The error of a record that was found damaged where it lies. From now on it counts as missing, so
    /// that it can be brought again.
    fn found_damaged(&self, digest: &Digest, location: &Location, what: &str) -> StoreError {
        let kind = location.kind;
        if let Err(error) = self.mark_damaged(digest, location) {
            tracing::warn!(%error, %kind, %digest, "a damaged record could not be marked");
        }
        StoreError::Damaged { kind, digest: *digest, what: what.to_owned() }
    }

    /// Where a record lies now whose pack was removed after it had been looked up.
    fn moved(&self, digest: &Digest, location: &Location) -> Result<Location, StoreError> {
        let kind = location.kind;
        self.catch_up()?;
        let mut moved = self.find(kind, digest)?;
        if moved.pack == location.pack && self.is_pack_lost(location.pack)? {
            self.lose_pack(location.pack)?;
            moved = self.find(kind, digest)?;
        }
        if moved.stored == location.stored && moved.pack != location.pack {
            return Ok(moved);
        }
        let what = "it was moved or stored anew while it was read: read it again".to_owned();
        Err(StoreError::Damaged { kind, digest: *digest, what })
    }

    fn stored_there(
        &self,
        digest: &Digest,
        location: &Location,
        out: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        let start = out.len();
        out.resize(start + location.stored as usize, 0);
        let pack = self.packs.get(location.pack)?;
        let mut header = [0; HEADER_LEN];
        trusting(&*pack, extent(location), Wait::Yes, || {
            let buffers = &mut [IoSliceMut::new(&mut header), IoSliceMut::new(&mut out[start..])];
            pack.read_vectored_at(location.offset, buffers, Wait::Yes)?;
            check(digest, location, &header, &out[start..])
        })
        .map_err(|error| match error {
            StoreError::Damaged { what, .. } => self.found_damaged(digest, location, &what),
            error => error,
        })
    }

    fn record(&self, kind: Kind, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        match self.locate(kind, digest)? {
            Some(location) => self.record_at(digest, &location).map(Some),
            None => Ok(None),
        }
    }

    fn named_record(&self, kind: Kind, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        self.record_at(digest, &self.find(kind, digest)?)
    }

    fn record_at(&self, digest: &Digest, location: &Location) -> Result<Vec<u8>, StoreError> {
        let mut stored = Vec::new();
        self.stored(digest, location, &mut stored)?;
        let mut plain = Vec::with_capacity(location.plain as usize);
        decode(&mut plain, &stored, location.plain as usize)?;
        Ok(plain)
    }

    /// The tree of that digest, checked against it.
    pub fn tree(&self, digest: &Digest) -> Result<Arc<Tree>, StoreError> {
        if let Some(tree) = self.trees.get(digest) {
            return Ok(tree);
        }
        let tree = Arc::new(self.tree_uncached(digest)?);
        self.trees.insert(*digest, tree.clone());
        Ok(tree)
    }

    /// The same, not from memory and not kept there: for whoever reads all of them.
    pub(crate) fn tree_uncached(&self, digest: &Digest) -> Result<Tree, StoreError> {
        Ok(Tree::decode(&self.encoded_tree(digest)?)?)
    }

    /// The tree of that digest as it is encoded, checked against it.
    pub fn encoded_tree(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let location = self.find(Kind::Tree, digest)?;
        let bytes = self.record_at(digest, &location)?;
        if Digest::of(&bytes) != *digest {
            return Err(self.found_damaged(digest, &location, "its bytes have another digest"));
        }
        Ok(bytes)
    }

    /// The list of the blob's chunks as it is encoded, checked against `list`, the digest by which
    /// a tree names it.
    pub fn encoded_list(&self, blob: &Digest, list: &Digest) -> Result<Vec<u8>, StoreError> {
        let kind = Kind::ChunkList;
        let bytes = self.named_record(kind, blob)?;
        if Digest::of(&bytes) != *list {
            let what = "it is not the list that the tree names".to_owned();
            return Err(StoreError::Damaged { kind, digest: *blob, what });
        }
        Ok(bytes)
    }

    /// The list of the blob's chunks; `None` when there is no such list.
    pub fn chunk_list(&self, blob: &Digest) -> Result<Option<ChunkList>, StoreError> {
        let bytes = self.record(Kind::ChunkList, blob)?;
        Ok(bytes.map(|bytes| ChunkList::decode(&bytes)).transpose()?)
    }

    /// The chunks of a file of `size` bytes in `tree`.
    pub fn chunks_of(
        &self,
        tree: &Tree,
        blob: &Digest,
        size: u64,
    ) -> Result<Vec<ChunkRef>, StoreError> {
        if size == 0 {
            return Ok(Vec::new());
        }
        let Some(expected) = tree.list_of(blob) else {
            let size = u32::try_from(size).unwrap_or(u32::MAX);
            return Ok(vec![ChunkRef { digest: *blob, size, patches: Vec::new() }]);
        };
        let list = ChunkList::decode(&self.encoded_list(blob, &expected)?)?;
        if list.size() != Some(size) {
            let (kind, digest) = (Kind::ChunkList, *blob);
            let what = "its chunks do not add up to the file".to_owned();
            return Err(StoreError::Damaged { kind, digest, what });
        }
        Ok(list.chunks)
    }

    /// Fills `buffers` with the data frames of records, each as it lies in its pack. Neighbours in
    /// a pack are fetched together. Every record's checksum is checked. With [`Wait::No`] an I/O
    /// error of the kind `WouldBlock` says that not all of it is in memory.
    pub fn read_stored(
        &self,
        records: &[(Digest, Location)],
        buffers: Vec<&mut [u8]>,
        wait: Wait,
    ) -> Result<(), StoreError> {
        let mut buffers: Vec<Option<&mut [u8]>> = buffers.into_iter().map(Some).collect();
        let mut first = 0;
        while first < records.len() {
            let next = run_length(&records[first..]);
            let (run, into) = (&records[first..first + next], &mut buffers[first..first + next]);
            match self.read_run(run, into, wait) {
                // Looking for the records takes time.
                Err(error) if is_gone(&error) && wait == Wait::No => {
                    return Err(io::Error::from(io::ErrorKind::WouldBlock).into());
                }
                Err(error) if is_gone(&error) => self.read_moved(run, into)?,
                read => read?,
            }
            first += next;
        }
        Ok(())
    }

    /// The same for records whose pack was removed after they had been looked up.
    fn read_moved(
        &self,
        records: &[(Digest, Location)],
        buffers: &mut [Option<&mut [u8]>],
    ) -> Result<(), StoreError> {
        for ((digest, location), buffer) in records.iter().zip(buffers) {
            let moved = self.moved(digest, location)?;
            self.read_run(&[(*digest, moved)], std::slice::from_mut(buffer), Wait::Yes)?;
        }
        Ok(())
    }

    fn read_run(
        &self,
        records: &[(Digest, Location)],
        buffers: &mut [Option<&mut [u8]>],
        wait: Wait,
    ) -> Result<(), StoreError> {
        let Some((_, start)) = records.first() else {
            return Ok(());
        };
        let gap = |end: u64, location: &Location| (location.offset - end) as usize;
        let mut total_gap = 0;
        let mut end = start.offset;
        for (_, location) in records {
            total_gap += gap(end, location);
            end = location.offset + (HEADER_LEN + location.stored as usize) as u64;
        }
        let mut headers = vec![[0u8; HEADER_LEN]; records.len()];
        let mut waste = vec![0u8; total_gap];
        let whole = start.offset..end;
        let pack = self.packs.get(start.pack)?;
        trusting(&*pack, whole, wait, || {
            read_into(&*pack, records, &mut headers, &mut waste, buffers, wait)?;
            for (((digest, location), header), buffer) in
                records.iter().zip(&headers).zip(&*buffers)
            {
                check(digest, location, header, buffer.as_deref().unwrap_or_default())?;
            }
            Ok(())
        })
        .map_err(|error| match error {
            StoreError::Damaged { digest, what, kind } => {
                let found = records.iter().find(|(found, at)| *found == digest && at.kind == kind);
                match found {
                    Some((digest, location)) => self.found_damaged(digest, location, &what),
                    None => StoreError::Damaged { digest, what, kind },
                }
            }
            error => error,
        })
    }

    /// Whether reading packs means asking somebody far away.
    pub fn is_far(&self) -> bool {
        self.packs.backend().durability() == Durability::Sealed
    }

    /// The place of the packs as one that others can read from by themselves.
    pub fn direct(&self) -> Option<&dyn Direct> {
        self.packs.backend().direct()
    }

    /// Says that a file's chunks will be read soon, where that makes a difference.
    pub fn will_read_chunks(&self, chunks: &[ChunkRef]) -> Result<(), StoreError> {
        if !self.is_far() {
            return Ok(());
        }
        let mut records = Vec::new();
        for chunk in chunks.iter().take(CHUNKS_AHEAD) {
            records.push((chunk.digest, self.find(Kind::Chunk, &chunk.digest)?));
        }
        self.will_read(&records);
        Ok(())
    }

    /// Says that these records, each after the other, will be read soon. Returns at once.
    pub fn will_read(&self, records: &[(Digest, Location)]) {
        let mut first = 0;
        while first < records.len() {
            let next = first + run_length(&records[first..]);
            let (start, last) = (&records[first].1, &records[next - 1].1);
            if let Ok(pack) = self.packs.get(start.pack) {
                pack.will_read(start.offset..extent(last).end);
            }
            first = next;
        }
    }
}

/// Whether a pack could not be read because it is not there.
fn is_gone(error: &StoreError) -> bool {
    match error {
        StoreError::Io(error) | StoreError::Pack(PackError::Io { source: error, .. }) => {
            error.kind() == io::ErrorKind::NotFound
        }
        _ => false,
    }
}

/// Where a record lies in its pack, header and all.
fn extent(location: &Location) -> Range<u64> {
    location.offset..location.offset + (HEADER_LEN + location.stored as usize) as u64
}

/// How often a read is tried that gives damaged bytes: it may be a cache, or the network, that is at
/// fault, and not the pack.
const READS: u32 = 3;

/// Reads again what turned out to be damaged, past caches.
fn trusting(
    pack: &dyn ReadPack,
    range: Range<u64>,
    wait: Wait,
    mut read: impl FnMut() -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut tries = 1;
    loop {
        match read() {
            Err(StoreError::Damaged { kind, digest, what }) if tries < READS => {
                tracing::debug!(?kind, %digest, what, "damaged bytes; reading them again");
                pack.distrust(range.clone());
                if wait == Wait::No {
                    return Err(io::Error::from(io::ErrorKind::WouldBlock).into());
                }
                tries += 1;
            }
            result => return result,
        }
    }
}

/// One read for records that lie one behind the other: their headers, their frames, and what is
/// between.
fn read_into(
    pack: &dyn ReadPack,
    records: &[(Digest, Location)],
    headers: &mut [[u8; HEADER_LEN]],
    waste: &mut [u8],
    buffers: &mut [Option<&mut [u8]>],
    wait: Wait,
) -> Result<(), StoreError> {
    let Some((_, start)) = records.first() else { return Ok(()) };
    let mut slices = Vec::with_capacity(records.len() * 2);
    let mut rest = waste;
    let mut end = start.offset;
    for (((_, location), header), buffer) in records.iter().zip(headers).zip(buffers.iter_mut()) {
        let (between, later) = rest.split_at_mut((location.offset - end) as usize);
        rest = later;
        if !between.is_empty() {
            slices.push(IoSliceMut::new(between));
        }
        slices.push(IoSliceMut::new(header));
        if let Some(buffer) = buffer.as_deref_mut() {
            slices.push(IoSliceMut::new(buffer));
        }
        end = extent(location).end;
    }
    Ok(pack.read_vectored_at(start.offset, &mut slices, wait)?)
}

thread_local! {
    /// A decoder's tables are 160 KB: made once per thread, not once per record.
    static DECODER: RefCell<Option<FrameDecoder>> = const { RefCell::new(None) };
}

fn decode(out: &mut Vec<u8>, frames: &[u8], plain: usize) -> io::Result<()> {
    DECODER.with_borrow_mut(|decoder| match decoder {
        Some(decoder) => decoder.append(out, frames, plain),
        none => none.insert(FrameDecoder::new()?).append(out, frames, plain),
    })
}

/// How many records from the first one on lie one behind the other.
fn run_length(records: &[(Digest, Location)]) -> usize {
    let follows = |pair: &[(Digest, Location)]| {
        let (before, after) = (&pair[0].1, &pair[1].1);
        let end = before.offset + (HEADER_LEN + before.stored as usize) as u64;
        before.pack == after.pack && after.offset >= end && after.offset - end <= MAX_GAP
    };
    1 + records.windows(2).take_while(|pair| follows(pair)).count()
}

/// A record must be the one that was looked for, and whole.
fn check(
    digest: &Digest,
    location: &Location,
    header: &[u8; HEADER_LEN],
    frames: &[u8],
) -> Result<(), StoreError> {
    let kind = location.kind;
    let damaged = |what: &str| StoreError::Damaged { kind, digest: *digest, what: what.to_owned() };
    let header = RecordHeader::parse(header).ok_or_else(|| damaged("its header is not one"))?;
    if header.digest != *digest || header.kind != kind || header.stored != location.stored {
        return Err(damaged("another record lies in its place"));
    }
    if header.expected_checksum(frames) != header.checksum {
        return Err(damaged("its bytes do not match their checksum"));
    }
    Ok(())
}

impl Reader {
    /// Appends the plain bytes of a chunk, patched and checked against its digest.
    pub fn append_chunk(&mut self, chunk: &ChunkRef, out: &mut Vec<u8>) -> Result<(), StoreError> {
        let start = out.len();
        let location = self.append_decoded(chunk, out)?;
        if Digest::of(&out[start..]) != chunk.digest {
            out.truncate(start);
            let what = "its bytes have another digest";
            return Err(self.store.found_damaged(&chunk.digest, &location, what));
        }
        Ok(chunk.apply_patches(&mut out[start..])?)
    }

    /// The same, checked against its checksum only: for callers who prove what they read by a hash
    /// of their own.
    pub fn append_unhashed(
        &mut self,
        chunk: &ChunkRef,
        out: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        let start = out.len();
        self.append_decoded(chunk, out)?;
        Ok(chunk.apply_patches(&mut out[start..])?)
    }

    /// Appends the bytes of a chunk as they were stored. Returns where they lie.
    fn append_decoded(
        &mut self,
        chunk: &ChunkRef,
        out: &mut Vec<u8>,
    ) -> Result<Location, StoreError> {
        let (kind, digest) = (Kind::Chunk, chunk.digest);
        let damaged = |what: &str| StoreError::Damaged { kind, digest, what: what.to_owned() };
        let location = self.store.find(kind, &digest)?;
        if location.plain != chunk.size {
            return Err(damaged("it has not the length that its list gives"));
        }
        self.stored.clear();
        self.store.stored(&digest, &location, &mut self.stored)?;
        self.decoder.append(out, &self.stored, chunk.size as usize)?;
        Ok(location)
    }
}
