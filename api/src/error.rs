//! Errors, as they travel.

use serde::{Deserialize, Serialize};

/// The body of every answer of the API that is not a success. Attic's shape, so that its clients
/// show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The HTTP status.
    pub code: u16,
    /// What kind of error it is, such as `NoSuchCache`.
    pub error: String,
    /// What failed, on what, and what to do.
    pub message: String,
}
