//! Garbage collection as owners of caches and their users meet it: what nobody needs goes, for good and
//! with its bytes; what somebody needs does not.

#![allow(clippy::expect_used, reason = "a helper that fails should fail its test")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use granary_e2e::codec::{self, Compression};
use granary_e2e::collector::{collect, collect_now, number, of_cache};
use granary_e2e::granary::Home;
use granary_e2e::random::Random;
use granary_e2e::upload::Upload;
use granary_e2e::{
    ChrootStore, Closure, Http, Nix, Puller, Server, Version, nar, narinfo, packs, places,
};
use serde_json::{Value, json};
use tempfile::TempDir;

const NIX: Version = Version::V2_34;
/// Longer than a retention of one second, which is counted in whole ones.
const A_MOMENT: Duration = Duration::from_secs(3);

/// A server, and a user who may do everything.
struct World {
    data: TempDir,
    server: Server,
    home: Home,
    random: Random,
}

impl World {
    fn new() -> Self {
        let data = places::scratch();
        let server = Server::start(data.path());
        let home = Home::with_token(NIX, &server.origin(), server.token());
        Self { data, server, home, random: Random::from_environment() }
    }

    /// A path that is published: one file that does not compress.
    fn put(&mut self, length: usize, references: &[&Upload]) -> Upload {
        let upload = path(&mut self.random, &nar::file(&[], false), length, references);
        put(&self.server.http(), &upload);
        upload
    }

    fn configure(&self, settings: &[&str]) {
        self.home.granary_ok(&[&["cache", "configure", "default"], settings].concat());
    }

    fn collect_now(&self) -> Value {
        collect_now(&self.home, &self.server)
    }

    /// A Nix that knows nothing of what was there before.
    fn nix(&self) -> Nix {
        Nix::of(NIX, &self.server)
    }

    fn is_there(&self, hash_part: &str) -> bool {
        let status = self.server.http().get(&format!("{hash_part}.narinfo")).status;
        assert!(status == 200 || status == 404, "{status}");
        status == 200
    }

    fn assert_served(&self, upload: &Upload) {
        assert_served(&self.server, "default", upload);
    }

    fn paths(&self) -> Value {
        self.home.granary_json(&["path", "list", "default", "--long"])
    }
}

/// A folder with this node and a file that does not compress.
fn path(random: &mut Random, shared: &[u8], length: usize, references: &[&Upload]) -> Upload {
    let own = nar::file(&random.bytes(length), false);
    let nar = nar::nar(&nar::directory(&[("own", own), ("shared", shared.to_vec())]));
    let mut upload = Upload::new(&random.hash_part(), &nar, Compression::None);
    upload.info.references =
        references.iter().map(|other| format!("{}-e2e", other.hash_part)).collect();
    upload
}

fn put(http: &Http, upload: &Upload) {
    for answer in [upload.put_nar(http), upload.put_narinfo(http)] {
        assert!(answer.is_success(), "{} {}", answer.status, answer.text());
    }
}

fn assert_served(server: &Server, cache: &str, upload: &Upload) {
    let puller = Puller::new(&server.origin(), cache, Some(server.token())).trying(1);
    let nar = puller.nar(&upload.hash_part, &codec::sha256_hex(&upload.body));
    assert!(nar.unwrap_or_else(|error| panic!("{error}")) == upload.body);
}

/// What Attic's announcement shows of its own.
#[test]
fn a_path_whose_time_is_over_is_gone_until_it_is_pushed_again() {
    let world = World::new();
    let (closure, url) = (Closure::tiny().of_package("grep"), world.server.url());
    world.nix().copy_to(&format!("{url}?compression=zstd"), &closure);
    world.nix().assert_same(&world.nix().substitute(&url, &closure.top), &closure);

    world.configure(&["--retention", "1s"]);
    std::thread::sleep(A_MOMENT);
    let report = world.collect_now();
    assert_eq!(of_cache(&report, "default")["unused"], closure.paths.len(), "{report:#}");
    for path in &closure.paths {
        assert!(!world.is_there(path.hash_part()), "{} is still there", path.path);
    }
    let told = world.nix().path_info(&url, &closure.top).expect_err("it is gone");
    assert!(told.contains("is not valid"), "{told}");
    let told = world.nix().try_copy_from(&url, &closure.top).expect_err("it is gone");
    assert!(told.contains("is not valid") || told.contains("don't know how"), "{told}");

    world.configure(&["--retention", "default"]);
    // Both ways to push, since each has its own way to find out what is there.
    world.home.push("default", &closure);
    world.collect_now();
    world.nix().path_info(&url, &closure.top).expect("it is there again");
    world.nix().assert_same(&world.nix().substitute(&url, &closure.top), &closure);
    world.configure(&["--retention", "1s"]);
    std::thread::sleep(A_MOMENT);
    world.collect_now();
    assert!(!world.is_there(closure.paths[0].hash_part()));
    world.configure(&["--retention", "default"]);
    world.nix().copy_to(&format!("{url}?compression=zstd"), &closure);
    world.nix().assert_same(&world.nix().substitute(&url, &closure.top), &closure);
    world.server.stop();
}

#[test]
fn what_was_used_just_now_keeps_all_that_it_needs() {
    let mut world = World::new();
    let library = world.put(200_000, &[]);
    let between = world.put(50_000, &[&library]);
    let app = world.put(100_000, &[&between]);
    let tool = world.put(60_000, &[&library]);
    let alone = world.put(70_000, &[]);
    world.configure(&["--retention", "10s"]);
    std::thread::sleep(Duration::from_secs(12));
    assert!(world.is_there(&app.hash_part), "it is used by being asked for");
    let report = world.collect_now();
    let gone = of_cache(&report, "default");
    assert_eq!((&gone["unused"], &gone["kept"]), (&json!(2), &json!(3)), "{report:#}");
    for upload in [&app, &between, &library] {
        world.assert_served(upload);
    }
    assert!(!world.is_there(&tool.hash_part) && !world.is_there(&alone.hash_part));
    world.server = world.server.restart_without_its_index();
    for upload in [&app, &between, &library] {
        world.assert_served(upload);
    }
    assert!(!world.is_there(&tool.hash_part) && !world.is_there(&alone.hash_part));
    world.server.stop();
}

#[test]
fn a_pinned_closure_outlives_every_rule_until_it_is_not_pinned_any_more() {
    let mut world = World::new();
    let (closure, url) = (Closure::tiny().of_package("grep"), world.server.url());
    let root = closure.root.to_str().expect("UTF-8");
    let push = ["push", "default", &closure.top, "--store", root, "--pin", "release"];
    world.home.granary_ok(&push);
    let loose = world.put(300_000, &[]);
    world.configure(&["--retention", "1s", "--max-age", "1s", "--max-size", "1KiB"]);
    std::thread::sleep(A_MOMENT);

    let top = ["path", "delete", "default", &closure.top, "--yes"];
    let refused = world.home.granary_refused(&top);
    assert!(refused.contains("release"), "the pin is not named: {refused}");
    let libc = closure.paths.iter().find(|path| path.path.contains("-libc6-")).expect("a libc");
    let referrers = ["path", "delete", "default", &libc.path, "--referrers", "--yes"];
    let refused = world.home.granary_refused(&referrers);
    assert!(refused.contains("release"), "the pin is not named: {refused}");
    for _ in 0..3 {
        let report = world.collect_now();
        assert_eq!(of_cache(&report, "default")["pinned"], closure.paths.len(), "{report:#}");
        assert!(!world.is_there(&loose.hash_part));
    }
    world.server = world.server.restart_after_kill_nine();
    world.collect_now();
    world.nix().assert_same(&world.nix().substitute(&url, &closure.top), &closure);
    let verified = world.home.granary_json(&["pin", "verify", "default", "release"]);
    assert_eq!(verified["whole"], true, "{verified:#}");
    assert_eq!(verified["paths"], closure.paths.len());

    world.home.granary_ok(&["pin", "remove", "default", "release"]);
    std::thread::sleep(A_MOMENT);
    world.collect_now();
    assert_eq!(world.paths(), json!([]));
    assert!(world.nix().try_copy_from(&url, &closure.top).is_err());
    world.server.stop();
}

/// A program that is made from a file and a tool, which is made from another file.
const RELEASE: &str = r#"
derivation {
  name = "program"; system = builtins.currentSystem; builder = "/bin/sh";
  args = [ (builtins.toFile "program.sh" "read line < $src; . $tool > $out") ];
  src = ./source.txt;
  tool = derivation {
    name = "tool"; system = builtins.currentSystem; builder = "/bin/sh";
    args = [ (builtins.toFile "tool.sh" "read word < $src; echo \"echo $word: \\$line\" > $out") ];
    src = ./tool.txt;
  };
}"#;

/// A Nix that builds: the home's `nix-store` or `nix`, on the store in `root`.
fn nix_builds(home: &Home, root: &Path, program: &str, arguments: &[&str]) -> String {
    let mut command = home.command(&NIX.bin().join(program), arguments);
    command.env("NIX_REMOTE", format!("local?root={}", root.display()));
    // A store in a folder is built for in a sandbox, whatever the configuration says.
    command.env("NIX_CONFIG", "sandbox-paths = /bin /usr /lib /lib64");
    let output = command.output().expect("nix runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn a_release_that_was_pinned_with_its_sources_can_be_built_again_from_the_cache_alone() {
    let mut world = World::new();
    let store = ChrootStore::empty();
    for (name, contents) in
        [("source.txt", "harvest\n"), ("tool.txt", "granary\n"), ("release.nix", RELEASE)]
    {
        fs::write(world.home.path(name), contents).expect("written");
    }
    let file = world.home.path("release.nix");
    let file = file.to_str().expect("UTF-8");
    let built = nix_builds(&world.home, store.root(), "nix-build", &["--no-out-link", file]);
    let query = ["--query", "--deriver", &built];
    let derivation = nix_builds(&world.home, store.root(), "nix-store", &query);
    assert_eq!(fs::read_to_string(store.real(&built)).expect("built"), "granary: harvest\n");
    let original = world.nix().nar_of(&store.real(&built));
    let requisites = ["--query", "--requisites", "--include-outputs", &derivation];
    let all = nix_builds(&world.home, store.root(), "nix-store", &requisites);

    let root = store.root().to_str().expect("UTF-8");
    let push = ["push", "default", &built, "--store", root, "--with-sources", "--pin", "release"];
    world.home.granary_ok(&push);
    let loose = world.put(300_000, &[]);
    world.configure(&["--retention", "1s"]);
    std::thread::sleep(A_MOMENT);
    for _ in 0..2 {
        let report = world.collect_now();
        assert_eq!(of_cache(&report, "default")["pinned"], all.lines().count(), "{report:#}");
    }
    assert!(!world.is_there(&loose.hash_part));

    // Nothing is left of where it was built; the derivation comes from the cache, and what it needs.
    drop(store);
    let again = ChrootStore::empty();
    let key = world.server.public_key();
    let (url, trusts) = (world.server.url(), ["--option", "trusted-public-keys", key]);
    let from = ["copy", "--derivation", "--from", &url, &derivation];
    nix_builds(&world.home, again.root(), "nix", &[&from[..], &trusts].concat());
    assert!(!again.real(&built).exists(), "it was not to come along");
    let alone = ["--realise", &derivation, "--option", "substituters", ""];
    assert_eq!(nix_builds(&world.home, again.root(), "nix-store", &alone), built);
    assert_eq!(world.nix().nar_of(&again.real(&built)), original);

    // And what came out of the build the first time comes out of the cache, which a build confirms.
    let other = ChrootStore::empty();
    let realise = ["--realise", &derivation, "--option", "substituters", &url];
    let realise = [&realise[..], &trusts].concat();
    assert_eq!(nix_builds(&world.home, other.root(), "nix-store", &realise), built);
    assert_eq!(world.nix().nar_of(&other.real(&built)), original);
    let check = [&realise[..], &["--check"]].concat();
    nix_builds(&world.home, other.root(), "nix-store", &check);
    world.server.stop();
}

/// Paths of some 1 MB. Each shares a third of it with some others.
fn sharing(random: &mut Random, count: usize) -> Vec<Upload> {
    let stock: Vec<_> = (0..8).map(|_| nar::file(&random.bytes(350_000), false)).collect();
    // Of two that follow each other both have the same, but for the last: that is of the first ones.
    let shared =
        |number: usize| if number.is_multiple_of(2) { number / 2 % 8 } else { number / 2 % 7 };
    (0..count).map(|number| path(random, &stock[shared(number)], 650_000, &[])).collect()
}

#[test]
fn the_space_of_what_was_deleted_comes_back() {
    let mut world = World::new();
    let paths = sharing(&mut world.random, 64);
    for upload in &paths {
        put(&world.server.http(), upload);
    }
    let full = packs::total_len(world.data.path());
    let (gone, left): (Vec<_>, Vec<_>) =
        paths.iter().enumerate().partition(|(number, _)| number % 2 == 0);
    let names: Vec<_> = gone.iter().map(|(_, upload)| &upload.hash_part[..]).collect();
    let delete = [&["path", "delete", "default"], &names[..], &["--yes"]].concat();
    world.home.granary_ok(&delete);
    let report = world.collect_now();
    assert!(number(&report, "removed") > 0 && number(&report, "damaged") == 0, "{report:#}");

    let fresh_data = places::scratch();
    let fresh = Server::start(fresh_data.path());
    for (_, upload) in &left {
        put(&fresh.http(), upload);
    }
    fresh.stop();
    world.server = world.server.restart();
    let (now, wanted) = (packs::total_len(world.data.path()), packs::total_len(fresh_data.path()));
    assert!(now < full, "nothing came back of {full}: {now}: {report:#}");
    assert!(now * 10 <= wanted * 11, "{full} before, {now} after, {wanted} afresh: {report:#}");
    for (_, upload) in &left {
        world.assert_served(upload);
    }
    assert!(names.iter().all(|name| !world.is_there(name)));

    // That it is gone is in the packs, too.
    world.server = world.server.restart_without_its_index();
    for (_, upload) in &left {
        world.assert_served(upload);
    }
    assert!(names.iter().all(|name| !world.is_there(name)));
    put(&world.server.http(), gone[0].1);
    world.assert_served(gone[0].1);
    world.server.stop();
}

#[test]
fn a_dry_run_says_what_then_happens_and_does_nothing() {
    let mut world = World::new();
    let library = world.put(200_000, &[]);
    let app = world.put(100_000, &[&library]);
    let kept = world.put(400_000, &[]);
    world.home.granary_ok(&["pin", "add", "default", "kept", &kept.info.store_path]);
    world.home.granary_ok(&["cache", "create", "doomed"]);
    let http = Http::with_token(&format!("{}/doomed", world.server.origin()), world.server.token());
    put(&http, &library);
    world.home.granary_ok(&["cache", "destroy", "doomed", "--yes"]);
    world.configure(&["--retention", "1s"]);
    std::thread::sleep(A_MOMENT);

    let state = |world: &World| (world.paths(), packs::total_len(world.data.path()));
    let before = state(&world);
    let origin = world.server.origin();
    let plan = || collect(&world.home, &origin, &["--grace", "0s", "--dry-run"]);
    let (planned, again) = (plan(), plan());
    assert_eq!((&planned["dry_run"], number(&planned, "removed")), (&json!(true), 0));
    assert_eq!(again["caches"], planned["caches"], "a dry run has done something");
    assert_eq!(state(&world), before, "a dry run has done something");
    let default = of_cache(&planned, "default");
    assert_eq!((&default["unused"], &default["kept"]), (&json!(2), &json!(1)), "{planned:#}");
    let doomed = of_cache(&planned, "doomed");
    assert_eq!((&doomed["destroyed"], &doomed["for_space"]), (&json!(true), &json!(1)));

    let done = world.collect_now();
    assert_eq!(done["dry_run"], false);
    for what in ["paths", "paths_size", "nars", "trees", "caches"] {
        assert_eq!(done[what], planned[what], "{what}: planned {planned:#}, done {done:#}");
    }
    assert!(!world.is_there(&app.hash_part) && !world.is_there(&library.hash_part));
    world.assert_served(&kept);
    let nothing = world.collect_now();
    assert_eq!((number(&nothing, "paths"), number(&nothing, "nars")), (0, 0), "{nothing:#}");
    world.server.stop();
}

#[test]
fn a_destroyed_cache_can_be_restored_as_long_as_the_grace_period_lasts() {
    let mut world = World::new();
    let origin = world.server.origin();
    world.home.granary_ok(&["cache", "create", "doomed"]);
    let http = Http::with_token(&format!("{origin}/doomed"), world.server.token());
    let doomed = path(&mut world.random, &nar::symlink("own"), 3_000_000, &[]);
    put(&http, &doomed);
    // So that something else lies in the same pack.
    let bystander = world.put(100_000, &[]);

    world.home.granary_ok(&["cache", "destroy", "doomed", "--yes"]);
    collect(&world.home, &origin, &["--grace", "1h"]);
    world.home.granary_ok(&["cache", "restore", "doomed"]);
    assert_served(&world.server, "doomed", &doomed);

    world.home.granary_ok(&["cache", "destroy", "doomed", "--yes"]);
    let before = packs::total_len(world.data.path());
    let report = world.collect_now();
    let of_doomed = of_cache(&report, "doomed");
    assert_eq!((&of_doomed["destroyed"], number(&report, "paths")), (&json!(true), 1));
    let after = packs::total_len(world.data.path());
    assert!(after + 2_900_000 < before, "{before} before, {after} after: {report:#}");
    // The name may come back, and nothing else does.
    if world.home.granary(&["cache", "restore", "doomed"]).status.success() {
        let list = ["path", "list", "doomed", "--long"];
        assert_eq!(world.home.granary_json(&list), json!([]));
    }
    assert_eq!(http.get(&doomed.narinfo_path()).status, 404);
    world.assert_served(&bystander);
    world.server.stop();
}

/// A GET that is read piece by piece.
struct SlowDownload {
    stream: TcpStream,
    length: usize,
    body: Vec<u8>,
}

impl SlowDownload {
    fn start(server: &Server, url: &str) -> Self {
        let origin = server.origin();
        let authority = origin.trim_start_matches("http://");
        let address: SocketAddr = authority.parse().expect("an address");
        let mut stream = TcpStream::connect(address).expect("the server listens");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        let (host, token) = (authority, server.token());
        let head = format!(
            "GET /default/{url} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\
             Authorization: Bearer {token}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).expect("it is asked");
        let mut answer = Vec::new();
        let end = loop {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("a head");
            answer.push(byte[0]);
            if answer.ends_with(b"\r\n\r\n") {
                break String::from_utf8_lossy(&answer).to_ascii_lowercase();
            }
        };
        assert!(end.starts_with("http/1.1 200 "), "{end}");
        let length = end.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length = length.expect("a length").parse().expect("a number");
        Self { stream, length, body: Vec::new() }
    }

    /// Reads up to half of it.
    fn half(&mut self) {
        let mut half = vec![0; self.length / 2];
        self.stream.read_exact(&mut half).expect("the first half comes");
        self.body = half;
    }

    /// All of it.
    fn rest(mut self) -> Vec<u8> {
        self.stream.read_to_end(&mut self.body).expect("the second half comes");
        assert_eq!(self.body.len(), self.length, "it was cut off");
        self.body
    }
}

#[test]
fn a_slow_download_ends_well_though_its_pack_is_written_anew_meanwhile() {
    let mut world = World::new();
    // Too long for the buffers between a server and its client. What goes lies before it and behind it.
    let mut others = vec![world.put(12_000_000, &[])];
    let slow = world.put(64 << 20, &[]);
    others.extend([world.put(12_000_000, &[]), world.put(12_000_000, &[])]);
    let http = world.server.http();
    let text = http.get(&slow.narinfo_path()).text();
    let mut downloads = Vec::new();
    let plain = format!("nar/{}.nar", codec::sha256_nix32(&slow.body));
    for url in [narinfo::parse(&text)["URL"], &plain] {
        let mut download = SlowDownload::start(&world.server, url);
        download.half();
        downloads.push(download);
    }
    let names: Vec<_> = others.iter().map(|upload| &upload.hash_part[..]).collect();
    let delete = [&["path", "delete", "default"], &names[..], &["--yes"]].concat();
    world.home.granary_ok(&delete);
    let origin = world.server.origin();
    let everything = ["--grace", "0s", "--max-unneeded", "0"];
    let report = collect(&world.home, &origin, &everything);
    assert!(number(&report, "removed") > 0, "no pack was written anew: {report:#}");
    assert!(number(&report, "freed_bytes") > 30_000_000, "{report:#}");

    let [zstd, plain] = <[SlowDownload; 2]>::try_from(downloads).ok().expect("two");
    let nar = zstd::stream::decode_all(&zstd.rest()[..]).expect("a whole NAR");
    assert!(nar == slow.body, "other bytes");
    assert!(plain.rest() == slow.body, "other bytes");
    world.assert_served(&slow);
    world.server.stop();
}
