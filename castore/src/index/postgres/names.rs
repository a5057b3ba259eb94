//! What locks and channels are called in the database.
//!
//! Advisory locks and channels belong to a whole database and are numbers or short names, so the
//! schema is mixed into all of them: stores in two schemas do not get in each other's way.

/// Names for one schema.
#[derive(Clone)]
pub(super) struct Names {
    /// Class of the locks that members take by name.
    pub(super) locks: i32,
    /// Class of the locks that say who is a member.
    pub(super) members: i32,
    /// Class of the lock that orders batches.
    pub(super) writers: i32,
    /// Class of the lock under which tables are made and changed.
    pub(super) migration: i32,
    /// Channel of the messages.
    pub(super) channel: String,
}

impl Names {
    pub(super) fn of_schema(schema: &str) -> Self {
        let number = |what: &str| hash(&format!("granary {what}\0{schema}"));
        Self {
            locks: number("locks"),
            members: number("members"),
            writers: number("writers"),
            migration: number("migration"),
            channel: format!("granary_{:08x}", number("channel")),
        }
    }
}

/// A number for a name. Names that share one exclude each other, which costs waiting and breaks
/// nothing.
pub(super) fn hash(name: &str) -> i32 {
    let digest = blake3::hash(name.as_bytes());
    let [a, b, c, d, ..] = *digest.as_bytes();
    i32::from_be_bytes([a, b, c, d])
}
