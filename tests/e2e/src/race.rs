//! Clients that push, read, pin and delete the same paths, over and over, while their servers collect
//! garbage all the time and are killed now and then. See [`Ledger`] for what has to be there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::closure::Closure;
use crate::codec::{self, Compression};
use crate::granary::Home;
use crate::http::Http;
use crate::ledger::{Begun, Ledger};
use crate::made_up;
use crate::nix::{ChrootStore, Nix, Version};
use crate::pulls::{Fetched, Puller, fetch};
use crate::random::Random;
use crate::upload::Upload;

/// Enough to outlast the restart of a server, since the pauses double.
const ATTEMPTS: u32 = 8;
/// A push that failed is done again so often.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(500);
/// Longer than a request of a server that was killed may be on its way to a bucket or a database.
const SETTLED: Duration = Duration::from_secs(1);
/// Paths of one's own for `granary push` and Nix, and for PUTs.
const MADE_UP: usize = 14;
const BY_HAND: usize = 16;

/// One client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Racer {
    /// `granary push`
    GranaryPush,
    /// `nix copy --to`
    NixPush(Version),
    /// NARs and narinfos that are PUT.
    HandPush,
    /// `granary push --pin`, and `granary pin remove` a moment later.
    Pin,
    /// Deletions of paths with their closures.
    Delete,
    /// `nix copy --from`
    NixPull(Version),
    /// GETs that look closely.
    HandPull,
}

/// Something to push: a path with its closure.
#[derive(Debug)]
struct Target {
    path: String,
    /// By their numbers, the path itself first.
    paths: Vec<usize>,
    how: How,
}

#[derive(Debug)]
enum How {
    /// From the store in this folder.
    Store(PathBuf),
    /// One request after the other.
    Hand(Box<Upload>),
}

/// The clients, what they have and what they know.
#[derive(Debug)]
pub struct Race {
    origin: String,
    token: String,
    public_key: String,
    /// How long a server may remember a path that was deleted through another one.
    memory: Duration,
    _store: ChrootStore,
    targets: Vec<Target>,
    /// Hash parts with the SHA-256 of their NARs.
    paths: Vec<(String, String)>,
    ledger: Ledger,
    done: Mutex<BTreeMap<String, usize>>,
    over: AtomicBool,
}

impl Race {
    /// Clients of the cache `default` at `origin`, with a token that may do everything and the cache's
    /// key. `memory` is how long a server may remember a path that was deleted through another one.
    pub fn new(
        origin: &str,
        (token, public_key): (&str, &str),
        memory: Duration,
        random: &mut Random,
    ) -> Self {
        let nix = Nix::with(Version::V2_34, token, public_key);
        let (store, made) = made_up::store(&nix, random, MADE_UP);
        let (mut targets, mut paths) = (Vec::new(), Vec::new());
        for made in made {
            let (path, how) = (made.path.clone(), How::Store(store.root().to_owned()));
            targets.push(Target { path, paths: vec![paths.len()], how });
            paths.push((made.hash_part().to_owned(), made.nar_hash));
        }
        for _ in 0..BY_HAND {
            let nar = random.nar();
            let upload = Upload::new(&random.hash_part(), &nar, Compression::None);
            paths.push((upload.hash_part.clone(), codec::sha256_hex(&nar)));
            let path = upload.info.store_path.clone();
            let how = How::Hand(Box::new(upload));
            targets.push(Target { path, paths: vec![paths.len() - 1], how });
        }
        // They have paths in common.
        let (closure, first) = (Closure::tiny(), paths.len());
        let of_closure = closure.paths.iter();
        paths.extend(of_closure.map(|path| (path.hash_part().to_owned(), path.nar_hash.clone())));
        for name in ["grep", "sed", "mawk"] {
            let part = closure.of_package(name);
            let wanted = |path: &&String| part.paths.iter().any(|other| other.path == **path);
            let all = closure.paths.iter().map(|path| &path.path);
            let mut numbers: Vec<usize> = (first..)
                .zip(all)
                .filter_map(|(number, path)| wanted(&path).then_some(number))
                .collect();
            numbers.sort_by_key(|&number| closure.paths[number - first].path != part.top);
            let how = How::Store(part.root.clone());
            targets.push(Target { path: part.top, paths: numbers, how });
        }
        Self {
            origin: origin.to_owned(),
            token: token.to_owned(),
            public_key: public_key.to_owned(),
            memory,
            _store: store,
            targets,
            ledger: Ledger::new(paths.len()),
            paths,
            done: Mutex::default(),
            over: AtomicBool::new(false),
        }
    }

    /// Lets the clients work while `meanwhile` happens, which is to end when
    /// [`goes_on`](Self::goes_on) says so. Panics if a client has nothing to show for it.
    pub fn run(&self, random: &mut Random, racers: &[Racer], meanwhile: impl FnOnce(&mut Random)) {
        std::thread::scope(|scope| {
            for racer in racers {
                let random = Random::new(random.number());
                scope.spawn(move || {
                    let _ends = Ends(&self.over);
                    self.act(*racer, random);
                });
            }
            let _ends = Ends(&self.over);
            meanwhile(random);
            self.over.store(true, Ordering::Relaxed);
        });
        let done = self.done.lock().expect("no client panicked");
        println!("done: {done:#?}");
        for racer in racers {
            assert!(done.contains_key(&format!("{racer:?}")), "{racer:?} has done nothing");
        }
    }

    /// Whether no client has failed.
    pub fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    /// How many paths have to be there.
    pub fn certain(&self) -> usize {
        self.ledger.there().len()
    }

    /// Reads all that has to be there, once, from the server at `origin`.
    pub fn assert_all_there(&self, origin: &str) {
        let puller = Puller::new(origin, "default", Some(&self.token)).trying(1);
        for number in self.ledger.there() {
            let (hash_part, nar_hash) = &self.paths[number];
            puller.nar(hash_part, nar_hash).unwrap_or_else(|lost| panic!("{lost}"));
        }
    }

    fn act(&self, racer: Racer, mut random: Random) {
        while self.goes_on() {
            match racer {
                Racer::GranaryPush => self.push_with_granary(racer, &mut random),
                Racer::NixPush(version) => self.push_with_nix(racer, version, &mut random),
                Racer::HandPush => self.push_by_hand(racer, &mut random),
                Racer::Pin => self.pin(racer, &mut random),
                Racer::Delete => self.delete(racer, &mut random),
                Racer::NixPull(version) => self.pull_with_nix(racer, version, &mut random),
                Racer::HandPull => self.pull_by_hand(racer, &mut random),
            }
        }
    }

    fn url(&self) -> String {
        format!("{}/default", self.origin)
    }

    fn count(&self, what: impl Into<String>) {
        *self.done.lock().expect("no client panicked").entry(what.into()).or_default() += 1;
    }

    fn any<'a>(&'a self, random: &mut Random, wanted: impl Fn(&Target) -> bool) -> &'a Target {
        let fitting: Vec<&Target> = self.targets.iter().filter(|target| wanted(target)).collect();
        fitting[random.below(fitting.len() as u64) as usize]
    }

    /// Something in a store, and the store's folder.
    fn any_in_store(&self, random: &mut Random) -> (&Target, &PathBuf) {
        let target = self.any(random, |target| matches!(target.how, How::Store(_)));
        let How::Store(root) = &target.how else { panic!("it was chosen so") };
        (target, root)
    }

    /// Pushes something, and again if that fails. A failure has to be told. Whether it was done.
    fn persist(
        &self,
        racer: Racer,
        target: &Target,
        memory: Duration,
        mut act: impl FnMut() -> Result<(), String>,
    ) -> Option<Begun> {
        for attempt in 1..=TRIES {
            let begun = self.ledger.begin_push(&target.paths, memory);
            let Err(error) = act() else {
                self.count(format!("{racer:?}"));
                return Some(begun);
            };
            println!("{racer:?}: {}, attempt {attempt}: {error}", target.path);
            self.count(format!("{racer:?} failed"));
            assert!(!error.trim().is_empty(), "{racer:?}: {} failed without a word", target.path);
            assert!(!error.contains("panicked"), "{racer:?}: {}: {error}", target.path);
            if !self.goes_on() {
                return None;
            }
            std::thread::sleep(PAUSE);
        }
        panic!("{racer:?}: {} failed {TRIES} times", target.path);
    }

    fn granary(&self, arguments: &[&str]) -> Result<(), String> {
        let home = Home::with_token(Version::V2_34, &self.origin, &self.token);
        let output = home.granary(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        output.status.success().then_some(()).ok_or_else(|| said.into_owned())
    }

    fn push_with_granary(&self, racer: Racer, random: &mut Random) {
        let (target, root) = self.any_in_store(random);
        let push = ["push", "default", &target.path, "--store", root.to_str().expect("UTF-8")];
        let pushed = self.persist(racer, target, Duration::ZERO, || self.granary(&push));
        pushed.iter().for_each(|begun| self.ledger.pushed(begun, false));
    }

    fn push_with_nix(&self, racer: Racer, version: Version, random: &mut Random) {
        let (target, root) = self.any_in_store(random);
        let url = format!("{}?compression=zstd", self.url());
        let pushed = self.persist(racer, target, self.memory, || {
            // A new home: one that remembers what it has pushed would not push it again.
            let nix = Nix::with(version, &self.token, &self.public_key);
            nix.try_copy_to(&url, root, &target.path)
        });
        pushed.iter().for_each(|begun| self.ledger.pushed(begun, false));
    }

    fn push_by_hand(&self, racer: Racer, random: &mut Random) {
        // It is faster than all others, who want a part of the processors, too.
        std::thread::sleep(Duration::from_millis(random.below(100)));
        let target = self.any(random, |target| matches!(target.how, How::Hand(_)));
        let How::Hand(upload) = &target.how else { panic!("it was chosen so") };
        let http = Http::with_token(&self.url(), &self.token);
        let put = |path: &str, body: &[u8], blame: bool| match http.try_put(path, body) {
            Ok(answer) if answer.is_success() => Ok(()),
            Ok(answer) if answer.is_client_error() && blame => {
                panic!("PUT {path}: {} {}", answer.status, answer.text())
            }
            Ok(answer) => Err(format!("{} {}", answer.status, answer.text())),
            Err(error) => Err(error.to_string()),
        };
        // As Nix does it: a NAR that is there is not sent. It may go before the narinfo comes.
        let mut looks = random.one_in(2);
        let pushed = self.persist(racer, target, Duration::ZERO, || {
            let looked = std::mem::take(&mut looks);
            let nar = format!("/default/{}", upload.info.url);
            let there = looked
                && fetch(&self.origin, "HEAD", &nar, Some(&self.token), &[]).status() == Some(200);
            if !there {
                put(&upload.info.url, &upload.body, true)?;
            }
            put(&upload.narinfo_path(), upload.info.to_text().as_bytes(), !there)
        });
        pushed.iter().for_each(|begun| self.ledger.pushed(begun, false));
    }

    fn pin(&self, racer: Racer, random: &mut Random) {
        let (target, root) = self.any_in_store(random);
        let root = root.to_str().expect("UTF-8");
        let push = ["push", "default", &target.path, "--store", root, "--pin", "race"];
        let pushed = self.persist(racer, target, Duration::ZERO, || self.granary(&push));
        pushed.iter().for_each(|begun| self.ledger.pushed(begun, true));
        std::thread::sleep(Duration::from_millis(500 + random.below(1500)));
        self.ledger.begin_unpin(&target.paths);
        for _ in 0..TRIES {
            match self.granary(&["pin", "remove", "default", "race"]) {
                Ok(()) => return,
                Err(error) if error.contains("no pin called") => return,
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
        panic!("{racer:?}: the pin does not go");
    }

    fn delete(&self, racer: Racer, random: &mut Random) {
        // Not so often that hardly anything is ever there.
        std::thread::sleep(Duration::from_millis(random.below(1200)));
        let target = self.any(random, |_| true);
        let begun = self.ledger.begin_deletion(&target.paths);
        let body = json!({"hashes": [self.paths[target.paths[0]].0], "closure": true}).to_string();
        let path = "/_granary/v1/caches/default/paths/delete";
        let fetched = fetch(&self.origin, "POST", path, Some(&self.token), body.as_bytes());
        let took = match fetched {
            Fetched::Whole { status: 200, body, .. } => {
                let deleted: Value = serde_json::from_slice(&body).expect("JSON");
                let paths = deleted["paths"].as_array().expect("a list").iter();
                let hash_part = |path: &Value| path.as_str().expect("text")[..32].to_owned();
                self.count(format!("{racer:?}"));
                Some(paths.map(hash_part).collect::<BTreeSet<String>>())
            }
            Fetched::Whole { status: status @ (404 | 409), body, .. } => {
                let said = String::from_utf8_lossy(&body);
                let lost = status == 404 && self.ledger.was_there(&begun);
                assert!(!lost, "{racer:?}: {} is lost: {said}", target.path);
                self.count(format!("{racer:?} refused: {status}"));
                Some(BTreeSet::new())
            }
            _ => {
                std::thread::sleep(SETTLED);
                None
            }
        };
        let took = took.map(|took| move |path: usize| took.contains(&self.paths[path].0));
        let wrong = match &took {
            Some(took) => self.ledger.deleted(&begun, Some(took)),
            None => self.ledger.deleted(&begun, None),
        };
        if let Some(path) = wrong {
            panic!("{racer:?}: {} was deleted, and was pinned", self.paths[path].0);
        }
    }

    fn pull_with_nix(&self, racer: Racer, version: Version, random: &mut Random) {
        let target = self.any(random, |_| true);
        let mut attempt = 1;
        loop {
            let reading = self.ledger.begin_push(&target.paths, Duration::ZERO);
            let nix = Nix::with(version, &self.token, &self.public_key);
            match nix.try_copy_from(&self.url(), &target.path) {
                Ok(store) => {
                    let nar_hash = &self.paths[target.paths[0]].1;
                    let pulled = nix.nar_of(&store.real(&target.path)).0;
                    assert_eq!(pulled, *nar_hash, "{racer:?}: {} is another", target.path);
                    self.count(format!("{racer:?}"));
                    return;
                }
                Err(error) if !self.ledger.was_there(&reading) => {
                    assert!(!error.contains("hash mismatch"), "{racer:?}: {error}");
                    self.count(format!("{racer:?} in vain"));
                    return;
                }
                // Its own attempts may all have met the same restart.
                Err(error) => assert!(attempt < 3, "{racer:?}: {}: {error}", target.path),
            }
            attempt += 1;
        }
    }

    fn pull_by_hand(&self, racer: Racer, random: &mut Random) {
        let there = self.ledger.there();
        let number = match there.len() as u64 {
            some @ 1.. if !random.one_in(4) => there[random.below(some) as usize],
            _ => random.below(self.paths.len() as u64) as usize,
        };
        let (hash_part, nar_hash) = &self.paths[number];
        let reading = self.ledger.begin_read(number);
        let puller = Puller::new(&self.origin, "default", Some(&self.token)).trying(ATTEMPTS);
        match puller.nar(hash_part, nar_hash) {
            Ok(_) => self.count(format!("{racer:?}")),
            Err(error) => {
                assert!(!self.ledger.was_there(&reading), "{racer:?}: {error}");
                self.count(format!("{racer:?} in vain"));
                std::thread::sleep(Duration::from_millis(20));
            }
        }
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
