//! The worker protocol, word by word: what a client says is compared with bytes written by hand,
//! and what a daemon says is made of them.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use nix_compat::store_path::{StoreDir, StorePath};
use nix_compat::worker::{Client, Error, Greeting, Trust, Version};
use proptest::prelude::*;

const A: &str = "3dvgkdw6dhw4vh0ya73g64bh4mwxk56c-a";
const B: &str = "6s0pvdmzlpnqh5972il76vl09lknd67c-b";
const HEX: &[u8; 64] = b"eaa287c4ec819f5594f60af9cc26ca3c0fdd2649527f515288e62e34901c1c47";

/// What the client says first, and after the greeting of a daemon of the same age.
const HELLO_1_38: &[u8] = b"cxin\0\0\0\0\x26\x01\0\0\0\0\0\0\
    \0\0\0\0\0\0\0\0\
    \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
/// No features list before 1.38.
const HELLO: &[u8] = b"cxin\0\0\0\0\x26\x01\0\0\0\0\0\0\
    \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

const LAST: &[u8] = b"stla\0\0\0\0";
const ERROR: &[u8] = b"ptxc\0\0\0\0";
const NEXT: &[u8] = b"gmlo\0\0\0\0";
const NO: &[u8] = b"\0\0\0\0\0\0\0\0";
const YES: &[u8] = b"\x01\0\0\0\0\0\0\0";
const EMPTY: &[u8] = NO;

/// `/nix/store/<A>`, 45 bytes and 3 of padding.
const PATH_A: &[u8] = b"\x2d\0\0\0\0\0\0\0/nix/store/3dvgkdw6dhw4vh0ya73g64bh4mwxk56c-a\0\0\0";
const PATH_B: &[u8] = b"\x2d\0\0\0\0\0\0\0/nix/store/6s0pvdmzlpnqh5972il76vl09lknd67c-b\0\0\0";

fn greeting(minor: u8) -> Vec<u8> {
    let mut out = [b"oixd\0\0\0\0", &[minor, 1, 0, 0, 0, 0, 0, 0][..]].concat();
    if minor >= 38 {
        out.extend(b"\x01\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0warp\0\0\0\0");
    }
    if minor >= 33 {
        out.extend(b"\x06\0\0\0\0\0\0\x002.34.8\0\0");
    }
    if minor >= 35 {
        out.extend(b"\x02\0\0\0\0\0\0\0");
    }
    out.extend(LAST);
    out
}

fn path(name: &str) -> StorePath {
    name.parse().unwrap()
}

/// What came of talking to a daemon that says this, and what the client said.
fn talk<T>(
    daemon: &[u8],
    ask: impl FnOnce(&mut Client<&[u8], &mut Vec<u8>>) -> Result<T, Error>,
) -> (Result<T, Error>, Vec<u8>) {
    let mut said = Vec::new();
    let result = Client::connect(daemon, &mut said, StoreDir::default())
        .and_then(|mut client| ask(&mut client));
    (result, said)
}

#[test]
fn the_greeting_goes_by_the_older_of_two() {
    for (daemon, used, hello) in [
        (16, 16, HELLO),
        (33, 33, HELLO),
        (35, 35, HELLO),
        (38, 38, HELLO_1_38),
        (77, 38, HELLO_1_38),
    ] {
        let (result, said) = talk(&greeting(daemon), |client| Ok(client.greeting().clone()));
        let expected = Greeting {
            version: Version { major: 1, minor: used },
            daemon: (used >= 33).then(|| "2.34.8".to_owned()),
            trust: if used >= 35 { Trust::NotTrusted } else { Trust::Unknown },
            features: if used >= 38 { vec!["warp".to_owned()] } else { Vec::new() },
        };
        assert_eq!(result.unwrap(), expected);
        assert_eq!(said, hello, "1.{daemon}");
    }
}

#[test]
fn a_path_info_has_these_bytes() {
    let info = [
        LAST,
        YES,
        PATH_B, // deriver
        b"\x40\0\0\0\0\0\0\0",
        HEX,
        YES, // one reference
        PATH_A,
        b"\xbc\x36\x03\x6b\0\0\0\0", // registered
        b"\x58\x04\0\0\0\0\0\0",     // NAR size
        YES,                         // ultimate
        YES,                         // one signature
        b"\x03\0\0\0\0\0\0\0odd\0\0\0\0\0",
        b"\x40\0\0\0\0\0\0\0text:sha256:00xyyr3fi8l6hb839bv3f7yb86yjv7xi1cgh1xnhipym4asvb4aq",
    ]
    .concat();
    let log = [NEXT, b"\x05\0\0\0\0\0\0\0hello\0\0\0"].concat();
    for minor in [17, 26, 38] {
        // The second path is not valid.
        let daemon = [&greeting(minor)[..], &log, &info, LAST, NO].concat();
        let (result, said) = talk(&daemon, |c| c.query_path_infos(&[path(A), path(B)]));
        let infos = result.unwrap();
        assert_eq!(infos[1], None);
        let info = infos[0].as_ref().unwrap();
        assert_eq!(info.store_path, path(A));
        assert_eq!(
            info.nar_hash.to_string(),
            "sha256:0iqw3j838bp6i1952zsj94kds3rwr8kcry8aysa5b7w1xk28g8pa"
        );
        assert_eq!(
            (info.nar_size, info.registration_time, info.ultimate),
            (1112, 1_795_372_732, true)
        );
        assert_eq!(info.references, [path(A)]);
        assert_eq!(info.deriver, Some(path(B)));
        assert!(info.signatures.is_empty());
        assert_eq!(info.odd_signatures, ["odd"]);
        assert!(info.ca.is_some());
        let hello = if minor == 38 { HELLO_1_38 } else { HELLO };
        let op = b"\x1a\0\0\0\0\0\0\0";
        assert_eq!(said, [hello, op, PATH_A, op, PATH_B].concat());
    }
    // Before 1.17 what is not valid is an error, and the connection goes on.
    let not_valid = [ERROR, b"\x0c\0\0\0\0\0\0\0is not valid\0\0\0\0", YES].concat();
    let info = [LAST, &info[16..]].concat();
    let daemon = [&greeting(16)[..], &not_valid, &info].concat();
    let (result, _) = talk(&daemon, |c| c.query_path_infos(&[path(B), path(A)]));
    let found: Vec<_> = result.unwrap().iter().map(Option::is_some).collect();
    assert_eq!(found, [false, true]);
}

#[test]
fn each_question_has_these_bytes() {
    type Ask = fn(&mut Client<&[u8], &mut Vec<u8>>) -> Result<String, Error>;
    let two: &[u8] = b"\x02\0\0\0\0\0\0\0";
    let paths = [two, PATH_A, PATH_B].concat();
    let out: &[u8] = b"\x03\0\0\0\0\0\0\0out\0\0\0\0\0";
    let hash = b"\x20\0\0\0\0\0\0\x003dvgkdw6dhw4vh0ya73g64bh4mwxk56c";
    // The version, a question, its bytes, those of the answer, and what it says.
    type Case<'a> = (u8, Ask, Vec<u8>, &'a [u8], &'a str);
    let cases: [Case; 9] = [
        (
            38,
            |c| Ok(format!("{:?}", c.is_valid_path(&path(A))?)),
            [YES, PATH_A].concat(),
            YES,
            "true",
        ),
        (
            38,
            |c| Ok(format!("{:?}", c.query_referrers(&path(A))?)),
            [b"\x06\0\0\0\0\0\0\0", PATH_A].concat(),
            &[YES, PATH_B].concat(),
            &format!("[StorePath({B})]"),
        ),
        (
            38,
            |c| Ok(format!("{:?}", c.query_all_valid_paths()?)),
            b"\x17\0\0\0\0\0\0\0".to_vec(),
            &[two, PATH_A, b"\x01\0\0\0\0\0\0\0x\0\0\0\0\0\0\0"].concat(),
            &format!(
                "[Ok(StorePath({A})), Err(NotInStore {{ path: \"x\", store_dir: StoreDir(/nix/store) }})]"
            ),
        ),
        (
            38,
            |c| Ok(format!("{:?}", c.query_path_from_hash_part(path(A).hash())?)),
            [b"\x1d\0\0\0\0\0\0\0", &hash[..]].concat(),
            EMPTY,
            "None",
        ),
        (
            27,
            |c| Ok(format!("{:?}", c.query_valid_paths(&[path(A), path(B)])?)),
            [b"\x1f\0\0\0\0\0\0\0", &paths[..], NO].concat(),
            EMPTY,
            "[]",
        ),
        (
            26,
            |c| Ok(format!("{:?}", c.query_valid_paths(&[path(A), path(B)])?)),
            [b"\x1f\0\0\0\0\0\0\0", &paths[..]].concat(),
            EMPTY,
            "[]",
        ),
        (
            38,
            |c| Ok(format!("{:?}", c.query_valid_derivers(&[path(A)])?)),
            [b"\x21\0\0\0\0\0\0\0", PATH_A].concat(),
            &[YES, PATH_B].concat(),
            &format!("[[StorePath({B})]]"),
        ),
        (
            22,
            |c| Ok(format!("{:?}", c.query_derivation_outputs(&[path(A)])?)),
            [b"\x29\0\0\0\0\0\0\0", PATH_A].concat(),
            // One output is not known yet.
            &[two, out, PATH_B, b"\x03\0\0\0\0\0\0\0dev\0\0\0\0\0", EMPTY].concat(),
            &format!("[[StorePath({B})]]"),
        ),
        (
            21,
            |c| Ok(format!("{:?}", c.query_derivation_outputs(&[path(A)])?)),
            [b"\x16\0\0\0\0\0\0\0", PATH_A].concat(),
            &[YES, PATH_B].concat(),
            &format!("[[StorePath({B})]]"),
        ),
    ];
    for (minor, ask, question, answer, expected) in cases {
        let daemon = [&greeting(minor)[..], LAST, answer].concat();
        let (result, said) = talk(&daemon, ask);
        assert_eq!(result.unwrap(), expected);
        let hello = if minor == 38 { HELLO_1_38 } else { HELLO };
        assert_eq!(said, [hello, &question].concat(), "{expected}");
    }
}

#[test]
fn many_questions_go_out_in_windows() {
    let paths = vec![path(A); 1000];
    let daemon = [&greeting(38)[..], &[LAST, NO].concat().repeat(1000)].concat();
    let (result, said) = talk(&daemon, |c| c.query_path_infos(&paths));
    assert_eq!(result.unwrap(), vec![None; 1000]);
    assert_eq!(said.len(), HELLO_1_38.len() + 1000 * (8 + PATH_A.len()));
}

#[test]
fn who_is_no_daemon_is_told_so() {
    let connect = |daemon: &[u8]| talk(daemon, |_| Ok(())).0.unwrap_err();
    assert!(matches!(connect(b"HTTP/1.1 400 Bad"), Error::NotADaemon(0x312e_312f_5054_5448)));
    let version =
        |major, minor| connect(&[b"oixd\0\0\0\0", &[minor, major, 0, 0, 0, 0, 0, 0][..]].concat());
    assert!(matches!(version(1, 15), Error::Version(Version { major: 1, minor: 15 })));
    assert_eq!(
        version(2, 38).to_string(),
        "the Nix daemon speaks protocol 2.38; 1.16 to 1.38 are understood"
    );
    assert!(connect(b"").is_disconnect());
}

#[test]
fn messages_that_want_data_have_no_place_in_a_query() {
    for message in [&b"atad\0\0\0\0\x07\0\0\0\0\0\0\0"[..], b"\x16tad\0\0\0\0\0\0\0\0\0\0\0\0"] {
        let daemon = [&greeting(38)[..], message, LAST, YES].concat();
        let (result, _) = talk(&daemon, |c| {
            let first = c.is_valid_path(&path(A));
            assert!(matches!(c.is_valid_path(&path(A)), Err(Error::Broken)));
            first
        });
        assert!(matches!(result, Err(Error::Message(_))));
    }
}

proptest! {
    #[test]
    fn no_bytes_make_a_client_panic(minor in 16u8..40, bytes: Vec<u8>, words: Vec<u8>) {
        // Words that are likely to mean something, then any bytes.
        let words = words.iter().flat_map(|word| match word % 8 {
            0..=2 => LAST,
            3 => ERROR,
            4 => NEXT,
            5 => YES,
            6 => PATH_A,
            _ => NO,
        });
        let daemon: Vec<u8> =
            greeting(minor).into_iter().chain(words.copied()).chain(bytes).collect();
        let (result, _) = talk(&daemon, |c| {
            c.query_all_valid_paths()?;
            c.query_path_infos(&[path(A), path(B)])?;
            c.query_derivation_outputs(&[path(A)])
        });
        prop_assert!(result.is_ok() || !result.unwrap_err().to_string().is_empty());
    }

    #[test]
    fn an_answer_cut_short_is_an_error(cut: prop::sample::Index) {
        let daemon = [&greeting(38)[..], LAST, YES, PATH_A].concat();
        let cut = daemon.get(..cut.index(daemon.len())).unwrap();
        let error = talk(cut, |c| c.query_referrers(&path(B))).0.unwrap_err();
        prop_assert!(error.is_disconnect(), "{}", error);
    }
}
