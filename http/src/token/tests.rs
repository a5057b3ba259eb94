//! Which tokens are believed, and what is said of the others.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use granary_api::Permission;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use super::*;

const SECRET: &[u8] = b"the secret of the server itself.";
const FURTHER: &[u8] = b"a secret that the operator names";

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/token/testdata").join(name)
}

fn pem(name: &str) -> Vec<u8> {
    std::fs::read(file(name)).unwrap()
}

/// Believes the server's own tokens, and those of further keys that are bound.
fn verifier() -> Verifier {
    let public = ["rsa-one.pub.pem", "ec-one.pub.pem", "ed-one.pub.pem"];
    let mut keys = vec![VerifyingKey::from_secret(FURTHER)];
    keys.extend(public.map(|name| VerifyingKey::from_public_file(&file(name)).unwrap()));
    let bound = Bound { issuer: Some("us".to_owned()), audience: Some("granary".to_owned()) };
    Verifier::new(SECRET).with_keys(keys, bound)
}

fn hs(secret: &[u8], claims: &Value) -> String {
    let key = EncodingKey::from_secret(secret);
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &key).unwrap()
}

fn rs(name: &str, kid: Option<&str>, claims: &Value) -> String {
    let key = EncodingKey::from_rsa_pem(&pem(name)).unwrap();
    let mut header = Header::new(Algorithm::RS256);
    header.kid = kid.map(str::to_owned);
    jsonwebtoken::encode(&header, claims, &key).unwrap()
}

fn with_header(header: &Value, token: &str) -> String {
    let (_, rest) = token.split_once('.').unwrap();
    format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header.to_string()))
}

fn good() -> Value {
    json!({"sub": "alice", "iss": "us", "aud": ["other", "granary"],
        "granary": {"caches": {"alice-*": ["push"]}}})
}

fn but(name: &str, value: Value) -> Value {
    let mut claims = good();
    claims[name] = value;
    claims
}

fn outcome(token: &str) -> Option<Refusal> {
    verifier().verify_offline(token).err()
}

#[test]
fn good_tokens_of_every_kind_of_key_are_believed() {
    let claims: Claims = serde_json::from_value(good()).unwrap();
    let mut tokens = vec![hs(SECRET, &good()), hs(FURTHER, &good())];
    for name in ["rsa-one.pem", "ec-one.pem", "ed-one.pem"] {
        tokens.push(SigningKey::from_file(&file(name)).unwrap().sign(&claims).unwrap());
    }
    // A name that no key here has says nothing; a key by that name must be the one.
    tokens.push(rs("rsa-one.pem", Some("2026-key"), &good()));
    tokens.push(rs("rsa-one.pem", None, &good()));
    for token in tokens {
        let verifier = verifier();
        let verified = verifier.verify_offline(&token).unwrap();
        assert_eq!(verified.claims, claims, "{token}");
        assert_eq!(verified.exchange, None);
        assert!(verified.claims.permit(Permission::Push, "alice-ci"));
        assert!(!verified.claims.permit(Permission::Pull, "alice-ci"));
    }
}

#[test]
fn only_the_servers_own_tokens_need_no_issuer_and_no_audience() {
    let bare = json!({"sub": "root", "granary": {"caches": {}}});
    assert_eq!(outcome(&hs(SECRET, &bare)), None);
    assert_eq!(outcome(&hs(FURTHER, &bare)), Some(Refusal::Issuer));
}

#[test]
fn attics_tokens_keep_working_with_its_secret() {
    let token = hs(
        FURTHER,
        &json!({"sub": "alice", "exp": now() + 60, "nbf": now(),
            "https://jwt.attic.rs/v1": {"caches": {"alice-*": {"r": 1, "w": 1, "cc": 1}}}}),
    );
    let keys = vec![VerifyingKey::from_secret(FURTHER)];
    let verifier = Verifier::new(SECRET).with_keys(keys, Bound::default());
    let verified = verifier.verify_offline(&token).unwrap();
    for permission in Permission::ALL {
        let expected =
            matches!(permission, Permission::Pull | Permission::Push | Permission::Create);
        assert_eq!(verified.claims.permit(permission, "alice-x"), expected, "{permission}");
        assert!(!verified.claims.permit(permission, "bob-x"), "{permission}");
    }
}

#[test]
fn bad_tokens_are_refused_and_the_reason_is_said() {
    let now = now();
    let public = pem("rsa-one.pub.pem");
    let rsa_id = VerifyingKey::from_public_file(&file("rsa-one.pub.pem")).unwrap();
    let ed = SigningKey::from_file(&file("ed-two.pem")).unwrap();
    let own = hs(SECRET, &good());
    let (message, signature) = own.rsplit_once('.').unwrap();
    let (_, claims) = message.split_once('.').unwrap();
    let none = json!({"alg": "none", "typ": "JWT"});
    let changed = URL_SAFE_NO_PAD.encode(but("sub", json!("root")).to_string());
    let critical = json!({"alg": "HS256", "crit": ["b64"], "b64": false});

    for (what, token, expected) in [
        ("expired", hs(SECRET, &but("exp", json!(now - 61))), Refusal::Expired),
        ("issued in the future", hs(SECRET, &but("iat", json!(now + 120))), Refusal::NotYet),
        ("not valid yet", hs(SECRET, &but("nbf", json!(now + 120))), Refusal::NotYet),
        ("another issuer", hs(FURTHER, &but("iss", json!("them"))), Refusal::Issuer),
        ("another audience", hs(FURTHER, &but("aud", json!("them"))), Refusal::Audience),
        ("no audience", rs("rsa-one.pem", None, &but("aud", json!([]))), Refusal::Audience),
        ("alg none", format!("{}.", with_header(&none, message)), Refusal::Malformed),
        ("alg none, signed", with_header(&none, &own), Refusal::Malformed),
        ("an unknown alg", with_header(&json!({"alg": "HS1"}), &own), Refusal::Malformed),
        ("critical header", with_header(&critical, &own), Refusal::Malformed),
        ("the public key as secret", hs(&public, &good()), Refusal::NotSigned),
        ("the public key's text", hs(public.trim_ascii(), &good()), Refusal::NotSigned),
        ("another secret", hs(b"somebody else's", &good()), Refusal::NotSigned),
        ("no secret", hs(b"", &good()), Refusal::NotSigned),
        ("another RSA key", rs("rsa-two.pem", None, &good()), Refusal::NotSigned),
        ("under its name", rs("rsa-two.pem", rsa_id.id(), &good()), Refusal::NotSigned),
        (
            "another Ed25519 key",
            ed.sign(&serde_json::from_value(good()).unwrap()).unwrap(),
            Refusal::NotSigned,
        ),
        ("another algorithm", with_header(&json!({"alg": "RS256"}), &own), Refusal::NotSigned),
        ("HS384", with_header(&json!({"alg": "HS384"}), &own), Refusal::NotSigned),
        ("changed", own.replace(claims, &changed), Refusal::NotSigned),
        ("truncated", own[..own.len() - 2].to_owned(), Refusal::NotSigned),
        ("unsigned", format!("{message}."), Refusal::NotSigned),
        ("two parts", message.to_owned(), Refusal::Malformed),
        ("no JWT", "letmein".to_owned(), Refusal::Malformed),
        ("nothing", String::new(), Refusal::Malformed),
        ("a huge one", hs(SECRET, &but("x", json!("x".repeat(16_384)))), Refusal::Malformed),
        ("no subject", hs(SECRET, &but("sub", json!(null))), Refusal::Malformed),
        (
            "an unknown permission",
            hs(SECRET, &but("granary", json!({"caches": {"*": ["all"]}}))),
            Refusal::Malformed,
        ),
        ("signature twice", format!("{own}.{signature}"), Refusal::Malformed),
    ] {
        assert_eq!(outcome(&token), Some(expected), "{what}");
    }
}

#[tokio::test]
async fn a_token_that_is_remembered_still_expires() {
    let verifier = verifier();
    let token = hs(SECRET, &but("exp", json!(now() + 10)));
    assert!(verifier.verify(&token).await.is_ok());
    assert!(verifier.verify_at(&token, now() + 60).await.is_ok());
    assert_eq!(verifier.verify_at(&token, now() + 80).await.err(), Some(Refusal::Expired));
}
