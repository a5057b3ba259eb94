//! The stored forms against the real tools and our own decoders, whole and from any offset.

use std::io::Read;

use super::super::testing::{self, SIZES};
use super::super::{Compression, Error, decoder};
use super::*;

/// The whole output, fed in pieces of `step` bytes.
fn encode(compression: Compression, plain: &[u8], step: usize) -> Vec<u8> {
    let mut encoder = StoredEncoder::new(compression, plain.len() as u64).unwrap();
    let mut out = Vec::new();
    for piece in plain.chunks(step) {
        encoder.encode(piece, &mut out).unwrap();
    }
    encoder.finish(&mut out).unwrap();
    out
}

fn decode(compression: Compression, encoded: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    decoder(compression, encoded).unwrap().read_to_end(&mut plain).unwrap();
    plain
}

#[test]
fn the_real_tools_read_every_stored_form() {
    for compression in Compression::ALL {
        for len in SIZES {
            let plain = testing::noise(len);
            let encoded = encode(compression, &plain, 1 << 20);
            assert!(testing::decompress(compression, &encoded) == plain, "{compression} {len}");
            assert!(decode(compression, &encoded) == plain, "{compression} {len}");
        }
    }
}

#[test]
fn the_tools_find_no_fault() {
    for len in [0, 1, 65_536, 65_537, 200_000] {
        let plain = testing::noise(len);
        for (compression, program) in
            [(Compression::Xz, "xz"), (Compression::Gzip, "gzip"), (Compression::Bzip2, "bzip2")]
        {
            testing::run(program, &["-t"], &encode(compression, &plain, 4096));
        }
        let zstd = encode(Compression::Zstd, &plain, 4096);
        testing::run("zstd", &["-q", "-t"], &zstd);
        // A window of 128 KiB is all it may take.
        testing::run("zstd", &["-q", "-t", "--memory=131072"], &zstd);
    }
}

#[test]
fn lengths_are_told_beforehand() {
    for compression in Compression::ALL {
        for len in SIZES {
            let told = StoredEncoder::new(compression, len as u64).unwrap().encoded_len();
            let real = encode(compression, &testing::noise(len), 1 << 20).len() as u64;
            let expected = (compression != Compression::Bzip2).then_some(real);
            assert_eq!(told, expected, "{compression} {len}");
        }
    }
}

#[test]
fn the_output_does_not_depend_on_the_pieces() {
    let plain = testing::text(300_000);
    for compression in Compression::ALL {
        let whole = encode(compression, &plain, plain.len());
        for step in [1, 1000, 65_535, 65_536] {
            assert!(encode(compression, &plain, step) == whole, "{compression} {step}");
        }
    }
}

#[test]
fn resuming_anywhere_gives_the_rest() {
    for compression in Compression::ALL {
        for len in [0, 1, 65_536, 65_537, 300_000, 600_000] {
            let plain = testing::text(len);
            let whole = encode(compression, &plain, len.max(1));
            let near_edges = (0..5_usize)
                .flat_map(|n| [n << 16, n << 17, n << 18])
                .flat_map(|edge| edge.saturating_sub(12)..edge + 40);
            let near_end = whole.len().saturating_sub(50)..=whole.len();
            for offset in near_edges.chain(near_end).filter(|&o| o <= whole.len()) {
                let mut encoder =
                    StoredEncoder::resume_at(compression, len as u64, offset as u64).unwrap();
                let mut out = Vec::new();
                let from = usize::try_from(encoder.plain_pos()).unwrap();
                encoder.encode(&plain[from..], &mut out).unwrap();
                encoder.finish(&mut out).unwrap();
                assert!(out == whole[offset..], "{compression} {len} from {offset}");
                if compression == Compression::Bzip2 && len > 1 {
                    break;
                }
            }
        }
    }
}

#[test]
fn a_range_needs_only_its_own_plain_bytes() {
    let plain = testing::noise(1_000_000);
    for compression in [
        Compression::None,
        Compression::Zstd,
        Compression::Xz,
        Compression::Brotli,
        Compression::Lz4,
    ] {
        let whole = encode(compression, &plain, plain.len());
        let from_start = [1, 30, 65_571, 131_076, whole.len() - 5, whole.len()].map(|to| (0, to));
        for (from, to) in from_start.into_iter().chain([(300_000, 300_001), (65_000, 400_000)]) {
            let at = |offset: usize| {
                StoredEncoder::resume_at(compression, plain.len() as u64, offset as u64).unwrap()
            };
            let mut encoder = at(from);
            let needed = encoder.plain_pos() as usize..at(to).plain_pos() as usize;
            assert!(needed.len() <= to - from);
            let mut out = Vec::new();
            encoder.encode(&plain[needed.clone()], &mut out).unwrap();
            if needed.end == plain.len() {
                encoder.finish(&mut out).unwrap();
            }
            assert!(out.len() < to - from + 80);
            assert!(out[..to - from] == whole[from..to], "{compression} {from}..{to}");
        }
    }
}

#[test]
fn a_wrong_number_of_bytes_is_refused() {
    for compression in Compression::ALL {
        let mut encoder = StoredEncoder::new(compression, 10).unwrap();
        let mut out = Vec::new();
        encoder.encode(b"12345678", &mut out).unwrap();
        let before = out.clone();
        let result = encoder.encode(b"123", &mut out);
        assert!(matches!(result, Err(Error::PlainLength { expected: 10, got: 11, .. })));
        assert_eq!(out, before);
        let result = encoder.finish(&mut out);
        assert!(matches!(result, Err(Error::PlainLength { expected: 10, got: 8, .. })));
    }
}

#[test]
fn impossible_lengths_and_offsets_are_refused() {
    for compression in Compression::ALL {
        let longest = StoredEncoder::new(compression, MAX_PLAIN_LEN).unwrap();
        let result = StoredEncoder::new(compression, MAX_PLAIN_LEN + 1);
        assert!(matches!(result, Err(Error::PlainTooLong(_))));
        if let Some(len) = longest.encoded_len() {
            StoredEncoder::resume_at(compression, MAX_PLAIN_LEN, len).unwrap();
            let result = StoredEncoder::resume_at(compression, MAX_PLAIN_LEN, len + 1);
            assert!(matches!(result, Err(Error::OutOfRange { .. })));
        }
    }
}

#[test]
fn raw_frames_are_frames_of_the_length_told() {
    for len in SIZES {
        let plain = testing::noise(len);
        let mut out = Vec::new();
        zstd_frame::raw_frame(&plain, &mut out);
        assert_eq!(out.len(), zstd_frame::raw_frame_len(len), "{len}");
        assert!(out.starts_with(&zstd_frame::MAGIC));
        assert!(out == encode(Compression::Zstd, &plain, 1 << 20), "{len}");
    }
}

#[test]
fn raw_compressed_and_skippable_frames_mix() {
    let (a, b) = (testing::noise(100), testing::text(200_000));
    let mut mixed = Vec::new();
    zstd_frame::raw_frame(&a, &mut mixed);
    mixed.extend(zstd_frame::skippable_header(0xff, 3));
    mixed.extend(b"any");
    mixed.extend(testing::compress(Compression::Zstd, &b));
    zstd_frame::raw_frame(&b, &mut mixed);
    zstd_frame::raw_frame(b"", &mut mixed);
    let plain = [&a[..], &b, &b].concat();
    assert!(testing::decompress(Compression::Zstd, &mixed) == plain);
    assert!(decode(Compression::Zstd, &mixed) == plain);
}
