//! Clients of all kinds that push and pull at the same time, while something happens to the servers.
//!
//! What was acknowledged is remembered and has to come back whenever it is asked for. A push may fail,
//! but it has to say so, and why, and succeeds when it is done again. A pull tries as often as Nix
//! does, and then it must not fail.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::closure::Closure;
use crate::codec::{self, Compression};
use crate::granary::Home;
use crate::http::Http;
use crate::made_up::MadeUp;
use crate::nix::{Nix, Version};
use crate::pulls::Puller;
use crate::random::Random;
use crate::upload::Upload;

/// A push that failed is done again so often, as a person or a CI job would.
const TRIES: u32 = 5;
/// They wait a little before they do; longer each time.
const PAUSE: Duration = Duration::from_millis(500);

/// One client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Client {
    /// `granary push`, one path after the other.
    GranaryPush,
    /// `granary push` of the tiny closure, and then of one path after the other.
    ClosurePush,
    /// `nix copy --to`
    NixPush(Version),
    /// NARs and narinfos that are PUT one after the other.
    HandPush,
    /// `nix copy --from`
    NixPull(Version),
    /// GETs that look closely.
    HandPull,
}

/// What was acknowledged: hash parts with the SHA-256 of their NARs.
pub type Known = Vec<(String, String)>;

/// Where the clients go and what they have.
#[derive(Debug)]
pub struct Crowd<'a> {
    origin: String,
    token: String,
    public_key: String,
    root: &'a Path,
    paths: &'a [MadeUp],
    closure: Closure,
    acknowledged: Mutex<Known>,
    done: Mutex<BTreeMap<Client, usize>>,
    troubles: Mutex<(usize, usize, usize)>,
    failed_pushes: AtomicUsize,
    next: AtomicUsize,
    over: AtomicBool,
}

impl<'a> Crowd<'a> {
    /// Clients of the server at `origin` with a token that may do everything, and the key of its
    /// first cache. They push `paths`, which are in the store in `root`.
    pub fn new(
        origin: &str,
        (token, public_key): (&str, &str),
        (root, paths): (&'a Path, &'a [MadeUp]),
    ) -> Self {
        Self {
            origin: origin.to_owned(),
            token: token.to_owned(),
            public_key: public_key.to_owned(),
            root,
            paths,
            closure: Closure::tiny(),
            acknowledged: Mutex::default(),
            done: Mutex::default(),
            troubles: Mutex::default(),
            failed_pushes: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            over: AtomicBool::new(false),
        }
    }

    /// Lets the clients work while `meanwhile` happens, which is to end when
    /// [`goes_on`](Self::goes_on) says so. Panics if a client has nothing to show for it.
    pub fn work(
        &self,
        random: &mut Random,
        clients: &[Client],
        meanwhile: impl FnOnce(&mut Random),
    ) {
        std::thread::scope(|scope| {
            for client in clients {
                let random = Random::new(random.number());
                scope.spawn(move || {
                    let _ends = Ends(&self.over);
                    self.act(*client, random);
                });
            }
            let _ends = Ends(&self.over);
            meanwhile(random);
            self.over.store(true, Ordering::Relaxed);
        });
        let done = self.done.lock().expect("no client panicked");
        println!("done: {done:#?}");
        println!("failed pushes: {}", self.failed_pushes.load(Ordering::Relaxed));
        let (refused, cut, silent) = self.troubles();
        println!("GETs again after {refused} errors, {cut} cuts, {silent} silences");
        for client in clients {
            assert!(done.contains_key(client), "{client:?} has done nothing: {done:?}");
        }
    }

    /// Whether no client has failed.
    pub fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    /// All that was acknowledged so far.
    pub fn acknowledged(&self) -> Known {
        self.acknowledged.lock().expect("no client panicked").clone()
    }

    /// What GETs met and got over: errors, answers cut off, no answers.
    pub fn troubles(&self) -> (usize, usize, usize) {
        *self.troubles.lock().expect("no client panicked")
    }

    fn act(&self, client: Client, random: Random) {
        match client {
            Client::GranaryPush => self.push_with_granary(client),
            Client::ClosurePush => {
                self.push_closure();
                self.push_with_granary(client);
            }
            Client::NixPush(version) => self.push_with_nix(client, version),
            Client::HandPush => self.push_by_hand(client, random),
            Client::NixPull(version) => self.pull_with_nix(client, version, random),
            Client::HandPull => self.pull_by_hand(client, random),
        }
    }

    fn url(&self) -> String {
        format!("{}/default", self.origin)
    }

    fn acknowledge(&self, hash_part: &str, nar_hash: &str) {
        let known = (hash_part.to_owned(), nar_hash.to_owned());
        self.acknowledged.lock().expect("no client panicked").push(known);
    }

    fn count(&self, client: Client) {
        *self.done.lock().expect("no client panicked").entry(client).or_default() += 1;
    }

    /// The next path to push. Every fourth was another client's a moment ago.
    fn next(&self) -> &MadeUp {
        let ticket = self.next.fetch_add(1, Ordering::Relaxed);
        let ticket = if ticket % 4 == 3 { ticket - 1 } else { ticket };
        &self.paths[ticket % self.paths.len()]
    }

    /// Something that was acknowledged, lately or long ago.
    fn any(&self, random: &mut Random) -> Option<(String, String)> {
        let all = self.acknowledged.lock().expect("no client panicked");
        let last = all.len().checked_sub(1)?;
        let back = if random.one_in(2) { random.below(8) } else { random.below(all.len() as u64) };
        all.get(last.saturating_sub(back as usize)).cloned()
    }

    /// Pushes one path after the other.
    fn push(&self, client: Client, push: impl Fn(&MadeUp) -> Result<(), String>) {
        while self.goes_on() {
            let path = self.next();
            self.persist(client, &path.path, || push(path));
            self.acknowledge(path.hash_part(), &path.nar_hash);
            self.count(client);
        }
    }

    /// Does something, and again if it fails. A failure has to be told.
    fn persist(&self, client: Client, what: &str, mut act: impl FnMut() -> Result<(), String>) {
        for attempt in 1..=TRIES {
            let Err(error) = act() else { return };
            println!("{client:?}: {what}, attempt {attempt}: {error}");
            self.failed_pushes.fetch_add(1, Ordering::Relaxed);
            assert!(!error.trim().is_empty(), "{client:?}: {what} failed without a word");
            assert!(!error.contains("panicked"), "{client:?}: {what}: {error}");
            std::thread::sleep(PAUSE * attempt);
        }
        panic!("{client:?}: {what} failed {TRIES} times");
    }

    fn push_with_granary(&self, client: Client) {
        self.push(client, |path| self.granary_push(self.root, &path.path));
    }

    fn granary_push(&self, root: &Path, path: &str) -> Result<(), String> {
        let home = Home::with_token(Version::V2_34, &self.origin, &self.token);
        let root = root.to_str().expect("UTF-8");
        let output = home.granary(&["push", "default", path, "--store", root]);
        let said = String::from_utf8_lossy(&output.stderr);
        output.status.success().then_some(()).ok_or_else(|| said.into_owned())
    }

    /// Many paths at once, which have to be published in order.
    fn push_closure(&self) {
        let Closure { root, top, .. } = &self.closure;
        self.persist(Client::ClosurePush, top, || self.granary_push(root, top));
        for path in &self.closure.paths {
            self.acknowledge(path.hash_part(), &path.nar_hash);
        }
        self.count(Client::ClosurePush);
    }

    fn push_with_nix(&self, client: Client, version: Version) {
        let nix = Nix::with(version, &self.token, &self.public_key);
        let url = format!("{}?compression=zstd", self.url());
        self.push(client, |path| nix.try_copy_to(&url, self.root, &path.path));
    }

    fn push_by_hand(&self, client: Client, mut random: Random) {
        let http = Http::with_token(&self.url(), &self.token);
        while self.goes_on() {
            let nar = random.nar();
            let upload = Upload::new(&random.hash_part(), &nar, Compression::Zstd);
            let (narinfo_path, narinfo) = (upload.narinfo_path(), upload.info.to_text());
            let parts = [(&upload.info.url, &upload.body[..]), (&narinfo_path, narinfo.as_bytes())];
            for (path, body) in parts {
                self.persist(client, path, || match http.try_put(path, body) {
                    Ok(answer) if answer.is_success() => Ok(()),
                    Ok(answer) if answer.is_client_error() => {
                        panic!("PUT {path}: {} {}", answer.status, answer.text())
                    }
                    Ok(answer) => Err(format!("{} {}", answer.status, answer.text())),
                    Err(error) => Err(error.to_string()),
                });
            }
            self.acknowledge(&upload.hash_part, &codec::sha256_hex(&nar));
            self.count(client);
        }
    }

    fn pull_with_nix(&self, client: Client, version: Version, mut random: Random) {
        let made_up = self.paths.iter().map(|path| (path.hash_part(), &path.path));
        let of_closure = self.closure.paths.iter().map(|path| (path.hash_part(), &path.path));
        let names: BTreeMap<_, _> = made_up.chain(of_closure).collect();
        while self.goes_on() {
            let Some((hash_part, nar_hash)) = self.wait_for_any(&mut random) else { return };
            let by_hand = format!("/nix/store/{hash_part}-e2e");
            let path = names.get(&hash_part[..]).map_or(&by_hand, |path| path);
            // A new home, which remembers nothing.
            let nix = Nix::with(version, &self.token, &self.public_key);
            let store = nix
                .try_copy_from(&self.url(), path)
                .unwrap_or_else(|error| panic!("{client:?}: {path} does not come: {error}"));
            assert_eq!(nix.nar_of(&store.real(path)).0, nar_hash, "{client:?}: {path} is another");
            self.count(client);
        }
    }

    fn pull_by_hand(&self, client: Client, mut random: Random) {
        let puller = Puller::new(&self.origin, "default", None);
        while self.goes_on() {
            let Some((hash_part, nar_hash)) = self.wait_for_any(&mut random) else { break };
            if let Err(error) = puller.nar(&hash_part, &nar_hash) {
                panic!("{client:?}: {error}");
            }
            self.count(client);
        }
        let (refused, cut, silent) = puller.troubles();
        let mut all = self.troubles.lock().expect("no client panicked");
        *all = (all.0 + refused, all.1 + cut, all.2 + silent);
    }

    /// Something to pull; `None` if it is over before there is anything.
    fn wait_for_any(&self, random: &mut Random) -> Option<(String, String)> {
        loop {
            if let Some(known) = self.any(random) {
                return Some(known);
            }
            if !self.goes_on() {
                return None;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Pulls everything from the server at `origin`, once: all of it has to be there.
pub fn assert_all_there(origin: &str, all: &Known) {
    let puller = Puller::new(origin, "default", None).trying(1);
    for (hash_part, nar_hash) in all {
        puller.nar(hash_part, nar_hash).unwrap_or_else(|lost| panic!("{lost}"));
    }
}

/// Whatever happens to one client, the others are to end.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}
