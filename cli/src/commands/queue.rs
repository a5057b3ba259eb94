//! `granary queue`: what waits for `granary watch-store`. `add` is what Nix's post-build hook calls:
//! it asks neither the server nor the store.

use std::env;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use granary_client::config::CacheRef;
use granary_client::local::LocalStore;
use granary_client::watch::{FailedPath, Queue};
use nix_compat::store_path::StorePath;
use serde_json::json;

use crate::clock::{now, relative};
use crate::failure::{Context, Failure};
use crate::output::{note, print, print_json, warn};
use crate::remote::RemoteArgs;
use crate::watching::QueueArgs;

/// Paths that are listed. Nobody reads more.
const LISTED: usize = 10_000;

/// Subcommands of `granary queue`.
#[derive(Subcommand)]
pub enum QueueCommand {
    /// Let paths wait to be pushed, those in $OUT_PATHS too: for Nix's post-build-hook
    Add(Add),
    /// Show what waits and what failed
    List(List),
    /// Try failed paths once more
    Retry(Retry),
    /// Forget what waits and what failed
    Clear(Clear),
}

#[derive(Args)]
struct Which {
    /// Cache whose queue it is: `cache`, `server:cache` or `https://host/cache`
    cache: CacheRef,
    #[command(flatten)]
    remote: RemoteArgs,
    #[command(flatten)]
    queue: QueueArgs,
}

impl Which {
    fn open(&self) -> Result<Queue, Failure> {
        self.queue.open(&self.remote, &self.cache)
    }
}

/// Options of `granary queue add`.
#[derive(Args)]
pub struct Add {
    #[command(flatten)]
    which: Which,
    /// Store paths, or what leads to them such as ./result
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Nix store that they are in [default: $NIX_REMOTE, or auto]
    #[arg(long, value_name = "STORE")]
    store: Option<String>,
}

/// Options of `granary queue list`.
#[derive(Args)]
pub struct List {
    #[command(flatten)]
    which: Which,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

/// Options of `granary queue retry`.
#[derive(Args)]
pub struct Retry {
    #[command(flatten)]
    which: Which,
    /// Names of failed paths, as granary queue list shows them [default: all]
    #[arg(value_name = "NAME")]
    paths: Vec<StorePath>,
}

/// Options of `granary queue clear`.
#[derive(Args)]
pub struct Clear {
    #[command(flatten)]
    which: Which,
    /// Forget only what failed
    #[arg(long)]
    failed: bool,
}

impl QueueCommand {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        match self {
            Self::Add(add) => add.run(),
            Self::List(list) => list.run(),
            Self::Retry(retry) => retry.run(),
            Self::Clear(clear) => clear.run(),
        }
    }
}

fn used<T, E: std::error::Error + Send + Sync + 'static>(
    result: Result<T, E>,
) -> Result<T, Failure> {
    result.context(|| "cannot use the queue".to_owned())
}

impl Add {
    fn run(self) -> Result<(), Failure> {
        let built = env::var("OUT_PATHS").unwrap_or_default();
        let mut paths = self.paths;
        paths.extend(built.split_whitespace().map(PathBuf::from));
        if paths.is_empty() {
            return Err(Failure::new("no path is given, and $OUT_PATHS names none"));
        }
        let (mut good, mut failed) = (Vec::new(), 0);
        for path in &paths {
            match LocalStore::resolve_in(self.store.as_deref(), path) {
                Ok(path) => good.push(path),
                // One bad path does not keep the others back.
                Err(error) => {
                    failed += 1;
                    warn(&error.to_string());
                }
            }
        }
        used(self.which.open()?.add(&good))?;
        match failed {
            0 => Ok(()),
            n => Err(Failure::new(format!("{n} of {} paths cannot wait", paths.len()))),
        }
    }
}

impl List {
    fn run(self) -> Result<(), Failure> {
        let queue = self.which.open()?;
        let (waiting, more) = used(queue.waiting(LISTED))?;
        let failed = used(queue.failed())?;
        if self.json {
            let name = |path: &StorePath| path.to_string();
            let failed = failed.iter().map(|failed| {
                let FailedPath { path, reason, attempts, next } = failed;
                json!({"path": name(path), "error": reason, "attempts": attempts, "next": next})
            });
            return print_json(&json!({
                "waiting": waiting.iter().map(name).collect::<Vec<_>>(),
                "more": more,
                "failed": failed.collect::<Vec<_>>(),
            }));
        }
        if waiting.is_empty() && failed.is_empty() {
            note("nothing waits");
        }
        for path in waiting {
            print(&path.to_string())?;
        }
        if more {
            note("and more");
        }
        for FailedPath { path, reason, attempts, next } in failed {
            let next = relative(next, now());
            print(&format!("{path}  failed {attempts} times, again {next}: {reason}"))?;
        }
        Ok(())
    }
}

impl Retry {
    fn run(self) -> Result<(), Failure> {
        match used(self.which.open()?.retry(&self.paths))? {
            1 => note("1 path waits again"),
            n => note(&format!("{n} paths wait again")),
        }
        Ok(())
    }
}

impl Clear {
    fn run(self) -> Result<(), Failure> {
        used(self.which.open()?.clear(self.failed))
    }
}
