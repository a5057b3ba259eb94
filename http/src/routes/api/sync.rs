//! The sync protocol, see `granary_api::sync`.

use std::io::{self, Write};
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use castore::Digest;
use futures_util::Stream;
use granary_api::Permission;
use granary_api::sync::{
    MAX_CHUNKS_AT_ONCE, MAX_PATHS_AT_ONCE, MAX_PROFILES_BODY, MAX_SYNC_QUESTION, PathProfile,
    SyncPaths,
};
use narbridge::Cache;
use narbridge::cache::{Profile, Synced};
use narbridge::nar::NarBody;
use prost::Message;

use super::Call;
use super::push::{OCTETS, delimited, digests};
use crate::App;
use crate::admission::{self, Right};
use crate::body::{blocking, hear_out, read_small, stream};
use crate::error::ApiError;
use crate::reply;

/// zstd's level for answers. They are names, which any level halves, and digests, which none
/// shortens.
const LEVEL: i32 = 1;
/// A piece of an answer goes out once it is that long, compressed.
const PIECE: usize = 128 * 1024;

/// Lets the caller in, and gives the cache and the rest of the call.
async fn admit(call: Call, cache: &str, right: Right) -> Result<(Arc<Cache>, Call), ApiError> {
    let admitted = admission::admit(&call.app, &call.caller, cache, right);
    match admitted {
        Ok(cache) if call.method == Method::POST => Ok((cache, call)),
        admitted => {
            hear_out(&call.headers, call.body).await;
            Err(admitted.err().unwrap_or(ApiError::Method("POST")))
        }
    }
}

/// `sync`
pub(super) async fn sync(call: Call, cache: &str) -> Result<Response, ApiError> {
    let (cache, call) = admit(call, cache, Right::Read).await?;
    let body = read_small(call.body, MAX_SYNC_QUESTION).await?;
    let bad =
        |error: &dyn std::error::Error| ApiError::BadRequest(format!("the question: {error}"));
    let question = SyncPaths::decode(&body[..]).map_err(|error| bad(&error))?;
    drop(body);
    let synced = cache.sync(&question).map_err(|error| bad(&error))?;
    let answer = Answer::new(synced).map_err(castore::StoreError::from)?;
    // The first piece is there before the status goes out: what fails at once is an error.
    let (first, rest) = next_piece(&call.app, answer).await?;
    let mut response = Response::new(Body::from_stream(pieces(call.app, first, rest)));
    let octets = HeaderValue::from_static(OCTETS);
    response.headers_mut().insert(header::CONTENT_TYPE, octets);
    Ok(response)
}

/// An answer on its way, put together as the client takes it.
struct Answer {
    paths: Synced,
    encoder: Option<zstd::stream::Encoder<'static, Vec<u8>>>,
}

impl Answer {
    fn new(paths: Synced) -> io::Result<Self> {
        Ok(Self { paths, encoder: Some(zstd::stream::Encoder::new(Vec::new(), LEVEL)?) })
    }

    /// The next bytes; `None` at the end. Blocks.
    fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        let failed = castore::StoreError::from;
        let Some(mut encoder) = self.encoder.take() else { return Ok(None) };
        while encoder.get_ref().len() < PIECE {
            let Some(path) = self.paths.next() else {
                return Ok(Some(encoder.finish().map_err(failed)?.into()));
            };
            let message = path?.encode_length_delimited_to_vec();
            encoder.write_all(&message).map_err(failed)?;
        }
        let piece = std::mem::take(encoder.get_mut());
        self.encoder = Some(encoder);
        Ok(Some(piece.into()))
    }
}

async fn next_piece(app: &App, mut answer: Answer) -> Result<(Option<Bytes>, Answer), ApiError> {
    let turn = app.turns.sync().await?;
    blocking(move || {
        let _turn = turn;
        Ok::<_, ApiError>((answer.next()?, answer))
    })
    .await
}

/// The pieces, each made when the one before it has gone; none is made once the client has gone. An
/// error on the way breaks the connection, so that an answer that is cut short looks cut short.
fn pieces(
    app: Arc<App>,
    first: Option<Bytes>,
    rest: Answer,
) -> impl Stream<Item = io::Result<Bytes>> {
    let state = (app, first, Some(rest));
    futures_util::stream::unfold(state, |(app, first, rest)| async {
        if let Some(first) = first {
            return Some((Ok(first), (app, None, rest)));
        }
        match next_piece(&app, rest?).await {
            Ok((piece, rest)) => Some((Ok(piece?), (app, None, Some(rest)))),
            // It is in the log.
            Err(_) => Some((Err(io::Error::other("the server failed")), (app, None, None))),
        }
    })
}

/// `chunks/read`
pub(super) async fn chunks(call: Call, cache: &str) -> Result<Response, ApiError> {
    let (cache, call) = admit(call, cache, Right::Read).await?;
    let body = read_small(call.body, MAX_CHUNKS_AT_ONCE * Digest::LEN).await?;
    let digests = digests(&body)?;
    let (length, first, rest) = blocking(move || {
        let mut records = cache.chunk_records(&digests)?;
        let (length, first) = (records.len(), records.next_window()?);
        Ok::<_, ApiError>((length, first, records))
    })
    .await?;
    let mut response = Response::new(stream(first, Box::new(rest)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(OCTETS));
    headers.insert(header::CONTENT_LENGTH, length.into());
    Ok(response)
}

/// `profiles`
pub(super) async fn profiles(call: Call, cache: &str) -> Result<Response, ApiError> {
    // Not `Read`, which strangers have on public caches.
    let (cache, call) = admit(call, cache, Right::To(Permission::Pull)).await?;
    let body = read_small(call.body, MAX_PROFILES_BODY).await?;
    let turn = call.app.turns.take(call.caller.subject().unwrap_or_default()).await?;
    blocking(move || {
        let _turn = turn;
        let bad =
            |why: &dyn std::fmt::Display| ApiError::BadRequest(format!("the profiles: {why}"));
        let profile = |message: &[u8]| {
            let message = PathProfile::decode(message).map_err(|error| bad(&error))?;
            Profile::new(message).map_err(|error| bad(&error))
        };
        let messages = delimited("profiles", &body, MAX_PATHS_AT_ONCE)?;
        let profiles: Vec<Profile> =
            messages.into_iter().map(profile).collect::<Result<_, ApiError>>()?;
        for profile in &profiles {
            cache.keep_profile(profile)?;
        }
        Ok::<_, ApiError>(())
    })
    .await?;
    Ok(reply::done(StatusCode::NO_CONTENT))
}
