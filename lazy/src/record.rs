//! Records of packs, as they travel and as they are kept.

use std::cell::RefCell;
use std::io;

use bytes::Bytes;
use castore::chunking::MAX_CHUNK;
use castore::pack::{FrameDecoder, FrameEncoder, HEADER_LEN, RecordHeader};
use castore::{Digest, Kind};

thread_local! {
    /// A decoder's tables are 160 KB, an encoder's more: made once per thread.
    static DECODER: RefCell<Option<FrameDecoder>> = const { RefCell::new(None) };
    static ENCODER: RefCell<Option<FrameEncoder>> = const { RefCell::new(None) };
}

/// The longest plain record: a tree.
const MAX_PLAIN: u64 = 256 * 1024 * 1024;

/// The plain bytes of a record, which are checked to be what its digest says.
pub(crate) fn decode(header: &RecordHeader, frames: &[u8]) -> io::Result<Vec<u8>> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
    let most = if header.kind == Kind::Chunk { MAX_CHUNK as u64 } else { MAX_PLAIN };
    if header.plain > most {
        return Err(wrong("its header is not credible"));
    }
    let mut plain = Vec::with_capacity(header.plain as usize);
    let length = header.plain as usize;
    DECODER.with_borrow_mut(|decoder| match decoder {
        Some(decoder) => decoder.append(&mut plain, frames, length),
        none => none.insert(FrameDecoder::new()?).append(&mut plain, frames, length),
    })?;
    if Digest::of(&plain) != header.digest {
        return Err(wrong("its bytes have another digest"));
    }
    Ok(plain)
}

/// The records in `bytes`, one behind the other; ends at the first bytes that are not one.
pub(crate) fn split(bytes: &Bytes) -> impl Iterator<Item = (RecordHeader, Bytes)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let header = RecordHeader::parse(bytes.get(at..)?)?;
        let end = at.checked_add(HEADER_LEN)?.checked_add(header.stored as usize)?;
        if end > bytes.len() {
            return None;
        }
        let record = bytes.slice(at..end);
        at = end;
        Some((header, record))
    })
}

/// Makes a record and appends it to `out`. Its name is the digest of its plain bytes, whatever
/// other name its kind has in the packs of a server.
pub(crate) fn append(out: &mut Vec<u8>, kind: Kind, plain: &[u8]) -> io::Result<()> {
    ENCODER.with_borrow_mut(|encoder| match encoder {
        Some(encoder) => encoder.append(out, kind, Digest::of(plain), plain).map(drop),
        none => {
            none.insert(FrameEncoder::new()?).append(out, kind, Digest::of(plain), plain).map(drop)
        }
    })
}
