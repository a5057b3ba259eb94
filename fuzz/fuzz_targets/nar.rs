//! NARs, and their listings as JSON.
//!
//! Input: a NAR, or JSON when it starts with a brace.

#![no_main]

use std::io::Read;

use granary_fuzz::Pieces;
use libfuzzer_sys::fuzz_target;
use nix_compat::nar::{Event, Listing, Reader, Writer, listing, reader};

/// How deep a listing may nest for `serde_json` to read it; documented beside [`Listing`].
const READABLE_DEPTH: usize = 60;

fuzz_target!(|data: &[u8]| {
    if data.first() == Some(&b'{') {
        json(data);
    } else {
        nar(data);
    }
});

fn nar(data: &[u8]) {
    let copied = copy(data);
    let seed = data.len() as u8;
    let in_pieces = copy(Pieces::new(data, seed));
    let skipped = Reader::new(Pieces::new(data, seed ^ 0x55)).finish();
    match &copied {
        Ok(nar) => {
            assert!(nar == data, "a NAR was read that is not the one of its tree");
            assert_eq!(in_pieces.unwrap(), data);
            assert_eq!(skipped.unwrap(), data.len() as u64);
        }
        // Where it fails, and why, does not depend on how the bytes came.
        Err(error) => {
            assert_eq!(error.to_string(), in_pieces.unwrap_err().to_string());
            assert_eq!(error.to_string(), skipped.unwrap_err().to_string());
        }
    }
    match Listing::from_reader(Reader::new(data)) {
        Ok(listing) => {
            assert!(copied.is_ok(), "a listing of what is no NAR");
            check_node(&listing.root, data);
            let json = serde_json::to_vec(&listing).unwrap();
            match serde_json::from_slice::<Listing>(&json) {
                Ok(read) => assert_eq!(read, listing),
                Err(_) => assert!(depth(&listing.root) >= READABLE_DEPTH),
            }
        }
        Err(listing::Error::NotUtf8 { .. }) => {}
        Err(listing::Error::Nar(_)) => assert!(copied.is_err(), "a NAR without a listing"),
    }
}

/// Reads a NAR and writes what it says as another.
fn copy(nar: impl Read) -> Result<Vec<u8>, reader::Error> {
    let mut reader = Reader::new(nar);
    let mut out = Writer::new(Vec::new());
    while let Some(event) = reader.next()? {
        match event {
            Event::EnterDirectory { name } => out.enter_directory(name).unwrap(),
            Event::LeaveDirectory => out.leave_directory().unwrap(),
            Event::Symlink { name, target } => out.symlink(name, target).unwrap(),
            Event::File { name, executable, size } => {
                out.begin_file(name, executable, size).unwrap();
                assert_eq!(out.position(), reader.position());
                loop {
                    let piece = reader.fill_contents()?;
                    if piece.is_empty() {
                        break;
                    }
                    // Not all that is there, so that pieces are left over.
                    let taken = piece.len().div_ceil(2);
                    out.write_contents(&piece[..taken]).unwrap();
                    reader.consume_contents(taken);
                }
                out.end_file().unwrap();
            }
        }
    }
    reader.finish()?;
    Ok(out.finish().unwrap())
}

/// Every file of a listing lies in the NAR, behind its own length.
fn check_node(node: &listing::Node, nar: &[u8]) {
    match node {
        listing::Node::Directory { entries } => {
            entries.values().for_each(|node| check_node(node, nar));
        }
        listing::Node::Regular { size, nar_offset, .. } => {
            let start = *nar_offset as usize;
            assert_eq!(nar[start - 8..start], size.to_le_bytes());
            assert!(start as u64 + size <= nar.len() as u64);
        }
        listing::Node::Symlink { target } => assert!(!target.is_empty()),
    }
}

fn depth(node: &listing::Node) -> usize {
    match node {
        listing::Node::Directory { entries } => 1 + entries.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn json(data: &[u8]) {
    let Ok(listing) = serde_json::from_slice::<Listing>(data) else {
        return;
    };
    let written = serde_json::to_vec(&listing).unwrap();
    assert_eq!(serde_json::from_slice::<Listing>(&written).unwrap(), listing);
}
