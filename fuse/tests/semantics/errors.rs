//! Errors, and waiting.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use granary_fuse::MountOptions;
use rustix::io::Errno;

use crate::support::calls::list;
use crate::support::{Item, ModelView, Mounted, eventually, store_path};

const AN_HOUR: u64 = 3_600_000;

fn files(count: u64) -> Arc<ModelView> {
    let names = (0..count).map(|n| (format!("{n}"), Item::file(format!("contents {n}"))));
    ModelView::new([
        (store_path(1, "files"), Item::directory(names)),
        (store_path(2, "other"), Item::directory([("f", Item::file("other"))])),
    ])
}

fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> Errno {
    Errno::from_io_error(&result.unwrap_err()).unwrap()
}

sentences! {
    "What cannot be fetched or trusted is an I/O error (EIO), and is tried again by who asks again."
    fn failures_are_errors_and_pass() {
        for passthrough in [false, true] {
            let path = store_path(3, "large");
            let view = files(2);
            let large = vec![7; 100_000];
            view.add(&path, &Item::directory([("small", Item::file("s")), ("f", Item::file(&large))]));
            let options = MountOptions { passthrough, ..Default::default() };
            let mounted = Mounted::with(&view, options);
            let (at, file) = (mounted.at(&path), mounted.at(&path).join("f"));
            view.failing.store(true, Relaxed);
            assert_eq!(errno(fs::metadata(&at)), Errno::IO);
            assert_eq!(list(mounted.root(), 0), Err(Errno::IO));
            view.failing.store(false, Relaxed);
            assert!(fs::metadata(&file).is_ok());
            assert_eq!(list(mounted.root(), 0).unwrap().len(), 5);
            view.failing.store(true, Relaxed);
            assert_eq!(errno(fs::read(&file)), Errno::IO);
            assert_eq!(errno(fs::read(at.join("small"))), Errno::IO);
            view.failing.store(false, Relaxed);
            assert!(fs::read(&file).unwrap() == large);
            assert_eq!(fs::read(at.join("small")).unwrap(), b"s");
        }
    }

    "A panic, or an answer that is too short, is an I/O error for who asked, and the mount goes on."
    fn bad_answers_are_errors() {
        for remote in [false, true] {
            let view = files(4);
            view.remote.store(remote, Relaxed);
            let mounted = Mounted::new(&view);
            let file = |n: u64| mounted.at(&store_path(1, "files")).join(n.to_string());
            for (n, switch) in [(0, &view.panicking), (1, &view.short)] {
                switch.store(true, Relaxed);
                for _ in 0..10 {
                    assert_eq!(errno(fs::read(file(n))), Errno::IO);
                }
                switch.store(false, Relaxed);
                assert_eq!(fs::read(file(n)).unwrap(), format!("contents {n}").as_bytes());
            }
        }
    }

    "A name below a file is an error (ENOTDIR), and so is one that is too long (ENAMETOOLONG)."
    fn bad_names_are_errors() {
        let mounted = Mounted::new(&files(1));
        let file = mounted.at(&store_path(1, "files")).join("0");
        assert_eq!(errno(fs::metadata(file.join("below"))), Errno::NOTDIR);
        assert_eq!(errno(fs::read_dir(&file)), Errno::NOTDIR);
        let long = "n".repeat(256);
        let names = [mounted.root().join(&long), mounted.at(&store_path(1, "files")).join(&long)];
        for name in names {
            assert_eq!(errno(fs::metadata(name)), Errno::NAMETOOLONG);
        }
    }

    "While something is waited for, everything else is answered."
    fn others_are_answered() {
        let view = files(100);
        let options = MountOptions { threads: 2, ..Default::default() };
        let mounted = Mounted::with(&view, options);
        let directory = mounted.at(&store_path(1, "files"));
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 100);
        view.delay.store(AN_HOUR, Relaxed);
        view.remote.store(true, Relaxed);
        let waiting = |n: u64, what: std::path::PathBuf| {
            let mut cat = Command::new("cat");
            cat.arg(what).stdout(Stdio::null()).stderr(Stdio::null());
            let child = cat.spawn().unwrap();
            eventually("it waits", || view.waiting.load(Relaxed) >= n);
            child
        };
        let mut children: Vec<_> =
            (0..50).map(|n| waiting(n + 1, directory.join(n.to_string()))).collect();
        view.delay.store(0, Relaxed);
        view.remote.store(false, Relaxed);
        let other = mounted.at(&store_path(2, "other")).join("f");
        let start = Instant::now();
        assert_eq!(fs::read(other).unwrap(), b"other");
        assert_eq!(fs::read(directory.join("99")).unwrap(), b"contents 99");
        assert_eq!(fs::read_dir(mounted.root()).unwrap().count(), 2);
        assert!(start.elapsed() < Duration::from_secs(5));
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        mounted.detach();
    }

    "Two thousand threads can wait at once."
    fn thousands_wait() {
        let view = files(2000);
        view.remote.store(true, Relaxed);
        view.delay.store(1000, Relaxed);
        let mounted = Mounted::new(&view);
        let directory = mounted.at(&store_path(1, "files"));
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 2000);
        let threads = std::fs::read_dir("/proc/self/task").unwrap().count();
        let start = Instant::now();
        std::thread::scope(|scope| {
            for n in 0..2000 {
                let file = directory.join(n.to_string());
                let read = move || {
                    let mut buffer = [0; 64];
                    let file = File::open(file).unwrap();
                    let read = file.read_at(&mut buffer, 0).unwrap();
                    assert_eq!(&buffer[..read], format!("contents {n}").as_bytes());
                };
                std::thread::Builder::new().stack_size(1 << 16).spawn_scoped(scope, read).unwrap();
            }
            eventually("all wait", || view.waiting.load(Relaxed) > 1500);
            // Those are the readers' threads, not the mount's.
            let now = std::fs::read_dir("/proc/self/task").unwrap().count();
            assert!(now <= threads + 2000, "{now} threads, {threads} before");
        });
        assert!(start.elapsed() < Duration::from_secs(20));
    }

    "Who waits for a read can be killed."
    fn readers_can_be_killed() {
        let view = files(1);
        let mounted = Mounted::new(&view);
        let file = mounted.at(&store_path(1, "files")).join("0");
        assert!(fs::metadata(&file).unwrap().is_file());
        view.delay.store(AN_HOUR, Relaxed);
        view.remote.store(true, Relaxed);
        let mut cat = Command::new("cat").arg(&file).spawn().unwrap();
        eventually("it waits", || view.waiting.load(Relaxed) == 1);
        assert!(cat.try_wait().unwrap().is_none());
        cat.kill().unwrap();
        eventually("it is dead", || cat.try_wait().unwrap().is_some());
        mounted.detach();
    }
}
