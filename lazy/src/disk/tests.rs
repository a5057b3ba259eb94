//! The promises of the cache on disk.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use castore::Kind;
use nix_compat::store_path::StorePathHash;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const MB: u64 = 1 << 20;

/// Bytes that do not compress, others for each number.
fn noise(number: u64, length: usize) -> Vec<u8> {
    let mut plain = vec![0; length];
    blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut plain);
    plain
}

fn put(disk: &DiskCache, plain: &[u8]) {
    let mut records = Vec::new();
    record::append(&mut records, Kind::Chunk, plain).unwrap();
    disk.put(&records);
}

fn get(disk: &DiskCache, plain: &[u8]) -> Option<Vec<u8>> {
    disk.get(Kind::Chunk, &Digest::of(plain))
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> =
        fs::read_dir(dir.join("segments")).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

fn length(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| match entry.metadata().unwrap() {
            meta if meta.is_dir() => length(&entry.path()),
            meta => meta.len(),
        })
        .sum()
}

/// What stock zstd makes of a segment.
fn zstd(segment: &Path) -> Vec<u8> {
    let file = File::open(segment).unwrap();
    let output = Command::new("zstd").arg("-dc").stdin(file).stderr(Stdio::inherit()).output();
    let output = output.expect("zstd is installed");
    assert!(output.status.success());
    output.stdout
}

fn open(dir: &TempDir, limit: u64) -> DiskCache {
    DiskCache::open(dir.path(), limit).unwrap()
}

#[test]
fn what_is_put_in_comes_out_and_stock_zstd_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let disk = open(&dir, 256 * MB);
    let all: Vec<Vec<u8>> =
        [0, 1, 100, 40_000, 512 * 1024].map(|length| noise(length as u64, length)).to_vec();
    all.iter().for_each(|plain| put(&disk, plain));
    let mut tree = Vec::new();
    record::append(&mut tree, Kind::Tree, b"not really a tree").unwrap();
    disk.put(&tree);
    for disk in [&disk, &open(&dir, 256 * MB)] {
        for plain in &all {
            assert_eq!(get(disk, plain).as_ref(), Some(plain));
        }
        assert_eq!(get(disk, b"something else"), None);
        let tree = Digest::of(b"not really a tree");
        assert_eq!(disk.get(Kind::Tree, &tree).unwrap(), b"not really a tree");
        assert_eq!(disk.get(Kind::Chunk, &tree), None, "a kind is not another");
        assert_eq!(disk.damaged(), 0);
    }
    let [segment] = &segments(dir.path())[..] else { panic!("more than one segment") };
    let plain = [all.concat(), b"not really a tree".to_vec()].concat();
    assert!(zstd(segment) == plain);
}

#[test]
fn it_never_holds_more_than_its_limit_and_a_segment() {
    let dir = tempfile::tempdir().unwrap();
    let disk = open(&dir, 4 * MB);
    for number in 0..100 {
        put(&disk, &noise(number, 200_000));
        let length = length(dir.path());
        assert!(length <= 4 * MB + MB + 200_500, "{length} bytes after {number}");
    }
    let kept = (0..100).filter(|number| get(&disk, &noise(*number, 200_000)).is_some());
    assert!(kept.count() >= 10, "it is of use");
    assert!(get(&disk, &noise(99, 200_000)).is_some(), "the last is there");
    drop(disk);
    let disk = open(&dir, MB);
    assert!(length(dir.path()) <= 2 * MB + 200_500, "a smaller limit holds from the beginning");
    assert_eq!(disk.damaged(), 0);
}

#[test]
fn what_was_not_used_for_the_longest_time_goes_first() {
    let dir = tempfile::tempdir().unwrap();
    let disk = open(&dir, 6 * MB);
    // Four segments of six records.
    (0..24).for_each(|number| put(&disk, &noise(number, 200_000)));
    assert_eq!(segments(dir.path()).len(), 4);
    for segment in segments(dir.path()) {
        let long_ago = SystemTime::now() - Duration::from_secs(10_000);
        File::options().write(true).open(segment).unwrap().set_modified(long_ago).unwrap();
    }
    assert!(get(&disk, &noise(3, 200_000)).is_some(), "the first is used");
    (100..124).for_each(|number| put(&disk, &noise(number, 200_000)));
    assert!(get(&disk, &noise(0, 200_000)).is_some(), "so it stays, all of it");
    assert!((6..18).all(|number| get(&disk, &noise(number, 200_000)).is_none()));
}

#[test]
fn many_instances_share_a_folder_and_see_what_the_others_put_in() {
    let dir = tempfile::tempdir().unwrap();
    let disks: Vec<DiskCache> = (0..4).map(|_| open(&dir, 256 * MB)).collect();
    std::thread::scope(|scope| {
        for (number, disk) in (0..).zip(&disks) {
            scope.spawn(move || {
                for count in 0..50 {
                    put(disk, &noise(number * 1000 + count, 50_000));
                    if count % 10 == 0 {
                        disk.look_again().unwrap();
                    }
                }
            });
        }
    });
    for disk in &disks {
        disk.look_again().unwrap();
        for number in (0..4).flat_map(|number| (0..50).map(move |count| number * 1000 + count)) {
            assert!(get(disk, &noise(number, 50_000)).is_some(), "{number}");
        }
        assert_eq!(disk.damaged(), 0);
    }
}

#[test]
fn what_another_instance_throws_out_is_let_go_of() {
    let dir = tempfile::tempdir().unwrap();
    let (reader, writer) = (open(&dir, 2 * MB), open(&dir, 2 * MB));
    (0..10).for_each(|number| put(&writer, &noise(number, 200_000)));
    reader.look_again().unwrap();
    assert!(get(&reader, &noise(0, 200_000)).is_some());
    (10..40).for_each(|number| put(&writer, &noise(number, 200_000)));
    assert!(get(&reader, &noise(0, 200_000)).is_some(), "what is open can still be read");
    reader.look_again().unwrap();
    assert!(get(&reader, &noise(0, 200_000)).is_none());
    let links = fs::read_dir("/proc/self/fd").unwrap();
    let dir = dir.path().to_str().unwrap();
    let gone = links.filter_map(|link| fs::read_link(link.unwrap().path()).ok()).filter(|link| {
        let link = link.to_str().unwrap_or_default();
        link.starts_with(dir) && link.ends_with("(deleted)")
    });
    // Its writer learns of it when it makes room; both hold on to nothing.
    assert_eq!(gone.count(), 0);
    assert_eq!(reader.damaged(), 0);
}

#[test]
fn a_torn_segment_is_resumed_where_it_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let disk = open(&dir, 256 * MB);
    (0..3).for_each(|number| put(&disk, &noise(number, 100_000)));
    drop(disk);
    let [segment] = &segments(dir.path())[..] else { panic!("more than one segment") };
    let whole = fs::metadata(segment).unwrap().len();
    for torn in [1, 99_000, 100_050] {
        // The third was not written whole when the machine went down.
        File::options().write(true).open(segment).unwrap().set_len(whole - torn).unwrap();
        let disk = open(&dir, 256 * MB);
        assert!(get(&disk, &noise(1, 100_000)).is_some());
        assert!(get(&disk, &noise(2, 100_000)).is_none());
        put(&disk, &noise(2, 100_000));
        assert!(get(&disk, &noise(2, 100_000)).is_some());
        assert_eq!((segments(dir.path()).len(), disk.damaged()), (1, 0), "no other is begun");
        let plain: Vec<u8> = (0..3).flat_map(|number| noise(number, 100_000)).collect();
        assert!(zstd(segment) == plain);
    }
    // Or something else was there.
    OpenOptions::new().append(true).open(segment).unwrap().write_all(&[0x2a; 5000]).unwrap();
    let disk = open(&dir, 256 * MB);
    put(&disk, &noise(3, 100_000));
    assert!((0..4).all(|number| get(&disk, &noise(number, 100_000)).is_some()));
    assert!((0..4).all(|number| get(&open(&dir, 256 * MB), &noise(number, 100_000)).is_some()));
}

#[test]
fn a_segment_that_is_being_written_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (open(&dir, 256 * MB), open(&dir, 256 * MB));
    put(&first, b"one");
    second.look_again().unwrap();
    put(&second, b"two");
    put(&first, b"three");
    assert_eq!(segments(dir.path()).len(), 2);
    let third = open(&dir, 256 * MB);
    assert!([&b"one"[..], b"two", b"three"].iter().all(|plain| get(&third, plain).is_some()));
}

#[test]
fn a_full_disk_has_the_oldest_thrown_out() {
    let dir = tempfile::tempdir().unwrap();
    let disk = open(&dir, 256 * MB);
    (0..40).for_each(|number| put(&disk, &noise(number, 200_000)));
    let before = segments(dir.path());
    disk.give_way();
    let after = segments(dir.path());
    assert!(after.len() < before.len(), "{before:?}, then {after:?}");
    assert!(get(&disk, &noise(39, 200_000)).is_some(), "what is written to stays");
}

#[test]
fn a_folder_that_was_removed_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let disk = open(&dir, 2 * MB);
    put(&disk, b"one");
    fs::remove_dir_all(dir.path()).unwrap();
    // It goes to the file that is gone, until that is full; then there is another.
    (0..20).for_each(|number| put(&disk, &noise(number, 200_000)));
    assert!(get(&open(&dir, 2 * MB), &noise(19, 200_000)).is_some());
}

#[test]
fn narinfos_are_bounded_and_the_oldest_go() {
    let dir = tempfile::tempdir().unwrap();
    let disk = open(&dir, 4 * MB);
    let infos = disk.infos("a cache");
    let hash = |number: u8| StorePathHash::from([number; 20]);
    for number in 0..200 {
        disk.put_info(&infos, hash(number), "StorePath: x\n", None);
    }
    assert!(infos.get(hash(0)).is_some(), "it is used");
    disk.make_room();
    let left = infos.all();
    assert!(left.len() as u64 * 4096 <= 4 * MB / 16, "{}", left.len());
    assert!(left.contains(&hash(0)) && left.contains(&hash(199)) && !left.contains(&hash(1)));
    assert!(disk.infos("another cache").all().is_empty());
}

#[test]
fn whole_files_are_checked_and_unfinished_ones_vanish() {
    let dir = tempfile::tempdir().unwrap();
    let disk = open(&dir, 8 * MB);
    let (plain, place) = (noise(1, 300_000), dir.path().join("files"));
    let digest = Digest::of(&plain);
    assert!(disk.whole_file(&digest).is_none());
    let mut new = disk.new_file(&digest).unwrap();
    new.file.write_all(&plain[..1000]).unwrap();
    drop(new);
    assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
    let mut new = disk.new_file(&digest).unwrap();
    new.file.write_all(&plain).unwrap();
    disk.keep_file(&digest, new).unwrap();
    assert_eq!(disk.whole_file(&digest).unwrap().metadata().unwrap().len(), 300_000);
    let mut damaged = plain.clone();
    damaged[200_000] ^= 1;
    fs::write(place.join(digest.to_string()), damaged).unwrap();
    assert!(disk.whole_file(&digest).is_none());
    assert_eq!(fs::read_dir(&place).unwrap().count(), 0, "it is dropped");
    for number in 0..30 {
        let plain = noise(number, 500_000);
        let digest = Digest::of(&plain);
        let mut new = disk.new_file(&digest).unwrap();
        new.file.write_all(&plain).unwrap();
        disk.keep_file(&digest, new).unwrap();
        assert!(length(dir.path()) <= 8 * MB);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Wherever rot strikes: what is served is right, and what is lost can be put in again.
    #[test]
    fn a_flipped_bit_is_never_served(
        at in any::<prop::sample::Index>(), bit in 0..8u8, sealed in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let disk = open(&dir, 4 * MB);
        let mut all: Vec<Vec<u8>> = (0..8).map(|number| noise(number, 3000)).collect();
        if sealed {
            // Compresses well, and fills a segment.
            all.extend((8..12).map(|number| noise(number, 300_000)));
        }
        all.iter().for_each(|plain| put(&disk, plain));
        drop(disk);
        let [segment] = &segments(dir.path())[..] else { panic!("more than one segment") };
        let mut bytes = fs::read(segment).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        fs::write(segment, bytes).unwrap();
        let disk = open(&dir, 4 * MB);
        for plain in &all {
            let found = get(&disk, plain);
            prop_assert!(found.is_none() || found.as_ref() == Some(plain));
            prop_assert_eq!(found.is_some(), disk.has(Kind::Chunk, &Digest::of(plain)));
        }
        for plain in &all {
            if get(&disk, plain).is_none() {
                put(&disk, plain);
            }
            prop_assert!(get(&disk, plain).as_ref() == Some(plain));
        }
    }
}
