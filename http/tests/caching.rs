//! What caches on the way are told, on a real socket.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

use std::sync::Arc;

use castore::Options;
use granary_http::token::{Claims, Verifier, sign};
use granary_http::{App, Auth, Limits};
use narbridge::Storehouse;
use narbridge::cache::{CacheSettings, FileName, NarName};
use nix_compat::nar::Writer;
use nix_compat::nixhash::Sha256;
use reqwest::{Client, Method, Response, StatusCode};
use sha2::Digest;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

const SECRET: [u8; 32] = [7; 32];
const HASH: &str = "00000000000000000000000000000000";
const SHORT: &str = "public, max-age=60";

/// A NAR of one file, and its hash.
fn nar() -> (Vec<u8>, Sha256) {
    let mut nar = Writer::new(Vec::new());
    nar.file(b"", false, 5, &mut &b"hello"[..]).unwrap();
    let nar = nar.finish().unwrap();
    let hash = Sha256::from(<[u8; 32]>::from(sha2::Sha256::digest(&nar)));
    (nar, hash)
}

struct Server {
    at: String,
    client: Client,
    house: Arc<Storehouse>,
    _dir: tempfile::TempDir,
    _stop: oneshot::Sender<()>,
}

impl Server {
    /// A server with a public and a private cache that hold the same path.
    async fn start() -> Self {
        let _dir = tempfile::tempdir().unwrap();
        let house = Arc::new(Storehouse::open(_dir.path(), Options::new(&mut |_| ())).unwrap());
        for (name, public) in [("open", true), ("closed", false)] {
            let settings = CacheSettings { public, ..CacheSettings::default() };
            house.create_cache(&name.parse().unwrap(), &settings, None).unwrap();
            publish(&house, name);
        }
        let auth = Auth::new(&SECRET, Verifier::new(&SECRET), house.revocations().clone());
        let app = App::new(house.clone(), auth, Limits::default());
        let (listener, at) = listen().await;
        let (_stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(granary_http::serve(listener, app, async { drop(stopped.await) }));
        Self { at, client: client(), house, _dir, _stop }
    }

    async fn ask(&self, method: Method, path: &str, had: Option<&str>) -> Response {
        let token = sign(&SECRET, &Claims::root("1".to_owned())).unwrap();
        let request = self.client.request(method, format!("{}{path}", self.at)).bearer_auth(token);
        let request = match had {
            Some(tag) => request.header("If-None-Match", tag),
            None => request,
        };
        request.send().await.unwrap()
    }

    async fn get(&self, path: &str) -> Response {
        self.ask(Method::GET, path, None).await
    }
}

fn client() -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().no_proxy().build().unwrap()
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = format!("http://{}", listener.local_addr().unwrap());
    (listener, at)
}

/// Puts a path, and a log, into a cache.
fn publish(house: &Storehouse, cache: &str) {
    let cache = house.cache(cache).unwrap();
    let (nar, hash) = nar();
    let name = NarName { hash, compression: None };
    cache.upload_nar(name, &nar[..], 1 << 20, None).unwrap();
    let text = format!(
        "StorePath: /nix/store/{HASH}-hello\nURL: nar/{name}\nCompression: none\n\
         NarHash: sha256:{}\nNarSize: {}\nReferences: \n",
        hash.to_nix32(),
        nar.len(),
    );
    cache.publish(HASH.parse().unwrap(), text.as_bytes(), None).unwrap();
    let log = FileName::parse("log/hello.drv").unwrap();
    cache.put_file(&log, b"built", "text/plain", "").unwrap();
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

/// Everything that a cache answers with, below it.
fn resources() -> Vec<(String, bool)> {
    let nar = format!("nar/{}.nar.zst", nar().1.to_nix32());
    vec![
        ("nix-cache-info".to_owned(), false),
        (format!("{HASH}.narinfo"), false),
        (format!("{HASH}.ls"), false),
        ("log/hello.drv".to_owned(), false),
        (nar, true),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_kept_says_for_how_long_and_is_not_sent_to_those_who_have_it() {
    let server = Server::start().await;
    for (path, forever) in resources() {
        let path = format!("/open/{path}");
        let first = server.get(&path).await;
        assert_eq!(first.status(), StatusCode::OK, "{path}");
        let control = if forever { "public, max-age=31536000, immutable" } else { SHORT };
        assert_eq!(header(&first, "cache-control"), control, "{path}");
        let tag = header(&first, "etag").to_owned();
        assert!(tag.starts_with('"') && tag.ends_with('"') && tag.len() > 10, "{path}: {tag}");
        let bytes = first.bytes().await.unwrap();

        for method in [Method::GET, Method::HEAD] {
            let again = server.ask(method.clone(), &path, Some(&format!("\"x\", W/{tag}"))).await;
            assert_eq!(again.status(), StatusCode::NOT_MODIFIED, "{method} {path}");
            assert_eq!(header(&again, "etag"), tag);
            assert_eq!(header(&again, "cache-control"), control);
            assert!(again.bytes().await.unwrap().is_empty());
            let other = server.ask(method.clone(), &path, Some("\"other\"")).await;
            assert_eq!((other.status(), header(&other, "etag")), (StatusCode::OK, &*tag), "{path}");
            let length = header(&other, "content-length").parse::<usize>().unwrap();
            assert_eq!(length, bytes.len(), "{method} {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_a_private_cache_is_not_for_proxies_to_hand_on() {
    let server = Server::start().await;
    for (path, _) in resources() {
        let answer = server.get(&format!("/closed/{path}")).await;
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        let control = header(&answer, "cache-control");
        assert!(control.starts_with("private, max-age="), "{path}: {control}");
        let refused = server.client.get(format!("{}/closed/{path}", server.at));
        let refused = refused.send().await.unwrap();
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED, "{path}");
        assert_eq!(header(&refused, "cache-control"), "no-store", "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_remembers_that_a_path_was_not_there() {
    let server = Server::start().await;
    let other = "1".repeat(32);
    let absent = Sha256::from([1; 32]).to_nix32();
    for path in [
        format!("/open/{other}.narinfo"),
        format!("/open/{other}.ls"),
        format!("/open/nar/{absent}.nar.zst"),
        "/open/log/other.drv".to_owned(),
        "/none/nix-cache-info".to_owned(),
        "/favicon.ico".to_owned(),
        "/_granary/v1/nothing".to_owned(),
    ] {
        // Twice: what was looked for once is known not to be there.
        for _ in 0..2 {
            let answer = server.ask(Method::GET, &path, Some("*")).await;
            assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{path}");
            assert_eq!(header(&answer, "cache-control"), "no-store", "{path}");
        }
    }
    let wrong = server.ask(Method::DELETE, "/open/nix-cache-info", None).await;
    assert_eq!(wrong.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(header(&wrong, "cache-control"), "no-store");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_narinfo_that_changes_has_another_tag_and_what_is_made_from_the_same_keeps_its_own() {
    let server = Server::start().await;
    let (narinfo, listing) = (format!("/open/{HASH}.narinfo"), format!("/open/{HASH}.ls"));
    let tag = |response: Response| header(&response, "etag").to_owned();
    let before = (tag(server.get(&narinfo).await), tag(server.get(&listing).await));
    server.house.add_key(&"open".parse().unwrap(), None, None).unwrap();
    let after = server.ask(Method::GET, &narinfo, Some(&before.0)).await;
    assert_eq!(after.status(), StatusCode::OK, "another key signs it");
    assert_ne!(tag(after), before.0);
    assert_eq!(tag(server.get(&listing).await), before.1);
}
