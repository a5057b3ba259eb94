//! From what a person names to a lazy store.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use granary_api::cache::CacheInfo;
use granary_client::config::{CacheRef, Target};
use granary_client::http::{Error, RemoteCache, RetryPolicy, Server, ServerOptions, Token};
use granary_lazy::{DiskCache, LazyStore, Local, Nars, Options, Source, Trust};
use nix_compat::signature::VerifyingKey;
use nix_compat::store_path::StoreDir;

use crate::binary_cache::{self, nix_keys};
use crate::data_dir::default_data_dir;
use crate::failure::{Context, Failure};
use crate::remote::RemoteArgs;
use crate::size::parse_size;
use crate::store_place::StorePlace;

/// The bound of each pause between two attempts: a server that restarts is found soon after.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A connection on which nothing moves for so long is given up.
const STALL: Duration = Duration::from_secs(20);
/// Whoever mounts a cache that was mounted before does not wait longer for its server.
const AWAY: Duration = Duration::from_secs(3);
/// Attempts are bounded by time alone.
const ATTEMPTS: u32 = 10_000;

/// Which cache, and how it is read.
#[derive(Args)]
pub struct LazyArgs {
    #[command(flatten)]
    remote: RemoteArgs,
    /// Read the cache from this data folder, which no server may have open
    #[arg(long, value_name = "DIR", conflicts_with = "server")]
    data: Option<PathBuf>,
    /// Read the token for the cache from this file [default: that of granary login]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Take the password for a binary cache from this netrc
    #[arg(long, value_name = "FILE", conflicts_with = "token_file")]
    netrc_file: Option<PathBuf>,
    /// Public keys of those whose signatures count, `name:base64` [default: those that the server
    /// names as the cache's, or for a binary cache those of nix.conf]
    #[arg(long, value_name = "KEYS", value_delimiter = ' ')]
    trusted_public_keys: Vec<VerifyingKey>,
    /// Believe the cache without signatures
    #[arg(long, conflicts_with = "trusted_public_keys")]
    no_check_sigs: bool,
    /// Keep what is fetched in this folder, which mounts can share
    /// [default: $XDG_CACHE_HOME/granary/lazy]
    #[arg(long, value_name = "DIR", env = "GRANARY_LAZY_CACHE")]
    cache_dir: Option<PathBuf>,
    /// How large that folder may grow; what was used longest ago goes first
    #[arg(long, value_name = "SIZE", default_value = "10GiB", value_parser = parse_size)]
    cache_size: u64,
    /// After how many seconds without an answer a read fails
    #[arg(long, value_name = "SECONDS", default_value_t = 60,
          value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
    /// Tell the cache nothing of what is read first, and fetch nothing ahead by what others read
    #[arg(long)]
    no_profiles: bool,
}

impl LazyArgs {
    /// Opens the cache.
    pub async fn open(&self, cache: &str) -> Result<LazyStore, Failure> {
        let disk = DiskCache::open(&self.cache_dir()?, self.cache_size);
        let disk = disk.context(|| "choose another folder with --cache-dir".to_owned())?;
        let (source, trust, store_dir) = self.source(cache, &disk).await?;
        let patience = Duration::from_secs(self.timeout);
        let options = Options { trust, store_dir, patience, profiles: !self.no_profiles };
        let runtime = tokio::runtime::Handle::current();
        Ok(LazyStore::new(source, Some(Arc::new(disk)), options, runtime))
    }

    /// Where what is fetched is kept.
    pub fn cache_dir(&self) -> Result<PathBuf, Failure> {
        let absolute =
            |name: &str| env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let named = self.cache_dir.clone();
        let named = named.map(std::path::absolute).transpose();
        named
            .context(|| "the folder of --cache-dir".to_owned())?
            .or_else(|| absolute("XDG_CACHE_HOME").map(|cache| cache.join("granary/lazy")))
            .or_else(|| absolute("HOME").map(|home| home.join(".cache/granary/lazy")))
            .ok_or_else(|| Failure::new("neither HOME nor XDG_CACHE_HOME is set: use --cache-dir"))
    }

    async fn source(
        &self,
        cache: &str,
        disk: &DiskCache,
    ) -> Result<(Source, Trust, StoreDir), Failure> {
        if self.data.is_some() {
            return self.local(cache);
        }
        let is_http = cache.starts_with("http://") || cache.starts_with("https://");
        if cache.contains("://") && !is_http {
            return self.binary_cache(cache).await;
        }
        let parsed = cache.parse::<CacheRef>();
        let remote = match parsed {
            Ok(reference) => self.remote(&reference),
            // `https://host` is an address of binary caches.
            Err(_) if is_http => return self.binary_cache(cache).await,
            Err(error) => Err(error).context(|| format!("`{cache}`")),
        }?;
        let info = match about(&remote, disk).await {
            Ok(info) => info,
            Err(Error::NotGranary { .. }) if is_http => return self.binary_cache(cache).await,
            Err(error) => return Err(error).context(|| format!("cannot open {}", remote.url())),
        };
        let store_dir = info.store_dir.parse().context(|| "the cache's store".to_owned())?;
        let theirs = info.public_keys.iter().map(|key| {
            key.parse().context(|| format!("{} names a key that is none: `{key}`", remote.url()))
        });
        let theirs = theirs.collect::<Result<Vec<VerifyingKey>, _>>()?;
        let base = remote.server().base();
        if self.trusted_public_keys.is_empty() && !base.is_secure() && !base.is_loopback() {
            tracing::warn!(
                "{base} names its keys over a connection that anybody on the way can change: name \
                 them with --trusted-public-keys, or use https"
            );
        }
        Ok((Source::Remote(remote), self.trust(|| Ok(theirs))?, store_dir))
    }

    fn trust(
        &self,
        usual: impl FnOnce() -> Result<Vec<VerifyingKey>, Failure>,
    ) -> Result<Trust, Failure> {
        Ok(match self.trusted_public_keys.is_empty() {
            _ if self.no_check_sigs => Trust::Everything,
            true => Trust::Keys(usual()?),
            false => Trust::Keys(self.trusted_public_keys.clone()),
        })
    }

    fn remote(&self, reference: &CacheRef) -> Result<RemoteCache, Failure> {
        let Target { url, token, .. } = self.remote.target_of(reference)?;
        let token = match self.token()? {
            Some(token) => Some(token),
            None => token,
        };
        let total = Duration::from_secs(self.timeout);
        let policy = RetryPolicy { attempts: ATTEMPTS, total, ..RetryPolicy::patient() };
        let retry = RetryPolicy { longest_pause: LONGEST_PAUSE, ..policy };
        let options = ServerOptions { retry, stall: STALL.min(total) };
        let context = format!("cannot speak to {url}");
        let server = Server::with_options(url, token, options).context(|| context)?;
        Ok(server.cache(&reference.cache))
    }

    fn local(&self, name: &str) -> Result<(Source, Trust, StoreDir), Failure> {
        let dir = match &self.data {
            Some(dir) => dir.clone(),
            None => default_data_dir()?,
        };
        let house = Arc::new(StorePlace::of_data(&dir).resolve()?.open()?);
        let cache = house.cache(name).filter(|cache| cache.destroyed().is_none());
        let cache =
            cache.ok_or_else(|| Failure::new(format!("{} has no cache {name}", dir.display())))?;
        let store_dir = cache.store_dir().clone();
        let trust = self.trust(|| Ok(cache.public_keys().collect()))?;
        let name = format!("{}:{name}", dir.display());
        Ok((Source::Local(Local::new(house, cache, name)), trust, store_dir))
    }

    async fn binary_cache(&self, url: &str) -> Result<(Source, Trust, StoreDir), Failure> {
        let trust = self.trust(nix_keys)?;
        let token = self.token()?;
        let total = Duration::from_secs(self.timeout);
        let retry = RetryPolicy { total, ..RetryPolicy::stubborn() };
        let source = binary_cache::open(url, self.netrc_file.as_deref(), token, retry).await?;
        let store_dir = source.store_dir().clone();
        Ok((Source::Nars(Box::new(Nars::new(source, url.to_owned()))), trust, store_dir))
    }

    fn token(&self) -> Result<Option<Token>, Failure> {
        let Some(path) = &self.token_file else { return Ok(None) };
        let context = || format!("the token in {}", path.display());
        fs::read_to_string(path).context(context)?.parse().map(Some).context(context)
    }
}

/// What the cache is; while its server is away, what it was when it was last there.
async fn about(remote: &RemoteCache, disk: &DiskCache) -> Result<CacheInfo, Error> {
    let kept = disk.about(&remote.url());
    let info = match kept.and_then(|kept| serde_json::from_str::<CacheInfo>(&kept).ok()) {
        None => remote.info().await?,
        Some(kept) => match tokio::time::timeout(AWAY, remote.info()).await {
            Ok(Ok(info)) => info,
            Ok(Err(Error::Unreachable { .. } | Error::Stalled { .. })) | Err(_) => {
                tracing::warn!("{} does not answer: what was read before is there", remote.url());
                return Ok(kept);
            }
            Ok(Err(error)) => return Err(error),
        },
    };
    if let Ok(text) = serde_json::to_string(&info) {
        disk.put_about(&remote.url(), &text);
    }
    Ok(info)
}
