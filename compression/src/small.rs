//! Bodies that arrive with a `Content-Encoding` and are small enough to hold.

use std::io::Read;

use super::{Compression, Error, decoder};

/// Undoes a body's `Content-Encoding`: at most `max_len` bytes come out, or it is
/// [`Error::TooLong`].
///
/// Nix (2.32 and later) uses its own names here (`xz`, `zstd`, `br`, `bzip2`, …); HTTP's `identity`
/// and `x-gzip` are understood too, in any case. Several encodings in a row are not: Nix sends none
/// such.
pub fn decode_small(encoding: &str, body: &[u8], max_len: usize) -> Result<Vec<u8>, Error> {
    let compression = match encoding.trim().to_ascii_lowercase().as_str() {
        "" | "identity" => Compression::None,
        "x-gzip" => Compression::Gzip,
        name => name.parse()?,
    };
    let mut plain = Vec::new();
    // One byte more than allowed tells "exactly the limit" from "too long".
    let limit = u64::try_from(max_len).unwrap_or(u64::MAX).saturating_add(1);
    decoder(compression, body)?.take(limit).read_to_end(&mut plain)?;
    if plain.len() > max_len {
        return Err(Error::TooLong { compression, limit: max_len });
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    const NARINFO: &[u8] = b"StorePath: /nix/store/00000000000000000000000000000000-x\n";

    #[test]
    fn every_encoding_nix_may_send_is_undone() {
        for compression in testing::COMPRESSED {
            let body = testing::compress(compression, NARINFO);
            let plain = decode_small(compression.name(), &body, NARINFO.len()).unwrap();
            assert_eq!(plain, NARINFO, "{compression}");
        }
        let gzip = testing::compress(Compression::Gzip, NARINFO);
        assert_eq!(decode_small(" X-GZip ", &gzip, 1000).unwrap(), NARINFO);
        for plain in ["", "identity", "none"] {
            assert_eq!(decode_small(plain, NARINFO, 1000).unwrap(), NARINFO);
        }
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let zeros = vec![0; 32 << 20];
        for compression in Compression::ALL {
            let bomb = match compression {
                Compression::None => zeros.clone(),
                _ => testing::compress(compression, &zeros),
            };
            let result = decode_small(compression.name(), &bomb, 1000);
            assert!(
                matches!(result, Err(Error::TooLong { limit: 1000, .. })),
                "{compression}: {result:?}"
            );
        }
    }

    #[test]
    fn one_byte_over_the_limit_is_too_long() {
        let body = testing::compress(Compression::Zstd, NARINFO);
        let result = decode_small("zstd", &body, NARINFO.len() - 1);
        assert!(matches!(result, Err(Error::TooLong { .. })));
    }

    #[test]
    fn unknown_encodings_are_named() {
        let result = decode_small("zstd, br", b"", 10);
        assert!(matches!(result, Err(Error::UnknownName(name)) if name == "zstd, br"));
    }
}
