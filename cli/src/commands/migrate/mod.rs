//! `granary migrate`

mod origin;
mod report;

use std::collections::HashSet;
use std::env;
use std::io::{self, BufRead};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use granary_client::config::CacheRef;
use granary_client::http::RemoteCache;
use granary_client::migrate::{Fetcher, GatherOptions, Gathered, Roots, gather};
use granary_client::push::{
    DEFAULT_PART_SIZE, Plan, PlanOptions, PushOptions, Summary, plan, push_from,
};
use nix_compat::store_path::{StoreDir, StorePath, StorePathHash};

use crate::commands::push::{Progress, part_size};
use crate::failure::{Context, Failure};
use crate::output::{note, print_json};
use crate::remote::RemoteArgs;
use origin::Origin;
use report::Report;

/// Downloads at the same time: enough for a line of 100 ms, few enough for a small cache.
const JOBS: usize = 8;
/// Paths on disk for each that is being downloaded: the others are being pushed.
const HELD: usize = 2;

/// Options of `granary migrate`.
#[derive(Args)]
pub struct Migrate {
    /// Binary cache to copy from: https://…, http://… or file:///dir
    from: String,
    /// Cache to copy to: `cache`, `server:cache` or `https://host/cache`
    cache: CacheRef,
    /// Store paths or their hash parts, which are copied with everything they refer to
    #[arg(value_name = "PATH", conflicts_with = "all")]
    paths: Vec<String>,
    /// Read more paths from stdin, one to a line
    #[arg(long, conflicts_with = "all")]
    stdin: bool,
    /// Copy everything that the source has, if it can tell: file:// caches and Granary's can
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    origin: Origin,
    #[command(flatten)]
    remote: RemoteArgs,
    /// Copy also what the target's upstreams have signed
    #[arg(long)]
    ignore_upstream: bool,
    /// Copy also paths that refer to what neither the source nor the target has
    #[arg(long)]
    allow_missing_references: bool,
    /// Folder for what is under way [default: the system's]
    #[arg(long, value_name = "DIR")]
    tmp: Option<PathBuf>,
    /// Downloads at the same time; twice as many paths are on disk at most
    #[arg(long, short, value_name = "N", default_value_t = JOBS)]
    jobs: usize,
    /// Longest body of a request, for proxies that cap them
    #[arg(long, value_name = "SIZE", default_value_t = DEFAULT_PART_SIZE, value_parser = part_size,
          hide_default_value = true, env = "GRANARY_PART_SIZE")]
    part_size: usize,
    /// Say what would be copied, and copy nothing
    #[arg(long)]
    dry_run: bool,
    /// Write what became of the paths as JSON
    #[arg(long)]
    json: bool,
}

/// What a migration came to.
struct Outcome {
    plan: Plan,
    summary: Summary,
    /// Paths that were not even tried.
    left_out: Vec<(String, String)>,
    downloaded: u64,
}

impl Migrate {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        let started = Instant::now();
        if !self.all && !self.stdin && self.paths.is_empty() {
            let ways = "nothing to copy is named: give store paths or their hash parts, --stdin, or \
                        --all for everything that the source has";
            return Err(Failure::new(ways));
        }
        let remote = self.remote.cache_to_push(&self.cache)?;
        let options = GatherOptions {
            trust: self.origin.trust()?,
            allow_missing_references: self.allow_missing_references,
        };
        let place = self.tmp.clone().unwrap_or_else(env::temp_dir);
        // It goes after the runtime, whose threads may be writing to it.
        let dir = tempfile::Builder::new().prefix("granary-migrate-").tempdir_in(&place);
        let dir = dir.context(|| format!("cannot make a folder in {}", place.display()))?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.context(|| "cannot start threads".to_owned())?;
        let outcome = runtime.block_on(async {
            tokio::select! {
                outcome = self.copy(&remote, &options, dir.path(), started) => outcome,
                () = interrupted() => {
                    Err(Failure::new("interrupted: what is copied stays, and the same command goes on"))
                }
            }
        });
        drop(runtime);
        let outcome = outcome?;
        if self.json {
            print_json(&Report::new(&self.from, &remote, &outcome, started, self.dry_run))?;
        }
        match outcome.left_out.len() + outcome.summary.failed.len() {
            0 => Ok(()),
            1 => Err(Failure::new(format!("{}: 1 path was not copied", remote.url()))),
            n => Err(Failure::new(format!("{}: {n} paths were not copied", remote.url()))),
        }
    }

    async fn copy(
        &self,
        remote: &RemoteCache,
        options: &GatherOptions,
        dir: &Path,
        started: Instant,
    ) -> Result<Outcome, Failure> {
        let from = || format!("cannot copy from {}", self.from);
        let source = self.origin.open(&self.from).await?;
        let roots = self.roots(source.store_dir())?;
        let mut gathered = gather(&source, remote, roots, options).await.context(from)?;
        let Gathered { paths, failed, present, .. } = &mut gathered;
        let (paths, left_out) = (std::mem::take(paths), std::mem::take(failed));
        let present = *present;
        let options =
            PlanOptions { ignore_upstream: self.ignore_upstream, part_size: self.part_size };
        let to = || format!("cannot copy to {}", remote.url());
        let mut plan = plan(remote, paths, source.store_dir(), options).await.context(to)?;
        plan.present += present;
        let progress = Progress::new(&plan, remote, self.json);
        for (path, why) in &left_out {
            progress.say(&format!("✗ {path}: {why}"));
        }
        progress.header(self.dry_run);
        let fetcher = Fetcher::new(&source, &mut gathered, dir, self.jobs.saturating_mul(HELD));
        let mut summary = Summary::default();
        if !self.dry_run {
            let observer = |at, step| progress.hear(&plan, at, step);
            let options = PushOptions {
                jobs: self.jobs,
                part_size: self.part_size,
                ..PushOptions::default()
            };
            summary = push_from(remote, &plan, &fetcher, options, &observer).await.context(to)?;
            progress.finish(&summary, remote.server(), started.elapsed());
        }
        Ok(Outcome { plan, summary, left_out, downloaded: fetcher.downloaded() })
    }

    fn roots(&self, store_dir: &StoreDir) -> Result<Roots, Failure> {
        if self.all {
            return Ok(Roots::All);
        }
        let mut texts = self.paths.clone();
        if self.stdin {
            for line in io::stdin().lock().lines() {
                let line = line.context(|| "cannot read paths from stdin".to_owned())?;
                texts.extend(line.split_whitespace().map(str::to_owned));
            }
        }
        let (mut seen, mut roots) = (HashSet::new(), Vec::new());
        for text in &texts {
            let hash = hash_part(text, store_dir)?;
            if seen.insert(hash) {
                roots.push(hash);
            }
        }
        Ok(Roots::Paths(roots))
    }
}

/// The hash part of a store path in full, of its base name, or alone.
fn hash_part(text: &str, store_dir: &StoreDir) -> Result<StorePathHash, Failure> {
    let context = || format!("`{text}` is neither a path in {store_dir} nor a hash part");
    let below = text.strip_prefix(store_dir.as_str()).map(|rest| rest.trim_start_matches('/'));
    let name = below.unwrap_or(text).trim_end_matches('/');
    if name.contains('-') {
        let path: StorePath = name.parse().context(context)?;
        return Ok(path.hash());
    }
    name.parse().context(context)
}

/// Returns when somebody wants this to end.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut term) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = term.recv() => {}
        result = tokio::signal::ctrl_c() => if result.is_err() {
            note("granary: warning: signals cannot be caught: temporary files may be left behind");
            std::future::pending::<()>().await;
        },
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_path_may_be_named_in_full_or_by_its_hash() {
        let dir = StoreDir::default();
        let hash = "3dvgkdw6dhw4vh0ya73g64bh4mwxk56c";
        for text in [
            format!("/nix/store/{hash}-farm.py"),
            format!("/nix/store/{hash}-farm.py/"),
            format!("{hash}-farm.py"),
            hash.to_owned(),
        ] {
            assert_eq!(hash_part(&text, &dir).unwrap().to_string(), hash, "{text}");
        }
        for text in ["", "/nix/store", "/elsewhere/x", "./result", "short-name"] {
            assert!(hash_part(text, &dir).is_err(), "{text}");
        }
    }
}
