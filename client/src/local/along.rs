//! What goes along with paths that are pushed: what they were built from.

use std::collections::{BTreeSet, HashSet};

use nix_compat::path_info::PathInfo;
use nix_compat::store_path::{StoreDir, StorePath};

use super::source::Source;
use super::{Error, closure};

/// What goes along with a closure, as far as it is valid in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Along {
    /// Nothing.
    Nothing,
    /// The derivations the paths were built by, with their closures: all
    /// derivations that these need, and the sources that lie in the store as
    /// they were given (`./.`, patches).
    Derivers,
    /// The derivations of everything in the closure, with their closures, and
    /// all that these derivations have made, with its closures: what was
    /// fetched, and the compilers and libraries that were used. It is what
    /// `nix-store -qR --include-outputs` lists for each of the derivations.
    Sources,
}

/// `paths` and the further paths whose closures go along.
pub(super) fn roots(
    source: &mut Source,
    paths: &[StorePath],
    along: Along,
    store_dir: &StoreDir,
) -> Result<Vec<StorePath>, Error> {
    let mut roots = paths.to_vec();
    match along {
        Along::Nothing => {}
        Along::Derivers => {
            let infos = source.path_infos(paths)?.into_iter().flatten().collect();
            roots.extend(derivers(source, infos)?);
        }
        Along::Sources => {
            let infos = closure::closure(source, paths, store_dir)?;
            let derivers = derivers(source, infos)?;
            roots.extend(made(source, &derivers)?);
            roots.extend(derivers);
        }
    }
    Ok(roots)
}

/// The valid derivations that the paths were built by: the one that the store
/// names, else the first that has the path as an output.
fn derivers(source: &mut Source, infos: Vec<PathInfo>) -> Result<BTreeSet<StorePath>, Error> {
    let named: Vec<_> = infos.iter().filter_map(|info| info.deriver.clone()).collect();
    let mut derivers: BTreeSet<_> =
        source.path_infos(&named)?.into_iter().flatten().map(|info| info.store_path).collect();
    let without: Vec<_> = infos
        .into_iter()
        .filter(|info| info.deriver.as_ref().is_none_or(|deriver| !derivers.contains(deriver)))
        .map(|info| info.store_path)
        .collect();
    let found = source.valid_derivers(&without)?;
    derivers.extend(found.into_iter().filter_map(|derivers| derivers.into_iter().min()));
    Ok(derivers)
}

/// The valid outputs of these derivations, of those that they need, and of what the outputs in turn
/// refer to.
fn made(source: &mut Source, derivers: &BTreeSet<StorePath>) -> Result<Vec<StorePath>, Error> {
    let mut seen: HashSet<StorePath> = derivers.iter().cloned().collect();
    let mut round: Vec<StorePath> = derivers.iter().cloned().collect();
    let mut made = Vec::new();
    while !round.is_empty() {
        let derivations: Vec<StorePath> =
            round.iter().filter(|path| path.is_derivation()).cloned().collect();
        let outputs = source.derivation_outputs(&derivations)?.into_iter().flatten();
        let outputs: Vec<StorePath> = outputs.filter(|path| !seen.contains(path)).collect();
        let valid = source.path_infos(&outputs)?.into_iter().flatten();
        let valid: Vec<StorePath> = valid.map(|info| info.store_path).collect();

        let infos = source.path_infos(&round)?.into_iter().flatten();
        let references = infos.flat_map(|info| info.references);
        let next = valid.iter().cloned().chain(references);
        round = next.filter(|path| seen.insert(path.clone())).collect();
        made.extend(valid);
    }
    Ok(made)
}
