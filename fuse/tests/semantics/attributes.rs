//! Extended attributes.

use castore::Digest;
use castore::tree::Node;
use nix_compat::nixhash::Sha256;
use rustix::io::Errno;

use crate::support::calls::{xattr, xattrs};
use crate::support::{Item, ModelView, Mounted, store_path};

const DIGEST: &str = "user.granary.digest";
const NAR_HASH: &str = "user.granary.nar-hash";
const SOURCE: &str = "user.granary.source";

fn sub() -> Item {
    Item::directory([("file", Item::file("contents")), ("link", Item::symlink("file"))])
}

fn mounted() -> Mounted {
    Mounted::new(&ModelView::new([
        (store_path(1, "directory"), Item::directory([("sub", sub())])),
        (store_path(2, "file"), Item::file("contents")),
        (store_path(3, "link"), Item::symlink("file")),
    ]))
}

sentences! {
    "A file's `user.granary.digest` is the BLAKE3 digest of its contents, in hexadecimal digits."
    fn files_have_digests() {
        let mounted = mounted();
        let expected = Digest::of(b"contents").to_string();
        let below = mounted.at(&store_path(1, "directory")).join("sub/file");
        for file in [below, mounted.at(&store_path(2, "file"))] {
            assert_eq!(xattr(&file, DIGEST).unwrap(), expected.as_bytes());
        }
    }

    "A directory's `user.granary.digest` is its digest in the castore."
    fn directories_have_digests() {
        let mounted = mounted();
        let tree = mounted.view.tree_of(&sub());
        let Node::Directory { digest, .. } = tree.root() else { panic!("no directory") };
        let directory = mounted.at(&store_path(1, "directory")).join("sub");
        assert_eq!(xattr(&directory, DIGEST).unwrap(), digest.to_string().as_bytes());
    }

    "A path's `user.granary.nar-hash` is its NAR hash, as `nix-store --query --hash` prints it, and nothing below it has one."
    fn paths_have_nar_hashes() {
        let mounted = mounted();
        for path in [store_path(1, "directory"), store_path(2, "file")] {
            let hash = Sha256::of(path.to_string().as_bytes()).to_nix32();
            let seen = xattr(&mounted.at(&path), NAR_HASH).unwrap();
            assert_eq!(seen, format!("sha256:{hash}").as_bytes());
        }
        for below in ["sub", "sub/file"] {
            let at = mounted.at(&store_path(1, "directory")).join(below);
            assert_eq!(xattr(&at, NAR_HASH), Err(Errno::NODATA));
        }
    }

    "The mount's root says where its paths come from, in `user.granary.source`."
    fn the_root_has_a_source() {
        let mounted = mounted();
        assert_eq!(xattr(mounted.root(), SOURCE).unwrap(), b"model://cache");
        assert_eq!(xattr(&mounted.at(&store_path(1, "directory")), SOURCE), Err(Errno::NODATA));
    }

    "Symlinks have no attributes, even as paths."
    fn symlinks_have_none() {
        let mounted = mounted();
        let below = mounted.at(&store_path(1, "directory")).join("sub/link");
        for link in [below, mounted.at(&store_path(3, "link"))] {
            assert_eq!(xattr(&link, DIGEST), Err(Errno::NODATA));
            assert_eq!(xattr(&link, NAR_HASH), Err(Errno::NODATA));
            assert!(xattrs(&link).unwrap().is_empty());
        }
    }

    "Listing attributes names those that are there and no others."
    fn attributes_are_listed() {
        let mounted = mounted();
        assert_eq!(xattrs(mounted.root()).unwrap(), [SOURCE]);
        for path in [store_path(1, "directory"), store_path(2, "file")] {
            assert_eq!(xattrs(&mounted.at(&path)).unwrap(), [DIGEST, NAR_HASH]);
        }
        for below in ["sub", "sub/file"] {
            let at = mounted.at(&store_path(1, "directory")).join(below);
            assert_eq!(xattrs(&at).unwrap(), [DIGEST]);
        }
    }

    "Another attribute of users is not there (ENODATA), and other classes of attributes are not supported (EOPNOTSUPP)."
    fn other_attributes_are_not_there() {
        let mounted = mounted();
        for at in [mounted.root().to_owned(), mounted.at(&store_path(2, "file"))] {
            assert_eq!(xattr(&at, "user.granary.other"), Err(Errno::NODATA));
            assert_eq!(xattr(&at, "user.other"), Err(Errno::NODATA));
            for other in ["security.capability", "trusted.overlay.opaque", "system.posix_acl_access"] {
                assert_eq!(xattr(&at, other), Err(Errno::OPNOTSUPP), "{other}");
            }
        }
    }

    "A buffer that is too small for an attribute, or for the list of them, is refused (ERANGE)."
    fn small_buffers_are_refused() {
        let mounted = mounted();
        let file = mounted.at(&store_path(2, "file"));
        let digest = |length| rustix::fs::getxattr(&file, DIGEST, &mut vec![0; length][..]);
        assert_eq!(digest(63), Err(Errno::RANGE));
        assert_eq!(digest(64), Ok(64));
        assert_eq!(rustix::fs::getxattr_query(&file, DIGEST), Ok(64));
        let whole = DIGEST.len() + NAR_HASH.len() + 2;
        let names = |length| rustix::fs::listxattr(&file, &mut vec![0; length][..]);
        assert_eq!(names(whole - 1), Err(Errno::RANGE));
        assert_eq!(names(whole), Ok(whole));
        assert_eq!(rustix::fs::listxattr_query(&file), Ok(whole));
    }
}
