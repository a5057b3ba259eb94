//! What `stat` tells.

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;

use crate::support::{Item, ModelView, Mounted, store_path};

/// A path with one of everything, and the same file elsewhere.
fn mounted() -> Mounted {
    let sub =
        Item::directory([("equal", Item::file("equal")), ("deeper", Item::directory::<&str>([]))]);
    let one = Item::directory([
        ("equal", Item::file("equal")),
        ("program", Item::program("equal")),
        ("empty", Item::file("")),
        ("page", Item::file([7; 4096])),
        ("more", Item::file([7; 4097])),
        ("link", Item::symlink("a target")),
        ("same-link", Item::symlink("a target")),
        ("sub", sub.clone()),
        ("same-sub", sub),
    ]);
    let other =
        Item::directory([("twin", Item::file("equal")), ("program", Item::program("equal"))]);
    Mounted::new(&ModelView::new([
        (store_path(1, "one"), one),
        (store_path(2, "other"), other),
        (store_path(3, "file"), Item::file("equal")),
        (store_path(4, "file"), Item::file("equal")),
        (store_path(5, "link"), Item::symlink("a target")),
    ]))
}

impl Mounted {
    fn stat(&self, below: &str) -> Metadata {
        fs::symlink_metadata(self.at(&store_path(1, "one")).join(below)).unwrap()
    }

    fn everything(&self) -> Vec<Metadata> {
        let below = ["", "equal", "program", "empty", "page", "more", "link", "sub", "sub/deeper"];
        let mut all: Vec<_> = below.into_iter().map(|below| self.stat(below)).collect();
        all.push(fs::metadata(self.root()).unwrap());
        all
    }
}

sentences! {
    "All times are one second after the epoch."
    fn times_are_one() {
        for stat in mounted().everything() {
            let times = [stat.mtime(), stat.ctime(), stat.atime()];
            let nanoseconds = [stat.mtime_nsec(), stat.ctime_nsec(), stat.atime_nsec()];
            assert_eq!((times, nanoseconds), ([1; 3], [0; 3]));
        }
        // Reading is no reason to tell another time.
        let mounted = mounted();
        fs::read(mounted.at(&store_path(1, "one")).join("equal")).unwrap();
        assert_eq!(mounted.stat("equal").atime(), 1);
    }

    "Everything belongs to root."
    fn root_owns_everything() {
        for stat in mounted().everything() {
            assert_eq!((stat.uid(), stat.gid()), (0, 0));
        }
    }

    "Files have mode 0444, and 0555 if they are executable."
    fn files_have_two_modes() {
        let mounted = mounted();
        assert_eq!(mounted.stat("equal").mode(), 0o100444);
        assert_eq!(mounted.stat("program").mode(), 0o100555);
        let file = fs::metadata(mounted.at(&store_path(3, "file"))).unwrap();
        assert_eq!(file.mode(), 0o100444);
    }

    "Directories have mode 0555, the mount's root among them."
    fn directories_have_one_mode() {
        let mounted = mounted();
        assert_eq!(fs::metadata(mounted.root()).unwrap().mode(), 0o40555);
        assert_eq!(mounted.stat("").mode(), 0o40555);
        assert_eq!(mounted.stat("sub/deeper").mode(), 0o40555);
    }

    "Symlinks have mode 0777."
    fn symlinks_have_one_mode() {
        let mounted = mounted();
        assert_eq!(mounted.stat("link").mode(), 0o120777);
        let path = fs::symlink_metadata(mounted.at(&store_path(5, "link"))).unwrap();
        assert_eq!(path.mode(), 0o120777);
    }

    "Files and symlinks have one link, directories two and one for each directory in them, and the mount's root one."
    fn links_are_counted() {
        let mounted = mounted();
        assert_eq!(fs::metadata(mounted.root()).unwrap().nlink(), 1);
        let of = |below: &str| mounted.stat(below).nlink();
        assert_eq!([of(""), of("sub"), of("sub/deeper")], [4, 3, 2]);
        assert_eq!([of("equal"), of("link")], [1, 1]);
    }

    "A file is as long as its contents, a symlink as its target, and a directory 4096 bytes."
    fn sizes_are_told() {
        let mounted = mounted();
        let of = |below: &str| mounted.stat(below).size();
        assert_eq!([of("empty"), of("equal"), of("more")], [0, 5, 4097]);
        assert_eq!([of("link"), of(""), of("sub")], [8, 4096, 4096]);
    }

    "Files take whole blocks of 4096 bytes, counted in units of 512, and symlinks take none."
    fn blocks_are_counted() {
        let mounted = mounted();
        let of = |below: &str| mounted.stat(below).blocks();
        assert_eq!([of("empty"), of("equal"), of("page"), of("more")], [0, 8, 8, 16]);
        assert_eq!(of("link"), 0);
        assert!(mounted.everything().iter().all(|stat| stat.blksize() == 4096));
    }

    "Equal files below the paths have one inode number if both or neither are executable, whichever paths they lie in."
    fn equal_files_are_one_inode() {
        let mounted = mounted();
        let of = |below: &str| mounted.stat(below).ino();
        let other = |name: &str| {
            fs::metadata(mounted.at(&store_path(2, "other")).join(name)).unwrap().ino()
        };
        assert_eq!([of("equal"), of("sub/equal"), other("twin")], [of("equal"); 3]);
        assert_eq!(of("program"), other("program"));
        assert_ne!(of("program"), of("equal"));
    }

    "Directories, symlinks, and whatever lies at the top level have inode numbers of their own."
    fn places_have_their_own_numbers() {
        let mounted = mounted();
        let paths = [(1, "one"), (2, "other"), (3, "file"), (4, "file"), (5, "link")];
        let tops = paths.map(|(n, name)| {
            fs::symlink_metadata(mounted.at(&store_path(n, name))).unwrap().ino()
        });
        let below = ["link", "same-link", "sub", "same-sub", "sub/deeper", "same-sub/deeper"];
        let below = below.map(|below| mounted.stat(below).ino());
        let files = [mounted.stat("equal").ino(), mounted.stat("program").ino()];
        let all: HashSet<_> = tops.into_iter().chain(below).chain(files).collect();
        assert_eq!(all.len(), tops.len() + below.len() + files.len());
    }

    "Inode numbers fit 32 bits until four billion have been given out."
    fn numbers_are_short() {
        let mounted = mounted();
        assert!(mounted.everything().iter().all(|stat| stat.ino() < 1000));
    }

    "An inode number is not given out twice."
    fn numbers_are_not_reused() {
        let path = store_path(1, "one");
        let files = (0..100).map(|n| (format!("{n}"), Item::file(format!("{n}"))));
        let mounted = Mounted::alone(
            &ModelView::new([(path.clone(), Item::directory(files))]),
            Default::default(),
        );
        let numbers = || -> HashSet<u64> {
            let entries = fs::read_dir(mounted.at(&path)).unwrap();
            entries.map(|entry| entry.unwrap().metadata().unwrap().ino()).collect()
        };
        let before = numbers();
        assert_eq!(numbers(), before);
        mounted.forget_everything();
        assert!(numbers().is_disjoint(&before));
    }

    "Nothing is free in the file system, and names may have 255 bytes."
    fn nothing_is_free() {
        let mounted = mounted();
        let stat = rustix::fs::statvfs(mounted.root()).unwrap();
        assert_eq!((stat.f_bfree, stat.f_bavail, stat.f_ffree), (0, 0, 0));
        assert_eq!((stat.f_namemax, stat.f_bsize), (255, 4096));
    }
}
