//! What an engine offers besides keys and values when many processes share it: locks that end with
//! their holder, who else is there, and short messages.

use super::IndexError;

/// A lock that is held until this is dropped, or until the process that holds it is gone.
pub trait Held: Send {
    /// Whether it is still held: a broken connection lets go of it.
    fn is_held(&self) -> bool;
}

/// What the others said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A message of another member.
    Said {
        /// Who said it.
        from: u64,
        /// What.
        text: String,
    },
    /// Messages may have been missed, because the connection was lost for a while.
    Missed,
}

/// Processes that share an index: its *members*.
pub trait Shared: Send + Sync {
    /// This process's number. No two members that are there at the same time have the same.
    fn member(&self) -> u64;

    /// Waits for a lock and takes it.
    fn lock(&self, name: &str) -> Result<Box<dyn Held>, IndexError>;

    /// Takes a lock if nobody holds it.
    fn try_lock(&self, name: &str) -> Result<Option<Box<dyn Held>>, IndexError>;

    /// The members that are there, besides this one. One that was killed is gone at once.
    fn others(&self) -> Result<Vec<u64>, IndexError>;

    /// Says something to all others that listen. At most 4000 bytes.
    fn say(&self, text: &str) -> Result<(), IndexError>;

    /// Calls `listener` with what others say from now on, on a thread of its own. It may block for a
    /// moment, and may use the index.
    fn listen(&self, listener: Box<dyn FnMut(News) + Send>);
}
