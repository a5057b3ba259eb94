//! Compressed bodies, which anyone may send.
//!
//! Input: one byte that picks the format, and whether the rest is to be read as that format or
//! written in it; one that says how the bytes arrive.

#![no_main]

use std::io::BufRead;

use granary_fuzz::Pieces;
use libfuzzer_sys::fuzz_target;
use nar_compression::{Compression, Error, StoredEncoder, decode_small, decoder};

/// Where reading stops: a few bytes can stand for very many.
const MAX_PLAIN: usize = 1024 * 1024;

fuzz_target!(|data: &[u8]| {
    let [what, seed, data @ ..] = data else {
        return;
    };
    let formats = Compression::ALL.len();
    let format = Compression::ALL[usize::from(*what) % formats];
    if (usize::from(*what) / formats).is_multiple_of(8) {
        written(format, *seed, data);
    } else {
        read(format, *seed, data);
    }
});

/// All that a decoder gives, or the first `MAX_PLAIN` bytes.
fn decode(format: Compression, source: impl BufRead + Send, step: usize) -> Result<Vec<u8>, Error> {
    let mut decoder = decoder(format, source)?;
    let (mut plain, mut buffer) = (Vec::new(), vec![0; step]);
    while plain.len() < MAX_PLAIN {
        let read = match decoder.read(&mut buffer) {
            Ok(read) => read,
            Err(error) => {
                assert!(decoder.read(&mut buffer).is_err(), "read on after an error");
                return Err(error.into());
            }
        };
        plain.extend_from_slice(&buffer[..read]);
        if read == 0 {
            assert_eq!(decoder.read(&mut buffer).unwrap(), 0, "bytes after the end");
            break;
        }
    }
    plain.truncate(MAX_PLAIN);
    Ok(plain)
}

fn read(format: Compression, seed: u8, data: &[u8]) {
    let whole = decode(format, data, 64 * 1024);
    // In pieces, and into a small buffer.
    let in_pieces = decode(format, Pieces::new(data, seed), 1000 + usize::from(seed));
    match (&whole, &in_pieces) {
        (Ok(whole), Ok(in_pieces)) => {
            assert!(whole == in_pieces, "{format}: cuts change the bytes")
        }
        // One of them may meet the error before it reaches the limit, the other not.
        (Ok(plain), Err(_)) | (Err(_), Ok(plain)) if plain.len() == MAX_PLAIN => {}
        (Err(Error::Read(_)), _) => panic!("{format}: the source has no errors"),
        (Err(_), Err(_)) => {}
        _ => panic!("{format}: {whole:?} at once, {in_pieces:?} in pieces"),
    }
    let small = decode_small(format.name(), data, MAX_PLAIN - 1);
    if let Ok(whole) = whole {
        if whole.len() < MAX_PLAIN {
            assert!(small.unwrap() == whole);
        } else {
            assert!(small.is_err());
        }
    }
    let _ = Compression::sniff(data);
}

/// Whatever is wrapped in a format is read back, from every offset.
fn written(format: Compression, seed: u8, plain: &[u8]) {
    let whole = encode(format, plain, 0);
    let decoded = decode(format, Pieces::new(&whole, seed), 1 + usize::from(seed)).unwrap();
    assert!(decoded == plain, "{format}");
    if let Some(len) = StoredEncoder::new(format, plain.len() as u64).unwrap().encoded_len() {
        assert_eq!(len, whole.len() as u64, "{format}");
    }
    let offset = whole.len() * usize::from(seed) / 255;
    assert!(encode(format, plain, offset) == whole[offset..], "{format} from {offset}");
}

fn encode(format: Compression, plain: &[u8], offset: usize) -> Vec<u8> {
    let mut encoder = StoredEncoder::resume_at(format, plain.len() as u64, offset as u64).unwrap();
    let mut out = Vec::new();
    for piece in plain[encoder.plain_pos() as usize..].chunks(97) {
        encoder.encode(piece, &mut out).unwrap();
    }
    encoder.finish(&mut out).unwrap();
    out
}
