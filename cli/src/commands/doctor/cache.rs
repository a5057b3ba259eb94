//! A cache, and whether this machine's Nix can get paths from it.

use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;

use granary_api::CacheInfo;
use granary_api::push::MissingPaths;
use granary_client::http::RemoteCache;
use granary_client::nix_setup::NixSettings;
use nix_compat::narinfo::NarInfo;
use nix_compat::netrc::Netrc;
use nix_compat::signature::VerifyingKey;
use nix_compat::store_path::{StoreDir, StorePath};

use super::Findings;
use crate::commands::use_cache::{has_daemon, ignored_by_daemon};
use crate::commands::whoami::names;
use crate::failure::Failure;
use crate::remote::block_on;

/// How many of this machine's paths are looked for in the cache in one question: a body of 1 MiB.
const ASKED_AT_ONCE: usize = 25_000;
/// How many are looked for one by one, by those who may not ask: a few seconds' worth.
const ASKED_SINGLY: usize = 64;

/// Looks.
pub fn look(
    cache: &RemoteCache,
    nix: Option<&NixSettings>,
    findings: &mut Findings,
) -> Result<(), Failure> {
    let info = match block_on(cache.info())? {
        Ok(info) => info,
        Err(error) => {
            findings.error("cache", &error);
            return Ok(());
        }
    };
    let kind = if info.public { "public" } else { "private" };
    findings.ok("cache", format!("{} is {kind}; you may {}", info.name, names(&info.permissions)));
    if info.destroyed.is_some() {
        findings.fail("cache", "it is destroyed: granary cache restore brings it back");
    }
    cache_info(cache, &info, findings)?;
    if let Some(nix) = nix {
        nix_conf(cache, &info, nix, findings);
        if !info.public {
            netrc(cache, nix, findings);
        }
    }
    signature(cache, &info, findings)
}

/// `nix-cache-info` as Nix sees it, and the store it is for.
fn cache_info(
    cache: &RemoteCache,
    info: &CacheInfo,
    findings: &mut Findings,
) -> Result<(), Failure> {
    let text = match block_on(cache.file("nix-cache-info"))? {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => {
            findings.error("cache-info", &error);
            return Ok(());
        }
    };
    let dir = text.lines().find_map(|line| line.strip_prefix("StoreDir: ")).unwrap_or_default();
    if dir == info.store_dir {
        findings.ok("cache-info", format!("its paths live in {dir}"));
    } else {
        let text = format!("nix-cache-info says StoreDir {dir}, the server {}", info.store_dir);
        findings.fail("cache-info", format!("{text}: is something else before it?"));
    }
    if info.store_dir != "/nix/store" {
        findings.warn("cache-info", "only a Nix with that store directory can use it");
    }
    Ok(())
}

fn nix_conf(cache: &RemoteCache, info: &CacheInfo, nix: &NixSettings, findings: &mut Findings) {
    let url = cache.url();
    let fix = format!("run granary use {url}");
    if nix.lists("substituters", &url) {
        findings.ok("nix.conf", "the cache is among the substituters");
    } else {
        findings.fail("nix.conf", format!("the cache is not among the substituters: {fix}"));
    }
    let trusted = nix.words("trusted-public-keys");
    let newest = info.public_keys.first();
    if info.public_keys.iter().any(|key| trusted.contains(&key.as_str())) {
        findings.ok("nix.conf", "a key of the cache is trusted");
        if newest.is_some_and(|key| !trusted.contains(&key.as_str())) {
            findings.warn("nix.conf", format!("its newest key is not: {fix}"));
        }
    } else {
        findings.fail("nix.conf", format!("no key of the cache is trusted: {fix}"));
    }
    if let Some(user) = ignored_by_daemon(&url, &info.public_keys) {
        let text = format!("the Nix daemon does not let {user} choose caches: an administrator");
        findings.fail("daemon", format!("{text} has to run granary use --system {url}"));
    }
}

/// Whether Nix can show its token.
fn netrc(cache: &RemoteCache, nix: &NixSettings, findings: &mut Findings) {
    let path = nix.text("netrc-file").unwrap_or_default();
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        // The daemon, which fetches for users, can.
        Err(error) if error.kind() == ErrorKind::PermissionDenied && has_daemon() => {
            let text = format!("only root can read {path}, which has the token for Nix");
            return findings.warn("netrc", format!("{text}: run sudo granary doctor"));
        }
        Err(error) => {
            let text = format!("cannot read {path} ({error}), which has the token for Nix");
            return findings.fail("netrc", format!("{text}: run granary use {}", cache.url()));
        }
    };
    let host = cache.server().base().host();
    let credentials = match Netrc::parse(bytes) {
        Ok(netrc) => netrc.credentials(host),
        Err(error) => return findings.error("netrc", &error),
    };
    match (credentials, cache.server().token()) {
        (None, _) => {
            let text = format!("{path} has no entry for {host}");
            findings.fail("netrc", format!("{text}: run granary use {}", cache.url()));
        }
        (Some(found), Some(token)) if found.password != token.secret() => {
            let text = format!("{path} has another token for {host} than granary login");
            findings.warn("netrc", format!("{text}: run granary use {}", cache.url()));
        }
        (Some(_), _) => findings.ok("netrc", format!("{path} has a token for {host}")),
    }
}

/// Fetches the narinfo of a path that this machine and the cache both have, and verifies it.
fn signature(
    cache: &RemoteCache,
    info: &CacheInfo,
    findings: &mut Findings,
) -> Result<(), Failure> {
    let hashes = local_hashes(&info.store_dir);
    let wanted = MissingPaths { hashes: hashes.clone() };
    let there = match block_on(cache.missing(&wanted))? {
        Ok(missing) => {
            let missing: HashSet<String> = missing.hashes.into_iter().collect();
            hashes.into_iter().find(|hash| !missing.contains(hash))
        }
        // Who may only pull asks for one after the other.
        Err(_) => first_there(cache, hashes)?,
    };
    let Some(hash) = there else {
        findings.ok("signature", "not tried: no path of this machine is in the cache");
        return Ok(());
    };
    let text = match block_on(cache.file(&format!("{hash}.narinfo")))? {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => {
            findings.error("signature", &error);
            return Ok(());
        }
    };
    match verify(&text, info) {
        Ok(name) => findings.ok("signature", format!("verifies for {name}")),
        Err(why) => findings.fail("signature", format!("of {hash}: {why}")),
    }
    Ok(())
}

fn first_there(cache: &RemoteCache, hashes: Vec<String>) -> Result<Option<String>, Failure> {
    block_on(async {
        for hash in hashes.into_iter().take(ASKED_SINGLY) {
            if cache.file(&format!("{hash}.narinfo")).await.is_ok() {
                return Some(hash);
            }
        }
        None
    })
}

/// Hash parts of some paths of this machine.
fn local_hashes(store_dir: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(store_dir) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let is_path = |name: &String| name.parse::<StorePath>().is_ok();
    let hashes = names.filter(|name| is_path(name) && !name.ends_with(".drv"));
    hashes.filter_map(|name| name.get(..32).map(str::to_owned)).take(ASKED_AT_ONCE).collect()
}

/// The name of the path whose narinfo this is, if one of the cache's keys signed it.
fn verify(text: &str, info: &CacheInfo) -> Result<String, String> {
    let dir: StoreDir = info.store_dir.parse().map_err(|error| format!("{error}"))?;
    let narinfo = NarInfo::parse(text, &dir).map_err(|error| error.to_string())?;
    let keys = info.public_keys.iter().filter_map(|key| key.parse::<VerifyingKey>().ok());
    if keys.into_iter().any(|key| narinfo.is_signed_by(&dir, &key)) {
        Ok(narinfo.store_path.to_string())
    } else {
        let text =
            "none of the cache's keys signed it: does something before the server change it?";
        Err(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use nix_compat::signature::SigningKey;

    use super::*;

    const NARINFO: &str = "StorePath: /nix/store/5kp70f3qpzbr2mmb8b5lhb37dr3gxr6p-refs.txt\n\
        URL: nar/x.nar.zst\nCompression: zstd\n\
        NarHash: sha256:03rbjdv3jcbv98hxzip1h2wwya595p2l5mb16r8vjgcvsk56qhfb\n\
        NarSize: 224\nReferences: \n";

    fn info(key: &SigningKey) -> CacheInfo {
        CacheInfo {
            name: "main".to_owned(),
            public: true,
            store_dir: "/nix/store".to_owned(),
            priority: 40,
            upstream_keys: Vec::new(),
            retention: None,
            max_age: None,
            max_size: None,
            public_keys: vec![key.verifying_key().to_string()],
            created: 0,
            destroyed: None,
            permissions: Vec::new(),
        }
    }

    #[test]
    fn a_signature_is_verified_and_not_just_looked_for() {
        let dir: StoreDir = "/nix/store".parse().unwrap();
        let key = SigningKey::generate("main-1", [7; 32]).unwrap();
        let mut narinfo = NarInfo::parse(NARINFO, &dir).unwrap();
        narinfo.sign(&dir, &key);
        let text = narinfo.render(&dir);
        assert_eq!(
            verify(&text, &info(&key)).unwrap(),
            "5kp70f3qpzbr2mmb8b5lhb37dr3gxr6p-refs.txt"
        );
        let changed = text.replace("NarSize: 224", "NarSize: 225");
        assert!(verify(&changed, &info(&key)).unwrap_err().contains("none of the cache's keys"));
        // The same name, another key.
        let other = SigningKey::generate("main-1", [8; 32]).unwrap();
        assert!(verify(&text, &info(&other)).is_err());
        assert!(verify("<html>", &info(&key)).is_err());
    }
}
