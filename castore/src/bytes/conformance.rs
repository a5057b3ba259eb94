//! What every backend promises, tried on each.
//!
//! The suite makes two instances of a backend over one place: what one of them has made durable, the
//! other one finds.

use std::io::{self, ErrorKind, IoSliceMut};
use std::sync::Arc;
use std::time::Duration;

use super::{AppendPack, Durability, LocalPacks, PackBackend, ReadPack, Wait};
use crate::pack::PackId;

/// Bytes that differ wherever one looks.
pub fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2) + 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(state ^ (state >> 29)).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Reads a range as several buffers.
pub fn read(pack: &dyn ReadPack, offset: u64, lens: &[usize], wait: Wait) -> io::Result<Vec<u8>> {
    let mut parts: Vec<Vec<u8>> = lens.iter().map(|len| vec![0; *len]).collect();
    let mut buffers: Vec<_> = parts.iter_mut().map(|part| IoSliceMut::new(part)).collect();
    pack.read_vectored_at(offset, &mut buffers, wait)?;
    Ok(parts.concat())
}

fn seal(backend: &dyn PackBackend, bytes: &[u8]) -> (PackId, Arc<dyn AppendPack>) {
    let id = PackId::random().unwrap();
    let pack = backend.create(id).unwrap();
    pack.write_at(0, bytes).unwrap();
    pack.seal().unwrap();
    (id, pack)
}

/// Two instances over one place.
pub struct Pair {
    pub one: Box<dyn PackBackend>,
    pub other: Box<dyn PackBackend>,
}

/// All of it.
pub fn holds(pair: &Pair) {
    a_pack_is_read_while_it_grows(&*pair.one);
    a_sealed_pack_is_found_by_others(pair);
    a_pack_that_is_put_is_there(pair);
    a_note_is_kept(pair);
    ranges_are_read_across_pages(pair);
    there_is_nothing_behind_the_end(pair);
    what_is_distrusted_is_read_again(pair);
    what_is_not_there_is_said_to_be_absent(pair);
    pair.one.check().unwrap();
    assert_eq!(pair.one.tidy(Duration::ZERO).unwrap(), 0);
}

fn a_pack_is_read_while_it_grows(backend: &dyn PackBackend) {
    let id = PackId::random().unwrap();
    let pack = backend.create(id).unwrap();
    assert!(pack.is_empty().unwrap());
    pack.write_at(0, b"one").unwrap();
    let reader = backend.open(id, false).unwrap();
    assert_eq!(read(&*reader, 0, &[3], Wait::Yes).unwrap(), b"one");
    pack.write_at(3, b"two and more").unwrap();
    pack.truncate(6).unwrap();
    pack.sync().unwrap();
    assert_eq!(reader.len().unwrap(), 6);
    assert_eq!(read(&*reader, 1, &[2, 0, 3], Wait::Yes).unwrap(), b"netwo");
    assert_eq!(read(&*reader, 4, &[3], Wait::Yes).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    assert_eq!(backend.stat(id).unwrap(), None, "it is not sealed");
    pack.seal().unwrap();
    assert_eq!(backend.stat(id).unwrap(), Some(6));
    assert_eq!(read(&*pack, 0, &[6], Wait::Yes).unwrap(), b"onetwo", "the handle goes on");

    let empty = PackId::random().unwrap();
    drop(backend.create(empty).unwrap());
    assert!(backend.create(empty).is_err(), "a name is given once");
    backend.discard(empty).unwrap();
    assert!(backend.open(empty, false).is_err());
}

fn a_sealed_pack_is_found_by_others(pair: &Pair) {
    let contents = bytes(300_000, 1);
    let (id, pack) = seal(&*pair.one, &contents);
    if pair.one.durability() == Durability::Sealed {
        pack.seal().unwrap();
    }
    let listed = pair.other.list().unwrap();
    let listed = listed.iter().find(|listed| listed.id == id).unwrap();
    assert!(listed.sealed && listed.len.is_none_or(|len| len == 300_000));
    let pack = pair.other.open(id, true).unwrap();
    assert_eq!(pack.len().unwrap(), 300_000);
    let mut all = vec![0; 300_000];
    pack.read_at(0, &mut all).unwrap();
    assert!(all == contents);
}

fn a_pack_that_is_put_is_there(pair: &Pair) {
    let id = PackId::random().unwrap();
    assert_eq!(pair.one.stat(id).unwrap(), None);
    pair.one.put(id, b"a pack".to_vec()).unwrap();
    pair.one.put(id, b"a pack".to_vec()).unwrap();
    pair.other.put(id, b"a pack".to_vec()).unwrap();
    assert_eq!(pair.other.stat(id).unwrap(), Some(6));
    assert_eq!(read(&*pair.other.open(id, true).unwrap(), 2, &[4], Wait::Yes).unwrap(), b"pack");
    assert!(pair.other.list().unwrap().iter().any(|listed| listed.id == id && listed.sealed));
}

fn a_note_is_kept(pair: &Pair) {
    assert_eq!(pair.one.note("owner").unwrap(), None);
    pair.one.set_note("owner", "me").unwrap();
    pair.one.set_note("owner", "you, with more to say").unwrap();
    assert_eq!(pair.other.note("owner").unwrap().unwrap(), "you, with more to say");
    pair.other.set_note("nothing", "").unwrap();
    assert_eq!(pair.one.note("nothing").unwrap().unwrap(), "");
}

fn ranges_are_read_across_pages(pair: &Pair) {
    const MIB: usize = 1 << 20;
    let contents = bytes(5 * MIB + 12_345, 2);
    let (id, _) = seal(&*pair.one, &contents);
    for backend in [&pair.one, &pair.other] {
        let pack = backend.open(id, true).unwrap();
        for (offset, lens) in [
            (0, vec![1]),
            (MIB - 1, vec![1, 1]),
            (MIB - 5, vec![0, 3, 0, 4, 0]),
            (2 * MIB, vec![MIB]),
            (MIB / 2, vec![56, 2 * MIB, 56, MIB + 1]),
            (5 * MIB, vec![12_345]),
            (0, vec![5 * MIB + 12_345]),
            (77, vec![0]),
            (77, vec![]),
            (100, vec![3; 3000]),
        ] {
            let len: usize = lens.iter().sum();
            let read = read(&*pack, offset as u64, &lens, Wait::Yes).unwrap();
            assert!(read == contents[offset..offset + len], "{offset} {lens:?}");
        }
        // It was read just now, but a kernel may have put it out of memory again.
        match read(&*pack, 100, &[56, 1000], Wait::No) {
            Ok(read) => assert!(read == contents[100..1156]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
}

fn there_is_nothing_behind_the_end(pair: &Pair) {
    let (id, _) = seal(&*pair.one, &bytes(1000, 3));
    for backend in [&pair.one, &pair.other] {
        let pack = backend.open(id, true).unwrap();
        for (offset, len) in [(1000, 1), (999, 2), (5 << 20, 10), (0, 3 << 20)] {
            let error = read(&*pack, offset, &[len], Wait::Yes).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{offset} {len}");
        }
        assert_eq!(read(&*pack, 1000, &[], Wait::Yes).unwrap(), b"");
        pack.will_read(0..u64::MAX);
        pack.will_read(5000..6000);
        assert!(read(&*pack, 0, &[1000], Wait::Yes).unwrap() == bytes(1000, 3));
    }
}

fn what_is_distrusted_is_read_again(pair: &Pair) {
    let contents = bytes(3 << 20, 4);
    let (id, _) = seal(&*pair.one, &contents);
    for backend in [&pair.one, &pair.other] {
        let pack = backend.open(id, true).unwrap();
        for range in [0..0, 0..1, (1 << 20) - 1..(2 << 20) + 1, 0..3 << 20] {
            assert!(read(&*pack, 0, &[3 << 20], Wait::Yes).unwrap() == contents);
            pack.distrust(range);
        }
        assert!(read(&*pack, 0, &[3 << 20], Wait::Yes).unwrap() == contents);
    }
}

fn what_is_not_there_is_said_to_be_absent(pair: &Pair) {
    let id = PackId::random().unwrap();
    let read = pair.one.open(id, true).and_then(|pack| read(&*pack, 0, &[1], Wait::Yes));
    assert_eq!(read.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(pair.one.reopen(id, 0).is_err());
}

#[test]
fn local_packs_conform() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Box::new(LocalPacks::open(dir.path()).unwrap());
    holds(&Pair { one: open(), other: open() });
}
