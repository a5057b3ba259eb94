//! The client's commands around a push: login, use, doctor, and back. Whether an edit is right is
//! for Nix to say, in three versions.
#![allow(clippy::expect_used, reason = "a helper that fails should fail its test")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use data_encoding::BASE64;
use granary_e2e::{Closure, FakeServer, Nix, Server, Version, places};
use serde_json::{Value, json};
use tempfile::TempDir;

const TOKEN: &str = "sesame";
const KEY: &str = "main-1:F1le52R1l5Tnm8kaEZuYDhA8FuGus1KawuKaw+lOFNo=";
const CONF: &str =
    "# mine, and it stays\nmax-jobs = 7\nextra-substituters = https://first.example.org\n";
const NETRC: &str = "machine git.example.org login me password p\n";

fn server(public: bool) -> FakeServer {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let whoami =
        json!({"subject": "alice", "caches": {"*": ["pull"]}, "now": now, "version": "0.1.0"});
    let cache = json!({
        "name": "main", "public": public, "store_dir": "/nix/store", "priority": 40,
        "upstream_keys": [], "public_keys": [KEY], "created": 0, "permissions": ["pull"],
    });
    let info = "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n".to_owned();
    FakeServer::start(vec![
        ("/_granary/v1/whoami".to_owned(), whoami.to_string()),
        ("/_granary/v1/caches/main".to_owned(), cache.to_string()),
        ("/main/nix-cache-info".to_owned(), info),
    ])
}

/// A user of a machine.
struct Home {
    dir: TempDir,
    version: Version,
    token: String,
}

impl Home {
    fn new(version: Version) -> Self {
        Self::with_token(version, TOKEN)
    }

    fn with_token(version: Version, token: &str) -> Self {
        let home = Self { dir: places::scratch(), version, token: token.to_owned() };
        fs::create_dir_all(home.path(".config/nix")).expect("a folder");
        fs::create_dir_all(home.path("etc")).expect("a folder");
        home
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("written");
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).expect(name)
    }

    fn command(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", self.version.bin().display()))
            .env("HOME", self.dir.path())
            .env("NIX_CONF_DIR", self.path("etc"))
            .stdin(Stdio::null());
        command
    }

    /// `granary`, with the token in the environment.
    fn granary(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(&places::granary(), arguments);
        command.env("GRANARY_TOKEN", &self.token).output().expect("granary runs")
    }

    fn granary_ok(&self, arguments: &[&str]) -> String {
        said(&self.granary(arguments), arguments)
    }

    fn nix(&self, arguments: &[&str]) -> String {
        let program = self.version.bin().join("nix");
        let mut all = vec!["--extra-experimental-features", "nix-command"];
        all.extend(arguments);
        said(&self.command(&program, &all).output().expect("nix runs"), arguments)
    }

    /// A setting as Nix understands the files.
    fn setting(&self, name: &str) -> Value {
        let all: Value = serde_json::from_str(&self.nix(&["show-config", "--json"])).expect("JSON");
        all[name]["value"].clone()
    }

    fn has(&self, list: &str, word: &str) -> bool {
        self.setting(list).as_array().expect("a list").contains(&word.into())
    }
}

fn said(output: &Output, arguments: &[&str]) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").permissions().mode() & 0o777
}

#[test]
fn nix_uses_a_private_cache_that_granary_set_up_and_forgets_it_without_a_trace() {
    for version in Version::ALL {
        let (home, server) = (Home::new(version), server(false));
        let url = format!("{}/main", server.url());
        home.write(".config/nix/nix.conf", CONF);
        home.write(".config/nix/netrc", NETRC);

        home.granary_ok(&["use", &url]);
        for substituter in [&url, "https://first.example.org", "https://cache.nixos.org/"] {
            assert!(home.has("substituters", substituter), "{version:?}: {substituter}");
        }
        assert!(home.has("trusted-public-keys", KEY));
        assert_eq!(home.setting("max-jobs"), 7);
        let netrc = home.path(".config/nix/netrc");
        assert_eq!(home.setting("netrc-file"), netrc.to_str().expect("UTF-8"));
        assert_eq!(mode(&netrc), 0o600);

        // Nix itself shows the token to the server.
        let asked = server.seen().len();
        home.nix(&["store", "ping", "--store", &url]);
        let password = format!("Basic {}", BASE64.encode(format!("granary:{TOKEN}").as_bytes()));
        let shown = |line: &String| line.ends_with(&password);
        assert!(server.seen()[asked..].iter().flatten().any(shown), "{version:?}");

        let before = (home.read(".config/nix/nix.conf"), home.read(".config/nix/netrc"));
        home.granary_ok(&["use", &url]);
        let after = (home.read(".config/nix/nix.conf"), home.read(".config/nix/netrc"));
        assert_eq!(before, after, "doing it again changes nothing");

        home.granary_ok(&["unuse", &url]);
        assert_eq!(home.read(".config/nix/nix.conf"), CONF);
        assert_eq!(home.read(".config/nix/netrc"), NETRC);
        assert!(!home.has("substituters", &url));
    }
}

#[test]
fn nix_pulls_from_a_private_cache_with_nothing_but_what_use_set_up() {
    let (data, closure) = (places::scratch(), Closure::tiny());
    let server = Server::start(data.path());
    let url = server.url().replace("/default", "/team");
    let owner = Home::with_token(Version::V2_34, server.token());
    owner.granary_ok(&["cache", "create", &url]);
    let pusher = Nix::with(Version::V2_34, server.token(), server.public_key());
    pusher.copy_to(&format!("{url}?compression=zstd"), &closure);
    let wanted = closure.paths.iter().filter(|path| path.references.is_empty());
    let wanted = &wanted.min_by_key(|path| path.nar_size).expect("a leaf").path;

    for version in Version::ALL {
        let home = Home::with_token(version, server.token());
        home.write("etc/nix.conf", "substituters =\nsandbox = false\nbuild-users-group =\n");
        let realise = |home: &Home| {
            let root = home.path("root");
            let mut command =
                home.command(&version.bin().join("nix-store"), &["--realise", wanted]);
            command.env("NIX_REMOTE", format!("local?root={}", root.display()));
            command.output().expect("nix runs").status.success()
        };
        assert!(!realise(&home), "{version:?} has it from elsewhere");
        home.granary_ok(&["use", &url]);
        assert!(realise(&home), "{version:?}");
    }
}

#[test]
fn a_cache_lives_and_dies_by_command() {
    let data = places::scratch();
    let server = Server::start(data.path());
    let home = Home::with_token(Version::V2_34, server.token());
    let cache = server.url().replace("/default", "/team");
    let info = || -> Value {
        let text = home.granary_ok(&["cache", "info", "--json", &cache]);
        serde_json::from_str(&text).expect("JSON")
    };
    let kept = ["--retention", "30d", "--max-age", "1y", "--max-size", "2GiB"];
    let create = ["cache", "create", &cache, "--upstream-key", "a-1"];
    home.granary_ok(&[&create[..], &kept].concat());
    let made = info();
    assert_eq!((&made["public"], &made["retention"]), (&json!(false), &json!(2_592_000)));
    assert_eq!((&made["max_age"], &made["max_size"]), (&json!(31_536_000), &json!(2_u64 << 30)));
    let shown = home.granary_ok(&["cache", "info", &cache]);
    assert!(shown.contains("max age     1y after the upload\nmax size    2GiB\n"), "{shown}");
    let kept = ["--retention", "default", "--max-age", "default", "--max-size", "default"];
    let change = [&["--public", "--priority", "30"][..], &kept].concat();
    let keys = ["--add-upstream-key", "b-1", "--remove-upstream-key", "a-1"];
    home.granary_ok(&[&["cache", "configure", &cache][..], &change, &keys].concat());
    let changed = info();
    assert_eq!((&changed["public"], &changed["priority"]), (&json!(true), &json!(30)));
    assert_eq!((&changed["retention"], &changed["upstream_keys"]), (&Value::Null, &json!(["b-1"])));
    assert_eq!((&changed["max_age"], &changed["max_size"]), (&Value::Null, &Value::Null));

    let old = made["public_keys"][0].as_str().expect("a key").to_owned();
    home.granary_ok(&["cache", "key", "rotate", &cache, "--keep-old", "1d"]);
    let exported = home.granary_ok(&["cache", "key", "export", &cache]);
    assert_eq!(exported.lines().count(), 2);
    assert!(exported.contains(&old), "its signatures are still about");

    home.granary_ok(&["cache", "destroy", "--yes", &cache]);
    assert!(!home.granary(&["cache", "info", &cache]).status.success());
    home.granary_ok(&["cache", "restore", &cache]);
    assert_eq!(info()["public_keys"].as_array().expect("a list").len(), 2);
}

#[test]
fn a_public_cache_is_set_up_for_the_whole_system_without_a_token() {
    for version in Version::ALL {
        let (home, server) = (Home::new(version), server(true));
        let url = format!("{}/main", server.url());
        home.granary_ok(&["use", "--system", &url]);
        assert!(home.has("substituters", &url) && home.has("trusted-public-keys", KEY));
        assert!(!home.path("etc/netrc").exists());
        assert_eq!(mode(&home.path("etc/nix.conf")), 0o644);
        home.granary_ok(&["unuse", "--system", &url]);
        assert_eq!(fs::read_dir(home.path("etc")).expect("a folder").count(), 0);
    }
}

#[test]
fn print_shows_lines_that_nix_takes_and_changes_nothing() {
    let (home, server) = (Home::new(Version::V2_34), server(false));
    let url = format!("{}/main", server.url());
    let lines = home.granary_ok(&["use", "--print", &url]);
    assert!(!lines.contains(TOKEN), "{lines}");
    assert_eq!(fs::read_dir(home.path(".config/nix")).expect("a folder").count(), 0);
    let conf = lines.split("# netrc").next().expect("its first part");
    home.write(".config/nix/nix.conf", conf);
    assert!(home.has("substituters", &url) && home.has("trusted-public-keys", KEY));
}

#[test]
fn the_doctor_finds_what_is_missing_and_nothing_once_it_is_there() {
    for version in Version::ALL {
        let (home, server) = (Home::new(version), server(false));
        let url = format!("{}/main", server.url());
        let health = |check: &str| {
            let output = home.granary(&["doctor", "--json", &url]);
            let findings: Value = serde_json::from_slice(&output.stdout).expect("JSON");
            let findings = findings.as_array().expect("a list").clone();
            let failed = findings.iter().any(|finding| finding["health"] == "fail");
            assert_eq!(output.status.code(), Some(i32::from(failed)), "{findings:#?}");
            let of_check = findings.iter().filter(|finding| finding["check"] == check);
            of_check.map(|finding| finding["health"].as_str().expect("a word").to_owned()).collect()
        };
        let expect = |check: &str, expected: &[&str]| {
            let found: Vec<String> = health(check);
            assert_eq!(found, expected, "{version:?} {check}");
        };
        expect("nix.conf", &["fail", "fail"]);
        expect("netrc", &["fail"]);
        home.granary_ok(&["use", &url]);
        for check in ["server", "clock", "nix", "cache", "cache-info", "netrc", "signature"] {
            expect(check, &["ok"]);
        }
        expect("nix.conf", &["ok", "ok"]);
        home.write(".config/nix/netrc", "machine 127.0.0.1 login x password old\n");
        expect("netrc", &["warn"]);
    }
}

#[test]
fn a_login_is_remembered_in_a_file_for_its_owner_only() {
    let (home, server) = (Home::new(Version::V2_34), server(false));
    let token = home.path("token");
    home.write("token", "from-a-file\n");
    let token = token.to_str().expect("UTF-8");
    home.granary_ok(&["login", "team", &server.url(), "--token-file", token]);
    let config = home.path(".config/granary/config.toml");
    assert_eq!(mode(&config), 0o600);

    // Without the token in the environment.
    let whoami = ["whoami", "--json"];
    let output = home.command(&places::granary(), &whoami).output().expect("granary runs");
    let whoami: Value = serde_json::from_str(&said(&output, &whoami)).expect("JSON");
    assert_eq!(whoami["subject"], "alice");
    let last = server.seen().pop().expect("a request");
    assert!(last.iter().any(|line| line.ends_with("Bearer from-a-file")), "{last:?}");

    fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).expect("its owner");
    let output = home.granary(&["whoami"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("chmod 600"));

    home.granary_ok(&["logout", "team"]);
    assert!(!home.read(".config/granary/config.toml").contains("from-a-file"));
    let output = home.granary(&["whoami"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("granary login"));
}

#[test]
fn completions_and_man_pages_are_written() {
    let home = Home::new(Version::V2_34);
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        assert!(home.granary_ok(&["completions", shell]).contains("whoami"), "{shell}");
    }
    let pages = home.path("man");
    home.granary_ok(&["man", pages.to_str().expect("UTF-8")]);
    for page in ["granary.1", "granary-use.1", "granary-cache-key-rotate.1"] {
        let text = fs::read_to_string(pages.join(page)).expect(page);
        assert!(text.contains(".SH NAME"), "{page}");
    }
}
