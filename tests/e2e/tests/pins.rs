//! Pins as people use them: added, listed, removed and verified by `granary`, and with a push.

#![allow(clippy::expect_used, reason = "a helper that fails should fail its test")]

use std::collections::BTreeSet;
use std::fs;

use granary_e2e::granary::Home;
use granary_e2e::random::Random;
use granary_e2e::tokens::mint;
use granary_e2e::{ChrootStore, Nix, Server, Version, places, raw};
use serde_json::{Value, json};

const NIX: Version = Version::V2_34;

/// A user with a store of some paths, and a server.
struct World {
    _data: tempfile::TempDir,
    server: Server,
    home: Home,
    nix: Nix,
    store: ChrootStore,
}

impl World {
    fn new() -> Self {
        let data = places::scratch();
        let server = Server::start(data.path());
        let home = Home::with_token(NIX, &server.origin(), server.token());
        let nix = Nix::of(NIX, &server);
        Self { _data: data, server, home, nix, store: ChrootStore::empty() }
    }

    fn root(&self) -> &str {
        self.store.root().to_str().expect("UTF-8")
    }

    /// Adds a file to the store.
    fn add(&self, name: &str, contents: &[u8]) -> String {
        let file = self.home.path(name);
        fs::write(&file, contents).expect("written");
        self.home.add_to_store(self.store.root(), &file)
    }

    fn push(&self, path: &str, more: &[&str]) -> Value {
        let push = ["push", "default", path, "--store", self.root()];
        self.home.granary_json(&[&push, more].concat())
    }

    fn pins(&self) -> Vec<Value> {
        let list = self.home.granary_json(&["pin", "list", "default"]);
        list["pins"].as_array().expect("a list").clone()
    }

    fn nix_program(&self, program: &str, arguments: &[&str]) -> String {
        let mut command = self.home.command(&NIX.bin().join(program), arguments);
        command.env("NIX_REMOTE", format!("local?root={}", self.root()));
        let output = command.output().expect("nix runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {errors}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// What the cache holds.
    fn held(&self) -> BTreeSet<String> {
        let path = "/_granary/v1/caches/default/paths";
        let answer =
            raw::request(&self.server.origin(), "GET", path, Some(self.server.token()), b"");
        let list = answer.json();
        let paths = list["paths"].as_array().expect("a list").iter();
        paths.map(|path| format!("/nix/store/{}", path.as_str().expect("text"))).collect()
    }
}

fn base(path: &str) -> &str {
    path.strip_prefix("/nix/store/").expect("a store path")
}

fn paths(pin: &Value) -> Vec<&str> {
    let revisions = pin["revisions"].as_array().expect("a list").iter();
    revisions.map(|revision| revision["path"].as_str().expect("text")).collect()
}

#[test]
fn a_pin_is_added_revised_listed_and_removed() {
    let world = World::new();
    let home = &world.home;
    let mut random = Random::from_environment();
    let made = [1, 2, 3].map(|n| world.add(&format!("made-{n}"), &random.bytes(10_000)));
    made.iter().for_each(|path| drop(world.push(path, &[])));
    assert!(world.pins().is_empty());

    // A store path need not be on this machine.
    let said = home.granary_ok(&["pin", "add", "default", "main", &made[0]]);
    assert!(said.starts_with("main\n") && said.contains(base(&made[0])), "{said}");
    let link = home.path("result");
    std::os::unix::fs::symlink(&made[1], &link).expect("a link");
    let link = link.to_str().expect("UTF-8");
    let add = ["pin", "add", "default", "main", link, "--store", world.root()];
    home.granary_ok(&[&add[..], &["--revisions", "2"]].concat());
    let until = ["pin", "add", "default", "v1.0", &made[0], "--until", "2999-12-31"];
    home.granary_ok(&[&until[..], &["--with-sources"]].concat());
    let pins = world.pins();
    assert_eq!(pins.len(), 2);
    assert_eq!((&pins[0]["name"], &pins[0]["keep"]), (&json!("main"), &json!(2)));
    assert_eq!(paths(&pins[0]), [base(&made[1]), base(&made[0])]);
    assert_eq!(pins[0]["revisions"][0]["created_by"], "root");
    let dated = &pins[1]["revisions"][0];
    assert_eq!(dated["with_sources"], true);
    assert_eq!(dated["until"], 32_503_680_000_u64, "the end of that day");

    let server = world.server.restart_after_kill_nine();
    let world = World { server, ..world };
    let home = Home::with_token(NIX, &world.server.origin(), world.server.token());
    home.granary_ok(&["pin", "add", "default", "main", &made[2]]);
    let listed = home.granary_ok(&["pin", "list", "default"]);
    assert!(listed.contains("main, the last 2 revisions\n"), "{listed}");
    assert!(listed.contains(base(&made[2])) && listed.contains(base(&made[1])), "{listed}");
    assert!(listed.contains("with sources, kept until 3000-01-01 00:00:00 UTC, in "), "{listed}");

    home.granary_ok(&["pin", "remove", "default", "main"]);
    let refused = home.granary_refused(&["pin", "remove", "default", "main"]);
    assert!(refused.contains("no pin called main"), "{refused}");
    assert!(!home.granary_ok(&["pin", "list", "default"]).contains("main"));
    for (arguments, told) in [
        (&["pin", "add", "default", "a/b", &made[0]][..], "cannot name a pin"),
        (&["pin", "add", "default", "x", &made[0], "--revisions", "0"], "revisions: "),
        (&["pin", "add", "default", "x", &made[0], "--until", "2001-01-01"], "until: "),
        (&["pin", "add", "default", "x", &made[0], "--until", "soon"], "`soon` is no time"),
        (&["pin", "add", "default", "x", "/etc/passwd"], "is not in the Nix store"),
        (&["pin", "add", "default", "x", &format!("{}0", made[0])], "push it first"),
        (&["pin", "verify", "default", "x"], "no pin called x"),
        (&["pin", "list", "none"], "no cache called none"),
    ] {
        let refused = home.granary_refused(arguments);
        assert!(refused.contains(told), "{arguments:?}: {refused}");
    }
    world.server.stop();
}

#[test]
fn a_push_pins_what_it_has_pushed() {
    let world = World::new();
    let mut random = Random::from_environment();
    let [one, two] = [1, 2].map(|n| world.add(&format!("made-{n}"), &random.bytes(10_000)));
    let report = world.push(&one, &["--pin", "main", "--pin-revisions", "3", "--dry-run"]);
    assert!(report.get("pin").is_none() && world.pins().is_empty(), "{report}");
    let report = world.push(&one, &["--pin", "main", "--pin-revisions", "3"]);
    assert_eq!(report["pin"], "main");
    world.push(&two, &["--pin", "main"]);
    let pins = world.pins();
    assert_eq!(paths(&pins[0]), [base(&two), base(&one)]);

    let push = ["push", "default", &one, &two, "--store", world.root(), "--pin", "main"];
    let refused = world.home.granary_refused(&push);
    assert!(refused.contains("a pin is of one path, and 2 are named"), "{refused}");

    // Who may push and not pin has pushed all the same.
    let three = world.add("made-3", &random.bytes(10_000));
    let token = mint(world.server.data(), "bob", &[("default", &["push"])]);
    let bob = Home::with_token(NIX, &world.server.origin(), &token);
    let push = ["push", "default", &three, "--store", world.root(), "--pin", "main", "--json"];
    let output = bob.granary(&push);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(!output.status.success() && report.get("pin").is_none(), "{report}");
    let error = report["error"].as_str().expect("text");
    assert!(error.contains("cannot pin") && error.contains("does not permit it"), "{error}");
    assert!(world.held().contains(&three));
    assert_eq!(paths(&world.pins()[0]), [base(&two), base(&one)]);
    world.server.stop();
}

/// A release as a build leaves it in the store: a program, its derivation, a script, and a tarball that
/// another derivation has fetched. The program, its derivation, the script, the other derivation, the
/// tarball.
fn release(world: &World) -> [String; 5] {
    let mut random = Random::from_environment();
    let file = world.home.path("source.tar");
    fs::write(&file, random.bytes(50_000)).expect("written");
    let file = file.to_str().expect("UTF-8");
    let tarball = world.nix_program("nix-store", &["--add-fixed", "sha256", file]);
    let hash = world.nix_program("nix-hash", &["--type", "sha256", "--flat", "--base32", file]);
    let expression = format!(
        r#"derivation {{
             name = "program"; system = "x86_64-linux"; builder = "/bin/sh";
             args = [ (builtins.toFile "builder.sh" "echo made > $out") ];
             src = derivation {{
               name = "source.tar"; system = "x86_64-linux"; builder = "/bin/sh";
               outputHash = "{hash}"; outputHashAlgo = "sha256"; outputHashMode = "flat";
             }};
           }}"#
    );
    let derivation = world.nix_program("nix-instantiate", &["-E", &expression]);
    let derivation = derivation.lines().last().expect("a path").to_owned();
    let program = world.nix_program("nix-store", &["--query", "--outputs", &derivation]);
    let needs = world.nix_program("nix-store", &["--query", "--references", &derivation]);
    let need = |end: &str| needs.lines().find(|path| path.ends_with(end)).expect(end).to_owned();
    let (fetch, script) = (need(".drv"), need("-builder.sh"));
    let outputs = world.nix_program("nix-store", &["--query", "--outputs", &fetch]);
    assert_eq!(outputs, tarball, "it is what the derivation would fetch");
    // As if it had been built.
    let real = world.store.real(&program);
    fs::write(&real, "made\n").expect("written");
    let (nar_hash, nar_size) = world.nix.nar_of(&real);
    let text = format!("{program}\n{nar_hash}\n{nar_size}\n{derivation}\n0\n");
    world.nix.load_db(world.store.root(), &text);
    [program, derivation, script, fetch, tarball]
}

#[test]
fn a_release_is_kept_with_its_sources_and_that_is_verified() {
    let world = World::new();
    let release = release(&world);
    let [program, derivation, _, fetch, tarball] = &release;
    let listed = world
        .nix_program("nix-store", &["--query", "--requisites", "--include-outputs", derivation]);
    let listed: BTreeSet<String> = listed.lines().map(str::to_owned).collect();
    assert_eq!(listed, release.iter().cloned().collect(), "what Nix says");

    // Without the sources, a pin with sources is not whole.
    world.push(program, &["--pin", "v1"]);
    let verify = ["pin", "verify", "default", "v1"];
    assert_eq!(world.home.granary_json(&verify)["whole"], true);
    world.home.granary_ok(&["pin", "add", "default", "v1", program, "--with-sources"]);
    let output = world.home.granary(&verify);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let missing = format!("missing  {}  {} was built by it\n", base(derivation), base(program));
    assert!(said.contains(&missing) && said.contains("v1 is not whole"), "{said}");

    world.push(program, &["--with-sources", "--pin", "v1"]);
    assert_eq!(world.held(), listed);
    let report = world.home.granary_json(&verify);
    assert_eq!((&report["whole"], &report["paths"]), (&json!(true), &json!(5)), "{report}");
    assert_eq!(world.pins()[0]["revisions"][0]["with_sources"], true);

    // Another cache, to which the tarball was not pushed.
    let other = format!("{}/other", world.server.origin());
    world.home.granary_ok(&["cache", "create", &other]);
    let keep_out = format!("!{}", &base(tarball)[33..]);
    let push = ["push", &other, program, "--store", world.root(), "--with-sources"];
    world.home.granary_ok(&[&push[..], &["--filter", &keep_out, "--pin", "v1"]].concat());
    let verify = ["pin", "verify", &other, "v1"];
    let refused = world.home.granary_refused(&verify);
    assert!(refused.contains("--allow-upstream"), "{refused}");
    let output = world.home.granary(&[&verify[..], &["--json"]].concat());
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let needed_by = base(fetch);
    let missing = json!([{"path": base(tarball), "need": "source", "needed_by": needed_by}]);
    assert_eq!(report["missing"], missing);
    world.home.granary_ok(&[&verify[..], &["--allow-upstream"]].concat());
    world.server.stop();
}

#[test]
fn strangers_see_the_pins_of_a_public_cache_and_not_who_made_them() {
    let world = World::new();
    let made = world.add("made", b"made");
    world.push(&made, &["--pin", "main"]);
    world.home.granary_ok(&["cache", "configure", "default", "--public"]);
    let get = |token| {
        let path = "/_granary/v1/caches/default/pins/main";
        raw::request(&world.server.origin(), "GET", path, token, b"").json()
    };
    assert!(get(None)["revisions"][0].get("created_by").is_none());
    assert_eq!(get(Some(world.server.token()))["revisions"][0]["created_by"], "root");

    // Who may pin and not read learns of the revision that it made, and of no other.
    world.home.granary_ok(&["cache", "create", "private"]);
    let second = world.add("second", b"second");
    let push = |path: &str| {
        let push = ["push", "private", path, "--store", world.root()];
        world.home.granary_ok(&push);
    };
    push(&made);
    push(&second);
    let keep = ["pin", "add", "private", "main", &made, "--revisions", "5"];
    world.home.granary_ok(&keep);
    let token = mint(world.server.data(), "bob", &[("private", &["pin"])]);
    let path = "/_granary/v1/caches/private/pins/main";
    let body = json!({"path": second}).to_string();
    let answer = raw::request(&world.server.origin(), "PUT", path, Some(&token), body.as_bytes());
    assert_eq!(paths(&answer.json()), [base(&second)]);
    world.server.stop();
}
