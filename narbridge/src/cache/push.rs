//! Pushing: a client that cuts paths into chunks itself asks what is missing, sends that, and
//! publishes.
//!
//! What is missing is a question of who asks. A pusher who may read the cache learns what is in it,
//! one who may not learns only of what was pushed under the same name.

use std::io::Read;

use castore::tree::ChunkRef;
use castore::{Assembly, AssemblyError, Cause, Digest, Holder, IntakeError, Kind, StoreError};
use nix_compat::narinfo::NarInfo;
use nix_compat::nixhash::Sha256;
use nix_compat::store_path::StorePathHash;
use sha2::Digest as _;

use super::nars::{Source, UploadedNar};
use super::publish::{Uploader, check_signatures, wrong};
use super::{Cache, CacheError, PublishError};
use crate::compression::Compression;
use crate::nar::Walk;
use crate::records::{digest, verified_key};

/// Who pushes.
#[derive(Clone, Debug)]
pub struct Pusher {
    /// Whose chunks count as being there.
    pub holders: Vec<Holder>,
    /// Who gets claims to the chunks that come.
    pub intake: Holder,
    /// Subject of the token.
    pub subject: String,
    /// Whether the pusher may read the cache.
    pub reads: bool,
}

impl Pusher {
    pub(super) fn uploader(&self) -> Uploader<'_> {
        Uploader { subject: &self.subject, blind: !self.reads }
    }
}

/// What became of a path.
pub enum PushOutcome {
    /// It is as it was said to be, and can be published.
    Verified(Box<Verified>),
    /// These chunks have to be sent first.
    Missing(Vec<Digest>),
}

/// A path as a pusher describes it.
pub struct PushedPath {
    /// What it is to be. The URL does not matter.
    pub info: NarInfo<'static>,
    /// The tree that it holds, encoded.
    pub tree: Vec<u8>,
    /// The chunk lists of the tree, encoded, in the order of their blobs.
    pub lists: Vec<Vec<u8>>,
}

/// A path that was pushed and verified. [`Cache::publish_verified`] makes it durable and visible.
pub struct Verified {
    info: NarInfo<'static>,
    nar: UploadedNar,
    subject: String,
    blind: bool,
}

impl Verified {
    fn uploader(&self) -> Uploader<'_> {
        Uploader { subject: &self.subject, blind: self.blind }
    }
}

/// Why a push went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// What was said of the path is not so.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The path cannot be put together from what was sent.
    #[error(transparent)]
    Assembly(#[from] AssemblyError),
    /// The store is at fault.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Nobody waits for the answer any more.
    #[error("the client has gone")]
    Abandoned,
}

impl From<CacheError> for PushError {
    fn from(error: CacheError) -> Self {
        Self::Publish(error.into())
    }
}

impl Cache {
    /// Who has claims to what is uploaded to this cache.
    pub fn holder(&self) -> Holder {
        Holder::named(format!("cache {}", self.number).as_bytes())
    }

    /// Who has claims to what this subject sends to this cache without being able to read it.
    pub fn holder_for(&self, subject: &str) -> Holder {
        Holder::named(format!("subject {} {subject}", self.number).as_bytes())
    }

    /// Which of these paths the pusher has to push. Blocks.
    pub fn missing_paths(
        &self,
        hashes: Vec<StorePathHash>,
        pusher: &Pusher,
    ) -> Result<Vec<StorePathHash>, CacheError> {
        let (mut missing, mut told) = (Vec::new(), Vec::new());
        let _deciding = self.decide_among_others();
        for hash in hashes {
            let known = match self.path_record(hash)? {
                Some((_, record)) if pusher.reads || record.uploader == pusher.subject => {
                    // What broke may have come back with another path.
                    let tree = digest(&record.name, &record.tree)?;
                    !self.broken.has(&tree) || !self.broken.look(&tree)?
                }
                _ => false,
            };
            match known {
                true => told.push(hash),
                false => missing.push(hash),
            }
        }
        // Whoever has them relies on their being here from now on.
        self.accesses.note_relied_on(self.number, &told)?;
        Ok(missing)
    }

    /// For each chunk, whether it is missing. Blocks.
    pub fn missing_chunks(
        &self,
        digests: &[Digest],
        pusher: &Pusher,
    ) -> Result<Vec<bool>, StoreError> {
        let found = self.store.held_all(&pusher.holders, digests)?;
        Ok(found.iter().map(Option::is_none).collect())
    }

    /// Takes in chunks as records one behind the other. Durable with the path that needs them.
    /// Blocks.
    pub fn take_chunks(&self, records: impl Read, pusher: &Pusher) -> Result<(), IntakeError> {
        let mut intake = self.store.intake(pusher.intake)?;
        let taken = intake.add_all(records);
        // What came whole before an error need not come again.
        intake.finish()?;
        taken
    }

    /// The bytes of a manifest that was sent as chunks; what is missing of it, if anything is.
    pub fn sent_manifest(
        &self,
        chunks: &[Digest],
        pusher: &Pusher,
        gathered: &mut bool,
    ) -> Result<Result<Vec<u8>, Vec<Digest>>, PushError> {
        match self.read_manifest(chunks, pusher)? {
            Err(_) if self.gather_once(gathered)? => self.read_manifest(chunks, pusher),
            read => Ok(read),
        }
    }

    fn read_manifest(
        &self,
        chunks: &[Digest],
        pusher: &Pusher,
    ) -> Result<Result<Vec<u8>, Vec<Digest>>, PushError> {
        let (mut out, mut missing) = (Vec::new(), Vec::new());
        let mut reader = self.store.reader()?;
        for digest in chunks {
            let Some(location) = self.store.held(&pusher.holders, digest)? else {
                missing.push(*digest);
                continue;
            };
            if out.len() + location.plain as usize > MAX_MANIFEST {
                let why = format!("it is longer than {MAX_MANIFEST} bytes");
                return Err(wrong("manifest", why).into());
            }
            let (digest, size) = (*digest, location.plain);
            reader.append_chunk(&ChunkRef { digest, size, patches: Vec::new() }, &mut out)?;
        }
        Ok(if missing.is_empty() { Ok(out) } else { Err(missing) })
    }

    /// Verifies a path whose chunks came before. The NAR is made and hashed; that may take long, and
    /// is given up when `wanted` says so. Chunks that are missing are `gathered` from the other
    /// servers once. Blocks.
    pub fn verify_pushed(
        &self,
        path: PushedPath,
        pusher: &Pusher,
        max_nar_size: u64,
        gathered: &mut bool,
        wanted: &dyn Fn() -> bool,
    ) -> Result<PushOutcome, PushError> {
        let PushedPath { info, tree, lists } = path;
        if info.nar_size > max_nar_size {
            let why = format!("this server takes {max_nar_size} bytes (--max-nar-size)");
            return Err(wrong("NarSize", why).into());
        }
        self.check_content_address(&info, info.nar_hash)?;
        let mut assembly = self.store.assemble(tree, lists)?;
        let mut missing = assembly.missing(&pusher.holders)?;
        if !missing.is_empty() && self.gather_once(gathered)? {
            missing = assembly.missing(&pusher.holders)?;
        }
        if !missing.is_empty() {
            return Ok(PushOutcome::Missing(missing));
        }
        let root = assembly.tree().root().encode();
        let digest = Digest::of(assembly.encoded());
        let known = assembly.is_proven() && self.is_verified(&digest, &info)?;
        if !known && let Err(error) = verify(&mut assembly, &info, wanted) {
            // What turned out to be damaged is missing from now on, and so is what was condemned and has been
            // collected since it was looked for.
            let missing = match &error {
                PushError::Assembly(AssemblyError::Store(lost)) if lost.cause() == Cause::Lost => {
                    assembly.missing(&pusher.holders)?
                }
                _ => Vec::new(),
            };
            return if missing.is_empty() { Err(error) } else { Ok(PushOutcome::Missing(missing)) };
        }
        let (tree, flight) = match assembly.finish(self.holder()) {
            Err(AssemblyError::Store(StoreError::Missing { kind: Kind::Chunk, digest })) => {
                return Ok(PushOutcome::Missing(vec![digest]));
            }
            finished => finished?,
        };
        let verified = verified_value(info.nar_hash, info.nar_size);
        self.store.remember(&verified_key(&tree), &verified)?;
        let nar = UploadedNar {
            root,
            tree,
            nar_hash: info.nar_hash,
            nar_size: info.nar_size,
            compression: Compression::None,
            file_size: info.nar_size,
            source: Source::flown(flight),
        };
        // What could still keep it from being published comes up before others build on it.
        check_signatures(&info)?;
        self.zstd_len(&nar)?;
        let (subject, blind) = (pusher.subject.clone(), !pusher.reads);
        Ok(PushOutcome::Verified(Box::new(Verified { info, nar, subject, blind })))
    }

    /// Makes paths durable and visible, all with one write. Blocks.
    pub fn publish_verified(&self, paths: &[Verified]) -> Vec<Result<(), PushError>> {
        let records = paths.iter().map(|path| (&path.info, &path.nar, path.uploader())).collect();
        self.record_all(records).into_iter().map(|done| Ok(done.map(drop)?)).collect()
    }

    /// What was sent to other servers of this store is here after this. Only done once for all the
    /// paths of a request, and not at all where nobody else is.
    fn gather_once(&self, gathered: &mut bool) -> Result<bool, StoreError> {
        if std::mem::replace(gathered, true) || !self.store.is_shared() {
            return Ok(false);
        }
        self.store.gather()?;
        Ok(true)
    }

    /// Whether this very tree, which is still there, was found to be this NAR before.
    fn is_verified(&self, tree: &Digest, info: &NarInfo<'_>) -> Result<bool, StoreError> {
        let known = self.store.derived(&verified_key(tree))?;
        let same = known.is_some_and(|known| known == verified_value(info.nar_hash, info.nar_size));
        Ok(same && self.store.locate(Kind::Tree, tree)?.is_some())
    }
}

/// The longest manifest, in bytes: the largest tree, and the lists of 100 GB of files.
const MAX_MANIFEST: usize = castore::tree::MAX_TREE + 32 * 1024 * 1024;

fn verified_value(nar_hash: Sha256, nar_size: u64) -> Vec<u8> {
    [&nar_hash.as_bytes()[..], &nar_size.to_be_bytes()].concat()
}

/// Makes the NAR of the tree and holds it against what was said of it.
fn verify(
    assembly: &mut Assembly,
    info: &NarInfo<'_>,
    wanted: &dyn Fn() -> bool,
) -> Result<(), PushError> {
    let tree = assembly.tree().clone();
    // First without its files, which may be many times as long as it was said to be.
    let (mut walk, mut framing) = (Walk::new(&tree), Vec::new());
    let mut size = 0u64;
    loop {
        framing.clear();
        let file = walk.next_file(&mut framing)?;
        let file_size = file.map_or(0, |file| file.size);
        size = size.saturating_add(framing.len() as u64).saturating_add(file_size);
        if file.is_none() || size > info.nar_size {
            break;
        }
    }
    if size != info.nar_size {
        let why = format!("{} is claimed, and the tree makes another", info.nar_size);
        return Err(wrong("NarSize", why).into());
    }
    let (mut walk, mut hasher) = (Walk::new(&tree), sha2::Sha256::new());
    loop {
        framing.clear();
        let file = walk.next_file(&mut framing)?;
        hasher.update(&framing);
        let Some(file) = file else { break };
        let read = assembly.read_file(&file.digest, file.size, |piece| {
            hasher.update(piece);
            wanted()
        })?;
        if !read {
            return Err(PushError::Abandoned);
        }
    }
    let found = Sha256::from(<[u8; 32]>::from(hasher.finalize()));
    if found != info.nar_hash {
        let why = format!("{} is claimed, and the tree makes {found}", info.nar_hash);
        return Err(wrong("NarHash", why).into());
    }
    Ok(())
}
