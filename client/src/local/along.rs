//! What goes along with paths that are pushed: what they were built from.

use std::collections::BTreeSet;

use nix_compat::path_info::PathInfo;
use nix_compat::store_path::{ContentAddress, StorePath};

use super::Error;
use super::source::Source;

/// What goes along with a closure, as far as it is valid in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Along {
    /// Nothing.
    Nothing,
    /// The derivations the paths were built by, with their closures: all
    /// derivations that these need, and the sources that lie in the store as
    /// they were given (`./.`, patches).
    Derivers,
    /// These, and what the derivations among them have fetched: sources that
    /// are outputs themselves, of a fixed hash.
    Sources,
}

/// `paths` and the further paths whose closures go along.
pub(super) fn roots(
    source: &mut Source,
    paths: &[StorePath],
    along: Along,
) -> Result<Vec<StorePath>, Error> {
    let mut roots = paths.to_vec();
    if along == Along::Nothing {
        return Ok(roots);
    }
    let derivers = derivers(source, paths)?;
    if along == Along::Sources {
        roots.extend(fetched(source, &derivers)?);
    }
    roots.extend(derivers);
    Ok(roots)
}

/// The valid derivations that the paths were built by: the one that the store
/// names, else the first that has the path as an output.
fn derivers(source: &mut Source, paths: &[StorePath]) -> Result<BTreeSet<StorePath>, Error> {
    let infos: Vec<PathInfo> = source.path_infos(paths)?.into_iter().flatten().collect();
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

/// The valid outputs of fixed hash of the derivations that these need.
fn fetched(source: &mut Source, derivers: &BTreeSet<StorePath>) -> Result<Vec<StorePath>, Error> {
    let mut seen = derivers.clone();
    let mut round: Vec<_> = derivers.iter().cloned().collect();
    let mut fetched = Vec::new();
    while !round.is_empty() {
        let outputs: Vec<_> = source.derivation_outputs(&round)?.into_iter().flatten().collect();
        let is_fixed = |info: &PathInfo| matches!(info.ca, Some(ContentAddress::Fixed { .. }));
        let infos = source.path_infos(&outputs)?.into_iter().flatten();
        fetched.extend(infos.filter(is_fixed).map(|info| info.store_path));

        let mut next = Vec::new();
        for info in source.path_infos(&round)?.into_iter().flatten() {
            for reference in info.references {
                if reference.is_derivation() && seen.insert(reference.clone()) {
                    next.push(reference);
                }
            }
        }
        round = next;
    }
    Ok(fetched)
}
