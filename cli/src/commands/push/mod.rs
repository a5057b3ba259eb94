//! `granary push`

mod filter;
mod progress;

use std::io::{self, BufRead};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use granary_api::AddPin;
use granary_client::config::CacheRef;
use granary_client::http::Server;
use granary_client::local::{Along, LocalStore};
use granary_client::push::{
    DEFAULT_PART_SIZE, Here, Plan, PlanOptions, PushError, PushOptions, Summary, plan, push_into,
};
use nix_compat::store_path::StorePath;
use serde::Serialize;

use crate::commands::pin::add_pin;
use crate::failure::{Context, Failure};
use crate::output::{note, print_json};
use crate::remote::RemoteArgs;
use crate::size::parse_size;

pub use filter::Filter;
pub use progress::Progress;

/// Options of `granary push`.
#[derive(Args)]
pub struct Push {
    /// Cache to push to: `cache`, `server:cache` or `https://host/cache`
    cache: CacheRef,
    /// Store paths, or what leads to them such as ./result
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Read more paths from stdin, one to a line
    #[arg(long)]
    stdin: bool,
    /// Push these paths alone, without what they refer to
    #[arg(long, conflicts_with_all = ["include_drv", "with_sources"])]
    no_closure: bool,
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    how: HowToPush,
    /// Pin the path under this name once it is pushed; with --with-sources what it was built from, too
    #[arg(long, value_name = "NAME")]
    pin: Option<String>,
    /// Keep the last N revisions of the pin [default: as before, 1 at first]
    #[arg(long, value_name = "N", requires = "pin")]
    pin_revisions: Option<u32>,
    /// Say what would be pushed, and push nothing
    #[arg(long)]
    dry_run: bool,
    /// Write what became of the push as JSON
    #[arg(long)]
    json: bool,
}

/// What is pushed besides the closure, and what is not.
#[derive(Args)]
pub struct Selection {
    /// Push also the derivations that the paths were built by
    #[arg(long)]
    include_drv: bool,
    /// Push also the derivations, and all that is there of what they made and were built from, sources
    /// included
    #[arg(long)]
    with_sources: bool,
    /// Push only paths whose name fits, such as `hello-*`; with `!` before it, none that fit
    #[arg(long, value_name = "PATTERN", allow_hyphen_values = true)]
    filter: Vec<Filter>,
}

/// How to push, for every command that pushes.
#[derive(Args)]
pub struct HowToPush {
    #[command(flatten)]
    pub remote: RemoteArgs,
    /// Nix store to take the paths from: a folder that holds nix/store, or one of auto, daemon,
    /// local, unix://SOCKET [default: $NIX_REMOTE, or auto]
    #[arg(long, value_name = "STORE")]
    store: Option<String>,
    /// Paths to read at the same time [default: one per core]
    #[arg(long, short, value_name = "N")]
    jobs: Option<usize>,
    /// Longest body of a request, for proxies that cap them
    #[arg(long, value_name = "SIZE", default_value_t = DEFAULT_PART_SIZE, value_parser = part_size,
          hide_default_value = true, env = "GRANARY_PART_SIZE")]
    part_size: usize,
    /// Push also what the cache's upstreams have signed
    #[arg(long)]
    ignore_upstream: bool,
}

/// Reads a part size.
pub fn part_size(text: &str) -> Result<usize, String> {
    usize::try_from(parse_size(text)?).map_err(|_| format!("`{text}` is too large"))
}

impl Selection {
    /// What is pushed along with the paths.
    pub fn along(&self) -> Along {
        match (self.with_sources, self.include_drv) {
            (true, _) => Along::Sources,
            (_, true) => Along::Derivers,
            _ => Along::Nothing,
        }
    }

    /// Whether a path of that name is wanted.
    pub fn wants(&self, path: &StorePath) -> bool {
        Filter::wants(&self.filter, path.name())
    }
}

impl HowToPush {
    /// Opens the local store.
    pub fn open_store(&self) -> Result<LocalStore, Failure> {
        LocalStore::open(self.store.as_deref()).context(|| "cannot open the Nix store".to_owned())
    }

    /// How plans are made.
    pub fn plan_options(&self) -> PlanOptions {
        PlanOptions { ignore_upstream: self.ignore_upstream, part_size: self.part_size }
    }

    /// How paths are pushed.
    pub fn push_options(&self) -> PushOptions {
        let usual = PushOptions::default();
        PushOptions { jobs: self.jobs.unwrap_or(usual.jobs), part_size: self.part_size, ..usual }
    }
}

impl Push {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        let started = Instant::now();
        let remote = self.how.remote.cache_to_push(&self.cache)?;
        let store = self.how.open_store()?;
        let roots = self.roots(&store)?;
        let pin = self.wanted_pin(&roots)?;
        let mut infos = if self.no_closure {
            store.alone(&roots).context(|| "cannot tell what to push".to_owned())?
        } else {
            let closure = store.closure_with(&roots, self.selection.along());
            closure.context(|| "cannot tell what to push".to_owned())?
        };
        infos.retain(|info| self.selection.wants(&info.store_path));
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.context(|| "cannot start threads".to_owned())?;
        let context = || format!("cannot push to {}", remote.url());
        let outcome = runtime.block_on(async {
            let plan = plan(&remote, infos, store.store_dir(), self.how.plan_options()).await?;
            let progress = Progress::new(&plan, &remote, self.json);
            progress.header(self.dry_run);
            let (mut summary, mut pushed) = (Summary::default(), Ok(()));
            if !self.dry_run {
                let places = |path: &StorePath| store.real_path(path);
                let (here, options) = (Here(&places), self.how.push_options());
                let observer = |at, step| progress.hear(&plan, at, step);
                pushed = push_into(&remote, &plan, &here, options, &observer, &mut summary).await;
                progress.finish(&summary, remote.server(), started.elapsed());
            }
            Ok::<_, PushError>((plan, summary, pushed))
        });
        let (plan, summary, pushed) = outcome.context(context)?;
        let pushed = pushed.context(context);
        // What failed path by path is told there.
        let mut error = pushed.as_ref().err().map(Failure::text);
        let mut done = pushed.and_then(|()| match summary.failed.len() {
            0 => Ok(()),
            1 => Err(Failure::new(format!("{}: 1 path was not pushed", remote.url()))),
            n => Err(Failure::new(format!("{}: {n} paths were not pushed", remote.url()))),
        });
        let mut pinned = None;
        if let (true, false, Some((name, pin))) = (done.is_ok(), self.dry_run, &pin) {
            match runtime.block_on(add_pin(&remote, name, pin)) {
                Ok(pin) => pinned = Some(pin),
                Err(failure) => {
                    error = Some(failure.text());
                    done = Err(failure);
                }
            }
        }
        if self.json {
            let time = started.elapsed();
            let mut report = Report::new(&plan, &summary, remote.server(), time, self.dry_run);
            report.error = error;
            report.pin = pinned.as_ref().map(|pin| pin.name.as_str());
            print_json(&report)?;
        } else if let Some(pin) = &pinned {
            note(&format!("Pinned as {}", pin.name));
        }
        done
    }

    /// The pin that is to be made of the path that is pushed.
    fn wanted_pin(&self, roots: &[StorePath]) -> Result<Option<(&str, AddPin)>, Failure> {
        let Some(name) = &self.pin else { return Ok(None) };
        let [path] = roots else {
            let text = format!("a pin is of one path, and {} are named with --pin", roots.len());
            return Err(Failure::new(text));
        };
        if !self.selection.wants(path) {
            return Err(Failure::new(format!("{path} cannot be pinned: --filter leaves it out")));
        }
        let pin = AddPin {
            path: path.to_string(),
            revisions: self.pin_revisions,
            until: None,
            with_sources: self.selection.with_sources,
        };
        Ok(Some((name, pin)))
    }

    fn roots(&self, store: &LocalStore) -> Result<Vec<StorePath>, Failure> {
        let mut paths = self.paths.clone();
        if self.stdin {
            for line in io::stdin().lock().lines() {
                let line = line.context(|| "cannot read paths from stdin".to_owned())?;
                paths.extend(Some(line.trim()).filter(|line| !line.is_empty()).map(PathBuf::from));
            }
        } else if paths.is_empty() {
            return Err(Failure::new("no path is given: name some, or pass them with --stdin"));
        }
        let resolve = |path: &PathBuf| resolve(store, path);
        paths.iter().map(resolve).collect()
    }
}

/// The store path that `path` leads to.
pub fn resolve(store: &LocalStore, path: &Path) -> Result<StorePath, Failure> {
    store.resolve(path).context(|| format!("cannot push {}", path.display()))
}

/// What `--json` tells.
#[derive(Serialize)]
struct Report<'a> {
    cache: &'a str,
    dry_run: bool,
    pushed: Vec<PathReport>,
    present: usize,
    upstream: usize,
    failed: Vec<FailedReport>,
    /// The name it was pinned under.
    #[serde(skip_serializing_if = "Option::is_none")]
    pin: Option<&'a str>,
    /// Why the push ended before every path was published or had failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    bytes_read: u64,
    bytes_sent: u64,
    bytes_received: u64,
    chunks_sent: u64,
    seconds: f64,
}

#[derive(Serialize)]
struct PathReport {
    path: String,
    nar_size: u64,
}

#[derive(Serialize)]
struct FailedReport {
    path: String,
    error: String,
}

impl<'a> Report<'a> {
    fn new(
        plan: &'a Plan,
        summary: &Summary,
        server: &Server,
        time: Duration,
        dry_run: bool,
    ) -> Self {
        let full = |path: &StorePath| format!("{}/{path}", plan.cache.store_dir);
        let pushed = |path: &StorePath| dry_run || summary.published_paths.contains(path);
        let pushed = plan.to_push.iter().filter(|info| pushed(&info.store_path));
        Self {
            cache: &plan.cache.name,
            dry_run,
            pushed: pushed
                .map(|info| PathReport { path: full(&info.store_path), nar_size: info.nar_size })
                .collect(),
            present: plan.present,
            upstream: plan.upstream,
            failed: summary
                .failed
                .iter()
                .map(|(path, error)| FailedReport { path: full(path), error: error.clone() })
                .collect(),
            pin: None,
            error: None,
            bytes_read: summary.read,
            bytes_sent: server.traffic().sent(),
            bytes_received: server.traffic().received(),
            chunks_sent: summary.chunks,
            seconds: time.as_secs_f64(),
        }
    }
}
