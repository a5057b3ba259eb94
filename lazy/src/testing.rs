//! A source that does as a test tells it, and paths to put in.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use castore::{Digest, Kind};
use granary_api::sync::{PathProfile, SyncPaths, SyncedPath, root_fingerprint};
use granary_client::migrate::Trust;
use nix_compat::nixhash::Sha256;
use nix_compat::signature::SigningKey;
use nix_compat::store_path::{StoreDir, StorePath, StorePathHash};

use crate::disk::DiskCache;
use crate::source::{Keep, Source, SourceError, unpack};
use crate::{LazyStore, Options};

/// After how long reads fail in tests.
pub const PATIENCE: Duration = Duration::from_millis(400);

/// Bytes that do not compress, others for each number.
pub fn noise(number: u64, length: usize) -> Vec<u8> {
    let mut plain = vec![0; length];
    blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut plain);
    plain
}

pub fn key(name: &str) -> SigningKey {
    SigningKey::generate(name, *blake3::hash(name.as_bytes()).as_bytes()).unwrap()
}

/// How a source behaves.
#[derive(Default)]
pub struct Behaviour {
    /// How long an answer takes.
    pub delay: Duration,
    /// It answers nothing.
    pub silent: bool,
    /// It answers that it cannot, when the delay is over.
    pub failing: bool,
    /// How often the chunk still comes damaged.
    pub damaged: HashMap<Digest, u32>,
    /// Chunks that it has lost.
    pub missing: HashSet<Digest>,
    /// The questions for chunks so far.
    pub questions: Vec<Vec<Digest>>,
    /// The questions for paths so far.
    pub syncs: usize,
    /// What it was told.
    pub profiles: Vec<PathProfile>,
    paths: HashMap<Vec<u8>, SyncedPath>,
    chunks: HashMap<Digest, Vec<u8>>,
}

/// The source.
#[derive(Clone, Default)]
pub struct Script(Arc<Mutex<Behaviour>>);

impl Script {
    pub fn state(&self) -> MutexGuard<'_, Behaviour> {
        self.0.lock().unwrap()
    }

    /// Adds a chunk.
    pub fn chunk(&self, plain: &[u8]) -> (Digest, u32) {
        let (digest, mut record) = (Digest::of(plain), Vec::new());
        crate::record::append(&mut record, Kind::Chunk, plain).unwrap();
        self.state().chunks.insert(digest, record);
        (digest, plain.len() as u32)
    }

    /// Adds a path, a folder of files, whose tree `signers` vouch for. `change` may change what is
    /// said of it.
    pub fn path(
        &self,
        number: u8,
        files: &[(&str, &[u8])],
        signers: &[&SigningKey],
        change: impl FnOnce(&mut SyncedPath),
    ) -> StorePath {
        let path: StorePath =
            format!("{}-path", StorePathHash::from([number; 20])).parse().unwrap();
        let nar = nar(files);
        let script = self.clone();
        let seen = move |_: &Digest, plain: &[u8]| {
            script.chunk(plain);
        };
        let whole = unpack(&mut &nar[..], &Keep { disk: None, seen: Arc::new(seen) }).unwrap();
        let (tree, hash) = (Digest::of(&whole.tree), Sha256::of(&nar).to_nix32());
        let full = format!("{}/{path}", StoreDir::default());
        let print = format!("1;{full};sha256:{hash};{};", nar.len());
        let signatures: String = signers
            .iter()
            .map(|key| key.sign(&root_fingerprint(&print, &tree.to_string())))
            .map(|signature| format!("GranarySig: {signature}\n"))
            .collect();
        let narinfo = format!(
            "StorePath: {full}\nURL: nar/{hash}.nar\nCompression: none\nNarHash: sha256:{hash}\n\
             NarSize: {}\nReferences: \nGranaryTree: {tree}\n{signatures}",
            nar.len()
        );
        let hash = path.hash().as_bytes().to_vec();
        let (narinfo, profile) = (narinfo.into_bytes(), Vec::new());
        let mut synced = SyncedPath {
            hash: hash.clone(),
            narinfo,
            tree: whole.tree,
            lists: whole.lists,
            profile,
        };
        change(&mut synced);
        self.state().paths.insert(hash, synced);
        path
    }

    /// A store on it that believes `key`.
    pub fn store(&self, disk: Option<Arc<DiskCache>>, trust: Trust) -> LazyStore {
        self.store_with(disk, trust, true)
    }

    pub fn store_with(
        &self,
        disk: Option<Arc<DiskCache>>,
        trust: Trust,
        profiles: bool,
    ) -> LazyStore {
        let options =
            Options { trust, store_dir: StoreDir::default(), patience: PATIENCE, profiles };
        let source = Source::Scripted(self.clone());
        LazyStore::new(source, disk, options, tokio::runtime::Handle::current())
    }

    async fn answer(&self) -> Result<(), SourceError> {
        let delay = self.state().delay;
        tokio::time::sleep(delay).await;
        while self.state().silent {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let failing = self.state().failing;
        if failing { Err(SourceError("it is told to fail".to_owned())) } else { Ok(()) }
    }

    pub async fn sync(&self, question: SyncPaths) -> Result<Vec<SyncedPath>, SourceError> {
        self.state().syncs += 1;
        self.answer().await?;
        let state = self.state();
        let (hashes, _) = question.hashes.as_chunks::<20>();
        Ok(hashes.iter().filter_map(|hash| state.paths.get(&hash[..]).cloned()).collect())
    }

    pub async fn read_chunks(&self, digests: &[Digest]) -> Result<Bytes, SourceError> {
        self.state().questions.push(digests.to_vec());
        self.answer().await?;
        let mut state = self.state();
        let mut answer = Vec::new();
        for digest in digests {
            let record = state.chunks.get(digest).filter(|_| !state.missing.contains(digest));
            let Some(mut record) = record.cloned() else { continue };
            if let Some(left) = state.damaged.get_mut(digest).filter(|left| **left > 0) {
                *left -= 1;
                let last = record.len() - 1;
                record[last] ^= 1;
            }
            answer.extend_from_slice(&record);
        }
        Ok(answer.into())
    }

    pub fn send_profiles(&self, profiles: &[PathProfile]) -> Result<(), SourceError> {
        if self.state().failing {
            return Err(SourceError("it is told to fail".to_owned()));
        }
        self.state().profiles.extend_from_slice(profiles);
        Ok(())
    }
}

/// The NAR of a folder of files, which have to be sorted.
pub fn nar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut say = |text: &[u8]| {
        out.extend_from_slice(&(text.len() as u64).to_le_bytes());
        out.extend_from_slice(text);
        out.resize(out.len().next_multiple_of(8), 0);
    };
    for word in ["nix-archive-1", "(", "type", "directory"] {
        say(word.as_bytes());
    }
    for (name, contents) in files {
        for word in ["entry", "(", "name", name, "node", "(", "type", "regular", "contents"] {
            say(word.as_bytes());
        }
        say(contents);
        say(b")");
        say(b")");
    }
    say(b")");
    out
}
