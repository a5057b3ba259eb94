//! How a mount begins and ends, and what is said when it cannot begin.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

mod support;

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use granary_fuse::{Mount, MountError, MountOptions, unmount};
use support::{Item, ModelView, Mounted, eventually, store_path};
use tempfile::TempDir;

/// Set in processes that a test starts from its own program: where to mount.
const CHILD: &str = "GRANARY_TEST_MOUNT_AT";

fn hello() -> Arc<ModelView> {
    ModelView::new([(store_path(1, "hello"), Item::directory([("f", Item::file("hello"))]))])
}

fn mount(view: &Arc<ModelView>, at: &Path, options: MountOptions) -> Result<Mount, MountError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mount = Mount::new(view.clone(), at, options, runtime.handle().clone());
    std::mem::forget(runtime);
    mount
}

fn within_10_s(what: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(10), what).await }).unwrap();
}

/// The line of mountinfo about a directory.
fn mountinfo(at: &Path) -> Option<String> {
    let at = format!(" {} ", at.to_str().unwrap());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().find(|line| line.contains(&at)).map(str::to_owned)
}

#[test]
fn a_mount_says_what_it_is() {
    let mounted = Mounted::new(&hello());
    let line = mountinfo(mounted.root()).unwrap();
    assert!(line.contains(" - fuse.granary model://cache ro,"), "{line}");
    assert!(line.contains("ro,nosuid,nodev"), "{line}");
    assert!(line.contains("default_permissions"), "{line}");
    assert!(!line.contains("allow_other"), "{line}");
    let device = fs::metadata(mounted.root()).unwrap().dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let ahead = fs::read(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb")).unwrap();
    assert_eq!(ahead, b"1024\n");
}

#[test]
fn others_are_let_in_when_they_are_to_be() {
    let view = hello();
    let as_nobody = |root: &Path| {
        let file = root.join(store_path(1, "hello").to_string()).join("f");
        fs::set_permissions(root.parent().unwrap(), fs::metadata("/").unwrap().permissions())
            .unwrap();
        let mut cat = Command::new("setpriv");
        cat.args(["--reuid=65534", "--regid=65534", "--clear-groups", "cat"]).arg(file);
        cat.output().unwrap()
    };
    let directory = TempDir::new().unwrap();
    for (allow_other, seen) in [(false, &b""[..]), (true, b"hello")] {
        let at = directory.path().join("mount");
        fs::create_dir_all(&at).unwrap();
        let mount = mount(&view, &at, MountOptions { allow_other, ..Default::default() }).unwrap();
        let output = as_nobody(&at);
        assert_eq!(output.stdout, seen, "{output:?}");
        mount.unmount().unwrap();
    }
}

#[test]
fn a_bad_mountpoint_is_named() {
    let directory = TempDir::new().unwrap();
    let at = |name: &str| mount(&hello(), &directory.path().join(name), MountOptions::default());
    assert!(matches!(at("missing"), Err(MountError::Missing(_))));
    File::create(directory.path().join("file")).unwrap();
    assert!(matches!(at("file"), Err(MountError::NotADirectory(_))));
    fs::create_dir(directory.path().join("directory")).unwrap();
    let first = at("directory").unwrap();
    symlink("directory", directory.path().join("link")).unwrap();
    for again in ["directory", "link", "directory/"] {
        let refused = at(again).unwrap_err();
        assert!(matches!(refused, MountError::AlreadyMounted(_)), "{refused:?}");
        assert!(refused.to_string().contains("granary umount"), "{refused}");
    }
    first.unmount().unwrap();
    at("directory").unwrap().unmount().unwrap();
}

#[test]
fn a_mount_with_a_blank_in_its_name_ends() {
    let directory = TempDir::new().unwrap();
    let at = directory.path().join("a b\\c");
    fs::create_dir(&at).unwrap();
    let mount = mount(&hello(), &at, MountOptions::default()).unwrap();
    mount.unmount().unwrap();
    assert!(matches!(mount.unmount(), Err(MountError::NotMounted(_))));
}

#[test]
fn a_mount_that_is_used_stays_and_can_be_detached() {
    let directory = TempDir::new().unwrap();
    let old = mount(&hello(), directory.path(), MountOptions::default()).unwrap();
    let file = directory.path().join(store_path(1, "hello").to_string()).join("f");
    let open = File::open(&file).unwrap();
    assert!(matches!(old.unmount(), Err(MountError::Busy(_))));
    assert_eq!(fs::read(&file).unwrap(), b"hello");
    unmount(directory.path(), true).unwrap();
    assert!(!file.exists());
    assert_eq!(std::io::read_to_string(&open).unwrap(), "hello");
    drop(open);
    within_10_s(old.ended());
    // Somebody mounts there again, and the old mount's handle leaves it alone.
    let new = mount(&hello(), directory.path(), MountOptions::default()).unwrap();
    drop(old);
    assert_eq!(fs::read(&file).unwrap(), b"hello");
    new.unmount().unwrap();
}

#[test]
fn a_mount_ends_when_somebody_unmounts_it() {
    let directory = TempDir::new().unwrap();
    let mount = mount(&hello(), directory.path(), MountOptions::default()).unwrap();
    let status = Command::new("umount").arg(directory.path()).status().unwrap();
    assert!(status.success());
    within_10_s(mount.ended());
}

#[test]
fn dropping_a_mount_takes_it_away() {
    let directory = TempDir::new().unwrap();
    let mount = mount(&hello(), directory.path(), MountOptions::default()).unwrap();
    assert!(mountinfo(directory.path()).is_some());
    drop(mount);
    assert!(mountinfo(directory.path()).is_none());
}

#[test]
fn what_a_killed_mount_leaves_behind_is_recognised_and_taken_away() {
    let file = |at: &Path| at.join(store_path(1, "hello").to_string()).join("f");
    if let Some(at) = std::env::var_os(CHILD) {
        let (view, at) = (hello(), Path::new(&at));
        let _mount = mount(&view, at, MountOptions::default()).unwrap();
        fs::metadata(file(at)).unwrap();
        view.delay.store(3_600_000, Relaxed);
        view.remote.store(true, Relaxed);
        println!("ready");
        eventually("somebody reads", || view.waiting.load(Relaxed) == 1);
        println!("read");
        std::thread::sleep(Duration::from_secs(600));
    }
    let directory = TempDir::new().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture"])
        .arg("what_a_killed_mount_leaves_behind_is_recognised_and_taken_away")
        .env(CHILD, directory.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap().ends_with("ready")));
    let mut reader = Command::new("cat").arg(file(directory.path())).spawn().unwrap();
    assert!(said.any(|line| line.unwrap() == "read"));
    child.kill().unwrap();
    child.wait().unwrap();
    // Who waited for it does not wait any more.
    eventually("the reader has an error", || reader.try_wait().unwrap().is_some());
    assert!(!reader.wait().unwrap().success());
    let refused = mount(&hello(), directory.path(), MountOptions::default()).unwrap_err();
    assert!(matches!(refused, MountError::Stale(_)), "{refused:?}");
    assert!(refused.to_string().contains("granary umount"), "{refused}");
    unmount(directory.path(), false).unwrap();
    mount(&hello(), directory.path(), MountOptions::default()).unwrap().unmount().unwrap();
}

/// Runs a test of this program once more, as a user who is not root, with a device that is open to
/// everybody: as it is on most machines, whatever it is here.
fn as_a_user(test: &str, at: &Path, prelude: &str) -> std::process::Output {
    let exe = std::env::current_exe().unwrap();
    let script = format!(
        "set -e; mount --make-rprivate /; d=$(mktemp -d); mount -t tmpfs none $d; \
         mknod $d/fuse c 10 229; chmod 666 $d/fuse; mount --bind $d/fuse /dev/fuse; \
         cp {exe} $d/test; cp $(command -v setpriv) $d; chmod 755 $d $d/test; {prelude}; \
         exec $d/setpriv --reuid=65534 --regid=65534 --clear-groups $d/test --exact {test} --nocapture",
        exe = exe.display()
    );
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &script]).env(CHILD, at).output().unwrap()
}

#[test]
fn a_user_mounts_with_fusermount() {
    if let Some(at) = std::env::var_os(CHILD) {
        let at = Path::new(&at);
        let mount = mount(&hello(), at, MountOptions::default()).unwrap();
        assert!(mountinfo(at).unwrap().contains(" - fuse.granary model://cache ro,"));
        let file = at.join(store_path(1, "hello").to_string()).join("f");
        assert_eq!(fs::read(file).unwrap(), b"hello");
        mount.unmount().unwrap();
        within_10_s(mount.ended());
        let others = MountOptions { allow_other: true, ..Default::default() };
        let refused = self::mount(&hello(), at, others).unwrap_err();
        assert!(matches!(refused, MountError::AllowOtherRefused), "{refused:?}");
        let passthrough = MountOptions { passthrough: true, ..Default::default() };
        let refused = self::mount(&hello(), at, passthrough).unwrap_err();
        assert!(matches!(refused, MountError::PassthroughRefused), "{refused:?}");
        assert!(mountinfo(at).is_none());
        println!("all of it was tried");
        return;
    }
    let directory = TempDir::new().unwrap();
    let owner = Some(65534);
    std::os::unix::fs::chown(directory.path(), owner, owner).unwrap();
    let output = as_a_user("a_user_mounts_with_fusermount", directory.path(), "true");
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("all of it was tried"), "{said}{errors}");
}

#[test]
fn what_is_missing_to_mount_is_said() {
    if let Some(at) = std::env::var_os(CHILD) {
        let refused = mount(&hello(), Path::new(&at), MountOptions::default()).unwrap_err();
        println!("refused: {refused:?}");
        return;
    }
    let directory = TempDir::new().unwrap();
    let owner = Some(65534);
    std::os::unix::fs::chown(directory.path(), owner, owner).unwrap();
    for (prelude, expected) in [
        (
            "umount /dev/fuse; mknod $d/null c 10 250; chmod 666 $d/null; mount --bind $d/null /dev/fuse",
            "NoDevice",
        ),
        ("chmod 600 $d/fuse", "DeviceRefused"),
        ("mount -t tmpfs none /usr/sbin; mount -t tmpfs none /usr/bin", "NoFusermount"),
    ] {
        let output = as_a_user("what_is_missing_to_mount_is_said", directory.path(), prelude);
        let said = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(&format!("refused: {expected}")), "{said}{errors}");
    }
}

#[test]
fn an_overlay_on_top_can_be_written() {
    let options = MountOptions { allow_other: true, ..Default::default() };
    for passthrough in [false, true] {
        let options = MountOptions { passthrough, ..options.clone() };
        let large = vec![7; 100_000];
        let view = hello();
        view.add(&store_path(2, "large"), &Item::file(&large));
        let mounted = Mounted::with(&view, options);
        let over = TempDir::new().unwrap();
        for name in ["upper", "work", "merged"] {
            fs::create_dir(over.path().join(name)).unwrap();
        }
        let at = |name: &str| over.path().join(name).to_str().unwrap().to_owned();
        let directories = format!(
            "lowerdir={},upperdir={},workdir={}",
            mounted.root().to_str().unwrap(),
            at("upper"),
            at("work")
        );
        let mut overlay = Command::new("mount");
        overlay.args(["-t", "overlay", "overlay", "-o", &directories, &at("merged")]);
        assert!(overlay.status().unwrap().success());
        let (merged, old, new) =
            (over.path().join("merged"), store_path(1, "hello"), store_path(3, "new"));
        let names = || fs::read_dir(&merged).unwrap().count();
        assert_eq!(names(), 2);
        assert!(fs::read(merged.join(store_path(2, "large").to_string())).unwrap() == large);
        fs::write(merged.join(new.to_string()), "new").unwrap();
        let file = merged.join(old.to_string()).join("f");
        fs::write(&file, "changed").unwrap();
        assert_eq!(names(), 3);
        assert_eq!(fs::read(&file).unwrap(), b"changed");
        fs::remove_dir_all(merged.join(old.to_string())).unwrap();
        assert_eq!(names(), 2);
        assert_eq!(fs::read(mounted.at(&old).join("f")).unwrap(), b"hello");
        assert!(Command::new("umount").arg(&merged).status().unwrap().success());
    }
}
