//! What there is to copy: narinfos, asked for side by side and followed along their references.

use std::collections::{HashMap, HashSet, VecDeque};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use granary_api::push::MissingPaths;
use nar_compression::Compression;
use nix_compat::narinfo::NarInfo;
use nix_compat::nixhash::Sha256;
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::{StorePath, StorePathHash};

use super::trust::Proof;
use super::{MigrateError, Source, SourceError, Trust};
use crate::http::RemoteCache;
use crate::local::closure::sort;

/// Narinfos under way: they are small, and a line of 100 ms brings 640 a second so.
const LOOKUPS: usize = 64;
/// Paths that are asked about in one request.
const ASK: usize = 200_000;

/// Where to begin.
#[derive(Debug, Clone)]
pub enum Roots {
    /// These paths, and everything they refer to.
    Paths(Vec<StorePathHash>),
    /// Everything the source has.
    All,
}

/// What is believed, and what is wanted.
#[derive(Debug)]
pub struct GatherOptions {
    /// Whose signatures count.
    pub trust: Trust,
    /// Take paths that refer to what neither the source nor the target has.
    pub allow_missing_references: bool,
}

/// What can be copied.
#[derive(Debug, Default)]
pub struct Gathered {
    /// The paths, references first.
    pub paths: Vec<PathInfo>,
    /// Paths that cannot be copied, by their names or, where these are not known, hash parts; and why.
    pub failed: Vec<(String, String)>,
    /// How many the target was found to have before they were looked at.
    pub present: usize,
    pub(super) nars: HashMap<StorePathHash, Nar>,
}

/// Where a path's NAR is, and what it has to be besides what the path's info says.
#[derive(Debug, Clone)]
pub(super) struct Nar {
    pub url: String,
    pub compression: Compression,
    pub file_hash: Option<Sha256>,
    pub file_size: Option<u64>,
    /// The hash of the one file that it holds, if that is what proves it.
    pub content: Option<Sha256>,
}

/// Finds out what there is to copy.
pub async fn gather(
    source: &Source,
    target: &RemoteCache,
    roots: Roots,
    options: &GatherOptions,
) -> Result<Gathered, MigrateError> {
    let mut gathered = Gathered::default();
    let mut present = HashSet::new();
    let roots = match roots {
        Roots::Paths(roots) => roots,
        Roots::All => {
            let mut all = source.all().await?;
            let missing = missing(target, &all).await?;
            present.extend(all.iter().copied().filter(|hash| !missing.contains(hash)));
            gathered.present = present.len();
            all.retain(|hash| !present.contains(hash));
            all
        }
    };
    let mut walk = Walk { infos: HashMap::new(), bad: HashMap::new(), absent: HashSet::new() };
    walk.run(source, &roots, &present, options, &mut gathered.nars).await?;
    let Walk { infos, mut bad, absent } = walk;
    for hash in roots.iter().filter(|hash| absent.contains(hash)) {
        let why = "the source does not have it".to_owned();
        bad.entry(*hash).or_insert((hash.to_string(), why));
    }
    // What the source lacks may be in the target.
    let absent: Vec<StorePathHash> = absent.into_iter().collect();
    let absent = match options.allow_missing_references || absent.is_empty() {
        true => HashSet::new(),
        false => missing(target, &absent).await?,
    };
    let order: Vec<StorePath> = roots.iter().filter_map(|hash| path_of(&infos, hash)).collect();
    let by_path = infos.into_values().map(|info| (info.store_path.clone(), info)).collect();
    gathered.paths = sort(&order, by_path);
    leave_out(&mut gathered.paths, &mut bad, &absent);
    gathered.failed = bad.into_values().collect();
    gathered.failed.sort();
    Ok(gathered)
}

fn path_of(infos: &HashMap<StorePathHash, PathInfo>, hash: &StorePathHash) -> Option<StorePath> {
    infos.get(hash).map(|info| info.store_path.clone())
}

type Bad = HashMap<StorePathHash, (String, String)>;

/// Leaves out what refers to something bad or absent, and what refers to that.
fn leave_out(paths: &mut Vec<PathInfo>, bad: &mut Bad, absent: &HashSet<StorePathHash>) {
    loop {
        let before = paths.len();
        paths.retain(|info| {
            let mut why = None;
            for reference in info.other_references() {
                if bad.contains_key(&reference.hash()) {
                    why = Some(format!("{reference}, which it refers to, is left out"));
                } else if absent.contains(&reference.hash()) {
                    why = Some(format!(
                        "{reference}, which it refers to, is neither in the source nor in the \
                         target: --allow-missing-references takes it nevertheless"
                    ));
                }
            }
            let Some(why) = why else { return true };
            bad.insert(info.store_path.hash(), (info.store_path.to_string(), why));
            false
        });
        // Paths that refer to each other in a circle take another round.
        if paths.len() == before {
            return;
        }
    }
}

async fn missing(
    target: &RemoteCache,
    hashes: &[StorePathHash],
) -> Result<HashSet<StorePathHash>, MigrateError> {
    let mut missing = HashSet::new();
    for page in hashes.chunks(ASK) {
        let hashes = page.iter().map(ToString::to_string).collect();
        let answer = target.missing(&MissingPaths { hashes }).await?;
        missing.extend(answer.hashes.iter().filter_map(|hash| hash.parse::<StorePathHash>().ok()));
    }
    Ok(missing)
}

struct Walk {
    infos: HashMap<StorePathHash, PathInfo>,
    bad: Bad,
    absent: HashSet<StorePathHash>,
}

impl Walk {
    async fn run(
        &mut self,
        source: &Source,
        roots: &[StorePathHash],
        present: &HashSet<StorePathHash>,
        options: &GatherOptions,
        nars: &mut HashMap<StorePathHash, Nar>,
    ) -> Result<(), SourceError> {
        let mut seen = present.clone();
        let mut waiting: VecDeque<StorePathHash> =
            roots.iter().copied().filter(|hash| seen.insert(*hash)).collect();
        let mut running = FuturesUnordered::new();
        loop {
            while running.len() < LOOKUPS
                && let Some(hash) = waiting.pop_front()
            {
                running.push(async move { (hash, source.narinfo(&hash.to_string()).await) });
            }
            let Some((hash, answer)) = running.next().await else { return Ok(()) };
            let text = match answer {
                Ok(text) => text,
                Err(SourceError::Answer { why, .. }) => {
                    self.bad.insert(hash, (hash.to_string(), why));
                    continue;
                }
                Err(error) => return Err(error),
            };
            let Some(text) = text else {
                self.absent.insert(hash);
                continue;
            };
            match read(&text, hash, source, &options.trust) {
                Ok((info, nar)) => {
                    let new = info.references.iter().map(StorePath::hash);
                    waiting.extend(new.filter(|hash| seen.insert(*hash)));
                    self.infos.insert(hash, info);
                    nars.insert(hash, nar);
                }
                Err(bad) => {
                    self.bad.insert(hash, bad);
                }
            }
        }
    }
}

/// Reads a narinfo and judges it. What is wrong comes back with the best name there is.
pub(super) fn read(
    text: &Bytes,
    hash: StorePathHash,
    source: &Source,
    trust: &Trust,
) -> Result<(PathInfo, Nar), (String, String)> {
    let info = NarInfo::parse(text, source.store_dir());
    let info = info.map_err(|error| (hash.to_string(), format!("its narinfo: {error}")))?;
    let name = info.store_path.to_string();
    let bad = |why: String| (name.clone(), why);
    if info.store_path.hash() != hash {
        return Err((hash.to_string(), format!("its narinfo is that of {name}")));
    }
    let proof = trust.judge(&info, source.store_dir()).map_err(bad)?;
    let compression = Compression::from_narinfo(info.compression);
    let nar = Nar {
        url: info.url.to_owned(),
        compression: compression.map_err(|error| bad(format!("its narinfo: {error}")))?,
        file_hash: info.file_hash,
        file_size: info.file_size,
        content: match proof {
            Proof::Given => None,
            Proof::File(hash) => Some(hash),
        },
    };
    Ok((path_info(info), nar))
}

/// What a narinfo says of its path, as a store would. A cache does not tell since when it has it.
pub fn path_info(narinfo: NarInfo<'_>) -> PathInfo {
    let NarInfo { store_path, nar_hash, nar_size, deriver, ca, .. } = narinfo;
    let (mut references, mut signatures) = (narinfo.references, narinfo.signatures);
    references.sort_unstable();
    references.dedup();
    signatures.sort_unstable();
    signatures.dedup();
    PathInfo {
        store_path,
        nar_hash,
        nar_size,
        references,
        deriver,
        signatures,
        odd_signatures: Vec::new(),
        ca,
        ultimate: false,
        registration_time: 0,
    }
}
