//! Attic's client: its requests, written down as it sends them.

use crate::codec::sha256_hex;
use crate::raw::{self, RawAnswer};
use crate::server::Server;
use crate::tokens::mint;
use serde_json::{Value, json};

/// Requests as an attic client sends them with one token.
#[derive(Debug, Clone)]
pub struct Attic<'a> {
    server: &'a Server,
    token: String,
}

impl<'a> Attic<'a> {
    /// One who may do everything.
    pub fn root(server: &'a Server) -> Self {
        Self { server, token: server.token().to_owned() }
    }

    /// One who may do this to caches that fit these patterns.
    pub fn with(server: &'a Server, caches: &[(&str, &[&str])]) -> Self {
        Self::bearing(server, &mint(server.data(), "alice", caches))
    }

    /// One with this token, whatever it is.
    pub fn bearing(server: &'a Server, token: &str) -> Self {
        Self { server, token: token.to_owned() }
    }

    /// A request, byte for byte. Each header has its line end.
    pub fn request(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
        let host = self.server.origin().replace("http://", "");
        let head = format!(
            "{method} /_api/v1/{path} HTTP/1.1\r\n\
             user-agent: Attic/attic-client (nixpkgs)\r\n\
             authorization: bearer {}\r\n\
             {headers}accept: */*\r\nhost: {host}\r\nconnection: close\r\n\r\n",
            self.token
        );
        [head.as_bytes(), body].concat()
    }

    /// Sends it.
    pub fn send(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> RawAnswer {
        raw::send(&self.server.origin(), &self.request(method, path, headers, body))
    }

    /// A request with a body of JSON.
    pub fn json(&self, method: &str, path: &str, body: &str) -> RawAnswer {
        let length = body.len();
        let headers = format!("content-type: application/json\r\ncontent-length: {length}\r\n");
        self.send(method, path, &headers, body.as_bytes())
    }

    /// What a cache is.
    pub fn get_config(&self, cache: &str) -> Value {
        let answer = self.send("GET", &format!("cache-config/{cache}"), "", b"");
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// Changes a cache, and returns what it is then.
    pub fn configure(&self, cache: &str, patch: &str) -> Value {
        let answer = self.json("PATCH", &format!("cache-config/{cache}"), patch);
        assert_eq!((answer.status, &answer.body[..]), (200, ""), "{answer:?}");
        self.get_config(cache)
    }

    /// Makes a cache.
    pub fn create(&self, cache: &str) {
        // What `attic cache create <cache>` sends.
        let body = r#"{"keypair":"Generate","is_public":false,"store_dir":"/nix/store","priority":41,"upstream_cache_key_names":["cache.nixos.org-1"]}"#;
        let answer = self.json("POST", &format!("cache-config/{cache}"), body);
        assert_eq!((answer.status, &answer.body[..]), (200, ""), "{answer:?}");
    }

    /// Which of these have to be uploaded.
    pub fn missing(&self, cache: &str, hashes: &[&str]) -> Vec<String> {
        let body = json!({"cache": cache, "store_path_hashes": hashes}).to_string();
        let answer = self.json("POST", "get-missing-paths", &body);
        assert_eq!(answer.status, 200, "{answer:?}");
        serde_json::from_value(answer.json()["missing_paths"].clone()).unwrap()
    }

    /// Sends a NAR as a stream of unknown length, in pieces.
    pub fn stream(&self, headers: &str, pieces: &[&[u8]]) -> RawAnswer {
        let mut body = Vec::new();
        for piece in pieces.iter().flat_map(|piece| piece.chunks(100_000)) {
            body.extend(format!("{:X}\r\n", piece.len()).bytes());
            body.extend([piece, b"\r\n"].concat());
        }
        body.extend(b"0\r\n\r\n");
        self.send("PUT", "upload-path", &format!("{headers}transfer-encoding: chunked\r\n"), &body)
    }

    /// Uploads a NAR, with what it is in a header.
    pub fn upload(&self, info: &Value, nar: &[u8]) -> RawAnswer {
        self.stream(&format!("x-attic-nar-info: {info}\r\n"), &[nar])
    }

    /// The same, with what it is before it.
    pub fn upload_with_preamble(&self, info: &Value, nar: &[u8]) -> RawAnswer {
        let info = info.to_string();
        let headers = format!("x-attic-nar-info-preamble-size: {}\r\n", info.len());
        self.stream(&headers, &[info.as_bytes(), nar])
    }
}

/// What an upload says of a NAR.
pub fn info(cache: &str, hash: &str, nar: &[u8]) -> Value {
    json!({
        "cache": cache,
        "store_path_hash": hash,
        "store_path": format!("/nix/store/{hash}-e2e"),
        "references": [],
        "system": null,
        "deriver": null,
        "sigs": [],
        "ca": null,
        "nar_hash": format!("sha256:{}", sha256_hex(nar)),
        "nar_size": nar.len(),
    })
}
