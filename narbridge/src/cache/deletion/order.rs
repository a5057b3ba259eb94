//! What of a closure has to stay, and in which order the rest goes.

use std::collections::{HashMap, HashSet};

use nix_compat::store_path::StorePathHash;

use crate::cache::References;

/// Why a path of a closure stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Spared {
    /// This one stays, and refers to it.
    Referred(StorePathHash),
    /// This pin keeps it.
    Pinned(String),
}

/// Which paths of `doomed` have to stay because something that stays refers to them, or because a
/// pin keeps them; never one of `first`. All the others can go together.
pub(super) fn spared(
    references: &References,
    first: &HashSet<StorePathHash>,
    doomed: &HashSet<StorePathHash>,
    pinned: &HashMap<StorePathHash, String>,
) -> HashMap<StorePathHash, Spared> {
    let mut spared = HashMap::new();
    for path in doomed.difference(first) {
        let mut referrers = references.referrers_of(*path).into_iter();
        if let Some(pin) = pinned.get(path) {
            spared.insert(*path, Spared::Pinned(pin.clone()));
        } else if let Some(by) = referrers.find(|referrer| !doomed.contains(referrer)) {
            spared.insert(*path, Spared::Referred(by));
        }
    }
    let mut open: Vec<StorePathHash> = spared.keys().copied().collect();
    while let Some(path) = open.pop() {
        for other in references.of(path) {
            let may_go = doomed.contains(&other) && !first.contains(&other);
            if may_go && !spared.contains_key(&other) {
                spared.insert(other, Spared::Referred(path));
                open.push(other);
            }
        }
    }
    spared
}

/// The paths in waves: each has none of its referrers among its own wave or later ones, but in the last,
/// where those are that refer to each other, and what only these refer to.
pub(super) fn waves(
    references: &References,
    paths: &HashSet<StorePathHash>,
) -> Vec<Vec<StorePathHash>> {
    let mut referrers: HashMap<StorePathHash, usize> = HashMap::new();
    for path in paths {
        let mut by = references.referrers_of(*path);
        by.retain(|referrer| paths.contains(referrer));
        referrers.insert(*path, by.len());
    }
    let mut waves = Vec::new();
    let mut wave: Vec<StorePathHash> =
        referrers.iter().filter(|(_, count)| **count == 0).map(|(path, _)| *path).collect();
    while !wave.is_empty() {
        wave.sort();
        let mut next = Vec::new();
        for path in &wave {
            referrers.remove(path);
            for other in references.of(*path) {
                if let Some(count) = referrers.get_mut(&other) {
                    *count -= 1;
                    if *count == 0 {
                        next.push(other);
                    }
                }
            }
        }
        waves.push(std::mem::replace(&mut wave, next));
    }
    if !referrers.is_empty() {
        let mut rest: Vec<StorePathHash> = referrers.into_keys().collect();
        rest.sort();
        waves.push(rest);
    }
    waves
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(name: char) -> StorePathHash {
        StorePathHash::from([name as u8; 20])
    }

    fn graph(paths: &[(char, &str)]) -> References {
        let mut references = References::default();
        for (path, to) in paths {
            let names: Vec<String> = to.chars().map(|to| format!("{}-x", hash(to))).collect();
            references.add(hash(*path), 1, &names).unwrap();
        }
        references.turn_round();
        references
    }

    fn set(paths: &str) -> HashSet<StorePathHash> {
        paths.chars().map(hash).collect()
    }

    #[test]
    fn what_a_pin_keeps_of_a_closure_stays_with_all_it_refers_to() {
        let references = graph(&[('a', "bc"), ('b', "d"), ('c', "d"), ('d', "e"), ('e', "")]);
        let pinned = HashMap::from([(hash('d'), "release".to_owned())]);
        let spared = spared(&references, &set("a"), &set("abcde"), &pinned);
        let expected = HashMap::from([
            (hash('d'), Spared::Pinned("release".to_owned())),
            (hash('e'), Spared::Referred(hash('d'))),
        ]);
        assert_eq!(spared, expected);
    }

    #[test]
    fn every_path_is_in_a_wave_behind_those_that_refer_to_it() {
        let references = graph(&[
            ('a', "abd"),
            ('b', "c"),
            ('c', "d"),
            ('d', ""),
            ('x', "y"),
            ('y', "xz"),
            ('z', ""),
        ]);
        let waves = waves(&references, &set("abcdxyz"));
        let waves: Vec<HashSet<StorePathHash>> =
            waves.into_iter().map(|wave| wave.into_iter().collect()).collect();
        assert_eq!(waves, [set("a"), set("b"), set("c"), set("d"), set("xyz")]);
    }
}
