//! What a mount costs: how many messages a program has to wait for.

mod support;

use std::fs;
use std::sync::atomic::Ordering;

use granary_fuse::MountOptions;
use support::{Item, ModelView, Mounted, eventually, store_path};

fn quiet() -> MountOptions {
    MountOptions { push_small_files: false, ..MountOptions::default() }
}

fn many_files() -> Item {
    Item::directory((0..200).map(|n| (format!("file-{n:03}"), Item::file(format!("contents {n}")))))
}

#[test]
fn a_warm_file_costs_no_message() {
    let path = store_path(1, "files");
    let mounted = Mounted::with(&ModelView::new([(path.clone(), many_files())]), quiet());
    let file = mounted.at(&path).join("file-007");
    let read = || assert_eq!(fs::read(&file).unwrap(), b"contents 7");
    read();
    read();
    assert_eq!(mounted.messages(|| (0..50).for_each(|_| read())), 0);
    let list = || assert_eq!(fs::read_dir(mounted.at(&path)).unwrap().count(), 200);
    list();
    assert_eq!(mounted.messages(list), 0);
    let link_free = || assert!(fs::symlink_metadata(&file).unwrap().is_file());
    assert_eq!(mounted.messages(link_free), 0);
}

#[test]
fn a_cold_small_file_costs_two_messages_and_one_after_a_listing() {
    let path = store_path(1, "files");
    let mounted = Mounted::with(&ModelView::new([(path.clone(), many_files())]), quiet());
    let directory = mounted.at(&path);
    // The first open and the first close of the mount ask whether they need to ask.
    fs::read(directory.join("file-199")).unwrap();
    let cold = mounted.messages(|| drop(fs::read(directory.join("file-003")).unwrap()));
    assert_eq!(cold, 2);
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 200);
    let listed = mounted.messages(|| drop(fs::read(directory.join("file-004")).unwrap()));
    assert_eq!(listed, 1);
}

#[test]
fn small_files_are_there_before_they_are_asked_for() {
    let path = store_path(1, "files");
    let view = ModelView::new([(path.clone(), many_files())]);
    let mounted = Mounted::alone(&view, MountOptions::default());
    let directory = mounted.at(&path);
    let names: Vec<_> = fs::read_dir(&directory).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(mounted.mount.statistics().pushed, 0, "who only lists has nothing pushed");
    let reads = || mounted.mount.statistics().reads;
    for (n, name) in names.iter().enumerate() {
        assert_eq!(fs::read(name).unwrap(), format!("contents {n}").as_bytes());
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert!(reads() < 20, "{} reads for 200 files", reads());
    assert!(mounted.mount.statistics().pushed > 180);
    // What was evicted is pushed again, after a while.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    mounted.drop_caches(false);
    let (before, pushed) = (reads(), mounted.mount.statistics().pushed);
    for name in &names {
        fs::read(name).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert!(reads() - before < 100, "{} reads for 200 files", reads() - before);
    assert!(mounted.mount.statistics().pushed > pushed);
}

#[test]
fn names_that_cannot_be_paths_are_asked_for_once() {
    let path = store_path(1, "files");
    let mounted = Mounted::with(&ModelView::new([(path.clone(), many_files())]), quiet());
    let probe = || {
        for name in [".git", ".links", "lost+found", "0123-x"] {
            assert!(!mounted.root().join(name).exists());
        }
        assert!(!mounted.at(&path).join("no-such-file").exists());
    };
    probe();
    assert_eq!(mounted.messages(probe), 0);
}

#[test]
fn caches_that_the_kernel_drops_leave_no_inodes() {
    let path = store_path(1, "files");
    let view = ModelView::new([(path.clone(), many_files())]);
    let mounted = Mounted::alone(&view, MountOptions::default());
    for _ in 0..3 {
        assert_eq!(fs::read_dir(mounted.at(&path)).unwrap().count(), 200);
        assert_eq!(mounted.mount.statistics().inodes, 201);
        eventually("the kernel forgets", || {
            mounted.drop_caches(true);
            mounted.mount.statistics().inodes == 0
        });
    }
    assert_eq!(mounted.view.reads.load(Ordering::Relaxed), 0);
}
