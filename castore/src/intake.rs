//! Chunks that come compressed, as records of packs.
//!
//! A client that has cut and compressed a file itself sends records, and their frames are stored as
//! they came. Nothing of them is believed: each is decoded and hashed, and its frame has to be one
//! that every reader can send on as it is. Chunks are shared, so a strange frame would otherwise
//! turn up in somebody else's NAR.

use std::io::{self, Read};
use std::sync::Arc;

use zstd::zstd_safe;

use crate::Digest;
use crate::chunking::MAX_CHUNK;
use crate::holder::{Claims, Holder};
use crate::log::Run;
use crate::pack::{FrameDecoder, HEADER_LEN, Kind, PackId, RecordHeader, Row};
use crate::store::{Store, StoreError};

/// Stored bytes gathered before they are appended to the pack as one run.
const RUN: usize = 1024 * 1024;
/// The longest frame that a chunk can have: raw blocks and their headers.
const MAX_FRAME: usize = MAX_CHUNK + 64;

/// Why a record was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IntakeError {
    /// The record is at fault.
    #[error("chunk {digest}: {what}")]
    Record {
        /// What it calls itself.
        digest: Digest,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The body ended early or could not be read.
    #[error("the chunks could not be read: {0}")]
    Body(#[source] io::Error),
    /// The body is not records.
    #[error("the body does not hold records of chunks, one behind the other")]
    NoRecord,
    /// The store is at fault.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Takes records in.
pub struct Intake {
    store: Arc<Store>,
    holder: Holder,
    /// Chunks that came and were there, and where.
    known: Vec<(Digest, PackId)>,
    claims: Claims,
    decoder: FrameDecoder,
    plain: Vec<u8>,
    run: Run,
}

impl Store {
    /// Starts to take chunks in, to which `holder` gets claims.
    pub fn intake(self: &Arc<Self>, holder: Holder) -> Result<Intake, StoreError> {
        Ok(Intake {
            store: self.clone(),
            holder,
            known: Vec::new(),
            claims: Claims::of(holder),
            decoder: FrameDecoder::new()?,
            plain: Vec::new(),
            run: Run::default(),
        })
    }
}

impl Intake {
    /// Takes in what `body` brings: records one behind the other.
    pub fn add_all(&mut self, mut body: impl Read) -> Result<(), IntakeError> {
        let (mut head, mut frames) = ([0; HEADER_LEN], Vec::new());
        while fill(&mut body, &mut head).map_err(IntakeError::Body)? {
            let header = RecordHeader::parse(&head).ok_or(IntakeError::NoRecord)?;
            if header.stored as usize > MAX_FRAME {
                let what = "it is longer than a chunk may be";
                return Err(IntakeError::Record { digest: header.digest, what });
            }
            frames.resize(header.stored as usize, 0);
            if !frames.is_empty() && !fill(&mut body, &mut frames).map_err(IntakeError::Body)? {
                return Err(IntakeError::Body(io::ErrorKind::UnexpectedEof.into()));
            }
            self.add(&header, &frames)?;
        }
        Ok(())
    }

    /// Takes a record in.
    pub fn add(&mut self, header: &RecordHeader, frames: &[u8]) -> Result<(), IntakeError> {
        let digest = header.digest;
        let wrong = |what| IntakeError::Record { digest, what };
        if header.kind != Kind::Chunk {
            return Err(wrong("the record is not a chunk"));
        }
        let plain = usize::try_from(header.plain).ok().filter(|plain| *plain <= MAX_CHUNK);
        let plain = plain.ok_or_else(|| wrong("it is longer than a chunk may be"))?;
        if frames.len() != header.stored as usize
            || header.expected_checksum(frames) != header.checksum
        {
            return Err(wrong("its bytes do not match their checksum: they were damaged"));
        }
        if !is_plain_frame(frames, header.plain) {
            return Err(wrong("it is not one zstd frame of a single segment with its length"));
        }
        self.plain.clear();
        let decoded = self.decoder.append(&mut self.plain, frames, plain);
        decoded.map_err(|_| wrong("its frame does not decode"))?;
        if Digest::of(&self.plain) != digest {
            return Err(wrong("its bytes have another digest"));
        }
        self.claims.add(&self.store, &digest)?;
        let found = self.store.locations().kept(&digest, Kind::Chunk).map_err(StoreError::from)?;
        if let Some(found) = found {
            // Perhaps nothing else needs it where it lies.
            let pack = self.store.packs().id_of(found.pack).map_err(StoreError::from)?;
            self.known.push((digest, pack));
        } else {
            let offset = self.run.bytes.len() as u64;
            self.run.bytes.extend_from_slice(&header.to_bytes());
            self.run.bytes.extend_from_slice(frames);
            let (kind, stored, plain) = (Kind::Chunk, header.stored, plain as u32);
            self.run.rows.push(Row { digest, kind, pack: 0, offset, stored, plain });
        }
        if self.run.bytes.len() + self.claims.bytes() >= RUN {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        self.claims.append_to(&mut self.run)?;
        let pack = self.store.append(&self.run)?;
        let known = std::mem::take(&mut self.known);
        let chunks = self.run.rows.iter().filter(|row| row.kind == Kind::Chunk);
        let chunks = chunks.map(|row| row.digest).chain(known.iter().map(|(digest, _)| *digest));
        let packs = pack.into_iter().chain(known.iter().map(|(_, pack)| *pack));
        self.store.heard_of(self.holder, packs, chunks)?;
        self.run.clear();
        Ok(())
    }

    /// Appends what is left. The chunks are known from here on, and durable with the next commit.
    pub fn finish(mut self) -> Result<(), StoreError> {
        self.flush()
    }
}

/// Fills the buffer; false when there was nothing to fill it with.
fn fill(body: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    let mut filled = 0;
    while filled < buffer.len() {
        match body.read(&mut buffer[filled..])? {
            0 if filled == 0 => return Ok(false),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => filled += read,
        }
    }
    Ok(true)
}

/// Whether `frame` is a single zstd frame that any decoder takes without a window beyond its
/// contents: one segment, no dictionary, no checksum, its length given.
fn is_plain_frame(frame: &[u8], plain: u64) -> bool {
    const SINGLE_SEGMENT: u8 = 1 << 5;
    // Reserved bit, checksum flag, dictionary id.
    const NOT_WANTED: u8 = 0b1111;
    let descriptor = frame.get(4).copied().unwrap_or_default();
    descriptor & SINGLE_SEGMENT != 0
        && descriptor & NOT_WANTED == 0
        && frame.starts_with(&0xFD2F_B528_u32.to_le_bytes())
        && zstd_safe::find_frame_compressed_size(frame) == Ok(frame.len())
        && matches!(zstd_safe::get_frame_content_size(frame), Ok(Some(size)) if size == plain)
}
