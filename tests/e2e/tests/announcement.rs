//! What Attic's announcement shows, from the first login to the last setting, replayed with Granary
//! and real Nix: a team shares a cache in some minutes, and nobody has to trust anybody else.
#![allow(clippy::expect_used, reason = "a helper that fails should fail its test")]

use std::path::Path;

use granary_e2e::tokens::mint;
use granary_e2e::{Closure, Home, Http, Nix, Server, Version, places, raw};
use serde_json::{Value, json};

/// A server, its owner at home, and a closure to share.
struct Scene {
    server: Server,
    owner: Home,
    closure: Closure,
}

impl Scene {
    /// The owner has logged in and made the cache `hello`.
    fn set(data: &Path) -> Self {
        let server = Server::start(data);
        let owner = Home::new(Version::V2_34);
        owner.login("home", &server.origin(), server.token());
        owner.granary_ok(&["cache", "create", "hello"]);
        Self { server, owner, closure: Closure::tiny() }
    }

    fn info(&self) -> Value {
        self.owner.granary_json(&["cache", "info", "hello"])
    }

    fn cache_info_status(&self, token: Option<&str>) -> u16 {
        raw::request(&self.server.origin(), "GET", "/hello/nix-cache-info", token, b"").status
    }

    /// The names of the keys that the closure's top is signed with.
    fn signers(&self) -> Vec<String> {
        let url = format!("{}/hello", self.server.origin());
        let hash = &self.closure.paths.iter().find(|path| path.path == self.closure.top);
        let hash = hash.expect("it is among its paths").hash_part();
        let answer = Http::with_token(&url, self.server.token()).get(&format!("{hash}.narinfo"));
        assert_eq!(answer.status, 200);
        let text = answer.text();
        let signatures = text.lines().filter_map(|line| line.strip_prefix("Sig: "));
        signatures.map(|sig| sig.split(':').next().expect("a name").to_owned()).collect()
    }
}

/// What `use` sets up is all that this Nix has: it gets the closure, and the right one.
fn pull(version: Version, scene: &Scene, token: Option<&str>) {
    let home = Home::new(version);
    match token {
        Some(token) => home.login("home", &scene.server.origin(), token),
        None => {
            home.granary_ok(&["login", "home", &scene.server.origin(), "--no-token"]);
        }
    }
    assert!(home.substitute(&scene.closure.top).is_none(), "{version:?} has it from elsewhere");
    home.granary_ok(&["use", "hello"]);
    let store = home.substitute(&scene.closure.top);
    let store = store.unwrap_or_else(|| panic!("{version:?} does not get it"));
    let nix = Nix::with(version, "none", scene.server.public_key());
    nix.assert_same(&store, &scene.closure);
}

#[test]
fn a_team_logs_in_pushes_and_pulls_and_what_is_private_is_so_until_it_is_made_public() {
    let data = places::scratch();
    let scene = Scene::set(data.path());
    assert_eq!(scene.info()["public"], false);

    let report = scene.owner.push("hello", &scene.closure);
    assert_eq!(report["pushed"].as_array().map(Vec::len), Some(scene.closure.paths.len()));
    let again = scene.owner.push("hello", &scene.closure);
    assert_eq!((&again["pushed"], &again["chunks_sent"]), (&json!([]), &json!(0)));
    assert_eq!(again["present"], scene.closure.paths.len());
    for version in Version::ALL {
        pull(version, &scene, Some(scene.server.token()));
    }

    let reader = mint(data.path(), "bob", &[("hello", &["pull"])]);
    assert_eq!(scene.cache_info_status(None), 401);
    assert_eq!(scene.cache_info_status(Some(&reader)), 200);
    pull(Version::V2_26, &scene, Some(&reader));
    scene.owner.granary_ok(&["cache", "configure", "hello", "--public"]);
    assert_eq!(scene.cache_info_status(None), 200);
    pull(Version::V2_34, &scene, None);
    scene.owner.granary_ok(&["cache", "configure", "hello", "--private"]);
    assert_eq!(scene.cache_info_status(None), 401);
}

#[test]
fn alice_does_as_she_likes_with_caches_of_her_own_and_with_no_others() {
    let data = places::scratch();
    let scene = Scene::set(data.path());
    scene.owner.push("hello", &scene.closure);

    let everything = ["pull", "push", "create", "configure", "configure-retention", "destroy"];
    let alice = Home::new(Version::V2_26);
    let token = mint(data.path(), "alice", &[("alice-*", &everything)]);
    alice.login("team", &scene.server.origin(), &token);
    assert_eq!(alice.granary_json(&["whoami"])["subject"], "alice");
    alice.granary_ok(&["cache", "create", "alice-own"]);
    let report = alice.push("alice-own", &scene.closure);
    assert_eq!(report["pushed"].as_array().map(Vec::len), Some(scene.closure.paths.len()));
    alice.granary_ok(&["use", "alice-own"]);
    let store = alice.substitute(&scene.closure.top).expect("her own cache has it");
    let nix = Nix::with(Version::V2_26, "none", scene.server.public_key());
    nix.assert_same(&store, &scene.closure);

    let top = &scene.closure.top;
    let root = scene.closure.root.to_str().expect("UTF-8");
    let refused: [&[&str]; 8] = [
        &["cache", "create", "bob-x"],
        &["push", "hello", top, "--store", root],
        &["push", "bob-x", top, "--store", root],
        &["cache", "info", "hello"],
        &["cache", "configure", "hello", "--public"],
        &["cache", "configure", "hello", "--retention", "1d"],
        &["cache", "destroy", "--yes", "hello"],
        &["use", "hello"],
    ];
    for arguments in refused {
        let said = alice.granary_refused(arguments);
        assert!(said.contains("permi"), "{arguments:?}: it should name the permission: {said}");
    }
    let caches = alice.granary_ok(&["cache", "list", "--json"]);
    assert!(caches.contains("alice-own") && !caches.contains("hello"), "{caches}");
    assert_eq!(scene.info()["public"], false);
}

#[test]
fn a_cache_keeps_what_it_holds_through_all_that_is_done_to_it() {
    let data = places::scratch();
    let scene = Scene::set(data.path());
    scene.owner.push("hello", &scene.closure);
    let owner = |arguments: &[&str]| scene.owner.granary_ok(arguments);

    assert_eq!(scene.info()["retention"], Value::Null);
    owner(&["cache", "configure", "hello", "--retention", "30d"]);
    assert_eq!(scene.info()["retention"], 30 * 86_400);
    assert!(owner(&["cache", "info", "hello"]).contains("30d"));
    owner(&["cache", "configure", "hello", "--retention", "default"]);
    assert_eq!(scene.info()["retention"], Value::Null);

    let [old] = &scene.signers()[..] else { panic!("one key signs: {:?}", scene.signers()) };
    owner(&["cache", "key", "rotate", "hello", "--keep-old", "1d"]);
    let both = scene.signers();
    assert!(both.len() == 2 && both.contains(old), "{both:?}");
    pull(Version::V2_26, &scene, Some(scene.server.token()));
    owner(&["cache", "key", "retire", "hello", old]);
    let new = scene.signers();
    assert!(new.len() == 1 && both.contains(&new[0]) && &new[0] != old, "{new:?}");
    pull(Version::V2_34, &scene, Some(scene.server.token()));

    owner(&["cache", "destroy", "--yes", "hello"]);
    scene.owner.granary_refused(&["cache", "info", "hello"]);
    assert_eq!(scene.cache_info_status(Some(scene.server.token())), 404);
    owner(&["cache", "restore", "hello"]);
    assert_eq!(scene.signers(), new);
    pull(Version::V2_34, &scene, Some(scene.server.token()));
}
