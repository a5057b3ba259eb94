//! Who may do what: every endpoint, every permission, on public and on private caches.
//!
//! The table below is written down by hand; nothing of it comes from the server.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

use std::collections::BTreeSet;

use granary_e2e::codec::Compression;
use granary_e2e::random::Random;
use granary_e2e::raw::{self, RawAnswer};
use granary_e2e::tokens::{PERMISSIONS, mint, mint_expired};
use granary_e2e::upload::Upload;
use granary_e2e::{Http, Server, places};

/// Who is let in.
#[derive(Debug, Clone, Copy)]
enum Who {
    /// Everybody, whatever token comes along.
    Everybody,
    /// Whoever has any permission on the cache.
    Any,
    /// Whoever has this permission.
    Having(&'static str),
    /// Whoever has both.
    Both(&'static str, &'static str),
}
use Who::{Any, Both, Everybody, Having};

/// What the request finds.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Finds {
    /// A cache with a path, which all cases share.
    Path,
    /// A cache of its own.
    Cache,
    /// No cache.
    Nothing,
    /// A cache that was destroyed.
    Destroyed,
}

type Row = (&'static str, &'static str, &'static str, Finds, Who, Who, u16);

/// Method, path, body, what is found, who is let in to a public cache, who to a private one, and what
/// they get.
#[rustfmt::skip]
const TABLE: &[Row] = &[
    ("GET",    "/{cache}/nix-cache-info",         "", Finds::Path, Everybody, Any, 200),
    ("HEAD",   "/{cache}/nix-cache-info",         "", Finds::Path, Everybody, Any, 200),
    ("PUT",    "/{cache}/nix-cache-info",         "", Finds::Path, Having("push"), Having("push"), 405),
    ("GET",    "/{cache}/{hash}.narinfo",         "", Finds::Path, Everybody, Having("pull"), 200),
    ("HEAD",   "/{cache}/{hash}.narinfo",         "", Finds::Path, Everybody, Having("pull"), 200),
    ("PUT",    "/{cache}/{nar}",                  "{body}", Finds::Path, Having("push"), Having("push"), 201),
    ("PUT",    "/{cache}/{hash}.narinfo",         "{narinfo}", Finds::Path, Having("push"), Having("push"), 201),
    ("GET",    "/{cache}/{none}.narinfo",         "", Finds::Path, Everybody, Having("pull"), 404),
    ("HEAD",   "/{cache}/{none}.narinfo",         "", Finds::Path, Everybody, Having("pull"), 404),
    ("GET",    "/{cache}/{hash}.ls",              "", Finds::Path, Everybody, Having("pull"), 200),
    ("HEAD",   "/{cache}/{hash}.ls",              "", Finds::Path, Everybody, Having("pull"), 200),
    ("PUT",    "/{cache}/{hash}.ls",              r#"{"version":1,"root":{"type":"directory","entries":{}}}"#,
                                                      Finds::Path, Having("push"), Having("push"), 201),
    ("GET",    "/{cache}/{nar}",                  "", Finds::Path, Everybody, Having("pull"), 200),
    ("HEAD",   "/{cache}/{nar}",                  "", Finds::Path, Everybody, Having("pull"), 200),
    ("GET",    "/{cache}/log/{hash}-e2e.drv",     "", Finds::Path, Everybody, Having("pull"), 200),
    ("HEAD",   "/{cache}/log/{hash}-e2e.drv",     "", Finds::Path, Everybody, Having("pull"), 200),
    ("PUT",    "/{cache}/log/{hash}-e2e.drv",     "built", Finds::Path, Having("push"), Having("push"), 201),
    ("GET",    "/{cache}/debuginfo/none",         "", Finds::Path, Everybody, Having("pull"), 404),
    ("PUT",    "/{cache}/debuginfo/some",         "x", Finds::Path, Having("push"), Having("push"), 201),
    ("GET",    "/{cache}/realisations/none.doi",  "", Finds::Path, Everybody, Having("pull"), 404),
    ("PUT",    "/{cache}/realisations/some.doi",  "x", Finds::Path, Having("push"), Having("push"), 201),
    ("GET",    "/{cache}/build-trace-v2/a/b.doi", "", Finds::Path, Everybody, Having("pull"), 404),
    ("PUT",    "/{cache}/build-trace-v2/c/d.doi", "x", Finds::Path, Having("push"), Having("push"), 201),
    ("GET",    "/{cache}/what/is/this",           "", Finds::Path, Everybody, Having("pull"), 404),
    ("PUT",    "/{cache}/what/is/this",           "x", Finds::Path, Having("push"), Having("push"), 404),
    ("GET",    "/{cache}",                        "", Finds::Path, Everybody, Having("pull"), 404),
    ("GET",    "/{cache}/nix-cache-info",         "", Finds::Nothing, Any, Any, 404),
    ("GET",    "/{cache}/{hash}.narinfo",         "", Finds::Nothing, Having("pull"), Having("pull"), 404),
    ("PUT",    "/{cache}/{nar}",                  "{body}", Finds::Nothing, Having("push"), Having("push"), 404),
    ("GET",    "/{cache}/{hash}.narinfo",         "", Finds::Destroyed, Having("pull"), Having("pull"), 404),

    ("GET",    "{api}/caches/{cache}",            "", Finds::Path, Everybody, Any, 200),
    ("HEAD",   "{api}/caches/{cache}",            "", Finds::Path, Everybody, Any, 200),
    ("GET",    "{api}/caches/{cache}",            "", Finds::Nothing, Any, Any, 404),
    ("GET",    "{api}/caches/{cache}",            "", Finds::Destroyed, Any, Any, 404),
    ("PUT",    "{api}/caches/{cache}",            "{}", Finds::Nothing, Having("create"), Having("create"), 201),
    ("PUT",    "{api}/caches/{cache}",            "{}", Finds::Path, Having("create"), Having("create"), 409),
    ("PUT",    "{api}/caches/{cache}",            "{}", Finds::Destroyed, Having("create"), Having("create"), 409),
    ("PATCH",  "{api}/caches/{cache}",            r#"{"priority":30}"#, Finds::Cache, Having("configure"), Having("configure"), 200),
    ("PATCH",  "{api}/caches/{cache}",            r#"{"retention":{"seconds":60}}"#,
                                                      Finds::Cache, Having("configure-retention"), Having("configure-retention"), 200),
    ("PATCH",  "{api}/caches/{cache}",            r#"{"max_age":{"seconds":60},"max_size":{"bytes":60}}"#,
                                                      Finds::Cache, Having("configure-retention"), Having("configure-retention"), 200),
    ("PATCH",  "{api}/caches/{cache}",            r#"{"max_size":"default","priority":30}"#,
                                                      Finds::Cache, Both("configure", "configure-retention"), Both("configure", "configure-retention"), 200),
    ("PATCH",  "{api}/caches/{cache}",            r#"{"retention":"default","public":true}"#,
                                                      Finds::Cache, Both("configure", "configure-retention"), Both("configure", "configure-retention"), 200),
    ("PATCH",  "{api}/caches/{cache}",            r#"{"priority":30}"#, Finds::Destroyed, Having("configure"), Having("configure"), 404),
    ("DELETE", "{api}/caches/{cache}?dry_run=1",  "", Finds::Path, Having("destroy"), Having("destroy"), 200),
    ("DELETE", "{api}/caches/{cache}?dry_run=1",  "", Finds::Nothing, Having("destroy"), Having("destroy"), 404),
    ("DELETE", "{api}/caches/{cache}",            "", Finds::Cache, Having("destroy"), Having("destroy"), 204),
    ("DELETE", "{api}/caches/{cache}",            "", Finds::Nothing, Having("destroy"), Having("destroy"), 404),
    ("POST",   "{api}/caches/{cache}/restore",    "", Finds::Destroyed, Having("destroy"), Having("destroy"), 200),
    ("POST",   "{api}/caches/{cache}/restore",    "", Finds::Nothing, Having("destroy"), Having("destroy"), 404),
    ("GET",    "{api}/caches/{cache}/keys",       "", Finds::Path, Everybody, Any, 200),
    ("HEAD",   "{api}/caches/{cache}/keys",       "", Finds::Path, Everybody, Any, 200),
    ("GET",    "{api}/caches/{cache}/keys",       "", Finds::Nothing, Any, Any, 404),
    ("POST",   "{api}/caches/{cache}/keys",       "{}", Finds::Cache, Having("configure"), Having("configure"), 201),
    ("POST",   "{api}/caches/{cache}/keys",       "{}", Finds::Destroyed, Having("configure"), Having("configure"), 404),
    ("DELETE", "{api}/caches/{cache}/keys/none",  "", Finds::Cache, Having("configure"), Having("configure"), 404),
    ("DELETE", "{api}/caches/{cache}/keys/none",  "", Finds::Nothing, Having("configure"), Having("configure"), 404),

    // Before it is pinned.
    ("DELETE", "{api}/caches/{cache}/paths/{hash}?dry_run=1", "", Finds::Path, Having("delete"), Having("delete"), 200),
    ("GET",    "{api}/caches/{cache}/pins",       "", Finds::Path, Everybody, Having("pull"), 200),
    ("HEAD",   "{api}/caches/{cache}/pins",       "", Finds::Path, Everybody, Having("pull"), 200),
    ("GET",    "{api}/caches/{cache}/pins",       "", Finds::Nothing, Having("pull"), Having("pull"), 404),
    ("GET",    "{api}/caches/{cache}/pins",       "", Finds::Destroyed, Having("pull"), Having("pull"), 404),
    ("PUT",    "{api}/caches/{cache}/pins/main",  r#"{"path":"{hash}-e2e"}"#, Finds::Path, Having("pin"), Having("pin"), 200),
    ("PUT",    "{api}/caches/{cache}/pins/main",  r#"{"path":"{hash}-not"}"#, Finds::Path, Having("pin"), Having("pin"), 404),
    ("PUT",    "{api}/caches/{cache}/pins/main",  r#"{"path":"{hash}-e2e"}"#, Finds::Nothing, Having("pin"), Having("pin"), 404),
    ("PUT",    "{api}/caches/{cache}/pins/.main", r#"{"path":"{hash}-e2e"}"#, Finds::Path, Having("pin"), Having("pin"), 400),
    ("GET",    "{api}/caches/{cache}/pins/main",  "", Finds::Path, Everybody, Having("pull"), 200),
    ("HEAD",   "{api}/caches/{cache}/pins/main",  "", Finds::Path, Everybody, Having("pull"), 200),
    ("GET",    "{api}/caches/{cache}/pins/none",  "", Finds::Path, Everybody, Having("pull"), 404),
    ("POST",   "{api}/caches/{cache}/pins/main/verify", "", Finds::Path, Having("pull"), Having("pull"), 200),
    ("POST",   "{api}/caches/{cache}/pins/none/verify", "", Finds::Path, Having("pull"), Having("pull"), 404),
    ("POST",   "{api}/caches/{cache}/pins/main/verify", "", Finds::Destroyed, Having("pull"), Having("pull"), 404),
    ("DELETE", "{api}/caches/{cache}/pins/none",  "", Finds::Path, Having("pin"), Having("pin"), 404),
    ("DELETE", "{api}/caches/{cache}/pins/main",  "", Finds::Destroyed, Having("pin"), Having("pin"), 404),

    ("GET",    "{api}/caches/{cache}/paths",      "", Finds::Path, Everybody, Having("pull"), 200),
    ("HEAD",   "{api}/caches/{cache}/paths",      "", Finds::Path, Everybody, Having("pull"), 200),
    ("GET",    "{api}/caches/{cache}/paths?limit=0", "", Finds::Path, Everybody, Having("pull"), 400),
    ("GET",    "{api}/caches/{cache}/paths",      "", Finds::Nothing, Having("pull"), Having("pull"), 404),
    ("GET",    "{api}/caches/{cache}/paths",      "", Finds::Destroyed, Having("pull"), Having("pull"), 404),
    ("GET",    "{api}/caches/{cache}/paths?details=1", "", Finds::Path, Everybody, Having("pull"), 200),
    ("GET",    "{api}/caches/{cache}/paths/{hash}", "", Finds::Path, Everybody, Having("pull"), 200),
    ("HEAD",   "{api}/caches/{cache}/paths/{hash}", "", Finds::Path, Everybody, Having("pull"), 200),
    ("GET",    "{api}/caches/{cache}/paths/{none}", "", Finds::Path, Everybody, Having("pull"), 404),
    ("GET",    "{api}/caches/{cache}/paths/{hash}?sizes=1", "", Finds::Path, Having("pull"), Having("pull"), 200),
    ("GET",    "{api}/caches/{cache}/paths/{hash}", "", Finds::Nothing, Having("pull"), Having("pull"), 404),
    ("GET",    "{api}/caches/{cache}/paths/{hash}", "", Finds::Destroyed, Having("pull"), Having("pull"), 404),
    ("DELETE", "{api}/caches/{cache}/paths/{none}", "", Finds::Path, Having("delete"), Having("delete"), 404),
    ("DELETE", "{api}/caches/{cache}/paths/{hash}", "", Finds::Nothing, Having("delete"), Having("delete"), 404),
    ("DELETE", "{api}/caches/{cache}/paths/{hash}", "", Finds::Destroyed, Having("delete"), Having("delete"), 404),
    ("POST",   "{api}/caches/{cache}/paths/delete", r#"{"hashes":[]}"#, Finds::Path, Having("delete"), Having("delete"), 200),
    ("POST",   "{api}/caches/{cache}/paths/delete", r#"{"hashes":["x"]}"#, Finds::Cache, Having("delete"), Having("delete"), 400),
    ("POST",   "{api}/caches/{cache}/paths/delete", r#"{"hashes":[]}"#, Finds::Nothing, Having("delete"), Having("delete"), 404),
    ("POST",   "{api}/caches/{cache}/paths/delete", r#"{"hashes":[]}"#, Finds::Destroyed, Having("delete"), Having("delete"), 404),
    ("POST",   "{api}/caches/{cache}/missing",    r#"{"hashes":[]}"#, Finds::Path, Having("push"), Having("push"), 200),
    ("POST",   "{api}/caches/{cache}/missing",    r#"{"hashes":[]}"#, Finds::Nothing, Having("push"), Having("push"), 404),
    ("POST",   "{api}/caches/{cache}/chunks/missing", "", Finds::Path, Having("push"), Having("push"), 200),
    ("POST",   "{api}/caches/{cache}/chunks/missing", "", Finds::Nothing, Having("push"), Having("push"), 404),
    ("POST",   "{api}/caches/{cache}/chunks",     "", Finds::Path, Having("push"), Having("push"), 200),
    ("POST",   "{api}/caches/{cache}/chunks",     "", Finds::Nothing, Having("push"), Having("push"), 404),
    ("POST",   "{api}/caches/{cache}/paths",      "", Finds::Path, Having("push"), Having("push"), 400),
    ("POST",   "{api}/caches/{cache}/paths",      "", Finds::Nothing, Having("push"), Having("push"), 404),
    ("POST",   "{api}/caches/{cache}/sync",       "", Finds::Path, Everybody, Having("pull"), 200),
    ("POST",   "{api}/caches/{cache}/sync",       "x", Finds::Path, Everybody, Having("pull"), 400),
    ("GET",    "{api}/caches/{cache}/sync",       "", Finds::Path, Everybody, Having("pull"), 405),
    ("POST",   "{api}/caches/{cache}/sync",       "", Finds::Nothing, Having("pull"), Having("pull"), 404),
    ("POST",   "{api}/caches/{cache}/sync",       "", Finds::Destroyed, Having("pull"), Having("pull"), 404),
    ("POST",   "{api}/caches/{cache}/chunks/read", "", Finds::Path, Everybody, Having("pull"), 200),
    ("POST",   "{api}/caches/{cache}/chunks/read", "x", Finds::Path, Everybody, Having("pull"), 400),
    ("POST",   "{api}/caches/{cache}/chunks/read", "", Finds::Nothing, Having("pull"), Having("pull"), 404),
    ("POST",   "{api}/caches/{cache}/chunks/read", "", Finds::Destroyed, Having("pull"), Having("pull"), 404),
    ("POST",   "{api}/caches/{cache}/profiles",   "", Finds::Path, Having("pull"), Having("pull"), 204),
    ("POST",   "{api}/caches/{cache}/profiles",   "x", Finds::Path, Having("pull"), Having("pull"), 400),
    ("POST",   "{api}/caches/{cache}/profiles",   "", Finds::Nothing, Having("pull"), Having("pull"), 404),
    ("POST",   "{api}/caches/{cache}/profiles",   "", Finds::Destroyed, Having("pull"), Having("pull"), 404),

    ("GET",    "/{cache}/attic-cache-info",       "", Finds::Path, Everybody, Any, 200),
    ("GET",    "{attic}/cache-config/{cache}",    "", Finds::Path, Everybody, Any, 200),
    ("HEAD",   "{attic}/cache-config/{cache}",    "", Finds::Path, Everybody, Any, 200),
    ("GET",    "{attic}/cache-config/{cache}",    "", Finds::Nothing, Any, Any, 404),
    ("GET",    "{attic}/cache-config/{cache}",    "", Finds::Destroyed, Any, Any, 404),
    ("POST",   "{attic}/cache-config/{cache}",    r#"{"keypair":"Generate"}"#, Finds::Nothing, Having("create"), Having("create"), 200),
    ("POST",   "{attic}/cache-config/{cache}",    r#"{"keypair":"Generate"}"#, Finds::Path, Having("create"), Having("create"), 400),
    ("PATCH",  "{attic}/cache-config/{cache}",    r#"{"priority":30}"#, Finds::Cache, Having("configure"), Having("configure"), 200),
    ("PATCH",  "{attic}/cache-config/{cache}",    r#"{"keypair":"Generate","retention_period":"Global"}"#,
                                                      Finds::Cache, Having("configure"), Having("configure"), 200),
    ("PATCH",  "{attic}/cache-config/{cache}",    r#"{"retention_period":{"Period":60}}"#,
                                                      Finds::Cache, Having("configure-retention"), Having("configure-retention"), 200),
    ("PATCH",  "{attic}/cache-config/{cache}",    r#"{"is_public":true,"retention_period":{"Period":60}}"#,
                                                      Finds::Cache, Both("configure", "configure-retention"), Both("configure", "configure-retention"), 200),
    ("PATCH",  "{attic}/cache-config/{cache}",    r#"{"priority":30}"#, Finds::Destroyed, Having("configure"), Having("configure"), 404),
    ("DELETE", "{attic}/cache-config/{cache}",    "", Finds::Cache, Having("destroy"), Having("destroy"), 200),
    ("DELETE", "{attic}/cache-config/{cache}",    "", Finds::Nothing, Having("destroy"), Having("destroy"), 404),
    ("POST",   "{attic}/get-missing-paths",       r#"{"cache":"{cache}","store_path_hashes":[]}"#,
                                                      Finds::Path, Having("push"), Having("push"), 200),
    ("POST",   "{attic}/get-missing-paths",       r#"{"cache":"{cache}","store_path_hashes":[]}"#,
                                                      Finds::Nothing, Having("push"), Having("push"), 404),
    ("PUT",    "{attic}/upload-path",             UPLOAD, Finds::Path, Having("push"), Having("push"), 200),
    ("PUT",    "{attic}/upload-path",             UPLOAD, Finds::Nothing, Having("push"), Having("push"), 404),
    ("PUT",    "{attic}/upload-path",             UPLOAD, Finds::Destroyed, Having("push"), Having("push"), 404),
];

/// The NAR follows. Attic's clients say how long this is in a header, which [`World::ask`] adds.
const UPLOAD: &str = r#"{"cache":"{cache}","store_path_hash":"{hash}","store_path":"/nix/store/{hash}-e2e","references":[],"sigs":[],"nar_hash":"{nar hash}","nar_size":{nar size}}"#;

const API: &str = "/_granary/v1";
const ATTIC: &str = "/_api/v1";

impl Who {
    fn lets_in(self, permissions: &[&str]) -> bool {
        match self {
            Everybody => true,
            Any => !permissions.is_empty(),
            Having(one) => permissions.contains(&one),
            Both(one, other) => permissions.contains(&one) && permissions.contains(&other),
        }
    }
}

/// Somebody who asks: who that is, what they send, whether that is a good token, and what it permits
/// on the cache.
struct Asker {
    who: String,
    token: Option<String>,
    good: bool,
    permissions: Vec<&'static str>,
}

fn strangers(server: &Server, cache: &str) -> Vec<Asker> {
    let data = server.data();
    let asker = |who: &str, token: Option<String>, good| Asker {
        who: who.to_owned(),
        token,
        good,
        permissions: Vec::new(),
    };
    let all = &[(cache, &PERMISSIONS[..])];
    let elsewhere = mint(data, "mallory", &[("elsewhere-*", &PERMISSIONS), ("", &PERMISSIONS)]);
    let good = mint(data, "mallory", all);
    let forged = format!("{}AAAA", &good[..good.len() - 4]);
    vec![
        asker("nobody", None, false),
        asker("one with nonsense", Some("nonsense".to_owned()), false),
        asker("a forger", Some(forged), false),
        asker("one with an expired token", Some(mint_expired(data, "mallory", all)), false),
        asker("one with a token for elsewhere", Some(elsewhere), true),
    ]
}

fn askers(server: &Server, cache: &str) -> Vec<Asker> {
    let mut askers = strangers(server, cache);
    let one = PERMISSIONS.iter().map(|permission| vec![*permission]);
    let pair = vec!["configure", "configure-retention"];
    for permissions in one.chain([pair, PERMISSIONS.to_vec()]) {
        let token = mint(server.data(), "alice", &[(cache, &permissions)]);
        let who = format!("one who may {}", permissions.join(", "));
        askers.push(Asker { who, token: Some(token), good: true, permissions });
    }
    askers
}

struct World {
    server: Server,
    upload: Upload,
    none: String,
    made: u32,
}

impl World {
    fn new(server: Server) -> Self {
        let mut random = Random::from_environment();
        let upload = Upload::new(&random.hash_part(), &random.nar(), Compression::None);
        Self { server, upload, none: random.hash_part(), made: 0 }
    }

    fn ask(&self, method: &str, path: &str, token: Option<&str>, body: &[u8]) -> RawAnswer {
        let path = path
            .replace("{api}", API)
            .replace("{attic}", ATTIC)
            .replace("{hash}", &self.upload.hash_part)
            .replace("{none}", &self.none)
            .replace("{nar}", &self.upload.info.url);
        let preamble = body.iter().position(|byte| *byte == b'}').map_or(0, |end| end + 1);
        let headers = match path == format!("{ATTIC}/upload-path") {
            true => format!("X-Attic-Nar-Info-Preamble-Size: {preamble}\r\n"),
            false => String::new(),
        };
        raw::request_with(&self.server.origin(), method, &path, token, &headers, body)
    }

    fn owner(&self, method: &str, path: &str, body: &str) -> RawAnswer {
        let answer = self.ask(method, path, Some(self.server.token()), body.as_bytes());
        assert!((200..300).contains(&answer.status), "{method} {path}: {answer:?}");
        answer
    }

    fn create(&self, cache: &str, public: bool) {
        self.owner("PUT", &format!("{{api}}/caches/{cache}"), &format!(r#"{{"public":{public}}}"#));
    }

    fn destroy(&self, cache: &str) {
        self.owner("DELETE", &format!("{{api}}/caches/{cache}"), "");
    }

    /// Makes a cache that holds a path and its log.
    fn create_with_path(&self, cache: &str, public: bool) {
        self.create(cache, public);
        let url = format!("{}/{cache}", self.server.origin());
        let http = Http::with_token(&url, self.server.token());
        assert_eq!(self.upload.put_nar(&http).status, 201);
        assert_eq!(self.upload.put_narinfo(&http).status, 201);
        let log = format!("log/{}-e2e.drv", self.upload.hash_part);
        assert_eq!(http.put(&log, b"built").status, 201);
    }

    /// The name of a cache as the case wants it.
    fn arrange(&mut self, finds: Finds, public: bool) -> String {
        if finds == Finds::Path {
            return if public { "public".to_owned() } else { "private".to_owned() };
        }
        self.made += 1;
        let cache = format!("case-{}", self.made);
        if finds != Finds::Nothing {
            self.create(&cache, public);
        }
        if finds == Finds::Destroyed {
            self.destroy(&cache);
        }
        cache
    }

    fn body(&self, body: &str, cache: &str) -> Vec<u8> {
        let info = &self.upload.info;
        let body = body.replace("{cache}", cache);
        match &body[..] {
            "{narinfo}" => info.to_text().into_bytes(),
            "{body}" => self.upload.body.clone(),
            text if text.contains("{nar size}") => {
                let text = text.replace("{hash}", &self.upload.hash_part);
                let text = text.replace("{nar hash}", &info.nar_hash);
                let text = text.replace("{nar size}", &info.nar_size.to_string());
                [text.as_bytes(), &self.upload.body].concat()
            }
            text => text.replace("{hash}", &self.upload.hash_part).into_bytes(),
        }
    }
}

#[test]
fn every_endpoint_lets_in_whom_the_table_says() {
    let data = places::scratch();
    let mut world = World::new(Server::start(data.path()));
    world.create_with_path("public", true);
    world.create_with_path("private", false);
    let mut wrong = Vec::new();
    for &(method, path, body, finds, from_public, from_private, then) in TABLE {
        for (public, who) in [(true, from_public), (false, from_private)] {
            // Each case has a cache of its own where it may change it.
            for number in 0..askers(&world.server, "").len() {
                let cache = world.arrange(finds, public);
                let asker = askers(&world.server, &cache).swap_remove(number);
                let target = path.replace("{cache}", &cache);
                let answer =
                    world.ask(method, &target, asker.token.as_deref(), &world.body(body, &cache));
                let expected = match who.lets_in(&asker.permissions) {
                    true => then,
                    false if asker.good => 403,
                    false => 401,
                };
                if answer.status != expected {
                    let kind = if public { "public" } else { "private" };
                    let Asker { who, .. } = asker;
                    let status = answer.status;
                    wrong.push(format!("{method} {path} ({kind}, {finds:?}), {who}: {status}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
    world.server.stop();
}

#[test]
fn the_unauthorised_cannot_tell_what_there_is() {
    let data = places::scratch();
    let world = World::new(Server::start(data.path()));
    // Of the same length, so that answers differ only in what they tell.
    world.create_with_path("here", false);
    world.create_with_path("gone", true);
    world.destroy("gone");
    let caches = ["here", "gone", "none"];
    let nix = ["nix-cache-info", "{hash}.narinfo", "{none}.narinfo", "{hash}.ls", "{none}.ls"];
    let nix =
        nix.into_iter().chain(["{nar}", "nar/{hash}.nar", "log/{hash}-e2e.drv", "x", "a/b", ""]);
    let nix: Vec<String> = nix.map(|path| format!("/{{cache}}/{path}")).collect();
    let api = "/keys /keys/k /missing /chunks/missing /chunks /paths /restore /sync /chunks/read \
               /profiles /paths/delete /pins/p/verify";
    let api = [""].into_iter().chain(api.split(' '));
    let api: Vec<String> = api.map(|path| format!("{{api}}/caches/{{cache}}{path}")).collect();
    let paths = ["{hash}", "{none}", "{hash}?sizes=1", "x"];
    let paths = paths.map(|path| format!("{{api}}/caches/{{cache}}/paths/{path}"));
    let pins = ["/pins/p", "/pins"].map(|path| format!("{{api}}/caches/{{cache}}{path}"));
    let attic = ["{attic}/cache-config/{cache}", "/{cache}/attic-cache-info"].map(str::to_owned);
    // All caches and paths of a group are answered alike.
    let groups: Vec<(&str, Vec<String>)> = ["GET", "HEAD", "PUT"]
        .into_iter()
        .map(|method| (method, nix.clone()))
        .chain(["PATCH", "DELETE", "PUT"].map(|method| (method, api[..1].to_vec())))
        .chain(["GET", "HEAD"].map(|method| (method, api[..2].to_vec())))
        .chain(["GET", "HEAD"].map(|method| (method, api[6..7].to_vec())))
        .chain([("DELETE", api[2..3].to_vec())])
        .chain(["GET", "HEAD", "DELETE"].map(|method| (method, paths.to_vec())))
        .chain([("POST", [&api[1..2], &api[3..]].concat())])
        .chain(["GET", "HEAD"].map(|method| (method, pins.to_vec())))
        .chain(["PUT", "DELETE"].map(|method| (method, pins[..1].to_vec())))
        .chain(["GET", "HEAD"].map(|method| (method, attic.to_vec())))
        .chain(["POST", "PATCH", "DELETE"].map(|method| (method, attic[..1].to_vec())))
        .chain([("POST", vec!["{attic}/get-missing-paths".to_owned()])])
        .chain([("PUT", vec!["{attic}/upload-path".to_owned()])])
        .collect();
    for asker in strangers(&world.server, "*") {
        for (method, paths) in &groups {
            let mut answers = BTreeSet::new();
            for (cache, path) in caches.iter().flat_map(|c| paths.iter().map(move |p| (c, p))) {
                let path = path.replace("{cache}", cache);
                let body = match &path[..] {
                    "{attic}/get-missing-paths" => {
                        r#"{"cache":"{cache}","store_path_hashes":["x"]}"#
                    }
                    "{attic}/upload-path" => UPLOAD,
                    _ => "{}",
                };
                let body = world.body(body, cache);
                let answer = world.ask(method, &path, asker.token.as_deref(), &body);
                let expected = if asker.good { 403 } else { 401 };
                assert_eq!(answer.status, expected, "{method} {path}, {}", asker.who);
                let challenge = answer.header("www-authenticate").is_some();
                assert_eq!(challenge, expected == 401, "{method} {path}: {}", answer.head);
                answers.insert((answer.head, answer.body));
            }
            assert_eq!(answers.len(), 1, "{method}, {}: {answers:#?}", asker.who);
        }
    }
    world.server.stop();
}

#[test]
fn the_list_shows_each_their_own() {
    let data = places::scratch();
    let world = World::new(Server::start(data.path()));
    world.create("alice-one", false);
    world.create("bob-one", false);
    world.create("alice-old", true);
    world.destroy("alice-old");
    let alice = mint(data.path(), "alice", &[("alice-*", &["pull", "push"])]);
    let keeper = mint(data.path(), "keeper", &[("alice-*", &["destroy"])]);
    let root = world.server.token().to_owned();
    let listed = |token: Option<&str>, query: &str| -> Vec<String> {
        let answer = world.ask("GET", &format!("{{api}}/caches{query}"), token, b"");
        assert_eq!(answer.status, 200, "{answer:?}");
        let list = answer.json();
        let names = list["caches"].as_array().unwrap().iter();
        names.map(|cache| cache["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(listed(None, ""), ["default"]);
    assert_eq!(listed(Some(&alice), ""), ["alice-one", "default"]);
    assert_eq!(listed(Some(&alice), "?destroyed=1"), ["alice-one", "default"]);
    assert_eq!(listed(Some(&keeper), "?destroyed=1"), ["alice-old", "alice-one", "default"]);
    assert_eq!(listed(Some(&root), ""), ["alice-one", "bob-one", "default"]);
    assert_eq!(listed(None, "?destroyed=1"), ["default"]);
    let expired = mint_expired(data.path(), "alice", &[("alice-*", &["pull"])]);
    assert_eq!(world.ask("GET", "{api}/caches", Some(&expired), b"").status, 401);

    let info = world.ask("GET", "{api}/caches/alice-one", Some(&alice), b"").json();
    assert_eq!(info["permissions"], serde_json::json!(["pull", "push"]));
    let info = world.ask("GET", "{api}/caches/default", None, b"").json();
    assert_eq!(info["permissions"], serde_json::json!([]));
    world.server.stop();
}

#[test]
fn proxies_may_keep_only_what_is_public() {
    let data = places::scratch();
    let world = World::new(Server::start(data.path()));
    world.create_with_path("public", true);
    world.create_with_path("private", false);
    for (cache, expected) in [("public", "public"), ("private", "private")] {
        for method in ["GET", "HEAD"] {
            let answer = world.owner(method, &format!("/{cache}/{{nar}}"), "");
            let lifetime = answer.header("cache-control").unwrap();
            assert!(lifetime.starts_with(&format!("{expected}, ")), "{cache}: {lifetime}");
        }
    }
    world.server.stop();
}

#[test]
fn who_is_refused_while_sending_much_hears_why() {
    let data = places::scratch();
    let world = World::new(Server::start(data.path()));
    let expired = mint_expired(data.path(), "ci", &[("default", &["push"])]);
    let body = vec![0; 6 << 20];
    for (method, path) in [("PUT", "/default/{nar}"), ("POST", "{api}/caches/default/chunks")] {
        let answer = world.ask(method, path, Some(&expired), &body);
        assert_eq!(answer.status, 401, "{method} {path}");
        assert!(answer.body.contains("expired"), "{method} {path}: {}", answer.body);
    }
    world.server.stop();
}
