//! `granary serve`: which store it serves, see `--store` and `--index`, is [`StorePlace`]'s matter.

use std::fs;
use std::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use castore::durable::write_file;
use clap::{Args, ValueEnum};
use granary_http::token::{Claims, PURPOSE, Verifier};
use granary_http::{App, Auth, Limits, new_id};
use narbridge::cache::CacheSettings;
use narbridge::retention::Defaults;
use narbridge::{Cache, Storehouse, StorehouseError};
use tokio::net::TcpListener;

use crate::failure::{Context, Failure};
use crate::keep::Keep;
use crate::logging;
use crate::maintenance::{self, Collecting};
use crate::scrubbing::Scrubbing;
use crate::sd_notify::notify;
use crate::size::parse_size;
use crate::store_place::{Place, StorePlace};
use crate::watching::Signals;

/// The cache that a new data directory has.
const FIRST_CACHE: &str = "default";

/// How long the end waits for those that look at the storehouse.
const LAST_LOOK: Duration = Duration::from_secs(5);

/// Options of `granary serve`.
#[derive(Args)]
pub struct Serve {
    /// Address to listen on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080", env = "GRANARY_LISTEN")]
    listen: SocketAddr,
    #[command(flatten)]
    place: StorePlace,
    /// What this process does, where several share one store
    #[arg(long, value_enum, default_value_t = Role::All, env = "GRANARY_ROLE")]
    role: Role,
    /// Longest NAR to accept, uncompressed: bytes, or with KiB, MiB, GiB, TiB
    #[arg(long, value_name = "SIZE", default_value = "64GiB", value_parser = parse_size)]
    max_nar_size: u64,
    /// Send clients to the object store for NARs from this size on, as they are sent; a copy of each
    /// is kept there
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    redirect_nars_from: Option<u64>,
    #[command(flatten)]
    keep: Keep,
    #[command(flatten)]
    collecting: Collecting,
    /// Read the whole store over and over in the background, at most so many bytes per second, to
    /// find what is damaged [default: it is found when it is read]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, env = "GRANARY_SCRUB_RATE")]
    scrub_rate: Option<u64>,
}

/// What a process does.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    /// Answer requests, and leave work in the background to others
    Api,
    /// Work in the background, and answer /healthz and /readyz alone
    Gc,
    /// Both
    All,
}

impl Serve {
    /// Serves until SIGTERM or SIGINT.
    pub fn run(self) -> Result<(), Failure> {
        logging::start();
        let place = self.place.resolve()?;
        let defaults = self.keep.or(place.config.keep());
        let house = Arc::new(place.open()?);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.context(|| "cannot start threads".to_owned())?;
        let threads = || "cannot start threads".to_owned();
        house.keep_fresh().context(threads)?;
        let maintenance = match self.role {
            Role::Api => None,
            _ => Some(maintenance::start(&house, self.collecting, defaults).context(threads)?),
        };
        let scrubbing = match self.role {
            Role::Api => None,
            _ => Some(Scrubbing::start(&house, self.scrub_rate).context(threads)?),
        };
        match self.role {
            Role::Gc => runtime.block_on(self.watch_over(&house)),
            _ => {
                let doors = Doors::of(&place, &house, self.limits(defaults))?;
                runtime.block_on(self.answer(doors))
            }
        }?;
        drop(maintenance);
        drop(scrubbing);
        // Threads that still work on a cut-off request keep the store open; they end by themselves.
        runtime.shutdown_timeout(Duration::from_secs(10));
        // Work in the background looks at the storehouse for moments. Whoever lets go of it last closes it.
        let deadline = Instant::now() + LAST_LOOK;
        while Arc::strong_count(&house) > 1 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        drop(house);
        tracing::info!("stopped");
        Ok(())
    }

    async fn answer(&self, doors: Doors) -> Result<(), Failure> {
        let Doors { app, cache, dir } = doors;
        // Before anybody is told that it serves, and could tell it to stop.
        let stopped = stopped()?;
        let (listener, address) = self.listen().await?;
        let announced = announce(address, cache.as_deref(), &dir);
        announced.context(|| "cannot write to stdout".to_owned())?;
        notify("READY=1");
        // Held no longer: a cache that somebody holds cannot be moved.
        drop(cache);
        let served = granary_http::serve(listener, app, stopped).await;
        served.context(|| "serving ended".to_owned())
    }

    async fn watch_over(&self, house: &Arc<Storehouse>) -> Result<(), Failure> {
        let stopped = stopped()?;
        let (listener, address) = self.listen().await?;
        let line =
            format!("Granary works in the background; http://{address}/readyz says how it is");
        crate::output::print(&line)?;
        notify("READY=1");
        let served = granary_http::serve_health(listener, house.clone(), stopped).await;
        served.context(|| "serving ended".to_owned())
    }

    fn limits(&self, defaults: Defaults) -> Limits {
        Limits {
            max_nar_size: self.max_nar_size,
            redirect_from: self.redirect_nars_from,
            collection: self.collecting.options(defaults),
        }
    }

    async fn listen(&self) -> Result<(TcpListener, SocketAddr), Failure> {
        let listener = TcpListener::bind(self.listen).await.context(|| {
            format!("cannot listen on {}: choose another address with --listen", self.listen)
        })?;
        let address = listener.local_addr().context(|| "no address".to_owned())?;
        Ok((listener, address))
    }
}

/// Done when the process is to end. From now on signals do not end it by themselves.
fn stopped() -> Result<impl Future<Output = ()>, Failure> {
    let mut signals = Signals::new()?;
    Ok(async move {
        signals.next().await;
        notify("STOPPING=1");
        tracing::info!("finishing the requests under way");
    })
}

/// What requests are answered with.
struct Doors {
    app: Arc<App>,
    /// The cache that a new data directory has.
    cache: Option<Arc<Cache>>,
    dir: PathBuf,
}

impl Doors {
    fn of(place: &Place, house: &Arc<Storehouse>, limits: Limits) -> Result<Self, Failure> {
        let dir = place.dir.clone();
        let secret = house.key().derive(PURPOSE);
        let verifier = place.config.verifier(&secret, &dir)?;
        let cache = first_cache(house)?;
        leave_root_token(&dir, house, &secret)?;
        leave_public_key(&dir, cache.as_deref())?;
        let auth = Auth::new(&secret, verifier, house.revocations().clone());
        let app = App::new(house.clone(), auth, limits);
        Ok(Self { app, cache, dir })
    }
}

/// The cache that a new data directory has, made if this is one. `None` if it was destroyed.
fn first_cache(house: &Storehouse) -> Result<Option<Arc<Cache>>, Failure> {
    if !house.caches().is_empty() {
        return Ok(house.cache(FIRST_CACHE));
    }
    let context = || format!("cannot make the cache {FIRST_CACHE}");
    let name = FIRST_CACHE.parse().context(context)?;
    let settings = CacheSettings { public: true, ..CacheSettings::default() };
    match house.create_cache(&name, &settings, None) {
        // Another server on the same store made it at the same time.
        Err(StorehouseError::Exists(_)) => {
            house.look_for_cache(FIRST_CACHE).context(context)?;
            Ok(house.cache(FIRST_CACHE))
        }
        made => made.map(Some).context(context),
    }
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
