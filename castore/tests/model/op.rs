//! What may happen, as data: made from a seed, printed, read again, and left out at will. The numbers of
//! an operation are taken modulo what there is, so it means something in every state, if only nothing.

use std::fmt;
use std::str::FromStr;

use crate::ops::{ALL, PARTS, What};

/// Declares `What` may happen, with a word for each, and how often it comes.
macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident $word:literal $weight:literal),* $(,)?) => {
        /// What happens.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum What { $($(#[$doc])* $name),* }

        /// Each with its word, and how often it comes.
        pub const ALL: &[(What, &str, u64)] = &[$((What::$name, $word, $weight)),*];
    };
}
pub(crate) use operations;

/// An operation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Op {
    pub what: What,
    /// Which one of several does it, or has it done to it.
    pub member: u8,
    pub a: u16,
    pub b: u16,
}

/// Numbers from a seed (splitmix64).
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }

    fn op(&mut self) -> Op {
        let total: u64 = ALL.iter().map(|(_, _, weight)| weight).sum();
        let mut at = self.below(total);
        let mut what = ALL[0].0;
        for (candidate, _, weight) in ALL {
            if at < *weight {
                what = *candidate;
                break;
            }
            at -= weight;
        }
        let small = |number: u64| (number % 1000) as u16;
        // As good for two members as for three.
        let member = (self.roll() % 6) as u8;
        Op { what, member, a: small(self.roll()), b: small(self.roll()) }
    }

    pub fn ops(&mut self, count: usize) -> Vec<Op> {
        let mut ops = Vec::new();
        while ops.len() < count {
            if self.below(30) > 0 {
                ops.push(self.op());
                continue;
            }
            // What chance alone brings about too seldom, with something else in between.
            let part = PARTS[self.below(PARTS.len() as u64) as usize];
            let member = self.below(6) as u8;
            for what in part {
                ops.push(Op { what: *what, member, ..self.op() });
                if self.below(4) == 0 {
                    ops.push(self.op());
                }
            }
        }
        ops.truncate(count);
        ops
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, member, a, b } = self;
        let word = ALL.iter().find(|(named, ..)| named == what).map_or("?", |(_, word, _)| word);
        write!(f, "{word}@{member}:{a},{b}")
    }
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Op {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (word, rest) = text.split_once('@')?;
            let (member, rest) = rest.split_once(':')?;
            let (a, b) = rest.split_once(',')?;
            let (what, ..) = ALL.iter().find(|(_, named, _)| *named == word)?;
            let (member, a, b) = (member.parse().ok()?, a.parse().ok()?, b.parse().ok()?);
            Some(Self { what: *what, member, a, b })
        };
        parse().ok_or_else(|| format!("`{text}` is not an operation"))
    }
}
