//! Why a request is not answered, as the person reads it who asked.

use std::time::Duration;

use granary_lazy::ViewError;

/// Why a request is not answered.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refusal {
    /// The view cannot.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The view did not say anything in time.
    #[error("{name} did not answer within {} seconds; try again later", deadline.as_secs_f32())]
    Slow { name: String, deadline: Duration },
    /// As Nix says it.
    #[error("path '{0}' is not valid")]
    NotValid(String),
    /// It would change the store.
    #[error("cannot {what}: {name} is read-only")]
    ReadOnly { what: String, name: String },
    /// No list of paths.
    #[error("the paths of {0} cannot be listed: they are too many, or their source does not tell")]
    Unlistable(String),
    /// The referrers are on their way.
    #[error(
        "the references of {name} are still being gathered, of {done} of {total} paths so far; \
         ask again in a moment"
    )]
    Gathering { name: String, done: usize, total: usize },
    /// A derivation that is none.
    #[error("cannot read the outputs of '{path}': {why}")]
    Derivation { path: String, why: &'static str },
    /// Nobody to answer.
    #[error("the daemon is being stopped")]
    Stopping,
}

/// What an operation would do that a store which never changes does not know.
pub fn changes(operation: u64) -> Option<&'static str> {
    Some(match operation {
        7 | 8 | 39 | 44 => "add a path",
        20 => "collect garbage",
        36 => "build a derivation",
        37 => "add signatures",
        42 => "register a realisation",
        45 => "add a build log",
        47 => "add a root",
        _ => return None,
    })
}
