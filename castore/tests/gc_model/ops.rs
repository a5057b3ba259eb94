//! What may happen, as data: made from a seed, printed, read again, and left out at will. The numbers of
//! an operation are taken modulo what there is, so it means something in every state, if only nothing.

use std::fmt;
use std::str::FromStr;

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident $word:literal $weight:literal),* $(,)?) => {
        /// What happens.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum What { $($(#[$doc])* $name),* }

        /// Each with its word, and how often it comes.
        const ALL: &[(What, &str, u64)] = &[$((What::$name, $word, $weight)),*];
    };
}

operations! {
    /// An upload begins.
    Begin "begin" 60,
    /// A file of an upload: its number, and whether all of it.
    File "file" 130,
    /// An upload is finished.
    Finish "finish" 55,
    /// A finished upload is committed under a key.
    Commit "commit" 60,
    /// An upload is given up.
    Drop "drop" 6,
    /// Some chunks of a file are sent.
    Send "send" 30,
    /// A tree is pushed: what is missing is found, and sent.
    Assemble "assemble" 40,
    /// A pushed tree is read, kept and committed.
    Publish "publish" 40,
    /// A fact is read that names a tree.
    Refer "refer" 40,
    /// The tree that it named is committed under another key.
    Follow "follow" 40,
    /// A key is removed.
    Remove "remove" 60,
    /// The key is removed that a process refers to.
    Forget "forget" 10,
    /// It is looked up where a key's chunks lie.
    Lookup "lookup" 30,
    /// They are read from there.
    Reread "reread" 30,
    /// The collector seals the pack that grows.
    Seal "seal" 30,
    /// It begins to mark.
    Live "live" 35,
    /// It marks some facts.
    Mark "mark" 35,
    /// It marks all the others.
    MarkAll "markall" 50,
    /// It plans, and condemns.
    Condemn "condemn" 45,
    /// It sweeps; with a grace period, or stopped in between, depending on its numbers.
    Sweep "sweep" 55,
    /// All of it, one after the other.
    Collect "collect" 12,
    /// A chunk turns out to be damaged.
    Damage "damage" 8,
    /// The process is killed; the index may be lost.
    Crash "crash" 6,
    /// It ends, and starts again.
    Restart "restart" 4,
    /// It looks at what the others did.
    KeepUp "keepup" 40,
    /// It looks at what the collector decided, and at nothing else.
    Glance "glance" 10,
}

/// An operation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Op {
    pub what: What,
    /// Which process does it.
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
        let mut what = What::KeepUp;
        for (candidate, _, weight) in ALL {
            if at < *weight {
                what = *candidate;
                break;
            }
            at -= weight;
        }
        let small = |number: u64| (number % 1000) as u16;
        Op { what, member: (self.roll() % 2) as u8, a: small(self.roll()), b: small(self.roll()) }
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
            let member = self.below(2) as u8;
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

/// What is named is condemned, named anew while its packs are about to go, and no more by who named it
/// before; or is found by an upload that ends only then.
const PARTS: &[&[What]] = {
    use What::*;
    &[
        &[Seal, Live, MarkAll, Condemn, Refer, Live, Forget, MarkAll, Follow, Sweep],
        &[Seal, Live, MarkAll, Condemn, Refer, Follow, Live, Forget, MarkAll, Follow, Sweep],
        &[Begin, File, Finish, Commit, Seal, Live, MarkAll, Condemn, Live, MarkAll, Commit, Sweep],
        &[Seal, Live, MarkAll, Condemn, Begin, File, File, Finish, Live, MarkAll, Commit, Sweep],
        &[Refer, Follow, Seal, Live, MarkAll, Condemn, Live, Forget, MarkAll, Follow, Sweep],
        &[Seal, Live, MarkAll, Condemn, Live, MarkAll, Sweep, Crash],
    ]
};

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
