//! How many messages a program has to wait for, and what stays in memory; passthrough too.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use granary_fuse::MountOptions;
use nix_compat::store_path::StorePath;

use crate::support::calls::mapped;
use crate::support::{Item, ModelView, Mounted, eventually, store_path};

fn path() -> StorePath {
    store_path(1, "files")
}

fn files() -> Arc<ModelView> {
    let names = (0..200).map(|n| (format!("{n:03}"), Item::file(format!("contents {n}"))));
    ModelView::new([(path(), Item::directory(names))])
}

fn quiet() -> Mounted {
    let options = MountOptions { push_small_files: false, ..Default::default() };
    Mounted::with(&files(), options)
}

fn large(seed: u8) -> Vec<u8> {
    (0..500_000u32).map(|n| (n / 7) as u8 ^ seed).collect()
}

sentences! {
    "A file that was read costs no message, and neither does a directory that was listed."
    fn what_is_warm_is_free() {
        let mounted = quiet();
        let directory = mounted.at(&path());
        let read = || assert_eq!(fs::read(directory.join("007")).unwrap(), b"contents 7");
        read();
        read();
        assert_eq!(mounted.messages(|| (0..50).for_each(|_| read())), 0);
        let list = || assert_eq!(fs::read_dir(&directory).unwrap().count(), 200);
        list();
        assert_eq!(mounted.messages(list), 0);
        let stat = || assert!(fs::symlink_metadata(directory.join("100")).unwrap().is_file());
        assert_eq!(mounted.messages(stat), 0);
    }

    "A small file costs two messages, and one if its directory was listed."
    fn what_is_cold_costs_two() {
        let mounted = quiet();
        let directory = mounted.at(&path());
        // The first open and the first close of a mount ask whether they have to ask.
        fs::read(directory.join("199")).unwrap();
        let read = |name: &str| mounted.messages(|| drop(fs::read(directory.join(name)).unwrap()));
        assert_eq!(read("003"), 2);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 200);
        assert_eq!(read("004"), 1);
    }

    "A name that is not in a directory is asked about once."
    fn what_is_not_there_is_asked_about_once() {
        let mounted = quiet();
        let probe = || assert!(!mounted.at(&path()).join("no-such-file").exists());
        probe();
        assert_eq!(mounted.messages(probe), 0);
    }

    "When one small file of a listed directory is read, those behind it are given to the kernel before it asks."
    fn small_files_are_pushed() {
        let mounted = Mounted::alone(&files(), Default::default());
        let entries = fs::read_dir(mounted.at(&path())).unwrap();
        let names: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        let reads_for_all = || {
            let before = mounted.mount.statistics().reads;
            for (n, name) in names.iter().enumerate() {
                assert_eq!(fs::read(name).unwrap(), format!("contents {n}").as_bytes());
                std::thread::sleep(Duration::from_millis(1));
            }
            mounted.mount.statistics().reads - before
        };
        let reads = reads_for_all();
        assert!(reads < 40, "{reads} reads for 200 files");
        assert!(mounted.mount.statistics().pushed > 160);
        // What was evicted is given again, after a while.
        std::thread::sleep(Duration::from_millis(1100));
        mounted.drop_caches(false);
        let reads = reads_for_all();
        assert!(reads < 100, "{reads} reads for 200 files");
    }

    "Nothing is given to the kernel for who only lists."
    fn listings_push_nothing() {
        let mounted = Mounted::new(&files());
        for entry in fs::read_dir(mounted.at(&path())).unwrap() {
            entry.unwrap().metadata().unwrap();
        }
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(mounted.mount.statistics().pushed, 0);
        assert_eq!(mounted.view.reads.load(Relaxed), 0);
    }

    "What the kernel forgets takes no memory."
    fn what_is_forgotten_is_gone() {
        let mounted = Mounted::alone(&files(), Default::default());
        for _ in 0..3 {
            assert_eq!(fs::read_dir(mounted.at(&path())).unwrap().count(), 200);
            assert_eq!(mounted.mount.statistics().inodes, 201);
            mounted.forget_everything();
        }
        // A file that two paths have stays while one of them is used.
        let other = store_path(2, "other");
        mounted.view.add(&other, &Item::directory([("same", Item::file("contents 5"))]));
        assert_eq!(fs::read(mounted.at(&path()).join("005")).unwrap(), b"contents 5");
        let open = File::open(mounted.at(&other).join("same")).unwrap();
        eventually("the first path is forgotten", || {
            mounted.drop_caches(true);
            mounted.mount.statistics().inodes == 2
        });
        assert_eq!(open.read_at(&mut [0; 10], 0).unwrap(), 10);
    }

    "In a mount with passthrough, a file over 64 KiB is fetched whole when it is opened, and read without a message."
    fn large_files_pass_through() {
        let entries = [
            ("large", Item::file(large(0))),
            ("limit", Item::file([1; 65_536])),
            ("over", Item::file([1; 65_537])),
        ];
        let view = ModelView::new([(path(), Item::directory(entries))]);
        let options = MountOptions { passthrough: true, ..Default::default() };
        let mounted = Mounted::with(&view, options);
        let at = |name: &str| mounted.at(&path()).join(name);
        let file = File::open(at("large")).unwrap();
        assert_eq!(view.materialised.load(Relaxed), 1);
        let read = || assert!(mapped(&file).unwrap() == large(0));
        assert_eq!(mounted.messages(read), 0);
        assert!(fs::read(at("limit")).unwrap() == [1; 65_536]);
        assert_eq!(view.materialised.load(Relaxed), 1);
        assert!(fs::read(at("over")).unwrap() == [1; 65_537]);
        assert_eq!(view.materialised.load(Relaxed), 2);
    }

    "However many have it open, and however they come and go, all read the same."
    fn opens_of_one_file_mix() {
        let entries = [
            ("a", Item::file(large(1))),
            ("b", Item::file(large(2))),
            ("b-too", Item::file(large(2))),
            ("small", Item::file("small")),
        ];
        let view = ModelView::new([(path(), Item::directory(entries))]);
        view.delay.store(1, Relaxed);
        let options = MountOptions { passthrough: true, ..Default::default() };
        let mounted = Mounted::with(&view, options);
        let directory = mounted.at(&path());
        std::thread::scope(|scope| {
            for thread in 0..8u64 {
                let directory = &directory;
                scope.spawn(move || for round in 0..100u64 {
                    let (name, expected) = match (thread * 7 + round * 3) % 4 {
                        0 => ("a", large(1)),
                        1 => ("b", large(2)),
                        2 => ("b-too", large(2)),
                        _ => ("small", b"small".to_vec()),
                    };
                    let file = File::open(directory.join(name)).unwrap();
                    let mut buffer = vec![0; expected.len()];
                    file.read_exact_at(&mut buffer, 0).unwrap();
                    assert!(buffer == expected);
                });
            }
        });
    }
}
