//! Random trees from a seed that is printed, so that a failure can be had again.

use crate::nar;

/// SplitMix64: small, and good enough to make data that does not compress.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// From `GRANARY_E2E_SEED`, else from the clock; printed in any case.
    pub fn from_environment() -> Self {
        let seed = match std::env::var("GRANARY_E2E_SEED") {
            Ok(given) => given.parse().expect("GRANARY_E2E_SEED is a number"),
            Err(_) => {
                let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
                now.expect("a clock after 1970").as_millis() as u64
            }
        };
        println!("seed: GRANARY_E2E_SEED={seed}");
        Self(seed)
    }

    /// Other ones each time, where a failure does not depend on them.
    pub fn from_clock() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let nanoseconds = now.expect("a clock after 1970").as_nanos() as u64;
        Self(nanoseconds ^ u64::from(std::process::id()) << 32)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// Bytes that do not compress.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(length + 8);
        while out.len() < length {
            out.extend(self.number().to_le_bytes());
        }
        out.truncate(length);
        out
    }

    /// Text that does.
    pub fn text(&mut self, length: usize) -> Vec<u8> {
        const WORDS: [&str; 8] =
            ["grain ", "sack ", "barn ", "mill ", "/nix/store/", "flour ", "scale ", "\n"];
        let mut out = Vec::with_capacity(length + 16);
        while out.len() < length {
            out.extend(WORDS[self.below(8) as usize].bytes());
        }
        out.truncate(length);
        out
    }

    /// 32 characters of nix32.
    pub fn hash_part(&mut self) -> String {
        crate::codec::nix32(&self.bytes(20))
    }

    /// A NAR: one file or a tree, from a few KB to a few MB. Some files come from a small stock
    /// that all seeds share, so that uploads have chunks in common.
    pub fn nar(&mut self) -> Vec<u8> {
        let node = match self.below(4) {
            0 => {
                let size = 1 << (10 + self.below(12));
                self.file(size)
            }
            _ => self.tree(2),
        };
        nar::nar(&node)
    }

    fn tree(&mut self, depth: u64) -> Vec<u8> {
        let entries = (0..1 + self.below(24)).map(|n| {
            let node = match self.below(12) {
                0 if depth > 0 => self.tree(depth - 1),
                1 => nar::symlink("../lib/target"),
                2 => self.file(1 << 18),
                _ => self.file(1 << 14),
            };
            (format!("entry-{n:03}"), node)
        });
        let entries: Vec<_> = entries.collect();
        nar::directory(&entries)
    }

    fn file(&mut self, largest: u64) -> Vec<u8> {
        let contents = if self.one_in(4) {
            let mut stock = Self::new(self.below(16));
            let size = stock.below(1 << 19) as usize;
            stock.text(size)
        } else {
            let size = self.below(largest) as usize;
            if self.one_in(2) { self.bytes(size) } else { self.text(size) }
        };
        let executable = self.one_in(3);
        nar::file(&contents, executable)
    }
}
