//! Which paths go: a pure function of a graph, rules and a time.
//!
//! A path counts as used when anything was used that refers to it, at whatever distance, and likewise as
//! uploaded. So what goes never leaves behind something that refers to it: whatever refers to a path
//! that was not used for so long was not used for as long, either. What is pinned is used for ever.

use std::cmp::Reverse;

use super::components::components;
use super::graph::{Facts, Graph};
use super::{Rules, Why, is_over};

/// The last use of what is pinned.
const FOR_EVER: u64 = u64::MAX;

/// Paths and what they take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    /// How many they are.
    pub paths: u64,
    /// Bytes of their NARs as zstd.
    pub size: u64,
}

impl Total {
    pub(super) fn add(&mut self, size: u64) {
        self.paths += 1;
        self.size = self.size.saturating_add(size);
    }

    fn take(&mut self, size: u64) {
        self.paths = self.paths.saturating_sub(1);
        self.size = self.size.saturating_sub(size);
    }
}

/// What is decided of the paths of a cache.
#[derive(Default)]
pub(super) struct Decision {
    /// What goes, and why; what refers comes before what it refers to.
    pub removed: Vec<(u32, Why)>,
    /// By number, when each path was last used, itself or by what refers to it.
    pub used: Vec<u64>,
    /// What stays, pinned paths included.
    pub kept: Total,
    /// What stays because it is pinned.
    pub pinned: Total,
}

/// Decides which paths go. What was used since `fresh` goes for being unused at most.
pub(super) fn decide(
    graph: &Graph,
    pinned: &[u32],
    rules: &Rules,
    now: u64,
    fresh: u64,
) -> Decision {
    let used = spread(graph, pinned, |facts| facts.used);
    let uploaded = rules.max_age.map(|age| (age, spread(graph, pinned, |facts| facts.uploaded)));
    let mut why: Vec<Option<Why>> = vec![None; graph.len()];
    let mut decision = Decision::default();
    for number in graph.present() {
        let (at, size) = (number as usize, graph.facts(number).size);
        if used[at] == FOR_EVER {
            decision.pinned.add(size);
        } else if rules.retention.is_some_and(|span| is_over(used[at], span, now)) {
            why[at] = Some(Why::Unused);
            continue;
        } else if used[at] < fresh
            && uploaded.as_ref().is_some_and(|(span, times)| is_over(times[at], *span, now))
        {
            why[at] = Some(Why::Old);
            continue;
        }
        decision.kept.add(size);
    }
    drop(uploaded);
    let room = rules.max_size.unwrap_or(u64::MAX);
    if decision.kept.size > room || why.iter().any(Option::is_some) {
        let order = order(graph, &used, &components(graph));
        let stale = order.partition_point(|(number, _)| used[*number as usize] < fresh);
        make_room(graph, room, &order[..stale], &mut why, &mut decision.kept);
        let removed =
            order.iter().filter_map(|(number, _)| Some((*number, why[*number as usize]?)));
        decision.removed = removed.collect();
    }
    decision.used = used;
    decision
}

/// For each path the latest of its own time and those of all that refer to it. Starting from the latest,
/// each path is reached once.
fn spread(graph: &Graph, pinned: &[u32], time: impl Fn(&Facts) -> u64) -> Vec<u64> {
    let mut order: Vec<u32> = graph.present().collect();
    order.sort_unstable_by_key(|number| Reverse(time(graph.facts(*number))));
    let (mut times, mut reached) = (vec![0; graph.len()], vec![false; graph.len()]);
    let mut way = Vec::new();
    let pinned = pinned.iter().map(|number| (*number, FOR_EVER));
    let others = order.iter().map(|number| (*number, time(graph.facts(*number)).min(FOR_EVER - 1)));
    for (start, time) in pinned.chain(others) {
        if std::mem::replace(&mut reached[start as usize], true) {
            continue;
        }
        way.push(start);
        while let Some(number) = way.pop() {
            times[number as usize] = time;
            for &next in graph.references(number) {
                if !std::mem::replace(&mut reached[next as usize], true) {
                    way.push(next);
                }
            }
        }
    }
    times
}

/// Paths that are not pinned, each with its component: least recently used first, and what refers
/// before what it refers to. A component's paths were used at the same time, so they stay together.
fn order(graph: &Graph, used: &[u64], components: &[u32]) -> Vec<(u32, u32)> {
    let free = graph.present().filter(|number| used[*number as usize] != FOR_EVER);
    let mut order: Vec<(u32, u32)> =
        free.map(|number| (number, components[number as usize])).collect();
    order.sort_unstable_by_key(|(number, component)| (used[*number as usize], Reverse(*component)));
    order
}

/// Of what stays, lets the first go until the rest fits.
fn make_room(
    graph: &Graph,
    room: u64,
    order: &[(u32, u32)],
    why: &mut [Option<Why>],
    kept: &mut Total,
) {
    for together in order.chunk_by(|(_, one), (_, other)| one == other) {
        if kept.size <= room {
            return;
        }
        for (number, _) in together {
            let why = &mut why[*number as usize];
            if why.is_none() {
                *why = Some(Why::Space);
                kept.take(graph.facts(*number).size);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use nix_compat::store_path::StorePathHash;
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::super::graph::Gathering;
    use super::*;

    /// No use is so fresh.
    const NOTHING_IS: u64 = u64::MAX;
    const NOW: u64 = 1000;

    fn hash(number: usize) -> StorePathHash {
        let mut bytes = [0; 20];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        bytes.into()
    }

    fn graph(
        facts: &[Facts],
        references: &[(usize, usize)],
        pinned: &[usize],
    ) -> (Graph, Vec<u32>) {
        let mut gathering = Gathering::default();
        for (number, facts) in facts.iter().enumerate() {
            let own = references.iter().filter(|(from, _)| *from == number);
            gathering.add(hash(number), *facts, own.map(|(_, to)| hash(*to))).unwrap();
        }
        let pinned: Vec<StorePathHash> = pinned.iter().map(|number| hash(*number)).collect();
        gathering.finish(&pinned)
    }

    fn used(used: u64) -> Facts {
        Facts { used, uploaded: used, size: 10, sequence: 1 }
    }

    /// What goes, as the numbers that [`hash`] was given, in order.
    fn removed(
        facts: &[Facts],
        references: &[(usize, usize)],
        pinned: &[usize],
        rules: &Rules,
    ) -> Vec<(usize, Why)> {
        let (graph, pinned) = graph(facts, references, pinned);
        let decision = decide(&graph, &pinned, rules, NOW, NOTHING_IS);
        let number = |at: u32| (0..).find(|number| hash(*number) == graph.hash(at)).unwrap();
        decision.removed.iter().map(|(at, why)| (number(*at), *why)).collect()
    }

    #[test]
    fn what_is_referred_to_lives_as_long_as_what_refers_to_it() {
        let rules = Rules { retention: Some(100), ..Rules::default() };
        let facts = [used(950), used(10), used(20), used(899), used(900)];
        let gone = removed(&facts, &[(0, 1), (1, 2), (3, 2)], &[], &rules);
        assert_eq!(gone, [(3, Why::Unused)], "900 is just in time");
        assert_eq!(removed(&facts, &[], &[], &rules).len(), 3);
        assert_eq!(removed(&facts, &[(3, 1)], &[3], &rules), [(2, Why::Unused)]);
    }

    #[test]
    fn an_old_upload_goes_though_it_is_used() {
        let old = Facts { uploaded: 100, ..used(NOW) };
        let rules = Rules { max_age: Some(500), ..Rules::default() };
        assert_eq!(removed(&[old, used(NOW)], &[], &[], &rules), [(0, Why::Old)]);
        assert_eq!(removed(&[old, used(NOW)], &[(1, 0)], &[], &rules), [], "a new one needs it");
        assert_eq!(removed(&[old, used(NOW)], &[(0, 1)], &[], &rules), [(0, Why::Old)]);
        assert_eq!(removed(&[old], &[], &[0], &rules), []);
    }

    #[test]
    fn room_is_made_by_the_least_recently_used_and_from_the_top() {
        let rules = |size| Rules { max_size: Some(size), ..Rules::default() };
        let facts = [used(5), used(9), used(7), used(8)];
        let gone = |size| -> Vec<usize> {
            removed(&facts, &[(1, 0)], &[], &rules(size)).into_iter().map(|(at, _)| at).collect()
        };
        assert!(gone(40).is_empty());
        assert_eq!(gone(39), [2]);
        assert_eq!(gone(20), [2, 3]);
        assert_eq!(gone(19), [2, 3, 1], "what refers goes first");
        assert_eq!(gone(0), [2, 3, 1, 0]);
        assert_eq!(
            removed(&facts, &[(1, 0)], &[1], &rules(0)).len(),
            2,
            "pins do not fit, and stay"
        );
    }

    #[test]
    fn a_cycle_goes_as_a_whole_and_references_elsewhere_or_to_itself_are_nothing() {
        let rules = Rules { max_size: Some(25), ..Rules::default() };
        let facts = [used(1), used(2), used(3)];
        let gone = removed(&facts, &[(0, 1), (1, 0), (2, 2), (2, 77)], &[88], &rules);
        let numbers: HashSet<usize> = gone.iter().map(|(at, _)| *at).collect();
        assert_eq!(numbers, HashSet::from([0, 1]));
    }

    #[test]
    fn a_long_chain_needs_no_stack_and_many_paths_little_time() {
        let length = 300_000;
        let mut gathering = Gathering::default();
        for number in 0..length {
            let facts = used((number % 500) as u64);
            gathering.add(hash(number), facts, [hash(number + 1), hash(number / 2)]).unwrap();
        }
        let (graph, _) = gathering.finish(&[]);
        let rules = Rules { retention: Some(1), max_age: Some(1), max_size: Some(7) };
        assert_eq!(decide(&graph, &[], &rules, NOW, NOTHING_IS).removed.len(), length);
    }

    #[derive(Clone, Debug)]
    struct Case {
        facts: Vec<Facts>,
        references: Vec<(usize, usize)>,
        pinned: Vec<usize>,
        rules: Rules,
    }

    fn case() -> impl Strategy<Value = Case> {
        // Few different times, so that many are the same.
        let facts = (0..8_u64, 0..8_u64, 0..5_u64).prop_map(|(used, uploaded, size)| Facts {
            used: 900 + used * 10,
            uploaded: 900 + uploaded * 10,
            size,
            sequence: 1,
        });
        let span = || option::of((0..12_u64).prop_map(|tens| tens * 10));
        let rules = (span(), span(), option::of(0..40_u64))
            .prop_map(|(retention, max_age, max_size)| Rules { retention, max_age, max_size });
        // Some references and pins are of paths that are not there.
        (vec(facts, 0..14), vec((0..16_usize, 0..16_usize), 0..28), vec(0..16_usize, 0..3), rules)
            .prop_map(|(facts, references, pinned, rules)| Case {
                facts,
                references,
                pinned,
                rules,
            })
    }

    /// For each path, all that can be reached from it, itself included.
    fn reach(case: &Case) -> Vec<HashSet<usize>> {
        let len = case.facts.len();
        let mut reach: Vec<HashSet<usize>> = (0..len).map(|at| HashSet::from([at])).collect();
        for _ in 0..len {
            for (from, to) in case.references.iter().filter(|(from, to)| *from < len && *to < len) {
                let more = reach[*to].clone();
                reach[*from].extend(more);
            }
        }
        reach
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 2000,
            failure_persistence: None,
            ..Default::default()
        })]

        #[test]
        fn any_plan_keeps_closures_pins_and_what_is_in_use(case in case()) {
            let gone = removed(&case.facts, &case.references, &case.pinned, &case.rules);
            let (len, reach) = (case.facts.len(), reach(&case));
            let latest = |to: usize, time: fn(&Facts) -> u64| {
                (0..len).filter(|from| reach[*from].contains(&to)).map(|from| time(&case.facts[from])).max().unwrap()
            };
            let is_pinned = |at: usize| case.pinned.iter().any(|pin| *pin < len && reach[*pin].contains(&at));
            let over = |time: u64, span: Option<u64>| span.is_some_and(|span| time + span < NOW);

            // What goes for its times is what the naive definition says, for the first reason that holds.
            for at in 0..len {
                let expected = match is_pinned(at) {
                    true => None,
                    false if over(latest(at, |f| f.used), case.rules.retention) => Some(Why::Unused),
                    false if over(latest(at, |f| f.uploaded), case.rules.max_age) => Some(Why::Old),
                    false => None,
                };
                let found = gone.iter().find(|(gone, _)| *gone == at).map(|(_, why)| *why);
                prop_assert_eq!(found.filter(|why| *why != Why::Space), expected);
                prop_assert!(found.is_none() || !is_pinned(at));
            }

            // At no step of it does anything refer to what is gone.
            let mut there: HashSet<usize> = (0..len).collect();
            for (at, _) in &gone {
                prop_assert!(there.remove(at));
                let cycle = |from: usize| reach[*at].contains(&from);
                prop_assert!(!there.iter().any(|from| reach[*from].contains(at) && !cycle(*from)));
            }
            prop_assert!(!gone.iter().any(|(at, _)| there.iter().any(|from| reach[*from].contains(at))));

            // Room is made only as far as it is needed, by what was used least recently.
            let size = |paths: &mut dyn Iterator<Item = usize>| paths.map(|at| case.facts[at].size).sum::<u64>();
            let for_space: Vec<usize> =
                gone.iter().filter(|(_, why)| *why == Why::Space).map(|(at, _)| *at).collect();
            let rest = size(&mut there.iter().copied());
            let room = case.rules.max_size.unwrap_or(u64::MAX);
            let use_of = |at: usize| latest(at, |f| f.used);
            prop_assert!(rest <= room || there.iter().all(|at| is_pinned(*at)));
            if let Some(&last) = for_space.last() {
                let back = for_space.iter().copied();
                let together = size(&mut back.filter(|at| reach[*at].contains(&last) && reach[last].contains(at)));
                prop_assert!(rest + together > room, "the last need not have gone");
                let kept = there.iter().filter(|at| !is_pinned(**at)).map(|at| use_of(*at)).min();
                prop_assert!(kept.is_none_or(|kept| for_space.iter().all(|at| use_of(*at) <= kept)));
            }
        }
    }
}
