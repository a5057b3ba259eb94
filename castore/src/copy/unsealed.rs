//! Packs that a server left unsealed: copied as sealed packs of another name.
//!
//! The source may be started again and go on with such a pack, which then comes with the next copy
//! under its own name. A pack's bytes must never change under its name, so what it held at the first
//! copy has a name of its own, made from the pack's name and the length. That its records are there
//! twice by then does no harm: equal records are one record to every reader.

use std::io;

use crate::bytes::{Listed, PackBackend};
use crate::fsck::{last_sequence, open};
use crate::pack::format::{START_LEN, TRAILER_LEN, start};
use crate::pack::{Footer, PackId, recover, whole};

use super::memory::PackInMemory;

/// What the copy of an unsealed pack is called whose records end at `end`.
pub(super) fn copy_name(id: PackId, end: u64) -> PackId {
    let mut hasher = blake3::Hasher::new_derive_key("granary 2026 copy of an unsealed pack");
    hasher.update(id.as_bytes()).update(&end.to_le_bytes());
    let mut bytes = [0; PackId::LEN];
    hasher.finalize_xof().fill(&mut bytes);
    PackId::from_bytes(bytes)
}

/// The name for the copy of an unsealed pack, and where its whole records end. `None` when it holds
/// none.
pub(super) fn find(
    source: &dyn PackBackend,
    listed: &Listed,
    len: u64,
) -> io::Result<Option<(PackId, u64)>> {
    let Some(subject) = open(source, listed)? else {
        return Ok(None);
    };
    let read = |offset, buffer: &mut [u8]| subject.pack.read_at(offset, buffer);
    let found = recover(listed.id, len, read)?.filter(|found| !found.rows.is_empty());
    Ok(found.map(|found| (copy_name(listed.id, found.end), found.end)))
}

/// The whole records of an unsealed pack become a sealed pack of that name.
pub(super) fn seal(from: PackId, to: PackId, bytes: Vec<u8>) -> io::Result<Vec<u8>> {
    use crate::bytes::ReadPack;
    let len = bytes.len() as u64;
    let pack = PackInMemory(bytes);
    let found = recover(from, len, |offset, buffer| pack.read_at(offset, buffer))?;
    let found = found.filter(|found| found.end == len);
    let found = found.ok_or_else(|| io::Error::other("it changed while it was read"))?;
    let mut rows = found.rows;
    let last = last_sequence(&pack, &rows)?;
    let mut bytes = pack.0;
    bytes[..START_LEN].copy_from_slice(&start(to));
    bytes.extend_from_slice(&whole::footer(found.end, &mut rows, last)?);
    Ok(bytes)
}

/// Where the records of a sealed pack end; `None` where its footer does not say.
pub(super) fn end_of_copy(
    target: &dyn PackBackend,
    listed: &Listed,
    len: u64,
) -> io::Result<Option<u64>> {
    let (Some(at), true) = (len.checked_sub(TRAILER_LEN as u64), listed.sealed) else {
        return Ok(None);
    };
    let Some(subject) = open(target, listed)? else {
        return Ok(None);
    };
    let mut trailer = [0; TRAILER_LEN];
    subject.pack.read_at(at, &mut trailer)?;
    Ok(Footer::parse(&trailer, len).and_then(|footer| footer.rows_at.checked_sub(8)))
}
