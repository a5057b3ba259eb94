//! An OpenID Connect issuer on this machine: a discovery document, a set with one key, and tokens.

use crate::places;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A running issuer. It answers until its process ends.
#[derive(Debug)]
pub struct Issuer {
    url: String,
    away: Arc<AtomicBool>,
    key: EncodingKey,
}

impl Issuer {
    /// Starts one with an RSA key, as GitHub and GitLab have.
    pub fn start() -> Self {
        let path = places::workspace().join("http/src/token/testdata/rsa-one.pem");
        let pem = std::fs::read(path).expect("the test key");
        let key = EncodingKey::from_rsa_pem(&pem).expect("an RSA key");
        let mut jwk = Jwk::from_encoding_key(&key, Algorithm::RS256).expect("an RSA key");
        jwk.common.key_id = Some("one".to_owned());
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let away = Arc::new(AtomicBool::new(false));
        let (discovery, keys, is_away) = (
            json!({"issuer": url, "jwks_uri": format!("{url}/keys")}).to_string(),
            json!({ "keys": [jwk] }).to_string(),
            away.clone(),
        );
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let mut head = [0; 4096];
                let count = stream.read(&mut head).unwrap_or(0);
                if is_away.load(Ordering::SeqCst) {
                    continue;
                }
                let body =
                    if head[..count].starts_with(b"GET /keys ") { &keys } else { &discovery };
                // A client that hung up is no concern of the issuer's.
                drop(write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                ));
            }
        });
        Self { url, away, key }
    }

    /// Its `iss`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its name in subjects: host and port.
    pub fn host(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    /// Answers nobody any more.
    pub fn go_away(&self) {
        self.away.store(true, Ordering::SeqCst);
    }

    /// A token with these claims.
    pub fn token(&self, claims: &Value) -> String {
        let mut header = Header::new(Algorithm::RS256);
        header.kid = Some("one".to_owned());
        jsonwebtoken::encode(&header, claims, &self.key).expect("claims that can be signed")
    }
}
