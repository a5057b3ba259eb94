//! Requests to answers, by what the view says.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use granary_lazy::{LazyPath, View, ViewError};
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::{StoreDir, StorePath};
use nix_compat::worker::Answer;
use nix_compat::worker::request::{BuildMode, Request, Target};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::derivation;
use crate::nar;
use crate::referrers::Referrers;
use crate::refusal::Refusal;

/// Questions to the view that are open at once for one request.
pub const AT_ONCE: usize = 64;

/// Longest derivation that is read for its outputs.
const MAX_DERIVATION: u64 = 16 * 1024 * 1024;

/// What answers requests.
#[derive(Debug)]
pub struct Answers<V> {
    view: Arc<V>,
    runtime: Handle,
    deadline: Duration,
    referrers: Referrers,
    stopping: watch::Sender<bool>,
}

impl<V: View> Answers<V> {
    pub fn new(view: Arc<V>, runtime: Handle, deadline: Duration, referrers: usize) -> Self {
        let (referrers, stopping) = (Referrers::new(referrers), watch::Sender::new(false));
        Answers { view, runtime, deadline, referrers, stopping }
    }

    pub fn store_dir(&self) -> &StoreDir {
        self.view.store_dir()
    }

    pub fn name(&self) -> &str {
        self.view.name()
    }

    pub fn view(&self) -> &V {
        &self.view
    }

    /// Whoever waits for the view gets an error instead, from now on.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
        self.referrers.stop();
    }

    /// The answer. Waits for the view, so not on the runtime's own threads.
    pub fn answer(&self, request: Request) -> Result<Answer, Refusal> {
        self.runtime.block_on(self.ask(request))
    }

    /// A valid path with its tree. Waits likewise.
    pub fn tree(&self, path: &StorePath) -> Result<Arc<LazyPath>, Refusal> {
        self.block_on(self.view.path(path.hash()))?
            .filter(|found| found.info.store_path == *path)
            .ok_or_else(|| self.not_valid(path))
    }

    /// What the view says, from a thread that may wait for it.
    pub fn block_on<T>(
        &self,
        asked: impl Future<Output = Result<T, ViewError>>,
    ) -> Result<T, Refusal> {
        self.runtime.block_on(self.within(asked))
    }

    /// What the view says, or that it says nothing.
    async fn within<T>(
        &self,
        asked: impl Future<Output = Result<T, ViewError>>,
    ) -> Result<T, Refusal> {
        let mut stopping = self.stopping.subscribe();
        tokio::select! {
            biased;
            answer = asked => Ok(answer?),
            _ = stopping.wait_for(|stopping| *stopping) => Err(Refusal::Stopping),
            () = tokio::time::sleep(self.deadline) => {
                Err(Refusal::Slow { name: self.name().to_owned(), deadline: self.deadline })
            }
        }
    }

    async fn info(&self, path: &StorePath) -> Result<Option<Arc<PathInfo>>, Refusal> {
        let info = self.within(self.view.info(path.hash())).await?;
        Ok(info.filter(|info| info.store_path == *path))
    }

    async fn is_valid(&self, path: &StorePath) -> Result<bool, Refusal> {
        Ok(self.info(path).await?.is_some())
    }

    async fn check_valid(&self, path: &StorePath) -> Result<(), Refusal> {
        if self.is_valid(path).await? { Ok(()) } else { Err(self.not_valid(path)) }
    }

    fn not_valid(&self, path: &StorePath) -> Refusal {
        Refusal::NotValid(path.to_absolute(self.store_dir()))
    }

    fn read_only<T>(&self, what: impl Into<String>) -> Result<T, Refusal> {
        Err(Refusal::ReadOnly { what: what.into(), name: self.name().to_owned() })
    }

    async fn ask(&self, request: Request) -> Result<Answer, Refusal> {
        Ok(match request {
            Request::SetOptions => Answer::Nothing,
            Request::IsValidPath(path) => Answer::Truth(self.is_valid(&path).await?),
            Request::QueryPathInfo(path) => match self.info(&path).await? {
                Some(info) => {
                    self.referrers.note(&info);
                    Answer::Info(info)
                }
                None => Answer::NoInfo(path),
            },
            Request::QueryValidPaths(paths) => self.valid_among(paths).await?,
            Request::QueryAllValidPaths => match self.within(self.view.paths()).await? {
                Some(paths) => Answer::Paths(paths),
                None => return Err(Refusal::Unlistable(self.name().to_owned())),
            },
            Request::QueryPathFromHashPart(hash) => {
                let info = self.within(self.view.info(hash)).await?;
                Answer::Path(info.map(|info| info.store_path.clone()))
            }
            Request::QueryReferrers(path) => {
                let found = self.referrers.of(&self.view, path.hash(), self.deadline);
                Answer::Paths(Arc::new(found.await?))
            }
            Request::QueryValidDerivers(path) => self.derivers(&path).await?,
            Request::QueryDerivationOutputMap(path) => Answer::Outputs(self.outputs(&path).await?),
            Request::QueryDerivationOutputs(path) => {
                let outputs = self.outputs(&path).await?;
                Answer::Paths(Arc::new(outputs.into_iter().filter_map(|(_, path)| path).collect()))
            }
            Request::QueryDerivationOutputNames(path) => {
                let outputs = self.outputs(&path).await?;
                Answer::Texts(outputs.into_iter().map(|(name, _)| name).collect())
            }
            // No substituters, no roots, no realisations.
            Request::HasSubstitutes(_) => Answer::Truth(false),
            Request::QuerySubstitutablePathInfo(_)
            | Request::QuerySubstitutablePathInfos(_)
            | Request::QuerySubstitutablePaths(_)
            | Request::FindRoots
            | Request::QueryRealisation(_) => Answer::None,
            // Nothing is ever collected, so that all is kept already.
            Request::AddTempRoot(_) | Request::AddIndirectRoot(_) | Request::SyncWithGc => {
                Answer::Done
            }
            Request::EnsurePath(path) => {
                self.check_valid(&path).await?;
                Answer::Done
            }
            Request::BuildPaths(targets, mode) => {
                self.check_mode(mode)?;
                for target in &targets {
                    if let Some(why) = self.why_missing(target).await? {
                        return self.read_only(why);
                    }
                }
                Answer::Done
            }
            Request::BuildPathsWithResults(targets, mode) => {
                self.check_mode(mode)?;
                let mut results = Vec::with_capacity(targets.len());
                for target in targets {
                    let why = match &target {
                        Target::Path(_) => self.why_missing(&target).await?,
                        // Its outputs' realisations would have to be told.
                        Target::Outputs { .. } => Some(format!("build '{target}'")),
                    };
                    let why = why.map(|what| {
                        Refusal::ReadOnly { what, name: self.name().to_owned() }.to_string()
                    });
                    results.push((target, why));
                }
                Answer::Results(results)
            }
            Request::QueryMissing(targets) => {
                let mut unknown = Vec::new();
                for target in targets {
                    if self.why_missing(&target).await?.is_some() {
                        let (Target::Path(path) | Target::Outputs { derivation: path, .. }) =
                            target;
                        unknown.push(path);
                    }
                }
                unknown.sort_unstable();
                unknown.dedup();
                Answer::Missing(unknown)
            }
            Request::OptimiseStore => return self.read_only("optimise the store"),
            // All that is read from a view is verified then; what else there is, is not here.
            Request::VerifyStore { .. } => {
                return self.read_only("verify the store, which is verified whenever it is read");
            }
            Request::NarFromPath(path) => return Err(self.not_valid(&path)),
        })
    }

    fn check_mode(&self, mode: BuildMode) -> Result<(), Refusal> {
        match mode {
            BuildMode::Normal => Ok(()),
            BuildMode::Repair => self.read_only("repair paths"),
            BuildMode::Check => self.read_only("build again"),
        }
    }

    async fn valid_among(&self, paths: Vec<StorePath>) -> Result<Answer, Refusal> {
        let valid = stream::iter(paths)
            .map(|path| async move { Ok(self.is_valid(&path).await?.then_some(path)) })
            .buffered(AT_ONCE)
            .try_filter_map(async |valid| Ok::<_, Refusal>(valid));
        Ok(Answer::Paths(Arc::new(valid.try_collect().await?)))
    }

    async fn derivers(&self, path: &StorePath) -> Result<Answer, Refusal> {
        let info = self.info(path).await?;
        let mut derivers = Vec::new();
        if let Some(deriver) = info.and_then(|info| info.deriver.clone())
            && self.is_valid(&deriver).await?
        {
            derivers.push(deriver);
        }
        Ok(Answer::Paths(Arc::new(derivers)))
    }

    /// The outputs of a valid derivation.
    async fn outputs(&self, path: &StorePath) -> Result<Vec<(String, Option<StorePath>)>, Refusal> {
        self.check_valid(path).await?;
        let wrong = |why| Refusal::Derivation { path: path.to_absolute(self.store_dir()), why };
        let found = self.within(self.view.path(path.hash())).await?;
        let found = found.ok_or_else(|| self.not_valid(path))?;
        let Some(file) = nar::root_file(&found).filter(|file| file.size <= MAX_DERIVATION) else {
            return Err(wrong("it is no derivation"));
        };
        let mut text = Vec::new();
        while (text.len() as u64) < file.size {
            let (at, missing) = (text.len() as u64, file.size - text.len() as u64);
            let bytes = self.within(self.view.read(&found, file, at, missing as usize)).await?;
            if bytes.is_empty() {
                return Err(wrong("it is cut off"));
            }
            text.extend_from_slice(&bytes);
        }
        derivation::outputs(&text, self.store_dir()).map_err(wrong)
    }

    /// What would have to be done to have it, unless it is there.
    async fn why_missing(&self, target: &Target) -> Result<Option<String>, Refusal> {
        let build = || Some(format!("build '{target}'"));
        match target {
            Target::Path(path) if self.is_valid(path).await? => Ok(None),
            Target::Path(path) => {
                let path = path.to_absolute(self.store_dir());
                Ok(Some(format!("make '{path}' valid, which is not there")))
            }
            Target::Outputs { derivation, names } => {
                if !self.is_valid(derivation).await? {
                    return Ok(build());
                }
                let outputs = self.outputs(derivation).await?;
                let known = |name: &String| outputs.iter().any(|(known, _)| known == name);
                if !names.iter().all(known) {
                    return Ok(build());
                }
                for (name, path) in &outputs {
                    let valid = match path {
                        _ if !names.is_empty() && !names.contains(name) => true,
                        Some(path) => self.is_valid(path).await?,
                        None => false,
                    };
                    if !valid {
                        return Ok(build());
                    }
                }
                Ok(None)
            }
        }
    }
}
