//! Pushing to a server in the same process, over a real connection.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod fixture;

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Mutex;

use fixture::{Fixture, LocalPaths, noise};
use granary_client::push::{PlanOptions, PushError, PushOptions, Step, Summary, plan, push};
use nix_compat::narinfo::fingerprint;
use nix_compat::signature::SigningKey;

async fn push_all(fixture: &Fixture, local: &LocalPaths) -> Result<Summary, PushError> {
    let remote = fixture.remote("main");
    let plan = plan(&remote, local.infos(), &local.store_dir, PlanOptions::default()).await?;
    let options = PushOptions { jobs: 2, ..PushOptions::default() };
    push(&remote, &plan, &|path| local.place(path), options, &|_, _| ()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_pushed_is_served_and_pushed_again_takes_one_request() {
    let fixture = Fixture::start().await;
    let mut local = LocalPaths::new();
    let a = local.add("a", &[], |dir| {
        fs::create_dir(dir.join("bin")).unwrap();
        fs::write(dir.join("bin/tool"), noise(1, 3_000_000)).unwrap();
        fs::write(dir.join("small"), b"some text").unwrap();
        fs::write(dir.join("empty"), b"").unwrap();
        std::os::unix::fs::symlink("bin/tool", dir.join("link")).unwrap();
    });
    let b = local.add("b", &[&a], |dir| fs::write(dir.join("f"), noise(2, 100_000)).unwrap());
    let pushed = push_all(&fixture, &local).await.unwrap();
    assert_eq!((pushed.published, pushed.failed.len()), (2, 0));
    for path in [&a, &b] {
        assert_eq!(fixture.nar_hash("main", path).await, local.info(path).nar_hash);
    }
    let before = fixture.requests();
    let again = push_all(&fixture, &local).await.unwrap();
    assert_eq!((again.published, fixture.requests() - before), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_chunks_that_are_missing_travel() {
    let fixture = Fixture::start().await;
    let mut local = LocalPaths::new();
    let data = noise(3, 4_000_000);
    local.add("first", &[], |dir| fs::write(dir.join("f"), &data).unwrap());
    push_all(&fixture, &local).await.unwrap();
    let before = fixture.sent();
    let mut changed = data.clone();
    changed[2_000_000] ^= 1;
    local.add("second", &[], |dir| fs::write(dir.join("f"), &changed).unwrap());
    let pushed = push_all(&fixture, &local).await.unwrap();
    assert_eq!(pushed.published, 1);
    let sent = fixture.sent() - before;
    assert!(sent < 700_000, "{sent} bytes for one changed chunk of at most 512 KiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_path_keeps_back_only_those_that_refer_to_it() {
    let fixture = Fixture::start().await;
    let mut local = LocalPaths::new();
    let good = local.add("good", &[], |dir| fs::write(dir.join("f"), b"good").unwrap());
    let lies = local.add("lies", &[], |dir| fs::write(dir.join("f"), b"lies").unwrap());
    let socket = local.add("socket", &[], |dir| fs::write(dir.join("f"), b"x").unwrap());
    let above = local.add("above", &[&lies, &good], |dir| fs::write(dir.join("f"), b"u").unwrap());
    let apart = local.add("apart", &[&good], |dir| fs::write(dir.join("f"), b"v").unwrap());
    // Its bytes are not those that were registered any more.
    fs::write(local.place(&lies).join("f"), b"LIES").unwrap();
    fs::remove_file(local.place(&socket).join("f")).unwrap();
    let _listener = UnixListener::bind(local.place(&socket).join("f")).unwrap();
    let pushed = push_all(&fixture, &local).await.unwrap();
    let mut failed: Vec<_> = pushed.failed.iter().map(|(path, _)| path.clone()).collect();
    failed.sort();
    let mut expected = vec![lies.clone(), socket.clone(), above.clone()];
    expected.sort();
    assert_eq!(failed, expected, "{:?}", pushed.failed);
    let why = |path| pushed.failed.iter().find(|(p, _)| p == path).unwrap().1.clone();
    assert!(why(&lies).contains("NarHash"), "{}", why(&lies));
    assert!(why(&above).contains("lies"), "{}", why(&above));
    for path in [&good, &apart] {
        assert_eq!(fixture.nar_hash("main", path).await, local.info(path).nar_hash);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_after_its_scan_fails_its_path_and_no_other() {
    let fixture = Fixture::start().await;
    let mut local = LocalPaths::new();
    let noisy = |seed| move |dir: &Path| fs::write(dir.join("f"), noise(seed, 300_000)).unwrap();
    let other = local.add("other", &[], noisy(1));
    let changed = local.add("changed", &[], noisy(2));
    let shorter = local.add("shorter", &[], noisy(3));
    let remote = fixture.remote("main");
    let plan = plan(&remote, local.infos(), &local.store_dir, PlanOptions::default());
    let plan = plan.await.unwrap();
    // The first news after a scan is what is not sent, before anything is.
    let hear = |at: usize, step| {
        let path = &plan.to_push[at].store_path;
        let file = local.place(path).join("f");
        match step {
            Step::Advanced(_) if *path == changed => fs::write(file, noise(4, 300_000)).unwrap(),
            Step::Advanced(_) if *path == shorter => fs::write(file, b"short").unwrap(),
            _ => {}
        }
    };
    let places = |path: &_| local.place(path);
    let pushed = push(&remote, &plan, &places, PushOptions::default(), &hear).await.unwrap();
    assert_eq!((pushed.published, pushed.failed.len()), (1, 2), "{:?}", pushed.failed);
    assert_eq!(fixture.nar_hash("main", &other).await, local.info(&other).nar_hash);
    for (path, why) in &pushed.failed {
        assert!([&changed, &shorter].contains(&path), "{path}");
        assert!(why.contains("changed after it was scanned"), "{why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_that_fill_the_memory_and_wait_for_a_bad_one_hold_up_nobody() {
    let fixture = Fixture::start().await;
    let mut local = LocalPaths::new();
    let many = |dir: &Path| {
        for at in 0..50u32 {
            fs::write(dir.join(at.to_string()), at.to_le_bytes()).unwrap();
        }
    };
    let lies = local.add("lies", &[], |dir| fs::write(dir.join("f"), b"lies").unwrap());
    let above = local.add("above", &[&lies], many);
    let apart = local.add("apart", &[], many);
    fs::write(local.place(&lies).join("f"), b"LIES").unwrap();
    let remote = fixture.remote("main");
    let plan = plan(&remote, local.infos(), &local.store_dir, PlanOptions::default());
    let plan = plan.await.unwrap();
    // Room for the first, not for another besides the second.
    let options = PushOptions { jobs: 1, memory: 1500, ..PushOptions::default() };
    let places = |path: &_| local.place(path);
    let pushed = push(&remote, &plan, &places, options, &|_, _| ()).await.unwrap();
    assert_eq!((pushed.published, pushed.failed.len()), (1, 2), "{:?}", pushed.failed);
    assert_eq!(fixture.nar_hash("main", &apart).await, local.info(&apart).nar_hash);
    let why = &pushed.failed.iter().find(|(path, _)| *path == above).unwrap().1;
    assert!(why.contains(&lies.to_string()), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_too_large_for_one_message_travels_as_chunks() {
    let fixture = Fixture::start().await;
    let mut local = LocalPaths::new();
    let path = local.add("many", &[], |dir| {
        for at in 0..6000u32 {
            let name = format!("a-file-with-a-rather-long-name-{at}");
            fs::write(dir.join(name), at.to_le_bytes()).unwrap();
        }
    });
    let pushed = push_all(&fixture, &local).await.unwrap();
    assert_eq!((pushed.published, pushed.failed.len()), (1, 0));
    assert_eq!(fixture.nar_hash("main", &path).await, local.info(&path).nar_hash);
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_are_as_small_as_they_are_asked_to_be() {
    let fixture = Fixture::start().await;
    let mut local = LocalPaths::new();
    let path = local.add("p", &[], |dir| fs::write(dir.join("f"), noise(9, 9_000_000)).unwrap());
    let remote = fixture.remote("main");
    let plan = plan(&remote, local.infos(), &local.store_dir, PlanOptions::default());
    let plan = plan.await.unwrap();
    let places = |path: &_| local.place(path);
    let part_size = 1 << 20;
    let small = PushOptions { part_size: part_size - 1, ..PushOptions::default() };
    let refused = push(&remote, &plan, &places, small, &|_, _| ()).await;
    assert!(matches!(refused, Err(PushError::PartSize)));
    let options = PushOptions { jobs: 1, part_size, ..PushOptions::default() };
    push(&remote, &plan, &places, options, &|_, _| ()).await.unwrap();
    assert!(fixture.longest_body() <= part_size, "{}", fixture.longest_body());
    assert!(fixture.longest_body() > part_size / 3, "{}", fixture.longest_body());
    assert_eq!(fixture.nar_hash("main", &path).await, local.info(&path).nar_hash);
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_adds_up_to_the_nar() {
    let fixture = Fixture::start().await;
    let mut local = LocalPaths::new();
    let path = local.add("p", &[], |dir| fs::write(dir.join("f"), noise(5, 2_000_000)).unwrap());
    let remote = fixture.remote("main");
    let plan = plan(&remote, local.infos(), &local.store_dir, PlanOptions::default());
    let plan = plan.await.unwrap();
    let steps = Mutex::new(Vec::new());
    let hear = |at, step| steps.lock().unwrap().push((at, step));
    push(&remote, &plan, &|path| local.place(path), PushOptions::default(), &hear).await.unwrap();
    let steps = steps.into_inner().unwrap();
    assert_eq!(steps.first(), Some(&(0, Step::Started)));
    assert_eq!(steps.last(), Some(&(0, Step::Published)));
    let advanced = steps.iter().map(|(_, step)| match step {
        Step::Advanced(bytes) => *bytes,
        _ => 0,
    });
    assert_eq!(advanced.sum::<u64>(), local.info(&path).nar_size);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_upstream_signed_stays_here_and_its_name_alone_does_not_count() {
    let fixture = Fixture::start().await;
    let key = SigningKey::generate("upstream-1", [7; 32]).unwrap();
    let forged = SigningKey::generate("upstream-1", [8; 32]).unwrap();
    fixture.set_upstream("main", &key.verifying_key().to_string());
    let mut local = LocalPaths::new();
    let theirs = local.add("theirs", &[], |dir| fs::write(dir.join("f"), b"1").unwrap());
    let ours = local.add("ours", &[], |dir| fs::write(dir.join("f"), b"2").unwrap());
    for (path, key) in [(&theirs, &key), (&ours, &forged)] {
        let store_dir = local.store_dir.clone();
        local.change(path, |info| {
            let text = fingerprint(&store_dir, path, &info.nar_hash, info.nar_size, []);
            info.signatures.push(key.sign(&text));
        });
    }
    let remote = fixture.remote("main");
    let planned = plan(&remote, local.infos(), &local.store_dir, PlanOptions::default());
    let planned = planned.await.unwrap();
    assert_eq!(planned.upstream, 1);
    assert_eq!(planned.to_push.iter().map(|info| &info.store_path).collect::<Vec<_>>(), [&ours]);
    let all = PlanOptions { ignore_upstream: true, ..PlanOptions::default() };
    let planned = plan(&remote, local.infos(), &local.store_dir, all).await.unwrap();
    assert_eq!((planned.upstream, planned.to_push.len()), (0, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_question_what_is_missing_fits_the_part_size_too() {
    let fixture = Fixture::start().await;
    let mut local = LocalPaths::new();
    for at in 0..20 {
        local.add(&format!("p{at}"), &[], |dir| fs::write(dir.join("f"), b"1").unwrap());
    }
    let options = PlanOptions { part_size: 400, ..PlanOptions::default() };
    let remote = fixture.remote("main");
    let planned = plan(&remote, local.infos(), &local.store_dir, options).await.unwrap();
    assert_eq!(planned.to_push.len(), 20);
    assert_eq!(fixture.requests(), 2);
    assert!(fixture.longest_body() <= 400, "{}", fixture.longest_body());
}

#[tokio::test(flavor = "multi_thread")]
async fn more_small_paths_than_one_request_takes_arrive() {
    let fixture = Fixture::start().await;
    let mut local = LocalPaths::new();
    let count = granary_api::push::MAX_PATHS_AT_ONCE + 50;
    // All of them wait for one that takes long, and are ready at once.
    let long = local.add("long", &[], |dir| fs::write(dir.join("f"), noise(1, 100 << 20)).unwrap());
    for at in 0..count {
        local.add(&format!("p{at}"), &[&long], |dir| fs::write(dir.join("f"), b"").unwrap());
    }
    let pushed = push_all(&fixture, &local).await.unwrap();
    assert_eq!((pushed.published, pushed.failed.len()), (count + 1, 0));
}
