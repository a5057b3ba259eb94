//! The top level.

use std::fs;
use std::sync::atomic::Ordering;

use granary_fuse::MountOptions;

use crate::support::calls::list;
use crate::support::{Item, ModelView, Mounted, eventually, store_path};

fn names(mounted: &Mounted) -> Vec<String> {
    let entries = fs::read_dir(mounted.root()).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn three_kinds() -> std::sync::Arc<ModelView> {
    ModelView::new([
        (store_path(1, "directory"), Item::directory([("f", Item::file("in it"))])),
        (store_path(2, "file.patch"), Item::file("a file")),
        (store_path(3, "symlink"), Item::symlink("elsewhere")),
    ])
}

sentences! {
    "Every path of the cache is an entry of the mount's root, under its whole name."
    fn every_path_is_an_entry() {
        let mut expected: Vec<_> =
            (0..1000).map(|n| store_path(n, &format!("path-{n}")).to_string()).collect();
        let paths = (0..1000).map(|n| (store_path(n, &format!("path-{n}")), Item::file(n.to_string())));
        let mounted = Mounted::new(&ModelView::new(paths));
        expected.sort();
        assert_eq!(names(&mounted), expected);
        for n in 0..1000 {
            let at = mounted.at(&store_path(n, &format!("path-{n}")));
            assert_eq!(fs::read_to_string(at).unwrap(), n.to_string());
        }
    }

    "A path may be a directory, a file or a symlink."
    fn paths_have_three_kinds() {
        for remote in [false, true] {
            let view = three_kinds();
            view.remote.store(remote, Ordering::Relaxed);
            let mounted = Mounted::new(&view);
            assert_eq!(names(&mounted).len(), 3);
            let file = mounted.at(&store_path(1, "directory")).join("f");
            assert_eq!(fs::read(file).unwrap(), b"in it");
            assert_eq!(fs::read(mounted.at(&store_path(2, "file.patch"))).unwrap(), b"a file");
            let target = fs::read_link(mounted.at(&store_path(3, "symlink"))).unwrap();
            assert_eq!(target.to_str(), Some("elsewhere"));
        }
    }

    "A name that has a path's hash but not its name is not there."
    fn the_whole_name_counts() {
        let mounted = Mounted::new(&three_kinds());
        for name in ["directory2", "Directory", "direct"] {
            assert!(!mounted.at(&store_path(1, name)).exists());
        }
        assert!(!mounted.root().join(store_path(1, "directory").hash().to_string()).exists());
        assert!(mounted.at(&store_path(1, "directory")).exists());
    }

    "A name that cannot be a store path is not there, and is asked about once."
    fn impossible_names_are_asked_about_once() {
        let mounted = Mounted::new(&three_kinds());
        let probe = || for name in [".git", ".links", "lost+found", "0123-x"] {
            assert!(!mounted.root().join(name).exists());
        };
        let lookups = || mounted.mount.statistics().lookups;
        probe();
        assert_eq!(lookups(), 4);
        assert_eq!(mounted.messages(probe), 0);
        assert_eq!(mounted.view.trees_asked.load(Ordering::Relaxed), 0);
    }

    "A path that is pushed after its name was looked up in vain is there within ten seconds."
    fn a_pushed_path_appears() {
        let mounted = Mounted::new(&three_kinds());
        let late = store_path(9, "late");
        assert!(!mounted.at(&late).exists());
        mounted.view.add(&late, &Item::file("late"));
        eventually("it is there", || mounted.at(&late).exists());
        assert!(mounted.age().as_secs() < 10);
    }

    "A path that is pushed after a listing is listed within ten seconds."
    fn a_pushed_path_is_listed() {
        let mounted = Mounted::new(&three_kinds());
        assert_eq!(names(&mounted).len(), 3);
        mounted.view.add(&store_path(9, "late"), &Item::file("late"));
        eventually("it is listed", || names(&mounted).len() == 4);
        assert!(mounted.age().as_secs() < 10);
    }

    "Listing the top level fetches nothing of the paths."
    fn a_listing_fetches_no_trees() {
        let view = three_kinds();
        view.remote.store(true, Ordering::Relaxed);
        let mounted = Mounted::new(&view);
        assert_eq!(list(mounted.root(), 0).unwrap().len(), 5);
        assert_eq!(view.trees_asked.load(Ordering::Relaxed), 0);
    }

    "A mount that does not list, or of a cache that cannot, has an empty top level, and its paths are there by name."
    fn a_mount_by_name_alone() {
        for (list, unlisted) in [(false, false), (true, true)] {
            let view = three_kinds();
            view.unlisted.store(unlisted, Ordering::Relaxed);
            let mounted = Mounted::with(&view, MountOptions { list, ..Default::default() });
            assert!(names(&mounted).is_empty());
            assert_eq!(fs::read(mounted.at(&store_path(2, "file.patch"))).unwrap(), b"a file");
            assert!(names(&mounted).is_empty());
        }
    }
}
