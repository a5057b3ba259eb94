//! Closures: paths and everything they refer to.

use std::collections::{HashMap, HashSet};

use nix_compat::path_info::PathInfo;
use nix_compat::store_path::{StoreDir, StorePath};

use super::Error;
use super::source::Source;

/// The closure of `roots`, each path after those it refers to. Of paths that
/// refer to each other in a circle one has to be first.
pub(super) fn closure(
    source: &mut Source,
    roots: &[StorePath],
    store_dir: &StoreDir,
) -> Result<Vec<PathInfo>, Error> {
    let infos = fetch(roots, |paths| source.path_infos(paths), store_dir)?;
    Ok(sort(roots, infos))
}

/// These paths and no others, each once and after those it refers to.
pub(super) fn alone(
    paths: &[StorePath],
    path_infos: impl FnOnce(&[StorePath]) -> Result<Vec<Option<PathInfo>>, Error>,
    store_dir: &StoreDir,
) -> Result<Vec<PathInfo>, Error> {
    let mut infos = HashMap::new();
    for (path, info) in paths.iter().zip(path_infos(paths)?) {
        let info = info.ok_or_else(|| Error::NotValid(path.to_absolute(store_dir)))?;
        infos.insert(path.clone(), info);
    }
    Ok(sort(paths, infos))
}

/// What there is to know about each path of the closure, asked in rounds: the
/// roots, then what they refer to, and so on.
fn fetch(
    roots: &[StorePath],
    mut path_infos: impl FnMut(&[StorePath]) -> Result<Vec<Option<PathInfo>>, Error>,
    store_dir: &StoreDir,
) -> Result<HashMap<StorePath, PathInfo>, Error> {
    let mut infos: HashMap<StorePath, PathInfo> = HashMap::new();
    let mut seen: HashSet<StorePath> = HashSet::new();
    let mut round: Vec<_> = roots.iter().filter(|p| seen.insert((*p).clone())).cloned().collect();
    while !round.is_empty() {
        let mut next = Vec::new();
        for (path, info) in round.iter().zip(path_infos(&round)?) {
            let info = info.ok_or_else(|| not_valid(path, &infos, store_dir))?;
            next.extend(info.references.iter().filter(|r| seen.insert((*r).clone())).cloned());
            infos.insert(path.clone(), info);
        }
        round = next;
    }
    Ok(infos)
}

fn not_valid(
    path: &StorePath,
    infos: &HashMap<StorePath, PathInfo>,
    store_dir: &StoreDir,
) -> Error {
    let path_text = path.to_absolute(store_dir);
    match infos.values().find(|info| info.references.contains(path)) {
        Some(info) => {
            let referrer = info.store_path.to_absolute(store_dir);
            Error::Dangling { referrer, path: path_text }
        }
        None => Error::NotValid(path_text),
    }
}

/// References first. Depth first, without recursion: chains of references may be long.
pub(crate) fn sort(roots: &[StorePath], mut infos: HashMap<StorePath, PathInfo>) -> Vec<PathInfo> {
    let mut sorted = Vec::with_capacity(infos.len());
    let mut entered: HashSet<StorePath> = HashSet::new();
    for root in roots {
        // Paths that were entered and not left, each with how many of its
        // references have been looked at.
        let mut open = Vec::new();
        if entered.insert(root.clone()) {
            open.push((root.clone(), 0));
        }
        while let Some((path, looked_at)) = open.last_mut() {
            let next = infos.get(path).and_then(|info| info.references.get(*looked_at)).cloned();
            *looked_at += 1;
            match next {
                Some(next) if entered.insert(next.clone()) => open.push((next, 0)),
                Some(_) => {}
                None => {
                    sorted.extend(infos.remove(&*path));
                    open.pop();
                }
            }
        }
    }
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix_compat::nixhash::Sha256;

    fn path(n: usize) -> StorePath {
        let mut hash = [0; 20];
        hash[..8].copy_from_slice(&n.to_le_bytes());
        StorePath::new(hash.into(), "x").unwrap()
    }

    fn info(n: usize, references: &[usize]) -> PathInfo {
        PathInfo {
            store_path: path(n),
            nar_hash: Sha256::of(b""),
            nar_size: 1,
            references: references.iter().copied().map(path).collect(),
            deriver: None,
            signatures: Vec::new(),
            odd_signatures: Vec::new(),
            ca: None,
            ultimate: false,
            registration_time: 0,
        }
    }

    /// The closure in a store of these paths, as their numbers, and how many
    /// rounds it took to ask for it.
    fn closure(store: &[(usize, &[usize])], roots: &[usize]) -> Result<(Vec<usize>, usize), Error> {
        let known: HashMap<_, _> =
            store.iter().map(|(n, refs)| (path(*n), info(*n, refs))).collect();
        let roots: Vec<_> = roots.iter().copied().map(path).collect();
        let mut rounds = 0;
        let ask = |paths: &[StorePath]| {
            rounds += 1;
            Ok(paths.iter().map(|path| known.get(path).cloned()).collect())
        };
        let infos = fetch(&roots, ask, &StoreDir::default())?;
        let sorted = sort(&roots, infos);
        let number =
            |info: &PathInfo| store.iter().find(|(n, _)| path(*n) == info.store_path).unwrap().0;
        Ok((sorted.iter().map(number).collect(), rounds))
    }

    #[test]
    fn references_come_first() {
        let store: &[(usize, &[usize])] =
            &[(1, &[2, 3]), (2, &[4]), (3, &[2, 3, 4]), (4, &[]), (5, &[1]), (6, &[])];
        assert_eq!(closure(store, &[1, 4, 1]).unwrap(), (vec![4, 2, 3, 1], 2));
        assert_eq!(closure(store, &[6, 5]).unwrap().0, [6, 4, 2, 3, 1, 5]);
        assert_eq!(closure(store, &[]).unwrap(), (vec![], 0));
    }

    #[test]
    fn circles_end() {
        let store: &[(usize, &[usize])] = &[(1, &[2]), (2, &[3]), (3, &[1, 3])];
        assert_eq!(closure(store, &[1]).unwrap().0, [3, 2, 1]);
    }

    #[test]
    fn a_long_chain_needs_no_stack() {
        let references: Vec<[usize; 1]> = (0..100_000).map(|n| [n + 1]).collect();
        let mut infos: HashMap<_, _> =
            references.iter().enumerate().map(|(n, r)| (path(n), info(n, r))).collect();
        infos.insert(path(100_000), info(100_000, &[]));
        let sorted = sort(&[path(0)], infos);
        assert_eq!(sorted.len(), 100_001);
        assert_eq!(sorted.first().unwrap().store_path, path(100_000));
    }

    #[test]
    fn what_is_not_valid_is_named_with_its_referrer() {
        let error = closure(&[(1, &[])], &[2]).unwrap_err();
        assert!(matches!(error, Error::NotValid(path) if path.starts_with("/nix/store/")));
        let error = closure(&[(1, &[2])], &[1]).unwrap_err();
        let dangling = path(2).to_absolute(&StoreDir::default());
        assert!(matches!(error, Error::Dangling { path, .. } if path == dangling));
    }

    #[test]
    fn paths_alone_are_sorted_and_each_comes_once() {
        let infos = |paths: &[StorePath]| {
            let known = [info(1, &[2, 9]), info(2, &[])];
            let find =
                |path: &StorePath| known.iter().find(|info| info.store_path == *path).cloned();
            Ok(paths.iter().map(find).collect())
        };
        let dir = StoreDir::default();
        let sorted = alone(&[path(1), path(2), path(1)], infos, &dir).unwrap();
        let sorted: Vec<_> = sorted.into_iter().map(|info| info.store_path).collect();
        assert_eq!(sorted, [path(2), path(1)]);
        let gone = alone(&[path(1), path(9)], infos, &dir);
        assert!(matches!(gone, Err(Error::NotValid(text)) if text == path(9).to_absolute(&dir)));
    }
}
