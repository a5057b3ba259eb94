//! Contents.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::atomic::Ordering;

use granary_fuse::MountOptions;

use crate::support::calls::mapped;
use crate::support::{Item, ModelView, Mounted, store_path};

fn long() -> Vec<u8> {
    (0..3_000_000u32).flat_map(|n| (n / 5).to_le_bytes()).collect()
}

sentences! {
    "A file can be read at any offset, and has nothing at its end and behind it."
    fn files_are_read_anywhere() {
        let (path, contents) = (store_path(1, "file"), long());
        for remote in [false, true] {
            let view = ModelView::new([(path.clone(), Item::file(&contents))]);
            view.remote.store(remote, Ordering::Relaxed);
            let mounted = Mounted::new(&view);
            let file = File::open(mounted.at(&path)).unwrap();
            for offset in [11_999_999, 5_000_000, 0, 4095, 1 << 20] {
                let end = contents.len().min(offset + 100_000);
                let mut buffer = vec![0; end - offset];
                file.read_exact_at(&mut buffer, offset as u64).unwrap();
                assert!(buffer == contents[offset..end], "at {offset}");
            }
            for behind in [12_000_000, 12_000_001, 1 << 40] {
                assert_eq!(file.read_at(&mut [0; 10], behind).unwrap(), 0);
            }
            assert!(fs::read(mounted.at(&path)).unwrap() == contents);
        }
    }

    "A mapped file has the same bytes."
    fn mapped_files_are_the_same() {
        let (path, contents) = (store_path(1, "file"), long());
        for passthrough in [false, true] {
            let view = ModelView::new([(path.clone(), Item::file(&contents))]);
            let options = MountOptions { passthrough, ..Default::default() };
            let mounted = Mounted::with(&view, options);
            assert!(mapped(&File::open(mounted.at(&path)).unwrap()).unwrap() == contents);
        }
    }

    "Programs can be run, and cost no message the second time."
    fn programs_run() {
        let path = store_path(1, "program");
        let echo = fs::read("/bin/echo").unwrap();
        let script = "#!/bin/sh\n$(dirname $0)/echo from a script\n";
        for passthrough in [false, true] {
            let entries = [("echo", Item::program(&echo)), ("script", Item::program(script))];
            let view = ModelView::new([(path.clone(), Item::directory(entries))]);
            view.remote.store(true, Ordering::Relaxed);
            let options = MountOptions { passthrough, ..Default::default() };
            let mounted = Mounted::with(&view, options);
            let run = || {
                let output = Command::new(mounted.at(&path).join("script")).output().unwrap();
                assert_eq!(output.stdout, b"from a script\n");
            };
            run();
            // With passthrough they are opened and closed: the script, by the kernel and by the
            // shell, and the program.
            assert!(mounted.messages(run) <= if passthrough { 6 } else { 0 });
        }
    }

    "Names and symlinks' targets may be any bytes that Linux allows."
    fn any_bytes_are_names() {
        let path = store_path(1, "names");
        let every: Vec<u8> = (1..=255).filter(|byte| *byte != b'/').collect();
        let long = vec![0xff; 255];
        let target = vec![0xfe; 4095];
        let entries = [
            (every.clone(), Item::file("every")),
            (long.clone(), Item::file("long")),
            (b"link".to_vec(), Item::symlink(&target)),
            (b"link2".to_vec(), Item::symlink(&every)),
        ];
        let mounted = Mounted::new(&ModelView::new([(path.clone(), Item::directory(entries))]));
        let at = |name: &[u8]| mounted.at(&path).join(OsStr::from_bytes(name));
        assert_eq!(fs::read(at(&every)).unwrap(), b"every");
        assert_eq!(fs::read(at(&long)).unwrap(), b"long");
        assert_eq!(fs::read_link(at(b"link")).unwrap().as_os_str().as_bytes(), target);
        assert_eq!(fs::read_link(at(b"link2")).unwrap().as_os_str().as_bytes(), every);
    }
}
