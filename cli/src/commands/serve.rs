//! `granary serve`

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use castore::Options;
use castore::durable::write_file;
use clap::Args;
use granary_http::token::{Claims, PURPOSE, Verifier};
use granary_http::{App, Auth, Limits, new_id};
use narbridge::cache::CacheSettings;
use narbridge::{Cache, Storehouse};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::data_dir::default_data_dir;
use crate::failure::{Context, Failure};
use crate::logging;
use crate::progress::OpenBar;
use crate::sd_notify::notify;
use crate::server_config::ServerConfig;
use crate::size::parse_size;

/// The cache that a new data directory has.
const FIRST_CACHE: &str = "default";

/// Options of `granary serve`.
#[derive(Args)]
pub struct Serve {
    /// Address to listen on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080", env = "GRANARY_LISTEN")]
    listen: SocketAddr,
    /// Folder that holds everything [default: $XDG_STATE_HOME/granary]
    #[arg(long, value_name = "DIR", env = "GRANARY_DATA")]
    data: Option<PathBuf>,
    /// Configuration: whose tokens to believe [default: config.toml in the data folder, if there]
    #[arg(long, value_name = "FILE", env = "GRANARY_SERVER_CONFIG")]
    config: Option<PathBuf>,
    /// Longest NAR to accept, uncompressed: bytes, or with KiB, MiB, GiB, TiB
    #[arg(long, value_name = "SIZE", default_value = "64GiB", value_parser = parse_size)]
    max_nar_size: u64,
}

impl Serve {
    /// Serves until SIGTERM or SIGINT.
    pub fn run(self) -> Result<(), Failure> {
        logging::start();
        let dir = match self.data {
            Some(dir) => dir,
            None => default_data_dir()?,
        };
        let config = ServerConfig::load(self.config.as_deref(), &dir)?;
        let house = open(&dir)?;
        let secret = house.key().derive(PURPOSE);
        let verifier = config.verifier(&secret, &dir)?;
        let cache = first_cache(&house)?;
        leave_root_token(&dir, &house, &secret)?;
        leave_public_key(&dir, cache.as_deref())?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.context(|| "cannot start threads".to_owned())?;
        let house = Arc::new(house);
        let limits = Limits { max_nar_size: self.max_nar_size };
        let auth = Auth::new(&secret, verifier, house.revocations().clone());
        let app = App::new(house.clone(), auth, limits);
        runtime.block_on(async {
            let listener = TcpListener::bind(self.listen).await.context(|| {
                format!("cannot listen on {}: choose another address with --listen", self.listen)
            })?;
            let address = listener.local_addr().context(|| "no address".to_owned())?;
            announce(address, cache.as_deref(), &dir)
                .context(|| "cannot write to stdout".to_owned())?;
            notify("READY=1");
            // Held no longer: a cache that somebody holds cannot be moved.
            drop(cache);
            let mut term =
                signal(SignalKind::terminate()).context(|| "cannot wait for SIGTERM".to_owned())?;
            let stop = async move {
                tokio::select! {
                    _ = term.recv() => {}
                    _ = tokio::signal::ctrl_c() => {}
                }
                notify("STOPPING=1");
                tracing::info!("finishing the requests under way");
            };
            let served = granary_http::serve(listener, app, stop).await;
            served.context(|| "serving ended".to_owned())
        })?;
        // Threads that still work on a cut-off request keep the store open; they end by themselves.
        runtime.shutdown_timeout(std::time::Duration::from_secs(10));
        drop(house);
        tracing::info!("stopped");
        Ok(())
    }
}

/// Opens the storehouse, showing how it goes where that takes long.
pub fn open(dir: &Path) -> Result<Storehouse, Failure> {
    let mut bar = OpenBar::new();
    let mut progress = |news| bar.update(news);
    let house = Storehouse::open(dir, Options::new(&mut progress));
    bar.finish();
    house.context(|| format!("cannot open the store in {}", dir.display()))
}

/// The cache that a new data directory has, made if this is one. `None` if it was destroyed.
fn first_cache(house: &Storehouse) -> Result<Option<Arc<Cache>>, Failure> {
    if !house.caches().is_empty() {
        return Ok(house.cache(FIRST_CACHE));
    }
    let context = || format!("cannot make the cache {FIRST_CACHE}");
    let name = FIRST_CACHE.parse().context(context)?;
    let settings = CacheSettings { public: true, ..CacheSettings::default() };
    house.create_cache(&name, &settings, None).map(Some).context(context)
}

/// Leaves a token that may do everything as a file, for scripts. One that has been revoked gives
/// way to another.
fn leave_root_token(dir: &Path, house: &Storehouse, secret: &[u8]) -> Result<(), Failure> {
    let path = dir.join("root-token");
    let revoked = house.revocations();
    let is_valid = |token: String| {
        let token = Verifier::new(secret).verify_offline(token.trim());
        token.is_ok_and(|token| {
            let Claims { id, subject, issued, .. } = &token.claims;
            !revoked.is_revoked(id.as_deref(), subject, *issued)
        })
    };
    if fs::read_to_string(&path).is_ok_and(is_valid) {
        return Ok(());
    }
    let context = || format!("cannot write {}", path.display());
    let mut claims = Claims::root(new_id().context(context)?);
    // The second in which root's tokens were revoked may not be over yet.
    let void = revoked.subject(&claims.subject).map(|until| until + 1);
    claims.issued = claims.issued.max(void);
    let token = granary_http::token::sign(secret, &claims).context(context)?;
    write_file(&path, format!("{token}\n").as_bytes(), 0o600).context(context)
}

/// Leaves the public keys of a cache as a file, for scripts.
fn leave_public_key(dir: &Path, cache: Option<&Cache>) -> Result<(), Failure> {
    let Some(cache) = cache else { return Ok(()) };
    let path = dir.join("public-key");
    let keys: Vec<String> = cache.public_keys().map(|key| key.to_string()).collect();
    let text = format!("{}\n", keys.join("\n"));
    if fs::read_to_string(&path).ok().as_deref() == Some(&text) {
        return Ok(());
    }
    write_file(&path, text.as_bytes(), 0o644).context(|| format!("cannot write {}", path.display()))
}

/// Prints the lines to paste.
fn announce(address: SocketAddr, cache: Option<&Cache>, dir: &Path) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let name = cache.map_or("", |cache| cache.name().as_str());
    writeln!(out, "Granary serves http://{address}/{name} from {}", dir.display())?;
    if let Some(cache) = cache {
        let keys: Vec<String> = cache.public_keys().map(|key| key.to_string()).collect();
        writeln!(out, "To read from it, in nix.conf:")?;
        writeln!(out, "  extra-substituters = http://{address}/{name}")?;
        writeln!(out, "  extra-trusted-public-keys = {}", keys.join(" "))?;
    }
    writeln!(out, "To write to it, once in a shell (Nix reads the file with --netrc-file):")?;
    writeln!(
        out,
        "  (umask 077; echo \"machine {} login granary password $(cat {})\" >> ~/.netrc)",
        address.ip(),
        dir.join("root-token").display()
    )?;
    out.flush()
}
