//! Granary's HTTP client: one server, its API and its files.
//!
//! A [`Server`] sends whole bodies and takes whole answers, none longer than
//! [`granary_api::push::MAX_BODY`], but for those of `sync`. What fails for reasons that pass is sent again, the same bytes,
//! with growing, random pauses ([`RetryPolicy`]); what comes back as an [`Error`] says what to do.
//! There is no limit on how long a body takes, only on how long nothing moves.
//!
//! The token is in one header of each request and nowhere else: not in errors, not in logs, not in
//! `Debug`.

mod addresses;
mod api;
mod body;
mod error;
pub(crate) mod retry;
mod server;
mod sync;
pub(crate) mod tls;
mod token;

#[cfg(test)]
mod tests;

pub use api::RemoteCache;
pub use body::Traffic;
pub use error::Error;
pub use retry::RetryPolicy;
pub use server::{BaseUrl, InvalidUrl, Response, Server, ServerOptions};
pub use token::{InvalidToken, Token};
