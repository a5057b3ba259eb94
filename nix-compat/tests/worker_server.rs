//! The worker protocol from the daemon's side: requests and answers against bytes written by hand,
//! against each other, and against our own client in every version.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use nix_compat::path_info::PathInfo;
use nix_compat::store_path::{StoreDir, StorePath, StorePathHash};
use nix_compat::worker::request::{ArgumentError, BuildMode, ReadError, Target};
use nix_compat::worker::server::{Error, Hello, MAX_REQUEST, Server};
use nix_compat::worker::{self, Answer, Client, Request, Trust, Version};
use proptest::prelude::*;

const A: &str = "3dvgkdw6dhw4vh0ya73g64bh4mwxk56c-a";
const B: &str = "6s0pvdmzlpnqh5972il76vl09lknd67c-b";
const D: &str = "6s0pvdmzlpnqh5972il76vl09lknd67c-b.drv";
const HEX: &[u8; 64] = b"eaa287c4ec819f5594f60af9cc26ca3c0fdd2649527f515288e62e34901c1c47";

const LAST: &[u8] = b"stla\0\0\0\0";
const ERROR: &[u8] = b"ptxc\0\0\0\0";
const NO: &[u8] = b"\0\0\0\0\0\0\0\0";
const YES: &[u8] = b"\x01\0\0\0\0\0\0\0";
const TWO: &[u8] = b"\x02\0\0\0\0\0\0\0";
const EMPTY: &[u8] = NO;
const PATH_A: &[u8] = b"\x2d\0\0\0\0\0\0\0/nix/store/3dvgkdw6dhw4vh0ya73g64bh4mwxk56c-a\0\0\0";
const PATH_B: &[u8] = b"\x2d\0\0\0\0\0\0\0/nix/store/6s0pvdmzlpnqh5972il76vl09lknd67c-b\0\0\0";
/// 49 bytes and 7 of padding.
const PATH_D: &[u8] =
    b"\x31\0\0\0\0\0\0\0/nix/store/6s0pvdmzlpnqh5972il76vl09lknd67c-b.drv\0\0\0\0\0\0\0";
const OUTPUTS_D: &[u8] =
    b"\x39\0\0\0\0\0\0\0/nix/store/6s0pvdmzlpnqh5972il76vl09lknd67c-b.drv!dev,out\0\0\0\0\0\0\0";
const ALL_D: &[u8] =
    b"\x33\0\0\0\0\0\0\0/nix/store/6s0pvdmzlpnqh5972il76vl09lknd67c-b.drv!*\0\0\0\0\0";

const HELLO: Hello<'_> = Hello { newest: Version::MAX, name: "Granary", trust: Trust::NotTrusted };

fn path(name: &str) -> StorePath {
    name.parse().unwrap()
}

fn minor(minor: u8) -> Version {
    Version { major: 1, minor }
}

fn versions() -> impl Iterator<Item = Version> {
    (Version::MIN.minor..=Version::MAX.minor).map(minor)
}

fn number(n: u8) -> [u8; 8] {
    [n, 0, 0, 0, 0, 0, 0, 0]
}

fn info() -> PathInfo {
    PathInfo {
        store_path: path(A),
        nar_hash: std::str::from_utf8(HEX).unwrap().parse::<Hex>().unwrap().0.into(),
        nar_size: 1112,
        references: vec![path(A)],
        deriver: Some(path(D)),
        signatures: vec![],
        odd_signatures: vec!["odd".to_owned()],
        ca: None,
        ultimate: true,
        registration_time: 1_795_372_732,
    }
}

/// A digest by its hex digits.
struct Hex([u8; 32]);

impl std::str::FromStr for Hex {
    type Err = std::num::ParseIntError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let mut out = [0; 32];
        for (at, byte) in out.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&s[2 * at..2 * at + 2], 16)?;
        }
        Ok(Hex(out))
    }
}

/// What a server sends a client that says this.
fn greeted(client: &[u8]) -> (Result<Version, Error>, Vec<u8>) {
    let mut sent = Vec::new();
    let met = Server::accept(client, &mut sent, StoreDir::default(), &HELLO).map(|s| s.version());
    (met, sent)
}

fn hello(version: u8, rest: &[&[u8]]) -> Vec<u8> {
    [b"cxin\0\0\0\0", &[version, 1, 0, 0, 0, 0, 0, 0][..], &rest.concat()].concat()
}

#[test]
fn the_greeting_has_these_bytes() {
    let first: &[u8] = b"oixd\0\0\0\0\x26\x01\0\0\0\0\0\0";
    let name: &[u8] = b"\x07\0\0\0\0\0\0\0Granary\0";
    let expected = |rest: &[&[u8]]| [first, &rest.concat()].concat();
    for (version, rest, answer) in [
        (16, [NO, NO, EMPTY], expected(&[LAST])),
        // Something of the past: the client's CPU.
        (32, [YES, TWO, NO], expected(&[LAST])),
        (33, [NO, NO, EMPTY], expected(&[name, LAST])),
        (35, [NO, NO, EMPTY], expected(&[name, TWO, LAST])),
        (38, [EMPTY, NO, NO], expected(&[EMPTY, name, TWO, LAST])),
        // A client of a time to come does as it did.
        (77, [EMPTY, NO, NO], expected(&[EMPTY, name, TWO, LAST])),
    ] {
        let (met, sent) = greeted(&hello(version, &rest));
        assert_eq!(met.unwrap(), minor(version.min(38)));
        assert_eq!(sent, answer, "1.{version}");
    }
}

#[test]
fn who_is_no_client_is_not_greeted() {
    let (met, sent) = greeted(b"GET / HTTP/1.1\r\n");
    assert!(matches!(met, Err(Error::NotAClient(_))));
    assert_eq!(sent, b"");
    for old in [&b"cxin\0\0\0\0\x0f\x01\0\0\0\0\0\0"[..], b"cxin\0\0\0\0\x26\x02\0\0\0\0\0\0"] {
        assert!(matches!(greeted(old).0, Err(Error::Version(_))));
    }
    assert!(greeted(b"cxin\0\0").0.unwrap_err().is_disconnect());
    // Names of features without end.
    let features = b"\x08\0\0\0\0\0\0\0features".repeat(5000);
    let endless = hello(38, &[&0xffff_u64.to_le_bytes(), &features]);
    assert!(matches!(greeted(&endless).0, Err(Error::TooLong(_))));
}

#[test]
fn who_is_turned_away_is_told_why() {
    for version in versions() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let server = std::thread::spawn(move || {
            Server::turn_away(&ours, &ours, StoreDir::default(), &HELLO, "full")
        });
        let met =
            Client::connect_as(theirs.try_clone().unwrap(), theirs, StoreDir::default(), version);
        let Err(worker::Error::Remote(error)) = met else { panic!("1.{}", version.minor) };
        assert_eq!(error.message, "full");
        server.join().unwrap().unwrap();
    }
}

#[test]
fn each_request_has_these_bytes() {
    let text: &[u8] = b"\x03\0\0\0\0\0\0\0x!y\0\0\0\0\0";
    let hash: &[u8] = b"\x20\0\0\0\0\0\0\x003dvgkdw6dhw4vh0ya73g64bh4mwxk56c";
    let both = || vec![path(A), path(B)];
    let outputs =
        Target::Outputs { derivation: path(D), names: vec!["dev".to_owned(), "out".to_owned()] };
    let all = Target::Outputs { derivation: path(D), names: vec![] };
    let targets = vec![Target::Path(path(A)), outputs.clone()];
    let hash_part: StorePathHash = path(A).hash();
    let cases: [(u8, u8, Vec<&[u8]>, Request); 31] = [
        (38, 1, vec![PATH_A], Request::IsValidPath(path(A))),
        (38, 3, vec![PATH_A], Request::HasSubstitutes(path(A))),
        (38, 6, vec![PATH_A], Request::QueryReferrers(path(A))),
        (
            38,
            9,
            vec![TWO, PATH_A, OUTPUTS_D, NO],
            Request::BuildPaths(targets.clone(), BuildMode::Normal),
        ),
        (
            38,
            9,
            vec![YES, PATH_D, YES],
            Request::BuildPaths(vec![Target::Path(path(D))], BuildMode::Repair),
        ),
        (29, 9, vec![YES, ALL_D, TWO], Request::BuildPaths(vec![all.clone()], BuildMode::Check)),
        (38, 10, vec![PATH_A], Request::EnsurePath(path(A))),
        (38, 11, vec![PATH_A], Request::AddTempRoot(path(A))),
        (38, 12, vec![text], Request::AddIndirectRoot("x!y".to_owned())),
        (38, 13, vec![], Request::SyncWithGc),
        (38, 14, vec![], Request::FindRoots),
        (38, 19, vec![NO; 13], Request::SetOptions),
        (38, 21, vec![PATH_A], Request::QuerySubstitutablePathInfo(path(A))),
        (38, 22, vec![PATH_D], Request::QueryDerivationOutputs(path(D))),
        (38, 23, vec![], Request::QueryAllValidPaths),
        (38, 26, vec![PATH_A], Request::QueryPathInfo(path(A))),
        (38, 28, vec![PATH_D], Request::QueryDerivationOutputNames(path(D))),
        (38, 29, vec![hash], Request::QueryPathFromHashPart(hash_part)),
        (
            22,
            30,
            vec![TWO, PATH_A, EMPTY, PATH_B, EMPTY],
            Request::QuerySubstitutablePathInfos(both()),
        ),
        (21, 30, vec![TWO, PATH_A, PATH_B], Request::QuerySubstitutablePathInfos(both())),
        (27, 31, vec![TWO, PATH_A, PATH_B, NO], Request::QueryValidPaths(both())),
        (26, 31, vec![TWO, PATH_A, PATH_B], Request::QueryValidPaths(both())),
        (38, 32, vec![TWO, PATH_A, PATH_B], Request::QuerySubstitutablePaths(both())),
        (38, 33, vec![PATH_A], Request::QueryValidDerivers(path(A))),
        (38, 34, vec![], Request::OptimiseStore),
        (38, 35, vec![YES, NO], Request::VerifyStore { check_contents: true, repair: false }),
        (38, 38, vec![PATH_A], Request::NarFromPath(path(A))),
        (38, 40, vec![YES, ALL_D], Request::QueryMissing(vec![all.clone()])),
        (38, 41, vec![PATH_D], Request::QueryDerivationOutputMap(path(D))),
        (38, 43, vec![text], Request::QueryRealisation("x!y".to_owned())),
        (
            38,
            46,
            vec![TWO, PATH_A, OUTPUTS_D, NO],
            Request::BuildPathsWithResults(targets, BuildMode::Normal),
        ),
    ];
    for (version, operation, arguments, request) in cases {
        let expected = [&number(operation)[..], &arguments.concat()].concat();
        let mut written = Vec::new();
        request.write(&mut written, minor(version), &StoreDir::default()).unwrap();
        assert_eq!(written, expected, "{request:?}");
        let mut rest = expected.as_slice();
        assert_eq!(
            Request::read(&mut rest, minor(version), &StoreDir::default()).unwrap(),
            request
        );
        assert!(rest.is_empty());
        assert_eq!(request.operation(), u64::from(operation));
    }
    // A derivation's path was all of its outputs before 1.30.
    let old = [&number(40)[..], YES, PATH_D].concat();
    let read = Request::read(&mut old.as_slice(), minor(29), &StoreDir::default()).unwrap();
    assert_eq!(read, Request::QueryMissing(vec![all]));
}

#[test]
fn each_answer_has_these_bytes() {
    let text = |text: &str| {
        let mut out = [&number(text.len() as u8)[..], text.as_bytes()].concat();
        out.resize(out.len().next_multiple_of(8), 0);
        out
    };
    let (out, why) = (text("out"), text("no"));
    let info_bytes = [
        PATH_D,
        b"\x40\0\0\0\0\0\0\0",
        HEX,
        YES,
        PATH_A,
        b"\xbc\x36\x03\x6b\0\0\0\0",
        b"\x58\x04\0\0\0\0\0\0",
        YES,
        YES,
        b"\x03\0\0\0\0\0\0\0odd\0\0\0\0\0",
        EMPTY,
    ]
    .concat();
    let info = Answer::Info(Arc::new(info()));
    let both = Answer::Paths(Arc::new(vec![path(A), path(B)]));
    let results = Answer::Results(vec![
        (Target::Path(path(A)), None),
        (Target::Path(path(B)), Some("no".to_owned())),
    ]);
    let result = |more: usize| {
        let more = NO.repeat(more);
        [LAST, TWO, PATH_A, TWO, EMPTY, &more, PATH_B, &number(9)[..], &why, &more].concat()
    };
    let not_valid = text("path '/nix/store/3dvgkdw6dhw4vh0ya73g64bh4mwxk56c-a' is not valid");
    let cases: [(u8, Answer, Vec<u8>); 20] = [
        (38, Answer::Nothing, LAST.to_vec()),
        (38, Answer::Done, [LAST, YES].concat()),
        (38, Answer::Truth(true), [LAST, YES].concat()),
        (38, Answer::Truth(false), [LAST, NO].concat()),
        (38, Answer::Path(None), [LAST, EMPTY].concat()),
        (38, Answer::Path(Some(path(A))), [LAST, PATH_A].concat()),
        (38, both, [LAST, TWO, PATH_A, PATH_B].concat()),
        (38, Answer::Texts(vec!["out".to_owned()]), [LAST, YES, &out].concat()),
        (38, Answer::None, [LAST, EMPTY].concat()),
        (38, info.clone(), [LAST, YES, &info_bytes].concat()),
        (17, info.clone(), [LAST, YES, &info_bytes].concat()),
        (16, info, [LAST, &info_bytes].concat()),
        (17, Answer::NoInfo(path(A)), [LAST, NO].concat()),
        (16, Answer::NoInfo(path(A)), [ERROR, &not_valid, YES].concat()),
        (
            38,
            Answer::Outputs(vec![("out".to_owned(), Some(path(A))), ("out".to_owned(), None)]),
            [LAST, TWO, &out, PATH_A, &out, EMPTY].concat(),
        ),
        (38, Answer::Missing(vec![path(A)]), [LAST, NO, NO, YES, PATH_A, NO, NO].concat()),
        // Times built, deterministic, start, stop; CPU of user and system; realisations.
        (38, results.clone(), result(7)),
        (36, results.clone(), result(5)),
        (28, results.clone(), result(1)),
        (27, results, result(0)),
    ];
    for (version, answer, expected) in cases {
        let mut written = Vec::new();
        answer.write(&mut written, minor(version), &StoreDir::default()).unwrap();
        assert_eq!(written, expected, "1.{version}: {answer:?}");
    }
}

/// A server that says these answers, one after another, and a client that speaks this version.
fn against_our_client<T>(
    version: Version,
    answers: Vec<Result<Answer, &'static str>>,
    ask: impl FnOnce(&mut Client<UnixStream, UnixStream>) -> T,
) -> (Vec<Request>, T) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let server = std::thread::spawn(move || {
        let mut server = Server::accept(&ours, &ours, StoreDir::default(), &HELLO).unwrap();
        let mut asked = Vec::new();
        for answer in answers {
            assert!(server.wait().unwrap());
            asked.push(server.request().unwrap());
            match answer {
                Ok(answer) => server.answer(&answer).unwrap(),
                Err(why) => server.refuse(why).unwrap(),
            }
        }
        assert!(!server.wait().unwrap(), "the client has hung up");
        asked
    });
    let reader = theirs.try_clone().unwrap();
    let mut client = Client::connect_as(reader, theirs, StoreDir::default(), version).unwrap();
    let said = ask(&mut client);
    drop(client);
    (server.join().unwrap(), said)
}

#[test]
fn our_client_understands_it_in_every_version() {
    for version in versions() {
        let paths = Arc::new(vec![path(A), path(B)]);
        let outputs = if version.minor >= 22 {
            Answer::Outputs(vec![("out".to_owned(), Some(path(B))), ("dev".to_owned(), None)])
        } else {
            Answer::Paths(Arc::new(vec![path(B)]))
        };
        let answers = vec![
            Ok(Answer::Truth(true)),
            Ok(Answer::Info(Arc::new(info()))),
            Ok(Answer::NoInfo(path(B))),
            Ok(Answer::Paths(Arc::clone(&paths))),
            Ok(Answer::Paths(Arc::clone(&paths))),
            Ok(Answer::Path(Some(path(A)))),
            Ok(Answer::Paths(Arc::clone(&paths))),
            Ok(outputs),
            Err("it is broken"),
        ];
        let (asked, ()) = against_our_client(version, answers, |client| {
            let greeting = client.greeting();
            assert_eq!(greeting.version, version);
            assert_eq!(greeting.daemon.as_deref(), (version.minor >= 33).then_some("Granary"));
            let trust = if version.minor >= 35 { Trust::NotTrusted } else { Trust::Unknown };
            assert_eq!(greeting.trust, trust);
            assert!(client.is_valid_path(&path(A)).unwrap());
            let infos = client.query_path_infos(&[path(A), path(B)]).unwrap();
            assert_eq!(infos, [Some(info()), None]);
            assert_eq!(client.query_valid_paths(&paths).unwrap(), *paths);
            assert_eq!(
                client.query_all_valid_paths().unwrap(),
                paths.iter().cloned().map(Ok).collect::<Vec<_>>()
            );
            let found = client.query_path_from_hash_part(path(A).hash()).unwrap();
            assert_eq!(found, Some(path(A)));
            assert_eq!(client.query_referrers(&path(B)).unwrap(), *paths);
            assert_eq!(client.query_derivation_outputs(&[path(D)]).unwrap(), [[path(B)]]);
            let error = client.is_valid_path(&path(A)).unwrap_err();
            assert_eq!(error.to_string(), "the Nix daemon says: it is broken");
        });
        let map = if version.minor >= 22 { 41 } else { 22 };
        let operations: Vec<_> = asked.iter().map(Request::operation).collect();
        assert_eq!(operations, [1, 26, 26, 31, 23, 29, 6, map, 1]);
    }
}

type Fed<'a> = Server<Box<dyn std::io::Read + 'a>, Vec<u8>>;

/// The first request of a client that says this after its greeting.
fn read(bytes: &[u8]) -> (Result<Request, Error>, Fed<'_>) {
    let hello = std::io::Cursor::new(hello(38, &[EMPTY, NO, NO]));
    let reader: Box<dyn std::io::Read> = Box::new(std::io::Read::chain(hello, bytes));
    let mut server = Server::accept(reader, Vec::new(), StoreDir::default(), &HELLO).unwrap();
    (server.request(), server)
}

#[test]
fn a_wrong_argument_does_not_lose_the_place() {
    let elsewhere: &[u8] = b"\x0e\0\0\0\0\0\0\0/gnu/store/x-y\0\0";
    let next = [&number(26)[..], PATH_A].concat();
    for request in [
        [&number(1)[..], elsewhere].concat(),
        [&number(31)[..], TWO, elsewhere, PATH_A, NO].concat(),
        [&number(9)[..], TWO, PATH_A, elsewhere, NO].concat(),
        [&number(9)[..], YES, PATH_A, &number(7)].concat(),
        [
            &number(40)[..],
            YES,
            b"\x33\0\0\0\0\0\0\0/nix/store/6s0pvdmzlpnqh5972il76vl09lknd67c-b.drv!^\0\0\0\0\0",
        ]
        .concat(),
        [&number(29)[..], EMPTY].concat(),
    ] {
        let bytes = [request, next.clone()].concat();
        let (first, mut server) = read(&bytes);
        assert!(matches!(first, Err(Error::Request(ReadError::Argument(_)))), "{first:?}");
        assert_eq!(server.request().unwrap(), Request::QueryPathInfo(path(A)));
    }
    let error = ArgumentError::Mode(7).to_string();
    assert_eq!(error, "there is no way to build numbered 7");
}

#[test]
fn what_is_not_known_is_not_read() {
    for operation in [0, 2, 7, 20, 36, 39, 42, 44, 47, 255] {
        let bytes = number(operation);
        let (first, _) = read(&bytes);
        let Err(Error::Request(ReadError::Operation(said))) = first else { panic!("{first:?}") };
        assert_eq!(said, u64::from(operation));
    }
}

#[test]
fn a_request_without_end_is_cut_off() {
    let endless = std::io::Read::chain(
        std::io::Cursor::new(
            [&hello(38, &[EMPTY, NO, NO])[..], &number(31), &[0, 0, 0, 1, 0, 0, 0, 0]].concat(),
        ),
        std::io::repeat(0),
    );
    let mut server = Server::accept(endless, Vec::new(), StoreDir::default(), &HELLO).unwrap();
    assert!(matches!(server.request(), Err(Error::TooLong(MAX_REQUEST))));
    let long = [&number(12)[..], &u64::MAX.to_le_bytes()].concat();
    assert!(matches!(read(&long).0, Err(Error::Wire(_))));
}

fn any_path() -> impl Strategy<Value = StorePath> {
    let name = "[a-z0-9+._?=-]{0,20}";
    (any::<[u8; 20]>(), name)
        .prop_map(|(hash, name)| StorePath::new(hash.into(), &format!("x{name}")).unwrap())
}

fn any_target() -> impl Strategy<Value = Target> {
    prop_oneof![
        any_path().prop_map(Target::Path),
        (any_path(), prop::collection::vec("[a-z]{1,8}", 0..3))
            .prop_map(|(derivation, names)| Target::Outputs { derivation, names }),
    ]
}

fn any_request() -> impl Strategy<Value = Request> {
    let paths = || prop::collection::vec(any_path(), 0..5);
    let targets = || prop::collection::vec(any_target(), 0..5);
    let one: fn((u8, StorePath)) -> Request = |(which, path)| match which % 12 {
        0 => Request::IsValidPath(path),
        1 => Request::HasSubstitutes(path),
        2 => Request::QueryReferrers(path),
        3 => Request::EnsurePath(path),
        4 => Request::AddTempRoot(path),
        5 => Request::QuerySubstitutablePathInfo(path),
        6 => Request::QueryDerivationOutputs(path),
        7 => Request::QueryPathInfo(path),
        8 => Request::QueryDerivationOutputNames(path),
        9 => Request::QueryValidDerivers(path),
        10 => Request::NarFromPath(path),
        _ => Request::QueryDerivationOutputMap(path),
    };
    prop_oneof![
        (any::<u8>(), any_path()).prop_map(one),
        paths().prop_map(Request::QueryValidPaths),
        paths().prop_map(Request::QuerySubstitutablePaths),
        paths().prop_map(Request::QuerySubstitutablePathInfos),
        targets().prop_map(Request::QueryMissing),
        targets().prop_map(|targets| Request::BuildPaths(targets, BuildMode::Check)),
        targets().prop_map(|targets| Request::BuildPathsWithResults(targets, BuildMode::Normal)),
        any::<[u8; 20]>().prop_map(|hash| Request::QueryPathFromHashPart(hash.into())),
        any::<String>().prop_map(Request::AddIndirectRoot),
        any::<String>().prop_map(Request::QueryRealisation),
        any::<(bool, bool)>()
            .prop_map(|(check_contents, repair)| Request::VerifyStore { check_contents, repair }),
    ]
}

proptest! {
    #[test]
    fn what_is_asked_is_understood(
        requests in prop::collection::vec(any_request(), 0..4), version in 16..=38u8
    ) {
        let (version, dir) = (minor(version), StoreDir::default());
        let mut bytes = Vec::new();
        for request in &requests {
            request.write(&mut bytes, version, &dir).unwrap();
        }
        let mut rest = bytes.as_slice();
        for request in requests {
            let read = Request::read(&mut rest, version, &dir).unwrap();
            // A bare derivation is all of its outputs before 1.30, and told so from then on.
            let same = read == request || version.minor < 30 && format!("{request:?}").contains(".drv");
            prop_assert!(same, "{:?} came as {:?}", request, read);
        }
        prop_assert!(rest.is_empty());
    }

    #[test]
    fn a_request_cut_short_is_a_disconnect(request in any_request(), cut: prop::sample::Index) {
        let mut bytes = Vec::new();
        request.write(&mut bytes, Version::MAX, &StoreDir::default()).unwrap();
        bytes.truncate(cut.index(bytes.len()));
        let error = read(&bytes).0.unwrap_err();
        prop_assert!(error.is_disconnect(), "{}", error);
    }

    #[test]
    fn no_bytes_make_a_server_panic(bytes: Vec<u8>, operation in 0..48u8) {
        let bytes = [&number(operation)[..], &bytes].concat();
        let (first, _) = read(&bytes);
        prop_assert!(first.is_ok() || !first.unwrap_err().to_string().is_empty());
    }
}
