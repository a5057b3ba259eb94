//! Listings.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use rustix::fs::FileType;

use crate::support::calls::list;
use crate::support::{Item, ModelView, Mounted, eventually, store_path};

/// Directories whose listings take many messages.
fn long() -> Arc<ModelView> {
    let entries = (0..3000).map(|n| {
        let item = match n % 3 {
            0 => Item::file(n.to_string()),
            1 => Item::symlink("to"),
            _ => Item::directory::<&str>([]),
        };
        (format!("{n}"), item)
    });
    let others = (1..300).map(|n| (store_path(n, "other"), Item::file("")));
    ModelView::new([(store_path(0, "long"), Item::directory(entries))].into_iter().chain(others))
}

sentences! {
    "A listing begins with `.` and `..`, and goes on in the order of the names' bytes."
    fn listings_are_in_order() {
        let mounted = Mounted::new(&long());
        let seen = list(&mounted.at(&store_path(0, "long")), 0).unwrap();
        assert_eq!((&seen[0].name[..], &seen[1].name[..]), (&b"."[..], &b".."[..]));
        assert_eq!(seen.len(), 3002);
        assert!(seen[2..].is_sorted_by(|a, b| a.name < b.name));
    }

    "A position in a listing stays valid for as long as the mount."
    fn positions_stay_valid() {
        let mounted = Mounted::alone(&long(), Default::default());
        let top = mounted.root().to_owned();
        for directory in [mounted.at(&store_path(0, "long")), top.clone()] {
            let seen = list(&directory, 0).unwrap();
            for at in [0, 1, 2, 17, 18, 150, seen.len() - 2, seen.len() - 1] {
                assert!(list(&directory, seen[at].next).unwrap() == seen[at + 1..], "at {at}");
            }
        }
        // With nothing cached, and with a path that sorts before all others.
        let before = list(&top, 0).unwrap();
        mounted.view.add(&store_path(1000, "a-new-one"), &Item::file(""));
        eventually("it is listed", || list(&top, 0).unwrap().len() == before.len() + 1);
        mounted.forget_everything();
        for at in [2, 100, 250] {
            let names = |seen: &[_]| -> Vec<Vec<u8>> {
                seen.iter().map(|entry: &crate::support::calls::Seen| entry.name.clone()).collect()
            };
            let behind = names(&list(&top, before[at].next).unwrap());
            assert!(behind.starts_with(&names(&before[at + 1..])));
        }
    }

    "An entry has the inode number that `stat` tells."
    fn entries_have_their_numbers() {
        let mounted = Mounted::new(&long());
        for directory in [mounted.at(&store_path(0, "long")), mounted.root().to_owned()] {
            let seen = list(&directory, 0).unwrap();
            let is_root = directory == mounted.root();
            for entry in seen.iter().filter(|entry| !is_root || entry.name != b"..") {
                let at = directory.join(OsStr::from_bytes(&entry.name));
                assert_eq!(fs::symlink_metadata(at).unwrap().ino(), entry.ino);
            }
        }
    }

    "An entry says what it is, but for the paths at the top level, which do not before they are looked up."
    fn entries_have_their_kinds() {
        let mounted = Mounted::new(&long());
        let directory = mounted.at(&store_path(0, "long"));
        let top = list(mounted.root(), 0).unwrap();
        assert!(top[2..].iter().all(|entry| entry.kind == FileType::Unknown));
        for entry in list(&directory, 0).unwrap() {
            let stat = fs::symlink_metadata(directory.join(OsStr::from_bytes(&entry.name))).unwrap();
            assert_eq!(FileType::from_raw_mode(stat.mode()), entry.kind);
        }
    }
}
