//! The push protocol, see `granary_api::push`.

use std::collections::HashSet;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use castore::Digest;
use futures_util::Stream;
use granary_api::push::{
    MAX_BODY, MAX_INLINE_MANIFEST, MAX_PATHS_AT_ONCE, Manifest, Missing, MissingPaths, Outcome,
    PathOutcome, PublishPath,
};
use narbridge::Cache;
use narbridge::cache::{PublishError, PushError, PushOutcome, PushedPath, Pusher, Verified};
use nix_compat::narinfo::{Flags, NarInfo};
use nix_compat::nixhash::Sha256;
use prost::Message;
use tokio::sync::mpsc;

use super::{Call, caches};
use crate::admission::admit_pusher;
use crate::body::{blocking, read_small, with_body};
use crate::error::ApiError;
use crate::reply;

/// Outcomes that wait for the client to read them.
const OUTCOMES: usize = 4;
/// What is said of a path that is not to blame.
const FAILED: &str = "the server failed on it, and its log says why: try again later";

pub(super) const OCTETS: &str = "application/octet-stream";

/// The longest bodies of `missing` and `paths`, the latter as it comes and decompressed. They are
/// held in memory; whoever has more to say says it in several requests.
const MAX_QUESTION: usize = 16 * 1024 * 1024;
const MAX_PATHS_BODY: usize = 8 * 1024 * 1024;
const MAX_PATHS: usize = 16 * 1024 * 1024;

/// While NARs are made and hashed, the client hears from us this often.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

/// The longest message of `paths`: the manifest, and some thousand references.
const MAX_MESSAGE: usize = MAX_INLINE_MANIFEST + 1024 * 1024;

/// Paths that become visible with one write. What a write costs, where packs are objects, does not
/// depend on how many they are.
const PUBLISH_AT_ONCE: usize = 256;
/// For so long at most, paths that are verified wait for others to share their write.
const PUBLISH_AFTER: Duration = Duration::from_secs(5);

/// The most chunks that an outcome names as missing; the rest come up when these are there.
const MAX_NAMED: usize = 10_000;

/// A pusher, let in.
struct Admitted {
    cache: Arc<Cache>,
    pusher: Pusher,
}

fn admit(call: &Call, cache: &str) -> Result<Admitted, ApiError> {
    if call.method != Method::POST {
        return Err(ApiError::Method("POST"));
    }
    let (cache, pusher) = admit_pusher(&call.app, &call.caller, cache)?;
    Ok(Admitted { cache, pusher })
}

/// `missing`
pub(super) async fn missing_paths(call: Call, cache: &str) -> Result<Response, ApiError> {
    let Admitted { cache, pusher } = admit(&call, cache)?;
    let body = read_small(call.body, MAX_QUESTION).await?;
    let asked: MissingPaths = serde_json::from_slice(&body)
        .map_err(|error| ApiError::BadRequest(format!("the body is not the question: {error}")))?;
    let hashes: Result<Vec<_>, _> = asked.hashes.iter().map(|hash| hash.parse()).collect();
    let hashes = hashes.map_err(|error| ApiError::BadRequest(format!("hashes: {error}")))?;
    let info = caches::info(&cache, &call.caller);
    let missing = blocking(move || cache.missing_paths(hashes, &pusher)).await?;
    let hashes = missing.iter().map(ToString::to_string).collect();
    Ok(reply::json(StatusCode::OK, &Missing { hashes, cache: info }))
}

/// `chunks/missing`
pub(super) async fn missing_chunks(call: Call, cache: &str) -> Result<Response, ApiError> {
    let Admitted { cache, pusher } = admit(&call, cache)?;
    let digests = digests(&read_small(call.body, MAX_QUESTION).await?)?;
    let bitmap = blocking(move || {
        let missing = cache.missing_chunks(&digests, &pusher)?;
        let byte =
            |bits: &[bool]| bits.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit));
        Ok::<Vec<u8>, ApiError>(missing.chunks(8).map(byte).collect())
    })
    .await?;
    Ok(binary(bitmap))
}

/// Digests one behind the other.
pub(super) fn digests(body: &[u8]) -> Result<Vec<Digest>, ApiError> {
    match body.as_chunks::<{ Digest::LEN }>() {
        (digests, []) => Ok(digests.iter().map(|bytes| Digest::from_bytes(*bytes)).collect()),
        _ => {
            let text = format!("the body is not digests of {} bytes each", Digest::LEN);
            Err(ApiError::BadRequest(text))
        }
    }
}

/// `chunks`
pub(super) async fn chunks(call: Call, cache: &str) -> Result<Response, ApiError> {
    let Admitted { cache, pusher } = admit(&call, cache)?;
    let turn = call.app.turns.take(&pusher.subject).await?;
    with_body(call.body, move |reader| {
        let _turn = turn;
        let reader = io::BufReader::with_capacity(64 * 1024, reader.take(MAX_BODY as u64));
        Ok(cache.take_chunks(reader, &pusher)?)
    })
    .await?;
    Ok(binary(Vec::new()))
}

/// `paths`
pub(super) async fn paths(call: Call, cache: &str) -> Result<Response, ApiError> {
    let Admitted { cache, pusher } = admit(&call, cache)?;
    let limit = call.app.limits.max_nar_size;
    let body = read_small(call.body, MAX_PATHS_BODY).await?;
    let messages = blocking(move || messages(&body)).await?;
    let (sender, outcomes) = mpsc::channel(OUTCOMES);
    let app = call.app;
    tokio::spawn(async move {
        // Signs of life go out while this waits.
        let turn = match app.turns.take(&pusher.subject).await {
            Ok(turn) => turn,
            Err(error) => return drop(sender.send(Err(error)).await),
        };
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            publish_all(&cache, &pusher, messages, limit, &sender);
        });
    });
    let kind = HeaderValue::from_static(OCTETS);
    let mut response = Response::new(Body::from_stream(told(outcomes)));
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

/// Verifies one path after the other and publishes many at once, for as long as somebody waits for
/// the outcomes.
fn publish_all(
    cache: &Cache,
    pusher: &Pusher,
    messages: Vec<Vec<u8>>,
    max_nar_size: u64,
    outcomes: &mpsc::Sender<Result<PathOutcome, ApiError>>,
) {
    let wanted = || !outcomes.is_closed();
    let mut publication = Publication {
        cache,
        pusher,
        max_nar_size,
        wanted: &wanted,
        unpublished: HashSet::new(),
        gathered: false,
        waiting: Vec::new(),
        since: Instant::now(),
    };
    let last = messages.len().saturating_sub(1);
    for (at, message) in messages.into_iter().enumerate() {
        // Each of the others would wait as long to find out that nothing can be reached.
        let cut_off = publication.add(&message).err();
        if cut_off.is_none() && at != last && !publication.is_full() {
            continue;
        }
        let told = publication.publish();
        if told.into_iter().any(|told| outcomes.blocking_send(Ok(told)).is_err()) {
            return;
        }
        if let Some(error) = cut_off {
            drop(outcomes.blocking_send(Err(error)));
            return;
        }
    }
}

/// The outcomes as they come, and signs of life between. When the server is too busy, or cannot reach
/// its store, the stream breaks off, so that the client asks again.
fn told(
    outcomes: mpsc::Receiver<Result<PathOutcome, ApiError>>,
) -> impl Stream<Item = io::Result<Vec<u8>>> {
    futures_util::stream::unfold(Some(outcomes), |outcomes| async {
        let mut outcomes = outcomes?;
        match tokio::time::timeout(SIGN_OF_LIFE, outcomes.recv()).await {
            Err(_) => {
                Some((Ok(PathOutcome::default().encode_length_delimited_to_vec()), Some(outcomes)))
            }
            Ok(None) => None,
            Ok(Some(Ok(outcome))) => {
                Some((Ok(outcome.encode_length_delimited_to_vec()), Some(outcomes)))
            }
            Ok(Some(Err(_))) => Some((Err(io::Error::other("the server failed")), None)),
        }
    })
}

/// The messages of a body.
fn messages(body: &[u8]) -> Result<Vec<Vec<u8>>, ApiError> {
    let unread = |error: io::Error| ApiError::BadRequest(format!("the paths: {error}"));
    let mut body = zstd::stream::Decoder::new(body).map_err(unread)?.take(MAX_PATHS as u64 + 1);
    let mut plain = Vec::new();
    body.read_to_end(&mut plain).map_err(unread)?;
    if plain.len() > MAX_PATHS {
        let text = format!("the paths are longer than {MAX_PATHS} bytes: send fewer at once");
        return Err(ApiError::TooLarge(text));
    }
    let messages = delimited("paths", &plain, MAX_PATHS_AT_ONCE)?;
    if messages.iter().any(|message| message.len() > MAX_MESSAGE) {
        let text = "the paths: a message is too long: send its manifest as chunks";
        return Err(ApiError::BadRequest(text.to_owned()));
    }
    Ok(messages.into_iter().map(<[u8]>::to_vec).collect())
}

/// Messages, each after its length.
pub(super) fn delimited<'a>(
    what: &str,
    mut rest: &'a [u8],
    limit: usize,
) -> Result<Vec<&'a [u8]>, ApiError> {
    let bad = |why: &str| ApiError::BadRequest(format!("the {what}: {why}"));
    let mut messages = Vec::new();
    while !rest.is_empty() {
        let length = prost::decode_length_delimiter(&mut rest)
            .map_err(|_| bad("a message does not start with its length"))?;
        let (message, later) =
            rest.split_at_checked(length).ok_or_else(|| bad("the last message is cut off"))?;
        if messages.len() == limit {
            return Err(bad(&format!("there are more than {limit}: send fewer at once")));
        }
        messages.push(message);
        rest = later;
    }
    Ok(messages)
}

fn outcome(outcome: Outcome, message: String, missing: &[Digest]) -> PathOutcome {
    let missing = missing.iter().take(MAX_NAMED).map(|digest| digest.as_bytes().to_vec());
    PathOutcome { outcome: outcome.into(), message, missing: missing.collect() }
}

/// Why a path was not published.
enum Trouble {
    /// It is the path's fault: the others are none the worse.
    Refused(String),
    /// It is the server's fault, and in its log.
    Ours,
    /// The store or the index cannot be reached, so nor can it be for the other paths.
    Unavailable,
}

impl Trouble {
    /// What the client is told.
    fn outcome(self) -> PathOutcome {
        match self {
            Self::Refused(why) => outcome(Outcome::Refused, why, &[]),
            Self::Ours | Self::Unavailable => outcome(Outcome::Failed, FAILED.to_owned(), &[]),
        }
    }

    fn ours(error: impl Into<ApiError>) -> Self {
        // Making it one writes it to the log.
        match error.into() {
            ApiError::Unavailable => Self::Unavailable,
            _ => Self::Ours,
        }
    }
}

impl From<PushError> for Trouble {
    fn from(error: PushError) -> Self {
        use castore::AssemblyError;
        match error {
            PushError::Publish(PublishError::Cache(error)) => Self::ours(error),
            PushError::Publish(error) => Self::Refused(error.to_string()),
            PushError::Assembly(AssemblyError::Store(error)) | PushError::Store(error) => {
                Self::ours(error)
            }
            PushError::Assembly(error) => Self::Refused(error.to_string()),
            error => Self::Refused(error.to_string()),
        }
    }
}

/// A path whose outcome has not been told.
enum Waiting {
    /// It is known already.
    Told(PathOutcome),
    /// It can be published.
    Ready(Box<Verified>),
}

/// The paths of a request on their way to being visible.
struct Publication<'a> {
    cache: &'a Cache,
    pusher: &'a Pusher,
    max_nar_size: u64,
    wanted: &'a dyn Fn() -> bool,
    /// Paths that were to be published and were not.
    unpublished: HashSet<String>,
    /// Whether other servers were asked for what they hold back.
    gathered: bool,
    waiting: Vec<(String, Waiting)>,
    /// When the first of those that wait came.
    since: Instant,
}

impl Publication<'_> {
    /// Verifies a path, unless it refers to one that was to be published before it and was not.
    fn add(&mut self, message: &[u8]) -> Result<(), ApiError> {
        if self.waiting.is_empty() {
            self.since = Instant::now();
        }
        let path = match PublishPath::decode(message) {
            Ok(path) => path,
            Err(error) => {
                let told = outcome(Outcome::Refused, format!("the message: {error}"), &[]);
                self.waiting.push((String::new(), Waiting::Told(told)));
                return Ok(());
            }
        };
        let name = path.store_path.clone();
        let told = if path.references.iter().any(|other| self.unpublished.contains(other)) {
            outcome(Outcome::Deferred, String::new(), &[])
        } else {
            match self.verify(path) {
                Ok(PushOutcome::Verified(path)) => {
                    self.waiting.push((name, Waiting::Ready(path)));
                    return Ok(());
                }
                Ok(PushOutcome::Missing(missing)) => {
                    outcome(Outcome::Missing, String::new(), &missing)
                }
                Err(Trouble::Unavailable) => return Err(ApiError::Unavailable),
                Err(trouble) => trouble.outcome(),
            }
        };
        self.unpublished.insert(name.clone());
        self.waiting.push((name, Waiting::Told(told)));
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.waiting.len() >= PUBLISH_AT_ONCE || self.since.elapsed() >= PUBLISH_AFTER
    }

    /// Publishes what waits. The outcomes, in the order in which the paths came.
    fn publish(&mut self) -> Vec<PathOutcome> {
        let (mut ready, mut names, mut told) = (Vec::new(), Vec::new(), Vec::new());
        for (name, waiting) in self.waiting.drain(..) {
            match waiting {
                Waiting::Told(outcome) => told.push(Some(outcome)),
                Waiting::Ready(path) => {
                    ready.push(*path);
                    names.push(name);
                    told.push(None);
                }
            }
        }
        let published = self.cache.publish_verified(&ready);
        let mut published = names.into_iter().zip(published).map(|(name, done)| match done {
            Ok(()) => outcome(Outcome::Published, String::new(), &[]),
            Err(error) => {
                self.unpublished.insert(name);
                Trouble::from(error).outcome()
            }
        });
        let lost = || Trouble::Ours.outcome();
        told.into_iter()
            .map(|told| told.unwrap_or_else(|| published.next().unwrap_or_else(lost)))
            .collect()
    }

    fn verify(&mut self, path: PublishPath) -> Result<PushOutcome, Trouble> {
        let wrong =
            |field: &str, why: &dyn std::fmt::Display| Trouble::Refused(format!("{field}: {why}"));
        let info = path_info(&path).map_err(Trouble::Refused)?;
        let manifest = if path.manifest_chunks.is_empty() {
            path.manifest
        } else {
            let digests = path.manifest_chunks.iter().map(|bytes| Digest::from_slice(bytes));
            let digests: Option<Vec<Digest>> = digests.collect();
            let digests = digests.ok_or_else(|| wrong("manifest", &"a digest has not 32 bytes"))?;
            match self.cache.sent_manifest(&digests, self.pusher, &mut self.gathered)? {
                Ok(bytes) => bytes,
                Err(missing) => return Ok(PushOutcome::Missing(missing)),
            }
        };
        let Manifest { tree, lists } =
            Manifest::decode_bounded(&manifest).map_err(|error| wrong("manifest", &error))?;
        let Self { cache, pusher, max_nar_size, wanted, gathered, .. } = self;
        let path = PushedPath { info, tree, lists };
        Ok(cache.verify_pushed(path, pusher, *max_nar_size, gathered, *wanted)?)
    }
}

/// What the message says of the path, as types.
fn path_info(path: &PublishPath) -> Result<NarInfo<'static>, String> {
    fn field<T>(name: &str, parsed: Result<T, impl std::fmt::Display>) -> Result<T, String> {
        parsed.map_err(|error| format!("{name}: {error}"))
    }
    fn optional(text: &str) -> Option<&str> {
        Some(text).filter(|text| !text.is_empty())
    }
    let nar_hash: Result<[u8; 32], _> = path.nar_hash[..].try_into();
    let nar_hash = nar_hash.map_err(|_| "NarHash: it has not 32 bytes".to_owned())?;
    let references = path.references.iter().map(|reference| reference.parse());
    let signatures = path.signatures.iter().map(|signature| signature.parse());
    Ok(NarInfo {
        store_path: field("StorePath", path.store_path.parse())?,
        url: "",
        compression: None,
        file_hash: None,
        file_size: None,
        nar_hash: Sha256::from(nar_hash),
        nar_size: path.nar_size,
        references: field("References", references.collect::<Result<_, _>>())?,
        deriver: field("Deriver", optional(&path.deriver).map(str::parse).transpose())?,
        system: None,
        signatures: field("Sig", signatures.collect::<Result<_, _>>())?,
        ca: field("CA", optional(&path.ca).map(str::parse).transpose())?,
        unknown: Vec::new(),
        flags: Flags::default(),
    })
}

fn binary(bytes: Vec<u8>) -> Response {
    reply::whole(&Method::POST, OCTETS, bytes.into())
}
