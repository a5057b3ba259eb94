//! Garbage collection: giving back what nothing needs, without anybody waiting for it.
//!
//! Packs never change, so space comes back when a pack is removed whole, after what is needed of it
//! has been copied to another one. Between the decision and the removal lie three safeguards:
//!
//! 1. **Condemn.** Everything that facts name is marked ([`Live`]), and the packs that are worth it are
//!    *condemned* ([`condemned`]): named in the index, with a new *epoch*. From then on nobody builds on a
//!    record that only a condemned pack has. Who brings it stores it again; who only names it has it
//!    copied. Either *pardons* it. A transaction that names a tree says in which epoch all of the tree was
//!    found to stay, and is refused in any other.
//! 2. **Grace.** Uploads that began in an earlier epoch, and what clients have sent and not yet published,
//!    are known by their [`leases`](lease). A pack is left alone until they are over.
//! 3. **Sweep.** Everything is marked again. What is marked, and what was not condemned, moves; the copies
//!    are made durable; the pack is removed ([`sweep`]).
//!
//! A crash at any point leaves copies too many, never one too few. All of this state is in the index; if
//! that is lost, nothing is condemned any more.

pub(crate) mod condemned;
mod damaged;
mod emptying;
pub(crate) mod lease;
mod left_behind;
mod live;
mod objects;
mod pace;
mod plan;
mod secure;
mod sweep;

use crate::pack::{HEADER_LEN, RecordHeader, Row};

pub use lease::Flight;
pub use live::Live;
pub use objects::Tidied;
pub use pace::Pace;
pub use plan::{PackPlan, PackUse};
pub(crate) use secure::Rescue;
pub use sweep::{SweepOptions, Swept};

/// Whether bytes are the very record that a row stands for.
fn is_sound(row: &Row, record: &[u8]) -> bool {
    RecordHeader::parse(record).is_some_and(|header| {
        header.digest == row.digest
            && header.kind == row.kind
            && header.stored == row.stored
            && header.expected_checksum(&record[HEADER_LEN..]) == header.checksum
    })
}
