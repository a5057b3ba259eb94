//! The mount beside a model of it: random trees, random operations, the same answers.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

mod support;

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use castore::Digest;
use granary_fuse::MountOptions;
use nix_compat::nixhash::Sha256;
use nix_compat::store_path::StorePath;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use rustix::fs::FileType;
use rustix::io::Errno;
use support::calls::{Seen, list, mapped, xattr, xattrs};
use support::{Item, ModelView, Mounted, store_path};

#[derive(Clone, Debug)]
enum Op {
    Stat,
    List { seek: usize },
    Read { offset: u64, length: usize },
    ReadAll,
    Map,
    Link,
    Attribute(&'static str),
    Attributes,
    Missing(Vec<u8>),
    Write(Attempt),
}

#[derive(Clone, Copy, Debug)]
enum Attempt {
    Create,
    Open,
    Remove,
    Rename,
    MakeDirectory,
    Mode,
    Attribute,
}

const ATTRIBUTES: [&str; 5] = [
    "user.granary.digest",
    "user.granary.nar-hash",
    "user.granary.source",
    "user.other",
    "security.capability",
];

/// Names that sort and compare in ways that matter; some are no UTF-8.
fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        "[a-c]{1,2}".prop_map(String::into_bytes),
        "[ -.0-~é]{1,8}".prop_map(String::into_bytes),
        vec(prop_oneof![1u8..=46, 48u8..=255], 1..6),
        Just(vec![b'n'; 255]),
    ]
    .prop_filter("a name", |name| name.len() <= 255 && name != b"." && name != b"..")
}

/// Few different contents, so that files are equal; lengths around pages and what is small.
fn contents() -> impl Strategy<Value = Vec<u8>> {
    let length = prop_oneof![
        Just(0usize),
        Just(1),
        2..200usize,
        Just(4095),
        Just(4096),
        Just(4097),
        Just(65_536),
        Just(65_537),
        Just(300_000)
    ];
    (length, 0..3u8).prop_map(|(length, seed)| {
        (0..length).map(|at| (at / 100) as u8 ^ (at % 251) as u8 ^ seed).collect()
    })
}

fn item() -> impl Strategy<Value = Item> {
    let leaf = prop_oneof![
        4 => (contents(), any::<bool>())
            .prop_map(|(contents, executable)| Item::File { contents, executable }),
        1 => vec(1u8..=255, 1..80).prop_map(Item::Symlink),
    ];
    leaf.prop_recursive(4, 40, 8, |below| btree_map(name(), below, 0..8).prop_map(Item::Directory))
}

fn op() -> impl Strategy<Value = Op> {
    let offset = prop_oneof![0..10u64, 4000..5000u64, 60_000..70_000u64, 299_000..301_000u64];
    prop_oneof![
        3 => Just(Op::Stat),
        3 => (0..10usize).prop_map(|seek| Op::List { seek }),
        4 => (offset, 0..200_000usize).prop_map(|(offset, length)| Op::Read { offset, length }),
        2 => Just(Op::ReadAll),
        2 => Just(Op::Map),
        1 => Just(Op::Link),
        2 => prop::sample::select(&ATTRIBUTES[..]).prop_map(Op::Attribute),
        1 => Just(Op::Attributes),
        1 => name().prop_map(Op::Missing),
        2 => prop_oneof![
            Just(Attempt::Create), Just(Attempt::Open), Just(Attempt::Remove),
            Just(Attempt::Rename), Just(Attempt::MakeDirectory), Just(Attempt::Mode),
            Just(Attempt::Attribute),
        ].prop_map(Op::Write),
    ]
}

/// A place in the model. The root has no item.
#[derive(Clone, Copy)]
struct Place<'a> {
    item: Option<&'a Item>,
    path: Option<&'a StorePath>,
}

/// Every place by its path below the mount.
fn places(paths: &[(StorePath, Item)]) -> BTreeMap<PathBuf, Place<'_>> {
    fn walk<'a>(at: PathBuf, item: &'a Item, places: &mut BTreeMap<PathBuf, Place<'a>>) {
        if let Item::Directory(entries) = item {
            for (name, item) in entries {
                walk(at.join(OsStr::from_bytes(name)), item, places);
            }
        }
        places.entry(at).or_insert(Place { item: Some(item), path: None });
    }
    let mut places = BTreeMap::from([(PathBuf::new(), Place { item: None, path: None })]);
    for (path, item) in paths {
        let at = PathBuf::from(path.to_string());
        places.insert(at.clone(), Place { item: Some(item), path: Some(path) });
        walk(at, item, &mut places);
    }
    places
}

impl Place<'_> {
    fn kind(&self) -> FileType {
        match self.item {
            None | Some(Item::Directory(_)) => FileType::Directory,
            Some(Item::File { .. }) => FileType::RegularFile,
            Some(Item::Symlink(_)) => FileType::Symlink,
        }
    }

    /// Mode, links, size, blocks.
    fn stat(&self) -> (u32, u64, u64, u64) {
        match self.item {
            None => (0o40555, 1, 4096, 8),
            Some(Item::Directory(entries)) => {
                let is_directory = |item: &&Item| matches!(item, Item::Directory(_));
                (0o40555, 2 + entries.values().filter(is_directory).count() as u64, 4096, 8)
            }
            Some(Item::File { contents, executable }) => {
                let mode = if *executable { 0o100555 } else { 0o100444 };
                (mode, 1, contents.len() as u64, contents.len().div_ceil(4096) as u64 * 8)
            }
            Some(Item::Symlink(target)) => (0o120777, 1, target.len() as u64, 0),
        }
    }

    fn attribute(&self, name: &str, view: &ModelView) -> Result<Vec<u8>, Errno> {
        if !name.starts_with("user.") {
            return Err(Errno::OPNOTSUPP);
        }
        let text = match (name, self.item) {
            (_, Some(Item::Symlink(_))) => None,
            ("user.granary.source", None) => Some("model://cache".to_owned()),
            ("user.granary.nar-hash", _) => self.path.map(|path| {
                format!("sha256:{}", Sha256::of(path.to_string().as_bytes()).to_nix32())
            }),
            ("user.granary.digest", Some(item)) => Some(digest(item, view).to_string()),
            _ => None,
        };
        text.map(String::into_bytes).ok_or(Errno::NODATA)
    }
}

fn digest(item: &Item, view: &ModelView) -> Digest {
    match item {
        Item::File { contents, .. } => Digest::of(contents),
        // The castore's own digest of a path that is just this directory.
        directory => match view.tree_of(directory).root() {
            castore::tree::Node::Directory { digest, .. } => *digest,
            other => panic!("{other:?} is no directory"),
        },
    }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap()
}

fn attempt(attempt: Attempt, at: &std::path::Path) -> io::Result<()> {
    match attempt {
        Attempt::Create => File::create_new(at.join("new")).map(drop),
        Attempt::Open => File::options().append(true).open(at).map(drop),
        Attempt::Remove => fs::remove_file(at).or_else(|error| match errno(&error) {
            Errno::ISDIR => fs::remove_dir(at),
            _ => Err(error),
        }),
        Attempt::Rename => fs::rename(at, at.with_file_name("renamed")),
        Attempt::MakeDirectory => fs::create_dir(at.join("new")),
        Attempt::Mode => fs::set_permissions(at, fs::symlink_metadata(at)?.permissions()),
        Attempt::Attribute => {
            let flags = rustix::fs::XattrFlags::empty();
            Ok(rustix::fs::setxattr(at, "user.new", b"value", flags)?)
        }
    }
}

/// What both sides are told to do, and what they are held to.
fn drive(
    paths: &[(StorePath, Item)],
    ops: &[(prop::sample::Index, Op)],
    options: MountOptions,
    remote: bool,
) {
    let view = ModelView::new(paths.iter().cloned());
    view.remote.store(remote, Ordering::Relaxed);
    let mounted = Mounted::with(&view, options);
    let places = places(paths);
    let mut numbers: HashMap<u64, Option<(Digest, bool)>> = HashMap::new();
    for (which, op) in ops {
        let (below, place) = places.iter().nth(which.index(places.len())).unwrap();
        let at = mounted.root().join(below);
        match op {
            Op::Stat => {
                let stat = fs::symlink_metadata(&at).unwrap();
                let seen = (stat.mode(), stat.nlink(), stat.size(), stat.blocks());
                assert_eq!(seen, place.stat(), "{at:?}");
                assert_eq!((stat.uid(), stat.gid(), stat.blksize()), (0, 0, 4096));
                assert_eq!((stat.mtime(), stat.ctime(), stat.atime()), (1, 1, 1));
                // A number stands for one thing.
                let identity = match place.item {
                    Some(Item::File { contents, executable }) => {
                        Some((Digest::of(contents), *executable))
                    }
                    _ => None,
                };
                let before = numbers.entry(stat.ino()).or_insert(identity);
                assert_eq!(*before, identity, "{at:?}");
            }
            Op::List { seek } => match (place.kind(), list(&at, 0)) {
                (FileType::Directory, Ok(seen)) => {
                    check_listing(&seen, *place, paths, &at);
                    if let Some(entry) = seen.get(*seek) {
                        assert_eq!(list(&at, entry.next).unwrap(), seen[seek + 1..]);
                    }
                }
                // A symlink leads anywhere, and nowhere.
                (FileType::Symlink, Err(_)) => {}
                (FileType::RegularFile, Err(errno)) => assert_eq!(errno, Errno::NOTDIR),
                (kind, seen) => panic!("{at:?} is {kind:?}, listed as {seen:?}"),
            },
            Op::Read { offset, length } => {
                let mut buffer = vec![0; *length];
                match place.item {
                    Some(Item::File { contents, .. }) => {
                        let file = File::open(&at).unwrap();
                        let mut done = 0;
                        while done < buffer.len() {
                            match file.read_at(&mut buffer[done..], offset + done as u64).unwrap() {
                                0 => break,
                                read => done += read,
                            }
                        }
                        let from = contents.len().min(*offset as usize);
                        let to = contents.len().min(from + length);
                        assert!(buffer[..done] == contents[from..to], "{at:?} at {offset}");
                    }
                    Some(Item::Symlink(_)) => {}
                    _ => {
                        let read = File::open(&at).unwrap().read_at(&mut [0], *offset);
                        assert_eq!(errno(&read.unwrap_err()), Errno::ISDIR);
                    }
                }
            }
            Op::ReadAll => {
                if let Some(Item::File { contents, .. }) = place.item {
                    assert!(fs::read(&at).unwrap() == *contents, "{at:?}");
                }
            }
            Op::Map => {
                if let Some(Item::File { contents, .. }) = place.item {
                    assert!(mapped(&File::open(&at).unwrap()).unwrap() == *contents, "{at:?}");
                }
            }
            Op::Link => match (place.item, fs::read_link(&at)) {
                (Some(Item::Symlink(target)), Ok(seen)) => {
                    assert_eq!(seen.as_os_str().as_bytes(), target);
                }
                (_, seen) => assert_eq!(errno(&seen.unwrap_err()), Errno::INVAL),
            },
            Op::Attribute(name) => {
                assert_eq!(xattr(&at, name), place.attribute(name, &view), "{name} of {at:?}");
            }
            Op::Attributes => {
                let has = |name: &&str| place.attribute(name, &view).is_ok();
                let expected: Vec<_> = ATTRIBUTES.into_iter().filter(has).collect();
                assert_eq!(xattrs(&at).unwrap(), expected);
            }
            Op::Missing(name) => {
                let missing = at.join(OsStr::from_bytes(name));
                let exists = places.contains_key(&below.join(OsStr::from_bytes(name)));
                match (place.kind(), fs::symlink_metadata(&missing)) {
                    (FileType::Symlink, _) => {}
                    (FileType::Directory, Ok(_)) => assert!(exists, "{missing:?}"),
                    (FileType::Directory, Err(error)) => {
                        assert_eq!(errno(&error), Errno::NOENT);
                        assert!(!exists, "{missing:?}");
                    }
                    (_, seen) => assert_eq!(errno(&seen.unwrap_err()), Errno::NOTDIR),
                }
            }
            Op::Write(what) => {
                let is_symlink = place.kind() == FileType::Symlink;
                let refused = errno(&attempt(*what, &at).unwrap_err());
                let expected = match (what, place.kind()) {
                    (Attempt::Create | Attempt::MakeDirectory, FileType::RegularFile) => {
                        Errno::NOTDIR
                    }
                    (Attempt::Open, FileType::Directory) => Errno::ISDIR,
                    // The mount's root is not in the mount.
                    (Attempt::Remove | Attempt::Rename, _) if place.item.is_none() => refused,
                    _ => Errno::ROFS,
                };
                let follows = !matches!(what, Attempt::Remove | Attempt::Rename);
                assert!(
                    refused == expected || (is_symlink && follows),
                    "{what:?} {at:?}: {refused}"
                );
            }
        }
    }
}

fn check_listing(
    seen: &[Seen],
    place: Place<'_>,
    paths: &[(StorePath, Item)],
    at: &std::path::Path,
) {
    let names: Vec<_> = seen.iter().map(|entry| entry.name.clone()).collect();
    let mut expected = vec![b".".to_vec(), b"..".to_vec()];
    match place.item {
        Some(Item::Directory(entries)) => {
            expected.extend(entries.keys().cloned());
            assert_eq!(names, expected, "{at:?}");
        }
        _ => {
            let mut listed = names[2..].to_vec();
            listed.sort();
            let paths: Vec<Vec<u8>> =
                paths.iter().map(|(path, _)| path.to_string().into()).collect();
            assert_eq!(listed, paths);
        }
    }
    for entry in &seen[2..] {
        let stat = fs::symlink_metadata(at.join(OsStr::from_bytes(&entry.name))).unwrap();
        assert_eq!(stat.ino(), entry.ino, "{at:?}");
        let kind = FileType::from_raw_mode(stat.mode());
        assert!(entry.kind == kind || entry.kind == FileType::Unknown, "{entry:?} is {kind:?}");
    }
    let parent = fs::metadata(at.join("..")).unwrap().ino();
    assert_eq!(seen[0].ino, fs::metadata(at).unwrap().ino());
    assert!(seen[1].ino == parent || place.item.is_none(), "{at:?}");
}

fn paths() -> impl Strategy<Value = Vec<(StorePath, Item)>> {
    vec(item(), 1..4).prop_map(|items| {
        let numbered = items.into_iter().enumerate();
        let mut paths: Vec<_> =
            numbered.map(|(n, item)| (store_path(n as u64, &format!("path-{n}")), item)).collect();
        paths.sort_by(|(a, _), (b, _)| a.cmp(b));
        paths
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 400, ..Default::default() })]

    #[test]
    fn a_mount_does_what_its_model_does(
        paths in paths(),
        ops in vec((any::<prop::sample::Index>(), op()), 1..80),
        passthrough: bool,
        remote: bool,
    ) {
        let options = MountOptions { passthrough, ..MountOptions::default() };
        drive(&paths, &ops, options, remote);
    }
}
