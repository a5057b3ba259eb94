//! Where paths are copied from: any binary cache, in a directory or behind HTTP.
//!
//! Format: the Nix manual, "Binary Cache"; `nix-cache-info`, `<hash>.narinfo`, and NARs where the
//! narinfos say.

mod web;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use nix_compat::netrc::Credentials;
use nix_compat::store_path::{StoreDir, StorePathHash};
use reqwest::{Response, Url};

use super::SourceError;
use crate::http::{RetryPolicy, Token};
use web::Web;
pub(super) use web::broken;

/// What a source is shown, and nobody else.
#[derive(Debug)]
pub enum Secret {
    /// A bearer token.
    Token(Token),
    /// A user and a password, as Nix sends them.
    Login(Credentials),
}

/// A binary cache that is read.
#[derive(Debug)]
pub struct Source {
    kind: Kind,
    store_dir: StoreDir,
}

#[derive(Debug)]
enum Kind {
    Dir(PathBuf),
    Web(Web),
}

/// A NAR on its way.
pub(super) enum Body {
    File(File),
    Web(Response),
}

impl Source {
    /// Finds the source. `secret` is asked for what the host of that name wants to see.
    pub async fn open(
        address: &str,
        secret: impl FnOnce(&str) -> Option<Secret>,
        retry: RetryPolicy,
    ) -> Result<Self, SourceError> {
        let wrong = |text: &str, why: &str| SourceError::Address {
            text: text.to_owned(),
            why: why.to_owned(),
        };
        let url: Url = address.parse().map_err(|error| {
            // A text that cannot be read might have a password anywhere.
            wrong(if address.contains('@') { "…" } else { address }, &format!("{error}"))
        })?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong("…", "a password in it would be seen: use --netrc-file"));
        }
        let kind = match url.scheme() {
            "file" => {
                let path = url.to_file_path();
                Kind::Dir(path.map_err(|()| wrong(address, "it names no directory here"))?)
            }
            "http" | "https" => {
                let secret = secret(url.host_str().unwrap_or_default());
                Kind::Web(Web::new(url, secret, retry)?)
            }
            _ => {
                let why = "only http, https and file are read; `nix copy --to file:///dir` brings \
                           the others here";
                return Err(wrong(address, why));
            }
        };
        let mut source = Self { kind, store_dir: StoreDir::default() };
        source.store_dir = source.info().await?;
        Ok(source)
    }

    /// The directory that the source's paths begin with.
    pub fn store_dir(&self) -> &StoreDir {
        &self.store_dir
    }

    /// When a broken transfer is given up.
    pub(super) fn retry(&self) -> RetryPolicy {
        match &self.kind {
            Kind::Dir(_) => RetryPolicy { attempts: 1, ..RetryPolicy::patient() },
            Kind::Web(web) => web.retry(),
        }
    }

    async fn info(&self) -> Result<StoreDir, SourceError> {
        const NAME: &str = "nix-cache-info";
        let text = match &self.kind {
            Kind::Dir(dir) if !dir.is_dir() => {
                return Err(SourceError::Io {
                    path: dir.clone(),
                    source: io::Error::from(io::ErrorKind::NotADirectory),
                });
            }
            Kind::Dir(dir) => read(&dir.join(NAME))?,
            Kind::Web(web) => web.get(NAME).await?,
        };
        let text = String::from_utf8_lossy(text.as_deref().unwrap_or_default()).into_owned();
        let line = text.lines().find_map(|line| line.strip_prefix("StoreDir:"));
        let Some(line) = line else { return Ok(StoreDir::default()) };
        line.trim().parse().map_err(|error| SourceError::Answer {
            url: self.place(NAME),
            why: format!("StoreDir: {error}"),
        })
    }

    /// The narinfo of a path; `None` where the source has no such path.
    pub async fn narinfo(&self, hash: &str) -> Result<Option<Bytes>, SourceError> {
        let name = format!("{hash}.narinfo");
        match &self.kind {
            Kind::Dir(dir) => read(&dir.join(name)),
            Kind::Web(web) => match web.get(&name).await {
                // Buckets that may not be listed answer so for what is not there.
                Err(SourceError::Refused { .. }) => Ok(None),
                answer => answer,
            },
        }
    }

    /// The NAR at the URL of a narinfo.
    pub(super) async fn nar(&self, url: &str) -> Result<Body, SourceError> {
        match &self.kind {
            Kind::Dir(dir) => {
                let path = Path::new(url);
                if !path.components().all(|part| matches!(part, Component::Normal(_))) {
                    let why = "its NAR lies outside of the cache".to_owned();
                    return Err(SourceError::Answer { url: url.to_owned(), why });
                }
                let path = dir.join(path);
                let file = File::open(&path).map_err(|source| SourceError::Io { path, source })?;
                Ok(Body::File(file))
            }
            Kind::Web(web) => Ok(Body::Web(web.open(url).await?)),
        }
    }

    /// Every path of the source.
    pub async fn all(&self) -> Result<Vec<StorePathHash>, SourceError> {
        match &self.kind {
            Kind::Dir(dir) => {
                let failed = |source| SourceError::Io { path: dir.clone(), source };
                let mut hashes = Vec::new();
                for entry in fs::read_dir(dir).map_err(failed)? {
                    let name = entry.map_err(failed)?.file_name();
                    let hash = name.to_str().and_then(|name| name.strip_suffix(".narinfo"));
                    hashes.extend(hash.and_then(|hash| hash.parse::<StorePathHash>().ok()));
                }
                Ok(hashes)
            }
            Kind::Web(web) => web.list().await,
        }
    }

    /// Where something of the source is, for people.
    fn place(&self, name: &str) -> String {
        match &self.kind {
            Kind::Dir(dir) => dir.join(name).display().to_string(),
            Kind::Web(web) => web.place(name),
        }
    }
}

fn read(path: &Path) -> Result<Option<Bytes>, SourceError> {
    let failed = |source| SourceError::Io { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(failed)?.take(web::LONGEST as u64).read_to_end(&mut bytes),
    }
    .map_err(failed)?;
    Ok(Some(bytes.into()))
}
