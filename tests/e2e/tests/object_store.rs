//! What one server promises whose packs are objects in a bucket.
//!
//! Every test here chooses its own store and index, whatever the environment says.

#![allow(clippy::expect_used, reason = "a helper that fails should fail its test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use granary_e2e::background::eventually;
use granary_e2e::backing::{self, below, with_credentials};
use granary_e2e::codec::{self, Compression};
use granary_e2e::random::Random;
use granary_e2e::upload::Upload;
use granary_e2e::{
    Background, Backing, Closure, Combination, Home, Http, Index, Nix, Server, Store, Tmpfs,
    Version, nar, narinfo, packs, places,
};
use granary_test_services::S3Server;

const S3_AND_SLED: Combination = Combination { store: Store::S3, index: Index::Sled };
const S3_AND_POSTGRES: Combination = Combination { store: Store::S3, index: Index::Postgres };

/// Longer than any text that is kept beside packs.
const NOTE: u64 = 4096;

fn put(server: &Server, nar: &[u8], random: &mut Random) -> Upload {
    let upload = Upload::new(&random.hash_part(), nar, Compression::Zstd);
    let http = server.http();
    for answer in [upload.put_nar(&http), upload.put_narinfo(&http)] {
        assert_eq!(answer.status, 201, "{}", answer.text());
    }
    upload
}

/// Where a path's NAR is, relative to its cache.
fn nar_url(http: &Http, upload: &Upload) -> String {
    let answer = http.get(&upload.narinfo_path());
    assert_eq!(answer.status, 200, "{}", answer.text());
    narinfo::parse(&answer.text())["URL"].to_owned()
}

fn assert_pulls(http: &Http, upload: &Upload, nar: &[u8]) {
    let answer = http.get(&nar_url(http, upload));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let pulled = zstd::stream::decode_all(&answer.body[..]).expect("it is whole");
    assert!(pulled == nar, "other bytes");
}

/// Every file below a folder, by its path in it.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut open, mut found) = (vec![folder.to_owned()], BTreeMap::new());
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(folder).expect("it is below").to_owned();
                found.insert(name, fs::read(&path).expect("a file"));
            }
        }
    }
    found
}

fn is_pack(name: &Path) -> bool {
    let id = name.to_str().and_then(|name| name.strip_prefix("packs/")?.strip_suffix(".pack"));
    id.is_some_and(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[test]
fn a_bucket_holds_packs_and_some_notes_and_nothing_else() {
    let (s3, data) = (S3Server::start(), places::scratch());
    let objects = s3.dir().join("tidy/below");
    let url = below(&s3.bucket("tidy"), "below");
    Backing::set(data.path(), Some((&url, &objects)), None);
    let server = Server::start(data.path());
    let closure = Closure::tiny();
    let home = Home::with_token(Version::V2_34, &server.origin(), server.token());
    home.push("default", &closure);
    let part = closure.of_package("grep");
    Nix::of(Version::V2_26, &server).copy_to(&format!("{}?compression=zstd", server.url()), &part);
    let mut random = Random::from_environment();
    // Larger than what is put in one piece.
    put(&server, &nar::nar(&nar::file(&random.bytes(70 << 20), false)), &mut random);

    let check = |when: &str| {
        let (packs, notes): (Vec<_>, Vec<_>) =
            files(&objects).into_iter().partition(|(name, _)| is_pack(name));
        assert!(!packs.is_empty(), "{when}: nothing is there");
        for (name, text) in notes {
            assert_eq!(name.components().count(), 1, "{when}: {} is no note", name.display());
            let is_text = std::str::from_utf8(&text).is_ok() && (text.len() as u64) < NOTE;
            assert!(is_text, "{when}: {} is no note", name.display());
        }
        let in_bucket = fs::read_dir(s3.dir().join("tidy")).expect("the bucket");
        let in_bucket: Vec<_> =
            in_bucket.map(|entry| entry.expect("an entry").file_name()).collect();
        assert_eq!(in_bucket, ["below"], "{when}: something lies outside of the prefix");
        // As the S3 server names the parts of uploads.
        let mut server = fs::read_dir(s3.dir()).expect("the S3 server's folder");
        let left = server.find_map(|entry| {
            let name = entry.expect("an entry").file_name().into_string().expect("UTF-8");
            name.starts_with(".upload").then_some(name)
        });
        assert_eq!(left, None, "{when}: an upload was left behind");
        packs.len()
    };
    let running = check("while it runs");
    let data = server.data().to_owned();
    server.stop();
    assert!(check("after it has stopped") <= running + 1, "it had kept much back");
    packs::decode_all(&data);
    assert!(!data.join("packs").exists(), "packs lie in the data directory, too");
}

#[test]
fn a_machine_that_is_lost_is_replaced_by_another_with_its_key() {
    let (lost, new) = (places::scratch(), places::scratch());
    let backing = Backing::on(lost.path(), S3_AND_POSTGRES);
    let server = Server::start(lost.path());
    let (closure, mut random) = (Closure::tiny(), Random::from_environment());
    let home = Home::with_token(Version::V2_26, &server.origin(), server.token());
    home.push("default", &closure);
    home.granary_ok(&["cache", "create", "team"]);
    let nars: Vec<_> = (0..4).map(|_| random.nar()).collect();
    let uploads: Vec<_> = nars.iter().map(|nar| put(&server, nar, &mut random)).collect();
    let key = server.public_key().to_owned();
    server.kill_nine();

    fs::copy(lost.path().join("server-key"), new.path().join("server-key")).expect("a copy");
    drop(lost);
    let store = backing.store().zip(backing.objects());
    Backing::set(new.path(), store, backing.index());
    let server = Server::start(new.path());
    assert_eq!(server.public_key(), key);
    let nix = Nix::of(Version::V2_34, &server);
    nix.assert_same(&nix.copy_from(&server.url(), &closure.top), &closure);
    uploads.iter().zip(&nars).for_each(|(upload, nar)| assert_pulls(&server.http(), upload, nar));
    let home = Home::with_token(Version::V2_26, &server.origin(), server.token());
    home.granary_ok(&["cache", "info", "team"]);
    let nar = random.nar();
    assert_pulls(&server.http(), &put(&server, &nar, &mut random), &nar);
    server.stop();
}

#[test]
fn a_second_server_with_an_index_of_its_own_is_refused() {
    let (first, second) = (places::scratch(), places::scratch());
    let backing = Backing::on(first.path(), S3_AND_SLED);
    let server = Server::start(first.path());
    let mut random = Random::from_environment();
    let nar = random.nar();
    let upload = put(&server, &nar, &mut random);
    // The same key: what it lacks is the right index, nothing else.
    fs::copy(first.path().join("server-key"), second.path().join("server-key")).expect("a copy");
    Backing::set(second.path(), backing.store().zip(backing.objects()), None);

    let before = files(backing.objects().expect("objects"));
    let assert_refused = |when: &str| {
        let mut second = backing::granary(second.path(), &["serve", "--listen", "127.0.0.1:0"]);
        let (status, lines) = Background::start(&mut second).end();
        let said = lines.join("\n");
        assert!(!status.success(), "{when}: it serves");
        let bucket = backing.store().and_then(|url| url.split('?').next()).expect("a URL");
        for named in [bucket, "index"] {
            assert!(said.contains(named), "{when}: the refusal does not name {named}: {said}");
        }
    };
    assert_refused("while the first one runs");
    assert_pulls(&server.http(), &upload, &nar);
    server.stop();
    assert_refused("after the first one has stopped");
    let after = files(backing.objects().expect("objects"));
    assert!(
        before.iter().all(|(name, text)| after.get(name) == Some(text)),
        "it changed the bucket"
    );
    let server = Server::start(first.path());
    assert_pulls(&server.http(), &upload, &nar);
    server.stop();
}

#[test]
fn what_is_damaged_in_the_bucket_is_never_served() {
    let data = places::scratch();
    let backing = Backing::on(data.path(), S3_AND_SLED);
    let server = Server::start(data.path());
    let mut random = Random::from_environment();
    let nar = nar::nar(&nar::file(&random.bytes(3_000_000), false));
    let upload = put(&server, &nar, &mut random);
    let http = server.http();
    let compressed = nar_url(&http, &upload);
    let plain = format!("nar/{}.nar", codec::sha256_nix32(&nar));

    let folder = backing.objects().expect("objects").to_owned();
    let mut whole = BTreeMap::new();
    let server = server.restart_after(|data| {
        packs::forget_read(data);
        whole = files(&folder);
        for (name, bytes) in
            whole.iter().filter(|(name, bytes)| is_pack(name) && bytes.len() > 1 << 20)
        {
            let mut bytes = bytes.clone();
            // In the data of chunks, of which each has some 32 KiB and more.
            (60_000..bytes.len() - 200_000).step_by(30_000).for_each(|at| bytes[at] ^= 0x10);
            fs::write(folder.join(name), bytes).expect("written");
        }
    });
    for url in [&compressed, &plain] {
        match http.try_get(url) {
            Ok(answer) => assert_ne!(answer.status, 200, "{url}: {} bytes", answer.body.len()),
            // Cut short, which a client sees.
            Err(error) => println!("{url}: {error}"),
        }
    }
    for (name, bytes) in whole {
        fs::write(folder.join(name), bytes).expect("written");
    }
    eventually("what was mended is served", || {
        http.try_get(&compressed).is_ok_and(|answer| answer.status == 200)
    });
    assert_pulls(&http, &upload, &nar);
    server.stop();
}

#[test]
fn a_full_local_disk_costs_no_read_and_takes_nothing_from_the_store() {
    let data = places::scratch();
    let small = Tmpfs::at(data.path(), "64m");
    Backing::on(data.path(), S3_AND_POSTGRES);
    let server = Server::start(data.path());
    let mut random = Random::from_environment();
    let nars = [(); 2].map(|()| nar::nar(&nar::file(&random.bytes(5_000_000), false)));
    let uploads: Vec<_> = nars.iter().map(|nar| put(&server, nar, &mut random)).collect();
    let server = server.restart_after(packs::forget_read);
    let filler = data.path().join("filler");
    let status = Command::new("sh")
        .args(["-c", "cat /dev/zero >\"$0\" 2>/dev/null; sync"])
        .arg(&filler)
        .status();
    status.expect("sh runs");
    assert!(fs::write(data.path().join("more"), [0; 8192]).is_err(), "the disk is not full");

    let http = server.http();
    uploads.iter().zip(&nars).for_each(|(upload, nar)| assert_pulls(&http, upload, nar));
    let refused = Upload::new(&random.hash_part(), &nars[0], Compression::Zstd);
    let fresh = nar::nar(&nar::file(&random.bytes(5_000_000), false));
    let fresh = Upload::new(&refused.hash_part, &fresh, Compression::Zstd);
    let answer = fresh.put_nar(&http);
    // Whether there is room in memory is up to the server; what it may not do is say yes and lose it.
    if answer.is_success() {
        let published = fresh.put_narinfo(&http);
        assert!(published.is_success() || published.status >= 500, "{}", published.text());
    } else {
        assert!(answer.status >= 500, "{}: {}", answer.status, answer.text());
    }
    fs::remove_file(&filler).expect("room again");
    eventually("it takes what it refused", || fresh.put_nar(&http).is_success());
    assert!(fresh.put_narinfo(&http).is_success());
    let server = server.restart_after_kill_nine();
    assert_eq!(server.http().get(&fresh.narinfo_path()).status, 200);
    uploads.iter().zip(&nars).for_each(|(upload, nar)| assert_pulls(&server.http(), upload, nar));
    server.stop();
    drop(small);
}

/// `granary copy-store`, which has to succeed.
fn copy_store(from: &str, to: &str) {
    let mut command = Command::new(places::granary());
    let output = with_credentials(command.args(["copy-store", from, to])).output();
    let output = output.expect("granary runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "copy-store {from} {to}: {}: {said}", output.status);
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn a_store_moves_to_a_bucket_and_back_and_is_the_same() {
    let [disk, bucket, back] = [(); 3].map(|()| places::scratch());
    let copy_key = |to: &Path| {
        let to = to.join("server-key");
        if !to.exists() {
            fs::copy(disk.path().join("server-key"), to).expect("a copy");
        }
    };
    let on_disk = Combination { store: Store::Disk, index: Index::Sled };
    Backing::on(disk.path(), on_disk);
    Backing::on(back.path(), on_disk);
    let backing = Backing::on(bucket.path(), S3_AND_SLED);
    let (url, objects) = backing.store().zip(backing.objects()).expect("a bucket");

    let server = Server::start(disk.path());
    let (closure, key) = (Closure::tiny(), server.public_key().to_owned());
    Nix::of(Version::V2_26, &server)
        .copy_to(&format!("{}?compression=zstd", server.url()), &closure);
    server.stop();

    copy_store(text(disk.path()), url);
    copy_key(bucket.path());
    let packs_below = |folder: &Path| {
        let mut files = files(folder);
        files.retain(|name, _| is_pack(name));
        files
    };
    let copied = packs_below(objects);
    assert!(!copied.is_empty());
    // It can be done again, as after one that was cut off.
    copy_store(text(disk.path()), url);
    assert!(packs_below(objects) == copied, "it is not the same the second time");

    backing::rebuild_index(bucket.path());
    let server = Server::start(bucket.path());
    assert_eq!(server.public_key(), key);
    let nix = Nix::of(Version::V2_34, &server);
    nix.assert_same(&nix.copy_from(&server.url(), &closure.top), &closure);
    let mut random = Random::from_environment();
    let nar = random.nar();
    let upload = put(&server, &nar, &mut random);
    server.stop();

    copy_store(url, text(back.path()));
    copy_key(back.path());
    assert!(packs_below(back.path()) == packs_below(objects), "other packs came back");
    let server = Server::start(back.path());
    assert_eq!(server.public_key(), key);
    let nix = Nix::of(Version::V2_8, &server);
    nix.assert_same(&nix.copy_from(&server.url(), &closure.top), &closure);
    assert_pulls(&server.http(), &upload, &nar);
    server.stop();
}
