//! The decoders against what the real tools write, whole, in pieces, cut and spoilt.

use std::io::{self, BufRead, BufReader, Read};

use super::super::testing::{self, COMPRESSED};
use super::*;

fn decode(compression: Compression, encoded: &[u8]) -> Result<Vec<u8>, Error> {
    let mut plain = Vec::new();
    decoder(compression, encoded)?.read_to_end(&mut plain)?;
    Ok(plain)
}

#[test]
fn what_the_tools_write_is_read() {
    for compression in COMPRESSED {
        for len in testing::SIZES {
            for plain in [testing::text(len), testing::noise(len)] {
                let encoded = testing::compress(compression, &plain);
                assert!(decode(compression, &encoded).unwrap() == plain, "{compression} {len}");
            }
        }
    }
}

#[test]
fn every_level_and_dictionary_in_use_is_read() {
    let plain = testing::text(200_000);
    for (compression, program, args) in [
        (Compression::Zstd, "zstd", vec!["-c", "--fast=5"]),
        (Compression::Zstd, "zstd", vec!["-c", "-19", "--check"]),
        (Compression::Zstd, "zstd", vec!["-c", "--ultra", "-22", "--long=27"]),
        (Compression::Xz, "xz", vec!["-c", "-9e"]),
        (Compression::Xz, "xz", vec!["-c", "-0", "-C", "none"]),
        (Compression::Xz, "xz", vec!["-c", "-0", "-C", "sha256"]),
        (Compression::Xz, "xz", vec!["-c", "-T2", "--block-size=10000"]),
        (Compression::Xz, "xz", vec!["-c", "--x86", "--delta", "--lzma2=dict=64MiB"]),
        (Compression::Bzip2, "bzip2", vec!["-c", "-1"]),
        (Compression::Brotli, "brotli", vec!["-c", "-q", "11", "-w", "24"]),
        (Compression::Brotli, "brotli", vec!["-c", "-q", "0", "-w", "10"]),
        (Compression::Gzip, "gzip", vec!["-c", "-9"]),
        (Compression::Lz4, "lz4", vec!["-qc", "-B4", "-BD", "-BX", "--content-size"]),
        (Compression::Lz4, "lz4", vec!["-c", "-9", "--no-frame-crc"]),
    ] {
        let encoded = testing::run(program, &args, &plain);
        assert!(decode(compression, &encoded).unwrap() == plain, "{program} {args:?}");
    }
}

#[test]
fn streams_in_a_row_are_one() {
    for compression in COMPRESSED.into_iter().filter(|&c| c != Compression::Brotli) {
        let (a, b) = (testing::text(70_000), testing::noise(70_000));
        let mut encoded = testing::compress(compression, &a);
        encoded.extend(testing::compress(compression, b""));
        encoded.extend(testing::compress(compression, &b));
        assert!(decode(compression, &encoded).unwrap() == [a, b].concat(), "{compression}");
    }
}

#[test]
fn skippable_frames_and_stream_padding_are_passed_over() {
    let mut skippable = super::super::zstd_frame::skippable_header(7, 5).to_vec();
    skippable.extend(b"extra");
    let frame = testing::compress(Compression::Zstd, b"plain");
    let mixed = [&skippable[..], &frame, &skippable, &frame, &skippable].concat();
    assert_eq!(decode(Compression::Zstd, &mixed).unwrap(), b"plainplain");

    let stream = testing::compress(Compression::Xz, b"plain");
    let padded = [&stream[..], &[0; 8], &stream, &[0; 4]].concat();
    assert_eq!(decode(Compression::Xz, &padded).unwrap(), b"plainplain");
}

#[test]
fn every_cut_is_told_as_truncation() {
    // Several blocks for the formats that cut their input up.
    let plain = testing::text(3000);
    for compression in COMPRESSED {
        let encoded = testing::compress(compression, &plain);
        for cut in 0..encoded.len() {
            let result = decode(compression, &encoded[..cut]);
            assert!(
                matches!(result, Err(Error::Truncated(c)) if c == compression),
                "{compression} cut at {cut} of {}: {result:?}",
                encoded.len(),
            );
        }
    }
}

#[test]
fn cuts_between_blocks_and_inside_a_second_stream_are_told() {
    let plain = testing::noise(300_000);
    for compression in COMPRESSED.into_iter().filter(|&c| c != Compression::Brotli) {
        let mut encoded = match compression {
            Compression::Lz4 => testing::run("lz4", &["-qc", "-B4"], &plain),
            _ => testing::compress(compression, &plain),
        };
        let first = encoded.len();
        encoded.extend(testing::compress(compression, b"second"));
        // Everywhere near what may be a block's edge, and all over the second stream.
        let edges = (1..5).flat_map(|n| n * (1 << 16)..n * (1 << 16) + 64);
        for cut in edges.chain(first + 1..encoded.len()).filter(|&c| c != first) {
            let result = decode(compression, &encoded[..cut]);
            assert!(matches!(result, Err(Error::Truncated(_))), "{compression} cut at {cut}");
        }
    }
}

#[test]
fn bytes_behind_the_end_are_an_error() {
    for compression in COMPRESSED {
        let whole = testing::compress(compression, b"plain");
        for garbage in [b"garbage".as_slice(), &[0; 7], &[0xff; 100], b"\x01"] {
            let result = decode(compression, &[&whole[..], garbage].concat());
            assert!(result.is_err(), "{compression} {garbage:?}: {result:?}");
        }
        let result = decode(compression, &[&whole[..], b"a lot of garbage"].concat());
        match compression {
            Compression::Zstd | Compression::Bzip2 | Compression::Brotli => {
                assert!(matches!(result, Err(Error::TrailingBytes(_))), "{result:?}");
            }
            _ => assert!(matches!(result, Err(Error::Corrupt { .. })), "{result:?}"),
        }
    }
}

#[test]
fn other_bytes_are_corrupt() {
    for compression in COMPRESSED {
        let result = decode(compression, b"\x11this is none of the formats");
        assert!(matches!(result, Err(Error::Corrupt { .. })), "{compression}: {result:?}");
    }
}

#[test]
fn a_flipped_bit_never_panics_nor_passes_where_a_checksum_guards() {
    let plain = testing::text(600);
    for compression in COMPRESSED {
        let encoded = testing::compress(compression, &plain);
        for bit in 0..encoded.len() * 8 {
            let mut spoilt = encoded.clone();
            spoilt[bit / 8] ^= 1 << (bit % 8);
            let result = decode(compression, &spoilt);
            if matches!(compression, Compression::Xz | Compression::Bzip2 | Compression::Gzip) {
                // Some bits of bzip2 change nothing, such as how large blocks may be.
                assert!(
                    result.is_err() || result.is_ok_and(|p| p == plain),
                    "{compression} bit {bit}"
                );
            }
        }
    }
}

#[test]
fn windows_beyond_the_limit_are_refused_before_they_are_allocated() {
    // 2^28 and 2^41 bytes, the latter the most a frame can ask for.
    for exponent in [28 - 10, 31] {
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0, exponent << 3, 1, 0, 0];
        let result = decode(Compression::Zstd, &frame);
        assert!(matches!(result, Err(Error::MemoryLimit { limit: 0x800_0000, .. })), "{result:?}");
    }
    let widest = testing::run("zstd", &["-c", "--long=27"], &testing::noise(1000));
    decode(Compression::Zstd, &widest).unwrap();

    // The dictionary is byte 16, guarded by the block header's checksum.
    let mut xz = testing::run("xz", &["-c"], b"plain");
    let header = xz[12..24].iter().position(|&b| b == 0x21).unwrap() + 12;
    for (dictionary, allowed) in [(28, true), (30, false), (40, false)] {
        xz[header + 2] = dictionary;
        let checksum = crc32fast::hash(&xz[12..20]);
        xz[20..24].copy_from_slice(&checksum.to_le_bytes());
        let result = decode(Compression::Xz, &xz);
        match allowed {
            true => assert_eq!(result.unwrap(), b"plain"),
            false => assert!(matches!(result, Err(Error::MemoryLimit { .. })), "{result:?}"),
        }
    }

    let brotli = testing::run("brotli", &["-c", "--large_window=30"], b"plain");
    assert!(matches!(decode(Compression::Brotli, &brotli), Err(Error::Corrupt { .. })));
}

#[test]
fn a_bomb_takes_no_more_memory_than_its_reader_s_buffer() {
    let bomb = testing::run("sh", &["-c", "head -c 1G /dev/zero | zstd -c -19 --long=27"], b"");
    let mut reader = decoder(Compression::Zstd, &bomb[..]).unwrap();
    let mut buffer = vec![0; 256 << 10];
    let mut total = 0_u64;
    loop {
        match reader.read(&mut buffer).unwrap() {
            0 => break,
            n => total += n as u64,
        }
    }
    assert_eq!(total, 1 << 30);
}

/// Gives one byte at a time, with an interruption before each.
struct Grudging<'a>(&'a [u8], bool);

impl Read for Grudging<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1 = !self.1;
        match (self.1, buffer.first_mut()) {
            (true, _) => Err(io::ErrorKind::Interrupted.into()),
            (false, Some(byte)) => self.0.read(std::slice::from_mut(byte)),
            (false, None) => Ok(0),
        }
    }
}

#[test]
fn tiny_inputs_and_tiny_outputs_make_no_difference() {
    let plain = testing::text(20_000);
    for compression in COMPRESSED {
        let encoded = testing::compress(compression, &plain);
        let source = BufReader::with_capacity(1, Grudging(&encoded, false));
        let mut reader = decoder(compression, source).unwrap();
        let mut got = Vec::new();
        let mut buffer = [0; 7];
        loop {
            match reader.read(&mut buffer[..1 + got.len() % 7]).unwrap() {
                0 => break,
                n => got.extend_from_slice(&buffer[..n]),
            }
        }
        assert!(got == plain, "{compression}");
        assert_eq!(reader.read(&mut buffer).unwrap(), 0, "the end stays the end");
    }
}

/// Fails where its bytes end.
struct Failing<'a>(&'a [u8]);

impl Read for Failing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the peer has gone")),
            n => Ok(n),
        }
    }
}

impl BufRead for Failing<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match self.0 {
            [] => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the peer has gone")),
            bytes => Ok(bytes),
        }
    }

    fn consume(&mut self, amount: usize) {
        self.0.consume(amount);
    }
}

#[test]
fn a_failing_source_is_told_from_a_truncated_input() {
    let plain = testing::text(20_000);
    for compression in COMPRESSED {
        let encoded = testing::compress(compression, &plain);
        for len in [0, 1, encoded.len() / 2, encoded.len() - 1, encoded.len()] {
            let mut reader = decoder(compression, Failing(&encoded[..len])).unwrap();
            let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
            assert!(error.to_string().contains("the peer has gone"), "{compression}: {error}");
            assert!(matches!(Error::from(error), Error::Read(_)), "{compression}");
            let again = reader.read(&mut [0; 10]).unwrap_err();
            assert!(matches!(Error::from(again), Error::FailedBefore(_)), "{compression}");
        }
    }
}

#[test]
fn none_is_the_source_itself() {
    assert_eq!(decode(Compression::None, b"anything").unwrap(), b"anything");
    assert_eq!(decode(Compression::None, b"").unwrap(), b"");
}
