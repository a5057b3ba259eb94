//! How paths come: as NARs with narinfos behind them, as NARs in one step, or as chunks.

use narbridge::cache::{PushOutcome, PushedPath};

use super::*;
use crate::pool::{self, info, pusher};
use crate::tenant::Stored;

/// One path in four is built in another way than before.
fn otherwise(b: u16) -> bool {
    (b / 16).is_multiple_of(4)
}

impl World {
    pub(super) fn publish_closure(
        &mut self,
        tenant: usize,
        path: usize,
        b: u16,
    ) -> Result<(), Fault> {
        let (mut open, mut order) = (vec![path], Vec::new());
        while let Some(path) = open.pop() {
            if !order.contains(&path) {
                order.push(path);
                open.extend(self.paths.built(path, false).1);
            }
        }
        // What is referred to has smaller numbers, but for those that refer to each other.
        order.sort_unstable();
        order.retain(|other| *other != path && !self.tenants[tenant].paths.contains_key(other));
        for other in order {
            self.publish(tenant, other, b | 16)?;
        }
        self.publish(tenant, path, b)
    }

    pub(super) fn publish(&mut self, tenant: usize, path: usize, b: u16) -> Result<(), Fault> {
        let Some(cache) = self.cache(tenant)? else { return Ok(()) };
        let (nar, references) = self.paths.built(path, otherwise(b));
        match b % 4 {
            0 | 1 => {
                let gzip = b % 4 == 1;
                let known = self.tenants[tenant].nars.contains_key(&(nar, gzip));
                if !known || !b.is_multiple_of(3) {
                    self.upload(tenant, nar, gzip)?;
                }
                return self.announce_as(tenant, path, otherwise(b), gzip);
            }
            2 => {
                let made = &pool::NARS[nar];
                let references = references.iter().map(|to| self.paths.path(*to).clone());
                let info = info(
                    self.paths.path(path).clone(),
                    made.hash,
                    made.bytes.len() as u64,
                    references.collect(),
                );
                let (pusher, limit) = (pusher(&cache), 1 << 30);
                let published = cache.publish_nar(&info, &made.bytes[..], &pusher, limit);
                published.map_err(failed(format!("publishing p{path} as a NAR")))?;
            }
            _ => {
                let verified = self.put_together(tenant, path, otherwise(b))?;
                let published = cache.publish_verified(&[verified]).remove(0);
                published.map_err(failed(format!("publishing p{path} that was pushed")))?;
            }
        }
        self.published(tenant, path, otherwise(b))
    }

    /// A path is there from now on.
    fn published(&mut self, tenant: usize, path: usize, otherwise: bool) -> Result<(), Fault> {
        self.tally.published += 1;
        let Some(cache) = self.cache(tenant)? else { return Ok(()) };
        let (nar, references) = self.paths.built(path, otherwise);
        let told = cache.path_info(self.paths.hash(path)).map_err(failed("asking for a path"))?;
        let told = told.ok_or_else(|| format!("p{path} was published and is not there"))?;
        let file = cache.nar(NARS[nar].served()).map_err(failed("asking for a NAR"))?;
        let len = file.and_then(|file| file.len());
        same(format!("the length of p{path} as zstd"), Some(told.file_size), len)?;
        let (uploaded, used, written, size) = (self.now(), None, None, told.file_size);
        let stored = Stored { nar, references, uploaded, used, written, size };
        self.tenants[tenant].publish(path, stored);
        self.verify_path(tenant, path)
    }

    pub(super) fn upload(&mut self, tenant: usize, nar: usize, gzip: bool) -> Result<(), Fault> {
        let Some(cache) = self.cache(tenant)? else { return Ok(()) };
        let made = &NARS[nar];
        let uploaded = cache.upload_nar(made.name(gzip), made.body(gzip), 1 << 30, None);
        let uploaded = uploaded.map_err(failed(format!("uploading NAR {nar}")))?;
        same("the hash of an uploaded NAR", uploaded.nar_hash, made.hash)?;
        let now = self.now();
        self.tenants[tenant].upload(nar, gzip, now);
        Ok(())
    }

    pub(super) fn announce(&mut self, tenant: usize, path: usize, b: u16) -> Result<(), Fault> {
        self.announce_as(tenant, path, otherwise(b), b.is_multiple_of(2))
    }

    /// A narinfo comes, which is refused if its NAR has not come, or waits no more.
    fn announce_as(
        &mut self,
        tenant: usize,
        path: usize,
        otherwise: bool,
        gzip: bool,
    ) -> Result<(), Fault> {
        let Some(cache) = self.cache(tenant)? else { return Ok(()) };
        let (nar, references) = self.paths.built(path, otherwise);
        let made = &NARS[nar];
        let references = references.iter().map(|to| self.paths.path(*to).clone());
        let url = format!("nar/{}", made.name(gzip));
        let (store_path, size) = (self.paths.path(path).clone(), made.bytes.len() as u64);
        let info = info(store_path, made.hash, size, references.collect());
        let compression = Some(if gzip { "gzip" } else { "none" });
        let text = narinfo(&info, &url, compression).render(cache.store_dir());
        let done = cache.publish(self.paths.hash(path), text.as_bytes(), None);
        let waits = self.tenants[tenant].nars.contains_key(&(nar, gzip));
        match done {
            Ok(()) if waits => self.published(tenant, path, otherwise),
            Ok(()) => Err(format!("p{path} was published, and its NAR {nar} was not there")),
            Err(error) if waits => Err(format!("publishing p{path} of NAR {nar}: {error}")),
            Err(error) if error.to_string().contains("has not been uploaded") => {
                self.tally.refused += 1;
                Ok(())
            }
            Err(error) => Err(format!("p{path} was refused for another reason: {error}")),
        }
    }

    /// Some of a NAR's chunks are sent, as far as they are missing.
    pub(super) fn send(&mut self, tenant: usize, nar: usize, b: u16) -> Result<(), Fault> {
        let Some(cache) = self.cache(tenant)? else { return Ok(()) };
        let records = NARS[nar].records.iter().enumerate();
        let some = records.filter(|(at, _)| b >> (at % 8) & 1 == 0).map(|(_, record)| record);
        let some: Vec<_> = some.collect();
        let digests: Vec<_> = some.iter().map(|(digest, _)| *digest).collect();
        let missing = cache.missing_chunks(&digests, &pusher(&cache));
        let missing = missing.map_err(failed("asking for chunks"))?;
        let wanted = some.iter().zip(missing).filter(|(_, missing)| *missing);
        self.take(tenant, &wanted.map(|((digest, _), _)| *digest).collect::<Vec<_>>(), nar)
    }

    /// The server takes in chunks of a NAR.
    fn take(&mut self, tenant: usize, chunks: &[castore::Digest], nar: usize) -> Result<(), Fault> {
        let Some(cache) = self.cache(tenant)? else { return Ok(()) };
        let (now, house) = (self.now(), self.house()?);
        if chunks.is_empty() {
            return Ok(());
        }
        let sent = &mut self.tenants[tenant].sent;
        sent.hear(now);
        let mut body = Vec::new();
        let records = NARS[nar].records.iter().filter(|(digest, _)| chunks.contains(digest));
        for (digest, record) in records {
            // What is there and only lacks a claim lies where it is not kept for this sake.
            let claim = cache.holder().claim(digest);
            let known = [(castore::Kind::Chunk, *digest), (castore::Kind::Claim, claim)]
                .iter()
                .map(|(kind, digest)| house.store().locate(*kind, digest))
                .collect::<Result<Vec<_>, _>>()
                .map_err(failed("locating a chunk"))?;
            if known.iter().all(Option::is_none) {
                sent.chunks.insert(*digest, now);
            }
            body.extend_from_slice(record);
        }
        cache.take_chunks(&body[..], &pusher(&cache)).map_err(failed("sending chunks"))
    }

    pub(super) fn prepare(&mut self, tenant: usize, path: usize, b: u16) -> Result<(), Fault> {
        if self.cache(tenant)?.is_none() {
            return Ok(());
        }
        let verified = self.put_together(tenant, path, otherwise(b))?;
        self.prepared = Some(Prepared { tenant, path, otherwise: otherwise(b), verified });
        Ok(())
    }

    pub(super) fn finish(&mut self) -> Result<(), Fault> {
        let Some(prepared) = self.prepared.take() else { return Ok(()) };
        let Prepared { tenant, path, otherwise, verified } = prepared;
        let Some(cache) = self.cache(tenant)? else { return Ok(()) };
        let published = cache.publish_verified(&[verified]).remove(0);
        published.map_err(failed(format!("publishing p{path} that was prepared")))?;
        self.published(tenant, path, otherwise)
    }

    /// A path as chunks: what is missing is sent, and the path verified.
    fn put_together(
        &mut self,
        tenant: usize,
        path: usize,
        otherwise: bool,
    ) -> Result<Verified, Fault> {
        let cache = self.cache(tenant)?.ok_or("the cache is not there")?;
        let (nar, references) = self.paths.built(path, otherwise);
        let made = &NARS[nar];
        let references = references.iter().map(|to| self.paths.path(*to).clone()).collect();
        let size = made.bytes.len() as u64;
        let info = info(self.paths.path(path).clone(), made.hash, size, references);
        let verify = |what: &str| {
            let info = info.clone();
            let pushed = PushedPath { info, tree: made.tree.clone(), lists: made.lists.clone() };
            let (gathered, wanted) = (&mut false, &|| true);
            let verified = cache.verify_pushed(pushed, &pusher(&cache), 1 << 30, gathered, wanted);
            verified.map_err(failed(format!("verifying p{path} {what}")))
        };
        let verified = match verify("before it was sent")? {
            PushOutcome::Verified(verified) => *verified,
            PushOutcome::Missing(missing) => {
                let held = self.held(tenant);
                if let Some(chunk) = missing.iter().find(|chunk| held.contains(*chunk)) {
                    return Err(format!(
                        "chunk {chunk} of p{path} is missing, and has to be there"
                    ));
                }
                self.take(tenant, &missing, nar)?;
                match verify("after it was sent")? {
                    PushOutcome::Verified(verified) => *verified,
                    PushOutcome::Missing(missing) => {
                        return Err(format!("{missing:?} of p{path} were sent and are missing"));
                    }
                }
            }
        };
        self.tenants[tenant].sent.chunks.retain(|chunk, _| made.chunks().all(|of| of != *chunk));
        Ok(verified)
    }
}

/// The same as it is uploaded after a NAR.
fn narinfo<'a>(
    info: &nix_compat::narinfo::NarInfo<'a>,
    url: &'a str,
    compression: Option<&'a str>,
) -> nix_compat::narinfo::NarInfo<'a> {
    nix_compat::narinfo::NarInfo { url, compression, ..info.clone() }
}
