//! The routes of [`granary_api`], typed.

use bytes::Bytes;
use granary_api::cache::{
    AddKey, CacheInfo, CacheList, ConfigureCache, CreateCache, KeyList, MAX_LISTED, PathList,
};
use granary_api::gc::{Collect, Collected};
use granary_api::paths::{DeletePaths, DeletedPaths, DestroyPlan, DetailedPathList, PathInfo};
use granary_api::push::{MAX_BODY, Missing, MissingPaths};
use granary_api::{
    AddPin, IssuedToken, PREFIX, PinInfo, PinList, PinReport, Revocations, Revoke, Whoami,
};
use reqwest::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::Error;
use super::server::{Request, Response, Server};

const JSON: &str = "application/json";
const OCTETS: &str = "application/octet-stream";

/// Whether doing a thing twice comes to the same as doing it once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Twice {
    Same,
    Differs,
}

impl Server {
    /// Who the server takes us for; works without a token.
    pub async fn whoami(&self) -> Result<Whoami, Error> {
        self.get("/whoami").await
    }

    /// Gives an OIDC identity token for one of the server's own. The server is to be one without a
    /// token of its own: the identity token is sent in its place.
    pub async fn exchange_token(&self) -> Result<IssuedToken, Error> {
        let response = self.call(Method::POST, "/token", None, Twice::Same).await?;
        self.decode(&response)
    }

    /// Which tokens are void.
    pub async fn revocations(&self) -> Result<Revocations, Error> {
        self.get("/revocations").await
    }

    /// Takes tokens back.
    pub async fn revoke(&self, revoke: &Revoke) -> Result<(), Error> {
        let body = self.encode(revoke)?;
        self.call(Method::POST, "/revocations", Some(body), Twice::Same).await.map(drop)
    }

    /// Collects garbage, and waits for that to end.
    pub async fn collect(&self, collect: &Collect) -> Result<Collected, Error> {
        let body = self.encode(collect)?;
        let response = self.call(Method::POST, "/gc", Some(body), Twice::Same).await?;
        self.decode(&response)
    }

    /// The caches that we may see.
    pub async fn caches(&self) -> Result<CacheList, Error> {
        self.get("/caches").await
    }

    /// A cache of this server, whether it exists or not.
    pub fn cache(&self, name: &str) -> RemoteCache {
        RemoteCache { server: self.clone(), name: name.to_owned() }
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let response = self.call(Method::GET, path, None, Twice::Same).await?;
        self.decode(&response)
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        twice: Twice,
    ) -> Result<Response, Error> {
        let content_type = body.as_ref().map(|_| JSON);
        self.request(Request {
            method,
            path: &format!("{PREFIX}{path}"),
            body: body.unwrap_or_default(),
            content_type,
            idempotent: twice == Twice::Same,
            api: true,
            max_answer: MAX_BODY,
        })
        .await
    }

    fn encode(&self, value: &impl Serialize) -> Result<Bytes, Error> {
        let text = serde_json::to_vec(value);
        text.map(Bytes::from).map_err(|source| Error::Setup { source: source.into() })
    }

    fn decode<T: DeserializeOwned>(&self, response: &Response) -> Result<T, Error> {
        // The error may quote the answer, and an answer may hold a token: only the place is told.
        serde_json::from_slice(&response.body).map_err(|error| Error::NotGranary {
            server: self.base().clone(),
            why: format!("unexpected answer, at line {} column {}", error.line(), error.column()),
        })
    }
}

/// A cache of a server. Clones share the server's connections.
#[derive(Clone, Debug)]
pub struct RemoteCache {
    server: Server,
    name: String,
}

impl RemoteCache {
    /// The server.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// The cache's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its URL as a substituter.
    pub fn url(&self) -> String {
        self.server.base().join(&format!("/{}", escape(&self.name)))
    }

    /// What it is.
    pub async fn info(&self) -> Result<CacheInfo, Error> {
        self.server.get(&self.path("")).await
    }

    /// Makes it.
    pub async fn create(&self, cache: &CreateCache) -> Result<CacheInfo, Error> {
        let body = self.server.encode(cache)?;
        self.change(Method::PUT, "", Some(body), Twice::Differs).await
    }

    /// Changes its settings.
    pub async fn configure(&self, changes: &ConfigureCache) -> Result<CacheInfo, Error> {
        let body = self.server.encode(changes)?;
        self.change(Method::PATCH, "", Some(body), Twice::Same).await
    }

    /// Destroys it. It can be restored until its paths are collected.
    pub async fn destroy(&self) -> Result<(), Error> {
        self.server.call(Method::DELETE, &self.path(""), None, Twice::Differs).await.map(drop)
    }

    /// What would go with it.
    pub async fn destroy_plan(&self) -> Result<DestroyPlan, Error> {
        self.change(Method::DELETE, "?dry_run=1", None, Twice::Same).await
    }

    /// Undoes [`RemoteCache::destroy`].
    pub async fn restore(&self) -> Result<CacheInfo, Error> {
        self.change(Method::POST, "/restore", None, Twice::Differs).await
    }

    /// Its key pairs.
    pub async fn keys(&self) -> Result<KeyList, Error> {
        self.server.get(&self.path("/keys")).await
    }

    /// Adds a key pair.
    pub async fn add_key(&self, key: &AddKey) -> Result<KeyList, Error> {
        let body = self.server.encode(key)?;
        self.change(Method::POST, "/keys", Some(body), Twice::Differs).await
    }

    /// Lets a key sign for so many seconds more, and then no longer.
    pub async fn retire_key(&self, name: &str, after: u64) -> Result<KeyList, Error> {
        let below = format!("/keys/{}?after={after}", escape(name));
        self.change(Method::DELETE, &below, None, Twice::Same).await
    }

    /// Its pins.
    pub async fn pins(&self) -> Result<PinList, Error> {
        self.server.get(&self.path("/pins")).await
    }

    /// One of its pins.
    pub async fn pin(&self, name: &str) -> Result<PinInfo, Error> {
        self.server.get(&self.path(&format!("/pins/{}", escape(name)))).await
    }

    /// Pins a path under a name.
    pub async fn add_pin(&self, name: &str, pin: &AddPin) -> Result<PinInfo, Error> {
        let body = self.server.encode(pin)?;
        let below = format!("/pins/{}", escape(name));
        self.change(Method::PUT, &below, Some(body), Twice::Same).await
    }

    /// Takes a pin away with all its revisions.
    pub async fn remove_pin(&self, name: &str) -> Result<(), Error> {
        let path = self.path(&format!("/pins/{}", escape(name)));
        self.server.call(Method::DELETE, &path, None, Twice::Differs).await.map(drop)
    }

    /// Looks whether what a pin keeps is all there.
    pub async fn verify_pin(&self, name: &str) -> Result<PinReport, Error> {
        let below = format!("/pins/{}/verify", escape(name));
        self.change(Method::POST, &below, None, Twice::Same).await
    }

    /// Which of the store paths with these hash parts it does not have.
    pub async fn missing(&self, paths: &MissingPaths) -> Result<Missing, Error> {
        let body = self.server.encode(paths)?;
        self.change(Method::POST, "/missing", Some(body), Twice::Same).await
    }

    /// Which chunks are missing: digests one behind the other to a bitmap, see
    /// [`granary_api::push`].
    pub async fn missing_chunks(&self, digests: Bytes) -> Result<Bytes, Error> {
        self.push("/chunks/missing", digests).await
    }

    /// Sends chunks: records one behind the other, see [`granary_api::push`].
    pub async fn send_chunks(&self, records: Bytes) -> Result<Bytes, Error> {
        self.push("/chunks", records).await
    }

    /// Publishes paths: compressed messages to messages, see [`granary_api::push`].
    pub async fn publish(&self, paths: Bytes) -> Result<Bytes, Error> {
        self.push("/paths", paths).await
    }

    /// A page of its paths, behind the one with that hash part.
    pub async fn paths(&self, after: Option<&str>) -> Result<PathList, Error> {
        let after = after.map(|after| format!("&after={after}")).unwrap_or_default();
        self.server.get(&self.path(&format!("/paths?limit={MAX_LISTED}{after}"))).await
    }

    /// The same with what is said of each in a line.
    pub async fn detailed_paths(&self, after: Option<&str>) -> Result<DetailedPathList, Error> {
        let after = after.map(|after| format!("&after={after}")).unwrap_or_default();
        let below = format!("/paths?details=1&limit={MAX_LISTED}{after}");
        self.server.get(&self.path(&below)).await
    }

    /// What it says of the path with that hash part, and if wanted what that takes of the store.
    pub async fn path_info(&self, hash: &str, sizes: bool) -> Result<PathInfo, Error> {
        let query = if sizes { "?sizes=1" } else { "" };
        self.server.get(&self.path(&format!("/paths/{}{query}", escape(hash)))).await
    }

    /// Deletes paths, or says what would go.
    pub async fn delete_paths(&self, paths: &DeletePaths) -> Result<DeletedPaths, Error> {
        let body = self.server.encode(paths)?;
        let twice = if paths.dry_run { Twice::Same } else { Twice::Differs };
        self.change(Method::POST, "/paths/delete", Some(body), twice).await
    }

    /// One of the files that Nix reads, such as `nix-cache-info`, or that Nix writes.
    pub async fn file(&self, name: &str) -> Result<Bytes, Error> {
        let path = format!("/{}/{name}", escape(&self.name));
        let response = self.server.send(Method::GET, &path, Bytes::new(), None).await?;
        Ok(response.body)
    }

    async fn change<T: DeserializeOwned>(
        &self,
        method: Method,
        below: &str,
        body: Option<Bytes>,
        twice: Twice,
    ) -> Result<T, Error> {
        let response = self.server.call(method, &self.path(below), body, twice).await?;
        self.server.decode(&response)
    }

    async fn push(&self, below: &str, body: Bytes) -> Result<Bytes, Error> {
        self.post(below, body, MAX_BODY).await
    }

    /// Sends bytes for bytes, of which there are `max_answer` at most.
    pub(super) async fn post(
        &self,
        below: &str,
        body: Bytes,
        max_answer: usize,
    ) -> Result<Bytes, Error> {
        let path = format!("{PREFIX}{}", self.path(below));
        let octets = Some(OCTETS);
        Ok(self.server.send_for(Method::POST, &path, body, octets, max_answer).await?.body)
    }

    fn path(&self, below: &str) -> String {
        format!("/caches/{}{below}", escape(&self.name))
    }
}

/// A name as one segment of a path (RFC 3986, 3.3). `+` stays: cache names may have it.
fn escape(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~+".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
