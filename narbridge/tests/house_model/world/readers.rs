//! Those who read, and those who ask.

use std::collections::HashSet;

use castore::Digest;
use granary_api::sync::SyncPaths;
use narbridge::cache::NarFile;
use narbridge::compression::Compression;
use nix_compat::narinfo::NarInfo;

use super::*;
use crate::pool::{Nar, pusher};

impl World {
    /// Somebody is told a narinfo, which counts as a use.
    pub(super) fn told(&mut self, tenant: usize, path: usize) -> Result<(), Fault> {
        let Some(cache) = self.cache(tenant)? else { return Ok(()) };
        let hash = self.paths.hash(path);
        // As a server does that looks into its memory first.
        let told = match cache.known_narinfo(hash) {
            Some(known) => known,
            None => cache.narinfo(hash).map_err(failed("asking for a narinfo"))?,
        };
        let Some(stored) = self.tenants[tenant].paths.get(&path) else {
            return same(format!("somebody is told of p{path}"), told.is_some(), false);
        };
        let told = told.ok_or_else(|| format!("nobody is told of p{path}"))?;
        let text = str::from_utf8(&told.text).map_err(failed("a narinfo"))?;
        let info = NarInfo::parse(text.as_bytes(), cache.store_dir());
        let info = info.map_err(failed(format!("the narinfo of p{path}")))?;
        let made = &NARS[stored.nar];
        same("the path of a narinfo", &info.store_path, self.paths.path(path))?;
        same("the hash of a narinfo", info.nar_hash, made.hash)?;
        same("the size of a narinfo", info.nar_size, made.bytes.len() as u64)?;
        same("the file's size of a narinfo", info.file_size, Some(stored.size))?;
        let references: HashSet<_> = info.references.iter().collect();
        let expected = stored.references.iter().map(|to| self.paths.path(*to)).collect();
        same("the references of a narinfo", references, expected)?;
        let signing = self.tenants[tenant].keys.iter();
        let signing = signing.filter(|until| until.is_none_or(|until| self.now() < until)).count();
        let good = cache.public_keys().filter(|key| info.is_signed_by(cache.store_dir(), key));
        same("the signatures of a narinfo", good.count(), signing)?;
        same("all of them", info.signatures.len(), signing)?;
        self.note(tenant, path);
        Ok(())
    }

    fn note(&mut self, tenant: usize, path: usize) {
        let now = self.now();
        self.tenants[tenant].note(path, now);
        self.tally.uses += 1;
    }

    pub(super) fn read(&mut self, tenant: usize, path: usize, b: u16) -> Result<(), Fault> {
        let Some(cache) = self.cache(tenant)? else { return Ok(()) };
        let Some(stored) = self.tenants[tenant].paths.get(&path) else { return Ok(()) };
        let made = &NARS[stored.nar];
        let name = if b.is_multiple_of(2) { made.served() } else { made.name(false) };
        let file = cache.nar(name).map_err(failed("asking for a NAR"))?;
        let file = file.ok_or_else(|| format!("the NAR of p{path} is not there"))?;
        self.tally.read += 1;
        is_right(file, made)
    }

    /// Asks for a closure, as a lazy mount does. Every path of it that is told counts as used.
    pub(super) fn sync(&mut self, tenant: usize, path: usize) -> Result<(), Fault> {
        let Some(cache) = self.cache(tenant)? else { return Ok(()) };
        let hashes = self.paths.hash(path).as_bytes().to_vec();
        let question = SyncPaths { hashes, closure: true, trees: true, known: Vec::new() };
        let synced = cache.sync(&question).map_err(failed("syncing"))?;
        let closure = self.tenants[tenant].closure([path]);
        let mut told = std::collections::BTreeSet::new();
        for synced in synced {
            let synced = synced.map_err(failed("syncing a path"))?;
            let hash: [u8; 20] = synced.hash[..].try_into().map_err(failed("a hash part"))?;
            let number = self.paths.number(hash.into()).ok_or("an unknown path was told")?;
            if synced.narinfo.is_empty() {
                continue;
            }
            told.insert(number);
            let tree = self.tenants[tenant].paths.get(&number).map(|path| &NARS[path.nar].tree);
            same(format!("the tree of p{number}"), Some(&synced.tree), tree)?;
        }
        same(format!("the closure of p{path}"), &told, &closure)?;
        closure.into_iter().for_each(|path| self.note(tenant, path));
        Ok(())
    }

    /// A pusher asks for a path and what it refers to. What is there counts as used.
    pub(super) fn ask(&mut self, tenant: usize, path: usize, b: u16) -> Result<(), Fault> {
        let Some(cache) = self.cache(tenant)? else { return Ok(()) };
        let mut asked = self.paths.built(path, false).1;
        asked.push(path);
        asked.push(usize::from(b) % PATHS);
        asked.sort_unstable();
        asked.dedup();
        let hashes = asked.iter().map(|path| self.paths.hash(*path)).collect();
        let missing = cache.missing_paths(hashes, &pusher(&cache));
        let missing = missing.map_err(failed("asking which paths are missing"))?;
        let (there, absent): (Vec<usize>, Vec<usize>) =
            asked.into_iter().partition(|path| self.tenants[tenant].paths.contains_key(path));
        let absent = absent.into_iter().map(|path| self.paths.hash(path)).collect();
        same("what is missing", missing, absent)?;
        there.into_iter().for_each(|path| self.note(tenant, path));
        Ok(())
    }

    /// The chunks that a cache has to hold: those of its paths and NARs, and what was sent lately.
    pub(super) fn held(&self, tenant: usize) -> HashSet<Digest> {
        let tenant = &self.tenants[tenant];
        let nars = tenant.paths.values().map(|stored| stored.nar);
        let nars = nars.chain(tenant.nars.keys().map(|(nar, _)| *nar));
        let sent = tenant.sent.kept(self.now()).copied();
        nars.flat_map(|nar| NARS[nar].chunks()).chain(sent).collect()
    }
}

/// Reads a NAR to its end.
pub(super) fn is_right(file: NarFile, made: &Nar) -> Result<(), Fault> {
    let (compression, len) = (file.compression(), file.len());
    let mut body = file.body(None).map_err(failed("reading a NAR"))?;
    let mut bytes = Vec::new();
    while let Some(window) = body.next_window().map_err(failed("reading a NAR on"))? {
        bytes.extend_from_slice(&window);
    }
    if len.is_some_and(|len| len != bytes.len() as u64) {
        return Err(format!("{} bytes of a NAR came, and {len:?} were announced", bytes.len()));
    }
    let plain = match compression {
        Compression::None => bytes,
        other => {
            let mut plain = Vec::new();
            let mut decoder = narbridge::compression::decoder(other, &bytes[..])
                .map_err(failed("decoding a NAR"))?;
            std::io::Read::read_to_end(&mut decoder, &mut plain)
                .map_err(failed("decoding a NAR"))?;
            plain
        }
    };
    if plain != made.bytes {
        return Err(format!("a NAR in {compression} has other bytes"));
    }
    Ok(())
}
