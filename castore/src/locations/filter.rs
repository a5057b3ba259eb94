//! A blocked Bloom filter: says "not here" for 98 % of the keys that are not, from one cache line.

use crate::Digest;
use crate::pack::Kind;

/// Bits per key. Twelve keep the rate of false alarms below 2 % in spite of the blocks.
const BITS_PER_KEY: usize = 12;
/// Bits set per key.
const PROBES: u32 = 6;
/// Words per block: 64 bytes, a cache line.
const BLOCK: usize = 8;

/// The filter of one segment.
pub struct Filter {
    words: Vec<u64>,
}

impl Filter {
    /// An empty filter sized for `keys`.
    pub fn for_keys(keys: usize) -> Self {
        let blocks = (keys * BITS_PER_KEY).div_ceil(BLOCK * 64).max(1);
        Self { words: vec![0; blocks * BLOCK] }
    }

    /// A filter from its words, if they are whole blocks.
    pub fn from_words(words: Vec<u64>) -> Option<Self> {
        (!words.is_empty() && words.len().is_multiple_of(BLOCK)).then_some(Self { words })
    }

    /// The words, as they are kept in a file.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Digests are uniform: their bytes serve as hashes. The first eight are left to sorting.
    fn place(&self, digest: &Digest, kind: Kind) -> (usize, u64) {
        let bytes = digest.as_bytes();
        let word = |at: usize| {
            u64::from_le_bytes([
                bytes[at],
                bytes[at + 1],
                bytes[at + 2],
                bytes[at + 3],
                bytes[at + 4],
                bytes[at + 5],
                bytes[at + 6],
                bytes[at + 7],
            ])
        };
        let blocks = (self.words.len() / BLOCK) as u64;
        let block = ((u128::from(word(8)) * u128::from(blocks)) >> 64) as usize;
        (block * BLOCK, word(16) ^ (kind as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// Adds a key. Whether it was not known before, which it may seem to have been by mistake.
    pub fn insert(&mut self, digest: &Digest, kind: Kind) -> bool {
        let (block, mut bits) = self.place(digest, kind);
        let mut news = false;
        for _ in 0..PROBES {
            let bit = bits as usize % (BLOCK * 64);
            let (word, mask) = (&mut self.words[block + bit / 64], 1 << (bit % 64));
            news |= *word & mask == 0;
            *word |= mask;
            bits >>= 9;
        }
        news
    }

    /// False only when the key was never added.
    pub fn may_contain(&self, digest: &Digest, kind: Kind) -> bool {
        let (block, mut bits) = self.place(digest, kind);
        for _ in 0..PROBES {
            let bit = bits as usize % (BLOCK * 64);
            if self.words[block + bit / 64] & (1 << (bit % 64)) == 0 {
                return false;
            }
            bits >>= 9;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_is_found_and_little_else() {
        let digest = |n: u32| Digest::of(&n.to_le_bytes());
        let mut filter = Filter::for_keys(10_000);
        let news = (0..10_000).filter(|n| filter.insert(&digest(*n), Kind::Chunk)).count();
        assert!(news > 9900 && !filter.insert(&digest(7), Kind::Chunk), "{news}");
        assert!((0..10_000).all(|n| filter.may_contain(&digest(n), Kind::Chunk)));
        let alarms =
            (10_000..30_000).filter(|&n| filter.may_contain(&digest(n), Kind::Chunk)).count();
        assert!(alarms < 400, "{alarms} false alarms in 20000");
    }
}
