//! What kinds of trouble a push can run into, and what each is good for.

use granary_api::error::with_causes;

use crate::http;
use crate::push::PushError;

/// Why a batch came to nothing.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Nobody can help but time: no connection, a busy server.
    Passes(String),
    /// Somebody has to do something first: a token, a setting.
    Wants(String),
    /// It may be about one path of several. With `server`, about the server just as well.
    Path { why: String, server: bool },
}

impl From<PushError> for Trouble {
    fn from(error: PushError) -> Self {
        let why = with_causes(&error);
        match &error {
            PushError::Http(error) => match error {
                // A path that brings a server to its knees does so again.
                http::Error::ServerFailed { code: 500, .. } => Self::Path { why, server: true },
                error if error.passes() => Self::Passes(why),
                http::Error::Rejected { .. } | http::Error::TooLarge { .. } => {
                    Self::Path { why, server: false }
                }
                _ => Self::Wants(why),
            },
            PushError::StoreDir { .. } | PushError::PartSize => Self::Wants(why),
            _ => Self::Path { why, server: false },
        }
    }
}
