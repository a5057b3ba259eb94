//! Paths as people look into them and delete them: by the API and by the command line.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

use granary_e2e::codec::Compression;
use granary_e2e::granary::Home;
use granary_e2e::random::Random;
use granary_e2e::raw::{self, RawAnswer};
use granary_e2e::tokens::mint;
use granary_e2e::upload::Upload;
use granary_e2e::{Http, Server, Version, nar, places};
use serde_json::{Value, json};

/// A path whose only file is `length` bytes that do not compress.
fn path(random: &mut Random, length: usize, references: &[&Upload]) -> Upload {
    let nar = nar::nar(&nar::file(&random.bytes(length), false));
    let mut upload = Upload::new(&random.hash_part(), &nar, Compression::None);
    let base_name = |upload: &&Upload| base_name(upload);
    upload.info.references = references.iter().map(base_name).collect();
    upload
}

fn base_name(upload: &Upload) -> String {
    format!("{}-e2e", upload.hash_part)
}

fn put(http: &Http, upload: &Upload) {
    assert!(upload.put_nar(http).is_success() && upload.put_narinfo(http).is_success());
}

fn api(server: &Server, method: &str, path: &str, token: Option<&str>, body: &str) -> RawAnswer {
    let path = format!("/_granary/v1/caches/{path}");
    raw::request(&server.origin(), method, &path, token, body.as_bytes())
}

/// Three paths in `default`: an application, the library it needs, and a tool that stands alone.
struct World {
    server: Server,
    home: Home,
    random: Random,
    app: Upload,
    library: Upload,
    tool: Upload,
}

impl World {
    fn new(data: &std::path::Path) -> Self {
        let server = Server::start(data);
        let home = Home::with_token(Version::V2_34, &server.origin(), server.token());
        let mut random = Random::from_environment();
        let library = path(&mut random, 200_000, &[]);
        let app = path(&mut random, 100_000, &[&library]);
        let tool = path(&mut random, 50_000, &[]);
        for upload in [&library, &app, &tool] {
            put(&server.http(), upload);
        }
        Self { server, home, random, app, library, tool }
    }

    fn owner(&self, method: &str, path: &str, body: &str) -> RawAnswer {
        api(&self.server, method, path, Some(self.server.token()), body)
    }

    fn is_there(&self, upload: &Upload) -> bool {
        let status = self.server.http().get(&upload.narinfo_path()).status;
        assert!(status == 200 || status == 404, "{status}");
        status == 200
    }
}

/// Whether it is that, or a little more: chunks are stored with some bytes of framing.
fn about(value: &Value, expected: u64) -> bool {
    let value = value.as_u64().unwrap();
    value >= expected && value < expected + expected / 20
}

#[test]
fn what_a_path_is_and_what_it_takes_can_be_asked() {
    let data = places::scratch();
    let World { server, home, random: mut more, app, library, .. } = World::new(data.path());
    let listed = home.granary_ok(&["path", "list", "default"]);
    assert_eq!(listed.lines().count(), 3);
    assert!(listed.contains(&app.info.store_path), "{listed}");
    let long = home.granary_ok(&["path", "list", "default", "--long"]);
    let line = long.lines().find(|line| line.starts_with(&app.info.store_path)).unwrap();
    let columns: Vec<&str> = line.split('\t').collect();
    assert_eq!((columns.len(), columns[1]), (4, &app.info.nar_size.to_string()[..]));
    let list = home.granary_json(&["path", "list", "default"]);
    assert_eq!(list.as_array().unwrap().len(), 3);
    assert!(list[0].get("last_used").is_none() && list[0]["uploaded"].is_u64(), "{list}");

    let link = home.path("result");
    std::os::unix::fs::symlink(&app.info.store_path, &link).unwrap();
    for named in [&app.hash_part, &base_name(&app), &app.info.store_path, link.to_str().unwrap()] {
        let info = home.granary_json(&["path", "info", "default", named]);
        assert_eq!(info["store_path"], app.info.store_path, "{named}");
        assert_eq!(info["nar_hash"], app.info.nar_hash);
        assert_eq!(info["references"], json!([base_name(&library)]));
        assert!(info.get("sizes").is_none(), "{info}");
    }
    // Somebody else has the library's file, too, in a path of another name and another cache.
    let url = format!("{}/elsewhere", server.origin());
    let elsewhere = Http::with_token(&url, server.token());
    home.granary_ok(&["cache", "create", "elsewhere"]);
    let mut twin = Upload { hash_part: more.hash_part(), ..library.clone() };
    twin.info.store_path = format!("/nix/store/{}", base_name(&twin));
    put(&elsewhere, &twin);
    let sizes = |upload: &Upload| {
        let info = &upload.info.store_path;
        home.granary_json(&["path", "info", "default", info, "--sizes"])["sizes"].take()
    };
    let of_app = sizes(&app);
    assert!(about(&of_app["own"], 100_000) && about(&of_app["closure"], 300_000), "{of_app}");
    let of_library = sizes(&library);
    assert!(of_library["own"] == 0 && about(&of_library["shared"], 200_000), "{of_library}");
    let shown = home.granary_ok(&["path", "info", "default", &app.hash_part, "--sizes"]);
    assert!(shown.contains("\nown         9") && shown.contains("\nrefers to   "), "{shown}");
    let plan = home.granary_json(&["cache", "destroy", "default", "--dry-run"]);
    assert!(plan["paths"] == 3 && about(&plan["freed"], 150_000), "{plan}");
    let said = home.granary_ok(&["cache", "destroy", "default", "--dry-run"]);
    assert!(said.starts_with("would destroy default: 3 paths, "), "{said}");
    assert_eq!(home.granary_json(&["path", "list", "default"]), list, "nothing was destroyed");
    server.stop();
}

#[test]
fn what_is_deleted_is_gone_for_good_and_takes_nothing_along() {
    let data = places::scratch();
    let mut world = World::new(data.path());
    let (library, app) = (world.library.info.store_path.clone(), world.app.hash_part.clone());
    let refused = world.home.granary_refused(&["path", "delete", "default", &library, "--yes"]);
    let needed = format!("is needed by {}: ", base_name(&world.app));
    assert!(refused.contains(&needed), "{refused}");

    let plan = ["path", "delete", "default", &app, "--closure", "--dry-run"];
    let planned = world.home.granary_json(&plan);
    let both = [base_name(&world.app), base_name(&world.library)];
    assert_eq!(planned["paths"], json!(both));
    assert!(about(&planned["freed"], 300_000) && planned["kept"] == json!([]), "{planned}");
    let said = world.home.granary(&plan);
    assert_eq!(String::from_utf8_lossy(&said.stdout), both.join("\n") + "\n");
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("would delete 2 paths, ") && said.contains("frees 29"), "{said}");
    assert!(world.is_there(&world.app) && world.is_there(&world.library), "it was only planned");

    let other = path(&mut world.random, 1000, &[&world.library]);
    put(&world.server.http(), &other);
    let closure = ["path", "delete", "default", &app, "--closure", "--yes"];
    let deleted = world.home.granary_json(&closure);
    assert_eq!(deleted["paths"], json!([both[0]]));
    assert_eq!(deleted["kept"][0]["why"], format!("{} needs it", base_name(&other)));
    assert!(deleted.get("freed").is_none(), "{deleted}");
    assert!(!world.is_there(&world.app) && world.is_there(&world.library));
    let refused = world.home.granary_refused(&closure);
    assert!(refused.contains(&format!("cache default has no path {app}")), "{refused}");

    let referrers = ["path", "delete", "default", &library, "--referrers", "--yes"];
    let deleted = world.home.granary_json(&referrers);
    assert_eq!(deleted["paths"], json!([base_name(&other), both[1]]));
    world.server = world.server.restart_after_kill_nine();
    assert!(!world.is_there(&world.library) && world.is_there(&world.tool));
    put(&world.server.http(), &world.library);
    assert!(world.is_there(&world.library), "what is pushed again is there again");
    world.server.stop();
}

#[test]
fn the_api_says_what_it_refuses() {
    let data = places::scratch();
    let world = World::new(data.path());
    let (app, library, none) = (&world.app.hash_part, &world.library.hash_part, "0".repeat(32));
    let many = json!({"hashes": vec![none.clone(); 10_001]}).to_string();
    let cases = [
        ("GET", format!("paths/{none}"), "", 404, "NoSuchPath"),
        ("GET", format!("paths/{none}?sizes=1"), "", 404, "NoSuchPath"),
        ("GET", "paths/hello".to_owned(), "", 400, "BadRequest"),
        ("PUT", format!("paths/{app}"), "", 405, "MethodNotAllowed"),
        ("DELETE", format!("paths/{none}"), "", 404, "NoSuchPath"),
        ("DELETE", format!("paths/{library}"), "", 409, "PathReferred"),
        ("DELETE", format!("paths/{library}?dry_run=1&closure=1"), "", 409, "PathReferred"),
        ("GET", "paths/delete".to_owned(), "", 405, "MethodNotAllowed"),
        ("POST", "paths/delete".to_owned(), r#"{"hashes": ["x"]}"#, 400, "BadRequest"),
        ("POST", "paths/delete".to_owned(), r#"{"hash": []}"#, 400, "BadRequest"),
        ("POST", "paths/delete".to_owned(), &many[..], 400, "BadRequest"),
    ];
    for (method, path, body, status, error) in cases {
        let answer = world.owner(method, &format!("default/{path}"), body);
        assert_eq!((answer.status, &answer.json()["error"]), (status, &json!(error)), "{path}");
    }
    // Whoever may read sees paths; who pushed them is for those who have a token for the cache.
    let stranger = api(&world.server, "GET", &format!("default/paths/{app}"), None, "");
    assert!(stranger.status == 200 && stranger.json().get("uploader").is_none());
    let path = format!("default/paths/{app}?sizes=1");
    assert_eq!(api(&world.server, "GET", &path, None, "").status, 401);
    let puller = mint(data.path(), "dev", &[("default", &["pull"])]);
    assert_eq!(api(&world.server, "GET", &path, Some(&puller), "").status, 200);

    let path = format!("default/paths/{library}?referrers=1&sizes=1");
    let deleted = world.owner("DELETE", &path, "").json();
    assert_eq!(deleted["paths"].as_array().unwrap().len(), 2);
    assert!(about(&deleted["freed"], 300_000), "{deleted}");
    world.server.stop();
}
