//! Using a cache, and no longer using it.

use std::path::{Path, PathBuf};

use nix_compat::netrc::{Change, Netrc};
use nix_compat::nix_conf::NixConf;

use super::record::{Host, Record, Wanted};
use super::{Error, NETRC_LOGIN, Places, files};
use crate::http::Token;

const SUBSTITUTERS: &str = "extra-substituters";
const KEYS: &str = "extra-trusted-public-keys";
const NETRC_FILE: &str = "netrc-file";

/// A cache to use.
pub struct Use<'a> {
    /// Its URL as a substituter.
    pub url: &'a str,
    /// Its public keys.
    pub keys: &'a [String],
    /// For a private one: its host, and the token to show it.
    pub private: Option<(&'a str, &'a Token)>,
}

/// What became of the files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The files that changed.
    pub changed: Vec<PathBuf>,
    /// A netrc that Nix read before and no longer does.
    pub shadowed: Option<PathBuf>,
}

/// A file under edit.
struct Edited<T> {
    path: PathBuf,
    existed: bool,
    before: Vec<u8>,
    now: T,
}

impl Edited<NixConf> {
    fn nix_conf(path: &Path) -> Result<Self, Error> {
        files::check_editable(path)?;
        let bytes = files::read(path)?;
        let (existed, before) = (bytes.is_some(), bytes.unwrap_or_default());
        Ok(Self { path: path.to_owned(), existed, now: NixConf::new(before.clone()), before })
    }

    fn save(&self, outcome: &mut Outcome) -> Result<(), Error> {
        let bytes = self.now.as_bytes();
        save(&self.path, &self.before, bytes, self.existed, false, outcome)
    }
}

impl Edited<Netrc> {
    fn netrc(path: &Path) -> Result<Self, Error> {
        files::check_editable(path)?;
        let bytes = files::read(path)?;
        let (existed, before) = (bytes.is_some(), bytes.unwrap_or_default());
        let now = Netrc::parse(before.clone())
            .map_err(|source| Error::Netrc { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), existed, before, now })
    }

    fn save(&self, outcome: &mut Outcome) -> Result<(), Error> {
        let bytes = self.now.as_bytes();
        save(&self.path, &self.before, bytes, self.existed, true, outcome)
    }
}

fn save(
    path: &Path,
    before: &[u8],
    now: &[u8],
    existed: bool,
    secret: bool,
    outcome: &mut Outcome,
) -> Result<(), Error> {
    if existed && before == now {
        return Ok(());
    }
    files::write(path, now, if secret { 0o600 } else { 0o644 }, secret)?;
    outcome.changed.push(path.to_owned());
    Ok(())
}

/// Lets Nix get paths from a cache. Doing it again brings keys and token up to date.
pub fn apply(places: &Places, wanted: &Use<'_>) -> Result<Outcome, Error> {
    let _lock = files::lock_folder_of(&places.nix_conf)?;
    let mut record = Record::load(&places.record())?;
    let mut outcome = Outcome::default();
    let mut conf = Edited::nix_conf(&places.nix_conf)?;
    let context = |source| Error::NixConf { path: places.nix_conf.clone(), source };

    let mut words = vec![(SUBSTITUTERS, wanted.url)];
    words.extend(wanted.keys.iter().map(|key| (KEYS, key.as_str())));
    for (name, word) in words {
        if conf.now.add_word(name, word).map_err(context)? {
            record.words.insert(word.to_owned());
        }
    }
    let cache = record.caches.entry(wanted.url.to_owned()).or_default();
    cache.keys.extend(wanted.keys.iter().cloned());

    let mut netrc = None;
    if let Some((host, token)) = wanted.private {
        let path = netrc_of(places, &conf.now);
        if path == places.netrc && path != places.default_netrc {
            let path_text = path.to_string_lossy();
            if conf.now.set(NETRC_FILE, &path_text).map_err(context)? {
                record.netrc_file = Some(path.clone());
                outcome.shadowed = Some(places.default_netrc.clone()).filter(|path| path.exists());
            }
        }
        let mut edited = Edited::netrc(&path)?;
        let change = edited.now.set_password(host, NETRC_LOGIN, token.secret());
        let change = change.map_err(|source| Error::Netrc { path: path.clone(), source })?;
        if change == Change::Added {
            record.hosts.insert(host.to_owned());
        }
        let cache = record.caches.entry(wanted.url.to_owned()).or_default();
        cache.netrc = Some(Host { host: host.to_owned(), file: path.clone() });
        if !edited.existed {
            record.made.insert(path);
        }
        netrc = Some(edited);
    }
    if !conf.existed {
        record.made.insert(conf.path.clone());
    }
    // First what is to be undone, then the doing; the password before what needs it.
    record.save(&places.record())?;
    if let Some(netrc) = netrc {
        netrc.save(&mut outcome)?;
    }
    conf.save(&mut outcome)?;
    Ok(outcome)
}

/// Undoes [`apply`]: takes away what it added, unless another cache in use needs it. Without notes
/// of ours it is the substituter alone. `Ok(None)` if the cache was not in use.
pub fn undo(places: &Places, url: &str) -> Result<Option<Outcome>, Error> {
    if !places.nix_conf.exists() {
        return Ok(None);
    }
    let _lock = files::lock_folder_of(&places.nix_conf)?;
    let mut record = Record::load(&places.record())?;
    let mut conf = Edited::nix_conf(&places.nix_conf)?;
    let Some(cache) = record.caches.remove(url) else {
        let mut outcome = Outcome::default();
        let there = conf.now.remove_word(SUBSTITUTERS, url);
        conf.save(&mut outcome)?;
        return Ok(there.then_some(outcome));
    };
    let mut outcome = Outcome::default();
    let Wanted { keys, netrc: host } = cache;
    let words = keys.iter().map(|key| (KEYS, key.as_str())).chain([(SUBSTITUTERS, url)]);
    for (name, word) in words {
        if !record.needs(word) && record.words.remove(word) {
            conf.now.remove_word(name, word);
        }
    }
    let mut netrc = None;
    if let Some(Host { host, file }) = host {
        let mut edited = Edited::netrc(&file)?;
        if !record.needs_host(&host) && record.hosts.remove(&host) {
            let removed = edited.now.remove(&host, NETRC_LOGIN);
            removed.map_err(|source| Error::Netrc { path: file.clone(), source })?;
        }
        let needed = record.caches.values().any(|cache| cache.netrc.is_some());
        // A file that we made and that others have added to goes on being read.
        let shared = record.made.contains(&file) && !edited.now.as_bytes().is_empty();
        if !needed
            && !shared
            && let Some(set) = record.netrc_file.take()
        {
            conf.now.remove_word(NETRC_FILE, &set.to_string_lossy());
        }
        netrc = Some(edited);
    }
    conf.save(&mut outcome)?;
    if let Some(netrc) = netrc {
        if netrc.existed {
            netrc.save(&mut outcome)?;
        }
        remove_if_made(&mut record, &netrc.path, netrc.now.as_bytes())?;
    }
    remove_if_made(&mut record, &conf.path, conf.now.as_bytes())?;
    if record.caches.is_empty() {
        record = Record::default();
    }
    record.save(&places.record())?;
    Ok(Some(outcome))
}

/// The netrc that Nix reads, or is to read.
fn netrc_of(places: &Places, conf: &NixConf) -> PathBuf {
    match conf.words(NETRC_FILE).as_slice() {
        [path] => PathBuf::from(String::from_utf8_lossy(path).into_owned()),
        _ => places.netrc.clone(),
    }
}

/// Files that we made and that are empty again go.
fn remove_if_made(record: &mut Record, path: &Path, contents: &[u8]) -> Result<(), Error> {
    if contents.is_empty() && record.made.remove(path) {
        files::remove(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
