//! From what a person names to a server to talk to.

use std::future::Future;
use std::sync::OnceLock;
use std::time::Duration;

use clap::Args;
use granary_client::config::{CacheRef, ServerRef, Settings, Target};
use granary_client::http::{RemoteCache, RetryPolicy, Server, ServerOptions};
use tokio::runtime::Runtime;

use crate::failure::{Context, Failure};
use crate::output::warn;

/// How long a server may read its store before it says what paths take of it.
const LONG_ANSWER: Duration = Duration::from_secs(3600);

/// Which server.
#[derive(Args, Default)]
pub struct RemoteArgs {
    /// Server: a name from granary login, or an address [default: $GRANARY_SERVER, or the default]
    #[arg(long, value_name = "NAME|URL")]
    server: Option<ServerRef>,
}

impl RemoteArgs {
    /// What `--server` says.
    pub fn chosen(&self) -> Option<&ServerRef> {
        self.server.as_ref()
    }

    /// The server that is meant.
    pub fn target(&self) -> Result<Target, Failure> {
        settings()?.server(self.server.as_ref()).context(|| "which server".to_owned())
    }

    /// A connection to the server that is meant.
    pub fn server(&self) -> Result<Server, Failure> {
        connect(self.target()?)
    }

    /// The cache that is meant.
    pub fn cache(&self, cache: &CacheRef) -> Result<RemoteCache, Failure> {
        Ok(connect(self.target_of(cache)?)?.cache(&cache.cache))
    }

    /// The same, for work that is not given up lightly.
    pub fn cache_to_push(&self, cache: &CacheRef) -> Result<RemoteCache, Failure> {
        let target = self.target_of(cache)?;
        let context = format!("cannot speak to {}", target.url);
        let options = ServerOptions { retry: RetryPolicy::stubborn(), ..ServerOptions::default() };
        let server = Server::with_options(target.url, target.token, options);
        Ok(server.context(|| context)?.cache(&cache.cache))
    }

    /// The same, for questions that take the server long.
    pub fn cache_to_weigh(&self, cache: &CacheRef) -> Result<RemoteCache, Failure> {
        let target = self.target_of(cache)?;
        let context = format!("cannot speak to {}", target.url);
        let options = ServerOptions { stall: LONG_ANSWER, ..ServerOptions::default() };
        let server = Server::with_options(target.url, target.token, options);
        Ok(server.context(|| context)?.cache(&cache.cache))
    }

    /// The same as it is configured now, and without what was said about that before: for work that
    /// goes on while the configuration changes.
    pub fn cache_now(&self, cache: &CacheRef) -> Result<RemoteCache, Failure> {
        let settings = Settings::load().context(|| "cannot use the configuration".to_owned())?;
        let target = settings.server_of(cache, self.server.as_ref());
        let target = target.context(|| "which server".to_owned())?;
        Ok(connect(target)?.cache(&cache.cache))
    }

    /// The server of a cache.
    pub fn target_of(&self, cache: &CacheRef) -> Result<Target, Failure> {
        let target = settings()?.server_of(cache, self.server.as_ref());
        target.context(|| "which server".to_owned())
    }
}

/// The configuration and the environment.
pub fn settings() -> Result<Settings, Failure> {
    let settings = Settings::load().context(|| "cannot use the configuration".to_owned())?;
    settings.warnings().iter().for_each(|warning| warn(warning));
    Ok(settings)
}

/// A connection to a server; nothing is sent yet.
pub fn connect(target: Target) -> Result<Server, Failure> {
    let context = format!("cannot speak to {}", target.url);
    Server::new(target.url, target.token).context(|| context)
}

/// Waits for an answer. All that is waited for runs on one set of connections.
pub fn block_on<T>(future: impl Future<Output = T>) -> Result<T, Failure> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = match RUNTIME.get() {
        Some(runtime) => runtime,
        None => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.context(|| "cannot start".to_owned())?;
            RUNTIME.get_or_init(|| runtime)
        }
    };
    Ok(runtime.block_on(future))
}
