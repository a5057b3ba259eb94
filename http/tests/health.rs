//! What those who watch over a server are told, on a real socket.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

use std::sync::Arc;
use std::time::Duration;

use castore::Options;
use granary_http::token::Verifier;
use granary_http::{App, Auth, Limits};
use narbridge::Storehouse;
use reqwest::{Client, Method, Response, StatusCode};
use tokio::net::TcpListener;

const SECRET: [u8; 32] = [7; 32];
/// Longer than an answer counts.
const LATER: Duration = Duration::from_millis(1100);

struct Server {
    at: String,
    client: Client,
    dir: tempfile::TempDir,
}

impl Server {
    /// One with the doors, or without. It serves until the test's runtime ends.
    async fn start(doors: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let house = Arc::new(Storehouse::open(dir.path(), Options::new(&mut |_| ())).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = format!("http://{}", listener.local_addr().unwrap());
        if doors {
            let auth = Auth::new(&SECRET, Verifier::new(&SECRET), house.revocations().clone());
            let app = App::new(house, auth, Limits::default());
            tokio::spawn(granary_http::serve(listener, app, std::future::pending()));
        } else {
            tokio::spawn(granary_http::serve_health(listener, house, std::future::pending()));
        }
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self { at, client: Client::builder().no_proxy().build().unwrap(), dir }
    }

    /// Asks, without a token.
    async fn ask(&self, method: Method, path: &str) -> Response {
        self.client.request(method, format!("{}{path}", self.at)).send().await.unwrap()
    }

    async fn get(&self, path: &str) -> Response {
        self.ask(Method::GET, path).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_falls_with_the_store_and_life_goes_on() {
    let server = Server::start(true).await;
    let ready = server.get("/readyz").await;
    assert_eq!(ready.status(), StatusCode::OK);
    assert_eq!(ready.headers()["cache-control"], "no-store");
    assert_eq!(ready.text().await.unwrap(), r#"{"ready":true,"store":"ok","index":"ok"}"#);

    let (packs, away) = (server.dir.path().join("packs"), server.dir.path().join("away"));
    std::fs::rename(&packs, &away).unwrap();
    tokio::time::sleep(LATER).await;
    let ready = server.get("/readyz").await;
    assert_eq!(ready.status(), StatusCode::SERVICE_UNAVAILABLE);
    let text = ready.text().await.unwrap();
    assert!(text.contains(r#""ready":false"#) && text.contains(r#""index":"ok""#), "{text}");
    let place = server.dir.path().to_str().unwrap();
    assert!(!text.contains(place), "{text} says where things lie");
    let alive = server.get("/healthz").await;
    assert_eq!((alive.status(), &*alive.text().await.unwrap()), (StatusCode::OK, "ok"));

    std::fs::rename(&away, &packs).unwrap();
    tokio::time::sleep(LATER).await;
    assert_eq!(server.ask(Method::HEAD, "/readyz").await.status(), StatusCode::OK);
    let wrong = server.ask(Method::PUT, "/readyz").await;
    assert_eq!(wrong.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_without_doors_answers_for_its_health_and_for_nothing_else() {
    let server = Server::start(false).await;
    for path in ["/healthz", "/readyz"] {
        assert_eq!(server.get(path).await.status(), StatusCode::OK, "{path}");
    }
    for path in ["/", "/open/nix-cache-info", "/_granary/v1/caches", "/readyz/x"] {
        assert_eq!(server.get(path).await.status(), StatusCode::NOT_FOUND, "{path}");
    }
}
