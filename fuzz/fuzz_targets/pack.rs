//! Packs: recovery after a crash, and each piece of the format on its own.
//!
//! Input: one byte that picks what the rest is: what follows the start of a pack, a script that a
//! pack is written and then damaged from, a row, a record's header, or data frames.

#![no_main]

use std::cell::RefCell;
use std::io;
use std::sync::LazyLock;

use castore::Digest;
use castore::pack::format::{START_LEN, TRAILER_LEN, start};
use castore::pack::{
    Footer, FrameDecoder, FrameEncoder, HEADER_LEN, Kind, PackId, ROW_LEN, RecordHeader, Recovered,
    Row, recover,
};
use libfuzzer_sys::arbitrary::{self, Unstructured};
use libfuzzer_sys::fuzz_target;

/// Frames claim what they like; more than this is not decoded here.
const MAX_PLAIN: usize = 1024 * 1024;

const ID: PackId = PackId::from_bytes(*b"a pack of fuzz..");

fuzz_target!(|data: &[u8]| {
    let Some((&what, data)) = data.split_first() else {
        return;
    };
    match what % 5 {
        0 => {
            check(&[&start(ID), data].concat());
            let not_even_started = data.get(START_LEN - 16..START_LEN);
            if not_even_started.is_none_or(|id| id != ID.as_bytes()) {
                assert!(recovered(data).is_none());
            }
        }
        1 => {
            let _ = damaged(&mut Unstructured::new(data));
        }
        2 => row(data),
        3 => header(data),
        _ => frames(data),
    }
});

fn recovered(pack: &[u8]) -> Option<Recovered> {
    let read = |offset: u64, buffer: &mut [u8]| {
        let at = usize::try_from(offset).unwrap();
        buffer.copy_from_slice(&pack[at..at + buffer.len()]);
        Ok(())
    };
    recover(ID, pack.len() as u64, read).unwrap()
}

/// What recovery says of any pack is so.
fn check(pack: &[u8]) -> Recovered {
    let found = recovered(pack).expect("the start is whole");
    let mut end = START_LEN;
    for row in &found.rows {
        assert_eq!(row.offset, end as u64, "records lie one behind the other");
        let header = RecordHeader::parse(&pack[end..]).unwrap();
        assert_eq!(header.to_bytes(), pack[end..end + HEADER_LEN]);
        assert_eq!((row.digest, row.kind, row.stored), (header.digest, header.kind, header.stored));
        assert_eq!((row.pack, u64::from(row.plain)), (0, header.plain));
        end += HEADER_LEN;
        let frames = &pack[end..end + row.stored as usize];
        assert_eq!(header.expected_checksum(frames), header.checksum);
        end += frames.len();
    }
    assert_eq!(found.end, end as u64);
    if found.sealed {
        let (rows, trailer) = pack[end + 8..].split_at(pack.len() - end - 8 - TRAILER_LEN);
        let footer = Footer::parse(trailer.try_into().unwrap(), pack.len() as u64).unwrap();
        assert_eq!((footer.rows_at, footer.rows), (end as u64 + 8, found.rows.len() as u64));
        if footer.matches(rows) {
            let Footer { facts, last_sequence, .. } = footer;
            let mut written = Vec::new();
            Footer::append(&mut written, end as u64, rows, facts, last_sequence).unwrap();
            assert_eq!(written[8 + rows.len()..], *trailer);
        }
    }
    let again = recovered(&pack[..end]).unwrap();
    assert_eq!((again.rows, again.end, again.sealed), (found.rows.clone(), found.end, false));
    found
}

// As everywhere in Granary, one of each for a thread: making them costs more than using them.
thread_local! {
    static ENCODER: RefCell<FrameEncoder> = RefCell::new(FrameEncoder::new().unwrap());
    static DECODER: RefCell<FrameDecoder> = RefCell::new(FrameDecoder::new().unwrap());
}

fn decode(out: &mut Vec<u8>, frames: &[u8], plain: usize) -> io::Result<()> {
    DECODER.with_borrow_mut(|decoder| decoder.append(out, frames, plain))
}

/// Bytes that do not compress.
static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 1u64;
    let next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(512 * 1024).collect()
});

/// Writes a pack, damages it, and asks for every record before the damage.
fn damaged(script: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let mut pack = start(ID).to_vec();
    let (mut rows, mut plains) = (Vec::new(), Vec::new());
    for _ in 0..script.int_in_range(0..=6)? {
        let kind = Kind::from_number(script.int_in_range(1..=4)?).unwrap();
        let plain = match script.int_in_range(0..=31)? {
            // Beyond one window of what recovery looks at.
            0 => NOISE[..script.int_in_range(0..=NOISE.len())?].to_vec(),
            1..=4 => vec![script.arbitrary()?; script.int_in_range(0..=4096)?],
            _ => {
                let len = script.int_in_range(0..=64)?;
                script.bytes(len)?.to_vec()
            }
        };
        let offset = pack.len() as u64;
        let digest = Digest::of(&plain);
        let header = ENCODER
            .with_borrow_mut(|encoder| encoder.append(&mut pack, kind, digest, &plain))
            .unwrap();
        let (stored, plain_len) = (header.stored, plain.len() as u32);
        rows.push(Row { digest, kind, pack: 0, offset, stored, plain: plain_len });
        plains.push(plain);
    }
    let (records_end, sealed) = (pack.len(), script.arbitrary()?);
    if sealed {
        let mut sorted = rows.clone();
        sorted.sort_by_key(Row::key);
        let mut encoded = Vec::new();
        sorted.iter().for_each(|row| row.append(&mut encoded));
        let (facts, last_sequence) = (script.arbitrary()?, script.arbitrary()?);
        Footer::append(&mut pack, records_end as u64, &encoded, facts, last_sequence).unwrap();
    }
    // Everything in front of this byte is as it was written.
    let whole_len = pack.len();
    let mut sound = whole_len;
    match script.int_in_range(0..=4)? {
        0 => {
            let (at, bits) = (script.choose_index(pack.len())?, script.int_in_range(1..=255u8)?);
            pack[at] ^= bits;
            sound = at;
        }
        1 => {
            sound = script.int_in_range(0..=pack.len())?;
            pack.truncate(sound);
        }
        2 => {
            let tail = script.bytes(script.len())?;
            pack.extend_from_slice(tail);
        }
        3 => {
            sound = script.int_in_range(0..=pack.len())?;
            pack[sound..].fill(0);
        }
        _ => {}
    }
    if sound < START_LEN {
        // One byte set to what it was already is no damage.
        assert!(recovered(&pack).is_none_or(|_| pack.starts_with(&start(ID))));
        return Ok(());
    }
    let found = check(&pack);
    let whole = |row: &&Row| row.offset as usize + HEADER_LEN + row.stored as usize <= sound;
    let expected = rows.iter().take_while(whole).count();
    assert!(found.rows.len() >= expected, "a whole record was lost");
    assert_eq!(found.rows[..expected], rows[..expected]);
    if sound >= records_end && sound == pack.len() {
        assert_eq!(found.end, records_end as u64);
        assert_eq!(found.sealed, sealed && sound == whole_len);
    }
    for (row, plain) in rows[..expected].iter().zip(&plains) {
        let at = row.offset as usize + HEADER_LEN;
        let mut out = Vec::new();
        let frames = &pack[at..at + row.stored as usize];
        decode(&mut out, frames, plain.len()).unwrap();
        assert!(out == *plain && Digest::of(&out) == row.digest);
    }
    Ok(())
}

fn row(data: &[u8]) {
    if let Some(row) = Row::parse(data) {
        let mut written = Vec::new();
        row.append(&mut written);
        assert_eq!(written, data);
        assert_eq!(written.len(), ROW_LEN);
    }
    if let Some((trailer, rows)) = data.split_first_chunk::<TRAILER_LEN>() {
        let end = u64::from_le_bytes(trailer[16..24].try_into().unwrap());
        for len in [rows.len() as u64, end.saturating_add((rows.len() + TRAILER_LEN) as u64)] {
            if let Some(footer) = Footer::parse(trailer, len) {
                let rows_end = footer.rows_at + footer.rows * ROW_LEN as u64;
                assert_eq!(rows_end + TRAILER_LEN as u64, len);
                let _ = footer.matches(rows);
            }
        }
    }
}

fn header(data: &[u8]) {
    if let Some(header) = RecordHeader::parse(data) {
        assert_eq!(header.to_bytes(), data[..HEADER_LEN]);
        let _ = header.expected_checksum(&data[HEADER_LEN..]);
    }
}

fn frames(data: &[u8]) {
    let Some((claim, frames)) = data.split_first_chunk::<3>() else {
        return;
    };
    let plain = u32::from_le_bytes([claim[0], claim[1], claim[2], 0]) as usize % (MAX_PLAIN + 1);
    let mut out = b"before".to_vec();
    let decoded = decode(&mut out, frames, plain).is_ok();
    assert!(out.starts_with(b"before"));
    assert_eq!(out.len(), 6 + if decoded { plain } else { 0 }, "an error left bytes behind");
    if decoded {
        let mut again = Vec::new();
        decode(&mut again, frames, plain).unwrap();
        assert_eq!(again, out[6..]);
    }
}
