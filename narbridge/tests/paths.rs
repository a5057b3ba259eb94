//! What may be counted on when paths are weighed and deleted.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

use std::path::Path;
use std::sync::Arc;

use castore::Options;
use narbridge::cache::{CacheSettings, Deletion, DeletionError, KeptWhy};
use narbridge::sizes::{CacheContents, PathSizes};
use narbridge::storehouse::Storehouse;
use narbridge::{Cache, CacheName};
use nix_compat::nar::Writer;
use nix_compat::nixhash::Sha256;
use nix_compat::store_path::StorePathHash;
use sha2::Digest;

fn open(dir: &Path) -> Storehouse {
    Storehouse::open(dir, Options::new(&mut |_| ())).unwrap()
}

fn cache(house: &Storehouse, name: &str) -> Arc<Cache> {
    let name: CacheName = name.parse().unwrap();
    house.create_cache(&name, &CacheSettings::default(), None).unwrap()
}

/// The hash part of the path that tests call by that letter.
fn hash(name: char) -> StorePathHash {
    StorePathHash::from([name as u8; 20])
}

fn base_name(name: char) -> String {
    format!("{}-{name}", hash(name))
}

/// Bytes that do not compress, others for each seed.
fn noise(seed: u8, length: usize) -> Vec<u8> {
    let blocks = (0u32..).flat_map(|n| {
        let block = [&[seed][..], &n.to_le_bytes()].concat();
        <[u8; 32]>::from(sha2::Sha256::digest(block))
    });
    blocks.take(length).collect()
}

/// Publishes a folder of files of noise, each of one chunk: seed and length.
fn publish_files(cache: &Cache, name: char, references: &str, files: &[(u8, usize)]) {
    let mut nar = Writer::new(Vec::new());
    nar.enter_directory(b"").unwrap();
    for (seed, length) in files {
        let contents = noise(*seed, *length);
        let file = format!("file-{seed:03}");
        nar.file(file.as_bytes(), false, contents.len() as u64, &mut &contents[..]).unwrap();
    }
    nar.leave_directory().unwrap();
    let nar = nar.finish().unwrap();
    let nar_hash = Sha256::from(<[u8; 32]>::from(sha2::Sha256::digest(&nar)));
    let url = format!("{}.nar", nar_hash.to_nix32());
    cache.upload_nar(url.parse().unwrap(), &nar[..], 1 << 24, None).unwrap();
    let references: Vec<String> = references.chars().map(base_name).collect();
    let text = format!(
        "StorePath: {dir}/{path}\nURL: nar/{url}\nCompression: none\n\
         NarHash: sha256:{}\nNarSize: {size}\nReferences: {}\n",
        nar_hash.to_nix32(),
        references.join(" "),
        dir = cache.store_dir(),
        path = base_name(name),
        size = nar.len(),
    );
    cache.publish(hash(name), text.as_bytes(), None).unwrap();
}

/// The same of a single small file of its own.
fn publish(cache: &Cache, name: char, references: &str) {
    publish_files(cache, name, references, &[(name as u8, 1000)]);
}

/// The paths of a cache, by their letters.
fn there(cache: &Cache) -> String {
    let paths = cache.paths(None, 1000).unwrap();
    let mut names: Vec<&str> = paths.iter().map(|path| path.name()).collect();
    names.sort();
    names.concat()
}

fn hashes(names: &str) -> Vec<StorePathHash> {
    names.chars().map(hash).collect()
}

fn deletion(names: &str) -> Deletion {
    Deletion { paths: hashes(names), ..Deletion::default() }
}

fn with_closure(names: &str) -> Deletion {
    Deletion { closure: true, ..deletion(names) }
}

/// Deletes, and says what went in which order.
fn delete(cache: &Cache, deletion: &Deletion) -> String {
    let plan = cache.plan_deletion(deletion).unwrap();
    let planned: Vec<String> = plan.paths().map(|doomed| doomed.path.to_string()).collect();
    let deleted = cache.delete(plan).unwrap();
    let paths: Vec<String> = deleted.paths.iter().map(|doomed| doomed.path.to_string()).collect();
    assert_eq!(paths, planned, "what was planned is done");
    deleted.paths.iter().map(|doomed| doomed.path.name()).collect()
}

/// `a` refers to `b` and `c`, these to `d`, `d` to itself and `e`; `f` to `e`, and to `z`, which is
/// not there.
fn publish_graph(cache: &Cache) {
    for (name, references) in
        [('e', ""), ('d', "de"), ('c', "d"), ('b', "d"), ('a', "bc"), ('f', "ez")]
    {
        publish(cache, name, references);
    }
}

fn letters(mut paths: Vec<StorePathHash>) -> String {
    paths.sort();
    paths.iter().map(|path| char::from(path.as_bytes()[0])).collect()
}

#[test]
fn a_closure_and_what_refers_to_a_path_are_found_in_the_graph() {
    let dir = tempfile::tempdir().unwrap();
    let house = open(dir.path());
    let cache = cache(&house, "team");
    assert!(cache.references().unwrap().is_empty());
    publish_graph(&cache);
    let graph = cache.references().unwrap();
    assert_eq!(graph.len(), 6);
    assert_eq!(letters(graph.closure(&hashes("a"))), "abcde");
    assert_eq!(letters(graph.closure(&hashes("fcz"))), "cdef");
    assert_eq!(letters(graph.with_referrers(&hashes("e"))), "abcdef");
    assert_eq!(letters(graph.with_referrers(&hashes("b"))), "ab");
    assert_eq!(letters(graph.of(hash('d'))), "e", "not itself");
    assert_eq!(letters(graph.of(hash('f'))), "e", "not what is not there");
    assert_eq!(letters(graph.referrers_of(hash('d'))), "bc");
    assert_eq!(letters(graph.referrers_of(hash('z'))), "f");
    assert!(graph.has(hash('a')) && !graph.has(hash('z')) && !graph.has(hash('y')));
}

#[test]
fn what_something_else_needs_is_not_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let house = open(dir.path());
    let cache = cache(&house, "team");
    publish_graph(&cache);
    let refused = cache.plan_deletion(&deletion("d")).err().unwrap();
    assert!(matches!(&refused, DeletionError::Referred { by, more: 0, .. } if by.len() == 2));
    let text = refused.to_string();
    let (b, c, d) = (base_name('b'), base_name('c'), base_name('d'));
    assert!(text.starts_with(&format!("{d} is needed by {b}, {c}: ")), "{text}");
    let refused = cache.plan_deletion(&deletion("ay")).err().unwrap();
    assert!(matches!(refused, DeletionError::NotHere { .. }), "{refused}");
    assert_eq!(there(&cache), "abcdef");

    assert_eq!(delete(&cache, &deletion("a")), "a");
    assert!(cache.narinfo(hash('a')).unwrap().is_none());
    assert_eq!(delete(&cache, &deletion("dbc")), "bcd", "they are each other's only referrers");
    assert_eq!(there(&cache), "ef");
    drop((cache, house));
    let house = open(dir.path());
    assert_eq!(there(&house.cache("team").unwrap()), "ef", "and that is durable");
}

#[test]
fn ten_of_many_referrers_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let house = open(dir.path());
    let cache = cache(&house, "team");
    publish(&cache, 'z', "");
    ('a'..='m').for_each(|name| publish(&cache, name, "z"));
    let text = cache.plan_deletion(&deletion("z")).err().unwrap().to_string();
    assert!(text.contains(&format!("{} and 3 more: ", base_name('j'))), "{text}");
}

#[test]
fn referrers_go_first_and_a_closure_only_as_far_as_nothing_else_needs_it() {
    let dir = tempfile::tempdir().unwrap();
    let house = open(dir.path());
    let cache = cache(&house, "team");
    publish_graph(&cache);
    let plan = cache.plan_deletion(&with_closure("a")).unwrap();
    let kept: Vec<_> = plan.kept().iter().map(|kept| (kept.path.clone(), &kept.why)).collect();
    assert_eq!(kept, [(base_name('e'), &KeptWhy::Referred(base_name('f')))]);
    drop(plan);
    assert_eq!(delete(&cache, &with_closure("a")), "abcd");
    assert_eq!(there(&cache), "ef");

    publish_graph(&cache);
    let referrers = Deletion { referrers: true, ..deletion("d") };
    assert_eq!(delete(&cache, &referrers), "abcd");
    publish_graph(&cache);
    // `a` needs `c` as well, so nothing below `c` goes with `b`; and `b` itself must not.
    let refused = cache.plan_deletion(&with_closure("b")).err().unwrap();
    assert!(matches!(refused, DeletionError::Referred { .. }), "{refused}");
    let all = Deletion { referrers: true, ..with_closure("e") };
    assert_eq!(delete(&cache, &all).len(), 6);
    assert_eq!(there(&cache), "");
}

#[test]
fn paths_that_refer_to_each_other_go_together_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let house = open(dir.path());
    let cache = cache(&house, "team");
    for (name, references) in [('a', "b"), ('b', "a"), ('c', "a"), ('d', "b")] {
        publish(&cache, name, references);
    }
    assert!(cache.plan_deletion(&deletion("ab")).is_err());
    assert_eq!(delete(&cache, &with_closure("c")), "c", "d still needs them");
    assert_eq!(delete(&cache, &with_closure("d")), "dab");
}

#[test]
fn a_path_that_is_pushed_again_meanwhile_stays_with_all_it_needs() {
    let dir = tempfile::tempdir().unwrap();
    let house = open(dir.path());
    let cache = cache(&house, "team");
    publish_graph(&cache);
    let plan = cache.plan_deletion(&Deletion { referrers: true, ..with_closure("e") }).unwrap();
    publish(&cache, 'b', "d");
    let deleted = cache.delete(plan).unwrap();
    assert_eq!(there(&cache), "bde");
    let kept: Vec<_> = deleted.kept.iter().map(|kept| (kept.path.clone(), &kept.why)).collect();
    let expected = [
        (base_name('b'), &KeptWhy::Changed),
        (base_name('d'), &KeptWhy::Referred(base_name('b'))),
        (base_name('e'), &KeptWhy::Referred(base_name('d'))),
    ];
    assert_eq!(kept, expected);
    assert!(cache.narinfo(hash('b')).unwrap().is_some());
    assert!(cache.narinfo(hash('a')).unwrap().is_none());
}

#[test]
fn what_is_below_a_circle_stays_when_any_of_it_is_pushed_again_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let house = open(dir.path());
    let cache = cache(&house, "team");
    for (name, references) in [('e', ""), ('d', "e"), ('b', "ad"), ('a', "b"), ('t', "a")] {
        publish(&cache, name, references);
    }
    let plan = cache.plan_deletion(&with_closure("t")).unwrap();
    publish(&cache, 'd', "e");
    let deleted = cache.delete(plan).unwrap();
    assert_eq!((deleted.paths.len(), &there(&cache)[..]), (1, "abde"));
    assert!(deleted.kept.len() == 4 && deleted.kept.iter().all(|it| it.why == KeptWhy::Changed));

    publish(&cache, 't', "a");
    let plan = cache.plan_deletion(&with_closure("t")).unwrap();
    publish(&cache, 't', "a");
    assert!(cache.delete(plan).unwrap().paths.is_empty());
    assert_eq!(there(&cache), "abdet");
    assert_eq!(delete(&cache, &with_closure("t")).len(), 5);
}

#[test]
fn removing_a_fact_takes_the_state_it_was_read_in() {
    let dir = tempfile::tempdir().unwrap();
    let house = open(dir.path());
    let cache = cache(&house, "team");
    publish(&cache, 'a', "");
    publish(&cache, 'b', "");
    let graph = cache.references().unwrap();
    let read = |name| (hash(name), graph.sequence(hash(name)).unwrap());
    publish(&cache, 'b', "");
    let paths = [read('b'), read('a'), (hash('y'), 1)];
    assert_eq!(cache.remove_paths(&paths, 0).unwrap(), [false, true, false]);
    assert_eq!(there(&cache), "b");
    assert!(cache.remove_paths(&[], 0).unwrap().is_empty());
}

#[test]
fn sizes_tell_what_a_path_takes_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let house = open(dir.path());
    let (team, other) = (cache(&house, "team"), cache(&house, "other"));
    // Each file is one chunk that does not compress, and some bytes of framing.
    let about = |bytes: u64, expected: u64| bytes >= expected && bytes < expected + expected / 20;
    publish_files(&team, 'b', "", &[(2, 20_000)]);
    publish_files(&team, 'a', "b", &[(1, 10_000), (2, 20_000), (3, 4_000)]);
    publish_files(&other, 'c', "", &[(3, 4_000)]);
    let sizes = |cache: &Cache, name| house.path_sizes(cache, hash(name)).unwrap();
    let PathSizes { own, shared, closure } = sizes(&team, 'a').unwrap();
    assert!(about(own, 10_000) && about(shared, 24_000) && about(closure, 34_000));
    let PathSizes { own, shared, closure } = sizes(&team, 'b').unwrap();
    assert!(own == 0 && about(shared, 20_000) && closure == shared);
    assert_eq!(sizes(&team, 'y'), None);

    let both = hashes("ab").into_iter().collect();
    assert!(about(house.only_of(&team, &both).unwrap(), 30_000));
    let CacheContents { paths, nar_size, own } = house.contents(&team).unwrap();
    assert!(paths == 2 && nar_size > 54_000 && about(own, 30_000));
    // What only a destroyed cache needs is needed no more.
    house.destroy_cache(&"other".parse().unwrap()).unwrap();
    assert!(about(house.only_of(&team, &both).unwrap(), 34_000));
    let shared_tree = cache(&house, "third");
    publish_files(&shared_tree, 'x', "", &[(1, 10_000), (2, 20_000), (3, 4_000)]);
    assert_eq!(house.only_of(&team, &both).unwrap(), 0);
}

#[test]
fn a_path_is_told_of_as_it_was_published() {
    let dir = tempfile::tempdir().unwrap();
    let house = open(dir.path());
    let cache = cache(&house, "team");
    publish(&cache, 'a', "ab");
    let info = cache.path_info(hash('a')).unwrap().unwrap();
    assert_eq!(info.path.to_string(), base_name('a'));
    assert_eq!(info.references, [base_name('a'), base_name('b')]);
    assert!(info.nar_size > 1000 && info.file_size > 1000 && info.uploaded > 1_700_000_000);
    assert_eq!((info.deriver, info.ca, info.uploader, info.signatures), (None, None, None, 0));
    let listed = cache.listed_paths(None, 10).unwrap();
    assert_eq!((listed.len(), listed[0].nar_size), (1, info.nar_size));
    assert_eq!(cache.path_info(hash('b')).unwrap(), None);
}
