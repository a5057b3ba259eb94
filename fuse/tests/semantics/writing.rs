//! Writing.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::support::{Item, ModelView, Mounted, store_path};

fn mounted() -> Mounted {
    let entries =
        [("file", Item::file("contents")), ("sub", Item::directory([("f", Item::file("f"))]))];
    Mounted::new(&ModelView::new([(store_path(1, "path"), Item::directory(entries))]))
}

/// Whatever would change something, with its name.
fn attempts(directory: &Path) -> Vec<(&'static str, io::Result<()>)> {
    let (file, sub, new) = (directory.join("file"), directory.join("sub"), directory.join("new"));
    let open = |options: &mut fs::OpenOptions| options.open(&file).map(drop);
    let none = XattrFlags::empty();
    vec![
        ("create", File::create_new(&new).map(drop)),
        ("append", open(File::options().append(true))),
        ("truncate", open(File::options().write(true).truncate(true))),
        ("read and write", open(File::options().read(true).write(true))),
        ("remove", fs::remove_file(&file)),
        ("remove a directory", fs::remove_dir(&sub)),
        ("rename", fs::rename(&file, &new)),
        ("rename over", fs::rename(&file, sub.join("f"))),
        ("link", fs::hard_link(&file, &new)),
        ("symlink", symlink("target", &new)),
        ("mkdir", fs::create_dir(&new)),
        (
            "mkfifo",
            rustix::fs::mknodat(rustix::fs::CWD, &new, rustix::fs::FileType::Fifo, 0o600.into(), 0)
                .map_err(io::Error::from),
        ),
        ("chmod", fs::set_permissions(&file, Permissions::from_mode(0o644))),
        ("chmod of a directory", fs::set_permissions(&sub, Permissions::from_mode(0o755))),
        ("chown", chown(&file, Some(1), None)),
        ("touch", {
            let times = fs::FileTimes::new().set_modified(SystemTime::now());
            File::open(&file).and_then(|file| file.set_times(times))
        }),
        ("setxattr", Ok(rustix::fs::setxattr(&file, "user.x", b"x", none)).and_then(|r| Ok(r?))),
        ("removexattr", rustix::fs::removexattr(&file, "user.granary.digest").map_err(Into::into)),
    ]
}

fn all_refused(attempts: Vec<(&str, io::Result<()>)>) {
    for (what, result) in attempts {
        let errno = result.as_ref().err().and_then(Errno::from_io_error);
        assert_eq!(errno, Some(Errno::ROFS), "{what}: {result:?}");
    }
}

sentences! {
    "Whatever would change something is refused (EROFS)."
    fn changes_are_refused() {
        let mounted = mounted();
        let directory = mounted.at(&store_path(1, "path"));
        all_refused(attempts(&directory));
        let at_the_top = [
            ("create", File::create_new(mounted.root().join("new")).map(drop)),
            ("mkdir", fs::create_dir(mounted.root().join(".links"))),
            ("remove", fs::remove_dir(&directory)),
            ("a path", File::create_new(mounted.at(&store_path(2, "new"))).map(drop)),
        ];
        all_refused(at_the_top.into());
        assert_eq!(fs::read(directory.join("file")).unwrap(), b"contents");
    }

    "It is refused even if root has remounted the file system for writing."
    fn changes_are_refused_after_a_remount() {
        let mounted = mounted();
        let directory = mounted.at(&store_path(1, "path"));
        // So that opening needs no asking any more.
        fs::read(directory.join("file")).unwrap();
        let status = Command::new("mount").args(["-i", "-o", "remount,rw"]).arg(mounted.root()).status();
        assert!(status.unwrap().success());
        let opens = ["append", "read and write"];
        let (opened, others): (Vec<_>, _) =
            attempts(&directory).into_iter().partition(|(what, _)| opens.contains(what));
        all_refused(others);
        // Files open without asking; it is the write that is refused.
        assert!(opened.iter().all(|(_, result)| result.is_ok()));
        let mut file = File::options().append(true).open(directory.join("file")).unwrap();
        let written = io::Write::write(&mut file, b"more").and_then(|_| file.sync_all());
        all_refused(vec![("write", written)]);
        drop(file);
        assert_eq!(fs::read(directory.join("file")).unwrap(), b"contents");
    }

    "Set-user-id bits and devices mean nothing."
    fn mounted_without_suid_and_devices() {
        let mounted = mounted();
        let flags = rustix::fs::statvfs(mounted.root()).unwrap().f_flag;
        use rustix::fs::StatVfsMountFlags as Flags;
        assert!(flags.contains(Flags::RDONLY | Flags::NOSUID | Flags::NODEV));
    }
}
