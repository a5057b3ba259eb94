//! What holds for any tree: taken in as a NAR, in any compression and however its bytes arrive, it
//! comes out again in every representation, whole and from any offset.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::Arc;

use castore::Holder;
use castore::{Options, Store};
use narbridge::compression::{Compression, StoredEncoder, decoder};
use narbridge::ingest::{Announced, IngestError, Ingested, ingest};
use narbridge::nar::{
    ByteRange, EncodedNar, NarBody, NarError, PlainNar, ZstdNar, ZstdPlan, listing,
};
use nix_compat::nar::listing::Error as ListingError;
use nix_compat::nar::{Listing, Reader, Writer};
use nix_compat::nixhash::Sha256;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use sha2::Digest;

#[derive(Debug, Clone)]
enum Tree {
    File { executable: bool, contents: Contents },
    Symlink(Vec<u8>),
    Directory(BTreeMap<Vec<u8>, Tree>),
}

/// Contents, told in a way that is short to print when they are long.
#[derive(Debug, Clone)]
enum Contents {
    Bytes(Vec<u8>),
    /// Bytes that do not compress.
    Noise {
        seed: u8,
        len: usize,
    },
    Repeated {
        text: Vec<u8>,
        len: usize,
    },
}

impl Contents {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Contents::Bytes(bytes) => bytes.clone(),
            Contents::Noise { seed, len } => {
                let mut out = vec![0; *len];
                blake3::Hasher::new().update(&[*seed]).finalize_xof().fill(&mut out);
                out
            }
            Contents::Repeated { text, len } => text.iter().copied().cycle().take(*len).collect(),
        }
    }
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    // Names that are not UTF-8 have no listing, so they must be rare.
    let text = vec(prop_oneof![b' '..=b'.', b'0'..=b'~'], 1..20);
    let bytes = vec(prop_oneof![1u8..=b'.', b'0'..=255], 1..255);
    prop_oneof![50 => text, 1 => bytes].prop_filter("no dots", |name| name != b"." && name != b"..")
}

fn tree(contents: BoxedStrategy<Contents>) -> impl Strategy<Value = Tree> {
    let file = (any::<bool>(), contents)
        .prop_map(|(executable, contents)| Tree::File { executable, contents });
    let leaf = prop_oneof![4 => file, 1 => vec(1u8..128, 1..50).prop_map(Tree::Symlink)];
    leaf.prop_recursive(5, 30, 8, |node| btree_map(name(), node, 0..8).prop_map(Tree::Directory))
}

/// Small files. Few seeds, so that some files of a tree are alike.
fn short() -> BoxedStrategy<Contents> {
    prop_oneof![
        vec(any::<u8>(), 0..40).prop_map(Contents::Bytes),
        (0u8..4, 0usize..5000).prop_map(|(seed, len)| Contents::Noise { seed, len }),
    ]
    .boxed()
}

/// Files of no, one and many chunks, and around the length from which files are cut as they come.
fn long() -> BoxedStrategy<Contents> {
    let len = prop_oneof![
        3 => 0usize..100_000,
        3 => 500_000usize..3_000_000,
        1 => 1_048_574usize..1_048_579,
    ];
    let noise = (0u8..3, len.clone()).prop_map(|(seed, len)| Contents::Noise { seed, len });
    let text = vec(any::<u8>(), 1..100_000);
    let repeated = (text, len).prop_map(|(text, len)| Contents::Repeated { text, len });
    prop_oneof![noise, repeated].boxed()
}

fn write(tree: &Tree, name: &[u8], nar: &mut Writer<Vec<u8>>) {
    match tree {
        Tree::File { executable, contents } => {
            let bytes = contents.bytes();
            nar.file(name, *executable, bytes.len() as u64, &mut &bytes[..]).unwrap();
        }
        Tree::Symlink(target) => nar.symlink(name, target).unwrap(),
        Tree::Directory(entries) => {
            nar.enter_directory(name).unwrap();
            entries.iter().for_each(|(name, node)| write(node, name, nar));
            nar.leave_directory().unwrap();
        }
    }
}

fn nar_of(tree: &Tree) -> Vec<u8> {
    let mut nar = Writer::new(Vec::new());
    write(tree, b"", &mut nar);
    nar.finish().unwrap()
}

fn compress(compression: Compression, plain: &[u8]) -> Vec<u8> {
    fn write_to<W: Write>(mut encoder: W, plain: &[u8]) -> W {
        encoder.write_all(plain).unwrap();
        encoder
    }
    let out = Vec::new();
    match compression {
        Compression::None => plain.to_vec(),
        Compression::Zstd => zstd::encode_all(plain, 1).unwrap(),
        Compression::Xz => {
            write_to(liblzma::write::XzEncoder::new(out, 0), plain).finish().unwrap()
        }
        Compression::Bzip2 => {
            let encoder = bzip2::write::BzEncoder::new(out, bzip2::Compression::fast());
            write_to(encoder, plain).finish().unwrap()
        }
        Compression::Gzip => {
            let encoder = flate2::write::GzEncoder::new(out, flate2::Compression::fast());
            write_to(encoder, plain).finish().unwrap()
        }
        Compression::Lz4 => {
            write_to(lz4_flex::frame::FrameEncoder::new(out), plain).finish().unwrap()
        }
        // There is only a decoder among the dependencies.
        Compression::Brotli => stored(compression, plain),
    }
}

/// What this program itself gives out as that compression.
fn stored(compression: Compression, plain: &[u8]) -> Vec<u8> {
    let mut encoder = StoredEncoder::new(compression, plain.len() as u64).unwrap();
    let mut out = Vec::new();
    encoder.encode(plain, &mut out).unwrap();
    encoder.finish(&mut out).unwrap();
    out
}

/// How a body comes in.
#[derive(Debug, Clone)]
struct Way {
    compression: Compression,
    /// Really compressed, or only framed.
    compress: bool,
    /// Whether the server is told the compression. Brotli cannot be told from the bytes.
    announce: bool,
    /// Lengths of the pieces that it is read in, in turn; 0 is an interrupted read.
    pieces: Vec<usize>,
}

fn way() -> impl Strategy<Value = Way> {
    let piece =
        prop_oneof![4 => 1usize..10, 4 => 1usize..5000, 4 => 50_000usize..300_000, 1 => Just(0)];
    // The first one is no interruption, so that there is progress.
    let pieces = (1usize..100_000, vec(piece, 0..8))
        .prop_map(|(first, rest)| std::iter::once(first).chain(rest).collect());
    (select(&Compression::ALL[..]), any::<bool>(), any::<bool>(), pieces).prop_map(
        |(compression, compress, announce, pieces)| {
            let announce = announce || compression == Compression::Brotli;
            Way { compression, compress, announce, pieces }
        },
    )
}

impl Way {
    fn body(&self, nar: &[u8]) -> Vec<u8> {
        if self.compress { compress(self.compression, nar) } else { stored(self.compression, nar) }
    }

    fn ingest(&self, store: &Arc<Store>, body: &[u8]) -> Result<Ingested, IngestError> {
        let compression = self.announce.then_some(self.compression);
        let body = InPieces { left: body, pieces: self.pieces.iter().cycle() };
        ingest(
            store,
            body,
            Announced { compression, max_nar_size: u64::MAX, holder: Holder::named(b"test") },
        )
    }
}

struct InPieces<'a> {
    left: &'a [u8],
    pieces: std::iter::Cycle<std::slice::Iter<'a, usize>>,
}

impl Read for InPieces<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match *self.pieces.next().unwrap() {
            0 => Err(io::ErrorKind::Interrupted.into()),
            piece => {
                let len = piece.min(out.len());
                self.left.read(&mut out[..len])
            }
        }
    }
}

fn open() -> (tempfile::TempDir, Arc<Store>) {
    let dir = tempfile::tempdir().unwrap();
    let mut progress = |_| {};
    let options = Options { pack_target: 4 * 1024 * 1024, ..Options::new(&mut progress) };
    let store = Store::open(dir.path(), options).unwrap();
    (dir, store)
}

/// Bytes of a whole, from the one index to the other.
fn range(len: usize, [a, b]: [Index; 2]) -> ByteRange {
    let (a, b) = (a.index(len + 1) as u64, b.index(len + 1) as u64);
    a.min(b)..a.max(b)
}

fn all(mut body: impl NarBody) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(window) = body.next_window().unwrap() {
        assert!(!window.is_empty(), "an empty window that is not the end");
        out.extend_from_slice(&window);
    }
    assert!(body.next_window().unwrap().is_none(), "bytes after the end");
    out
}

fn slice(whole: &[u8], range: &ByteRange) -> Vec<u8> {
    whole[range.start as usize..range.end as usize].to_vec()
}

/// `vec` comparison that does not print megabytes.
fn assert_same(got: &[u8], expected: &[u8], what: &str) {
    let differs = got.iter().zip(expected).position(|(a, b)| a != b);
    assert!(
        got == expected,
        "{what}: {} bytes instead of {}, first difference: {differs:?}",
        got.len(),
        expected.len()
    );
}

fn sha256(bytes: &[u8]) -> Sha256 {
    Sha256::from(<[u8; 32]>::from(sha2::Sha256::digest(bytes)))
}

fn check_round_trip(tree: &Tree, way: &Way, formats: &[Compression], ranges: &[[Index; 2]]) {
    let (_dir, store) = open();
    let nar = nar_of(tree);
    let body = way.body(&nar);
    let taken = way.ingest(&store, &body).unwrap();
    assert_eq!((taken.nar_hash, taken.nar_size), (sha256(&nar), nar.len() as u64));
    assert_eq!((taken.file_hash, taken.file_size), (sha256(&body), body.len() as u64));
    assert_eq!(taken.compression, way.compression);
    let kept = store.tree(&taken.uploaded.tree).unwrap();
    assert_eq!(*kept.root(), taken.uploaded.root);

    let plain = |range| PlainNar::new(store.clone(), kept.clone(), range).unwrap();
    let whole = plain(0..nar.len() as u64);
    assert_same(&all(whole), &nar, "plain");
    for indices in ranges {
        let range = range(nar.len(), *indices);
        assert_same(&all(plain(range.clone())), &slice(&nar, &range), &format!("plain {range:?}"));
    }

    let plan = Arc::new(ZstdPlan::new(&store, &kept).unwrap());
    let frames = |range| ZstdNar::new(store.clone(), plan.clone(), range);
    let whole = all(frames(0..plan.total_len()));
    assert_eq!(plan.total_len(), whole.len() as u64);
    assert_same(&zstd::decode_all(&whole[..]).unwrap(), &nar, "frames");
    for indices in ranges {
        let range = range(whole.len(), *indices);
        assert_same(
            &all(frames(range.clone())),
            &slice(&whole, &range),
            &format!("frames {range:?}"),
        );
    }

    for &format in formats {
        let encoded = |range| {
            EncodedNar::new(store.clone(), kept.clone(), format, nar.len() as u64, range).unwrap()
        };
        let len = EncodedNar::encoded_len(format, nar.len() as u64).unwrap();
        let body = encoded(0..len.unwrap_or(u64::MAX));
        let whole = all(body);
        assert_eq!(len.unwrap_or(whole.len() as u64), whole.len() as u64);
        let mut decoded = Vec::new();
        decoder(format, &whole[..]).unwrap().read_to_end(&mut decoded).unwrap();
        assert_same(&decoded, &nar, format.name());
        for indices in ranges {
            let range = range(whole.len(), *indices);
            let part = all(encoded(range.clone()));
            assert_same(&part, &slice(&whole, &range), &format!("{format} {range:?}"));
        }
    }

    match (listing(&kept), Listing::from_reader(Reader::new(&nar[..]))) {
        (Ok(kept), Ok(read)) => assert_eq!(kept, read),
        (Err(NarError::NotUtf8(_)), Err(ListingError::NotUtf8 { .. })) => {}
        (kept, read) => panic!("{kept:?} of the tree, {read:?} of the NAR"),
    }
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 200, ..Default::default() }
}

proptest! {
    #![proptest_config(cases(100))]

    #[test]
    fn any_tree_comes_out_as_it_went_in(
        tree in tree(short()),
        way in way(),
        ranges in vec(any::<[Index; 2]>(), 4),
    ) {
        check_round_trip(&tree, &way, &Compression::ALL, &ranges);
    }

    #[test]
    fn a_body_that_is_cut_short_is_refused(
        tree in tree(short()),
        way in way(),
        cut in any::<Index>(),
    ) {
        let (_dir, store) = open();
        let body = way.body(&nar_of(&tree));
        prop_assert!(way.ingest(&store, &body[..cut.index(body.len())]).is_err());
        prop_assert!(way.ingest(&store, &body).is_ok());
    }
}

proptest! {
    #![proptest_config(cases(12))]

    #[test]
    fn a_tree_of_long_files_comes_out_as_it_went_in(
        tree in tree(long()),
        way in way(),
        format in select(&Compression::ALL[..]),
        ranges in vec(any::<[Index; 2]>(), 3),
    ) {
        check_round_trip(&tree, &way, &[format], &ranges);
    }
}

#[test]
fn a_root_can_be_anything() {
    let file = |contents| Tree::File { executable: true, contents };
    let long = Contents::Noise { seed: 9, len: 2_500_000 };
    let empty = || Contents::Bytes(Vec::new());
    let nested =
        [(b"empty".to_vec(), Tree::Directory(BTreeMap::new())), (b"none".to_vec(), file(empty()))];
    let roots = [
        file(empty()),
        file(Contents::Bytes(b"x".to_vec())),
        file(long),
        Tree::Symlink(b"/nix/store".to_vec()),
        Tree::Directory(BTreeMap::new()),
        Tree::Directory(nested.into()),
    ];
    let way = Way {
        compression: Compression::Zstd,
        compress: true,
        announce: false,
        pieces: vec![10_000],
    };
    for root in &roots {
        check_round_trip(root, &way, &Compression::ALL, &[]);
    }
}
