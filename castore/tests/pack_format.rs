//! What readers of packs refuse, and what they leave behind when they do.

#![allow(clippy::unwrap_used, missing_docs)]

use castore::Digest;
use castore::pack::format::{START_LEN, TRAILER_LEN, start};
use castore::pack::{
    Footer, FrameDecoder, FrameEncoder, HEADER_LEN, Kind, PackId, RecordHeader, Recovered, Row,
    recover,
};

const ID: PackId = PackId::from_bytes([7; 16]);

fn record(plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let digest = Digest::of(plain);
    FrameEncoder::new().unwrap().append(&mut out, Kind::Chunk, digest, plain).unwrap();
    out
}

fn recovered(pack: &[u8]) -> Recovered {
    let read = |offset: u64, buffer: &mut [u8]| {
        let at = offset as usize;
        buffer.copy_from_slice(&pack[at..at + buffer.len()]);
        Ok(())
    };
    recover(ID, pack.len() as u64, read).unwrap().unwrap()
}

/// A pack of two records, and the length of its records.
fn sealed() -> (Vec<u8>, usize) {
    let mut pack = start(ID).to_vec();
    pack.extend(record(b"one"));
    pack.extend(record(b"two"));
    let records_end = pack.len();
    let mut rows = recovered(&pack).rows;
    rows.sort_by_key(Row::key);
    let mut encoded = Vec::new();
    rows.iter().for_each(|row| row.append(&mut encoded));
    Footer::append(&mut pack, records_end as u64, &encoded, 0, 0).unwrap();
    (pack, records_end)
}

#[test]
fn a_flipped_bit_anywhere_in_a_record_is_noticed() {
    let pack = [&start(ID)[..], &record(b"contents")].concat();
    assert_eq!(recovered(&pack).rows.len(), 1);
    for bit in 8 * START_LEN..8 * pack.len() {
        let mut rotten = pack.clone();
        rotten[bit / 8] ^= 1 << (bit % 8);
        assert!(recovered(&rotten).rows.is_empty(), "bit {bit}");
    }
}

#[test]
fn a_flipped_bit_anywhere_in_a_footer_is_noticed() {
    let (pack, records_end) = sealed();
    let is_sound = |pack: &[u8]| {
        let (rows, trailer) = pack[records_end + 8..].split_last_chunk::<TRAILER_LEN>().unwrap();
        Footer::parse(trailer, pack.len() as u64).is_some_and(|footer| footer.matches(rows))
    };
    assert!(is_sound(&pack));
    for bit in 8 * (records_end + 8)..8 * pack.len() {
        let mut rotten = pack.clone();
        rotten[bit / 8] ^= 1 << (bit % 8);
        assert!(!is_sound(&rotten), "bit {bit}");
    }
}

#[test]
fn a_pack_is_sealed_only_by_the_footer_of_its_own_records() {
    let (pack, records_end) = sealed();
    assert!(recovered(&pack).sealed);
    for cut in records_end..pack.len() {
        assert!(!recovered(&pack[..cut]).sealed, "cut at {cut}");
    }
    // As many rows as there are records, but they lie elsewhere.
    let mut gap = pack[..records_end].to_vec();
    gap.extend([0; 100]);
    let rows = &pack[records_end + 8..pack.len() - TRAILER_LEN];
    let end = gap.len() as u64;
    Footer::append(&mut gap, end, rows, 0, 0).unwrap();
    let found = recovered(&gap);
    assert_eq!((found.end, found.rows.len(), found.sealed), (records_end as u64, 2, false));
}

#[test]
fn frames_that_do_not_decode_leave_nothing_behind() {
    let record = record(&b"some text, ".repeat(50));
    let header = RecordHeader::parse(&record).unwrap();
    let (frames, plain) = (&record[HEADER_LEN..], header.plain as usize);
    let mut decoder = FrameDecoder::new().unwrap();
    let mut out = b"before".to_vec();
    for (frames, plain) in [
        (&frames[..frames.len() - 1], plain),
        (frames, plain - 1),
        (frames, plain + 1),
        (b"not a frame", 100),
    ] {
        assert!(decoder.append(&mut out, frames, plain).is_err());
        assert_eq!(out, b"before");
    }
    decoder.append(&mut out, frames, plain).unwrap();
    assert_eq!(out.len(), 6 + plain);
}
