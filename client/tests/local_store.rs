//! The local store, asked through real daemons of three versions of Nix and through its database.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod nix;

use std::collections::HashSet;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use granary_client::local::{Along, Environment, Error, LocalStore};
use nix::{Daemon, Proxy, Store, versions};
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::{StoreDir, StorePath};
use nix_compat::worker::{self, Client, Trust, Version};

fn open(spec: &str) -> LocalStore {
    let opened = LocalStore::open_in(Some(spec), &Environment::default());
    opened.unwrap_or_else(|error| panic!("{spec}: {error}"))
}

/// All of a store, in order.
fn everything(store: &LocalStore) -> Vec<PathInfo> {
    let mut paths = store.all_paths().unwrap();
    paths.sort();
    store.path_infos(&paths).unwrap().into_iter().map(|info| info.expect("valid")).collect()
}

fn names(infos: &[PathInfo]) -> HashSet<&StorePath> {
    infos.iter().map(|info| &info.store_path).collect()
}

/// The tiny closure, with what a path info can have and its paths have not.
fn varied() -> Store {
    let store = Store::of("tiny");
    let signature = |name: &str| format!("{name}:{}==", "A".repeat(86));
    store.sql(&format!(
        "update ValidPaths set ultimate = 1 where id % 3 = 0; \
         update ValidPaths set sigs = '{} {}' where id % 4 = 0; \
         update ValidPaths set deriver = '/nix/store/{}-gone.drv' where id % 5 = 0;",
        signature("b-1"),
        signature("a.example.org-1"),
        "0".repeat(32)
    ));
    store
}

#[test]
fn every_daemon_says_what_the_database_says() {
    let store = varied();
    let expected = everything(&open(&store.spec()));
    assert!(expected.len() > store.closure.len());
    assert!(expected.iter().any(|info| info.ultimate && info.signatures.len() == 2));
    assert!(expected.iter().any(|info| info.ca.is_some()));
    assert!(expected.iter().any(|info| info.deriver.is_some() && !info.references.is_empty()));
    let closure = open(&store.spec()).closure(std::slice::from_ref(&store.top)).unwrap();
    assert_eq!(names(&closure), store.closure.iter().collect());
    for version in versions() {
        let daemon = Daemon::start(&version, &store);
        let through = open(&daemon.spec());
        assert!(through.describe().contains(version.0), "{}", through.describe());
        assert_eq!(everything(&through), expected, "{}", version.0);
        assert_eq!(through.closure(std::slice::from_ref(&store.top)).unwrap(), closure);
        assert_eq!(through.real_path(&store.top).parent(), Some(&*store.root().join("nix/store")));
        let gone: StorePath = format!("{}-gone", "0".repeat(32)).parse().unwrap();
        assert_eq!(through.path_info(&gone).unwrap(), None);
        let error = through.closure(&[gone]).unwrap_err();
        assert!(matches!(error, Error::NotValid(_)), "{error}");
    }
}

/// The versions that a daemon of this Nix still speaks.
fn spoken(version: &str) -> std::ops::RangeInclusive<u8> {
    // To older clients 2.34 says that they are too old.
    let oldest = if version == "2.34." { 18 } else { 16 };
    oldest..=Version::MAX.minor
}

#[test]
fn every_version_of_the_protocol_says_the_same() {
    let store = varied();
    let database = open(&store.spec());
    let expected = everything(&database);
    let paths: Vec<_> = expected.iter().map(|info| info.store_path.clone()).collect();
    let gone: StorePath = format!("{}-gone", "0".repeat(32)).parse().unwrap();
    let drv = expected.iter().map(|i| &i.store_path).find(|p| p.is_derivation()).unwrap();
    for version in versions() {
        let daemon = Daemon::start(&version, &store);
        for minor in spoken(version.0) {
            let newest = Version { major: 1, minor };
            let stream = UnixStream::connect(&daemon.socket).unwrap();
            let reader = stream.try_clone().unwrap();
            let mut client =
                Client::connect_as(reader, stream, StoreDir::default(), newest).unwrap();
            let greeting = client.greeting().clone();
            let what = format!("Nix {} at {}", version.0, greeting.version);
            assert!(greeting.version <= newest, "{what}");
            assert_eq!(greeting.daemon.is_some(), greeting.version.minor >= 33, "{what}");
            let trust = if greeting.version.minor >= 35 { Trust::Trusted } else { Trust::Unknown };
            assert_eq!(greeting.trust, trust, "{what}");

            let infos = client.query_path_infos(&paths).unwrap();
            assert!(infos.iter().flatten().eq(&expected), "{what}");
            let mixed = [gone.clone(), store.top.clone(), gone.clone()];
            let found = client.query_path_infos(&mixed).unwrap();
            assert_eq!(found.iter().map(Option::is_some).collect::<Vec<_>>(), [false, true, false]);
            assert!(client.is_valid_path(&store.top).unwrap());
            assert!(!client.is_valid_path(&gone).unwrap(), "{what}");
            let valid = client.query_valid_paths(&mixed).unwrap();
            assert_eq!(valid, std::slice::from_ref(&store.top), "{what}");
            let found = client.query_path_from_hash_part(store.top.hash()).unwrap();
            assert_eq!(found.as_ref(), Some(&store.top), "{what}");
            assert_eq!(client.query_path_from_hash_part(gone.hash()).unwrap(), None, "{what}");
            assert_eq!(client.query_all_valid_paths().unwrap().len(), expected.len(), "{what}");

            let outputs = client.query_derivation_outputs(std::slice::from_ref(drv)).unwrap();
            let [output] = outputs[0].as_slice() else { panic!("{what}: {outputs:?}") };
            let derivers = client.query_valid_derivers(std::slice::from_ref(output)).unwrap();
            assert_eq!(derivers, [[drv.clone()]], "{what}");
            let referrers = client.query_referrers(output).unwrap();
            let by_hand = expected.iter().filter(|info| info.references.contains(output));
            assert!(
                by_hand.map(|i| &i.store_path).collect::<HashSet<_>>()
                    == referrers.iter().collect()
            );
        }
    }
}

#[test]
fn an_error_of_the_daemon_is_told_and_ends_the_connection() {
    let store = Store::of("tiny");
    for version in versions() {
        let daemon = Daemon::start(&version, &store);
        let stream = UnixStream::connect(&daemon.socket).unwrap();
        let elsewhere: StoreDir = "/elsewhere/store".parse().unwrap();
        let mut client = Client::connect(stream.try_clone().unwrap(), stream, elsewhere).unwrap();
        let error = client.is_valid_path(&store.top).unwrap_err();
        let worker::Error::Remote(said) = &error else { panic!("{error}") };
        assert!(said.message.contains("is not in the Nix store"), "{error}");
        assert!(!said.message.contains('\x1b'), "colours: {said:?}");
        let again = client.is_valid_path(&store.top).unwrap_err();
        assert!(matches!(again, worker::Error::Broken), "{again}");
    }
}

#[test]
fn a_closed_connection_is_made_again() {
    let store = Store::of("tiny");
    let daemon = Daemon::start(&versions()[2], &store);
    let proxy = Proxy::before(&daemon);
    let local = open(&format!("unix://{}", proxy.socket.display()));
    for _ in 0..3 {
        assert_eq!(
            local.closure(std::slice::from_ref(&store.top)).unwrap().len(),
            store.closure.len()
        );
        assert_eq!(proxy.cut(), 1);
    }
    drop(daemon);
}

#[test]
fn without_a_daemon_the_database_is_read() {
    let store = Store::of("tiny");
    let environment =
        Environment { state: Some(store.root().join("nix/var/nix")), ..Environment::default() };
    let local = LocalStore::open_in(None, &environment).unwrap();
    assert!(local.describe().starts_with("Nix's database "), "{}", local.describe());
    assert!(local.path_info(&store.top).unwrap().is_some());
    assert!(matches!(
        LocalStore::open_in(Some("daemon"), &environment),
        Err(Error::Connect { .. })
    ));

    // A socket that nobody listens on any more.
    let socket = store.root().join("socket");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let environment = Environment { socket: Some(socket), ..environment };
    assert!(LocalStore::open_in(None, &environment).is_ok());

    let nowhere = Environment { state: Some("/nowhere".into()), ..Environment::default() };
    let error = LocalStore::open_in(None, &nowhere).unwrap_err().to_string();
    assert_eq!(
        error,
        "found no Nix store: cannot reach the Nix daemon at /nowhere/daemon-socket/socket: \
         No such file or directory (os error 2); and there is no Nix database at \
         /nowhere/db/db.sqlite. Is Nix installed? --store names a store elsewhere"
    );
}

#[test]
fn a_daemon_that_hangs_up_on_the_user_gives_way_to_the_database() {
    let store = Store::of("tiny");
    let socket = store.root().join("socket");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let environment = Environment {
        socket: Some(socket),
        state: Some(store.root().join("nix/var/nix")),
        ..Environment::default()
    };
    assert!(matches!(LocalStore::open_in(Some("daemon"), &environment), Err(Error::Refused(_))));
    let local = LocalStore::open_in(None, &environment).unwrap();
    assert!(local.describe().starts_with("Nix's database "), "{}", local.describe());
}

#[test]
fn links_into_a_chroot_store_are_resolved() {
    let store = Store::of("tiny");
    let local = open(&store.spec());
    let logical = PathBuf::from(store.top.to_absolute(local.store_dir()));
    let result = store.root().join("result");
    symlink(&logical, &result).unwrap();
    for path in [
        &*logical,
        &logical.join("bin/sh"),
        &result,
        &result.join("bin"),
        &local.real_path(&store.top),
    ] {
        assert_eq!(local.resolve(path).unwrap(), store.top, "{}", path.display());
    }
    let error = local.resolve(Path::new("/etc/passwd")).unwrap_err().to_string();
    assert!(error.contains("/etc/passwd is not in the Nix store"), "{error}");
}

#[test]
fn what_paths_were_built_from_goes_along() {
    let store = Store::of("tiny");
    let local = open(&store.spec());
    let roots = std::slice::from_ref(&store.top);
    let runtime = local.closure(roots).unwrap();
    let top_drv = runtime.last().unwrap().deriver.clone().unwrap();
    let built = local.closure_with(roots, Along::Derivers).unwrap();
    let all = names(&built);
    assert!(all.is_superset(&names(&runtime)));
    assert!(all.contains(&top_drv));
    assert!(all.iter().any(|path| path.name() == "unpack.py"), "a source");
    // One that is fetched, of a derivation that the top's needs.
    let input = built.iter().find(|i| i.store_path == top_drv).unwrap().references.iter();
    let input = input.clone().find(|path| path.is_derivation()).unwrap();
    let fetched = "/nix/store/00000000000000000000000000000000-fetched.tar.gz";
    store.sql(&format!(
        "insert into ValidPaths (path, hash, registrationTime, narSize, ca) values \
             ('{fetched}', 'sha256:{:064}', 0, 120, \
              'fixed:sha256:00xyyr3fi8l6hb839bv3f7yb86yjv7xi1cgh1xnhipym4asvb4aq'); \
         insert into DerivationOutputs select id, 'src', '{fetched}' from ValidPaths \
             where path = '/nix/store/{input}';",
        0
    ));
    let fetched = StorePath::from_absolute(fetched, local.store_dir()).unwrap();
    let sources = local.closure_with(roots, Along::Sources).unwrap();
    assert!(names(&sources).is_superset(&all));
    assert!(names(&sources).contains(&fetched));
    assert!(!names(&local.closure_with(roots, Along::Derivers).unwrap()).contains(&fetched));
    // What is valid of all that these derivations make, as `nix-store -qR --include-outputs` says.
    for (derivation, gone) in [(&top_drv, false), (input, true)] {
        let path = format!("/nix/store/{}-made", if gone { "1" } else { "2" }.repeat(32));
        let valid = format!(
            "insert into ValidPaths (path, hash, registrationTime, narSize) values \
                 ('{path}', 'sha256:{:064}', 0, 120);",
            0
        );
        store.sql(&format!(
            "{} insert into DerivationOutputs select id, 'made', '{path}' from ValidPaths \
                 where path = '/nix/store/{derivation}';",
            if gone { "" } else { &valid }
        ));
        let made = StorePath::from_absolute(&path, local.store_dir()).unwrap();
        let sources = local.closure_with(roots, Along::Sources).unwrap();
        assert_eq!(names(&sources).contains(&made), !gone, "{path}");
    }

    let daemon = Daemon::start(&versions()[2], &store);
    let through = open(&daemon.spec());
    assert_eq!(names(&through.closure_with(roots, Along::Derivers).unwrap()), all);

    // Another deriver stands in for one that is gone.
    store.sql(&format!(
        "update ValidPaths set deriver = '/nix/store/{}-gone.drv' where path = '/nix/store/{}'",
        "0".repeat(32),
        store.top
    ));
    assert_eq!(names(&local.closure_with(roots, Along::Derivers).unwrap()), all);
}

#[test]
fn references_come_before_their_referrers() {
    let store = Store::of("full");
    let closure = open(&store.spec()).closure(std::slice::from_ref(&store.top)).unwrap();
    assert_eq!(names(&closure), store.closure.iter().collect());
    let mut seen = HashSet::new();
    for info in &closure {
        for reference in info.other_references() {
            assert!(seen.contains(reference), "{} before {reference}", info.store_path);
        }
        seen.insert(&info.store_path);
    }
}

/// How long it takes with the machine's other work out of the way.
fn fastest(mut run: impl FnMut()) -> Duration {
    let once = |()| {
        let started = Instant::now();
        run();
        started.elapsed()
    };
    std::iter::repeat_n((), 5).map(once).min().unwrap()
}

#[test]
fn a_large_closure_takes_less_than_a_fifth_of_a_second() {
    let store = Store::of("full");
    let roots = std::slice::from_ref(&store.top);
    let mut specs = vec![store.spec()];
    let daemons: Vec<_> = versions().iter().map(|v| Daemon::start(v, &store)).collect();
    specs.extend(daemons.iter().map(Daemon::spec));
    for spec in specs {
        let time = fastest(|| drop(open(&spec).closure(roots).unwrap()));
        println!("{} paths, {spec}: {time:?}", store.closure.len());
        assert!(time < Duration::from_millis(200), "{spec}: {time:?}");
    }
}
