//! What `--json` tells of a migration.

use std::collections::HashSet;
use std::time::Instant;

use granary_client::http::RemoteCache;
use nix_compat::store_path::StorePath;
use serde::Serialize;

use super::Outcome;

/// The report.
#[derive(Serialize)]
pub struct Report<'a> {
    from: &'a str,
    cache: &'a str,
    dry_run: bool,
    copied: Vec<Copied>,
    present: usize,
    upstream: usize,
    failed: Vec<Failed>,
    bytes_downloaded: u64,
    bytes_sent: u64,
    chunks_sent: u64,
    seconds: f64,
}

#[derive(Serialize)]
struct Copied {
    path: String,
    nar_size: u64,
}

/// Where not even the name of the path is known, `path` is its hash part.
#[derive(Serialize)]
struct Failed {
    path: String,
    error: String,
}

impl<'a> Report<'a> {
    /// Tells what became of the paths.
    pub fn new(
        from: &'a str,
        remote: &RemoteCache,
        outcome: &'a Outcome,
        started: Instant,
        dry_run: bool,
    ) -> Self {
        let Outcome { plan, summary, left_out, downloaded } = outcome;
        let full = |path: &StorePath| format!("{}/{path}", plan.cache.store_dir);
        let named = |text: &String| match text.parse::<StorePath>() {
            Ok(path) => full(&path),
            Err(_) => text.clone(),
        };
        let failed: HashSet<&StorePath> = summary.failed.iter().map(|(path, _)| path).collect();
        let copied = plan.to_push.iter().filter(|info| !failed.contains(&info.store_path));
        let tried = summary.failed.iter();
        let tried = tried.map(|(path, why)| Failed { path: full(path), error: why.clone() });
        let left_out =
            left_out.iter().map(|(text, why)| Failed { path: named(text), error: why.clone() });
        Self {
            from,
            cache: &plan.cache.name,
            dry_run,
            copied: copied
                .map(|info| Copied { path: full(&info.store_path), nar_size: info.nar_size })
                .collect(),
            present: plan.present,
            upstream: plan.upstream,
            failed: left_out.chain(tried).collect(),
            bytes_downloaded: *downloaded,
            bytes_sent: remote.server().traffic().sent(),
            chunks_sent: summary.chunks,
            seconds: started.elapsed().as_secs_f64(),
        }
    }
}
