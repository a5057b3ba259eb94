//! What the narinfo reader and writer promise, on records real Nix wrote.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

use nix_compat::narinfo::{Error, Flags, MAX_NARINFO_SIZE, NarInfo, fingerprint};
use nix_compat::nixhash::Sha256;
use nix_compat::signature::{SigningKey, VerifyingKey};
use nix_compat::store_path::{ContentAddress, StoreDir, StorePath, build_ca_path};
use proptest::prelude::*;

const DERIVER_AND_SELF: &str = include_str!("data/deriver-and-self.narinfo");
const TEXT: &str = include_str!("data/text-with-references.narinfo");
const RECURSIVE: &str = include_str!("data/fixed-recursive-self.narinfo");
const FLAT: &str = include_str!("data/fixed-flat-sha1.narinfo");

const SECRET: &str = "test-1:jtn2OJ3ykapqte2fYqPJQLVDb0MH0cJRWnhydm4BsRIXWV7nZHWXlOebyRoRm5gOEDwW4a6zUprC4prD6U4U2g==";
const PUBLIC: &str = "test-1:F1le52R1l5Tnm8kaEZuYDhA8FuGus1KawuKaw+lOFNo=";

fn parse(text: &str) -> Result<NarInfo<'_>, Error> {
    NarInfo::parse(text, &StoreDir::default())
}

/// `TEXT` with the line of `field` replaced by `line`, or dropped.
fn with(field: &str, line: &str) -> String {
    let is_it = |l: &&str| l.starts_with(&format!("{field}: "));
    assert_eq!(TEXT.lines().filter(is_it).count(), 1);
    TEXT.lines()
        .map(|l| if is_it(&l) { line } else { l })
        .filter(|l| !l.is_empty())
        .map(|l| format!("{l}\n"))
        .collect()
}

#[test]
fn what_nix_writes_is_read_and_written_again_byte_for_byte() {
    for text in [DERIVER_AND_SELF, TEXT, RECURSIVE, FLAT] {
        let info = parse(text).unwrap();
        assert!(info.flags.is_empty(), "{:?}", info.flags);
        assert_eq!(info.render(&StoreDir::default()), text);
    }
}

#[test]
fn every_field_says_what_nix_meant() {
    let info = parse(DERIVER_AND_SELF).unwrap();
    let path: StorePath = "0123456789abcdfghijklmnpqrsvwxyz-selfref".parse().unwrap();
    let text: StorePath = "sb1dhjrwb4mxvmncxxprdr9c1pdf3ybd-text.txt".parse().unwrap();
    let hash = Sha256::from_nix32("0gmblrb0ikp7pqq7zbb51ybycmwfds9xibv9vd9gi8g85f486qm9").unwrap();
    assert_eq!(info.store_path, path);
    assert_eq!(info.url, "nar/0gmblrb0ikp7pqq7zbb51ybycmwfds9xibv9vd9gi8g85f486qm9.nar");
    assert_eq!(info.compression, Some("none"));
    assert_eq!(info.file_hash, Some(hash));
    assert_eq!(info.file_size, Some(216));
    assert_eq!((info.nar_hash, info.nar_size), (hash, 216));
    assert_eq!(info.references, [path, text]);
    assert_eq!(
        info.deriver.as_ref().map(StorePath::to_string).as_deref(),
        Some("l29apgfs3834h8sca9vbprndaxll5sp8-selfref.drv")
    );
    assert_eq!(info.signatures.len(), 1);
    assert_eq!(info.ca, None);
    assert!(parse(FLAT).unwrap().references.is_empty());
}

#[test]
fn signatures_of_nix_verify_and_ours_are_the_same() {
    let dir = StoreDir::default();
    let public: VerifyingKey = PUBLIC.parse().unwrap();
    let secret: SigningKey = SECRET.parse().unwrap();
    for text in [DERIVER_AND_SELF, TEXT, RECURSIVE, FLAT] {
        let mut info = parse(text).unwrap();
        assert!(info.is_signed_by(&dir, &public));
        assert_eq!(info.signatures, [secret.sign(&info.fingerprint(&dir))]);
        info.sign(&dir, &secret);
        assert_eq!(info.signatures.len(), 1, "it was signed already");

        info.nar_size += 1;
        assert!(!info.is_signed_by(&dir, &public));
        info.signatures.clear();
        assert!(!info.is_signed_by(&dir, &public));
        info.sign(&dir, &secret);
        assert!(info.is_signed_by(&dir, &public));
    }
}

#[test]
fn the_fingerprint_sorts_its_references() {
    let info = parse(TEXT).unwrap();
    let dir = StoreDir::default();
    let expected = "1;/nix/store/5kp70f3qpzbr2mmb8b5lhb37dr3gxr6p-refs.txt;\
        sha256:03rbjdv3jcbv98hxzip1h2wwya595p2l5mb16r8vjgcvsk56qhfb;224;\
        /nix/store/08g3c9zd7qsw0216x1bdlk7qrykjny7s-other,\
        /nix/store/sb1dhjrwb4mxvmncxxprdr9c1pdf3ybd-text.txt";
    assert_eq!(info.fingerprint(&dir), expected);
    let twice = info.references.iter().rev().chain(&info.references);
    assert_eq!(fingerprint(&dir, &info.store_path, &info.nar_hash, info.nar_size, twice), expected);
}

#[test]
fn content_addresses_lead_to_the_path_they_came_with() {
    for text in [TEXT, RECURSIVE, FLAT] {
        let info = parse(text).unwrap();
        let ca: ContentAddress = info.ca.unwrap();
        let (own, others): (Vec<_>, Vec<_>) =
            info.references.iter().partition(|r| **r == info.store_path);
        let name = info.store_path.name();
        let path = build_ca_path(name, &ca, others, !own.is_empty(), &StoreDir::default());
        assert_eq!(path.unwrap(), info.store_path);
    }
}

#[test]
fn another_store_directory_is_held_to() {
    let dir: StoreDir = "/opt/store".parse().unwrap();
    let text = TEXT.replace("/nix/store", "/opt/store");
    let info = NarInfo::parse(&text, &dir).unwrap();
    assert_eq!(info.render(&dir), text);
    assert!(info.fingerprint(&dir).starts_with("1;/opt/store/5kp70"));
    for error in [NarInfo::parse(TEXT, &dir).unwrap_err(), parse(&text).unwrap_err()] {
        assert!(matches!(error, Error::StorePath { field: "StorePath", .. }), "{error}");
    }
}

#[test]
fn oddities_that_nix_reads_are_read_and_noted() {
    let hex = "NarHash: sha256:cbb940b6d98f632d1916b1b8ab2e81e9d55ee4d9a48d2b0b0ed8ea24ad3ea35d";
    let hash = |line: &str| line.split_once(": ").unwrap().1.parse::<Sha256>().unwrap();
    let same_hash = |info: &NarInfo<'_>| info.nar_hash == hash(hex);
    let text = with("NarHash", hex);
    let info = parse(&text).unwrap();
    assert_eq!(info.flags, Flags::NAR_HASH_ENCODING);
    assert!(same_hash(&info));

    let [other, text_txt] = parse(TEXT).unwrap().references.try_into().unwrap();
    for (field, line, flag) in [
        ("FileHash", format!("FileHash: {}", &hex[9..]), Flags::FILE_HASH_ENCODING),
        ("References", String::new(), Flags::NO_REFERENCES),
        ("References", format!("References: {text_txt} {other}"), Flags::REFERENCES_ORDER),
        ("References", format!("References: {other} {other}"), Flags::REFERENCES_ORDER),
        ("Compression", String::new(), Flags::NO_COMPRESSION),
        ("Compression", "Compression: ".into(), Flags::NO_COMPRESSION),
        ("FileSize", "Deriver: unknown-deriver".into(), Flags::UNKNOWN_DERIVER),
        ("CA", "CA: ".into(), Flags::EMPTY_CA),
        ("Sig", "Sig: foo".into(), Flags::BAD_SIGNATURE),
        ("FileSize", "Granary-Root: 1:x".into(), Flags::UNKNOWN_FIELDS),
    ] {
        let text = with(field, &line);
        let info = parse(&text).unwrap();
        assert_eq!(info.flags, flag, "{line}");
        // Written out, all but the unknown field is as Nix would have it.
        let again = info.render(&StoreDir::default());
        let left = parse(&again).unwrap().flags;
        assert!(
            left.is_empty() || left == Flags::UNKNOWN_FIELDS || left == Flags::NO_COMPRESSION,
            "{left:?}"
        );
    }
    assert_eq!(
        format!("{:?}", Flags::NO_REFERENCES | Flags::EMPTY_CA),
        "Flags(NO_REFERENCES | EMPTY_CA)"
    );
}

#[test]
fn unknown_fields_survive_in_order() {
    let text = format!("{TEXT}B: 1\nA: x: y\nB: 2\n");
    let info = parse(&text).unwrap();
    assert_eq!(info.unknown, [("B", "1"), ("A", "x: y"), ("B", "2")]);
    assert_eq!(info.render(&StoreDir::default()), text);
}

#[test]
fn errors_name_the_field() {
    let message = |text: &str| parse(text).unwrap_err().to_string();
    for field in ["StorePath", "URL", "NarHash", "NarSize"] {
        assert_eq!(message(&with(field, "")), format!("{field}: missing"));
        assert!(message(&with(field, &format!("{field}: "))).starts_with(&format!("{field}: ")));
    }
    for line in TEXT.lines().filter(|l| !l.starts_with("Sig")) {
        let field = line.split_once(':').unwrap().0;
        let twice = format!("{TEXT}{line}\n");
        assert_eq!(message(&twice), format!("{field}: there is more than one"));
    }
    for (field, value, expected) in [
        ("NarSize", "0", "NarSize: \"0\" is not a number of bytes"),
        ("NarSize", "+1", "NarSize: \"+1\" is not a number of bytes"),
        (
            "NarSize",
            "18446744073709551616",
            "NarSize: \"18446744073709551616\" is not a number of bytes",
        ),
        ("FileSize", "-1", "FileSize: \"-1\" is not a number of bytes"),
        (
            "NarHash",
            "md5:4425hx5d1mc9y39llj4k4nm55i",
            "NarHash: the hash is md5 where sha256 is expected",
        ),
        ("FileHash", "x", "FileHash: the hash has no algorithm before it"),
        ("References", "x", "References: \"x\" does not start with a store path's hash and a dash"),
        ("CA", "x", "CA: \"x\" starts with neither \"text:\" nor \"fixed:\""),
    ] {
        assert_eq!(message(&with(field, &format!("{field}: {value}"))), expected);
    }
    let deriver = format!("{TEXT}Deriver: x\n");
    assert!(message(&deriver).starts_with("Deriver: "));
}

#[test]
fn text_that_is_no_narinfo_is_refused() {
    let dir = StoreDir::default();
    let parse = |bytes: &[u8]| NarInfo::parse(bytes, &dir).unwrap_err();
    assert_eq!(parse(b""), Error::Truncated);
    assert_eq!(parse(b"\n"), Error::Line(1));
    assert_eq!(parse(TEXT.trim_end().as_bytes()), Error::Truncated);
    assert_eq!(parse(b"StorePath\xff\n"), Error::NotUtf8(9));
    assert_eq!(parse(format!("{TEXT}\n").as_bytes()), Error::Line(11));
    assert_eq!(parse(format!("{TEXT}Foo:bar\n").as_bytes()), Error::Line(11));
    assert_eq!(parse(TEXT.replace('\n', "\r\n").as_bytes()), Error::ControlCharacter(1));
    assert_eq!(parse(&vec![b'a'; MAX_NARINFO_SIZE + 1]), Error::TooLarge(MAX_NARINFO_SIZE + 1));
    for end in 0..TEXT.len() {
        let cut = &TEXT[..end];
        if let Ok(info) = NarInfo::parse(cut, &dir) {
            // Cut between lines only, after all that must be there.
            assert!(cut.ends_with('\n') && cut.contains("NarSize"), "{info:?}");
        }
    }
}

fn store_path() -> impl Strategy<Value = StorePath> {
    (any::<[u8; 20]>(), "[0-9a-zA-Z+_?=][0-9a-zA-Z+._?=-]{0,40}")
        .prop_map(|(hash, name)| StorePath::new(hash.into(), &name).unwrap())
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(
        store_path in store_path(),
        url in "[!-~]{1,40}",
        compression in proptest::option::of("[a-z]{1,5}"),
        file in proptest::option::of((any::<[u8; 32]>(), any::<u64>())),
        nar_hash: [u8; 32],
        nar_size in 1u64..,
        mut references in proptest::collection::vec(store_path(), 0..5),
        deriver in proptest::option::of(store_path()),
        seeds in proptest::collection::vec(any::<[u8; 32]>(), 0..3),
        ca in proptest::option::of(any::<[u8; 32]>()),
    ) {
        references.sort();
        let dir = StoreDir::default();
        let mut info = NarInfo {
            store_path,
            url: &url,
            compression: compression.as_deref(),
            file_hash: file.map(|f| f.0.into()),
            file_size: file.map(|f| f.1),
            nar_hash: nar_hash.into(),
            nar_size,
            references,
            deriver,
            system: None,
            signatures: Vec::new(),
            ca: ca.map(|hash| ContentAddress::Text(hash.into())),
            unknown: Vec::new(),
            flags: if compression.is_none() { Flags::NO_COMPRESSION } else { Flags::default() },
        };
        for seed in seeds {
            info.sign(&dir, &SigningKey::generate("key-1", seed).unwrap());
        }
        let text = info.render(&dir);
        prop_assert_eq!(NarInfo::parse(&text, &dir).unwrap(), info);
    }

    #[test]
    fn no_input_panics(mut text in Just(TEXT.as_bytes().to_vec()), edits in
        proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..5))
    {
        for (at, byte) in edits {
            let at = at.index(text.len());
            text[at] = byte;
        }
        let _ = NarInfo::parse(&text, &StoreDir::default());
    }
}
