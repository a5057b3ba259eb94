//! Where a store is, for commands that open one as a server does.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use castore::Options;
use castore::bytes::{LocalPacks, PackBackend, S3Location, S3Packs};
use castore::fsck::measure;
use castore::index::{Index, PostgresIndex};
use clap::Args;
use narbridge::Storehouse;

use crate::data_dir::default_data_dir;
use crate::failure::{Context, Failure};
use crate::progress::OpenBar;
use crate::server_config::ServerConfig;
use crate::size::parse_size;

/// The folder of a data directory in which packs of an object store grow and are cached.
const OBJECTS: &str = "objects";

/// Options that say where a store is.
#[derive(Args, Clone)]
pub struct StorePlace {
    /// Folder that holds everything, or what is this machine's of it [default:
    /// $XDG_STATE_HOME/granary]
    #[arg(long, value_name = "DIR", env = "GRANARY_DATA")]
    data: Option<PathBuf>,
    /// Where packs lie: s3://BUCKET[/PREFIX][?endpoint=…&region=…] [default: the data folder]
    #[arg(long, value_name = "URL", env = "GRANARY_STORE")]
    store: Option<String>,
    /// The index: `sled`, in the data folder, or postgres://USER@HOST/DATABASE; a password belongs
    /// into the environment or the configuration [default: sled]
    #[arg(long, value_name = "URL", env = "GRANARY_INDEX", hide_env_values = true)]
    index: Option<String>,
    /// The server's key, the same for all servers on one store [default: server-key in the data
    /// folder]
    #[arg(long, value_name = "FILE", env = "GRANARY_SERVER_KEY")]
    server_key: Option<PathBuf>,
    /// What may be kept on this machine of packs that lie elsewhere
    #[arg(long, value_name = "SIZE", default_value = "10GiB", value_parser = parse_size)]
    cache_size: u64,
    /// Configuration: whose tokens to believe, and what these options say [default: config.toml in
    /// the data folder, if there]
    #[arg(long, value_name = "FILE", env = "GRANARY_SERVER_CONFIG")]
    config: Option<PathBuf>,
}

/// Which index.
#[derive(Clone)]
enum IndexUrl {
    Embedded,
    Postgres(String),
}

impl FromStr for IndexUrl {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        match text.split_once("://") {
            None if text == "sled" => Ok(Self::Embedded),
            Some(("postgres" | "postgresql", _)) => Ok(Self::Postgres(text.to_owned())),
            // Whatever it is may hold a password.
            _ => Err(Failure::new("--index: `sled` or postgres://… is wanted")),
        }
    }
}

/// A store as the options and the configuration say.
pub struct Place {
    /// The data folder.
    pub dir: PathBuf,
    /// The configuration.
    pub config: ServerConfig,
    store: Option<S3Location>,
    index: IndexUrl,
    server_key: PathBuf,
    cache_size: u64,
}

/// What remaking an index came to.
pub struct RebuildReport {
    /// Packs it was made from.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
}

/// The packs of a store, without what is made from them.
pub struct PlacePacks {
    /// The packs.
    pub backend: Arc<dyn PackBackend>,
    /// Held while they are in use.
    _lock: Option<File>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.store {
            Some(location) => write!(f, "{location}"),
            None => write!(f, "{}", self.dir.display()),
        }
    }
}

impl StorePlace {
    /// The store of a data folder, as the environment and the configuration in it say.
    pub fn of_data(dir: &Path) -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            data: Some(dir.to_owned()),
            store: variable("GRANARY_STORE"),
            index: variable("GRANARY_INDEX"),
            server_key: variable("GRANARY_SERVER_KEY").map(PathBuf::from),
            cache_size: 10 << 30,
            config: variable("GRANARY_SERVER_CONFIG").map(PathBuf::from),
        }
    }

    /// Puts together what options and configuration say; options come first.
    pub fn resolve(&self) -> Result<Place, Failure> {
        let dir = match &self.data {
            Some(dir) => dir.clone(),
            None => default_data_dir()?,
        };
        let config = ServerConfig::load(self.config.as_deref(), &dir)?;
        let store = self.store.as_deref().or(config.store_url());
        let store =
            store.map(|url| url.parse().context(|| format!("--store {url}"))).transpose()?;
        let index = match &self.index {
            Some(url) => Some(url.clone()),
            None => config.index_url()?,
        };
        let index = index.as_deref().unwrap_or("sled").parse()?;
        let server_key = self.server_key.clone().unwrap_or_else(|| dir.join("server-key"));
        Ok(Place { dir, config, store, index, server_key, cache_size: self.cache_size })
    }

    /// The same for a store that has to be there already.
    pub fn existing(&self) -> Result<Place, Failure> {
        let place = self.resolve()?;
        if place.store.is_none() && !place.dir.join("packs").is_dir() {
            return Err(Failure::new(format!("there is no store in {}", place.dir.display())));
        }
        Ok(place)
    }
}

impl Place {
    /// Opens the storehouse, showing how it goes where that takes long. Makes it where there is none.
    pub fn open(&self) -> Result<Storehouse, Failure> {
        self.open_as(false)
    }

    fn open_as(&self, rebuild: bool) -> Result<Storehouse, Failure> {
        let context = || format!("cannot open the store in {self}");
        let packs = self.objects()?;
        let index: Option<Arc<dyn Index>> = match &self.index {
            IndexUrl::Embedded => None,
            IndexUrl::Postgres(url) => Some(Arc::new(PostgresIndex::open(url).context(context)?)),
        };
        let mut bar = OpenBar::new();
        let mut progress = |news| bar.update(news);
        let options = Options { packs, index, rebuild, ..Options::new(&mut progress) };
        let house = Storehouse::open_with_key(&self.dir, &self.server_key, options);
        bar.finish();
        house.context(context)
    }

    /// The packs, if they are not in the data folder.
    fn objects(&self) -> Result<Option<Arc<dyn PackBackend>>, Failure> {
        let Some(location) = &self.store else { return Ok(None) };
        let context = || format!("cannot open the packs in {location}");
        let dir = self.dir.join(OBJECTS);
        let packs = S3Packs::open(location.clone(), &dir, self.cache_size).context(context)?;
        Ok(Some(Arc::new(packs)))
    }

    /// Throws the index away, and opens the storehouse with one made from the packs.
    pub fn rebuild(&self) -> Result<(Storehouse, RebuildReport), Failure> {
        let measured = measure(&*self.packs()?.backend);
        let measured = measured.context(|| format!("cannot read the packs in {self}"))?;
        let started = Instant::now();
        let house = self.open_as(true)?;
        let (packs, bytes) = (measured.len() as u64, measured.iter().map(|(_, len)| len).sum());
        Ok((house, RebuildReport { packs, bytes, took: started.elapsed() }))
    }

    /// The packs alone, for a store that does not open.
    pub fn packs(&self) -> Result<PlacePacks, Failure> {
        let context = || format!("cannot open the packs in {self}");
        let lock = castore::store::lock(&self.dir).context(context)?;
        let backend: Arc<dyn PackBackend> = match self.objects()? {
            Some(backend) => backend,
            None => Arc::new(LocalPacks::open(&self.dir.join("packs")).context(context)?),
        };
        Ok(PlacePacks { backend, _lock: Some(lock) })
    }
}
