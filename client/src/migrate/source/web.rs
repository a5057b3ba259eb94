//! A binary cache behind HTTP. Redirects are followed, since many caches keep their NARs elsewhere;
//! what the source is shown to let us in goes to the source's own host and no other.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use granary_api::cache::{MAX_LISTED, PathList};
use nix_compat::narinfo::MAX_NARINFO_SIZE;
use nix_compat::store_path::{StorePath, StorePathHash};
use reqwest::header::CONTENT_ENCODING;
use reqwest::{Response, StatusCode, Url, redirect};

use super::Secret;
use crate::http::{RetryPolicy, tls};
use crate::migrate::SourceError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// For how long nothing may move. Caches before object stores take their time for the first byte.
const STALL_TIMEOUT: Duration = Duration::from_secs(90);
const REDIRECTS: usize = 10;
/// The longest answer that is held in memory: one byte more than a narinfo may have, so that a
/// longer one is told from it.
pub(super) const LONGEST: usize = MAX_NARINFO_SIZE + 1;

#[derive(Debug)]
pub(super) struct Web {
    client: reqwest::Client,
    /// With a slash at its end.
    base: Url,
    secret: Option<Secret>,
    retry: RetryPolicy,
}

impl Web {
    pub fn new(
        mut base: Url,
        secret: Option<Secret>,
        retry: RetryPolicy,
    ) -> Result<Self, SourceError> {
        base.set_query(None);
        base.set_fragment(None);
        let path = format!("{}/", base.path().trim_end_matches('/'));
        base.set_path(&path);
        let builder = reqwest::Client::builder()
            .user_agent(concat!("granary/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(STALL_TIMEOUT)
            .redirect(redirect::Policy::custom(follow))
            .retry(reqwest::retry::never());
        let client = tls::configure(builder, true)?.build();
        let client =
            client.map_err(|source| crate::http::Error::Setup { source: source.into() })?;
        Ok(Self { client, base, secret, retry })
    }

    pub fn retry(&self) -> RetryPolicy {
        self.retry
    }

    pub fn place(&self, name: &str) -> String {
        format!("{}{name}", self.base)
    }

    /// A small file; `None` where there is none.
    pub async fn get(&self, name: &str) -> Result<Option<Bytes>, SourceError> {
        let url = self.join(name)?;
        self.small(&url).await
    }

    /// The body behind the URL of a narinfo, which need not be on the same host.
    pub async fn open(&self, url: &str) -> Result<Response, SourceError> {
        let url = self.join(url)?;
        let response = self.ask(&url).await?;
        response
            .ok_or_else(|| SourceError::Status { url: shown(&url), status: StatusCode::NOT_FOUND })
    }

    /// Every path, as Granary's servers tell.
    pub async fn list(&self) -> Result<Vec<StorePathHash>, SourceError> {
        let none = || SourceError::NoList(shown(&self.base));
        let (above, cache) =
            self.base.path().trim_end_matches('/').rsplit_once('/').ok_or_else(none)?;
        if cache.is_empty() {
            return Err(none());
        }
        let mut url = self.base.clone();
        url.set_path(&format!("{above}{}/caches/{cache}/paths", granary_api::PREFIX));
        let (mut hashes, mut after) = (Vec::new(), None::<String>);
        loop {
            let mut query = format!("limit={MAX_LISTED}");
            if let Some(after) = &after {
                query.push_str(&format!("&after={after}"));
            }
            url.set_query(Some(&query));
            let page = match self.small(&url).await {
                Err(error) if error.passes() => return Err(error),
                page => page.ok().flatten().ok_or_else(none)?,
            };
            let page: PathList = serde_json::from_slice(&page).map_err(|_| none())?;
            for path in &page.paths {
                let path: StorePath = path.parse().map_err(|_| none())?;
                hashes.push(path.hash());
            }
            // A server that goes in circles is not followed.
            if page.paths.is_empty() || page.next.is_none() || page.next == after {
                return Ok(hashes);
            }
            after = page.next;
        }
    }

    fn join(&self, url: &str) -> Result<Url, SourceError> {
        let joined = self.base.join(url);
        let joined = joined.ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        joined.ok_or_else(|| SourceError::Answer {
            url: shown(&self.base),
            why: format!("{url:?} is no place for a NAR"),
        })
    }

    async fn small(&self, url: &Url) -> Result<Option<Bytes>, SourceError> {
        let started = Instant::now();
        let mut failed = 0;
        loop {
            let error = match self.whole(url).await {
                Err(error) if error.passes() => error,
                answer => return answer,
            };
            failed += 1;
            match self.retry.pause(failed, started.elapsed(), None) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(error),
            }
        }
    }

    async fn whole(&self, url: &Url) -> Result<Option<Bytes>, SourceError> {
        let Some(mut response) = self.ask(url).await? else { return Ok(None) };
        let mut body = BytesMut::new();
        let broken = |error| broken(url, error);
        while let Some(piece) = response.chunk().await.map_err(broken)? {
            if body.len() + piece.len() >= LONGEST {
                let why = "the answer is too long".to_owned();
                return Err(SourceError::Answer { url: shown(url), why });
            }
            body.extend_from_slice(&piece);
        }
        let encoding = response.headers().get(CONTENT_ENCODING);
        let Some(encoding) = encoding else { return Ok(Some(body.freeze())) };
        let encoding = encoding.to_str().unwrap_or("?");
        let plain = nar_compression::decode_small(encoding, &body, MAX_NARINFO_SIZE);
        let plain = plain
            .map_err(|error| SourceError::Answer { url: shown(url), why: error.to_string() })?;
        Ok(Some(plain.into()))
    }

    /// One attempt; `None` for what is not there.
    async fn ask(&self, url: &Url) -> Result<Option<Response>, SourceError> {
        let mut request = self.client.get(url.clone());
        if url.origin() == self.base.origin() {
            request = match &self.secret {
                Some(Secret::Token(token)) => request.bearer_auth(token.secret()),
                Some(Secret::Login(login)) => {
                    request.basic_auth(&login.login, Some(&login.password))
                }
                None => request,
            };
        }
        let response = request.send().await.map_err(|error| broken(url, error))?;
        let status = response.status();
        match status {
            _ if status.is_success() => Ok(Some(response)),
            StatusCode::NOT_FOUND | StatusCode::GONE => Ok(None),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(SourceError::Refused { url: shown(url), status })
            }
            _ => Err(SourceError::Status { url: shown(url), status }),
        }
    }
}

/// A transfer that broke.
pub(in crate::migrate) fn broken(url: &Url, error: reqwest::Error) -> SourceError {
    SourceError::Unreachable { url: shown(url), source: error.without_url() }
}

/// What is encrypted stays encrypted.
fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let secure = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
    if attempt.previous().len() > REDIRECTS {
        attempt.error("too many redirects")
    } else if secure && attempt.url().scheme() != "https" {
        attempt.error("it redirects from https to http")
    } else {
        attempt.follow()
    }
}

/// An address without its query, which is a secret where it is signed.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.to_string()
}
