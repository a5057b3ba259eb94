//! What holds for NARs of any tree, however their bytes arrive.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

use std::collections::BTreeMap;
use std::io::Read;

use nix_compat::nar::reader::{Error, Problem, Reader};
use nix_compat::nar::{Event, Listing, Writer, writer};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

#[derive(Debug, Clone, PartialEq)]
enum Tree {
    File { executable: bool, contents: Vec<u8> },
    Symlink(Vec<u8>),
    Directory(BTreeMap<Vec<u8>, Tree>),
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    vec(prop_oneof![1u8..=b'.', b'0'..=255], 1..20)
        .prop_filter("no dots", |name| name != b"." && name != b"..")
}

fn tree() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![
        (any::<bool>(), vec(any::<u8>(), 0..70))
            .prop_map(|(executable, contents)| Tree::File { executable, contents }),
        vec(1u8.., 1..50).prop_map(Tree::Symlink),
    ];
    leaf.prop_recursive(5, 40, 8, |node| btree_map(name(), node, 0..8).prop_map(Tree::Directory))
}

fn pack(tree: &Tree, name: &[u8], nar: &mut Writer<Vec<u8>>) -> Result<(), writer::Error> {
    match tree {
        Tree::File { executable, contents } => {
            nar.file(name, *executable, contents.len() as u64, &mut &contents[..])
        }
        Tree::Symlink(target) => nar.symlink(name, target),
        Tree::Directory(entries) => {
            nar.enter_directory(name)?;
            for (name, node) in entries {
                pack(node, name, nar)?;
            }
            nar.leave_directory()
        }
    }
}

fn nar_of(tree: &Tree) -> Vec<u8> {
    let mut nar = Writer::new(Vec::new());
    pack(tree, b"", &mut nar).unwrap();
    nar.finish().unwrap()
}

/// Reads a NAR and writes what it says as another.
fn copy(nar: impl Read) -> Result<Vec<u8>, Error> {
    let mut reader = Reader::new(nar);
    let mut out = Writer::new(Vec::new());
    while let Some(event) = reader.next()? {
        match event {
            Event::EnterDirectory { name } => out.enter_directory(name).unwrap(),
            Event::LeaveDirectory => out.leave_directory().unwrap(),
            Event::Symlink { name, target } => out.symlink(name, target).unwrap(),
            Event::File { name, executable, size } => {
                out.begin_file(name, executable, size).unwrap();
                loop {
                    let piece = reader.fill_contents()?;
                    if piece.is_empty() {
                        break;
                    }
                    // Not all that is there, so that pieces are left over.
                    let n = piece.len().div_ceil(2);
                    out.write_contents(&piece[..n]).unwrap();
                    reader.consume_contents(n);
                }
                out.end_file().unwrap();
            }
        }
    }
    reader.finish()?;
    Ok(out.finish().unwrap())
}

/// Gives its bytes in pieces of these sizes, over and over.
struct Pieces<'a> {
    bytes: &'a [u8],
    sizes: std::iter::Cycle<std::vec::IntoIter<usize>>,
}

impl Read for Pieces<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let n = self.sizes.next().unwrap_or(1).min(self.bytes.len()).min(out.len());
        let (now, later) = self.bytes.split_at(n);
        out[..n].copy_from_slice(now);
        self.bytes = later;
        Ok(n)
    }
}

fn in_pieces(bytes: &[u8], sizes: Vec<usize>) -> Pieces<'_> {
    Pieces { bytes, sizes: sizes.into_iter().cycle() }
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    vec(1usize..40, 1..20)
}

proptest! {
    #[test]
    fn any_tree_survives_however_its_bytes_arrive(tree in tree(), sizes in sizes()) {
        let nar = nar_of(&tree);
        prop_assert_eq!(nar.len() % 8, 0);
        prop_assert_eq!(&copy(&nar[..]).unwrap(), &nar);
        prop_assert_eq!(&copy(in_pieces(&nar, sizes)).unwrap(), &nar);
    }

    #[test]
    fn any_truncation_is_found(tree in tree(), sizes in sizes(), at: prop::sample::Index) {
        let nar = nar_of(&tree);
        let cut = &nar[..at.index(nar.len())];
        let truncated = |e: &Error| matches!(e, Error::Malformed { at, problem: Problem::Truncated }
            if at.offset == cut.len() as u64);
        let error = copy(in_pieces(cut, sizes)).unwrap_err();
        prop_assert!(truncated(&error), "{}", error);
        let error = Reader::new(cut).finish().unwrap_err();
        prop_assert!(truncated(&error), "{}", error);
    }

    /// Whatever is read is the one NAR of what it says: a changed byte shows.
    #[test]
    fn a_changed_nar_is_refused_or_is_another_tree(
        tree in tree(),
        edits in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut nar = nar_of(&tree);
        for (at, byte) in edits {
            let at = at.index(nar.len());
            nar[at] = byte;
        }
        if let Ok(again) = copy(&nar[..]) {
            prop_assert_eq!(again, nar);
        }
    }

    #[test]
    fn cut_and_spliced_nars_never_panic(
        tree in tree(), from: prop::sample::Index, to: prop::sample::Index,
    ) {
        let nar = nar_of(&tree);
        let spliced = [&nar[..from.index(nar.len())], &nar[to.index(nar.len())..]].concat();
        if let Ok(again) = copy(&spliced[..]) {
            prop_assert_eq!(again, spliced);
        }
    }

    #[test]
    fn bytes_of_any_kind_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        prop_assert!(copy(&bytes[..]).is_err());
        let magic = &nar_of(&Tree::Symlink(vec![b'x']))[..24];
        prop_assert!(copy(&[magic, &bytes[..]].concat()[..]).is_err());
    }

    #[test]
    fn a_listing_points_at_the_contents_and_survives_json(tree in tree()) {
        let nar = nar_of(&tree);
        if let Ok(listing) = Listing::from_reader(Reader::new(&nar[..])) {
            let json = serde_json::to_string(&listing).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Listing>(&json).unwrap(), &listing);
            compare(&tree, &listing.root, &nar);
        }
    }
}

fn compare(tree: &Tree, node: &nix_compat::nar::listing::Node, nar: &[u8]) {
    use nix_compat::nar::listing::Node;
    match (tree, node) {
        (
            Tree::File { executable: e, contents },
            Node::Regular { size, executable, nar_offset },
        ) => {
            let at = *nar_offset as usize;
            assert_eq!((e, contents.len() as u64), (executable, *size));
            assert_eq!(&nar[at..at + contents.len()], contents);
        }
        (Tree::Symlink(a), Node::Symlink { target: b }) => assert_eq!(a, b.as_bytes()),
        (Tree::Directory(a), Node::Directory { entries: b }) => {
            assert_eq!(a.len(), b.len());
            for ((a, x), (b, y)) in a.iter().zip(b) {
                assert_eq!(a, b.as_bytes());
                compare(x, y, nar);
            }
        }
        other => panic!("{other:?}"),
    }
}
