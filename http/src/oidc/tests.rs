//! Identity tokens of an issuer on this machine, which rotates its keys, goes away and comes back.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use granary_api::Permission;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::Issuers;
use crate::config::OidcConfig;
use crate::token::{Refusal, Verifier, now};

/// What the issuer shows.
#[derive(Default)]
struct Shown {
    away: bool,
    keys: Vec<Value>,
    /// Overrides the answer to everything.
    answer: Option<String>,
    /// How often its keys were asked for.
    asked: usize,
}

struct LocalIssuer {
    url: String,
    shown: Arc<Mutex<Shown>>,
}

fn key(name: &str) -> (EncodingKey, Algorithm) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/token/testdata").join(name);
    let pem = std::fs::read(path).unwrap();
    match &name[..2] {
        "rs" => (EncodingKey::from_rsa_pem(&pem).unwrap(), Algorithm::RS256),
        "ec" => (EncodingKey::from_ec_pem(&pem).unwrap(), Algorithm::ES256),
        _ => (EncodingKey::from_ed_pem(&pem).unwrap(), Algorithm::EdDSA),
    }
}

impl LocalIssuer {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shown = Arc::new(Mutex::new(Shown::default()));
        let (base, state) = (url.clone(), shown.clone());
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = vec![0; 4096];
                let count = stream.read(&mut head).await.unwrap_or(0);
                let head = String::from_utf8_lossy(&head[..count]).into_owned();
                let body = {
                    let mut shown = state.lock().unwrap();
                    let is_keys = head.starts_with("GET /keys ");
                    shown.asked += usize::from(is_keys);
                    match (&shown.answer, shown.away) {
                        (_, true) => continue,
                        (Some(answer), _) => answer.clone(),
                        (None, _) if is_keys => json!({ "keys": shown.keys }).to_string(),
                        (None, _) => {
                            json!({"issuer": base, "jwks_uri": format!("{base}/keys")}).to_string()
                        }
                    }
                };
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self { url, shown }
    }

    /// Shows these keys, under their file names.
    fn show(&self, names: &[&str]) {
        let keys = names.iter().map(|name| {
            let (key, algorithm) = key(name);
            let mut jwk = Jwk::from_encoding_key(&key, algorithm).unwrap();
            jwk.common.key_id = Some((*name).to_owned());
            serde_json::to_value(jwk).unwrap()
        });
        self.shown.lock().unwrap().keys = keys.collect();
    }

    fn away(&self, away: bool) {
        self.shown.lock().unwrap().away = away;
    }

    fn asked(&self) -> usize {
        self.shown.lock().unwrap().asked
    }

    fn claims(&self) -> Value {
        json!({
            "iss": self.url, "aud": "granary", "sub": "repo:org/repo:ref:refs/heads/main",
            "jti": "42", "iat": now(), "exp": now() + 300,
            "repository": "org/repo", "ref": "refs/heads/main",
        })
    }

    fn token_but(&self, name: &str, changes: Value) -> String {
        let mut claims = self.claims();
        for (field, value) in changes.as_object().unwrap() {
            claims[field] = value.clone();
        }
        let (key, algorithm) = key(name);
        let mut header = Header::new(algorithm);
        header.kid = Some(name.to_owned());
        jsonwebtoken::encode(&header, &claims, &key).unwrap()
    }

    fn token(&self, name: &str) -> String {
        self.token_but(name, json!({}))
    }

    fn verifier(&self, dir: &Path) -> Verifier {
        self.verifier_with(dir, Duration::ZERO)
    }

    /// A server that trusts this issuer, and asks for unknown keys with that pause between.
    fn verifier_with(&self, dir: &Path, pause: Duration) -> Verifier {
        let config: OidcConfig = toml::from_str(&format!(
            "issuer = '{}'\naudience = 'granary'\n\
             [[grant]]\nclaims = {{ repository = 'org/*' }}\ncaches = {{ '*' = ['pull'] }}\n\
             [[grant]]\nclaims = {{ repository = 'org/*', ref = 'refs/heads/main' }}\n\
             caches = {{ 'ci-*' = ['push'] }}\n",
            self.url
        ))
        .unwrap();
        let mut issuers = Issuers::open(vec![config], dir).unwrap();
        Arc::get_mut(&mut issuers.0[0]).unwrap().unknown_key_pause = pause;
        Verifier::new(b"the server's own").with_issuers(issuers)
    }
}

fn scratch() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("oidc");
    (dir, path)
}

async fn refusal(verifier: &Verifier, token: &str) -> Option<Refusal> {
    verifier.verify(token).await.err()
}

#[tokio::test]
async fn a_job_may_do_what_all_fitting_grants_say_and_nothing_that_it_says_itself() {
    let (_dir, dir) = scratch();
    let issuer = LocalIssuer::start().await;
    issuer.show(&["rsa-one.pem", "ec-one.pem", "ed-one.pem"]);
    let verifier = issuer.verifier(&dir);
    let own_words = json!({
        "granary": {"caches": {"*": ["destroy"]}},
        "https://jwt.attic.rs/v1": {"caches": {"*": {"cd": 1}}},
    });
    for name in ["rsa-one.pem", "ec-one.pem", "ed-one.pem"] {
        let token = issuer.token_but(name, own_words.clone());
        let verified = verifier.verify(&token).await.unwrap();
        let claims = &verified.claims;
        let host = issuer.url.trim_start_matches("http://");
        assert_eq!(claims.subject, format!("oidc:{host}:repo:org/repo:ref:refs/heads/main"));
        assert_eq!(claims.id, Some(format!("oidc:{host}:42")));
        assert!(claims.permit(Permission::Push, "ci-x") && claims.permit(Permission::Pull, "ci-x"));
        assert!(!claims.permit(Permission::Push, "x") && claims.permit(Permission::Pull, "x"));
        assert!(!claims.permit(Permission::Destroy, "ci-x"));
        assert_eq!(verified.exchange, Some(3600));
    }
    for (changes, push, pull) in [
        (json!({"ref": "refs/heads/mine"}), false, true),
        (json!({"ref": null}), false, true),
        (json!({"ref": ["refs/heads/main"]}), false, true),
        (json!({"repository": "org-of-mallory/repo"}), false, false),
    ] {
        let verified = verifier.verify(&issuer.token_but("ec-one.pem", changes.clone())).await;
        let claims = &verified.as_ref().unwrap().claims;
        assert_eq!(claims.permit(Permission::Push, "ci-x"), push, "{changes}");
        assert_eq!(claims.permit(Permission::Pull, "ci-x"), pull, "{changes}");
    }
}

#[tokio::test]
async fn identity_tokens_that_are_not_right_are_refused() {
    let (_dir, dir) = scratch();
    let issuer = LocalIssuer::start().await;
    issuer.show(&["rsa-one.pem"]);
    let verifier = issuer.verifier(&dir);
    let with = |changes| issuer.token_but("rsa-one.pem", changes);
    for (token, expected) in [
        (with(json!({"aud": "other"})), Refusal::Audience),
        (with(json!({"aud": null})), Refusal::Audience),
        (with(json!({"exp": now() - 61})), Refusal::Expired),
        (with(json!({"exp": null})), Refusal::Malformed),
        (with(json!({"sub": null})), Refusal::Malformed),
        (with(json!({"nbf": now() + 120})), Refusal::NotYet),
        (with(json!({"iss": "https://elsewhere.example.org"})), Refusal::NotSigned),
        (with(json!({"iss": null})), Refusal::NotSigned),
        (issuer.token("rsa-two.pem"), Refusal::NotSigned),
    ] {
        assert_eq!(refusal(&verifier, &token).await, Some(expected), "{token}");
    }
    // A forger that uses a known key's name, and one that takes the public key for a secret.
    let (key, algorithm) = key("rsa-two.pem");
    let mut header = Header::new(algorithm);
    header.kid = Some("rsa-one.pem".to_owned());
    let forged = jsonwebtoken::encode(&header, &issuer.claims(), &key).unwrap();
    assert_eq!(refusal(&verifier, &forged).await, Some(Refusal::NotSigned));
    header.alg = Algorithm::HS256;
    let modulus = issuer.shown.lock().unwrap().keys[0]["n"].as_str().unwrap().to_owned();
    let secret = EncodingKey::from_secret(modulus.as_bytes());
    let forged = jsonwebtoken::encode(&header, &issuer.claims(), &secret).unwrap();
    assert_eq!(refusal(&verifier, &forged).await, Some(Refusal::NotSigned));
}

#[tokio::test]
async fn a_rotated_key_is_found_when_the_first_token_names_it() {
    let (_dir, dir) = scratch();
    let issuer = LocalIssuer::start().await;
    issuer.show(&["rsa-one.pem"]);
    let verifier = issuer.verifier(&dir);
    assert_eq!(refusal(&verifier, &issuer.token("rsa-one.pem")).await, None);
    assert_eq!(issuer.asked(), 1);
    issuer.show(&["rsa-two.pem"]);
    assert_eq!(refusal(&verifier, &issuer.token("rsa-two.pem")).await, None);
    assert_eq!(issuer.asked(), 2);
    // What was given up is not believed any more.
    let old = issuer.token_but("rsa-one.pem", json!({"jti": "43"}));
    assert_eq!(refusal(&verifier, &old).await, Some(Refusal::NotSigned));
}

#[tokio::test]
async fn made_up_key_names_do_not_make_the_server_ask_again_and_again() {
    let (_dir, dir) = scratch();
    let issuer = LocalIssuer::start().await;
    issuer.show(&["rsa-one.pem"]);
    let verifier = Arc::new(issuer.verifier_with(&dir, Duration::from_secs(600)));
    assert_eq!(refusal(&verifier, &issuer.token("rsa-one.pem")).await, None);
    let mut forgers = tokio::task::JoinSet::new();
    for number in 0..20 {
        let token = issuer.token_but("rsa-two.pem", json!({ "jti": number.to_string() }));
        let verifier = verifier.clone();
        forgers.spawn(async move { refusal(&verifier, &token).await });
    }
    for outcome in forgers.join_all().await {
        assert_eq!(outcome, Some(Refusal::NotSigned));
    }
    assert_eq!(issuer.asked(), 1);
}

#[tokio::test]
async fn an_issuer_that_is_away_changes_nothing_for_known_keys_also_after_a_restart() {
    let (_dir, dir) = scratch();
    let issuer = LocalIssuer::start().await;
    issuer.show(&["rsa-one.pem"]);
    issuer.away(true);
    let verifier = issuer.verifier(&dir);
    assert_eq!(refusal(&verifier, &issuer.token("rsa-one.pem")).await, Some(Refusal::NoKeys));
    issuer.away(false);
    assert_eq!(refusal(&verifier, &issuer.token("rsa-one.pem")).await, None);

    issuer.away(true);
    let restarted = issuer.verifier(&dir);
    assert_eq!(refusal(&restarted, &issuer.token("rsa-one.pem")).await, None);
    assert_eq!(refusal(&restarted, &issuer.token("ec-one.pem")).await, Some(Refusal::NotSigned));

    issuer.away(false);
    issuer.show(&["rsa-one.pem", "ec-one.pem"]);
    assert_eq!(refusal(&restarted, &issuer.token("ec-one.pem")).await, None);
}

#[tokio::test]
async fn answers_that_are_no_keys_leave_the_known_ones() {
    let (_dir, dir) = scratch();
    let issuer = LocalIssuer::start().await;
    issuer.show(&["rsa-one.pem"]);
    let verifier = issuer.verifier(&dir);
    assert_eq!(refusal(&verifier, &issuer.token("rsa-one.pem")).await, None);
    let elsewhere = json!({"issuer": "https://elsewhere.example.org", "jwks_uri": issuer.url});
    for answer in [
        "no JSON".to_owned(),
        json!({"keys": []}).to_string(),
        elsewhere.to_string(),
        "x".repeat(2 << 20),
    ] {
        issuer.shown.lock().unwrap().answer = Some(answer);
        let unknown = issuer.token("ec-one.pem");
        assert_eq!(refusal(&verifier, &unknown).await, Some(Refusal::NotSigned));
        let known = issuer.token_but("rsa-one.pem", json!({"jti": "another"}));
        assert_eq!(refusal(&verifier, &known).await, None);
    }
}

#[tokio::test]
async fn keys_are_fetched_ahead_of_the_first_token() {
    let (_dir, dir) = scratch();
    let issuer = LocalIssuer::start().await;
    issuer.show(&["rsa-one.pem"]);
    let verifier = issuer.verifier_with(&dir, Duration::from_secs(600));
    let _tasks = verifier.issuers().keep_fresh();
    let token = issuer.token("rsa-one.pem");
    for _ in 0..500 {
        if verifier.verify_offline(&token).is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the keys did not come by themselves");
}

#[test]
fn issuers_that_cannot_be_are_named() {
    let (_dir, dir) = scratch();
    let config = |issuer: &str, more: &str| -> OidcConfig {
        toml::from_str(&format!("issuer = '{issuer}'\naudience = 'a'\ngrant = []\n{more}")).unwrap()
    };
    for (configs, named) in [
        (vec![config("gitlab.com", "")], "gitlab.com"),
        (vec![config("file:///etc/passwd", "")], "file:///etc/passwd"),
        (vec![config("https://a", "jwks_url = 'b'")], "jwks_url"),
        (vec![config("https://a", ""), config("https://a", "")], "twice"),
    ] {
        let error = Issuers::open(configs, &dir).err().unwrap().to_string();
        assert!(error.contains(named), "{error}");
    }
}
