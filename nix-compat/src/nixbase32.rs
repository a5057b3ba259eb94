//! Nix's own base 32.
//!
//! The alphabet is the digits and the lower-case letters but for `e`, `o`, `t`
//! and `u`. The bytes are read as one little-endian number, whose digits are
//! written most significant first. So the text starts with the *last* bits of
//! the input, and where the bits do not divide by five it is the first digit
//! that has bits to spare; they must be zero.
//!
//! Source: the Nix manual, "Store Path Specification"; checked against
//! `nix-hash --to-base32`.

const ALPHABET: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

/// No digit has this value.
const NONE: u8 = 0xff;

/// The value of each byte as a digit.
const VALUES: [u8; 256] = {
    let mut values = [NONE; 256];
    let mut i = 0;
    while i < ALPHABET.len() {
        values[ALPHABET[i] as usize] = i as u8;
        i += 1;
    }
    values
};

/// Why a text is not Nix base 32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A character outside the alphabet, at a byte offset.
    #[error("{:?} at {at} is no digit of Nix's base 32", char::from(*.byte))]
    Digit {
        /// The byte found.
        byte: u8,
        /// Its offset in the text.
        at: usize,
    },
    /// No number of bytes has this many digits.
    #[error("{0} is not a possible length in Nix's base 32")]
    Length(usize),
    /// Bits of the first digit that belong to no byte are set.
    #[error("the first digit has bits set that belong to no byte")]
    SpareBits,
    /// The text is for another number of bytes.
    #[error("has {found} digits where {expected} are expected")]
    WrongLength {
        /// Digits found.
        found: usize,
        /// Digits expected.
        expected: usize,
    },
}

/// How many digits `len` bytes take.
pub const fn encoded_len(len: usize) -> usize {
    len / 5 * 8 + (len % 5 * 8).div_ceil(5)
}

/// How many whole bytes `len` digits hold.
const fn decoded_len(len: usize) -> usize {
    len / 8 * 5 + len % 8 * 5 / 8
}

/// The digits of `bytes`.
pub fn encode(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(encoded_len(bytes.len()));
    out.extend(digits(bytes));
    out
}

/// The digits of `bytes`, one by one.
pub(crate) fn digits(bytes: &[u8]) -> impl Iterator<Item = char> {
    (0..encoded_len(bytes.len())).rev().map(|digit| {
        let (byte, shift) = (digit * 5 / 8, digit * 5 % 8);
        let at = |i| bytes.get(i).copied().map_or(0, u16::from);
        let bits = (at(byte) | at(byte + 1) << 8) >> shift;
        char::from(ALPHABET.get(usize::from(bits & 31)).copied().unwrap_or_default())
    })
}

/// The bytes that `text` encodes.
pub fn decode(text: impl AsRef<[u8]>) -> Result<Vec<u8>, Error> {
    let text = text.as_ref();
    let mut out = vec![0; decoded_len(text.len())];
    decode_into(text, &mut out)?;
    Ok(out)
}

/// The `N` bytes that `text` encodes.
pub fn decode_fixed<const N: usize>(text: impl AsRef<[u8]>) -> Result<[u8; N], Error> {
    let text = text.as_ref();
    if text.len() != encoded_len(N) {
        return Err(Error::WrongLength { found: text.len(), expected: encoded_len(N) });
    }
    let mut out = [0; N];
    decode_into(text, &mut out)?;
    Ok(out)
}

/// Decodes `text` into `out`, which is all zero and `decoded_len` long.
fn decode_into(text: &[u8], out: &mut [u8]) -> Result<(), Error> {
    if encoded_len(out.len()) != text.len() {
        return Err(Error::Length(text.len()));
    }
    for (digit, (at, &byte)) in text.iter().enumerate().rev().enumerate() {
        let value = VALUES.get(usize::from(byte)).copied().unwrap_or(NONE);
        if value == NONE {
            return Err(Error::Digit { byte, at });
        }
        let (i, shift) = (digit * 5 / 8, digit * 5 % 8);
        let [low, high] = (u16::from(value) << shift).to_le_bytes();
        match out.get_mut(i) {
            Some(b) => *b |= low,
            None if low == 0 => {}
            None => return Err(Error::SpareBits),
        }
        match out.get_mut(i + 1) {
            Some(b) => *b |= high,
            None if high == 0 => {}
            None => return Err(Error::SpareBits),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Made with `nix-hash --to-base32 --type …`.
    #[test]
    fn the_digits_are_those_of_nix() {
        let sha256 = data_encoding::HEXLOWER
            .decode(b"399432f54026a7b7b88540db6baabc812485e4e79b58c420c16d64520d584988")
            .unwrap();
        let text = "1229b06m4r3dq4hc8n4vwzj8a941pjm6pns0hnwbg9r683sk551r";
        assert_eq!(encode(&sha256), text);
        assert_eq!(decode(text).unwrap(), sha256);
        assert_eq!(decode_fixed::<32>(text).unwrap(), *sha256);
        assert_eq!(encode(&[]), "");
        assert_eq!(encode(&[0x1f]), "0z");
    }

    #[test]
    fn letters_outside_the_alphabet_are_refused() {
        for c in ['e', 'o', 't', 'u', 'A', '-', '=', ' '] {
            assert_eq!(
                decode(format!("0{c}")),
                Err(Error::Digit { byte: c as u8, at: 1 }),
                "{c:?}"
            );
        }
    }

    #[test]
    fn bits_that_belong_to_no_byte_are_refused() {
        assert_eq!(decode("7z"), Ok(vec![0xff]));
        assert_eq!(decode("8z"), Err(Error::SpareBits));
        assert_eq!(decode_fixed::<1>("zz"), Err(Error::SpareBits));
    }

    #[test]
    fn impossible_lengths_are_refused() {
        for len in [1, 3, 6, 9] {
            assert_eq!(decode("0".repeat(len)), Err(Error::Length(len)));
        }
        assert_eq!(decode_fixed::<20>("0"), Err(Error::WrongLength { found: 1, expected: 32 }));
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_itself(bytes: Vec<u8>) {
            let text = encode(&bytes);
            prop_assert_eq!(text.len(), encoded_len(bytes.len()));
            prop_assert_eq!(decode(text).unwrap(), bytes);
        }

        #[test]
        fn what_decodes_is_the_one_spelling(text in "[0-9a-df-np-sv-z]{0,80}") {
            if let Ok(bytes) = decode(&text) {
                prop_assert_eq!(encode(&bytes), text);
            }
        }
    }
}
