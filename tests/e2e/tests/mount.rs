//! Mounts of caches: the real program, the real kernel, real closures.

#![allow(clippy::expect_used, reason = "a helper that fails should fail its test")]

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use granary_e2e::background::eventually;
use granary_e2e::lazy::{assert_same_closure, files, is_mounted, run_in};
use granary_e2e::random::Random;
use granary_e2e::{
    Closure, FileServer, Flipper, Home, Mount, Mounter, Nix, Server, Tmpfs, Version, Wire, places,
    tokens,
};
use tempfile::TempDir;

const EIO: Option<i32> = Some(5);
const ENOTCONN: Option<i32> = Some(107);

/// A server with something in it.
struct Cache {
    server: Server,
    closure: Closure,
    _data: TempDir,
}

impl Cache {
    fn of(closure: Closure) -> Self {
        let data = places::scratch();
        let server = Server::start(data.path());
        let home = Home::with_token(Version::V2_26, &server.origin(), server.token());
        home.push("default", &closure);
        Self { server, closure, _data: data }
    }

    fn tiny() -> Self {
        Self::of(Closure::tiny())
    }

    /// Five paths, some 20 MB.
    fn shell() -> Self {
        Self::of(Closure::tiny().of_package("bash"))
    }

    fn url(&self) -> String {
        self.server.url()
    }

    fn nar_bytes(&self) -> u64 {
        self.closure.paths.iter().map(|path| path.nar_size).sum()
    }

    fn bash(&self) -> String {
        let named = |path: &&str| path[44..].starts_with("bash-");
        let mut paths = self.closure.paths.iter().map(|path| path.path.as_str());
        format!("{}/bin/bash", paths.find(named).expect("a bash"))
    }

    /// Where the closure's own store has a file.
    fn original(&self, path: &str) -> PathBuf {
        self.closure.root.join(path.strip_prefix('/').expect("absolute"))
    }
}

fn assert_reads(cache: &Cache, mount: &Mount) {
    for (theirs, ours) in files(&cache.closure, mount) {
        let (wanted, found) = (fs::read(&theirs).expect("a file"), fs::read(&ours));
        let found = found.unwrap_or_else(|error| panic!("{}: {error}", ours.display()));
        assert!(wanted == found, "{} has other contents", ours.display());
    }
}

fn assert_reads_one(cache: &Cache, ours: &Path) {
    let theirs = cache.original(&cache.bash());
    assert!(fs::read(ours).expect("it is here") == fs::read(theirs).expect("a file"));
}

/// What a read fails with, which it has to.
fn errno(path: &Path) -> Option<i32> {
    fs::read(path).map(drop).expect_err("nothing can be read").raw_os_error()
}

#[test]
fn a_mount_is_the_store_byte_for_byte_and_programs_run_from_it() {
    let cache = Cache::tiny();
    let machine = Mounter::new();
    let mount = machine.mount(&cache.url(), &[]);
    let bash = cache.bash();
    let said = run_in(mount.place(), &[&bash, "-c", "echo $((6 * 7)) $BASH"]);
    assert_eq!(said.trim(), format!("42 {bash}"));
    let names = fs::read_dir(mount.place()).expect("a folder");
    let mut names: Vec<_> = names.map(|entry| entry.expect("an entry").file_name()).collect();
    names.sort_unstable();
    let mut wanted: Vec<_> = cache.closure.paths.iter().map(|path| &path.path[11..]).collect();
    wanted.sort_unstable();
    assert_eq!(names, wanted);
    assert!(assert_same_closure(&cache.closure, &mount) > 100);
    let meta = mount.place().metadata().expect("its metadata");
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.mtime()), (0o555, 0, 1));
    let refused = fs::write(mount.place().join("new"), "").expect_err("it is read-only");
    assert_eq!(refused.raw_os_error(), Some(30), "EROFS");
    let statistics = mount.stop();
    assert!(statistics.bytes < cache.nar_bytes(), "{statistics:?}");
}

#[test]
fn only_what_is_touched_travels() {
    let cache = Cache::tiny();
    let machine = Mounter::new();
    let wire = Wire::to(&cache.server.origin());
    let mount = machine.mount(&format!("{}/default", wire.origin()), &[]);
    let before = wire.down();
    let said = run_in(mount.place(), &[&cache.bash(), "-c", "echo hello"]);
    assert_eq!(said, "hello\n");
    let (down, all) = (wire.down() - before, cache.nar_bytes());
    let statistics = mount.stop();
    assert!(down * 10 < all, "{down} of {all} bytes travelled for a shell");
    assert!(statistics.bytes < down && statistics.chunks > 0, "{statistics:?} of {down}");
}

#[test]
fn readers_wait_for_a_server_that_is_killed_and_comes_back() {
    let cache = Cache::shell();
    let machine = Mounter::new();
    let mount = machine.mount(&cache.url(), &["--timeout", "30"]);
    let all = files(&cache.closure, &mount);
    let read_some = |seed: u64| {
        let mut random = Random::new(seed);
        for _ in 0..8 {
            let (theirs, ours) = &all[random.below(all.len() as u64) as usize];
            let found = fs::read(ours);
            let found = found.unwrap_or_else(|error| panic!("{}: {error}", ours.display()));
            assert!(found == fs::read(theirs).expect("a file"), "{}", ours.display());
        }
    };
    let server = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..200).map(|seed| scope.spawn(move || read_some(seed))).collect();
        std::thread::sleep(Duration::from_millis(20));
        let server = cache.server.restart_after_kill_nine();
        for reader in readers {
            reader.join().expect("every reader gets what it asked for");
        }
        server
    });
    mount.stop();
    server.stop();
}

#[test]
fn reads_fail_in_time_while_the_server_is_away_and_work_when_it_is_back() {
    let cache = Cache::shell();
    let machine = Mounter::new();
    let mount = machine.mount(&cache.url(), &["--timeout", "3"]);
    let all = files(&cache.closure, &mount);
    let size = |path: &Path| path.metadata().expect("a file").len();
    let (theirs, ours) = all.iter().max_by_key(|(theirs, _)| size(theirs)).expect("files");
    let length = size(ours);
    // Of another path, which nobody has looked at.
    let depth = mount.place().components().count();
    let path_of = |file: &Path| file.iter().nth(depth).map(ToOwned::to_owned);
    let mut others = all.iter().map(|(_, other)| other);
    let unknown = others.find(|other| path_of(other) != path_of(ours)).expect("another path");
    let in_time = |begun: Instant| {
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(8), "it took {took:?}");
    };
    let server = cache.server.restart_after(|_| {
        let begun = Instant::now();
        assert_eq!(errno(ours), EIO);
        in_time(begun);
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for number in 0..100 {
                let offset = length / 50 * (number % 50);
                scope.spawn(move || {
                    let file = File::open(if number % 2 == 0 { ours } else { unknown })?;
                    let read = file.read_exact_at(&mut [0], offset).map_err(|e| e.raw_os_error());
                    assert_eq!(read, Err(EIO), "nobody is there");
                    std::io::Result::Ok(())
                });
            }
        });
        in_time(begun);
        let log = mount.lines().join("\n");
        assert!(log.contains("ERROR") && log.contains("could not be read"), "{log}");
    });
    eventually("it is read again", || fs::read(ours).is_ok());
    assert!(fs::read(ours).expect("it is back") == fs::read(theirs).expect("a file"));
    mount.stop();
    server.stop();
}

#[test]
fn what_is_damaged_on_its_way_is_asked_for_again_and_never_served() {
    let cache = Cache::shell();
    let machine = Mounter::new();
    let proxy = Flipper::start(&cache.server.origin());
    let mount = machine.mount(&format!("{}/default", proxy.origin()), &[]);
    proxy.damage(2);
    assert_reads(&cache, &mount);
    assert_eq!(proxy.left(), 0, "damage was done");
    assert!(mount.count("damaged") > 0, "{:#?}", mount.lines());
    mount.stop();

    // Somebody who always lies is not believed in the end.
    let machine = Mounter::new();
    let mount = machine.mount(&format!("{}/default", proxy.origin()), &[]);
    let all = files(&cache.closure, &mount);
    proxy.damage(u32::MAX);
    assert_eq!(errno(&all[0].1), EIO);
    proxy.damage(0);
    // A failure is remembered for a moment.
    std::thread::sleep(Duration::from_millis(1100));
    assert_reads(&cache, &mount);
    mount.stop();
}

#[test]
fn what_is_damaged_in_the_cache_folder_is_fetched_again_and_never_served() {
    let cache = Cache::shell();
    let machine = Mounter::new();
    let mount = machine.mount(&cache.url(), &[]);
    assert_reads(&cache, &mount);
    mount.stop();
    for segment in machine.segments() {
        let mut bytes = fs::read(&segment).expect("a segment");
        for at in (500..bytes.len()).step_by(200_000) {
            bytes[at] ^= 1;
        }
        fs::write(&segment, bytes).expect("written");
    }
    let mount = machine.mount(&cache.url(), &[]);
    assert_reads(&cache, &mount);
    assert!(mount.count("damaged record of the cache") > 0, "{:#?}", mount.lines());
    assert!(mount.stop().chunks > 0, "nothing was fetched again");
}

#[test]
fn a_full_disk_costs_no_answer() {
    let cache = Cache::shell();
    let machine = Mounter::new();
    let small = Tmpfs::at(&machine.path("cache"), "3m");
    let mount = machine.mount(&cache.url(), &[]);
    let mut all = files(&cache.closure, &mount);
    let later = all.split_off(all.len() / 2);
    let read = |files: &[(PathBuf, PathBuf)]| {
        for (theirs, ours) in files {
            assert!(fs::read(theirs).expect("one") == fs::read(ours).expect("it is read"));
        }
    };
    read(&all);
    eventually("it says so", || mount.count("cannot be written to") > 0);
    // What was used longest ago makes room for what is now; where that is not enough, the disk is left
    // alone for ten seconds.
    std::thread::sleep(Duration::from_secs(11));
    read(&later);
    assert!(!machine.segments().is_empty(), "nothing is kept any more");
    assert_eq!(mount.count("cannot be written to"), 1, "{:#?}", mount.lines());
    mount.stop();
    drop(small);
}

#[test]
fn a_killed_mount_is_cleaned_up_and_comes_back_without_its_server() {
    let cache = Cache::shell();
    let machine = Mounter::new();
    let url = cache.url();
    let mount = machine.mount(&url, &[]);
    assert_reads(&cache, &mount);
    let file = mount.real(&cache.bash());
    mount.kill_nine();
    // What the kernel has is still there; nothing else is.
    assert_reads_one(&cache, &file);
    let place = machine.place();
    assert_eq!(errno(&place.join("something-new")), ENOTCONN);
    let at = place.to_str().expect("UTF-8");
    assert!(machine.granary(&["umount", at]).status().expect("it runs").success());
    assert!(!is_mounted(&place));
    let again = machine.granary(&["umount", at]).output().expect("it runs");
    assert!(!again.status.success());
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(said.contains("nothing is mounted"), "{said}");

    let Cache { server, closure, _data } = cache;
    let server = server.restart_after(|_| {
        let begun = Instant::now();
        let mount = machine.mount(&url, &[]);
        assert!(begun.elapsed() < Duration::from_secs(6), "it took {:?}", begun.elapsed());
        for (theirs, ours) in files(&closure, &mount) {
            assert!(fs::read(theirs).expect("one") == fs::read(ours).expect("it is here"));
        }
        assert_eq!(mount.stop().chunks, 0);
    });
    server.stop();
}

#[test]
fn mounts_that_share_a_folder_fetch_once() {
    let cache = Cache::shell();
    let machine = Mounter::new();
    let other = machine.path("other");
    fs::create_dir(&other).expect("a folder");
    let first = machine.mount(&cache.url(), &[]);
    // Begun before there is anything.
    let second = machine.mount_at(&other, &cache.url(), &[]);
    assert_reads(&cache, &first);
    std::thread::sleep(Duration::from_millis(300));
    assert_reads(&cache, &second);
    let (first, second) = (first.stop(), second.stop());
    assert!(second.bytes * 20 < first.bytes, "{first:?}, and again {second:?}");
}

#[test]
fn a_mount_in_the_background_and_one_of_fstab() {
    let cache = Cache::shell();
    let machine = Mounter::new();
    let place = machine.place();
    let at = place.to_str().expect("UTF-8");
    let mounted = machine.granary(&["mount", &cache.url(), at]).status().expect("it runs");
    assert!(mounted.success() && is_mounted(&place));
    let bash = cache.bash();
    assert_eq!(run_in(&place, &[&bash, "-c", "echo ok"]), "ok\n");
    let name = format!("cache/mount-{}.log", at.trim_matches('/').replace('/', "-"));
    let log = machine.path(&name);
    assert_eq!(log.metadata().expect("a log").mode() & 0o777, 0o600);
    assert!(machine.granary(&["umount", at]).status().expect("it runs").success());
    assert!(!is_mounted(&place));
    eventually("the mount says that it ends", || {
        fs::read_to_string(&log).expect("a log").contains("unmounting")
    });

    let helper = machine.path("mount.granary");
    symlink(places::granary(), &helper).expect("a link");
    let log = machine.path("fstab.log");
    let options = format!("ro,nofail,_netdev,x-systemd.automount,timeout=5,log={}", log.display());
    let mut command = machine.program(&helper, &[&cache.url(), at, "-o", &options]);
    assert!(command.status().expect("it runs").success() && is_mounted(&place));
    assert_eq!(run_in(&place, &[&bash, "-c", "echo ok"]), "ok\n");
    assert!(log.is_file());
    assert!(Command::new("umount").arg(&place).status().expect("it runs").success());

    let odd = machine.program(&helper, &[&cache.url(), at, "-o", "shiny"]).output();
    let odd = odd.expect("it runs");
    let said = String::from_utf8_lossy(&odd.stderr).into_owned();
    assert!(!odd.status.success() && said.contains("shiny"), "{said}");
}

#[test]
fn somebody_without_rights_mounts_for_themselves() {
    let cache = Cache::shell();
    let machine = Mounter::new();
    fs::set_permissions(machine.path(""), PermissionsExt::from_mode(0o755)).expect("they may");
    for below in ["home", "cache", "mnt"] {
        std::os::unix::fs::chown(machine.path(below), Some(65534), Some(65534)).expect("theirs");
    }
    let bash = cache.bash();
    let file = bash.strip_prefix("/nix/store/").expect("a store path");
    // As /dev/fuse is on most machines: open to everybody.
    let script = "mknod -m 666 \"$DIR/fuse\" c 10 229 && mount --bind \"$DIR/fuse\" /dev/fuse && \
                  exec setpriv --reuid=65534 --regid=65534 --clear-groups sh -ec \"$STEPS\"";
    let steps = "\"$GRANARY\" mount \"$URL\" \"$DIR/mnt\"
                 cat \"$DIR/mnt/$FILE\"
                 \"$GRANARY\" umount \"$DIR/mnt\"
                 ! grep -q \"$DIR/mnt\" /proc/self/mountinfo";
    let mut unshare = machine
        .program(Path::new("unshare"), &["-m", "--propagation", "private", "sh", "-c", script]);
    unshare.env("STEPS", steps).env("URL", cache.url()).env("FILE", file);
    let output = unshare.env("GRANARY", places::granary()).env("DIR", machine.path("")).output();
    let output = output.expect("unshare runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout == fs::read(cache.original(&bash)).expect("a file"));
}

#[test]
fn a_folder_and_plain_binary_caches_are_sources_too() {
    let cache = Cache::shell();
    let machine = Mounter::new();
    // A binary cache that Nix made, with what the server has signed.
    let copy = machine.path("copy");
    let to = format!("file://{}?compression=none", copy.display());
    let nix = Nix::of(Version::V2_26, &cache.server);
    nix.copy_between(&cache.url(), &to, &cache.closure.top);
    let key = cache.server.public_key().to_owned();
    let data = cache.server.data().to_owned();
    let Cache { server, closure, _data } = cache;
    server.stop();

    let mount = machine.mount_data(&data, "default");
    assert_same_closure(&closure, &mount);
    mount.stop();

    let web = FileServer::start(&copy, "secret");
    fs::write(machine.path("netrc"), "machine 127.0.0.1 login any password secret\n").expect("it");
    let netrc = machine.path("netrc");
    let netrc = ["--netrc-file", netrc.to_str().expect("UTF-8")];
    let files = format!("file://{}", copy.display());
    for (url, more) in [(&files, &[][..]), (&web.url(), &netrc[..])] {
        let machine = Mounter::new();
        let trusted = [&["--trusted-public-keys", &key], more].concat();
        let mount = machine.mount(url, &trusted);
        assert_same_closure(&closure, &mount);
        mount.stop();
        // Once more, from disk, and with a disk that has lost most of it.
        for segment in machine.segments() {
            let mut bytes = fs::read(&segment).expect("a segment");
            for at in (500..bytes.len()).step_by(100_000) {
                bytes[at] ^= 1;
            }
            fs::write(&segment, bytes).expect("written");
        }
        let mount = machine.mount(url, &trusted);
        assert_same_closure(&closure, &mount);
        mount.stop();

        let machine = Mounter::new();
        let theirs = "somebody-else-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";
        let mount = machine.mount(url, &[&["--trusted-public-keys", theirs], more].concat());
        let refused = fs::read_dir(mount.real(&closure.top)).expect_err("nobody vouches for it");
        assert_eq!(refused.raw_os_error(), EIO);
        eventually("the log says why", || mount.count("cannot be trusted") > 0);
        mount.stop();
        let mount = machine.mount(url, &[&["--no-check-sigs"], more].concat());
        fs::read_dir(mount.real(&closure.top)).expect("everything is believed");
        mount.stop();
    }
}

#[test]
fn a_private_cache_opens_to_its_token_and_one_of_strangers_is_not_believed() {
    let cache = Cache::shell();
    let home = Home::with_token(Version::V2_26, &cache.server.origin(), cache.server.token());
    home.granary_ok(&["cache", "configure", "default", "--private"]);
    let machine = Mounter::new();
    let file = machine.path("token");
    let token_file = ["--token-file", file.to_str().expect("UTF-8")];
    let said = machine.mount_refused(&cache.url(), &[]);
    assert!(said.contains("token"), "{said}");
    let data = cache.server.data();
    fs::write(&file, tokens::mint_expired(data, "x", &[("default", &["pull"])])).expect("written");
    let said = machine.mount_refused(&cache.url(), &token_file);
    assert!(said.contains("does not take the token"), "{said}");
    fs::write(&file, tokens::mint(data, "x", &[("default", &["pull"])])).expect("written");
    let mount = machine.mount(&cache.url(), &token_file);
    assert_reads(&cache, &mount);
    mount.stop();

    let machine = Mounter::new();
    let theirs = "somebody-else-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";
    let arguments = [&token_file[..], &["--trusted-public-keys", theirs]].concat();
    let mount = machine.mount(&cache.url(), &arguments);
    let top = mount.real(&cache.closure.top);
    for _ in 0..2 {
        assert_eq!(fs::read_dir(&top).expect_err("no").raw_os_error(), EIO);
    }
    eventually("the log says why", || mount.count("cannot be trusted") >= 2);
    mount.stop();
}

#[test]
fn what_others_touched_first_comes_first() {
    let cache = Cache::tiny();
    let bash = cache.bash();
    let coreutils = |name: &str| {
        let mut paths = cache.closure.paths.iter().map(|path| path.path.as_str());
        let path = paths.find(|path| path[44..].starts_with("coreutils-")).expect("coreutils");
        format!("{path}/bin/{name}")
    };
    let script = ["ls", "sort", "cut", "date", "wc"].map(coreutils);
    let script = script.map(|program| format!("{program} --version >/dev/null")).join(" && ");
    let work = |mount: &Mount| run_in(mount.place(), &[&bash, "-c", &script]);

    let machine = Mounter::new();
    let file = machine.path("token");
    fs::write(&file, cache.server.token()).expect("written");
    let token_file = ["--token-file", file.to_str().expect("UTF-8")];
    let mount = machine.mount(&cache.url(), &token_file);
    work(&mount);
    mount.stop();
    let wire = Wire::slow(&cache.server.origin(), Duration::from_millis(20));
    let url = format!("{}/default", wire.origin());
    let cold = |arguments: &[&str]| {
        let machine = Mounter::new();
        let mount = machine.mount(&url, arguments);
        let begun = Instant::now();
        work(&mount);
        let took = begun.elapsed();
        (took, mount.stop())
    };
    wire.take_seen();
    let (without, many) = cold(&["--no-profiles"]);
    assert!(!wire.take_seen().iter().any(|seen| seen.line.contains("/profiles")));
    let (with, few) = cold(&[]);
    eprintln!("without {without:?} {many:?}, with {with:?} {few:?}");
    assert!(few.questions * 3 < many.questions * 2, "{few:?} with, {many:?} without");
    assert!(with < without, "{with:?} with, {without:?} without");
}
