//! The end of a mount.

use std::fs::File;
use std::io::Read;

use granary_fuse::MountError;

use crate::support::{Item, ModelView, Mounted, store_path};

fn mounted() -> Mounted {
    Mounted::new(&ModelView::new([(store_path(1, "file"), Item::file("contents"))]))
}

sentences! {
    "A mount that is in use is not unmounted (EBUSY)."
    fn a_used_mount_stays() {
        let mounted = mounted();
        let file = File::open(mounted.at(&store_path(1, "file"))).unwrap();
        assert!(matches!(mounted.mount.unmount(), Err(MountError::Busy(_))));
        assert_eq!(std::io::read_to_string(&file).unwrap(), "contents");
    }

    "A mount that is detached serves what is open until it is closed."
    fn a_detached_mount_serves_on() {
        let mounted = mounted();
        let path = mounted.at(&store_path(1, "file"));
        let mut file = File::open(&path).unwrap();
        mounted.detach();
        assert!(!path.exists());
        let mut contents = String::new();
        file.read_to_string(&mut contents).unwrap();
        assert_eq!(contents, "contents");
        drop(file);
        mounted.block_on(mounted.mount.ended());
    }
}
