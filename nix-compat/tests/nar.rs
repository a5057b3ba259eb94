//! What the NAR reader, writer and listing promise, on archives real Nix
//! wrote and on broken ones.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

use std::io::{self, BufRead, Read};

use nix_compat::nar::listing::{self, Listing};
use nix_compat::nar::reader::{Error, Place, Problem, Reader};
use nix_compat::nar::{Event, Limits, Violation, Writer, framing, writer};

/// `nix-store --dump` of the tree that data/README.md describes.
const TREE: &[u8] = include_bytes!("data/tree.nar");

/// One line per event of a NAR, with the contents of its files.
fn describe(nar: impl Read) -> Result<Vec<String>, Error> {
    let mut reader = Reader::new(nar);
    let mut lines = Vec::new();
    while let Some(event) = reader.next()? {
        let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
        let mut line = match event {
            Event::EnterDirectory { name } => format!("enter {}", text(name)),
            Event::LeaveDirectory => "leave".to_owned(),
            Event::File { name, executable, size } => {
                format!("{} {} {size}", if executable { "exec" } else { "file" }, text(name))
            }
            Event::Symlink { name, target } => format!("link {} -> {}", text(name), text(target)),
        };
        if line.starts_with("exec") || line.starts_with("file") {
            let offset = reader.position();
            let mut contents = Vec::new();
            loop {
                let piece = reader.fill_contents()?;
                let n = piece.len();
                contents.extend_from_slice(piece);
                reader.consume_contents(n);
                if n == 0 {
                    break;
                }
            }
            line += &format!(" at {offset}: {}", text(&contents));
        }
        lines.push(format!("{line} ({})", text(reader.path())));
    }
    reader.finish()?;
    Ok(lines)
}

fn tree_with(build: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut nar = Vec::new();
    framing::start(&mut nar);
    build(&mut nar);
    nar
}

/// A directory of empty files with these names, in this order.
fn directory_of(names: &[&[u8]]) -> Vec<u8> {
    tree_with(|nar| {
        framing::directory_open(nar);
        for name in names {
            framing::entry_open(nar, name);
            framing::file_open(nar, false, 0);
            framing::file_close(nar, 0);
            framing::entry_close(nar);
        }
        framing::directory_close(nar);
    })
}

fn problem(nar: &[u8]) -> Problem {
    match describe(nar).unwrap_err() {
        Error::Malformed { problem, .. } => problem,
        Error::Io { source, .. } => panic!("{source}"),
    }
}

fn violation(nar: &[u8]) -> Violation {
    match problem(nar) {
        Problem::Violation(violation) => violation,
        other => panic!("{other}"),
    }
}

#[test]
fn the_tree_nix_dumped_is_read_as_it_was() {
    assert_eq!(
        describe(TREE).unwrap(),
        [
            "enter  ()",
            "enter empty (empty)",
            "leave (empty)",
            "link link -> run (link)",
            "exec run 10 at 624: #!/bin/sh\\n (run)",
            "enter sub (sub)",
            "file eight 8 at 960: 12345678 (sub/eight)",
            "leave (sub)",
            "file zero 0 at 1184:  (zero)",
            "leave ()",
        ]
    );
    assert_eq!(Reader::new(TREE).finish().unwrap(), TREE.len() as u64);
}

#[test]
fn the_writer_writes_the_tree_as_nix_dumped_it() {
    let mut nar = Writer::new(Vec::new());
    nar.enter_directory(b"").unwrap();
    nar.enter_directory(b"empty").unwrap();
    nar.leave_directory().unwrap();
    nar.symlink(b"link", b"run").unwrap();
    nar.begin_file(b"run", true, 10).unwrap();
    assert_eq!(nar.position(), 624);
    nar.write_contents(b"#!/bin").unwrap();
    nar.write_contents(b"/sh\n").unwrap();
    nar.end_file().unwrap();
    nar.enter_directory(b"sub").unwrap();
    nar.file(b"eight", false, 8, &mut &b"12345678"[..]).unwrap();
    nar.leave_directory().unwrap();
    nar.file(b"zero", false, 0, &mut io::empty()).unwrap();
    nar.leave_directory().unwrap();
    assert_eq!(nar.position(), TREE.len() as u64);
    assert_eq!(nar.finish().unwrap(), TREE);
}

#[test]
fn a_nar_of_one_file_or_one_link_needs_no_directory() {
    let mut nar = Writer::new(Vec::new());
    nar.file(b"", false, 6, &mut &b"hello\n"[..]).unwrap();
    let nar = nar.finish().unwrap();
    // `nix-store --dump` of such a file.
    let expected = "DQAAAAAAAABuaXgtYXJjaGl2ZS0xAAAAAQAAAAAAAAAoAAAAAAAAAAQAAAAAAAAAdHlwZQAAAAAHAAAA\
        AAAAAHJlZ3VsYXIACAAAAAAAAABjb250ZW50cwYAAAAAAAAAaGVsbG8KAAABAAAAAAAAACkAAAAAAAAA";
    assert_eq!(data_encoding::BASE64.encode(&nar), expected);
    assert_eq!(describe(&nar[..]).unwrap(), ["file  6 at 96: hello\\n ()"]);

    let mut nar = Writer::new(Vec::new());
    nar.symlink(b"", b"/over/there").unwrap();
    let nar = nar.finish().unwrap();
    assert_eq!(describe(&nar[..]).unwrap(), ["link  -> /over/there ()"]);
}

#[test]
fn contents_not_taken_are_skipped() {
    let mut nar = Reader::new(TREE);
    let mut names = 0;
    while let Some(event) = nar.next().unwrap() {
        if let Event::File { size: 8, .. } = event {
            assert_eq!(nar.fill_contents().unwrap(), b"12345678");
            nar.consume_contents(3);
            assert_eq!(nar.position(), 963);
        }
        names += 1;
    }
    assert_eq!(names, 10);
    assert!(nar.next().unwrap().is_none(), "the end stays the end");
}

#[test]
fn contents_can_be_read_like_any_reader() {
    let big: Vec<u8> = (0..3_000_001u32).map(|i| (i * 7 / 3) as u8).collect();
    let mut nar = Writer::new(Vec::new());
    nar.file(b"", true, big.len() as u64, &mut &big[..]).unwrap();
    let nar = nar.finish().unwrap();
    // Below, at and above the size of the reader's own buffer.
    for step in [1000, 256 * 1024, 1 << 20] {
        let mut reader = Reader::new(&nar[..]);
        reader.next().unwrap();
        let mut got = Vec::new();
        let mut piece = vec![0; step];
        loop {
            let n = reader.contents().read(&mut piece).unwrap();
            got.extend_from_slice(&piece[..n]);
            assert_eq!(reader.position(), 128 + got.len() as u64);
            if n == 0 {
                break;
            }
        }
        assert!(got == big);
        assert!(reader.contents().fill_buf().unwrap().is_empty());
        assert_eq!(reader.finish().unwrap(), nar.len() as u64);
    }
}

#[test]
fn every_truncation_is_an_error_at_the_place_of_the_cut() {
    for end in 0..TREE.len() {
        match describe(&TREE[..end]).unwrap_err() {
            Error::Malformed { at, problem: Problem::Truncated } => {
                assert_eq!(at.offset, end as u64);
            }
            other => panic!("cut at {end}: {other}"),
        }
        assert!(Reader::new(&TREE[..end]).finish().is_err(), "skipping finds it, too");
    }
}

#[test]
fn bytes_after_the_end_are_an_error() {
    let longer = [TREE, b"\0"].concat();
    let error = describe(&longer[..]).unwrap_err();
    assert_eq!(error.place(), &Place { offset: TREE.len() as u64, path: vec![] });
    assert_eq!(problem(&longer), Problem::TrailingBytes);
}

#[test]
fn every_byte_counts() {
    let tree = describe(TREE).unwrap();
    for at in 0..TREE.len() {
        for bit in 0..8 {
            let mut nar = TREE.to_vec();
            nar[at] ^= 1 << bit;
            if let Ok(other) = describe(&nar[..]) {
                assert_ne!(other, tree, "bit {bit} of byte {at}");
            }
        }
    }
}

#[test]
fn padding_must_be_zero() {
    // After the contents of `run`, 10 bytes at 624.
    let mut nar = TREE.to_vec();
    nar[634] = 1;
    assert_eq!(problem(&nar), Problem::Padding);
    let error = describe(&nar[..]).unwrap_err();
    assert_eq!(error.place(), &Place { offset: 634, path: b"run".to_vec() });
    assert_eq!(
        error.to_string(),
        "not a valid NAR at byte 634, in \"run\": the padding is not zero"
    );
}

#[test]
fn a_file_without_contents_is_refused_though_nix_reads_it() {
    let mut nar = tree_with(|nar| framing::file_open(nar, false, 0));
    nar.truncate(nar.len() - 24);
    framing::directory_close(&mut nar);
    assert_eq!(problem(&nar), Problem::Expected("\"contents\""));
}

#[test]
fn what_is_no_nar_is_refused_at_its_first_bytes() {
    let magic = Problem::Expected("the magic \"nix-archive-1\"");
    for bytes in [&b"\xfd7zXZ\0\0\x04"[..], b"hello", &[0; 64]] {
        assert_eq!(problem(bytes), magic);
    }
    assert_eq!(problem(b""), Problem::Truncated);
}

#[test]
fn names_that_reach_out_of_the_tree_are_refused() {
    assert_eq!(violation(&directory_of(&[b""])), Violation::EmptyName);
    assert_eq!(violation(&directory_of(&[b"."])), Violation::DotName(b".".to_vec()));
    assert_eq!(violation(&directory_of(&[b".."])), Violation::DotName(b"..".to_vec()));
    for (name, byte) in [(&b"a/b"[..], b'/'), (b"/", b'/'), (b"a\0", 0)] {
        let name = name.to_vec();
        assert_eq!(violation(&directory_of(&[&name])), Violation::NameByte { name, byte });
    }
    let longest = [b'n'; 255];
    assert!(describe(&directory_of(&[&longest])[..]).is_ok());
    assert_eq!(
        violation(&directory_of(&[&[b'n'; 256]])),
        Violation::NameTooLong { len: 256, limit: 255 }
    );
    assert!(describe(&directory_of(&[b"...", b"a b", b"\xff\n"])[..]).is_ok());
}

#[test]
fn entries_come_in_byte_order_and_once() {
    assert!(describe(&directory_of(&[b"A", b"a", b"a.b", b"aa", b"\xff"])[..]).is_ok());
    assert_eq!(violation(&directory_of(&[b"a", b"a"])), Violation::Duplicate(b"a".to_vec()));
    let unsorted = directory_of(&[b"b", b"a"]);
    assert_eq!(
        violation(&unsorted),
        Violation::Unsorted { name: b"a".to_vec(), previous: b"b".to_vec() }
    );
    let nested = tree_with(|nar| {
        framing::directory_open(nar);
        for name in [&b"d"[..], b"c"] {
            framing::entry_open(nar, name);
            framing::directory_open(nar);
            framing::entry_open(nar, b"z");
            framing::symlink(nar, b"t");
            framing::entry_close(nar);
            framing::directory_close(nar);
            framing::entry_close(nar);
        }
    });
    assert_eq!(
        violation(&nested),
        Violation::Unsorted { name: b"c".to_vec(), previous: b"d".to_vec() }
    );
}

#[test]
fn symlink_targets_are_bounded() {
    let link = |target: &[u8]| tree_with(|nar| framing::symlink(nar, target));
    assert_eq!(violation(&link(b"")), Violation::EmptyTarget);
    assert_eq!(violation(&link(b"a\0b")), Violation::TargetNul);
    assert!(describe(&link(&[b't'; 4095])[..]).is_ok());
    assert_eq!(
        violation(&link(&[b't'; 4096])),
        Violation::TargetTooLong { len: 4096, limit: 4095 }
    );
}

#[test]
fn a_length_that_nobody_could_hold_is_refused_unread() {
    // The name `empty` claims to be 2^64 - 1 bytes long.
    let mut nar = TREE.to_vec();
    let at = nar.windows(5).position(|w| w == b"empty").unwrap();
    nar[at - 8..at].fill(0xff);
    assert_eq!(violation(&nar), Violation::NameTooLong { len: u64::MAX, limit: 255 });
    // A file that claims as much is a truncated one.
    let nar = tree_with(|nar| framing::file_open(nar, false, u64::MAX));
    assert_eq!(problem(&nar), Problem::Truncated);
}

#[test]
fn directories_nest_up_to_the_limit() {
    let nested = |depth: usize| {
        tree_with(|nar| {
            for _ in 1..depth {
                framing::directory_open(nar);
                framing::entry_open(nar, b"d");
            }
            framing::directory_open(nar);
            framing::directory_close(nar);
            for _ in 1..depth {
                framing::entry_close(nar);
                framing::directory_close(nar);
            }
        })
    };
    assert_eq!(describe(&nested(256)[..]).unwrap().len(), 512);
    assert_eq!(violation(&nested(257)), Violation::TooDeep { limit: 256 });
    let limits = Limits { max_depth: 2000, ..Limits::default() };
    Reader::with_limits(&nested(2000)[..], limits).finish().unwrap();
    // As deep as the reader goes by default, the listing is safe to drop.
    let listing = Listing::from_reader(Reader::new(&nested(256)[..])).unwrap();
    assert!(serde_json::to_string(&listing).unwrap().len() > 256 * 30);
}

#[test]
fn an_io_error_keeps_its_cause_and_a_reader_stays_failed() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::new(io::ErrorKind::ConnectionReset, "gone"))
        }
    }
    let mut reader = Reader::new(TREE[..700].chain(Broken));
    let error = loop {
        match reader.next() {
            Ok(event) => assert!(event.is_some()),
            Err(error) => break error,
        }
    };
    match error {
        Error::Io { at, source } => {
            assert_eq!(at.offset, 700);
            assert_eq!(source.kind(), io::ErrorKind::ConnectionReset);
        }
        other => panic!("{other}"),
    }
    let after = |e: Error| matches!(e, Error::Malformed { problem: Problem::AfterError, .. });
    assert!(reader.next().is_err_and(after));
    assert!(reader.fill_contents().is_err_and(after));
    assert_eq!(reader.contents().read(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[test]
fn the_writer_refuses_what_the_reader_would() {
    type Write = dyn Fn(&mut Writer<Vec<u8>>) -> Result<(), writer::Error>;
    let in_directory = |write: &Write| {
        let mut nar = Writer::new(Vec::new());
        nar.enter_directory(b"").unwrap();
        nar.symlink(b"m", b"t").unwrap();
        let error = write(&mut nar).unwrap_err();
        assert!(matches!(nar.finish(), Err(writer::Error::Order(_))), "it stays failed");
        error
    };
    for name in [&b""[..], b".", b"..", b"a/b", b"n\0", b"l", b"m", &[b'n'; 256]] {
        let error = in_directory(&|nar| nar.symlink(name, b"t"));
        assert!(matches!(error, writer::Error::Violation { .. }), "{error}");
    }
    for target in [&b""[..], b"\0", &[b't'; 4096]] {
        let error = in_directory(&|nar| nar.symlink(b"n", target));
        assert!(matches!(error, writer::Error::Violation { .. }), "{error}");
    }
    let error = in_directory(&|nar| nar.file(b"n", false, 2, &mut &b"1"[..]));
    assert_eq!(error.to_string(), "\"n\" was announced with 2 bytes, but has 1");
    let error = in_directory(&|nar| nar.file(b"n", false, 2, &mut &b"123"[..]));
    assert_eq!(error.to_string(), "\"n\" was announced with 2 bytes, but has more");
    let error = in_directory(&|nar| nar.write_contents(b"x"));
    assert!(matches!(error, writer::Error::Order(_)));
    let error = in_directory(&|nar| nar.begin_file(b"n", false, 1).and_then(|()| nar.end_file()));
    assert!(matches!(error, writer::Error::Size { .. }));

    let mut nar = Writer::new(Vec::new());
    assert!(matches!(nar.symlink(b"name", b"t"), Err(writer::Error::Order(_))));
    let mut nar = Writer::new(Vec::new());
    nar.symlink(b"", b"t").unwrap();
    assert!(matches!(nar.symlink(b"", b"t"), Err(writer::Error::Order(_))));
    assert!(matches!(Writer::new(Vec::new()).finish(), Err(writer::Error::Order(_))));
}

#[test]
fn the_listing_is_the_one_nix_writes() {
    let new = include_str!("data/tree-nix-2.34.ls");
    let old = include_str!("data/tree-nix-2.8.ls");
    let listing = Listing::from_reader(Reader::new(TREE)).unwrap();
    assert_eq!(serde_json::to_string(&listing).unwrap(), new);
    assert_eq!(serde_json::from_str::<Listing>(new).unwrap(), listing);
    assert_eq!(serde_json::from_str::<Listing>(old).unwrap(), listing);
    let value = |text| serde_json::from_str::<serde_json::Value>(text).unwrap();
    assert_eq!(value(new), value(old));
}

#[test]
fn a_tree_whose_names_json_cannot_hold_has_no_listing() {
    let nar = directory_of(&[b"a", b"\xff"]);
    match Listing::from_reader(Reader::new(&nar[..])) {
        Err(listing::Error::NotUtf8 { path }) => assert_eq!(path, b"\xff"),
        other => panic!("{other:?}"),
    }
    assert!(Listing::from_reader(Reader::new(&nar[..nar.len() - 1])).is_err());
}

#[test]
fn listings_with_bad_names_or_versions_are_refused() {
    let parse = |text: &str| serde_json::from_str::<Listing>(text);
    let root = r#"{"type":"directory","entries":{"NAME":{"type":"symlink","target":"t"}}}"#;
    let listing = |name: &str, version: u8| {
        format!(r#"{{"version":{version},"root":{}}}"#, root.replace("NAME", name))
    };
    assert!(parse(&listing("a", 1)).is_ok());
    assert!(parse(&listing("a", 2)).is_err());
    for name in ["", ".", "..", "a/b", "\\u0000"] {
        assert!(parse(&listing(name, 1)).is_err(), "{name}");
    }
}
