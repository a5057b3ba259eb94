//! Why a request did not bring what it was for, and what to do about it.

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;

use granary_api::ErrorBody;
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, LOCATION};

use super::server::BaseUrl;

type Cause = Box<dyn StdError + Send + Sync>;

/// How much of a foreign server's answer is shown.
const SHOWN: usize = 200;
/// How much of what a Granary server says is shown: it may name ten store paths.
const SAID: usize = 4000;

/// A request that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection, or one that broke.
    #[error("cannot reach {server}: check the address, the network, and that the server runs")]
    Unreachable {
        /// The server.
        server: BaseUrl,
        /// Why.
        source: Cause,
    },
    /// A connection on which nothing moved any more.
    #[error("{server} stopped answering: nothing came for {seconds} s; try again")]
    Stalled {
        /// The server.
        server: BaseUrl,
        /// How long.
        seconds: u64,
    },
    /// A connection, but no trust.
    #[error(
        "no secure connection to {server}: if its certificate comes from a CA of your own, name the \
         CA's file in NIX_SSL_CERT_FILE; if it speaks no TLS, use http://"
    )]
    Tls {
        /// The server.
        server: BaseUrl,
        /// Why.
        source: Cause,
    },
    /// The CAs to trust besides the system's cannot be read.
    #[error(
        "cannot read the CAs in {} (from NIX_SSL_CERT_FILE): correct or unset it",
        path.display()
    )]
    Certificates {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Cause,
    },
    /// No HTTP client can be made.
    #[error("cannot set up HTTP: if no CAs are installed, name a file of them in SSL_CERT_FILE")]
    Setup {
        /// Why.
        source: Cause,
    },
    /// 401 without a token.
    #[error("{server} wants a token: run granary login, or set GRANARY_TOKEN")]
    NoToken {
        /// The server.
        server: BaseUrl,
    },
    /// 401 with a token.
    #[error(
        "{server} does not take the token ({message}): get a new one and run granary login, or set \
         GRANARY_TOKEN"
    )]
    TokenRefused {
        /// The server.
        server: BaseUrl,
        /// What the server says.
        message: String,
    },
    /// 403.
    #[error("{server} does not permit it: {message}; ask its administrator for a token that may")]
    Forbidden {
        /// The server.
        server: BaseUrl,
        /// What the server says.
        message: String,
    },
    /// 404 of a server that knows the question.
    #[error("{server} has no such thing: {message}")]
    NotFound {
        /// The server.
        server: BaseUrl,
        /// What the server says.
        message: String,
    },
    /// Something answers, but not in Granary's words.
    #[error(
        "{server} does not look like a Granary server of this version ({why}): check the address, \
         and what stands between"
    )]
    NotGranary {
        /// The server.
        server: BaseUrl,
        /// How it shows.
        why: String,
    },
    /// 413.
    #[error(
        "{server}, or a proxy before it, takes no body of {bytes} bytes: choose a smaller part \
         size, or raise its limit"
    )]
    TooLarge {
        /// The server.
        server: BaseUrl,
        /// Length of the body.
        bytes: u64,
    },
    /// The server understood, and says no.
    #[error("{server} refuses: {message}")]
    Rejected {
        /// The server.
        server: BaseUrl,
        /// The HTTP status.
        code: u16,
        /// What kind of error it is, in the server's words.
        kind: String,
        /// What the server says.
        message: String,
    },
    /// The server, or a proxy before it, failed or is busy, and did so again and again.
    #[error("{server} fails ({code}): {message}; try again later, or look at the server's log")]
    ServerFailed {
        /// The server.
        server: BaseUrl,
        /// The HTTP status.
        code: u16,
        /// What the server says.
        message: String,
    },
}

impl Error {
    /// What became of a request whose answer never came.
    pub(super) fn of_transport(server: &BaseUrl, error: reqwest::Error) -> Self {
        let server = server.clone();
        // The address is in the message already.
        let error = error.without_url();
        if is_tls(&error) {
            Self::Tls { server, source: error.into() }
        } else {
            Self::Unreachable { server, source: error.into() }
        }
    }

    /// What an answer other than a success says. `known` is whether the question was one of
    /// Granary's API, which a Granary server answers in its own words.
    pub(super) fn of_answer(
        server: &BaseUrl,
        had_token: bool,
        known: bool,
        sent: usize,
        (status, headers, body): (StatusCode, &HeaderMap, &[u8]),
    ) -> Self {
        let server = server.clone();
        let code = status.as_u16();
        let words: Option<ErrorBody> = serde_json::from_slice(body).ok();
        let said = words.is_some();
        let (kind, message) = match words {
            Some(words) => (words.error, clean(&words.message, SAID)),
            None => (String::new(), clean(&String::from_utf8_lossy(body), SHOWN)),
        };
        let message = if message.is_empty() { status.to_string() } else { message };
        match code {
            300..=399 => {
                let to = headers.get(LOCATION).and_then(|to| to.to_str().ok());
                let why = match to {
                    Some(to) => format!("it redirects to {}", clean(to, SHOWN)),
                    None => status.to_string(),
                };
                Self::NotGranary { server, why }
            }
            401 if had_token => Self::TokenRefused { server, message },
            401 => Self::NoToken { server },
            403 => Self::Forbidden { server, message },
            404 | 405 if known && !said => Self::NotGranary { server, why: status.to_string() },
            404 => Self::NotFound { server, message },
            413 => Self::TooLarge { server, bytes: sent as u64 },
            408 | 429 | 500..=599 => Self::ServerFailed { server, code, message },
            _ => Self::Rejected { server, code, kind, message },
        }
    }

    /// Whether trying later may help.
    pub fn passes(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Stalled { .. } | Self::ServerFailed { .. })
    }
}

/// One line of a text from outside, `limit` characters at most, without what could play tricks on a
/// terminal.
fn clean(text: &str, limit: usize) -> String {
    let line = text.trim().lines().next().unwrap_or_default();
    line.chars().filter(|c| !c.is_control()).take(limit).collect()
}

/// Whether TLS is what failed.
fn is_tls(error: &reqwest::Error) -> bool {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.is::<rustls::Error>() {
            return true;
        }
        // An I/O error's source is that of the error inside it, not that error.
        let inside = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause = match inside {
            Some(inside) => Some(inside),
            None => error.source(),
        };
    }
    false
}
