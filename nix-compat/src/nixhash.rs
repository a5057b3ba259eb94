//! Digests and the ways Nix spells them.
//!
//! | spelling | example | where |
//! |---|---|---|
//! | `algo:<nix32>` | `sha256:1229b0…` | narinfo, content addresses |
//! | `algo:<hex>`, `algo:<base64>` | `sha256:3994…` | old or foreign narinfos, flakes |
//! | SRI, `algo-<base64>` | `sha256-OZQy…=` | JSON, flakes |
//! | bare, the algorithm known from elsewhere | `1229b0…` | derivations |
//!
//! Which of the three encodings a text is in follows from its length: no two
//! of them have one for the same algorithm.
//!
//! Source: the Nix manual (`nix hash`), and the W3C's "Subresource Integrity".

mod sha256;

pub use sha256::Sha256;

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE64, BASE64_NOPAD, HEXLOWER, HEXLOWER_PERMISSIVE};

use crate::nixbase32;

/// A hash algorithm that Nix knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HashAlgo {
    /// MD5, in old content addresses.
    Md5,
    /// SHA-1, in old content addresses and Git's.
    Sha1,
    /// SHA-256, which all NAR hashes are.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl HashAlgo {
    /// Nix's name for it.
    pub const fn name(self) -> &'static str {
        match self {
            HashAlgo::Md5 => "md5",
            HashAlgo::Sha1 => "sha1",
            HashAlgo::Sha256 => "sha256",
            HashAlgo::Sha512 => "sha512",
        }
    }

    /// Bytes in a digest.
    pub const fn digest_len(self) -> usize {
        match self {
            HashAlgo::Md5 => 16,
            HashAlgo::Sha1 => 20,
            HashAlgo::Sha256 => 32,
            HashAlgo::Sha512 => 64,
        }
    }
}

impl fmt::Display for HashAlgo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for HashAlgo {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        [HashAlgo::Md5, HashAlgo::Sha1, HashAlgo::Sha256, HashAlgo::Sha512]
            .into_iter()
            .find(|algo| algo.name() == s)
            .ok_or_else(|| Error::UnknownAlgo(s.to_owned()))
    }
}

/// How a digest was spelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Nix's base 32.
    Nix32,
    /// Base 16.
    Hex,
    /// Base 64.
    Base64,
    /// Base 64 after `algo-`.
    Sri,
}

/// Why a text is not a hash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An algorithm Nix does not know.
    #[error("{0:?} is no hash algorithm")]
    UnknownAlgo(String),
    /// Neither `algo:` nor `algo-` before the digest, and none was implied.
    #[error("the hash has no algorithm before it")]
    NoAlgo,
    /// Another algorithm than the one that must be used here.
    #[error("the hash is {found} where {expected} is expected")]
    WrongAlgo {
        /// The algorithm found.
        found: HashAlgo,
        /// The algorithm expected.
        expected: HashAlgo,
    },
    /// The digest's length fits none of the encodings.
    #[error("{len} characters are no {algo} digest in any encoding")]
    Length {
        /// The algorithm.
        algo: HashAlgo,
        /// Characters found.
        len: usize,
    },
    /// Not Nix's base 32.
    #[error(transparent)]
    Nix32(#[from] nixbase32::Error),
    /// Not base 16.
    #[error("not base 16: {0}")]
    Hex(#[source] data_encoding::DecodeError),
    /// Not base 64.
    #[error("not base 64: {0}")]
    Base64(#[source] data_encoding::DecodeError),
}

/// A digest and the algorithm that made it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NixHash {
    /// An MD5 digest.
    Md5([u8; 16]),
    /// A SHA-1 digest.
    Sha1([u8; 20]),
    /// A SHA-256 digest.
    Sha256([u8; 32]),
    /// A SHA-512 digest.
    Sha512([u8; 64]),
}

impl NixHash {
    /// The hash with this digest, if the digest is of the right length.
    pub fn new(algo: HashAlgo, digest: &[u8]) -> Result<Self, Error> {
        let wrong_len = |_| Error::Length { algo, len: digest.len() };
        Ok(match algo {
            HashAlgo::Md5 => NixHash::Md5(digest.try_into().map_err(wrong_len)?),
            HashAlgo::Sha1 => NixHash::Sha1(digest.try_into().map_err(wrong_len)?),
            HashAlgo::Sha256 => NixHash::Sha256(digest.try_into().map_err(wrong_len)?),
            HashAlgo::Sha512 => NixHash::Sha512(digest.try_into().map_err(wrong_len)?),
        })
    }

    /// The algorithm.
    pub const fn algo(&self) -> HashAlgo {
        match self {
            NixHash::Md5(_) => HashAlgo::Md5,
            NixHash::Sha1(_) => HashAlgo::Sha1,
            NixHash::Sha256(_) => HashAlgo::Sha256,
            NixHash::Sha512(_) => HashAlgo::Sha512,
        }
    }

    /// The digest.
    pub const fn digest(&self) -> &[u8] {
        match self {
            NixHash::Md5(d) => d,
            NixHash::Sha1(d) => d,
            NixHash::Sha256(d) => d,
            NixHash::Sha512(d) => d,
        }
    }

    /// Reads any spelling, a bare digest only if `expected` says of which
    /// algorithm, and says which encoding it was in. Where there is an
    /// `expected` algorithm, another one is an error.
    pub fn parse(s: &str, expected: Option<HashAlgo>) -> Result<(Self, Encoding), Error> {
        // Neither mark is in any of the encodings.
        let (algo, digest, sri) = match s.find([':', '-']).and_then(|at| s.split_at_checked(at)) {
            Some((algo, rest)) => {
                let digest = rest.get(1..).unwrap_or_default();
                (Some(algo.parse()?), digest, rest.starts_with('-'))
            }
            None => (None, s, false),
        };
        if let (Some(found), Some(expected)) = (algo, expected)
            && found != expected
        {
            return Err(Error::WrongAlgo { found, expected });
        }
        let algo = algo.or(expected).ok_or(Error::NoAlgo)?;
        let (digest, encoding) = decode(algo, digest, sri)?;
        Ok((NixHash::new(algo, &digest)?, encoding))
    }

    /// `algo:<nix32>`, as Nix writes it in narinfos and content addresses.
    pub fn to_nix32_string(&self) -> String {
        format!("{}:{}", self.algo(), nixbase32::encode(self.digest()))
    }

    /// The digest alone, in base 16.
    pub fn to_hex(&self) -> String {
        HEXLOWER.encode(self.digest())
    }

    /// `algo-<base64>`.
    pub fn to_sri(&self) -> String {
        format!("{}-{}", self.algo(), BASE64.encode(self.digest()))
    }
}

fn decode(algo: HashAlgo, text: &str, sri: bool) -> Result<(Vec<u8>, Encoding), Error> {
    let len = algo.digest_len();
    if !sri && text.len() == 2 * len {
        let digest = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(Error::Hex)?;
        return Ok((digest, Encoding::Hex));
    }
    if !sri && text.len() == nixbase32::encoded_len(len) {
        return Ok((nixbase32::decode(text)?, Encoding::Nix32));
    }
    // Nix reads base 64 with its padding left out, too.
    let bare = text.trim_end_matches('=');
    let padded = text.len() == BASE64.encode_len(len);
    if bare.len() == BASE64_NOPAD.encode_len(len) && (padded || text.len() == bare.len()) {
        let digest = BASE64_NOPAD.decode(bare.as_bytes()).map_err(Error::Base64)?;
        return Ok((digest, if sri { Encoding::Sri } else { Encoding::Base64 }));
    }
    Err(Error::Length { algo, len: text.len() })
}

impl fmt::Display for NixHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_nix32_string())
    }
}

impl fmt::Debug for NixHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NixHash({self})")
    }
}

/// Reads any spelling that names its algorithm.
impl FromStr for NixHash {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        Ok(NixHash::parse(s, None)?.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of "hello\n", made with `nix-hash`, `sha*sum` and `md5sum`.
    const SPELLINGS: [(&str, &str, &str); 4] = [
        (
            "md5:4425hx5d1mc9y39llj4k4nm55i",
            "b1946ac92492d2347c6235b4d2611184",
            "md5-sZRqySSS0jR8YjW00mERhA==",
        ),
        (
            "sha1:iwjz551fyw0cxcjgf4l6c879zabd6wpm",
            "f572d396fae9206628714fb2ce00f72e94f2258f",
            "sha1-9XLTlvrpIGYocU+yzgD3LpTyJY8=",
        ),
        (
            "sha256:00xyyr3fi8l6hb839bv3f7yb86yjv7xi1cgh1xnhipym4asvb4aq",
            "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
            "sha256-WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM=",
        ),
        (
            "sha512:0lrc0dwnvipqviibf7qfm1y492qvjwb1zhkcyi05cndmva1mr5gjcgrnz1x36djmk0sfg8djd2n0qv68vib2jg590mwznar9jcjphp7",
            "e7c22b994c59d9cf2b48e549b1e24666636045930d3da7c1acb299d1c3b7f931f94aae41edda2c2b207a36e10f8bcb8d45223e54878f5b316e7ce3b6bc019629",
            "sha512-58IrmUxZ2c8rSOVJseJGZmNgRZMNPafBrLKZ0cO3+TH5Sq5B7dosKyB6NuEPi8uNRSI+VIePWzFufOO2vAGWKQ==",
        ),
    ];

    #[test]
    fn every_spelling_of_nix_reads_to_the_same_hash() {
        for (nix32, hex, sri) in SPELLINGS {
            let hash: NixHash = nix32.parse().unwrap();
            let algo = hash.algo();
            assert_eq!(hash.to_nix32_string(), nix32);
            assert_eq!(hash.to_hex(), hex);
            assert_eq!(hash.to_sri(), sri);
            let base64 = sri.split_once('-').unwrap().1;
            let bare = nix32.split_once(':').unwrap().1;
            for (text, encoding) in [
                (nix32.to_owned(), Encoding::Nix32),
                (format!("{algo}:{hex}"), Encoding::Hex),
                (format!("{algo}:{}", hex.to_uppercase()), Encoding::Hex),
                (format!("{algo}:{base64}"), Encoding::Base64),
                (sri.to_owned(), Encoding::Sri),
                (sri.trim_end_matches('=').to_owned(), Encoding::Sri),
            ] {
                assert_eq!(NixHash::parse(&text, None), Ok((hash, encoding)), "{text}");
                assert_eq!(NixHash::parse(&text, Some(algo)), Ok((hash, encoding)), "{text}");
            }
            for (text, encoding) in
                [(bare, Encoding::Nix32), (hex, Encoding::Hex), (base64, Encoding::Base64)]
            {
                assert_eq!(NixHash::parse(text, Some(algo)), Ok((hash, encoding)));
                assert_eq!(NixHash::parse(text, None), Err(Error::NoAlgo));
            }
        }
    }

    #[test]
    fn what_is_no_hash_says_why() {
        let parse = |s: &str| NixHash::parse(s, Some(HashAlgo::Sha256));
        let sha1 = SPELLINGS[1].0;
        assert_eq!(
            parse(sha1),
            Err(Error::WrongAlgo { found: HashAlgo::Sha1, expected: HashAlgo::Sha256 })
        );
        assert_eq!(parse("sha3:00"), Err(Error::UnknownAlgo("sha3".into())));
        assert_eq!(parse(""), Err(Error::Length { algo: HashAlgo::Sha256, len: 0 }));
        assert_eq!(parse("sha256:"), Err(Error::Length { algo: HashAlgo::Sha256, len: 0 }));
        assert!(matches!(parse(&"g".repeat(64)), Err(Error::Hex(_))));
        assert!(matches!(parse(&"e".repeat(52)), Err(Error::Nix32(_))));
        assert!(matches!(parse(&format!("{}=", "*".repeat(43))), Err(Error::Base64(_))));
        // SRI is base 64 only.
        assert!(parse(&format!("sha256-{}", "0".repeat(64))).is_err());
        // Not on a character boundary, and not ASCII.
        assert!(parse("ß-ß").is_err());
        assert!(parse(&"ß".repeat(26)).is_err());
    }

    #[test]
    fn a_sha256_is_shown_as_nix_writes_it() {
        let text = SPELLINGS[2].0;
        let (hash, encoding) = Sha256::parse(text).unwrap();
        assert_eq!(encoding, Encoding::Nix32);
        assert_eq!(hash, Sha256::of(b"hello\n"));
        assert_eq!(hash.to_string(), text);
        assert_eq!(Sha256::from_nix32(&hash.to_nix32()), Ok(hash));
        assert_eq!(Sha256::parse(SPELLINGS[2].2), Ok((hash, Encoding::Sri)));
        assert!(Sha256::parse(SPELLINGS[1].0).is_err());
        assert_eq!(Sha256::parse(&hash.to_nix32()), Err(Error::NoAlgo));
    }
}
