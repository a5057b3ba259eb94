//! What was touched first is told, and fetched first elsewhere; and what a reader will want next.

use std::sync::Arc;
use std::time::Duration;

use castore::tree::Node;
use granary_client::migrate::Trust;
use nix_compat::store_path::StorePath;

use crate::testing::{Script, noise};
use crate::{FileRef, LazyPath, LazyStore, View};

const FILES: usize = 40;

/// A path of files that are one chunk each and too large to be each other's neighbours.
fn path(script: &Script, profile: &[u8]) -> StorePath {
    let contents: Vec<Vec<u8>> = (0..FILES as u64).map(|number| noise(number, 30_000)).collect();
    let names: Vec<String> = (0..FILES).map(|number| format!("{number:02}")).collect();
    let files: Vec<(&str, &[u8])> =
        names.iter().zip(&contents).map(|(name, plain)| (&name[..], &plain[..])).collect();
    script.path(1, &files, &[], |path| path.profile = profile.to_vec())
}

fn file(path: &LazyPath, number: usize) -> FileRef {
    let node = path.tree.lookup(format!("{number:02}").as_bytes()).unwrap().unwrap();
    let Node::File { digest, size, .. } = node else { panic!("{number} is no file") };
    FileRef { digest: *digest, size: *size }
}

async fn read(store: &LazyStore, path: &Arc<LazyPath>, number: usize) {
    let found = store.read(path, file(path, number), 0, 30_000).await.unwrap();
    assert!(found == noise(number as u64, 30_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_touched_is_told_in_order_and_once() {
    let script = Script::default();
    let path = path(&script, &[]);
    let store = script.store(None, Trust::Everything);
    let known = store.path(path.hash()).await.unwrap().unwrap();
    for number in [30, 3, 17, 3] {
        read(&store, &known, number).await;
    }
    script.state().failing = true;
    store.send_profiles().await;
    script.state().failing = false;
    store.send_profiles().await;
    store.send_profiles().await;
    let told = script.state().profiles.clone();
    let [told] = &told[..] else { panic!("{told:?}") };
    assert_eq!((&told.hash[..], &told.chunks[..]), (&path.hash().as_bytes()[..], &[30, 3, 17][..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_touched_comes_before_it_is_asked_for() {
    let script = Script::default();
    // 200 is a number that no chunk has.
    let path = path(&script, &[39, 5, 0xc8, 1, 21]);
    let store = script.store(None, Trust::Everything);
    let known = store.path(path.hash()).await.unwrap().unwrap();
    read(&store, &known, 39).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let before = script.state().questions.len();
    for number in [5, 21] {
        let found = store.read_now(&known, file(&known, number), 0, 30_000).expect("it is here");
        assert!(found == noise(number as u64, 30_000));
    }
    assert_eq!(script.state().questions.len(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_want_profiles_tells_nothing_and_fetches_nothing_by_them() {
    let script = Script::default();
    let path = path(&script, &[39, 5, 21]);
    let store = script.store_with(None, Trust::Everything, false);
    let known = store.path(path.hash()).await.unwrap().unwrap();
    read(&store, &known, 39).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(store.read_now(&known, file(&known, 5), 0, 30_000).is_none());
    store.send_profiles().await;
    assert!(script.state().profiles.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_read_on_comes_ahead_of_its_reader_and_one_that_is_not_does_not() {
    let script = Script::default();
    let large = noise(1, 24_000_000);
    let path = script.path(1, &[("large", &large)], &[], |_| ());
    let node = |path: &LazyPath| {
        let Node::File { digest, size, .. } = *path.tree.lookup(b"large").unwrap().unwrap() else {
            panic!("it is a file")
        };
        FileRef { digest, size }
    };
    let total = |script: &Script| script.state().questions.iter().map(Vec::len).sum::<usize>();
    let store = script.store(None, Trust::Everything);
    let known = store.path(path.hash()).await.unwrap().unwrap();
    let mut at_hand = 0;
    for step in 0..64u64 {
        let offset = step * 131_072;
        if store.read_now(&known, node(&known), offset, 131_072).is_some() {
            at_hand += 1;
        } else {
            store.read(&known, node(&known), offset, 131_072).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(at_hand > 48, "{at_hand} of 64 reads found what they wanted at hand");

    let script = Script::default();
    let path = script.path(1, &[("large", &large)], &[], |_| ());
    let store = script.store(None, Trust::Everything);
    let known = store.path(path.hash()).await.unwrap().unwrap();
    let all = known.chunks(&node(&known)).unwrap().len();
    for offset in [20_000_000, 9_000_000, 15_000_000] {
        store.read(&known, node(&known), offset, 4096).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let fetched = total(&script);
    assert!(fetched * 3 < all, "{fetched} of {all} chunks for three pages");
}
