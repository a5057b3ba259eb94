//! A server, and how requests get to it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use granary_api::push::MAX_BODY;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap};
use reqwest::{Method, StatusCode, Url, redirect};

use super::addresses::Addresses;
use super::body::{Outgoing, Pulse, Traffic};
use super::error::Error;
use super::retry::{self, RetryPolicy};
use super::tls;
use super::token::Token;

/// A host that is up answers within seconds; the rest is for lost packets.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// For how long nothing may move: longer than a server takes to verify a full part and bring it to
/// a busy disk, and a little longer than proxies usually wait for that (60 s).
const STALL_TIMEOUT: Duration = Duration::from_secs(90);
/// Connections unused for that long are closed: before most proxies (60 s) do it at a bad moment.
const IDLE_TIMEOUT: Duration = Duration::from_secs(45);
/// HTTP/2 connections are asked for a sign of life that often, so that a dead one is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// HTTP/2 windows for answers: 4 MiB keep 300 Mbit/s going over a round trip of 100 ms.
const WINDOW: u32 = 4 * 1024 * 1024;

/// Where a server is: `http` or `https`, a host, perhaps a port, perhaps a path before
/// [`granary_api::PREFIX`]. No user, password, query or fragment, no slash at its end.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct BaseUrl(Arc<Url>);

/// A text that is not the address of a server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUrl {
    /// Not a URL.
    #[error("`{text}` is not an address such as https://cache.example.org: {why}")]
    Syntax {
        /// The text.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// There is a password in it. The text is not in here.
    #[error(
        "the address has a user or password in it: give the address alone, and the token apart"
    )]
    Credentials,
}

impl BaseUrl {
    /// The URL of a path that begins with a slash.
    pub fn join(&self, path: &str) -> String {
        format!("{self}{path}")
    }

    /// The host, without port.
    pub fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default()
    }

    /// Whether connections are encrypted.
    pub fn is_secure(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// Whether the host is this machine.
    pub fn is_loopback(&self) -> bool {
        let host = self.host().trim_start_matches('[').trim_end_matches(']');
        match host.parse::<IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => host == "localhost" || host.ends_with(".localhost"),
        }
    }
}

impl FromStr for BaseUrl {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUrl> {
        let mut url: Url = text.trim().parse().map_err(|error| {
            // A text that cannot be read might have a password anywhere.
            let text = if text.contains('@') { "…" } else { text };
            InvalidUrl::Syntax { text: text.to_owned(), why: format!("{error}") }
        })?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidUrl::Credentials);
        }
        let why = if !matches!(url.scheme(), "http" | "https") {
            "only http and https are spoken"
        } else if url.query().is_some() || url.fragment().is_some() {
            "nothing may follow the path"
        } else {
            let path = url.path().trim_end_matches('/').to_owned();
            url.set_path(&path);
            return Ok(Self(Arc::new(url)));
        };
        Err(InvalidUrl::Syntax { text: text.to_owned(), why: why.to_owned() })
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

impl fmt::Debug for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BaseUrl({self})")
    }
}

/// How a server is spoken to.
#[derive(Clone, Copy, Debug)]
pub struct ServerOptions {
    /// When to give up.
    pub retry: RetryPolicy,
    /// For how long nothing may move on a connection.
    pub stall: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self { retry: RetryPolicy::default(), stall: STALL_TIMEOUT }
    }
}

/// A server. Clones share connections and counters.
#[derive(Clone)]
pub struct Server {
    inner: Arc<Inner>,
}

struct Inner {
    base: BaseUrl,
    token: Option<Token>,
    client: reqwest::Client,
    options: ServerOptions,
    traffic: Arc<Traffic>,
}

/// A success.
#[derive(Clone, Debug)]
pub struct Response {
    /// The HTTP status: 2xx.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// A request as it is sent, if need be again and again.
pub(super) struct Request<'a> {
    pub(super) method: Method,
    /// Below the server's address, with a slash in front.
    pub(super) path: &'a str,
    pub(super) body: Bytes,
    pub(super) content_type: Option<&'a str>,
    /// Whether doing it twice comes to the same as doing it once. What does not is sent again only
    /// if it surely was not done.
    pub(super) idempotent: bool,
    /// Whether it is one of [`granary_api`]'s.
    pub(super) api: bool,
    /// The longest answer that is taken, in bytes.
    pub(super) max_answer: usize,
}

/// One attempt that failed.
struct Failed {
    error: Error,
    again: bool,
    asked_for: Option<Duration>,
}

impl Server {
    /// A server, with the usual options.
    pub fn new(base: BaseUrl, token: Option<Token>) -> Result<Self, Error> {
        Self::with_options(base, token, ServerOptions::default())
    }

    /// A server. Nothing is sent yet.
    pub fn with_options(
        base: BaseUrl,
        token: Option<Token>,
        options: ServerOptions,
    ) -> Result<Self, Error> {
        let builder = reqwest::Client::builder()
            .user_agent(concat!("granary/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .tcp_keepalive(KEEP_ALIVE)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .http2_initial_stream_window_size(WINDOW)
            .http2_initial_connection_window_size(2 * WINDOW)
            // The API does not redirect, and a token goes where it was meant to go.
            .redirect(redirect::Policy::none())
            // What is sent again is decided here, not twice.
            .retry(reqwest::retry::never())
            .dns_resolver(Addresses::new());
        let client = tls::configure(builder, base.is_secure())?
            .build()
            .map_err(|source| Error::Setup { source: source.into() })?;
        let traffic = Arc::new(Traffic::default());
        Ok(Self { inner: Arc::new(Inner { base, token, client, options, traffic }) })
    }

    /// Its address.
    pub fn base(&self) -> &BaseUrl {
        &self.inner.base
    }

    /// When a request is given up.
    pub fn retry(&self) -> RetryPolicy {
        self.inner.options.retry
    }

    /// The token it is sent.
    pub fn token(&self) -> Option<&Token> {
        self.inner.token.as_ref()
    }

    /// What went over the wire so far.
    pub fn traffic(&self) -> &Arc<Traffic> {
        &self.inner.traffic
    }

    /// Sends a request that comes to the same when it is done twice.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        content_type: Option<&str>,
    ) -> Result<Response, Error> {
        self.send_for(method, path, body, content_type, MAX_BODY).await
    }

    /// The same, with a limit of its own for the answer.
    pub(super) async fn send_for(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        content_type: Option<&str>,
        max_answer: usize,
    ) -> Result<Response, Error> {
        let api = path.starts_with(granary_api::PREFIX);
        let idempotent = true;
        self.request(Request { method, path, body, content_type, idempotent, api, max_answer })
            .await
    }

    pub(super) async fn request(&self, request: Request<'_>) -> Result<Response, Error> {
        // What a slow line takes to carry a body is no sign that the server is down.
        let mut lost = Duration::ZERO;
        let mut failed = 0;
        loop {
            let pulse = Arc::new(Pulse::new());
            let attempt = match self.attempt(&request, &pulse).await {
                Ok(response) => return Ok(response),
                Err(attempt) => attempt,
            };
            failed += 1;
            lost += pulse.still();
            if !attempt.again {
                return Err(attempt.error);
            }
            let policy = self.inner.options.retry;
            let Some(pause) = policy.pause(failed, lost, attempt.asked_for) else {
                return Err(attempt.error);
            };
            tracing::debug!(
                method = %request.method,
                path = request.path,
                error = %attempt.error,
                ?pause,
                "sending a request again"
            );
            self.inner.traffic.add_retry();
            tokio::time::sleep(pause).await;
            lost += pause;
        }
    }

    async fn attempt(&self, request: &Request<'_>, pulse: &Arc<Pulse>) -> Result<Response, Failed> {
        let Inner { base, token, client, options, traffic } = &*self.inner;
        let mut builder = client.request(request.method.clone(), base.join(request.path));
        if let Some(header) = token.as_ref().and_then(Token::header) {
            builder = builder.header(AUTHORIZATION, header);
        }
        if let Some(content_type) = request.content_type {
            builder = builder.header(CONTENT_TYPE, content_type);
        }
        if request.content_type.is_some() || !request.body.is_empty() {
            let body = Outgoing::new(request.body.clone(), pulse.clone(), traffic.clone());
            builder = builder.body(reqwest::Body::wrap(body));
        }
        let exchange = exchange(builder, request.max_answer, pulse, traffic);
        let answer = tokio::select! {
            answer = exchange => answer,
            () = pulse.stopped(options.stall) => {
                let error = Error::Stalled { server: base.clone(), seconds: options.stall.as_secs() };
                return Err(Failed { error, again: request.idempotent, asked_for: None });
            }
        };
        let (status, headers, body) = match answer {
            Ok(answer) => answer,
            Err(Broken::TooLong) => {
                let why = format!("an answer of more than {} bytes", request.max_answer);
                let error = Error::NotGranary { server: base.clone(), why };
                return Err(Failed { error, again: false, asked_for: None });
            }
            Err(Broken::Transport(error)) => {
                let never_sent = error.is_connect();
                let hopeless = error.is_builder();
                let error = Error::of_transport(base, error);
                let again = (request.idempotent || never_sent)
                    && !hopeless
                    && !matches!(error, Error::Tls { .. });
                return Err(Failed { error, again, asked_for: None });
            }
        };
        if status.is_success() {
            return Ok(Response { status, headers, body });
        }
        let again =
            if request.idempotent { retry::passes(status) } else { retry::was_not_done(status) };
        let asked_for = retry::retry_after(&headers);
        let answer = (status, &headers, &body[..]);
        let error =
            Error::of_answer(base, token.is_some(), request.api, request.body.len(), answer);
        Err(Failed { error, again, asked_for })
    }
}

/// Why there is no whole answer.
enum Broken {
    Transport(reqwest::Error),
    TooLong,
}

/// Sends a request and takes its whole answer in.
async fn exchange(
    request: reqwest::RequestBuilder,
    limit: usize,
    pulse: &Pulse,
    traffic: &Traffic,
) -> Result<(StatusCode, HeaderMap, Bytes), Broken> {
    let mut response = request.send().await.map_err(Broken::Transport)?;
    pulse.beat();
    let (status, headers) = (response.status(), response.headers().clone());
    let mut body = BytesMut::new();
    while let Some(piece) = response.chunk().await.map_err(Broken::Transport)? {
        pulse.beat();
        traffic.add_received(piece.len());
        if body.len() + piece.len() > limit {
            return Err(Broken::TooLong);
        }
        body.extend_from_slice(&piece);
    }
    Ok((status, headers, body.freeze()))
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("base", &self.inner.base).finish_non_exhaustive()
    }
}
