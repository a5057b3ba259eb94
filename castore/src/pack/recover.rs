//! Finding out what an unsealed pack holds after its writer ended.

use std::io;

use super::format::{HEADER_LEN, RecordHeader, START_LEN, TRAILER_LEN, start};
use super::{Footer, PackId, Row};

/// How much of the file is looked at in one read.
const WINDOW: usize = 1024 * 1024;

/// What an unsealed pack was found to hold.
#[derive(Debug)]
pub struct Recovered {
    /// Every whole record, in the order of the file.
    pub rows: Vec<Row>,
    /// Where the last whole record ends: the file is good up to here.
    pub end: u64,
    /// A footer follows the records and the file ends with it.
    pub sealed: bool,
}

/// Reads a pack of `len` bytes from its start, checks each record's checksum, and stops at the
/// first byte that does not belong to a whole record: what lies behind was never acknowledged.
///
/// `read` fills the buffer from an offset. `None`: not even the start of the pack is whole.
pub fn recover(
    id: PackId,
    len: u64,
    mut read: impl FnMut(u64, &mut [u8]) -> io::Result<()>,
) -> io::Result<Option<Recovered>> {
    let mut head = [0; START_LEN];
    if len < START_LEN as u64 {
        return Ok(None);
    }
    read(0, &mut head)?;
    if head != start(id) {
        return Ok(None);
    }
    let mut found = Recovered { rows: Vec::new(), end: START_LEN as u64, sealed: false };
    let (mut window, mut window_at) = (Vec::new(), 0u64);
    loop {
        // Slides the window so that it holds `want` bytes from the end of the last record.
        let mut fill = |end: u64, want: usize, window: &mut Vec<u8>| -> io::Result<Option<usize>> {
            if end + want as u64 > len {
                return Ok(None);
            }
            let at = (end - window_at) as usize;
            if at + want <= window.len() {
                return Ok(Some(at));
            }
            let size = (WINDOW.max(want) as u64).min(len - end) as usize;
            window.resize(size, 0);
            read(end, window)?;
            window_at = end;
            Ok(Some(0))
        };
        let Some(at) = fill(found.end, HEADER_LEN, &mut window)? else {
            break;
        };
        let Some(header) = RecordHeader::parse(&window[at..]) else {
            break;
        };
        let whole = HEADER_LEN + header.stored as usize;
        let Some(at) = fill(found.end, whole, &mut window)? else {
            break;
        };
        let frames = &window[at + HEADER_LEN..at + whole];
        let Ok(plain) = u32::try_from(header.plain) else {
            break;
        };
        if header.expected_checksum(frames) != header.checksum {
            break;
        }
        found.rows.push(Row {
            digest: header.digest,
            kind: header.kind,
            pack: 0,
            offset: found.end,
            stored: header.stored,
            plain,
        });
        found.end += whole as u64;
    }
    if len >= found.end + TRAILER_LEN as u64 {
        let mut trailer = [0; TRAILER_LEN];
        read(len - TRAILER_LEN as u64, &mut trailer)?;
        found.sealed = Footer::parse(&trailer, len).is_some_and(|footer| {
            footer.rows_at == found.end + 8 && footer.rows == found.rows.len() as u64
        });
    }
    Ok(Some(found))
}
