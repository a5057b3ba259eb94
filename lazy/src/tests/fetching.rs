//! Fetching: once, together, verified, and never for ever.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use castore::Digest;
use futures_util::future::join_all;
use tokio::runtime::Handle;

use crate::ViewError;
use crate::disk::DiskCache;
use crate::fetch::{Fetcher, Getting};
use crate::source::Source;
use crate::testing::{PATIENCE, Script, noise};

fn fetcher(script: &Script, disk: Option<Arc<DiskCache>>) -> Arc<Fetcher> {
    let source = Arc::new(Source::Scripted(script.clone()));
    Fetcher::new(source, disk, 64 << 20, PATIENCE, Handle::current())
}

/// Gets chunks as one reader does, all at once.
async fn get(fetcher: &Arc<Fetcher>, chunks: &[(Digest, u32)]) -> Vec<Result<Bytes, ViewError>> {
    let begin = |(digest, size): &(Digest, u32)| fetcher.begin(*digest, *size);
    let getting: Vec<Getting> = chunks.iter().map(begin).collect();
    fetcher.ask();
    join_all(getting.into_iter().map(|one| fetcher.finish(one))).await
}

async fn get_one(fetcher: &Arc<Fetcher>, chunk: (Digest, u32)) -> Result<Bytes, ViewError> {
    get(fetcher, &[chunk]).await.remove(0)
}

fn script_with(count: u64, length: usize) -> (Script, Vec<(Digest, u32)>) {
    let script = Script::default();
    let chunks = (0..count).map(|number| script.chunk(&noise(number, length))).collect();
    (script, chunks)
}

/// How often each chunk was asked for.
fn asked(script: &Script) -> HashMap<Digest, usize> {
    let mut asked = HashMap::new();
    for digest in script.state().questions.iter().flatten() {
        *asked.entry(*digest).or_default() += 1;
    }
    asked
}

#[tokio::test(flavor = "multi_thread")]
async fn many_readers_of_a_chunk_ask_once() {
    let (script, chunks) = script_with(1, 1000);
    script.state().delay = Duration::from_millis(50);
    let fetcher = fetcher(&script, None);
    let readers = (0..500).map(|_| {
        let (fetcher, chunk) = (fetcher.clone(), chunks[0]);
        tokio::spawn(async move { get_one(&fetcher, chunk).await.unwrap() })
    });
    for plain in join_all(readers).await {
        assert_eq!(plain.unwrap(), noise(0, 1000));
    }
    assert_eq!(script.state().questions.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wanted_together_is_asked_for_together() {
    let (script, chunks) = script_with(400, 20_000);
    let fetcher = fetcher(&script, None);
    for (number, plain) in (0..).zip(get(&fetcher, &chunks).await) {
        assert_eq!(plain.unwrap(), noise(number, 20_000));
    }
    let questions = script.state().questions.clone();
    assert!(questions.len() <= 8, "{}", questions.len());
    assert!(questions.iter().all(|batch| batch.len() * 20_000 <= 2_100_000), "none is too long");
    assert!(asked(&script).values().all(|count| *count == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_damaged_is_asked_for_again_and_given_up_in_the_end() {
    let (script, chunks) = script_with(3, 1000);
    script.state().damaged.extend([(chunks[0].0, 2), (chunks[1].0, u32::MAX)]);
    let fetcher = fetcher(&script, None);
    let got = get(&fetcher, &chunks).await;
    assert_eq!(got[0].as_ref().unwrap(), &noise(0, 1000));
    let error = got[1].as_ref().unwrap_err().to_string();
    assert!(error.contains("damaged") && error.contains(&chunks[1].0.to_string()), "{error}");
    assert_eq!(got[2].as_ref().unwrap(), &noise(2, 1000));
    let asked = asked(&script);
    assert_eq!(chunks.iter().map(|(digest, _)| asked[digest]).collect::<Vec<_>>(), [3, 3, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_the_source_has_lost_is_an_error_at_once() {
    let (script, chunks) = script_with(2, 1000);
    script.state().missing.insert(chunks[0].0);
    let fetcher = fetcher(&script, None);
    let begun = Instant::now();
    let got = get(&fetcher, &chunks).await;
    assert!(got[0].is_err() && got[1].is_ok());
    assert!(begun.elapsed() < PATIENCE / 2, "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_source_is_waited_for_no_longer_than_said_and_used_when_it_is_back() {
    let (script, chunks) = script_with(20, 1000);
    script.state().silent = true;
    let fetcher = fetcher(&script, None);
    let begun = Instant::now();
    let readers = (0..100).map(|number| {
        let (fetcher, chunk) = (fetcher.clone(), chunks[number % chunks.len()]);
        tokio::spawn(async move { get_one(&fetcher, chunk).await })
    });
    for got in join_all(readers).await {
        assert!(matches!(got.unwrap(), Err(ViewError::Unreachable { .. })));
    }
    let took = begun.elapsed();
    assert!(took >= PATIENCE && took < PATIENCE * 3, "{took:?}");
    let begun = Instant::now();
    assert!(get_one(&fetcher, chunks[0]).await.is_err());
    assert!(begun.elapsed() < PATIENCE / 2, "whoever comes right behind does not wait as long");
    script.state().silent = false;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert!(get(&fetcher, &chunks).await.iter().all(Result::is_ok));
    assert!(asked(&script).values().all(|count| *count == 1), "what was asked for still came");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_who_joins_a_question_that_fails_asks_for_themselves() {
    let (script, chunks) = script_with(1, 1000);
    {
        let mut state = script.state();
        (state.delay, state.failing) = (Duration::from_millis(100), true);
    }
    let fetcher = fetcher(&script, None);
    fetcher.ahead([chunks[0]]);
    fetcher.ask();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let healing = script.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(90)).await;
        healing.state().failing = false;
    });
    assert!(get_one(&fetcher, chunks[0]).await.is_ok());
    assert_eq!(asked(&script)[&chunks[0].0], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wanted_goes_before_what_is_only_likely_to_be() {
    let (script, chunks) = script_with(200, 100_000);
    script.state().delay = Duration::from_millis(20);
    let fetcher = fetcher(&script, None);
    fetcher.ahead(chunks[..199].iter().copied());
    fetcher.ask();
    get_one(&fetcher, chunks[199]).await.unwrap();
    let questions = script.state().questions.clone();
    let first = questions.iter().position(|batch| batch.contains(&chunks[199].0)).unwrap();
    assert!(first <= 4, "connections are left for it, but it was question {first}");
    assert!(questions.len() > 4, "the others go on");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_mount_has_fetched_is_not_fetched_again() {
    let (script, chunks) = script_with(10, 50_000);
    let dir = tempfile::tempdir().unwrap();
    let disks = [(); 2].map(|()| Arc::new(DiskCache::open(dir.path(), 1 << 28).unwrap()));
    let [first, second] = disks.map(|disk| fetcher(&script, Some(disk)));
    get(&first, &chunks).await.into_iter().for_each(|plain| drop(plain.unwrap()));
    tokio::time::sleep(Duration::from_millis(300)).await;
    for (number, plain) in (0..).zip(get(&second, &chunks).await) {
        assert_eq!(plain.unwrap(), noise(number, 50_000));
    }
    assert!(asked(&script).values().all(|count| *count == 1), "{:?}", asked(&script));
}
